//! The rectifier: sweeps of the grid.

use super::driver::Driver;
use super::{Cuda, arguments};
use crate::ops::Tensor;
use crate::ops::relu::Relu;

impl<R: Driver> Relu for Cuda<R> {
    fn relu(&mut self, x: Tensor, y: Tensor) {
        let count = y.len();
        self.sweep("relu", count, arguments![self.at(x), self.at(y), count as i64]);
    }

    fn relu_backward(&mut self, dy: Tensor, y: Tensor, dx: Tensor) {
        let count = dx.len();
        self.sweep("relu_backward", count, arguments![self.at(dy), self.at(y), self.at(dx), count as i64]);
    }
}
