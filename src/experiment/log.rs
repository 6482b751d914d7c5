//! `metrics.jsonl`: a line for every logged iteration, for what closes a step, each with its time and a checksum.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::state::Position;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::seal;

/// The lines of a log that can be read.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub lines: Vec<Value>,
    /// The numbers, from 1, of those that cannot; a last line without an end among them.
    pub damaged: Vec<usize>,
}

impl Lines {
    /// Of the log in a run's directory; of a directory without a log, none.
    pub(crate) fn read(run: &Path) -> Result<Lines> {
        let path = run.join("metrics.jsonl");
        match fs::read(&path) {
            Ok(bytes) => Ok(Lines::parse(&bytes)),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(Lines::default()),
            Err(cause) => Err(Error::reading(&path, cause)),
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Lines {
        let mut found = Lines::default();
        for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            match line.strip_suffix(b"\n").and_then(seal::from_line) {
                Some(line) => found.lines.push(line),
                None => found.damaged.push(number),
            }
        }
        found
    }

    /// What is told of damaged lines.
    pub(crate) fn note(&self) -> Option<String> {
        let first = self.damaged.first()?;
        let count = self.damaged.len();
        Some(format!("metrics.jsonl: lines that cannot be read: {count}, the first is line {first}; they are left out"))
    }
}

/// The log of a run at work.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of `run` to go on from `position`: lines that the resumed run will write again are dropped, and damaged ones, of
    /// which the note tells.
    pub(crate) fn resume(run: &Path, position: Position) -> Result<(Log, Option<String>)> {
        let path = run.join("metrics.jsonl");
        let old = Lines::read(run)?;
        let before = |line: &&Value| {
            let number = |key: &str| line[key].as_u64().unwrap_or(u64::MAX);
            // Lines of earlier versions are of the only stage that there was.
            let stage = line["stage"].as_u64().unwrap_or(1);
            let (here, now) = ((number("step"), stage), (position.step as u64 + 1, position.stage as u64 + 1));
            // What is noted before a stage's first iteration is noted again.
            here < now || (here == now && (1..=position.iteration as u64).contains(&number("iteration")))
        };
        let kept: Vec<&Value> = old.lines.iter().filter(before).collect();
        if kept.len() < old.lines.len() || !old.damaged.is_empty() {
            let text: String = kept.iter().flat_map(|line| [written(line), "\n".to_string()]).collect();
            write_atomically(&path, text.as_bytes())?;
        }
        let file = open(&path)?;
        Ok((Log { path, file }, old.note()))
    }

    /// Appends one line, with the time. A log that was moved away is begun anew under its name.
    pub(crate) fn write(&mut self, line: &Value) -> Result<()> {
        let wrong = |cause: std::io::Error| Error::writing(&self.path, cause);
        if !self.is_in_place() {
            self.file = open(&self.path)?;
        }
        let mut timed = Map::from_iter([("time".to_string(), json!(now()))]);
        timed.extend(line.as_object().expect("a line is an object").clone());
        // At once, so that no kill finds half of it.
        self.file.write_all((seal::to_line(&timed.into()) + "\n").as_bytes()).map_err(wrong)
    }

    /// Has all lines reach the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|cause| Error::writing(&self.path, cause))
    }

    /// Whether the file that is written to is still the one of its name.
    fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let place = |about: fs::Metadata| (about.dev(), about.ino());
        let (named, open) = (fs::metadata(&self.path).map(place), self.file.metadata().map(place));
        matches!((named, open), (Ok(named), Ok(open)) if named == open)
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|cause| Error::writing(path, cause))
}

/// A line as it stood: without a time it is of an earlier version, which had no checksums.
fn written(line: &Value) -> String {
    let mut line = line.clone();
    if line.get("time").is_none() {
        return line.to_string();
    }
    line.as_object_mut().expect("a line is an object").remove("crc");
    seal::to_line(&line)
}

/// As `2026-11-27T06:54:42.123Z`.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Samples trained on, and the seconds that it took, with all that closes a step and without its evaluation. It stands beside the
/// evaluation, which no clock may change.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pace {
    pub samples: f64,
    pub seconds: f64,
}

impl Pace {
    /// Of a log: its lines of training have the samples trained on so far and the speed since the line before, those of a step's closing
    /// the seconds that it took.
    pub(crate) fn of(log: &Lines) -> Pace {
        let mut pace = Pace::default();
        for line in &log.lines {
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

    pub(crate) fn samples_per_second(&self) -> Option<f64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn position(step: usize, stage: usize, iteration: usize) -> Position {
        Position { step, stage, iteration, ..Position::default() }
    }

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
        let log = Lines::parse(log.as_bytes());
        assert_eq!(log.damaged, [5]);
        let pace = Pace::of(&log);
        assert_eq!(pace, Pace { samples: 400.0, seconds: 2.5 });
        assert_eq!(pace.samples_per_second(), Some(160.0));
        assert_eq!(Pace::of(&Lines::default()).samples_per_second(), None);
        let both: Pace = [pace, Pace { samples: 100.0, seconds: 2.5 }].into_iter().sum();
        assert_eq!(both.samples_per_second(), Some(100.0));
    }

    #[test]
    fn a_damaged_line_costs_that_line_and_a_resumed_log_has_none_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |step: u64, iteration: u64| json!({ "step": step, "stage": 1, "iteration": iteration, "loss": 0.5 });
        let (mut log, note) = Log::resume(folder.path(), position(0, 0, 0)).unwrap();
        assert_eq!(note, None);
        for (step, iteration) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)] {
            log.write(&line(step, iteration)).unwrap();
        }
        drop(log);
        let places = || -> Vec<(u64, u64)> {
            let Lines { lines, damaged } = Lines::read(folder.path()).unwrap();
            assert!(damaged.is_empty());
            lines.iter().map(|line| (line["step"].as_u64().unwrap(), line["iteration"].as_u64().unwrap())).collect()
        };
        assert_eq!(places(), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]);
        // A flipped bit in the second line, and a last one that a kill cut short.
        let mut bytes = fs::read(&path).unwrap();
        let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        bytes[second + 3] ^= 0x80;
        bytes.extend(b"{\"time\":\"20");
        fs::write(&path, bytes).unwrap();
        let (mut log, note) = Log::resume(folder.path(), position(1, 0, 2)).unwrap();
        assert!(note.unwrap().contains("2, the first is line 2"));
        log.write(&line(2, 3)).unwrap();
        assert_eq!(places(), [(1, 1), (2, 1), (2, 2), (2, 3)]);
    }

    #[test]
    fn a_log_that_is_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::resume(folder.path(), position(0, 0, 0)).unwrap();
        log.write(&json!({ "step": 1 })).unwrap();
        fs::rename(folder.path().join("metrics.jsonl"), folder.path().join("metrics.jsonl.1")).unwrap();
        log.write(&json!({ "step": 2 })).unwrap();
        let lines = Lines::read(folder.path()).unwrap().lines;
        assert_eq!(lines.iter().map(|line| line["step"].as_u64()).collect::<Vec<_>>(), [Some(2)]);
    }
}
