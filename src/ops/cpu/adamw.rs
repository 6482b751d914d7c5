//! AdamW over flat arenas.

use rayon::prelude::*;

use super::vector::{sum, vectorized};
use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::adamw::{AdamW, Clamp, GradientNorm};

/// Elements of one piece of work: its four arrays stay within a second-level cache.
const PIECE: usize = 1 << 14;

impl<T: Real> Run<GradientNorm> for Cpu<T> {
    fn run(&mut self, GradientNorm { gradients, norm }: GradientNorm) {
        let ([norm], [gradients], side) = self.views([norm.first(1).into()], [gradients.into()]);
        side.with_partials(gradients.len().div_ceil(PIECE), |partials| {
            partials.par_iter_mut().zip(gradients.par_chunks(PIECE)).for_each(|(partial, gradients)| {
                vectorized(
                    #[inline(always)]
                    || *partial = sum(gradients, |g| g * g),
                );
            });
            norm[0] = sum(partials, |x| x).sqrt();
        });
    }
}

impl<T: Real> Run<AdamW<'_>> for Cpu<T> {
    fn run(&mut self, AdamW { settings, pace, arenas, norm, decayed }: AdamW<'_>) {
        let ([master, first, second], [gradients, norm, pace], _) = self.views(
            [arenas.master.into(), arenas.first_moment.into(), arenas.second_moment.into()],
            [arenas.gradients.into(), norm.first(1).into(), pace.first(3).into()],
        );
        if !norm[0].as_f64().is_finite() {
            return;
        }
        let [learning_rate, correction1, correction2] = [0, 1, 2].map(|i| pace[i].as_f64());
        let scale = (settings.max_norm / (norm[0].as_f64() + 1e-6)).min(1.0);
        let update = Update {
            scale: T::of(scale),
            decay: T::of(1.0 - learning_rate * settings.weight_decay),
            beta1: T::of(settings.beta1),
            beta2: T::of(settings.beta2),
            rate: T::of(learning_rate / correction1),
            correction: T::of(1.0 / correction2.sqrt()),
            eps: T::of(settings.eps),
        };
        let moments = first.par_chunks_mut(PIECE).zip(second.par_chunks_mut(PIECE));
        let pieces = master.par_chunks_mut(PIECE).zip(moments).zip(gradients.par_chunks(PIECE));
        pieces.enumerate().for_each(|(piece, ((master, (first, second)), gradients))| {
            let start = piece * PIECE;
            let mut done = 0;
            for range in decayed {
                let from = range.start.clamp(start, start + master.len()) - start;
                let to = range.end.clamp(start, start + master.len()) - start;
                for (part, decays) in [(done..from, false), (from..to, true)] {
                    let [p, m, v] = [&mut *master, first, second].map(|values| &mut values[part.clone()]);
                    update.apply(decays, p, &gradients[part.clone()], m, v);
                }
                done = to;
            }
            update.apply(false, &mut master[done..], &gradients[done..], &mut first[done..], &mut second[done..]);
        });
    }
}

impl<T: Real> Run<Clamp> for Cpu<T> {
    fn run(&mut self, Clamp { master, low, high, .. }: Clamp) {
        let ([master], [], _) = self.views([master.into()], []);
        for value in master {
            *value = value.max(T::of_f32(low)).min(T::of_f32(high));
        }
    }
}

/// One step's numbers, the same for every element.
struct Update<T> {
    scale: T,
    decay: T,
    beta1: T,
    beta2: T,
    rate: T,
    correction: T,
    eps: T,
}

impl<T: Real> Update<T> {
    fn apply(&self, decays: bool, p: &mut [T], gradients: &[T], m: &mut [T], v: &mut [T]) {
        vectorized(
            #[inline(always)]
            || {
                let decay = if decays { self.decay } else { T::ONE };
                for (((p, g), m), v) in p.iter_mut().zip(gradients).zip(m).zip(v) {
                    let g = *g * self.scale;
                    *m = *m * self.beta1 + g * (T::ONE - self.beta1);
                    *v = *v * self.beta2 + g * g * (T::ONE - self.beta2);
                    *p = *p * decay - self.rate * *m / (v.sqrt() * self.correction + self.eps);
                }
            },
        );
    }
}
