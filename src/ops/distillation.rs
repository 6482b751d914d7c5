//! Distillation of similarities: the rows of one model's similarity matrix as targets for another's. Similarity distillation
//! for learning without forgetting (docs/methods.md section 4, lwf), instance relation distillation for Co2L (arXiv 2106.14413).

use super::{Cost, Op, Stats, Write};

/// Temperatures and form of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillationSettings {
    /// tau of the student's softmax, above 0.
    pub tau: f64,
    /// tau' of the teacher's, above 0.
    pub teacher_tau: f64,
    /// Leaves the diagonal out of both softmaxes: rows and columns are the same samples.
    pub exclude_self: bool,
    /// Subtracts the teacher's entropy: the loss is then a KL divergence. Gradients are the same.
    pub divergence: bool,
    /// Of this term in the whole loss.
    pub weight: f64,
}

/// How many times each row and each column stands for itself, 0 for not at all; each none for once. Sums then equal those over the repeated rows
/// and columns exactly: texts are encoded once per distinct prompt.
#[derive(Clone, Copy, Debug)]
pub struct Multiplicity {
    /// `[rows]`
    pub row: Option<Stats>,
    /// `[columns]`
    pub column: Option<Stats>,
}

/// loss\[0\] (=, +=) weight / (sum_i r_i) sum_i r_i sum_j c_j p_ij (log p_ij - log q_ij), without log p_ij unless `divergence`,
/// and ds (=, +=) its gradient with respect to the student's s, with
///
/// q_ij = exp(s_ij / tau) / sum_k c_k exp(s_ik / tau), p_ij the same of the teacher's s' and tau'.
///
/// r, c of `multiplicity`. The sum over rows is in two passes: the same bits every time.
#[derive(Clone, Copy, Debug)]
pub struct Distillation {
    /// Rows of the student's matrix, and of the teacher's.
    pub rows: usize,
    /// Columns of both.
    pub columns: usize,
    /// Temperatures and form of the loss.
    pub settings: DistillationSettings,
    /// How often each row and column stands for a sample.
    pub multiplicity: Multiplicity,
    /// `[rows, columns]`
    pub s: Stats,
    /// s' `[rows, columns]`
    pub teacher: Stats,
    /// Whether loss and ds are written or added to.
    pub write: Write,
    /// `[1]`
    pub loss: Stats,
    /// `[rows, columns]`
    pub ds: Stats,
}

impl Op for Distillation {
    const NAME: &'static str = "distillation";

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.columns)
    }

    fn cost(&self, _: usize) -> Cost {
        let pairs = self.rows * self.columns;
        Cost { operations: 10 * pairs, bytes: 4 * (2 + self.write.accesses()) * pairs }
    }
}
