//! Stub.
#![allow(unused_variables)]
use super::Cuda;
use super::driver::Driver;
use crate::error::Error;
use crate::ops::supcon::SupCon;
use crate::ops::{Ids, Stats};

impl<R: Driver> SupCon for Cuda<R> {
    #[allow(clippy::too_many_arguments)]
    fn supcon(&mut self, samples: usize, tau: f64, s: Stats, class: Ids, anchor: Option<Ids>, loss: Stats, ds: Stats) {
        self.fail(Error::run("supcon is not on CUDA yet"));
    }
}
