//! Arithmetic over flat arenas: sweeps of the grid.

use super::Cuda;
use super::kernels::arena as kernel;
use crate::ops::arena::{AccumulateFisher, AccumulateSquares, Interpolate, QuadraticPenalty};
use crate::ops::{DeviceMemory, Run};

impl Run<Interpolate> for Cuda {
    fn run(&mut self, Interpolate { alpha, y, x }: Interpolate) {
        // At the ends the formula would lose the sign of zero, and let what is infinite on one side spoil the other.
        if alpha == 1.0 {
            self.copy(y, x);
        } else if alpha != 0.0 {
            let count = x.len();
            let (keep, take) = ((1.0 - alpha) as f32, alpha as f32);
            let parameters = kernel::ArenaInterpolate { y: self.at(y), x: self.at(x), keep, take, count };
            self.sweep(kernel::ARENA_INTERPOLATE, count, parameters);
        }
    }
}

impl Run<AccumulateSquares> for Cuda {
    fn run(&mut self, AccumulateSquares { gradients, squares }: AccumulateSquares) {
        let count = squares.len();
        let parameters = kernel::ArenaSquares { gradients: self.at(gradients), squares: self.at(squares), count };
        self.sweep(kernel::ARENA_SQUARES, count, parameters);
    }
}

impl Run<AccumulateFisher> for Cuda {
    fn run(&mut self, AccumulateFisher { scale, limit, squares, fisher }: AccumulateFisher) {
        let count = fisher.len();
        let (squares, fisher, scale, limit) = (self.at(squares), self.at(fisher), scale as f32, limit as f32);
        self.sweep(kernel::ARENA_FISHER, count, kernel::ArenaFisher { squares, fisher, scale, limit, count });
    }
}

impl Run<QuadraticPenalty> for Cuda {
    fn run(&mut self, QuadraticPenalty { strength, fisher, anchor, master, gradients, loss }: QuadraticPenalty) {
        // The number of partial sums depends on the length alone: one order on any GPU.
        let (count, partials) = (gradients.len(), self.workspace());
        let blocks = count.div_ceil(1 << 12).clamp(1, 1024);
        let strength = strength as f32;
        let parameters = kernel::ArenaPenalty {
            fisher: self.at(fisher),
            anchor: self.at(anchor),
            master: self.at(master),
            gradients: self.at(gradients),
            partials,
            strength,
            count,
        };
        self.launch(kernel::ARENA_PENALTY, [blocks, 1, 1], parameters);
        let parameters = kernel::ArenaPenaltySum { partials, loss: self.at(loss), strength, count: blocks };
        self.launch(kernel::ARENA_PENALTY_SUM, [1, 1, 1], parameters);
    }
}
