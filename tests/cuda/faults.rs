//! What goes wrong on a device is one clear error, and no run directory is harmed.

use std::path::Path;

use perennial::error::{Error, Fault};
use perennial::experiment::{self, Access, Config, Evaluation, Iteration, Observer, Setup};
use perennial::ops::attention::{Attention, AttentionShape};
use perennial::ops::cuda::emulated::{Emulator, Faults, Flavour, Schedule};
use perennial::ops::{DeviceMemory, Plan, Run};

use crate::runs::assert_same_result;
use crate::{AMPERE, Device, HOPPER, emulator};

const TINY_RUN: &str = "tests/fixtures/tiny-run.toml";

struct Quiet;

impl Observer for Quiet {
    fn started(&mut self, _: &Setup, _: &Plan, _: Option<&str>) {}
    fn iteration(&mut self, _: &Setup, _: Iteration) {}
    fn evaluated(&mut self, _: &Setup, _: &Evaluation) {}
    fn note(&mut self, _: &str) {}
}

fn run(emulator: &Emulator, out: &Path) -> Result<Evaluation, Error> {
    let mut config = Config::find(TINY_RUN).unwrap();
    config.set("train.epochs=1").unwrap();
    let plugged_in = emulator.plug_in()?;
    experiment::run::<Device>(&plugged_in.gpu(), &config, out, Access::default(), &mut Quiet)
}

#[test]
fn a_barrier_that_never_comes_is_named() {
    let mut plan = Plan::new::<Device>();
    let x = plan.stats(1000);
    for (capability, named) in [(HOPPER, true), (AMPERE, false)] {
        let faults = Faults { lost_barrier_at_launch: Some(0), ..Faults::default() };
        let emulator = Emulator { faults, capability, schedule: Schedule::LATE, ..emulator(Flavour::Plain) };
        let plugged_in = emulator.plug_in().unwrap();
        let mut device = Device::with_plan(&plugged_in.gpu(), &plan).unwrap();
        device.fill(x, 1.0);
        device.read_vec(x);
        let error = device.health().unwrap_err().to_string();
        assert!(error.contains("a kernel made a mistake"), "{error}");
        assert_eq!(error.contains("waited ten seconds in vain for its barrier 'full'"), named, "{error}");
    }
}

#[test]
fn a_lost_device_leaves_a_run_that_goes_on_as_if_nothing_had_happened() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, lost) = (folder.path().join("whole"), folder.path().join("lost"));
    let healthy = Emulator { schedule: Schedule::EARLY.on(2), ..emulator(Flavour::Plain) };
    run(&healthy, &whole).unwrap();
    for launch in [700, 900] {
        let faults = Faults { lost_at_launch: Some(launch), ..Faults::default() };
        let error = run(&Emulator { faults, ..healthy.clone() }, &lost).unwrap_err();
        assert_eq!(error.fault(), Fault::Run);
        assert!(error.to_string().contains("the GPU was lost"), "{error}");
    }
    run(&healthy, &lost).unwrap();
    assert_same_result("a run on a device that was lost twice", &whole, &lost);
}

#[test]
fn a_run_that_does_not_fit_says_which_batch_would() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults { memory: Some(364 << 20), ..Faults::default() };
    let mut config = Config::find(TINY_RUN).unwrap();
    config.set("train.batch=480").unwrap();
    let emulator = Emulator { faults: faults.clone(), ..emulator(Flavour::Plain) };
    let plugged_in = emulator.plug_in().unwrap();
    let out = folder.path().join("run");
    let error = experiment::run::<Device>(&plugged_in.gpu(), &config, &out, Access::default(), &mut Quiet).unwrap_err();
    assert_eq!(error.fault(), Fault::Input);
    let message = error.to_string();
    assert!(message.contains("MiB of GPU memory") && message.contains("would fit"), "{message}");
    assert!(!out.exists(), "nothing was begun");
    let batch = message.split("train.batch ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    config.set(&format!("train.batch={batch}")).unwrap();
    let mut plan_fits = false;
    struct Started<'a>(&'a mut bool);
    impl Observer for Started<'_> {
        fn started(&mut self, _: &Setup, _: &Plan, _: Option<&str>) {
            *self.0 = true;
        }
        fn iteration(&mut self, _: &Setup, _: Iteration) {}
        fn evaluated(&mut self, _: &Setup, _: &Evaluation) {}
        fn note(&mut self, _: &str) {}
    }
    // The device is lost at once: that it was planned and begun is what counts.
    let faults = Faults { lost_at_launch: Some(0), ..faults };
    let plugged_in = Emulator { faults, ..emulator }.plug_in().unwrap();
    experiment::run::<Device>(&plugged_in.gpu(), &config, &out, Access::default(), &mut Started(&mut plan_fits))
        .unwrap_err();
    assert!(plan_fits, "train.batch {batch} does not fit though the error said so");
}

#[test]
fn a_shape_that_no_kernel_supports_names_those_that_are() {
    let mut plan = Plan::new::<Device>();
    let shape = AttentionShape { samples: 1, tokens: 4, heads: 1, head_dim: 24, causal: false };
    let (qkv, out, log_sum_exp) = (plan.tensor(4 * 3 * 24), plan.tensor(4 * 24), plan.stats(4));
    let plugged_in = emulator(Flavour::Plain).plug_in().unwrap();
    let mut device = Device::with_plan(&plugged_in.gpu(), &plan).unwrap();
    device.run(Attention { shape, qkv, out, log_sum_exp });
    let message = device.health().unwrap_err().to_string();
    assert!(message.contains("16, 32, 48") && message.contains("not 24"), "{message}");
    // Nothing more is launched, and what is read is what was there.
    device.fill(log_sum_exp, 1.0);
    assert_eq!(device.read_vec(log_sum_exp), [0.0; 4]);
}
