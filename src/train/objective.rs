//! What a step minimises, as training sees it: it knows no method by name.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use super::iteration::TrainBatch;
use super::spec::TrainerSpec;
use super::stage::StageView;
use crate::model::clip::Clip;
use crate::model::frozen::{Frozen, Part};
use crate::model::parameters::{Extra, ParameterList};
use crate::model::text::LoadedTexts;
use crate::model::trainable::{Piece, Trainable};
use crate::model::vision::VisionTower;
use crate::ops::{Device, Plan, Stats};

/// The model in training, and the frozen ones in use: teachers, earlier extractors.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// In training: weights, activations of the batch, gradients.
    pub clip: &'a Clip,
    /// Those that hold a model by now; the teacher, where a method has one, is number 0.
    pub frozen: &'a [Frozen],
    /// The parameters that the step started from; empty where they are not kept.
    pub start: Stats,
}

/// Sizes of the batch on the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded {
    /// Every view counted.
    pub images: usize,
    /// Distinct ones, and the length that they run at.
    pub texts: LoadedTexts,
}

/// Which towers an iteration runs, and where the objective leaves its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Both towers; at both towers' embeddings.
    ImagesAndTexts,
    /// The image tower; at its embeddings.
    Embeddings,
    /// The image tower; at its features.
    Features,
    /// The image tower, which is not trained: the objective's own parameters alone have gradients.
    OwnAlone,
}

/// What a method minimises, with its memory on a device. What it keeps from step to step is how earlier tasks carry forward.
pub trait Objective {
    /// Once, before a run's first step.
    fn reset(&mut self, _device: &mut dyn Device) {}

    /// Prepares for a stage, also where a run goes on in the middle of it.
    fn enter(&mut self, device: &mut dyn Device, models: Models, view: &StageView);

    /// Of the present stage.
    fn path(&self) -> Path;

    /// What the present stage trains: all that was planned for, unless it says otherwise.
    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.trainable().clone()
    }

    /// Stretches of that which are spared weight decay.
    fn spared(&self, _list: &ParameterList) -> Vec<Range<usize>> {
        Vec::new()
    }

    /// Sends what [`Objective::forward_backward`] reads of a batch beside pixels and texts.
    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, loaded: Loaded);

    /// Loss and gradients of the loaded batch, between the towers' forward and backward passes: its own parameters' gradients, and those
    /// that [`Objective::path`] names.
    fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded);

    /// Adds a penalty on the parameters themselves to the gradients of `pieces`, after the backward pass and before the update.
    fn penalize(&self, _device: &mut dyn Device, _models: Models, _pieces: &[Piece]) {}

    /// The loss of the batch that was last computed, a penalty included.
    fn loss(&self, device: &dyn Device) -> f32;

    /// Tells lists of launches apart that differ in more than the sizes of a batch: of everything on the host that
    /// [`Objective::forward_backward`] and [`Objective::penalize`] depend on. See [`key_of`].
    fn key(&self) -> u64;

    /// What a saved state must hold of it beside parameters, by name. A span that lies over [`ParameterList::trainable`] has its length.
    fn persistent(&self) -> Vec<(&'static str, Stats)> {
        Vec::new()
    }

    /// Samples that left the memory give up what is kept of them.
    fn release(&self, _device: &mut dyn Device, _samples: &[u32]) {}

    /// Numbers of the loaded batch for the log, beside loss and learning rate.
    fn figures(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// A number for every class in the data set's order, for the log at a step's end, under a name.
    fn class_figures(&self, _device: &dyn Device) -> Option<(&'static str, Vec<f32>)> {
        None
    }

    /// Takes in the gradients of a batch of a pass that closes a step.
    fn gather(&self, _device: &mut dyn Device, _clip: &Clip) {}

    /// Once all `batches` of that pass were gathered.
    fn gathered(&self, _device: &mut dyn Device, _batches: usize) {}

    /// Scores of the images that `vision` has seen, `[images, columns]`, where the method has a head; the first columns are the classes
    /// in the order of the stream. `frozen` are those in use.
    fn scores(
        &self,
        _device: &mut dyn Device,
        _vision: &VisionTower,
        _frozen: &[Frozen],
        _images: usize,
    ) -> Option<Scores> {
        None
    }
}

/// What a head says of images, row by row.
#[derive(Clone, Debug)]
pub struct Scores {
    /// `[images, columns]`, row-major.
    pub values: Vec<f32>,
    /// Of a row: the classes, and a few more that mean nothing.
    pub columns: usize,
}

/// [`Objective::key`] of a value.
pub fn key_of(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What a method asks of a trainer, before anything is allocated.
pub trait Recipe {
    /// Parameters beside CLIP's own.
    fn extras(&self, _spec: &TrainerSpec) -> Vec<Extra> {
        Vec::new()
    }

    /// How much of the model that the step before left is kept as a teacher, where there is one: frozen model number 0.
    fn teacher(&self) -> Option<Part> {
        None
    }

    /// How many frozen models it needs, and how much of them: the teacher alone, unless it says otherwise.
    fn frozen(&self, _spec: &TrainerSpec) -> (usize, Part) {
        self.teacher().map_or((0, Part::Whole), |part| (1, part))
    }

    /// Whether the parameters that a step starts from are kept beside those in training.
    fn keeps_start(&self) -> bool {
        false
    }

    /// What any of its stages trains: everything, unless it says otherwise.
    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.all()
    }

    /// Plans its objective.
    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective>;
}

/// What is planned already where an objective is.
#[derive(Clone, Copy)]
pub struct Planned<'a> {
    /// Sizes and budgets that the trainer was asked for.
    pub spec: &'a TrainerSpec,
    /// Its spans, with room for a batch in training.
    pub clip: &'a Clip,
    /// As many as [`Recipe::frozen`] asks for.
    pub frozen: &'a [Frozen],
    /// Images of the largest batch, of training and of evaluation.
    pub images: usize,
}
