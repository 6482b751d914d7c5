//! One training step: towers forward, objective, towers backward, optimiser.

use std::ops::Range;

use super::optimizer::Optimizer;
use super::spec::TrainerSpec;
use super::texts::BatchTexts;
use crate::error::{Error, Result};
use crate::model::clip::{Capacity, Clip};
use crate::model::frozen::Frozen;
use crate::model::parameters::ParameterList;
use crate::model::text::LoadedTexts;
use crate::model::transformer::Purpose;
use crate::objective::{
    BatchIndex, ClassLoss, ContrastiveObjective, HeadObjective, Objective, ObjectiveKind, SimilarityDistillation,
    TextLoss, ViewObjective,
};
use crate::ops::adamw::Clamp;
use crate::ops::arena::{AccumulateFisher, AccumulateSquares, Interpolate, QuadraticPenalty};
use crate::ops::{Device, Plan, Stats};

/// A model in training on a device.
pub struct Trainer<D> {
    pub device: D,
    pub clip: Clip,
    /// The same weights with memory for evaluation.
    pub evaluation: Clip,
    /// Teachers and earlier extractors, and how many of them are in use.
    pub frozen: Vec<Frozen>,
    pub frozen_in_use: usize,
    pub objective: Objective,
    pub optimizer: Optimizer,
    /// The parameters that the step started from; empty where they are not kept.
    pub start: Stats,
    pub fisher: Option<Fisher>,
    learn_logit_scale: bool,
    full_context: bool,
    phase: Phase,
    loaded: Loaded,
}

/// What a training step trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All that the objective has a gradient for.
    Whole,
    /// The linear head alone, on features that stay as they are.
    Head,
}

/// ewc's diagonal Fisher information: what is being summed up, all tasks before, and the penalty's value.
#[derive(Clone, Copy)]
pub struct Fisher {
    squares: Stats,
    pub total: Stats,
    penalty: Stats,
    strength: f64,
    limit: f64,
    /// Whether there was a task before.
    pub in_force: bool,
}

/// Sizes of the batch on the device; `tokens` is the length that texts run at.
#[derive(Clone, Copy, Debug, Default)]
struct Loaded {
    images: usize,
    texts: LoadedTexts,
}

/// A batch on the host. Which of its parts are read is the objective's choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainBatch<'a> {
    /// u8 `[views * samples, size, size, 3]`, view by view.
    pub pixels: &'a [u8],
    pub texts: Option<&'a BatchTexts<'a>>,
    /// Place of each sample in the data set `[samples]`.
    pub slot: &'a [u32],
    /// Class of each sample in the order of the stream `[samples]`.
    pub labels: &'a [u32],
    /// Whether each sample is of the step itself, not of the memory `[samples]`.
    pub own: &'a [bool],
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    pub loss: f32,
    /// Before clipping.
    pub gradient_norm: f32,
}

impl<D: Device> Trainer<D> {
    /// The trainer's memory, section by section, and what to build it from.
    pub fn plan(spec: &TrainerSpec, evaluation: Capacity) -> (Plan, impl FnOnce(D) -> Trainer<D> + use<D>) {
        let mut plan = Plan::new::<D>();
        let Capacity { images, texts } = spec.capacity;
        let list = spec.parameters();
        let clip = Clip::plan_listed(&mut plan, &spec.model, list, spec.capacity, Purpose::Training);
        let (count, part) = spec.frozen();
        let largest = Capacity { images: images.max(evaluation.images), texts };
        let frozen = Frozen::plan(&mut plan, &clip, count, part, largest);
        let settings = &spec.objective_settings;
        let head = |plan: &mut Plan| HeadObjective::plan(plan, settings, &clip, &frozen, largest.images);
        let objective = match spec.objective {
            ObjectiveKind::Texts(loss) => Objective::Texts {
                contrast: ContrastiveObjective::plan(
                    &mut plan,
                    loss,
                    settings,
                    &clip,
                    spec.capacity,
                    spec.samples,
                    spec.classes,
                    spec.by_class,
                ),
                distillation: (loss == TextLoss::Lwf)
                    .then(|| SimilarityDistillation::plan(&mut plan, settings.lwf.mu, &clip)),
            },
            ObjectiveKind::Classes(_) => Objective::Classes(head(&mut plan)),
            ObjectiveKind::Views(loss) => {
                let contrast = ViewObjective::plan(&mut plan, loss, settings, &clip, images);
                Objective::Views { contrast, head: head(&mut plan) }
            }
        };
        let mut optimizer = Optimizer::plan(&mut plan, &spec.optimizer, &clip);
        optimizer.train_only(trained(&clip.parameters, &objective, Phase::Whole));
        let arena = clip.weights.master.len();
        let ewc = spec.objective == ObjectiveKind::Classes(ClassLoss::Ewc);
        let start = plan.section("optimiser", |plan| plan.stats(if spec.keeps_start { arena } else { 0 }));
        let fisher = ewc.then(|| {
            plan.section("optimiser", |plan| Fisher {
                squares: plan.stats(arena),
                total: plan.stats(arena),
                penalty: plan.stats(1),
                strength: settings.ewc.lambda,
                limit: settings.ewc.fisher_limit,
                in_force: false,
            })
        });
        let evaluation = clip.plan_sharing(&mut plan, evaluation, Purpose::Inference);
        let learn_logit_scale = spec.learn_logit_scale;
        let build = move |mut device: D| {
            match &objective {
                Objective::Texts { contrast, .. } => contrast.reset(&mut device),
                Objective::Classes(_) => {}
                Objective::Views { contrast, .. } => contrast.reset(&mut device),
            }
            Trainer {
                device,
                clip,
                evaluation,
                frozen,
                frozen_in_use: 0,
                objective,
                optimizer,
                start,
                fisher,
                learn_logit_scale,
                full_context: false,
                phase: Phase::Whole,
                loaded: Loaded::default(),
            }
        };
        (plan, build)
    }

    /// Plans and allocates at once. Fails when the device has too little memory.
    pub fn new(place: &D::Place, spec: &TrainerSpec, evaluation: Capacity) -> Result<Trainer<D>> {
        let (plan, build) = Trainer::plan(spec, evaluation);
        Ok(build(D::with_plan(place, &plan)?))
    }

    /// Runs texts at the full context length, as programs do that pad; for measuring what that costs.
    pub fn set_full_context(&mut self, full_context: bool) {
        self.full_context = full_context;
    }

    /// Trains `phase` from now on, with an objective whose stage may be another one.
    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        // What the phase has no gradient for would else move, and count in the norm, by what an earlier one left there.
        self.device.fill(self.clip.weights.gradients, 0.0);
        self.optimizer.train_only(trained(&self.clip.parameters, &self.objective, phase));
        // Ops of the next stage may have other shapes, teachers and constants.
        if !matches!(self.objective, Objective::Texts { distillation: None, .. }) {
            self.device.forget();
        }
    }

    /// Keeps the model as it is now as frozen model number `place`; later ones are no longer in use.
    pub fn freeze(&mut self, place: usize) {
        self.frozen[place].take(&mut self.device, &self.clip);
        self.frozen_in_use = place + 1;
    }

    /// Keeps the parameters as they are now as those that the step starts from.
    pub fn keep_start(&mut self) {
        if !self.start.is_empty() {
            self.device.copy(self.clip.weights.master, self.start);
        }
    }

    /// Takes back the parameters that the step started from.
    pub fn return_to_start(&mut self) {
        self.device.copy(self.start, self.clip.weights.master);
        self.device.refresh(self.clip.weights.master, self.clip.weights.storage);
    }

    /// w = (1 - alpha) w~ + alpha w of the parameters w~ that the step started from and `trained` w: [`Interpolate`].
    pub fn interpolate(&mut self, trained: &[f32], alpha: f64) {
        let (master, storage) = (self.clip.weights.master, self.clip.weights.storage);
        self.device.write(master, trained);
        self.device.run(Interpolate { alpha: 1.0 - alpha, y: self.start, x: master });
        self.device.refresh(master, storage);
    }

    /// Sends a batch. A device that works on its own may still be at the step before. `gamma` is the batch's weight in the
    /// moving averages.
    pub fn load(&mut self, batch: TrainBatch, learning_rate: f64, gamma: f64) {
        let Trainer { device, clip, objective, .. } = self;
        let images = match (&objective, self.phase) {
            (Objective::Views { .. }, Phase::Whole) => 2 * batch.slot.len(),
            _ => batch.slot.len(),
        };
        assert!(images <= clip.capacity.images, "the batch is larger than planned");
        device.write(clip.vision.pixels(), batch.pixels);
        let mut loaded = LoadedTexts::default();
        match objective {
            Objective::Texts { contrast, distillation } => {
                let BatchTexts { tokens, text_of, class_of_text } = batch.texts.expect("the objective reads texts");
                assert!(tokens.len() <= clip.capacity.texts, "the batch has more texts than planned");
                let length = match self.full_context {
                    true => clip.text.load_at(device, tokens, clip.spec.text_cfg.context_length),
                    false => clip.text.load(device, tokens),
                };
                loaded = LoadedTexts { texts: tokens.len(), tokens: length };
                contrast.load(device, BatchIndex { text_of, class_of_text, slot: batch.slot }, gamma);
                if let Some(distillation) = distillation {
                    distillation.load(device, text_of, tokens.len());
                }
            }
            Objective::Classes(head) => head.load(device, batch.labels),
            Objective::Views { contrast, head } => match self.phase {
                Phase::Whole => contrast.load(device, batch.labels, batch.own),
                Phase::Head => head.load(device, batch.labels),
            },
        }
        self.optimizer.load(device, learning_rate);
        self.loaded = Loaded { images, texts: loaded };
    }

    /// Loss and gradients of a batch, without an update and without ewc's penalty.
    pub fn gradients(&mut self, batch: TrainBatch, gamma: f64) {
        self.load(batch, 0.0, gamma);
        let Trainer { device, clip, frozen, objective, phase, learn_logit_scale, loaded, .. } = self;
        forward_backward(device, clip, frozen, objective, *phase, *learn_logit_scale, *loaded);
    }

    /// Starts the step on the loaded batch. A device that works on its own may return before it is done.
    pub fn launch(&mut self) {
        self.optimizer.count();
        let Trainer { device, clip, frozen, objective, optimizer, start, fisher, .. } = self;
        let Loaded { images, texts: LoadedTexts { texts, tokens } } = self.loaded;
        let (phase, loaded, learn_logit_scale) = (self.phase, self.loaded, self.learn_logit_scale);
        device.record([images, texts, tokens], |device| {
            forward_backward(device, clip, frozen, objective, phase, learn_logit_scale, loaded);
            if let Some(fisher) = fisher {
                device.fill(fisher.penalty, 0.0);
                if fisher.in_force {
                    // What is not trained has no information, and does not move.
                    let range = optimizer.trained();
                    let part = |span: Stats| span.slice(range.start, range.len());
                    let (master, gradients) = (part(clip.weights.master), part(clip.weights.gradients));
                    let Fisher { strength, total, penalty, .. } = *fisher;
                    device.run(QuadraticPenalty {
                        strength,
                        fisher: part(total),
                        anchor: part(*start),
                        master,
                        gradients,
                        loss: penalty,
                    });
                }
            }
            device.phase("optimiser");
            optimizer.update(device);
            if learn_logit_scale {
                device.run(Clamp {
                    master: clip.logit_scale_master,
                    weights: clip.logit_scale,
                    low: 0.0,
                    high: Clip::MAX_LOGIT_SCALE,
                });
            }
        });
    }

    /// What the launched step came to, once it is done. Fails when the loss or the gradient is not finite, or when the device
    /// failed. Where the gradient's norm is not finite the parameters are as they were before the step.
    pub fn finish(&mut self) -> Result<StepReport> {
        let loss = self.loss();
        self.device.health()?;
        if !loss.is_finite() {
            return Err(Error::run(format!("the loss became {loss}")));
        }
        Ok(StepReport { loss, gradient_norm: self.optimizer.finish(&self.device)? })
    }

    /// The loss of the batch that was last computed, penalties included.
    pub fn loss(&self) -> f32 {
        let device = &self.device;
        let objective = match (&self.objective, self.phase) {
            (Objective::Texts { contrast, distillation }, _) => {
                contrast.loss(device) + distillation.as_ref().map_or(0.0, |distillation| distillation.loss(device))
            }
            (Objective::Views { contrast, .. }, Phase::Whole) => contrast.loss(device),
            (Objective::Classes(head) | Objective::Views { head, .. }, _) => head.loss(device),
        };
        objective + self.fisher.map_or(0.0, |fisher| device.read_vec(fisher.penalty)[0])
    }

    /// One whole step on a batch.
    pub fn step(&mut self, batch: TrainBatch, learning_rate: f64, gamma: f64) -> Result<StepReport> {
        self.load(batch, learning_rate, gamma);
        self.launch();
        self.finish()
    }

    /// All parameters, the arena of [`ParameterList`].
    pub fn parameters(&self) -> Vec<f32> {
        self.device.read_vec(self.clip.weights.master)
    }

    /// Adds the squared gradients of a batch to the Fisher information of the present task.
    pub fn add_to_fisher(&mut self, batch: TrainBatch) {
        self.gradients(batch, 1.0);
        if let Some(fisher) = self.fisher {
            self.device.run(AccumulateSquares { gradients: self.clip.weights.gradients, squares: fisher.squares });
        }
    }

    /// The present task's Fisher information, over `batches` batches, joins that of the tasks before.
    pub fn finish_fisher(&mut self, batches: usize) {
        if let Some(fisher) = self.fisher {
            self.device.run(AccumulateFisher {
                scale: 1.0 / batches as f64,
                limit: fisher.limit,
                squares: fisher.squares,
                fisher: fisher.total,
            });
            self.device.fill(fisher.squares, 0.0);
        }
    }
}

/// The stretch of the arena that is trained: what lies outside it has no gradient, and must not decay either.
fn trained(list: &ParameterList, objective: &Objective, phase: Phase) -> Range<usize> {
    match (objective, phase) {
        (Objective::Texts { .. }, _) => 0..list.arena_len(),
        (_, Phase::Head) => list.get("head.weight").offset..list.get("head.bias").range().end,
        (Objective::Classes(_), Phase::Whole) => list.vision().start..list.extras().end,
        // The head is the last of a method's own.
        (Objective::Views { .. }, Phase::Whole) => list.vision().start..list.get("head.weight").offset,
    }
}

/// Loss and gradients of the loaded batch.
#[allow(clippy::too_many_arguments)]
fn forward_backward<D: Device>(
    device: &mut D,
    clip: &Clip,
    frozen: &[Frozen],
    objective: &Objective,
    phase: Phase,
    learn_logit_scale: bool,
    Loaded { images, texts }: Loaded,
) {
    device.phase("forward");
    clip.vision.forward(device, images);
    match objective {
        Objective::Texts { contrast, distillation } => {
            clip.text.forward(device, texts.texts, texts.tokens);
            device.phase("objective");
            contrast.forward_backward(device, clip, images, texts.texts);
            if let Some(distillation) = distillation {
                distillation.forward_backward(device, clip, frozen, images, texts);
            }
            device.phase("backward");
            clip.text.backward(device, texts.texts, texts.tokens);
            clip.vision.backward(device, images);
            if !learn_logit_scale {
                device.fill(clip.logit_scale_gradient, 0.0);
            }
        }
        Objective::Classes(head) => {
            device.phase("objective");
            head.forward_backward(device, clip, frozen, images);
            device.phase("backward");
            clip.vision.backward_features(device, images);
        }
        Objective::Views { contrast, .. } if phase == Phase::Whole => {
            device.phase("objective");
            contrast.forward_backward(device, clip, frozen, images);
            device.phase("backward");
            clip.vision.backward(device, images);
        }
        Objective::Views { head, .. } => {
            device.phase("objective");
            head.forward_backward_head(device, &clip.vision, images);
        }
    }
}
