//! Stub.
#![allow(unused_variables)]
use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::similarity::{Similarity, SimilarityShape};
use crate::ops::{Stats, Tensor, Write};

impl<R: Driver> Similarity for Cuda<R> {
    #[allow(clippy::too_many_arguments)]
    fn similarity(&mut self, shape: SimilarityShape, a: Tensor, b: Tensor, s: Stats) {
        self.fail(Error::run("similarity is not on CUDA yet"));
    }
    #[allow(clippy::too_many_arguments)]
    fn similarity_backward(&mut self, shape: SimilarityShape, ds: Stats, b: Tensor, write: Write, da: Tensor) {
        self.fail(Error::run("similarity_backward is not on CUDA yet"));
    }
    #[allow(clippy::too_many_arguments)]
    fn similarity_backward_columns(&mut self, shape: SimilarityShape, ds: Stats, a: Tensor, write: Write, db: Tensor) {
        self.fail(Error::run("similarity_backward_columns is not on CUDA yet"));
    }
}
