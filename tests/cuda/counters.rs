//! What the emulated GPU counts: by kernels whose counts are known, and of all kernels, so that none asks for more unseen.

use std::collections::BTreeMap;
use std::fs;

use perennial::check::counters::{CountedOp, count};
use perennial::check::linear::{Follows, LinearCase};
use perennial::check::{self, Case, Size, Visitor};
use perennial::error::Error;
use perennial::model::spec::ModelSpec;
use perennial::ops::cuda::counters::{Counters, Counts, KernelCounters, ROLES};
use perennial::ops::cuda::emulated::{self, Emulator, Flavour, Schedule};
use perennial::ops::cuda::kernels::{MODULES, Module};
use perennial::ops::cuda::launch::Gpu;
use perennial::ops::linear::LinearShape;

use crate::emulator::Launched;
use crate::{AMPERE, HOPPER, build, emulator, fresh_seed, perennial, root};

/// What a line of counts.txt says of a kernel: who, which counter, how much.
struct Expected {
    launched: Launched,
    counts: Vec<(String, u64)>,
}

fn expected() -> Vec<Expected> {
    let table = fs::read_to_string(root().join("tests/emulator/selftest/counts.txt")).unwrap();
    let lines = table.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (launched, rest) = Launched::read(line);
            let count = |text: &str| {
                let (name, count) = text.split_once('=').unwrap_or_else(|| panic!("counts.txt: {text} in '{line}'"));
                (name.to_string(), count.parse().unwrap_or_else(|_| panic!("counts.txt: {text} in '{line}'")))
            };
            Expected { launched, counts: rest.split_whitespace().map(count).collect() }
        })
        .collect()
}

/// All counters that are not 0, of all warps, and those of `roles` by role.
fn found(emulator: &Emulator, test: &Expected) -> Vec<(String, u64)> {
    let plugged_in = emulator.plug_in().unwrap();
    assert_eq!(test.launched.outcome(plugged_in.gpu()), "0", "{}", test.launched.kernel);
    let all = emulated::counters(plugged_in.gpu()).unwrap();
    let [kernel] = &all[..] else { panic!("{all:?}") };
    assert_eq!(kernel.kernel, test.launched.kernel);
    assert_eq!((kernel.counters.launches, kernel.counters.blocks), (1, test.launched.blocks.into()));
    assert!(emulated::counters(plugged_in.gpu()).unwrap().is_empty(), "what was taken is counted anew");
    let of = |prefix: &str, counts: &Counts| {
        let named = Counts::NAMES.iter().zip(counts.values());
        named.map(|(name, count)| (format!("{prefix}{name}"), count)).collect::<Vec<_>>()
    };
    let mut found = of("", &kernel.counters.total());
    found.retain(|(_, count)| *count > 0);
    for (role, counts) in ROLES.iter().zip(&kernel.counters.of) {
        let prefix = format!("{role}:");
        found.extend(of(&prefix, counts).into_iter().filter(|(name, _)| test.counts.iter().any(|(n, _)| n == name)));
    }
    found
}

#[test]
fn small_kernels_count_as_cuda_says() {
    let folder = root().join("target/emulator/selftest/count");
    let library = build(Flavour::Count, &root().join("tests/emulator/selftest"), Some("counts"), &folder);
    let emulator = Emulator::of(&library, HOPPER);
    let orders =
        [Schedule::EARLY, Schedule::LATE, Schedule::random(7), Schedule::random(8).on(2), Schedule::random(9).on(3)];
    let (tests, mut wrong) = (expected(), Vec::new());
    assert!(tests.len() > 20, "counts.txt lists the kernels");
    for mut test in tests {
        test.counts.sort();
        for schedule in orders {
            let mut found = found(&Emulator { schedule, ..emulator.clone() }, &test);
            found.sort();
            if found != test.counts {
                wrong.push(format!(
                    "{}, {schedule:?}: expected {:?}, found {found:?}",
                    test.launched.kernel, test.counts
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The counts of all ops, and the variable with which this file's tests write them anew.
const TABLE: &str = "tests/cuda/counters.csv";
const WRITES: &str = "PERENNIAL_WRITE_COUNTERS";

/// A kernel's warps of one role, in one op of a case on one kind of GPU: the columns that say of what a line is.
const OF: [&str; 5] = ["capability", "op", "case", "kernel", "role"];

/// Ops over all parameters, of which no model's number is needed.
const OF_PARAMETERS: [&str; 2] = ["adamw", "arena"];

/// Products have kernels for the activations of other models too.
const OF_ACTIVATIONS: [&str; 1] = ["linear"];

/// Ops that have kernels for lengths and widths beyond those of the smallest cases and of the model.
const OF_WIDTHS: [&str; 2] = ["attention", "layer_norm"];

/// The table as it grows: the smallest cases, and a model's with one sample.
struct Table {
    gpu: Gpu,
    model: ModelSpec,
    capability: (u32, u32),
    lines: Vec<String>,
}

impl Visitor for Table {
    type Error = Error;

    fn visit<C: Case>(&mut self) -> Result<(), Error> {
        let mut cases = C::list(Size::Smallest);
        if OF_WIDTHS.contains(&C::OP) {
            cases.extend(C::list(Size::Small));
        }
        if !OF_PARAMETERS.contains(&C::OP) {
            cases.extend(C::of_model(&self.model, 1));
        }
        if OF_ACTIVATIONS.contains(&C::OP) {
            let model = ModelSpec { quick_gelu: !self.model.quick_gelu, ..self.model.clone() };
            cases.extend(C::of_model(&model, 1));
        }
        cases.iter().try_for_each(|case| self.case(case))
    }
}

impl Table {
    fn case<C: Case>(&mut self, case: &C) -> Result<(), Error> {
        for op in count(self.gpu, case)? {
            self.add(&case.shape(), &op);
        }
        Ok(())
    }

    fn add(&mut self, case: &str, op: &CountedOp) {
        let ((major, minor), name, case) = (self.capability, op.name, case.replace(',', ";"));
        for KernelCounters { kernel, counters } in &op.kernels {
            let Counters { launches, blocks, warps, of } = counters;
            for ((role, warps), counts) in ROLES.iter().zip(warps).zip(of).filter(|((_, warps), _)| **warps > 0) {
                let counts: Vec<String> = counts.values().iter().map(u64::to_string).collect();
                let counts = counts.join(",");
                self.lines.push(format!(
                    "{major}.{minor},{name},{case},{kernel},{role},{launches},{blocks},{warps},{counts}"
                ));
            }
        }
    }
}

/// What differs between two tables, in words.
fn differences(then: &str, now: &str) -> Vec<String> {
    type Lines<'a> = BTreeMap<Vec<&'a str>, Vec<Vec<&'a str>>>;
    fn read(table: &str) -> (Vec<&str>, Lines<'_>) {
        let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let (header, mut all) = (lines.next().unwrap_or_default(), Lines::new());
        for mut line in lines {
            let counts = line.split_off(OF.len().min(line.len()));
            all.entry(line).or_default().push(counts);
        }
        (header, all)
    }
    let ((then_header, then), (header, now)) = (read(then), read(now));
    let mut differences = Vec::new();
    if then_header != header {
        differences.push(format!("the columns are {then_header:?}, and now {header:?}"));
    }
    let missing = then.keys().filter(|of| !now.contains_key(*of));
    differences.extend(missing.map(|of| format!("{}: no more", of.join(" "))));
    for (of, lines) in &now {
        let of_then = then.get(of).map(Vec::as_slice).unwrap_or_default();
        if of_then.len() != lines.len() {
            differences.push(format!("{}: {} lines, and now {}", of.join(" "), of_then.len(), lines.len()));
        }
        for (then, now) in of_then.iter().zip(lines) {
            let columns = header[OF.len()..].iter().zip(then.iter().zip(now)).filter(|(_, (then, now))| then != now);
            let columns: Vec<String> = columns.map(|(name, (then, now))| format!("{name} {then} -> {now}")).collect();
            if !columns.is_empty() {
                differences.push(format!("{}: {}", of.join(" "), columns.join(", ")));
            }
        }
    }
    differences
}

#[test]
fn every_kernel_asks_for_what_the_table_says() {
    let columns = [&OF[..], &["launches", "blocks", "warps"], Counts::NAMES].concat();
    let mut lines = vec![columns.join(",")];
    for (capability, schedule) in [(AMPERE, Schedule::EARLY), (HOPPER, Schedule::random(fresh_seed()).on(2))] {
        let emulator = Emulator { capability, schedule, ..emulator(Flavour::Count) };
        let plugged_in = emulator.plug_in().unwrap();
        let model = ModelSpec::find("ViT-B-16").unwrap();
        let mut table = Table { gpu: plugged_in.gpu(), model, capability, lines: Vec::new() };
        check::visit(&mut table).unwrap();
        // Wide tiles of a weight [in, out] pay from more rows on than the others have.
        let shape = LinearShape::projection(384, 64, 256);
        for follows in [Follows::Nothing, Follows::Residual] {
            table.case(&LinearCase { shape, bias: false, follows, before: None }).unwrap();
        }
        lines.append(&mut table.lines);
    }
    let (found, path) = (lines.join("\n") + "\n", root().join(TABLE));
    let is_counted = |kernel: &String| kernel.starts_with("conformance") || found.contains(&format!(",{kernel},"));
    let kernels = MODULES.iter().flat_map(Module::reports).map(|report| report.kernel);
    let uncounted: Vec<String> = kernels.filter(|kernel| !is_counted(kernel)).collect();
    assert_eq!(uncounted, [] as [&str; 0], "no case of the table has these kernels");
    if std::env::var_os(WRITES).is_some() {
        return fs::write(path, found).unwrap();
    }
    let differences = differences(&fs::read_to_string(path).unwrap_or_default(), &found);
    assert!(
        differences.is_empty(),
        "kernels do not ask for what {TABLE} says; where that is meant, {WRITES}=1 writes it anew:\n{}",
        differences.join("\n")
    );
}

#[test]
fn the_program_prints_what_ops_ask_for() {
    let library = emulator(Flavour::Count).kernels;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counters.json");
    let run = |kernels: &str| {
        let file = file.to_str().unwrap();
        let arguments = [
            "bench",
            "kernels",
            "--device",
            "emulated",
            "--counters",
            "--only",
            "relu",
            "--batch",
            "64",
            "--json",
            file,
        ];
        perennial(&arguments, &[("PERENNIAL_EMULATOR", kernels)])
    };
    let (succeeded, text) = run(library.to_str().unwrap());
    assert!(succeeded && text.contains("relu backward"), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    // 64 rows of 1000 values: two bytes are read and two are written, on whole sectors.
    let relu = &report["ops"][0];
    assert_eq!((&relu["op"], &relu["launches"]), (&"relu".into(), &1.into()));
    assert_eq!((&relu["sectors_read"], &relu["sectors_written"]), (&4000.into(), &4000.into()));
    assert_eq!(relu["bytes_of_floor"], 1.0);
    assert_eq!(relu["kernels"][0]["roles"]["rest"]["global_load_bytes"], 128_000);

    let (succeeded, text) = run(emulator(Flavour::Plain).kernels.to_str().unwrap());
    assert!(!succeeded && text.contains("kernels do not count") && text.contains("FLAVOUR=count"), "{text}");
}

#[test]
fn a_difference_is_named() {
    let line = |wavefronts: u64| format!("a,b,c,d,e,one,wavefronts\n9.0,relu,7,relu,rest,1,{wavefronts}\n");
    assert!(differences(&line(4), &line(4)).is_empty());
    assert_eq!(differences(&line(4), &line(5)), ["9.0 relu 7 relu rest: wavefronts 4 -> 5"]);
    assert_eq!(differences(&(line(4) + "9.0,relu,8,relu,rest,1,4\n"), &line(4)), ["9.0 relu 8 relu rest: no more"]);
    assert_eq!(differences("a,b,c,d,e,one,wavefronts\n", &line(4)), ["9.0 relu 7 relu rest: 0 lines, and now 1"]);
}
