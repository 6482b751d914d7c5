//! A run's directory, its only state: every file in it appears whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::config::Config;
use super::evaluation::{Evaluation, Prediction};
use super::setup::Setup;
use super::state::Position;
use crate::error::{Error, Result};
use crate::files::{remove_stale, write_atomically};

pub struct RunDirectory {
    path: PathBuf,
    metrics: Option<BufWriter<File>>,
    /// Held for as long as the run lasts, so that no second process writes here.
    _lock: File,
}

impl RunDirectory {
    /// Makes the directory, or opens it where the same run stopped. Another run's directory, and one in which a run is at
    /// work, are errors.
    pub fn open(path: &Path, config: &Config) -> Result<RunDirectory> {
        let checkpoints = path.join("checkpoints");
        fs::create_dir_all(&checkpoints)
            .map_err(|cause| Error::input(format!("cannot make {}: {cause}", checkpoints.display())))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|cause| Error::writing(&lock_path, cause))?;
        if lock.try_lock().is_err() {
            return Err(Error::input(format!("another run is at work in {}", path.display())));
        }
        remove_stale(path)?;
        remove_stale(&checkpoints)?;
        let config_path = path.join("config.toml");
        match fs::read_to_string(&config_path) {
            Ok(text) => check_same(&text, config, path).map(drop)?,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                write_atomically(&config_path, config.to_toml().as_bytes())?;
            }
            Err(cause) => return Err(Error::reading(&config_path, cause)),
        }
        Ok(RunDirectory { path: path.to_path_buf(), metrics: None, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `checkpoints/state.safetensors`.
    pub fn state(&self) -> PathBuf {
        self.path.join("checkpoints/state.safetensors")
    }

    /// `checkpoints/step-NNN.safetensors` of a step counted from 0; files count from 1.
    pub fn checkpoint(&self, step: usize) -> PathBuf {
        self.path.join(format!("checkpoints/step-{:03}.safetensors", step + 1))
    }

    /// `checkpoints/step-NNN.head.safetensors`: a method's own parameters, which are no CLIP's.
    pub fn head(&self, step: usize) -> PathBuf {
        self.path.join(format!("checkpoints/step-{:03}.head.safetensors", step + 1))
    }

    /// What the result depends on beside the settings, and what made it.
    pub fn write_manifest(&self, setup: &Setup, device: &str, parameters: usize) -> Result<()> {
        let hashes: serde_json::Map<String, Value> =
            setup.hashes.iter().map(|(name, hash)| (name.to_string(), json!(hash))).collect();
        let classes = |classes: &[u32]| {
            classes.iter().map(|class| &setup.dataset.class_keys[*class as usize]).collect::<Vec<_>>()
        };
        let steps: Vec<Value> = (setup.stream.steps.iter())
            .map(|step| json!({ "name": step.name, "classes": classes(&step.classes) }))
            .collect();
        let manifest = json!({
            "perennial": env!("CARGO_PKG_VERSION"),
            "device": device,
            "model": setup.model,
            "parameters": parameters,
            "sha256": hashes,
            "notes": setup.notes,
            // In words, in their order: whoever repeats the run elsewhere needs no seed and no generator of ours.
            "steps": if setup.dataset.has_classes() { steps.into() } else { Value::Null },
        });
        let text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain values");
        write_atomically(&self.path.join("manifest.json"), (text + "\n").as_bytes())
    }

    /// Fails unless a run that goes on has what it began with: the same data, prompts, class order and starting weights, wherever they
    /// lie now. What it remembers are samples by their number.
    pub fn check_manifest(&self, setup: &Setup) -> Result<()> {
        let path = self.path.join("manifest.json");
        let text = fs::read_to_string(&path).map_err(|cause| Error::reading(&path, cause))?;
        let manifest: Value = serde_json::from_str(&text).map_err(|cause| Error::reading(&path, cause))?;
        let changed = |(name, hash): &&(&str, String)| manifest["sha256"][*name].as_str() != Some(hash);
        match setup.hashes.iter().find(changed) {
            None => Ok(()),
            Some((name, hash)) => Err(Error::input(format!(
                "{} began with other {} (sha256 {}, now {hash}): put back what was there, or choose another --out",
                self.path.display(),
                name.replace('_', " "),
                manifest["sha256"][*name].as_str().unwrap_or("not known"),
            ))),
        }
    }

    pub fn write_evaluation(&self, evaluation: &Evaluation) -> Result<()> {
        let text = serde_json::to_string_pretty(evaluation).expect("an evaluation is plain values");
        write_atomically(&self.path.join("evaluation.json"), (text + "\n").as_bytes())
    }

    pub fn write_predictions(&self, predictions: &[Prediction]) -> Result<()> {
        let text = serde_json::to_string_pretty(predictions).expect("predictions are plain values");
        write_atomically(&self.path.join("predictions.json"), (text + "\n").as_bytes())
    }

    /// The predictions in a run's directory; none where there is no such file.
    pub fn read_predictions(path: &Path) -> Result<Vec<Prediction>> {
        let path = path.join("predictions.json");
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|cause| Error::reading(&path, cause)),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(cause) => Err(Error::reading(&path, cause)),
        }
    }

    /// The evaluation in a run's directory.
    pub fn read_evaluation(path: &Path) -> Result<Evaluation> {
        let path = path.join("evaluation.json");
        let text = fs::read_to_string(&path).map_err(|cause| Error::reading(&path, cause))?;
        let evaluation: Evaluation = serde_json::from_str(&text).map_err(|cause| Error::reading(&path, cause))?;
        evaluation.check().map_err(|what| Error::reading(&path, what))?;
        Ok(evaluation)
    }

    /// The evaluation of a run that is finished: nothing of it is left to do, and nothing of what it was made from is opened.
    /// None where it has not come to its end, or not begun, or its data lay elsewhere, so that only opening them tells whether they are
    /// the same. Another run's directory is an error, as in [`RunDirectory::open`].
    pub fn finished(path: &Path, config: &Config) -> Result<Option<Evaluation>> {
        let Ok(text) = fs::read_to_string(path.join("config.toml")) else { return Ok(None) };
        let old = check_same(&text, config, path)?;
        if old.data.folder != config.data.folder || !path.join("evaluation.json").exists() {
            return Ok(None);
        }
        let evaluation = RunDirectory::read_evaluation(path)?;
        Ok(evaluation.is_complete().then_some(evaluation))
    }

    /// How fast a run trained, by its log; nothing where there is none.
    pub fn read_pace(path: &Path) -> Result<Pace> {
        let path = path.join("metrics.jsonl");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Pace::of(&text)),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Pace::default()),
            Err(cause) => Err(Error::reading(&path, cause)),
        }
    }

    /// Opens `metrics.jsonl` to go on from `position`: lines that the resumed run will write again are dropped.
    pub fn resume_metrics(&mut self, position: Position) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let old = fs::read_to_string(&path).unwrap_or_default();
        let before = |line: &&str| {
            let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
            let number = |key: &str| line[key].as_u64().unwrap_or(u64::MAX);
            // Lines of earlier versions are of the only stage that there was.
            let stage = line["stage"].as_u64().unwrap_or(1);
            let place = (number("step"), stage, number("iteration"));
            place <= (position.step as u64 + 1, position.stage as u64 + 1, position.iteration as u64)
        };
        let kept: String = old.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
        if kept != old {
            write_atomically(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        self.metrics = Some(BufWriter::new(file.map_err(|cause| Error::writing(&path, cause))?));
        Ok(())
    }

    /// Appends one line.
    pub fn log(&mut self, line: &Value) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        writeln!(metrics, "{line}").and_then(|()| metrics.flush()).map_err(|cause| Error::writing(&path, cause))
    }
}

/// Samples trained on, and the seconds that it took, with all that closes a step and without its evaluation. It stands beside the
/// evaluation, which no clock may change.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    pub samples: f64,
    pub seconds: f64,
}

impl Pace {
    /// Of the lines of `metrics.jsonl`: those of training have the samples trained on so far and the speed since the line before,
    /// those of a step's closing the seconds that it took.
    fn of(text: &str) -> Pace {
        let mut pace = Pace::default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let (Some(samples), Some(speed)) = (line["samples"].as_f64(), line["samples_per_second"].as_f64()) {
                if speed > 0.0 {
                    pace.seconds += (samples - pace.samples).max(0.0) / speed;
                }
                pace.samples = samples;
            }
            pace.seconds += line["seconds"].as_f64().unwrap_or(0.0);
        }
        pace
    }

    pub fn samples_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.samples / self.seconds)
    }
}

impl std::iter::Sum for Pace {
    fn sum<I: Iterator<Item = Pace>>(paces: I) -> Pace {
        let add = |one: Pace, other: Pace| Pace {
            samples: one.samples + other.samples,
            seconds: one.seconds + other.seconds,
        };
        paces.fold(Pace::default(), add)
    }
}

/// The directory's settings. Fails unless they are those of this run, apart from such as change no result of a run that comes to its
/// end, and from the place of the data: whether those are the same is the manifest's to say.
fn check_same(text: &str, config: &Config, path: &Path) -> Result<Config> {
    let neutral = |config: &Config| {
        let mut config = config.clone();
        config.preset.clear();
        config.data.folder.clear();
        config.data.max_broken = 0;
        config.data.loader_threads = 0;
        config.train.save_every = 1;
        config.train.log_every = 1;
        config
    };
    let old = Config::parse(text).map_err(|error| error.at(path.join("config.toml").display()))?;
    let (before, now) = (neutral(&old).to_toml(), neutral(config).to_toml());
    match before.lines().zip(now.lines()).find(|(before, now)| before != now) {
        None => Ok(old),
        Some((before, now)) => Err(Error::input(format!(
            "{} holds a run with other settings ({before}, now {now}); choose another --out",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_is_all_samples_over_all_seconds() {
        // 100 samples in 1 s, half a second without any, 300 in 1 s, and a line cut short.
        let log = concat!(
            "{\"step\":1,\"samples\":100,\"samples_per_second\":100.0}\n",
            "{\"step\":1,\"class_weights\":{}}\n",
            "{\"step\":1,\"seconds\":0.5}\n",
            "{\"step\":2,\"samples\":400,\"samples_per_second\":300.0}\n",
            "{\"step\":2,\"samples\":50"
        );
        let pace = Pace::of(log);
        assert_eq!(pace, Pace { samples: 400.0, seconds: 2.5 });
        assert_eq!(pace.samples_per_second(), Some(160.0));
        assert_eq!(Pace::of("").samples_per_second(), None);
        let both: Pace = [pace, Pace { samples: 100.0, seconds: 2.5 }].into_iter().sum();
        assert_eq!(both.samples_per_second(), Some(100.0));
    }
}
