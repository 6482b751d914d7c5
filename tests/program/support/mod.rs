//! Running the built program, and what it is run on.

pub mod browser;
pub mod micro;
pub mod synthetic;

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::runs::files;
use crate::setups::TINY_RUN;

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
