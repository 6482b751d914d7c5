//! Stub.
#![allow(unused_variables)]
use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use crate::ops::{Stats, Write};

impl<R: Driver> Distillation for Cuda<R> {
    #[allow(clippy::too_many_arguments)]
    fn distill(
        &mut self,
        rows: usize,
        columns: usize,
        settings: DistillationSettings,
        multiplicity: Multiplicity,
        s: Stats,
        teacher: Stats,
        write: Write,
        loss: Stats,
        ds: Stats,
    ) {
        self.fail(Error::run("distill is not on CUDA yet"));
    }
}
