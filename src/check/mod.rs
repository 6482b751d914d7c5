//! Every op of a device against the CPU reference in f64, on fresh random operands.
//!
//! An op's file lists its cases: shapes, operands, and how far each output may lie from the reference, derived from how it
//! is computed. [`ops`] runs them all. Operands in storage precision hold values that bf16 represents, so both sides start
//! from the same numbers; outputs start as NaN, so that an element left unwritten shows; each case runs twice on the device
//! and must give the same bits.

mod adamw;
mod arena;
mod attention;
pub mod conformance;
mod contrastive;
mod cross_entropy;
mod distillation;
mod group_dro;
mod l2_normalize;
mod layer_norm;
mod linear;
mod memory;
mod patch_embed;
mod pool;
mod position_embed;
mod relu;
mod similarity;
pub mod step;
mod supcon;
mod token_embed;

use std::time::Instant;

use half::bf16;

use crate::ops::cpu::Cpu;
use crate::ops::{Backend, Bytes, Ids, Memory, Plan, Stats, Tensor};
use crate::rng::{Rng, normal, rng};

/// How large the cases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// One or two tiles: for sanitizers and race checkers.
    Smallest,
    /// Odd shapes and small models': seconds on an emulator.
    Small,
    /// Models' own shapes: seconds on a GPU.
    Full,
}

/// An op at a shape.
pub trait Case {
    /// The op's name.
    const OP: &'static str;
    /// The spans that a run of it reads and writes.
    type Spans;

    /// The shape in words, for tables.
    fn shape(&self) -> String;

    /// Plans the operands; the same list with the same values each time, on any device.
    fn plan(&self, operands: &mut Operands) -> Self::Spans;

    fn run<D: Backend>(&self, device: &mut D, spans: &Self::Spans);
}

/// How far a value may lie from the expected one:
/// |found - expected| <= relative |expected| + of_largest max(at_least, max |expected|).
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub relative: f64,
    /// Of the largest magnitude in the expected output: what sums that cancel may leave.
    pub of_largest: f64,
    /// The size of such sums' terms, which counts where an output is so short that all of it may cancel.
    pub at_least: f64,
}

impl Tolerance {
    /// The same bits, but for -0.
    pub const EXACT: Tolerance = Tolerance { relative: 0.0, of_largest: 0.0, at_least: 0.0 };

    /// One rounding to bf16, at most 2^-8 of the value (its last place is 2^-7 of the power of two below), with a hair for
    /// ties; plus what is lost before it.
    pub const fn bf16(of_largest: f64) -> Tolerance {
        Tolerance { relative: 1.001 / 256.0, of_largest, at_least: 0.0 }
    }

    /// Sums of about `terms` f32 values of size 1 in any order.
    pub fn f32(terms: usize) -> Tolerance {
        let unit = 1.0 / (1u64 << 24) as f64;
        Tolerance { relative: 8.0 * unit, of_largest: unit * (4.0 + terms as f64), at_least: 1.0 }
    }

    fn bound(self, expected: f64, largest: f64) -> f64 {
        self.relative * expected.abs() + self.of_largest * largest.max(self.at_least)
    }
}

#[derive(Clone, Copy)]
enum Place {
    Tensor(Tensor),
    Stats(Stats),
    Ids(Ids),
    Bytes(Bytes),
}

enum Values {
    Floats(Vec<f32>),
    Ids(Vec<u32>),
    Bytes(Vec<u8>),
}

/// Where an operand lies, what it starts with, and how it is judged if the op writes it.
struct Operand {
    place: Place,
    initial: Values,
    judged: Option<(&'static str, Tolerance)>,
}

/// An operand that an op wrote.
struct Output {
    name: &'static str,
    tolerance: Tolerance,
    values: Vec<f32>,
}

/// A case's operands as they are planned: where each lies, what it starts with, and how its result is judged.
pub struct Operands {
    plan: Plan,
    generator: Rng,
    list: Vec<Operand>,
}

impl Operands {
    fn new<D: Memory>(seed: u64, op: &str, shape: &str) -> Operands {
        Operands { plan: Plan::new::<D>(), generator: rng(seed, &format!("{op} {shape}"), &[]), list: Vec::new() }
    }

    /// For values that a case draws itself; the same on every device.
    pub fn generator(&mut self) -> &mut Rng {
        &mut self.generator
    }

    /// `len` normal numbers of this standard deviation.
    pub fn normal(&mut self, len: usize, deviation: f64) -> Vec<f32> {
        (0..len).map(|_| (deviation * normal(&mut self.generator)) as f32).collect()
    }

    /// An input of normal numbers.
    pub fn input(&mut self, len: usize, deviation: f64) -> Tensor {
        let values = self.normal(len, deviation);
        self.input_of(values)
    }

    /// An input of these values, rounded to bf16.
    pub fn input_of(&mut self, values: Vec<f32>) -> Tensor {
        self.tensor(values, None)
    }

    pub fn stats(&mut self, len: usize, deviation: f64) -> Stats {
        let values = self.normal(len, deviation);
        self.stats_of(values)
    }

    pub fn stats_of(&mut self, values: Vec<f32>) -> Stats {
        self.wide(values, None)
    }

    pub fn ids(&mut self, values: Vec<u32>) -> Ids {
        let span = self.plan.ids(values.len());
        self.list.push(Operand { place: Place::Ids(span), initial: Values::Ids(values), judged: None });
        span
    }

    pub fn bytes(&mut self, values: Vec<u8>) -> Bytes {
        let span = self.plan.pixels(values.len());
        self.list.push(Operand { place: Place::Bytes(span), initial: Values::Bytes(values), judged: None });
        span
    }

    /// An output, NaN before the op.
    pub fn output(&mut self, name: &'static str, len: usize, tolerance: Tolerance) -> Tensor {
        self.tensor(vec![f32::NAN; len], Some((name, tolerance)))
    }

    pub fn output_stats(&mut self, name: &'static str, len: usize, tolerance: Tolerance) -> Stats {
        self.wide(vec![f32::NAN; len], Some((name, tolerance)))
    }

    /// What an op reads and writes, rounded to bf16.
    pub fn updated(&mut self, name: &'static str, values: Vec<f32>, tolerance: Tolerance) -> Tensor {
        self.tensor(values, Some((name, tolerance)))
    }

    pub fn updated_stats(&mut self, name: &'static str, values: Vec<f32>, tolerance: Tolerance) -> Stats {
        self.wide(values, Some((name, tolerance)))
    }

    /// Storage that one op writes and another reads; it is not judged, and NaN at the start.
    pub fn between(&mut self, len: usize) -> Tensor {
        self.tensor(vec![f32::NAN; len], None)
    }

    pub fn between_stats(&mut self, len: usize) -> Stats {
        self.wide(vec![f32::NAN; len], None)
    }

    /// The storage copy of `master`, which holds `values`; judged as bf16.
    pub fn weights(&mut self, name: &'static str, master: Stats, values: &[f32]) -> Tensor {
        let span = self.plan.weights(master);
        // Where storage is the master itself, its values are there already.
        let own = self.plan.elements()[0] > 0;
        let values = if own { rounded(values) } else { Vec::new() };
        self.list.push(Operand {
            place: Place::Tensor(span),
            initial: Values::Floats(values),
            judged: Some((name, Tolerance::bf16(0.0))),
        });
        span
    }

    fn tensor(&mut self, values: Vec<f32>, judged: Option<(&'static str, Tolerance)>) -> Tensor {
        let span = self.plan.tensor(values.len());
        self.list.push(Operand { place: Place::Tensor(span), initial: Values::Floats(rounded(&values)), judged });
        span
    }

    fn wide(&mut self, values: Vec<f32>, judged: Option<(&'static str, Tolerance)>) -> Stats {
        let span = self.plan.stats(values.len());
        self.list.push(Operand { place: Place::Stats(span), initial: Values::Floats(values), judged });
        span
    }

    fn send<D: Memory>(&self, device: &mut D) {
        for Operand { place, initial, .. } in &self.list {
            match (*place, initial) {
                (Place::Tensor(span), Values::Floats(values)) => device.write(span, values),
                (Place::Stats(span), Values::Floats(values)) => device.write(span, values),
                (Place::Ids(span), Values::Ids(values)) => device.write(span, values),
                (Place::Bytes(span), Values::Bytes(values)) => device.write(span, values),
                _ => unreachable!("an operand's values have its kind"),
            }
        }
    }

    /// What an op on `device` wrote.
    fn outputs<D: Memory>(&self, device: &D) -> Vec<Output> {
        let judged = self.list.iter().filter_map(|operand| operand.judged.map(|judged| (operand.place, judged)));
        judged
            .map(|(place, (name, tolerance))| {
                let values = match place {
                    Place::Tensor(span) => device.read_vec(span),
                    Place::Stats(span) => device.read_vec(span),
                    Place::Ids(_) | Place::Bytes(_) => unreachable!("floats alone are judged"),
                };
                Output { name, tolerance, values }
            })
            .collect()
    }

    /// What the reference wrote, in f64.
    fn expected(&self, reference: &Cpu<f64>) -> Vec<Vec<f64>> {
        let judged = self.list.iter().filter(|operand| operand.judged.is_some());
        judged
            .map(|operand| match operand.place {
                Place::Tensor(span) => reference.slice(span).to_vec(),
                Place::Stats(span) => reference.slice(span).to_vec(),
                Place::Ids(_) | Place::Bytes(_) => unreachable!("floats alone are judged"),
            })
            .collect()
    }
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
}

/// What became of one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub op: &'static str,
    pub shape: String,
    /// The largest error as a share of what is allowed.
    pub worst: f64,
    pub seconds: f64,
    /// What is wrong, if anything.
    pub failure: Option<String>,
}

impl Outcome {
    /// What a check that began at `start` came to: the largest share of what is allowed, or what is wrong.
    fn of(op: &'static str, shape: String, start: Instant, result: Result<f64, String>) -> Outcome {
        let (worst, failure) = match result {
            Ok(worst) => (worst, None),
            Err(failure) => (f64::NAN, Some(failure)),
        };
        Outcome { op, shape, worst, seconds: start.elapsed().as_secs_f64(), failure }
    }
}

/// Runs cases on a device at `place`.
pub struct Checker<'a, D: Backend> {
    pub place: D::Place,
    pub size: Size,
    pub seed: u64,
    /// Only ops of this name.
    pub only: Option<String>,
    pub observer: &'a mut dyn FnMut(&Outcome),
}

impl<D: Backend> Checker<'_, D> {
    /// Runs a case twice on the device and once on the reference.
    pub fn case<C: Case>(&mut self, case: &C) {
        if self.only.as_ref().is_some_and(|only| only != C::OP) {
            return;
        }
        let (start, shape) = (Instant::now(), case.shape());
        let result = self.compare(case, &shape);
        (self.observer)(&Outcome::of(C::OP, shape, start, result));
    }

    fn compare<C: Case>(&self, case: &C, shape: &str) -> Result<f64, String> {
        let mut operands = Operands::new::<Cpu<f64>>(self.seed, C::OP, shape);
        let spans = case.plan(&mut operands);
        let mut reference = Cpu::<f64>::allocate(&operands.plan);
        operands.send(&mut reference);
        case.run(&mut reference, &spans);
        let expected = operands.expected(&reference);

        let first = self.run(case, shape)?;
        let mut worst = 0.0;
        for (Output { name, tolerance, values }, expected) in first.iter().zip(expected) {
            let share = judge(values, &expected, *tolerance).map_err(|failure| format!("{name}{failure}"))?;
            worst = f64::max(worst, share);
        }
        let second = self.run(case, shape)?;
        for (Output { name, values: first, .. }, Output { values: second, .. }) in first.iter().zip(&second) {
            if let Some(i) = first.iter().zip(second).position(|(a, b)| a.to_bits() != b.to_bits()) {
                return Err(format!("{name}[{i}] is {} and then {}: two runs differ", first[i], second[i]));
            }
        }
        Ok(worst)
    }

    fn run<C: Case>(&self, case: &C, shape: &str) -> Result<Vec<Output>, String> {
        let mut operands = Operands::new::<D>(self.seed, C::OP, shape);
        let spans = case.plan(&mut operands);
        let mut device = D::with_plan(&self.place, &operands.plan).map_err(|error| error.to_string())?;
        operands.send(&mut device);
        case.run(&mut device, &spans);
        let outputs = operands.outputs(&device);
        device.health().map_err(|error| error.to_string())?;
        Ok(outputs)
    }
}

/// The largest error as a share of what is allowed, or the first value that lies beyond.
fn judge(found: &[f32], expected: &[f64], tolerance: Tolerance) -> Result<f64, String> {
    let finite = expected.iter().filter(|value| value.is_finite());
    let largest = finite.fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let mut worst = 0.0f64;
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = *found as f64;
        if found == *expected || (found.is_nan() && expected.is_nan()) {
            continue;
        }
        let (error, bound) = ((found - expected).abs(), tolerance.bound(*expected, largest));
        if error.is_nan() || error > bound {
            return Err(format!("[{i}] is {found}, the reference has {expected} and allows {bound:.2e}"));
        }
        worst = worst.max(error / bound);
    }
    Ok(worst)
}

/// What can be checked alone: single instructions, each op, whole steps.
pub const NAMES: [&str; 20] = [
    conformance::OP,
    "adamw",
    "arena",
    "attention",
    "contrastive",
    "cross_entropy",
    "distillation",
    "group_dro",
    "l2_normalize",
    "layer_norm",
    "linear",
    "memory",
    "patch_embed",
    "pool",
    "position_embed",
    "relu",
    "similarity",
    "supcon",
    "token_embed",
    step::OP,
];

/// All ops.
pub fn ops<D: Backend>(checker: &mut Checker<D>) {
    adamw::check(checker);
    arena::check(checker);
    attention::check(checker);
    contrastive::check(checker);
    cross_entropy::check(checker);
    distillation::check(checker);
    group_dro::check(checker);
    l2_normalize::check(checker);
    layer_norm::check(checker);
    linear::check(checker);
    memory::check(checker);
    patch_embed::check(checker);
    pool::check(checker);
    position_embed::check(checker);
    relu::check(checker);
    similarity::check(checker);
    supcon::check(checker);
    token_embed::check(checker);
}
