//! DER (dynamically expandable representation, arXiv 2103.16788): at every step a new extractor beside the frozen ones, one head over the
//! features of all, an auxiliary head that tells the new classes from one another and from all old ones together; then the head anew on as
//! many samples of every class, or weight alignment.

use std::ops::Range;

use super::head::{Auxiliary, Head, block_name, expand, head_parameters, head_range, restart, start_rows};
use super::trial::Trial;
use super::{Closing, Entry, Keeps, Method, Row, Sees};
use crate::error::Result;
use crate::method_settings;
use crate::model::frozen::{Frozen, Part};
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::Trainable;
use crate::model::vision::VisionTower;
use crate::ops::{Device, Plan, Stats};
use crate::stream::ClassId;
use crate::train::{
    Loaded, Models, Objective, Path, Planned, Recipe, Scores, Stage, StageView, TrainBatch, Trainer, TrainerSpec,
    key_of,
};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[DerSettings::GROUP],
    ..Entry::new(
        Row {
            name: "der",
            summary: "a new extractor each step beside the frozen ones, one head over all (dynamically expandable representation)",
            sees: Sees::StepAndMemory(Keeps::Random),
            needs_new_classes: true,
            ..Row::DEFAULT
        },
        |row, chosen| Box::new(Der { row, settings: DerSettings::of(chosen.objective) }),
    )
};

method_settings! {
    DerSettings in "der" {
        /// weight of the auxiliary loss
        auxiliary: f64 = 1.0, 0.0..=1e6;
        /// after every step but the first, train the head anew on the memory, which has as many samples of every class, as `[probe]` says
        balance: bool = true;
        /// of the softmax in it
        balance_temperature: f64 = 5.0, 1e-3..=1e3;
        /// without it, scale the new classes' weights to the old ones' after a step
        align: bool = true;
    }
}

struct Der {
    row: Row,
    settings: DerSettings,
}

impl Recipe for Der {
    fn extras(&self, spec: &TrainerSpec) -> Vec<Extra> {
        let mut extras = head_parameters(spec, spec.steps - 1);
        extras.push(Auxiliary::parameters(spec));
        extras
    }

    fn frozen(&self, spec: &TrainerSpec) -> (usize, Part) {
        (spec.steps - 1, Part::Vision)
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.images()
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let head = Head::plan(plan, planned);
        Box::new(Expanded {
            temperature: plan.stats(head.columns()),
            head,
            auxiliary: Auxiliary::plan(plan, planned),
            settings: self.settings.clone(),
            stage: Stage::Main,
            before: 0,
            seen: 0,
            blocks: 0,
        })
    }
}

impl Method for Der {
    fn row(&self) -> &Row {
        &self.row
    }

    fn stages(&self, step: usize) -> Vec<Stage> {
        match self.settings.balance && step > 0 {
            true => vec![Stage::Main, Stage::Closing, Stage::Probe],
            false => vec![Stage::Main, Stage::Closing],
        }
    }

    /// The model becomes the newest of the frozen extractors, and learns on with a fresh head.
    fn begin(&self, trainer: &mut Trainer, view: &StageView) {
        match view.stage {
            Stage::Main if view.is_later() => expand(trainer, view.step - 1, view),
            Stage::Probe => restart(trainer, view),
            _ => {}
        }
    }

    /// In the auxiliary head too, while there is one; its first row is all old classes together.
    fn start_head(&self, trainer: &mut Trainer, view: &StageView, first: usize, rows: &[f32]) {
        let has_auxiliary = view.stage == Stage::Main && view.is_later();
        start_rows(trainer, first, rows, has_auxiliary.then_some(1));
    }

    fn close(&self, closing: &mut dyn Closing) -> Result<()> {
        if self.settings.align && !self.settings.balance {
            let (before, seen) = closing.classes();
            align(closing.trainer(), before, seen);
        }
        Ok(())
    }

    fn trials(&self) -> Vec<Trial> {
        vec![
            Trial::of_logits(Stage::Main, 2.0),
            Trial::of_logits(Stage::Probe, 1.0 / self.settings.balance_temperature),
        ]
    }
}

/// Weight alignment: W_new *= mean ||W_old|| / mean ||W_new||, over the head's rows on every extractor; those of the classes from `before`
/// to `seen` are the new ones.
fn align(trainer: &mut Trainer, before: usize, seen: usize) {
    let blocks = trainer.frozen_in_use;
    trainer.edit(|list, values| {
        let mut names = vec!["head.weight".to_string()];
        names.extend((0..blocks).map(|block| format!("{}.weight", block_name(block))));
        let ranges: Vec<Range<usize>> = names.iter().map(|name| list.get(name).range()).collect();
        let width = list.get("head.weight").shape[1];
        let rows: Vec<&[f32]> = ranges.iter().map(|range| &values[range.clone()]).collect();
        let factor = alignment(&rows, width, before, seen);
        for range in &ranges {
            let new = range.start + before * width..range.start + seen * width;
            values[new].iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
        }
    });
}

/// The objective.
struct Expanded {
    head: Head,
    auxiliary: Auxiliary,
    settings: DerSettings,
    /// What logits are divided by where the head is trained anew [columns].
    temperature: Stats,
    stage: Stage,
    before: usize,
    seen: usize,
    /// Frozen extractors beside the model's own.
    blocks: usize,
}

impl Objective for Expanded {
    fn enter(&mut self, device: &mut dyn Device, models: Models, view: &StageView) {
        (self.stage, self.before, self.seen, self.blocks) = (view.stage, view.before, view.seen, models.frozen.len());
        device.fill(self.temperature, self.settings.balance_temperature as f32);
    }

    fn path(&self) -> Path {
        if self.stage == Stage::Probe { Path::OwnAlone } else { Path::Features }
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        if self.stage == Stage::Probe { Trainable::stretch(head_range(list)) } else { list.trainable().clone() }
    }

    /// The auxiliary head's column 0 is all old classes together.
    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        self.head.load(device, batch.classes);
        let column = |class: &ClassId| (class.0 + 1).saturating_sub(self.before as u32);
        self.auxiliary.load(device, &batch.classes.iter().map(column).collect::<Vec<u32>>());
    }

    fn forward_backward(&self, device: &mut dyn Device, Models { clip, frozen, .. }: Models, loaded: Loaded) {
        let (head, vision, blocks, images) = (&self.head, &clip.vision, self.blocks, loaded.images);
        head.see(device, vision, frozen, images);
        let logits = head.logits(device, vision, blocks, images);
        let is_anew = self.stage == Stage::Probe;
        head.cross_entropy(device, logits, images, self.seen, is_anew.then_some(self.temperature));
        head.backward_weights(device, vision, blocks, images);
        if is_anew {
            return;
        }
        if blocks == 0 {
            return head.backward_features(device, images, vision.features_gradient());
        }
        let auxiliary = (self.settings.auxiliary, 1 + self.seen - self.before);
        self.auxiliary.forward_backward(device, clip, head, images, auxiliary);
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.head.loss(device)
    }

    fn key(&self) -> u64 {
        key_of((self.stage, self.before, self.seen, self.blocks))
    }

    fn scores(
        &self,
        device: &mut dyn Device,
        vision: &VisionTower,
        frozen: &[Frozen],
        images: usize,
    ) -> Option<Scores> {
        Some(self.head.scores(device, vision, frozen, self.blocks, images))
    }
}

/// By what the rows of the new classes, those from `before` to `seen`, are to be multiplied. `blocks` are the weights
/// `[classes, width]` on each extractor's features: a class's row runs through all of them. 1 where there are no old classes, or
/// no new ones.
pub(crate) fn alignment(blocks: &[&[f32]], width: usize, before: usize, seen: usize) -> f64 {
    let norm = |class: usize| -> f64 {
        let rows = blocks.iter().flat_map(|block| &block[class * width..(class + 1) * width]);
        rows.map(|w| (*w as f64).powi(2)).sum::<f64>().sqrt()
    };
    let mean = |classes: std::ops::Range<usize>| {
        let count = classes.len() as f64;
        classes.map(norm).sum::<f64>() / count
    };
    if before == 0 || before == seen {
        return 1.0;
    }
    let new = mean(before..seen);
    if new > 0.0 { mean(0..before) / new } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::alignment;

    #[test]
    fn new_rows_come_to_the_old_ones_mean_norm() {
        // Norms over both blocks: 5, 13 | 10, 0 and a class that is not seen.
        let first = [3.0, 0.0, 5.0, 0.0, 0.0, 6.0, 0.0, 0.0, 99.0, 99.0];
        let second = [0.0, 4.0, 0.0, 12.0, 8.0, 0.0, 0.0, 0.0, 99.0, 99.0];
        assert_eq!(alignment(&[&first, &second], 2, 2, 4), 9.0 / 5.0);
        assert_eq!(alignment(&[&first], 2, 0, 4), 1.0);
        assert_eq!(alignment(&[&first], 2, 2, 2), 1.0);
        assert_eq!(alignment(&[&first], 2, 2, 4), 4.0 / 3.0);
    }
}
