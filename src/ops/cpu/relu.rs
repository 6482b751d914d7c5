//! The rectifier.

use rayon::prelude::*;

use super::vector::vectorized;
use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::relu::{Relu, ReluBackward};

/// Elements of one piece of work.
const PIECE: usize = 1 << 14;

impl<T: Real> Run<Relu> for Cpu<T> {
    fn run(&mut self, Relu { x, y }: Relu) {
        let ([y], [x], _) = self.views([y.into()], [x.first(y.len()).into()]);
        y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        // Not a maximum, which would lose NaN.
                        *y = if *x < T::ZERO { T::ZERO } else { *x };
                    }
                },
            );
        });
    }
}

impl<T: Real> Run<ReluBackward> for Cpu<T> {
    fn run(&mut self, ReluBackward { dy, y, dx }: ReluBackward) {
        let len = dx.len();
        let ([dx], [dy, y], _) = self.views([dx.into()], [dy.first(len).into(), y.first(len).into()]);
        dx.par_chunks_mut(PIECE).zip(dy.par_chunks(PIECE)).zip(y.par_chunks(PIECE)).for_each(|((dx, dy), y)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                        *dx = if *y > T::ZERO { *dy } else { T::ZERO };
                    }
                },
            );
        });
    }
}
