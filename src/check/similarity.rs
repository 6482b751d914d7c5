use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::similarity::SimilarityShape;
use crate::ops::{Backend, Stats, Tensor, Write};

/// The products and both gradients, which have operands of their own. As many rows as columns are the same embeddings.
struct Similarity {
    shape: SimilarityShape,
    write: Write,
}

struct Spans {
    a: Tensor,
    b: Tensor,
    s: Stats,
    ds: Stats,
    da: Tensor,
    db: Tensor,
}

/// What a gradient may be off by before it is rounded: ds goes into the product as two bf16, 2^-17 of it off, and the
/// sum over `depth` goes 16 at a time, twice. Terms of size 1 leave a sum of the root of their number, if not all of it
/// cancels.
fn gradient(depth: usize) -> Tolerance {
    let steps = 2 * depth.div_ceil(16);
    let loss = 1.0 / (1 << 16) as f64 + steps as f64 / (1 << 24) as f64;
    Tolerance { at_least: (depth as f64).sqrt(), ..Tolerance::bf16(loss) }
}

impl Case for Similarity {
    const OP: &'static str = "similarity";
    type Spans = Spans;

    fn shape(&self) -> String {
        let SimilarityShape { rows, columns, width } = self.shape;
        format!("{rows} x {columns} x {width}, {:?}", self.write)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let SimilarityShape { rows, columns, width } = self.shape;
        let a = operands.input(rows * width, 1.0);
        let b = if rows == columns { a } else { operands.input(columns * width, 1.0) };
        let mut written = |name, height: usize, depth: usize| match self.write {
            Write::Set => operands.output(name, height * width, gradient(depth)),
            Write::Add => {
                let before = operands.normal(height * width, (depth as f64).sqrt());
                operands.updated(name, before, gradient(depth))
            }
        };
        let (da, db) = (written("da", rows, columns), written("db", columns, rows));
        Spans {
            a,
            b,
            s: operands.output_stats("s", rows * columns, Tolerance::f32(width)),
            ds: operands.stats(rows * columns, 1.0),
            da,
            db,
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::similarity::Similarity { shape: self.shape, a: s.a, b: s.b, s: s.s });
        device.run(crate::ops::similarity::SimilarityBackward {
            shape: self.shape,
            ds: s.ds,
            b: s.b,
            write: self.write,
            da: s.da,
        });
        device.run(crate::ops::similarity::SimilarityBackwardColumns {
            shape: self.shape,
            ds: s.ds,
            a: s.a,
            write: self.write,
            db: s.db,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize, usize)] = match checker.size {
        // Several tiles and several blocks of each depth.
        Size::Smallest => &[(70, 134, 72), (131, 33, 9)],
        Size::Small => &[(1, 1, 1), (7, 5, 33), (64, 64, 96), (130, 50, 64), (3, 257, 136), (150, 150, 20)],
        Size::Full => &[(1, 1, 1), (7, 5, 33), (1024, 1024, 512), (4096, 100, 512), (333, 4097, 768), (513, 513, 130)],
    };
    for &(rows, columns, width) in shapes {
        for write in [Write::Set, Write::Add] {
            checker.case(&Similarity { shape: SimilarityShape { rows, columns, width }, write });
        }
    }
}
