//! Every op at the shapes that a training step of a model has: `cargo bench`, or `cargo bench -- attention`.
//!
//! On the CPU by the clock, on a GPU by its own: the variables `PERENNIAL_BENCH_DEVICE` (cpu, or cuda[:N]), `PERENNIAL_BENCH_MODEL`
//! (emoji-small) and `PERENNIAL_BENCH_BATCH` (64) say otherwise. `perennial bench kernels` holds the same against what the device could do.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use perennial::Place;
use perennial::check::{self, Case, Operands, Purpose, Visitor};
use perennial::model::spec::ModelSpec;
use perennial::ops::Backend;
use perennial::ops::cpu::Cpu;
use perennial::ops::cuda::Cuda;

/// The cases of a model, one kind after another, on a device of type `D`.
struct Ops<'a, D: Backend> {
    criterion: &'a mut Criterion,
    place: &'a D::Place,
    spec: ModelSpec,
    batch: usize,
}

impl<D: Backend> Visitor for Ops<'_, D> {
    type Error = Infallible;

    fn visit<C: Case>(&mut self) -> Result<(), Infallible> {
        let cases = C::of_model(&self.spec, self.batch);
        if cases.is_empty() {
            return Ok(());
        }
        let mut group = self.criterion.benchmark_group(C::OP);
        // What comes at the same shape twice, in one case or in two, is one benchmark.
        let mut known = HashSet::new();
        for case in cases {
            let mut operands = Operands::new::<D>(Purpose::Bench, 0, C::OP);
            let ops = case.ops::<D>(&mut operands);
            let mut device = D::with_plan(self.place, operands.plan()).expect("the device has room for the operands");
            operands.send(&mut device);
            // A backward pass reads what the forward pass wrote.
            ops.iter().for_each(|op| op.run(&mut device));
            for op in ops.iter().filter(|op| known.insert((op.name(), op.shape()))) {
                group.bench_function(BenchmarkId::new(op.name(), op.shape()), |bencher| {
                    bencher.iter_custom(|count| {
                        let seconds = device.time(|device| (0..count).for_each(|_| op.run(device)));
                        Duration::from_secs_f64(seconds.expect("the device is healthy"))
                    });
                });
            }
        }
        group.finish();
        Ok(())
    }
}

fn variable(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_string())
}

fn run<D: Backend>(criterion: &mut Criterion, place: &D::Place) {
    let spec = ModelSpec::find(&variable("PERENNIAL_BENCH_MODEL", "emoji-small")).expect("PERENNIAL_BENCH_MODEL");
    let batch = variable("PERENNIAL_BENCH_BATCH", "64").parse().expect("PERENNIAL_BENCH_BATCH is a number");
    let Ok(()) = check::visit(&mut Ops::<D> { criterion, place, spec, batch });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    match Place::parse(&variable("PERENNIAL_BENCH_DEVICE", "cpu")).expect("PERENNIAL_BENCH_DEVICE") {
        Place::Cpu => run::<Cpu<f32>>(&mut criterion, &()),
        Place::Cuda(gpu) => run::<Cuda>(&mut criterion, &gpu),
    }
    criterion.final_summary();
}
