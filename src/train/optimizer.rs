//! AdamW over a model's arenas.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::clip::Clip;
use crate::ops::adamw::{AdamW, AdamWArenas, AdamWSettings, GradientNorm, pace};
use crate::ops::{Device, Plan, Stats};

/// AdamW's settings, apart from the learning rate, which the schedule gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    pub beta1: f64,
    pub beta2: f64,
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

pub struct Optimizer {
    settings: OptimizerSettings,
    /// The whole arenas, and the stretch of them that is trained.
    arenas: AdamWArenas,
    trained: Range<usize>,
    /// Under weight decay, of what can be trained and of what is.
    decayed: Vec<Range<usize>>,
    decays: Vec<Range<usize>>,
    norm: Stats,
    /// What the coming update depends on beside the gradients [3].
    pace: Stats,
    /// Steps launched since the moments were zeroed.
    steps: u64,
}

/// Moments on the host, as a checkpoint holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerState {
    pub first_moment: Vec<f32>,
    pub second_moment: Vec<f32>,
    pub steps: u64,
}

impl Optimizer {
    pub fn plan(plan: &mut Plan, settings: &OptimizerSettings, clip: &Clip) -> Optimizer {
        plan.section("optimiser", |plan| Optimizer {
            settings: settings.clone(),
            arenas: AdamWArenas {
                master: clip.weights.master,
                weights: clip.weights.storage,
                gradients: clip.weights.gradients,
                first_moment: plan.stats(clip.weights.master.len()),
                second_moment: plan.stats(clip.weights.master.len()),
            },
            trained: 0..clip.weights.master.len(),
            decays: clip.parameters.decayed(),
            decayed: clip.parameters.decayed(),
            norm: plan.stats(1),
            pace: plan.stats(3),
            steps: 0,
        })
    }

    /// Forgets the moments: at the start of every step of a run.
    pub fn reset<D: Device>(&mut self, device: &mut D) {
        device.fill(self.arenas.first_moment, 0.0);
        device.fill(self.arenas.second_moment, 0.0);
        self.steps = 0;
    }

    /// Trains this stretch of the arena from now on, and leaves the rest as it is.
    pub fn train_only(&mut self, range: Range<usize>) {
        let within = self.decayed.iter().map(|decayed| decayed.start.max(range.start)..decayed.end.min(range.end));
        self.decays = within.filter(|decayed| !decayed.is_empty()).collect();
        self.trained = range;
    }

    /// The stretch of the arena that is trained.
    pub fn trained(&self) -> Range<usize> {
        self.trained.clone()
    }

    /// Spares this stretch weight decay, until the next [`Optimizer::train_only`].
    pub fn spare(&mut self, range: Range<usize>) {
        let around = |decayed: &Range<usize>| {
            let (before, after) =
                (decayed.start..decayed.end.min(range.start), decayed.start.max(range.end)..decayed.end);
            [before, after].into_iter().filter(|part| !part.is_empty())
        };
        self.decays = self.decays.iter().flat_map(around).collect();
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
    pub fn load<D: Device>(&self, device: &mut D, learning_rate: f64) {
        let pace = pace(learning_rate, &self.adamw_settings(), self.steps + 1);
        device.write(self.pace, &pace.map(|x| x as f32));
    }

    /// Counts the step that is launched: the next one's batch may be sent before this one is done.
    pub fn count(&mut self) {
        self.steps += 1;
    }

    /// Updates the parameters from their gradients. Where the gradients' norm is not finite nothing changes.
    pub fn update<D: Device>(&self, device: &mut D) {
        let Range { start, end } = self.trained;
        let part = |span: Stats| span.slice(start, end - start);
        let arenas = AdamWArenas {
            master: part(self.arenas.master),
            weights: self.arenas.weights.slice(start, end - start),
            gradients: part(self.arenas.gradients),
            first_moment: part(self.arenas.first_moment),
            second_moment: part(self.arenas.second_moment),
        };
        let decays: Vec<Range<usize>> =
            self.decays.iter().map(|range| range.start - start..range.end - start).collect();
        device.run(GradientNorm { gradients: arenas.gradients, norm: self.norm });
        device.run(AdamW {
            settings: self.adamw_settings(),
            pace: self.pace,
            arenas,
            norm: self.norm,
            decayed: &decays,
        });
    }

    /// The gradients' 2-norm before clipping, once the update is done. Fails where that is not finite; parameters and moments
    /// are then as they were.
    pub fn finish<D: Device>(&self, device: &D) -> Result<f32> {
        let gradient_norm = device.read_vec(self.norm)[0];
        if !gradient_norm.is_finite() {
            return Err(Error::run(format!("the gradient's norm became {gradient_norm}")));
        }
        Ok(gradient_norm)
    }

    pub fn state<D: Device>(&self, device: &D) -> OptimizerState {
        OptimizerState {
            first_moment: device.read_vec(self.arenas.first_moment),
            second_moment: device.read_vec(self.arenas.second_moment),
            steps: self.steps,
        }
    }

    pub fn restore<D: Device>(&mut self, device: &mut D, state: &OptimizerState) {
        device.write(self.arenas.first_moment, &state.first_moment);
        device.write(self.arenas.second_moment, &state.second_moment);
        self.steps = state.steps;
    }
}
