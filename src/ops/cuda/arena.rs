//! Stub.
#![allow(unused_variables)]
use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::Stats;
use crate::ops::arena::Arena;

impl<R: Driver> Arena for Cuda<R> {
    #[allow(clippy::too_many_arguments)]
    fn interpolate(&mut self, alpha: f64, y: Stats, x: Stats) {
        self.fail(Error::run("interpolate is not on CUDA yet"));
    }
    #[allow(clippy::too_many_arguments)]
    fn accumulate_squares(&mut self, gradients: Stats, squares: Stats) {
        self.fail(Error::run("accumulate_squares is not on CUDA yet"));
    }
    #[allow(clippy::too_many_arguments)]
    fn accumulate_fisher(&mut self, scale: f64, limit: f64, squares: Stats, fisher: Stats) {
        self.fail(Error::run("accumulate_fisher is not on CUDA yet"));
    }
    #[allow(clippy::too_many_arguments)]
    fn quadratic_penalty(
        &mut self,
        strength: f64,
        fisher: Stats,
        anchor: Stats,
        master: Stats,
        gradients: Stats,
        loss: Stats,
    ) {
        self.fail(Error::run("quadratic_penalty is not on CUDA yet"));
    }
}
