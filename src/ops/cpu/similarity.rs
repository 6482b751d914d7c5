//! Stub.
#![allow(unused_variables)]
use super::{Cpu, Real};
use crate::ops::similarity::{Similarity, SimilarityShape};
use crate::ops::{Stats, Tensor, Write};

impl<T: Real> Similarity for Cpu<T> {
    #[allow(clippy::too_many_arguments)]
    fn similarity(&mut self, shape: SimilarityShape, a: Tensor, b: Tensor, s: Stats) {
        todo!()
    }
    #[allow(clippy::too_many_arguments)]
    fn similarity_backward(&mut self, shape: SimilarityShape, ds: Stats, b: Tensor, write: Write, da: Tensor) {
        todo!()
    }
    #[allow(clippy::too_many_arguments)]
    fn similarity_backward_columns(&mut self, shape: SimilarityShape, ds: Stats, a: Tensor, write: Write, db: Tensor) {
        todo!()
    }
}
