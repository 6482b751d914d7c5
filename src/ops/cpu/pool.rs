//! One token a sample.

use rayon::prelude::*;

use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::pool::{Pool, PoolBackward, PoolShape};

impl<T: Real> Run<Pool> for Cpu<T> {
    fn run(&mut self, Pool { shape, position, x, y }: Pool) {
        let PoolShape { samples, tokens, width } = shape;
        let ([y], [x], side) =
            self.views([y.first(samples * width).into()], [x.first(samples * tokens * width).into()]);
        let position = position.map(|position| side.ids(position.first(samples)));
        for (sample, y) in y.chunks_exact_mut(width).enumerate() {
            let token = position.map_or(0, |position| position[sample] as usize);
            y.copy_from_slice(&x[(sample * tokens + token) * width..][..width]);
        }
    }
}

impl<T: Real> Run<PoolBackward> for Cpu<T> {
    fn run(&mut self, PoolBackward { shape, position, dy, dx }: PoolBackward) {
        let PoolShape { samples, tokens, width } = shape;
        let ([dx], [dy], side) =
            self.views([dx.first(samples * tokens * width).into()], [dy.first(samples * width).into()]);
        let position = position.map(|position| side.ids(position.first(samples)));
        dx.par_chunks_mut(tokens * width).zip(dy.par_chunks(width)).enumerate().for_each(|(sample, (dx, dy))| {
            let token = position.map_or(0, |position| position[sample] as usize);
            dx.fill(T::ZERO);
            dx[token * width..][..width].copy_from_slice(dy);
        });
    }
}
