//! Whole training steps: both towers, an objective, the optimiser, against the CPU backend.
//!
//! The two differ by bf16. Along the longest path forward and back through `layers` blocks about R = 2 (9 layers + 8) results
//! are rounded, each by 2^-9 of its size (root mean square), independently; what passes on is normalised again and again, so
//! the error of a gradient is about sqrt(R) 2^-9 of it. Six times that is allowed: of some hundred tensors a few are always in
//! the tail. AdamW's eps is so large that its update is Lipschitz in the gradient, by learning rate / eps: the parameters'
//! error is then that share of the update too.

use std::time::Instant;

use super::{Checker, Outcome, Size};
use crate::model::clip::Capacity;
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;
use crate::objective::{ObjectiveKind, ObjectiveSettings, TextLoss};
use crate::ops::Device;
use crate::ops::cpu::Cpu;
use crate::rng::{Rng, below, rng};
use crate::train::{OptimizerSettings, StepReport, TextBank, TrainBatch, Trainer, TrainerSpec};

/// The name of these checks, beside the ops'.
pub const OP: &str = "step";

/// Small, so that steps stay near each other on both devices: what is compared is a step, not where a trajectory drifts.
const LEARNING_RATE: f64 = 1e-4;
/// 1/tau, of the objectives' settings and of a model at the start.
const SCALE: f64 = 1.0 / 0.07;

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
    spec: TrainerSpec,
    initial: Vec<f32>,
    bank: TextBank,
    batches: Vec<Batch>,
}

/// What a device made of it.
struct Trained {
    reports: Vec<StepReport>,
    /// Of the last step.
    gradients: Vec<f32>,
    parameters: Vec<f32>,
}

/// Steps: the first is told op by op, the second is captured, the third replayed.
const STEPS: usize = 3;

impl Experiment {
    fn new(model: ModelSpec, samples: usize, objective: ObjectiveKind, seed: u64) -> Experiment {
        let mut generator = rng(seed, "step", &[]);
        let classes = samples.div_ceil(2);
        let mut bank = TextBank::default();
        for class in 0..classes as u32 {
            let length = 4 + class as usize % (model.text_cfg.context_length - 4);
            bank.add((0..length).map(|_| draw(&mut generator, model.text_cfg.vocab_size)).collect(), class);
        }
        let pixels = samples * model.vision_cfg.image_size.pow(2) * 3;
        let batches = (0..STEPS)
            .map(|step| Batch {
                pixels: (0..pixels).map(|_| draw(&mut generator, 256) as u8).collect(),
                // The same prompts in every batch, so that every batch has the same shape.
                texts: (0..samples).map(|sample| (sample % classes) as u32).collect(),
                slot: (0..samples as u32).map(|sample| (sample + step as u32) % (2 * samples) as u32).collect(),
            })
            .collect();
        let spec = TrainerSpec {
            capacity: Capacity { images: samples, texts: classes },
            objective,
            objective_settings: ObjectiveSettings::default(),
            optimizer: OptimizerSettings { eps: 0.1, ..OptimizerSettings::default() },
            learn_logit_scale: true,
            samples: 2 * samples,
            classes,
            by_class: true,
            steps: 1,
            keeps_start: false,
            model,
        };
        let list = ParameterList::of(&spec.model);
        Experiment { initial: list.initial_values(seed), spec, bank, batches }
    }

    fn train<D: Device>(&self, place: &D::Place) -> Result<Trained, String> {
        let one = Capacity { images: 1, texts: 1 };
        let run = || {
            let mut trainer = Trainer::<D>::new(place, &self.spec, one)?;
            trainer.clip.load(&mut trainer.device, &self.initial);
            let share = 1.0 / self.spec.classes as f32;
            trainer.objective.set_shares(&mut trainer.device, &vec![share; self.spec.classes]);
            let mut reports = Vec::new();
            for batch in &self.batches {
                let texts = self.bank.batch(&batch.texts);
                let batch =
                    TrainBatch { pixels: &batch.pixels, texts: Some(&texts), slot: &batch.slot, ..Default::default() };
                reports.push(trainer.step(batch, LEARNING_RATE, 0.7)?);
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
    let unit = 1.0 / 512.0;
    let feature_error = (9.0 * layers + 8.0).sqrt() * unit;
    let allowed = 6.0 * (2.0 * (9.0 * layers + 8.0)).sqrt() * unit;
    let mut worst = 0.0f64;
    let mut hold = |what: &str, error: f64, bound: f64| {
        worst = worst.max(error / bound);
        if error <= bound { Ok(()) } else { Err(format!("{what} is off by {error:.3e}, {bound:.3e} is allowed")) }
    };
    for (step, (found, expected)) in found.reports.iter().zip(&expected.reports).enumerate() {
        // Errors of two unit vectors in random directions meet in their product; a loss moves by at most twice that over tau.
        let similarity = 4.0 * 2f64.sqrt() * feature_error / (model.embed_dim as f64).sqrt();
        let bound = 2.0 * similarity * SCALE + allowed * expected.loss.abs() as f64;
        hold(&format!("the loss of step {}", step + 1), (found.loss - expected.loss).abs() as f64, bound)?;
        let (a, b) = (found.gradient_norm as f64, expected.gradient_norm as f64);
        hold(&format!("the gradient's norm of step {}", step + 1), (a - b).abs(), allowed * b)?;
    }
    let list = ParameterList::of(model);
    let size = |values: &[f32]| norm(values.iter().map(|value| *value as f64));
    let distance = |a: &[f32], b: &[f32]| norm(a.iter().zip(b).map(|(a, b)| *a as f64 - *b as f64));
    let moved = distance(&expected.parameters, &experiment.initial);
    let (whole, count) = (size(&expected.gradients), list.count() as f64);
    let loss = expected.reports.last().map_or(0.0, |report| report.loss.abs() as f64);
    for parameter in list.iter() {
        let range = parameter.range();
        let (a, b) = (&found.gradients[range.clone()], &expected.gradients[range.clone()]);
        // Some gradients are zero but for rounding (a key's bias): then a tensor's fair part of the whole counts.
        let fair = (parameter.len() as f64 / count).sqrt();
        // The logit scale's gradient is a difference of sums that each have the size of the loss.
        let terms = if parameter.len() == 1 { loss } else { 0.0 };
        let bound = allowed * (size(b) + whole * fair + terms);
        hold(&format!("the gradient of {}", parameter.name), distance(a, b), bound)?;
        let (a, b) = (&found.parameters[range.clone()], &expected.parameters[range.clone()]);
        let lipschitz = STEPS as f64 * LEARNING_RATE / experiment.spec.optimizer.eps;
        let update = distance(b, &experiment.initial[range]) + moved * fair + lipschitz * terms;
        hold(&parameter.name, distance(a, b), allowed * update)?;
    }
    Ok(worst)
}

/// Three steps for each objective, twice on the device.
pub fn check<D: Device>(checker: &mut Checker<D>) {
    if checker.only.as_ref().is_some_and(|only| only != OP) {
        return;
    }
    let (model, samples) = match checker.size {
        Size::Smallest | Size::Small => (ModelSpec::from_json(TINY).expect("the tiny model is well formed"), 6),
        Size::Full => (ModelSpec::find("ViT-B-32").expect("ViT-B-32 is bundled"), 32),
    };
    for objective in [
        ObjectiveKind::Texts(TextLoss::Clip),
        ObjectiveKind::Texts(TextLoss::Gcl),
        ObjectiveKind::Texts(TextLoss::Gdro),
    ] {
        let start = Instant::now();
        let experiment = Experiment::new(model.clone(), samples, objective, checker.seed);
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
        let shape = format!("{STEPS} steps of {objective:?}, batch {samples}").to_lowercase();
        (checker.observer)(&Outcome::of(OP, shape, start, result));
    }
}
