//! Stub.
#![allow(unused_variables)]
use super::{Cpu, Real};
use crate::ops::supcon::SupCon;
use crate::ops::{Ids, Stats};

impl<T: Real> SupCon for Cpu<T> {
    #[allow(clippy::too_many_arguments)]
    fn supcon(&mut self, samples: usize, tau: f64, s: Stats, class: Ids, anchor: Option<Ids>, loss: Stats, ds: Stats) {
        todo!()
    }
}
