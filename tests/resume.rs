//! A run that is killed, at any moment, and started again ends as if nothing had happened.

#[path = "common/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use perennial::method::METHODS;
use perennial::rng::{below, rng, unit};
use program::{TINY_RUN, TINY_TIC, assert_same_result, command, files, succeed};
use serde_json::Value;

/// A run beside another takes longer, and random moments are those of a run by itself.
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

/// (step, stage, iteration) of every line of a run's log.
fn positions(run: &Path) -> Vec<[u64; 3]> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    // The last line may be half-written.
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| ["step", "stage", "iteration"].map(|key| line[key].as_u64().unwrap())).collect()
}

/// The last (step, iteration) in a run's log.
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

/// One kill for each kind of stage that a method trains, after a random line of the log from the second step on, where teachers,
/// earlier extractors, memory and penalties are at work.
#[test]
fn every_method_goes_on_from_a_kill() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = kill_seed();
    for method in METHODS {
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
        let mut targets = Vec::new();
        for stage in 1..=4 {
            let lines: Vec<usize> = (0..log.len()).filter(|line| log[*line][0] > 1 && log[*line][1] == stage).collect();
            if !lines.is_empty() {
                targets.push(lines[below(&mut random, lines.len() as u64) as usize]);
            }
        }
        targets.sort_unstable();

        let words = arguments(&killed);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut kills = Vec::new();
        for target in &targets {
            let mut child = start(&words);
            while positions(&killed).len() <= *target && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Somewhere on the way to the next line: what is not trained takes about as long as what is.
            std::thread::sleep(undisturbed.mul_f64(0.5 * unit(&mut random) / log.len() as f64));
            if kill(child) {
                kills.push(positions(&killed).last().copied().unwrap_or_default());
            }
        }
        if targets.is_empty() {
            // Nothing is trained: any moment will do.
            let child = start(&words);
            std::thread::sleep(undisturbed.mul_f64(unit(&mut random)));
            kill(child);
        }
        succeed(&words);
        println!("{}: {undisturbed:.1?} undisturbed, {} lines, killed after {kills:?}", method.name, log.len());
        assert_same_result(&format!("{}, KILL_SEED={seed}", method.name), &whole, &killed);
    }
}
