//! Rows to unit length.

use rayon::prelude::*;

use super::vector::{dot, vectorized};
use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};

impl<T: Real> Run<L2Normalize> for Cpu<T> {
    fn run(&mut self, L2Normalize { rows, width, x, y, norm }: L2Normalize) {
        let ([y, norm], [x], _) =
            self.views([y.first(rows * width).into(), norm.first(rows).into()], [x.first(rows * width).into()]);
        let pieces = y.par_chunks_mut(width).zip(x.par_chunks(width)).zip(norm);
        pieces.for_each(|((y, x), norm)| {
            vectorized(
                #[inline(always)]
                || {
                    *norm = dot(x, x).sqrt().max(T::of(1e-12));
                    let inverse = T::ONE / *norm;
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = *x * inverse;
                    }
                },
            );
        });
    }
}

impl<T: Real> Run<L2NormalizeBackward> for Cpu<T> {
    fn run(&mut self, L2NormalizeBackward { rows, width, dy, y, norm, dx }: L2NormalizeBackward) {
        let ([dx], [dy, y, norm], _) = self.views(
            [dx.first(rows * width).into()],
            [dy.first(rows * width).into(), y.first(rows * width).into(), norm.first(rows).into()],
        );
        let rows = dx.par_chunks_mut(width).zip(dy.par_chunks(width)).zip(y.par_chunks(width)).zip(norm);
        rows.for_each(|(((dx, dy), y), norm)| {
            vectorized(
                #[inline(always)]
                || {
                    let along = dot(dy, y);
                    let inverse = T::ONE / *norm;
                    for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                        *dx = (*dy - *y * along) * inverse;
                    }
                },
            );
        });
    }
}
