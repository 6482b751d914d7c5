//! Every op at the shapes that a training step of a model has, and such a step whole: `cargo bench`, or `cargo bench -- attention`.
//!
//! On the CPU by the clock, on a GPU by its own: the variables `PERENNIAL_BENCH_DEVICE` (cpu, or cuda[:N]), `PERENNIAL_BENCH_MODEL`
//! (emoji-small) and `PERENNIAL_BENCH_BATCH` (64) say otherwise. `perennial bench kernels` holds the same against what the device could do.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use perennial::Place;
use perennial::check::{self, Case, Operands, Purpose, Visitor};
use perennial::data::Label;
use perennial::method::find;
use perennial::model::clip::Capacity;
use perennial::model::spec::ModelSpec;
use perennial::ops::Backend;
use perennial::ops::cpu::Cpu;
use perennial::ops::cuda::Cuda;
use perennial::train::{OptimizerSettings, TextBank, TrainBatch, Trainer, TrainerSpec};

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

/// A step of training by the contrastive loss: a batch of noise with captions of their own, sent, computed, and its loss read back.
fn step<D: Backend>(criterion: &mut Criterion, place: &D::Place, spec: &ModelSpec, batch: usize) {
    let capacity = Capacity { images: batch, texts: batch };
    let trainer = TrainerSpec {
        model: spec.clone(),
        capacity,
        optimizer: OptimizerSettings::default(),
        learn_logit_scale: true,
        samples: batch,
        classes: 1,
        by_class: false,
        steps: 1,
    };
    let method = find("sequential").expect("the program has it").open_default();
    let mut trainer = Trainer::new::<D>(place, &trainer, &*method, capacity).expect("the device has room for a step");
    trainer.edit(|list, values| values.copy_from_slice(&list.initial_values(0)));
    let mut bank = TextBank::default();
    // From the start to the end token, which are a vocabulary's last two; of as many lengths as captions have.
    let vocabulary = spec.text_cfg.vocab_size as u32;
    let text = |sample: usize| {
        let words = (0..4 + sample % 12).map(|place| ((sample * 31 + place * 977) % 40_000) as u32 % (vocabulary - 2));
        std::iter::once(vocabulary - 2).chain(words).chain([vocabulary - 1]).collect::<Vec<u32>>()
    };
    let texts: Vec<u32> = (0..batch).map(|sample| bank.add(text(sample), Label(0))).collect();
    let pixels: Vec<u8> =
        (0..batch * 3 * spec.vision_cfg.image_size.pow(2)).map(|place| ((place * 2_654_435_761) >> 13) as u8).collect();
    let (slot, texts): (Vec<u32>, _) = ((0..batch as u32).collect(), bank.batch(&texts));
    let batch = TrainBatch { pixels: &pixels, texts: Some(&texts), slot: &slot, ..TrainBatch::default() };
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(slot.len() as u64)).sample_size(10);
    group.bench_function(BenchmarkId::new("sequential", slot.len()), |bencher| {
        bencher.iter(|| trainer.iterate(batch, 1e-4).expect("the device is healthy"));
    });
    group.finish();
}

fn variable(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_string())
}

fn run<D: Backend>(criterion: &mut Criterion, place: &D::Place) {
    let spec = ModelSpec::find(&variable("PERENNIAL_BENCH_MODEL", "emoji-small")).expect("PERENNIAL_BENCH_MODEL");
    let batch = variable("PERENNIAL_BENCH_BATCH", "64").parse().expect("PERENNIAL_BENCH_BATCH is a number");
    step::<D>(criterion, place, &spec, batch);
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
