use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::linear::{BackwardEpilogue, Epilogue, Linear, LinearShape};
use crate::ops::{Stats, Tensor};

impl<R: Driver> Linear for Cuda<R> {
    fn linear(
        &mut self,
        _shape: LinearShape,
        _x: Tensor,
        _weight: Tensor,
        _bias: Option<Tensor>,
        _epilogue: Epilogue,
        _y: Tensor,
    ) {
        self.fail(Error::run("linear: no kernel is launched yet"));
    }

    fn linear_backward_data(
        &mut self,
        _shape: LinearShape,
        _dy: Tensor,
        _weight: Tensor,
        _epilogue: BackwardEpilogue,
        _dx: Tensor,
    ) {
        self.fail(Error::run("linear: no kernel is launched yet"));
    }

    fn linear_backward_weight(
        &mut self,
        _shape: LinearShape,
        _dy: Tensor,
        _x: Tensor,
        _dweight: Stats,
        _dbias: Option<Stats>,
    ) {
        self.fail(Error::run("linear: no kernel is launched yet"));
    }
}
