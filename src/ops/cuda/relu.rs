//! Stub.
#![allow(unused_variables)]
use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::Tensor;
use crate::ops::relu::Relu;

impl<R: Driver> Relu for Cuda<R> {
    #[allow(clippy::too_many_arguments)]
    fn relu(&mut self, x: Tensor, y: Tensor) {
        self.fail(Error::run("relu is not on CUDA yet"));
    }
    #[allow(clippy::too_many_arguments)]
    fn relu_backward(&mut self, dy: Tensor, y: Tensor, dx: Tensor) {
        self.fail(Error::run("relu_backward is not on CUDA yet"));
    }
}
