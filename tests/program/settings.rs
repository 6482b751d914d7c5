//! Settings change what they say in a run: learning rates, the memory, what is measured, how a method classifies.

use std::fs;
use std::path::Path;

use approx::assert_abs_diff_eq;
use perennial::data::Label;
use perennial::data::loader::{Augment, BatchRequest, Loader, LoaderOptions};
use perennial::experiment::{Evaluation, Prediction, RunDirectory, Setup};
use perennial::memory::Memory;
use perennial::model::checkpoint::{self, TensorFile};
use perennial::model::clip::{Capacity, Clip};
use perennial::model::transformer::Purpose;
use perennial::ops::cpu::Cpu;
use perennial::ops::{DeviceMemory as _, Plan};
use perennial::train::{Order, Schedule, Stage, TrainBatch};
use serde_json::Value;

use crate::runs::{assert_same_result, result};
use crate::setups::{TINY_RUN, TINY_TIC, setup};
use crate::support::succeed;

/// Runs `preset` and returns its log.
fn log(preset: &str, out: &Path, arguments: &[&str]) -> Vec<Value> {
    let fixed = ["run", preset, "--out", out.to_str().unwrap(), "--set", "train.log_every=1"];
    succeed(&fixed.iter().chain(arguments).copied().collect::<Vec<_>>());
    result(out).1
}

/// Moments are kept where the next step goes on with the same model and the same loss.
#[test]
fn a_model_that_is_trained_anew_has_no_moments() {
    let folder = tempfile::tempdir().unwrap();
    for (method, same) in [("sequential", false), ("restart", true)] {
        let run = |keep: &str| {
            let out = folder.path().join(format!("{method}-{keep}"));
            let keep = format!("train.keep_optimizer={keep}");
            log(TINY_RUN, &out, &["--method", method, "--set", "train.samples=96", "--set", &keep]);
            checkpoint_bytes(&out)
        };
        assert_eq!(run("true") == run("false"), same, "{method}");
    }
}

/// The weights after the last step.
fn checkpoint_bytes(run: &Path) -> Vec<u8> {
    fs::read(run.join("checkpoints/step-003.safetensors")).unwrap()
}

/// The learning rates of each step.
fn rates(log: &[Value]) -> Vec<Vec<f64>> {
    let mut steps: Vec<Vec<f64>> = Vec::new();
    for line in log {
        let Some(rate) = line["learning_rate"].as_f64() else { continue };
        let step = line["step"].as_u64().unwrap() as usize;
        steps.resize(step.max(steps.len()), Vec::new());
        steps[step - 1].push(rate);
    }
    steps
}

#[test]
fn the_maximum_decays_and_later_steps_warm_up_when_they_are_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let run_of = |method: &str, name: &str, settings: &[&str]| {
        let mut arguments = vec!["--method", method, "--set", "train.samples=160", "--set", "train.warmup=2"];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        rates(&log(TINY_RUN, &folder.path().join(name), &arguments))
    };
    let run = |name: &str, settings: &[&str]| run_of("sequential", name, settings);
    let same = |found: f64, expected: f64| assert_abs_diff_eq!(found, expected, epsilon = 1e-12);
    let plain = run("plain", &[]);
    assert_eq!(plain.len(), 3);
    let maximum = 1e-3;
    same(plain[0][0], maximum / 2.0);
    same(plain[0][1], maximum);
    for later in &plain[1..] {
        same(later[0], maximum);
        assert!(later.is_sorted_by(|a, b| a > b), "only the first step warms up: {later:?}");
    }
    // A model that is trained anew at every step warms up at every step, and its maximum stays.
    for rates in run_of("restart", "anew", &["train.learning_rate_decay=0.5"]) {
        same(rates[0], maximum / 2.0);
        same(rates[1], maximum);
        assert!(rates[1..].is_sorted_by(|a, b| a >= b), "{rates:?}");
    }
    let decayed = run("decayed", &["train.learning_rate_decay=0.5", "train.warmup_every_step=true"]);
    for (step, rates) in decayed.iter().enumerate() {
        let maximum = maximum * 0.5f64.powi(step as i32);
        same(rates[0], maximum / 2.0);
        same(rates[1], maximum);
        assert!(rates[1..].is_sorted_by(|a, b| a >= b) && *rates.last().unwrap() < maximum);
    }
}

#[test]
fn how_often_a_run_is_saved_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [often, never] = ["1", "1000"].map(|every| {
        let out = folder.path().join(every);
        let setting = format!("train.save_every={every}");
        log(TINY_RUN, &out, &["--method", "sequential", "--set", "train.samples=256", "--set", &setting]);
        out
    });
    assert_same_result("save_every", &often, &never);
}

#[test]
fn the_memory_keeps_what_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |size: &str| {
        let out = folder.path().join(size);
        log(TINY_RUN, &out, &["--method", "gcl", "--memory", size, "--set", "train.samples=64"]);
        let state = TensorFile::load(&out.join("checkpoints/state.safetensors")).unwrap();
        (state.shape("memory.indices").unwrap()[0], state.shape("memory.classes").unwrap()[0])
    };
    // 94 classes: one sample each of a memory of 120, two of 200.
    assert_eq!(kept("0"), (0, 94));
    assert_eq!(kept("120"), (94, 94));
    let (samples, _) = kept("200");
    assert!((150..=188).contains(&samples), "{samples}: classes may have but one sample");
}

#[test]
fn everything_that_is_measured_over_time_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let printed = succeed(&["run", TINY_TIC, "--out", out.to_str().unwrap()]);
    let setup = setup(TINY_TIC, "sequential", &[]);
    let evaluation = RunDirectory::read_evaluation(&out).unwrap();
    let Evaluation { matrix, dynamic, static_sets, spent, .. } = &evaluation;

    // Budgets, to within a batch.
    assert_eq!(spent.len(), 3);
    for (step, spent) in spent.iter().enumerate() {
        assert!(spent.samples.abs_diff(96 * (step as u64 + 1)) <= 32 * (step as u64 + 1), "{spent:?}");
        let images = spent.samples * setup.model.image_macs();
        let longest = setup.model.text_macs(setup.model.text_cfg.context_length);
        assert!((images + 1..=images + spent.samples * longest).contains(&spent.macs), "{spent:?}");
    }
    let last = spent.last().unwrap();
    assert_eq!((last.samples, last.macs), (evaluation.samples_spent, evaluation.macs_spent));

    let names: Vec<&str> = dynamic.keys().map(String::as_str).collect();
    let expected = [
        "classification",
        "image_to_text_recall@1",
        "image_to_text_recall@10",
        "image_to_text_recall@5",
        "text_to_image_recall@1",
        "text_to_image_recall@10",
        "text_to_image_recall@5",
    ];
    assert_eq!(names, expected);
    for (name, dynamic) in dynamic {
        assert!(dynamic.len() == 3 && dynamic.iter().all(|row| row.len() == 3), "{name}");
        assert!(printed.contains(name), "{name} is not in:\n{printed}");
    }
    for (step, row) in matrix.iter().enumerate() {
        for (task, mean) in row.iter().enumerate() {
            let value = |name: &str| dynamic[name][step][task].unwrap();
            for direction in ["image_to_text", "text_to_image"] {
                let recalls = [1, 5, 10].map(|at| value(&format!("{direction}_recall@{at}")));
                assert!(recalls.is_sorted(), "{direction}: {recalls:?}");
            }
            let both = (value("image_to_text_recall@1") + value("text_to_image_recall@1")) / 2.0;
            assert_eq!(mean.unwrap(), both);
        }
    }
    assert_eq!(static_sets.keys().collect::<Vec<_>>(), ["noto-v1 accuracy", "noto-v1 mean_recall@1"]);
    assert!(static_sets.values().all(|series| series.len() == 3 && series.iter().all(Option::is_some)));
    let place = |text: &str| printed.find(text).unwrap_or_else(|| panic!("{text} is not in:\n{printed}"));
    assert!(place("image_to_text_recall@5") < place("image_to_text_recall@10"));
    assert!(place("set                    after 1  after 2  after 3") < place("noto-v1 accuracy"));

    let predictions = RunDirectory::read_predictions(&out).unwrap();
    let right = predictions.iter().filter(|prediction| prediction.truth == prediction.predicted).count();
    let total = matrix[2].len() as f64;
    assert!(total == 3.0 && right <= 12 && predictions.len() - right == 12, "{predictions:?}");
    for Prediction { sample, task, truth, .. } in &predictions {
        assert!(setup.stream.steps[*task].test.contains(sample));
        assert_eq!(setup.dataset.samples[*sample as usize].caption, *truth);
    }
}

#[test]
fn predictions_of_a_classification_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    log(TINY_RUN, &out, &["--method", "zero-shot"]);
    let setup = setup(TINY_RUN, "zero-shot", &[]);
    let predictions = RunDirectory::read_predictions(&out).unwrap();
    assert!(predictions.iter().any(|prediction| prediction.truth != prediction.predicted));
    let class = |name: &String| setup.dataset.classes.iter().position(|class| class == name).unwrap();
    for Prediction { sample, task, truth, predicted } in &predictions {
        assert!(setup.stream.steps[*task].test.contains(sample));
        assert_eq!(setup.dataset.samples[*sample as usize].class.index(), class(truth));
        class(predicted);
    }
    let evaluation = RunDirectory::read_evaluation(&out).unwrap();
    assert!(evaluation.dynamic.is_empty() && evaluation.static_sets.is_empty());
}

/// The batches of some requests, loaded as a run loads them.
fn load(setup: &Setup, requests: Vec<BatchRequest>) -> Loader {
    let options = LoaderOptions { threads: 1, prefetch: 2, max_broken: 0 };
    Loader::new(setup.dataset.clone(), requests.into_iter(), setup.model.vision_cfg.image_size, options).unwrap()
}

/// What the main stage of step `step`, of a method that learns by the clip loss, makes of the parameters `start`.
fn trained(setup: &Setup, step: usize, start: &[f32]) -> Vec<f32> {
    let (plan, build) = setup.plan::<Cpu<f32>>(&setup.trainer_spec());
    let mut trainer = build(Cpu::with_plan(&(), &plan).unwrap());
    trainer.clip.load(&mut *trainer.device, start);
    trainer.optimizer.reset(&mut *trainer.device);
    let (config, pool) = (&setup.config, setup.pool(step, Stage::Main, &Memory::new(0, 0)));
    let budget = setup.budget(step, Stage::Main, pool.len());
    let mut order = Order::new(pool, budget, config.train.batch, config.seed, step);
    let iterations = order.iterations();
    let schedule = Schedule { maximum: config.train.learning_rate, warmup: 0, total: iterations };
    let request = |iteration: usize| {
        let place = [step as u64, order.epoch_of(iteration) as u64];
        let augment = Augment { seed: config.seed, place, scale: config.data.crop, views: 1 };
        BatchRequest { samples: order.batch(iteration), augment: Some(augment) }
    };
    let requests = (0..iterations).map(request).collect();
    for (iteration, batch) in load(setup, requests).enumerate() {
        let batch = batch.unwrap();
        let texts: Vec<u32> = batch.samples.iter().map(|sample| setup.text_of(*sample, 0)).collect();
        let texts = setup.texts.batch(&texts);
        let batch =
            TrainBatch { pixels: &batch.pixels, texts: Some(&texts), slot: &batch.samples, ..Default::default() };
        trainer.iterate(batch, schedule.at(iteration)).unwrap();
    }
    trainer.parameters()
}

#[test]
fn patching_lies_between_the_last_checkpoint_and_what_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("patching");
    let settings = [
        "stream.tasks=4",
        "train.epochs=6",
        "train.learning_rate=2e-3",
        "train.save_every=1",
        "patching.validation=0.3",
    ];
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let lines = log(TINY_RUN, &out, &[&["--method", "patching"], &arguments[..]].concat());
    let setup = setup(TINY_RUN, "patching", &settings);
    let parameters = |step: usize| -> Vec<f32> {
        let path = out.join(format!("checkpoints/step-{:03}.safetensors", step + 1));
        checkpoint::load(&path, &setup.model).unwrap().values
    };
    let mut between = 0;
    for step in 1..4 {
        let mut chosen = lines.iter().filter(|line| line["step"] == step + 1).filter_map(|line| line["alpha"].as_f64());
        let (alpha, rest) = (chosen.next().unwrap(), chosen.next());
        assert_eq!(rest, None, "one choice a step");
        between += usize::from(alpha > 0.0 && alpha < 1.0);
        let (before, after) = (parameters(step - 1), parameters(step));
        let trained = trained(&setup, step, &before);
        assert_ne!(trained, before);
        for ((before, after), trained) in before.iter().zip(&after).zip(&trained) {
            let expected = (1.0 - alpha) * f64::from(*before) + alpha * f64::from(*trained);
            // Two products and a sum in f32, each off by half a unit in the last place at most; and so are 1 - alpha and alpha.
            let tolerance = 2.5 * f64::from(f32::EPSILON) * f64::from(before.abs().max(trained.abs()));
            let off = (f64::from(*after) - expected).abs();
            assert!(off <= tolerance, "step {}, alpha {alpha}: {after} is not {expected}", step + 1);
        }
    }
    assert!(between > 0, "some alpha is neither 0 nor 1");
}

/// The features [samples, D] that heads read, and the embeddings, of a run's model after step `step`, in f64.
fn features(setup: &Setup, run: &Path, step: usize, samples: &[u32]) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    const BATCH: usize = 64;
    let mut plan = Plan::new::<Cpu<f32>>();
    let clip = Clip::plan(&mut plan, &setup.model, Capacity { images: BATCH, texts: 1 }, Purpose::Inference);
    let mut device = Cpu::<f32>::allocate(&plan);
    let path = run.join(format!("checkpoints/step-{:03}.safetensors", step + 1));
    clip.load(&mut device, &checkpoint::load(&path, &setup.model).unwrap().values);
    let requests = samples.chunks(BATCH).map(|samples| BatchRequest { samples: samples.to_vec(), augment: None });
    let (mut features, mut embeddings, width) = (Vec::new(), Vec::new(), setup.model.embed_dim);
    for batch in load(setup, requests.collect()) {
        let batch = batch.unwrap();
        device.write(clip.vision.pixels(), &batch.pixels);
        clip.vision.forward(&mut device, batch.samples.len());
        for (rows, span) in [(&mut features, clip.vision.features()), (&mut embeddings, clip.vision.embeddings())] {
            let values = device.read_vec(span.first(batch.samples.len() * width));
            rows.extend(values.chunks_exact(width).map(|row| row.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()));
        }
    }
    (features, embeddings)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The smallest and the largest part of `truths` that is right by rounding, where each picks the best of its scores among
/// `candidates`.
fn right(scores: &[Vec<f64>], truths: &[Label], candidates: &[Label]) -> [f64; 2] {
    let counts = scores.iter().zip(truths).map(|(scores, truth)| {
        let others = candidates.iter().filter(|class| *class != truth).map(|class| scores[class.index()]);
        let (own, best) = (scores[truth.index()], others.fold(f64::NEG_INFINITY, f64::max));
        let close = 1e-4 * own.abs().max(1.0);
        [own > best + close, own > best - close].map(|right| f64::from(u8::from(right)))
    });
    let sums = counts.fold([0.0, 0.0], |sum, count| [sum[0] + count[0], sum[1] + count[1]]);
    sums.map(|sum| sum / truths.len() as f64)
}

/// Fails unless a row of E is what `scores` of the tests of each task come to among all classes seen after `step`, and among the
/// task's own they would come to something else.
fn assert_chosen_among_all_seen(
    setup: &Setup,
    step: usize,
    row: &[Option<f64>],
    scores: impl Fn(&[u32]) -> Vec<Vec<f64>>,
) {
    let stream = &setup.stream;
    let mut leaks = 0;
    for (task, found) in row.iter().enumerate() {
        if task > step {
            assert_eq!(*found, None, "nothing is known of classes to come");
            continue;
        }
        let (tests, found) = (&stream.steps[task].test, found.unwrap());
        let truths: Vec<Label> = tests.iter().map(|test| setup.dataset.samples[*test as usize].class).collect();
        let scores = scores(tests);
        let [least, most] = right(&scores, &truths, &stream.classes_seen(step));
        assert!((least..=most).contains(&found), "step {step}, task {task}: {found} is not in {least}..{most}");
        let [least, most] = right(&scores, &truths, &stream.steps[task].classes);
        leaks += usize::from(!(least..=most).contains(&found));
    }
    assert!(step == 0 || leaks > 0, "step {step}: the task's own classes would give the same");
}

#[test]
fn heads_choose_among_all_classes_seen() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["finetune-ce", "cassle"] {
        let out = folder.path().join(method);
        log(TINY_RUN, &out, &["--method", method]);
        let setup = setup(TINY_RUN, method, &[]);
        let evaluation = RunDirectory::read_evaluation(&out).unwrap();
        for (step, row) in evaluation.matrix.iter().enumerate() {
            let head =
                TensorFile::load(&out.join(format!("checkpoints/step-{:03}.head.safetensors", step + 1))).unwrap();
            let values = |name: &str| -> Vec<f64> {
                let values = head.f32(name, head.shape(name).unwrap()).unwrap();
                values.iter().map(|x| f64::from(*x)).collect()
            };
            let (weight, bias, width) = (values("head.weight"), values("head.bias"), setup.model.embed_dim);
            assert_chosen_among_all_seen(&setup, step, row, |tests| {
                let score = |features: &Vec<f64>| {
                    let mut scores = vec![f64::NAN; setup.dataset.classes.len()];
                    for (column, label) in setup.stream.class_order.iter().enumerate() {
                        scores[label.index()] = dot(features, &weight[column * width..][..width]) + bias[column];
                    }
                    scores
                };
                features(&setup, &out, step, tests).0.iter().map(score).collect()
            });
        }
    }
}

#[test]
fn nearest_means_are_chosen_among_all_classes_seen() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("icarl");
    log(TINY_RUN, &out, &["--method", "icarl", "--memory", "200"]);
    let setup = setup(TINY_RUN, "icarl", &["memory.size=200"]);
    let state = TensorFile::load(&out.join("checkpoints/state.safetensors")).unwrap();
    let [classes, counts, kept] = ["classes", "counts", "indices"].map(|name| {
        let name = format!("memory.{name}");
        state.u32(&name, state.shape(&name).unwrap()).unwrap().to_vec()
    });
    let last = setup.stream.steps.len() - 1;
    let (_, embeddings) = features(&setup, &out, last, &kept);
    let (mut means, mut first) = (vec![Vec::new(); setup.dataset.classes.len()], 0);
    for (class, count) in classes.iter().zip(&counts) {
        let rows = &embeddings[first..first + *count as usize];
        let sum: Vec<f64> = (0..setup.model.embed_dim).map(|d| rows.iter().map(|row| row[d]).sum()).collect();
        let norm = dot(&sum, &sum).sqrt();
        means[*class as usize] = sum.iter().map(|x| x / norm).collect();
        first += *count as usize;
    }
    let evaluation = RunDirectory::read_evaluation(&out).unwrap();
    assert_chosen_among_all_seen(&setup, last, &evaluation.matrix[last], |tests| {
        let score = |embedding: &Vec<f64>| means.iter().map(|mean| dot(embedding, mean)).collect();
        features(&setup, &out, last, tests).1.iter().map(score).collect()
    });
}

/// Images are then classified by the inner products of their features with the classes' prompts, whose largest is that of zero-shot's
/// cosines. Without a step of learning nothing is forgotten either, whatever a method builds around its head.
#[test]
fn a_head_that_starts_as_text_is_the_zero_shot_classifier() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |method: &str, settings: &[&str]| -> Vec<Vec<Option<f64>>> {
        let out = folder.path().join(format!("{method}{}", settings.len()));
        let mut words = vec!["run", TINY_RUN, "--method", method, "--out", out.to_str().unwrap()];
        words.extend(
            ["train.learning_rate=0", "probe.learning_rate=0", "train.epochs=0.3", "head.start=text"]
                .iter()
                .chain(settings)
                .flat_map(|one| ["--set", one]),
        );
        succeed(&words);
        let found: Value = serde_json::from_str(&fs::read_to_string(out.join("evaluation.json")).unwrap()).unwrap();
        serde_json::from_value(found["matrix"].clone()).unwrap()
    };
    let zero_shot = rows("zero-shot", &[]);
    for (method, settings) in [
        ("finetune-ce", [].as_slice()),
        ("finetune-ce", &["head.scale=7.5"]),
        ("ewc", &[]),
        ("joint", &["joint.head=true"]),
        ("der", &[]),
        ("foster", &[]),
    ] {
        for (step, (found, expected)) in rows(method, settings).iter().zip(&zero_shot).enumerate() {
            assert_eq!(found[..=step], expected[..=step], "{method} {settings:?} after step {}", step + 1);
        }
    }
    assert_ne!(rows("finetune-ce", &["head.start=random", "head.scale=2"]), zero_shot, "a random head knows nothing");
}
