//! Cases of class weights.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::group_dro::{ClassWeights, GroupDro, GroupDroSettings, GroupDroState, Weighting};
use crate::rng::{below, unit};

/// One update of the class losses, and the weights that follow.
pub(crate) struct GroupDroCase {
    pub samples: usize,
    pub classes: usize,
    pub settings: GroupDroSettings,
    /// Whether there was a batch before.
    pub started: bool,
}

impl Case for GroupDroCase {
    const OP: &'static str = "group_dro";

    fn list(size: Size) -> Vec<GroupDroCase> {
        let shapes: &[(usize, usize)] = match size {
            Size::Tiny => &[(7, 3)],
            Size::Smallest => &[(40, 9)],
            Size::Small => &[(1, 1), (7, 3), (130, 50), (65, 1500)],
            Size::Full => &[(1, 1), (130, 50), (4096, 1000), (65, 20000), (65536, 10)],
        };
        let of_shape = |&(samples, classes): &_| {
            let stochastic = ClassWeights::Stochastic { gamma2: 0.3 };
            [
                (1.0, ClassWeights::Exact, Weighting::Prior, true),
                (0.1, stochastic, Weighting::Prior, true),
                (10.0, stochastic, Weighting::Prior, false),
                (1.0, ClassWeights::Exact, Weighting::Batch, true),
                (0.3, ClassWeights::Exact, Weighting::Sample, true),
                (10.0, ClassWeights::Exact, Weighting::Sample, false),
            ]
            .map(|(lambda, weights, weighting, started)| {
                let settings = GroupDroSettings { lambda, gamma1: 0.9, weights, weighting };
                GroupDroCase { samples, classes, settings, started }
            })
        };
        shapes.iter().flat_map(of_shape).collect()
    }

    fn of_model(_: &ModelSpec, batch: usize) -> Vec<GroupDroCase> {
        let (weights, weighting) = (ClassWeights::Exact, Weighting::Prior);
        let settings = GroupDroSettings { lambda: 1.0, gamma1: 0.9, weights, weighting };
        vec![GroupDroCase { samples: batch, classes: 1000, settings, started: true }]
    }

    fn shape(&self) -> String {
        let weights = match (self.settings.weighting, self.settings.weights) {
            (Weighting::Batch, _) => "by batch",
            (Weighting::Sample, _) => "by sample",
            (Weighting::Prior, ClassWeights::Exact) => "exact",
            (Weighting::Prior, ClassWeights::Stochastic { .. }) => "stochastic",
        };
        let started = if self.started { "" } else { ", first batch" };
        format!("{} of {}, {weights}, lambda {}{started}", self.samples, self.classes, self.settings.lambda)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let GroupDroCase { samples, classes, settings, .. } = *self;
        let class = (0..samples).map(|_| below(operands.generator(), classes as u64) as u32).collect();
        // One anchor in five is without negatives, and then in both directions.
        let empty: Vec<bool> = (0..samples).map(|_| below(operands.generator(), 5) == 0).collect();
        let mut log_u = |name| {
            let values = operands.normal(samples, 5.0).into_iter().zip(&empty);
            let values = values.map(|(u, empty)| if *empty { f32::INFINITY } else { u - 30.0 }).collect();
            operands.stats_of(name, values)
        };
        let log_u = [log_u("log u of images"), log_u("log u of texts")];
        // One class in three was not seen before, or none was.
        let losses = operands.normal(classes, 0.5).into_iter().enumerate();
        let losses = losses.map(|(k, v)| if k % 3 == 2 || !self.started { f32::NAN } else { v - 4.0 }).collect();
        let share = (0..classes).map(|_| (0.5 + unit(operands.generator())) as f32 / classes as f32).collect();
        // Losses are -4.2 or so, all of one sign. A class's mean: 32 lanes, then a tree of 5.
        let mean = Tolerance::f32(samples.div_ceil(32) + 5);
        let largest_loss = 8.0;
        // The sum over the classes: 1024 threads, then two trees of 5; the rest is the rounding of v / lambda, twice.
        let sum = Tolerance::f32(classes.div_ceil(1024) + 10);
        let logit = (2.0 * mean.of_largest + 4.0 * sum.relative) * largest_loss / settings.lambda;
        let p = Tolerance { relative: 2.0 * logit + sum.of_largest, of_largest: 0.0, at_least: 0.0 };
        let log_sum = logit + sum.of_largest + 8.0 * sum.relative;
        let log_sum = Tolerance { relative: log_sum, of_largest: 0.0, at_least: 0.0 };
        let log_normalizer = if self.started { -4.0 / settings.lambda as f32 } else { f32::NAN };
        let state = GroupDroState {
            class_loss: operands.updated_stats("class_loss", losses, mean),
            log_normalizer: operands.updated_stats("log_normalizer", vec![log_normalizer], log_sum),
            share: operands.stats_of("share", share),
            class_weight: operands.output_stats("class_weight", classes, p),
        };
        in_order![GroupDro {
            samples,
            settings,
            class: operands.ids(class),
            log_u,
            log_scale: operands.stats_of("log_scale", vec![-(0.07f32.ln())]),
            state,
            weight: operands.output_stats("weight", samples, p),
            objective: operands.output_stats("objective", 1, log_sum),
        }]
    }
}
