//! Stub.
#![allow(unused_variables)]
use super::{Cpu, Real};
use crate::ops::Stats;
use crate::ops::arena::Arena;

impl<T: Real> Arena for Cpu<T> {
    #[allow(clippy::too_many_arguments)]
    fn interpolate(&mut self, alpha: f64, y: Stats, x: Stats) {
        todo!()
    }
    #[allow(clippy::too_many_arguments)]
    fn accumulate_squares(&mut self, gradients: Stats, squares: Stats) {
        todo!()
    }
    #[allow(clippy::too_many_arguments)]
    fn accumulate_fisher(&mut self, scale: f64, limit: f64, squares: Stats, fisher: Stats) {
        todo!()
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
        todo!()
    }
}
