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

/// How a sample's weight follows from the loss v_k of its class k. Each estimates, from a batch drawn uniformly from the pool, the gradient
/// of a distributionally robust objective whose adversary pays lambda times a divergence; with a mean over class k's samples in v_k,
/// gradients are sum_k p_k grad v_k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weighting {
    /// p_k / (B pi_k): divergence from the uniform distribution over classes, lambda log (1/K) sum_k exp(v_k / lambda). Drawn at random, a
    /// sample is of class k with probability pi_k; 1 / pi_k makes up for it, so that the estimate is unbiased.
    #[default]
    Prior,
    /// exp(v_k / lambda) / (n_k Z) with n_k samples of class k in the batch: the same objective over the classes of the batch alone,
    /// lambda log (1/K') sum over those K'. Z makes the batch's weights sum to 1.
    Batch,
    /// exp(v_k / lambda) / Z: divergence from the classes' fractions of the pool, lambda log sum_k pi_k exp(v_k / lambda), which LibAUC
    /// minimises (docs/methods.md). The batch stands for pi; Z makes its weights sum to 1.
    Sample,
}

/// How fast the class weights follow the class losses, and how sharply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupDroSettings {
    /// Above 0: the larger, the more even the weights.
    pub lambda: f64,
    /// Weight of the batch in v.
    pub gamma1: f64,
    /// Over all classes, or by the classes of the batch; of [`Weighting::Prior`].
    pub weights: ClassWeights,
    /// From classes to samples.
    pub weighting: Weighting,
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
/// on a class's first visit; then p; then the samples' weights by [`Weighting`]. By `Batch` and `Sample`, anchors without negatives weigh
/// nothing, and p is relative to the divergence's own distribution: p_k = exp(v_k / lambda) / sum, or pi_k exp(v_k / lambda) / sum.
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
    /// lambda log mean_k exp(v_k / lambda) `[1]`, written: the objective (6) as the averages see it; by `Sample` its mean is weighed by pi.
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
