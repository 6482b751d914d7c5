//! A run that is killed, at any moment, and started again ends as if nothing had happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use perennial::method::{METHODS, Spends};
use perennial::rng::{below, rng, unit};
use serde_json::Value;

use crate::runs::{assert_same_result, files};
use crate::setups::{TINY_RUN, TINY_TIC};
use crate::support::{command, succeed};

/// Tests that kill take turns: beside another a run takes longer, and random moments are those of a run by itself. Where other tests are
/// at work beside it, the moments are less even, and no less right.
static ALONE: Mutex<()> = Mutex::new(());

/// How often a run is killed at a random moment.
const KILLS: usize = 10;

fn start(arguments: &[&str]) -> Child {
    command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// SIGKILL; whether there was still something to kill.
fn kill(mut child: Child) -> bool {
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// Decides when runs are killed: the clock's, or what `KILL_SEED` says.
fn kill_seed() -> u64 {
    let seed = match std::env::var("KILL_SEED") {
        Ok(seed) => seed.parse().expect("KILL_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64,
    };
    println!("KILL_SEED={seed}");
    seed
}

fn time<R>(work: impl FnOnce() -> R) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[test]
fn kills_at_random_moments_leave_no_trace() {
    kill_and_compare(TINY_RUN, KILLS);
}

#[test]
fn kills_leave_no_trace_in_budgets_other_matrices_static_sets_and_predictions() {
    let result = kill_and_compare(TINY_TIC, KILLS / 2);
    let evaluation: Value = serde_json::from_slice(&result[Path::new("evaluation.json")]).unwrap();
    assert_eq!(evaluation["spent"].as_array().unwrap().len(), 3);
    assert_eq!(evaluation["dynamic"].as_object().unwrap().len(), 7);
    assert_eq!(evaluation["static_sets"].as_object().unwrap().len(), 2);
    assert!(result.contains_key(Path::new("predictions.json")));
}

/// Kills a run `times` times and fails unless it ends as an undisturbed one does, whose files it returns.
fn kill_and_compare(preset: &str, times: usize) -> BTreeMap<PathBuf, Vec<u8>> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = kill_seed();
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let arguments = |out: &Path| ["run", preset, "--out", out.to_str().unwrap()].map(String::from);
    let whole_arguments = arguments(&whole);
    let whole_arguments: Vec<&str> = whole_arguments.iter().map(String::as_str).collect();
    let killed_arguments = arguments(&killed);
    let killed_arguments: Vec<&str> = killed_arguments.iter().map(String::as_str).collect();

    let undisturbed = time(|| succeed(&whole_arguments));
    let finished = files(&whole);
    succeed(&whole_arguments);
    assert!(files(&whole) == finished, "starting a finished run again changes nothing");

    let what = format!("KILL_SEED={seed}");
    let mut random = rng(seed, "kills", &[]);
    let (mut kills, mut finishes) = (0, 0);
    while kills < times {
        let child = start(&killed_arguments);
        std::thread::sleep(undisturbed.mul_f64(unit(&mut random)));
        if kill(child) {
            kills += 1;
        } else {
            // It came to its end before its kill: the next one begins anew.
            assert_same_result(&what, &whole, &killed);
            std::fs::remove_dir_all(&killed).unwrap();
            finishes += 1;
        }
    }
    println!("undisturbed {undisturbed:.1?}; {kills} kills, {finishes} runs came to their end between them");
    succeed(&killed_arguments);
    assert_same_result(&what, &whole, &killed);
    finished
}

#[test]
fn every_fraction_survives_being_written_and_read() {
    // A resumed run reads the rows of evaluation.json and writes them again.
    for whole in 1..500u32 {
        for part in 0..=whole {
            let fraction = part as f64 / whole as f64;
            let read: f64 = serde_json::from_str(&serde_json::to_string(&fraction).unwrap()).unwrap();
            assert_eq!(read.to_bits(), fraction.to_bits(), "{part} / {whole}");
        }
    }
}

/// (step, stage, iteration) of every line of training in a run's log.
fn positions(run: &Path) -> Vec<[u64; 3]> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    // The last line may be half-written.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let trained = lines.filter(|line| line["loss"].is_number());
    trained.map(|line| ["step", "stage", "iteration"].map(|key| line[key].as_u64().unwrap())).collect()
}

/// The last (step, iteration) of training in a run's log.
fn position(run: &Path) -> (u64, u64) {
    positions(run).last().map_or((0, 0), |[step, _, iteration]| (*step, *iteration))
}

#[test]
fn a_kill_in_each_step_keeps_moments_and_moving_averages() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let arguments = |out: &Path| {
        let settings = ["--method", "gcl", "--set", "train.keep_optimizer=true", "--set", "train.epochs=1"];
        let out = out.to_str().unwrap().to_string();
        ["run", TINY_RUN, "--out", &out].iter().chain(&settings).map(|word| word.to_string()).collect::<Vec<_>>()
    };
    let words = arguments(&whole);
    succeed(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let words = arguments(&killed);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for step in 1..=3 {
        let mut child = start(&words);
        // Between two saved states.
        while position(&killed) < (step, 5) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before iteration 5 of step {step}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(kill(child), "the run ended before it was killed in step {step}");
    }
    succeed(&words);
    assert_same_result("gcl", &whole, &killed);
}

/// What makes every method's run short, and saves often enough that most kills find a state within their stage. Four tasks, so that
/// der goes on with up to three frozen extractors.
const SHORT: [&str; 6] = [
    "stream.tasks=4",
    "train.epochs=0.6",
    "train.batch=24",
    "train.save_every=2",
    "probe.epochs=1",
    "objective.cassle.hidden=64",
];

/// How often a run may come to its end before its kill.
const TRIES: u32 = 5;

/// Kills the run `words` in `run` a moment after its log has so many lines of training. A run that comes to its end first begins
/// anew, and is killed after the `earliest` lines that will do. Returns the last position of training before the kill.
fn kill_after(words: &[&str], whole: &Path, run: &Path, lines: [usize; 2], moment: Duration) -> [u64; 3] {
    let [chosen, earliest] = lines;
    for attempt in 0..TRIES {
        let lines = if attempt == 0 { chosen } else { earliest };
        let mut child = start(words);
        while positions(run).len() < lines && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(moment / 2u32.pow(attempt));
        if kill(child) {
            return positions(run).last().copied().unwrap_or_default();
        }
        assert_same_result("a run that was not killed", whole, run);
        std::fs::remove_dir_all(run).unwrap();
    }
    panic!("{words:?} came to its end {TRIES} times before it was killed");
}

/// One kill for each kind of stage that a method trains, after a random line of the log from the second step on, where teachers,
/// earlier extractors, memory and penalties are at work; and one at any moment where nothing is trained.
#[test]
fn every_method_goes_on_from_a_kill() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = kill_seed();
    for method in METHODS.map(|entry| entry.row) {
        let folder = tempfile::tempdir().unwrap();
        let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
        let arguments = |out: &Path| -> Vec<String> {
            let fixed = ["run", TINY_RUN, "--method", method.name, "--out", out.to_str().unwrap()];
            fixed.into_iter().chain(SHORT.iter().flat_map(|setting| ["--set", setting])).map(String::from).collect()
        };
        let words = arguments(&whole);
        let undisturbed = time(|| succeed(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        let log = positions(&whole);
        let mut random = rng(seed, method.name, &[]);
        // How many lines to wait for, and how many would do; and how long from there, at most.
        let mut targets = Vec::new();
        for stage in 1..=4 {
            let lines: Vec<usize> = (0..log.len()).filter(|line| log[*line][0] > 1 && log[*line][1] == stage).collect();
            if let Some(first) = lines.first() {
                targets.push([lines[below(&mut random, lines.len() as u64) as usize] + 1, first + 1]);
            }
        }
        targets.sort_unstable();
        // Somewhere on the way to the next line: what is not trained takes about as long as what is.
        let mut longest = undisturbed.div_f64(2.0 * log.len().max(1) as f64);
        if targets.is_empty() {
            // Nothing is trained: any moment will do.
            assert_eq!(method.spends, Spends::Nothing, "{}", method.name);
            (targets, longest) = (vec![[0, 0]], undisturbed);
        }
        let words = arguments(&killed);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let kills: Vec<[u64; 3]> = (targets.iter())
            .map(|lines| kill_after(&words, &whole, &killed, *lines, longest.mul_f64(unit(&mut random))))
            .collect();
        succeed(&words);
        println!("{}: {undisturbed:.1?} undisturbed, {} lines, killed after {kills:?}", method.name, log.len());
        assert_same_result(&format!("{}, KILL_SEED={seed}", method.name), &whole, &killed);
    }
}
