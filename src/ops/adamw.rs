//! The optimiser over flat arenas.

use std::ops::Range;

use super::{Stats, Tensor};

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101), in PyTorch's order of operations: what stays the same from step to step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Gradients are scaled by min(1, max_norm / (norm + 1e-6)), as `clip_grad_norm_` does; infinite: never.
    pub max_norm: f64,
}

/// What changes from step to step, as the device reads it.
pub fn pace(learning_rate: f64, settings: &AdamWSettings, step: u64) -> [f64; 3] {
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    [learning_rate, correction(settings.beta1), correction(settings.beta2)]
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

    /// p *= 1 - lr wd inside `decayed` ranges, which ascend; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
    /// p -= lr / (1-b1^t) m / (sqrt(v) / sqrt(1-b2^t) + eps), g the clipped gradient. Where `norm` is not finite nothing
    /// changes. `pace` `[3]` holds what [`pace`] gives: lr, 1-b1^t and 1-b2^t, t = 1 for the first step since the moments
    /// were zeroed.
    fn adamw(
        &mut self,
        settings: AdamWSettings,
        pace: Stats,
        arenas: AdamWArenas,
        norm: Stats,
        decayed: &[Range<usize>],
    );

    /// Limits every value to [low, high] (the logit scale after a step), in `master` and in its storage copy.
    fn clamp(&mut self, master: Stats, weights: Tensor, low: f32, high: f32);
}
