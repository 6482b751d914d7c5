//! Settings change what they say: those that papers ablate, and the budget of a step.

#[path = "common/program.rs"]
mod program;

use std::fs;
use std::path::Path;

use perennial::experiment::{Config, Evaluation, Prediction, RunDirectory, Setup};
use perennial::memory::{Memory, ReplayRule, replay_counts};
use perennial::method::{Method, Stage};
use perennial::model::checkpoint::TensorFile;
use perennial::train::Order;
use program::{TINY_RUN, TINY_TIC, result, succeed};
use serde_json::Value;

/// What a run of `preset` with these settings is made from.
fn setup(preset: &str, method: &str, settings: &[&str]) -> Setup {
    let mut config = Config::find(preset).unwrap().for_method(method).unwrap();
    settings.iter().for_each(|setting| config.set(setting).unwrap());
    Setup::open(&config).unwrap()
}

/// Classes of each task.
fn task_sizes(setup: &Setup) -> Vec<usize> {
    setup.stream.steps.iter().map(|step| step.classes.len()).collect()
}

fn class_order_hash(setup: &Setup) -> &str {
    &setup.hashes.iter().find(|(name, _)| *name == "class_order").unwrap().1
}

/// Runs `preset` and returns its log.
fn log(preset: &str, out: &Path, arguments: &[&str]) -> Vec<Value> {
    let fixed = ["run", preset, "--out", out.to_str().unwrap(), "--set", "train.log_every=1"];
    succeed(&fixed.iter().chain(arguments).copied().collect::<Vec<_>>());
    result(out).1
}

#[test]
fn the_first_task_has_its_own_size() {
    assert_eq!(task_sizes(&setup(TINY_RUN, "gcl", &[])), [32, 31, 31]);
    assert_eq!(task_sizes(&setup(TINY_RUN, "gcl", &["stream.first_task=50"])), [50, 22, 22]);
}

#[test]
fn the_class_order_is_the_seeds_or_a_files_but_never_the_runs() {
    let seeded = setup(TINY_RUN, "gcl", &[]);
    let order = |settings: &[&str]| setup(TINY_RUN, "gcl", settings).stream.class_order;
    assert_eq!(order(&["seed=5"]), seeded.stream.class_order);
    assert_ne!(order(&["stream.class_order_seed=5"]), seeded.stream.class_order);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("order.txt");
    let given: Vec<u32> = seeded.stream.class_order.iter().rev().copied().collect();
    let names: Vec<&str> = given.iter().map(|class| seeded.dataset.classes[*class as usize].as_str()).collect();
    fs::write(&path, names.join("\n")).unwrap();
    let setting = format!("stream.class_order={}", path.display());
    let from_file = setup(TINY_RUN, "gcl", &[&setting]);
    assert_eq!(from_file.stream.class_order, given);
    assert_eq!(from_file.stream.steps[0].classes, given[..32]);
    assert_ne!(class_order_hash(&from_file), class_order_hash(&seeded), "the manifest tells the orders apart");
    // The seed's own order, written down, is the same run.
    fs::write(&path, names.iter().rev().copied().collect::<Vec<_>>().join("\n")).unwrap();
    assert_eq!(class_order_hash(&setup(TINY_RUN, "gcl", &[&setting])), class_order_hash(&seeded));
}

#[test]
fn settings_of_methods_can_be_set_and_tuned() {
    let mut config = Config::default();
    for setting in ["objective.lwf.mu=2", "objective.der.align=false", "objective.cassle.hidden=64"] {
        config.set(setting).unwrap();
    }
    let objective = &config.objective;
    assert_eq!((objective.lwf.mu, objective.der.align, objective.cassle.hidden), (2.0, false, 64));

    let text = "[objective.lwf]\nmu = 0.5\n[tuned.lwf.objective.lwf]\nmu = 2\n[tuned.lwf.train]\nbatch = 16\n";
    let config = Config::parse(text).unwrap();
    let mu = |method: &str| config.for_method(method).unwrap().objective.lwf.mu;
    assert_eq!((mu("lwf"), mu("ewc")), (2.0, 0.5));
    let tuned = config.for_method("lwf").unwrap();
    assert_eq!((tuned.train.batch, tuned.objective.ewc.lambda), (16, 1000.0), "the rest stays as it is");
    assert_eq!(Config::parse(&tuned.to_toml()).unwrap(), tuned);
    let wrong = Config::parse("[tuned.lwf.objective.lwf]\nnu = 2\n").unwrap_err().to_string();
    assert_eq!(wrong, "line 2: unknown key 'objective.lwf.nu'; did you mean 'objective.lwf.mu'?");
    let wrong = Config::parse("[tuned.lvf.objective.lwf]\nmu = 2\n").unwrap_err().to_string();
    assert!(wrong.contains("unknown method 'lvf'") && wrong.contains("did you mean 'lwf'?"), "{wrong}");
}

#[test]
fn a_steps_budget_is_epochs_or_samples() {
    let budgets = |method: &str, settings: &[&str]| -> Vec<usize> {
        let setup = setup(TINY_TIC, method, settings);
        (0..setup.stream.steps.len()).map(|step| setup.step_budget(step)).collect()
    };
    assert_eq!(budgets("sequential", &[]), [96, 96, 96]);
    assert_eq!(budgets("sequential", &["train.epochs=7"]), [96, 96, 96], "samples go before epochs");
    let notes = setup(TINY_TIC, "sequential", &["train.epochs=7"]).notes;
    assert!(notes.iter().any(|note| note.contains("train.samples is 96 and goes before train.epochs")), "{notes:?}");
    assert_eq!(budgets("sequential", &["train.samples=0"]), [1126, 157, 367]);
    assert_eq!(budgets("sequential", &["train.samples=0", "train.epochs=2"]), [2252, 314, 734]);
    assert_eq!(budgets("zero-shot", &[]), [0, 0, 0]);
    // The oracle has t C at step t: t (t + 1) / 2 in all.
    assert_eq!(budgets("joint", &[]), [96, 192, 288]);
    assert_eq!(budgets("joint", &["train.samples=0"]), [1126, 1126 + 157, 1126 + 157 + 367]);
}

/// The time-continual stream of the preset, for a model that needs no file. Methods and seeds are changed in place: neither decides
/// what the stream is, and opening the data anew takes longer than all that is looked at here.
fn over_time() -> Setup {
    setup("emoji-tic", "sequential", &["model.pretrained="])
}

/// How many of `samples`, which ascend, are in `others`, which ascend too.
fn shared(samples: &[u32], others: &[u32]) -> usize {
    samples.iter().filter(|sample| others.binary_search(sample).is_ok()).count()
}

#[test]
fn replay_over_time_is_what_its_rule_counts_at_every_step() {
    let (nothing, mut setup) = (Memory::new(0, 0), over_time());
    let steps = setup.stream.steps.clone();
    let sizes: Vec<usize> = steps.iter().map(|step| step.train.len()).collect();
    assert!(sizes.len() == 6 && sizes.iter().all(|size| *size > 100), "{sizes:?}");
    let mut pools = |method: &str, seed: u64| -> Vec<Vec<u32>> {
        (setup.method, setup.config.seed) = (*Method::find(method).unwrap(), seed);
        (0..steps.len()).map(|step| setup.pool(step, Stage::Main, &nothing)).collect()
    };
    for (method, rule) in [
        ("cumulative-all", ReplayRule::All),
        ("cumulative-exp", ReplayRule::Exp),
        ("cumulative-equal", ReplayRule::Equal),
    ] {
        let chosen = pools(method, 0);
        for (step, pool) in chosen.iter().enumerate() {
            assert!(pool.is_sorted_by(|a, b| a < b), "{method}: no sample twice");
            let found: Vec<usize> = steps.iter().map(|other| shared(pool, &other.train)).collect();
            let mut expected = replay_counts(rule, sizes[step], &sizes[..step]);
            expected.push(sizes[step]);
            expected.resize(steps.len(), 0);
            assert_eq!(found, expected, "{method}, step {}", step + 1);
            assert_eq!(pool.len(), found.iter().sum::<usize>(), "{method}: nothing from elsewhere");
        }
        let others = pools(method, 1);
        assert_eq!(pools(method, 0), chosen, "{method}: the same whenever the seed is");
        for (step, (pool, other)) in chosen.iter().zip(&others).enumerate() {
            let all: usize = sizes[..=step].iter().sum();
            assert_eq!(pool == other, pool.len() == all, "{method}, step {}: a choice is the seed's", step + 1);
        }
        // A later step makes a choice of its own among the samples of the same earlier one.
        if rule != ReplayRule::All {
            let of_the_first = |step: usize| -> Vec<u32> {
                chosen[step].iter().copied().filter(|sample| steps[0].train.binary_search(sample).is_ok()).collect()
            };
            let (earlier, later) = (of_the_first(4), of_the_first(5));
            assert!(shared(&later, &earlier) < later.len().min(earlier.len()), "{method}");
        }
    }
}

#[test]
fn what_is_held_out_is_tested_and_not_trained_on() {
    let whole = setup(TINY_RUN, "gcl", &[]);
    let held_out = setup(TINY_RUN, "gcl", &["evaluation.held_out=0.2"]);
    let other_seed = setup(TINY_RUN, "gcl", &["evaluation.held_out=0.2", "seed=7"]);
    for ((step, part), other) in whole.stream.steps.iter().zip(&held_out.stream.steps).zip(&other_seed.stream.steps) {
        assert_eq!(part.test.len(), (step.train.len() as f64 * 0.2).round() as usize);
        let mut both = [part.train.as_slice(), &part.test].concat();
        both.sort_unstable();
        assert_eq!(both, step.train, "{}", step.name);
        assert_eq!(part.test, other.test, "every seed is judged by the same");
    }
}

#[test]
fn patching_never_trains_on_what_it_holds_back() {
    let (nothing, mut setup) = (Memory::new(0, 0), over_time());
    let steps = setup.stream.steps.len();
    let held_back = |setup: &Setup| -> Vec<Vec<u32>> { (0..steps).map(|step| setup.validation(step)).collect() };
    // What the others see is whole.
    assert_eq!(setup.pool(0, Stage::Main, &nothing), setup.stream.steps[0].train);
    setup.method = *Method::find("patching").unwrap();
    let held = held_back(&setup);
    for (step, held) in held.iter().enumerate() {
        let train = &setup.stream.steps[step].train;
        assert_eq!(held.len(), (train.len() as f64 * 0.1).round() as usize);
        assert_eq!(shared(held, train), held.len(), "validation samples are of the step");
        for other in 0..steps {
            assert_eq!(shared(held, &setup.pool(other, Stage::Main, &nothing)), 0, "steps {step} and {other}");
        }
        assert_eq!(setup.pool(step, Stage::Main, &nothing).len() + held.len(), train.len());
    }
    setup.config.seed = 1;
    assert_ne!(held_back(&setup), held);
    // Training and model settings do not move them: every run of a seed has the same.
    setup.config.seed = 0;
    setup.config.train.samples = 100;
    assert_eq!(held_back(&setup), held);
}

/// The samples in the batches of a step's stages, closing and probe apart.
fn drawn(setup: &Setup, step: usize, memory: &Memory) -> usize {
    let stages = setup.method.stages(step);
    let trains = stages.iter().filter(|stage| matches!(stage, Stage::Main | Stage::Compression));
    let spent = trains.map(|stage| {
        let pool = setup.pool(step, *stage, memory);
        let budget = setup.budget(step, *stage, pool.len());
        let mut order = Order::new(pool, budget, setup.config.train.batch, 0, step);
        (0..order.iterations()).map(|iteration| order.batch(iteration).len()).sum::<usize>()
    });
    spent.sum()
}

#[test]
fn steps_draw_their_budgets_to_within_a_batch() {
    let (nothing, mut over_time) = (Memory::new(0, 0), over_time());
    for (method, multiple) in [
        ("sequential", (|_| 1) as fn(usize) -> usize),
        ("cumulative-equal", |_| 1),
        ("patching", |_| 1),
        ("restart", |_| 1),
        ("oracle", |step| step + 1),
        ("joint", |step| step + 1),
    ] {
        over_time.method = *Method::find(method).unwrap();
        for step in 0..over_time.stream.steps.len() {
            let (found, expected) = (drawn(&over_time, step, &nothing), 5600 * multiple(step));
            assert!(found.abs_diff(expected) <= 64, "{method}, step {}: {found} of {expected}", step + 1);
        }
    }
    let mut setup = setup(TINY_RUN, "foster", &[]);
    for settings in [&[][..], &["objective.foster.boosting=0.3", "train.epochs=1"], &["train.samples=500"]] {
        settings.iter().for_each(|setting| setup.config.set(setting).unwrap());
        let mut memory = Memory::new(setup.config.memory.size, 0);
        for (step, own) in setup.stream.steps.iter().enumerate() {
            let (found, expected) = (drawn(&setup, step, &memory), setup.step_budget(step));
            assert!(found.abs_diff(expected) <= 32, "{settings:?}, step {}: {found} of {expected}", step + 1);
            let pool = setup.pool(step, Stage::Main, &memory).len();
            let parts = [Stage::Main, Stage::Compression].map(|stage| setup.budget(step, stage, pool));
            match step {
                0 => assert_eq!(parts[0], expected, "there is nothing to compress"),
                _ => assert_eq!(parts[0] + parts[1], expected),
            }
            let class = |sample: &u32| (*sample, setup.dataset.samples[*sample as usize].class);
            memory.update(&own.train.iter().map(class).collect::<Vec<_>>());
        }
    }
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
    let same = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    let plain = run("plain", &[]);
    assert_eq!(plain.len(), 3);
    let maximum = 1e-3;
    same(plain[0][0], maximum / 2.0);
    same(plain[0][1], maximum);
    for later in &plain[1..] {
        same(later[0], maximum);
        assert!(later.is_sorted_by(|a, b| a > b), "only the first step warms up: {later:?}");
    }
    // A model that is trained anew at every step warms up at every step.
    for rates in run_of("restart", "anew", &[]) {
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
    let class = |name: &String| setup.dataset.classes.iter().position(|class| class == name).unwrap() as u32;
    for Prediction { sample, task, truth, predicted } in &predictions {
        assert!(setup.stream.steps[*task].test.contains(sample));
        assert_eq!(setup.dataset.samples[*sample as usize].class, class(truth));
        class(predicted);
    }
    let evaluation = RunDirectory::read_evaluation(&out).unwrap();
    assert!(evaluation.dynamic.is_empty() && evaluation.static_sets.is_empty());
}
