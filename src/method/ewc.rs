//! Elastic weight consolidation (arXiv 1612.00796): cross-entropy, and a penalty on moving what earlier tasks need,
//! lambda / 2 sum_i F_i (w_i - w*_i)^2.

use std::ops::Range;

use super::cross_entropy::CrossEntropy;
use super::head::head_parameters;
use super::trial::Trial;
use super::{Closing, Entry, Method, Row};
use crate::error::Result;
use crate::method_settings;
use crate::model::clip::Clip;
use crate::model::frozen::Frozen;
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::{Piece, Trainable};
use crate::model::vision::VisionTower;
use crate::ops::arena::{AccumulateFisher, AccumulateSquares, QuadraticPenalty};
use crate::ops::{Device, Plan, Stats};
use crate::train::{
    Loaded, Models, Objective, Path, Planned, Recipe, Scores, Stage, StageView, TrainBatch, TrainerSpec, key_of,
};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[EwcSettings::GROUP],
    ..Entry::new(
        Row {
            name: "ewc",
            summary: "cross-entropy, and a penalty on moving what earlier tasks need (elastic weight consolidation)",
            ..Row::DEFAULT
        },
        |row, chosen| Box::new(Ewc { row, settings: EwcSettings::of(chosen.objective) }),
    )
};

method_settings! {
    EwcSettings in "ewc" {
        /// strength of ewc's penalty
        lambda: f64 = 1000.0, 0.0..=1e12;
        /// upper limit of each task's Fisher information
        fisher_limit: f64 = 1e-4, 0.0..=f64::INFINITY;
        /// whether the loss is over the step's own classes alone, and not over all seen so far
        own_classes: bool = true;
    }
}

struct Ewc {
    row: Row,
    settings: EwcSettings,
}

impl Recipe for Ewc {
    fn keeps_start(&self) -> bool {
        true
    }

    fn extras(&self, spec: &TrainerSpec) -> Vec<Extra> {
        head_parameters(spec, 0)
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.images()
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let trained = planned.clip.parameters.trainable().len();
        Box::new(Penalized {
            plain: CrossEntropy::plan(plan, planned, self.settings.own_classes),
            settings: self.settings.clone(),
            squares: plan.stats(trained),
            fisher: plan.stats(trained),
            penalty: plan.stats(1),
            in_force: false,
        })
    }
}

impl Method for Ewc {
    fn row(&self) -> &Row {
        &self.row
    }

    /// The mean of squared gradients over one pass over the step's samples.
    fn close(&self, closing: &mut dyn Closing) -> Result<()> {
        closing.gather()
    }

    fn trials(&self) -> Vec<Trial> {
        // The penalty is then about as large as the loss, and hides nothing of it.
        let persistent = Some(("fisher", 0.1 * self.settings.fisher_limit));
        vec![Trial { persistent, ..Trial::of_logits(Stage::Main, 1.0) }]
    }
}

/// The objective. F is the diagonal Fisher information of all tasks before, over what is trained.
struct Penalized {
    plain: CrossEntropy,
    settings: EwcSettings,
    /// Squared gradients of the present task that are being summed up.
    squares: Stats,
    fisher: Stats,
    penalty: Stats,
    /// Whether there was a task before.
    in_force: bool,
}

impl Objective for Penalized {
    fn enter(&mut self, device: &mut dyn Device, models: Models, view: &StageView) {
        self.plain.enter(device, models, view);
        self.in_force = view.is_later();
    }

    fn path(&self) -> Path {
        self.plain.path()
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, loaded: Loaded) {
        self.plain.load(device, batch, loaded);
    }

    fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
        self.plain.forward_backward(device, models, loaded);
    }

    fn penalize(&self, device: &mut dyn Device, models: Models, pieces: &[Piece]) {
        device.fill(self.penalty, 0.0);
        if !self.in_force {
            return;
        }
        let weights = &models.clip.weights;
        for Piece { arena, gradients } in pieces {
            let of_arena = |span: Stats| span.slice(arena.start, arena.len());
            let of_gradients = |span: Stats| span.slice(gradients.start, gradients.len());
            device.run(QuadraticPenalty {
                strength: self.settings.lambda,
                fisher: of_gradients(self.fisher),
                anchor: of_arena(models.start),
                master: of_arena(weights.master),
                gradients: of_gradients(weights.gradients),
                loss: self.penalty,
            });
        }
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.plain.loss(device) + device.read_vec(self.penalty)[0]
    }

    fn key(&self) -> u64 {
        key_of((self.plain.key(), self.in_force))
    }

    fn spared(&self, list: &ParameterList) -> Vec<Range<usize>> {
        self.plain.spared(list)
    }

    fn persistent(&self) -> Vec<(&'static str, Stats)> {
        vec![("fisher", self.fisher)]
    }

    fn gather(&self, device: &mut dyn Device, clip: &Clip) {
        device.run(AccumulateSquares { gradients: clip.weights.gradients, squares: self.squares });
    }

    /// The present task's Fisher information joins that of the tasks before.
    fn gathered(&self, device: &mut dyn Device, batches: usize) {
        let (scale, limit) = (1.0 / batches as f64, self.settings.fisher_limit);
        device.run(AccumulateFisher { scale, limit, squares: self.squares, fisher: self.fisher });
        device.fill(self.squares, 0.0);
    }

    fn scores(
        &self,
        device: &mut dyn Device,
        vision: &VisionTower,
        frozen: &[Frozen],
        images: usize,
    ) -> Option<Scores> {
        self.plain.scores(device, vision, frozen, images)
    }
}
