//! Stub.
#![allow(unused_variables)]
use super::{Cpu, Real};
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftTargets};
use crate::ops::{Ids, Stats, Tensor, Write};

impl<T: Real> CrossEntropy for Cpu<T> {
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
        todo!()
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
        todo!()
    }
}
