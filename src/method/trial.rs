//! How far a device may be off in a step of a method. `perennial check` and the tests of the emulated GPU compare every trial with the
//! CPU backend; src/check/step.rs derives the tolerances from what stands here.

use crate::model::parameters::ParameterList;
use crate::train::Stage;

/// 1/tau of a model at the start, and by default of objectives with a temperature of their own.
pub const SCALE: f64 = 1.0 / 0.07;

/// A stage of a run's second step that is tried.
#[derive(Clone, Debug)]
pub struct Trial {
    pub(crate) stage: Stage,
    /// How often a result is rounded along the longest path beside the towers'.
    pub(crate) roundings: f64,
    /// By how much the loss moves at most, over 2, when every similarity of two embeddings moves by 1. A softmax's logarithm moves by at
    /// most twice what its arguments do; a distillation has two, the student's and the teacher's, and its gradient in logits is T times a
    /// difference of probabilities.
    pub(crate) similarities: f64,
    /// The same for every logit of a head.
    pub(crate) logits: f64,
    /// Rectified units of every image, whose sign may differ between devices.
    pub(crate) rectified: usize,
    /// Changes the parameters that training starts from.
    pub(crate) initial: fn(&ParameterList, &mut [f32]),
    /// What is in a persistent span at the start, uniform up to a value where parameters are trained.
    pub(crate) persistent: Option<(&'static str, f64)>,
}

impl Trial {
    /// One of texts or views: the loss moves by similarities.
    pub fn of_similarities(stage: Stage, roundings: f64, similarities: f64) -> Trial {
        Trial { roundings, similarities, ..Trial::of_logits(stage, 0.0) }
    }

    /// One of a head. Logits of one extractor and their sum with another's, their gradient, the features' gradient by one head and its sum
    /// with that by an auxiliary one: 5 roundings.
    pub fn of_logits(stage: Stage, logits: f64) -> Trial {
        Trial { stage, roundings: 5.0, similarities: 0.0, logits, rectified: 0, initial: |_, _| (), persistent: None }
    }
}
