//! One iteration of training: towers forward, objective, towers backward, optimiser.

use super::objective::{Loaded, Models, Objective, Path, Planned, Recipe, key_of};
use super::optimizer::Optimizer;
use super::spec::TrainerSpec;
use super::stage::StageView;
use super::texts::BatchTexts;
use crate::error::{Error, Result};
use crate::eval::similarities::Similarities;
use crate::model::clip::{Capacity, Clip};
use crate::model::frozen::Frozen;
use crate::model::parameters::ParameterList;
use crate::model::text::LoadedTexts;
use crate::model::transformer::Purpose;
use crate::ops::adamw::Clamp;
use crate::ops::arena::Interpolate;
use crate::ops::{Backend, Device, Plan, RecordKey, Stats};
use crate::stream::ClassId;

/// A model in training on a device.
pub struct Trainer {
    /// Holds all that was planned.
    pub device: Box<dyn Device>,
    /// With memory for a batch in training.
    pub clip: Clip,
    /// The same weights with memory for evaluation.
    pub(crate) evaluation: Clip,
    /// Of evaluation's embeddings.
    pub(crate) similarities: Similarities,
    /// Teachers and earlier extractors.
    pub frozen: Vec<Frozen>,
    /// How many of `frozen`, from the first on, hold a model by now.
    pub frozen_in_use: usize,
    /// What the method minimises.
    pub objective: Box<dyn Objective>,
    /// Updates what the stage trains.
    pub optimizer: Optimizer,
    /// The parameters that the step started from; empty where they are not kept.
    pub(crate) start: Stats,
    learn_logit_scale: bool,
    full_context: bool,
    loaded: Loaded,
    /// Of the present stage's launches.
    key: u64,
}

/// A batch on the host. Which of its parts are read is the objective's choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainBatch<'a> {
    /// u8 `[views * samples, size, size, 3]`, view by view.
    pub pixels: &'a [u8],
    /// The batch's distinct prompts; none where the objective reads no texts.
    pub texts: Option<&'a BatchTexts<'a>>,
    /// Place of each sample in the data set `[samples]`.
    pub slot: &'a [u32],
    /// Class of each sample in the order of the stream `[samples]`.
    pub classes: &'a [ClassId],
    /// Whether each sample is of the step itself, not of the memory `[samples]`.
    pub own: &'a [bool],
    /// The stage's epoch, from 0.
    pub epoch: usize,
    /// Epochs of the stage.
    pub epochs: usize,
}

/// What an iteration came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IterationReport {
    /// The batch's loss, penalties included.
    pub loss: f32,
    /// Before clipping.
    pub gradient_norm: f32,
}

impl Trainer {
    /// The trainer's memory, section by section, and what to build it from.
    pub(crate) fn plan<B: Backend>(
        spec: &TrainerSpec,
        recipe: &dyn Recipe,
        evaluation: Capacity,
    ) -> (Plan, impl FnOnce(B) -> Trainer + use<B>) {
        let mut plan = Plan::new::<B>();
        let Capacity { images, texts } = spec.capacity;
        let list = spec.parameters(recipe);
        let clip = Clip::plan_listed(&mut plan, &spec.model, list, spec.capacity, Purpose::Training);
        let (count, part) = recipe.frozen(spec);
        let largest = Capacity { images: images.max(evaluation.images), texts };
        let frozen = Frozen::plan(&mut plan, &clip, count, part, largest);
        let planned = Planned { spec, clip: &clip, frozen: &frozen, images: largest.images };
        let mut objective = plan.section("objective", |plan| recipe.plan(plan, &planned));
        let optimizer = Optimizer::plan(&mut plan, &spec.optimizer, &clip);
        let start = if recipe.keeps_start() { clip.weights.master.len() } else { 0 };
        let start = plan.section("optimiser", |plan| plan.stats(start));
        let evaluation = clip.plan_sharing(&mut plan, evaluation, Purpose::Inference);
        let similarities = Similarities::plan(&mut plan, spec.model.embed_dim);
        let learn_logit_scale = spec.learn_logit_scale;
        let build = move |device: B| {
            let mut device: Box<dyn Device> = Box::new(device);
            objective.reset(&mut *device);
            let key = key_of((objective.key(), optimizer.key()));
            Trainer {
                device,
                clip,
                evaluation,
                similarities,
                frozen,
                frozen_in_use: 0,
                objective,
                optimizer,
                start,
                learn_logit_scale,
                full_context: false,
                loaded: Loaded::default(),
                key,
            }
        };
        (plan, build)
    }

    /// Plans and allocates at once. Fails when the device has too little memory.
    pub fn new<B: Backend>(
        place: &B::Place,
        spec: &TrainerSpec,
        recipe: &dyn Recipe,
        evaluation: Capacity,
    ) -> Result<Trainer> {
        let (plan, build) = Trainer::plan::<B>(spec, recipe, evaluation);
        Ok(build(B::with_plan(place, &plan)?))
    }

    /// Runs texts at the full context length, as programs do that pad; for measuring what that costs.
    pub fn set_full_context(&mut self, full_context: bool) {
        self.full_context = full_context;
    }

    /// Trains the stage `view` from now on.
    pub fn enter(&mut self, view: &StageView) {
        let Trainer { device, clip, frozen, frozen_in_use, objective, optimizer, start, .. } = self;
        // What the stage has no gradient for would else move, and count in the norm, by what an earlier one left there.
        device.fill(clip.weights.gradients, 0.0);
        objective.enter(&mut **device, Models { clip, frozen: &frozen[..*frozen_in_use], start: *start }, view);
        let list = &clip.parameters;
        optimizer.train(list, &objective.trainable(list), &objective.spared(list));
        // What was recorded for the stage before comes no more.
        let key = key_of((objective.key(), optimizer.key()));
        if key != self.key {
            self.key = key;
            device.forget();
        }
    }

    /// Keeps the model as it is now as frozen model number `place`; later ones are no longer in use.
    pub fn freeze(&mut self, place: usize) {
        self.frozen[place].take(&mut *self.device, &self.clip);
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

    /// All parameters, the arena of [`ParameterList`].
    pub fn parameters(&self) -> Vec<f32> {
        self.device.read_vec(self.clip.weights.master)
    }

    /// Changes the parameters on the host.
    pub fn edit(&mut self, change: impl FnOnce(&ParameterList, &mut [f32])) {
        let mut values = self.parameters();
        change(&self.clip.parameters, &mut values);
        self.clip.load(&mut *self.device, &values);
    }

    /// Sends a batch. A device that works on its own may still be at the iteration before.
    pub(crate) fn load(&mut self, batch: TrainBatch, learning_rate: f64) {
        let Trainer { device, clip, objective, .. } = self;
        let images = batch.pixels.len() / (3 * clip.spec.vision_cfg.image_size.pow(2));
        assert!(images <= clip.capacity.images, "the batch is larger than planned");
        device.write(clip.vision.pixels(), batch.pixels);
        let mut loaded = Loaded { images, texts: LoadedTexts::default() };
        if objective.path() == Path::ImagesAndTexts {
            let BatchTexts { tokens, .. } = batch.texts.expect("the objective reads texts");
            assert!(tokens.len() <= clip.capacity.texts, "the batch has more texts than planned");
            let length = match self.full_context {
                true => clip.text.load_at(&mut **device, tokens, clip.spec.text_cfg.context_length),
                false => clip.text.load(&mut **device, tokens),
            };
            loaded.texts = LoadedTexts { texts: tokens.len(), tokens: length };
        }
        objective.load(&mut **device, &batch, loaded);
        self.optimizer.load(&mut **device, learning_rate);
        self.loaded = loaded;
    }

    /// Loss and gradients of a batch, without an update and without a penalty.
    pub fn gradients(&mut self, batch: TrainBatch) {
        self.load(batch, 0.0);
        let Trainer { device, clip, frozen, frozen_in_use, objective, start, learn_logit_scale, loaded, .. } = self;
        let models = Models { clip, frozen: &frozen[..*frozen_in_use], start: *start };
        forward_backward(&mut **device, models, &**objective, *learn_logit_scale, *loaded);
    }

    /// Starts the iteration on the loaded batch. A device that works on its own may return before it is done.
    pub(crate) fn launch(&mut self) {
        self.optimizer.count();
        let Trainer { device, clip, frozen, objective, optimizer, loaded, learn_logit_scale, key, .. } = self;
        let models = Models { clip, frozen: &frozen[..self.frozen_in_use], start: self.start };
        let Loaded { images, texts: LoadedTexts { texts, tokens } } = *loaded;
        device.record(RecordKey { stage: *key, images, texts, tokens }, |device| {
            forward_backward(device, models, &**objective, *learn_logit_scale, *loaded);
            objective.penalize(device, models, optimizer.pieces());
            device.phase("optimiser");
            optimizer.update(device);
            if *learn_logit_scale {
                let (master, weights) = (clip.logit_scale_master, clip.logit_scale);
                device.run(Clamp { master, weights, low: 0.0, high: Clip::MAX_LOGIT_SCALE });
            }
        });
    }

    /// What the launched iteration came to, once it is done. Fails when the loss or the gradient is not finite, or when the device
    /// failed. Where the gradient's norm is not finite the parameters are as they were before it.
    pub(crate) fn finish(&mut self) -> Result<IterationReport> {
        let loss = self.loss();
        self.device.health()?;
        if !loss.is_finite() {
            return Err(Error::run(format!("the loss became {loss}")));
        }
        Ok(IterationReport { loss, gradient_norm: self.optimizer.finish(&*self.device)? })
    }

    /// The loss of the batch that was last computed, penalties included.
    pub fn loss(&self) -> f32 {
        self.objective.loss(&*self.device)
    }

    /// One whole iteration, on a batch.
    pub fn iterate(&mut self, batch: TrainBatch, learning_rate: f64) -> Result<IterationReport> {
        self.load(batch, learning_rate);
        self.launch();
        self.finish()
    }

    /// Computes the gradients of a batch, for the objective to take in.
    pub fn gather(&mut self, batch: TrainBatch) {
        self.gradients(batch);
        self.objective.gather(&mut *self.device, &self.clip);
    }

    /// `batches` batches were gathered.
    pub fn gathered(&mut self, batches: usize) {
        self.objective.gathered(&mut *self.device, batches);
    }
}

/// Loss and gradients of the loaded batch.
fn forward_backward(
    device: &mut dyn Device,
    models: Models,
    objective: &dyn Objective,
    learn_logit_scale: bool,
    loaded: Loaded,
) {
    let clip = models.clip;
    let Loaded { images, texts: LoadedTexts { texts, tokens } } = loaded;
    let path = objective.path();
    device.phase("forward");
    clip.vision.forward(device, images);
    if path == Path::ImagesAndTexts {
        clip.text.forward(device, texts, tokens);
    }
    device.phase("objective");
    objective.forward_backward(device, models, loaded);
    device.phase("backward");
    match path {
        Path::ImagesAndTexts => {
            clip.text.backward(device, texts, tokens);
            clip.vision.backward(device, images);
            if !learn_logit_scale {
                device.fill(clip.logit_scale_gradient, 0.0);
            }
        }
        Path::Embeddings => clip.vision.backward(device, images),
        Path::Features => clip.vision.backward_features(device, images),
        Path::OwnAlone => {}
    }
}
