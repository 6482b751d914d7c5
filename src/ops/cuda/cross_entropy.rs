//! Stub.
#![allow(unused_variables)]
use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftTargets};
use crate::ops::{Ids, Stats, Tensor, Write};

impl<R: Driver> CrossEntropy for Cuda<R> {
    #[allow(clippy::too_many_arguments)]
    fn cross_entropy(
        &mut self,
        shape: LogitsShape,
        logits: Tensor,
        divisor: Option<Stats>,
        label: Ids,
        weight: f64,
        write: Write,
        loss: Stats,
        dlogits: Tensor,
    ) {
        self.fail(Error::run("cross_entropy is not on CUDA yet"));
    }
    #[allow(clippy::too_many_arguments)]
    fn soft_cross_entropy(
        &mut self,
        shape: LogitsShape,
        logits: Tensor,
        teacher: Tensor,
        targets: SoftTargets,
        weight: f64,
        write: Write,
        loss: Stats,
        dlogits: Tensor,
    ) {
        self.fail(Error::run("soft_cross_entropy is not on CUDA yet"));
    }
}
