//! iCaRL (arXiv 1611.07725): cross-entropy on all classes seen, distillation of the last step's logits, herded exemplars, and the nearest
//! mean of exemplars.

use super::cross_entropy::CrossEntropy;
use super::head::{Soft, head_parameters};
use super::trial::Trial;
use super::{Classifies, Entry, Keeps, Method, Row, Sees};
use crate::method_settings;
use crate::model::frozen::Part;
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::Trainable;
use crate::ops::cross_entropy::SoftTargets;
use crate::ops::{Device, Plan, Write};
use crate::train::{
    Loaded, Models, Objective, Path, Planned, Recipe, Stage, StageView, TrainBatch, TrainerSpec, key_of,
};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[IcarlSettings::GROUP],
    ..Entry::new(
        Row {
            name: "icarl",
            summary: "cross-entropy and distillation of old logits; herded exemplars, whose nearest mean classifies",
            sees: Sees::StepAndMemory(Keeps::Herded),
            classifies: Classifies::ByNearestMean,
            ..Row::DEFAULT
        },
        |row, chosen| Box::new(Icarl { row, settings: IcarlSettings::of(chosen.objective) }),
    )
};

method_settings! {
    IcarlSettings in "icarl" {
        /// of the distillation
        weight: f64 = 1.0, 0.0..=1e6;
        /// of the distillation
        temperature: f64 = 2.0, 1e-3..=1e3;
    }
}

struct Icarl {
    row: Row,
    settings: IcarlSettings,
}

impl Recipe for Icarl {
    fn extras(&self, spec: &TrainerSpec) -> Vec<Extra> {
        head_parameters(spec, 0)
    }

    fn teacher(&self) -> Option<Part> {
        Some(Part::Vision)
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.images()
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let plain = CrossEntropy::plan(plan, planned, false);
        Box::new(Distilled { plain, settings: self.settings.clone(), before: None })
    }
}

impl Method for Icarl {
    fn row(&self) -> &Row {
        &self.row
    }

    fn trials(&self) -> Vec<Trial> {
        vec![Trial::of_logits(Stage::Main, 1.0 + 2.0 * self.settings.temperature)]
    }
}

/// The objective.
struct Distilled {
    plain: CrossEntropy,
    settings: IcarlSettings,
    /// Classes that the teacher knows, once there is one.
    before: Option<usize>,
}

impl Objective for Distilled {
    fn enter(&mut self, device: &mut dyn Device, models: Models, view: &StageView) {
        self.plain.enter(device, models, view);
        self.before = view.is_later().then_some(view.before);
    }

    fn path(&self) -> Path {
        self.plain.path()
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, loaded: Loaded) {
        self.plain.load(device, batch, loaded);
    }

    fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
        let Some(before) = self.before else { return self.plain.forward_backward(device, models, loaded) };
        let (head, vision, images) = (&self.plain.head, &models.clip.vision, loaded.images);
        head.see(device, vision, models.frozen, images);
        let logits = head.logits(device, vision, 0, images);
        head.cross_entropy(device, logits, images, self.plain.seen, None);
        let teacher = head.teacher_logits(device, 0, &[], images);
        let IcarlSettings { weight, temperature } = self.settings;
        let targets = SoftTargets { temperature, balance: None };
        let soft = Soft { logits, teacher, classes: before, targets, weight, write: Write::Add };
        head.distill(device, images, soft);
        head.backward_weights(device, vision, 0, images);
        head.backward_features(device, images, vision.features_gradient());
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.plain.loss(device)
    }

    fn key(&self) -> u64 {
        key_of((self.plain.key(), self.before))
    }
}
