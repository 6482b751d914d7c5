//! The methods: rows of one table of choices (methods.md section 4).
//!
//! A method is where a step starts, what it sees, what it minimises, what it spends and how it classifies. Adding one is
//! adding a row; code of its own goes into a file beside this one.

use crate::error::{Result, unknown};
use crate::objective::ObjectiveKind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    pub name: &'static str,
    /// One line for `perennial list methods`.
    pub summary: &'static str,
    pub starts: Start,
    pub sees: Sees,
    pub minimises: ObjectiveKind,
    pub spends: Spends,
}

/// The parameters that a step starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The run's first: a checkpoint, or random values.
    First,
    /// Those that the step before left.
    Last,
}

/// The training samples that a step draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// The step's own.
    Step,
    /// The step's own and the replay memory.
    StepAndMemory,
    /// Those of all steps so far.
    AllSoFar,
}

/// The samples that step t (from 1) may train on, where C is one step's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spends {
    /// None: the model is not trained.
    Nothing,
    /// C.
    Once,
    /// t C: as much for every step seen as the others spend on it.
    OncePerStepSeen,
}

/// Every method, in the order of tables.
pub const METHODS: [Method; 5] = [
    Method {
        name: "zero-shot",
        summary: "the first model, never trained (Continual-CLIP)",
        starts: Start::First,
        sees: Sees::Step,
        minimises: ObjectiveKind::Clip,
        spends: Spends::Nothing,
    },
    Method {
        name: "sequential",
        summary: "fine-tune on each step's data alone with the clip loss",
        starts: Start::Last,
        sees: Sees::Step,
        minimises: ObjectiveKind::Clip,
        spends: Spends::Once,
    },
    Method {
        name: "gcl",
        summary: "global contrastive learning: moving averages over the step's data and a replay memory",
        starts: Start::Last,
        sees: Sees::StepAndMemory,
        minimises: ObjectiveKind::Gcl,
        spends: Spends::Once,
    },
    Method {
        name: "gdro",
        summary: "gcl under a squared hinge, with class weights by group DRO",
        starts: Start::Last,
        sees: Sees::StepAndMemory,
        minimises: ObjectiveKind::Gdro,
        spends: Spends::Once,
    },
    Method {
        name: "joint",
        summary: "train the first model on all data so far at every step (the upper bound)",
        starts: Start::First,
        sees: Sees::AllSoFar,
        minimises: ObjectiveKind::Clip,
        spends: Spends::OncePerStepSeen,
    },
];

impl Method {
    pub fn find(name: &str) -> Result<&'static Method> {
        METHODS
            .iter()
            .find(|method| method.name == name)
            .ok_or_else(|| unknown("method", name, METHODS.iter().map(|method| method.name)))
    }

    pub fn uses_memory(&self) -> bool {
        self.sees == Sees::StepAndMemory
    }

    /// Whether it cannot do without a memory.
    pub fn needs_memory(&self) -> bool {
        false
    }
}
