//! Layer normalisation, a row at a time.

use rayon::prelude::*;

use super::vector::{add, sum, sum2, vectorized};
use super::{Cpu, Real};
use crate::ops::layer_norm::{LayerNorm, LayerNormBackward, LayerNormShape};
use crate::ops::{Run, Write};

/// Rows of one piece of work.
const ROWS: usize = 128;

impl<T: Real> Run<LayerNorm> for Cpu<T> {
    fn run(&mut self, LayerNorm { shape, x, gamma, beta, y, mean, rstd }: LayerNorm) {
        let LayerNormShape { rows, width, eps } = shape;
        let ([y, mean, rstd], [x, gamma, beta], _) = self.views(
            [y.first(rows * width).into(), mean.first(rows).into(), rstd.first(rows).into()],
            [x.first(rows * width).into(), gamma.into(), beta.into()],
        );
        let pieces = y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width));
        let stats = mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS));
        let (scale, eps) = (T::of(1.0 / width as f64), T::of(eps));
        pieces.zip(stats).for_each(|((y, x), (means, rstds))| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((y, x), (mean, rstd)) in rows.zip(means.iter_mut().zip(rstds)) {
                        let center = sum(x, |x| x) * scale;
                        let variance = sum(x, |x| (x - center) * (x - center)) * scale;
                        let slope = T::ONE / (variance + eps).sqrt();
                        for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                            *y = (*x - center) * slope * *gamma + *beta;
                        }
                        (*mean, *rstd) = (center, slope);
                    }
                },
            );
        });
    }
}

impl<T: Real> Run<LayerNormBackward> for Cpu<T> {
    fn run(&mut self, op: LayerNormBackward) {
        let LayerNormBackward { shape, dy, x, gamma, mean, rstd, write, dx, dgamma, dbeta } = op;
        let LayerNormShape { rows, width, .. } = shape;
        let ([dx, dgamma, dbeta], [dy, x, gamma, mean, rstd], side) = self.views(
            [dx.first(rows * width).into(), dgamma.into(), dbeta.into()],
            [
                dy.first(rows * width).into(),
                x.first(rows * width).into(),
                gamma.into(),
                mean.first(rows).into(),
                rstd.first(rows).into(),
            ],
        );
        let (scale, gamma) = (T::of(1.0 / width as f64), &gamma[..width]);
        // Each piece sums its rows' part of dgamma and dbeta; the parts are added in order.
        side.with_partials(2 * width * rows.div_ceil(ROWS), |partials| {
            let pieces = dx.par_chunks_mut(ROWS * width).zip(partials.par_chunks_mut(2 * width));
            pieces.enumerate().for_each(|(piece, (dx, partial))| {
                side.with_scratch(2 * width, |scratch| {
                    vectorized(
                        #[inline(always)]
                        || {
                            partial.fill(T::ZERO);
                            let (dgamma, dbeta) = partial.split_at_mut(width);
                            let (g, n) = scratch.split_at_mut(width);
                            for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
                                let row = piece * ROWS + i;
                                let (mean, rstd) = (mean[row], rstd[row]);
                                let (dy, x) = (&dy[row * width..][..width], &x[row * width..][..width]);
                                for k in 0..width {
                                    g[k] = dy[k] * gamma[k];
                                    n[k] = (x[k] - mean) * rstd;
                                    dgamma[k] += dy[k] * n[k];
                                    dbeta[k] += dy[k];
                                }
                                let g_average = sum(g, |g| g) * scale;
                                let gn_average = sum2(g, n, |g, n| g * n) * scale;
                                match write {
                                    Write::Set => {
                                        for k in 0..width {
                                            dx[k] = rstd * (g[k] - g_average - n[k] * gn_average);
                                        }
                                    }
                                    Write::Add => {
                                        for k in 0..width {
                                            dx[k] += rstd * (g[k] - g_average - n[k] * gn_average);
                                        }
                                    }
                                }
                            }
                        },
                    );
                });
            });
            dgamma.fill(T::ZERO);
            dbeta.fill(T::ZERO);
            for partial in partials.chunks_exact(2 * width) {
                add(dgamma, &partial[..width]);
                add(dbeta, &partial[width..]);
            }
        });
    }
}
