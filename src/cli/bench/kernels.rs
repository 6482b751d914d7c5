//! Each op at a model's shapes: time, operations and bytes a second, and the share of what the device could do.

use std::time::Instant;

use perennial::error::Result;
use perennial::model::parameters::ParameterList;
use perennial::model::spec::{ModelSpec, TransformerSpec};
use perennial::ops::adamw::{AdamW, AdamWArenas, AdamWSettings, GradientNorm, pace};
use perennial::ops::arena::{AccumulateFisher, AccumulateSquares, Interpolate, QuadraticPenalty};
use perennial::ops::attention::{Attention, AttentionBackward, AttentionShape};
use perennial::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape,
    Negatives, Surrogate,
};
use perennial::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy, SoftTargets};
use perennial::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use perennial::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};
use perennial::ops::layer_norm::{LayerNorm, LayerNormBackward, LayerNormShape};
use perennial::ops::linear::{
    BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape,
};
use perennial::ops::memory::{Kind, Storage, Wide};
use perennial::ops::patch_embed::{Normalization, PatchEmbed, PatchShape};
use perennial::ops::position_embed::{PositionEmbed, PositionEmbedBackward, PositionShape};
use perennial::ops::relu::{Relu, ReluBackward};
use perennial::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use perennial::ops::supcon::SupCon;
use perennial::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};
use perennial::ops::{Backend, Ids, Plan, Span, Stats, Tensor, Write};
use perennial::rng::{rng, unit};
use serde_json::{Value, json};

use super::super::output::put;
use super::{captions, median};

pub fn bench<D: Backend>(place: &D::Place, spec: &ModelSpec, batch: usize) -> Result<Value> {
    let mut table = Table::<D>::open(place)?;
    for (tower, transformer, tokens) in
        [("image", spec.vision(), spec.patches() + 1), ("text", spec.text(), spec.text_cfg.context_length)]
    {
        put!("{tower} tower, {tokens} tokens");
        block(&mut table, transformer, batch, tokens)?;
    }
    put!("ends of the towers, objectives, optimiser");
    image_input(&mut table, spec, batch)?;
    text_input(&mut table, spec, batch)?;
    objective(&mut table, spec.embed_dim, batch)?;
    classifier(&mut table, batch)?;
    similarities(&mut table, spec.embed_dim, batch)?;
    optimizer(&mut table, spec)?;
    Ok(json!({
        "device": table.device,
        "ceilings": { "gflops": table.operations / 1e9, "gb_per_second": table.bytes / 1e9 },
        "ops": table.rows,
    }))
}

/// Memory of an op in as many copies as it takes that each finds nothing of its own in a cache.
struct Bench<D, S> {
    device: D,
    copies: Vec<S>,
}

impl<D: Backend, S> Bench<D, S> {
    /// All floats lie between 0.1 and 1.
    fn new(place: &D::Place, build: impl Fn(&mut Plan) -> S) -> Result<Bench<D, S>> {
        let mut plan = Plan::new::<D>();
        let empty = plan.bytes();
        let mut copies = vec![build(&mut plan)];
        let bytes = plan.bytes() - empty;
        for _ in 0..(D::CACHE_BYTES / bytes.max(1)).min(64) {
            copies.push(build(&mut plan));
        }
        let mut device = D::with_plan(place, &plan)?;
        let [storage, wide, _, _] = plan.elements();
        let mut generator = rng(0, "operands", &[]);
        let values: Vec<f32> = (0..1 << 20).map(|_| 0.1 + 0.9 * unit(&mut generator) as f32).collect();
        repeat::<D, Storage>(&mut device, storage, &values);
        repeat::<D, Wide>(&mut device, wide, &values);
        Ok(Bench { device, copies })
    }

    /// Median seconds of one run of `work`: at least 7 samples, each long enough for a clock, until the times settle.
    fn time(&mut self, work: impl Fn(&mut D, &S)) -> Result<f64> {
        const SHORTEST: f64 = 2e-4;
        // A GPU has no other programs on it.
        let longest = if D::CACHE_BYTES > 0 { 0.2 } else { 0.5 };
        let mut turn = 0;
        let mut sample = |device: &mut D, runs: usize| {
            let copies = &self.copies;
            let seconds = device.time(|device| {
                for _ in 0..runs {
                    work(device, &copies[turn % copies.len()]);
                    turn += 1;
                }
            })?;
            Ok(seconds / runs as f64)
        };
        sample(&mut self.device, 1)?;
        let runs = (SHORTEST / sample(&mut self.device, 1)?).ceil().clamp(1.0, 1000.0) as usize;
        let (start, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < 7 || (start.elapsed().as_secs_f64() < longest && seconds.len() < 50) {
            seconds.push(sample(&mut self.device, runs)?);
        }
        Ok(median(seconds))
    }
}

/// Fills a pool of `len` elements with `values`, again and again: sent once, copied on the device.
fn repeat<D: Backend, K: Kind<Host = f32>>(device: &mut D, len: usize, values: &[f32]) {
    let first = Span::<K>::new(0, values.len().min(len));
    device.write(first, &values[..first.len()]);
    for start in (first.len()..len).step_by(values.len()) {
        let part = Span::new(start, values.len().min(len - start));
        device.copy(first.first(part.len()), part);
    }
}

/// The fewest values that an op must read and write: in storage precision, and of four bytes.
struct Traffic {
    storage: usize,
    wide: usize,
}

/// The table as it grows, and what the device can do at best: operations and bytes a second.
struct Table<D: Backend> {
    place: D::Place,
    device: String,
    operations: f64,
    bytes: f64,
    rows: Vec<Value>,
}

impl<D: Backend> Table<D> {
    /// Measures the ceilings, in the same run as all else.
    fn open(place: &D::Place) -> Result<Table<D>> {
        // A product large enough to fill a GPU where there is one.
        let side = if D::CACHE_BYTES > 0 { 8192 } else { 1024 };
        let mut product = Bench::<D, _>::new(place, |plan| [(); 3].map(|()| plan.tensor(side * side)))?;
        let shape = LinearShape::new(side, side, side);
        let seconds = product.time(|device, &[x, weight, y]| {
            device.run(Linear { shape, x, weight, bias: None, epilogue: Epilogue::None, y });
        })?;
        let operations = 2.0 * (side as f64).powi(3) / seconds;
        let device = product.device.name();
        drop(product);
        // Larger than any cache.
        let values = 1 << 27;
        let mut copy = Bench::<D, _>::new(place, |plan| [(); 2].map(|()| plan.stats(values)))?;
        let seconds = copy.time(|device, &[from, to]| device.copy(from, to))?;
        let bytes = 8.0 * values as f64 / seconds;
        put!(
            "{device}; ceilings: products {:.1} GFLOP/s, copies {:.1} GB/s; what stays in a cache can pass the latter",
            operations / 1e9,
            bytes / 1e9
        );
        put!("{:<24} {:<26} {:>10} {:>10} {:>8} {:>8}", "op", "shape", "us", "GFLOP/s", "GB/s", "% floor");
        Ok(Table { place: place.clone(), device, operations, bytes, rows: Vec::new() })
    }

    fn bench<S>(&self, build: impl Fn(&mut Plan) -> S) -> Result<Bench<D, S>> {
        Bench::new(&self.place, build)
    }

    /// Times `work` and adds its line.
    fn add<S>(
        &mut self,
        (op, shape): (&str, &str),
        operations: usize,
        Traffic { storage, wide }: Traffic,
        bench: &mut Bench<D, S>,
        work: impl Fn(&mut D, &S),
    ) -> Result<()> {
        let seconds = bench.time(work)?;
        let (operations, bytes) = (operations as f64, (D::STORAGE_BYTES * storage + 4 * wide) as f64);
        let floor = (operations / self.operations).max(bytes / self.bytes);
        let (gflops, gbs, share) = (operations / seconds / 1e9, bytes / seconds / 1e9, 100.0 * floor / seconds);
        put!("{op:<24} {shape:<26} {:>10.1} {gflops:>10.1} {gbs:>8.1} {share:>8.1}", seconds * 1e6);
        self.rows.push(json!({
            "op": op, "shape": shape, "seconds": seconds, "gflops": gflops, "gb_per_second": gbs,
            "percent_of_floor": share,
        }));
        Ok(())
    }
}

/// The ops of one residual attention block.
fn block<D: Backend>(table: &mut Table<D>, spec: TransformerSpec, samples: usize, tokens: usize) -> Result<()> {
    let (rows, width, hidden, kind) = (samples * tokens, spec.width, spec.hidden, spec.activation);
    for (name, inputs, outputs) in
        [("in_proj", width, 3 * width), ("out_proj", width, width), ("c_fc", width, hidden), ("c_proj", hidden, width)]
    {
        linear(table, LinearShape::new(rows, inputs, outputs), |pre, residual| match name {
            "c_fc" => (Epilogue::Activation { kind, pre }, BackwardEpilogue::None),
            "c_proj" => (Epilogue::Residual(residual), BackwardEpilogue::Activation { kind, pre }),
            "out_proj" => (Epilogue::Residual(residual), BackwardEpilogue::None),
            _ => (Epilogue::None, BackwardEpilogue::None),
        })?;
    }

    let shape = AttentionShape { samples, tokens, heads: spec.heads, head_dim: spec.head_dim(), causal: spec.causal };
    let mut bench = table.bench(|plan| {
        let tensors = [3, 1, 1, 3].map(|widths| plan.tensor(rows * widths * width));
        (tensors, plan.stats(rows * spec.heads))
    })?;
    let text = format!("{samples} x {} x {tokens} x {}", spec.heads, spec.head_dim());
    // A causal row sees half of the tokens on average.
    let seen = if spec.causal { tokens.div_ceil(2) } else { tokens };
    let (product, values) = (2 * rows * seen * width, rows * width);
    let traffic = Traffic { storage: 4 * values, wide: rows * spec.heads };
    table.add(("attention", &text), 2 * product, traffic, &mut bench, |device, &([qkv, out, ..], log_sum_exp)| {
        device.run(Attention { shape, qkv, out, log_sum_exp });
    })?;
    let traffic = Traffic { storage: 8 * values, wide: rows * spec.heads };
    let backward = ("attention backward", text.as_str());
    table.add(backward, 5 * product, traffic, &mut bench, |device, &([qkv, out, dout, dqkv], log_sum_exp)| {
        device.run(AttentionBackward { shape, qkv, out, log_sum_exp, dout, dqkv });
    })?;

    let shape = LayerNormShape { rows, width, eps: ModelSpec::LAYER_NORM_EPS };
    let mut bench = table.bench(|plan| {
        let tensors = [values, values, values, width, width].map(|len| plan.tensor(len));
        (tensors, [rows, rows, width, width].map(|len| plan.stats(len)))
    })?;
    let text = format!("{rows} x {width}");
    let traffic = Traffic { storage: 2 * values, wide: 2 * rows };
    table.add(("layer_norm", &text), 7 * values, traffic, &mut bench, |device, &(tensors, stats)| {
        let ([x, y, _, gamma, beta], [mean, rstd, ..]) = (tensors, stats);
        device.run(LayerNorm { shape, x, gamma, beta, y, mean, rstd });
    })?;
    let traffic = Traffic { storage: 4 * values, wide: 2 * rows };
    table.add(("layer_norm backward", &text), 14 * values, traffic, &mut bench, |device, &(tensors, stats)| {
        let ([x, y, dx, gamma, _], [mean, rstd, dgamma, dbeta]) = (tensors, stats);
        device.run(LayerNormBackward { shape, dy: y, x, gamma, mean, rstd, write: Write::Add, dx, dgamma, dbeta });
    })
}

/// One linear map forward and backward; `epilogues` makes them from `pre` and a residual.
fn linear<D: Backend>(
    table: &mut Table<D>,
    shape: LinearShape,
    epilogues: impl Fn(Tensor, Tensor) -> (Epilogue, BackwardEpilogue),
) -> Result<()> {
    let LinearShape { rows, inputs, outputs, .. } = shape;
    let mut bench = table.bench(|plan| {
        let wide = inputs.max(outputs);
        let tensors = [inputs, outputs, wide, outputs].map(|width| plan.tensor(rows * width));
        let weights = [outputs * inputs, outputs].map(|len| plan.tensor(len));
        let gradients = [outputs * inputs, outputs].map(|len| plan.stats(len));
        (tensors, weights, gradients)
    })?;
    let operations = 2 * rows * inputs * outputs;
    let (floats, text) = (rows * (inputs + outputs), format!("{rows} x {inputs} x {outputs}"));
    let &([_, _, pre, residual], ..) = &bench.copies[0];
    let (epilogue, backward) = epilogues(pre, residual);
    let beside = if matches!(epilogue, Epilogue::None) { 0 } else { rows * outputs };
    let traffic = Traffic { storage: floats + beside + inputs * outputs, wide: 0 };
    table.add(("linear", &text), operations, traffic, &mut bench, |device, &(tensors, [weight, bias], _)| {
        let [x, y, pre, residual] = tensors;
        device.run(Linear { shape, x, weight, bias: Some(bias), epilogue: epilogues(pre, residual).0, y });
    })?;
    let beside = if matches!(backward, BackwardEpilogue::None) { 0 } else { rows * inputs };
    let traffic = Traffic { storage: floats + beside + inputs * outputs, wide: 0 };
    let data = ("linear backward data", text.as_str());
    table.add(data, operations, traffic, &mut bench, |device, &(tensors, [weight, _], _)| {
        let [x, y, pre, residual] = tensors;
        device.run(LinearBackwardData { shape, dy: y, weight, epilogue: epilogues(pre, residual).1, dx: x });
    })?;
    let traffic = Traffic { storage: floats, wide: inputs * outputs };
    let weight = ("linear backward weight", text.as_str());
    table.add(weight, operations, traffic, &mut bench, |device, &([x, y, ..], _, [dweight, dbias])| {
        device.run(LinearBackwardWeight { shape, dy: y, x, dweight, dbias: Some(dbias) });
    })
}

fn image_input<D: Backend>(table: &mut Table<D>, spec: &ModelSpec, images: usize) -> Result<()> {
    let (image_size, patch_size) = (spec.vision_cfg.image_size, spec.vision_cfg.patch_size);
    let shape = PatchShape { images, image_size, patch_size };
    let (count, values, width) = (shape.count(), shape.values(), spec.vision_cfg.width);
    let position = PositionShape { images, patches: count, width };
    let mut bench = table.bench(|plan| {
        let pixels = plan.pixels(images * image_size * image_size * 3);
        let tokens = images * (count + 1) * width;
        let tensors = [images * count * values, images * count * width, width, (count + 1) * width, tokens];
        let stats = [width, (count + 1) * width].map(|len| plan.stats(len));
        (pixels, tensors.map(|len| plan.tensor(len)), stats)
    })?;
    let text = format!("{images} x {image_size} / {patch_size}");
    // A pixel's channel is a quarter of a float.
    let traffic = Traffic { storage: images * count * values, wide: images * image_size * image_size * 3 / 4 };
    table.add(("patch_embed", &text), 0, traffic, &mut bench, |device, &(pixels, [patches, ..], _)| {
        device.run(PatchEmbed { shape, normalization: Normalization::CLIP, pixels, patches });
    })?;
    let (text, floats) = (format!("{images} x {} x {width}", count + 1), 2 * images * (count + 1) * width);
    let traffic = || Traffic { storage: floats, wide: 0 };
    table.add(("position_embed", &text), floats / 2, traffic(), &mut bench, |device, &(_, tensors, _)| {
        let [_, projected, class, positions, x] = tensors;
        device.run(PositionEmbed { shape: position, patches: projected, class, position: positions, x });
    })?;
    let backward = ("position_embed backward", text.as_str());
    table.add(backward, floats / 2, traffic(), &mut bench, |device, &(_, [_, projected, .., x], stats)| {
        device.run(PositionEmbedBackward {
            shape: position,
            dx: x,
            dpatches: projected,
            dclass: stats[0],
            dposition: stats[1],
        });
    })?;
    linear(table, LinearShape::new(images * count, values, width), |_, _| (Epilogue::None, BackwardEpilogue::None))
}

fn text_input<D: Backend>(table: &mut Table<D>, spec: &ModelSpec, texts: usize) -> Result<()> {
    let (width, vocabulary, tokens) = (spec.text_cfg.width, spec.text_cfg.vocab_size, spec.text_cfg.context_length);
    let mut bench = table.bench(|plan| {
        let tensors = [vocabulary * width, tokens * width, texts * tokens * width].map(|len| plan.tensor(len));
        (plan.ids(texts * tokens), tensors, [vocabulary * width, tokens * width].map(|len| plan.stats(len)))
    })?;
    let bank = captions(spec, texts)?;
    let mut padded = Vec::with_capacity(texts * tokens);
    for text in 0..texts {
        padded.extend_from_slice(bank.tokens(text as u32));
        padded.resize((text + 1) * tokens, 0);
    }
    for (ids, ..) in &bench.copies {
        bench.device.write(*ids, &padded);
    }
    let shape = TokenShape { texts, tokens, width };
    let (text, values) = (format!("{texts} x {tokens} x {width}"), texts * tokens * width);
    let traffic = Traffic { storage: 2 * values, wide: texts * tokens };
    table.add(("token_embed", &text), values, traffic, &mut bench, |device, &(ids, [weights, position, x], _)| {
        device.run(TokenEmbed { shape, ids, table: weights, position, x });
    })?;
    let traffic = Traffic { storage: values, wide: vocabulary * width };
    let backward = ("token_embed backward", text.as_str());
    table.add(backward, values, traffic, &mut bench, |device, &(ids, [_, _, x], [dtable, dposition])| {
        device.run(TokenEmbedBackward { shape, ids, dx: x, dtable, dposition });
    })
}

fn objective<D: Backend>(table: &mut Table<D>, width: usize, samples: usize) -> Result<()> {
    let mut bench = table.bench(|plan| {
        let tensors = [(); 4].map(|_| plan.tensor(samples * width));
        let ids = [(); 2].map(|_| plan.ids(samples));
        (tensors, ids, [(); 9].map(|_| plan.stats(samples)), [(); 3].map(|_| plan.stats(1)))
    })?;
    let (text, values) = (format!("{samples} x {width}"), samples * width);
    let traffic = Traffic { storage: 4 * values, wide: 2 * samples };
    table.add(("l2_normalize", &text), 6 * values, traffic, &mut bench, |device, &(tensors, _, stats, _)| {
        let ([image, text, dimage, dtext], norm) = (tensors, stats[0]);
        device.run(L2Normalize { rows: samples, width, x: dimage, y: image, norm });
        device.run(L2Normalize { rows: samples, width, x: dtext, y: text, norm });
    })?;
    let traffic = Traffic { storage: 3 * values, wide: samples };
    let backward = ("l2_normalize backward", text.as_str());
    table.add(backward, 4 * values, traffic, &mut bench, |device, &([image, text, dimage, _], _, stats, _)| {
        device.run(L2NormalizeBackward { rows: samples, width, dy: image, y: text, norm: stats[0], dx: dimage });
    })?;
    for (_, [text_of, _], ..) in &bench.copies {
        bench.device.write(*text_of, &(0..samples as u32).collect::<Vec<_>>());
    }
    let shape = ContrastiveShape { samples, texts: samples, width };
    let settings = ContrastiveSettings { surrogate: Surrogate::Linear, negatives: Negatives::All, times_tau: false };
    let inputs = |[image, text, ..]: [Tensor; 4], [text_of, class_of_text]: [Ids; 2], log_scale: Stats| {
        ContrastiveInputs { image, text, text_of, class_of_text, log_scale }
    };
    let saved = |[_, _, positive, u1, u2, slope1, slope2, height1, height2]: [Stats; 9]| ContrastiveSaved {
        positive,
        log_u: [u1, u2],
        slope: [slope1, slope2],
        height: [height1, height2],
    };
    let product = 2 * samples * samples * width;
    let traffic = Traffic { storage: 2 * values, wide: 7 * samples };
    table.add(
        ("contrastive", &text),
        2 * product,
        traffic,
        &mut bench,
        |device, &(tensors, ids, stats, scalars)| {
            device.run(Contrastive {
                shape,
                settings,
                inputs: inputs(tensors, ids, scalars[0]),
                averages: None,
                saved: saved(stats),
            });
        },
    )?;
    let traffic = Traffic { storage: 4 * values, wide: 8 * samples };
    let backward = ("contrastive backward", text.as_str());
    table.add(backward, 3 * product, traffic, &mut bench, |device, &(tensors, ids, stats, scalars)| {
        let ([_, _, dimage, dtext], [log_scale, loss, dlog_scale]) = (tensors, scalars);
        let (inputs, saved) = (inputs(tensors, ids, log_scale), saved(stats));
        device.run(ContrastiveBackward {
            shape,
            settings,
            inputs,
            saved,
            weight: stats[1],
            dimage,
            dtext,
            loss,
            dlog_scale,
        });
    })
}

/// The losses of a head of a thousand classes, and the rectifier of a projector.
fn classifier<D: Backend>(table: &mut Table<D>, rows: usize) -> Result<()> {
    let shape = LogitsShape { rows, columns: 1000, stride: 1000 };
    let values = rows * shape.columns;
    let mut bench = table.bench(|plan| {
        let tensors = [(); 3].map(|_| plan.tensor(values));
        (tensors, plan.ids(rows), plan.stats(1))
    })?;
    let text = format!("{rows} x {}", shape.columns);
    let traffic = Traffic { storage: 2 * values, wide: 0 };
    table.add(("cross_entropy", &text), 10 * values, traffic, &mut bench, |device, &(tensors, label, loss)| {
        let [logits, _, dlogits] = tensors;
        device.run(CrossEntropy { shape, logits, divisor: None, label, weight: 1.0, write: Write::Set, loss, dlogits });
    })?;
    let traffic = Traffic { storage: 3 * values, wide: 0 };
    let soft = ("soft cross_entropy", text.as_str());
    table.add(soft, 20 * values, traffic, &mut bench, |device, &([logits, teacher, dlogits], _, loss)| {
        let targets = SoftTargets { temperature: 2.0, balance: None };
        device.run(SoftCrossEntropy { shape, logits, teacher, targets, weight: 1.0, write: Write::Set, loss, dlogits });
    })?;
    let traffic = Traffic { storage: 2 * values, wide: 0 };
    table.add(("relu", &text), values, traffic, &mut bench, |device, &([x, y, _], ..)| device.run(Relu { x, y }))?;
    let traffic = Traffic { storage: 3 * values, wide: 0 };
    let backward = ("relu backward", text.as_str());
    table
        .add(backward, values, traffic, &mut bench, |device, &([dy, y, dx], ..)| device.run(ReluBackward { dy, y, dx }))
}

/// What works on a whole matrix of similarities.
fn similarities<D: Backend>(table: &mut Table<D>, width: usize, samples: usize) -> Result<()> {
    let pairs = samples * samples;
    let mut bench = table.bench(|plan| {
        let tensors = [(); 3].map(|_| plan.tensor(samples * width));
        (tensors, [(); 3].map(|_| plan.stats(pairs)), plan.stats(1), plan.ids(samples))
    })?;
    for (.., class) in &bench.copies {
        bench.device.write(*class, &(0..samples as u32).map(|i| i % 10).collect::<Vec<_>>());
    }
    let (text, values) = (format!("{samples} x {width}"), samples * width);
    let shape = SimilarityShape { rows: samples, columns: samples, width };
    let traffic = || Traffic { storage: 2 * values, wide: pairs };
    table.add(
        ("similarity", &text),
        2 * pairs * width,
        traffic(),
        &mut bench,
        |device, &([a, b, _], [s, ..], ..)| {
            device.run(Similarity { shape, a, b, s });
        },
    )?;
    let rows = ("similarity backward rows", text.as_str());
    table.add(rows, 2 * pairs * width, traffic(), &mut bench, |device, &([_, b, da], [ds, ..], ..)| {
        device.run(SimilarityBackward { shape, ds, b, write: Write::Set, da });
    })?;
    let columns = ("similarity backward cols", text.as_str());
    table.add(columns, 2 * pairs * width, traffic(), &mut bench, |device, &([a, _, db], [ds, ..], ..)| {
        device.run(SimilarityBackwardColumns { shape, ds, a, write: Write::Set, db });
    })?;
    let (text, traffic) = (format!("{samples} x {samples}"), Traffic { storage: 0, wide: 2 * pairs });
    table.add(("supcon", &text), 5 * pairs, traffic, &mut bench, |device, &(_, [s, _, ds], loss, class)| {
        device.run(SupCon { samples, tau: 0.1, s, class, anchor: None, loss, ds });
    })?;
    let settings =
        DistillationSettings { tau: 0.2, teacher_tau: 0.01, exclude_self: true, divergence: false, weight: 1.0 };
    let once = Multiplicity { row: None, column: None };
    let traffic = Traffic { storage: 0, wide: 3 * pairs };
    table.add(("distillation", &text), 10 * pairs, traffic, &mut bench, |device, &(_, [s, teacher, ds], loss, _)| {
        device.run(Distillation {
            rows: samples,
            columns: samples,
            settings,
            multiplicity: once,
            s,
            teacher,
            write: Write::Set,
            loss,
            ds,
        });
    })
}

fn optimizer<D: Backend>(table: &mut Table<D>, spec: &ModelSpec) -> Result<()> {
    let list = ParameterList::of(spec);
    let len = list.arena_len();
    let mut bench = table.bench(|plan| {
        let [master, gradients, first_moment, second_moment] = [(); 4].map(|_| plan.stats(len));
        let weights = plan.weights(master);
        let arenas = AdamWArenas { master, weights, gradients, first_moment, second_moment };
        (arenas, plan.stats(1), plan.stats(3))
    })?;
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.2, max_norm: 1.0 };
    for (.., rate) in &bench.copies {
        bench.device.write(*rate, &pace(1e-4, &settings, 1).map(|x| x as f32));
    }
    let (text, decayed) = (format!("{len}"), list.decayed());
    let traffic = Traffic { storage: 0, wide: len };
    table.add(("gradient_norm", &text), 2 * len, traffic, &mut bench, |device, &(arenas, norm, _)| {
        device.run(GradientNorm { gradients: arenas.gradients, norm });
    })?;
    // Four arenas read and three written; the storage copy too where it is another.
    let traffic = Traffic { storage: if D::STORAGE_BYTES < 4 { len } else { 0 }, wide: 7 * len };
    table.add(("adamw", &text), 14 * len, traffic, &mut bench, |device, &(arenas, norm, rate)| {
        device.run(AdamW { settings, pace: rate, arenas, norm, decayed: &decayed });
    })?;
    let traffic = || Traffic { storage: 0, wide: 3 * len };
    table.add(("interpolate", &text), 3 * len, traffic(), &mut bench, |device, &(arenas, ..)| {
        device.run(Interpolate { alpha: 0.5, y: arenas.first_moment, x: arenas.master });
    })?;
    table.add(("accumulate_squares", &text), 2 * len, traffic(), &mut bench, |device, &(arenas, ..)| {
        device.run(AccumulateSquares { gradients: arenas.gradients, squares: arenas.second_moment });
    })?;
    table.add(("accumulate_fisher", &text), 3 * len, traffic(), &mut bench, |device, &(arenas, ..)| {
        device.run(AccumulateFisher {
            scale: 0.5,
            limit: 0.5,
            squares: arenas.second_moment,
            fisher: arenas.first_moment,
        });
    })?;
    let traffic = Traffic { storage: 0, wide: 5 * len };
    table.add(("quadratic_penalty", &text), 6 * len, traffic, &mut bench, |device, &(arenas, loss, _)| {
        let AdamWArenas { master, gradients, first_moment, second_moment, .. } = arenas;
        device.run(QuadraticPenalty {
            strength: 1.0,
            fisher: second_moment,
            anchor: first_moment,
            master,
            gradients,
            loss,
        });
    })
}
