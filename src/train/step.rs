//! One training step: both towers forward, objective, both towers backward, optimiser.

use super::optimizer::{Optimizer, OptimizerSettings};
use super::texts::BatchTexts;
use crate::error::{Error, Result};
use crate::model::clip::{Capacity, Clip};
use crate::model::spec::ModelSpec;
use crate::model::transformer::Purpose;
use crate::objective::{BatchIndex, ContrastiveObjective, ObjectiveKind, ObjectiveSettings};
use crate::ops::{Device, Plan};

/// What a trainer is planned for.
#[derive(Clone, Debug)]
pub struct TrainerSpec {
    pub model: ModelSpec,
    pub capacity: Capacity,
    pub objective: ObjectiveKind,
    pub objective_settings: ObjectiveSettings,
    pub optimizer: OptimizerSettings,
    /// Whether the logit scale is trained; a pretrained model's is usually left alone.
    pub learn_logit_scale: bool,
    /// Samples in the data set, for the moving averages.
    pub samples: usize,
    pub classes: usize,
    /// Texts are class prompts.
    pub by_class: bool,
}

/// A model in training on a device.
pub struct Trainer<D> {
    pub device: D,
    pub clip: Clip,
    /// The same weights with memory for evaluation.
    pub evaluation: Clip,
    pub objective: ContrastiveObjective,
    pub optimizer: Optimizer,
    learn_logit_scale: bool,
    full_context: bool,
    loaded: Loaded,
}

/// Sizes of the batch on the device; `tokens` is the length that texts run at.
#[derive(Clone, Copy, Debug, Default)]
struct Loaded {
    images: usize,
    texts: usize,
    tokens: usize,
}

/// A batch on the host.
#[derive(Clone, Copy, Debug)]
pub struct TrainBatch<'a> {
    /// u8 `[samples, size, size, 3]`.
    pub pixels: &'a [u8],
    pub texts: &'a BatchTexts<'a>,
    /// Place of each sample in the data set `[samples]`.
    pub slot: &'a [u32],
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
        let clip = Clip::plan(&mut plan, &spec.model, spec.capacity, Purpose::Training);
        let objective = ContrastiveObjective::plan(
            &mut plan,
            spec.objective,
            &spec.objective_settings,
            &clip,
            spec.capacity,
            spec.samples,
            spec.classes,
            spec.by_class,
        );
        let optimizer = Optimizer::plan(&mut plan, &spec.optimizer, &clip);
        let evaluation = clip.plan_sharing(&mut plan, evaluation, Purpose::Inference);
        let learn_logit_scale = spec.learn_logit_scale;
        let build = move |mut device: D| {
            objective.reset(&mut device);
            Trainer {
                device,
                clip,
                evaluation,
                objective,
                optimizer,
                learn_logit_scale,
                full_context: false,
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

    /// Sends a batch. A device that works on its own may still be at the step before. `gamma` is the batch's weight in the
    /// moving averages.
    pub fn load(&mut self, batch: TrainBatch, learning_rate: f64, gamma: f64) {
        let Trainer { device, clip, objective, .. } = self;
        let (images, texts) = (batch.slot.len(), batch.texts.tokens.len());
        assert!(images <= clip.capacity.images && texts <= clip.capacity.texts, "the batch is larger than planned");
        device.write(clip.vision.pixels(), batch.pixels);
        let tokens = match self.full_context {
            true => clip.text.load_at(device, &batch.texts.tokens, clip.spec.text_cfg.context_length),
            false => clip.text.load(device, &batch.texts.tokens),
        };
        let index =
            BatchIndex { text_of: &batch.texts.text_of, class_of_text: &batch.texts.class_of_text, slot: batch.slot };
        objective.load(device, index, gamma);
        self.optimizer.load(device, learning_rate);
        self.loaded = Loaded { images, texts, tokens };
    }

    /// Loss and gradients of a batch, without an update.
    pub fn gradients(&mut self, batch: TrainBatch, gamma: f64) {
        self.load(batch, 0.0, gamma);
        let Trainer { device, clip, objective, learn_logit_scale, loaded, .. } = self;
        forward_backward(device, clip, objective, *learn_logit_scale, *loaded);
    }

    /// Starts the step on the loaded batch. A device that works on its own may return before it is done.
    pub fn launch(&mut self) {
        let Trainer { device, clip, objective, optimizer, learn_logit_scale, loaded, .. } = self;
        let Loaded { images, texts, tokens } = *loaded;
        device.record([images, texts, tokens], |device| {
            forward_backward(device, clip, objective, *learn_logit_scale, *loaded);
            device.phase("optimiser");
            optimizer.update(device);
            if *learn_logit_scale {
                device.clamp(clip.logit_scale_master, clip.logit_scale, 0.0, Clip::MAX_LOGIT_SCALE);
            }
        });
    }

    /// What the launched step came to, once it is done. Fails when the loss or the gradient is not finite, or when the device
    /// failed. Where the gradient's norm is not finite the parameters are as they were before the step.
    pub fn finish(&mut self) -> Result<StepReport> {
        let loss = self.objective.loss(&self.device);
        self.device.health()?;
        if !loss.is_finite() {
            return Err(Error::run(format!("the loss became {loss}")));
        }
        Ok(StepReport { loss, gradient_norm: self.optimizer.finish(&self.device)? })
    }

    /// One whole step on a batch.
    pub fn step(&mut self, batch: TrainBatch, learning_rate: f64, gamma: f64) -> Result<StepReport> {
        self.load(batch, learning_rate, gamma);
        self.launch();
        self.finish()
    }

    /// All parameters, the arena of [`crate::model::parameters::ParameterList`].
    pub fn parameters(&self) -> Vec<f32> {
        self.device.read_vec(self.clip.weights.master)
    }
}

/// Loss and gradients of the loaded batch.
fn forward_backward<D: Device>(
    device: &mut D,
    clip: &Clip,
    objective: &ContrastiveObjective,
    learn_logit_scale: bool,
    Loaded { images, texts, tokens }: Loaded,
) {
    device.phase("forward");
    clip.vision.forward(device, images);
    clip.text.forward(device, texts, tokens);
    device.phase("objective");
    objective.forward_backward(device, clip, images, texts);
    device.phase("backward");
    clip.text.backward(device, texts, tokens);
    clip.vision.backward(device, images);
    if !learn_logit_scale {
        device.fill(clip.logit_scale_gradient, 0.0);
    }
}
