//! Every op against the f64 reference, under many schedules, the race checker and the sanitizers.

use std::process::Command;

use perennial::check::{self, Size};
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};

use crate::{assert_none, build, emulator, failures, root, schedules};

#[test]
fn every_op_agrees_with_the_reference() {
    for target in [perennial::ops::cuda::driver::Target::Sm80, perennial::ops::cuda::driver::Target::Sm90a] {
        let emulator = Emulator { target, schedule: Schedule::LATE.on(2), ..emulator(Flavour::Plain) };
        assert_none(&format!("{target:?}"), failures(emulator, Size::Small, None, check::ops));
    }
}

#[test]
fn no_schedule_changes_a_result() {
    for (target, schedule) in schedules(10) {
        let emulator = Emulator { target, schedule, ..emulator(Flavour::Plain) };
        assert_none(&format!("{target:?}, {schedule:?}"), failures(emulator, Size::Smallest, None, check::ops));
    }
}

#[test]
fn nothing_races() {
    for (target, schedule) in schedules(2) {
        let emulator = Emulator { target, schedule, ..emulator(Flavour::Race) };
        assert_none(&format!("{target:?}, {schedule:?}"), failures(emulator, Size::Smallest, None, check::ops));
    }
}

/// The sanitizers must be loaded before all else, so this runs the program itself.
#[test]
fn no_access_is_out_of_bounds_or_undefined() {
    let library = build(Flavour::Asan, &root().join("kernels"), None, &root().join("target/emulator/asan"));
    let output = Command::new(env!("CARGO_BIN_EXE_perennial"))
        .args(["check", "--device", "emulated", "--smallest"])
        .env("PERENNIAL_EMULATOR", library)
        .envs(crate::sanitizers())
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("all agree"), "{out}\n{error}");
}
