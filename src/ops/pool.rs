//! One token a sample: the class token of an image, the end-of-text token of a text.

use super::{Cost, Ids, Op, Tensor};

/// Sequences of one length, of each of which one token is taken.
#[derive(Clone, Copy, Debug)]
pub struct PoolShape {
    /// Sequences.
    pub samples: usize,
    /// Length of a sequence.
    pub tokens: usize,
    /// Width of a token.
    pub width: usize,
}

impl PoolShape {
    fn words(&self) -> String {
        format!("{} x {} x {}", self.samples, self.tokens, self.width)
    }
}

/// `y[b] = x[b, position[b]]`, or `x[b, 0]` without positions.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Samples, tokens, width.
    pub shape: PoolShape,
    /// `[samples]`
    pub position: Option<Ids>,
    /// `[samples, tokens, width]`
    pub x: Tensor,
    /// `[samples, width]`
    pub y: Tensor,
}

impl Op for Pool {
    const NAME: &'static str = "pool";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        Cost { operations: 0, bytes: storage_bytes * 2 * self.shape.samples * self.shape.width }
    }
}

/// `dx[b, position[b]] = dy[b]`, 0 elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct PoolBackward {
    /// As in the forward pass.
    pub shape: PoolShape,
    /// `[samples]`
    pub position: Option<Ids>,
    /// `[samples, width]`
    pub dy: Tensor,
    /// `[samples, tokens, width]`
    pub dx: Tensor,
}

impl Op for PoolBackward {
    const NAME: &'static str = "pool backward";

    fn shape(&self) -> String {
        self.shape.words()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let PoolShape { samples, tokens, width } = self.shape;
        Cost { operations: 0, bytes: storage_bytes * samples * (1 + tokens) * width }
    }
}
