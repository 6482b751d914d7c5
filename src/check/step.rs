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

use std::ops::Range;
use std::time::Instant;

use super::{Checker, Outcome, Size};
use crate::method::stages::{self, StepView};
use crate::method::{Method, Stage};
use crate::model::clip::Capacity;
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;
use crate::objective::{ClassLoss, ObjectiveKind, ObjectiveSettings, TextLoss, ViewLoss};
use crate::ops::Device;
use crate::ops::cpu::Cpu;
use crate::rng::{Rng, below, rng, unit};
use crate::train::{OptimizerSettings, StepReport, TextBank, TrainBatch, Trainer, TrainerSpec};

/// The name of these checks, beside the ops'.
pub const OP: &str = "step";

/// Small, so that steps stay near each other on both devices: what is compared is a step, not where a trajectory drifts.
const LEARNING_RATE: f64 = 1e-4;
/// How far what cassle's predictor rectifies lies from 0, to either side in turn.
const SHIFT: f32 = 3.0;
/// 1/tau, of the objectives' settings and of a model at the start.
const SCALE: f64 = 1.0 / 0.07;

/// A model of every kind of layer, small enough for an emulator.
const TINY: &str = r#"{"embed_dim": 64, "quick_gelu": true,
    "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2}}"#;

/// The stages that are tried, by their methods; ewc's is also finetune-ce's, with the penalty in force.
const TRIALS: [Trial; 13] = {
    use Stage::{Compression, Main, Probe};
    const fn trial(method: &'static str, stage: Stage) -> Trial {
        Trial { method, stage }
    }
    [
        trial("sequential", Main),
        trial("gcl", Main),
        trial("gdro", Main),
        trial("lwf", Main),
        trial("ewc", Main),
        trial("icarl", Main),
        trial("der", Main),
        trial("foster", Main),
        trial("foster", Compression),
        trial("co2l", Main),
        trial("co2l", Probe),
        trial("cassle", Main),
        trial("cassle", Probe),
    ]
};

#[derive(Clone, Copy)]
struct Trial {
    method: &'static str,
    stage: Stage,
}

/// One step's batch.
struct Batch {
    pixels: Vec<u8>,
    texts: Vec<u32>,
    slot: Vec<u32>,
}

/// Everything that both devices start from.
struct Experiment {
    trial: Trial,
    method: &'static Method,
    spec: TrainerSpec,
    seed: u64,
    /// The model that the step before left, and the one that trains: what the step before left would teach itself nothing.
    old: Vec<f32>,
    initial: Vec<f32>,
    /// ewc's Fisher information of the steps before.
    fisher: Vec<f32>,
    bank: TextBank,
    batches: Vec<Batch>,
    /// The classes of samples, which of them are the step's own, and how many classes are old and seen.
    labels: Vec<u32>,
    own: Vec<bool>,
    before: usize,
    seen: usize,
    /// The first class that has samples: a linear head without a memory sees none of the old ones.
    first: usize,
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

impl Trial {
    /// How often a result is rounded along the longest path beside the towers'.
    fn roundings(self, objective: ObjectiveKind) -> f64 {
        match objective {
            // lwf's two directions are added to the gradient of either tower's embeddings.
            ObjectiveKind::Texts(TextLoss::Lwf) => 2.0,
            ObjectiveKind::Texts(_) => 0.0,
            // Logits of one extractor and their sum with another's, their gradient, the features' gradient by one head and
            // its sum with that by the auxiliary one.
            ObjectiveKind::Classes(_) => 5.0,
            ObjectiveKind::Views(_) if self.stage == Stage::Probe => 5.0,
            // The embeddings' gradient as rows of the similarities, and its sum with that as columns.
            ObjectiveKind::Views(ViewLoss::Co2l) => 1.0,
            // The predictor: linear, norm, linear, unit length; back through them, the rectifier and the contrast, 6; and co2l's
            // with one more sum.
            ObjectiveKind::Views(ViewLoss::Cassle) => 12.0,
        }
    }

    /// The error that ReLU adds to the gradient's, as a share of it: a unit that lies near 0 may have another sign on the other
    /// device, and a gradient where that has none. What ReLU rectifies is normal with variance 1 about +-[`SHIFT`], where the
    /// density at 0 is 0.0044: so the sign of about one unit in 30,000 differs, less than one of these models'. One is
    /// allowed nevertheless, of `rows` times `hidden` of which half have a gradient, and with three times their root mean square.
    fn kink(self, spec: &TrainerSpec) -> f64 {
        match spec.objective {
            ObjectiveKind::Views(ViewLoss::Cassle) if self.stage == Stage::Main => {
                let units = spec.capacity.images * spec.objective_settings.cassle.hidden;
                3.0 * (2.0 / units as f64).sqrt()
            }
            _ => 0.0,
        }
    }

    /// By how much the loss moves at most when every feature is off by the share `error` of it.
    fn loss_error(self, spec: &TrainerSpec, error: f64) -> f64 {
        // Errors of two unit vectors in random directions meet in their product; four times their root mean square are allowed.
        let similarity = 4.0 * 2f64.sqrt() * error / (spec.model.embed_dim as f64).sqrt();
        // Features have a length of about sqrt(D), and a head's rows start with one of 1 / sqrt(3): so a logit, which may be the
        // sum of two.
        let logit = 4.0 * error * (2.0f64 / 3.0).sqrt();
        let settings = &spec.objective_settings;
        // A softmax's logarithm moves by at most twice what its arguments do; a distillation has two, the student's and the
        // teacher's, and its gradient in logits is T times a difference of probabilities.
        let twice = |moves: f64| 2.0 * moves;
        match spec.objective {
            ObjectiveKind::Texts(TextLoss::Lwf) => twice(similarity * SCALE) * (1.0 + 2.0 * settings.lwf.mu),
            ObjectiveKind::Texts(_) => twice(similarity * SCALE),
            ObjectiveKind::Views(_) if self.stage == Stage::Probe => twice(logit),
            ObjectiveKind::Views(ViewLoss::Co2l) => {
                let relation = &settings.co2l;
                twice(similarity * (1.0 / relation.tau + 1.0 / relation.relation_tau + 1.0 / relation.teacher_tau))
            }
            ObjectiveKind::Views(ViewLoss::Cassle) => {
                twice(similarity * (1.0 / settings.cassle.tau + 1.0 / settings.cassle.distillation_tau))
            }
            ObjectiveKind::Classes(loss) => {
                twice(logit)
                    * match loss {
                        ClassLoss::CrossEntropy | ClassLoss::Ewc => 1.0,
                        ClassLoss::Der => 2.0,
                        ClassLoss::Icarl => 1.0 + 2.0 * settings.icarl.temperature,
                        ClassLoss::Foster => 2.0 + 2.0 * settings.foster.temperature,
                    }
            }
        }
    }
}

impl Experiment {
    fn new(model: ModelSpec, samples: usize, trial: Trial, seed: u64) -> Experiment {
        let mut generator = rng(seed, "step", &[]);
        let method = Method::find(trial.method).expect("trials are of known methods");
        let has_texts = matches!(method.minimises, ObjectiveKind::Texts(_));
        let views = if trial.stage == Stage::Main { method.views() } else { 1 };
        let classes = samples.div_ceil(2);
        let mut bank = TextBank::default();
        for class in 0..classes as u32 {
            let length = 4 + class as usize % (model.text_cfg.context_length - 4);
            bank.add((0..length).map(|_| draw(&mut generator, model.text_cfg.vocab_size)).collect(), class);
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
        let mut objective_settings = ObjectiveSettings::default();
        // At the paper's 0.01 an error of bf16 of 0.002 in a similarity is 0.2 in a logit of the teacher's: its probabilities are
        // then off by a fifth, and nothing can be told by them. The op's own check, whose operands are f32, is at 0.01.
        objective_settings.co2l.teacher_tau = 1.0 / SCALE;
        objective_settings.cassle.hidden = 128;
        if method.minimises == ObjectiveKind::Texts(TextLoss::Gdro) {
            // All pairs on the hinge, whose derivative 2 (m + x) is off by as large a share of itself as x is near -m; and a
            // temperature at which its weights exp(h / tau), by 2 (m + x) / tau as large a share, are off by a few per cent.
            objective_settings.margin = 1.0;
            objective_settings.tau = 0.3;
        }
        let spec = TrainerSpec {
            capacity: Capacity { images: method.views() * samples, texts: classes },
            objective: method.minimises,
            objective_settings,
            optimizer: OptimizerSettings { eps: 0.1, ..OptimizerSettings::default() },
            learn_logit_scale: true,
            samples: 2 * samples,
            // A head has rows for classes that are still to come.
            classes: if has_texts { classes } else { classes + 2 },
            by_class: true,
            steps: 2,
            keeps_start: method.keeps_start(),
            model,
        };
        let list = spec.parameters();
        let mut initial = list.initial_values(seed);
        if let Some(shift) = list.find("predictor.1.bias") {
            let turns = initial[shift.range()].iter_mut().enumerate();
            turns.for_each(|(unit, value)| *value = if unit % 2 == 0 { SHIFT } else { -SHIFT });
        }
        let old = initial.iter().zip(list.initial_values(seed + 1)).map(|(a, b)| 0.5 * (a + b)).collect();
        // The penalty is then about as large as the loss, and hides nothing of it.
        let limit = 0.1 * spec.objective_settings.ewc.fisher_limit;
        let mut fisher = vec![0.0; list.arena_len()];
        let trained = trained(&list, &spec, trial);
        for parameter in list.iter().filter(|parameter| trained.contains(&parameter.offset)) {
            fisher[parameter.range()].fill_with(|| (limit * unit(&mut generator)) as f32);
        }
        let before = classes.div_ceil(3);
        let first = if trial.stage == Stage::Probe && !method.uses_memory() { before } else { 0 };
        Experiment {
            labels: (0..samples).map(|sample| (first + sample % (classes - first)) as u32).collect(),
            own: (0..samples).map(|sample| sample % 3 != 0).collect(),
            before,
            seen: classes,
            first,
            trial,
            method,
            seed,
            old,
            initial,
            fisher,
            spec,
            bank,
            batches,
        }
    }

    /// The parameters that training starts from: foster's student is the old model.
    fn start(&self) -> &[f32] {
        if self.trial.stage == Stage::Compression { &self.old } else { &self.initial }
    }

    fn train<D: Device>(&self, place: &D::Place) -> Result<Trained, String> {
        let one = Capacity { images: 1, texts: 1 };
        let run = || {
            let mut trainer = Trainer::<D>::new(place, &self.spec, one)?;
            let classes = self.spec.classes;
            let Experiment { before, seen, first, seed, method, .. } = *self;
            let count = |class: usize| if class < first { 0 } else { 5 + 3 * class };
            let (counts, shares) = ((0..classes).map(count).collect::<Vec<_>>(), vec![1.0 / classes as f32; classes]);
            let view = StepView { step: 1, before, seen, counts: &counts, shares: &shares, seed };
            trainer.clip.load(&mut trainer.device, &self.old);
            stages::begin(&mut trainer, method, Stage::Main, view);
            trainer.clip.load(&mut trainer.device, &self.initial);
            if self.trial.stage == Stage::Compression {
                stages::begin(&mut trainer, method, Stage::Compression, view);
            }
            if let Some(fisher) = trainer.fisher {
                trainer.device.write(fisher.total, &self.fisher);
            }
            stages::set(&mut trainer, method, self.trial.stage, view);
            let mut reports = Vec::new();
            for batch in &self.batches {
                let texts = self.bank.batch(&batch.texts);
                let batch = TrainBatch {
                    pixels: &batch.pixels,
                    texts: Some(&texts),
                    slot: &batch.slot,
                    labels: &self.labels,
                    own: &self.own,
                };
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

/// What a trial trains of the arena.
fn trained(list: &ParameterList, spec: &TrainerSpec, trial: Trial) -> Range<usize> {
    match (spec.objective, trial.stage) {
        (ObjectiveKind::Texts(_), _) => 0..list.arena_len(),
        (_, Stage::Probe) => list.get("head.weight").offset..list.get("head.bias").range().end,
        _ => list.vision().start..list.extras().end,
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
    let Experiment { spec, trial, .. } = experiment;
    let (rounding, forward) = (1.0 / 512.0, 9.0 * layers + 8.0);
    let feature_error = forward.sqrt() * rounding;
    let allowed = 6.0 * (4.0 * forward + trial.roundings(spec.objective)).sqrt() * rounding + trial.kink(spec);
    let mut worst = 0.0f64;
    let mut hold = |what: &str, error: f64, bound: f64| {
        worst = worst.max(error / bound);
        if error <= bound { Ok(()) } else { Err(format!("{what} is off by {error:.3e}, {bound:.3e} is allowed")) }
    };
    for (step, (found, expected)) in found.reports.iter().zip(&expected.reports).enumerate() {
        let bound = trial.loss_error(spec, feature_error) + allowed * expected.loss.abs() as f64;
        hold(&format!("the loss of step {}", step + 1), (found.loss - expected.loss).abs() as f64, bound)?;
        let (a, b) = (found.gradient_norm as f64, expected.gradient_norm as f64);
        hold(&format!("the gradient's norm of step {}", step + 1), (a - b).abs(), allowed * b)?;
    }
    let list = spec.parameters();
    let trained = trained(&list, spec, *trial);
    let size = |values: &[f32]| norm(values.iter().map(|value| *value as f64));
    let distance = |a: &[f32], b: &[f32]| norm(a.iter().zip(b).map(|(a, b)| *a as f64 - *b as f64));
    let moved = distance(&expected.parameters, experiment.start());
    let of_trained = list.iter().filter(|parameter| trained.contains(&parameter.offset));
    let count = of_trained.map(|parameter| parameter.len()).sum::<usize>() as f64;
    let whole = size(&expected.gradients);
    let loss = expected.reports.last().map_or(0.0, |report| report.loss.abs() as f64);
    for parameter in list.iter() {
        if !trained.contains(&parameter.offset) {
            let range = parameter.range();
            if found.parameters[range.clone()] != experiment.start()[range] {
                return Err(format!("{} is not trained, but changes", parameter.name));
            }
            continue;
        }
        let range = parameter.range();
        let (a, b) = (&found.gradients[range.clone()], &expected.gradients[range.clone()]);
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

/// Three steps for each trial, twice on the device.
pub fn check<D: Device>(checker: &mut Checker<D>) {
    if checker.only.as_ref().is_some_and(|only| only != OP) {
        return;
    }
    let (model, samples) = match checker.size {
        Size::Tiny | Size::Smallest | Size::Small => {
            (ModelSpec::from_json(TINY).expect("the tiny model is well formed"), 6)
        }
        Size::Full => (ModelSpec::find("ViT-B-32").expect("ViT-B-32 is bundled"), 32),
    };
    for trial in TRIALS {
        let start = Instant::now();
        let experiment = Experiment::new(model.clone(), samples, trial, checker.seed);
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
        let shape = format!("{STEPS} steps of {}, {:?}, batch {samples}", trial.method, trial.stage).to_lowercase();
        (checker.observer)(&Outcome::of(OP, shape, start, result));
    }
}
