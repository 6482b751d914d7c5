//! Cases of classifiers' losses.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy, SoftTargets};
use crate::ops::{Backend, Write};
use crate::rng::{below, unit};

/// A loss and its gradient.
pub struct CrossEntropyCase {
    /// Logits beyond the columns in use are NaN: no result may touch them.
    pub shape: LogitsShape,
    /// A class for each row, or a teacher's logits.
    pub target: Target,
    /// Whether loss and gradient are written, or added to what is there.
    pub write: Write,
}

/// What logits are held against.
#[derive(Clone, Copy)]
pub enum Target {
    /// A class for each row, below `columns`.
    Label {
        /// Whether each class's logit is divided by a number of its own.
        divided: bool,
    },
    /// Another model's logits.
    Teacher {
        /// T, above 0.
        temperature: f64,
        /// Whether its probabilities are weighted class by class.
        balanced: bool,
    },
}

const WEIGHT: f64 = 0.7;

/// A head of a thousand classes.
const CLASSES: usize = 1000;

impl Case for CrossEntropyCase {
    const OP: &'static str = "cross_entropy";

    fn list(size: Size) -> Vec<CrossEntropyCase> {
        let shapes: &[(usize, usize, usize)] = match size {
            // Rows for more than one piece of work, columns of several vectors, and none at all to spare.
            Size::Tiny => &[(37, 7, 10), (3, 70, 70), (2, 2, 3)],
            Size::Smallest => &[(3, 45, 64), (2, 1100, 1101)],
            Size::Small => {
                &[(1, 1, 1), (7, 3, 8), (33, 100, 100), (1030, 10, 11), (5, 1000, 1024), (2, 20_001, 20_003)]
            }
            Size::Full => &[(1, 1, 1), (65, 13, 77), (4096, 100, 100), (4096, 1000, 1000), (256, 21_841, 21_848)],
        };
        let of_shape = |&(rows, columns, stride): &_| {
            [
                (Target::Label { divided: false }, Write::Set),
                (Target::Label { divided: true }, Write::Add),
                (Target::Teacher { temperature: 2.0, balanced: false }, Write::Add),
                (Target::Teacher { temperature: 1.0, balanced: true }, Write::Set),
            ]
            .map(|(target, write)| CrossEntropyCase {
                shape: LogitsShape { rows, columns, stride },
                target,
                write,
            })
        };
        shapes.iter().flat_map(of_shape).collect()
    }

    fn of_model(_: &ModelSpec, batch: usize) -> Vec<CrossEntropyCase> {
        let shape = LogitsShape { rows: batch, columns: CLASSES, stride: CLASSES };
        [Target::Label { divided: false }, Target::Teacher { temperature: 2.0, balanced: false }]
            .map(|target| CrossEntropyCase { shape, target, write: Write::Set })
            .into()
    }

    fn shape(&self) -> String {
        let LogitsShape { rows, columns, stride } = self.shape;
        let target = match self.target {
            Target::Label { divided: false } => "labels".to_string(),
            Target::Label { divided: true } => "labels / w".to_string(),
            Target::Teacher { temperature, balanced } => {
                format!("teacher at {temperature}{}", if balanced { ", w" } else { "" })
            }
        };
        let add = if self.write == Write::Add { ", added" } else { "" };
        format!("{rows} x {columns} of {stride}, {target}{add}")
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let CrossEntropyCase { shape, target, write } = *self;
        let LogitsShape { rows, columns, stride } = shape;
        // NaN in the columns that take no part.
        let logits = |operands: &mut Operands, name| {
            let mut values = operands.normal(rows * stride, 3.0);
            values.chunks_mut(stride).for_each(|row| row[columns..].fill(f32::NAN));
            operands.input_of(name, values)
        };
        let z = logits(operands, "logits");
        let w = |operands: &mut Operands| {
            let values = (0..columns).map(|_| 0.5 + unit(operands.generator()) as f32).collect();
            operands.stats_of("w", values)
        };
        // Normal numbers are below 6; w is at least 1/2. An exponent is the difference of two quotients up to `reach`: three
        // roundings. Then an exponential's own, its place in a thread's sum, in two trees of 5, and a quotient.
        let ulp = 1.0 / (1u64 << 24) as f64;
        let reach = 6.0 * 3.0 * 2.0;
        let probability = ulp * (4.0 * reach + columns as f64 / 32.0 + 16.0);
        // The gradient is the difference of two probabilities, of which all may cancel.
        let term = WEIGHT / rows as f64;
        let dlogits = Tolerance { of_largest: 2.0 * probability, at_least: 2.0 * term, ..Tolerance::bf16(0.0) };
        // A row's loss is the logarithm of a sum, at least 0, and what the exponents are below 0 on average: both are off by no
        // more than a probability is, beside 1 and beside the loss.
        let mean = Tolerance::f32(rows.div_ceil(1024) + 10);
        let loss = Tolerance { of_largest: mean.of_largest + 2.0 * probability, at_least: WEIGHT, ..mean };
        let loss = operands.written_stats(write, "loss", 1, 0.4, loss);
        let dlogits = operands.written(write, "dlogits", rows * stride, term, dlogits);
        match target {
            Target::Label { divided } => {
                let label = (0..rows).map(|_| below(operands.generator(), columns as u64) as u32).collect();
                let (divisor, label) = (divided.then(|| w(operands)), operands.ids(label));
                in_order![CrossEntropy { shape, logits: z, divisor, label, weight: WEIGHT, write, loss, dlogits }]
            }
            Target::Teacher { temperature, balanced } => {
                let targets = SoftTargets { temperature, balance: balanced.then(|| w(operands)) };
                let teacher = logits(operands, "teacher");
                in_order![SoftCrossEntropy { shape, logits: z, teacher, targets, weight: WEIGHT, write, loss, dlogits }]
            }
        }
    }
}
