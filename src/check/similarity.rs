//! Cases of inner products of embeddings.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::{Backend, Write};

/// The products and both gradients, which have operands of their own. As many rows as columns are the same embeddings.
pub struct SimilarityCase {
    /// Rows, columns, and the width of the embeddings.
    pub shape: SimilarityShape,
    /// Whether the gradients are written, or added to what is there.
    pub write: Write,
}

/// What a gradient may be off by before it is rounded: ds goes into the product as two bf16, 2^-17 of it off, and the
/// sum over `depth` goes 16 at a time, twice. Terms of size 1 leave a sum of the root of their number, if not all of it
/// cancels.
fn gradient(depth: usize) -> Tolerance {
    let steps = 2 * depth.div_ceil(16);
    let loss = 1.0 / (1 << 16) as f64 + steps as f64 / (1 << 24) as f64;
    Tolerance { at_least: (depth as f64).sqrt(), ..Tolerance::bf16(loss) }
}

impl Case for SimilarityCase {
    const OP: &'static str = "similarity";

    fn list(size: Size) -> Vec<SimilarityCase> {
        let shapes: &[(usize, usize, usize)] = match size {
            Size::Tiny => &[(7, 5, 24), (1, 9, 3), (130, 3, 2)],
            // Several tiles and several blocks of each depth.
            Size::Smallest => &[(70, 134, 72), (131, 33, 9)],
            Size::Small => &[(1, 1, 1), (7, 5, 33), (64, 64, 96), (130, 50, 64), (3, 257, 136), (150, 150, 20)],
            Size::Full => {
                &[(1, 1, 1), (7, 5, 33), (1024, 1024, 512), (4096, 100, 512), (333, 4097, 768), (513, 513, 130)]
            }
        };
        let of_shape = |&(rows, columns, width): &_| {
            let shape = SimilarityShape { rows, columns, width };
            [Write::Set, Write::Add].map(|write| SimilarityCase { shape, write })
        };
        shapes.iter().flat_map(of_shape).collect()
    }

    fn of_model(spec: &ModelSpec, batch: usize) -> Vec<SimilarityCase> {
        let shape = SimilarityShape { rows: batch, columns: batch, width: spec.embed_dim };
        vec![SimilarityCase { shape, write: Write::Set }]
    }

    fn shape(&self) -> String {
        let SimilarityShape { rows, columns, width } = self.shape;
        format!("{rows} x {columns} x {width}, {:?}", self.write)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let SimilarityCase { shape, write } = *self;
        let SimilarityShape { rows, columns, width } = shape;
        let a = operands.input("a", rows * width, 1.0);
        let b = if rows == columns { a } else { operands.input("b", columns * width, 1.0) };
        let mut written = |name, height: usize, depth: usize| {
            operands.written(write, name, height * width, (depth as f64).sqrt(), gradient(depth))
        };
        let (da, db) = (written("da", rows, columns), written("db", columns, rows));
        let s = operands.output_stats("s", rows * columns, Tolerance::f32(width));
        let ds = operands.stats("ds", rows * columns, 1.0);
        in_order![
            Similarity { shape, a, b, s },
            SimilarityBackward { shape, ds, b, write, da },
            SimilarityBackwardColumns { shape, ds, a, write, db },
        ]
    }
}
