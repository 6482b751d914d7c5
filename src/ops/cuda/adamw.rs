//! The optimiser: one launch over the arenas.

use super::Cuda;
use super::kernels::adamw as kernel;
use crate::error::Error;
use crate::ops::Run;
use crate::ops::adamw::{AdamW, AdamWSettings, Clamp, GradientNorm};

/// Values that a block of the update has.
const PIECE: usize = 2048;

impl Run<GradientNorm> for Cuda {
    fn run(&mut self, GradientNorm { gradients, norm }: GradientNorm) {
        // The number of partial sums depends on the length alone: one order on any GPU.
        let (count, partials) = (gradients.len(), self.workspace());
        let blocks = count.div_ceil(1 << 14).clamp(1, 256);
        let parameters = kernel::AdamwGradientSquares { gradients: self.at(gradients), partials, count };
        self.launch(kernel::ADAMW_GRADIENT_SQUARES, [blocks, 1, 1], parameters);
        let parameters = kernel::AdamwGradientNorm { partials, norm: self.at(norm), count: blocks };
        self.launch(kernel::ADAMW_GRADIENT_NORM, [1, 1, 1], parameters);
    }
}

impl Run<AdamW<'_>> for Cuda {
    fn run(&mut self, AdamW { settings, pace, arenas, norm, decayed }: AdamW<'_>) {
        let count = arenas.master.len();
        if u32::try_from(count).is_err() {
            return self.fail(Error::input(format!("adamw on CUDA takes fewer than 2^32 parameters, not {count}")));
        }
        let bounds: Vec<u32> = decayed.iter().flat_map(|range| [range.start as u32, range.end as u32]).collect();
        let table = (!bounds.is_empty()).then(|| self.table(&bounds));
        let AdamWSettings { beta1, beta2, eps, weight_decay, max_norm } = settings;
        let parameters = kernel::Adamw {
            master: self.at(arenas.master),
            weights: self.at(arenas.weights),
            gradients: self.at(arenas.gradients),
            first_moment: self.at(arenas.first_moment),
            second_moment: self.at(arenas.second_moment),
            norm: self.at(norm),
            pace: self.at(pace),
            bounds: table,
            bound_count: bounds.len(),
            beta1: beta1 as f32,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            max_norm: max_norm as f32,
            count,
        };
        self.launch(kernel::ADAMW, [count.div_ceil(PIECE), 1, 1], parameters);
    }
}

impl Run<Clamp> for Cuda {
    fn run(&mut self, Clamp { master, weights, low, high }: Clamp) {
        let count = master.len();
        let parameters = kernel::AdamwClamp { master: self.at(master), weights: self.at(weights), low, high, count };
        let blocks = count.div_ceil(kernel::ADAMW_CLAMP.most_threads());
        self.launch(kernel::ADAMW_CLAMP, [blocks, 1, 1], parameters);
    }
}
