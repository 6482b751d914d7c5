//! Arithmetic over flat arenas: sweeps of the grid.

use super::driver::Driver;
use super::{Cuda, arguments};
use crate::ops::arena::Arena;
use crate::ops::{Memory, Stats};

impl<R: Driver> Arena for Cuda<R> {
    fn interpolate(&mut self, alpha: f64, y: Stats, x: Stats) {
        // At the ends the formula would lose the sign of zero, and let what is infinite on one side spoil the other.
        if alpha == 1.0 {
            self.copy(y, x);
        } else if alpha != 0.0 {
            let count = x.len();
            let arguments = arguments![self.at(y), self.at(x), (1.0 - alpha) as f32, alpha as f32, count as i64];
            self.sweep("arena_interpolate", count, arguments);
        }
    }

    fn accumulate_squares(&mut self, gradients: Stats, squares: Stats) {
        let count = squares.len();
        self.sweep("arena_squares", count, arguments![self.at(gradients), self.at(squares), count as i64]);
    }

    fn accumulate_fisher(&mut self, scale: f64, limit: f64, squares: Stats, fisher: Stats) {
        let count = fisher.len();
        let arguments = arguments![self.at(squares), self.at(fisher), scale as f32, limit as f32, count as i64];
        self.sweep("arena_fisher", count, arguments);
    }

    fn quadratic_penalty(
        &mut self,
        strength: f64,
        fisher: Stats,
        anchor: Stats,
        master: Stats,
        gradients: Stats,
        loss: Stats,
    ) {
        // The number of partial sums depends on the length alone: one order on any GPU.
        let (count, partials) = (gradients.len(), self.workspace());
        let blocks = count.div_ceil(1 << 12).clamp(1, 1024);
        let arguments = arguments![
            self.at(fisher),
            self.at(anchor),
            self.at(master),
            self.at(gradients),
            partials,
            strength as f32,
            count as i64
        ];
        self.launch("arena_penalty", [blocks, 1, 1], 256, 0, arguments);
        let arguments = arguments![partials, self.at(loss), strength as f32, blocks];
        self.launch("arena_penalty_sum", [1, 1, 1], 1024, 0, arguments);
    }
}
