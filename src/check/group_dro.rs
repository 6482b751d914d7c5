use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::group_dro::{ClassWeights, GroupDroSettings, GroupDroState};
use crate::ops::{Backend, Ids, Stats};
use crate::rng::{below, unit};

/// One update of the class losses, and the weights that follow.
struct GroupDro {
    samples: usize,
    classes: usize,
    settings: GroupDroSettings,
    /// Whether there was a batch before.
    started: bool,
}

struct Spans {
    class: Ids,
    log_u: [Stats; 2],
    log_scale: Stats,
    state: GroupDroState,
    weight: Stats,
    objective: Stats,
}

impl Case for GroupDro {
    const OP: &'static str = "group_dro";
    type Spans = Spans;

    fn shape(&self) -> String {
        let weights = match self.settings.weights {
            ClassWeights::Exact => "exact",
            ClassWeights::Stochastic { .. } => "stochastic",
        };
        let started = if self.started { "" } else { ", first batch" };
        format!("{} of {}, {weights}, lambda {}{started}", self.samples, self.classes, self.settings.lambda)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let (samples, classes) = (self.samples, self.classes);
        let class = (0..samples).map(|_| below(operands.generator(), classes as u64) as u32).collect();
        // One anchor in five is without negatives, and then in both directions.
        let empty: Vec<bool> = (0..samples).map(|_| below(operands.generator(), 5) == 0).collect();
        let mut log_u = || {
            let values = operands.normal(samples, 5.0).into_iter().zip(&empty);
            let values = values.map(|(u, empty)| if *empty { f32::INFINITY } else { u - 30.0 }).collect();
            operands.stats_of(values)
        };
        let log_u = [log_u(), log_u()];
        // One class in three was not seen before, or none was.
        let losses = operands.normal(classes, 0.5).into_iter().enumerate();
        let losses = losses.map(|(k, v)| if k % 3 == 2 || !self.started { f32::NAN } else { v - 4.0 }).collect();
        let share = (0..classes).map(|_| (0.5 + unit(operands.generator())) as f32 / classes as f32).collect();
        // Losses are -4.2 or so, all of one sign. A class's mean: 32 lanes, then a tree of 5.
        let mean = Tolerance::f32(samples.div_ceil(32) + 5);
        let largest_loss = 8.0;
        // The sum over the classes: 1024 threads, then two trees of 5; the rest is the rounding of v / lambda, twice.
        let sum = Tolerance::f32(classes.div_ceil(1024) + 10);
        let logit = (2.0 * mean.of_largest + 4.0 * sum.relative) * largest_loss / self.settings.lambda;
        let p = Tolerance { relative: 2.0 * logit + sum.of_largest, of_largest: 0.0, at_least: 0.0 };
        let log_sum = logit + sum.of_largest + 8.0 * sum.relative;
        Spans {
            class: operands.ids(class),
            log_u,
            log_scale: operands.stats_of(vec![-(0.07f32.ln())]),
            state: GroupDroState {
                class_loss: operands.updated_stats("class_loss", losses, mean),
                log_normalizer: operands.updated_stats(
                    "log_normalizer",
                    vec![if self.started { -4.0 / self.settings.lambda as f32 } else { f32::NAN }],
                    Tolerance { relative: log_sum, of_largest: 0.0, at_least: 0.0 },
                ),
                share: operands.stats_of(share),
                class_weight: operands.output_stats("class_weight", classes, p),
            },
            weight: operands.output_stats("weight", samples, p),
            objective: operands.output_stats(
                "objective",
                1,
                Tolerance { relative: log_sum, of_largest: 0.0, at_least: 0.0 },
            ),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::group_dro::GroupDro {
            samples: self.samples,
            settings: self.settings,
            class: s.class,
            log_u: s.log_u,
            log_scale: s.log_scale,
            state: s.state,
            weight: s.weight,
            objective: s.objective,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let shapes: &[(usize, usize)] = match checker.size {
        Size::Smallest => &[(40, 9)],
        Size::Small => &[(1, 1), (7, 3), (130, 50), (65, 1500)],
        Size::Full => &[(1, 1), (130, 50), (4096, 1000), (65, 20000), (65536, 10)],
    };
    for &(samples, classes) in shapes {
        for (lambda, weights, started) in [
            (1.0, ClassWeights::Exact, true),
            (0.1, ClassWeights::Stochastic { gamma2: 0.3 }, true),
            (10.0, ClassWeights::Stochastic { gamma2: 0.3 }, false),
        ] {
            let settings = GroupDroSettings { lambda, gamma1: 0.9, weights };
            checker.case(&GroupDro { samples, classes, settings, started });
        }
    }
}
