//! The CUDA backend without a GPU: its launch code and its kernels on the emulated GPU.

mod activations;
mod bugs;
mod counters;
mod emulator;
mod faults;
mod host;
mod launches;
mod ops;
mod self_test;
mod step;
mod trace;

#[path = "../common/runs.rs"]
mod runs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use perennial::check::{Checker, Outcome, Size};
use perennial::ops::cuda::Cuda;
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};

type Device = Cuda;

/// GPUs of the least of each kind: of `sm_80`'s, one with the least shared memory.
const AMPERE: (u32, u32) = (8, 6);
const HOPPER: (u32, u32) = (9, 0);

/// `perennial` with variables beside those of this process; whether it succeeded, and all that it said.
fn perennial(arguments: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), text)
}

/// Builds the emulator with the kernels of `kernels` (all .cu files there, or `files` alone) into `build`.
fn build(flavour: Flavour, kernels: &Path, files: Option<&str>, build: &Path) -> PathBuf {
    // make runs compilers side by side itself; two makes in one folder would meet.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let name = match flavour {
        Flavour::Plain => "plain",
        Flavour::Race => "race",
        Flavour::Asan => "asan",
        Flavour::Count => "count",
    };
    let mut make = Command::new("make");
    make.args(["--quiet", "--jobs=2", "kernels", "--directory"]).arg(root().join("tests/emulator"));
    make.arg(format!("FLAVOUR={name}"));
    make.arg(format!("KERNELS={}", kernels.display()));
    make.arg(format!("BUILD={}", build.display()));
    make.args(files.map(|files| format!("FILES={files}")));
    let output = make.env_remove("MAKEFLAGS").output().expect("make is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    build.join("libemulator.so")
}

/// An emulated Hopper with the project's kernels in a flavour.
fn emulator(flavour: Flavour) -> Emulator {
    let folder = root().join("target/emulator").join(format!("{flavour:?}").to_lowercase());
    Emulator::of(&build(flavour, &root().join("kernels"), None, &folder), HOPPER)
}

/// What a process needs to load an emulator of the asan flavour, whose errors are then those of launches. The program's own
/// memory is not what is looked at.
fn sanitizers() -> [(&'static str, String); 2] {
    let output = Command::new("g++").arg("-print-file-name=libasan.so").output().expect("g++ is there");
    let library = String::from_utf8(output.stdout).unwrap().trim().to_string();
    let options = "halt_on_error=0:suppress_equal_pcs=0:detect_leaks=0:log_path=/dev/null";
    [("LD_PRELOAD", library), ("ASAN_OPTIONS", options.to_string())]
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Another one every time; it is printed with every failure.
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64)
}

/// Both capabilities, threads in order with copies early and late, and `random` random schedules.
fn schedules(random: u64) -> Vec<((u32, u32), Schedule)> {
    let seed = fresh_seed();
    let fixed = [Schedule::EARLY, Schedule::LATE];
    let random = (0..random).map(|i| Schedule::random(seed.wrapping_add(i)));
    let schedules = fixed.into_iter().chain(random);
    // Alternate, so that half of the random ones fall to each capability.
    schedules
        .enumerate()
        .flat_map(|(i, schedule)| match i {
            0 | 1 => vec![(AMPERE, schedule), (HOPPER, schedule)],
            i if i % 2 == 0 => vec![(HOPPER, schedule)],
            _ => vec![(AMPERE, schedule)],
        })
        .collect()
}

/// Runs the checks that `work` starts, with operands of a fresh seed; all that failed.
fn failures(
    emulator: Emulator,
    size: Size,
    only: Option<&str>,
    work: impl FnOnce(&mut Checker<Device>),
) -> Vec<Outcome> {
    failures_of(fresh_seed(), emulator, size, only, work)
}

/// The same with operands of this seed.
fn failures_of(
    seed: u64,
    emulator: Emulator,
    size: Size,
    only: Option<&str>,
    work: impl FnOnce(&mut Checker<Device>),
) -> Vec<Outcome> {
    let (mut cases, mut failed) = (0, Vec::new());
    let mut observer = |outcome: &Outcome| {
        cases += 1;
        if let Some(failure) = &outcome.failure {
            let mut outcome = outcome.clone();
            outcome.failure = Some(format!("{failure} (seed {seed})"));
            failed.push(outcome);
        }
    };
    let plugged_in = emulator.plug_in().unwrap();
    work(&mut Checker { place: plugged_in.gpu(), size, seed, only: only.map(String::from), observer: &mut observer });
    assert!(cases > 0, "nothing was checked");
    failed
}

fn assert_none(what: &str, failed: Vec<Outcome>) {
    let lines: Vec<String> = failed
        .iter()
        .map(|outcome| format!("{} {}: {}", outcome.op, outcome.shape, outcome.failure.as_deref().unwrap_or_default()))
        .collect();
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}
