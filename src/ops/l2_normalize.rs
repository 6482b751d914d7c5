//! Rows to unit length.

use super::{Cost, Op, Stats, Tensor};

/// y = x / max(|x|, 1e-12) for each row.
#[derive(Clone, Copy, Debug)]
pub struct L2Normalize {
    /// Rows, each normalised on its own.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// `[rows, width]`
    pub x: Tensor,
    /// `[rows, width]`
    pub y: Tensor,
    /// `[rows]`, kept for the backward pass.
    pub norm: Stats,
}

impl Op for L2Normalize {
    const NAME: &'static str = "l2_normalize";

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.width)
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let values = self.rows * self.width;
        Cost { operations: 3 * values, bytes: storage_bytes * 2 * values + 4 * self.rows }
    }
}

/// dx = (dy - y (y . dy)) / norm for each row.
#[derive(Clone, Copy, Debug)]
pub struct L2NormalizeBackward {
    /// As in the forward pass.
    pub rows: usize,
    /// As in the forward pass.
    pub width: usize,
    /// `[rows, width]`
    pub dy: Tensor,
    /// `[rows, width]`
    pub y: Tensor,
    /// `[rows]`
    pub norm: Stats,
    /// `[rows, width]`
    pub dx: Tensor,
}

impl Op for L2NormalizeBackward {
    const NAME: &'static str = "l2_normalize backward";

    fn shape(&self) -> String {
        format!("{} x {}", self.rows, self.width)
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let values = self.rows * self.width;
        Cost { operations: 4 * values, bytes: storage_bytes * 3 * values + 4 * self.rows }
    }
}
