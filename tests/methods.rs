//! Loss and gradients of whole methods, teachers, heads and predictors included, against PyTorch's automatic differentiation
//! (tests/fixtures/make_methods.py).

#[path = "common/fixtures.rs"]
mod fixtures;

use fixtures::Fixture;
use perennial::method::stages::{self, StepView};
use perennial::method::{Method, Stage};
use perennial::model::clip::Capacity;
use perennial::model::spec::ModelSpec;
use perennial::objective::{
    ClassLoss, HeadLoss, HeadStage, Objective, ObjectiveKind, ObjectiveSettings, TextLoss, ViewLoss,
};
use perennial::ops::Memory;
use perennial::ops::cpu::Cpu;
use perennial::train::{OptimizerSettings, TextBank, TrainBatch, Trainer, TrainerSpec};

/// Relative to a tensor's norm, as in tests/parity.rs: these numbers were computed in f64.
const TOLERANCE: f64 = 1e-4;

/// As in make_methods.py.
const CLASSES: usize = 6;
const BEFORE: usize = 3;
const SEEN: usize = 5;
const IMAGES: usize = 6;

struct Setup {
    expected: Fixture,
    trainer: Trainer<Cpu<f32>>,
    labels: Vec<u32>,
    own: Vec<bool>,
    pixels: Vec<u8>,
    texts: Vec<Vec<u32>>,
}

impl Setup {
    fn open(objective: ObjectiveKind) -> Setup {
        let (first, expected) = (Fixture::open("tiny_gelu"), Fixture::open("methods"));
        let mut settings = ObjectiveSettings::default();
        settings.icarl.weight = 0.8;
        settings.der.auxiliary = 0.7;
        settings.co2l.weight = 0.9;
        settings.cassle.weight = 0.6;
        settings.cassle.hidden = 24;
        settings.lwf.mu = 0.4;
        let views = if matches!(objective, ObjectiveKind::Views(_)) { 2 } else { 1 };
        let spec = TrainerSpec {
            model: ModelSpec::from_json(&first.metadata("config")).unwrap(),
            capacity: Capacity { images: views * IMAGES, texts: IMAGES },
            objective,
            objective_settings: settings,
            optimizer: OptimizerSettings::default(),
            learn_logit_scale: true,
            samples: IMAGES,
            classes: CLASSES,
            by_class: true,
            steps: 2,
            keeps_start: matches!(objective, ObjectiveKind::Classes(ClassLoss::Ewc | ClassLoss::Foster)),
        };
        let trainer = Trainer::new(&(), &spec, Capacity { images: 4, texts: 4 }).unwrap();
        let end = |row: &[u32]| row.iter().position(|id| *id == 99).unwrap();
        let texts = first.u32("ids").chunks(12).take(IMAGES).map(|row| row[..=end(row)].to_vec()).collect();
        let (labels, own) = (expected.u32("labels"), expected.u32("own").iter().map(|own| *own == 1).collect());
        Setup { trainer, labels, own, pixels: first.u8("pixels"), texts, expected }
    }

    /// The model takes the weights of a fixture of a whole model, and its head those under `prefix`, where there are any.
    fn load(&mut self, model: &str, weights: &str, prefix: &str) {
        let (fixture, clip) = (Fixture::open(model), &self.trainer.clip);
        let mut values = vec![0.0; clip.parameters.arena_len()];
        for parameter in clip.parameters.iter() {
            let own = clip.parameters.extras().contains(&parameter.offset);
            let name = format!("{prefix}{}", parameter.name);
            let from = match own {
                false => fixture.f64(&format!("{weights}{}", parameter.name)),
                true if self.expected.has(&name) => self.expected.f64(&name),
                // A frozen model's head has parts that nothing reads.
                true => vec![f64::NAN; parameter.len()],
            };
            assert_eq!(from.len(), parameter.len(), "{name}");
            values[parameter.range()].iter_mut().zip(from).for_each(|(to, from)| *to = from as f32);
        }
        clip.load(&mut self.trainer.device, &values);
    }

    /// The old model frozen, and the present one in training.
    fn with_teacher(objective: ObjectiveKind) -> Setup {
        let mut setup = Setup::open(objective);
        setup.load("tiny_gelu", "init/", "old/");
        setup.trainer.freeze(0);
        setup.load("tiny_gelu_after3", "after3/", "");
        setup
    }

    fn begin(&mut self, loss: HeadLoss) {
        let counts: Vec<usize> = self.expected.u32("counts").iter().map(|count| *count as usize).collect();
        let Trainer { device, objective, frozen_in_use, .. } = &mut self.trainer;
        let Objective::Classes(head) = objective else { panic!("a classifier's objective") };
        head.begin(device, HeadStage { loss, before: BEFORE, seen: SEEN, frozen: *frozen_in_use, first: 0 }, &counts);
    }

    fn compare(&mut self, method: &str) {
        let mut bank = TextBank::default();
        let texts = &self.texts;
        let numbers: Vec<u32> =
            texts.iter().map(|text| texts.iter().position(|other| other == text).unwrap() as u32).collect();
        for (text, label) in texts.iter().zip(&self.labels) {
            bank.add(text.clone(), *label);
        }
        let texts = bank.batch(&numbers);
        let views = if matches!(self.trainer.objective, Objective::Views { .. }) { 2 } else { 1 };
        self.trainer.gradients(
            TrainBatch {
                pixels: &self.pixels[..views * IMAGES * 12 * 12 * 3],
                texts: Some(&texts),
                slot: &[0, 1, 2, 3, 4, 5],
                labels: &self.labels,
                own: &self.own,
            },
            1.0,
        );
        let Trainer { device, clip, .. } = &self.trainer;
        let loss = f64::from(self.trainer.loss());
        let expected = self.expected.f64(&format!("{method}/loss"))[0];
        assert!((loss - expected).abs() <= TOLERANCE * expected.abs(), "{method}: loss {loss}, not {expected}");
        let gradients = device.read_vec(clip.weights.gradients);
        let mut compared = 0;
        for parameter in clip.parameters.iter() {
            let name = format!("{method}/grad/{}", parameter.name);
            let found = &gradients[parameter.range()];
            if !self.expected.has(&name) {
                continue;
            }
            let expected = self.expected.f64(&name);
            let difference = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
            let norm = expected.iter().map(|b| b * b).sum::<f64>().sqrt();
            assert!(difference <= TOLERANCE * norm, "{name}: |difference| {difference:e} of {norm:e}");
            compared += 1;
        }
        let own = clip.parameters.iter().filter(|parameter| clip.parameters.extras().contains(&parameter.offset));
        println!("{method}: {compared} gradients of which {} could be its own", own.count());
        assert!(compared >= 6, "the fixture has the gradients of {method}");
    }
}

#[test]
fn finetune_ce() {
    let mut setup = Setup::open(ObjectiveKind::Classes(ClassLoss::CrossEntropy));
    setup.load("tiny_gelu_after3", "after3/", "");
    setup.begin(HeadLoss::CrossEntropy);
    setup.compare("finetune-ce");
}

#[test]
fn icarl() {
    let mut setup = Setup::with_teacher(ObjectiveKind::Classes(ClassLoss::Icarl));
    setup.begin(HeadLoss::Distillation);
    setup.compare("icarl");
}

#[test]
fn der() {
    let mut setup = Setup::with_teacher(ObjectiveKind::Classes(ClassLoss::Der));
    setup.begin(HeadLoss::Expansion);
    setup.compare("der");
}

#[test]
fn foster() {
    let mut setup = Setup::with_teacher(ObjectiveKind::Classes(ClassLoss::Foster));
    setup.begin(HeadLoss::Boosting);
    setup.compare("foster");
}

#[test]
fn foster_compression() {
    let mut setup = Setup::with_teacher(ObjectiveKind::Classes(ClassLoss::Foster));
    setup.load("tiny_quick_gelu", "init/", "boosted/");
    setup.trainer.freeze(1);
    setup.load("tiny_gelu_after3", "after3/", "");
    setup.begin(HeadLoss::Compression);
    setup.compare("foster-compression");
}

#[test]
fn co2l() {
    let mut setup = Setup::with_teacher(ObjectiveKind::Views(ViewLoss::Co2l));
    let Objective::Views { contrast, .. } = &mut setup.trainer.objective else { panic!("two views") };
    contrast.distils = true;
    setup.compare("co2l");
}

#[test]
fn cassle() {
    let mut setup = Setup::with_teacher(ObjectiveKind::Views(ViewLoss::Cassle));
    let Objective::Views { contrast, .. } = &mut setup.trainer.objective else { panic!("two views") };
    contrast.distils = true;
    setup.compare("cassle");
}

#[test]
fn lwf() {
    let mut setup = Setup::with_teacher(ObjectiveKind::Texts(TextLoss::Lwf));
    let teacher = Fixture::open("tiny_gelu").f64("init/logit_scale")[0];
    let Objective::Texts { distillation: Some(distillation), .. } = &mut setup.trainer.objective else {
        panic!("a distillation")
    };
    distillation.distils = true;
    distillation.tau = (-teacher).exp();
    setup.compare("lwf");
}

/// A method's trainer with random parameters at the end of its first step, and the method.
fn after_the_first_step(name: &str) -> (Setup, &'static Method) {
    let method = Method::find(name).unwrap();
    let mut setup = Setup::open(method.minimises);
    let Trainer { clip, device, .. } = &mut setup.trainer;
    let values = clip.parameters.initial_values(5);
    clip.load(device, &values);
    let view = StepView { step: 0, before: 0, seen: BEFORE, ..second_step() };
    stages::begin(&mut setup.trainer, method, Stage::Main, view);
    stages::set(&mut setup.trainer, method, Stage::Main, view);
    (setup, method)
}

fn second_step() -> StepView<'static> {
    StepView { step: 1, before: BEFORE, seen: SEEN, counts: &[3, 1, 4, 2, 5, 0], shares: &[0.0; CLASSES], seed: 7 }
}

impl Setup {
    /// Logits of the classes seen so far [images, columns].
    fn scores(&mut self, columns: usize) -> Vec<f32> {
        let Trainer { device, clip, frozen, objective, .. } = &mut self.trainer;
        let head = objective.head().unwrap();
        device.write(clip.vision.pixels(), &self.pixels[..IMAGES * 12 * 12 * 3]);
        clip.vision.forward(device, IMAGES);
        let scores = head.scores(device, &clip.vision, frozen, IMAGES);
        scores.chunks_exact(head.columns()).flat_map(|row| row[..columns].to_vec()).collect()
    }

    fn parameter(&self, name: &str) -> Vec<f32> {
        self.trainer.parameters()[self.trainer.clip.parameters.get(name).range()].to_vec()
    }

    /// Changes a parameter.
    fn edit(&mut self, name: &str, change: impl Fn(&mut f32)) {
        let Trainer { device, clip, .. } = &mut self.trainer;
        let mut values = device.read_vec(clip.weights.master);
        values[clip.parameters.get(name).range()].iter_mut().for_each(change);
        clip.load(device, &values);
    }

    /// Trains a few steps on the fixture's images.
    fn learn(&mut self, steps: usize) {
        for _ in 0..steps {
            let pixels = &self.pixels[..IMAGES * 12 * 12 * 3];
            let slot = &[0, 1, 2, 3, 4, 5];
            let batch = TrainBatch { pixels, slot, labels: &self.labels, own: &self.own, ..Default::default() };
            self.trainer.step(batch, 1e-2, 1.0).unwrap();
        }
    }
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-5 * largest, "{what}: {found} is not {expected}");
    }
}

#[test]
fn der_expands_without_a_change_to_what_the_old_extractor_says() {
    let (mut setup, der) = after_the_first_step("der");
    setup.edit("head.bias", |bias| *bias += 0.25);
    let (old, bias) = (setup.parameter("head.weight"), setup.parameter("head.bias"));
    let first = setup.scores(BEFORE);
    let tower = setup.parameter("visual.conv1.weight");

    stages::begin(&mut setup.trainer, der, Stage::Main, second_step());
    stages::set(&mut setup.trainer, der, Stage::Main, second_step());
    assert_eq!(setup.parameter("head.block.0.weight"), old, "the old head reads the frozen extractor");
    assert_ne!(setup.parameter("head.weight"), old, "the new extractor has a fresh head");
    assert_eq!(setup.parameter("head.bias"), bias, "the one bias of all extractors stays");
    assert_eq!(setup.parameter("visual.conv1.weight"), tower, "the new extractor starts from the last");

    setup.edit("head.weight", |weight| *weight = 0.0);
    assert_near(&setup.scores(BEFORE), &first, "without the new extractor's head, the old model's logits");
    setup.edit("visual.conv1.weight", |weight| *weight *= -0.5);
    assert_near(&setup.scores(BEFORE), &first, "whatever the new extractor learns");
    setup.learn(3);
    let learned = setup.scores(BEFORE);
    assert!(learned.iter().zip(&first).any(|(a, b)| (a - b).abs() > 1e-3), "but its head learns");
}

#[test]
fn der_aligns_new_rows_to_the_old_ones_mean_norm() {
    let (mut setup, der) = after_the_first_step("der");
    stages::begin(&mut setup.trainer, der, Stage::Main, second_step());
    stages::set(&mut setup.trainer, der, Stage::Main, second_step());
    setup.edit("head.block.0.weight", |weight| *weight *= 1.7);
    setup.learn(3);
    let rows = |setup: &Setup| -> Vec<Vec<f32>> {
        let blocks = ["head.weight", "head.block.0.weight"].map(|name| setup.parameter(name));
        let width = setup.trainer.clip.spec.embed_dim;
        let row = |class: usize| blocks.iter().flat_map(|block| block[class * width..][..width].to_vec()).collect();
        (0..CLASSES).map(row).collect()
    };
    let mean = |rows: &[Vec<f32>]| -> f64 {
        let norm = |row: &Vec<f32>| row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
        rows.iter().map(norm).sum::<f64>() / rows.len() as f64
    };
    let (before, bias) = (rows(&setup), setup.parameter("head.bias"));
    let ratio = mean(&before[..BEFORE]) / mean(&before[BEFORE..SEEN]);
    assert!((ratio - 1.0).abs() > 0.01, "there is something to align: {ratio}");
    stages::align(&mut setup.trainer, BEFORE, SEEN);
    let after = rows(&setup);
    assert!((mean(&after[BEFORE..SEEN]) / mean(&before[..BEFORE]) - 1.0).abs() < 1e-6);
    for class in BEFORE..SEEN {
        let scaled: Vec<f32> = before[class].iter().map(|w| (f64::from(*w) * ratio) as f32).collect();
        assert_near(&after[class], &scaled, "every new row by the same factor");
    }
    assert_eq!(after[..BEFORE], before[..BEFORE], "old rows stay");
    assert_eq!(after[SEEN..], before[SEEN..], "and so do those of classes to come");
    assert_eq!(setup.parameter("head.bias"), bias);
}

#[test]
fn fosters_student_starts_where_the_step_started() {
    let (mut setup, foster) = after_the_first_step("foster");
    let started = setup.trainer.parameters();
    let first = setup.scores(BEFORE);
    stages::begin(&mut setup.trainer, foster, Stage::Main, second_step());
    stages::set(&mut setup.trainer, foster, Stage::Main, second_step());
    setup.learn(3);
    let boosted = setup.trainer.parameters();
    assert_ne!(boosted, started);

    stages::begin(&mut setup.trainer, foster, Stage::Compression, second_step());
    stages::set(&mut setup.trainer, foster, Stage::Compression, second_step());
    assert_eq!(setup.trainer.parameters(), started, "the student is the old model");
    assert_eq!(setup.scores(BEFORE), first, "and classifies alone");
    let Trainer { device, clip, frozen, frozen_in_use, .. } = &setup.trainer;
    let of_vision = clip.parameters.vision().start..clip.parameters.extras().end;
    assert_eq!(*frozen_in_use, 2);
    assert_eq!(device.read_vec(frozen[0].weights.storage), started[of_vision.clone()], "the old model");
    assert_eq!(device.read_vec(frozen[1].weights.storage), boosted[of_vision.clone()], "the boosted model");

    // The student is distilled; its teachers stay as they are.
    setup.learn(3);
    let Trainer { device, frozen, .. } = &setup.trainer;
    assert_ne!(setup.trainer.parameters(), started);
    assert_eq!(device.read_vec(frozen[0].weights.storage), started[of_vision.clone()]);
    assert_eq!(device.read_vec(frozen[1].weights.storage), boosted[of_vision]);
}

/// The head's logits of the fixture's images, in f64 [images, classes seen].
fn logits_by_hand(setup: &mut Setup, weight: &[f32], bias: &[f32]) -> Vec<Vec<f64>> {
    let Trainer { device, clip, .. } = &mut setup.trainer;
    device.write(clip.vision.pixels(), &setup.pixels[..IMAGES * 12 * 12 * 3]);
    clip.vision.forward(device, IMAGES);
    let width = clip.spec.embed_dim;
    let features = device.read_vec(clip.vision.features().first(IMAGES * width));
    let logit = |image: usize, class: usize| -> f64 {
        let product = features[image * width..][..width].iter().zip(&weight[class * width..][..width]);
        product.map(|(f, w)| f64::from(*f) * f64::from(*w)).sum::<f64>() + f64::from(bias[class])
    };
    (0..IMAGES).map(|image| (0..SEEN).map(|class| logit(image, class)).collect()).collect()
}

/// A linear head that sees the new classes alone learns to tell those from one another, and forgets nothing of the old ones.
#[test]
fn a_linear_head_leaves_classes_without_samples_as_they_are() {
    for (counts, first) in [([0, 0, 0, 2, 4, 0], BEFORE), ([1, 1, 1, 1, 2, 0], 0)] {
        let (mut setup, cassle) = after_the_first_step("cassle");
        let width = setup.trainer.clip.spec.embed_dim;
        let view = StepView { counts: &counts, ..second_step() };
        stages::begin(&mut setup.trainer, cassle, Stage::Probe, view);
        stages::set(&mut setup.trainer, cassle, Stage::Probe, view);
        setup.labels = match first {
            0 => vec![0, 3, 4, 1, 4, 2],
            _ => vec![3, 4, 4, 3, 4, 4],
        };
        let names = ["head.weight", "head.bias", "visual.proj"];
        let [weight, bias, tower] = names.map(|name| setup.parameter(name));
        let logits = logits_by_hand(&mut setup, &weight, &bias);
        let loss = logits
            .iter()
            .zip(&setup.labels)
            .map(|(row, label)| row[first..].iter().map(|z| z.exp()).sum::<f64>().ln() - row[*label as usize]);
        let expected = loss.sum::<f64>() / IMAGES as f64;
        setup.learn(1);
        let found = f64::from(setup.trainer.loss());
        assert!((found - expected).abs() <= TOLERANCE * expected, "loss {found}, not {expected}");

        setup.learn(5);
        let [learned, learned_bias, same_tower] = names.map(|name| setup.parameter(name));
        assert_eq!(same_tower, tower, "features stay as they are");
        for class in 0..SEEN {
            let row = |weight: &[f32], bias: &[f32]| [&weight[class * width..][..width], &bias[class..=class]].concat();
            let (before, after) = (row(&weight, &bias), row(&learned, &learned_bias));
            assert_eq!(before == after, class < first, "from class {first}: class {class}");
        }
    }
}
