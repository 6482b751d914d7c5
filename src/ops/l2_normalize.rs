//! Rows to unit length.

use super::{Stats, Tensor};

pub trait L2Normalize {
    /// y = x / max(|x|, 1e-12) for each row: x, y `[rows, width]`, norm `[rows]` kept for the backward pass.
    fn l2_normalize(&mut self, rows: usize, width: usize, x: Tensor, y: Tensor, norm: Stats);

    /// dx = (dy - y (y . dy)) / norm.
    fn l2_normalize_backward(&mut self, rows: usize, width: usize, dy: Tensor, y: Tensor, norm: Stats, dx: Tensor);
}
