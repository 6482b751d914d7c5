//! Layer normalisation.

use super::{Cost, Op, Stats, Tensor, Write};

/// Rows that are normalised, each on its own.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormShape {
    /// Tokens, most often.
    pub rows: usize,
    /// Values of a row.
    pub width: usize,
    /// Added to the variance: 1e-5 in every CLIP.
    pub eps: f64,
}

impl LayerNormShape {
    fn words(&self) -> String {
        format!("{} x {}", self.rows, self.width)
    }

    /// Of `operations` a value, so many arrays `[rows, width]`, and both statistics.
    fn cost(&self, operations: usize, arrays: usize, storage_bytes: usize) -> Cost {
        let values = self.rows * self.width;
        Cost { operations: operations * values, bytes: storage_bytes * arrays * values + 4 * 2 * self.rows }
    }
}

/// y = (x - mean) rstd gamma + beta for each row, rstd = 1 / sqrt(var + eps), var the biased variance.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Rows, width and eps.
    pub shape: LayerNormShape,
    /// `[rows, width]`
    pub x: Tensor,
    /// `[width]`
    pub gamma: Tensor,
    /// `[width]`
    pub beta: Tensor,
    /// `[rows, width]`
    pub y: Tensor,
    /// `[rows]`, kept for the backward pass.
    pub mean: Stats,
    /// `[rows]`, likewise.
    pub rstd: Stats,
}

impl Op for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(7, 2, storage_bytes)
    }
}

/// With n = (x - mean) rstd and g = dy gamma:
/// dx (=, +=) rstd (g - avg(g) - n avg(g n)), dgamma = column sums of dy n, dbeta = column sums of dy.
#[derive(Clone, Copy, Debug)]
pub struct LayerNormBackward {
    /// As in the forward pass.
    pub shape: LayerNormShape,
    /// `[rows, width]`
    pub dy: Tensor,
    /// `[rows, width]`
    pub x: Tensor,
    /// `[width]`
    pub gamma: Tensor,
    /// `[rows]`
    pub mean: Stats,
    /// `[rows]`
    pub rstd: Stats,
    /// Whether dx is written or added to.
    pub write: Write,
    /// `[rows, width]`
    pub dx: Tensor,
    /// `[width]`
    pub dgamma: Stats,
    /// `[width]`
    pub dbeta: Stats,
}

impl Op for LayerNormBackward {
    const NAME: &'static str = "layer_norm backward";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        self.shape.cost(14, 2 + self.write.accesses(), storage_bytes)
    }
}
