//! Cases of pixels to patches.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::patch_embed::{Normalization, PatchEmbed, PatchShape};
use crate::rng::below;

pub(crate) struct PatchEmbedCase(pub PatchShape);

impl Case for PatchEmbedCase {
    const OP: &'static str = "patch_embed";

    fn list(size: Size) -> Vec<PatchEmbedCase> {
        // Rows of pixels in 16-byte accesses and singly, patches that fill 16 bytes and that do not, a remainder.
        let shapes: &[(usize, usize, usize)] = match size {
            Size::Tiny => &[(3, 11, 4)],
            Size::Smallest => &[(2, 16, 8), (1, 28, 14), (1, 11, 3)],
            Size::Small => &[(1, 1, 1), (2, 33, 8), (3, 30, 7), (2, 64, 16), (1, 224, 32), (2, 28, 14)],
            Size::Full => &[(1, 1, 1), (2, 33, 8), (3, 30, 7), (200, 224, 16), (200, 224, 32), (100, 336, 14)],
        };
        let case =
            |&(images, image_size, patch_size): &_| PatchEmbedCase(PatchShape { images, image_size, patch_size });
        shapes.iter().map(case).collect()
    }

    fn of_model(spec: &ModelSpec, images: usize) -> Vec<PatchEmbedCase> {
        let (image_size, patch_size) = (spec.vision_cfg.image_size, spec.vision_cfg.patch_size);
        vec![PatchEmbedCase(PatchShape { images, image_size, patch_size })]
    }

    fn shape(&self) -> String {
        let PatchShape { images, image_size, patch_size } = self.0;
        format!("{images} of {image_size}, patches of {patch_size}")
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let shape = self.0;
        let generator = operands.generator();
        let pixels = (0..shape.images * shape.image_size.pow(2) * 3).map(|_| below(generator, 256) as u8).collect();
        in_order![PatchEmbed {
            shape,
            normalization: Normalization::CLIP,
            pixels: operands.bytes(pixels),
            // value scale + shift of f32 constants: three roundings of at most the largest value, then one to bf16.
            patches: operands.output("patches", shape.images * shape.count() * shape.values(), Tolerance::bf16(2e-7)),
        }]
    }
}
