//! Rows to unit length.

use rayon::prelude::*;

use super::vector::{dot, vectorized};
use super::{Cpu, Real};
use crate::ops::l2_normalize::L2Normalize;
use crate::ops::{Stats, Tensor};

impl<T: Real> L2Normalize for Cpu<T> {
    fn l2_normalize(&mut self, rows: usize, width: usize, x: Tensor, y: Tensor, norm: Stats) {
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

    fn l2_normalize_backward(&mut self, rows: usize, width: usize, dy: Tensor, y: Tensor, norm: Stats, dx: Tensor) {
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
