//! Global contrastive learning with moving averages over the step's data and a replay memory (SogCLR, arXiv 2202.12387; docs/methods.md,
//! section 1, equations (1)-(4)).

use super::clip::TEXTS;
use super::contrast::{Averages, Contrast};
use super::trial::{SCALE, Trial};
use super::{Entry, Keeps, Method, Row, Sees};
use crate::method_settings;
use crate::ops::contrastive::Surrogate;
use crate::ops::{Device, Plan, Stats};
use crate::train::{Loaded, Models, Objective, Path, Planned, Recipe, Stage, StageView, TrainBatch, key_of};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[AverageSettings::GROUP],
    ..Entry::new(
        Row {
            name: "gcl",
            summary: "global contrastive learning: moving averages over the step's data and a replay memory",
            sees: Sees::StepAndMemory(Keeps::Random),
            ..TEXTS
        },
        |row, chosen| Box::new(Gcl { row, settings: AverageSettings::of(chosen.objective) }),
    )
};

method_settings! {
    /// Of the moving averages, gdro's too.
    pub(crate) AverageSettings in "" {
        /// fixed temperature of gcl and gdro; 0 for the model's logit scale
        tau: f64 = 0.07, 0.0..=100.0;
        /// weight of a batch in gcl's and gdro's moving averages u, at the start of a step
        gamma: f64 = 0.9, 1e-6..=1.0;
        /// what it falls to by a cosine over the first half of the epochs; the same as `gamma` keeps it constant
        gamma_min: f64 = 0.2, 1e-6..=1.0;
    }
}

impl AverageSettings {
    /// gamma in epoch `epoch` of `epochs` (docs/methods.md, section 1): a cosine per epoch from `gamma` to `gamma_min` over the
    /// first half of the epochs, constant after it.
    pub(crate) fn gamma_at(&self, epoch: usize, epochs: usize) -> f64 {
        let decay = epochs as f64 / 2.0;
        if epoch as f64 >= decay {
            return if epochs <= 1 { self.gamma } else { self.gamma_min };
        }
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * epoch as f64 / decay).cos());
        cosine * (self.gamma - self.gamma_min) + self.gamma_min
    }

    /// What [`Contrast::plan_averaging`] asks for.
    pub(crate) fn with(&self, surrogate: Surrogate) -> Averages {
        Averages { tau: (self.tau > 0.0).then_some(self.tau), surrogate }
    }
}

struct Gcl {
    row: Row,
    settings: AverageSettings,
}

impl Recipe for Gcl {
    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let contrast = Contrast::plan_averaging(plan, planned, self.settings.with(Surrogate::Linear));
        Box::new(Global { contrast, settings: self.settings.clone(), gamma: 1.0 })
    }
}

impl Method for Gcl {
    fn row(&self) -> &Row {
        &self.row
    }

    fn trials(&self) -> Vec<Trial> {
        vec![Trial::of_similarities(Stage::Main, 0.0, SCALE)]
    }
}

/// The objective.
struct Global {
    contrast: Contrast,
    settings: AverageSettings,
    /// Of the loaded batch.
    gamma: f64,
}

impl Objective for Global {
    fn reset(&mut self, device: &mut dyn Device) {
        self.contrast.reset(device);
    }

    fn enter(&mut self, _: &mut dyn Device, _: Models, _: &StageView) {}

    fn path(&self) -> Path {
        Path::ImagesAndTexts
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        self.gamma = self.settings.gamma_at(batch.epoch, batch.epochs);
        self.contrast.load(device, batch, self.gamma);
    }

    fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
        self.contrast.forward(device, models.clip, loaded);
        self.contrast.weigh_alike(device, 1.0, loaded);
        self.contrast.backward(device, models.clip, loaded);
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.contrast.loss(device)
    }

    fn key(&self) -> u64 {
        key_of(())
    }

    fn persistent(&self) -> Vec<(&'static str, Stats)> {
        self.contrast.persistent()
    }

    fn release(&self, device: &mut dyn Device, samples: &[u32]) {
        self.contrast.release(device, samples);
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        vec![("gamma", self.gamma)]
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::AverageSettings;

    #[test]
    fn gamma_falls_by_a_cosine_over_half_the_epochs() {
        let settings = AverageSettings { gamma: 1.0, gamma_min: 0.2, ..AverageSettings::default() };
        let gammas: Vec<f64> = (0..8).map(|epoch| settings.gamma_at(epoch, 8)).collect();
        let cosine = |part: f64| 0.5 * (1.0 + (std::f64::consts::PI * part).cos()) * 0.8 + 0.2;
        let expected = [1.0, cosine(0.25), 0.6, cosine(0.75), 0.2, 0.2, 0.2, 0.2];
        for (gamma, expected) in gammas.iter().zip(expected) {
            assert_abs_diff_eq!(*gamma, expected, epsilon = 1e-12);
        }
        assert_eq!(settings.gamma_at(0, 1), 1.0, "a single epoch has nothing to fall over");
    }
}
