//! Class weights by group distributionally robust optimisation (docs/methods.md section 2, equations (5)-(6)).
//!
//! This is our reading: the paper's equation is not available in print, and this is the form that follows from its prose
//! and from its sources.

use super::{Cost, Ids, Op, Stats};

/// How the class weights p follow from the class losses v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClassWeights {
    /// p = softmax(v / lambda) over all classes seen.
    Exact,
    /// p_k = exp(v_k / lambda) / (K s), s a moving average of exp(v_k / lambda) over the classes of the batch. Kept as log s.
    Stochastic {
        /// Weight of the batch in s.
        gamma2: f64,
    },
}

/// How fast the class weights follow the class losses, and how sharply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupDroSettings {
    /// Above 0: the larger, the more even the weights.
    pub lambda: f64,
    /// Weight of the batch in v.
    pub gamma1: f64,
    /// Over all classes, or by the classes of the batch.
    pub weights: ClassWeights,
}

/// The state and the results, `[classes]` each unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct GroupDroState {
    /// v, the moving average of each class's loss; NaN for a class that has not been seen.
    pub class_loss: Stats,
    /// log s `[1]`; NaN before the first batch.
    pub log_normalizer: Stats,
    /// pi, each class's fraction of the pool that batches are drawn from.
    pub share: Stats,
    /// p, written.
    pub class_weight: Stats,
}

/// v_k = (1 - gamma1) v_k + gamma1 mean over the batch's samples of class k of tau (log u1_i + log u2_i), the mean itself
/// on a class's first visit; then p; then weight_i = p_{y_i} / (samples pi_{y_i}).
#[derive(Clone, Copy, Debug)]
pub struct GroupDro {
    /// B, images of the batch.
    pub samples: usize,
    /// lambda, gamma1, and how p follows from v.
    pub settings: GroupDroSettings,
    /// y `[samples]`
    pub class: Ids,
    /// The two directions `[samples]` of [`super::contrastive::ContrastiveSaved`]; infinite values, anchors without negatives,
    /// do not count.
    pub log_u: [Stats; 2],
    /// ln(1/tau) `[1]`
    pub log_scale: Stats,
    /// v, s, pi and p.
    pub state: GroupDroState,
    /// `[samples]`, written.
    pub weight: Stats,
    /// lambda log mean_k exp(v_k / lambda) `[1]`, written: the objective (6) as the averages see it.
    pub objective: Stats,
}

impl Op for GroupDro {
    const NAME: &'static str = "group_dro";

    fn shape(&self) -> String {
        format!("{} of {}", self.samples, self.state.class_loss.len())
    }

    fn cost(&self, _: usize) -> Cost {
        let (samples, classes) = (self.samples, self.state.class_loss.len());
        Cost { operations: 4 * samples + 8 * classes, bytes: 4 * (4 * samples + 4 * classes) }
    }
}
