//! Cases of the supervised contrastive loss.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::supcon::SupCon;
use crate::rng::below;

/// The loss and its gradient.
pub struct SupConCase {
    /// Embeddings of the batch; each is held against all others.
    pub samples: usize,
    /// Labels are drawn among so many.
    pub classes: usize,
    /// The temperature, above 0.
    pub tau: f64,
    /// One sample in three is an anchor, or all are.
    pub chosen: bool,
}

impl Case for SupConCase {
    const OP: &'static str = "supcon";

    fn list(size: Size) -> Vec<SupConCase> {
        let shapes: &[(usize, usize)] = match size {
            Size::Tiny => &[(9, 4), (3, 1)],
            Size::Smallest => &[(75, 20)],
            // Some without positives, all of one class, nobody with a positive.
            Size::Small => &[(1, 1), (2, 1), (7, 3), (130, 50), (65, 1), (33, 1000000)],
            Size::Full => &[(1, 1), (33, 20), (1024, 100), (4099, 10), (65, 1)],
        };
        let settings: &[(f64, bool)] = match size {
            Size::Tiny => &[(0.7, false), (0.5, true)],
            _ => &[(0.1, false), (0.5, true), (0.01, true)],
        };
        let of_shape = |&(samples, classes): &_| {
            settings.iter().map(move |&(tau, chosen)| SupConCase { samples, classes, tau, chosen })
        };
        shapes.iter().flat_map(of_shape).collect()
    }

    fn of_model(_: &ModelSpec, batch: usize) -> Vec<SupConCase> {
        vec![SupConCase { samples: batch, classes: 10, tau: 0.1, chosen: false }]
    }

    fn shape(&self) -> String {
        let anchors = if self.chosen { ", anchors chosen" } else { "" };
        format!("{} of {}, tau {}{anchors}", self.samples, self.classes, self.tau)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let SupConCase { samples, classes, tau, chosen } = *self;
        let class: Vec<u32> = (0..samples).map(|_| below(operands.generator(), classes as u64) as u32).collect();
        let is_anchor: Vec<u32> = (0..samples).map(|i| u32::from(!chosen || i % 3 == 1)).collect();
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
            Tolerance { relative: probability, of_largest: probability, at_least: 1.0 / anchors as f64 / tau };
        in_order![SupCon {
            samples,
            tau,
            s: operands.stats("s", samples * samples, 0.3),
            class: operands.ids(class),
            anchor: chosen.then(|| operands.ids(is_anchor)),
            loss: operands.output_stats("loss", 1, loss),
            ds: operands.output_stats("ds", samples * samples, gradient),
        }]
    }
}
