//! `perennial bench`: what this machine does with a training step, and with each op.

use std::path::PathBuf;
use std::time::Instant;

use perennial::data;
use perennial::data::tokenizer::Tokenizer;
use perennial::error::{Error, Result};
use perennial::files::write_atomically;
use perennial::model::clip::Capacity;
use perennial::model::parameters::ParameterList;
use perennial::model::spec::{ModelSpec, TransformerSpec};
use perennial::objective::{ObjectiveKind, ObjectiveSettings};
use perennial::ops::adamw::{AdamWArenas, AdamWSettings, pace};
use perennial::ops::attention::AttentionShape;
use perennial::ops::contrastive::{
    ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape, Negatives, Surrogate,
};
use perennial::ops::layer_norm::LayerNormShape;
use perennial::ops::linear::{BackwardEpilogue, Epilogue, LinearShape};
use perennial::ops::memory::{Storage, Wide};
use perennial::ops::patch_embed::{Normalization, PatchShape};
use perennial::ops::position_embed::PositionShape;
use perennial::ops::token_embed::TokenShape;
use perennial::ops::{Device, Plan, Span, Stats, Tensor, Write};
use perennial::rng::{rng, unit};
use perennial::train::{BatchTexts, OptimizerSettings, TextBank, TrainBatch, Trainer, TrainerSpec};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::compute::{Compute, on_device};

#[derive(clap::Args)]
pub struct Arguments {
    /// A whole training step, or each op beside what the machine could do
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
    /// Write what was measured to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    Step,
    Kernels,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let place = arguments.compute.prepare()?;
    let spec = ModelSpec::find(&arguments.model)?;
    let batch = arguments.batch as usize;
    let mut report = match arguments.what {
        What::Step => on_device!(&place, D, at => bench_step::<D>(at, &spec, batch, arguments.steps as usize))?,
        What::Kernels => on_device!(&place, D, at => bench_kernels::<D>(at, &spec, batch))?,
    };
    let Some(path) = &arguments.json else { return Ok(()) };
    for (key, value) in [
        ("model", json!(arguments.model)),
        ("batch", json!(batch)),
        ("threads", json!(rayon::current_num_threads())),
        ("device", json!(arguments.compute.device)),
    ] {
        report[key] = value;
    }
    write_atomically(path, format!("{report:#}\n").as_bytes())
}

/// Distinct batches, used in turn.
const BATCHES: usize = 4;
const WARM_UP: usize = 3;

/// The captions of `count` emoji, taken evenly over the data set, tokenised.
fn captions(spec: &ModelSpec, count: usize) -> Result<TextBank> {
    let emoji = data::open("emoji", None)?;
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

fn bench_step<D: Device>(place: &D::Place, spec: &ModelSpec, batch: usize, steps: usize) -> Result<Value> {
    let capacity = Capacity { images: batch, texts: batch };
    let trainer = TrainerSpec {
        model: spec.clone(),
        capacity,
        objective: ObjectiveKind::Clip,
        objective_settings: ObjectiveSettings::default(),
        optimizer: OptimizerSettings::default(),
        learn_logit_scale: true,
        samples: batch * BATCHES,
        classes: 1,
        by_class: false,
    };
    let (plan, build) = Trainer::<D>::plan(&trainer, Capacity { images: 1, texts: 1 });
    let mut trainer = build(D::with_plan(place, &plan)?);
    trainer.clip.load(&mut trainer.device, &trainer.clip.parameters.initial_values(0));
    let bank = captions(spec, batch * BATCHES)?;
    let numbers: Vec<u32> = (0..bank.len() as u32).collect();
    let texts: Vec<BatchTexts> = numbers.chunks(batch).map(|numbers| bank.batch(numbers)).collect();
    let mut generator = rng(0, "pixels", &[]);
    let values = batch * spec.vision_cfg.image_size.pow(2) * 3;
    let pixels: Vec<Vec<u8>> =
        (0..BATCHES).map(|_| (0..values).map(|_| (unit(&mut generator) * 256.0) as u8).collect()).collect();

    println!("planned memory");
    for (section, bytes) in plan.sections() {
        println!("  {section:<24} {:>9.1} MiB", *bytes as f64 / (1 << 20) as f64);
    }
    println!("  {:<24} {:>9.1} MiB", "total", plan.bytes() as f64 / (1 << 20) as f64);
    println!(
        "{:<24} {:>10} {:>10} {:>10}   {} threads, batch {batch}, median of {steps} steps",
        "texts",
        "ms a step",
        "samples/s",
        "GFLOP/s",
        rayon::current_num_threads()
    );
    let mut measured = Vec::new();
    for full_context in [false, true] {
        trainer.set_full_context(full_context);
        let tokens = |texts: &BatchTexts| match full_context {
            true => spec.text_cfg.context_length,
            false => texts.tokens.iter().map(|text| text.len()).max().unwrap_or(1),
        };
        let mut seconds = Vec::with_capacity(steps);
        for step in 0..WARM_UP + steps {
            let i = step % BATCHES;
            let batch = TrainBatch { pixels: &pixels[i], texts: &texts[i], slot: &numbers[i * batch..][..batch] };
            let start = Instant::now();
            trainer.step(batch, 1e-4, 1.0)?;
            if step >= WARM_UP {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        let seconds = median(seconds);
        // A backward pass takes twice the products of the forward pass.
        let macs = |texts: &BatchTexts| {
            batch as u64 * spec.image_macs() + texts.tokens.len() as u64 * spec.text_macs(tokens(texts))
        };
        let macs = texts.iter().map(macs).sum::<u64>() as f64 / BATCHES as f64;
        let (rate, gflops) = (batch as f64 / seconds, 6.0 * macs / seconds / 1e9);
        let name = if full_context { "full context" } else { "own length" };
        println!("{name:<24} {:>10.2} {rate:>10.1} {gflops:>10.1}", seconds * 1e3);
        measured.push((rate, gflops));
    }
    Ok(json!({
        "samples_per_second": measured[0].0,
        "samples_per_second_full_context": measured[1].0,
        "gflops": measured[0].1,
        "gflops_full_context": measured[1].1,
        "planned_bytes": plan.bytes(),
        "steps": steps,
    }))
}

/// Median seconds of one run of `work`: at least 7 runs, and for half a second.
fn time(mut work: impl FnMut()) -> f64 {
    work();
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 7 || start.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        work();
        seconds.push(start.elapsed().as_secs_f64());
    }
    median(seconds)
}

/// A device with what `build` plans, all floats between 0.1 and 1.
fn device_with<D: Device, S>(place: &D::Place, build: impl FnOnce(&mut Plan) -> S) -> Result<(D, S)> {
    let mut plan = Plan::new::<D>();
    let spans = build(&mut plan);
    let mut device = D::with_plan(place, &plan)?;
    let [storage, wide, _, _] = plan.elements();
    let mut generator = rng(0, "operands", &[]);
    let values: Vec<f32> = (0..storage.max(wide)).map(|_| 0.1 + 0.9 * unit(&mut generator) as f32).collect();
    device.write(Span::<Storage>::new(0, storage), &values[..storage]);
    device.write(Span::<Wide>::new(0, wide), &values[..wide]);
    Ok((device, spans))
}

/// What the machine can do at best: operations and bytes a second.
struct Ceilings {
    operations: f64,
    bytes: f64,
}

impl Ceilings {
    fn measure<D: Device>(place: &D::Place) -> Result<Ceilings> {
        let (rows, width) = (4096, 1024);
        let (mut device, [x, weight, y]) =
            device_with::<D, _>(place, |plan| [rows * width, width * width, rows * width].map(|len| plan.tensor(len)))?;
        let shape = LinearShape::new(rows, width, width);
        let seconds = time(|| device.linear(shape, x, weight, None, Epilogue::None, y));
        // Larger than any cache.
        let (from, mut to) = (vec![1u8; 1 << 29], vec![0u8; 1 << 29]);
        let copy = time(|| {
            to.par_chunks_mut(1 << 20).zip(from.par_chunks(1 << 20)).for_each(|(to, from)| to.copy_from_slice(from))
        });
        Ok(Ceilings { operations: (2 * rows * width * width) as f64 / seconds, bytes: 2.0 * from.len() as f64 / copy })
    }
}

/// The table of ops as it grows.
struct Table<D: Device> {
    place: D::Place,
    ceilings: Ceilings,
    rows: Vec<Value>,
}

impl<D: Device> Table<D> {
    fn new(place: D::Place, ceilings: Ceilings) -> Table<D> {
        println!(
            "ceilings: products {:.1} GFLOP/s, copies {:.1} GB/s; what stays in a cache can pass the latter",
            ceilings.operations / 1e9,
            ceilings.bytes / 1e9
        );
        println!("{:<24} {:<26} {:>10} {:>9} {:>8} {:>8}", "op", "shape", "us", "GFLOP/s", "GB/s", "% floor");
        Table { place, ceilings, rows: Vec::new() }
    }

    /// Times `work` and adds its line. `floats` is the fewest 4-byte values to be read and written.
    fn add(&mut self, op: &str, shape: &str, operations: usize, floats: usize, work: impl FnMut()) {
        let seconds = time(work);
        let (operations, bytes) = (operations as f64, 4.0 * floats as f64);
        let floor = (operations / self.ceilings.operations).max(bytes / self.ceilings.bytes);
        let (gflops, gbs, share) = (operations / seconds / 1e9, bytes / seconds / 1e9, 100.0 * floor / seconds);
        println!("{op:<24} {shape:<26} {:>10.1} {gflops:>9.1} {gbs:>8.1} {share:>8.1}", seconds * 1e6);
        self.rows.push(json!({
            "op": op, "shape": shape, "seconds": seconds, "gflops": gflops, "gb_per_second": gbs, "percent_of_floor": share,
        }));
    }
}

fn bench_kernels<D: Device>(place: &D::Place, spec: &ModelSpec, batch: usize) -> Result<Value> {
    let mut table = Table::<D>::new(place.clone(), Ceilings::measure::<D>(place)?);
    let bank = captions(spec, batch)?;
    let tokens = (0..batch as u32).map(|text| bank.tokens(text).len()).max().unwrap_or(1);
    for (tower, transformer, tokens) in [("image", spec.vision(), spec.patches() + 1), ("text", spec.text(), tokens)] {
        println!("{tower} tower, {tokens} tokens");
        bench_block::<D>(&mut table, transformer, batch, tokens)?;
    }
    println!("ends of the towers, objective, optimiser");
    bench_image_input::<D>(&mut table, spec, batch)?;
    bench_text_input::<D>(&mut table, spec, &bank, tokens)?;
    bench_objective::<D>(&mut table, spec, batch)?;
    bench_optimizer::<D>(&mut table, spec)?;
    let Table { ceilings, rows, .. } = table;
    Ok(json!({
        "ceilings": { "gflops": ceilings.operations / 1e9, "gb_per_second": ceilings.bytes / 1e9 },
        "ops": rows,
    }))
}

/// The ops of one residual attention block.
fn bench_block<D: Device>(table: &mut Table<D>, spec: TransformerSpec, samples: usize, tokens: usize) -> Result<()> {
    let (rows, width, hidden, kind) = (samples * tokens, spec.width, spec.hidden, spec.activation);
    for (name, inputs, outputs) in
        [("in_proj", width, 3 * width), ("out_proj", width, width), ("c_fc", width, hidden), ("c_proj", hidden, width)]
    {
        bench_linear::<D>(table, LinearShape::new(rows, inputs, outputs), |pre, residual| match name {
            "c_fc" => (Epilogue::Activation { kind, pre }, BackwardEpilogue::None),
            "c_proj" => (Epilogue::Residual(residual), BackwardEpilogue::Activation { kind, pre }),
            "out_proj" => (Epilogue::Residual(residual), BackwardEpilogue::None),
            _ => (Epilogue::None, BackwardEpilogue::None),
        })?;
    }

    let shape = AttentionShape { samples, tokens, heads: spec.heads, head_dim: spec.head_dim(), causal: spec.causal };
    let (mut device, ([qkv, out, dout, dqkv], log_sum_exp)) = device_with::<D, _>(&table.place, |plan| {
        let tensors = [3, 1, 1, 3].map(|widths| plan.tensor(rows * widths * width));
        (tensors, plan.stats(rows * spec.heads))
    })?;
    let text = format!("{samples} x {} x {tokens} x {}", spec.heads, spec.head_dim());
    // A causal row sees half of the tokens on average.
    let seen = if spec.causal { tokens.div_ceil(2) } else { tokens };
    let product = 2 * rows * seen * width;
    table.add("attention", &text, 2 * product, 4 * rows * width, || {
        device.attention(shape, qkv, out, log_sum_exp);
    });
    table.add("attention backward", &text, 5 * product, 8 * rows * width, || {
        device.attention_backward(shape, qkv, out, log_sum_exp, dout, dqkv);
    });

    let shape = LayerNormShape { rows, width, eps: ModelSpec::LAYER_NORM_EPS };
    let values = rows * width;
    let (mut device, ([x, y, dx, gamma, beta], [mean, rstd, dgamma, dbeta])) =
        device_with::<D, _>(&table.place, |plan| {
            let tensors = [values, values, values, width, width].map(|len| plan.tensor(len));
            (tensors, [rows, rows, width, width].map(|len| plan.stats(len)))
        })?;
    let text = format!("{rows} x {width}");
    table.add("layer_norm", &text, 7 * values, 2 * values, || {
        device.layer_norm(shape, x, gamma, beta, y, mean, rstd);
    });
    table.add("layer_norm backward", &text, 14 * values, 4 * values, || {
        device.layer_norm_backward(shape, y, x, gamma, mean, rstd, Write::Add, dx, dgamma, dbeta);
    });
    Ok(())
}

/// One linear map forward and backward; `epilogues` makes them from `pre` and a residual.
fn bench_linear<D: Device>(
    table: &mut Table<D>,
    shape: LinearShape,
    epilogues: impl FnOnce(Tensor, Tensor) -> (Epilogue, BackwardEpilogue),
) -> Result<()> {
    let LinearShape { rows, inputs, outputs, .. } = shape;
    let (mut device, ([x, y, pre, residual], [weight, bias], [dweight, dbias])) =
        device_with::<D, _>(&table.place, |plan| {
            let wide = inputs.max(outputs);
            let tensors = [inputs, outputs, wide, outputs].map(|width| plan.tensor(rows * width));
            let weights = [outputs * inputs, outputs].map(|len| plan.tensor(len));
            (tensors, weights, [outputs * inputs, outputs].map(|len| plan.stats(len)))
        })?;
    let (epilogue, backward) = epilogues(pre, residual);
    let operations = 2 * rows * inputs * outputs;
    let (floats, text) = (rows * (inputs + outputs) + inputs * outputs, format!("{rows} x {inputs} x {outputs}"));
    let epilogue_floats = if matches!(epilogue, Epilogue::None) { 0 } else { rows * outputs };
    table.add("linear", &text, operations, floats + epilogue_floats, || {
        device.linear(shape, x, weight, Some(bias), epilogue, y);
    });
    let epilogue_floats = if matches!(backward, BackwardEpilogue::None) { 0 } else { rows * inputs };
    table.add("linear backward data", &text, operations, floats + epilogue_floats, || {
        device.linear_backward_data(shape, y, weight, backward, x);
    });
    table.add("linear backward weight", &text, operations, floats, || {
        device.linear_backward_weight(shape, y, x, dweight, Some(dbias));
    });
    Ok(())
}

fn bench_image_input<D: Device>(table: &mut Table<D>, spec: &ModelSpec, images: usize) -> Result<()> {
    let (image_size, patch_size) = (spec.vision_cfg.image_size, spec.vision_cfg.patch_size);
    let shape = PatchShape { images, image_size, patch_size };
    let (count, values, width) = (shape.count(), shape.values(), spec.vision_cfg.width);
    let (mut device, (pixels, [patches, projected, class, position, x], [dclass, dposition])) =
        device_with::<D, _>(&table.place, |plan| {
            let pixels = plan.pixels(images * image_size * image_size * 3);
            let tensors = [
                images * count * values,
                images * count * width,
                width,
                (count + 1) * width,
                images * (count + 1) * width,
            ];
            (pixels, tensors.map(|len| plan.tensor(len)), [width, (count + 1) * width].map(|len| plan.stats(len)))
        })?;
    let text = format!("{images} x {image_size} / {patch_size}");
    // A pixel's channel is a quarter of a float.
    let floats = images * count * values + images * image_size * image_size * 3 / 4;
    table.add("patch_embed", &text, 0, floats, || {
        device.extract_patches(shape, Normalization::CLIP, pixels, patches);
    });
    bench_linear::<D>(table, LinearShape::new(images * count, values, width), |_, _| {
        (Epilogue::None, BackwardEpilogue::None)
    })?;
    let shape = PositionShape { images, patches: count, width };
    let (text, floats) = (format!("{images} x {} x {width}", count + 1), 2 * images * (count + 1) * width);
    table.add("position_embed", &text, floats / 2, floats, || {
        device.position_embed(shape, projected, class, position, x);
    });
    table.add("position_embed backward", &text, floats / 2, floats, || {
        device.position_embed_backward(shape, x, projected, dclass, dposition);
    });
    Ok(())
}

fn bench_text_input<D: Device>(table: &mut Table<D>, spec: &ModelSpec, bank: &TextBank, tokens: usize) -> Result<()> {
    let (texts, width, vocabulary) = (bank.len(), spec.text_cfg.width, spec.text_cfg.vocab_size);
    let context = spec.text_cfg.context_length;
    let (mut device, (ids, [weights, position, x], [dtable, dposition])) = device_with::<D, _>(&table.place, |plan| {
        let tensors = [vocabulary * width, context * width, texts * tokens * width].map(|len| plan.tensor(len));
        (plan.ids(texts * tokens), tensors, [vocabulary * width, context * width].map(|len| plan.stats(len)))
    })?;
    let mut padded = Vec::with_capacity(texts * tokens);
    for text in 0..texts {
        padded.extend_from_slice(bank.tokens(text as u32));
        padded.resize((text + 1) * tokens, 0);
    }
    device.write(ids, &padded);
    let shape = TokenShape { texts, tokens, width };
    let (text, values) = (format!("{texts} x {tokens} x {width}"), texts * tokens * width);
    table.add("token_embed", &text, values, 2 * values, || {
        device.token_embed(shape, ids, weights, position.first(tokens * width), x);
    });
    table.add("token_embed backward", &text, values, values + vocabulary * width, || {
        device.token_embed_backward(shape, ids, x, dtable, dposition);
    });
    Ok(())
}

fn bench_objective<D: Device>(table: &mut Table<D>, spec: &ModelSpec, samples: usize) -> Result<()> {
    let width = spec.embed_dim;
    let (mut device, ([image, text, dimage, dtext], [text_of, class_of_text], stats, scalars)) =
        device_with::<D, _>(&table.place, |plan| {
            let tensors = [(); 4].map(|_| plan.tensor(samples * width));
            let ids = [(); 2].map(|_| plan.ids(samples));
            (tensors, ids, [(); 9].map(|_| plan.stats(samples)), [(); 3].map(|_| plan.stats(1)))
        })?;
    let [norm, weight, positive, u1, u2, slope1, slope2, height1, height2] = stats;
    let [log_scale, loss, dlog_scale]: [Stats; 3] = scalars;
    let (shape_text, values) = (format!("{samples} x {width}"), samples * width);
    table.add("l2_normalize", &shape_text, 3 * values, 2 * values, || {
        device.l2_normalize(samples, width, dimage, image, norm);
        device.l2_normalize(samples, width, dtext, text, norm);
    });
    table.add("l2_normalize backward", &shape_text, 4 * values, 3 * values, || {
        device.l2_normalize_backward(samples, width, image, text, norm, dimage);
    });
    device.write(text_of, &(0..samples as u32).collect::<Vec<_>>());
    let shape = ContrastiveShape { samples, texts: samples, width };
    let settings = ContrastiveSettings { surrogate: Surrogate::Linear, negatives: Negatives::All, times_tau: false };
    let inputs = ContrastiveInputs { image, text, text_of, class_of_text, log_scale };
    let saved = ContrastiveSaved { positive, log_u: [u1, u2], slope: [slope1, slope2], height: [height1, height2] };
    let product = 2 * samples * samples * width;
    table.add("contrastive", &shape_text, 2 * product, 2 * values, || {
        device.contrastive(shape, settings, inputs, None, saved);
    });
    table.add("contrastive backward", &shape_text, 3 * product, 4 * values, || {
        device.contrastive_backward(shape, settings, inputs, saved, weight, dimage, dtext, loss, dlog_scale);
    });
    Ok(())
}

fn bench_optimizer<D: Device>(table: &mut Table<D>, spec: &ModelSpec) -> Result<()> {
    let list = ParameterList::of(spec);
    let len = list.arena_len();
    let (mut device, (arenas, norm, rate)) = device_with::<D, _>(&table.place, |plan| {
        let [master, gradients, first_moment, second_moment] = [(); 4].map(|_| plan.stats(len));
        let weights = plan.weights(master);
        (AdamWArenas { master, weights, gradients, first_moment, second_moment }, plan.stats(1), plan.stats(3))
    })?;
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.2, max_norm: 1.0 };
    device.write(rate, &pace(1e-4, &settings, 1).map(|x| x as f32));
    let (text, decayed) = (format!("{len}"), list.decayed());
    table.add("gradient_norm", &text, 2 * len, len, || device.gradient_norm(arenas.gradients, norm));
    table.add("adamw", &text, 14 * len, 7 * len, || device.adamw(settings, rate, arenas, norm, &decayed));
    Ok(())
}
