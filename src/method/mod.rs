//! The methods: rows of one table of choices (methods.md section 4).
//!
//! A method is where a step starts, what it sees, what it minimises, what it spends and how it classifies. Adding one is
//! adding a row; what a method computes on its own lies in a file beside this one:
//!
//! | file | whose |
//! |---|---|
//! | `stages.rs` | what a step begins with: teachers, earlier extractors, fresh heads |
//! | `herding.rs` | icarl's exemplars and their means |
//! | `alignment.rs` | der's weight alignment |
//! | `patching.rs` | patching's choice of alpha |

pub mod alignment;
pub mod herding;
pub mod patching;
pub mod stages;

use crate::error::{Result, unknown};
use crate::memory::ReplayRule;
use crate::objective::{ClassLoss, ObjectiveKind, TextLoss, ViewLoss};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    pub name: &'static str,
    /// One line for `perennial list methods`.
    pub summary: &'static str,
    pub starts: Start,
    pub sees: Sees,
    pub minimises: ObjectiveKind,
    pub spends: Spends,
    pub classifies: Classifies,
}

/// The parameters that a step starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The run's first: a checkpoint, or random values.
    First,
    /// Those that the step before left.
    Last,
    /// Those that the step before left, interpolated: a step's result is moved back towards its start (PAINT).
    LastPatched,
}

/// The training samples that a step draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// The step's own.
    Step,
    /// The step's own and the replay memory of constant size.
    StepAndMemory(Keeps),
    /// The step's own and earlier ones by a rule of the time-continual protocol.
    StepAndReplay(ReplayRule),
    /// Those of all steps so far.
    AllSoFar,
}

/// Which samples of a class a memory keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// A uniform choice.
    Random,
    /// Those whose mean is nearest to the class's (icarl).
    Herded,
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

/// What tells a test image's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classifies {
    /// The nearest class prompt; captions in retrieval.
    ByText,
    /// The head that it was trained with.
    ByHead,
    /// The nearest mean of exemplars.
    ByNearestMean,
    /// A linear head that is trained on the features after the step.
    ByLinearProbe,
}

/// What a step trains, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What the method is about.
    Main,
    /// foster's distillation of two extractors into one.
    Compression,
    /// What closes a step without a budget: the memory, a patch, the Fisher information, alignment.
    Closing,
    /// The linear head on features that stay as they are.
    Probe,
}

/// A row, short.
const fn row(
    name: &'static str,
    (starts, sees, spends): (Start, Sees, Spends),
    minimises: ObjectiveKind,
    classifies: Classifies,
    summary: &'static str,
) -> Method {
    Method { name, summary, starts, sees, minimises, spends, classifies }
}

/// Every method, in the order of tables.
pub const METHODS: [Method; 19] = {
    use Classifies::{ByHead, ByLinearProbe, ByNearestMean, ByText};
    use Keeps::{Herded, Random};
    use ObjectiveKind::{Classes, Texts, Views};
    use Sees::{AllSoFar, Step, StepAndMemory, StepAndReplay};
    use Spends::{Nothing, Once, OncePerStepSeen};
    use Start::{First, Last, LastPatched};
    const CLIP: ObjectiveKind = Texts(TextLoss::Clip);
    [
        row("zero-shot", (First, Step, Nothing), CLIP, ByText, "the first model, never trained (Continual-CLIP)"),
        row("sequential", (Last, Step, Once), CLIP, ByText, "fine-tune on each step's data alone with the clip loss"),
        row(
            "finetune-ce",
            (Last, Step, Once),
            Classes(ClassLoss::CrossEntropy),
            ByHead,
            "fine-tune the image tower and a linear head on each step's data alone with cross-entropy",
        ),
        row(
            "joint",
            (First, AllSoFar, OncePerStepSeen),
            CLIP,
            ByText,
            "train the first model on all data so far at every step (the upper bound)",
        ),
        row(
            "cumulative-all",
            (Last, StepAndReplay(ReplayRule::All), Once),
            CLIP,
            ByText,
            "go on with all data so far on one step's budget",
        ),
        row(
            "cumulative-exp",
            (Last, StepAndReplay(ReplayRule::Exp), Once),
            CLIP,
            ByText,
            "go on with the step's data and as much again of earlier steps, half from the last, a quarter from the one before",
        ),
        row(
            "cumulative-equal",
            (Last, StepAndReplay(ReplayRule::Equal), Once),
            CLIP,
            ByText,
            "go on with the step's data and as much again of earlier steps, equal parts of each",
        ),
        row(
            "restart",
            (First, AllSoFar, Once),
            CLIP,
            ByText,
            "train the first model anew on all data so far on one step's budget",
        ),
        row(
            "oracle",
            (First, AllSoFar, OncePerStepSeen),
            CLIP,
            ByText,
            "train the first model anew on all data so far, with a budget for every step seen (TiC-CLIP's reference)",
        ),
        row(
            "lwf",
            (Last, Step, Once),
            Texts(TextLoss::Lwf),
            ByText,
            "the clip loss and the distillation of the last step's similarities (learning without forgetting)",
        ),
        row(
            "patching",
            (LastPatched, Step, Once),
            CLIP,
            ByText,
            "sequential, whose weights are interpolated with those before the step (PAINT)",
        ),
        row(
            "gcl",
            (Last, StepAndMemory(Random), Once),
            Texts(TextLoss::Gcl),
            ByText,
            "global contrastive learning: moving averages over the step's data and a replay memory",
        ),
        row(
            "gdro",
            (Last, StepAndMemory(Random), Once),
            Texts(TextLoss::Gdro),
            ByText,
            "gcl under a squared hinge, with class weights by group DRO",
        ),
        row(
            "ewc",
            (Last, Step, Once),
            Classes(ClassLoss::Ewc),
            ByHead,
            "cross-entropy, and a penalty on moving what earlier tasks need (elastic weight consolidation)",
        ),
        row(
            "icarl",
            (Last, StepAndMemory(Herded), Once),
            Classes(ClassLoss::Icarl),
            ByNearestMean,
            "cross-entropy and distillation of old logits; herded exemplars, whose nearest mean classifies",
        ),
        row(
            "der",
            (Last, StepAndMemory(Random), Once),
            Classes(ClassLoss::Der),
            ByHead,
            "a new extractor each step beside the frozen ones, one head over all (dynamically expandable representation)",
        ),
        row(
            "foster",
            (Last, StepAndMemory(Random), Once),
            Classes(ClassLoss::Foster),
            ByHead,
            "boosting by a new extractor, then compression of both into one",
        ),
        row(
            "co2l",
            (Last, StepAndMemory(Random), Once),
            Views(ViewLoss::Co2l),
            ByLinearProbe,
            "asymmetric supervised contrast and relation distillation, then a linear head on the memory",
        ),
        row(
            "cassle",
            (Last, Step, Once),
            Views(ViewLoss::Cassle),
            ByLinearProbe,
            "supervised contrast and distillation through a predictor, then a linear head",
        ),
    ]
};

impl Method {
    pub fn find(name: &str) -> Result<&'static Method> {
        METHODS
            .iter()
            .find(|method| method.name == name)
            .ok_or_else(|| unknown("method", name, METHODS.iter().map(|method| method.name)))
    }

    /// Whether it has a replay memory of constant size.
    pub fn uses_memory(&self) -> bool {
        matches!(self.sees, Sees::StepAndMemory(_))
    }

    /// Whether it trains on texts; otherwise on classes.
    pub fn reads_texts(&self) -> bool {
        matches!(self.minimises, ObjectiveKind::Texts(_))
    }

    /// Whether it means nothing without at least one kept sample of every class.
    pub fn needs_memory(&self) -> bool {
        self.uses_memory() && self.classifies != Classifies::ByText
    }

    /// Whether it tells new classes from old ones, so that a stream must bring new ones at every step.
    pub fn needs_new_classes(&self) -> bool {
        self.minimises == ObjectiveKind::Classes(ClassLoss::Der)
    }

    /// Whether it looks back at the parameters that a step started from.
    pub fn keeps_start(&self) -> bool {
        matches!(self.minimises, ObjectiveKind::Classes(ClassLoss::Ewc | ClassLoss::Foster))
            || self.starts == Start::LastPatched
    }

    /// The same method with a linear head and cross-entropy in place of texts and the clip loss: joint's other form.
    pub fn by_head(self) -> Method {
        Method { minimises: ObjectiveKind::Classes(ClassLoss::CrossEntropy), classifies: Classifies::ByHead, ..self }
    }

    /// Views of every image that a batch of its main stage holds.
    pub fn views(&self) -> usize {
        if matches!(self.minimises, ObjectiveKind::Views(_)) { 2 } else { 1 }
    }

    /// What step `step` trains and does, from 0.
    pub fn stages(&self, step: usize) -> Vec<Stage> {
        if self.spends == Spends::Nothing {
            return Vec::new();
        }
        let compresses = self.minimises == ObjectiveKind::Classes(ClassLoss::Foster) && step > 0;
        let probes = self.classifies == Classifies::ByLinearProbe;
        let stages =
            [(Stage::Main, true), (Stage::Compression, compresses), (Stage::Closing, true), (Stage::Probe, probes)];
        stages.into_iter().filter(|(_, there)| *there).map(|(stage, _)| stage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_found() {
        for (place, method) in METHODS.iter().enumerate() {
            assert_eq!(METHODS.iter().position(|other| other.name == method.name), Some(place));
            assert_eq!(Method::find(method.name).unwrap(), method);
        }
        assert!(Method::find("gclo").unwrap_err().to_string().contains("did you mean 'gcl'?"));
    }

    #[test]
    fn what_follows_from_the_choices() {
        let named = |chosen: fn(&Method) -> bool| -> Vec<&str> {
            METHODS.iter().filter(|method| chosen(method)).map(|method| method.name).collect()
        };
        assert_eq!(named(Method::uses_memory), ["gcl", "gdro", "icarl", "der", "foster", "co2l"]);
        assert_eq!(named(Method::needs_memory), ["icarl", "der", "foster", "co2l"]);
        assert_eq!(named(|method| method.stages(0).is_empty()), ["zero-shot"]);
        let foster = Method::find("foster").unwrap();
        assert_eq!(foster.stages(0), [Stage::Main, Stage::Closing]);
        assert_eq!(foster.stages(1), [Stage::Main, Stage::Compression, Stage::Closing]);
        assert_eq!(Method::find("co2l").unwrap().stages(3), [Stage::Main, Stage::Closing, Stage::Probe]);
    }
}
