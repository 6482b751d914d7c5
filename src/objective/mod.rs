//! What training minimises: the contrastive family (methods.md sections 1 and 2), classifiers' losses, and the
//! distillations and penalties beside them (section 4).

mod contrastive;
mod head;
mod settings;
mod similarity;
mod views;

pub use contrastive::{BatchIndex, ContrastiveObjective, ObjectiveState};
pub use head::{HeadObjective, HeadStage, balanced_weights, block_name, head_parameters};
pub use settings::{
    CassleSettings, Co2lSettings, DerSettings, EwcSettings, FosterSettings, IcarlSettings, LwfSettings,
    ObjectiveSettings,
};
pub use similarity::SimilarityDistillation;
pub use views::{ViewObjective, predictor_parameters};

use crate::ops::Device;

/// An objective with its memory on a device. There is one of it, so that its size does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Objective {
    Texts {
        contrast: ContrastiveObjective,
        /// lwf's.
        distillation: Option<SimilarityDistillation>,
    },
    Classes(HeadObjective),
    Views {
        contrast: ViewObjective,
        /// The linear head that is trained on the features afterwards.
        head: HeadObjective,
    },
}

impl Objective {
    /// What a checkpoint must hold of it beside parameters.
    pub fn state<D: Device>(&self, device: &D) -> ObjectiveState {
        match self {
            Objective::Texts { contrast, .. } => contrast.state(device),
            Objective::Classes(_) | Objective::Views { .. } => ObjectiveState::default(),
        }
    }

    /// Puts a saved state back. It must come from an objective planned alike.
    pub fn restore<D: Device>(&self, device: &mut D, state: &ObjectiveState) {
        if let Objective::Texts { contrast, .. } = self {
            contrast.restore(device, state);
        }
    }

    /// Samples that left the memory give up what is kept of them.
    pub fn release<D: Device>(&self, device: &mut D, samples: &[u32]) {
        if let Objective::Texts { contrast, .. } = self {
            contrast.release(device, samples);
        }
    }

    /// p, gdro's class weights `[classes]`, for the log; none for the others.
    pub fn class_weights<D: Device>(&self, device: &D) -> Option<Vec<f32>> {
        match self {
            Objective::Texts { contrast, .. } => contrast.class_weights(device),
            Objective::Classes(_) | Objective::Views { .. } => None,
        }
    }

    /// pi: each class's fraction of the pool that the coming step samples from, 0 for absent classes; gdro reads it.
    pub fn set_shares<D: Device>(&self, device: &mut D, shares: &[f32]) {
        if let Objective::Texts { contrast, .. } = self {
            contrast.set_shares(device, shares);
        }
    }

    /// The head that classifies, where there is one.
    pub fn head(&self) -> Option<&HeadObjective> {
        match self {
            Objective::Texts { .. } => None,
            Objective::Classes(head) | Objective::Views { head, .. } => Some(head),
        }
    }
}

/// An objective by its name in the table of methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectiveKind {
    /// Images against their texts.
    Texts(TextLoss),
    /// Images against their classes, by a linear head.
    Classes(ClassLoss),
    /// Two views of every image against one another.
    Views(ViewLoss),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLoss {
    /// InfoNCE, equal to open_clip's ClipLoss.
    Clip,
    /// Global contrastive learning with moving averages (SogCLR, arXiv 2202.12387; GCL equations (1)-(4)).
    Gcl,
    /// GCL's averages under a squared hinge, classes weighed by group DRO (equations (5)-(6), our reading).
    Gdro,
    /// InfoNCE and the distillation of the last step's similarities.
    Lwf,
}

impl TextLoss {
    /// Whether it keeps moving averages u of every sample.
    pub fn keeps_averages(self) -> bool {
        matches!(self, TextLoss::Gcl | TextLoss::Gdro)
    }
}

/// What a method with a head minimises over a whole step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassLoss {
    CrossEntropy,
    /// Cross-entropy and a penalty on leaving what earlier tasks need.
    Ewc,
    Icarl,
    Der,
    Foster,
}

/// What a head minimises in one phase of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadLoss {
    CrossEntropy,
    /// iCaRL: cross-entropy on all seen classes + distillation of the last step's logits.
    Distillation,
    /// DER: cross-entropy over all extractors + an auxiliary one over the new classes and "old".
    Expansion,
    /// FOSTER: CE(z / w) + CE of the new extractor's logits + distillation of the old model's logits.
    Boosting,
    /// FOSTER: balanced distillation of the boosted model into one extractor.
    Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewLoss {
    /// Asymmetric SupCon and instance relation distillation (arXiv 2106.14413).
    Co2l,
    /// SupCon and distillation through a predictor (arXiv 2112.04215).
    Cassle,
}
