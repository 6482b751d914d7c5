//! Each op at a model's shapes: time, operations and bytes a second, and the share of what the device could do.

use std::time::Instant;

use serde_json::{Value, json};

use super::super::output::put;
use super::median;
use crate::check::{self, Case, Operands, Purpose, Visitor};
use crate::error::{Error, Result};
use crate::model::spec::ModelSpec;
use crate::ops::linear::{Epilogue, Linear, LinearShape};
use crate::ops::{AnyOp, Backend, Cost, Plan};

pub(crate) fn bench<D: Backend>(place: &D::Place, spec: &ModelSpec, batch: usize) -> Result<Value> {
    let ceilings = Ceilings::measure::<D>(place)?;
    let mut table = Table::<D> { place, spec, batch, ceilings, rows: Vec::new() };
    put!("{:<24} {:<26} {:>10} {:>10} {:>8} {:>8}", "op", "shape", "us", "GFLOP/s", "GB/s", "% floor");
    check::visit(&mut table)?;
    let Ceilings { device, operations, bytes } = table.ceilings;
    Ok(json!({
        "device": device,
        "ceilings": { "gflops": operations / 1e9, "gb_per_second": bytes / 1e9 },
        "ops": table.rows,
    }))
}

/// What a device can do at best.
pub(crate) struct Ceilings {
    pub device: String,
    /// Operations a second, of products.
    operations: f64,
    /// Bytes a second, of copies.
    bytes: f64,
}

impl Ceilings {
    /// Measures them, in the same run as all that is held against them.
    pub(crate) fn measure<D: Backend>(place: &D::Place) -> Result<Ceilings> {
        // A product large enough to fill a GPU where there is one.
        let side = if D::CACHE_BYTES > 0 { 8192 } else { 1024 };
        let mut operands = Operands::new::<D>(Purpose::Bench, 0, "product");
        let [x, weight, y] = ["x", "weight", "y"].map(|name| operands.input(name, side * side, 1.0));
        let mut device = D::with_plan(place, operands.plan())?;
        operands.send(&mut device);
        let shape = LinearShape::new(side, side, side);
        let product = Linear { shape, x, weight, bias: None, epilogue: Epilogue::None, y };
        let seconds = time(&mut device, |device, _| device.run(product))?;
        let (operations, name) = (2.0 * (side as f64).powi(3) / seconds, device.name());
        drop(device);
        // Larger than any cache.
        let values = 1 << 27;
        let mut plan = Plan::new::<D>();
        let [from, to] = [(); 2].map(|()| plan.stats(values));
        let mut device = D::with_plan(place, &plan)?;
        [from, to].into_iter().for_each(|span| device.fill(span, 1.0));
        let seconds = time(&mut device, |device, _| device.copy(from, to))?;
        let bytes = 8.0 * values as f64 / seconds;
        put!(
            "{name}; ceilings: products {:.1} GFLOP/s, copies {:.1} GB/s; what stays in a cache can pass the latter",
            operations / 1e9,
            bytes / 1e9
        );
        Ok(Ceilings { device: name, operations, bytes })
    }

    /// The shortest time, in seconds, that an op of this cost can take.
    pub(crate) fn floor(&self, cost: Cost) -> f64 {
        (cost.operations as f64 / self.operations).max(cost.bytes as f64 / self.bytes)
    }
}

/// The table as it grows.
struct Table<'a, D: Backend> {
    place: &'a D::Place,
    spec: &'a ModelSpec,
    batch: usize,
    ceilings: Ceilings,
    rows: Vec<Value>,
}

impl<D: Backend> Visitor for Table<'_, D> {
    type Error = Error;

    fn visit<C: Case>(&mut self) -> Result<()> {
        C::of_model(self.spec, self.batch).iter().try_for_each(|case| self.case(case))
    }
}

impl<D: Backend> Table<'_, D> {
    /// Times a case's ops, on operands in as many copies as it takes that each finds nothing of its own in a cache.
    fn case<C: Case>(&mut self, case: &C) -> Result<()> {
        let mut operands = Operands::new::<D>(Purpose::Bench, 0, C::OP);
        let empty = operands.plan().bytes();
        let mut copies = vec![case.ops::<D>(&mut operands)];
        let bytes = operands.plan().bytes() - empty;
        for _ in 0..(D::CACHE_BYTES / bytes.max(1)).min(64) {
            copies.push(case.ops(&mut operands));
        }
        let mut device = D::with_plan(self.place, operands.plan())?;
        operands.send(&mut device);
        drop(operands);
        // A backward pass reads what the forward pass wrote.
        copies.iter().flatten().for_each(|op| op.run(&mut device));
        for (i, op) in copies[0].iter().enumerate() {
            if copies[0][..i].iter().all(|before| before.name() != op.name()) {
                let seconds = time(&mut device, |device, turn| copies[turn % copies.len()][i].run(device))?;
                self.add(op.as_ref(), seconds);
            }
        }
        device.health()
    }

    fn add(&mut self, op: &dyn AnyOp<D>, seconds: f64) {
        let (name, shape, cost) = (op.name(), op.shape(), op.cost(D::STORAGE_BYTES));
        let rate = |count: usize| count as f64 / seconds / 1e9;
        let (gflops, gbs, share) =
            (rate(cost.operations), rate(cost.bytes), 100.0 * self.ceilings.floor(cost) / seconds);
        put!("{name:<24} {shape:<26} {:>10.1} {gflops:>10.1} {gbs:>8.1} {share:>8.1}", seconds * 1e6);
        self.rows.push(json!({
            "op": name, "shape": shape, "seconds": seconds, "gflops": gflops, "gb_per_second": gbs,
            "percent_of_floor": share,
        }));
    }
}

/// Median seconds of one run of `work`, which is told how many came before: at least 7 samples, each long enough for a clock,
/// until the times settle.
fn time<D: Backend>(device: &mut D, work: impl Fn(&mut D, usize)) -> Result<f64> {
    const SHORTEST: f64 = 2e-4;
    // A GPU has no other programs on it.
    let longest = if D::CACHE_BYTES > 0 { 0.2 } else { 0.5 };
    let mut turn = 0;
    let mut sample = |runs: usize| {
        let seconds = device.time(|device| {
            for _ in 0..runs {
                work(device, turn);
                turn += 1;
            }
        })?;
        Ok(seconds / runs as f64)
    };
    sample(1)?;
    let runs = (SHORTEST / sample(1)?).ceil().clamp(1.0, 1000.0) as usize;
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 7 || (start.elapsed().as_secs_f64() < longest && seconds.len() < 50) {
        seconds.push(sample(runs)?);
    }
    Ok(median(seconds))
}
