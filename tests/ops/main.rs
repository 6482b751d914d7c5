//! Every op's backward pass against central finite differences in f64, on sizes that no kernel would choose.

#[path = "../common/fixtures.rs"]
mod fixtures;

mod adamw;
mod arena;
mod attention;
mod contrastive;
mod cross_entropy;
mod distillation;
mod group_dro;
mod l2_normalize;
mod layer_norm;
mod linear;
mod patch_embed;
mod pool;
mod position_embed;
mod relu;
mod similarity;
mod supcon;
mod threads;
mod token_embed;

use std::fmt::Debug;

use perennial::check::{Case, Checker, Operand, Operands, Ops, Outcome, Place, Purpose, Size};
use perennial::ops::cpu::{Cpu, Float};
use perennial::ops::{Plan, Span};
use perennial::rng::{Rng, normal, rng};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// The device under test.
pub type Device = Cpu<f64>;

/// `count` normal numbers that depend on `name` alone.
pub fn random(name: &str, count: usize) -> Vec<f64> {
    let mut generator = rng(1, name, &[]);
    (0..count).map(|_| normal(&mut generator)).collect()
}

pub fn generator(name: &str) -> Rng {
    rng(2, name, &[])
}

/// A device whose outputs start out as NaN, so that an element left unwritten shows.
pub fn device(plan: &Plan) -> Device {
    let mut device = Device::allocate(plan);
    let [storage, wide, _, _] = plan.elements();
    device.slice_mut(Span::<perennial::ops::device_memory::Wide>::new(0, storage + wide)).fill(f64::NAN);
    device
}

pub fn put<K: Float>(device: &mut Device, span: Span<K>, values: &[f64]) {
    device.slice_mut(span).copy_from_slice(values);
}

pub fn get<K: Float>(device: &Device, span: Span<K>) -> Vec<f64> {
    device.slice(span).to_vec()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Fails unless |a - b| <= tolerance |b| for the whole vector.
pub fn assert_close(what: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    let difference = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    let norm = dot(b, b).sqrt();
    // NaN fails.
    assert!(difference <= tolerance * norm, "{what}: relative error {:e}", difference / norm);
}

/// Central differences of `loss` at `values`. A step of 1e-5 leaves a truncation error of about 1e-10 and a rounding error of
/// about 1e-11 on values near 1, well inside the bound of 1e-6 that gradients are held to.
fn differences(values: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let mut moved = values.to_vec();
    let difference = |i: usize| {
        moved[i] = values[i] + step;
        let above = loss(&moved);
        moved[i] = values[i] - step;
        let below = loss(&moved);
        moved[i] = values[i];
        (above - below) / (2.0 * step)
    };
    (0..values.len()).map(difference).collect()
}

/// Holds each gradient of `loss` against central differences.
pub fn check_gradients(inputs: &[Vec<f64>], gradients: &[Vec<f64>], loss: impl Fn(&[Vec<f64>]) -> f64) {
    assert_eq!(inputs.len(), gradients.len());
    for (i, gradient) in gradients.iter().enumerate() {
        let at = |values: &[f64]| {
            let mut moved = inputs.to_vec();
            moved[i].copy_from_slice(values);
            loss(&moved)
        };
        assert_close(&format!("gradient of input {i}"), gradient, &differences(&inputs[i], at), 1e-6);
    }
}

/// A case's ops on their operands.
struct Runs<'a> {
    operands: Operands,
    ops: Ops<'a, Device>,
}

impl<'a> Runs<'a> {
    fn new<C: Case>(case: &'a C) -> Self {
        let mut operands = Operands::new::<Device>(Purpose::Gradients, 1, &case.shape());
        let ops = case.ops(&mut operands);
        Runs { operands, ops }
    }

    fn find(&self, name: &str, written: bool) -> Option<&Operand> {
        self.operands.list().iter().find(|operand| operand.name == name && operand.tolerance.is_some() == written)
    }

    fn start(&self) -> Device {
        let mut device = device(self.operands.plan());
        self.operands.send(&mut device);
        device
    }

    fn run(&self, device: &mut Device) {
        self.ops.iter().for_each(|op| op.run(device));
    }

    /// The loss that gradients are of: what the ops call so, and the products of outputs with the gradients that were given.
    fn loss(&self, device: &Device) -> f64 {
        let outputs = self.operands.list().iter().filter(|operand| operand.tolerance.is_some());
        let terms = outputs.map(|output| match self.find(&format!("d{}", output.name), false) {
            Some(given) => dot(output.floats(device), given.floats(device)),
            None if output.name == "loss" => output.floats(device)[0],
            None => 0.0,
        });
        terms.sum()
    }
}

/// Holds every gradient that a case's ops write against central differences of the loss; what was there before is no part of it.
pub fn assert_gradients<C: Case>(case: &C) {
    let runs = Runs::new(case);
    let start = runs.start();
    let mut end = runs.start();
    runs.run(&mut end);
    let inputs = runs.operands.list().iter().filter(|operand| operand.tolerance.is_none());
    let pairs: Vec<_> =
        inputs.filter_map(|input| Some((input, runs.find(&format!("d{}", input.name), true)?))).collect();
    assert!(!pairs.is_empty(), "{} {} has no gradient", C::OP, case.shape());
    for (input, gradient) in pairs {
        let before = gradient.floats(&start);
        let found: Vec<f64> = gradient
            .floats(&end)
            .iter()
            .zip(before)
            .map(|(d, old)| d - if old.is_nan() { 0.0 } else { *old })
            .collect();
        let values = input.floats(&start).to_vec();
        let loss = |values: &[f64]| {
            let mut device = runs.start();
            match input.place {
                Place::Tensor(span) => put(&mut device, span, values),
                Place::Stats(span) => put(&mut device, span, values),
                Place::Ids(_) | Place::Bytes(_) => unreachable!("gradients are by floats"),
            }
            runs.run(&mut device);
            runs.loss(&device)
        };
        let what = format!("{} {}: {}", C::OP, case.shape(), gradient.name);
        assert_close(&what, &found, &differences(&values, loss), 1e-6);
    }
}

/// What a case's operands hold, by their names: inputs as they were, outputs after the ops.
pub fn results<C: Case>(case: &C) -> impl Fn(&str) -> Vec<f64> + use<C> {
    let runs = Runs::new(case);
    let mut device = runs.start();
    runs.run(&mut device);
    let operands = runs.operands;
    move |name| {
        let operand = operands.list().iter().find(|operand| operand.name == name);
        operand.unwrap_or_else(|| panic!("no operand is called {name}")).floats(&device).to_vec()
    }
}

/// Holds the gradients of all tiny cases.
pub fn assert_all_gradients<C: Case>() {
    C::list(Size::Tiny).iter().for_each(assert_gradients);
}

/// Holds cases at shapes that are drawn, in f32 against f64 and to the bit from run to run; and, where `differentiable`, their
/// gradients.
pub fn assert_holds<C: Case, S: Strategy>(shapes: S, differentiable: bool, case: impl Fn(S::Value) -> C)
where
    S::Value: Debug,
{
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let result = runner.run(&shapes, |shape| {
        let case = case(shape);
        let mut failure = None;
        let mut observer = |outcome: &Outcome| failure.clone_from(&outcome.failure);
        Checker::<Cpu<f32>> { place: (), size: Size::Tiny, seed: 1, only: None, observer: &mut observer }.case(&case);
        prop_assert_eq!(failure, None, "{} {}", C::OP, case.shape());
        if differentiable {
            assert_gradients(&case);
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
