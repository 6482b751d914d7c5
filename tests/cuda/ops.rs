//! Every instruction against the PTX ISA and every op against the f64 reference, under many schedules, the race checker
//! and the sanitizers.

use std::process::Command;

use approx::assert_abs_diff_eq;
use half::bf16;
use perennial::check::{self, Checker, Size, conformance};
use perennial::eval::similarities::Similarities;
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};
use perennial::ops::{DeviceMemory, Plan};

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

/// Embeddings that the device made are exact in bf16; of the others every bit counts, so that the result is what f32 makes of them.
#[test]
fn similarities_of_evaluation_are_as_right_as_in_f32() {
    let (rows, columns, width) = (19, 131, 64);
    let value = |place: usize| ((place * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0;
    // Rows of length 1 or less, as embeddings are.
    let a: Vec<f32> = (0..rows * width).map(|place| bf16::from_f32(value(place) / 8.0).to_f32()).collect();
    let b: Vec<f32> = (0..columns * width).map(|place| value(place + 77) / 8.0).collect();
    for capability in [AMPERE, HOPPER] {
        let plugged_in = Emulator { capability, ..emulator(Flavour::Plain) }.plug_in().unwrap();
        let mut plan = Plan::new::<Device>();
        let similarities = Similarities::plan(&mut plan, width);
        let mut device = Device::with_plan(&plugged_in.gpu(), &plan).unwrap();
        let all = similarities.all(&mut device, &a, &b);
        assert_eq!(all.len(), rows * columns);
        for (place, found) in all.iter().enumerate() {
            let (a, b) = (&a[place / columns * width..][..width], &b[place % columns * width..][..width]);
            let products = || a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            // A tensor core may cut off what a sum of f32 does not hold.
            let bound = 3.0 * (width as f64) * 2f64.powi(-23) * products().map(f64::abs).sum::<f64>();
            assert_abs_diff_eq!(f64::from(*found), products().sum::<f64>(), epsilon = bound);
        }
    }
}
