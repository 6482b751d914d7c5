//! A copy of a model that does not learn: a teacher, or an earlier extractor.

use std::ops::Range;

use super::clip::{Capacity, Clip};
use super::parameters::ParameterList;
use super::text::TextTower;
use super::transformer::Purpose;
use super::vision::VisionTower;
use super::weights::Weights;
use crate::ops::{Device, Plan};

/// A copy of a model, or of its image tower, that is read and never trained: a teacher, an earlier extractor.
pub struct Frozen {
    /// The stretch of the arena that is copied.
    range: Range<usize>,
    /// The copy's arenas: storage precision alone.
    pub weights: Weights,
    /// Its image tower, on the copy's weights.
    pub vision: VisionTower,
    /// There when the whole model is copied.
    pub text: Option<TextTower>,
}

/// How much of a model a copy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The image tower and a method's own parameters.
    Vision,
    /// Both towers, the logit scale and a method's own parameters.
    Whole,
}

impl Part {
    fn range(self, list: &ParameterList) -> Range<usize> {
        match self {
            Part::Vision => list.vision().start..list.extras().end,
            Part::Whole => 0..list.arena_len(),
        }
    }
}

impl Frozen {
    /// Plans `count` copies for batches of `capacity`. They run one after another and share one set of activations: what is
    /// wanted of one is taken before the next runs.
    pub(crate) fn plan(plan: &mut Plan, clip: &Clip, count: usize, part: Part, capacity: Capacity) -> Vec<Frozen> {
        let (spec, list, purpose) = (&clip.spec, &clip.parameters, Purpose::Inference);
        let range = part.range(list);
        plan.section("teachers", |plan| {
            let copies: Vec<Weights> = (0..count).map(|_| Weights::plan_copy(plan, &range)).collect();
            let mark = plan.mark();
            let towers = |plan: &mut Plan, weights: Weights| Frozen {
                range: range.clone(),
                weights,
                vision: VisionTower::plan(plan, spec, list, weights, capacity.images, purpose),
                text: (part == Part::Whole)
                    .then(|| TextTower::plan(plan, spec, list, weights, capacity.texts, purpose)),
            };
            copies.into_iter().map(|weights| plan.over(mark, |plan| towers(plan, weights))).collect()
        })
    }

    /// Takes over what the model is now.
    pub(crate) fn take(&self, device: &mut dyn Device, clip: &Clip) {
        device.copy(clip.weights.storage.slice(self.range.start, self.range.len()), self.weights.storage);
    }

    /// Runs the image tower on the images that `vision` holds.
    pub fn see(&self, device: &mut dyn Device, vision: &VisionTower, images: usize) {
        device.copy(vision.pixels_of(images), self.vision.pixels_of(images));
        self.vision.forward(device, images);
    }
}
