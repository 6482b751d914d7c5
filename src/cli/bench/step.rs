//! A whole training step: samples a second, operations a second, where the time goes.

use std::time::Instant;

use serde_json::{Value, json};

use super::super::output::put;
use super::{captions, median};
use crate::error::Result;
use crate::method::{self, Method};
use crate::model::clip::Capacity;
use crate::model::spec::ModelSpec;
use crate::ops::{Backend, Plan};
use crate::rng::{rng, unit};
use crate::train::{BatchTexts, OptimizerSettings, TextBank, TrainBatch, Trainer, TrainerSpec};

/// Distinct batches, used in turn.
const BATCHES: usize = 4;
/// Enough for a device to have met every batch and recorded it.
const WARM_UP: usize = 3 * BATCHES;

/// What a model is trained on here: captions and noise.
pub(crate) struct Data<'a> {
    spec: &'a ModelSpec,
    batch: usize,
    bank: TextBank,
    /// The number of each sample.
    numbers: Vec<u32>,
    /// Of each batch.
    pixels: Vec<Vec<u8>>,
}

impl<'a> Data<'a> {
    pub(crate) fn new(spec: &'a ModelSpec, batch: usize) -> Result<Data<'a>> {
        let bank = captions(spec, batch * BATCHES)?;
        let mut generator = rng(0, "pixels", &[]);
        let noise: Vec<u8> = (0..1 << 20).map(|_| (unit(&mut generator) * 256.0) as u8).collect();
        let values = batch * spec.vision_cfg.image_size.pow(2) * 3;
        let pixels =
            (0..BATCHES).map(|i| noise.iter().copied().cycle().skip(i * 1000).take(values).collect()).collect();
        Ok(Data { spec, batch, numbers: (0..bank.len() as u32).collect(), bank, pixels })
    }

    /// How to train.
    pub(crate) fn trainer(&self) -> TrainerSpec {
        TrainerSpec {
            model: self.spec.clone(),
            capacity: Capacity { images: self.batch, texts: self.batch },
            optimizer: OptimizerSettings::default(),
            learn_logit_scale: true,
            samples: self.batch * BATCHES,
            classes: 1,
            by_class: false,
            steps: 1,
        }
    }

    pub(crate) fn texts(&self) -> Vec<BatchTexts<'_>> {
        self.numbers.chunks(self.batch).map(|numbers| self.bank.batch(numbers)).collect()
    }

    pub(crate) fn batches<'b>(&'b self, texts: &'b [BatchTexts]) -> Vec<TrainBatch<'b>> {
        let batch = |i: usize| TrainBatch {
            pixels: &self.pixels[i],
            texts: Some(&texts[i]),
            slot: &self.numbers[i * self.batch..][..self.batch],
            ..Default::default()
        };
        (0..BATCHES).map(batch).collect()
    }
}

/// The method whose step is measured.
pub(crate) fn infonce() -> Box<dyn Method> {
    method::find("sequential").expect("the program has it").open_default()
}

/// The evaluation that is planned beside training: none.
pub(crate) const NO_EVALUATION: Capacity = Capacity { images: 1, texts: 1 };

/// Measures `steps` steps; where `profile_steps` says so, a profiler is told to collect those of texts at their own length.
pub(crate) fn bench<D: Backend>(
    place: &D::Place,
    spec: &ModelSpec,
    batch: usize,
    steps: usize,
    profile_steps: bool,
) -> Result<Value> {
    let data = Data::new(spec, batch)?;
    let (plan, build) = Trainer::plan::<D>(&data.trainer(), &*infonce(), NO_EVALUATION);
    let mut trainer = build(D::with_plan(place, &plan)?);
    trainer.clip.load(&mut *trainer.device, &trainer.clip.parameters.initial_values(0));
    let texts = data.texts();
    let batches = data.batches(&texts);

    print_plan(&plan);
    let device = trainer.device.name();
    put!("{device}, batch {batch}, median of {steps} steps, {} threads on the host", rayon::current_num_threads());
    put!("{:<14} {:>10} {:>10} {:>10} {:>6}", "texts", "ms a step", "samples/s", "GFLOP/s", "MFU");
    let mut measured = Vec::new();
    for full_context in [false, true] {
        trainer.set_full_context(full_context);
        let seconds = time_steps(&mut trainer, &batches, steps, profile_steps && !full_context)?;
        let tokens = |texts: &BatchTexts| match full_context {
            true => spec.text_cfg.context_length,
            false => texts.tokens.iter().map(|text| text.len()).max().unwrap_or(1),
        };
        let macs = |texts: &BatchTexts| {
            batch as u64 * spec.image_macs() + texts.tokens.len() as u64 * spec.text_macs(tokens(texts))
        };
        let macs = texts.iter().map(macs).sum::<u64>() as f64 / BATCHES as f64;
        // A backward pass takes twice the products of the forward pass.
        let (rate, operations) = (batch as f64 / seconds, 6.0 * macs / seconds);
        let mfu = trainer.device.peak_operations().map(|peak| operations / peak);
        let share = mfu.map_or("".to_string(), |mfu| format!("{:.1} %", 100.0 * mfu));
        let name = if full_context { "full context" } else { "own length" };
        put!("{name:<14} {:>10.2} {rate:>10.1} {:>10.1} {share:>6}", seconds * 1e3, operations / 1e9);
        measured.push((rate, seconds, operations, mfu));
    }
    let phases = profile(&mut trainer, &batches)?;
    for (phase, seconds) in &phases {
        put!("  {phase:<12} {:>10.2} ms", seconds * 1e3);
    }
    let [own, full] = [measured[0], measured[1]];
    Ok(json!({
        "device": device,
        "samples_per_second": own.0,
        "samples_per_second_full_context": full.0,
        "milliseconds": own.1 * 1e3,
        "milliseconds_full_context": full.1 * 1e3,
        "gflops": own.2 / 1e9,
        "gflops_full_context": full.2 / 1e9,
        "tflops": full.2 / 1e12,
        "mfu": full.3,
        "phases": phases.iter().map(|(phase, seconds)| (phase.to_string(), json!(seconds))).collect::<serde_json::Map<_, _>>(),
        "planned_bytes": plan.bytes(),
        "peak_bytes": plan.bytes(),
        "steps": steps,
    }))
}

fn print_plan(plan: &Plan) {
    put!("planned memory");
    let line = |section: &str, bytes: usize| put!("  {section:<24} {:>9.1} MiB", bytes as f64 / (1 << 20) as f64);
    plan.sections().iter().for_each(|(section, bytes)| line(section, *bytes));
    line("total", plan.bytes());
}

/// Median seconds from one step's end to the next one's, batches sent while the device is at the step before, as in a run.
/// Where `profile` says so, a profiler is told to collect these steps.
fn time_steps(trainer: &mut Trainer, batches: &[TrainBatch], steps: usize, profile: bool) -> Result<f64> {
    let batch = |step: usize| batches[step % batches.len()];
    trainer.load(batch(0), 1e-4);
    trainer.launch();
    let (mut seconds, mut last) = (Vec::with_capacity(steps), Instant::now());
    for step in 1..=WARM_UP + steps {
        trainer.load(batch(step), 1e-4);
        trainer.finish()?;
        if step > WARM_UP {
            seconds.push(last.elapsed().as_secs_f64());
        }
        if profile && [WARM_UP, WARM_UP + steps].contains(&step) {
            trainer.device.collect(step == WARM_UP)?;
        }
        last = Instant::now();
        trainer.launch();
    }
    trainer.finish()?;
    Ok(median(seconds))
}

/// Seconds of each phase of a step, where the device tells: the median of a few steps told op by op.
fn profile(trainer: &mut Trainer, batches: &[TrainBatch]) -> Result<Vec<(&'static str, f64)>> {
    let mut all: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for batch in batches.iter().chain(batches) {
        trainer.device.begin_profile();
        trainer.iterate(*batch, 1e-4)?;
        for (place, (phase, seconds)) in trainer.device.end_profile()?.into_iter().enumerate() {
            if all.len() == place {
                all.push((phase, Vec::new()));
            }
            all[place].1.push(seconds);
        }
    }
    Ok(all.into_iter().map(|(phase, seconds)| (phase, median(seconds))).collect())
}
