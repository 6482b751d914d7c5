//! What training minimises: the contrastive family and its settings (methods.md sections 1 and 2).

mod contrastive;

use serde::{Deserialize, Serialize};

pub use contrastive::{BatchIndex, ContrastiveObjective, ObjectiveState};

/// An objective by its name in the table of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// InfoNCE, equal to open_clip's ClipLoss.
    Clip,
    /// Global contrastive learning with moving averages (SogCLR, arXiv 2202.12387; GCL equations (1)-(4)).
    Gcl,
    /// GCL's averages under a squared hinge, classes weighed by group DRO (equations (5)-(6), our reading).
    Gdro,
}

/// The settings of the family. What an objective has no use for, it does not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveSettings {
    /// Fixed temperature tau of gcl and gdro; 0 takes the model's own logit scale, which then follows
    /// `train.learn_logit_scale`.
    pub tau: f64,
    /// Weight of a batch in the moving averages u at the start of a step.
    pub gamma: f64,
    /// What it falls to by a cosine over the first half of the step's epochs; the same as `gamma` keeps it constant.
    pub gamma_min: f64,
    /// Margin m of gdro's squared hinge.
    pub margin: f64,
    /// Strength of gdro's regularisation: large weighs all classes alike, small the worst alone.
    pub lambda: f64,
    /// Weight of a batch in the class losses v.
    pub gamma1: f64,
    /// Whether gdro takes the squared hinge; without it, gcl's linear difference. For ablations.
    pub hinge: bool,
    /// Whether gdro weighs classes; without it, every sample alike. For ablations.
    pub class_weights: bool,
    /// Above 0: class weights by the stochastic form, with this weight of a batch in the normaliser s; 0: exact.
    pub gamma2: f64,
}

impl Default for ObjectiveSettings {
    fn default() -> Self {
        ObjectiveSettings {
            tau: 0.07,
            gamma: 0.9,
            gamma_min: 0.2,
            margin: 0.1,
            lambda: 1.0,
            gamma1: 0.9,
            hinge: true,
            class_weights: true,
            gamma2: 0.0,
        }
    }
}

impl ObjectiveSettings {
    /// gamma in epoch `epoch` of `epochs` (methods.md section 1): a cosine per epoch from `gamma` to `gamma_min` over the
    /// first half of the epochs, constant after it.
    pub fn gamma_at(&self, epoch: usize, epochs: usize) -> f64 {
        let decay = epochs as f64 / 2.0;
        if epoch as f64 >= decay {
            return if epochs <= 1 { self.gamma } else { self.gamma_min };
        }
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * epoch as f64 / decay).cos());
        cosine * (self.gamma - self.gamma_min) + self.gamma_min
    }
}

#[cfg(test)]
mod tests {
    use super::ObjectiveSettings;

    #[test]
    fn gamma_falls_by_a_cosine_over_half_the_epochs() {
        let settings = ObjectiveSettings { gamma: 1.0, gamma_min: 0.2, ..ObjectiveSettings::default() };
        let gammas: Vec<f64> = (0..8).map(|epoch| settings.gamma_at(epoch, 8)).collect();
        let cosine = |part: f64| 0.5 * (1.0 + (std::f64::consts::PI * part).cos()) * 0.8 + 0.2;
        let expected = [1.0, cosine(0.25), 0.6, cosine(0.75), 0.2, 0.2, 0.2, 0.2];
        for (gamma, expected) in gammas.iter().zip(expected) {
            assert!((gamma - expected).abs() < 1e-12, "{gammas:?}");
        }
        assert_eq!(settings.gamma_at(0, 1), 1.0, "a single epoch has nothing to fall over");
    }
}
