//! The supervised contrastive loss, a row of similarities at a time.

use rayon::prelude::*;

use super::vector::{log_softmax, sum, vectorized};
use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::supcon::SupCon;

impl<T: Real> Run<SupCon> for Cpu<T> {
    fn run(&mut self, SupCon { samples, tau, s, class, anchor, loss, ds }: SupCon) {
        let ([loss, ds], [s], side) =
            self.views([loss.first(1).into(), ds.first(samples * samples).into()], [s.first(samples * samples).into()]);
        let class = side.ids(class.first(samples));
        let anchor = anchor.map(|anchor| side.ids(anchor.first(samples)));
        let inverse_tau = T::of(1.0 / tau);
        side.with_partials(2 * samples, |partials| {
            // |P_i|, 0 for samples that are no anchors; and each anchor's loss.
            let (positives, losses) = partials.split_at_mut(samples);
            positives.par_iter_mut().enumerate().for_each(|(i, positives)| {
                let is_anchor = anchor.is_none_or(|anchor| anchor[i] != 0);
                let of_class = || class.iter().filter(|other| **other == class[i]).count();
                *positives = if is_anchor { T::of((of_class() - 1) as f64) } else { T::ZERO };
            });
            let positives = &*positives;
            let anchors = sum(positives, |positives| positives.min(T::ONE)).max(T::ONE);
            let pieces = ds.par_chunks_mut(samples).zip(s.par_chunks(samples)).zip(losses.par_iter_mut());
            pieces.enumerate().for_each(|(i, ((ds, s), loss))| {
                if positives[i] == T::ZERO {
                    ds.fill(T::ZERO);
                    *loss = T::ZERO;
                    return;
                }
                let share = T::ONE / positives[i];
                let scale = inverse_tau / anchors;
                vectorized(
                    #[inline(always)]
                    || {
                        ds.copy_from_slice(s);
                        ds[i] = T::NEG_INFINITY;
                        log_softmax(ds, &[], inverse_tau);
                        let is_positive = |other: usize| class[other] == class[i] && other != i;
                        let mut log_likelihood = T::ZERO;
                        for other in (0..samples).filter(|other| is_positive(*other)) {
                            log_likelihood += ds[other];
                        }
                        for (other, ds) in ds.iter_mut().enumerate() {
                            *ds = (ds.exp() - if is_positive(other) { share } else { T::ZERO }) * scale;
                        }
                        *loss = -log_likelihood * share;
                    },
                );
            });
            loss[0] = sum(losses, |loss| loss) / anchors;
        });
    }
}
