//! Class weights by group DRO. Sizes are small: one thread, f64 throughout.

use super::{Cpu, Real};
use crate::ops::Run;
use crate::ops::group_dro::{ClassWeights, GroupDro, Weighting};

impl<T: Real> Run<GroupDro> for Cpu<T> {
    fn run(&mut self, GroupDro { samples, settings, class, log_u, log_scale, state, weight, objective }: GroupDro) {
        let classes = state.class_loss.len();
        let ([class_loss, normalizer, class_weight, weight, objective], [share, log_u1, log_u2, log_scale], side) =
            self.views(
                [
                    state.class_loss.into(),
                    state.log_normalizer.into(),
                    state.class_weight.into(),
                    weight.first(samples).into(),
                    objective.into(),
                ],
                [
                    state.share.into(),
                    log_u[0].first(samples).into(),
                    log_u[1].first(samples).into(),
                    log_scale.first(1).into(),
                ],
            );
        let class = side.ids(class.first(samples));
        let tau = (-log_scale[0].as_f64()).exp();
        // Sums and counts of this batch's losses by class.
        side.with_partials(2 * classes, |partials| {
            let (sums, counts) = partials.split_at_mut(classes);
            sums.fill(T::ZERO);
            counts.fill(T::ZERO);
            for sample in 0..samples {
                let loss = (log_u1[sample].as_f64() + log_u2[sample].as_f64()) * tau;
                if loss.is_finite() {
                    sums[class[sample] as usize] += T::of(loss);
                    counts[class[sample] as usize] += T::ONE;
                }
            }
            for class in 0..classes {
                if counts[class] > T::ZERO {
                    let mean = sums[class] / counts[class];
                    let gamma = T::of(settings.gamma1);
                    let old = class_loss[class];
                    class_loss[class] = if old.is_nan() { mean } else { (T::ONE - gamma) * old + gamma * mean };
                }
            }
            let logit = |class: usize| class_loss[class].as_f64() / settings.lambda;
            let seen = || (0..classes).filter(|&class| !class_loss[class].is_nan());
            let seen_count = seen().count().max(1) as f64;
            let by_share = settings.weighting == Weighting::Sample;
            let log_share = |class: usize| if by_share { share[class].as_f64().ln() } else { 0.0 };
            let log_total = log_sum_exp(seen().map(|class| log_share(class) + logit(class)));
            let log_divisor = match settings.weights {
                ClassWeights::Exact => log_total,
                ClassWeights::Stochastic { gamma2 } => {
                    let in_batch = || seen().filter(|&class| counts[class] > T::ZERO);
                    let present = in_batch().count() as f64;
                    if present > 0.0 {
                        let log_mean = log_sum_exp(in_batch().map(logit)) - present.ln();
                        let old = normalizer[0].as_f64();
                        let parts = [(1.0 - gamma2).ln() + old, gamma2.ln() + log_mean];
                        normalizer[0] = T::of(if old.is_nan() { log_mean } else { log_sum_exp(parts.into_iter()) });
                    }
                    normalizer[0].as_f64() + seen_count.ln()
                }
            };
            for class in 0..classes {
                let known = !class_loss[class].is_nan();
                let log_weight = log_share(class) + logit(class) - log_divisor;
                class_weight[class] = T::of(if known { log_weight.exp() } else { 0.0 });
            }
            objective[0] = T::of(settings.lambda * (log_total - if by_share { 0.0 } else { seen_count.ln() }));
            if settings.weighting == Weighting::Prior {
                for (weight, class) in weight.iter_mut().zip(class) {
                    let class = *class as usize;
                    *weight = class_weight[class] / (T::of(samples as f64) * share[class]);
                }
                return;
            }
            let log_weight = |sample: usize| {
                let class = class[sample] as usize;
                let counted = (log_u1[sample].as_f64() + log_u2[sample].as_f64()).is_finite();
                let of_class = if by_share { 1.0 } else { counts[class].as_f64() };
                if counted { logit(class) - of_class.ln() } else { f64::NEG_INFINITY }
            };
            let log_sum = log_sum_exp((0..samples).map(log_weight));
            for (sample, weight) in weight.iter_mut().enumerate() {
                let log_weight = log_weight(sample);
                *weight = T::of(if log_weight.is_finite() { (log_weight - log_sum).exp() } else { 0.0 });
            }
        });
    }
}

/// log of the sum of exponentials; -infinity for none.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + values.map(|value| (value - largest).exp()).sum::<f64>().ln()
}
