//! finetune-ce, and joint's form with a head: cross-entropy of a linear head over the classes seen.

use super::head::{Head, head_parameters};
use super::{Entry, Method, Row};
use crate::model::frozen::Frozen;
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::Trainable;
use crate::model::vision::VisionTower;
use crate::ops::{Device, Plan};
use crate::train::{
    Loaded, Models, Objective, Path, Planned, Recipe, Scores, StageView, TrainBatch, TrainerSpec, key_of,
};

pub(crate) const FINETUNE_CE: Entry = Entry::new(
    Row {
        name: "finetune-ce",
        summary: "fine-tune the image tower and a linear head on each step's data alone with cross-entropy",
        ..Row::DEFAULT
    },
    |row, _| FinetuneCe::boxed(row),
);

pub(crate) struct FinetuneCe {
    row: Row,
}

impl FinetuneCe {
    pub(crate) fn boxed(row: Row) -> Box<dyn Method> {
        Box::new(FinetuneCe { row })
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
        Box::new(CrossEntropy { head: Head::plan(plan, planned), seen: 0 })
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
}

impl Objective for CrossEntropy {
    fn enter(&mut self, _: &mut dyn Device, _: Models, view: &StageView) {
        self.seen = view.seen;
    }

    fn path(&self) -> Path {
        Path::Features
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        self.head.load(device, batch.classes);
    }

    fn forward_backward(&self, device: &mut dyn Device, Models { clip, .. }: Models, loaded: Loaded) {
        let images = loaded.images;
        let logits = self.head.logits(device, &clip.vision, 0, images);
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
