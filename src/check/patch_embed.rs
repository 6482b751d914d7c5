use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::patch_embed::{Normalization, PatchShape};
use crate::ops::{Backend, Bytes, Tensor};
use crate::rng::below;

struct PatchEmbed(PatchShape);

struct Spans {
    pixels: Bytes,
    patches: Tensor,
}

impl Case for PatchEmbed {
    const OP: &'static str = "patch_embed";
    type Spans = Spans;

    fn shape(&self) -> String {
        let PatchShape { images, image_size, patch_size } = self.0;
        format!("{images} of {image_size}, patches of {patch_size}")
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let PatchShape { images, image_size, .. } = self.0;
        let generator = operands.generator();
        let pixels = (0..images * image_size * image_size * 3).map(|_| below(generator, 256) as u8).collect();
        Spans {
            pixels: operands.bytes(pixels),
            // value scale + shift of f32 constants: three roundings of at most the largest value, then one to bf16.
            patches: operands.output("patches", images * self.0.count() * self.0.values(), Tolerance::bf16(2e-7)),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::patch_embed::PatchEmbed {
            shape: self.0,
            normalization: Normalization::CLIP,
            pixels: s.pixels,
            patches: s.patches,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    // Rows of pixels in 16-byte accesses and singly, patches that fill 16 bytes and that do not, a remainder.
    let shapes: &[(usize, usize, usize)] = match checker.size {
        Size::Smallest => &[(2, 16, 8), (1, 28, 14), (1, 11, 3)],
        Size::Small => &[(1, 1, 1), (2, 33, 8), (3, 30, 7), (2, 64, 16), (1, 224, 32), (2, 28, 14)],
        Size::Full => &[(1, 1, 1), (2, 33, 8), (3, 30, 7), (200, 224, 16), (200, 224, 32), (100, 336, 14)],
    };
    for &(images, image_size, patch_size) in shapes {
        checker.case(&PatchEmbed(PatchShape { images, image_size, patch_size }));
    }
}
