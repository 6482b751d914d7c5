//! One family of contrastive objectives: InfoNCE, GCL and GDRO are the same computation with four settings
//! (methods.md section 1). Similarities are streamed in tiles; batch x batch values are never held.

use super::{Ids, Stats, Tensor};

/// A batch of `samples` images over `texts` distinct prompts. Each text is encoded once, however many samples share it:
/// sums over texts carry its multiplicity n_c, and equal the per-sample sums exactly.
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveShape {
    pub samples: usize,
    pub texts: usize,
    /// Embedding width D.
    pub width: usize,
}

/// phi in h_ij = phi(S_ij - S_ii).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Surrogate {
    /// phi(x) = x.
    Linear,
    /// phi(x) = max(m + x, 0)^2 with margin m (Zhu et al., arXiv 2203.00176).
    SquaredHinge { margin: f64 },
}

/// N_i, what an anchor is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negatives {
    /// Every sample, the anchor's own pair included, and |N_i| taken as 1: then log g_i is InfoNCE's cross-entropy.
    All,
    /// j != i: captions.
    Others,
    /// y_j != y_i: class prompts, where a second sample of the class is no negative.
    OtherClasses,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContrastiveSettings {
    pub surrogate: Surrogate,
    pub negatives: Negatives,
    /// Whether the loss is sum a_i tau (log u1_i + log u2_i), GCL's form, or without tau, InfoNCE's.
    pub times_tau: bool,
}

/// What both passes read.
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveInputs {
    /// e, L2-normalised `[samples, width]`.
    pub image: Tensor,
    /// t, L2-normalised `[texts, width]`.
    pub text: Tensor,
    /// The prompt of each sample `[samples]`.
    pub text_of: Ids,
    /// The class of each prompt `[texts]`; read for [`Negatives::OtherClasses`] alone.
    pub class_of_text: Ids,
    /// ln(1/tau) `[1]`.
    pub log_scale: Stats,
}

/// The moving averages of all samples, in logarithms: log u1 and log u2 `[all samples]`, NaN where a sample has not been
/// visited; `slot` `[samples]` says which are the batch's.
#[derive(Clone, Copy, Debug)]
pub struct MovingAverages {
    pub log_u: [Stats; 2],
    pub slot: Ids,
    /// Weight of the batch in the averages `[1]`; 1 keeps no memory of earlier batches.
    pub gamma: Stats,
}

/// What the first pass leaves for the second, `[samples]` each; index 0 is for image anchors, 1 for text anchors.
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveSaved {
    /// S_ii.
    pub positive: Stats,
    /// log u after this batch; +infinity for an anchor with empty N_i, whose weights are then 0.
    pub log_u: [Stats; 2],
    /// sum over N_i of w_ij phi'(S_ij - S_ii), with w_ij = exp(h_ij / tau) / (|N_i| u_i).
    pub slope: [Stats; 2],
    /// sum over N_i of w_ij h_ij / tau.
    pub height: [Stats; 2],
}

pub trait Contrastive {
    /// First pass: g_i for both directions in log space, u_i = (1 - gamma) u_i + gamma g_i (u_i = g_i on a first visit; an
    /// anchor with empty N_i leaves its average as it was), and `saved`. Without averages u_i = g_i.
    fn contrastive(
        &mut self,
        shape: ContrastiveShape,
        settings: ContrastiveSettings,
        inputs: ContrastiveInputs,
        averages: Option<MovingAverages>,
        saved: ContrastiveSaved,
    );

    /// Second pass, for anchor weights a_i `[samples]`:
    /// dS_ij += a_i w_ij phi'(S_ij - S_ii) (over tau without `times_tau`), minus its row sum at (i, i);
    /// dimage = dS t, dtext = dS^T e; loss `[1]`, and dlog_scale `[1]`, its derivative by ln(1/tau).
    #[allow(clippy::too_many_arguments)]
    fn contrastive_backward(
        &mut self,
        shape: ContrastiveShape,
        settings: ContrastiveSettings,
        inputs: ContrastiveInputs,
        saved: ContrastiveSaved,
        weight: Stats,
        dimage: Tensor,
        dtext: Tensor,
        loss: Stats,
        dlog_scale: Stats,
    );
}
