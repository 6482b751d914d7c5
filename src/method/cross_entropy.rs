//! finetune-ce, and joint's form with a head: cross-entropy of a linear head over the step's own classes, or over all seen.

use std::ops::Range;

use super::head::{Head, Present, head_parameters};
use super::{Entry, Method, Row};
use crate::method_settings;
use crate::model::frozen::Frozen;
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::Trainable;
use crate::model::vision::VisionTower;
use crate::ops::{Device, Plan};
use crate::train::{
    Loaded, Models, Objective, Path, Planned, Recipe, Scores, StageView, TrainBatch, TrainerSpec, key_of,
};

pub(crate) const FINETUNE_CE: Entry = Entry {
    settings: &[FinetuneCeSettings::GROUP],
    ..Entry::new(
        Row {
            name: "finetune-ce",
            summary: "fine-tune the image tower and a linear head on each step's data alone with cross-entropy",
            ..Row::DEFAULT
        },
        |row, chosen| FinetuneCe::boxed(row, FinetuneCeSettings::of(chosen.objective).own_classes),
    )
};

method_settings! {
    FinetuneCeSettings in "finetune-ce" {
        /// whether the loss is over the step's own classes alone, and not over all seen so far
        own_classes: bool = true;
    }
}

pub(crate) struct FinetuneCe {
    row: Row,
    own_classes: bool,
}

impl FinetuneCe {
    pub(crate) fn boxed(row: Row, own_classes: bool) -> Box<dyn Method> {
        Box::new(FinetuneCe { row, own_classes })
    }
}

impl Recipe for FinetuneCe {
    fn extras(&self, spec: &TrainerSpec) -> Vec<Extra> {
        head_parameters(spec, 0)
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.images()
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        Box::new(CrossEntropy::plan(plan, planned, self.own_classes))
    }
}

impl Method for FinetuneCe {
    fn row(&self) -> &Row {
        &self.row
    }
}

/// The objective.
pub(crate) struct CrossEntropy {
    pub head: Head,
    pub seen: usize,
    /// Where the loss is over the classes that have samples, and not over all that are seen.
    present: Option<Present>,
}

impl CrossEntropy {
    pub(crate) fn plan(plan: &mut Plan, planned: &Planned, own_classes: bool) -> CrossEntropy {
        let head = Head::plan(plan, planned);
        CrossEntropy { present: own_classes.then(|| Present::plan(plan, planned, &head)), head, seen: 0 }
    }
}

impl Objective for CrossEntropy {
    fn enter(&mut self, device: &mut dyn Device, _: Models, view: &StageView) {
        self.seen = view.seen;
        if let Some(present) = &mut self.present {
            present.enter(device, &self.head, view.seen, view.counts);
        }
    }

    fn spared(&self, list: &ParameterList) -> Vec<Range<usize>> {
        self.present.as_ref().map(|present| present.spared(list)).unwrap_or_default()
    }

    fn path(&self) -> Path {
        Path::Features
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        self.head.load(device, batch.classes);
    }

    fn forward_backward(&self, device: &mut dyn Device, Models { clip, .. }: Models, loaded: Loaded) {
        let images = loaded.images;
        let logits = match &self.present {
            Some(present) => present.logits(device, &self.head, &clip.vision, images),
            None => self.head.logits(device, &clip.vision, 0, images),
        };
        self.head.cross_entropy(device, logits, images, self.seen, None);
        self.head.backward_weights(device, &clip.vision, 0, images);
        self.head.backward_features(device, images, clip.vision.features_gradient());
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.head.loss(device)
    }

    fn key(&self) -> u64 {
        key_of(self.seen)
    }

    fn scores(&self, device: &mut dyn Device, vision: &VisionTower, _: &[Frozen], images: usize) -> Option<Scores> {
        Some(self.head.scores(device, vision, &[], 0, images))
    }
}
