//! What runs leave behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

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
