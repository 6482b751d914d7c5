//! One token a sample: the class token of an image, the end-of-text token of a text.

use super::{Ids, Tensor};

#[derive(Clone, Copy, Debug)]
pub struct PoolShape {
    pub samples: usize,
    pub tokens: usize,
    pub width: usize,
}

pub trait Pool {
    /// y[b] = x[b, position[b]], or x[b, 0] without positions. x `[samples, tokens, width]`, position `[samples]`,
    /// y `[samples, width]`.
    fn pool(&mut self, shape: PoolShape, position: Option<Ids>, x: Tensor, y: Tensor);

    /// dx[b, position[b]] = dy[b], 0 elsewhere.
    fn pool_backward(&mut self, shape: PoolShape, position: Option<Ids>, dy: Tensor, dx: Tensor);
}
