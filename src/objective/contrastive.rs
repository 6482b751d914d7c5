//! clip, gcl and gdro on a device: one computation with its state.

use super::{ObjectiveSettings, TextLoss};
use crate::model::clip::{Capacity, Clip};
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape,
    MovingAverages, Negatives, Surrogate,
};
use crate::ops::group_dro::{ClassWeights, GroupDro, GroupDroSettings, GroupDroState};
use crate::ops::{Device, Ids, Plan, Stats};

/// Which sample, prompt and class is which in a batch of distinct prompts.
#[derive(Clone, Copy, Debug)]
pub struct BatchIndex<'a> {
    /// The prompt of each sample `[samples]`.
    pub text_of: &'a [u32],
    /// The class of each prompt `[texts]`.
    pub class_of_text: &'a [u32],
    /// Where each sample's moving averages lie `[samples]`: its place in the data set.
    pub slot: &'a [u32],
}

/// An objective with all its memory. State is kept across steps: that is how earlier tasks carry forward.
pub struct ContrastiveObjective {
    kind: TextLoss,
    settings: ObjectiveSettings,
    negatives: Negatives,
    text_of: Ids,
    class_of_text: Ids,
    class: Ids,
    /// ln(1/tau) `[1]`: the model's, or a constant.
    log_scale: Stats,
    averages: Option<MovingAverages>,
    saved: ContrastiveSaved,
    group_dro: Option<GroupDroState>,
    /// a_i `[samples]`.
    weight: Stats,
    loss: Stats,
    dlog_scale: Stats,
    /// gdro's objective (6) `[1]`.
    dro_objective: Stats,
}

/// Moving averages on the host, as a checkpoint holds them: what has not been seen is NaN.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectiveState {
    /// log u1 and log u2, `[data set]` each; empty for clip.
    pub log_u: [Vec<f32>; 2],
    /// v `[classes]`; empty where classes have no weights.
    pub class_loss: Vec<f32>,
    /// log s `[1]`; likewise.
    pub log_normalizer: Vec<f32>,
    /// p `[classes]`; likewise.
    pub class_weight: Vec<f32>,
}

impl ContrastiveObjective {
    /// Plans an objective for batches of `capacity`, a data set of `samples` samples and `classes` classes. `by_class` says
    /// that there are class prompts among the texts, so that a second sample of a class is no negative.
    #[allow(clippy::too_many_arguments)]
    pub fn plan(
        plan: &mut Plan,
        kind: TextLoss,
        settings: &ObjectiveSettings,
        clip: &Clip,
        capacity: Capacity,
        samples: usize,
        classes: usize,
        by_class: bool,
    ) -> ContrastiveObjective {
        plan.section("objective", |plan| {
            let n = capacity.images;
            let mut pair = |len: usize| [plan.stats(len), plan.stats(len)];
            let (log_u, slope, height) = (pair(n), pair(n), pair(n));
            let averages = kind.keeps_averages().then(|| pair(samples));
            let fixed = kind.keeps_averages() && settings.tau > 0.0;
            ContrastiveObjective {
                kind,
                settings: settings.clone(),
                negatives: match (kind.keeps_averages(), by_class) {
                    (false, _) => Negatives::All,
                    (true, true) => Negatives::OtherClasses,
                    (true, false) => Negatives::Others,
                },
                text_of: plan.ids(n),
                class_of_text: plan.ids(capacity.texts),
                class: plan.ids(n),
                log_scale: if fixed { plan.stats(1) } else { clip.logit_scale_master },
                averages: averages.map(|log_u| MovingAverages { log_u, slot: plan.ids(n), gamma: plan.stats(1) }),
                saved: ContrastiveSaved { positive: plan.stats(n), log_u, slope, height },
                group_dro: (kind == TextLoss::Gdro && settings.class_weights).then(|| GroupDroState {
                    class_loss: plan.stats(classes),
                    log_normalizer: plan.stats(1),
                    share: plan.stats(classes),
                    class_weight: plan.stats(classes),
                }),
                weight: plan.stats(n),
                loss: plan.stats(1),
                // With a constant temperature its derivative goes nowhere.
                dlog_scale: if fixed { plan.stats(1) } else { clip.logit_scale_gradient },
                dro_objective: plan.stats(1),
            }
        })
    }

    /// Starts with nothing seen. Before the first step, once.
    pub fn reset<D: Device>(&self, device: &mut D) {
        if self.kind.keeps_averages() && self.settings.tau > 0.0 {
            device.fill(self.log_scale, -(self.settings.tau.ln()) as f32);
        }
        for log_u in self.averages.iter().flat_map(|averages| averages.log_u) {
            device.fill(log_u, f32::NAN);
        }
        if let Some(state) = self.group_dro {
            device.fill(state.class_loss, f32::NAN);
            device.fill(state.log_normalizer, f32::NAN);
            device.fill(state.class_weight, 0.0);
        }
    }

    /// pi: each class's fraction of the pool that the coming step samples from, 0 for absent classes.
    pub fn set_shares<D: Device>(&self, device: &mut D, shares: &[f32]) {
        if let Some(state) = self.group_dro {
            device.write(state.share, shares);
        }
    }

    /// Sends what [`ContrastiveObjective::forward_backward`] reads of a batch beside embeddings. `gamma` is its weight in the
    /// moving averages.
    pub fn load<D: Device>(&self, device: &mut D, batch: BatchIndex, gamma: f64) {
        device.write(self.text_of, batch.text_of);
        device.write(self.class_of_text, batch.class_of_text);
        if let Some(averages) = self.averages {
            device.write(averages.slot, batch.slot);
            device.write(averages.gamma, &[gamma as f32]);
        }
        if self.group_dro.is_some() {
            let class: Vec<u32> = batch.text_of.iter().map(|text| batch.class_of_text[*text as usize]).collect();
            device.write(self.class, &class);
        }
    }

    /// Loss and gradients of the loaded batch: from both towers' embeddings to the gradients where the towers' backward passes
    /// read them, the logit scale's included.
    pub fn forward_backward<D: Device>(&self, device: &mut D, clip: &Clip, samples: usize, texts: usize) {
        let shape = ContrastiveShape { samples, texts, width: clip.spec.embed_dim };
        let settings = ContrastiveSettings {
            surrogate: match self.kind {
                TextLoss::Gdro if self.settings.hinge => Surrogate::SquaredHinge { margin: self.settings.margin },
                _ => Surrogate::Linear,
            },
            negatives: self.negatives,
            times_tau: self.kind.keeps_averages(),
        };
        let inputs = ContrastiveInputs {
            image: clip.vision.embeddings(),
            text: clip.text.embeddings(),
            text_of: self.text_of,
            class_of_text: self.class_of_text,
            log_scale: self.log_scale,
        };
        device.run(Contrastive { shape, settings, inputs, averages: self.averages, saved: self.saved });
        match (self.kind.keeps_averages(), self.group_dro) {
            (_, Some(state)) => {
                let weights = match self.settings.gamma2 {
                    gamma2 if gamma2 > 0.0 => ClassWeights::Stochastic { gamma2 },
                    _ => ClassWeights::Exact,
                };
                let dro = GroupDroSettings { lambda: self.settings.lambda, gamma1: self.settings.gamma1, weights };
                device.run(GroupDro {
                    samples,
                    settings: dro,
                    class: self.class,
                    log_u: self.saved.log_u,
                    log_scale: self.log_scale,
                    state,
                    weight: self.weight,
                    objective: self.dro_objective,
                });
            }
            // InfoNCE averages its two halves.
            (false, None) => device.fill(self.weight.first(samples), 0.5 / samples as f32),
            (true, None) => device.fill(self.weight.first(samples), 1.0 / samples as f32),
        }
        device.run(ContrastiveBackward {
            shape,
            settings,
            inputs,
            saved: self.saved,
            weight: self.weight,
            dimage: clip.vision.embeddings_gradient(),
            dtext: clip.text.embeddings_gradient(),
            loss: self.loss,
            dlog_scale: self.dlog_scale,
        });
    }

    /// The loss of the last batch.
    pub fn loss<D: Device>(&self, device: &D) -> f32 {
        device.read_vec(self.loss)[0]
    }

    /// p, gdro's class weights `[classes]`, for the log; none for the others.
    pub fn class_weights<D: Device>(&self, device: &D) -> Option<Vec<f32>> {
        self.group_dro.map(|state| device.read_vec(state.class_weight))
    }

    /// Samples that left the memory give up their moving averages.
    pub fn release<D: Device>(&self, device: &mut D, samples: &[u32]) {
        for log_u in self.averages.iter().flat_map(|averages| averages.log_u) {
            for sample in samples {
                device.fill(log_u.slice(*sample as usize, 1), f32::NAN);
            }
        }
    }

    pub fn state<D: Device>(&self, device: &D) -> ObjectiveState {
        let dro = |span: fn(GroupDroState) -> Stats| {
            self.group_dro.map(|state| device.read_vec(span(state))).unwrap_or_default()
        };
        let log_u = |side: usize| self.averages.map(|a| device.read_vec(a.log_u[side])).unwrap_or_default();
        ObjectiveState {
            log_u: [log_u(0), log_u(1)],
            class_loss: dro(|state| state.class_loss),
            log_normalizer: dro(|state| state.log_normalizer),
            class_weight: dro(|state| state.class_weight),
        }
    }

    /// Puts a saved state back. It must come from an objective planned alike.
    pub fn restore<D: Device>(&self, device: &mut D, state: &ObjectiveState) {
        if let Some(averages) = self.averages {
            device.write(averages.log_u[0], &state.log_u[0]);
            device.write(averages.log_u[1], &state.log_u[1]);
        }
        if let Some(dro) = self.group_dro {
            device.write(dro.class_loss, &state.class_loss);
            device.write(dro.log_normalizer, &state.log_normalizer);
            device.write(dro.class_weight, &state.class_weight);
        }
    }
}
