//! Stub.
#![allow(unused_variables)]
use super::{Cpu, Real};
use crate::ops::Tensor;
use crate::ops::relu::Relu;

impl<T: Real> Relu for Cpu<T> {
    #[allow(clippy::too_many_arguments)]
    fn relu(&mut self, x: Tensor, y: Tensor) {
        todo!()
    }
    #[allow(clippy::too_many_arguments)]
    fn relu_backward(&mut self, dy: Tensor, y: Tensor, dx: Tensor) {
        todo!()
    }
}
