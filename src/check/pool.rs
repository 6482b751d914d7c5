//! Cases of one token a sample.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::pool::{Pool, PoolBackward, PoolShape};
use crate::rng::below;

/// Forward and backward: copies, so bit for bit.
pub struct PoolCase {
    /// Samples, tokens of each, and their width.
    pub shape: PoolShape,
    /// Whether samples have a position, rather than token 0.
    pub positions: bool,
}

impl Case for PoolCase {
    const OP: &'static str = "pool";

    fn list(size: Size) -> Vec<PoolCase> {
        let shapes: &[(usize, usize, usize)] = match size {
            Size::Tiny => &[(3, 7, 5)],
            Size::Smallest => &[(3, 5, 264), (9, 3, 45)],
            Size::Small => &[(1, 1, 1), (9, 7, 33), (17, 5, 64), (3, 11, 520)],
            Size::Full => &[(1, 1, 1), (9, 7, 33), (256, 197, 768), (512, 77, 512)],
        };
        let of_shape = |&(samples, tokens, width): &_| {
            [false, true].map(|positions| PoolCase { shape: PoolShape { samples, tokens, width }, positions })
        };
        shapes.iter().flat_map(of_shape).collect()
    }

    fn of_model(spec: &ModelSpec, samples: usize) -> Vec<PoolCase> {
        let image = PoolShape { samples, tokens: spec.patches() + 1, width: spec.vision().width };
        let text = PoolShape { samples, tokens: spec.text_cfg.context_length, width: spec.text().width };
        vec![PoolCase { shape: image, positions: false }, PoolCase { shape: text, positions: true }]
    }

    fn shape(&self) -> String {
        let PoolShape { samples, tokens, width } = self.shape;
        format!("{samples} x {tokens} x {width}, {}", if self.positions { "end of text" } else { "class token" })
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let shape = self.shape;
        let PoolShape { samples, tokens, width } = shape;
        let generator = operands.generator();
        let position = (0..samples).map(|_| below(generator, tokens as u64) as u32).collect();
        let position = self.positions.then(|| operands.ids(position));
        in_order![
            Pool {
                shape,
                position,
                x: operands.input("x", samples * tokens * width, 1.0),
                y: operands.output("y", samples * width, Tolerance::EXACT),
            },
            PoolBackward {
                shape,
                position,
                dy: operands.input("dy", samples * width, 1.0),
                dx: operands.output("dx", samples * tokens * width, Tolerance::EXACT),
            },
        ]
    }
}
