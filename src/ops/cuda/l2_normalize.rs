//! Rows to unit length: a warp a row.

use super::driver::Driver;
use super::{Cuda, arguments};
use crate::ops::l2_normalize::L2Normalize;
use crate::ops::{Stats, Tensor};

/// Rows of a block, a warp each.
const ROWS: usize = 4;

impl<R: Driver> L2Normalize for Cuda<R> {
    fn l2_normalize(&mut self, rows: usize, width: usize, x: Tensor, y: Tensor, norm: Stats) {
        let arguments = arguments![self.at(x), self.at(y), self.at(norm), rows, width];
        self.launch("l2_normalize", [rows.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }

    fn l2_normalize_backward(&mut self, rows: usize, width: usize, dy: Tensor, y: Tensor, norm: Stats, dx: Tensor) {
        let arguments = arguments![self.at(dy), self.at(y), self.at(norm), self.at(dx), rows, width];
        self.launch("l2_normalize_backward", [rows.div_ceil(ROWS), 1, 1], 32 * ROWS, 0, arguments);
    }
}
