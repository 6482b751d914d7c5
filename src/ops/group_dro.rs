//! Class weights by group distributionally robust optimisation (methods.md section 2, equations (5)-(6)).
//!
//! This is our reading: the paper's equation is not available in print, and this is the form that follows from its prose
//! and from its sources.

use super::{Ids, Stats};

/// How the class weights p follow from the class losses v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClassWeights {
    /// p = softmax(v / lambda) over all classes seen.
    Exact,
    /// p_k = exp(v_k / lambda) / (K s), s a moving average of exp(v_k / lambda) over the classes of the batch. Kept as log s.
    Stochastic { gamma2: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupDroSettings {
    pub lambda: f64,
    /// Weight of the batch in v.
    pub gamma1: f64,
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

pub trait GroupDro {
    /// v_k = (1 - gamma1) v_k + gamma1 mean over the batch's samples of class k of tau (log u1_i + log u2_i), the mean itself
    /// on a class's first visit; then p; then weight_i = p_{y_i} / (samples pi_{y_i}).
    ///
    /// class `[samples]`; log_u the two directions `[samples]` of [`super::contrastive::ContrastiveSaved`] (infinite values,
    /// anchors without negatives, do not count); weight `[samples]`; objective `[1]` = lambda log mean_k exp(v_k / lambda), the
    /// objective (6) as the averages see it.
    #[allow(clippy::too_many_arguments)]
    fn group_dro(
        &mut self,
        samples: usize,
        settings: GroupDroSettings,
        class: Ids,
        log_u: [Stats; 2],
        log_scale: Stats,
        state: GroupDroState,
        weight: Stats,
        objective: Stats,
    );
}
