//! The optimiser: one launch over the arenas.

use super::{Cuda, arguments};
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
        let arguments = arguments![self.at(gradients), partials, count as i64];
        self.launch("adamw_gradient_squares", [blocks, 1, 1], 1024, 0, arguments);
        self.launch("adamw_gradient_norm", [1, 1, 1], 1024, 0, arguments![partials, self.at(norm), blocks]);
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
        let arguments = arguments![
            self.at(arenas.master),
            self.at(arenas.weights),
            self.at(arenas.gradients),
            self.at(arenas.first_moment),
            self.at(arenas.second_moment),
            self.at(norm),
            self.at(pace),
            table,
            bounds.len(),
            beta1 as f32,
            (1.0 - beta1) as f32,
            beta2 as f32,
            (1.0 - beta2) as f32,
            eps as f32,
            weight_decay as f32,
            max_norm as f32,
            count as i64
        ];
        self.launch("adamw", [count.div_ceil(PIECE), 1, 1], 256, 0, arguments);
    }
}

impl Run<Clamp> for Cuda {
    fn run(&mut self, Clamp { master, weights, low, high }: Clamp) {
        let count = master.len();
        let arguments = arguments![self.at(master), self.at(weights), low, high, count as i64];
        self.launch("adamw_clamp", [count.div_ceil(256), 1, 1], 256, 0, arguments);
    }
}
