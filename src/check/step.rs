//! Whole training steps: towers, an objective, the optimiser, against the CPU backend.
//!
//! The two differ by bf16. Along the longest path forward and back through `layers` blocks about 2 F results are rounded, F = 9
//! layers + 8, and a few more in an objective (`Trial::roundings`), each by 2^-9 of its size (root mean square), independently;
//! what passes on is normalised again and again. The Jacobians of a block's four nonlinear ops (two norms, softmax, GELU), of
//! which a block adds one in `layers` parts to the gradient, are taken at activations that F / 2 roundings came before: 2 F more.
//! So the error of a gradient is about sqrt(4 F) 2^-9 of it. Six times that is allowed: of some hundred tensors a few are always
//! in the tail, and of many seeds a few have a gradient that cancels. So tests take seeds that stay. AdamW's eps is so large that
//! its update is Lipschitz in the gradient, by learning rate / eps: the parameters' error is then that share of the update too.
//!
//! A trial is a stage of a run's second step, where teachers, earlier extractors and penalties are at work. What came before it is
//! another model, halfway to an independent one. A distillation's gradient is a difference q - p of probabilities: from a teacher
//! nearby it would be no larger than the errors of q and p, which do not cancel.

use std::time::Instant;

use super::{Checker, Outcome, Size};
use crate::data::Label;
use crate::method::head::head_range;
use crate::method::trial::Trial;
use crate::method::{Entry, Method, Settings, entries};
use crate::model::clip::Capacity;
use crate::model::spec::ModelSpec;
use crate::model::trainable::Trainable;
use crate::ops::Backend;
use crate::ops::cpu::Cpu;
use crate::rng::{Rng, below, rng, unit};
use crate::stream::ClassId;
use crate::train::{IterationReport, OptimizerSettings, Stage, StageView, TextBank, TrainBatch, Trainer, TrainerSpec};

/// The name of these checks, beside the ops'.
pub(crate) const OP: &str = "step";

/// Small, so that steps stay near each other on both devices: what is compared is a step, not where a trajectory drifts.
const LEARNING_RATE: f64 = 1e-4;
/// A model of every kind of layer, small enough for an emulator.
const TINY: &str = r#"{"embed_dim": 64, "quick_gelu": true,
    "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2}}"#;

/// One step's batch.
struct Batch {
    pixels: Vec<u8>,
    texts: Vec<u32>,
    slot: Vec<u32>,
}

/// Everything that both devices start from.
struct Experiment {
    trial: Trial,
    method: Box<dyn Method>,
    /// What the trial trains of the arena.
    trained: Trainable,
    spec: TrainerSpec,
    seed: u64,
    /// The model that the step before left, and the one that trains: what the step before left would teach itself nothing.
    old: Vec<f32>,
    initial: Vec<f32>,
    /// What is in the trial's persistent span.
    persistent: Vec<f32>,
    bank: TextBank,
    batches: Vec<Batch>,
    /// The classes of samples, which of them are the step's own, and how many classes are old and seen.
    classes: Vec<ClassId>,
    own: Vec<bool>,
    before: usize,
    seen: usize,
    /// The first class that has samples: a linear head without a memory sees none of the old ones.
    first: usize,
}

/// What a device made of it.
struct Trained {
    reports: Vec<IterationReport>,
    /// Of the last step.
    gradients: Vec<f32>,
    parameters: Vec<f32>,
}

/// Steps: the first is told op by op, the second is captured, the third replayed.
const STEPS: usize = 3;

/// The error that ReLU adds to the gradient's, as a share of it: a unit that lies near 0 may have another sign on the other device, and a
/// gradient where that has none. Where what ReLU rectifies is normal with variance 1 about +-3 the density at 0 is 0.0044: so the sign of
/// about one unit in 30,000 differs, less than one of these models'. One is allowed nevertheless, of all units of a batch, of which half
/// have a gradient, and with three times their root mean square.
fn kink(trial: &Trial, spec: &TrainerSpec) -> f64 {
    match spec.capacity.images * trial.rectified {
        0 => 0.0,
        units => 3.0 * (2.0 / units as f64).sqrt(),
    }
}

/// By how much the loss moves at most when every feature is off by the share `error` of it.
fn loss_error(trial: &Trial, spec: &TrainerSpec, error: f64) -> f64 {
    // Errors of two unit vectors in random directions meet in their product; four times their root mean square are allowed.
    let similarity = 4.0 * 2f64.sqrt() * error / (spec.model.embed_dim as f64).sqrt();
    // Features have a length of about sqrt(D), and a head's rows start with one of 1 / sqrt(3): so a logit, which may be the
    // sum of two.
    let logit = 4.0 * error * (2.0f64 / 3.0).sqrt();
    2.0 * (similarity * trial.similarities + logit * trial.logits)
}

impl Experiment {
    fn new(model: ModelSpec, samples: usize, method: Box<dyn Method>, trial: Trial, seed: u64) -> Experiment {
        let mut generator = rng(seed, "step", &[]);
        let row = *method.row();
        let views = if trial.stage == Stage::Main { row.views } else { 1 };
        let classes = samples.div_ceil(2);
        let mut bank = TextBank::default();
        for class in 0..classes as u32 {
            let length = 4 + class as usize % (model.text_cfg.context_length - 4);
            bank.add((0..length).map(|_| draw(&mut generator, model.text_cfg.vocab_size)).collect(), Label(class));
        }
        let pixels = views * samples * model.vision_cfg.image_size.pow(2) * 3;
        let batches = (0..STEPS)
            .map(|step| Batch {
                pixels: (0..pixels).map(|_| draw(&mut generator, 256) as u8).collect(),
                // The same prompts in every batch, so that every batch has the same shape.
                texts: (0..samples).map(|sample| (sample % classes) as u32).collect(),
                slot: (0..samples as u32).map(|sample| (sample + step as u32) % (2 * samples) as u32).collect(),
            })
            .collect();
        let spec = TrainerSpec {
            capacity: Capacity { images: row.views * samples, texts: if row.reads_texts() { classes } else { 0 } },
            optimizer: OptimizerSettings { eps: 0.1, ..OptimizerSettings::default() },
            learn_logit_scale: true,
            samples: 2 * samples,
            // A head has rows for classes that are still to come.
            classes: if row.reads_texts() { classes } else { classes + 2 },
            by_class: true,
            steps: 2,
            model,
        };
        let list = spec.parameters(&*method);
        let mut initial = list.initial_values(seed);
        (trial.initial)(&list, &mut initial);
        let old = initial.iter().zip(list.initial_values(seed + 1)).map(|(a, b)| 0.5 * (a + b)).collect();
        let trained = match trial.stage {
            Stage::Probe => Trainable::stretch(head_range(&list)),
            _ => list.trainable().clone(),
        };
        let mut persistent = vec![0.0; list.trainable().len()];
        if let Some((_, most)) = trial.persistent {
            for parameter in list.iter() {
                if let Some(place) = list.trainable().place(parameter.offset) {
                    persistent[place..place + parameter.len()].fill_with(|| (most * unit(&mut generator)) as f32);
                }
            }
        }
        let before = classes.div_ceil(3);
        let first = if trial.stage == Stage::Probe && !row.uses_memory() { before } else { 0 };
        Experiment {
            classes: (0..samples).map(|sample| ClassId((first + sample % (classes - first)) as u32)).collect(),
            own: (0..samples).map(|sample| sample % 3 != 0).collect(),
            before,
            seen: classes,
            first,
            trial,
            method,
            seed,
            old,
            initial,
            persistent,
            trained,
            spec,
            bank,
            batches,
        }
    }

    /// The parameters that training starts from: a compression's student is the old model.
    fn start(&self) -> &[f32] {
        if self.trial.stage == Stage::Compression { &self.old } else { &self.initial }
    }

    fn train<D: Backend>(&self, place: &D::Place) -> Result<Trained, String> {
        let one = Capacity { images: 1, texts: 1 };
        let run = || {
            let mut trainer = Trainer::new::<D>(place, &self.spec, &*self.method, one)?;
            let classes = self.spec.classes;
            let Experiment { before, seen, first, seed, ref method, .. } = *self;
            let count = |class: usize| if class < first { 0 } else { 5 + 3 * class };
            let (counts, shares) = ((0..classes).map(count).collect::<Vec<_>>(), vec![1.0 / classes as f32; classes]);
            let main = StageView { stage: Stage::Main, step: 1, before, seen, counts: &counts, shares: &shares, seed };
            let view = StageView { stage: self.trial.stage, ..main };
            trainer.clip.load(&mut *trainer.device, &self.old);
            method.begin(&mut trainer, &main);
            trainer.clip.load(&mut *trainer.device, &self.initial);
            if view.stage != Stage::Main {
                method.begin(&mut trainer, &view);
            }
            if let Some((name, _)) = self.trial.persistent {
                let spans = trainer.objective.persistent();
                let (_, span) =
                    spans.iter().find(|(known, _)| *known == name).expect("a trial names a span that there is");
                trainer.device.write(*span, &self.persistent);
            }
            trainer.enter(&view);
            let mut reports = Vec::new();
            for batch in &self.batches {
                let texts = self.bank.batch(&batch.texts);
                let batch = TrainBatch {
                    pixels: &batch.pixels,
                    texts: Some(&texts),
                    slot: &batch.slot,
                    classes: &self.classes,
                    own: &self.own,
                    ..Default::default()
                };
                reports.push(trainer.iterate(batch, LEARNING_RATE)?);
            }
            let gradients = trainer.device.read_vec(trainer.clip.weights.gradients);
            let parameters = trainer.parameters();
            trainer.device.health()?;
            Ok(Trained { reports, gradients, parameters })
        };
        run().map_err(|error: crate::error::Error| error.to_string())
    }
}

fn draw(generator: &mut Rng, below_this: usize) -> u32 {
    below(generator, below_this as u64) as u32
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// The largest share of what is allowed.
fn compare(experiment: &Experiment, found: &Trained, expected: &Trained) -> Result<f64, String> {
    let model = &experiment.spec.model;
    let layers = model.vision_cfg.layers.max(model.text_cfg.layers) as f64;
    let Experiment { spec, trial, trained, .. } = experiment;
    let (rounding, forward) = (1.0 / 512.0, 9.0 * layers + 8.0);
    let feature_error = forward.sqrt() * rounding;
    let allowed = 6.0 * (4.0 * forward + trial.roundings).sqrt() * rounding + kink(trial, spec);
    let mut worst = 0.0f64;
    let mut hold = |what: &str, error: f64, bound: f64| {
        worst = worst.max(error / bound);
        if error <= bound { Ok(()) } else { Err(format!("{what} is off by {error:.3e}, {bound:.3e} is allowed")) }
    };
    for (step, (found, expected)) in found.reports.iter().zip(&expected.reports).enumerate() {
        let bound = loss_error(trial, spec, feature_error) + allowed * expected.loss.abs() as f64;
        hold(&format!("the loss of step {}", step + 1), (found.loss - expected.loss).abs() as f64, bound)?;
        let (a, b) = (found.gradient_norm as f64, expected.gradient_norm as f64);
        hold(&format!("the gradient's norm of step {}", step + 1), (a - b).abs(), allowed * b)?;
    }
    let list = spec.parameters(&*experiment.method);
    let size = |values: &[f32]| norm(values.iter().map(|value| *value as f64));
    let distance = |a: &[f32], b: &[f32]| norm(a.iter().zip(b).map(|(a, b)| *a as f64 - *b as f64));
    let moved = distance(&expected.parameters, experiment.start());
    let of_trained = list.iter().filter(|parameter| trained.contains(parameter.offset));
    let count = of_trained.map(|parameter| parameter.len()).sum::<usize>() as f64;
    let whole = size(&expected.gradients);
    let loss = expected.reports.last().map_or(0.0, |report| report.loss.abs() as f64);
    for parameter in list.iter() {
        if !trained.contains(parameter.offset) {
            let range = parameter.range();
            if found.parameters[range.clone()] != experiment.start()[range] {
                return Err(format!("{} is not trained, but changes", parameter.name));
            }
            continue;
        }
        let range = parameter.range();
        let place = list.trainable().place(parameter.offset).expect("what is trained has a gradient");
        let gradient = place..place + parameter.len();
        let (a, b) = (&found.gradients[gradient.clone()], &expected.gradients[gradient]);
        // Some gradients are zero but for rounding (a key's bias): then a tensor's fair part of the whole counts.
        let fair = (parameter.len() as f64 / count).sqrt();
        // The logit scale's gradient is a difference of sums that each have the size of the loss.
        let terms = if parameter.len() == 1 { loss } else { 0.0 };
        let bound = allowed * (size(b) + whole * fair + terms);
        hold(&format!("the gradient of {}", parameter.name), distance(a, b), bound)?;
        let (a, b) = (&found.parameters[range.clone()], &expected.parameters[range.clone()]);
        let lipschitz = STEPS as f64 * LEARNING_RATE / spec.optimizer.eps;
        let update = distance(b, &experiment.start()[range]) + moved * fair + lipschitz * terms;
        hold(&parameter.name, distance(a, b), allowed * update)?;
    }
    Ok(worst)
}

/// The settings at which a method is tried.
fn settings(entry: &Entry) -> Settings {
    let mut settings = Settings::default();
    settings.set("gamma", 0.7);
    entry.trial_settings.iter().for_each(|(key, value)| settings.set(key, *value));
    settings
}

/// Every method's trials.
fn trials() -> impl Iterator<Item = (&'static Entry, Trial)> {
    entries()
        .into_iter()
        .flat_map(|entry| entry.open_at(&settings(entry)).trials().into_iter().map(move |trial| (entry, trial)))
}

/// Three steps for each trial, twice on the device.
pub fn check<D: Backend>(checker: &mut Checker<D>) {
    if checker.only.as_ref().is_some_and(|only| only != OP) {
        return;
    }
    let (model, samples) = match checker.size {
        Size::Tiny | Size::Smallest | Size::Small => {
            (ModelSpec::from_json(TINY).expect("the tiny model is well formed"), 6)
        }
        Size::Full => (ModelSpec::find("ViT-B-32").expect("ViT-B-32 is bundled"), 32),
    };
    for (entry, trial) in trials() {
        let start = Instant::now();
        let (name, stage) = (entry.name(), trial.stage);
        let experiment = Experiment::new(model.clone(), samples, entry.open_at(&settings(entry)), trial, checker.seed);
        let result = (|| {
            let expected = experiment.train::<Cpu<f32>>(&())?;
            let first = experiment.train::<D>(&checker.place)?;
            let second = experiment.train::<D>(&checker.place)?;
            let differs = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits());
            if differs(&first.parameters, &second.parameters) {
                return Err("two runs end in different parameters".to_string());
            }
            compare(&experiment, &first, &expected)
        })();
        let shape = format!("{STEPS} steps of {name}, {stage:?}, batch {samples}").to_lowercase();
        (checker.observer)(&Outcome::of(OP, shape, start, result));
    }
}
