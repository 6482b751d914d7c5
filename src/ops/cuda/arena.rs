//! Arithmetic over flat arenas: sweeps of the grid.

use super::{Cuda, arguments};
use crate::ops::arena::{AccumulateFisher, AccumulateSquares, Interpolate, QuadraticPenalty};
use crate::ops::{Memory, Run};

impl Run<Interpolate> for Cuda {
    fn run(&mut self, Interpolate { alpha, y, x }: Interpolate) {
        // At the ends the formula would lose the sign of zero, and let what is infinite on one side spoil the other.
        if alpha == 1.0 {
            self.copy(y, x);
        } else if alpha != 0.0 {
            let count = x.len();
            let arguments = arguments![self.at(y), self.at(x), (1.0 - alpha) as f32, alpha as f32, count as i64];
            self.sweep("arena_interpolate", count, arguments);
        }
    }
}

impl Run<AccumulateSquares> for Cuda {
    fn run(&mut self, AccumulateSquares { gradients, squares }: AccumulateSquares) {
        let count = squares.len();
        self.sweep("arena_squares", count, arguments![self.at(gradients), self.at(squares), count as i64]);
    }
}

impl Run<AccumulateFisher> for Cuda {
    fn run(&mut self, AccumulateFisher { scale, limit, squares, fisher }: AccumulateFisher) {
        let count = fisher.len();
        let arguments = arguments![self.at(squares), self.at(fisher), scale as f32, limit as f32, count as i64];
        self.sweep("arena_fisher", count, arguments);
    }
}

impl Run<QuadraticPenalty> for Cuda {
    fn run(&mut self, QuadraticPenalty { strength, fisher, anchor, master, gradients, loss }: QuadraticPenalty) {
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
