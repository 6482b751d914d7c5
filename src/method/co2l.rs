//! Co2L (arXiv 2106.14413): asymmetric supervised contrast, whose anchors are the step's own images, and distillation of the relations
//! between instances; then a linear head on the memory.

use super::head::head_parameters;
use super::trial::Trial;
use super::views::{ViewContrast, ViewLoss, ViewsThenProbe, twice};
use super::{Classifies, Entry, Keeps, Method, Row, Sees};
use crate::method_settings;
use crate::model::clip::Clip;
use crate::model::frozen::{Frozen, Part};
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::Trainable;
use crate::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use crate::ops::similarity::Similarity;
use crate::ops::{Device, Ids, Plan, Stats, Write};
use crate::train::{Objective, Planned, Recipe, Stage, TrainBatch, TrainerSpec};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[Co2lSettings::GROUP],
    // At the paper's 0.01 an error of bf16 of 0.002 in a similarity is 0.2 in a logit of the teacher's: its probabilities are then off by a
    // fifth, and nothing can be told by them. The op's own check, whose operands are f32, is at 0.01.
    trial_settings: &[("co2l.teacher_tau", 0.07)],
    ..Entry::new(
        Row {
            name: "co2l",
            summary: "asymmetric supervised contrast and relation distillation, then a linear head on the memory",
            sees: Sees::StepAndMemory(Keeps::Random),
            classifies: Classifies::ByLinearProbe,
            views: 2,
            ..Row::DEFAULT
        },
        |row, chosen| Box::new(Co2l { row, settings: Co2lSettings::of(chosen.objective) }),
    )
};

method_settings! {
    Co2lSettings in "co2l" {
        /// temperature of the supervised contrastive loss
        tau: f64 = 0.5, 1e-3..=1e3;
        /// temperature of the model's relations
        relation_tau: f64 = 0.2, 1e-3..=1e3;
        /// temperature of the teacher's relations
        teacher_tau: f64 = 0.01, 1e-3..=1e3;
        /// of the relations' distillation
        weight: f64 = 1.0, 0.0..=1e6;
    }
}

struct Co2l {
    row: Row,
    settings: Co2lSettings,
}

impl Recipe for Co2l {
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
        let views = planned.clip.capacity.images;
        let loss = Relations {
            contrast: ViewContrast::plan(plan, planned.clip),
            settings: self.settings.clone(),
            anchor: plan.ids(views),
            teacher_similarity: plan.stats(views * views),
            distillation: plan.stats(1),
        };
        ViewsThenProbe::boxed(plan, planned, loss)
    }
}

impl Method for Co2l {
    fn row(&self) -> &Row {
        &self.row
    }

    fn trials(&self) -> Vec<Trial> {
        let Co2lSettings { tau, relation_tau, teacher_tau, .. } = self.settings;
        // The embeddings' gradient as rows of the similarities, and its sum with that as columns.
        let main = Trial::of_similarities(Stage::Main, 1.0, 1.0 / tau + 1.0 / relation_tau + 1.0 / teacher_tau);
        vec![main, Trial::of_logits(Stage::Probe, 1.0)]
    }
}

/// The loss over views.
struct Relations {
    contrast: ViewContrast,
    settings: Co2lSettings,
    /// 1 for views of the step's own images.
    anchor: Ids,
    /// [n, n]
    teacher_similarity: Stats,
    distillation: Stats,
}

impl ViewLoss for Relations {
    fn load(&self, device: &mut dyn Device, batch: &TrainBatch) {
        self.contrast.load(device, batch.classes);
        let own: Vec<u32> = batch.own.iter().map(|own| u32::from(*own)).collect();
        device.write(self.anchor, &twice(&own));
    }

    fn forward_backward(&self, device: &mut dyn Device, clip: &Clip, teacher: Option<&Frozen>, views: usize) {
        let Co2lSettings { tau, relation_tau, teacher_tau, weight } = self.settings;
        self.contrast.forward(device, clip, views, tau, Some(self.anchor));
        device.fill(self.distillation, 0.0);
        if let Some(teacher) = teacher {
            teacher.see(device, &clip.vision, views);
            let target = teacher.vision.embeddings();
            let (s, ds) = self.contrast.similarities(views);
            let teacher = self.teacher_similarity.first(views * views);
            device.run(Similarity { shape: self.contrast.shape(views), a: target, b: target, s: teacher });
            let settings =
                DistillationSettings { tau: relation_tau, teacher_tau, exclude_self: true, divergence: false, weight };
            device.run(Distillation {
                rows: views,
                columns: views,
                settings,
                multiplicity: Multiplicity { row: None, column: None },
                s,
                teacher,
                write: Write::Add,
                loss: self.distillation,
                ds,
            });
        }
        self.contrast.backward(device, clip, views, Write::Set);
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.contrast.loss(device) + device.read_vec(self.distillation)[0]
    }
}
