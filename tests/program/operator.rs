//! What servers do to a run: signals, damaged and missing files, limits, and eyes from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use perennial::experiment::RunDirectory;
use perennial::method::METHODS;
use perennial::rng::{Rng, below, rng, unit};
use serde_json::Value;
use tempfile::TempDir;

use crate::runs::{assert_same_result, files};
use crate::setups::TINY_RUN;
use crate::support::{Outcome, command, outcome, perennial, succeed};

/// Signals by number, as every system has them.
const SIGNALS: [(i32, &str); 4] = [(1, "SIGHUP"), (2, "SIGINT"), (10, "SIGUSR1"), (15, "SIGTERM")];

fn send(child: &Child, signal: i32) {
    // SAFETY: signals a process that is not waited for yet, so that its number is nobody else's.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// Starts the program with its output kept.
fn start(arguments: &[&str]) -> Child {
    command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Outcome {
    outcome(child.wait_with_output().unwrap())
}

/// Waits until the log of `run` has so many lines; whether it came to that before the program's end.
fn wait_for_lines(child: &mut Child, run: &Path, lines: usize) -> bool {
    let count =
        || fs::read(run.join("metrics.jsonl")).map_or(0, |log| log.iter().filter(|byte| **byte == b'\n').count());
    while count() < lines {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A run of the tests' preset with its directory and arguments.
struct Trial {
    _folder: TempDir,
    out: PathBuf,
    words: Vec<String>,
}

impl Trial {
    fn new(settings: &[&str]) -> Trial {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let mut words: Vec<String> = ["run", TINY_RUN, "--out", out.to_str().unwrap()].map(String::from).into();
        words.extend(settings.iter().flat_map(|setting| ["--set".to_string(), setting.to_string()]));
        Trial { _folder: folder, out, words }
    }

    fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// Stopped by SIGKILL in its second step, with a state and the one before.
    fn half(settings: &[&str]) -> Trial {
        let trial = Trial::new(settings);
        let mut child = start(&trial.words());
        while !fs::read_to_string(trial.out.join("metrics.jsonl"))
            .is_ok_and(|log| log.matches("\"step\":2,\"stage\":1").count() > 8)
        {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        trial
    }

    fn state(&self) -> PathBuf {
        self.out.join("checkpoints/state.safetensors")
    }
}

/// Short steps whose states are saved by their end alone.
const RARE: [&str; 3] = ["train.save_every=100000", "train.epochs=2", "train.log_every=1"];

#[test]
fn each_signal_saves_the_iteration_in_hand() {
    for (signal, name) in SIGNALS {
        let trial = Trial::new(&RARE);
        let mut child = start(&trial.words());
        assert!(wait_for_lines(&mut child, &trial.out, 4));
        send(&child, signal);
        let since = Instant::now();
        let stopped = end(child);
        assert_eq!(stopped.status, Some(128 + signal), "{}", stopped.stderr);
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        let last = stopped.stderr.lines().last().unwrap();
        assert!(last.starts_with(&format!("stopped by {name} while step 1 of")), "{last}");
        assert!(last.ends_with("and the same command goes on"), "{last}");
        // No iteration is lost: the log has none twice, and the run goes on behind its last line.
        let log = fs::read_to_string(trial.out.join("metrics.jsonl")).unwrap();
        let done = log.lines().filter(|line| line.contains("\"loss\"")).count();
        let resumed = perennial(&trial.words());
        assert_eq!(resumed.status, Some(0), "{}", resumed.stderr);
        let place = format!("iteration {} of", done + 1);
        assert!(
            resumed.stderr.lines().any(|line| line.starts_with("going on with") && line.contains(&place)),
            "{}",
            resumed.stderr
        );
        let whole = Trial::new(&RARE);
        succeed(&whole.words());
        assert_same_result(name, &whole.out, &trial.out);
    }
}

#[test]
fn a_second_signal_ends_at_once_and_nohup_keeps_a_hangup_away() {
    // Both signals wait for a process that stands still, so that the first is not followed yet when the second comes.
    let trial = Trial::new(&["train.save_every=100000", "train.epochs=200"]);
    let mut child = start(&trial.words());
    assert!(wait_for_lines(&mut child, &trial.out, 3));
    [libc::SIGSTOP, libc::SIGTERM, libc::SIGINT, libc::SIGCONT].iter().for_each(|signal| send(&child, *signal));
    let status = end(child).status;
    assert!(status == Some(143) || status == Some(130), "{status:?}");
    assert!(!trial.state().exists(), "nothing was saved");

    let trial = Trial::new(&RARE);
    let program = env!("CARGO_BIN_EXE_perennial");
    let mut child = std::process::Command::new("nohup")
        .arg(program)
        .args(trial.words())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(wait_for_lines(&mut child, &trial.out, 3));
    send(&child, 1);
    assert_eq!(end(child).status, Some(0));
}

#[test]
fn a_kill_during_the_tests_costs_no_training() {
    let trial = Trial::new(&RARE);
    let mut child = start(&trial.words());
    // The state appears before the tests of the first step, and nothing else saves one.
    while !trial.state().exists() {
        assert!(child.try_wait().unwrap().is_none(), "no state before the end");
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !trial.out.join("evaluation.json").exists()
            || RunDirectory::read_evaluation(&trial.out).unwrap().matrix.len() == 1
    );
    let resumed = perennial(&trial.words());
    assert_eq!(resumed.status, Some(0), "{}", resumed.stderr);
    assert!(!resumed.stderr.contains("going on with gdro: step 1 of 3 (task 1), iteration"), "{}", resumed.stderr);
    let whole = Trial::new(&RARE);
    succeed(&whole.words());
    assert_same_result("killed in its tests", &whole.out, &trial.out);
}

/// How many signals are sent; more by `PERENNIAL_SIGNALS=200`.
fn signals() -> usize {
    std::env::var("PERENNIAL_SIGNALS").map_or(48, |count| count.parse().expect("PERENNIAL_SIGNALS is a number"))
}

/// Every method, signals of every kind at random moments: the directory is that of an undisturbed run. Prints what was lost.
#[test]
fn every_method_goes_on_from_signals_at_random_moments() {
    let short = [
        "stream.tasks=3",
        "train.epochs=1",
        "train.batch=24",
        "train.save_every=100000",
        "train.log_every=1",
        "probe.epochs=1",
        "objective.cassle.hidden=64",
    ];
    let mut random = rng(7, "signals", &[]);
    let (mut sent, mut lost) = (0, Vec::new());
    for (place, method) in METHODS.map(|entry| entry.row).iter().enumerate() {
        let share = signals() * (place + 1) / METHODS.len() - signals() * place / METHODS.len();
        let trial = |signalled: bool| {
            let mut trial = Trial::new(&short);
            trial.words.extend(["--method".to_string(), method.name.to_string()]);
            (signalled, trial)
        };
        let (_, whole) = trial(false);
        let since = Instant::now();
        succeed(&whole.words());
        let undisturbed = since.elapsed();
        let (_, stopped) = trial(true);
        let mut count = 0;
        while count < share {
            let child = start(&stopped.words());
            std::thread::sleep(undisturbed.mul_f64(unit(&mut random)));
            let (signal, _) = SIGNALS[below(&mut random, SIGNALS.len() as u64) as usize];
            let before = trained(&stopped.out);
            send(&child, signal);
            let ended = end(child);
            if ended.status == Some(0) {
                assert_same_result(method.name, &whole.out, &stopped.out);
                fs::remove_dir_all(&stopped.out).unwrap();
                continue;
            }
            // Before it listens the signal itself ends it, which no test of a shell tells apart.
            assert!(ended.status.is_none_or(|status| status == 128 + signal), "{}: {}", method.name, ended.stderr);
            count += 1;
            lost.push(before.saturating_sub(saved(&stopped.out)));
        }
        sent += count;
        succeed(&stopped.words());
        assert_same_result(method.name, &whole.out, &stopped.out);
    }
    lost.sort_unstable();
    println!("{sent} signals; iterations lost: median {}, most {}", lost[lost.len() / 2], lost[lost.len() - 1]);
    assert_eq!(lost[lost.len() / 2], 0, "half of the signals cost nothing");
}

/// Lines of training in a run's log.
fn trained(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |log| log.matches("\"loss\"").count())
}

/// Lines of training that a run goes on behind.
fn saved(run: &Path) -> usize {
    let Ok(state) = perennial::model::checkpoint::TensorFile::load(&run.join("checkpoints/state.safetensors")) else {
        return 0;
    };
    let position = state.u64("position", &[6]).unwrap();
    let here = (position[0] + 1, position[5] + 1, position[1]);
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let lines =
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|line| line["loss"].is_number());
    let place = |line: &Value| ["step", "stage", "iteration"].map(|key| line[key].as_u64().unwrap());
    lines.map(|line| place(&line)).filter(|[step, stage, iteration]| (*step, *stage, *iteration) <= here).count()
}

/// Flips a bit of a file.
fn flip(path: &Path, at: usize, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// How many bits are flipped; more by `PERENNIAL_FLIPS=2000`.
fn flips() -> u64 {
    std::env::var("PERENNIAL_FLIPS").map_or(120, |count| count.parse().expect("PERENNIAL_FLIPS is a number"))
}

/// One bit of any file that a run that goes on, or a report, reads: one of the two says so, and names the file.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let trial = Trial::half(&[]);
    let out = trial.out.to_str().unwrap();
    let mut random = rng(11, "flips", &[]);
    let kept = files(&trial.out);
    // Large files would take nearly all flips: each file gets its share.
    let names: Vec<&PathBuf> = kept.keys().filter(|name| !is_unread(name)).collect();
    for number in 0..flips() {
        let name = names[number as usize % names.len()];
        let (at, bit) = place(&kept[name], &mut random);
        flip(&trial.out.join(name), at, bit);
        let what = format!("{}: bit {bit} of byte {at}", name.display());
        if name.to_str().unwrap().contains("step-") {
            // Read where somebody starts from it.
            let model = trial.out.join(name);
            let export = perennial(&[
                "export",
                "--model",
                model.to_str().unwrap(),
                "--format",
                "hf",
                "--out",
                &format!("{out}-hf"),
            ]);
            assert_eq!(export.status, Some(2), "{what}: {}", export.stderr);
        } else if name.ends_with("metrics.jsonl") {
            // A line costs no run: it goes on, elsewhere, so that the next flip finds the same run.
            let copy = tempfile::tempdir().unwrap();
            for (name, bytes) in files(&trial.out) {
                let path = copy.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            let words = trial.words();
            let words: Vec<&str> =
                words.iter().map(|word| if *word == out { copy.path().to_str().unwrap() } else { word }).collect();
            let resumed = perennial(&words);
            assert_eq!(resumed.status, Some(0), "{what}: {}", resumed.stderr);
            assert!(
                resumed.stderr.contains("note: metrics.jsonl: lines that cannot be read: "),
                "{what}: {}",
                resumed.stderr
            );
        } else {
            let resumed = perennial(&trial.words());
            assert_eq!(resumed.status, Some(2), "{what}: {}", resumed.stderr);
            assert!(resumed.stderr.contains(name.file_name().unwrap().to_str().unwrap()), "{what}: {}", resumed.stderr);
        }
        flip(&trial.out.join(name), at, bit);
    }
    let results = |mut all: BTreeMap<PathBuf, Vec<u8>>| {
        all.remove(Path::new("lock"));
        all
    };
    assert!(results(files(&trial.out)) == results(kept), "what was refused changed nothing");
}

/// Files that say where a run is, and hold no result; and the state before, which is read once the last one is moved away.
fn is_unread(name: &Path) -> bool {
    ["lock", "status.json", "state.previous.safetensors"].iter().any(|unread| name.ends_with(unread))
}

fn place(bytes: &[u8], random: &mut Rng) -> (usize, usize) {
    (below(random, bytes.len() as u64) as usize, below(random, 8) as usize)
}

#[test]
fn a_damaged_state_gives_way_to_the_one_before() {
    let whole = Trial::new(&[]);
    succeed(&whole.words());
    let trial = Trial::half(&[]);
    let length = fs::metadata(trial.state()).unwrap().len() as usize;
    flip(&trial.state(), length / 2, 3);
    let refused = perennial(&trial.words());
    assert_eq!(refused.status, Some(2));
    for part in ["state.safetensors", "damaged", "move it away", "state.previous.safetensors"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    fs::remove_file(trial.state()).unwrap();
    let resumed = perennial(&trial.words());
    assert_eq!(resumed.status, Some(0), "{}", resumed.stderr);
    assert!(
        resumed.stderr.contains("note: ") && resumed.stderr.contains("state.safetensors is gone"),
        "{}",
        resumed.stderr
    );
    assert_same_result("from the state before", &whole.out, &trial.out);
}

#[test]
fn results_without_a_state_are_not_written_over_unless_that_is_asked_for() {
    let trial = Trial::half(&[]);
    fs::remove_file(trial.state()).unwrap();
    fs::remove_file(trial.out.join("checkpoints/state.previous.safetensors")).unwrap();
    let kept = files(&trial.out);
    let refused = perennial(&trial.words());
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--start-over"), "{}", refused.stderr);
    let results = |mut all: BTreeMap<PathBuf, Vec<u8>>| {
        all.remove(Path::new("lock"));
        all
    };
    assert!(results(files(&trial.out)) == results(kept));
    let words = trial.words();
    succeed(&[words.as_slice(), &["--start-over"]].concat());
    let whole = Trial::new(&[]);
    succeed(&whole.words());
    assert_same_result("begun anew", &whole.out, &trial.out);
    // Of a finished run nobody asks for the state.
    fs::remove_file(trial.state()).unwrap();
    assert_eq!(
        succeed(&words),
        succeed(&whole.words()).replace(whole.out.to_str().unwrap(), trial.out.to_str().unwrap())
    );
}

#[test]
fn an_evaluation_behind_the_state_is_refused() {
    let trial = Trial::new(&[]);
    let mut child = start(&trial.words());
    let rows = |out: &Path| RunDirectory::read_evaluation(out).map_or(0, |evaluation| evaluation.matrix.len());
    while rows(&trial.out) < 1 {
        assert!(child.try_wait().unwrap().is_none());
    }
    let early = fs::read(trial.out.join("evaluation.json")).unwrap();
    child.wait().unwrap();
    fs::write(trial.out.join("evaluation.json"), early).unwrap();
    let refused = perennial(&trial.words());
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("not of one moment"), "{}", refused.stderr);
}

#[test]
fn a_second_run_is_told_who_is_at_work() {
    let trial = Trial::new(&["train.epochs=50"]);
    let mut child = start(&trial.words());
    assert!(wait_for_lines(&mut child, &trial.out, 1));
    let second = perennial(&trial.words());
    assert_eq!(second.status, Some(75), "{}", second.stderr);
    assert!(second.stderr.contains(&format!("(process {} on ", child.id())), "{}", second.stderr);
    let out = trial.out.to_str().unwrap();
    let seen: Value = serde_json::from_str(&succeed(&["status", out, "--json"])).unwrap();
    let run = &seen["runs"][0];
    assert_eq!((run["alive"].as_bool(), run["phase"].as_str()), (Some(true), Some("training")));
    assert!(run["iterations"].as_u64().unwrap() > 0 && run["samples"].is_u64(), "{seen}");
    send(&child, 15);
    assert_eq!(end(child).status, Some(143));
    let line = succeed(&["status", out]);
    assert!(line.contains(": stopped, step 1 of 3 (task 1)") && line.contains("last saved 20"), "{line}");
}

#[test]
fn a_collector_of_metrics_finds_numbers() {
    let trial = Trial::new(&[]);
    let file = trial.out.with_extension("prom");
    succeed(&[trial.words().as_slice(), &["--metrics-file", file.to_str().unwrap()]].concat());
    let text = fs::read_to_string(&file).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("perennial_") && name.ends_with("\"}"), "{line}");
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
    }
    assert!(text.contains("perennial_finished{method=\"gdro\",memory=\"120\",seed=\"0\"} 1"), "{text}");
    let seen = succeed(&["status", trial.out.to_str().unwrap()]);
    assert!(seen.contains(": finished, step 3 of 3"), "{seen}");
}

#[test]
fn limits_of_memory_and_of_files_are_errors_in_words() {
    let limited = |limit: &str, words: &[&str]| -> Outcome {
        let program = env!("CARGO_BIN_EXE_perennial");
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!("ulimit {limit}; exec '{program}' {}", quoted.join(" "));
        let output: Output = std::process::Command::new("bash")
            .args(["-c", &script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        outcome(output)
    };
    for kib in [60_000, 80_000, 100_000, 120_000, 140_000, 200_000] {
        let trial = Trial::new(&[]);
        let ended = limited(&format!("-v {kib}"), &trial.words());
        assert!([Some(0), Some(1), Some(2)].contains(&ended.status), "{kib}: {:?} {}", ended.status, ended.stderr);
        assert!(ended.status == Some(0) || ended.stderr.contains("error: "), "{kib}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{kib}: {}", ended.stderr);
    }
    let trial = Trial::new(&[]);
    let ended = limited("-f 2000", &trial.words());
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.lines().last().unwrap().contains("cannot write"), "{}", ended.stderr);
    assert!(!files(&trial.out).keys().any(|name| name.to_str().unwrap().ends_with(".tmp")));
}

#[test]
fn a_position_that_cannot_be_is_refused() {
    for (place, number) in [(0, 1_000_000), (0, 4), (1, 1_000_000), (5, 7)] {
        let trial = Trial::half(&[]);
        let saved = perennial::model::checkpoint::TensorFile::load(&trial.state()).unwrap();
        let mut position = saved.u64("position", &[6]).unwrap().to_vec();
        position[place] = number;
        // Written anew, so that its seal holds.
        let mut file = saved;
        file.insert_u64("position", &[6], position);
        file.save(&trial.state()).unwrap();
        let refused = perennial(&trial.words());
        assert_eq!(refused.status, Some(2), "position[{place}] = {number}: {}", refused.stderr);
        assert!(refused.stderr.contains("state.safetensors"), "{}", refused.stderr);
    }
}
