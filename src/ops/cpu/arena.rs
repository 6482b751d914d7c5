//! Sweeps over flat arenas, a piece at a time.

use rayon::prelude::*;

use super::vector::{sum, sum2, vectorized};
use super::{Cpu, Real};
use crate::ops::arena::{AccumulateFisher, AccumulateSquares, Interpolate, QuadraticPenalty};
use crate::ops::{DeviceMemory, Run, Stats};

/// Elements of one piece of work: its arrays stay within a second-level cache.
const PIECE: usize = 1 << 14;

impl<T: Real> Run<Interpolate> for Cpu<T> {
    fn run(&mut self, Interpolate { alpha, y, x }: Interpolate) {
        // At the ends the formula would lose the sign of zero, and let what is infinite on one side spoil the other.
        if alpha == 1.0 {
            self.copy(y, x);
        } else if alpha != 0.0 {
            let (keep, take) = (T::of(1.0 - alpha), T::of(alpha));
            self.sweep(
                y,
                x,
                #[inline(always)]
                |y, x| keep * x + take * y,
            );
        }
    }
}

impl<T: Real> Run<AccumulateSquares> for Cpu<T> {
    fn run(&mut self, AccumulateSquares { gradients, squares }: AccumulateSquares) {
        self.sweep(
            gradients,
            squares,
            #[inline(always)]
            |g, sum| sum + g * g,
        );
    }
}

impl<T: Real> Run<AccumulateFisher> for Cpu<T> {
    fn run(&mut self, AccumulateFisher { scale, limit, squares, fisher }: AccumulateFisher) {
        let (scale, limit) = (T::of(scale), T::of(limit));
        self.sweep(
            squares,
            fisher,
            #[inline(always)]
            // In this order NaN stays NaN.
            |squares, fisher| fisher + limit.min(scale * squares),
        );
    }
}

impl<T: Real> Run<QuadraticPenalty> for Cpu<T> {
    fn run(&mut self, QuadraticPenalty { strength, fisher, anchor, master, gradients, loss }: QuadraticPenalty) {
        let len = gradients.len();
        let ([gradients, loss], [fisher, anchor, master], side) = self.views(
            [gradients.into(), loss.first(1).into()],
            [fisher.first(len).into(), anchor.first(len).into(), master.first(len).into()],
        );
        let factor = T::of(strength);
        side.with_partials(len.div_ceil(PIECE), |partials| {
            let weights = master.par_chunks(PIECE).zip(anchor.par_chunks(PIECE)).zip(fisher.par_chunks(PIECE));
            let pieces = gradients.par_chunks_mut(PIECE).zip(partials.par_iter_mut()).zip(weights);
            pieces.for_each(|((gradients, partial), ((master, anchor), fisher))| {
                side.with_scratch(fisher.len(), |moved| {
                    vectorized(
                        #[inline(always)]
                        || {
                            let weights = master.iter().zip(anchor).zip(fisher);
                            for ((gradient, moved), ((master, anchor), fisher)) in
                                gradients.iter_mut().zip(&mut *moved).zip(weights)
                            {
                                *moved = *master - *anchor;
                                *gradient += factor * *fisher * *moved;
                            }
                            *partial = sum2(fisher, moved, |fisher, moved| fisher * moved * moved);
                        },
                    );
                });
            });
            loss[0] += T::of(strength / 2.0) * sum(partials, |x| x);
        });
    }
}

impl<T: Real> Cpu<T> {
    /// to = f(from, to), element by element.
    fn sweep(&mut self, from: Stats, to: Stats, f: impl Fn(T, T) -> T + Sync) {
        let ([to], [from], _) = self.views([to.into()], [from.first(to.len()).into()]);
        to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(to, from)| {
            vectorized(
                #[inline(always)]
                || to.iter_mut().zip(from).for_each(|(to, from)| *to = f(*from, *to)),
            );
        });
    }
}
