//! Every instruction against the PTX ISA and every op against the f64 reference, under many schedules, the race checker
//! and the sanitizers.

use std::process::Command;

use perennial::check::{self, Checker, Size, conformance};
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};

use crate::{AMPERE, Device, HOPPER, assert_none, build, emulator, failures, root, schedules};

fn instructions(checker: &mut Checker<Device>, capability: (u32, u32)) {
    let left_out = conformance::check(checker.place, checker.seed, checker.observer).unwrap();
    assert_eq!(left_out > 0, capability == AMPERE, "Hopper alone has all instructions");
}

#[test]
fn every_instruction_does_what_the_isa_says() {
    for (flavour, random) in [(Flavour::Plain, 4), (Flavour::Race, 1)] {
        for (capability, schedule) in schedules(random) {
            let emulator = Emulator { capability, schedule, ..emulator(flavour) };
            let failed = failures(emulator, Size::Smallest, None, |checker| instructions(checker, capability));
            assert_none(&format!("{capability:?}, {schedule:?}"), failed);
        }
    }
}

#[test]
fn every_op_agrees_with_the_reference() {
    for capability in [AMPERE, HOPPER] {
        let emulator = Emulator { capability, schedule: Schedule::LATE.on(2), ..emulator(Flavour::Plain) };
        assert_none(&format!("{capability:?}"), failures(emulator, Size::Small, None, check::ops));
    }
}

#[test]
fn no_schedule_changes_a_result() {
    for (capability, schedule) in schedules(10) {
        let emulator = Emulator { capability, schedule, ..emulator(Flavour::Plain) };
        assert_none(&format!("{capability:?}, {schedule:?}"), failures(emulator, Size::Smallest, None, check::ops));
    }
}

#[test]
fn nothing_races() {
    for (capability, schedule) in schedules(2) {
        let emulator = Emulator { capability, schedule, ..emulator(Flavour::Race) };
        assert_none(&format!("{capability:?}, {schedule:?}"), failures(emulator, Size::Smallest, None, check::ops));
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
