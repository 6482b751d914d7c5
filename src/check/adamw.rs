use std::ops::Range;

use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::adamw::{AdamWArenas, AdamWSettings, pace};
use crate::ops::{Backend, Stats};

const SETTINGS: AdamWSettings = AdamWSettings { beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.2, max_norm: 1.0 };

/// The gradients' norm, and one update by it or by a norm of our own.
struct AdamW {
    len: usize,
    norm: Norm,
    max_norm: f64,
}

#[derive(Debug)]
enum Norm {
    Own,
    Infinite,
    NotANumber,
}

struct Spans {
    arenas: AdamWArenas,
    norm: Stats,
    /// The norm that the update reads.
    given: Stats,
    pace: Stats,
}

impl AdamW {
    fn settings(&self) -> AdamWSettings {
        AdamWSettings { max_norm: self.max_norm, ..SETTINGS }
    }

    /// Ranges of one value, with neighbours and without, and from one block to the next.
    fn decayed(&self) -> Vec<Range<usize>> {
        let ranges = [1..2, 2..7, 64..1500, 2047..2050, 4100..9000];
        ranges.into_iter().filter(|range| range.end <= self.len).collect()
    }
}

impl Case for AdamW {
    const OP: &'static str = "adamw";
    type Spans = Spans;

    fn shape(&self) -> String {
        format!("{}, norm {:?}, clipped at {}", self.len, self.norm, self.max_norm)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let len = self.len;
        // Parameters that no step takes near 0, so that their error stays small beside them.
        let parameters: Vec<f32> = operands.normal(len, 1.0).into_iter().map(|x| x + x.signum()).collect();
        let squares = operands.normal(len, 0.3).into_iter().map(|x| x * x).collect();
        let moments = operands.normal(len, 0.3);
        let gradients = operands.normal(len, 2.0);
        let norm = gradients.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        let given = match self.norm {
            Norm::Own => norm as f32,
            Norm::Infinite => f32::INFINITY,
            Norm::NotANumber => f32::NAN,
        };
        // A few roundings of each product and quotient; a parameter's step is small beside it.
        let master = operands.updated_stats("master", parameters.clone(), Tolerance::f32(4));
        let arenas = AdamWArenas {
            master,
            weights: operands.weights("weights", master, &parameters),
            gradients: operands.stats_of(gradients),
            first_moment: operands.updated_stats("first moment", moments, Tolerance::f32(4)),
            second_moment: operands.updated_stats("second moment", squares, Tolerance::f32(4)),
        };
        let pace = pace(1e-3, &self.settings(), 3).map(|x| x as f32);
        Spans {
            arenas,
            // A thread adds at most 16 times 4 squares up to the first 2^24 values, the rest is a tree.
            norm: operands.output_stats("norm", 1, Tolerance::f32(64)),
            given: operands.stats_of(vec![given]),
            pace: operands.stats_of(pace.to_vec()),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::adamw::GradientNorm { gradients: s.arenas.gradients, norm: s.norm });
        device.run(crate::ops::adamw::AdamW {
            settings: self.settings(),
            pace: s.pace,
            arenas: s.arenas,
            norm: s.given,
            decayed: &self.decayed(),
        });
    }
}

/// The logit scale after a step.
struct Clamp {
    len: usize,
}

impl Case for Clamp {
    const OP: &'static str = "adamw";
    type Spans = AdamWArenas;

    fn shape(&self) -> String {
        format!("{} limited", self.len)
    }

    fn plan(&self, operands: &mut Operands) -> AdamWArenas {
        let values = operands.normal(self.len, 5.0);
        let master = operands.updated_stats("master", values.clone(), Tolerance::EXACT);
        let weights = operands.weights("weights", master, &values);
        AdamWArenas { master, weights, gradients: master, first_moment: master, second_moment: master }
    }

    fn run<D: Backend>(&self, device: &mut D, arenas: &AdamWArenas) {
        device.run(crate::ops::adamw::Clamp { master: arenas.master, weights: arenas.weights, low: 0.0, high: 4.5 });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let lengths: &[usize] = match checker.size {
        Size::Smallest => &[101, 2103],
        Size::Small => &[1, 2048, 20_003],
        Size::Full => &[1, 2048, 20_003, 5_000_000],
    };
    for &len in lengths {
        for (norm, max_norm) in [(Norm::Own, 1.0), (Norm::Own, f64::INFINITY)] {
            checker.case(&AdamW { len, norm, max_norm });
        }
    }
    for norm in [Norm::Infinite, Norm::NotANumber] {
        checker.case(&AdamW { len: 2100, norm, max_norm: 1.0 });
    }
    checker.case(&Clamp { len: 1 });
    checker.case(&Clamp { len: 300 });
}
