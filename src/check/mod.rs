//! Every op of a device against the CPU reference in f64, on fresh random operands.
//!
//! An op's file lists its cases once: shapes, operands, and how far each output may lie from the reference, derived from how it
//! is computed. [`ops`] runs them on a device; tests hold their gradients against finite differences; `perennial bench kernels`
//! times those at a model's shapes. Operands in storage precision hold values that bf16 represents, so both sides start
//! from the same numbers; outputs start as NaN, so that an element left unwritten shows; each case runs twice on the device
//! and must give the same bits.

pub(crate) mod adamw;
pub(crate) mod arena;
pub mod attention;
pub mod conformance;
pub mod contrastive;
#[cfg(feature = "emulator")]
pub mod counters;
pub mod cross_entropy;
pub(crate) mod device_memory;
pub mod distillation;
pub(crate) mod group_dro;
pub mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub(crate) mod patch_embed;
pub mod pool;
pub mod position_embed;
pub(crate) mod relu;
pub mod self_test;
pub mod similarity;
pub mod step;
pub mod supcon;
pub mod token_embed;

use std::convert::Infallible;
use std::time::Instant;

use half::bf16;

use crate::model::spec::ModelSpec;
use crate::ops::cpu::Cpu;
use crate::ops::device_memory::Kind;
use crate::ops::{AnyOp, Backend, Bytes, DeviceMemory, Ids, Plan, Span, Stats, Tensor, Write};
use crate::rng::{Rng, normal, rng};

/// How large the cases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// A few hundred values in several pieces of work: for finite differences.
    Tiny,
    /// One or two tiles: for sanitizers and race checkers.
    Smallest,
    /// Odd shapes and small models': seconds on an emulator.
    Small,
    /// Models' own shapes: seconds on a GPU.
    Full,
}

/// Ops in the order in which they run, on a device of type `D`.
pub type Ops<'a, D> = Vec<Box<dyn AnyOp<D> + 'a>>;

/// A list of ops of any kinds.
macro_rules! in_order {
    ($($op:expr),* $(,)?) => { vec![$(Box::new($op) as Box<dyn $crate::ops::AnyOp<_>>),*] };
}
use in_order;

/// An op, most often with its backward pass, at a shape.
pub trait Case: Sized {
    /// The op's name.
    const OP: &'static str;

    /// All cases of a size.
    fn list(size: Size) -> Vec<Self>;

    /// The cases that a training step of the model at this batch size has, or that a step with other losses would have.
    fn of_model(spec: &ModelSpec, batch: usize) -> Vec<Self> {
        let _ = (spec, batch);
        Vec::new()
    }

    /// The shape in words, for tables.
    fn shape(&self) -> String;

    /// The ops on operands that this plans; the same operands with the same values each time, on any device.
    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D>;
}

/// Something to be done with every kind of case.
pub trait Visitor {
    /// Why a visit can end early.
    type Error;

    /// Does it with the cases of one kind, [`Case::list`] or [`Case::of_model`].
    fn visit<C: Case>(&mut self) -> Result<(), Self::Error>;
}

/// Shows `visitor` every kind of case there is: products first, of which most is made, then by name.
pub fn visit<V: Visitor>(visitor: &mut V) -> Result<(), V::Error> {
    visitor.visit::<linear::LinearCase>()?;
    visitor.visit::<adamw::AdamWCase>()?;
    visitor.visit::<adamw::ClampCase>()?;
    visitor.visit::<arena::ArenaCase>()?;
    visitor.visit::<attention::AttentionCase>()?;
    visitor.visit::<contrastive::ContrastiveCase>()?;
    visitor.visit::<cross_entropy::CrossEntropyCase>()?;
    visitor.visit::<distillation::DistillationCase>()?;
    visitor.visit::<group_dro::GroupDroCase>()?;
    visitor.visit::<l2_normalize::L2NormalizeCase>()?;
    visitor.visit::<layer_norm::LayerNormCase>()?;
    visitor.visit::<device_memory::DeviceMemoryCase>()?;
    visitor.visit::<patch_embed::PatchEmbedCase>()?;
    visitor.visit::<pool::PoolCase>()?;
    visitor.visit::<position_embed::PositionEmbedCase>()?;
    visitor.visit::<relu::ReluCase>()?;
    visitor.visit::<similarity::SimilarityCase>()?;
    visitor.visit::<supcon::SupConCase>()?;
    visitor.visit::<token_embed::TokenEmbedCase>()
}

/// How far a value may lie from the expected one:
/// |found - expected| <= relative |expected| + of_largest max(at_least, max |expected|).
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub(crate) relative: f64,
    /// Of the largest magnitude in the expected output: what sums that cancel may leave.
    pub(crate) of_largest: f64,
    /// The size of such sums' terms, which counts where an output is so short that all of it may cancel.
    pub(crate) at_least: f64,
}

impl Tolerance {
    /// The same bits, but for -0.
    pub(crate) const EXACT: Tolerance = Tolerance { relative: 0.0, of_largest: 0.0, at_least: 0.0 };

    /// One rounding to bf16, at most 2^-8 of the value (its last place is 2^-7 of the power of two below), with a hair for
    /// ties; plus what is lost before it.
    pub(crate) const fn bf16(of_largest: f64) -> Tolerance {
        Tolerance { relative: 1.001 / 256.0, of_largest, at_least: 0.0 }
    }

    /// Sums of about `terms` f32 values of size 1 in any order.
    pub(crate) fn f32(terms: usize) -> Tolerance {
        let unit = 1.0 / (1u64 << 24) as f64;
        Tolerance { relative: 8.0 * unit, of_largest: unit * (4.0 + terms as f64), at_least: 1.0 }
    }

    fn bound(self, expected: f64, largest: f64) -> f64 {
        self.relative * expected.abs() + self.of_largest * largest.max(self.at_least)
    }
}

/// Where an operand lies.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// In storage precision.
    Tensor(Tensor),
    /// In f32.
    Stats(Stats),
    /// In u32.
    Ids(Ids),
    /// In u8.
    Bytes(Bytes),
}

enum Values {
    Floats(Vec<f32>),
    Ids(Vec<u32>),
    Bytes(Vec<u8>),
}

/// An operand: its name, where it lies, what it starts with, and how it is judged if an op writes it.
pub struct Operand {
    /// Distinct in its case; a gradient's begins with `d`.
    pub name: &'static str,
    /// Its span in the plan.
    pub place: Place,
    /// How far it may be off once the ops have run; none for what no op writes.
    pub tolerance: Option<Tolerance>,
    initial: Values,
}

/// An operand that an op wrote.
struct Output {
    name: &'static str,
    tolerance: Tolerance,
    values: Vec<f32>,
}

/// What a case's operands are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Each op is compared with the reference on its own: a backward pass must not see how the forward pass rounded.
    Check,
    /// The backward pass reads what the forward pass wrote.
    Gradients,
    /// Likewise, and of long operands the first values come again and again.
    Bench,
}

/// Of how many values an operand of [`Purpose::Bench`] has its own.
const OWN_VALUES: usize = 1 << 20;

/// A case's operands as they are planned: where each lies, what it starts with, and how its result is judged.
///
/// Names tell what is what: a gradient is named `d` and what it is the gradient of; a loss `loss`.
pub struct Operands {
    plan: Plan,
    purpose: Purpose,
    generator: Rng,
    list: Vec<Operand>,
}

impl Operands {
    /// For a device of type `D`; what is drawn depends on `seed` and `case` alone.
    pub fn new<D: DeviceMemory>(purpose: Purpose, seed: u64, case: &str) -> Operands {
        Operands { plan: Plan::new::<D>(), purpose, generator: rng(seed, case, &[]), list: Vec::new() }
    }

    /// What a device needs for all operands planned so far.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The operands in the order in which they were planned.
    pub fn list(&self) -> &[Operand] {
        &self.list
    }

    /// For values that a case draws itself; the same on every device.
    pub(crate) fn generator(&mut self) -> &mut Rng {
        &mut self.generator
    }

    /// `len` normal numbers of this standard deviation.
    pub(crate) fn normal(&mut self, len: usize, deviation: f64) -> Vec<f32> {
        let own = if self.purpose == Purpose::Bench { len.min(OWN_VALUES) } else { len };
        let mut values = Vec::with_capacity(len);
        values.extend((0..own).map(|_| (deviation * normal(&mut self.generator)) as f32));
        while values.len() < len {
            values.extend_from_within(..own.min(len - values.len()));
        }
        values
    }

    /// An input of normal numbers.
    pub(crate) fn input(&mut self, name: &'static str, len: usize, deviation: f64) -> Tensor {
        let values = self.normal(len, deviation);
        self.input_of(name, values)
    }

    /// An input of these values, rounded to bf16.
    pub(crate) fn input_of(&mut self, name: &'static str, values: Vec<f32>) -> Tensor {
        self.tensor(name, values, None)
    }

    pub(crate) fn stats(&mut self, name: &'static str, len: usize, deviation: f64) -> Stats {
        let values = self.normal(len, deviation);
        self.stats_of(name, values)
    }

    pub(crate) fn stats_of(&mut self, name: &'static str, values: Vec<f32>) -> Stats {
        self.wide(name, values, None)
    }

    pub(crate) fn ids(&mut self, values: Vec<u32>) -> Ids {
        let span = self.plan.ids(values.len());
        self.add("ids", Place::Ids(span), Values::Ids(values), None);
        span
    }

    pub(crate) fn bytes(&mut self, values: Vec<u8>) -> Bytes {
        let span = self.plan.pixels(values.len());
        self.add("bytes", Place::Bytes(span), Values::Bytes(values), None);
        span
    }

    /// What a backward pass reads in place of what the forward pass wrote, where it must not see that.
    pub(crate) fn apart<K>(&mut self, written: Span<K>, own: impl FnOnce(&mut Operands) -> Span<K>) -> Span<K> {
        if self.purpose == Purpose::Check { own(self) } else { written }
    }

    /// An output, NaN before the op.
    pub(crate) fn output(&mut self, name: &'static str, len: usize, tolerance: Tolerance) -> Tensor {
        self.tensor(name, vec![f32::NAN; len], Some(tolerance))
    }

    pub(crate) fn output_stats(&mut self, name: &'static str, len: usize, tolerance: Tolerance) -> Stats {
        self.wide(name, vec![f32::NAN; len], Some(tolerance))
    }

    /// What an op reads and writes, rounded to bf16.
    pub(crate) fn updated(&mut self, name: &'static str, values: Vec<f32>, tolerance: Tolerance) -> Tensor {
        self.tensor(name, values, Some(tolerance))
    }

    pub(crate) fn updated_stats(&mut self, name: &'static str, values: Vec<f32>, tolerance: Tolerance) -> Stats {
        self.wide(name, values, Some(tolerance))
    }

    /// What an op writes as `write` says: over NaN, or adding to normal numbers of this standard deviation.
    pub(crate) fn written(
        &mut self,
        write: Write,
        name: &'static str,
        len: usize,
        deviation: f64,
        tolerance: Tolerance,
    ) -> Tensor {
        match write {
            Write::Set => self.output(name, len, tolerance),
            Write::Add => {
                let before = self.normal(len, deviation);
                self.updated(name, before, tolerance)
            }
        }
    }

    pub(crate) fn written_stats(
        &mut self,
        write: Write,
        name: &'static str,
        len: usize,
        deviation: f64,
        tolerance: Tolerance,
    ) -> Stats {
        match write {
            Write::Set => self.output_stats(name, len, tolerance),
            Write::Add => {
                let before = self.normal(len, deviation);
                self.updated_stats(name, before, tolerance)
            }
        }
    }

    /// The storage copy of `master`, which holds `values`; judged as bf16.
    pub(crate) fn weights(&mut self, name: &'static str, master: Stats, values: &[f32]) -> Tensor {
        let span = self.plan.weights(master);
        // Where storage is the master itself, its values are there already.
        let own = self.plan.elements()[0] > 0;
        let values = if own { self.kept(values.to_vec()) } else { Vec::new() };
        self.add(name, Place::Tensor(span), Values::Floats(rounded(&values)), Some(Tolerance::bf16(0.0)));
        span
    }

    fn tensor(&mut self, name: &'static str, values: Vec<f32>, tolerance: Option<Tolerance>) -> Tensor {
        let span = self.plan.tensor(values.len());
        let values = rounded(&self.kept(values));
        self.add(name, Place::Tensor(span), Values::Floats(values), tolerance);
        span
    }

    fn wide(&mut self, name: &'static str, values: Vec<f32>, tolerance: Option<Tolerance>) -> Stats {
        let span = self.plan.stats(values.len());
        let values = self.kept(values);
        self.add(name, Place::Stats(span), Values::Floats(values), tolerance);
        span
    }

    fn kept(&self, mut values: Vec<f32>) -> Vec<f32> {
        if self.purpose == Purpose::Bench && values.len() > OWN_VALUES {
            values.truncate(OWN_VALUES);
            values.shrink_to_fit();
        }
        values
    }

    fn add(&mut self, name: &'static str, place: Place, initial: Values, tolerance: Option<Tolerance>) {
        self.list.push(Operand { name, place, tolerance, initial });
    }

    /// Sends every operand's first values.
    pub fn send<D: DeviceMemory>(&self, device: &mut D) {
        for Operand { place, initial, .. } in &self.list {
            match (*place, initial) {
                (Place::Tensor(span), Values::Floats(values)) => repeat(device, span, values),
                (Place::Stats(span), Values::Floats(values)) => repeat(device, span, values),
                (Place::Ids(span), Values::Ids(values)) => device.write(span, values),
                (Place::Bytes(span), Values::Bytes(values)) => device.write(span, values),
                _ => unreachable!("an operand's values have its kind"),
            }
        }
    }

    /// What an op on `device` wrote.
    fn outputs<D: DeviceMemory>(&self, device: &D) -> Vec<Output> {
        let judged = self.list.iter().filter_map(|operand| operand.tolerance.map(|tolerance| (operand, tolerance)));
        judged
            .map(|(Operand { name, place, .. }, tolerance)| {
                let values = match *place {
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
        let judged = self.list.iter().filter(|operand| operand.tolerance.is_some());
        judged.map(|operand| operand.floats(reference).to_vec()).collect()
    }
}

impl Operand {
    /// The operand's values in `device`. Panics for ids and bytes, which have none.
    pub fn floats<'a>(&self, device: &'a Cpu<f64>) -> &'a [f64] {
        match self.place {
            Place::Tensor(span) => device.slice(span),
            Place::Stats(span) => device.slice(span),
            Place::Ids(_) | Place::Bytes(_) => unreachable!("{} has no floats", self.name),
        }
    }
}

/// Fills `span` with `values`, again and again: sent once, copied on the device.
fn repeat<D: DeviceMemory, K: Kind<Host = f32>>(device: &mut D, span: Span<K>, values: &[f32]) {
    let len = values.len();
    if len == 0 {
        return;
    }
    device.write(span, values);
    for start in (len..span.len()).step_by(len) {
        let part = len.min(span.len() - start);
        device.copy(span.first(part), span.slice(start, part));
    }
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
}

/// What became of one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The op's name, or `step`.
    pub op: &'static str,
    /// The case's shape in words.
    pub shape: String,
    /// The largest error as a share of what is allowed.
    pub worst: f64,
    /// How long the case took, the reference included.
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
    /// Which device is checked.
    pub place: D::Place,
    /// How large its cases are.
    pub size: Size,
    /// What operands are drawn from; the same seed draws the same.
    pub seed: u64,
    /// Only ops of this name.
    pub only: Option<String>,
    /// Told of every case as it ends.
    pub observer: &'a mut dyn FnMut(&Outcome),
}

impl<D: Backend> Checker<'_, D> {
    /// Runs a case twice on the device and once on the reference.
    pub fn case<C: Case>(&mut self, case: &C) {
        if self.only.as_ref().is_some_and(|only| only != C::OP) {
            return;
        }
        let (start, shape) = (Instant::now(), case.shape());
        let result = self.compare(case, &format!("{} {shape}", C::OP));
        (self.observer)(&Outcome::of(C::OP, shape, start, result));
    }

    fn compare<C: Case>(&self, case: &C, name: &str) -> Result<f64, String> {
        let mut operands = Operands::new::<Cpu<f64>>(Purpose::Check, self.seed, name);
        let ops = case.ops(&mut operands);
        let mut reference = Cpu::<f64>::allocate(&operands.plan);
        operands.send(&mut reference);
        ops.iter().for_each(|op| op.run(&mut reference));
        let expected = operands.expected(&reference);

        let first = self.run(case, name)?;
        let mut worst = 0.0;
        for (Output { name, tolerance, values }, expected) in first.iter().zip(expected) {
            let share = judge(values, &expected, *tolerance).map_err(|failure| format!("{name}{failure}"))?;
            worst = f64::max(worst, share);
        }
        let second = self.run(case, name)?;
        for (Output { name, values: first, .. }, Output { values: second, .. }) in first.iter().zip(&second) {
            if let Some(i) = first.iter().zip(second).position(|(a, b)| a.to_bits() != b.to_bits()) {
                return Err(format!("{name}[{i}] is {} and then {}: two runs differ", first[i], second[i]));
            }
        }
        Ok(worst)
    }

    fn run<C: Case>(&self, case: &C, name: &str) -> Result<Vec<Output>, String> {
        let mut operands = Operands::new::<D>(Purpose::Check, self.seed, name);
        let ops = case.ops(&mut operands);
        let mut device = D::with_plan(&self.place, &operands.plan).map_err(|error| error.to_string())?;
        operands.send(&mut device);
        ops.iter().for_each(|op| op.run(&mut device));
        let outputs = operands.outputs(&device);
        device.health().map_err(|error| error.to_string())?;
        Ok(outputs)
    }
}

impl<D: Backend> Visitor for Checker<'_, D> {
    type Error = Infallible;

    fn visit<C: Case>(&mut self) -> Result<(), Infallible> {
        C::list(self.size).iter().for_each(|case| self.case(case));
        Ok(())
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
pub(crate) fn names() -> Vec<&'static str> {
    struct Names(Vec<&'static str>);
    impl Visitor for Names {
        type Error = Infallible;

        fn visit<C: Case>(&mut self) -> Result<(), Infallible> {
            self.0.push(C::OP);
            Ok(())
        }
    }
    let mut names = Names(vec![conformance::OP]);
    let Ok(()) = visit(&mut names);
    names.0.push(step::OP);
    names.0.dedup();
    names.0
}

/// All ops.
pub fn ops<D: Backend>(checker: &mut Checker<D>) {
    let Ok(()) = visit(checker);
}
