//! AdamW over a model's arenas.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::objective::key_of;
use crate::error::{Error, Result};
use crate::model::clip::Clip;
use crate::model::parameters::ParameterList;
use crate::model::trainable::{Piece, Trainable};
use crate::ops::adamw::{AdamW, AdamWArenas, AdamWSettings, GradientNorm, pace};
use crate::ops::{Device, Plan, Stats};

/// AdamW's settings, apart from the learning rate, which the schedule gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    /// Of the first moment, in [0, 1).
    pub beta1: f64,
    /// Of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment; above 0.
    pub eps: f64,
    /// Applied to matrices and embeddings alone.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global 2-norm; 0 never does.
    pub clip_norm: f64,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        OptimizerSettings { beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.2, clip_norm: 1.0 }
    }
}

/// AdamW (arXiv 1711.05101) with its moments on the device, over what a model can train.
pub struct Optimizer {
    settings: OptimizerSettings,
    /// Master weights and their copy over the whole arena; gradients and moments of what can be trained.
    arenas: AdamWArenas,
    /// What is trained, and the stretches of the arena under weight decay.
    pieces: Vec<Piece>,
    decays: Vec<Range<usize>>,
    norm: Stats,
    /// What the coming update depends on beside the gradients [3].
    pace: Stats,
    /// Launched since the moments were zeroed.
    updates: u64,
}

/// Moments on the host, as a checkpoint holds them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OptimizerState {
    pub first_moment: Vec<f32>,
    pub second_moment: Vec<f32>,
    pub updates: u64,
}

impl Optimizer {
    /// Plans for what `clip` can train, and trains all of it until [`Optimizer::train`].
    pub(crate) fn plan(plan: &mut Plan, settings: &OptimizerSettings, clip: &Clip) -> Optimizer {
        let (list, gradients) = (&clip.parameters, clip.weights.gradients);
        plan.section("optimiser", |plan| Optimizer {
            settings: settings.clone(),
            arenas: AdamWArenas {
                master: clip.weights.master,
                weights: clip.weights.storage,
                gradients,
                first_moment: plan.stats(gradients.len()),
                second_moment: plan.stats(gradients.len()),
            },
            pieces: list.trainable().pieces(list.trainable()),
            decays: list.decayed(),
            norm: plan.stats(1),
            pace: plan.stats(3),
            updates: 0,
        })
    }

    /// Forgets the moments: at the start of every step of a run.
    pub fn reset(&mut self, device: &mut dyn Device) {
        device.fill(self.arenas.first_moment, 0.0);
        device.fill(self.arenas.second_moment, 0.0);
        self.updates = 0;
    }

    /// Trains `some` of what was planned for from now on, and leaves the rest as it is: what is not trained has no gradient, and must not
    /// decay either. `spared` is trained without weight decay.
    pub(crate) fn train(&mut self, list: &ParameterList, some: &Trainable, spared: &[Range<usize>]) {
        self.pieces = list.trainable().pieces(some);
        self.decays = list.decayed();
        for spared in spared {
            let around = |decayed: &Range<usize>| {
                let before = decayed.start..decayed.end.min(spared.start);
                let after = decayed.start.max(spared.end)..decayed.end;
                [before, after].into_iter().filter(|part| !part.is_empty())
            };
            self.decays = self.decays.iter().flat_map(around).collect();
        }
    }

    /// Tells lists of launches apart: of everything on the host that [`Optimizer::update`] depends on.
    pub(crate) fn key(&self) -> u64 {
        key_of((&self.pieces, &self.decays))
    }

    /// What is trained.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    fn adamw_settings(&self) -> AdamWSettings {
        let OptimizerSettings { beta1, beta2, eps, weight_decay, clip_norm } = self.settings;
        AdamWSettings {
            beta1,
            beta2,
            eps,
            weight_decay,
            max_norm: if clip_norm > 0.0 { clip_norm } else { f64::INFINITY },
        }
    }

    /// Sends what the coming update depends on beside the gradients.
    pub fn load(&self, device: &mut dyn Device, learning_rate: f64) {
        let pace = pace(learning_rate, &self.adamw_settings(), self.updates + 1);
        device.write(self.pace, &pace.map(|x| x as f32));
    }

    /// Counts the update that is launched: the next one's batch may be sent before this one is done.
    pub(crate) fn count(&mut self) {
        self.updates += 1;
    }

    /// Updates the parameters from their gradients. Where the gradients' norm is not finite nothing changes. Gradients between the
    /// pieces count in the norm: they are 0.
    pub fn update(&self, device: &mut dyn Device) {
        let part = |span: Stats, range: &Range<usize>| span.slice(range.start, range.len());
        if let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) {
            let gradients = part(self.arenas.gradients, &(first.gradients.start..last.gradients.end));
            device.run(GradientNorm { gradients, norm: self.norm });
        }
        for Piece { arena, gradients } in &self.pieces {
            let arenas = AdamWArenas {
                master: part(self.arenas.master, arena),
                weights: self.arenas.weights.slice(arena.start, arena.len()),
                gradients: part(self.arenas.gradients, gradients),
                first_moment: part(self.arenas.first_moment, gradients),
                second_moment: part(self.arenas.second_moment, gradients),
            };
            let within = self.decays.iter().map(|decay| decay.start.max(arena.start)..decay.end.min(arena.end));
            let within = within.filter(|decay| !decay.is_empty());
            let decays: Vec<Range<usize>> =
                within.map(|decay| decay.start - arena.start..decay.end - arena.start).collect();
            let (settings, pace, norm) = (self.adamw_settings(), self.pace, self.norm);
            device.run(AdamW { settings, pace, arenas, norm, decayed: &decays });
        }
    }

    /// The gradients' 2-norm before clipping, once the update is done. Fails where that is not finite; parameters and moments
    /// are then as they were.
    pub fn finish(&self, device: &dyn Device) -> Result<f32> {
        let gradient_norm = device.read_vec(self.norm)[0];
        if !gradient_norm.is_finite() {
            return Err(Error::run(format!("the gradient's norm became {gradient_norm}")));
        }
        Ok(gradient_norm)
    }

    pub(crate) fn state(&self, device: &dyn Device) -> OptimizerState {
        OptimizerState {
            first_moment: device.read_vec(self.arenas.first_moment),
            second_moment: device.read_vec(self.arenas.second_moment),
            updates: self.updates,
        }
    }

    pub(crate) fn restore(&mut self, device: &mut dyn Device, state: &OptimizerState) {
        device.write(self.arenas.first_moment, &state.first_moment);
        device.write(self.arenas.second_moment, &state.second_moment);
        self.updates = state.updates;
    }
}
