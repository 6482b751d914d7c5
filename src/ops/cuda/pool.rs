//! One token a sample: a warp a row of the output.

use super::{Cuda, arguments};
use crate::ops::Run;
use crate::ops::pool::{Pool, PoolBackward, PoolShape};

/// Rows of a block, a warp each.
const ROWS: usize = 8;

impl Run<Pool> for Cuda {
    fn run(&mut self, Pool { shape, position, x, y }: Pool) {
        let PoolShape { samples, tokens, width } = shape;
        let position = position.map(|position| self.at(position));
        let arguments = arguments![position, self.at(x), self.at(y), samples, tokens, width];
        self.launch("pool", [samples.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }
}

impl Run<PoolBackward> for Cuda {
    fn run(&mut self, PoolBackward { shape, position, dy, dx }: PoolBackward) {
        let PoolShape { samples, tokens, width } = shape;
        let position = position.map(|position| self.at(position));
        let arguments = arguments![position, self.at(dy), self.at(dx), samples, tokens, width];
        self.launch("pool_backward", [(samples * tokens).div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }
}
