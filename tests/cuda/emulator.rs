//! The emulator itself: the documented fragment layouts, swizzle and barriers, and every kind of bug that it must report.

use std::fs;
use std::process::Command;

use perennial::ops::cuda::driver::Driver;
use perennial::ops::cuda::emulated::{Emulator, Flavour, IMAGE, Schedule};
use perennial::ops::cuda::launch::{Argument, Gpu, Launch, Matrix};

use crate::{HOPPER, build, root};

/// Elements of the matrix that each selftest gets, and of the part that its TMA map shows (selftest.cuh).
const DATA: (usize, usize) = (128, 96);
const MAP: (usize, usize) = (100, 90);

/// A kernel of `tests/emulator/selftest/`, and how it is launched: what a line of a table of such begins with.
pub(crate) struct Launched {
    pub kernel: &'static str,
    pub blocks: u32,
    threads: u32,
    shared: u32,
}

impl Launched {
    /// The columns kernel, blocks, threads and shared memory of a line, and what follows.
    pub(crate) fn read(line: &str) -> (Launched, &str) {
        let mut rest = line;
        let mut field = || {
            let (field, after) =
                rest.trim_start().split_once(' ').unwrap_or_else(|| panic!("'{line}' has too few columns"));
            rest = after;
            field
        };
        let kernel = String::leak(field().to_string());
        let [blocks, threads, shared] = [(); 3].map(|()| {
            let text = field();
            text.parse().unwrap_or_else(|_| panic!("{text} in '{line}' is no number"))
        });
        (Launched { kernel, blocks, threads, shared }, rest.trim())
    }

    /// The number of failures that it counts, or the error that its launch ends with.
    pub(crate) fn outcome(&self, gpu: Gpu) -> String {
        let mut device = Driver::open(gpu).unwrap();
        device.load(IMAGE).unwrap();
        let (failures, data) = (device.allocate(4).unwrap(), device.allocate(2 * DATA.0 * DATA.1).unwrap());
        let values: Vec<u16> = (0..DATA.0 * DATA.1).map(|i| i as u16).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&values);
        device.upload(data, bytes.len(), |from, to| to.copy_from_slice(&bytes[from..][..to.len()])).unwrap();
        let matrix = Matrix { base: data, rows: MAP.0, columns: MAP.1, pitch: DATA.1, tile: (64, 64) };
        let map = device.tensor_map(matrix).unwrap();
        let arguments = [Argument::from(failures), Argument::from(data), Argument::from(map)];
        let Launched { kernel, blocks, threads, shared } = *self;
        let launch = Launch { kernel, grid: [blocks, 1, 1], block: threads, shared, arguments: &arguments };
        let mut count = [0; 4];
        match device.launch(launch).and_then(|()| device.download(failures, &mut count)) {
            Err(error) => error.to_string(),
            Ok(()) => i32::from_ne_bytes(count).to_string(),
        }
    }
}

/// One line of expectations.txt.
struct Selftest {
    launched: Launched,
    expected: String,
}

fn selftests(flavour: &str) -> Vec<Selftest> {
    let table = fs::read_to_string(root().join("tests/emulator/selftest/expectations.txt")).unwrap();
    let lines = table.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (launched, rest) = Launched::read(line);
            let (flavours, expected) = rest.split_once(' ').unwrap_or_else(|| panic!("'{line}' has too few columns"));
            let wanted = flavours == "all" || flavours.split(',').any(|name| name == flavour);
            wanted.then(|| Selftest { launched, expected: expected.trim().to_string() })
        })
        .collect()
}

fn outcome(emulator: &Emulator, test: &Selftest) -> String {
    let plugged_in = emulator.plug_in().unwrap();
    test.launched.outcome(plugged_in.gpu())
}

fn run(flavour: Flavour) {
    let name = format!("{flavour:?}").to_lowercase();
    let kernels = root().join("tests/emulator/selftest");
    let library = build(flavour, &kernels, None, &root().join("target/emulator/selftest").join(&name));
    let emulator = Emulator::of(&library, HOPPER);
    let orders = [Schedule::EARLY, Schedule::LATE, Schedule::random(7), Schedule::random(8), Schedule::random(9)];
    let (tests, mut wrong) = (selftests(&name), Vec::new());
    assert!(tests.len() > 40, "expectations.txt lists the selftests");
    for test in tests {
        let outcomes: Vec<String> =
            orders.iter().map(|order| outcome(&Emulator { schedule: *order, ..emulator.clone() }, &test)).collect();
        let right = match test.expected.as_str() {
            "0" => outcomes.iter().all(|outcome| outcome == "0"),
            "failures" => outcomes.iter().any(|outcome| outcome.parse::<i32>().is_ok_and(|count| count > 0)),
            text => outcomes.iter().any(|outcome| outcome.contains(text)),
        };
        if !right {
            wrong.push(format!("{}: expected '{}', found {outcomes:?}", test.launched.kernel, test.expected));
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

#[test]
fn it_does_what_the_ptx_isa_says() {
    run(Flavour::Plain);
}

#[test]
fn its_race_checker_reports_races_alone() {
    run(Flavour::Race);
}

/// The sanitizers must be loaded before all else: this test starts itself again with them.
#[test]
fn its_sanitizers_report_what_is_out_of_bounds() {
    const CHILD: &str = "SELFTESTS_UNDER_ASAN";
    if std::env::var_os(CHILD).is_some() {
        return run(Flavour::Asan);
    }
    build(Flavour::Asan, &root().join("tests/emulator/selftest"), None, &root().join("target/emulator/selftest/asan"));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "emulator::its_sanitizers_report_what_is_out_of_bounds", "--nocapture"])
        .envs(crate::sanitizers())
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
