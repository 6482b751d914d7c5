//! The loop of a run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::config::{Config, HeadConfig, HeadStart};
use super::directory::{self, Access, RunDirectory};
use super::evaluation::{evaluate, open_loader};
use super::fitted::{Fitted, check_room};
use super::log::now;
use super::predictions::pick;
use super::record::{Evaluation, Spent};
use super::setup::Setup;
use super::state::{self, Position, Restored};
use super::status::{Pulse, RunPhase, Status};
use crate::data::images::transform;
use crate::data::loader::{Augment, Batch, BatchRequest, Loader};
use crate::error::{Error, Result};
use crate::eval::zero_shot::class_embeddings;
use crate::interrupt::{self, Hold};
use crate::memory::Memory;
use crate::method::{Classifies, Start};
use crate::model::checkpoint::{self, TensorFile};
use crate::model::parameters::ParameterList;
use crate::ops::{Backend, Plan};
use crate::stream::ClassId;
use crate::train::{IterationReport, Order, Schedule, Stage, StageView, TrainBatch, Trainer};

/// What a stage has trained is saved at its end where more than this has passed since the last state: less is trained again sooner than
/// large states are written after every stage. Before tests it is saved in any case.
const WORTH_SAVING: Duration = Duration::from_secs(30);

/// Hears what a run does; for progress bars.
pub trait Observer {
    /// Everything is open and planned; training begins, or goes on from where `resumed` says.
    fn started(&mut self, setup: &Setup, plan: &Plan, resumed: Option<&str>);
    /// One training iteration is done.
    fn iteration(&mut self, setup: &Setup, iteration: Iteration);
    /// A step is trained and evaluated; the last row of `evaluation` is its.
    fn evaluated(&mut self, setup: &Setup, evaluation: &Evaluation);
    /// A warning, or what is worth knowing.
    fn note(&mut self, note: &str);
    /// Where the run is, about once a second.
    fn beat(&mut self, _status: &Status) {}
}

/// One iteration, for progress.
#[derive(Clone, Copy, Debug)]
pub struct Iteration {
    /// The step, from 0.
    pub step: usize,
    /// How many of the stage's iterations are done, this one included.
    pub iteration: usize,
    /// Iterations of the stage.
    pub iterations: usize,
    /// Samples of its batch.
    pub samples: usize,
    /// Loss and gradient norm.
    pub report: IterationReport,
}

/// Runs `config` in the directory `out`, or goes on where the same run stopped there.
///
/// Errors of input come before anything is trained. An error of the run leaves the directory as its last checkpoint has it, and so does
/// a signal to which `interrupt::listen` listens.
pub fn run<B: Backend>(
    place: &B::Place,
    config: &Config,
    out: &Path,
    access: Access,
    observer: &mut dyn Observer,
) -> Result<Evaluation> {
    interrupt::leave(format!(" before training; what {} holds is whole", out.display()));
    // What takes no time comes before what may take long.
    if !access.start_over {
        find_state(out)?.1.into_iter().for_each(|note| observer.note(&note));
    }
    let setup = Setup::open(config)?;
    check_room(&setup)?;
    let (plan, build) = setup.plan::<B>(&setup.trainer_spec());
    let device = B::with_plan(place, &plan).map_err(|error| {
        let fitting = largest_batch::<B>(place, &setup, plan.bytes());
        Error::input(format!("{error}{}", fitting.map(|b| format!("; train.batch {b} would fit")).unwrap_or_default()))
    })?;
    let directory = RunDirectory::open(out, config, access)?;
    let trainer = build(device);
    let (run, notes) = Run::open(setup, directory, trainer)?;
    notes.iter().for_each(|note| observer.note(note));
    observer.started(&run.setup, &plan, run.resumed().as_deref());
    run.finish(observer)
}

/// The largest batch whose plan needs at most half of `bytes`, halving from the one that does not fit.
pub(super) fn largest_batch<B: Backend>(place: &B::Place, setup: &Setup, bytes: usize) -> Option<usize> {
    let mut spec = setup.trainer_spec();
    while spec.capacity.images > 2 {
        spec.capacity.images /= 2;
        spec.capacity.texts = spec.capacity.texts.min(spec.capacity.images);
        let (plan, _) = setup.plan::<B>(&spec);
        if B::with_plan(place, &plan).is_ok() && plan.bytes() < bytes {
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
    /// The objective's, for the log.
    figures: Vec<(&'static str, f64)>,
    samples: usize,
    macs: u64,
}

/// What came since the last line of the log.
struct SinceLine {
    since: Instant,
    samples: usize,
}

pub(super) struct Run {
    pub(super) setup: Setup,
    directory: RunDirectory,
    pub(super) trainer: Trainer,
    pub(super) memory: Memory,
    /// The method's classifier, where it is fitted to features.
    pub(super) fitted: Option<Fitted>,
    pub(super) position: Position,
    evaluation: Evaluation,
    pub(super) pulse: Pulse,
    /// When the last state was saved, or this process began.
    saved: Instant,
}

impl Run {
    /// Puts together what a run begins or goes on with, and its warnings.
    fn open(setup: Setup, directory: RunDirectory, mut trainer: Trainer) -> Result<(Run, Vec<String>)> {
        let seed = setup.config.seed;
        let mut evaluation = Evaluation::new(&setup);
        let (mut position, mut memory) = (Position::default(), Memory::new(setup.config.memory.size, seed));
        let mut notes = Vec::new();
        if let (Some(state), _) = find_state(directory.path())? {
            directory.check_manifest(&setup)?;
            let size = setup.config.memory.size;
            let restored = state::restore(&state, &mut trainer, setup.dataset.samples.len(), size, seed);
            let restored = restored.map_err(|error| with_remedy(error, &state, &directory))?;
            setup.meet_broken(&restored.broken)?;
            notes.extend(restored.notes);
            Restored { position, memory, .. } = restored;
            if directory.path().join("evaluation.json").exists() {
                evaluation = RunDirectory::read_evaluation(directory.path())?;
            }
            if take_up(&setup, &directory, position, &mut evaluation)? {
                position = Position { step: position.step + 1, stage: 0, iteration: 0, ..position };
            }
        } else if directory.path().join("evaluation.json").exists() {
            // Its state was taken away; of a finished run nothing else is asked.
            directory.check_manifest(&setup)?;
            evaluation = RunDirectory::read_evaluation(directory.path())?;
            position.step = setup.stream.steps.len();
        } else {
            trainer.clip.load(&mut *trainer.device, &initial(&setup, &trainer.clip.parameters));
            directory.write_manifest(&setup, &trainer.device.name(), trainer.clip.parameters.count())?;
        }
        let pulse = Pulse::new(directory.path(), &setup);
        let saved = Instant::now();
        let mut run = Run { setup, directory, trainer, memory, fitted: None, position, evaluation, pulse, saved };
        if run.position.step < run.setup.stream.steps.len() {
            run.check_position()?;
            notes.extend(run.directory.resume_log(run.position)?);
            run.enter();
            let Run { setup, trainer, directory, .. } = &mut run;
            if let Some(fit) = setup.method.fit() {
                let (fitted, note) = Fitted::open(setup, fit, trainer, directory.path())?;
                run.fitted = Some(fitted);
                notes.extend(note);
            }
        }
        Ok((run, notes))
    }

    /// In words, where a run goes on; none where it begins.
    fn resumed(&self) -> Option<String> {
        let Run { position: Position { step, stage, iteration, .. }, setup, .. } = self;
        let steps = setup.stream.steps.len();
        if *step == steps {
            return Some(format!("all {steps} steps are done"));
        }
        let stages = setup.method.stages(*step);
        let place = format!("step {} of {steps} ({})", step + 1, setup.stream.steps[*step].name);
        match stages.get(*stage) {
            _ if (*step, *stage, *iteration) == (0, 0, 0) => None,
            None => Some(format!("{place}, which is trained and waits for its tests")),
            Some(Stage::Closing) => Some(format!("{place}, which is trained")),
            Some(stage) => Some(format!("{place}, iteration {} of {}", iteration + 1, self.order(*stage).iterations())),
        }
    }

    /// Fails where the position cannot be one of this run.
    fn check_position(&self) -> Result<()> {
        let Position { step, stage, iteration, .. } = self.position;
        let stages = self.setup.method.stages(step);
        let most = match stages.get(stage) {
            None | Some(Stage::Closing) => 0,
            Some(stage) => self.order(*stage).iterations(),
        };
        if stage <= stages.len() && iteration <= most {
            return Ok(());
        }
        let wrong = format!(
            "it is damaged: it stands in stage {}, iteration {iteration}, of step {}, which has {} stages",
            stage + 1,
            step + 1,
            stages.len()
        );
        Err(with_remedy(
            Error::reading(&directory::state(self.directory.path()), wrong),
            &directory::state(self.directory.path()),
            &self.directory,
        ))
    }

    /// Says to the trainer which stage it comes from, where a run goes on behind one.
    fn enter(&mut self) {
        let stages = self.setup.method.stages(self.position.step);
        let behind = &stages[..self.position.stage.min(stages.len())];
        if let Some(stage) = behind.iter().rfind(|stage| **stage != Stage::Closing) {
            let order = self.order(*stage);
            self.with_view(*stage, order.pool(), |trainer, _, view| trainer.enter(view));
        }
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<Evaluation> {
        while self.position.step < self.setup.stream.steps.len() {
            let step = self.position.step;
            let stages = self.setup.method.stages(step);
            while self.position.stage < stages.len() {
                let stage = stages[self.position.stage];
                match stage {
                    Stage::Closing => {
                        interrupt::leave(self.left("closes its training"));
                        self.beat(observer, |status| status.phase = RunPhase::Closing);
                        self.close()?;
                        self.position.stage += 1;
                        self.position.iteration = 0;
                    }
                    stage => self.train(stage, observer)?,
                }
            }
            self.test(step, observer)?;
            self.position.step += 1;
            self.position.stage = 0;
        }
        if let Some(status) = self.pulse.beat(true, |status| status.phase = RunPhase::Finished) {
            observer.beat(status);
        }
        self.directory.close()?;
        Ok(self.evaluation)
    }

    /// The tests after a step, and what they come to. What was trained is saved before.
    fn test(&mut self, step: usize, observer: &mut dyn Observer) -> Result<()> {
        self.save_state()?;
        interrupt::leave(self.left("is in its tests"));
        self.log_class_figures()?;
        self.beat(observer, |status| (status.phase, status.tested) = (RunPhase::Testing, 0));
        // Where a run goes on here the classifier has taken in nothing yet.
        self.fit()?;
        let Run { trainer, setup, memory, fitted, pulse, .. } = self;
        let found = evaluate(trainer, setup, memory, fitted.as_mut(), step, &mut |tested| {
            if let Some(status) = pulse.beat(false, |status| status.tested = tested) {
                observer.beat(status);
            }
        })?;
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
        let accuracy = self.evaluation.accuracy[step];
        self.beat(observer, |status| status.accuracy = Some(accuracy));
        observer.evaluated(&self.setup, &self.evaluation);
        Ok(())
    }

    /// Tells where the run is.
    fn beat(&mut self, observer: &mut dyn Observer, change: impl FnOnce(&mut Status)) {
        let Run { position: Position { step, stage, .. }, setup, pulse, .. } = self;
        let status = pulse.beat(true, |status| {
            (status.step, status.stage) = (*step + 1, *stage + 1);
            status.step_name.clone_from(&setup.stream.steps[*step].name);
            change(status);
        });
        status.into_iter().for_each(|status| observer.beat(status));
    }

    /// What is said of a run that a signal ends while its state is saved.
    fn left(&self, what: &str) -> String {
        let (steps, name) = (self.setup.stream.steps.len(), &self.setup.stream.steps[self.position.step].name);
        format!(
            " while step {} of {steps} ({name}) {what}; {} holds all that is needed, and the same command goes on",
            self.position.step + 1,
            self.directory.path().display()
        )
    }

    /// Trains a stage of the current step from the current iteration to its end.
    fn train(&mut self, stage: Stage, observer: &mut dyn Observer) -> Result<()> {
        let order = self.order(stage);
        let iterations = order.iterations();
        let schedule = self.schedule(stage, iterations);
        let hold = Hold::new()?;
        self.begin(stage, order.pool());
        let mut loader = self.open_loader(stage, self.position.iteration, order.clone())?;
        self.beat(observer, |status| (status.phase, status.iterations) = (RunPhase::Training, iterations));
        let mut line = SinceLine { since: Instant::now(), samples: 0 };
        let mut launched = None;
        for iteration in self.position.iteration..iterations {
            let batch = loader.next().ok_or_else(|| Error::run("the loader ended early"))??;
            // One sample has nothing to be held against; that happens only where broken samples were left out.
            let loaded = (batch.samples.len() >= 2).then(|| self.load(stage, &batch, &order, &schedule, iteration));
            loader.recycle(batch);
            // A GPU was at the step before while the batch was prepared and sent.
            if let Some(before) = launched.take() {
                self.settle(before, iterations, &mut line, observer)?;
            }
            match loaded {
                Some(step) => {
                    self.trainer.launch();
                    launched = Some(step);
                }
                None => self.position.iteration = iteration + 1,
            }
            let train = &self.setup.config.train;
            let due = (iteration + 1) % train.save_every == 0
                || self.saved.elapsed().as_secs_f64() >= 60.0 * train.save_minutes;
            if hold.is_asked() || (due && iteration + 1 < iterations) {
                if let Some(step) = launched.take() {
                    self.settle(step, iterations, &mut line, observer)?;
                }
                self.save_state()?;
                let what = format!("was trained up to iteration {} of {iterations}", iteration + 1);
                if let Some(error) = hold.asked(&self.left(&what)) {
                    return Err(error);
                }
            }
        }
        if let Some(step) = launched.take() {
            self.settle(step, iterations, &mut line, observer)?;
        }
        self.position.stage += 1;
        self.position.iteration = 0;
        if hold.is_asked() || self.saved.elapsed() > WORTH_SAVING {
            self.save_state()?;
        }
        hold.asked(&self.left("was trained")).map_or(Ok(()), Err)
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
        let anew = step == 0 || self.setup.row().starts == Start::First;
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
        let begins = self.position.iteration == 0;
        self.with_view(stage, pool, |trainer, setup, view| {
            if begins {
                if stage == Stage::Main && setup.row().starts == Start::First {
                    trainer.clip.load(&mut *trainer.device, &initial(setup, &trainer.clip.parameters));
                }
                setup.method.begin(trainer, view);
                if let Some((first, rows)) = head_rows(trainer, setup, view) {
                    setup.method.start_head(trainer, view, first, &rows);
                }
                // Moments of another stage are of other losses, and a model that is trained anew has none.
                let others =
                    |stages: Vec<Stage>| stages.iter().any(|one| matches!(one, Stage::Compression | Stage::Probe));
                let goes_on = view.step > 0
                    && stage == Stage::Main
                    && setup.row().starts != Start::First
                    && !others(setup.method.stages(view.step - 1));
                if !(goes_on && setup.config.train.keep_optimizer) {
                    trainer.optimizer.reset(&mut *trainer.device);
                }
            }
            trainer.enter(view);
        });
    }

    /// Lends the trainer with the current step as a stage that draws from `pool` sees it.
    fn with_view(&mut self, stage: Stage, pool: &[u32], work: impl FnOnce(&mut Trainer, &Setup, &StageView)) {
        let Run { setup, trainer, position, .. } = self;
        let counts = counts(pool, setup);
        let shares = shares(&counts, setup);
        let (before, seen) = setup.class_counts(position.step);
        let (step, seed) = (position.step, setup.config.seed);
        work(trainer, setup, &StageView { stage, step, before, seen, counts: &counts, shares: &shares, seed });
    }

    /// Sends the batch of a training step.
    fn load(&mut self, stage: Stage, batch: &Batch, order: &Order, schedule: &Schedule, iteration: usize) -> Launched {
        let Run { setup, trainer, .. } = self;
        let (epoch, learning_rate) = (order.epoch_of(iteration), schedule.at(iteration));
        let samples = batch.samples.len();
        let images = (batch.pixels.len() / transform::bytes(setup.model.vision_cfg.image_size)) as u64;
        let mut macs = images * setup.model.image_macs();
        let (slot, epochs) = (&batch.samples, order.epochs());
        if setup.row().reads_texts() {
            let numbers: Vec<u32> = batch.samples.iter().map(|sample| setup.text_of(*sample, epoch)).collect();
            let texts = setup.texts.batch(&numbers);
            macs += texts.tokens.iter().map(|text| setup.model.text_macs(text.len())).sum::<u64>();
            let batch =
                TrainBatch { pixels: &batch.pixels, texts: Some(&texts), slot, epoch, epochs, ..Default::default() };
            trainer.load(batch, learning_rate);
        } else {
            let classes: Vec<ClassId> = batch.samples.iter().map(|sample| setup.class_id(*sample)).collect();
            let step = &setup.stream.steps[self.position.step];
            let own: Vec<bool> = batch.samples.iter().map(|sample| step.train.binary_search(sample).is_ok()).collect();
            let batch = TrainBatch {
                pixels: &batch.pixels,
                slot,
                classes: &classes,
                own: &own,
                epoch,
                epochs,
                ..Default::default()
            };
            trainer.load(batch, learning_rate);
        }
        // Teachers and earlier extractors see the same batch; of a probe the features alone.
        let is_alone = stage == Stage::Probe && setup.row().classifies == Classifies::ByLinearProbe;
        let models = if is_alone { 1 } else { 1 + trainer.frozen_in_use as u64 };
        let figures = trainer.objective.figures();
        Launched { iteration, epoch, learning_rate, figures, samples, macs: macs * models }
    }

    /// Waits for a launched step, and writes down what it came to.
    fn settle(
        &mut self,
        done: Launched,
        iterations: usize,
        line: &mut SinceLine,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let report = self.trainer.finish().map_err(|error| self.place(error, done.iteration, iterations))?;
        let (step, iteration) = (self.position.step, done.iteration + 1);
        self.position.iteration = iteration;
        self.position.samples += done.samples as u64;
        self.position.macs += done.macs;
        line.samples += done.samples;
        if iteration % self.setup.config.train.log_every == 0 || iteration == iterations {
            let speed = line.samples as f64 / line.since.elapsed().as_secs_f64().max(1e-9);
            let mut entry = json!({
                "step": step + 1,
                "stage": self.position.stage + 1,
                "iteration": iteration,
                "epoch": done.epoch + 1,
                "samples": self.position.samples,
                "loss": report.loss,
                "gradient_norm": report.gradient_norm,
                "learning_rate": done.learning_rate,
                "samples_per_second": speed,
            });
            done.figures.iter().for_each(|(name, value)| entry[*name] = json!(value));
            self.directory.log(&entry)?;
            *line = SinceLine { since: Instant::now(), samples: 0 };
            self.pulse.status.samples_per_second = Some(speed);
            let left = self.samples_left(iterations);
            self.pulse.status.seconds_left = Some(left / speed);
        }
        let samples = self.position.samples;
        let status = self.pulse.beat(false, |status| {
            (status.iteration, status.samples, status.loss) = (iteration, samples, Some(f64::from(report.loss)));
        });
        status.into_iter().for_each(|status| observer.beat(status));
        observer.iteration(&self.setup, Iteration { step, iteration, iterations, samples: done.samples, report });
        Ok(())
    }

    /// About how many samples are still to be trained on: the rest of this stage, of which `iterations` are all, and the budgets of later
    /// steps.
    fn samples_left(&self, iterations: usize) -> f64 {
        let Run { setup, position, .. } = self;
        let stage = (iterations - position.iteration) * setup.config.train.batch;
        let later = (position.step + 1..setup.stream.steps.len()).map(|step| setup.step_budget(step));
        (stage + later.sum::<usize>()) as f64
    }

    /// Says where training failed, and what is left of it.
    fn place(&self, error: Error, iteration: usize, iterations: usize) -> Error {
        let state = directory::state(self.directory.path());
        let last = if state.exists() { state.display().to_string() } else { "none yet".to_string() };
        let name = &self.setup.stream.steps[self.position.step].name;
        error.at(format!("{name}, iteration {} of {iterations} (last good checkpoint: {last})", iteration + 1))
    }

    /// A line of the log that belongs to the current step's end.
    pub(super) fn note(&mut self, key: &str, value: serde_json::Value) -> Result<()> {
        let Position { step, stage, iteration, .. } = self.position;
        let mut line = json!({ "step": step + 1, "stage": stage + 1, "iteration": iteration });
        line[key] = value;
        self.directory.log(&line)
    }

    /// What the objective has to say of every class at the end of a step.
    fn log_class_figures(&mut self) -> Result<()> {
        let Some((name, figures)) = self.trainer.objective.class_figures(&*self.trainer.device) else { return Ok(()) };
        let figures: serde_json::Map<String, serde_json::Value> = (self.setup.dataset.classes.iter().zip(figures))
            .filter(|(_, figure)| *figure > 0.0)
            .map(|(class, figure)| (class.clone(), json!(figure)))
            .collect();
        self.note(name, figures.into())
    }

    fn save_checkpoint(&self, step: usize) -> Result<()> {
        let metadata = [("step", (step + 1).to_string()), ("method", self.setup.row().name.to_string())];
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

    /// Saves all that is needed to go on from here. The log is on the disk first, and the state before is kept.
    fn save_state(&mut self) -> Result<()> {
        let broken = self.setup.dataset.broken_samples();
        self.directory.sync_log()?;
        state::save(&self.directory, self.position, &self.trainer, &self.memory, broken)?;
        self.saved = Instant::now();
        // At once: a run that stops now says no more.
        self.pulse.beat(true, |status| status.saved = Some(now()));
        Ok(())
    }
}

/// The state in a run's directory to go on from, if any, and what is to be told of it. Where the last one is gone it is the one before;
/// where both are and a result lies there, that is an error unless the run is finished.
fn find_state(run: &Path) -> Result<(Option<PathBuf>, Option<String>)> {
    let (state, previous) = (directory::state(run), directory::previous_state(run));
    if state.exists() {
        return Ok((Some(state), None));
    }
    if previous.exists() {
        let note = format!("{} is gone; the run goes on from the one before, {}", state.display(), previous.display());
        return Ok((Some(previous), Some(note)));
    }
    let finished = || RunDirectory::read_evaluation(run).is_ok_and(|evaluation| evaluation.is_complete());
    match directory::earlier_result(run) {
        Some(result) if !finished() => Err(Error::input(format!(
            "{} is gone, and {} is the result of an earlier step: put the state back, or begin anew with --start-over, which throws \
             away all that {} holds",
            state.display(),
            result.display(),
            run.display()
        ))),
        _ => Ok((None, None)),
    }
}

/// An error about a state, with what can be done.
fn with_remedy(error: Error, state: &Path, directory: &RunDirectory) -> Error {
    let previous = directory::previous_state(directory.path());
    let remedy = match state != previous && previous.exists() {
        true => format!("move it away, and the same command goes on from the state before, {}", previous.display()),
        false => "put back a whole one, or begin anew with --start-over".to_string(),
    };
    Error::input(format!("{error}; {remedy}"))
}

/// What the rows of a head start as that are new as a stage begins, and the first of them: the embeddings of the classes' prompts, in the
/// order of the stream. None where there is no head, nothing new, or a random start. The text tower is that of the run's first weights:
/// methods with a head train the other alone.
fn head_rows(trainer: &mut Trainer, setup: &Setup, view: &StageView) -> Option<(usize, Vec<f32>)> {
    let HeadConfig { start, scale } = setup.config.head;
    // A model that is trained anew at every step, or a head, knows none of the classes.
    let is_anew = setup.row().starts == Start::First || view.stage == Stage::Probe;
    let first = if is_anew { 0 } else { view.before };
    let has_head = setup.row().trains_head() && trainer.clip.parameters.find("head.weight").is_some();
    if view.stage == Stage::Closing || start == HeadStart::Random || !has_head || first == view.seen {
        return None;
    }
    let of_class = setup.class_prompts.len() / setup.dataset.classes.len();
    let classes = &setup.stream.class_order[first..view.seen];
    let prompts: Vec<&[u32]> = classes
        .iter()
        .flat_map(|class| &setup.class_prompts[class.index() * of_class..][..of_class])
        .map(Vec::as_slice)
        .collect();
    let mut rows = class_embeddings(&mut *trainer.device, &trainer.evaluation, &prompts, classes.len());
    rows.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
    Some((first, rows))
}

/// Cuts an evaluation to the rows of the steps that are done at `position`. Fails where it lacks some of them. Returns whether the step of
/// the position is trained and tested.
fn take_up(setup: &Setup, directory: &RunDirectory, position: Position, evaluation: &mut Evaluation) -> Result<bool> {
    let (rows, steps) = (evaluation.matrix.len(), setup.stream.steps.len());
    if position.step > steps {
        let what = format!("it is damaged: it stands in step {}, and there are {steps}", position.step + 1);
        return Err(with_remedy(
            Error::reading(&directory::state(directory.path()), what),
            &directory::state(directory.path()),
            directory,
        ));
    }
    if rows < position.step {
        return Err(Error::input(format!(
            "{}: evaluation.json has the results of {rows} steps, and {} stands behind {}: they are not of one moment; put back the \
             evaluation.json that belongs to it, or begin anew with --start-over",
            directory.path().display(),
            directory::state(directory.path()).display(),
            position.step
        )));
    }
    let trained = position.step < steps && position.stage == setup.method.stages(position.step).len();
    let tested = trained && rows > position.step;
    evaluation.truncate(position.step + usize::from(tested))?;
    Ok(tested)
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
    let views = if stage == Stage::Main { setup.row().views } else { 1 };
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
    pool.iter().for_each(|sample| counts[setup.class_id(*sample).index()] += 1);
    counts
}

/// pi: each class's fraction of the pool, in the data set's order.
fn shares(counts: &[usize], setup: &Setup) -> Vec<f32> {
    let pool: usize = counts.iter().sum();
    let mut shares = vec![0.0; counts.len()];
    for (label, count) in setup.stream.class_order.iter().zip(counts) {
        shares[label.index()] = *count as f32 / pool as f32;
    }
    shares
}
