//! Cases of distillation of similarities.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use crate::ops::{Backend, Write};
use crate::rng::below;

/// The loss and its gradient.
pub struct DistillationCase {
    /// Rows of the matrix of similarities, or distinct ones that are counted.
    pub rows: usize,
    /// Columns of it.
    pub columns: usize,
    /// Temperatures, weight, and which form of the loss.
    pub settings: DistillationSettings,
    /// Whether rows and columns have multiplicities, some columns none at all.
    pub counted: bool,
    /// Whether loss and gradient are written, or added to what is there.
    pub write: Write,
}

impl Case for DistillationCase {
    const OP: &'static str = "distillation";

    fn list(size: Size) -> Vec<DistillationCase> {
        let shapes: &[(usize, usize)] = match size {
            Size::Tiny => &[(6, 4), (4, 6), (5, 5)],
            Size::Smallest => &[(43, 75)],
            Size::Small => &[(1, 1), (2, 2), (7, 5), (40, 130), (300, 33)],
            Size::Full => &[(1, 1), (7, 5), (1024, 1024), (4099, 100), (10, 4099)],
        };
        let of_shape = |&(rows, columns): &_| {
            // Relations between samples, similarities of one direction, and all that can come together.
            [
                (0.2, 0.01, true, false, false, Write::Set),
                (0.05, 0.05, false, true, true, Write::Add),
                (0.1, 0.3, true, true, true, Write::Set),
            ]
            .map(|(tau, teacher_tau, exclude_self, divergence, counted, write)| {
                let settings = DistillationSettings { tau, teacher_tau, exclude_self, divergence, weight: 0.5 };
                DistillationCase { rows, columns, settings, counted, write }
            })
        };
        shapes.iter().flat_map(of_shape).collect()
    }

    fn of_model(_: &ModelSpec, batch: usize) -> Vec<DistillationCase> {
        let settings =
            DistillationSettings { tau: 0.2, teacher_tau: 0.01, exclude_self: true, divergence: false, weight: 1.0 };
        vec![DistillationCase { rows: batch, columns: batch, settings, counted: false, write: Write::Set }]
    }

    fn shape(&self) -> String {
        let DistillationSettings { tau, teacher_tau, exclude_self, divergence, .. } = self.settings;
        let exclude_self = if exclude_self { ", others alone" } else { "" };
        let divergence = if divergence { ", divergence" } else { "" };
        let counted = if self.counted { ", multiplicities" } else { "" };
        let (rows, columns, write) = (self.rows, self.columns, self.write);
        format!("{rows} x {columns}, tau {tau} and {teacher_tau}{exclude_self}{divergence}{counted}, {write:?}")
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let DistillationCase { rows, columns, settings, write, .. } = *self;
        let DistillationSettings { tau, weight, .. } = settings;
        let mut counts = |len: usize, from: u64| -> Vec<f32> {
            (0..len).map(|_| (from + below(operands.generator(), 4)) as f32).collect()
        };
        let counts = self.counted.then(|| (counts(rows, 1), counts(columns, 0)));
        // The largest share of a row in the mean.
        let share = counts.as_ref().map_or(1.0 / rows as f64, |(row, _)| 4.0 / row.iter().sum::<f32>() as f64);
        let (row, column) =
            counts.map(|(row, column)| (operands.stats_of("rows", row), operands.stats_of("columns", column))).unzip();
        let multiplicity = Multiplicity { row, column };
        let unit = 1.0 / (1u64 << 24) as f64;
        // An exponent z is rounded three times, which e^z shrinks to 3/e units in the last place of 1; then the
        // rounding of e^z and of the sum over 32 lanes and a tree of 5.
        let probability = unit * (16 + columns.div_ceil(32) + 5) as f64;
        // The mean over rows: 1024 threads, two trees of 5; and the sum of their multiplicities.
        let mean = unit * (rows.div_ceil(256) + 20) as f64;
        // A divergence is the difference of a cross-entropy and of an entropy, which is at most the logarithm of what
        // counts.
        let entropy = weight * (1.0 + 2.0 * (4.0 * columns as f64).ln());
        let loss = Tolerance { relative: 2.0 * probability + mean, of_largest: probability, at_least: entropy };
        let gradient =
            Tolerance { relative: probability + mean, of_largest: probability, at_least: weight / tau * share };
        in_order![Distillation {
            rows,
            columns,
            settings,
            multiplicity,
            s: operands.stats("s", rows * columns, 0.3),
            teacher: operands.stats("teacher", rows * columns, 0.3),
            write,
            loss: operands.written_stats(write, "loss", 1, 1.5, loss),
            ds: operands.written_stats(write, "ds", rows * columns, weight / tau / rows as f64, gradient),
        }]
    }
}
