use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::cross_entropy::{LogitsShape, SoftTargets};
use crate::ops::{Backend, Ids, Stats, Tensor, Write};
use crate::rng::{below, unit};

/// A loss and its gradient.
struct CrossEntropy {
    shape: LogitsShape,
    target: Target,
    write: Write,
}

#[derive(Clone, Copy)]
enum Target {
    Label { divided: bool },
    Teacher { temperature: f64, balanced: bool },
}

struct Spans {
    logits: Tensor,
    teacher: Tensor,
    label: Ids,
    w: Stats,
    loss: Stats,
    dlogits: Tensor,
}

const WEIGHT: f64 = 0.7;

impl Case for CrossEntropy {
    const OP: &'static str = "cross_entropy";
    type Spans = Spans;

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

    fn plan(&self, operands: &mut Operands) -> Spans {
        let LogitsShape { rows, columns, stride } = self.shape;
        // NaN in the columns that take no part.
        let mut logits = || {
            let mut values = operands.normal(rows * stride, 3.0);
            values.chunks_mut(stride).for_each(|row| row[columns..].fill(f32::NAN));
            operands.input_of(values)
        };
        let (logits, teacher) = (logits(), logits());
        let label = (0..rows).map(|_| below(operands.generator(), columns as u64) as u32).collect();
        let w = (0..columns).map(|_| 0.5 + unit(operands.generator()) as f32).collect();
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
        let old = operands.normal(rows * stride, term);
        Spans {
            logits,
            teacher,
            label: operands.ids(label),
            w: operands.stats_of(w),
            loss: match self.write {
                Write::Set => operands.output_stats("loss", 1, loss),
                Write::Add => operands.updated_stats("loss", vec![0.4], loss),
            },
            dlogits: match self.write {
                Write::Set => operands.output("dlogits", rows * stride, dlogits),
                Write::Add => operands.updated("dlogits", old, dlogits),
            },
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        let (shape, write) = (self.shape, self.write);
        match self.target {
            Target::Label { divided } => {
                let divisor = divided.then_some(s.w);
                device.run(crate::ops::cross_entropy::CrossEntropy {
                    shape,
                    logits: s.logits,
                    divisor,
                    label: s.label,
                    weight: WEIGHT,
                    write,
                    loss: s.loss,
                    dlogits: s.dlogits,
                });
            }
            Target::Teacher { temperature, balanced } => {
                let targets = SoftTargets { temperature, balance: balanced.then_some(s.w) };
                device.run(crate::ops::cross_entropy::SoftCrossEntropy {
                    shape,
                    logits: s.logits,
                    teacher: s.teacher,
                    targets,
                    weight: WEIGHT,
                    write,
                    loss: s.loss,
                    dlogits: s.dlogits,
                });
            }
        }
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize, usize)] = match checker.size {
        Size::Smallest => &[(3, 45, 64), (2, 1100, 1101)],
        Size::Small => &[(1, 1, 1), (7, 3, 8), (33, 100, 100), (1030, 10, 11), (5, 1000, 1024), (2, 20_001, 20_003)],
        Size::Full => &[(1, 1, 1), (65, 13, 77), (4096, 100, 100), (4096, 1000, 1000), (256, 21_841, 21_848)],
    };
    for &(rows, columns, stride) in shapes {
        for (target, write) in [
            (Target::Label { divided: false }, Write::Set),
            (Target::Label { divided: true }, Write::Add),
            (Target::Teacher { temperature: 2.0, balanced: false }, Write::Add),
            (Target::Teacher { temperature: 1.0, balanced: true }, Write::Set),
        ] {
            checker.case(&CrossEntropy { shape: LogitsShape { rows, columns, stride }, target, write });
        }
    }
}
