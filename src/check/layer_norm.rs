//! Cases of layer normalisation.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::layer_norm::{LayerNorm, LayerNormBackward, LayerNormShape};
use crate::ops::{Backend, Write};

/// Forward, and backward from statistics of our own: it must not see how the forward pass's were rounded.
pub struct LayerNormCase {
    /// Rows that are normalised, each on its own.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// Whether the gradient by x is written, or added to what is there.
    pub write: Write,
}

impl Case for LayerNormCase {
    const OP: &'static str = "layer_norm";

    fn list(size: Size) -> Vec<LayerNormCase> {
        let shapes: &[(usize, usize)] = match size {
            Size::Tiny => &[(7, 24), (1, 33), (150, 3)],
            Size::Smallest => &[(17, 264), (3, 45), (2, 1032)],
            Size::Small => &[(1, 1), (300, 33), (100, 64), (37, 512), (70, 768), (13, 1024), (5, 1280), (3, 1030)],
            Size::Full => {
                &[(1, 1), (7, 33), (10_000, 64), (19_712, 512), (50_432, 768), (12_800, 1024), (4000, 1280), (77, 1030)]
            }
        };
        let of_shape = |&(rows, width): &_| [Write::Set, Write::Add].map(|write| LayerNormCase { rows, width, write });
        shapes.iter().flat_map(of_shape).collect()
    }

    fn of_model(spec: &ModelSpec, batch: usize) -> Vec<LayerNormCase> {
        let image = (batch * (spec.patches() + 1), spec.vision().width);
        let text = (batch * spec.text_cfg.context_length, spec.text().width);
        [image, text].map(|(rows, width)| LayerNormCase { rows, width, write: Write::Add }).into()
    }

    fn shape(&self) -> String {
        let add = if self.write == Write::Add { ", added" } else { "" };
        format!("{} x {}{add}", self.rows, self.width)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let LayerNormCase { rows, width, write } = *self;
        let shape = LayerNormShape { rows, width, eps: 1e-5 };
        let values = rows * width;
        // Rows that lie off zero, each by its own amount and with its own spread.
        let centers = operands.normal(rows, 1.0);
        let spread = |row: usize| 0.5 + (row % 7) as f32;
        let mut x = operands.normal(values, 1.0);
        x.iter_mut().enumerate().for_each(|(i, x)| *x = *x * spread(i / width) + centers[i / width]);
        let gamma = operands.normal(width, 0.3).into_iter().map(|x| 1.0 + x).collect();
        // A lane adds width / 32 values, five exchanges the lanes: that many roundings of the average and of the variance.
        // They, x - mean and the scaling touch n, which is of order 1 beside outputs of order 1.
        let unit = 1.0 / (1u64 << 24) as f64;
        let rounded = Tolerance::bf16(unit * (16.0 + width as f64 / 32.0));
        let forward = LayerNorm {
            shape,
            x: operands.input_of("x", x),
            gamma: operands.input_of("gamma", gamma),
            beta: operands.input("beta", width, 0.3),
            y: operands.output("y", values, rounded),
            mean: operands.output_stats("mean", rows, Tolerance::f32(width)),
            rstd: operands.output_stats("rstd", rows, Tolerance::f32(width)),
        };
        let backward = LayerNormBackward {
            shape,
            dy: operands.input("dy", values, 1.0),
            x: forward.x,
            gamma: forward.gamma,
            mean: operands.apart(forward.mean, |own| own.stats_of("given mean", centers)),
            rstd: operands.apart(forward.rstd, |own| {
                own.stats_of("given rstd", (0..rows).map(|row| 1.0 / spread(row)).collect())
            }),
            write,
            dx: operands.written(write, "dx", values, 1.0, rounded),
            dgamma: operands.output_stats("dgamma", width, Tolerance::f32(rows)),
            dbeta: operands.output_stats("dbeta", width, Tolerance::f32(rows)),
        };
        in_order![forward, backward]
    }
}
