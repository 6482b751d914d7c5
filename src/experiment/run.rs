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
use crate::data::loader::{Augment, Batch, BatchRequest, Loader};
use crate::data::transform;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::method::stages::{self, StepView};
use crate::method::{Stage, Start};
use crate::model::checkpoint::{self, TensorFile};
use crate::model::parameters::ParameterList;
use crate::objective::Objective;
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
pub(super) fn largest_batch<D: Device>(place: &D::Place, setup: &Setup, bytes: usize) -> Option<usize> {
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

pub(super) struct Run<D> {
    pub(super) setup: Setup,
    directory: RunDirectory,
    pub(super) trainer: Trainer<D>,
    pub(super) memory: Memory,
    pub(super) position: Position,
    evaluation: Evaluation,
}

impl<D: Device> Run<D> {
    fn open(setup: Setup, mut directory: RunDirectory, mut trainer: Trainer<D>) -> Result<Run<D>> {
        let (size, seed) = (setup.config.memory.size, setup.config.seed);
        let state = directory.state();
        let mut evaluation = Evaluation::new(&setup);
        let (position, memory) = if state.exists() {
            directory.check_manifest(&setup)?;
            let (position, memory, broken) =
                state::restore(&state, &mut trainer, setup.dataset.samples.len(), size, seed)?;
            setup.meet_broken(&broken)?;
            if position.step > 0 {
                evaluation = RunDirectory::read_evaluation(directory.path())?;
                evaluation.truncate(position.step)?;
            }
            (position, memory)
        } else {
            trainer.clip.load(&mut trainer.device, &initial(&setup, &trainer.clip.parameters));
            directory.write_manifest(&setup, &trainer.device.name(), trainer.clip.parameters.count())?;
            (Position::default(), Memory::new(size, seed))
        };
        directory.resume_metrics(position)?;
        Ok(Run { setup, directory, trainer, memory, position, evaluation })
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<Evaluation> {
        while self.position.step < self.setup.stream.steps.len() {
            let step = self.position.step;
            let stages = self.setup.method.stages(step);
            while self.position.stage < stages.len() {
                match stages[self.position.stage] {
                    Stage::Closing => self.close()?,
                    stage => self.train(stage, observer)?,
                }
                self.position.stage += 1;
                self.position.iteration = 0;
            }
            let found = evaluate(&mut self.trainer, &self.setup, &self.memory, step)?;
            self.trainer.device.health()?;
            let predictions = (step + 1 == self.setup.stream.steps.len()).then(|| pick(&self.setup, &found.answers));
            self.evaluation.push(found, Spent { samples: self.position.samples, macs: self.position.macs })?;
            self.evaluation.broken = self.setup.dataset.broken();
            // The order matters: whatever a kill cuts off here is done again from the state, with the same result, and an
            // evaluation that is complete is the last of a run's results to appear.
            self.save_checkpoint(step)?;
            if let Some(predictions) = predictions {
                self.directory.write_predictions(&predictions)?;
            }
            self.directory.write_evaluation(&self.evaluation)?;
            self.position.step += 1;
            self.position.stage = 0;
            self.save_state()?;
            observer.evaluated(&self.setup, &self.evaluation);
        }
        Ok(self.evaluation)
    }

    /// Trains a stage of the current step from the current iteration to its end.
    fn train(&mut self, stage: Stage, observer: &mut dyn Observer) -> Result<()> {
        let order = self.order(stage);
        let schedule = self.schedule(stage, order.iterations());
        self.begin(stage, order.pool());
        let mut loader = self.open_loader(stage, self.position.iteration, order.clone())?;
        let iterations = order.iterations();
        let mut log = Log { since: Instant::now(), samples: 0 };
        let mut launched = None;
        for iteration in self.position.iteration..iterations {
            let batch = loader.next().ok_or_else(|| Error::run("the loader ended early"))??;
            // One sample has nothing to be held against; that happens only where broken samples were left out.
            let loaded = (batch.samples.len() >= 2).then(|| self.load(stage, &batch, &order, &schedule, iteration));
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
        self.log_class_weights(iterations)
    }

    /// What a stage of the current step draws from, and how often.
    pub(super) fn order(&self, stage: Stage) -> Order {
        let Run { setup, memory, position: Position { step, .. }, .. } = self;
        let pool = setup.pool(*step, stage, memory);
        let budget = setup.budget(*step, stage, pool.len());
        Order::new(pool, budget, setup.config.train.batch, setup.config.seed, self.place_of(stage))
    }

    /// A loader of the batches of a stage from `iteration` on.
    pub(super) fn open_loader(&self, stage: Stage, iteration: usize, order: Order) -> Result<Loader> {
        open_loader(&self.setup, requests(&self.setup, stage, self.place_of(stage), iteration, order))
    }

    /// A number for every stage of every step, by which its order and its crops are drawn; that of the main stage is the step's.
    fn place_of(&self, stage: Stage) -> usize {
        self.position.step + stage as usize * self.setup.stream.steps.len()
    }

    fn schedule(&self, stage: Stage, iterations: usize) -> Schedule {
        let (train, step) = (&self.setup.config.train, self.position.step);
        if stage == Stage::Probe {
            return Schedule { maximum: self.setup.config.probe.learning_rate, warmup: 0, total: iterations };
        }
        // A model that is trained anew is as new to every step as to the first.
        let anew = step == 0 || self.setup.method.starts == Start::First;
        let warms_up = stage == Stage::Main && (anew || train.warmup_every_step);
        let decay = if anew { 1.0 } else { train.learning_rate_decay.powi(step as i32) };
        Schedule {
            maximum: train.learning_rate * decay,
            warmup: if warms_up { train.warmup.min(iterations) } else { 0 },
            total: iterations,
        }
    }

    /// Prepares the trainer for a stage that draws from `pool`.
    fn begin(&mut self, stage: Stage, pool: &[u32]) {
        let Run { setup, trainer, position, .. } = self;
        let counts = counts(pool, setup);
        let shares = shares(&counts, setup);
        let (before, seen) = setup.class_counts(position.step);
        let view =
            StepView { step: position.step, before, seen, counts: &counts, shares: &shares, seed: setup.config.seed };
        if position.iteration == 0 {
            if stage == Stage::Main && setup.method.starts == Start::First {
                trainer.clip.load(&mut trainer.device, &initial(setup, &trainer.clip.parameters));
            }
            stages::begin(trainer, &setup.method, stage, view);
            // Moments of another stage are of other losses, and a model that is trained anew has none.
            let others = |stages: Vec<Stage>| stages.iter().any(|one| matches!(one, Stage::Compression | Stage::Probe));
            let goes_on = position.step > 0
                && stage == Stage::Main
                && setup.method.starts != Start::First
                && !others(setup.method.stages(position.step - 1));
            if !(goes_on && setup.config.train.keep_optimizer) {
                trainer.optimizer.reset(&mut trainer.device);
            }
        }
        stages::set(trainer, &setup.method, stage, view);
    }

    /// Sends the batch of a training step.
    fn load(&mut self, stage: Stage, batch: &Batch, order: &Order, schedule: &Schedule, iteration: usize) -> Launched {
        let Run { setup, trainer, .. } = self;
        let (epoch, learning_rate) = (order.epoch_of(iteration), schedule.at(iteration));
        let gamma = setup.config.objective.gamma_at(epoch, order.epochs());
        let samples = batch.samples.len();
        let images = (batch.pixels.len() / transform::bytes(setup.model.vision_cfg.image_size)) as u64;
        let mut macs = images * setup.model.image_macs();
        if let Objective::Texts { .. } = trainer.objective {
            let numbers: Vec<u32> = batch.samples.iter().map(|sample| setup.text_of(*sample, epoch)).collect();
            let texts = setup.texts.batch(&numbers);
            macs += texts.tokens.iter().map(|text| setup.model.text_macs(text.len())).sum::<u64>();
            let batch =
                TrainBatch { pixels: &batch.pixels, texts: Some(&texts), slot: &batch.samples, ..Default::default() };
            trainer.load(batch, learning_rate, gamma);
        } else {
            let labels: Vec<u32> = batch.samples.iter().map(|sample| setup.column(*sample)).collect();
            let step = &setup.stream.steps[self.position.step];
            let own: Vec<bool> = batch.samples.iter().map(|sample| step.train.binary_search(sample).is_ok()).collect();
            let batch = TrainBatch {
                pixels: &batch.pixels,
                slot: &batch.samples,
                labels: &labels,
                own: &own,
                ..Default::default()
            };
            trainer.load(batch, learning_rate, gamma);
        }
        // Teachers and earlier extractors see the same batch.
        let models = if stage == Stage::Probe { 1 } else { 1 + trainer.frozen_in_use as u64 };
        Launched { iteration, epoch, learning_rate, gamma, samples, macs: macs * models }
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
                "stage": self.position.stage + 1,
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

    /// A line of the log that belongs to the current step's end.
    pub(super) fn note(&mut self, iteration: usize, key: &str, value: serde_json::Value) -> Result<()> {
        let mut line =
            json!({ "step": self.position.step + 1, "stage": self.position.stage + 1, "iteration": iteration });
        line[key] = value;
        self.directory.log(&line)
    }

    /// gdro's class weights at the end of a step.
    fn log_class_weights(&mut self, iterations: usize) -> Result<()> {
        let Some(weights) = self.trainer.objective.class_weights(&self.trainer.device) else { return Ok(()) };
        let weights: serde_json::Map<String, serde_json::Value> = (self.setup.dataset.classes.iter().zip(weights))
            .filter(|(_, weight)| *weight > 0.0)
            .map(|(class, weight)| (class.clone(), json!(weight)))
            .collect();
        self.note(iterations, "class_weights", weights.into())
    }

    fn save_checkpoint(&self, step: usize) -> Result<()> {
        let metadata = [("step", (step + 1).to_string()), ("method", self.setup.method.name.to_string())];
        let (list, parameters) = (&self.trainer.clip.parameters, self.trainer.parameters());
        self.trainer.device.health()?;
        let plain = ParameterList::of(&self.setup.model);
        let mut values = vec![0.0; plain.arena_len()];
        list.transfer(&parameters, &plain, &mut values);
        checkpoint::save(&self.directory.checkpoint(step), &self.setup.model, &plain, &values, &metadata)?;
        if list.extras().is_empty() {
            return Ok(());
        }
        let mut file = TensorFile::new();
        for extra in list.iter().filter(|parameter| list.extras().contains(&parameter.offset)) {
            file.insert_f32(&extra.name, &extra.shape, parameters[extra.range()].to_vec());
        }
        file.save(&self.directory.head(step))
    }

    fn save_state(&self) -> Result<()> {
        let broken = self.setup.dataset.broken_samples();
        state::save(&self.directory.state(), self.position, &self.trainer, &self.memory, broken)
    }
}

/// The batches of a stage from `iteration` on, for the loader. `place` is the number by which its crops are drawn.
fn requests(
    setup: &Setup,
    stage: Stage,
    place: usize,
    iteration: usize,
    mut order: Order,
) -> impl Iterator<Item = BatchRequest> + Send + use<> {
    let (seed, scale) = (setup.config.seed, setup.config.data.crop);
    let views = if stage == Stage::Main { setup.method.views() } else { 1 };
    (iteration..order.iterations()).map(move |iteration| {
        let place = [place as u64, order.epoch_of(iteration) as u64];
        BatchRequest { samples: order.batch(iteration), augment: Some(Augment { seed, place, scale, views }) }
    })
}

/// The parameters that a run's first step starts from, in the layout of `list`: a method's own start at random.
fn initial(setup: &Setup, list: &ParameterList) -> Vec<f32> {
    let mut values = list.initial_values(setup.config.seed);
    ParameterList::of(&setup.model).transfer(&setup.initial, list, &mut values);
    values
}

/// How many samples of each class a pool holds, in the order of the stream.
fn counts(pool: &[u32], setup: &Setup) -> Vec<usize> {
    let mut counts = vec![0; setup.dataset.classes.len()];
    pool.iter().for_each(|sample| counts[setup.column(*sample) as usize] += 1);
    counts
}

/// pi: each class's fraction of the pool, in the data set's order.
fn shares(counts: &[usize], setup: &Setup) -> Vec<f32> {
    let pool: usize = counts.iter().sum();
    let mut shares = vec![0.0; counts.len()];
    for (class, count) in setup.stream.class_order.iter().zip(counts) {
        shares[*class as usize] = *count as f32 / pool as f32;
    }
    shares
}
