//! The methods that minimise the clip loss alone. They differ in where a step starts, what it sees and what it spends: zero-shot,
//! sequential, joint, and the replay rules of the time-continual protocol (TiC-CLIP, arXiv 2310.16226).

use serde::{Deserialize, Serialize};

use super::contrast::Contrast;
use super::cross_entropy::FinetuneCe;
use super::trial::{SCALE, Trial};
use super::{Chosen, Classifies, Entry, Learns, Method, Row, Sees, Spends, Start};
use crate::memory::ReplayRule;
use crate::ops::{Device, Plan};
use crate::train::{Loaded, Models, Objective, Path, Planned, Recipe, Stage, StageView, TrainBatch, key_of};

/// What the methods that learn from texts have in common: the clip loss, and the nearest prompt.
pub(crate) const TEXTS: Row = Row { learns: Learns::Texts, classifies: Classifies::ByText, ..Row::DEFAULT };

pub(crate) const ZERO_SHOT: Entry = Entry::new(
    Row {
        name: "zero-shot",
        summary: "the first model, never trained (Continual-CLIP)",
        starts: Start::First,
        spends: Spends::Nothing,
        ..TEXTS
    },
    build,
);
pub(crate) const SEQUENTIAL: Entry = Entry::new(
    Row { name: "sequential", summary: "fine-tune on each step's data alone with the clip loss", ..TEXTS },
    build,
);
pub(crate) const JOINT: Entry = Entry::new(
    Row {
        name: "joint",
        summary: "train the first model on all data so far at every step (the upper bound)",
        starts: Start::First,
        sees: Sees::AllSoFar,
        spends: Spends::OncePerStepSeen,
        ..TEXTS
    },
    |row, chosen| match chosen.joint.head {
        true => FinetuneCe::boxed(Row { learns: Learns::Classes, classifies: Classifies::ByHead, ..row }, false),
        false => build(row, chosen),
    },
);
pub(crate) const CUMULATIVE_ALL: Entry = Entry::new(
    Row {
        name: "cumulative-all",
        summary: "go on with all data so far on one step's budget",
        sees: Sees::StepAndReplay(ReplayRule::All),
        ..TEXTS
    },
    build,
);
pub(crate) const CUMULATIVE_EXP: Entry = Entry::new(
    Row {
        name: "cumulative-exp",
        summary: "go on with the step's data and as much again of earlier steps, half from the last, a quarter from the one before",
        sees: Sees::StepAndReplay(ReplayRule::Exp),
        ..TEXTS
    },
    build,
);
pub(crate) const CUMULATIVE_EQUAL: Entry = Entry::new(
    Row {
        name: "cumulative-equal",
        summary: "go on with the step's data and as much again of earlier steps, equal parts of each",
        sees: Sees::StepAndReplay(ReplayRule::Equal),
        ..TEXTS
    },
    build,
);
pub(crate) const RESTART: Entry = Entry::new(
    Row {
        name: "restart",
        summary: "train the first model anew on all data so far on one step's budget",
        starts: Start::First,
        sees: Sees::AllSoFar,
        ..TEXTS
    },
    build,
);
pub(crate) const ORACLE: Entry = Entry::new(
    Row {
        name: "oracle",
        summary: "train the first model anew on all data so far, with a budget for every step seen (TiC-CLIP's reference)",
        starts: Start::First,
        sees: Sees::AllSoFar,
        spends: Spends::OncePerStepSeen,
        ..TEXTS
    },
    build,
);

fn build(row: Row, _: &Chosen) -> Box<dyn Method> {
    Box::new(ClipMethod { row })
}

/// joint's two forms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JointSettings {
    /// Cross-entropy and a linear head, in place of the clip loss and texts.
    pub head: bool,
}

struct ClipMethod {
    row: Row,
}

impl Recipe for ClipMethod {
    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        Box::new(ClipLoss { contrast: Contrast::plan(plan, planned) })
    }
}

impl Method for ClipMethod {
    fn row(&self) -> &Row {
        &self.row
    }

    fn trials(&self) -> Vec<Trial> {
        // All others are the same computation.
        match self.row.name == SEQUENTIAL.row.name {
            true => vec![Trial::of_similarities(Stage::Main, 0.0, SCALE)],
            false => Vec::new(),
        }
    }
}

/// InfoNCE, equal to open_clip's ClipLoss.
pub(crate) struct ClipLoss {
    pub contrast: Contrast,
}

impl ClipLoss {
    /// Its two halves are averaged.
    pub(crate) fn compute(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
        self.contrast.forward(device, models.clip, loaded);
        self.contrast.weigh_alike(device, 0.5, loaded);
        self.contrast.backward(device, models.clip, loaded);
    }
}

impl Objective for ClipLoss {
    fn enter(&mut self, _: &mut dyn Device, _: Models, _: &StageView) {}

    fn path(&self) -> Path {
        Path::ImagesAndTexts
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        self.contrast.load(device, batch, 1.0);
    }

    fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
        self.compute(device, models, loaded);
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.contrast.loss(device)
    }

    fn key(&self) -> u64 {
        key_of(())
    }
}
