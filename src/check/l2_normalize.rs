use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::{Backend, Stats, Tensor};

/// Forward, and backward from what it wrote.
struct L2Normalize {
    rows: usize,
    width: usize,
}

struct Spans {
    x: Tensor,
    y: Tensor,
    norm: Stats,
    /// Unit rows of our own: the backward pass must not see how y was rounded.
    unit: Tensor,
    length: Stats,
    dy: Tensor,
    dx: Tensor,
}

impl Case for L2Normalize {
    const OP: &'static str = "l2_normalize";
    type Spans = Spans;

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.width)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let (rows, width) = (self.rows, self.width);
        let values = rows * width;
        Spans {
            x: operands.input(values, 1.0),
            // The sum over a row comes in any order, the root halves its error; then one rounding.
            y: operands.output("y", values, Tolerance::bf16(1e-6)),
            norm: operands.output_stats("norm", rows, Tolerance::f32(width)),
            unit: operands.input(values, 1.0 / (width as f64).sqrt()),
            length: operands.stats_of(vec![1.5; rows]),
            dy: operands.input(values, 1.0),
            dx: operands.output("dx", values, Tolerance::bf16(1e-6)),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::l2_normalize::L2Normalize {
            rows: self.rows,
            width: self.width,
            x: s.x,
            y: s.y,
            norm: s.norm,
        });
        device.run(crate::ops::l2_normalize::L2NormalizeBackward {
            rows: self.rows,
            width: self.width,
            dy: s.dy,
            y: s.unit,
            norm: s.length,
            dx: s.dx,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize)] = match checker.size {
        Size::Smallest => &[(5, 264), (2, 45)],
        Size::Small => &[(1, 1), (7, 33), (129, 64), (5, 512), (2, 1030)],
        Size::Full => &[(1, 1), (7, 33), (4097, 512), (1000, 768), (2, 1030)],
    };
    for &(rows, width) in shapes {
        checker.case(&L2Normalize { rows, width });
    }
}
