use perennial::check::cross_entropy::{self as check, CrossEntropyCase};
use perennial::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy, SoftTargets};
use perennial::ops::{DeviceMemory, Plan, Run, Write};
use proptest::prelude::*;

use super::{Device, assert_all_gradients, assert_close, assert_holds, device, get, put, random};
use crate::fixtures::Fixture;

/// What logits are held against.
#[derive(Clone)]
enum Target {
    Label { label: Vec<u32>, divisor: Option<Vec<f64>> },
    Teacher { logits: Vec<f64>, temperature: f64, balance: Option<Vec<f64>> },
}

/// The loss and its gradient; both add to what `old` holds if it is there.
fn run(
    shape: LogitsShape,
    logits: &[f64],
    target: &Target,
    weight: f64,
    old: Option<(f64, &[f64])>,
) -> (f64, Vec<f64>) {
    let mut plan = Plan::new::<Device>();
    let [z, teacher, dlogits] = [(); 3].map(|()| plan.tensor(shape.rows * shape.stride));
    let (label, w, loss) = (plan.ids(shape.rows), plan.stats(shape.columns), plan.stats(1));
    let mut device = device(&plan);
    put(&mut device, z, logits);
    let write = match old {
        None => Write::Set,
        Some((old_loss, old_gradient)) => {
            put(&mut device, loss, &[old_loss]);
            put(&mut device, dlogits, old_gradient);
            Write::Add
        }
    };
    let mut given = |values: &Option<Vec<f64>>| {
        values.as_ref().map(|values| {
            put(&mut device, w, values);
            w
        })
    };
    match target {
        Target::Label { label: labels, divisor } => {
            let divisor = given(divisor);
            device.write(label, labels);
            device.run(CrossEntropy { shape, logits: z, divisor, label, weight, write, loss, dlogits });
        }
        Target::Teacher { logits, temperature, balance } => {
            let targets = SoftTargets { temperature: *temperature, balance: given(balance) };
            put(&mut device, teacher, logits);
            device.run(SoftCrossEntropy { shape, logits: z, teacher, targets, weight, write, loss, dlogits });
        }
    }
    (get(&device, loss)[0], get(&device, dlogits))
}

/// Every kind of target, for logits of this shape.
fn targets(shape: LogitsShape) -> Vec<Target> {
    let label: Vec<u32> = (0..shape.rows).map(|row| (row * 3 % shape.columns) as u32).collect();
    let w = || Some(random("w", shape.columns).iter().map(|w| 0.5 + w.abs()).collect());
    let logits: Vec<f64> = random("teacher", shape.rows * shape.stride).iter().map(|z| 2.0 * z).collect();
    vec![
        Target::Label { label: label.clone(), divisor: None },
        Target::Label { label, divisor: w() },
        Target::Teacher { logits: logits.clone(), temperature: 1.0, balance: None },
        Target::Teacher { logits: logits.clone(), temperature: 2.0, balance: None },
        Target::Teacher { logits, temperature: 2.0, balance: w() },
    ]
}

/// Rows for more than one piece of work, columns of several vectors, and none at all to spare.
const SHAPES: [LogitsShape; 3] = [
    LogitsShape { rows: 37, columns: 7, stride: 10 },
    LogitsShape { rows: 3, columns: 70, stride: 70 },
    LogitsShape { rows: 2, columns: 1, stride: 3 },
];

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<CrossEntropyCase>();
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (1usize..40, 2usize..30, 0usize..9, any::<[bool; 3]>());
    assert_holds(shapes, true, |(rows, columns, spare, [by_label, balanced, add])| CrossEntropyCase {
        shape: LogitsShape { rows, columns, stride: columns + spare },
        target: match by_label {
            true => check::Target::Label { divided: balanced },
            false => check::Target::Teacher { temperature: 1.5, balanced },
        },
        write: if add { Write::Add } else { Write::Set },
    });
}

#[test]
fn losses_and_gradients_equal_pytorch() {
    let fixture = Fixture::open("losses");
    let get = |name: &str| fixture.f64(name);
    let ([rows, stride], columns) = (fixture.shape("logits")[..].try_into().unwrap(), fixture.shape("w")[0]);
    let [weight, temperature] = get("settings")[..] else { panic!("settings") };
    let label = fixture.u32("label");
    let teacher = |balance| Target::Teacher { logits: get("teacher"), temperature, balance };
    for (case, target) in [
        ("plain", Target::Label { label: label.clone(), divisor: None }),
        ("divided", Target::Label { label, divisor: Some(get("w")) }),
        ("distilled", teacher(None)),
        ("balanced", teacher(Some(get("w")))),
    ] {
        let (loss, gradient) = run(LogitsShape { rows, columns, stride }, &get("logits"), &target, weight, None);
        assert_close(case, &[loss], &get(&format!("{case}/loss")), 1e-14);
        assert_close(case, &gradient, &get(&format!("{case}/gradient")), 1e-14);
    }
}

#[test]
fn add_adds_to_what_was_there() {
    for shape in SHAPES {
        let values = shape.rows * shape.stride;
        let (logits, old) = (random("logits", values), random("old", values));
        for target in targets(shape) {
            let (loss, gradient) = run(shape, &logits, &target, 0.4, None);
            let (added_loss, added) = run(shape, &logits, &target, 0.4, Some((5.0, &old)));
            assert_close("loss", &[added_loss], &[5.0 + loss], 1e-15);
            let expected: Vec<f64> = gradient.iter().zip(&old).map(|(new, old)| new + old).collect();
            assert_close("dlogits", &added, &expected, 1e-15);
        }
    }
}

#[test]
fn columns_that_take_no_part_change_nothing() {
    for shape in SHAPES {
        let mut logits = random("logits", shape.rows * shape.stride);
        for mut target in targets(shape) {
            let (loss, gradient) = run(shape, &logits, &target, 1.0, None);
            // device() starts with NaN: a Set that leaves a column out is seen.
            assert!(gradient.chunks(shape.stride).all(|row| row[shape.columns..].iter().all(|d| *d == 0.0)));
            let spoil = |values: &mut [f64]| {
                values.chunks_mut(shape.stride).for_each(|row| row[shape.columns..].fill(f64::NAN));
            };
            spoil(&mut logits);
            if let Target::Teacher { logits, .. } = &mut target {
                spoil(logits);
            }
            assert_eq!(run(shape, &logits, &target, 1.0, None), (loss, gradient));
        }
    }
}

#[test]
fn huge_logits_stay_finite() {
    let shape = LogitsShape { rows: 2, columns: 3, stride: 3 };
    let logits = [1e4, -1e4, 0.0, -1e4, 1e4, 1e4];
    let label = Target::Label { label: vec![0, 0], divisor: None };
    let (loss, gradient) = run(shape, &logits, &label, 1.0, None);
    assert_close("loss", &[loss], &[0.5 * (2e4 + 2f64.ln())], 1e-15);
    assert_close("dlogits", &gradient, &[0.0, 0.0, 0.0, -0.5, 0.25, 0.25], 1e-15);
    let teacher = Target::Teacher { logits: logits.to_vec(), temperature: 2.0, balance: None };
    let (loss, gradient) = run(shape, &logits, &teacher, 1.0, None);
    assert_close("loss", &[loss], &[0.5 * 2f64.ln()], 1e-12);
    assert_eq!(gradient, [0.0; 6]);
}
