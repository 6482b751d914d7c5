//! The rectifier, for projectors and predictors.

use super::{Cost, Op, Tensor};

/// y = max(x, 0), element by element; NaN stays NaN. x, y of one length.
#[derive(Clone, Copy, Debug)]
pub struct Relu {
    /// `[n]`, n of any size.
    pub x: Tensor,
    /// `[n]`, written; the backward pass reads it.
    pub y: Tensor,
}

impl Op for Relu {
    const NAME: &'static str = "relu";

    fn shape(&self) -> String {
        self.y.len().to_string()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let count = self.y.len();
        Cost { operations: count, bytes: storage_bytes * 2 * count }
    }
}

/// dx = dy where y > 0, else 0; y is the forward pass's output. All of one length.
#[derive(Clone, Copy, Debug)]
pub struct ReluBackward {
    /// The gradient by y `[n]`.
    pub dy: Tensor,
    /// As the forward pass wrote it `[n]`.
    pub y: Tensor,
    /// `[n]`, written.
    pub dx: Tensor,
}

impl Op for ReluBackward {
    const NAME: &'static str = "relu backward";

    fn shape(&self) -> String {
        self.dx.len().to_string()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let count = self.dx.len();
        Cost { operations: count, bytes: storage_bytes * 3 * count }
    }
}
