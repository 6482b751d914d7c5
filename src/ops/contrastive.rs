//! One family of contrastive objectives: InfoNCE, GCL and GDRO are the same computation with four settings
//! (docs/methods.md section 1). Similarities are streamed in tiles; batch x batch values are never held.

use super::{Cost, Ids, Op, Stats, Tensor};

/// A batch of `samples` images over `texts` distinct prompts. Each text is encoded once, however many samples share it:
/// sums over texts carry its multiplicity n_c, and equal the per-sample sums exactly.
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveShape {
    /// B, images of the batch.
    pub samples: usize,
    /// Distinct prompts; a sample's is named by its row.
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
    SquaredHinge {
        /// m
        margin: f64,
    },
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

/// Which member of the family of losses is meant (docs/methods.md section 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContrastiveSettings {
    /// phi.
    pub surrogate: Surrogate,
    /// N_i.
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

/// The moving averages of all samples, in logarithms; NaN where a sample has not been visited.
#[derive(Clone, Copy, Debug)]
pub struct MovingAverages {
    /// log u1 of image anchors and log u2 of text anchors, `[all samples]` each.
    pub log_u: [Stats; 2],
    /// Place of each of the batch's samples in `log_u` `[samples]`.
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

impl ContrastiveShape {
    fn words(&self) -> String {
        let ContrastiveShape { samples, texts, width } = self;
        format!("{samples} over {texts} x {width}")
    }

    /// Of `products` products of all similarities, both embeddings in `arrays` arrays, and `stats` values a sample.
    fn cost(&self, products: usize, arrays: usize, stats: usize, storage_bytes: usize) -> Cost {
        let ContrastiveShape { samples, texts, width } = self;
        Cost {
            operations: products * 2 * samples * texts * width,
            bytes: storage_bytes * arrays * (samples + texts) * width + 4 * stats * samples,
        }
    }
}

/// First pass: g_i for both directions in log space, u_i = (1 - gamma) u_i + gamma g_i (u_i = g_i on a first visit; an
/// anchor with empty N_i leaves its average as it was), and `saved`. Without averages u_i = g_i.
#[derive(Clone, Copy, Debug)]
pub struct Contrastive {
    /// Samples, distinct prompts, width.
    pub shape: ContrastiveShape,
    /// phi, N_i and the form of the loss.
    pub settings: ContrastiveSettings,
    /// Embeddings, pairing, classes and temperature.
    pub inputs: ContrastiveInputs,
    /// None: u_i = g_i, as InfoNCE has it.
    pub averages: Option<MovingAverages>,
    /// Written; [`ContrastiveBackward`] reads it.
    pub saved: ContrastiveSaved,
}

impl Op for Contrastive {
    const NAME: &'static str = "contrastive";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(2, 1, 7, storage_bytes)
    }
}

/// Second pass, for anchor weights a_i:
/// dS_ij += a_i w_ij phi'(S_ij - S_ii) (over tau without `times_tau`), minus its row sum at (i, i);
/// dimage = dS t, dtext = dS^T e; the loss, and its derivative by ln(1/tau).
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveBackward {
    /// As in the first pass.
    pub shape: ContrastiveShape,
    /// As in the first pass.
    pub settings: ContrastiveSettings,
    /// As in the first pass.
    pub inputs: ContrastiveInputs,
    /// What the first pass left.
    pub saved: ContrastiveSaved,
    /// a_i `[samples]`
    pub weight: Stats,
    /// `[samples, width]`
    pub dimage: Tensor,
    /// `[texts, width]`
    pub dtext: Tensor,
    /// `[1]`
    pub loss: Stats,
    /// `[1]`
    pub dlog_scale: Stats,
}

impl Op for ContrastiveBackward {
    const NAME: &'static str = "contrastive backward";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(3, 2, 8, storage_bytes)
    }
}
