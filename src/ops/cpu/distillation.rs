//! Stub.
#![allow(unused_variables)]
use super::{Cpu, Real};
use crate::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use crate::ops::{Stats, Write};

impl<T: Real> Distillation for Cpu<T> {
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
        todo!()
    }
}
