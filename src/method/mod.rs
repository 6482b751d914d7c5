//! The methods: what a step starts from, what it sees, what it minimises, what it spends, and how the model then classifies
//! (docs/methods.md).
//!
//! A method is a file here and its line in [`METHODS`]; docs/extending.md adds one. What several share lies beside them:
//!
//! | file | what |
//! |---|---|
//! | `contrast.rs` | the contrast of images with their texts |
//! | `head.rs` | linear heads: over several extractors, auxiliary, trained on their own |
//! | `views.rs` | supervised contrast of two views of every image |
//! | `herding.rs` | the choice of exemplars and the mean of their features |
//! | `fitted.rs` | classifiers that are fitted to a frozen tower's features |
//! | `ridge.rs`, `algebra.rs` | ridge regression over steps; matrices in f64 |
//! | `settings.rs` | the table `[objective]`, from what methods declare |
//! | `trial.rs` | how far a device may be off in a step of a method |

mod algebra;
mod cassle;
mod clip;
mod co2l;
mod contrast;
mod cross_entropy;
mod der;
mod ewc;
mod fecam;
pub mod fitted;
mod foster;
mod gcl;
mod gda;
mod gdro;
pub(crate) mod head;
pub mod herding;
mod icarl;
mod lwf;
pub mod patching;
mod rail;
mod ranpac;
mod ridge;
pub mod settings;
mod simplecil;
pub mod trial;
mod views;

use std::fmt;
use std::sync::RwLock;

pub use clip::JointSettings;
pub use settings::Settings;

use crate::error::{Result, unknown};
use crate::memory::ReplayRule;
use crate::train::{Recipe, Stage, StageView, Trainer};
use fitted::Fit;
use patching::PatchingSettings;
use trial::Trial;

/// The methods of the program, in the order of tables.
pub static METHODS: [&Entry; 24] = [
    &clip::ZERO_SHOT,
    &clip::SEQUENTIAL,
    &cross_entropy::FINETUNE_CE,
    &clip::JOINT,
    &clip::CUMULATIVE_ALL,
    &clip::CUMULATIVE_EXP,
    &clip::CUMULATIVE_EQUAL,
    &clip::RESTART,
    &clip::ORACLE,
    &lwf::ENTRY,
    &patching::ENTRY,
    &gcl::ENTRY,
    &gdro::ENTRY,
    &ewc::ENTRY,
    &icarl::ENTRY,
    &der::ENTRY,
    &foster::ENTRY,
    &co2l::ENTRY,
    &cassle::ENTRY,
    &simplecil::ENTRY,
    &ranpac::ENTRY,
    &gda::ENTRY,
    &fecam::ENTRY,
    &rail::ENTRY,
];

/// A method before its settings are known.
#[derive(Debug)]
pub struct Entry {
    /// What tables say of it.
    pub row: Row,
    /// The settings that are its own, under `[objective]`.
    pub settings: &'static [settings::Group],
    /// Makes the method of its row and the run's settings.
    pub build: fn(Row, &Chosen) -> Box<dyn Method>,
    /// Settings under `[objective]` at which its trials tell right from wrong, where the defaults would drown both in rounding.
    pub trial_settings: &'static [(&'static str, f64)],
}

impl Entry {
    /// An entry of a method without settings of its own.
    pub const fn new(row: Row, build: fn(Row, &Chosen) -> Box<dyn Method>) -> Entry {
        Entry { row, settings: &[], build, trial_settings: &[] }
    }

    /// The name that settings, tables and files have for it.
    pub fn name(&self) -> &'static str {
        self.row.name
    }

    /// The method at these settings.
    pub fn open(&self, chosen: &Chosen) -> Box<dyn Method> {
        (self.build)(self.row, chosen)
    }

    /// The method at its defaults.
    pub fn open_default(&self) -> Box<dyn Method> {
        self.open_at(&Settings::default())
    }

    /// The method at these settings and the defaults of the rest.
    pub fn open_at(&self, objective: &Settings) -> Box<dyn Method> {
        self.open(&Chosen { objective, joint: &JointSettings::default(), patching: &PatchingSettings::default() })
    }
}

/// The settings of a run that methods read.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// `[objective]`, with the tables of all methods.
    pub objective: &'a Settings,
    /// `[joint]`.
    pub joint: &'a JointSettings,
    /// `[patching]`.
    pub patching: &'a PatchingSettings,
}

/// What there is to say of a method in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name that settings, tables and files have for it: lower case, with hyphens.
    pub name: &'static str,
    /// One line for `perennial list methods`.
    pub summary: &'static str,
    /// Which parameters a step starts from.
    pub starts: Start,
    /// Which samples a step draws from.
    pub sees: Sees,
    /// What images are trained against.
    pub learns: Learns,
    /// What a step may spend.
    pub spends: Spends,
    /// How a test image gets its class.
    pub classifies: Classifies,
    /// Views of every image that a batch of its main stage holds.
    pub views: usize,
    /// Whether it tells new classes from old ones, so that a stream must bring new ones at every step.
    pub needs_new_classes: bool,
}

impl Row {
    /// What most methods do: go on from the last step with the step's own classes, on one budget.
    pub const DEFAULT: Row = Row {
        name: "",
        summary: "",
        starts: Start::Last,
        sees: Sees::Step,
        learns: Learns::Classes,
        spends: Spends::Once,
        classifies: Classifies::ByHead,
        views: 1,
        needs_new_classes: false,
    };

    /// Whether it has a replay memory of constant size.
    pub(crate) fn uses_memory(&self) -> bool {
        matches!(self.sees, Sees::StepAndMemory(_))
    }

    /// Whether it trains on texts; otherwise on classes.
    pub fn reads_texts(&self) -> bool {
        self.learns == Learns::Texts
    }

    /// Whether a linear head is trained with the features.
    pub(crate) fn trains_head(&self) -> bool {
        self.learns == Learns::Classes && !matches!(self.classifies, Classifies::ByLinearProbe | Classifies::ByFit)
    }

    /// Whether its classifier is fitted to features in closed form: nothing is trained, and yet it learns of every step.
    pub(crate) fn is_fitted(&self) -> bool {
        self.classifies == Classifies::ByFit
    }

    /// Whether it learns nothing of any step.
    pub(crate) fn learns_nothing(&self) -> bool {
        self.spends == Spends::Nothing && !self.is_fitted()
    }

    /// Whether it means nothing without at least one kept sample of every class.
    pub(crate) fn needs_memory(&self) -> bool {
        self.uses_memory() && self.classifies != Classifies::ByText
    }
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
    /// Those whose mean is nearest to the class's.
    Herded,
}

/// What images are trained against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learns {
    /// Captions or class prompts, as `data.text` says.
    Texts,
    /// Classes in the order of the stream: the columns of a head.
    Classes,
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
    /// A classifier that is fitted to the features of a frozen tower in closed form: [`Method::fit`].
    ByFit,
}

/// A method at its settings: what it asks of a trainer, its stages, and what it does as they begin and as a step closes.
pub trait Method: Recipe + Send + Sync {
    /// What tables say of it.
    fn row(&self) -> &Row;

    /// Fails, with what would be right, where its settings contradict one another.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// What step `step` trains and does, from 0.
    fn stages(&self, _step: usize) -> Vec<Stage> {
        match (self.row().spends, self.row().classifies) {
            (_, Classifies::ByFit) => vec![Stage::Closing],
            (Spends::Nothing, _) => Vec::new(),
            (_, Classifies::ByLinearProbe) => vec![Stage::Main, Stage::Closing, Stage::Probe],
            _ => vec![Stage::Main, Stage::Closing],
        }
    }

    /// The part of a step's budget that its main stage spends where it has a compression, which spends the rest.
    fn main_share(&self) -> f64 {
        1.0
    }

    /// The part of every step's training samples that is held back.
    fn held_back(&self) -> f64 {
        0.0
    }

    /// Changes the model as a stage begins, once, before its first iteration. As a later step begins, what the step before left is kept where
    /// the recipe asks for it.
    fn begin(&self, trainer: &mut Trainer, view: &StageView) {
        if view.stage == Stage::Main && view.is_later() {
            trainer.keep_start();
            if self.teacher().is_some() {
                trainer.freeze(0);
            }
        }
    }

    /// Starts the rows that the model's head has for the step's new classes, those from `first` on, as `rows [new classes, D]`: embeddings
    /// of their prompts. Called behind [`Method::begin`] of a main stage and of a compression, and with all classes where the stage trains the
    /// head anew, of methods that have a head, unless it is to start at random.
    fn start_head(&self, trainer: &mut Trainer, _view: &StageView, first: usize, rows: &[f32]) {
        head::start_rows(trainer, first, rows, None);
    }

    /// What closes a step beside the memory.
    fn close(&self, _closing: &mut dyn Closing) -> Result<()> {
        Ok(())
    }

    /// What its classifier is made of, where it classifies by one that is fitted in closed form.
    fn fit(&self) -> Option<&dyn Fit> {
        None
    }

    /// The stages in which its computation is compared between devices: each that no other method has too.
    fn trials(&self) -> Vec<Trial> {
        Vec::new()
    }
}

impl fmt::Debug for dyn Method {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        self.row().fmt(formatter)
    }
}

/// What a run lends to a method that closes a step.
pub trait Closing {
    /// The model in training, for a pass or a change of its parameters.
    fn trainer(&mut self) -> &mut Trainer;

    /// From 0.
    fn step(&self) -> usize;

    /// How many classes were seen before the step, and with it.
    fn classes(&self) -> (usize, usize);

    /// Computes the gradients of the step's samples, one pass without an update, for the objective to take in.
    fn gather(&mut self) -> Result<()>;

    /// The run's measure of the model as it is now on what was held back of the first `steps` steps; none for a step of which nothing was.
    fn measure(&mut self, steps: usize) -> Result<Vec<Option<f64>>>;

    /// Writes a value to the log.
    fn note(&mut self, key: &str, value: f64) -> Result<()>;
}

/// Methods from outside, beside [`METHODS`].
static REGISTERED: RwLock<Vec<&'static Entry>> = RwLock::new(Vec::new());

/// Adds a method to those that settings can name, for programs that bring one of their own. Before any settings are read. Panics where
/// one of this name is known: a bug of the caller.
pub fn register(entry: &'static Entry) {
    assert!(find(entry.name()).is_err(), "a method is called {} already", entry.name());
    REGISTERED.write().expect("nothing panics while it registers").push(entry);
}

/// All methods: those of the program, and those that were registered.
pub fn entries() -> Vec<&'static Entry> {
    let registered = REGISTERED.read().expect("nothing panics while it registers");
    METHODS.iter().copied().chain(registered.iter().copied()).collect()
}

/// The method of that name.
pub fn find(name: &str) -> Result<&'static Entry> {
    let entries = entries();
    let found = entries.iter().find(|entry| entry.name() == name).copied();
    found.ok_or_else(|| unknown("method", name, entries.iter().map(|entry| entry.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_found() {
        for (place, entry) in METHODS.iter().enumerate() {
            assert_eq!(METHODS.iter().position(|other| other.name() == entry.name()), Some(place));
            assert_eq!(find(entry.name()).unwrap().row, entry.row);
            assert_eq!(entry.open_default().row(), &entry.row);
        }
        assert!(find("gclo").unwrap_err().to_string().contains("did you mean 'gcl'?"));
    }

    #[test]
    fn what_follows_from_the_rows() {
        let named = |chosen: fn(&Row) -> bool| -> Vec<&str> {
            METHODS.iter().filter(|entry| chosen(&entry.row)).map(|entry| entry.name()).collect()
        };
        assert_eq!(named(Row::uses_memory), ["gcl", "gdro", "icarl", "der", "foster", "co2l"]);
        assert_eq!(named(Row::needs_memory), ["icarl", "der", "foster", "co2l"]);
        let stages = |name: &str, step: usize| find(name).unwrap().open_default().stages(step);
        let untrained: Vec<&str> =
            METHODS.iter().map(|entry| entry.name()).filter(|name| stages(name, 0).is_empty()).collect();
        assert_eq!(untrained, ["zero-shot"]);
        assert_eq!(named(Row::is_fitted), ["simplecil", "ranpac", "gda", "fecam", "rail"]);
        assert!(METHODS.iter().all(|entry| entry.row.is_fitted() == entry.open_default().fit().is_some()));
        assert_eq!(stages("ranpac", 2), [Stage::Closing]);
        assert_eq!(stages("foster", 0), [Stage::Main, Stage::Closing]);
        assert_eq!(stages("foster", 1), [Stage::Main, Stage::Compression, Stage::Closing]);
        assert_eq!(stages("co2l", 3), [Stage::Main, Stage::Closing, Stage::Probe]);
    }
}
