//! Losses of classifiers: rows of logits against labels, or against another model's logits.

use super::{Ids, Stats, Tensor, Write};

/// Logits `[rows, stride]`, of which the first `columns` of each row take part: the classes seen so far.
#[derive(Clone, Copy, Debug)]
pub struct LogitsShape {
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
}

/// How a teacher's logits become targets.
#[derive(Clone, Copy, Debug)]
pub struct SoftTargets {
    /// T: both sides' logits are divided by it.
    pub temperature: f64,
    /// w `[columns]`: the teacher's probabilities times w, renormalised (FOSTER's balanced distillation, arXiv 2204.04662).
    pub balance: Option<Stats>,
}

pub trait CrossEntropy {
    /// loss\[0\] (=, +=) weight mean_r (log sum_k exp(z_rk / w_k) - z_{r y_r} / w_{y_r}), and dlogits (=, +=) its gradient.
    ///
    /// logits, dlogits `[rows, stride]`; `divisor` w `[columns]`, 1 where there is none; label y `[rows]`, below `columns`. With
    /// [`Write::Set`] the columns of dlogits from `columns` on become 0.
    #[allow(clippy::too_many_arguments)]
    fn cross_entropy(
        &mut self,
        shape: LogitsShape,
        logits: Tensor,
        divisor: Option<Stats>,
        label: Ids,
        weight: f64,
        write: Write,
        loss: Stats,
        dlogits: Tensor,
    );

    /// loss\[0\] (=, +=) - weight mean_r sum_k q_rk log softmax_k(z_r / T), and dlogits (=, +=) its gradient, where
    /// q_r = softmax(z'_r / T) of the teacher's logits z', balanced if `targets` says so. All logits are `[rows, stride]`;
    /// [`Write::Set`] as in [`CrossEntropy::cross_entropy`]. There is no factor T^2.
    #[allow(clippy::too_many_arguments)]
    fn soft_cross_entropy(
        &mut self,
        shape: LogitsShape,
        logits: Tensor,
        teacher: Tensor,
        targets: SoftTargets,
        weight: f64,
        write: Write,
        loss: Stats,
        dlogits: Tensor,
    );
}
