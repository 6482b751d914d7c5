//! Loss and gradients of whole methods, teachers, heads and predictors included, against PyTorch's automatic differentiation
//! (tests/fixtures/make_methods.py).

use std::sync::Arc;

use approx::{abs_diff_eq, assert_abs_diff_eq, assert_relative_eq};
use perennial::data::Label;
use perennial::error::Result;
use perennial::method::{self, Closing, Method, Settings};
use perennial::model::clip::Capacity;
use perennial::model::parameters::Parameter;
use perennial::model::spec::ModelSpec;
use perennial::ops::cpu::Cpu;
use perennial::stream::ClassId;
use perennial::train::{OptimizerSettings, Stage, StageView, TextBank, TrainBatch, Trainer, TrainerSpec};

use crate::fixtures::Fixture;

/// Relative to a tensor's norm, as in parity.rs: these numbers were computed in f64.
const TOLERANCE: f64 = 1e-4;

/// As in make_methods.py.
const CLASSES: usize = 6;
const BEFORE: usize = 3;
const SEEN: usize = 5;
const IMAGES: usize = 6;

struct Setup {
    expected: Fixture,
    method: Arc<dyn Method>,
    trainer: Trainer,
    classes: Vec<ClassId>,
    own: Vec<bool>,
    pixels: Vec<u8>,
    texts: Vec<Vec<u32>>,
}

impl Setup {
    fn open(method: &str) -> Setup {
        Setup::of_steps(method, 2)
    }

    /// For a run of so many steps.
    fn of_steps(method: &str, steps: usize) -> Setup {
        let (first, expected) = (Fixture::open("tiny_gelu"), Fixture::open("methods"));
        let mut settings = Settings::default();
        let of_fixture = [
            ("icarl.weight", 0.8),
            ("der.auxiliary", 0.7),
            ("der.balance", 0.0),
            ("co2l.weight", 0.9),
            ("cassle.weight", 0.6),
            ("cassle.hidden", 24.0),
            ("lwf.mu", 0.4),
        ];
        of_fixture.iter().for_each(|(key, value)| settings.set(key, *value));
        let method: Arc<dyn Method> = Arc::from(method::find(method).unwrap().open_at(&settings));
        let spec = TrainerSpec {
            model: ModelSpec::from_json(&first.metadata("config")).unwrap(),
            capacity: Capacity { images: method.row().views * IMAGES, texts: IMAGES },
            optimizer: OptimizerSettings::default(),
            learn_logit_scale: true,
            samples: IMAGES,
            classes: CLASSES,
            by_class: true,
            steps,
        };
        let trainer = Trainer::new::<Cpu<f32>>(&(), &spec, &*method, Capacity { images: 4, texts: 4 }).unwrap();
        let end = |row: &[u32]| row.iter().position(|id| *id == 99).unwrap();
        let texts = first.u32("ids").chunks(12).take(IMAGES).map(|row| row[..=end(row)].to_vec()).collect();
        let classes = expected.u32("labels").into_iter().map(ClassId).collect();
        let own = expected.u32("own").iter().map(|own| *own == 1).collect();
        Setup { method, trainer, classes, own, pixels: first.u8("pixels"), texts, expected }
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
        clip.load(&mut *self.trainer.device, &values);
    }

    /// The old model frozen, and the present one in training.
    fn with_teacher(method: &str) -> Setup {
        let mut setup = Setup::open(method);
        setup.load("tiny_gelu", "init/", "old/");
        setup.trainer.freeze(0);
        setup.load("tiny_gelu_after3", "after3/", "");
        setup
    }

    /// Trains a stage of the second step, whose models are as they are.
    fn enter(&mut self, stage: Stage) {
        let counts: Vec<usize> = self.expected.u32("counts").iter().map(|count| *count as usize).collect();
        self.trainer.enter(&StageView { stage, counts: &counts, ..second_step() });
    }

    /// Begins a stage as a run does.
    fn begin(&mut self, view: &StageView) {
        self.method.begin(&mut self.trainer, view);
        self.trainer.enter(view);
    }

    /// Closes the second step as a run does.
    fn close(&mut self) {
        let method = Arc::clone(&self.method);
        method.close(self).unwrap();
    }

    /// The gradient of a parameter; none where it is not trained.
    fn gradient(&self, name: &str) -> Vec<f32> {
        let Trainer { device, clip, .. } = &self.trainer;
        device.read_vec(clip.weights.gradient(&clip.parameters, clip.parameters.get(name)))
    }

    fn compare(&mut self, method: &str) {
        let mut bank = TextBank::default();
        let texts = &self.texts;
        let numbers: Vec<u32> =
            texts.iter().map(|text| texts.iter().position(|other| other == text).unwrap() as u32).collect();
        for (text, class) in texts.iter().zip(&self.classes) {
            bank.add(text.clone(), Label(class.0));
        }
        let texts = bank.batch(&numbers);
        let views = self.method.row().views;
        self.trainer.gradients(TrainBatch {
            pixels: &self.pixels[..views * IMAGES * 12 * 12 * 3],
            texts: Some(&texts),
            slot: &[0, 1, 2, 3, 4, 5],
            classes: &self.classes,
            own: &self.own,
            ..Default::default()
        });
        let clip = &self.trainer.clip;
        let loss = f64::from(self.trainer.loss());
        let expected = self.expected.f64(&format!("{method}/loss"))[0];
        assert_relative_eq!(loss, expected, max_relative = TOLERANCE);
        let stored = self.expected.names(&format!("{method}/grad/"));
        assert!(stored.len() >= 6, "the fixture has the gradients of {method}");
        for name in &stored {
            let found = self.gradient(name);
            let expected = self.expected.f64(&format!("{method}/grad/{name}"));
            assert_eq!(found.len(), expected.len(), "{method}: {name}");
            let difference = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
            let norm = expected.iter().map(|b| b * b).sum::<f64>().sqrt();
            assert!(difference <= TOLERANCE * norm, "{method}: {name}: |difference| {difference:e} of {norm:e}");
        }
        // Of heads and predictors the fixture has every gradient that there is; the loss does not know the rest.
        let own: Vec<&Parameter> =
            clip.parameters.iter().filter(|parameter| clip.parameters.extras().contains(&parameter.offset)).collect();
        let (learnt, idle): (Vec<&Parameter>, Vec<&Parameter>) =
            own.into_iter().partition(|parameter| stored.contains(&parameter.name));
        for parameter in &idle {
            assert!(
                self.gradient(&parameter.name).iter().all(|g| *g == 0.0),
                "{method}: {} has a gradient",
                parameter.name
            );
        }
        println!("{method}: {} gradients, {} of them its own; {} idle", stored.len(), learnt.len(), idle.len());
        let expected = match method {
            "finetune-ce" | "icarl" | "foster-compression" => 2,
            "der" | "foster" => 5,
            "cassle" => 6,
            _ => 0,
        };
        assert_eq!(learnt.len(), expected, "{method}: heads and predictors that learn");
    }
}

#[test]
fn finetune_ce() {
    let mut setup = Setup::open("finetune-ce");
    setup.load("tiny_gelu_after3", "after3/", "");
    setup.enter(Stage::Main);
    setup.compare("finetune-ce");
}

#[test]
fn methods_with_one_teacher() {
    for method in ["icarl", "der", "foster", "co2l", "cassle", "lwf"] {
        let mut setup = Setup::with_teacher(method);
        setup.enter(Stage::Main);
        setup.compare(method);
    }
}

#[test]
fn foster_compression() {
    let mut setup = Setup::with_teacher("foster");
    setup.load("tiny_quick_gelu", "init/", "boosted/");
    setup.trainer.freeze(1);
    setup.load("tiny_gelu_after3", "after3/", "");
    setup.enter(Stage::Compression);
    setup.compare("foster-compression");
}

/// A method's trainer with random parameters in its first step.
fn in_the_first_step(name: &str) -> Setup {
    let mut setup = Setup::open(name);
    let Trainer { clip, device, .. } = &mut setup.trainer;
    let values = clip.parameters.initial_values(5);
    clip.load(&mut **device, &values);
    setup.begin(&first_step());
    setup
}

fn first_step() -> StageView<'static> {
    StageView { step: 0, before: 0, seen: BEFORE, ..second_step() }
}

fn second_step() -> StageView<'static> {
    let (stage, counts, shares) = (Stage::Main, &[3, 1, 4, 2, 5, 0], &[0.0; CLASSES]);
    StageView { stage, step: 1, before: BEFORE, seen: SEEN, counts, shares, seed: 7 }
}

impl Setup {
    /// Logits of the classes seen so far [images, columns].
    fn scores(&mut self, columns: usize) -> Vec<f32> {
        let Trainer { device, clip, frozen, frozen_in_use, objective, .. } = &mut self.trainer;
        device.write(clip.vision.pixels(), &self.pixels[..IMAGES * 12 * 12 * 3]);
        clip.vision.forward(&mut **device, IMAGES);
        let frozen = &frozen[..*frozen_in_use];
        let scores = objective.scores(&mut **device, &clip.vision, frozen, IMAGES).unwrap();
        scores.values.chunks_exact(scores.columns).flat_map(|row| row[..columns].to_vec()).collect()
    }

    fn parameter(&self, name: &str) -> Vec<f32> {
        self.trainer.parameters()[self.trainer.clip.parameters.get(name).range()].to_vec()
    }

    /// Changes a parameter.
    fn edit(&mut self, name: &str, change: impl Fn(&mut f32)) {
        self.trainer.edit(|list, values| values[list.get(name).range()].iter_mut().for_each(change));
    }

    /// Trains a few steps on the fixture's images.
    fn learn(&mut self, steps: usize) {
        for _ in 0..steps {
            let pixels = &self.pixels[..IMAGES * 12 * 12 * 3];
            let slot = &[0, 1, 2, 3, 4, 5];
            let batch = TrainBatch { pixels, slot, classes: &self.classes, own: &self.own, ..Default::default() };
            self.trainer.iterate(batch, 1e-2).unwrap();
        }
    }
}

impl Closing for Setup {
    fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    fn step(&self) -> usize {
        1
    }

    fn classes(&self) -> (usize, usize) {
        (BEFORE, SEEN)
    }

    fn gather(&mut self) -> Result<()> {
        unreachable!("no test closes a step of a method that gathers")
    }

    fn measure(&mut self, _: usize) -> Result<Vec<Option<f64>>> {
        unreachable!("no test closes a step of a method that measures")
    }

    fn note(&mut self, _: &str, _: f64) -> Result<()> {
        Ok(())
    }
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(abs_diff_eq!(*found, *expected, epsilon = 1e-5 * largest), "{what}: {found} is not {expected}");
    }
}

#[test]
fn der_expands_without_a_change_to_what_the_old_extractor_says() {
    let mut setup = in_the_first_step("der");
    setup.edit("head.bias", |bias| *bias += 0.25);
    let (old, bias) = (setup.parameter("head.weight"), setup.parameter("head.bias"));
    let first = setup.scores(BEFORE);
    let tower = setup.parameter("visual.conv1.weight");

    setup.begin(&second_step());
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
    let mut setup = in_the_first_step("der");
    setup.begin(&second_step());
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
    setup.close();
    let after = rows(&setup);
    assert_relative_eq!(mean(&after[BEFORE..SEEN]), mean(&before[..BEFORE]), max_relative = 1e-6);
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
    let mut setup = in_the_first_step("foster");
    let started = setup.trainer.parameters();
    let first = setup.scores(BEFORE);
    setup.begin(&second_step());
    setup.learn(3);
    let boosted = setup.trainer.parameters();
    assert_ne!(boosted, started);

    setup.begin(&StageView { stage: Stage::Compression, ..second_step() });
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
    clip.vision.forward(&mut **device, IMAGES);
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
    // The classes of earlier steps, none, and some here and there, as where a stream's steps share their classes.
    for counts in [[0, 0, 0, 2, 4, 0], [1, 1, 1, 1, 2, 0], [2, 0, 1, 0, 3, 0]] {
        let mut setup = in_the_first_step("cassle");
        let width = setup.trainer.clip.spec.embed_dim;
        setup.begin(&StageView { stage: Stage::Probe, counts: &counts, ..second_step() });
        let present: Vec<usize> = (0..SEEN).filter(|class| counts[*class] > 0).collect();
        setup.classes = (0..IMAGES).map(|image| ClassId(present[image % present.len()] as u32)).collect();
        let names = ["head.weight", "head.bias", "visual.proj"];
        let [weight, bias, tower] = names.map(|name| setup.parameter(name));
        let logits = logits_by_hand(&mut setup, &weight, &bias);
        let loss = logits
            .iter()
            .zip(&setup.classes)
            .map(|(row, own)| present.iter().map(|class| row[*class].exp()).sum::<f64>().ln() - row[own.index()]);
        let expected = loss.sum::<f64>() / IMAGES as f64;
        setup.learn(1);
        let found = f64::from(setup.trainer.loss());
        assert_relative_eq!(found, expected, max_relative = TOLERANCE);

        setup.learn(5);
        let [learned, learned_bias, same_tower] = names.map(|name| setup.parameter(name));
        assert_eq!(same_tower, tower, "features stay as they are");
        for class in 0..SEEN {
            let row = |weight: &[f32], bias: &[f32]| [&weight[class * width..][..width], &bias[class..=class]].concat();
            let (before, after) = (row(&weight, &bias), row(&learned, &learned_bias));
            assert_eq!(before == after, !present.contains(&class), "{counts:?}: class {class}");
        }
    }
}

/// Rows [rows, columns] of f32 values, in f64.
fn matrix(values: &[f32], columns: usize) -> Vec<Vec<f64>> {
    values.chunks_exact(columns).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

/// x W^T [rows, outputs], the first `outputs` rows of W.
fn product(x: &[Vec<f64>], w: &[Vec<f64>], outputs: usize) -> Vec<Vec<f64>> {
    let dot = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).sum();
    x.iter().map(|x| w[..outputs].iter().map(|w| dot(x, w)).collect()).collect()
}

/// Mean cross-entropy of logits, and its gradient.
fn cross_entropy(logits: &[Vec<f64>], labels: &[usize]) -> (f64, Vec<Vec<f64>>) {
    let rows = labels.len() as f64;
    let mut loss = 0.0;
    let gradient = logits.iter().zip(labels).map(|(logits, label)| {
        let sum: f64 = logits.iter().map(|z| z.exp()).sum();
        loss += (sum.ln() - logits[*label]) / rows;
        let own = |class: usize| f64::from(u8::from(class == *label));
        logits.iter().enumerate().map(|(class, z)| (z.exp() / sum - own(class)) / rows).collect()
    });
    let gradient = gradient.collect();
    (loss, gradient)
}

/// d^T x [outputs, inputs] of gradients d [rows, outputs] and inputs x [rows, inputs], with weight `scale`.
fn weight_gradient(d: &[Vec<f64>], x: &[Vec<f64>], scale: f64) -> Vec<f64> {
    let (outputs, inputs) = (d[0].len(), x[0].len());
    let entry = |o: usize, i: usize| scale * d.iter().zip(x).map(|(d, x)| d[o] * x[i]).sum::<f64>();
    (0..outputs).flat_map(|o| (0..inputs).map(move |i| entry(o, i)).collect::<Vec<_>>()).collect()
}

impl Setup {
    /// Features of the fixture's images by the model with these parameters.
    fn features_of(&mut self, values: &[f32]) -> Vec<Vec<f64>> {
        let Trainer { device, clip, .. } = &mut self.trainer;
        clip.load(&mut **device, values);
        device.write(clip.vision.pixels(), &self.pixels[..IMAGES * 12 * 12 * 3]);
        clip.vision.forward(&mut **device, IMAGES);
        let width = clip.spec.embed_dim;
        matrix(&device.read_vec(clip.vision.features().first(IMAGES * width)), width)
    }

    /// Loss and gradients of the fixture's images in the present stage.
    fn gradients(&mut self) {
        let Setup { trainer, classes, own, pixels, .. } = self;
        let (pixels, slot) = (&pixels[..IMAGES * 12 * 12 * 3], &[0, 1, 2, 3, 4, 5]);
        trainer.gradients(TrainBatch { pixels, slot, classes, own, ..Default::default() });
    }

    /// Fails unless a parameter's gradient is `expected`, in its first values, and 0 in the rest.
    fn assert_gradient(&self, name: &str, expected: &[f64]) {
        let found = self.gradient(name);
        let off: f64 = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        let norm: f64 = expected.iter().map(|b| b * b).sum();
        assert!(norm > 0.0 && off.sqrt() <= TOLERANCE * norm.sqrt(), "{name}: {:e} of {:e}", off.sqrt(), norm.sqrt());
        assert!(found[expected.len()..].iter().all(|g| *g == 0.0), "{name}: classes to come");
    }
}

/// The sum over extractors has an odd and an even number of terms.
#[test]
fn der_adds_up_the_logits_of_several_frozen_extractors() {
    for frozen in [2, 3, 4] {
        let mut setup = Setup::of_steps("der", frozen + 1);
        let list = setup.trainer.clip.parameters.clone();
        let width = setup.trainer.clip.spec.embed_dim;
        let models: Vec<Vec<f32>> = (0..=frozen as u64).map(|model| list.initial_values(11 + model)).collect();
        let features: Vec<Vec<Vec<f64>>> = models.iter().map(|values| setup.features_of(values)).collect();
        for (place, values) in models[..frozen].iter().enumerate() {
            setup.trainer.clip.load(&mut *setup.trainer.device, values);
            setup.trainer.freeze(place);
        }
        let own = &models[frozen];
        setup.trainer.clip.load(&mut *setup.trainer.device, own);
        setup.enter(Stage::Main);

        // z = f W^T + b + sum_k f_k W_k^T, by hand.
        let block = |name: &str| matrix(&own[list.get(&format!("{name}.weight")).range()], width);
        let bias = |name: &str| -> Vec<f64> {
            own[list.get(&format!("{name}.bias")).range()].iter().map(|b| f64::from(*b)).collect()
        };
        let names: Vec<String> = (0..frozen).map(|k| format!("head.block.{k}")).chain(["head".to_string()]).collect();
        let mut logits = vec![bias("head")[..SEEN].to_vec(); IMAGES];
        for (features, name) in features.iter().zip(&names) {
            for (sum, term) in logits.iter_mut().zip(product(features, &block(name), SEEN)) {
                sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
            }
        }
        let scores: Vec<f64> = logits.concat();
        let found = setup.scores(SEEN);
        let largest = scores.iter().fold(0.0f64, |largest, z| largest.max(z.abs()));
        assert!(found.iter().zip(&scores).all(|(a, b)| (f64::from(*a) - b).abs() <= 1e-5 * largest), "{frozen} frozen");

        let labels: Vec<usize> = setup.classes.iter().map(|class| class.index()).collect();
        let auxiliary_labels: Vec<usize> = labels.iter().map(|label| (label + 1).saturating_sub(BEFORE)).collect();
        let mut auxiliary = product(&features[frozen], &block("auxiliary"), 1 + SEEN - BEFORE);
        for row in &mut auxiliary {
            row.iter_mut().zip(bias("auxiliary")).for_each(|(z, b)| *z += b);
        }
        let ((loss, d), (auxiliary_loss, d_auxiliary)) =
            (cross_entropy(&logits, &labels), cross_entropy(&auxiliary, &auxiliary_labels));
        setup.gradients();
        let (found, expected) = (f64::from(setup.trainer.loss()), loss + 0.7 * auxiliary_loss);
        assert_relative_eq!(found, expected, max_relative = TOLERANCE);
        for (features, name) in features.iter().zip(&names) {
            setup.assert_gradient(&format!("{name}.weight"), &weight_gradient(&d, features, 1.0));
        }
        let ones = vec![vec![1.0]; IMAGES];
        setup.assert_gradient("head.bias", &weight_gradient(&d, &ones, 1.0));
        setup.assert_gradient("auxiliary.weight", &weight_gradient(&d_auxiliary, &features[frozen], 0.7));
        setup.assert_gradient("auxiliary.bias", &weight_gradient(&d_auxiliary, &ones, 0.7));

        // On the memory alone: the head's cross-entropy at a temperature of 5, and nothing else.
        setup.enter(Stage::Probe);
        let softened: Vec<Vec<f64>> = logits.iter().map(|row| row.iter().map(|z| z / 5.0).collect()).collect();
        let (loss, d) = cross_entropy(&softened, &labels);
        setup.gradients();
        assert_relative_eq!(f64::from(setup.trainer.loss()), loss, max_relative = TOLERANCE);
        for (features, name) in features.iter().zip(&names) {
            setup.assert_gradient(&format!("{name}.weight"), &weight_gradient(&d, features, 0.2));
        }
        setup.assert_gradient("head.bias", &weight_gradient(&d, &ones, 0.2));
        let tower = setup.parameter("visual.conv1.weight");
        setup.learn(2);
        assert_eq!(setup.parameter("visual.conv1.weight"), tower, "the features stay");
        assert_ne!(setup.parameter("head.block.0.weight"), own[list.get("head.block.0.weight").range()]);
    }
}

#[test]
fn ders_head_starts_anew_on_the_memory() {
    let mut setup = in_the_first_step("der");
    setup.begin(&second_step());
    setup.learn(2);
    let names = ["head.weight", "head.bias", "head.block.0.weight", "auxiliary.weight", "visual.conv1.weight"];
    let before = names.map(|name| setup.parameter(name));
    setup.begin(&StageView { stage: Stage::Probe, ..second_step() });
    let changed = [0, 1, 2, 3, 4].map(|place| setup.parameter(names[place]) != before[place]);
    assert_eq!(changed, [true, true, true, false, false]);
    let bound = (setup.trainer.clip.spec.embed_dim as f32).powf(-0.5);
    assert!(names[..3].iter().all(|name| setup.parameter(name).iter().all(|w| w.abs() <= bound)));
    // And where a run has embeddings of prompts, with them for all classes, those of earlier steps too.
    let width = setup.trainer.clip.spec.embed_dim;
    let rows: Vec<f32> = (0..SEEN * width).map(|place| place as f32).collect();
    let method = Arc::clone(&setup.method);
    method.start_head(&mut setup.trainer, &StageView { stage: Stage::Probe, ..second_step() }, 0, &rows);
    assert_eq!(setup.parameter("head.weight")[..rows.len()], rows);
    assert!(setup.parameter("head.block.0.weight")[..rows.len()].iter().all(|w| *w == 0.0));
    assert_eq!(setup.parameter("auxiliary.weight"), before[3]);
}

/// F gains the mean over batches of squared gradients of the cross-entropy alone, limited, and what was there stays.
#[test]
fn fisher_information_is_of_the_loss_without_its_penalty() {
    let mut setup = in_the_first_step("ewc");
    setup.begin(&second_step());
    let slots: [&'static [u32]; 3] = [&[0, 1], &[2, 3, 4], &[5]];
    let classes = setup.classes.clone();
    let pixels = setup.pixels.clone();
    let image = 12 * 12 * 3;
    let batch = |slot: &'static [u32]| TrainBatch {
        pixels: &pixels[slot[0] as usize * image..(slot[slot.len() - 1] as usize + 1) * image],
        slot,
        classes: &classes[slot[0] as usize..=slot[slot.len() - 1] as usize],
        ..Default::default()
    };
    let total = |setup: &Setup| {
        let spans = setup.trainer.objective.persistent();
        let (_, fisher) = spans.into_iter().find(|(name, _)| *name == "fisher").unwrap();
        setup.trainer.device.read_vec(fisher)
    };
    let measure = |setup: &mut Setup| {
        slots.iter().for_each(|slot| setup.trainer.gather(batch(slot)));
        setup.trainer.gathered(slots.len());
    };
    measure(&mut setup);
    setup.learn(3);
    let before = total(&setup);
    let losses = [first_step(), second_step()].map(|view| {
        setup.trainer.enter(&StageView { seen: SEEN, ..view });
        setup.trainer.iterate(batch(slots[1]), 0.0).unwrap().loss
    });
    assert!(losses[1] > losses[0] && before.iter().any(|f| *f > 0.0), "from the second step on there is a penalty");
    measure(&mut setup);

    // The same model under a loss that knows no penalty.
    let mut plain = Setup::open("finetune-ce");
    plain.trainer.clip.load(&mut *plain.trainer.device, &setup.trainer.parameters());
    plain.enter(Stage::Main);
    let mut squares = vec![0.0f64; before.len()];
    for slot in slots {
        plain.trainer.gradients(batch(slot));
        let gradients = plain.trainer.device.read_vec(plain.trainer.clip.weights.gradients);
        squares.iter_mut().zip(gradients).for_each(|(sum, g)| *sum += f64::from(g).powi(2));
    }
    let (after, limit) = (total(&setup), Settings::default().number("ewc.fisher_limit"));
    let (mut limited, mut free) = (0, 0);
    for ((before, after), squares) in before.iter().zip(&after).zip(&squares) {
        let mean = squares / slots.len() as f64;
        if mean > limit {
            limited += 1
        } else if mean > 0.0 {
            free += 1
        }
        let expected = f64::from(*before) + mean.min(limit);
        // A few roundings in f32, each of half a unit in the last place.
        let tolerance = 4.0 * f64::from(f32::EPSILON) * expected;
        assert_abs_diff_eq!(f64::from(*after), expected, epsilon = tolerance);
    }
    assert!(limited > 0 && free > 0, "{limited} are at the limit, {free} below it");
}
