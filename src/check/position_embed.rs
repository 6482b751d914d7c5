//! Cases of the class token and positions.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::position_embed::{PositionEmbed, PositionEmbedBackward, PositionShape};

/// Forward, and both gradients, of images of this shape.
pub struct PositionEmbedCase(pub PositionShape);

impl Case for PositionEmbedCase {
    const OP: &'static str = "position_embed";

    fn list(size: Size) -> Vec<PositionEmbedCase> {
        // More than 32 images are summed in several slices.
        let shapes: &[(usize, usize, usize)] = match size {
            Size::Tiny => &[(3, 6, 5)],
            Size::Smallest => &[(35, 2, 264), (2, 9, 45)],
            Size::Small => &[(1, 1, 1), (70, 4, 33), (40, 9, 64), (3, 16, 520)],
            Size::Full => &[(1, 1, 1), (70, 4, 33), (300, 196, 768), (40, 49, 768), (65, 256, 1024)],
        };
        let case = |&(images, patches, width): &_| PositionEmbedCase(PositionShape { images, patches, width });
        shapes.iter().map(case).collect()
    }

    fn of_model(spec: &ModelSpec, images: usize) -> Vec<PositionEmbedCase> {
        vec![PositionEmbedCase(PositionShape { images, patches: spec.patches(), width: spec.vision().width })]
    }

    fn shape(&self) -> String {
        format!("{} x (1 + {}) x {}", self.0.images, self.0.patches, self.0.width)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let shape = self.0;
        let PositionShape { images, patches, width } = shape;
        let (rest, all) = (images * patches * width, images * (patches + 1) * width);
        in_order![
            PositionEmbed {
                shape,
                patches: operands.input("patches", rest, 1.0),
                class: operands.input("class", width, 1.0),
                position: operands.input("position", (patches + 1) * width, 1.0),
                // One sum in f32 and one rounding.
                x: operands.output("x", all, Tolerance::bf16(0.0)),
            },
            PositionEmbedBackward {
                shape,
                dx: operands.input("dx", all, 1.0),
                dpatches: operands.output("dpatches", rest, Tolerance::EXACT),
                dclass: operands.output_stats("dclass", width, Tolerance::f32(images)),
                dposition: operands.output_stats("dposition", (patches + 1) * width, Tolerance::f32(images)),
            },
        ]
    }
}
