//! The settings of every objective. What an objective has no use for, it does not read.

use serde::{Deserialize, Serialize};

/// Settings of the contrastive family, and below them those of each other method under its name.
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
    pub lwf: LwfSettings,
    pub ewc: EwcSettings,
    pub icarl: IcarlSettings,
    pub der: DerSettings,
    pub foster: FosterSettings,
    pub co2l: Co2lSettings,
    pub cassle: CassleSettings,
}

/// Learning without forgetting on similarities (TiC-CLIP's form).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LwfSettings {
    /// Weight mu of the distillation beside the clip loss.
    pub mu: f64,
}

/// Elastic weight consolidation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EwcSettings {
    /// Strength of the penalty.
    pub lambda: f64,
    /// Upper limit of each task's Fisher information.
    pub fisher_limit: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IcarlSettings {
    /// Weight and temperature T of the distillation.
    pub weight: f64,
    pub temperature: f64,
}

/// Dynamically expandable representation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DerSettings {
    /// Weight of the auxiliary loss.
    pub auxiliary: f64,
    /// Whether the new classes' weights are scaled to the old ones' after a step.
    pub align: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FosterSettings {
    /// beta of the classes' weights while boosting, and while compressing.
    pub beta: f64,
    pub compression_beta: f64,
    /// T of both distillations.
    pub temperature: f64,
    /// The share of a step's budget that boosting spends; compression spends the rest. The paper's 170 of 300 epochs.
    pub boosting: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Co2lSettings {
    /// Temperature of the supervised contrastive loss.
    pub tau: f64,
    /// Temperatures of the relations of the model and of its teacher.
    pub relation_tau: f64,
    pub teacher_tau: f64,
    /// Weight of the relation distillation.
    pub weight: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CassleSettings {
    /// Temperature of the supervised contrastive loss.
    pub tau: f64,
    /// Temperature of the distillation through the predictor.
    pub distillation_tau: f64,
    /// The predictor's hidden width.
    pub hidden: usize,
    /// Weight of the distillation.
    pub weight: f64,
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
            lwf: LwfSettings::default(),
            ewc: EwcSettings::default(),
            icarl: IcarlSettings::default(),
            der: DerSettings::default(),
            foster: FosterSettings::default(),
            co2l: Co2lSettings::default(),
            cassle: CassleSettings::default(),
        }
    }
}

impl Default for LwfSettings {
    fn default() -> Self {
        LwfSettings { mu: 1.0 }
    }
}

impl Default for EwcSettings {
    fn default() -> Self {
        EwcSettings { lambda: 1000.0, fisher_limit: 1e-4 }
    }
}

impl Default for IcarlSettings {
    fn default() -> Self {
        IcarlSettings { weight: 1.0, temperature: 2.0 }
    }
}

impl Default for DerSettings {
    fn default() -> Self {
        DerSettings { auxiliary: 1.0, align: true }
    }
}

impl Default for FosterSettings {
    fn default() -> Self {
        FosterSettings { beta: 0.96, compression_beta: 0.97, temperature: 2.0, boosting: 0.57 }
    }
}

impl Default for Co2lSettings {
    fn default() -> Self {
        Co2lSettings { tau: 0.5, relation_tau: 0.2, teacher_tau: 0.01, weight: 1.0 }
    }
}

impl Default for CassleSettings {
    fn default() -> Self {
        CassleSettings { tau: 0.1, distillation_tau: 0.2, hidden: 2048, weight: 1.0 }
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

    /// Every number with the range that it must lie in.
    pub fn ranges(&self) -> impl Iterator<Item = (&'static str, f64, f64, f64)> {
        let ObjectiveSettings { lwf, ewc, icarl, der, foster, co2l, cassle, .. } = self;
        [
            ("objective.tau", self.tau, 0.0, 100.0),
            ("objective.gamma", self.gamma, 1e-6, 1.0),
            ("objective.gamma_min", self.gamma_min, 1e-6, 1.0),
            ("objective.margin", self.margin, 0.0, 10.0),
            ("objective.lambda", self.lambda, 1e-9, 1e9),
            ("objective.gamma1", self.gamma1, 1e-6, 1.0),
            ("objective.gamma2", self.gamma2, 0.0, 1.0),
            ("objective.lwf.mu", lwf.mu, 0.0, 1e6),
            ("objective.ewc.lambda", ewc.lambda, 0.0, 1e12),
            ("objective.ewc.fisher_limit", ewc.fisher_limit, 0.0, f64::INFINITY),
            ("objective.icarl.weight", icarl.weight, 0.0, 1e6),
            ("objective.icarl.temperature", icarl.temperature, 1e-3, 1e3),
            ("objective.der.auxiliary", der.auxiliary, 0.0, 1e6),
            ("objective.foster.beta", foster.beta, 0.0, 0.999_999_9),
            ("objective.foster.compression_beta", foster.compression_beta, 0.0, 0.999_999_9),
            ("objective.foster.temperature", foster.temperature, 1e-3, 1e3),
            ("objective.foster.boosting", foster.boosting, 0.01, 0.99),
            ("objective.co2l.tau", co2l.tau, 1e-3, 1e3),
            ("objective.co2l.relation_tau", co2l.relation_tau, 1e-3, 1e3),
            ("objective.co2l.teacher_tau", co2l.teacher_tau, 1e-3, 1e3),
            ("objective.co2l.weight", co2l.weight, 0.0, 1e6),
            ("objective.cassle.tau", cassle.tau, 1e-3, 1e3),
            ("objective.cassle.distillation_tau", cassle.distillation_tau, 1e-3, 1e3),
            ("objective.cassle.hidden", cassle.hidden as f64, 1.0, 65536.0),
            ("objective.cassle.weight", cassle.weight, 0.0, 1e6),
        ]
        .into_iter()
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
