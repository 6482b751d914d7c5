//! The loop of a run.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::config::Config;
use super::directory::RunDirectory;
use super::evaluation::{Evaluation, Spent, evaluate, open_loader};
use super::predictions::pick;
use super::setup::Setup;
use super::state::{self, Position};
use crate::data::loader::{Augment, Batch, BatchRequest};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::method::{Spends, Start};
use crate::model::checkpoint;
use crate::ops::{Device, Plan};
use crate::train::{Order, Schedule, StepReport, TrainBatch, Trainer};

/// Hears what a run does; for progress bars.
pub trait Observer {
    /// Everything is open and planned; training begins, or goes on.
    fn started(&mut self, setup: &Setup, plan: &Plan, resumed: bool);
    /// One training iteration is done.
    fn iteration(&mut self, setup: &Setup, iteration: Iteration);
    /// A step is trained and evaluated; the last row of `evaluation` is its.
    fn evaluated(&mut self, setup: &Setup, evaluation: &Evaluation);
}

/// One iteration, for progress.
#[derive(Clone, Copy, Debug)]
pub struct Iteration {
    pub step: usize,
    pub iteration: usize,
    pub iterations: usize,
    pub samples: usize,
    pub report: StepReport,
}

/// Runs `config` in the directory `out`, or goes on where the same run stopped there.
///
/// Errors of input come before anything is trained. An error of the run leaves the directory as its last checkpoint has it.
pub fn run<D: Device>(
    place: &D::Place,
    config: &Config,
    out: &Path,
    observer: &mut dyn Observer,
) -> Result<Evaluation> {
    let setup = Setup::open(config)?;
    let trainer_spec = setup.trainer_spec();
    let (plan, build) = Trainer::<D>::plan(&trainer_spec, setup.evaluation_capacity());
    let device = D::with_plan(place, &plan).map_err(|error| {
        let fitting = largest_batch::<D>(place, &setup, plan.bytes());
        Error::input(format!("{error}{}", fitting.map(|b| format!("; train.batch {b} would fit")).unwrap_or_default()))
    })?;
    let directory = RunDirectory::open(out, config)?;
    let trainer = build(device);
    let resumed = directory.state().exists();
    observer.started(&setup, &plan, resumed);
    Run::open(setup, directory, trainer)?.finish(observer)
}

/// The largest batch whose plan needs at most half of `bytes`, halving from the one that does not fit.
fn largest_batch<D: Device>(place: &D::Place, setup: &Setup, bytes: usize) -> Option<usize> {
    let mut spec = setup.trainer_spec();
    while spec.capacity.images > 2 {
        spec.capacity.images /= 2;
        spec.capacity.texts = spec.capacity.texts.min(spec.capacity.images);
        let (plan, _) = Trainer::<D>::plan(&spec, setup.evaluation_capacity());
        if D::with_plan(place, &plan).is_ok() && plan.bytes() < bytes {
            return Some(spec.capacity.images);
        }
    }
    None
}

/// A training step on its way: what it is, and what it costs.
struct Launched {
    iteration: usize,
    epoch: usize,
    learning_rate: f64,
    gamma: f64,
    samples: usize,
    macs: u64,
}

/// What came since the last line of the log.
struct Log {
    since: Instant,
    samples: usize,
}

struct Run<D> {
    setup: Setup,
    directory: RunDirectory,
    trainer: Trainer<D>,
    memory: Memory,
    position: Position,
    evaluation: Evaluation,
}

impl<D: Device> Run<D> {
    fn open(setup: Setup, mut directory: RunDirectory, mut trainer: Trainer<D>) -> Result<Run<D>> {
        let (size, seed) = (setup.config.memory.size, setup.config.seed);
        let state = directory.state();
        let mut evaluation = Evaluation::new(&setup);
        let (position, memory) = if state.exists() {
            let (position, memory) = state::restore(&state, &mut trainer, size, seed)?;
            if position.step > 0 {
                evaluation = RunDirectory::read_evaluation(directory.path())?;
                evaluation.truncate(position.step)?;
            }
            (position, memory)
        } else {
            trainer.clip.load(&mut trainer.device, &setup.initial);
            directory.write_manifest(&setup, &trainer.device.name(), trainer.clip.parameters.count())?;
            (Position::default(), Memory::new(size, seed))
        };
        directory.resume_metrics(position)?;
        Ok(Run { setup, directory, trainer, memory, position, evaluation })
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<Evaluation> {
        while self.position.step < self.setup.stream.steps.len() {
            let step = self.position.step;
            if self.setup.method.spends != Spends::Nothing {
                self.train(observer)?;
            }
            let found = evaluate(&mut self.trainer.device, &self.trainer.evaluation, &self.setup, step)?;
            self.trainer.device.health()?;
            let predictions = (step + 1 == self.setup.stream.steps.len()).then(|| pick(&self.setup, &found.answers));
            self.evaluation.push(found, Spent { samples: self.position.samples, macs: self.position.macs })?;
            self.remember(step);
            // The order matters: whatever a kill cuts off here is done again from the state, with the same result, and an
            // evaluation that is complete is the last of a run's results to appear.
            self.save_checkpoint(step)?;
            if let Some(predictions) = predictions {
                self.directory.write_predictions(&predictions)?;
            }
            self.directory.write_evaluation(&self.evaluation)?;
            self.position.step += 1;
            self.position.iteration = 0;
            self.save_state()?;
            observer.evaluated(&self.setup, &self.evaluation);
        }
        Ok(self.evaluation)
    }

    /// Trains the current step from the current iteration to its end.
    fn train(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let step = self.position.step;
        let order = self.order(step);
        let schedule = self.schedule(step, order.iterations());
        self.begin(step, order.pool());
        let mut loader = open_loader(&self.setup, requests(&self.setup, self.position, order.clone()))?;
        let iterations = order.iterations();
        let mut log = Log { since: Instant::now(), samples: 0 };
        let mut launched = None;
        for iteration in self.position.iteration..iterations {
            let batch = loader.next().ok_or_else(|| Error::run("the loader ended early"))??;
            // One sample has nothing to be held against; that happens only where broken samples were left out.
            let loaded = (batch.samples.len() >= 2).then(|| self.load(&batch, &order, &schedule, iteration));
            loader.recycle(batch);
            // A GPU was at the step before while the batch was prepared and sent.
            if let Some(before) = launched.take() {
                self.settle(before, iterations, &mut log, observer)?;
            }
            match loaded {
                Some(step) => {
                    self.trainer.launch();
                    launched = Some(step);
                }
                None => self.position.iteration = iteration + 1,
            }
            if (iteration + 1) % self.setup.config.train.save_every == 0 && iteration + 1 < iterations {
                if let Some(step) = launched.take() {
                    self.settle(step, iterations, &mut log, observer)?;
                }
                self.save_state()?;
            }
        }
        if let Some(step) = launched.take() {
            self.settle(step, iterations, &mut log, observer)?;
        }
        self.log_class_weights(step, iterations)
    }

    /// What a step draws from, and how often.
    fn order(&self, step: usize) -> Order {
        let Run { setup, memory, .. } = self;
        let mut pool = setup.own_samples(step);
        if setup.method.uses_memory() {
            pool.extend(memory.indices());
            pool.sort_unstable();
            pool.dedup();
        }
        Order::new(pool, setup.step_budget(step), setup.config.train.batch, setup.config.seed, step)
    }

    fn schedule(&self, step: usize, iterations: usize) -> Schedule {
        let train = &self.setup.config.train;
        let warms_up = step == 0 || train.warmup_every_step;
        Schedule {
            maximum: train.learning_rate * train.learning_rate_decay.powi(step as i32),
            warmup: if warms_up { train.warmup.min(iterations) } else { 0 },
            total: iterations,
        }
    }

    /// Prepares the trainer for a step that draws from `pool`.
    fn begin(&mut self, step: usize, pool: &[u32]) {
        let Run { setup, trainer, .. } = self;
        if self.position.iteration == 0 {
            if setup.method.starts == Start::First {
                trainer.clip.load(&mut trainer.device, &setup.initial);
            }
            if step == 0 || !setup.config.train.keep_optimizer {
                trainer.optimizer.reset(&mut trainer.device);
            }
        }
        trainer.objective.set_shares(&mut trainer.device, &shares(pool, setup));
    }

    /// Sends the batch of a training step.
    fn load(&mut self, batch: &Batch, order: &Order, schedule: &Schedule, iteration: usize) -> Launched {
        let Run { setup, trainer, .. } = self;
        let (epoch, learning_rate) = (order.epoch_of(iteration), schedule.at(iteration));
        let gamma = setup.config.objective.gamma_at(epoch, order.epochs());
        let numbers: Vec<u32> = batch.samples.iter().map(|sample| setup.text_of(*sample, epoch)).collect();
        let texts = setup.texts.batch(&numbers);
        trainer.load(TrainBatch { pixels: &batch.pixels, texts: &texts, slot: &batch.samples }, learning_rate, gamma);
        let samples = batch.samples.len();
        let text_macs: u64 = texts.tokens.iter().map(|text| setup.model.text_macs(text.len())).sum();
        let macs = samples as u64 * setup.model.image_macs() + text_macs;
        Launched { iteration, epoch, learning_rate, gamma, samples, macs }
    }

    /// Waits for a launched step, and writes down what it came to.
    fn settle(&mut self, done: Launched, iterations: usize, log: &mut Log, observer: &mut dyn Observer) -> Result<()> {
        let report = self.trainer.finish().map_err(|error| self.place(error, done.iteration, iterations))?;
        let (step, iteration) = (self.position.step, done.iteration + 1);
        self.position.iteration = iteration;
        self.position.samples += done.samples as u64;
        self.position.macs += done.macs;
        log.samples += done.samples;
        if iteration % self.setup.config.train.log_every == 0 || iteration == iterations {
            let seconds = log.since.elapsed().as_secs_f64();
            self.directory.log(&json!({
                "step": step + 1,
                "iteration": iteration,
                "epoch": done.epoch + 1,
                "samples": self.position.samples,
                "loss": report.loss,
                "gradient_norm": report.gradient_norm,
                "learning_rate": done.learning_rate,
                "gamma": done.gamma,
                "samples_per_second": log.samples as f64 / seconds.max(1e-9),
            }))?;
            *log = Log { since: Instant::now(), samples: 0 };
        }
        observer.iteration(&self.setup, Iteration { step, iteration, iterations, samples: done.samples, report });
        Ok(())
    }

    /// Says where training failed, and what is left of it.
    fn place(&self, error: Error, iteration: usize, iterations: usize) -> Error {
        let state = self.directory.state();
        let last = if state.exists() { state.display().to_string() } else { "none yet".to_string() };
        let name = &self.setup.stream.steps[self.position.step].name;
        error.at(format!("{name}, iteration {} of {iterations} (last good checkpoint: {last})", iteration + 1))
    }

    /// gdro's class weights at the end of a step.
    fn log_class_weights(&mut self, step: usize, iterations: usize) -> Result<()> {
        let Some(weights) = self.trainer.objective.class_weights(&self.trainer.device) else { return Ok(()) };
        let weights: serde_json::Map<String, serde_json::Value> = (self.setup.dataset.classes.iter().zip(weights))
            .filter(|(_, weight)| *weight > 0.0)
            .map(|(class, weight)| (class.clone(), json!(weight)))
            .collect();
        self.directory.log(&json!({ "step": step + 1, "iteration": iterations, "class_weights": weights }))
    }

    /// Takes the step's samples into the memory; those that nobody keeps give up their moving averages.
    fn remember(&mut self, step: usize) {
        if self.setup.method.uses_memory() {
            let class = |sample: u32| self.setup.dataset.samples[sample as usize].class;
            let new: Vec<(u32, u32)> =
                self.setup.stream.steps[step].train.iter().map(|sample| (*sample, class(*sample))).collect();
            let released = self.memory.update(&new);
            self.trainer.objective.release(&mut self.trainer.device, &released);
        }
    }

    fn save_checkpoint(&self, step: usize) -> Result<()> {
        let metadata = [("step", (step + 1).to_string()), ("method", self.setup.method.name.to_string())];
        let path = self.directory.checkpoint(step);
        let parameters = self.trainer.parameters();
        self.trainer.device.health()?;
        checkpoint::save(&path, &self.setup.model, &self.trainer.clip.parameters, &parameters, &metadata)
    }

    fn save_state(&self) -> Result<()> {
        state::save(&self.directory.state(), self.position, &self.trainer, &self.memory)
    }
}

/// The batches that are left of a step, for the loader.
fn requests(setup: &Setup, position: Position, mut order: Order) -> impl Iterator<Item = BatchRequest> + Send + use<> {
    let (seed, scale) = (setup.config.seed, setup.config.data.crop);
    (position.iteration..order.iterations()).map(move |iteration| {
        let place = [position.step as u64, order.epoch_of(iteration) as u64];
        BatchRequest { samples: order.batch(iteration), augment: Some(Augment { seed, place, scale }) }
    })
}

/// pi: each class's fraction of the pool.
fn shares(pool: &[u32], setup: &Setup) -> Vec<f32> {
    let mut counts = vec![0u32; setup.dataset.classes.len()];
    for sample in pool {
        counts[setup.dataset.samples[*sample as usize].class as usize] += 1;
    }
    counts.iter().map(|count| *count as f32 / pool.len() as f32).collect()
}
