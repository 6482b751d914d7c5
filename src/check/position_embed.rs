use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::position_embed::PositionShape;
use crate::ops::{Backend, Stats, Tensor};

struct PositionEmbed(PositionShape);

struct Spans {
    patches: Tensor,
    class: Tensor,
    position: Tensor,
    x: Tensor,
    dx: Tensor,
    dpatches: Tensor,
    dclass: Stats,
    dposition: Stats,
}

impl Case for PositionEmbed {
    const OP: &'static str = "position_embed";
    type Spans = Spans;

    fn shape(&self) -> String {
        format!("{} x (1 + {}) x {}", self.0.images, self.0.patches, self.0.width)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let PositionShape { images, patches, width } = self.0;
        let (rest, all) = (images * patches * width, images * (patches + 1) * width);
        Spans {
            patches: operands.input(rest, 1.0),
            class: operands.input(width, 1.0),
            position: operands.input((patches + 1) * width, 1.0),
            // One sum in f32 and one rounding.
            x: operands.output("x", all, Tolerance::bf16(0.0)),
            dx: operands.input(all, 1.0),
            dpatches: operands.output("dpatches", rest, Tolerance::EXACT),
            dclass: operands.output_stats("dclass", width, Tolerance::f32(images)),
            dposition: operands.output_stats("dposition", (patches + 1) * width, Tolerance::f32(images)),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::position_embed::PositionEmbed {
            shape: self.0,
            patches: s.patches,
            class: s.class,
            position: s.position,
            x: s.x,
        });
        device.run(crate::ops::position_embed::PositionEmbedBackward {
            shape: self.0,
            dx: s.dx,
            dpatches: s.dpatches,
            dclass: s.dclass,
            dposition: s.dposition,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    // More than 32 images are summed in several slices.
    let shapes: &[(usize, usize, usize)] = match checker.size {
        Size::Smallest => &[(35, 2, 264), (2, 9, 45)],
        Size::Small => &[(1, 1, 1), (70, 4, 33), (40, 9, 64), (3, 16, 520)],
        Size::Full => &[(1, 1, 1), (70, 4, 33), (300, 196, 768), (40, 49, 768), (65, 256, 1024)],
    };
    for &(images, patches, width) in shapes {
        checker.case(&PositionEmbed(PositionShape { images, patches, width }));
    }
}
