use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::adamw::{AdamW, AdamWArenas, AdamWSettings};
use crate::ops::{Stats, Tensor};
use std::ops::Range;

impl<R: Driver> AdamW for Cuda<R> {
    fn gradient_norm(&mut self, _gradients: Stats, _norm: Stats) {
        self.fail(Error::run("adamw: no kernel is launched yet"));
    }

    fn adamw(
        &mut self,
        _settings: AdamWSettings,
        _pace: Stats,
        _arenas: AdamWArenas,
        _norm: Stats,
        _decayed: &[Range<usize>],
    ) {
        self.fail(Error::run("adamw: no kernel is launched yet"));
    }

    fn clamp(&mut self, _master: Stats, _weights: Tensor, _low: f32, _high: f32) {
        self.fail(Error::run("adamw: no kernel is launched yet"));
    }
}
