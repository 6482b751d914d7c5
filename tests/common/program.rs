//! Running the built program, and looking at what it leaves behind.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The preset of the tests, relative to the crate's folder, where [`perennial`] runs.
pub const TINY_RUN: &str = "tests/fixtures/tiny-run.toml";

/// The same over time, with everything that can be measured.
pub const TINY_TIC: &str = "tests/fixtures/tiny-tic.toml";

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The program with these arguments, in the crate's folder.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

pub fn perennial(arguments: &[&str]) -> Outcome {
    outcome(command(arguments).output().unwrap())
}

pub fn outcome(output: Output) -> Outcome {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The same, for what must go well; returns standard output.
#[track_caller]
pub fn succeed(arguments: &[&str]) -> String {
    let outcome = perennial(arguments);
    assert_eq!(outcome.status, Some(0), "{arguments:?}\n{}", outcome.stderr);
    outcome.stdout
}

/// Fails unless the command says in one line what was wrong, with all of `parts` in it, and exits with 2.
#[track_caller]
pub fn refused(arguments: &[&str], parts: &[&str]) {
    let outcome = perennial(arguments);
    assert_eq!(outcome.status, Some(2), "{arguments:?}\n{}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "{arguments:?}");
    assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    for part in parts {
        assert!(outcome.stderr.contains(part), "'{part}' is not in: {}", outcome.stderr);
    }
}

/// The same for `run` with the tests' preset, which must leave nothing behind.
#[track_caller]
pub fn run_refused(arguments: &[&str], parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let fixed = ["run", TINY_RUN, "--out", out.to_str().unwrap()];
    refused(&fixed.iter().chain(arguments).copied().collect::<Vec<_>>(), parts);
    assert!(!out.exists(), "a refused run left {:?}", files(&out).keys());
}

/// Writes a file and returns its path as the command line takes it.
pub fn written(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_string()
}

/// Every file below a folder by its relative path; empty where there is no folder.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The files of a finished run but for its log, and the log's lines without what the clock decides.
pub fn result(run: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<Value>) {
    let mut files = files(run);
    let metrics = files.remove(Path::new("metrics.jsonl")).expect("a run has a log");
    let metrics = String::from_utf8(metrics).unwrap();
    let lines = metrics.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut()
            .unwrap()
            .retain(|key, _| !["samples_per_second", "seconds", "time", "crc"].contains(&key.as_str()));
        line
    });
    (files, lines.collect())
}

/// Fails unless two finished runs have the same files, bit for bit, and the same log.
#[track_caller]
pub fn assert_same_result(what: &str, one: &Path, other: &Path) {
    let ((mut one, one_log), (mut other, other_log)) = (result(one), result(other));
    // Settings that change no result may differ.
    one.remove(Path::new("config.toml"));
    other.remove(Path::new("config.toml"));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>(), "{what}");
    for (path, bytes) in &one {
        assert!(*bytes == other[path], "{what}: {} differs", path.display());
    }
    assert_eq!(one_log.len(), other_log.len(), "{what}: lines of the log");
    for (one, other) in one_log.iter().zip(&other_log) {
        assert_eq!(one, other, "{what}: the log");
    }
}
