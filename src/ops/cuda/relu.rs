//! The rectifier: sweeps of the grid.

use super::{Cuda, arguments};
use crate::ops::Run;
use crate::ops::relu::{Relu, ReluBackward};

impl Run<Relu> for Cuda {
    fn run(&mut self, Relu { x, y }: Relu) {
        let count = y.len();
        self.sweep("relu", count, arguments![self.at(x), self.at(y), count as i64]);
    }
}

impl Run<ReluBackward> for Cuda {
    fn run(&mut self, ReluBackward { dy, y, dx }: ReluBackward) {
        let count = dx.len();
        self.sweep("relu_backward", count, arguments![self.at(dy), self.at(y), self.at(dx), count as i64]);
    }
}
