//! The rectifier: sweeps of the grid.

use super::Cuda;
use super::kernels::relu as kernel;
use crate::ops::Run;
use crate::ops::relu::{Relu, ReluBackward};

impl Run<Relu> for Cuda {
    fn run(&mut self, Relu { x, y }: Relu) {
        let count = y.len();
        self.sweep(kernel::RELU, count, kernel::Relu { x: self.at(x), y: self.at(y), count });
    }
}

impl Run<ReluBackward> for Cuda {
    fn run(&mut self, ReluBackward { dy, y, dx }: ReluBackward) {
        let count = dx.len();
        let parameters = kernel::ReluBackward { dy: self.at(dy), y: self.at(y), dx: self.at(dx), count };
        self.sweep(kernel::RELU_BACKWARD, count, parameters);
    }
}
