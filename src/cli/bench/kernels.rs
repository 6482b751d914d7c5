//! Each op at a model's shapes: time, operations and bytes a second, and the share of what the device could do.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::super::output::put;
use super::median;
use crate::check::linear::{Follows, LinearCase};
use crate::check::{self, Case, Operands, Purpose, Visitor};
use crate::error::{Error, Result, unknown};
use crate::files::read_text;
use crate::model::spec::ModelSpec;
use crate::ops::linear::{Epilogue, Linear, LinearShape};
use crate::ops::{AnyOp, Backend, Plan};
use crate::report::step::Roof;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// kernels: this op alone, as `perennial check --only` calls it
    #[arg(long, value_name = "OP")]
    only: Option<String>,
    /// kernels: the op linear at this shape, in place of the model's
    #[arg(long, value_name = "ROWS,INPUTS,OUTPUTS", value_delimiter = ',', num_args = 1)]
    shape: Vec<usize>,
    /// kernels: run each op so often and no more, without ceilings: for a profiler
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    /// kernels: hold the times against those of this file, which --json wrote; exit status 1 if an op is slower
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// kernels: how much slower than in --compare an op may be
    #[arg(long, value_name = "PER CENT", default_value_t = 10.0)]
    slower: f64,
    /// kernels: count what each op asks of the hardware, in place of timing it: on the emulated GPU
    #[arg(long)]
    pub(crate) counters: bool,
}

impl Arguments {
    /// Fails where an option has no meaning: for what is not `kernels`, or in itself.
    pub(crate) fn check(&self, is_kernels: bool) -> Result<()> {
        let given = [
            ("--only", self.only.is_some()),
            ("--shape", !self.shape.is_empty()),
            ("--iterations", self.iterations.is_some()),
            ("--compare", self.compare.is_some()),
            ("--counters", self.counters),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given && !is_kernels) {
            return Err(Error::input(format!("{option} is of single ops: `perennial bench kernels {option} ..`")));
        }
        if !self.shape.is_empty() {
            if self.only.as_deref() != Some(LinearCase::OP) {
                return Err(Error::input("--shape is of products alone: give --only linear with it"));
            }
            if self.shape.len() != 3 || self.shape.contains(&0) {
                return Err(Error::input("--shape is ROWS,INPUTS,OUTPUTS, three numbers from 1 on"));
            }
        }
        if let Some((option, _)) = given[2..4].iter().find(|(_, given)| *given && self.counters) {
            return Err(Error::input(format!("{option} is of times, and --counters takes none: give one of them")));
        }
        Ok(())
    }

    /// Whether ops of this name are not asked for.
    fn leaves_out(&self, op: &str) -> bool {
        self.only.as_deref().is_some_and(|only| only != op)
    }

    /// Fails where the model has no op of the name that is asked for.
    pub(crate) fn check_names(&self, spec: &ModelSpec) -> Result<()> {
        let mut ops = Names { spec, names: Vec::new() };
        let Ok(()) = check::visit(&mut ops);
        match self.only.as_deref().filter(|only| !ops.names.contains(only)) {
            Some(only) => Err(unknown("op of this model", only, ops.names)),
            None => Ok(()),
        }
    }
}

/// The product that `--shape` asks for.
fn shaped(shape: &[usize]) -> Option<LinearCase> {
    let &[rows, inputs, outputs] = shape else { return None };
    let (shape, follows) = (LinearShape::new(rows, inputs, outputs), Follows::Nothing);
    Some(LinearCase { shape, bias: true, follows, before: None })
}

/// The names of ops that a step of the model has, or one with other losses.
struct Names<'a> {
    spec: &'a ModelSpec,
    names: Vec<&'static str>,
}

impl Visitor for Names<'_> {
    type Error = Infallible;

    fn visit<C: Case>(&mut self) -> std::result::Result<(), Infallible> {
        if !self.names.contains(&C::OP) && !C::of_model(self.spec, 1).is_empty() {
            self.names.push(C::OP);
        }
        Ok(())
    }
}

pub(crate) fn bench<D: Backend>(
    place: &D::Place,
    spec: &ModelSpec,
    batch: usize,
    arguments: &Arguments,
) -> Result<Value> {
    let base = arguments.compare.as_deref().map(Base::read).transpose()?;
    let ceilings = match arguments.iterations {
        None => Some(Ceilings::measure::<D>(place)?),
        Some(_) => None,
    };
    let table = Table::<D> { place, iterations: arguments.iterations, ceilings, rows: Vec::new() };
    let mut cases = Cases { spec, batch, arguments, table };
    put!("{:<24} {:<26} {:>10} {:>10} {:>8} {:>8}", "op", "shape", "us", "GFLOP/s", "GB/s", "% floor");
    check::visit(&mut cases)?;
    let Table { ceilings, rows, .. } = cases.table;
    let ceilings = ceilings.as_ref();
    let report = json!({
        "device": ceilings.map(|ceilings| &ceilings.device),
        "ceilings": ceilings.map(|Ceilings { roof, .. }| {
            json!({ "gflops": roof.operations / 1e9, "gb_per_second": roof.bytes / 1e9 })
        }),
        "ops": rows,
    });
    if let Some(base) = base {
        base.compare(&report, arguments.slower)?;
    }
    Ok(report)
}

/// An earlier report.
struct Base {
    device: Option<String>,
    /// Op, shape and seconds.
    rows: Vec<(String, String, f64)>,
}

impl Base {
    fn read(path: &Path) -> Result<Base> {
        let foreign =
            || Error::input("it is no report of `perennial bench kernels --json`").at(path.display().to_string());
        let report: Value = serde_json::from_str(&read_text(path)?).map_err(|_| foreign())?;
        let row =
            |row: &Value| Some((row["op"].as_str()?.into(), row["shape"].as_str()?.into(), row["seconds"].as_f64()?));
        let rows = report["ops"].as_array().and_then(|rows| rows.iter().map(row).collect::<Option<Vec<_>>>());
        Ok(Base { device: report["device"].as_str().map(String::from), rows: rows.ok_or_else(foreign)? })
    }

    /// Says of each op of the new report how much slower or faster it is. Fails where one is slower by more than `slower` per cent,
    /// or none is in both.
    fn compare(&self, report: &Value, slower: f64) -> Result<()> {
        let device = report["device"].as_str();
        if let (Some(then), Some(now)) = (self.device.as_deref(), device)
            && then != now
        {
            put!("note: the times to compare with are of {then}");
        }
        let (mut compared, mut worse) = (0, Vec::new());
        put!("{:<24} {:<26} {:>10} {:>10} {:>8}", "op", "shape", "us then", "us now", "ratio");
        for row in report["ops"].as_array().into_iter().flatten() {
            let (op, shape) = (row["op"].as_str().unwrap_or_default(), row["shape"].as_str().unwrap_or_default());
            let seconds = row["seconds"].as_f64().unwrap_or(f64::NAN);
            let Some((_, _, then)) = self.rows.iter().find(|(known, at, _)| known == op && at == shape) else {
                continue;
            };
            let ratio = seconds / then;
            put!("{op:<24} {shape:<26} {:>10.1} {:>10.1} {ratio:>8.2}", then * 1e6, seconds * 1e6);
            compared += 1;
            if ratio > 1.0 + slower / 100.0 {
                worse.push(format!("{op} {shape} by {:.0} %", 100.0 * (ratio - 1.0)));
            }
        }
        match (compared, worse.as_slice()) {
            (0, _) => Err(Error::input("--compare: no op at these shapes is in the file")),
            (_, []) => Ok(()),
            _ => Err(Error::run(format!("slower than before: {}", worse.join("; ")))),
        }
    }
}

/// What a device can do at best.
pub(crate) struct Ceilings {
    pub device: String,
    pub roof: Roof,
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
        Ok(Ceilings { device: name, roof: Roof { operations, bytes } })
    }
}

/// What is done with each case.
pub(crate) trait ForCase {
    fn case<C: Case>(&mut self, case: &C) -> Result<()>;
}

/// The cases that a model has in a batch, or the one that the arguments name.
pub(crate) struct Cases<'a, T> {
    pub spec: &'a ModelSpec,
    pub batch: usize,
    pub arguments: &'a Arguments,
    pub table: T,
}

impl<T: ForCase> Visitor for Cases<'_, T> {
    type Error = Error;

    fn visit<C: Case>(&mut self) -> Result<()> {
        if self.arguments.leaves_out(C::OP) {
            return Ok(());
        }
        if let Some(case) = shaped(&self.arguments.shape) {
            return self.table.case(&case);
        }
        C::of_model(self.spec, self.batch).iter().try_for_each(|case| self.table.case(case))
    }
}

/// The table as it grows.
struct Table<'a, D: Backend> {
    place: &'a D::Place,
    iterations: Option<u32>,
    /// None where nothing is held against them.
    ceilings: Option<Ceilings>,
    rows: Vec<Value>,
}

impl<D: Backend> ForCase for Table<'_, D> {
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
                let run = |device: &mut D, turn: usize| copies[turn % copies.len()][i].run(device);
                let seconds = match self.iterations {
                    None => time(&mut device, run)?,
                    Some(count) => {
                        let count = count as usize;
                        device.time(|device| (0..count).for_each(|turn| run(device, turn)))? / count as f64
                    }
                };
                self.add(op.as_ref(), seconds);
            }
        }
        device.health()
    }
}

impl<D: Backend> Table<'_, D> {
    fn add(&mut self, op: &dyn AnyOp<D>, seconds: f64) {
        let (name, shape, cost) = (op.name(), op.shape(), op.cost(D::STORAGE_BYTES));
        let rate = |count: usize| count as f64 / seconds / 1e9;
        let (gflops, gbs) = (rate(cost.operations), rate(cost.bytes));
        let share = self.ceilings.as_ref().map(|ceilings| 100.0 * ceilings.roof.floor(cost) / seconds);
        let of_floor = share.map_or("-".to_string(), |share| format!("{share:.1}"));
        put!("{name:<24} {shape:<26} {:>10.1} {gflops:>10.1} {gbs:>8.1} {of_floor:>8}", seconds * 1e6);
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
