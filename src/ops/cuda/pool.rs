//! One token a sample: a warp a row of the output.

use super::Cuda;
use super::kernels::pool as kernel;
use crate::ops::Run;
use crate::ops::pool::{Pool, PoolBackward, PoolShape};

impl Run<Pool> for Cuda {
    fn run(&mut self, Pool { shape, position, x, y }: Pool) {
        let PoolShape { samples, tokens, width } = shape;
        let position = position.map(|position| self.at(position));
        let parameters = kernel::Pool { position, x: self.at(x), y: self.at(y), samples, tokens, width };
        self.launch(kernel::POOL, [samples.div_ceil(kernel::POOL.warps()), 1, 1], parameters);
    }
}

impl Run<PoolBackward> for Cuda {
    fn run(&mut self, PoolBackward { shape, position, dy, dx }: PoolBackward) {
        let PoolShape { samples, tokens, width } = shape;
        let position = position.map(|position| self.at(position));
        let parameters = kernel::PoolBackward { position, dy: self.at(dy), dx: self.at(dx), samples, tokens, width };
        let blocks = (samples * tokens).div_ceil(kernel::POOL_BACKWARD.warps());
        self.launch(kernel::POOL_BACKWARD, [blocks, 1, 1], parameters);
    }
}
