//! What a GPU with wgmma is tested for before it is used, and what becomes of it where that is wrong.

use std::fs;

use perennial::check::self_test::examine;
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};

use crate::bugs::{bug, plant};
use crate::{HOPPER, build, emulator, perennial, root};

#[test]
fn a_gpu_that_is_right_passes() {
    for schedule in [Schedule::LATE.on(2), Schedule::random(3).on(2)] {
        let plugged_in = Emulator { schedule, ..emulator(Flavour::Plain) }.plug_in().unwrap();
        assert_eq!(examine(plugged_in.gpu()).unwrap(), None);
    }
}

#[test]
fn what_is_not_mmas_is_named() {
    let folder = root().join("target/emulator/self-test");
    let kernels = folder.join("kernels");
    for (planted, output) in [
        (bug("linear", "linear_wgmma.cuh", "(A_M_MAJOR ? 128 : 2)", "(A_M_MAJOR ? 128 : 4)"), "y of a product"),
        (bug("linear", "linear_wgmma.cuh", "sum[i] += values.get(i)", "sum[i] = values.get(i)"), "dbias of a product"),
    ] {
        plant(&planted, &kernels);
        let library = build(Flavour::Plain, &kernels, Some("conformance linear memory"), &folder.join("plain"));
        let plugged_in =
            Emulator { schedule: Schedule::EARLY.on(2), ..Emulator::of(&library, HOPPER) }.plug_in().unwrap();
        let wrong = examine(plugged_in.gpu()).unwrap().expect("something is wrong");
        assert!(wrong.contains(output) && wrong.contains("is not that of mma"), "{wrong}");
    }
}

#[test]
fn a_family_can_be_asked_for() {
    let check = ["check", "--device", "emulated", "--smallest", "--only", "linear"];
    let with = |more: &[&'static str]| [&check[..], more].concat();
    let ampere = ("PERENNIAL_EMULATED_GPUS", "capability=8.6");
    for (arguments, variables) in [
        (with(&["--kernels", "mma"]), &[][..]),
        (with(&[]), &[("PERENNIAL_KERNELS", "mma")]),
        (with(&["--kernels", "mma"]), &[ampere]),
    ] {
        let (success, text) = perennial(&arguments, variables);
        assert!(success && text.contains("all agree"), "{text}");
    }
    for (arguments, variables, expected) in [
        (with(&["--kernels", "wgma"]), &[][..], "wgmma"),
        (with(&[]), &[("PERENNIAL_KERNELS", "tensor")], "PERENNIAL_KERNELS"),
        (with(&["--kernels", "wgmma"]), &[ampere], "compute capability 9.0 alone"),
        (vec!["bench", "kernels", "--kernels", "mma"], &[], "--kernels is for GPUs"),
    ] {
        let (success, text) = perennial(&arguments, variables);
        assert!(!success && text.contains(expected), "{arguments:?} {variables:?}: {text}");
    }
}

#[test]
fn a_gpu_is_tested_once_for_each_program() {
    let caches = tempfile::tempdir().unwrap();
    let file = caches.path().join("perennial/self-test");
    let cache = ("XDG_CACHE_HOME", caches.path().to_str().unwrap());
    let bench = ["bench", "kernels", "--device", "emulated", "--kernels"];
    // Where a family is asked for nothing is tested; a bench of kernels on the emulator would take long, so it is refused after.
    let (success, _) =
        perennial(&[&bench[..], &["mma", "--model", "none"]].concat(), &[cache, ("PERENNIAL_SELF_TEST", "1")]);
    assert!(!success && !file.exists());
    let step = [&bench[..4], &["--model", "none"]].concat();
    for _ in 0..2 {
        perennial(&step, &[cache, ("PERENNIAL_SELF_TEST", "1")]);
        let known = fs::read_to_string(&file).unwrap();
        assert_eq!(known.lines().count(), 1, "{known}");
        assert!(known.contains("emulated GPU 9.0"), "{known}");
    }
}
