//! A tiny CLIP against open_clip and PyTorch: features, loss, every gradient, and three AdamW steps.

use approx::assert_relative_eq;
use perennial::data::Label;
use perennial::method;
use perennial::model::clip::Capacity;
use perennial::model::spec::ModelSpec;
use perennial::ops::cpu::Cpu;
use perennial::train::{BatchTexts, IterationReport, OptimizerSettings, TextBank, TrainBatch, Trainer, TrainerSpec};

use crate::fixtures::Fixture;

/// What f32 is held to, relative to a tensor's norm: the bound. PyTorch's own f32 run differs from these numbers,
/// which were computed in f64, by up to 3.3e-6 in a gradient.
const TOLERANCE: f64 = 1e-4;

struct Setup {
    fixture: Fixture,
    trainer: Trainer,
    /// Tokens of each batch's texts, padding removed.
    texts: Vec<Vec<Vec<u32>>>,
    pixels: Vec<Vec<u8>>,
}

impl Setup {
    fn open(name: &str) -> Setup {
        let fixture = Fixture::open(name);
        let model = ModelSpec::from_json(&fixture.metadata("config")).unwrap();
        let capacity = Capacity { images: 6, texts: 6 };
        let spec = TrainerSpec {
            model,
            capacity,
            optimizer: OptimizerSettings::default(),
            learn_logit_scale: true,
            samples: 6,
            classes: 6,
            by_class: false,
            steps: 1,
        };
        let mut trainer =
            Trainer::new::<Cpu<f32>>(&(), &spec, &*method::find("sequential").unwrap().open_default(), capacity)
                .unwrap();
        let mut values = vec![0.0; trainer.clip.parameters.arena_len()];
        for parameter in trainer.clip.parameters.iter() {
            let init = fixture.f64(&format!("init/{}", parameter.name));
            assert_eq!(fixture.shape(&format!("init/{}", parameter.name)), parameter.shape, "{}", parameter.name);
            values[parameter.range()].iter_mut().zip(init).for_each(|(to, from)| *to = from as f32);
        }
        trainer.clip.load(&mut *trainer.device, &values);
        let texts = fixture
            .u32("ids")
            .chunks(6 * 12)
            .map(|batch| {
                let end = |row: &[u32]| row.iter().position(|id| *id == 99).unwrap();
                batch.chunks(12).map(|row| row[..=end(row)].to_vec()).collect()
            })
            .collect();
        let pixels = fixture.u8("pixels").chunks(6 * 12 * 12 * 3).map(<[u8]>::to_vec).collect();
        Setup { fixture, trainer, texts, pixels }
    }

    /// One text for each sample, repeated ones repeated.
    fn separate_texts(&self, batch: usize) -> BatchTexts<'_> {
        BatchTexts {
            tokens: self.texts[batch].iter().map(Vec::as_slice).collect(),
            class_of_text: Label::first(6).collect(),
            text_of: (0..6).collect(),
        }
    }

    /// The distinct texts of a batch.
    fn bank(&self, batch: usize) -> (TextBank, Vec<u32>) {
        let mut bank = TextBank::default();
        let texts = &self.texts[batch];
        let number = texts.iter().map(|text| texts.iter().position(|other| other == text).unwrap() as u32).collect();
        for (class, text) in texts.iter().enumerate() {
            bank.add(text.clone(), Label(class as u32));
        }
        (bank, number)
    }

    fn gradients(&mut self) -> Vec<f32> {
        let (bank, numbers) = self.bank(0);
        let texts = bank.batch(&numbers);
        let batch = TrainBatch {
            pixels: &self.pixels[0],
            texts: Some(&texts),
            slot: &[0, 1, 2, 3, 4, 5],
            ..Default::default()
        };
        self.trainer.gradients(batch);
        self.trainer.device.read_vec(self.trainer.clip.weights.gradients)
    }

    fn step(&mut self, batch: usize) -> IterationReport {
        let (bank, numbers) = self.bank(batch);
        let texts = bank.batch(&numbers);
        let batch = TrainBatch {
            pixels: &self.pixels[batch],
            texts: Some(&texts),
            slot: &[0, 1, 2, 3, 4, 5],
            ..Default::default()
        };
        self.trainer.iterate(batch, 1e-3).unwrap()
    }
}

fn assert_close(what: &str, found: &[f32], expected: &[f64], floor: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = found.iter().zip(expected).map(|(a, b)| (*a as f64 - b).powi(2)).sum::<f64>().sqrt();
    let norm = expected.iter().map(|b| b * b).sum::<f64>().sqrt();
    assert!(difference <= TOLERANCE * norm + floor, "{what}: |difference| {difference:e}, |expected| {norm:e}");
}

const MODELS: [&str; 2] = ["tiny_gelu", "tiny_quick_gelu"];

#[test]
fn features_loss_and_every_gradient_equal_pytorchs() {
    for name in MODELS {
        let mut setup = Setup::open(name);
        let gradients = setup.gradients();
        let Setup { fixture, trainer, .. } = &setup;
        let device = &trainer.device;
        let images = device.read_vec(trainer.clip.vision.embeddings());
        assert_close("image features", &images, &fixture.f64("image_features"), 0.0);
        // Texts are distinct here; PyTorch's are one a sample, and the last distinct one is missing.
        let (_, numbers) = setup.bank(0);
        let mut distinct = numbers.clone();
        distinct.dedup();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() < 6, "the fixture repeats a caption");
        let features = fixture.f64("text_features");
        let expected: Vec<f64> =
            distinct.iter().flat_map(|row| features[*row as usize * 20..][..20].to_vec()).collect();
        let texts = device.read_vec(trainer.clip.text.embeddings().first(expected.len()));
        assert_close("text features", &texts, &expected, 0.0);
        assert_close("loss", &[trainer.loss()], &fixture.f64("loss")[..1], 0.0);
        for parameter in trainer.clip.parameters.iter() {
            let expected = fixture.f64(&format!("grad/{}", parameter.name));
            assert_close(&parameter.name, &gradients[parameter.range()], &expected, 0.0);
        }
    }
}

#[test]
fn three_adamw_steps_lead_where_pytorchs_lead() {
    for name in MODELS {
        let mut setup = Setup::open(name);
        let after = Fixture::open(&format!("{name}_after3"));
        for batch in 0..3 {
            let report = setup.step(batch);
            let expected = |name: &str| vec![setup.fixture.f64(name)[batch]];
            assert_close("loss", &[report.loss], &expected("loss"), 0.0);
            assert_close("gradient norm", &[report.gradient_norm], &expected("grad_norm"), 0.0);
        }
        let parameters = setup.trainer.parameters();
        for parameter in setup.trainer.clip.parameters.iter() {
            let expected = after.f64(&format!("after3/{}", parameter.name));
            assert_close(&parameter.name, &parameters[parameter.range()], &expected, 0.0);
        }
    }
}

#[test]
fn deduplicated_text_equals_text_encoded_for_each_sample() {
    let mut setup = Setup::open("tiny_gelu");
    let shared = setup.gradients();
    let loss = setup.trainer.loss();
    let texts = setup.separate_texts(0);
    let texts = BatchTexts { tokens: texts.tokens.clone(), ..texts };
    let owned: Vec<Vec<u32>> = texts.tokens.iter().map(|tokens| tokens.to_vec()).collect();
    let (class_of_text, text_of) = (texts.class_of_text.clone(), texts.text_of.clone());
    let texts = BatchTexts { tokens: owned.iter().map(Vec::as_slice).collect(), class_of_text, text_of };
    let batch =
        TrainBatch { pixels: &setup.pixels[0], texts: Some(&texts), slot: &[0, 1, 2, 3, 4, 5], ..Default::default() };
    setup.trainer.gradients(batch);
    let separate = setup.trainer.device.read_vec(setup.trainer.clip.weights.gradients);
    let separate_loss = setup.trainer.loss();
    assert_relative_eq!(loss, separate_loss, max_relative = 4.0 * f32::EPSILON);
    let difference = shared.iter().zip(&separate).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let norm = separate.iter().map(|x| x * x).sum::<f32>().sqrt();
    // Some hundred roundings in a row of sums.
    assert!(difference <= 1e-5 * norm, "relative difference {:e}", difference / norm);
}

#[test]
fn padding_to_the_context_length_changes_nothing_but_the_cost() {
    let mut setup = Setup::open("tiny_gelu");
    let short = setup.gradients();
    setup.trainer.set_full_context(true);
    let padded = setup.gradients();
    let difference = short.iter().zip(&padded).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let norm = padded.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!(difference <= 1e-5 * norm, "relative difference {:e}", difference / norm);
}
