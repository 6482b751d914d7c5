//! Cases of rows to unit length.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};

/// Forward, and backward from unit rows of our own: it must not see how y was rounded.
pub struct L2NormalizeCase {
    /// Rows that are normalised, each on its own.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
}

impl Case for L2NormalizeCase {
    const OP: &'static str = "l2_normalize";

    fn list(size: Size) -> Vec<L2NormalizeCase> {
        let shapes: &[(usize, usize)] = match size {
            Size::Tiny => &[(7, 24), (3, 33)],
            Size::Smallest => &[(5, 264), (2, 45)],
            Size::Small => &[(1, 1), (7, 33), (129, 64), (5, 512), (2, 1030)],
            Size::Full => &[(1, 1), (7, 33), (4097, 512), (1000, 768), (2, 1030)],
        };
        shapes.iter().map(|&(rows, width)| L2NormalizeCase { rows, width }).collect()
    }

    fn of_model(spec: &ModelSpec, batch: usize) -> Vec<L2NormalizeCase> {
        vec![L2NormalizeCase { rows: batch, width: spec.embed_dim }]
    }

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.width)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let L2NormalizeCase { rows, width } = *self;
        let values = rows * width;
        let x = operands.input("x", values, 1.0);
        // The sum over a row comes in any order, the root halves its error; then one rounding.
        let y = operands.output("y", values, Tolerance::bf16(1e-6));
        let norm = operands.output_stats("norm", rows, Tolerance::f32(width));
        let backward = L2NormalizeBackward {
            rows,
            width,
            dy: operands.input("dy", values, 1.0),
            y: operands.apart(y, |own| own.input("unit rows", values, 1.0 / (width as f64).sqrt())),
            norm: operands.apart(norm, |own| own.stats_of("lengths", vec![1.5; rows])),
            dx: operands.output("dx", values, Tolerance::bf16(1e-6)),
        };
        in_order![L2Normalize { rows, width, x, y, norm }, backward]
    }
}
