//! Arithmetic over flat arenas of parameters: interpolated weights, the diagonal Fisher information, its penalty.

use super::{Cost, Op, Stats};

/// x = (1 - alpha) x + alpha y, element by element: a patch (PAINT, arXiv 2208.05592) or a step of a moving average.
/// alpha = 0 leaves x and alpha = 1 gives y, to the bit.
#[derive(Clone, Copy, Debug)]
pub struct Interpolate {
    /// In [0, 1].
    pub alpha: f64,
    /// `[n]`
    pub y: Stats,
    /// `[n]`, read and written.
    pub x: Stats,
}

impl Op for Interpolate {
    const NAME: &'static str = "interpolate";

    fn shape(&self) -> String {
        self.x.len().to_string()
    }

    fn cost(&self, _: usize) -> Cost {
        let count = self.x.len();
        Cost { operations: 3 * count, bytes: 4 * 3 * count }
    }
}

/// squares += gradients^2, element by element.
#[derive(Clone, Copy, Debug)]
pub struct AccumulateSquares {
    /// Of one batch `[n]`.
    pub gradients: Stats,
    /// The sums so far `[n]`.
    pub squares: Stats,
}

impl Op for AccumulateSquares {
    const NAME: &'static str = "accumulate_squares";

    fn shape(&self) -> String {
        self.squares.len().to_string()
    }

    fn cost(&self, _: usize) -> Cost {
        let count = self.squares.len();
        Cost { operations: 2 * count, bytes: 4 * 3 * count }
    }
}

/// fisher += min(scale squares, limit), element by element: a task's mean of squared gradients joins those before it
/// (EWC, arXiv 1612.00796).
#[derive(Clone, Copy, Debug)]
pub struct AccumulateFisher {
    /// 1 over the batches that were summed up.
    pub scale: f64,
    /// The most that is added to an element; infinite for no limit.
    pub limit: f64,
    /// As [`AccumulateSquares`] leaves them `[n]`.
    pub squares: Stats,
    /// `[n]`, read and written.
    pub fisher: Stats,
}

impl Op for AccumulateFisher {
    const NAME: &'static str = "accumulate_fisher";

    fn shape(&self) -> String {
        self.fisher.len().to_string()
    }

    fn cost(&self, _: usize) -> Cost {
        let count = self.fisher.len();
        Cost { operations: 3 * count, bytes: 4 * 3 * count }
    }
}

/// loss\[0\] += strength / 2 sum F (theta - theta*)^2, in two passes: the same bits every time; and
/// gradients += strength F (theta - theta*). F = `fisher`, theta = `master`, theta* = `anchor`.
#[derive(Clone, Copy, Debug)]
pub struct QuadraticPenalty {
    /// Not below 0.
    pub strength: f64,
    /// F `[n]`, not below 0.
    pub fisher: Stats,
    /// theta* `[n]`
    pub anchor: Stats,
    /// theta `[n]`
    pub master: Stats,
    /// `[n]`, added to.
    pub gradients: Stats,
    /// `[1]`
    pub loss: Stats,
}

impl Op for QuadraticPenalty {
    const NAME: &'static str = "quadratic_penalty";

    fn shape(&self) -> String {
        self.gradients.len().to_string()
    }

    fn cost(&self, _: usize) -> Cost {
        let count = self.gradients.len();
        Cost { operations: 6 * count, bytes: 4 * 5 * count }
    }
}
