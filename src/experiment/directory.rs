//! A run's directory, its only state: every file in it appears whole or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::Config;
use super::fitted;
use super::log::Log;
use super::record::{Evaluation, Prediction};
use super::setup::Setup;
use super::state::Position;
use crate::data::Label;
use crate::error::{Error, Result};
use crate::files::{remove_stale, sync_folder, write_atomically};
use crate::seal::{self, Seal};

/// The form of a run's directory and of its state. Since 2 every file has a seal, so that one without has lost it; a newer one than this is
/// refused.
pub(crate) const FORMAT: u64 = 2;

/// How long to wait for a lock that another process may hold for a moment, while it looks whether a run is at work.
const PATIENCE: Duration = Duration::from_millis(500);

/// How a run's directory is opened.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Whether a lock keeps a second run out; where a file system has no locks, its user sees to that.
    pub lock: bool,
    /// Whether what an earlier run left is thrown away.
    pub start_over: bool,
}

impl Default for Access {
    fn default() -> Self {
        Access { lock: true, start_over: false }
    }
}

/// A run's directory, which this process alone writes: settings, manifest, log, results, checkpoints (docs/operating.md).
pub struct RunDirectory {
    path: PathBuf,
    log: Option<Log>,
    /// Held for as long as the run lasts, so that no second process writes here.
    lock: Option<File>,
}

impl RunDirectory {
    /// Makes the directory, or opens it where the same run stopped. Another run's directory, and one in which a run is at
    /// work, are errors.
    pub(crate) fn open(path: &Path, config: &Config, access: Access) -> Result<RunDirectory> {
        let checkpoints = path.join("checkpoints");
        fs::create_dir_all(&checkpoints)
            .map_err(|cause| Error::input(format!("cannot make {}: {cause}", checkpoints.display())))?;
        let mut lock = if access.lock { Some(lock(path)?) } else { None };
        remove_stale(path)?;
        remove_stale(&checkpoints)?;
        // Half of a replacement that was cut short.
        for half in ["next", "link"] {
            let _ = fs::remove_file(state(path).with_extension(half));
        }
        if access.start_over {
            remove_results(path)?;
        }
        if let Some(old) = read_config(path)? {
            check_same(&old, config, path)?;
        } else {
            write_atomically(&path.join("config.toml"), &seal::to_toml(&config.to_toml()))?;
        }
        lock.iter_mut().try_for_each(sign).map_err(|cause| Error::writing(&path.join("lock"), cause))?;
        Ok(RunDirectory { path: path.to_path_buf(), log: None, lock })
    }

    /// To be called once all is done: releases the directory, and removes what only an unfinished run needs.
    pub(crate) fn close(self) -> Result<()> {
        for file in [previous_state(&self.path), self.path.join("status.json"), self.path.join(fitted::FILE)] {
            match fs::remove_file(&file) {
                Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(Error::writing(&file, cause)),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Has `write` write a new state beside the last one, which then becomes the one before. At any moment there is a state under its name.
    pub(crate) fn replace_state(&self, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (state, previous) = (state(&self.path), previous_state(&self.path));
        let [next, link] = ["next", "link"].map(|name| state.with_extension(name));
        write(&next)?;
        let wrong = |cause| Error::writing(&state, cause);
        if state.exists() {
            let _ = fs::remove_file(&link);
            // Not every file system has links.
            let kept = fs::hard_link(&state, &link).and_then(|()| fs::rename(&link, &previous));
            kept.or_else(|_| fs::rename(&state, &previous)).map_err(wrong)?;
            // After a kill right here both states were one file, and a rename among the names of one file leaves both.
            let _ = fs::remove_file(&link);
        }
        fs::rename(&next, &state).and_then(|()| sync_folder(&self.path.join("checkpoints"))).map_err(wrong)
    }

    /// `checkpoints/step-NNN.safetensors` of a step counted from 0; files count from 1.
    pub(crate) fn checkpoint(&self, step: usize) -> PathBuf {
        self.path.join(format!("checkpoints/step-{:03}.safetensors", step + 1))
    }

    /// `checkpoints/step-NNN.head.safetensors`: a method's own parameters, which are no CLIP's.
    pub(crate) fn head(&self, step: usize) -> PathBuf {
        self.path.join(format!("checkpoints/step-{:03}.head.safetensors", step + 1))
    }

    /// What the result depends on beside the settings, and what made it.
    pub(crate) fn write_manifest(&self, setup: &Setup, device: &str, parameters: usize) -> Result<()> {
        let hashes: serde_json::Map<String, Value> =
            setup.hashes.iter().map(|(name, hash)| (name.to_string(), json!(hash))).collect();
        let classes = |classes: &[Label]| {
            classes.iter().map(|label| &setup.dataset.class_keys[label.index()]).collect::<Vec<_>>()
        };
        let steps: Vec<Value> = (setup.stream.steps.iter())
            .map(|step| json!({ "name": step.name, "classes": classes(&step.classes) }))
            .collect();
        let manifest = json!({
            "format": FORMAT,
            "perennial": env!("CARGO_PKG_VERSION"),
            "device": device,
            "model": setup.model,
            "parameters": parameters,
            "sha256": hashes,
            "notes": setup.notes,
            // By name, in their order, so that the run can be repeated by another program, without our random generator.
            "steps": if setup.dataset.has_classes() { steps.into() } else { Value::Null },
        });
        write_atomically(&self.path.join("manifest.json"), &seal::to_json(&manifest))
    }

    /// `manifest.json` of a run's directory.
    pub(crate) fn read_manifest(path: &Path) -> Result<Value> {
        let path = path.join("manifest.json");
        let bytes = fs::read(&path).map_err(|cause| Error::reading(&path, cause))?;
        let (manifest, seal) = seal::from_json::<Value>(&bytes).map_err(|what| Error::reading(&path, what))?;
        match manifest["format"].as_u64() {
            Some(format) if format > FORMAT => Err(Error::input(format!(
                "{}: it is of format {format}, of a newer program; this one knows {FORMAT}",
                path.display()
            ))),
            Some(_) if seal == Seal::None => Err(Error::reading(&path, seal::DAMAGED)),
            _ => Ok(manifest),
        }
    }

    /// Fails unless a run that goes on has what it began with: the same data, prompts, class order and starting weights, wherever they
    /// lie now. What it remembers are samples by their number.
    pub(crate) fn check_manifest(&self, setup: &Setup) -> Result<()> {
        let manifest = RunDirectory::read_manifest(&self.path)?;
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

    pub(crate) fn write_evaluation(&self, evaluation: &Evaluation) -> Result<()> {
        write_atomically(&self.path.join("evaluation.json"), &seal::to_json(evaluation))
    }

    pub(crate) fn write_predictions(&self, predictions: &[Prediction]) -> Result<()> {
        let predictions = Predictions { predictions: predictions.to_vec() };
        write_atomically(&self.path.join("predictions.json"), &seal::to_json(&predictions))
    }

    /// The predictions in a run's directory; none where there is no such file.
    pub fn read_predictions(path: &Path) -> Result<Vec<Prediction>> {
        if !path.join("predictions.json").exists() {
            return Ok(Vec::new());
        }
        match read_sealed(path, "predictions.json")? {
            AnyPredictions::Sealed(Predictions { predictions }) => Ok(predictions),
            AnyPredictions::List(predictions) => Ok(predictions),
        }
    }

    /// The evaluation in a run's directory.
    pub fn read_evaluation(path: &Path) -> Result<Evaluation> {
        let evaluation: Evaluation = read_sealed(path, "evaluation.json")?;
        evaluation.check().map_err(|what| Error::reading(&path.join("evaluation.json"), what))?;
        Ok(evaluation)
    }

    /// The evaluation of a run that is finished: nothing of it is left to do, and nothing of what it was made from is opened.
    /// None where it has not come to its end, or not begun, or its data lay elsewhere, so that only opening them tells whether they are
    /// the same. Another run's directory is an error, as in [`RunDirectory::open`].
    pub(crate) fn finished(path: &Path, config: &Config) -> Result<Option<Evaluation>> {
        let Some(old) = read_config(path)? else { return Ok(None) };
        check_same(&old, config, path)?;
        if old.data.folder != config.data.folder || !path.join("evaluation.json").exists() {
            return Ok(None);
        }
        let evaluation = RunDirectory::read_evaluation(path)?;
        Ok(evaluation.is_complete().then_some(evaluation))
    }

    /// Opens the log to go on from `position`. Returns what is to be told of it.
    pub(crate) fn resume_log(&mut self, position: Position) -> Result<Option<String>> {
        let (log, note) = Log::resume(&self.path, position)?;
        self.log = Some(log);
        Ok(note)
    }

    /// Appends one line.
    pub(crate) fn log(&mut self, line: &Value) -> Result<()> {
        self.log.as_mut().map_or(Ok(()), |log| log.write(line))
    }

    /// Has the log reach the disk: whatever is saved later may rely on it.
    pub(crate) fn sync_log(&mut self) -> Result<()> {
        self.log.as_mut().map_or(Ok(()), Log::sync)
    }
}

impl Drop for RunDirectory {
    /// No process is at work here any more.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = lock.set_len(0);
        }
    }
}

/// `checkpoints/state.safetensors` of a run's directory.
pub(crate) fn state(run: &Path) -> PathBuf {
    run.join("checkpoints/state.safetensors")
}

/// `checkpoints/state.previous.safetensors`: the state before, for the day on which a disk damages the last one.
pub(crate) fn previous_state(run: &Path) -> PathBuf {
    run.join("checkpoints/state.previous.safetensors")
}

/// What an earlier run left beside states: a result that would be written over. None where there is nothing.
pub(crate) fn earlier_result(run: &Path) -> Option<PathBuf> {
    ["evaluation.json", "checkpoints/step-001.safetensors"]
        .map(|name| run.join(name))
        .into_iter()
        .find(|file| file.exists())
}

/// `predictions.json`; that of earlier versions was the list alone.
#[derive(Serialize, Deserialize)]
struct Predictions {
    predictions: Vec<Prediction>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnyPredictions {
    Sealed(Predictions),
    List(Vec<Prediction>),
}

/// A sealed file of a run's directory. One without a seal is an earlier version's, or has lost it.
fn read_sealed<T: serde::de::DeserializeOwned>(run: &Path, name: &str) -> Result<T> {
    let path = run.join(name);
    let wrong = |what: String| {
        let remedy = if what == seal::DAMAGED { ": put back a whole copy" } else { "" };
        Error::reading(&path, format!("{what}{remedy}"))
    };
    let bytes = fs::read(&path).map_err(|cause| wrong(cause.to_string()))?;
    let (value, seal) = seal::from_json(&bytes).map_err(wrong)?;
    let format =
        fs::read(run.join("manifest.json")).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    if seal == Seal::None && format.is_some_and(|manifest| manifest["format"].as_u64() >= Some(2)) {
        return Err(wrong(seal::DAMAGED.to_string()));
    }
    Ok(value)
}

/// The settings in a run's directory; none where there is no such file.
fn read_config(run: &Path) -> Result<Option<Config>> {
    let path = run.join("config.toml");
    let bytes = match fs::read(&path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|cause| Error::reading(&path, cause))?,
    };
    if seal::check_toml(&bytes) == Seal::Broken {
        return Err(Error::reading(
            &path,
            format!("{}: put back a whole copy; where the edit was yours, remove its last line", seal::DAMAGED),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|cause| Error::reading(&path, cause))?;
    Config::parse_run(&text).map(Some).map_err(|error| error.at(path.display()))
}

/// Takes the lock of a run's directory.
fn lock(run: &Path) -> Result<File> {
    let path = run.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let mut lock = lock.map_err(|cause| Error::writing(&path, cause))?;
    let since = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 10),
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut lock).map(|holder| format!(" ({holder})")).unwrap_or_default();
                return Err(Error::locked(format!("another run is at work in {}{holder}", run.display())));
            }
            Err(TryLockError::Error(cause)) => {
                return Err(Error::run(format!(
                    "cannot lock {}: {cause}; a file system without locks is used with --no-lock, and then it is yours to see that \
                     no second run works there",
                    path.display()
                )));
            }
        }
    }
    Ok(lock)
}

/// Writes into a lock who holds it.
fn sign(lock: &mut File) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(format!("process {} on {}\n", std::process::id(), host()).as_bytes())
}

/// Whether a run is at work in a directory, where its file system can tell.
pub(crate) fn is_at_work(run: &Path) -> Option<bool> {
    let lock = File::open(run.join("lock")).ok()?;
    match lock.try_lock_shared() {
        Ok(()) => Some(false),
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
    }
}

/// Who holds a lock, as it wrote itself.
fn holder(lock: &mut File) -> Option<String> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(200).read_to_string(&mut text).ok()?;
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

/// The name of this machine.
pub(crate) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "this machine".to_string() } else { name.trim().to_string() }
}

/// Throws away all that a run leaves in its directory, the evaluation first: what stays of a removal that is cut short is no result.
fn remove_results(run: &Path) -> Result<()> {
    let names = [
        "evaluation.json",
        "predictions.json",
        "metrics.jsonl",
        "manifest.json",
        "status.json",
        "config.toml",
        fitted::FILE,
    ];
    let checkpoints = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("state.") || (name.starts_with("step-") && name.ends_with(".safetensors"))
    };
    let all = names.iter().map(|name| run.join(name)).chain(checkpoints.map(|entry| entry.path()).filter(ours));
    for path in all {
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                return Err(Error::run(format!("cannot remove {}: {cause}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Fails unless the directory's settings are those of this run, apart from such as change no result of a run that comes to its end or are
/// other methods', and from the place of the data: whether those are the same is the manifest's to say.
fn check_same(old: &Config, config: &Config, path: &Path) -> Result<()> {
    let neutral = |config: &Config| {
        let mut config = config.without_other_methods();
        config.preset.clear();
        config.data.folder.clear();
        config.data.max_broken = 0;
        config.data.loader_threads = 0;
        config.train.save_every = 1;
        config.train.save_minutes = 1.0;
        config.train.log_every = 1;
        config
    };
    let (before, now) = (neutral(old).to_toml(), neutral(config).to_toml());
    match before.lines().zip(now.lines()).find(|(before, now)| before != now) {
        None => Ok(()),
        Some((before, now)) => Err(Error::input(format!(
            "{} holds a run with other settings ({before}, now {now}); choose another --out",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kill between the two renames of a replacement leaves one file under both names.
    #[test]
    fn a_state_is_replaced_also_where_it_and_the_one_before_are_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = folder.path().join("checkpoints");
        fs::create_dir(&checkpoints).unwrap();
        let directory = RunDirectory { path: folder.path().to_path_buf(), log: None, lock: None };
        let (state, previous) = (state(folder.path()), previous_state(folder.path()));
        let replace = |content: &str| {
            directory
                .replace_state(|next| fs::write(next, content).map_err(|cause| Error::writing(next, cause)))
                .unwrap();
        };
        replace("first");
        replace("second");
        assert_eq!([&state, &previous].map(|path| fs::read_to_string(path).unwrap()), ["second", "first"]);
        fs::remove_file(&previous).unwrap();
        fs::hard_link(&state, &previous).unwrap();
        replace("third");
        assert_eq!([&state, &previous].map(|path| fs::read_to_string(path).unwrap()), ["third", "second"]);
        assert_eq!(fs::read_dir(&checkpoints).unwrap().count(), 2, "and nothing else is left");
    }
}
