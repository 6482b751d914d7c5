//! Arithmetic over flat arenas of parameters: interpolated weights, the diagonal Fisher information, its penalty.

use super::Stats;

pub trait Arena {
    /// x = (1 - alpha) x + alpha y, element by element: a patch (PAINT, arXiv 2208.05592) or a step of a moving average.
    /// alpha = 0 leaves x and alpha = 1 gives y, to the bit.
    fn interpolate(&mut self, alpha: f64, y: Stats, x: Stats);

    /// squares += gradients^2, element by element.
    fn accumulate_squares(&mut self, gradients: Stats, squares: Stats);

    /// fisher += min(scale squares, limit), element by element: a task's mean of squared gradients joins those before it
    /// (EWC, arXiv 1612.00796).
    fn accumulate_fisher(&mut self, scale: f64, limit: f64, squares: Stats, fisher: Stats);

    /// loss\[0\] += strength / 2 sum F (theta - theta*)^2, in two passes: the same bits every time; and
    /// gradients += strength F (theta - theta*). F = `fisher`, theta = `master`, theta* = `anchor`.
    fn quadratic_penalty(
        &mut self,
        strength: f64,
        fisher: Stats,
        anchor: Stats,
        master: Stats,
        gradients: Stats,
        loss: Stats,
    );
}
