use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::distillation::{DistillationSettings, Multiplicity};
use crate::ops::{Backend, Stats, Write};
use crate::rng::below;

/// The loss and its gradient.
struct Distillation {
    rows: usize,
    columns: usize,
    settings: DistillationSettings,
    /// Whether rows and columns have multiplicities, some columns none at all.
    counted: bool,
    write: Write,
}

struct Spans {
    multiplicity: Multiplicity,
    s: Stats,
    teacher: Stats,
    loss: Stats,
    ds: Stats,
}

impl Case for Distillation {
    const OP: &'static str = "distillation";
    type Spans = Spans;

    fn shape(&self) -> String {
        let DistillationSettings { tau, teacher_tau, exclude_self, divergence, .. } = self.settings;
        let exclude_self = if exclude_self { ", others alone" } else { "" };
        let divergence = if divergence { ", divergence" } else { "" };
        let counted = if self.counted { ", multiplicities" } else { "" };
        let (rows, columns, write) = (self.rows, self.columns, self.write);
        format!("{rows} x {columns}, tau {tau} and {teacher_tau}{exclude_self}{divergence}{counted}, {write:?}")
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let (rows, columns) = (self.rows, self.columns);
        let DistillationSettings { tau, weight, .. } = self.settings;
        let mut counts = |len: usize, from: u64| -> Vec<f32> {
            (0..len).map(|_| (from + below(operands.generator(), 4)) as f32).collect()
        };
        let counts = self.counted.then(|| (counts(rows, 1), counts(columns, 0)));
        // The largest share of a row in the mean.
        let share = counts.as_ref().map_or(1.0 / rows as f64, |(row, _)| 4.0 / row.iter().sum::<f32>() as f64);
        let (row, column) = counts.map(|(row, column)| (operands.stats_of(row), operands.stats_of(column))).unzip();
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
        let (s, teacher) = (operands.stats(rows * columns, 0.3), operands.stats(rows * columns, 0.3));
        let (loss, ds) = match self.write {
            Write::Set => {
                (operands.output_stats("loss", 1, loss), operands.output_stats("ds", rows * columns, gradient))
            }
            Write::Add => {
                let before = operands.normal(rows * columns, weight / tau / rows as f64);
                (operands.updated_stats("loss", vec![1.5], loss), operands.updated_stats("ds", before, gradient))
            }
        };
        Spans { multiplicity, s, teacher, loss, ds }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        let (rows, columns) = (self.rows, self.columns);
        device.run(crate::ops::distillation::Distillation {
            rows,
            columns,
            settings: self.settings,
            multiplicity: s.multiplicity,
            s: s.s,
            teacher: s.teacher,
            write: self.write,
            loss: s.loss,
            ds: s.ds,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize)] = match checker.size {
        Size::Smallest => &[(43, 75)],
        Size::Small => &[(1, 1), (2, 2), (7, 5), (40, 130), (300, 33)],
        Size::Full => &[(1, 1), (7, 5), (1024, 1024), (4099, 100), (10, 4099)],
    };
    for &(rows, columns) in shapes {
        // Relations between samples, similarities of one direction, and all that can come together.
        for (tau, teacher_tau, exclude_self, divergence, counted, write) in [
            (0.2, 0.01, true, false, false, Write::Set),
            (0.05, 0.05, false, true, true, Write::Add),
            (0.1, 0.3, true, true, true, Write::Set),
        ] {
            let settings = DistillationSettings { tau, teacher_tau, exclude_self, divergence, weight: 0.5 };
            checker.case(&Distillation { rows, columns, settings, counted, write });
        }
    }
}
