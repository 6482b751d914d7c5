//! The matrix E and what follows from it: `evaluation.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::EvaluationTask;
use super::setup::Setup;
use crate::data::loader::{BatchRequest, Loader, LoaderOptions};
use crate::error::Result;
use crate::eval::embed::{embed_images, embed_texts};
use crate::eval::metrics::{Retrieval, Summary, TaskMatrix};
use crate::eval::zero_shot::{class_embeddings, predict, similarities};
use crate::model::clip::Clip;
use crate::ops::Device;
use crate::stream::StreamKind;

/// A run's result so far, as `evaluation.json` holds it. It depends on nothing but the run's settings and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub method: String,
    pub memory: usize,
    pub seed: u64,
    pub task: EvaluationTask,
    pub steps: Vec<StepRecord>,
    /// E: row i after step i, column j for the task of step j; null where a test set gave no number.
    pub matrix: Vec<Vec<Option<f64>>>,
    /// A_b: over all tests of the steps up to b.
    pub accuracy: Vec<f64>,
    pub summary: Summary,
    /// Samples trained on, and multiply-accumulates of their forward passes, in all.
    pub samples_spent: u64,
    pub macs_spent: u64,
    /// What was spent up to the end of each step.
    #[serde(default)]
    pub spent: Vec<Spent>,
    /// Other matrices of E's shape, by name: `classification`, `image_to_text_recall@5`.
    #[serde(default)]
    pub dynamic: BTreeMap<String, Vec<Vec<Option<f64>>>>,
    /// Test sets beside the stream, by name: a number after each step.
    #[serde(default)]
    pub static_sets: BTreeMap<String, Vec<Option<f64>>>,
}

/// A budget in samples trained on and in multiply-accumulates of forward passes, since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub samples: u64,
    pub macs: u64,
}

/// A test image and what the model takes it for after the last step: `predictions.json`, a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Index in the data set.
    pub sample: u32,
    /// The step whose test image it is, from 0.
    pub task: usize,
    /// Names of classes, or captions in retrieval.
    pub truth: String,
    pub predicted: String,
}

/// A step as it stands in the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    pub name: String,
    pub train: usize,
    pub test: usize,
    pub classes: usize,
}

impl Evaluation {
    pub fn new(setup: &Setup) -> Evaluation {
        let step = |step: &crate::stream::Step| StepRecord {
            name: step.name.clone(),
            train: step.train.len(),
            test: step.test.len(),
            classes: step.classes.len(),
        };
        Evaluation {
            method: setup.method.name.to_string(),
            memory: if setup.method.uses_memory() { setup.config.memory.size } else { 0 },
            seed: setup.config.seed,
            task: setup.config.evaluation.task,
            steps: setup.stream.steps.iter().map(step).collect(),
            matrix: Vec::new(),
            accuracy: Vec::new(),
            summary: Summary::of(&TaskMatrix::new(setup.stream.steps.len()), &[]),
            samples_spent: 0,
            macs_spent: 0,
            spent: Vec::new(),
            dynamic: BTreeMap::new(),
            static_sets: BTreeMap::new(),
        }
    }

    /// Whether every step has its row.
    pub fn is_complete(&self) -> bool {
        self.matrix.len() == self.steps.len()
    }

    /// Forgets the rows from step `steps` on: a resumed run makes them again.
    pub fn truncate(&mut self, steps: usize) -> Result<()> {
        self.matrix.truncate(steps);
        self.accuracy.truncate(steps);
        self.summarise()
    }

    /// Adds the row of the next step.
    pub fn push(&mut self, row: Vec<Option<f64>>) -> Result<()> {
        let last = self.matrix.len();
        let seen = row.iter().zip(&self.steps).take(last + 1);
        let counted = seen.filter_map(|(value, step)| value.map(|value| (value, step.test as f64)));
        let (sum, count) = counted.fold((0.0, 0.0), |(sum, count), (value, n)| (sum + value * n, count + n));
        self.accuracy.push(if count > 0.0 { sum / count } else { 0.0 });
        self.matrix.push(row);
        self.summarise()
    }

    fn summarise(&mut self) -> Result<()> {
        let mut matrix = TaskMatrix::new(self.steps.len());
        for row in &self.matrix {
            matrix.push(row.clone())?;
        }
        self.summary = Summary::of(&matrix, &self.accuracy);
        Ok(())
    }
}

/// Row `step` of E: the model as it is now on the test sets of all steps.
///
/// Classification chooses, on the task of a step already seen, among all classes seen so far, never among the task's own
/// (which task an image is from is not told); on a task still to come, among all classes of the stream. Domain- and
/// time-incremental streams share their classes, so there it is all of them throughout.
pub fn evaluate<D: Device>(device: &mut D, clip: &Clip, setup: &Setup, step: usize) -> Result<Vec<Option<f64>>> {
    let width = clip.spec.embed_dim;
    let samples: Vec<u32> = setup.stream.steps.iter().flat_map(|step| step.test.iter().copied()).collect();
    let requests: Vec<BatchRequest> = samples
        .chunks(clip.capacity.images)
        .map(|samples| BatchRequest { samples: samples.to_vec(), augment: None })
        .collect();
    let mut loader = open_loader(setup, requests.into_iter())?;
    let (samples, images) = embed_images(device, clip, &mut loader)?;
    let place: std::collections::HashMap<u32, usize> =
        samples.iter().enumerate().map(|(place, sample)| (*sample, place)).collect();
    let image = |sample: &u32| place.get(sample).map(|place| &images[place * width..(place + 1) * width]);
    match setup.config.evaluation.task {
        EvaluationTask::Classification => {
            let prompts: Vec<&[u32]> = setup.class_prompts.iter().map(Vec::as_slice).collect();
            let classes = setup.dataset.classes.len();
            let scores = similarities(&images, &class_embeddings(device, clip, &prompts, classes), width);
            let seen = setup.stream.classes_seen(step);
            Ok((0..setup.stream.steps.len())
                .map(|task| {
                    let known = setup.stream.kind == StreamKind::ClassIncremental && task <= step;
                    let candidates = if known { &seen } else { &setup.stream.class_order };
                    let tests: Vec<u32> =
                        setup.stream.steps[task].test.iter().filter(|test| place.contains_key(test)).copied().collect();
                    let right = tests
                        .iter()
                        .filter(|test| {
                            let scores = &scores[place[test] * classes..][..classes];
                            predict(scores, classes, candidates)[0] == setup.dataset.samples[**test as usize].class
                        })
                        .count();
                    (!tests.is_empty()).then(|| right as f64 / tests.len() as f64)
                })
                .collect())
        }
        EvaluationTask::Retrieval => setup
            .stream
            .steps
            .iter()
            .map(|task| {
                let tests: Vec<u32> = task.test.iter().filter(|test| place.contains_key(test)).copied().collect();
                let groups: Vec<u32> = tests.iter().map(|test| setup.caption_of_sample[*test as usize]).collect();
                let mut captions = groups.clone();
                captions.sort_unstable();
                captions.dedup();
                let tokens: Vec<&[u32]> =
                    captions.iter().map(|caption| setup.captions[*caption as usize].as_slice()).collect();
                let rows: Vec<f32> = tests.iter().flat_map(|test| image(test).unwrap_or_default()).copied().collect();
                let scores = similarities(&rows, &embed_texts(device, clip, &tokens), width);
                Ok(Retrieval::of(&scores, &groups, &captions).map(|retrieval| retrieval.mean_recall_at_1()))
            })
            .collect(),
    }
}

/// A loader with the run's settings.
pub fn open_loader(setup: &Setup, requests: impl Iterator<Item = BatchRequest> + Send + 'static) -> Result<Loader> {
    let data = &setup.config.data;
    let options = LoaderOptions { threads: data.loader_threads, prefetch: 4, max_broken: data.max_broken };
    Loader::new(setup.dataset.clone(), requests, setup.model.vision_cfg.image_size, options)
}
