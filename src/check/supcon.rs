use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::{Backend, Ids, Stats};
use crate::rng::below;

/// The loss and its gradient.
struct SupCon {
    samples: usize,
    classes: usize,
    tau: f64,
    /// One sample in three is an anchor, or all are.
    chosen: bool,
}

struct Spans {
    s: Stats,
    class: Ids,
    anchor: Option<Ids>,
    loss: Stats,
    ds: Stats,
}

impl Case for SupCon {
    const OP: &'static str = "supcon";
    type Spans = Spans;

    fn shape(&self) -> String {
        let anchors = if self.chosen { ", anchors chosen" } else { "" };
        format!("{} of {}, tau {}{anchors}", self.samples, self.classes, self.tau)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let samples = self.samples;
        let class: Vec<u32> = (0..samples).map(|_| below(operands.generator(), self.classes as u64) as u32).collect();
        let is_anchor: Vec<u32> = (0..samples).map(|i| u32::from(!self.chosen || i % 3 == 1)).collect();
        let counts = |i: usize| is_anchor[i] == 1 && class.iter().filter(|other| **other == class[i]).count() > 1;
        let anchors = (0..samples).filter(|i| counts(*i)).count().max(1);
        let unit = 1.0 / (1u64 << 24) as f64;
        // An exponent z is rounded three times, which e^z shrinks to 3/e units in the last place of 1; then the
        // rounding of e^z and of the sum over 32 lanes and a tree of 5.
        let probability = unit * (16 + samples.div_ceil(32) + 5) as f64;
        // The mean over the anchors: 1024 threads, two trees of 5.
        let mean = unit * (samples.div_ceil(1024) + 10) as f64;
        // The loss of an anchor is a sum of numbers that are not negative, one of them the logarithm of 1 and what is
        // added to it.
        let loss = Tolerance { relative: 2.0 * probability + mean, of_largest: probability, at_least: 1.0 };
        let gradient =
            Tolerance { relative: probability, of_largest: probability, at_least: 1.0 / anchors as f64 / self.tau };
        Spans {
            s: operands.stats(samples * samples, 0.3),
            class: operands.ids(class),
            anchor: self.chosen.then(|| operands.ids(is_anchor)),
            loss: operands.output_stats("loss", 1, loss),
            ds: operands.output_stats("ds", samples * samples, gradient),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::supcon::SupCon {
            samples: self.samples,
            tau: self.tau,
            s: s.s,
            class: s.class,
            anchor: s.anchor,
            loss: s.loss,
            ds: s.ds,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize)] = match checker.size {
        Size::Smallest => &[(75, 20)],
        // Some without positives, all of one class, nobody with a positive.
        Size::Small => &[(1, 1), (2, 1), (7, 3), (130, 50), (65, 1), (33, 1000000)],
        Size::Full => &[(1, 1), (33, 20), (1024, 100), (4099, 10), (65, 1)],
    };
    for &(samples, classes) in shapes {
        for (tau, chosen) in [(0.1, false), (0.5, true), (0.01, true)] {
            checker.case(&SupCon { samples, classes, tau, chosen });
        }
    }
}
