//! What a run is made from, before it begins: tasks, pools, budgets, and what is held out, as the settings say.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use perennial::data::Label;
use perennial::experiment::{Config, Setup};
use perennial::memory::{Memory, ReplayRule, replay_counts};
use perennial::method::{self, Method};
use perennial::stream::Step;
use perennial::train::{Order, Stage};

use crate::setups::{TINY_RUN, TINY_TIC, setup};

/// Classes of each task.
fn task_sizes(setup: &Setup) -> Vec<usize> {
    setup.stream.steps.iter().map(|step| step.classes.len()).collect()
}

fn class_order_hash(setup: &Setup) -> &str {
    &setup.hashes.iter().find(|(name, _)| *name == "class_order").unwrap().1
}

/// A method at its defaults.
fn open(method: &str) -> Arc<dyn Method> {
    Arc::from(method::find(method).unwrap().open_default())
}

#[test]
fn the_first_task_has_its_own_size() {
    assert_eq!(task_sizes(&setup(TINY_RUN, "gcl", &[])), [32, 31, 31]);
    assert_eq!(task_sizes(&setup(TINY_RUN, "gcl", &["stream.first_task=50"])), [50, 22, 22]);
}

#[test]
fn every_class_can_bring_as_many_samples() {
    let all = setup(TINY_RUN, "gcl", &[]);
    let few = |seed: &str| setup(TINY_RUN, "gcl", &["data.per_class=[6, 2]", seed]);
    let balanced = few("seed=0");
    let count = |samples: &[u32], class: Label| {
        samples.iter().filter(|sample| balanced.dataset.samples[**sample as usize].class == class).count()
    };
    for step in &balanced.stream.steps {
        assert!(step.classes.iter().all(|class| (count(&step.train, *class), count(&step.test, *class)) == (6, 2)));
        assert_eq!(step.train.len(), 6 * step.classes.len());
    }
    // Those are left out that have too few of either, and no other.
    let has = |class: Label| {
        let samples =
            |of: fn(&Step) -> &Vec<u32>| all.stream.steps.iter().map(|step| count(of(step), class)).sum::<usize>();
        samples(|step| &step.train) >= 6 && samples(|step| &step.test) >= 2
    };
    let mut expected: Vec<Label> = all.stream.class_order.iter().copied().filter(|class| has(*class)).collect();
    expected.sort_unstable();
    let mut kept = balanced.stream.class_order.clone();
    kept.sort_unstable();
    assert_eq!(kept, expected);
    assert!(kept.len() < all.stream.class_order.len());
    let train = |setup: &Setup| -> Vec<Vec<u32>> { setup.stream.steps.iter().map(|step| step.train.clone()).collect() };
    assert_eq!(train(&few("seed=7")), train(&balanced), "the choice is no seed's");
}

#[test]
fn the_class_order_is_the_seeds_or_a_files_but_never_the_runs() {
    let seeded = setup(TINY_RUN, "gcl", &[]);
    let order = |settings: &[&str]| setup(TINY_RUN, "gcl", settings).stream.class_order;
    assert_eq!(order(&["seed=5"]), seeded.stream.class_order);
    assert_ne!(order(&["stream.class_order_seed=5"]), seeded.stream.class_order);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("order.txt");
    let given: Vec<Label> = seeded.stream.class_order.iter().rev().copied().collect();
    let names: Vec<&str> = given.iter().map(|class| seeded.dataset.classes[class.index()].as_str()).collect();
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
    assert_eq!(["lwf.mu", "der.align", "cassle.hidden"].map(|key| objective.number(key)), [2.0, 0.0, 64.0]);

    let text = "[objective.lwf]\nmu = 0.5\n[tuned.lwf.objective.lwf]\nmu = 2\n[tuned.lwf.train]\nbatch = 16\n";
    let config = Config::parse(text).unwrap();
    let mu = |method: &str| config.for_method(method).unwrap().objective.number("lwf.mu");
    assert_eq!((mu("lwf"), mu("ewc")), (2.0, 0.5));
    let tuned = config.for_method("lwf").unwrap();
    assert_eq!((tuned.train.batch, tuned.objective.number("ewc.lambda")), (16, 1000.0), "the rest stays as it is");
    assert_eq!(Config::parse(&tuned.to_toml()).unwrap(), tuned);
    let wrong = Config::parse("[tuned.lwf.objective.lwf]\nnu = 2\n").unwrap_err().to_string();
    assert_eq!(wrong, "line 2: tuned.lwf: unknown key 'objective.lwf.nu'; did you mean 'objective.lwf.mu'?");
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
        (setup.method, setup.config.seed) = (open(method), seed);
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
    let held_back = |setup: &Setup| -> Vec<Vec<u32>> { (0..steps).map(|step| setup.held_back(step)).collect() };
    // What the others see is whole.
    assert_eq!(setup.pool(0, Stage::Main, &nothing), setup.stream.steps[0].train);
    setup.method = open("patching");
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

/// A data set of 40 pictures for training, each with two captions of its own and one that all share, in two classes that take turns.
fn captioned(folder: &Path) -> Vec<String> {
    let mut tables = [String::from("filepath,title,label\n"), String::from("filepath,title,label\n")];
    for number in 0..50u8 {
        let name = format!("{number}.png");
        RgbImage::from_pixel(8, 8, image::Rgb([number, 0, 0])).save(folder.join(&name)).unwrap();
        let table = &mut tables[usize::from(number >= 40)];
        for caption in [format!("picture {number}"), "a picture".to_string(), format!("number {number}")] {
            *table += &format!("{name},{caption},{}\n", ["cat", "dog"][usize::from(number % 2)]);
        }
    }
    for (name, table) in ["train.csv", "test.csv"].iter().zip(&tables) {
        fs::write(folder.join(name), table).unwrap();
    }
    let folder = format!("data.folder={}", folder.display());
    let settings = [
        "data.name=csv",
        &folder,
        "data.csv.train=['train.csv']",
        "data.csv.test=['test.csv']",
        "data.csv.caption=title",
        "data.csv.label=label",
        "data.domains=[]",
        "data.text=caption",
        "stream.kind=single",
        "memory.size=0",
    ];
    settings.map(String::from).to_vec()
}

#[test]
fn captions_of_a_picture_are_held_back_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = captioned(folder.path());
    settings.push("evaluation.held_out=0.2".to_string());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let setup = setup(TINY_RUN, "patching", &settings);
    let pictures = |samples: &[u32]| {
        let mut pictures: Vec<u32> = samples.iter().map(|sample| setup.dataset.first_of_picture(*sample)).collect();
        pictures.sort_unstable();
        pictures.dedup();
        assert_eq!(3 * pictures.len(), samples.len(), "a picture and not all of its captions");
        pictures
    };
    let step = &setup.stream.steps[0];
    let trained = pictures(&setup.pool(0, Stage::Main, &Memory::new(0, 0)));
    let (held_out, held_back) = (pictures(&step.test), pictures(&setup.held_back(0)));
    assert_eq!([trained.len(), held_out.len(), held_back.len()], [29, 8, 3]);
    let mut all = [trained, held_out, held_back].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 40);
}

#[test]
fn a_caption_that_classes_share_is_a_prompt_of_each() {
    let folder = tempfile::tempdir().unwrap();
    let settings = captioned(folder.path());
    let setup = setup(TINY_RUN, "gdro", &settings.iter().map(String::as_str).collect::<Vec<_>>());
    let samples: Vec<u32> = (0..setup.dataset.samples.len() as u32).collect();
    let texts = samples.iter().map(|sample| setup.text_of(*sample, 0)).collect::<Vec<u32>>();
    let batch = setup.texts.batch(&texts);
    assert_eq!(batch.tokens.len(), 2 * 50 + 2);
    for (sample, text) in setup.dataset.samples.iter().zip(&batch.text_of) {
        assert_eq!(batch.class_of_text[*text as usize], sample.class, "{}", sample.caption);
    }
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
        over_time.method = open(method);
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
