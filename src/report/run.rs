//! What a report reads of a run's directory.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::experiment::{Config, Evaluation, Lines, Prediction, RunDirectory};
use crate::files::decode_text;
use crate::files::files_below;
use crate::seal::{self, Seal};
use crate::stream::StreamKind;

/// A run as its directory tells of it.
#[derive(Clone, Debug)]
pub struct Run {
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
    /// What `evaluation.json` holds.
    pub evaluation: Evaluation,
    pub(crate) log: Vec<LogLine>,
    pub(crate) predictions: Vec<Prediction>,
    /// `manifest.json`; null where there is none.
    pub(crate) manifest: Value,
    /// What could not be read though the rest could.
    pub(crate) notes: Vec<String>,
}

/// A line of `metrics.jsonl`. A number that was not finite is None.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LogLine {
    /// Counted from 1.
    pub step: usize,
    /// Trained on since the run began.
    pub samples: Option<u64>,
    /// Of the line's last iteration.
    pub loss: Option<f64>,
    /// The global 2-norm before clipping.
    pub gradient_norm: Option<f64>,
    /// What the schedule gave that iteration.
    pub learning_rate: Option<f64>,
    /// Since the line before.
    pub samples_per_second: Option<f64>,
    /// gdro's, at the end of a step.
    pub class_weights: Option<BTreeMap<String, f64>>,
}

impl Borrow<Evaluation> for Run {
    fn borrow(&self) -> &Evaluation {
        &self.evaluation
    }
}

impl Run {
    /// Reads a run's directory. Without its settings and its evaluation there is nothing to tell, and that is an error;
    /// whatever else is missing or damaged becomes a note.
    pub fn read(path: &Path) -> Result<Run> {
        if path.exists() && !path.join("evaluation.json").exists() {
            let folders = fs::read_dir(path).into_iter().flatten().flatten();
            let runs = folders.filter(|folder| folder.path().join("evaluation.json").exists()).count();
            let hint =
                if runs > 0 { format!("; {runs} folders in it are: give {}/*", path.display()) } else { String::new() };
            return Err(Error::input(format!(
                "{} is no run's directory: it has no evaluation.json{hint}",
                path.display()
            )));
        }
        let evaluation = RunDirectory::read_evaluation(path)?;
        let config_path = path.join("config.toml");
        let text = fs::read(&config_path).map_err(|cause| Error::reading(&config_path, cause))?;
        let mut notes = Vec::new();
        if seal::check_toml(&text) == Seal::Broken {
            notes.push(format!("config.toml: {}", seal::DAMAGED));
        }
        let text = decode_text(text).map_err(|what| Error::reading(&config_path, what))?;
        let config = Config::parse_run(&text).map_err(|error| error.at(config_path.display()))?;
        if (&config.method, config.seed) != (&evaluation.method, evaluation.seed) {
            return Err(Error::input(format!(
                "{}: evaluation.json is of {:?} with seed {}, and config.toml of {:?} with seed {}: they are not of one run",
                path.display(),
                evaluation.method,
                evaluation.seed,
                config.method,
                config.seed
            )));
        }
        let log = Lines::read(path)?;
        if !path.join("metrics.jsonl").exists() {
            notes.push("metrics.jsonl: there is none, and so no training curves of this run".to_string());
        }
        notes.extend(log.note());
        let log = of_training(log);
        let predictions = RunDirectory::read_predictions(path).unwrap_or_else(|error| {
            notes.push(error.to_string());
            Vec::new()
        });
        let manifest = RunDirectory::read_manifest(path).unwrap_or_else(|error| {
            notes.push(error.to_string());
            Value::Null
        });
        Ok(Run { path: path.to_path_buf(), config, evaluation, log, predictions, manifest, notes })
    }

    /// The files of a run's directory, apart from pages and tables that reports of it may have left there.
    pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
        let made = |file: &PathBuf| {
            let extension = file.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| ["html", "md", "csv"].contains(&extension))
        };
        files_below(path).into_iter().filter(|file| !made(file)).collect()
    }

    /// What was learnt, as a heading.
    pub(crate) fn title(&self) -> String {
        let Run { config, evaluation, .. } = self;
        let (data, steps) = (&config.data.name, evaluation.steps.len());
        match config.stream.kind {
            StreamKind::Single => format!("{data}, learnt in one step"),
            StreamKind::ClassIncremental => {
                let classes: usize = evaluation.steps.iter().map(|step| step.classes).sum();
                format!("{classes} classes of {data} in {steps} tasks")
            }
            StreamKind::DomainIncremental => format!("{steps} domains of {data}, one after the other"),
            StreamKind::TimeIncremental => format!("{data} through time, in {steps} periods"),
        }
    }

    /// What the run started from, by the name of its file or folder.
    pub(crate) fn weights(&self) -> String {
        let path = self.config.model.pretrained.trim_end_matches('/');
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.is_empty() { RANDOM } else { name }.to_string()
    }

    /// The weights that the run started from, wherever they lay: their hash, or the path where the manifest is gone.
    pub(super) fn weights_hash(&self) -> &str {
        match self.config.model.pretrained.as_str() {
            "" => "",
            path => self.manifest["sha256"]["pretrained"].as_str().unwrap_or(path),
        }
    }
}

/// What a run without weights starts from.
pub(crate) const RANDOM: &str = "random values";

/// The lines of a step. Those without a count of samples have that of the line before.
fn of_training(log: Lines) -> Vec<LogLine> {
    let mut samples = 0;
    let lines = log.lines.into_iter().filter_map(|line| serde_json::from_value::<LogLine>(line).ok());
    lines
        .map(|line| {
            samples = line.samples.unwrap_or(samples);
            LogLine { samples: Some(samples), ..line }
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::eval::metrics::{Summary, TaskMatrix};
    use crate::experiment::StepRecord;

    /// A run of that many tasks, of no preset, from random values.
    pub(crate) fn run(method: &str, seed: u64, tasks: usize) -> Run {
        let step = |task: usize| StepRecord { name: format!("task {task}"), train: 10, test: 5, classes: 2 };
        let mut config = Config { method: method.to_string(), seed, ..Config::default() };
        config.stream.tasks = tasks;
        let (matrix, accuracy) = (vec![vec![Some(0.5); tasks]; tasks], vec![0.5; tasks]);
        let evaluation = Evaluation {
            method: method.to_string(),
            memory: 0,
            seed,
            task: config.evaluation.task,
            steps: (1..=tasks).map(step).collect(),
            summary: Summary::of(&TaskMatrix::of(tasks, &matrix).unwrap(), &accuracy, &[]),
            matrix,
            accuracy,
            balanced_accuracy: Vec::new(),
            samples_spent: 0,
            macs_spent: 0,
            spent: Vec::new(),
            dynamic: BTreeMap::new(),
            static_sets: BTreeMap::new(),
            broken: Default::default(),
        };
        let path = PathBuf::from(format!("runs/{method}-{seed}-{tasks}"));
        let (log, predictions, notes) = (Vec::new(), Vec::new(), Vec::new());
        Run { path, config, evaluation, log, predictions, manifest: Value::Null, notes }
    }

    #[test]
    fn damaged_lines_of_the_log_are_left_out_and_told() {
        let text = "{\"step\":1,\"samples\":64,\"loss\":null}\n{\"step\":1,\"class_weights\":{\"cat\":0.5}}\n{\"step\":1,\"los";
        let log = Lines::parse(text.as_bytes());
        assert!(log.note().unwrap().starts_with("metrics.jsonl: lines that cannot be read: 1, the first is line 3"));
        let lines = of_training(log);
        assert_eq!((lines.len(), lines[0].loss, lines[1].samples), (2, None, Some(64)));
        assert_eq!(lines[1].class_weights.as_ref().unwrap()["cat"], 0.5);
        // One bit of a byte, which then is no text, costs its line alone.
        let mut bytes = text.as_bytes().to_vec();
        bytes[text.find("cat").unwrap()] ^= 0x80;
        bytes.extend(b"\n{\"step\":2}\n");
        let log = Lines::parse(&bytes);
        assert!(log.note().unwrap().starts_with("metrics.jsonl: lines that cannot be read: 2, the first is line 2"));
        assert_eq!(of_training(log).iter().map(|line| line.step).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_directory_without_its_evaluation_or_settings_is_an_error_and_without_a_log_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let message = || Run::read(folder.path()).unwrap_err().to_string();
        assert!(message().contains("evaluation.json"), "{}", message());
        let Run { evaluation, config, .. } = run("gcl", 0, 2);
        fs::write(folder.path().join("evaluation.json"), serde_json::to_string(&evaluation).unwrap()).unwrap();
        assert!(message().contains("config.toml"), "{}", message());
        fs::write(folder.path().join("config.toml"), config.to_toml()).unwrap();
        fs::write(folder.path().join("predictions.json"), "[{").unwrap();
        let run = Run::read(folder.path()).unwrap();
        assert_eq!((run.log.len(), run.predictions.len()), (0, 0));
        let of = ["metrics.jsonl", "predictions.json", "manifest.json"];
        assert_eq!(run.notes.len(), 3, "{:?}", run.notes);
        assert!(run.notes.iter().zip(of).all(|(note, name)| note.contains(name)), "{:?}", run.notes);
    }
}
