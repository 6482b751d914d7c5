//! Where a run is, for other processes: `status.json` while it is at work, and what its directory tells afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::directory::{RunDirectory, host, is_at_work};
use super::log::{Lines, now};
use super::setup::Setup;
use crate::error::{Error, Result};
use crate::files::write_quickly;

/// How often a run tells where it is.
const BEAT: Duration = Duration::from_secs(1);

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// At a stage's iterations.
    Training,
    /// What a step ends with beside its tests: Fisher information, a patch, the memory.
    Closing,
    /// At the step's tests.
    Testing,
    /// Done: all steps are trained and tested.
    Finished,
}

/// Where a run is. Steps, stages and iterations count from 1, as in `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The method's name.
    pub method: String,
    /// The setting `memory.size`.
    pub memory: usize,
    /// The run's.
    pub seed: u64,
    /// What it is at.
    pub phase: RunPhase,
    /// The step that it is in.
    pub step: usize,
    /// Steps of the stream.
    pub steps: usize,
    /// The step's name, as tables have it.
    pub step_name: String,
    /// The stage of the step.
    pub stage: usize,
    /// Iterations of the stage that are done.
    pub iteration: usize,
    /// Iterations of the stage in all.
    pub iterations: usize,
    /// Test images of the step that are done.
    pub tested: usize,
    /// Test images of the step in all.
    pub tests: usize,
    /// Trained on since the run began.
    pub samples: u64,
    /// Of the last iteration; none before the first.
    pub loss: Option<f64>,
    /// Between the last two lines of `metrics.jsonl`; none before the first.
    pub samples_per_second: Option<f64>,
    /// Until all steps are trained, without their tests.
    pub seconds_left: Option<f64>,
    /// Of the last finished step: accuracy, or mean recall@1, over all tests so far.
    pub accuracy: Option<f64>,
    /// When the last state was saved.
    pub saved: Option<String>,
    /// When this was written.
    pub time: String,
    /// The process's number on its host.
    pub process: u32,
    /// The host's name.
    pub host: String,
}

impl Status {
    /// The numbers in Prometheus' text format, each with the run's method, memory and seed as labels.
    pub(crate) fn to_prometheus(&self) -> String {
        let seconds = |time: &str| {
            let since = humantime::parse_rfc3339(time).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(since.as_secs_f64())
        };
        let whole = |number: usize| Some(number as f64);
        let numbers = [
            ("step", "gauge", "the step that the run is in, from 1", whole(self.step)),
            ("steps", "gauge", "steps of the stream", whole(self.steps)),
            ("iteration", "gauge", "iterations of the stage that are done", whole(self.iteration)),
            ("iterations", "gauge", "iterations of the stage", whole(self.iterations)),
            ("tested_images", "gauge", "test images of the step that are done", whole(self.tested)),
            ("samples_total", "counter", "samples trained on since the run began", Some(self.samples as f64)),
            ("loss", "gauge", "the loss of the last iteration", self.loss),
            ("samples_per_second", "gauge", "samples trained on in a second", self.samples_per_second),
            ("seconds_left", "gauge", "seconds until all steps are trained", self.seconds_left),
            ("accuracy", "gauge", "over all tests so far, after the last finished step", self.accuracy),
            ("finished", "gauge", "1 once the run is at its end", whole(usize::from(self.phase == RunPhase::Finished))),
            (
                "saved_timestamp_seconds",
                "gauge",
                "when the last state was saved",
                self.saved.as_deref().and_then(seconds),
            ),
            ("heartbeat_timestamp_seconds", "gauge", "when this was written", seconds(&self.time)),
        ];
        let labels = format!("method=\"{}\",memory=\"{}\",seed=\"{}\"", self.method, self.memory, self.seed);
        let mut text = String::new();
        for (name, kind, help, value) in numbers {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                text += &format!(
                    "# HELP perennial_{name} {help}\n# TYPE perennial_{name} {kind}\nperennial_{name}{{{labels}}} {value}\n"
                );
            }
        }
        text
    }
}

/// Writes `status.json` as a run goes, at most once a second. What cannot be written ends no training.
pub(crate) struct Pulse {
    path: PathBuf,
    pub status: Status,
    last: Option<Instant>,
}

impl Pulse {
    pub(crate) fn new(run: &Path, setup: &Setup) -> Pulse {
        let status = Status {
            method: setup.row().name.to_string(),
            memory: setup.config.memory.size,
            seed: setup.config.seed,
            phase: RunPhase::Training,
            step: 1,
            steps: setup.stream.steps.len(),
            step_name: String::new(),
            stage: 1,
            iteration: 0,
            iterations: 0,
            tested: 0,
            tests: setup.test_samples().count(),
            samples: 0,
            loss: None,
            samples_per_second: None,
            seconds_left: None,
            accuracy: None,
            saved: None,
            time: String::new(),
            process: std::process::id(),
            host: host(),
        };
        Pulse { path: run.join("status.json"), status, last: None }
    }

    /// Changes the status, and writes it where the last time is long enough ago, or where `at_once` says so. Returns it where it was
    /// written.
    pub(crate) fn beat(&mut self, at_once: bool, change: impl FnOnce(&mut Status)) -> Option<&Status> {
        change(&mut self.status);
        if !at_once && self.last.is_some_and(|last| last.elapsed() < BEAT) {
            return None;
        }
        self.last = Some(Instant::now());
        self.status.time = now();
        let text = serde_json::to_vec_pretty(&self.status).expect("a status is plain values");
        let _ = write_quickly(&self.path, &text);
        Some(&self.status)
    }
}

/// What is seen of a run from outside.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Seen {
    pub run: PathBuf,
    /// Whether a process is at work in it; none where its file system cannot tell.
    pub alive: Option<bool>,
    /// None where it has not begun.
    #[serde(flatten)]
    pub status: Option<Status>,
}

impl Seen {
    /// Looks at a run's directory, also while the run is at work.
    pub(crate) fn at(run: &Path) -> Result<Seen> {
        if !run.join("config.toml").exists() {
            return Err(Error::input(format!("{} is no run's directory: it has no config.toml", run.display())));
        }
        let alive = is_at_work(run);
        let path = run.join("status.json");
        let status = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).map_err(|cause| Error::reading(&path, cause))?),
            Err(_) => finished(run)?,
        };
        Ok(Seen { run: run.to_path_buf(), alive, status })
    }
}

/// The status of a run that came to its end; none of one that has not.
fn finished(run: &Path) -> Result<Option<Status>> {
    if !run.join("evaluation.json").exists() {
        return Ok(None);
    }
    let evaluation = RunDirectory::read_evaluation(run)?;
    if !evaluation.is_complete() {
        return Ok(None);
    }
    let log = Lines::read(run)?;
    let last = |key: &str| log.lines.iter().rev().find_map(|line| line.get(key)).cloned().unwrap_or_default();
    let number = |key: &str| last(key).as_u64().unwrap_or(0) as usize;
    let steps = evaluation.steps.len();
    let tests = evaluation.steps.iter().map(|step| step.test).sum();
    Ok(Some(Status {
        phase: RunPhase::Finished,
        step: steps,
        steps,
        step_name: evaluation.steps.last().map(|step| step.name.clone()).unwrap_or_default(),
        stage: number("stage"),
        iteration: number("iteration"),
        iterations: number("iteration"),
        tested: tests,
        tests,
        samples: evaluation.samples_spent,
        loss: last("loss").as_f64(),
        samples_per_second: last("samples_per_second").as_f64(),
        seconds_left: Some(0.0),
        accuracy: evaluation.accuracy.last().copied(),
        saved: last("time").as_str().map(str::to_string),
        time: last("time").as_str().unwrap_or_default().to_string(),
        process: 0,
        host: String::new(),
        method: evaluation.method,
        memory: evaluation.memory,
        seed: evaluation.seed,
    }))
}
