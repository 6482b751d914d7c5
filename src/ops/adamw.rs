//! The optimiser over flat arenas.

use std::ops::Range;

use super::{Stats, Tensor};

/// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101), in PyTorch's order of operations.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// 1 for the first step since the moments were zeroed.
    pub step: u64,
    /// Gradients are scaled by min(1, max_norm / (norm + 1e-6)), as `clip_grad_norm_` does; infinite: never.
    pub max_norm: f64,
}

/// The flat arenas that a step reads and writes, all of one length.
#[derive(Clone, Copy, Debug)]
pub struct AdamWArenas {
    pub master: Stats,
    /// The storage-precision copy, written beside `master` (the same memory where storage is f32).
    pub weights: Tensor,
    pub gradients: Stats,
    pub first_moment: Stats,
    pub second_moment: Stats,
}

pub trait AdamW {
    /// norm\[0\] = the 2-norm of all gradients, in two passes: the same bits every time.
    fn gradient_norm(&mut self, gradients: Stats, norm: Stats);

    /// p *= 1 - lr wd inside `decayed` ranges; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
    /// p -= lr / (1-b1^t) m / (sqrt(v) / sqrt(1-b2^t) + eps), g the clipped gradient.
    fn adamw(&mut self, step: AdamWStep, arenas: AdamWArenas, norm: Stats, decayed: &[Range<usize>]);

    /// Limits every value to [low, high] (the logit scale after a step), in `master` and in its storage copy.
    fn clamp(&mut self, master: Stats, weights: Tensor, low: f32, high: f32);
}
