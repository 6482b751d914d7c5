use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::layer_norm::LayerNormShape;
use crate::ops::{Backend, Stats, Tensor, Write};

/// Forward, and backward from statistics of our own.
struct LayerNorm {
    rows: usize,
    width: usize,
    write: Write,
}

struct Spans {
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    y: Tensor,
    mean: Stats,
    rstd: Stats,
    /// The backward pass must not see how the forward pass's statistics were rounded.
    given_mean: Stats,
    given_rstd: Stats,
    dy: Tensor,
    dx: Tensor,
    dgamma: Stats,
    dbeta: Stats,
}

impl LayerNorm {
    fn shape(&self) -> LayerNormShape {
        LayerNormShape { rows: self.rows, width: self.width, eps: 1e-5 }
    }
}

impl Case for LayerNorm {
    const OP: &'static str = "layer_norm";
    type Spans = Spans;

    fn shape(&self) -> String {
        let add = if self.write == Write::Add { ", added" } else { "" };
        format!("{} x {}{add}", self.rows, self.width)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let (rows, width) = (self.rows, self.width);
        let values = rows * width;
        // Rows that lie off zero, each by its own amount and with its own spread.
        let centers = operands.normal(rows, 1.0);
        let spread = |row: usize| 0.5 + (row % 7) as f32;
        let mut x = operands.normal(values, 1.0);
        x.iter_mut().enumerate().for_each(|(i, x)| *x = *x * spread(i / width) + centers[i / width]);
        let gamma = operands.normal(width, 0.3).into_iter().map(|x| 1.0 + x).collect();
        let old = operands.normal(values, 1.0);
        // A lane adds width / 32 values, five exchanges the lanes: that many roundings of the average and of the variance.
        // They, x - mean and the scaling touch n, which is of order 1 beside outputs of order 1.
        let unit = 1.0 / (1u64 << 24) as f64;
        let rounded = Tolerance::bf16(unit * (16.0 + width as f64 / 32.0));
        Spans {
            x: operands.input_of(x),
            gamma: operands.input_of(gamma),
            beta: operands.input(width, 0.3),
            y: operands.output("y", values, rounded),
            mean: operands.output_stats("mean", rows, Tolerance::f32(width)),
            rstd: operands.output_stats("rstd", rows, Tolerance::f32(width)),
            given_mean: operands.stats_of(centers),
            given_rstd: operands.stats_of((0..rows).map(|row| 1.0 / spread(row)).collect()),
            dy: operands.input(values, 1.0),
            dx: match self.write {
                Write::Set => operands.output("dx", values, rounded),
                Write::Add => operands.updated("dx", old, rounded),
            },
            dgamma: operands.output_stats("dgamma", width, Tolerance::f32(rows)),
            dbeta: operands.output_stats("dbeta", width, Tolerance::f32(rows)),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        let shape = LayerNorm::shape(self);
        device.run(crate::ops::layer_norm::LayerNorm {
            shape,
            x: s.x,
            gamma: s.gamma,
            beta: s.beta,
            y: s.y,
            mean: s.mean,
            rstd: s.rstd,
        });
        let (mean, rstd) = (s.given_mean, s.given_rstd);
        device.run(crate::ops::layer_norm::LayerNormBackward {
            shape,
            dy: s.dy,
            x: s.x,
            gamma: s.gamma,
            mean,
            rstd,
            write: self.write,
            dx: s.dx,
            dgamma: s.dgamma,
            dbeta: s.dbeta,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize)] = match checker.size {
        Size::Smallest => &[(17, 264), (3, 45), (2, 1032)],
        Size::Small => &[(1, 1), (7, 33), (100, 64), (37, 512), (70, 768), (13, 1024), (5, 1280), (3, 1030)],
        Size::Full => {
            &[(1, 1), (7, 33), (10_000, 64), (19_712, 512), (50_432, 768), (12_800, 1024), (4000, 1280), (77, 1030)]
        }
    };
    for &(rows, width) in shapes {
        for write in [Write::Set, Write::Add] {
            checker.case(&LayerNorm { rows, width, write });
        }
    }
}
