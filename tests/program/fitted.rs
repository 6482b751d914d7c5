//! Methods that fit a classifier to frozen features: threads, damaged features, and what is refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use perennial::method::METHODS;

use crate::runs::assert_same_result;
use crate::setups::{TINY_RUN, TINY_TIC};
use crate::support::{command, outcome, perennial, refused, succeed};

/// Their names.
fn fitted() -> impl Iterator<Item = &'static str> {
    METHODS.iter().filter(|entry| entry.open_default().fit().is_some()).map(|entry| entry.name())
}

/// Small enough for moments, and both forms of a ridge system: 600 samples and more.
const SMALL: [&str; 4] = ["--set", "objective.ranpac.width=300", "--set", "objective.rail.width=300"];

fn words<'a>(method: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["run", TINY_RUN, "--method", method, "--out", out.to_str().unwrap()];
    fixed.iter().chain(&SMALL).chain(more).copied().collect()
}

#[test]
fn neither_threads_nor_loaders_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    for method in fitted() {
        let [one, two] = ["1", "2"].map(|threads| {
            let out = folder.path().join(format!("{method}-{threads}"));
            let loaders = format!("data.loader_threads={threads}");
            succeed(&words(method, &out, &["--threads", threads, "--set", &loaders]));
            out
        });
        assert_same_result(method, &one, &two);
    }
}

/// A run that stands behind its first steps, and its features, changed by `damage` while it is stopped.
#[test]
fn features_that_are_damaged_or_gone_are_computed_again_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    succeed(&words("ranpac", &whole, &[]));
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("flipped", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[1000] ^= 4;
            fs::write(path, bytes).unwrap();
        }),
        ("cut", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("another's", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[30] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("gone", |path| fs::remove_file(path).unwrap()),
    ];
    for (name, damage) in damages {
        let out = folder.path().join(name);
        let words = words("ranpac", &out, &[]);
        let mut child = command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !out.join("evaluation.json").exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let features = out.join("features.bin");
        if features.exists() {
            damage(&features);
            let outcome = perennial(&words);
            assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
            let told = outcome.stderr.contains("features.bin: it is damaged, or of other weights or data");
            assert_eq!(told, ["cut", "another's"].contains(&name), "{name}: {}", outcome.stderr);
        }
        assert_same_result(name, &whole, &out);
    }
}

#[test]
fn what_has_no_meaning_or_no_room_is_refused_before_work_begins() {
    for method in fitted() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let words = ["run", TINY_TIC, "--method", method, "--out", out.to_str().unwrap()];
        refused(&words, &[&format!("{method} knows classes and no texts"), "evaluation.task"]);
    }
    // A million values for every sample, and three gigabytes.
    for (method, remedy) in [("ranpac", "a smaller objective.ranpac.width"), ("rail", "a smaller objective.rail.width")]
    {
        let folder = tempfile::tempdir().unwrap();
        let (out, width) = (folder.path().join("run"), format!("objective.{method}.width=1000000"));
        let words = ["run", TINY_RUN, "--method", method, "--set", &width, "--out", out.to_str().unwrap()];
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 3000000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_perennial")]).args(words);
        let outcome = outcome(shell.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap());
        assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
        let start = format!("error: the classifier of {method} needs up to");
        assert!(outcome.stderr.starts_with(&start) && outcome.stderr.contains(remedy), "{}", outcome.stderr);
        assert!(!out.exists(), "a refused run leaves nothing behind");
    }
}
