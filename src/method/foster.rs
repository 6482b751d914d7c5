//! FOSTER (arXiv 2204.04662): a new extractor boosts the old model; then both are compressed into one.

use super::head::{Auxiliary, Head, Soft, expand, head_parameters, start_rows};
use super::trial::Trial;
use super::{Entry, Keeps, Method, Row, Sees};
use crate::method_settings;
use crate::model::frozen::{Frozen, Part};
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::Trainable;
use crate::model::vision::VisionTower;
use crate::ops::cross_entropy::SoftTargets;
use crate::ops::{Device, Plan, Stats, Write};
use crate::stream::ClassId;
use crate::train::{
    Loaded, Models, Objective, Path, Planned, Recipe, Scores, Stage, StageView, TrainBatch, Trainer, TrainerSpec,
    key_of,
};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[FosterSettings::GROUP],
    ..Entry::new(
        Row {
            name: "foster",
            summary: "boosting by a new extractor, then compression of both into one",
            sees: Sees::StepAndMemory(Keeps::Random),
            ..Row::DEFAULT
        },
        |row, chosen| Box::new(Foster { row, settings: FosterSettings::of(chosen.objective) }),
    )
};

method_settings! {
    FosterSettings in "foster" {
        /// of the classes' weights in boosting
        beta: f64 = 0.96, 0.0..=0.999_999_9;
        /// of the classes' weights in compression
        compression_beta: f64 = 0.97, 0.0..=0.999_999_9;
        /// of both distillations
        temperature: f64 = 2.0, 1e-3..=1e3;
        /// the share of a step's budget that boosting spends
        boosting: f64 = 0.57, 0.01..=0.99;
    }
}

struct Foster {
    row: Row,
    settings: FosterSettings,
}

/// The frozen models: the one that the step before left, and the boosted one.
const OLD: usize = 0;
const BOOSTED: usize = 1;

impl Recipe for Foster {
    fn extras(&self, spec: &TrainerSpec) -> Vec<Extra> {
        let mut extras = head_parameters(spec, 1);
        extras.push(Auxiliary::parameters(spec));
        extras
    }

    fn frozen(&self, _: &TrainerSpec) -> (usize, Part) {
        (2, Part::Vision)
    }

    fn keeps_start(&self) -> bool {
        true
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.images()
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let head = Head::plan(plan, planned);
        Box::new(Boosting {
            auxiliary: Auxiliary::plan(plan, planned),
            balance: plan.stats(head.columns()),
            head,
            settings: self.settings.clone(),
            loss: Loss::CrossEntropy,
            before: 0,
            seen: 0,
        })
    }
}

impl Method for Foster {
    fn row(&self) -> &Row {
        &self.row
    }

    fn stages(&self, step: usize) -> Vec<Stage> {
        match step {
            0 => vec![Stage::Main, Stage::Closing],
            _ => vec![Stage::Main, Stage::Compression, Stage::Closing],
        }
    }

    fn main_share(&self) -> f64 {
        self.settings.boosting
    }

    fn begin(&self, trainer: &mut Trainer, view: &StageView) {
        match view.stage {
            Stage::Main if view.is_later() => {
                trainer.keep_start();
                expand(trainer, OLD, view);
            }
            // The boosted model becomes the teacher, beside the old one, from which the student starts.
            Stage::Compression => {
                trainer.freeze(BOOSTED);
                trainer.return_to_start();
            }
            _ => {}
        }
    }

    /// In the auxiliary head too, while there is one.
    fn start_head(&self, trainer: &mut Trainer, view: &StageView, first: usize, rows: &[f32]) {
        let boosts = view.stage == Stage::Main && view.is_later();
        start_rows(trainer, first, rows, boosts.then_some(first));
    }

    fn trials(&self) -> Vec<Trial> {
        let logits = 2.0 + 2.0 * self.settings.temperature;
        [Stage::Main, Stage::Compression].map(|stage| Trial::of_logits(stage, logits)).to_vec()
    }
}

/// What is minimised in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Loss {
    /// In the first step.
    CrossEntropy,
    /// CE(z / w) + CE of the new extractor's logits + distillation of the old model's logits.
    Boosting,
    /// Balanced distillation of the boosted model into one extractor.
    Compression,
}

/// The objective.
struct Boosting {
    head: Head,
    /// On the new extractor alone.
    auxiliary: Auxiliary,
    settings: FosterSettings,
    /// w: weights of classes [classes].
    balance: Stats,
    loss: Loss,
    before: usize,
    seen: usize,
}

impl Boosting {
    /// Extractors beside the model's own: the old one while it is boosted.
    fn blocks(&self) -> usize {
        usize::from(self.loss == Loss::Boosting)
    }
}

impl Objective for Boosting {
    fn enter(&mut self, device: &mut dyn Device, _: Models, view: &StageView) {
        (self.before, self.seen) = (view.before, view.seen);
        self.loss = match view.stage {
            Stage::Compression => Loss::Compression,
            _ if view.is_later() => Loss::Boosting,
            _ => Loss::CrossEntropy,
        };
        let beta = if self.loss == Loss::Compression { self.settings.compression_beta } else { self.settings.beta };
        let weights = balanced_weights(beta, &view.counts[..view.seen]);
        let mut balance: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
        balance.resize(self.balance.len(), 1.0);
        device.write(self.balance, &balance);
    }

    fn path(&self) -> Path {
        Path::Features
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        self.head.load(device, batch.classes);
        self.auxiliary.load(device, ClassId::numbers(batch.classes));
    }

    fn forward_backward(&self, device: &mut dyn Device, Models { clip, frozen, .. }: Models, loaded: Loaded) {
        let (head, vision, images, blocks) = (&self.head, &clip.vision, loaded.images, self.blocks());
        let (temperature, balance) = (self.settings.temperature, self.balance.first(self.seen));
        if self.loss != Loss::CrossEntropy {
            head.see(device, vision, frozen, images);
        }
        let logits = head.logits(device, vision, blocks, images);
        match self.loss {
            Loss::CrossEntropy => head.cross_entropy(device, logits, images, self.seen, None),
            Loss::Boosting => {
                head.cross_entropy(device, logits, images, self.seen, Some(balance));
                let teacher = head.teacher_logits(device, OLD, &[], images);
                let targets = SoftTargets { temperature, balance: None };
                let soft = Soft { logits, teacher, classes: self.before, targets, weight: 1.0, write: Write::Add };
                head.distill(device, images, soft);
            }
            Loss::Compression => {
                // The old model is the boosted one's other extractor.
                let teacher = head.teacher_logits(device, BOOSTED, &[OLD], images);
                let targets = SoftTargets { temperature, balance: Some(balance) };
                let soft = Soft { logits, teacher, classes: self.seen, targets, weight: 1.0, write: Write::Set };
                head.distill(device, images, soft);
            }
        }
        head.backward_weights(device, vision, blocks, images);
        match self.loss {
            Loss::Boosting => self.auxiliary.forward_backward(device, clip, head, images, (1.0, self.seen)),
            _ => head.backward_features(device, images, vision.features_gradient()),
        }
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.head.loss(device)
    }

    fn key(&self) -> u64 {
        key_of((self.loss, self.before, self.seen))
    }

    fn scores(
        &self,
        device: &mut dyn Device,
        vision: &VisionTower,
        frozen: &[Frozen],
        images: usize,
    ) -> Option<Scores> {
        Some(self.head.scores(device, vision, frozen, self.blocks(), images))
    }
}

/// w_k proportional to (1 - beta) / (1 - beta^{n_k}), with mean 1 (FOSTER, arXiv 2204.04662): the inverse of a class's effective
/// number of samples. A class without samples counts as one with one.
fn balanced_weights(beta: f64, counts: &[usize]) -> Vec<f64> {
    let weights = counts.iter().map(|count| (1.0 - beta) / (1.0 - beta.powi((*count).max(1) as i32)));
    let weights: Vec<f64> = weights.collect();
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    weights.iter().map(|weight| weight / mean).collect()
}

#[cfg(test)]
mod tests {
    use super::balanced_weights;

    #[test]
    fn rare_classes_weigh_more_and_the_mean_is_one() {
        let weights = balanced_weights(0.96, &[500, 20, 1]);
        // 1/25, 1/(25 (1 - 0.96^20)) and 1 before they are brought to mean 1.
        let raw = [0.04 / (1.0 - 0.96f64.powi(500)), 0.04 / (1.0 - 0.96f64.powi(20)), 1.0];
        let mean = raw.iter().sum::<f64>() / 3.0;
        for (weight, raw) in weights.iter().zip(raw) {
            assert!((weight - raw / mean).abs() < 1e-12, "{weights:?}");
        }
        assert_eq!(balanced_weights(0.5, &[7, 7, 7, 7]), [1.0; 4]);
        assert!(balanced_weights(0.96, &[0, 3]).iter().all(|weight| weight.is_finite()));
    }
}
