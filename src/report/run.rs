//! What a report reads of a run's directory, and which runs can be compared.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::summary::Cell;
use crate::error::{Error, Result};
use crate::experiment::{Config, Evaluation, Lines, Prediction, RunDirectory};
use crate::files::decode_text;
use crate::files::files_below;
use crate::seal::{self, Seal};
use crate::stream::StreamKind;

/// A run as its directory tells of it.
#[derive(Clone, Debug)]
pub struct Run {
    pub path: PathBuf,
    pub config: Config,
    pub evaluation: Evaluation,
    pub log: Vec<LogLine>,
    pub predictions: Vec<Prediction>,
    /// `manifest.json`; null where there is none.
    pub manifest: Value,
    /// What could not be read though the rest could.
    pub notes: Vec<String>,
}

/// A line of `metrics.jsonl`. A number that was not finite is None.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LogLine {
    /// Counted from 1.
    pub step: usize,
    /// Trained on since the run began.
    pub samples: Option<u64>,
    pub loss: Option<f64>,
    pub gradient_norm: Option<f64>,
    pub learning_rate: Option<f64>,
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
        let config = Config::parse(&text).map_err(|error| error.at(config_path.display()))?;
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
    pub fn files(path: &Path) -> Vec<PathBuf> {
        let made = |file: &PathBuf| {
            let extension = file.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| ["html", "md", "csv"].contains(&extension))
        };
        files_below(path).into_iter().filter(|file| !made(file)).collect()
    }

    /// What was learnt, as a heading.
    pub fn title(&self) -> String {
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
    pub fn weights(&self) -> String {
        let path = self.config.model.pretrained.trim_end_matches('/');
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.is_empty() { RANDOM } else { name }.to_string()
    }

    /// The weights that the run started from, wherever they lay: their hash, or the path where the manifest is gone.
    fn weights_hash(&self) -> &str {
        match self.config.model.pretrained.as_str() {
            "" => "",
            path => self.manifest["sha256"]["pretrained"].as_str().unwrap_or(path),
        }
    }
}

/// What a run without weights starts from.
pub const RANDOM: &str = "random values";

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

/// Groups runs by what they were tested on: the data, the stream and the kind of test. Numbers of different groups say
/// nothing about one another, so each has its own part of a report.
///
/// Within a group, runs of one method and memory size that started from the same weights with the same preset are seeds of
/// one thing; it is an error if their settings differ in more than the seed.
pub fn group(runs: Vec<Run>) -> Result<Vec<Vec<Cell<Run>>>> {
    let mut groups: Vec<Vec<Run>> = Vec::new();
    let tests = |run: &Run| {
        let Run { config, evaluation, .. } = run;
        let (data, stream) = (&config.data, &config.stream);
        (data.name.clone(), data.domains.clone(), stream.clone(), evaluation.task, evaluation.steps.clone())
    };
    for run in runs {
        match groups.iter_mut().find(|group| tests(&group[0]) == tests(&run)) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let cells = |group: Vec<Run>| {
        let differences = differences(&group);
        Cell::group_with(group.into_iter().zip(differences))
    };
    let groups: Vec<Vec<Cell<Run>>> = groups.into_iter().map(cells).collect();
    groups.iter().flatten().try_for_each(check_seeds)?;
    Ok(groups)
}

/// Of each run its preset where the runs are of several, and its weights where they started from several.
fn differences(runs: &[Run]) -> Vec<String> {
    let several_presets = runs.iter().any(|run| run.config.preset != runs[0].config.preset);
    let several_weights = runs.iter().any(|run| run.weights_hash() != runs[0].weights_hash());
    // The hash of each of the weights, and where they lay.
    let mut weights: Vec<(&str, &str)> = Vec::new();
    for run in runs.iter().filter(|run| !run.config.model.pretrained.is_empty()) {
        if weights.iter().all(|(hash, _)| *hash != run.weights_hash()) {
            weights.push((run.weights_hash(), &run.config.model.pretrained));
        }
    }
    let paths: Vec<&str> = weights.iter().map(|(_, path)| *path).collect();
    // A path that was written anew does not tell them apart.
    let with_hash = |(hash, path): &(&str, &str)| format!("{path}, sha256 {}", hash.get(..8).unwrap_or(hash));
    let names = short_names(&paths).unwrap_or_else(|| weights.iter().map(with_hash).collect());
    let of = |run: &Run| {
        let preset = if run.config.preset.is_empty() { "no preset" } else { &run.config.preset };
        let known = weights.iter().position(|(hash, _)| *hash == run.weights_hash());
        let weights = known.map_or(RANDOM, |place| &names[place]);
        let told = [several_presets.then_some(preset), several_weights.then_some(weights)];
        told.into_iter().flatten().collect::<Vec<_>>().join(", ")
    };
    runs.iter().map(of).collect()
}

/// Of each path as little as tells it from the others: the file's name, or folders above a name that all share. None where two
/// are the same.
fn short_names(paths: &[&str]) -> Option<Vec<String>> {
    let parts: Vec<Vec<&str>> = paths.iter().map(|path| path.trim_end_matches('/').rsplit('/').collect()).collect();
    let is_shared = |place: &usize| {
        parts.len() > 1 && parts.iter().all(|one| one.len() > place + 1 && one[*place] == parts[0][*place])
    };
    let shared = (0..).take_while(is_shared).count();
    let name = |one: &Vec<&str>, count: usize| {
        let mut name: Vec<&str> = one.iter().skip(shared).take(count).copied().collect();
        name.reverse();
        name.join("/")
    };
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1);
    let names = (1..=longest).map(|count| parts.iter().map(|one| name(one, count)).collect::<Vec<_>>());
    names.into_iter().find(|names| names.iter().collect::<BTreeSet<_>>().len() == names.len())
}

/// Fails unless the runs are one experiment with different seeds.
fn check_seeds(cell: &Cell<Run>) -> Result<()> {
    let settings = |run: &Run| {
        let mut config = run.config.clone();
        config.seed = 0;
        // The same weights may lie elsewhere.
        config.model.pretrained.clear();
        config.data.folder.clear();
        config.data.loader_threads = 0;
        config.train.save_every = 1;
        config.train.save_minutes = 1.0;
        config.train.log_every = 1;
        config.to_toml()
    };
    let first = &cell.runs[0];
    for (place, run) in cell.runs.iter().enumerate().skip(1) {
        let (old, new) = (settings(first), settings(run));
        let (one, other) = (first.path.display(), run.path.display());
        if let Some((old, new)) = old.lines().zip(new.lines()).find(|(old, new)| old != new) {
            return Err(Error::input(format!(
                "{one} and {other} are both {} with memory {}, but their settings differ ({old}; {new}): \
                 make a report of each",
                cell.name(),
                cell.memory
            )));
        }
        if let Some(same) = cell.runs[..place].iter().find(|same| same.config.seed == run.config.seed) {
            let same = same.path.display();
            return Err(Error::input(format!("{same} and {other} are the same run (seed {})", run.config.seed)));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::eval::metrics::{Summary, TaskMatrix};
    use crate::experiment::StepRecord;

    /// A run of that many tasks, of no preset, from random values.
    pub fn run(method: &str, seed: u64, tasks: usize) -> Run {
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
            summary: Summary::of(&TaskMatrix::of(tasks, &matrix).unwrap(), &accuracy),
            matrix,
            accuracy,
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
    fn streams_are_kept_apart_and_seeds_together() {
        let groups = group(vec![run("gcl", 0, 2), run("zero-shot", 0, 2), run("gcl", 0, 3), run("gcl", 1, 2)]).unwrap();
        let shape = |group: &Vec<Cell<Run>>| -> Vec<(String, usize)> {
            group.iter().map(|cell| (cell.method.clone(), cell.runs.len())).collect()
        };
        let names =
            |names: &[(&str, usize)]| names.iter().map(|(name, runs)| (name.to_string(), *runs)).collect::<Vec<_>>();
        assert_eq!(shape(&groups[0]), names(&[("zero-shot", 1), ("gcl", 2)]));
        assert_eq!(shape(&groups[1]), names(&[("gcl", 1)]));
    }

    #[test]
    fn runs_that_are_no_seeds_of_one_another_are_refused() {
        let mut other = run("gcl", 1, 2);
        other.config.train.epochs = 7.0;
        let message = group(vec![run("gcl", 0, 2), other]).unwrap_err().to_string();
        assert!(message.contains("runs/gcl-1-2") && message.contains("epochs = 7.0"), "{message}");
        let message = group(vec![run("gcl", 4, 2), run("gcl", 4, 2)]).unwrap_err().to_string();
        assert!(message.contains("the same run (seed 4)"), "{message}");
    }

    /// A run that started from the weights of that hash at `path`.
    fn started(seed: u64, path: &str, hash: &str) -> Run {
        let mut run = run("zero-shot", seed, 2);
        run.config.model.pretrained = path.to_string();
        run.manifest = json!({ "sha256": { "pretrained": hash } });
        run
    }

    fn names(runs: Vec<Run>) -> Vec<(String, usize)> {
        group(runs).unwrap()[0].iter().map(|cell| (cell.name(), cell.runs.len())).collect()
    }

    #[test]
    fn runs_from_other_weights_have_a_row_of_their_own() {
        let row = |name: &str, runs| (name.to_string(), runs);
        // The same weights in two places are the same weights.
        let one = || started(0, "a/openai.safetensors", "11111111aa");
        let moved = || started(1, "b/moved.safetensors", "11111111aa");
        assert_eq!(names(vec![one(), moved()]), [row("zero-shot", 2)]);
        let other = started(0, "a/laion.safetensors", "22222222bb");
        assert_eq!(
            names(vec![one(), moved(), other, run("zero-shot", 0, 2)]),
            [
                row("zero-shot (laion.safetensors)", 1),
                row("zero-shot (openai.safetensors)", 2),
                row("zero-shot (random values)", 1)
            ]
        );
        // Where the names are the same, the folders tell; of a file that was written anew, the hash.
        let (old, new) = (|| started(0, "x/a/model.safetensors", "11111111aa"), |path| started(0, path, "22222222bb"));
        assert_eq!(
            names(vec![old(), new("x/b/model.safetensors")]),
            [row("zero-shot (a)", 1), row("zero-shot (b)", 1)]
        );
        assert_eq!(
            names(vec![old(), new("x/a/model.safetensors")]),
            [
                row("zero-shot (x/a/model.safetensors, sha256 11111111)", 1),
                row("zero-shot (x/a/model.safetensors, sha256 22222222)", 1)
            ]
        );
    }

    #[test]
    fn runs_of_other_presets_have_a_row_of_their_own() {
        let of = |preset: &str| {
            let mut run = run("gcl", 0, 2);
            run.config.preset = preset.to_string();
            run
        };
        let row = |name: &str| (name.to_string(), 1);
        assert_eq!(names(vec![of("cifar100-cil"), of("")]), [row("gcl (cifar100-cil)"), row("gcl (no preset)")]);
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
