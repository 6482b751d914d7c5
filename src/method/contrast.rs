//! The contrast of images with their texts: what clip, gcl and gdro compute alike (docs/methods.md, section 1).

use crate::data::Label;
use crate::model::clip::Clip;
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape,
    MovingAverages, Negatives, Surrogate,
};
use crate::ops::{Device, Ids, Plan, Stats};
use crate::train::{Loaded, Planned, TrainBatch};

/// One contrast with its memory.
pub(crate) struct Contrast {
    settings: ContrastiveSettings,
    text_of: Ids,
    class_of_text: Ids,
    /// ln(1/tau) `[1]`: the model's, or a constant.
    log_scale: Stats,
    tau: Option<f64>,
    averages: Option<MovingAverages>,
    pub saved: ContrastiveSaved,
    /// a_i `[samples]`: what each sample's term weighs.
    pub weight: Stats,
    loss: Stats,
    dlog_scale: Stats,
}

/// Moving averages u of every sample's terms, in place of a batch's own sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Averages {
    /// A fixed temperature; none takes the model's own.
    pub tau: Option<f64>,
    pub surrogate: Surrogate,
}

impl Contrast {
    /// InfoNCE, equal to open_clip's ClipLoss.
    pub(crate) fn plan(plan: &mut Plan, planned: &Planned) -> Contrast {
        Contrast::plan_with(plan, planned, None)
    }

    /// Global contrastive learning: with moving averages over the data set. Where class prompts are among the texts, a second sample of a
    /// class is no negative.
    pub(crate) fn plan_averaging(plan: &mut Plan, planned: &Planned, averages: Averages) -> Contrast {
        Contrast::plan_with(plan, planned, Some(averages))
    }

    fn plan_with(plan: &mut Plan, Planned { spec, clip, .. }: &Planned, averages: Option<Averages>) -> Contrast {
        let n = spec.capacity.images;
        let mut pair = |len: usize| [plan.stats(len), plan.stats(len)];
        let (log_u, slope, height) = (pair(n), pair(n), pair(n));
        let kept = averages.map(|_| pair(spec.samples));
        let tau = averages.and_then(|averages| averages.tau);
        Contrast {
            settings: ContrastiveSettings {
                surrogate: averages.map_or(Surrogate::Linear, |averages| averages.surrogate),
                negatives: match (averages, spec.by_class) {
                    (None, _) => Negatives::All,
                    (Some(_), true) => Negatives::OtherClasses,
                    (Some(_), false) => Negatives::Others,
                },
                times_tau: averages.is_some(),
            },
            text_of: plan.ids(n),
            class_of_text: plan.ids(spec.capacity.texts),
            log_scale: if tau.is_some() { plan.stats(1) } else { clip.logit_scale_master },
            tau,
            averages: kept.map(|log_u| MovingAverages { log_u, slot: plan.ids(n), gamma: plan.stats(1) }),
            saved: ContrastiveSaved { positive: plan.stats(n), log_u, slope, height },
            weight: plan.stats(n),
            loss: plan.stats(1),
            // With a constant temperature its derivative goes nowhere.
            dlog_scale: if tau.is_some() { plan.stats(1) } else { clip.logit_scale_gradient },
        }
    }

    /// Starts with nothing seen. Before the first step, once.
    pub(crate) fn reset(&self, device: &mut dyn Device) {
        if let Some(tau) = self.tau {
            device.fill(self.log_scale, -(tau.ln()) as f32);
        }
        for log_u in self.averages.iter().flat_map(|averages| averages.log_u) {
            device.fill(log_u, f32::NAN);
        }
    }

    /// Sends a batch. `gamma` is its weight in the moving averages.
    pub(crate) fn load(&self, device: &mut dyn Device, batch: &TrainBatch, gamma: f64) {
        let texts = batch.texts.expect("the objective reads texts");
        device.write(self.text_of, &texts.text_of);
        device.write(self.class_of_text, Label::numbers(&texts.class_of_text));
        if let Some(averages) = self.averages {
            device.write(averages.slot, batch.slot);
            device.write(averages.gamma, &[gamma as f32]);
        }
    }

    fn shape(&self, clip: &Clip, loaded: Loaded) -> ContrastiveShape {
        ContrastiveShape { samples: loaded.images, texts: loaded.texts.texts, width: clip.spec.embed_dim }
    }

    fn inputs(&self, clip: &Clip) -> ContrastiveInputs {
        ContrastiveInputs {
            image: clip.vision.embeddings(),
            text: clip.text.embeddings(),
            text_of: self.text_of,
            class_of_text: self.class_of_text,
            log_scale: self.log_scale,
        }
    }

    /// From both towers' embeddings to each sample's terms in [`Contrast::saved`].
    pub(crate) fn forward(&self, device: &mut dyn Device, clip: &Clip, loaded: Loaded) {
        let Contrast { settings, averages, saved, .. } = *self;
        device.run(Contrastive {
            shape: self.shape(clip, loaded),
            settings,
            inputs: self.inputs(clip),
            averages,
            saved,
        });
    }

    /// Every sample weighs `weight` over their number.
    pub(crate) fn weigh_alike(&self, device: &mut dyn Device, weight: f32, loaded: Loaded) {
        device.fill(self.weight.first(loaded.images), weight / loaded.images as f32);
    }

    /// Loss and gradients by [`Contrast::weight`], where the towers' backward passes read them, the logit scale's included.
    pub(crate) fn backward(&self, device: &mut dyn Device, clip: &Clip, loaded: Loaded) {
        device.run(ContrastiveBackward {
            shape: self.shape(clip, loaded),
            settings: self.settings,
            inputs: self.inputs(clip),
            saved: self.saved,
            weight: self.weight,
            dimage: clip.vision.embeddings_gradient(),
            dtext: clip.text.embeddings_gradient(),
            loss: self.loss,
            dlog_scale: self.dlog_scale,
        });
    }

    pub(crate) fn log_scale(&self) -> Stats {
        self.log_scale
    }

    pub(crate) fn loss(&self, device: &dyn Device) -> f32 {
        device.read_vec(self.loss)[0]
    }

    /// Samples that left the memory give up their moving averages.
    pub(crate) fn release(&self, device: &mut dyn Device, samples: &[u32]) {
        for log_u in self.averages.iter().flat_map(|averages| averages.log_u) {
            for sample in samples {
                device.fill(log_u.slice(*sample as usize, 1), f32::NAN);
            }
        }
    }

    /// log u1 and log u2 `[data set]` each, where they are kept: what has not been seen is NaN.
    pub(crate) fn persistent(&self) -> Vec<(&'static str, Stats)> {
        self.averages.map_or(Vec::new(), |averages| vec![("log_u1", averages.log_u[0]), ("log_u2", averages.log_u[1])])
    }
}
