//! Losses of classifiers: rows of logits against labels, or against another model's logits.

use super::{Cost, Ids, Op, Stats, Tensor, Write};

/// Logits `[rows, stride]`, of which the first `columns` of each row take part: the classes seen so far.
#[derive(Clone, Copy, Debug)]
pub struct LogitsShape {
    /// Samples.
    pub rows: usize,
    /// Logits of a row that take part.
    pub columns: usize,
    /// Elements from a row to the next, at least `columns`.
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

impl LogitsShape {
    fn words(&self) -> String {
        format!("{} x {}", self.rows, self.columns)
    }

    /// Of `operations` a logit that takes part, and so many arrays of them.
    fn cost(&self, operations: usize, arrays: usize, storage_bytes: usize) -> Cost {
        let values = self.rows * self.columns;
        Cost { operations: operations * values, bytes: storage_bytes * arrays * values }
    }
}

/// loss\[0\] (=, +=) weight mean_r (log sum_k exp(z_rk / w_k) - z_{r y_r} / w_{y_r}), and dlogits (=, +=) its gradient.
///
/// With [`Write::Set`] the columns of dlogits from `columns` on become 0.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// Rows, classes, and the distance of rows.
    pub shape: LogitsShape,
    /// z `[rows, stride]`
    pub logits: Tensor,
    /// w `[columns]`, 1 where there is none.
    pub divisor: Option<Stats>,
    /// y `[rows]`, below `columns`.
    pub label: Ids,
    /// Of this term in the whole loss.
    pub weight: f64,
    /// Whether loss and dlogits are written or added to.
    pub write: Write,
    /// `[1]`
    pub loss: Stats,
    /// `[rows, stride]`
    pub dlogits: Tensor,
}

impl Op for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(10, 1 + self.write.accesses(), storage_bytes)
    }
}

/// loss\[0\] (=, +=) - weight mean_r sum_k q_rk log softmax_k(z_r / T), and dlogits (=, +=) its gradient, where
/// q_r = softmax(z'_r / T) of the teacher's logits z', balanced if `targets` says so. [`Write::Set`] as in [`CrossEntropy`].
/// There is no factor T^2.
#[derive(Clone, Copy, Debug)]
pub struct SoftCrossEntropy {
    /// Of both models' logits.
    pub shape: LogitsShape,
    /// z `[rows, stride]`
    pub logits: Tensor,
    /// z' `[rows, stride]`
    pub teacher: Tensor,
    /// T, and whether the teacher is balanced.
    pub targets: SoftTargets,
    /// Of this term in the whole loss.
    pub weight: f64,
    /// Whether loss and dlogits are written or added to.
    pub write: Write,
    /// `[1]`
    pub loss: Stats,
    /// `[rows, stride]`
    pub dlogits: Tensor,
}

impl Op for SoftCrossEntropy {
    const NAME: &'static str = "soft cross_entropy";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(20, 2 + self.write.accesses(), storage_bytes)
    }
}
