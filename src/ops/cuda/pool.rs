//! One token a sample: a warp a row of the output.

use super::driver::Driver;
use super::{Cuda, arguments};
use crate::ops::pool::{Pool, PoolShape};
use crate::ops::{Ids, Tensor};

/// Rows of a block, a warp each.
const ROWS: usize = 8;

impl<R: Driver> Pool for Cuda<R> {
    fn pool(&mut self, shape: PoolShape, position: Option<Ids>, x: Tensor, y: Tensor) {
        let PoolShape { samples, tokens, width } = shape;
        let position = position.map(|position| self.at(position));
        let arguments = arguments![position, self.at(x), self.at(y), samples, tokens, width];
        self.launch("pool", [samples.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }

    fn pool_backward(&mut self, shape: PoolShape, position: Option<Ids>, dy: Tensor, dx: Tensor) {
        let PoolShape { samples, tokens, width } = shape;
        let position = position.map(|position| self.at(position));
        let arguments = arguments![position, self.at(dy), self.at(dx), samples, tokens, width];
        self.launch("pool_backward", [(samples * tokens).div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }
}
