//! `perennial bench`: what a device does with a training step and with each op, and how fast pictures are loaded.

#[cfg(feature = "emulator")]
mod counters;
mod kernels;
mod loader;
mod step;
mod trace;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::compute::{Compute, on_device};
use crate::data::text::tokenizer::Tokenizer;
use crate::data::{self, Source};
use crate::error::{Error, Result};
use crate::files::{check_writable, write_atomically};
use crate::model::spec::ModelSpec;
use crate::place::Place;
use crate::train::TextBank;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A whole training step, each op beside what the device could do, or the loading of a data set
    #[arg(value_enum, default_value = "step")]
    what: What,
    #[command(flatten)]
    compute: Compute,
    /// A bundled model, or an open_clip model JSON
    #[arg(long, default_value = "emoji-small")]
    model: String,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Timed steps; the median counts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Write one step, op by op, to this file: JSON for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write one step as a page to this file: its timeline, its roofline, and every op beside its floor
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Have a profiler collect the timed steps alone: under `nsys profile -c cudaProfilerApi` or `ncu --profile-from-start no`
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    loader: loader::Arguments,
    #[command(flatten)]
    kernels: kernels::Arguments,
    /// Write what was measured to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    Step,
    Kernels,
    Loader,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let batch = arguments.batch as usize;
    for (option, file) in [("--trace", &arguments.trace), ("--html", &arguments.html)] {
        let Some(file) = file else { continue };
        if !matches!(arguments.what, What::Step) {
            return Err(Error::input(format!(
                "{option} is of a whole training step: `perennial bench step {option} FILE`"
            )));
        }
        check_writable(file)?;
    }
    if arguments.profile && !matches!(arguments.what, What::Step) {
        return Err(Error::input("--profile is of whole training steps: `perennial bench step --profile`"));
    }
    arguments.kernels.check(matches!(arguments.what, What::Kernels))?;
    let mut report = match arguments.what {
        What::Loader => loader::bench(&arguments.loader, batch)?,
        What::Step | What::Kernels => of_model(arguments, batch)?,
    };
    let Some(path) = &arguments.json else { return Ok(()) };
    report["batch"] = json!(batch);
    write_atomically(path, format!("{report:#}\n").as_bytes())
}

fn of_model(arguments: &Arguments, batch: usize) -> Result<Value> {
    if arguments.kernels.counters {
        arguments.compute.count()?;
    }
    let place = arguments.compute.prepare()?;
    if arguments.profile && matches!(place, Place::Cpu) {
        return Err(Error::input(
            "--profile is for profilers of GPUs: give --device cuda with it; a CPU's see all steps",
        ));
    }
    let spec = ModelSpec::find(&arguments.model)?;
    if let What::Kernels = arguments.what {
        arguments.kernels.check_names(&spec)?;
    }
    let mut report = match arguments.what {
        #[cfg(feature = "emulator")]
        What::Kernels if arguments.kernels.counters => {
            let Place::Cuda(gpu) = place else { unreachable!("counters are of an emulated GPU") };
            counters::bench(gpu, &spec, batch, &arguments.kernels)?
        }
        What::Kernels => on_device!(&place, D, at => kernels::bench::<D>(at, &spec, batch, &arguments.kernels))?,
        _ => {
            on_device!(&place, D, at => step::bench::<D>(at, &spec, batch, arguments.steps as usize, arguments.profile))?
        }
    };
    let (events, page) = (arguments.trace.as_deref(), arguments.html.as_deref());
    if events.is_some() || page.is_some() {
        on_device!(&place, D, at => trace::trace::<D>(at, (&arguments.model, &spec), batch, events, page))?;
    }
    report["model"] = json!(arguments.model);
    report["threads"] = json!(rayon::current_num_threads());
    Ok(report)
}

/// The captions of `count` emoji, taken evenly over the data set, tokenised.
fn captions(spec: &ModelSpec, count: usize) -> Result<TextBank> {
    let emoji = data::open(&Source::new("emoji", None))?;
    let tokenizer = Tokenizer::clip();
    let mut bank = TextBank::default();
    for i in 0..count {
        let sample = &emoji.samples[i * emoji.samples.len() / count];
        let tokens = tokenizer.encode(&sample.caption, spec.text_cfg.context_length);
        if tokens.iter().any(|token| *token as usize >= spec.text_cfg.vocab_size) {
            return Err(Error::input("the model's vocabulary is smaller than CLIP's; bench needs 49408 tokens"));
        }
        bank.add(tokens, sample.class);
    }
    Ok(bank)
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
