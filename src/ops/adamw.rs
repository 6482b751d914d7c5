//! The optimiser over flat arenas.

use std::ops::Range;

use super::{Cost, Op, Stats, Tensor};

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101), in PyTorch's order of operations: what stays the same from step to step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings {
    /// Of the first moment, in [0, 1).
    pub beta1: f64,
    /// Of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to sqrt(v / (1 - b2^t)), outside the root.
    pub eps: f64,
    /// wd, decoupled: times the learning rate it is the share that a step takes off.
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
    /// p `[n]`
    pub master: Stats,
    /// The storage-precision copy, written beside `master` (the same memory where storage is f32).
    pub weights: Tensor,
    /// g `[n]` before it is clipped.
    pub gradients: Stats,
    /// m `[n]`
    pub first_moment: Stats,
    /// v `[n]`
    pub second_moment: Stats,
}

/// norm\[0\] = the 2-norm of all gradients, in two passes: the same bits every time.
#[derive(Clone, Copy, Debug)]
pub struct GradientNorm {
    /// Of all that is trained `[n]`; gaps between them are 0.
    pub gradients: Stats,
    /// `[1]`
    pub norm: Stats,
}

impl Op for GradientNorm {
    const NAME: &'static str = "gradient_norm";

    fn shape(&self) -> String {
        self.gradients.len().to_string()
    }

    fn cost(&self, _: usize) -> Cost {
        let count = self.gradients.len();
        Cost { operations: 2 * count, bytes: 4 * count }
    }
}

/// p *= 1 - lr wd inside `decayed` ranges; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
/// p -= lr / (1-b1^t) m / (sqrt(v) / sqrt(1-b2^t) + eps), g the clipped gradient. Where `norm` is not finite nothing
/// changes.
#[derive(Clone, Copy, Debug)]
pub struct AdamW<'a> {
    /// b1, b2, eps, wd and the limit of the norm.
    pub settings: AdamWSettings,
    /// What [`pace`] gives `[3]`: lr, 1-b1^t and 1-b2^t, t = 1 for the first step since the moments were zeroed.
    pub pace: Stats,
    /// p, g, m and v.
    pub arenas: AdamWArenas,
    /// The gradients' norm `[1]`.
    pub norm: Stats,
    /// The stretches of the arenas under weight decay, ascending.
    pub decayed: &'a [Range<usize>],
}

impl Op for AdamW<'_> {
    const NAME: &'static str = "adamw";

    fn shape(&self) -> String {
        self.arenas.master.len().to_string()
    }

    /// Four arenas read and three written; the storage copy too where it is another.
    fn cost(&self, storage_bytes: usize) -> Cost {
        let count = self.arenas.master.len();
        Cost { operations: 14 * count, bytes: 4 * 7 * count + copy_bytes(count, storage_bytes) }
    }
}

/// Limits every value to [low, high] (the logit scale after a step), in `master` and in its storage copy.
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    /// `[n]`, read and written.
    pub master: Stats,
    /// The storage-precision copy of `master`, of its length.
    pub weights: Tensor,
    /// The least that a value may be.
    pub low: f32,
    /// The most, not below `low`.
    pub high: f32,
}

impl Op for Clamp {
    const NAME: &'static str = "clamp";

    fn shape(&self) -> String {
        self.master.len().to_string()
    }

    fn cost(&self, storage_bytes: usize) -> Cost {
        let count = self.master.len();
        Cost { operations: 2 * count, bytes: 4 * 2 * count + copy_bytes(count, storage_bytes) }
    }
}

/// Bytes of the storage copy of `count` master values; none where it is the master itself.
fn copy_bytes(count: usize, storage_bytes: usize) -> usize {
    if storage_bytes < 4 { storage_bytes * count } else { 0 }
}
