//! The activations and their derivatives as the kernels compute them, at every bf16, against f64.

use half::bf16;
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};
use perennial::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearShape, WeightLayout,
};
use perennial::ops::{DeviceMemory, Plan, Run};

use crate::bugs::{bug, plant};
use crate::{AMPERE, Device, HOPPER, build, emulator, root};

/// Rows and columns of a matrix that has every bf16.
const SIDE: usize = 256;

/// What a result may be off beside its rounding, as a share of itself.
const RELATIVE: f64 = 4e-5;

/// In order of their bits.
fn all() -> Vec<f32> {
    (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f32()).collect()
}

/// The smallest normal number.
fn smallest() -> f64 {
    (-126f64).exp2()
}

/// The activation of x and its derivative, in the formulas of the CPU backend.
fn exact(kind: Activation, x: f64) -> (f64, f64) {
    match kind {
        Activation::Gelu => {
            let cdf = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            (x * cdf, cdf + x * (-0.5 * x * x).exp() * 0.398_942_280_401_432_7)
        }
        Activation::QuickGelu => {
            let gate = 1.0 / (1.0 + (-1.702 * x).exp());
            (x * gate, gate * (1.0 + 1.702 * x * (1.0 - gate)))
        }
    }
}

/// The activation of every bf16, and its derivative, in the epilogues of products that are exact.
fn computed(device: &Emulator, kind: Activation, layout: WeightLayout) -> [Vec<f32>; 2] {
    let plugged_in = device.plug_in().unwrap();
    let mut plan = Plan::new::<Device>();
    let [x, pre, y, identity, dx] = [(); 5].map(|()| plan.tensor(SIDE * SIDE));
    let [narrow, narrow_y, narrow_pre, first, one] = [(); 5].map(|()| plan.tensor(SIDE * 8));
    let narrow_identity = plan.tensor(8 * 8);
    let mut device = Device::with_plan(&plugged_in.gpu(), &plan).unwrap();

    // Times the identity; what is not finite for itself, as it would make the sums of its whole row NaN.
    let values = all();
    let finite: Vec<f32> = values.iter().map(|value| if value.is_finite() { *value } else { 0.0 }).collect();
    let others: Vec<usize> = (0..values.len()).filter(|i| !values[*i].is_finite()).collect();
    assert_eq!(others.len(), SIDE);
    let unit =
        |side: usize| -> Vec<f32> { (0..side * side).map(|i| f32::from(u8::from(i / side == i % side))).collect() };
    let in_column =
        |values: &[f32]| -> Vec<f32> { values.iter().flat_map(|value| [*value, 0., 0., 0., 0., 0., 0., 0.]).collect() };
    device.write(x, &finite);
    device.write(identity, &unit(SIDE));
    device.write(narrow, &in_column(&others.iter().map(|i| values[*i]).collect::<Vec<_>>()));
    device.write(narrow_identity, &unit(8));
    let shape = LinearShape { rows: SIDE, inputs: SIDE, outputs: SIDE, layout };
    let epilogue = Epilogue::Activation { kind, pre };
    device.run(Linear { shape, x, weight: identity, bias: None, epilogue, y });
    let shape = LinearShape { rows: SIDE, inputs: 8, outputs: 8, layout };
    let epilogue = Epilogue::Activation { kind, pre: narrow_pre };
    device.run(Linear { shape, x: narrow, weight: narrow_identity, bias: None, epilogue, y: narrow_y });
    let mut activated = device.read_vec(y);
    let kept = device.read_vec(pre);
    assert!(kept.iter().zip(&finite).all(|(kept, value)| kept == value), "the product by the identity is exact");
    for (row, i) in others.iter().enumerate() {
        activated[*i] = device.read_vec(narrow_y)[8 * row];
    }

    // Ones times the derivative.
    let weight: Vec<f32> = match layout {
        WeightLayout::OutIn => (0..8 * SIDE).map(|i| f32::from(u8::from(i < SIDE))).collect(),
        WeightLayout::InOut => in_column(&[1.0; SIDE]),
    };
    device.write(pre, &values);
    device.write(one, &in_column(&[1.0; SIDE]));
    device.write(first, &weight);
    let shape = LinearShape { rows: SIDE, inputs: SIDE, outputs: 8, layout };
    let epilogue = BackwardEpilogue::Activation { kind, pre };
    device.run(LinearBackwardData { shape, dy: one, weight: first, epilogue, dx });
    let derivatives = device.read_vec(dx);
    device.health().unwrap();
    [activated, derivatives]
}

/// How far `found` is from `exact` beyond its rounding, as a share of it; 0 where both are below the normal numbers. None if
/// one alone is NaN or infinite.
fn excess(found: f32, exact: f64) -> Option<f64> {
    let found = f64::from(found);
    if !exact.is_finite() || !found.is_finite() {
        let same = found == exact || found.is_nan() && exact.is_nan();
        return same.then_some(0.0);
    }
    let off = (found - exact).abs();
    if exact.abs() < smallest() {
        return Some(if off <= smallest() { 0.0 } else { f64::INFINITY });
    }
    let half_unit = (exact.abs().log2().floor() - 8.0).exp2();
    Some((off - half_unit).max(0.0) / exact.abs())
}

/// What is wrong at any bf16, and the largest excess there is.
fn held(device: &Emulator, kind: Activation, layout: WeightLayout) -> (Vec<String>, [f64; 2]) {
    let (mut wrong, mut largest) = (Vec::new(), [0.0f64; 2]);
    let found = computed(device, kind, layout);
    for (i, x) in all().into_iter().enumerate() {
        let (value, derivative) = exact(kind, f64::from(x));
        for (which, (found, exact)) in [(found[0][i], value), (found[1][i], derivative)].into_iter().enumerate() {
            // Beside its zero the derivative of quick_gelu is what its sum of terms near 1 leaves.
            let cancels = kind == Activation::QuickGelu && which == 1 && (-1.0..-0.5).contains(&x);
            let bound = RELATIVE + if cancels { (-23f64).exp2() / exact.abs() } else { 0.0 };
            let excess = excess(found, exact).unwrap_or(f64::INFINITY);
            largest[which] = largest[which].max(if cancels { 0.0 } else { excess });
            if excess > bound {
                wrong.push(format!("{kind:?}{} of {x:e}: {found:e}, not {exact:e}", ["", "'"][which]));
            }
        }
    }
    (wrong, largest)
}

#[test]
fn every_bf16_is_right_to_its_rounding() {
    for capability in [AMPERE, HOPPER] {
        let device = Emulator { capability, schedule: Schedule::EARLY.on(2), ..emulator(Flavour::Plain) };
        // After a weight [in, out] the kernels are those that are told their epilogue at the launch.
        for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
            for kind in [Activation::Gelu, Activation::QuickGelu] {
                let (wrong, [value, derivative]) = held(&device, kind, layout);
                println!("{capability:?}, {layout:?}, {kind:?}: {value:.1e}, {derivative:.1e} beside the rounding");
                let first = &wrong[..wrong.len().min(8)];
                assert!(wrong.is_empty(), "{capability:?}, {layout:?}: {}, such as\n{}", wrong.len(), first.join("\n"));
            }
        }
    }
}

/// A coefficient that is off by less than the ops' checks see.
#[test]
fn a_wrong_digit_is_found() {
    let folder = root().join("target/emulator/activations");
    let kernels = folder.join("kernels");
    for (digits, instead) in [("0.0086739352f", "0.0086749352f"), ("0.0139123341f", "0.0139133341f")] {
        plant(&bug("linear", "linear_epilogue.cuh", digits, instead), &kernels);
        let library = build(Flavour::Plain, &kernels, Some("linear memory"), &folder.join("plain"));
        let device = Emulator { schedule: Schedule::EARLY.on(2), ..Emulator::of(&library, HOPPER) };
        let (wrong, _) = held(&device, Activation::Gelu, WeightLayout::OutIn);
        assert!(wrong.len() > 10, "{instead} for {digits}: {wrong:?}");
    }
}
