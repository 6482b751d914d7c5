//! gcl's averages under a squared hinge, classes weighed by group DRO (docs/methods.md, section 2, equations (5)-(6), our reading).

use super::clip::TEXTS;
use super::contrast::Contrast;
use super::gcl::AverageSettings;
use super::settings::Choice;
use super::trial::{SCALE, Trial};
use super::{Entry, Keeps, Method, Row, Sees};
use crate::error::{Error, Result};
use crate::method_settings;
use crate::ops::contrastive::Surrogate;
use crate::ops::group_dro::{ClassWeights, GroupDro, GroupDroSettings, GroupDroState, Weighting};
use crate::ops::{Device, Ids, Plan, Stats};
use crate::train::{Loaded, Models, Objective, Path, Planned, Recipe, Stage, StageView, TrainBatch, key_of};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[GdroSettings::GROUP],
    // All pairs on the hinge, whose derivative 2 (m + x) is off by as large a share of itself as x is near -m; and a temperature at which
    // its weights exp(h / tau), by 2 (m + x) / tau as large a share, are off by a few per cent.
    trial_settings: &[("margin", 1.0), ("tau", 0.3)],
    ..Entry::new(
        Row {
            name: "gdro",
            summary: "gcl under a squared hinge, with class weights by group DRO",
            sees: Sees::StepAndMemory(Keeps::Random),
            ..TEXTS
        },
        |row, chosen| {
            let (averages, settings) = (AverageSettings::of(chosen.objective), GdroSettings::of(chosen.objective));
            Box::new(Gdro { row, averages, settings })
        },
    )
};

method_settings! {
    GdroSettings in "" {
        /// m of gdro's squared hinge
        margin: f64 = 0.1, 0.0..=10.0;
        /// of gdro: large weighs all classes alike, small the worst alone
        lambda: f64 = 1.0, 1e-9..=1e9;
        /// weight of a batch in gdro's class losses v
        gamma1: f64 = 0.9, 1e-6..=1.0;
        /// false: gdro with gcl's linear difference, for ablations
        hinge: bool = true;
        /// false: gdro with every sample alike, for ablations
        class_weights: bool = true;
        /// how gdro comes from classes to samples: "prior", "batch" or "sample" (docs/methods.md, section 2)
        weighting: Weighting = "prior";
        /// above 0 gdro's stochastic form, with this weight of a batch in its normaliser s; 0 for exact class weights
        gamma2: f64 = 0.0, 0.0..=1.0;
    }
}

impl Choice for Weighting {
    const WORDS: &'static [&'static str] = &["prior", "batch", "sample"];
    const VALUES: &'static [Weighting] = &[Weighting::Prior, Weighting::Batch, Weighting::Sample];
}

struct Gdro {
    row: Row,
    averages: AverageSettings,
    settings: GdroSettings,
}

impl Recipe for Gdro {
    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let surrogate = match self.settings.hinge {
            true => Surrogate::SquaredHinge { margin: self.settings.margin },
            false => Surrogate::Linear,
        };
        let classes = planned.spec.classes;
        Box::new(Weighed {
            contrast: Contrast::plan_averaging(plan, planned, self.averages.with(surrogate)),
            averages: self.averages.clone(),
            settings: self.settings.clone(),
            gamma: 1.0,
            class: plan.ids(planned.spec.capacity.images),
            state: self.settings.class_weights.then(|| GroupDroState {
                class_loss: plan.stats(classes),
                log_normalizer: plan.stats(1),
                share: plan.stats(classes),
                class_weight: plan.stats(classes),
            }),
            objective: plan.stats(1),
        })
    }
}

impl Method for Gdro {
    fn row(&self) -> &Row {
        &self.row
    }

    fn check(&self) -> Result<()> {
        let GdroSettings { gamma2, weighting, .. } = self.settings;
        if gamma2 > 0.0 && weighting != Weighting::Prior {
            return Err(Error::input(format!(
                "objective.gamma2 is {gamma2}, a normaliser over all classes that objective.weighting = \"prior\" alone has; set it to 0"
            )));
        }
        Ok(())
    }

    fn trials(&self) -> Vec<Trial> {
        vec![Trial::of_similarities(Stage::Main, 0.0, SCALE)]
    }
}

/// The objective.
struct Weighed {
    contrast: Contrast,
    averages: AverageSettings,
    settings: GdroSettings,
    /// Of the loaded batch.
    gamma: f64,
    class: Ids,
    /// v, s, pi and p; none where classes are not weighed.
    state: Option<GroupDroState>,
    /// (6) `[1]`.
    objective: Stats,
}

impl Objective for Weighed {
    fn reset(&mut self, device: &mut dyn Device) {
        self.contrast.reset(device);
        if let Some(state) = self.state {
            device.fill(state.class_loss, f32::NAN);
            device.fill(state.log_normalizer, f32::NAN);
            device.fill(state.class_weight, 0.0);
        }
    }

    /// pi are the classes' fractions of the pool that the stage samples from.
    fn enter(&mut self, device: &mut dyn Device, _: Models, view: &StageView) {
        if let Some(state) = self.state {
            device.write(state.share, view.shares);
        }
    }

    fn path(&self) -> Path {
        Path::ImagesAndTexts
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        self.gamma = self.averages.gamma_at(batch.epoch, batch.epochs);
        self.contrast.load(device, batch, self.gamma);
        let texts = batch.texts.expect("the objective reads texts");
        let class: Vec<u32> = texts.text_of.iter().map(|text| texts.class_of_text[*text as usize].0).collect();
        device.write(self.class, &class);
    }

    fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
        self.contrast.forward(device, models.clip, loaded);
        match self.state {
            None => self.contrast.weigh_alike(device, 1.0, loaded),
            Some(state) => {
                let GdroSettings { lambda, gamma1, gamma2, weighting, .. } = self.settings;
                let weights = if gamma2 > 0.0 { ClassWeights::Stochastic { gamma2 } } else { ClassWeights::Exact };
                device.run(GroupDro {
                    samples: loaded.images,
                    settings: GroupDroSettings { lambda, gamma1, weights, weighting },
                    class: self.class,
                    log_u: self.contrast.saved.log_u,
                    log_scale: self.contrast.log_scale(),
                    state,
                    weight: self.contrast.weight,
                    objective: self.objective,
                });
            }
        }
        self.contrast.backward(device, models.clip, loaded);
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.contrast.loss(device)
    }

    fn key(&self) -> u64 {
        key_of(())
    }

    fn persistent(&self) -> Vec<(&'static str, Stats)> {
        let mut spans = self.contrast.persistent();
        if let Some(state) = self.state {
            spans.push(("class_loss", state.class_loss));
            spans.push(("log_normalizer", state.log_normalizer));
            spans.push(("class_weight", state.class_weight));
        }
        spans
    }

    fn release(&self, device: &mut dyn Device, samples: &[u32]) {
        self.contrast.release(device, samples);
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        vec![("gamma", self.gamma)]
    }

    /// p.
    fn class_figures(&self, device: &dyn Device) -> Option<(&'static str, Vec<f32>)> {
        self.state.map(|state| ("class_weights", device.read_vec(state.class_weight)))
    }
}
