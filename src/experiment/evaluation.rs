//! How a model is tested: the row of E after a step, and what stands beside it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::config::EvaluationTask;
use super::fitted::Fitted;
use super::setup::Setup;
use crate::data::Label;
use crate::data::loader::{BatchRequest, Loader, LoaderOptions};
use crate::error::Result;
use crate::eval::embed::{embed_images, embed_texts};
use crate::eval::retrieval::{Retrieval, retrieve};
use crate::eval::zero_shot::{choose, class_embeddings};
use crate::memory::Memory;
use crate::method::Classifies;
use crate::method::herding::mean_direction;
use crate::model::clip::Clip;
use crate::ops::Device;
use crate::stream::{Stream, StreamKind};
use crate::train::{self, Trainer};
/// The model as it is after one step.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The step's row of E.
    pub row: Vec<Option<f64>>,
    /// Its rows of the other matrices.
    pub dynamic: BTreeMap<String, Vec<Option<f64>>>,
    pub static_sets: BTreeMap<String, Option<f64>>,
    /// By task, what each test image is taken for.
    pub answers: Vec<Vec<Answer>>,
}

/// A test image and what it is taken for: the number of a [`Label`], or of a caption in retrieval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub sample: u32,
    pub truth: u32,
    pub chosen: u32,
}

impl Answer {
    pub(crate) fn is_right(&self) -> bool {
        self.chosen == self.truth
    }
}

/// Tests the model as it is now: on the tests of all steps, and on those of the sets beside the stream. `progress` hears how many test
/// images are done.
pub(crate) fn evaluate(
    trainer: &mut Trainer,
    setup: &Setup,
    memory: &Memory,
    mut fitted: Option<&mut Fitted>,
    step: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Findings> {
    let Setup { stream, dataset, .. } = setup;
    let settings = &setup.config.evaluation;
    let retrieves = settings.task == EvaluationTask::Retrieval;
    // Names tell classes that are still to come.
    let by_text =
        setup.row().classifies == Classifies::ByText || fitted.as_ref().is_some_and(|fitted| fitted.knows_names());
    let class = |sample: u32| dataset.samples[sample as usize].class;
    let samples: Vec<u32> = setup.test_samples().collect();
    let images = match setup.row().classifies {
        Classifies::ByText | Classifies::ByNearestMean => {
            Embedded::of(&mut *trainer.device, &trainer.evaluation, setup, &samples, progress)?
        }
        Classifies::ByHead | Classifies::ByLinearProbe | Classifies::ByFit => Embedded::default(),
    };
    let scores = match setup.row().classifies {
        Classifies::ByText if retrieves && !settings.also_classify && setup.static_sets.is_empty() => Scores::default(),
        Classifies::ByText => zero_shot(trainer, setup, &images),
        Classifies::ByNearestMean => nearest_mean(trainer, setup, memory, &images)?,
        Classifies::ByHead | Classifies::ByLinearProbe => by_head(trainer, setup, &samples, progress)?,
        Classifies::ByFit => {
            let fitted = fitted.as_deref_mut().expect("the run has the method's classifier");
            let seen = stream.classes_seen(step).len();
            by_fit(fitted, trainer, setup, &samples, seen, progress)?
        }
    };
    // Among all classes of the stream, where the classifier gives them shares of one whole, and some are still to come.
    let (seen, all) = (stream.classes_seen(step).len(), stream.class_order.len());
    let among_all = match fitted {
        Some(fitted) if by_text && all > seen => Some(by_fit(fitted, trainer, setup, &samples, all, progress)?),
        _ => None,
    };
    let scores_of = |candidates: &[Label]| match &among_all {
        Some(among_all) if candidates.len() > seen => among_all,
        _ => &scores,
    };
    let classify = || -> Vec<Vec<Answer>> {
        let of_task = |task: usize| {
            let candidates = match by_text {
                // A set of tests of its own has nothing to do with the classes that others happen to have.
                true if !settings.classification_domains.is_empty() => Label::first(dataset.classes.len()).collect(),
                true => candidates(stream, step, task),
                // A head has rows for the classes seen so far; a task whose classes are still to come is not for it.
                false if stream.kind == StreamKind::ClassIncremental && task > step => return Vec::new(),
                false => stream.classes_seen(step),
            };
            scores_of(&candidates).answers(&setup.classified[task], &candidates, class)
        };
        (0..stream.steps.len()).map(of_task).collect()
    };

    let mut found = Findings::default();
    if retrieves {
        for tests in &setup.retrieved {
            let (answers, retrieval) = images.retrieve(trainer, setup, tests);
            found.row.push(retrieval.map(|retrieval| retrieval.mean_recall_at_1()));
            for (name, value) in recalls(retrieval) {
                found.dynamic.entry(name).or_default().push(value);
            }
            found.answers.push(answers);
        }
        if settings.also_classify {
            let row = classify().iter().map(|answers| accuracy(answers)).collect();
            found.dynamic.insert("classification".to_string(), row);
        }
    } else {
        found.answers = classify();
        found.row = found.answers.iter().map(|answers| accuracy(answers)).collect();
    }
    // A set beside the stream has nothing to do with the stream's classes, but a head knows no others.
    let all = if by_text { Label::first(dataset.classes.len()).collect() } else { stream.classes_seen(step) };
    for (name, samples) in &setup.static_sets {
        found.static_sets.insert(format!("{name} accuracy"), accuracy(&scores_of(&all).answers(samples, &all, class)));
        if retrieves {
            let (_, retrieval) = images.retrieve(trainer, setup, samples);
            let recall = retrieval.map(|retrieval| retrieval.mean_recall_at_1());
            found.static_sets.insert(format!("{name} mean_recall@1"), recall);
        }
    }
    Ok(found)
}

/// The run's measure, accuracy among the classes seen after step `step` or mean recall@1, on each of some sets of samples. For
/// methods that classify by texts.
pub(crate) fn accuracies(
    trainer: &mut Trainer,
    setup: &Setup,
    sets: &[Vec<u32>],
    step: usize,
) -> Result<Vec<Option<f64>>> {
    let class = |sample: u32| setup.dataset.samples[sample as usize].class;
    let images = Embedded::of(&mut *trainer.device, &trainer.evaluation, setup, &sets.concat(), &mut |_| ())?;
    if setup.config.evaluation.task == EvaluationTask::Retrieval {
        let recall =
            |set: &Vec<u32>| images.retrieve(trainer, setup, set).1.map(|retrieval| retrieval.mean_recall_at_1());
        return Ok(sets.iter().map(recall).collect());
    }
    let (scores, seen) = (zero_shot(trainer, setup, &images), setup.stream.classes_seen(step));
    Ok(sets.iter().map(|set| accuracy(&scores.answers(set, &seen, class))).collect())
}

/// Scores of images against every class's prompts.
fn zero_shot(trainer: &mut Trainer, setup: &Setup, images: &Embedded) -> Scores {
    let prompts: Vec<&[u32]> = setup.class_prompts.iter().map(Vec::as_slice).collect();
    let columns = setup.dataset.classes.len();
    let texts = class_embeddings(&mut *trainer.device, &trainer.evaluation, &prompts, columns);
    images.scores(trainer, &texts)
}

/// Scores of images against every class's mean of what the memory keeps (icarl).
fn nearest_mean(trainer: &mut Trainer, setup: &Setup, memory: &Memory, images: &Embedded) -> Result<Scores> {
    let kept = Embedded::of(&mut *trainer.device, &trainer.evaluation, setup, &memory.indices(), &mut |_| ())?;
    let columns = setup.dataset.classes.len();
    let mean = |class: Label| {
        let rows = memory.of_class(class).iter().filter(|sample| kept.rows.contains_key(sample));
        mean_direction(rows.map(|sample| kept.row(*sample)), kept.width)
    };
    let means: Vec<f32> = Label::first(columns).flat_map(mean).collect();
    Ok(images.scores(trainer, &means))
}

/// Scores of images by the model's head.
fn by_head(trainer: &mut Trainer, setup: &Setup, samples: &[u32], progress: &mut dyn FnMut(usize)) -> Result<Scores> {
    let Trainer { device, evaluation: clip, frozen, frozen_in_use, objective, .. } = trainer;
    let columns = setup.dataset.classes.len();
    let (mut rows, mut values) = (HashMap::new(), Vec::new());
    let mut loader = test_loader(setup, samples, clip.capacity.images)?;
    while let Some(batch) = loader.next() {
        let batch = batch?;
        if !batch.samples.is_empty() {
            device.write(clip.vision.pixels(), &batch.pixels);
            clip.vision.forward(&mut **device, batch.samples.len());
            let frozen = &frozen[..*frozen_in_use];
            let scores = objective.scores(&mut **device, &clip.vision, frozen, batch.samples.len());
            let train::Scores { values: scores, columns: of_head } = scores.expect("the method has a head");
            for (sample, scores) in batch.samples.iter().zip(scores.chunks_exact(of_head)) {
                rows.insert(*sample, rows.len());
                // A head's columns are in the order of the stream.
                let first = values.len();
                values.resize(first + columns, f32::NEG_INFINITY);
                for (label, score) in setup.stream.class_order.iter().zip(scores) {
                    values[first + label.index()] = *score;
                }
            }
        }
        loader.recycle(batch);
        progress(rows.len());
    }
    Ok(Scores { rows, columns, values })
}

/// Scores of images by the classifier that the method has fitted, among the first `classes` of the stream.
fn by_fit(
    fitted: &mut Fitted,
    trainer: &mut Trainer,
    setup: &Setup,
    samples: &[u32],
    classes: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Scores> {
    let (known, scores) = fitted.scores(trainer, setup, samples, classes, progress)?;
    let columns = setup.dataset.classes.len();
    let mut values = vec![f32::NEG_INFINITY; known.len() * columns];
    for (row, scores) in values.chunks_exact_mut(columns).zip(scores.chunks_exact(classes)) {
        setup.stream.class_order.iter().zip(scores).for_each(|(label, score)| row[label.index()] = *score);
    }
    Ok(Scores { rows: known.into_iter().zip(0..).collect(), columns, values })
}

/// The classes among which an image of `task` is classified after step `step`.
///
/// Which task or domain an image is from is not told. So they are, for every task already seen, all classes seen so far, never
/// the task's own; for a task still to come, all classes of the stream. Domain- and time-incremental streams share their
/// classes, so there they are all of them throughout.
fn candidates(stream: &Stream, step: usize, task: usize) -> Vec<Label> {
    if stream.kind == StreamKind::ClassIncremental && task <= step {
        stream.classes_seen(step)
    } else {
        stream.class_order.clone()
    }
}

/// The part that is right; None without any.
fn accuracy(answers: &[Answer]) -> Option<f64> {
    let right = answers.iter().filter(|answer| answer.is_right()).count();
    (!answers.is_empty()).then(|| right as f64 / answers.len() as f64)
}

/// Scores `[images, columns]` of test images, by whatever the model classifies with.
#[derive(Default)]
struct Scores {
    /// The row of each sample; a broken one has none.
    rows: HashMap<u32, usize>,
    columns: usize,
    values: Vec<f32>,
}

impl Scores {
    /// What `samples` are taken for among `candidates`. The columns are the data set's classes.
    fn answers(&self, samples: &[u32], candidates: &[Label], truth: impl Fn(u32) -> Label) -> Vec<Answer> {
        let candidates = Label::numbers(candidates);
        let answer = |sample: &u32| {
            let row = self.rows.get(sample)?;
            let (truth, scores) = (truth(*sample).0, &self.values[row * self.columns..][..self.columns]);
            Some(Answer { sample: *sample, truth, chosen: choose(scores, candidates, truth) })
        };
        samples.iter().filter_map(answer).collect()
    }
}

/// Embeddings `[images, width]` of some samples.
#[derive(Default)]
pub(crate) struct Embedded {
    /// The row of each sample; a broken one has none.
    pub rows: HashMap<u32, usize>,
    embeddings: Vec<f32>,
    pub width: usize,
}

impl Embedded {
    /// Samples that share a picture share a row. `progress` hears how many pictures are done.
    pub(crate) fn of(
        device: &mut dyn Device,
        clip: &Clip,
        setup: &Setup,
        samples: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Embedded> {
        let first = |sample: &u32| setup.dataset.first_of_picture(*sample);
        let mut known = HashSet::new();
        let pictures: Vec<u32> = samples.iter().map(first).filter(|picture| known.insert(*picture)).collect();
        let mut loader = test_loader(setup, &pictures, clip.capacity.images)?;
        let (pictures, embeddings) = embed_images(device, clip, &mut loader, progress)?;
        let row_of: HashMap<u32, usize> = pictures.into_iter().zip(0..).collect();
        let rows = samples.iter().filter_map(|sample| Some((*sample, *row_of.get(&first(sample))?))).collect();
        Ok(Embedded { rows, embeddings, width: clip.spec.embed_dim })
    }

    /// The embedding of a sample that has one.
    pub(crate) fn row(&self, sample: u32) -> &[f32] {
        &self.embeddings[self.rows[&sample] * self.width..][..self.width]
    }

    /// Similarities with `columns [columns, width]`, a direction of each class.
    fn scores(&self, trainer: &mut Trainer, columns: &[f32]) -> Scores {
        let Trainer { device, similarities, .. } = trainer;
        let values = similarities.all(&mut **device, &self.embeddings, columns);
        Scores { rows: self.rows.clone(), columns: similarities.rows(columns), values }
    }

    /// Retrieval by captions among `samples` alone, and the caption that each image finds.
    fn retrieve(&self, trainer: &mut Trainer, setup: &Setup, samples: &[u32]) -> (Vec<Answer>, Option<Retrieval>) {
        let tests: Vec<u32> = samples.iter().filter(|sample| self.rows.contains_key(sample)).copied().collect();
        let caption = |test: &u32| setup.caption_of_sample[*test as usize];
        let mut captions: Vec<u32> = tests.iter().map(caption).collect();
        captions.sort_unstable();
        captions.dedup();
        // A picture of several samples has the captions of all of them.
        let (mut pictures, mut columns_of_picture) = (Vec::new(), Vec::<Vec<u32>>::new());
        let mut place_of_picture = HashMap::new();
        for test in &tests {
            let place = *place_of_picture.entry(setup.dataset.first_of_picture(*test)).or_insert_with(|| {
                pictures.push(*test);
                columns_of_picture.push(Vec::new());
                pictures.len() - 1
            });
            let column = captions.binary_search(&caption(test)).expect("every caption is among them") as u32;
            if !columns_of_picture[place].contains(&column) {
                columns_of_picture[place].push(column);
            }
        }
        let tokens: Vec<&[u32]> = captions.iter().map(|caption| setup.captions[*caption as usize].as_slice()).collect();
        let images: Vec<f32> = pictures.iter().flat_map(|test| self.row(*test)).copied().collect();
        let Trainer { device, evaluation: clip, similarities, .. } = trainer;
        let texts = embed_texts(&mut **device, clip, &tokens);
        let columns: Vec<u32> = (0..captions.len() as u32).collect();
        retrieve(&mut **device, similarities, &images, &texts, &columns_of_picture, |place, scores| {
            let (truth, chosen) = choose_among(scores, &columns, &columns_of_picture[place]);
            Answer { sample: pictures[place], truth: captions[truth as usize], chosen: captions[chosen as usize] }
        })
    }
}

/// Which of its `own` columns a row of scores is held against, and which of all `columns` it is taken for: the same where it is
/// taken for one of its own.
fn choose_among(scores: &[f32], columns: &[u32], own: &[u32]) -> (u32, u32) {
    let score = |column: u32| scores[column as usize];
    let better = |a: u32, b: u32| if score(b) > score(a) || score(a).is_nan() { b } else { a };
    let truth = own.iter().copied().reduce(better).expect("every picture has a caption");
    let chosen = choose(scores, columns, truth);
    (if own.contains(&chosen) { chosen } else { truth }, chosen)
}

/// Every recall under the name of its matrix.
fn recalls(retrieval: Option<Retrieval>) -> [(String, Option<f64>); 6] {
    let both = [
        ("image_to_text", retrieval.map(|retrieval| retrieval.image_to_text)),
        ("text_to_image", retrieval.map(|retrieval| retrieval.text_to_image)),
    ];
    let value = |place: usize| {
        let (direction, recall) = both[place / 3];
        let (at, value) = match place % 3 {
            0 => (1, recall.map(|recall| recall.at_1)),
            1 => (5, recall.map(|recall| recall.at_5)),
            _ => (10, recall.map(|recall| recall.at_10)),
        };
        (format!("{direction}_recall@{at}"), value)
    };
    std::array::from_fn(value)
}

/// A loader of samples as evaluation sees them.
fn test_loader(setup: &Setup, samples: &[u32], batch: usize) -> Result<Loader> {
    test_batches(setup, samples.chunks(batch).map(<[u32]>::to_vec).collect())
}

/// A loader of batches as evaluation sees them.
pub(super) fn test_batches(setup: &Setup, batches: Vec<Vec<u32>>) -> Result<Loader> {
    open_loader(setup, batches.into_iter().map(|samples| BatchRequest { samples, augment: None }))
}

/// A loader with the run's settings.
pub(crate) fn open_loader(
    setup: &Setup,
    requests: impl Iterator<Item = BatchRequest> + Send + 'static,
) -> Result<Loader> {
    let data = &setup.config.data;
    let threads = match data.loader_threads {
        0 => std::thread::available_parallelism().map_or(1, |count| count.get()),
        threads => threads,
    };
    let options = LoaderOptions { threads, prefetch: 4, max_broken: data.max_broken };
    Loader::new(setup.dataset.clone(), requests, setup.model.vision_cfg.image_size, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{ClassOrder, Item, class_incremental, domain_incremental};

    /// One training and one test sample of each class: the test sample of class c is sample 2c + 1. Classes 0 and 1 are of
    /// domain 0, the others of domain 1.
    fn items() -> Vec<Item> {
        let item = |class: u32, train| Item { class: Label(class), domain: class / 2, time: 2000, train };
        (0..4).flat_map(|class| [item(class, true), item(class, false)]).collect()
    }

    /// Accuracy on each task after `step`, of scores [4 test images, 4 classes].
    fn row(stream: &Stream, step: usize, scores: [[f32; 4]; 4]) -> Vec<f64> {
        let rows = (0..4).map(|class| (2 * class + 1, class as usize)).collect();
        let scores = Scores { rows, columns: 4, values: scores.concat() };
        let of_task = |task: usize| {
            let answers =
                scores.answers(&stream.steps[task].test, &candidates(stream, step, task), |sample| Label(sample / 2));
            accuracy(&answers).unwrap()
        };
        (0..stream.steps.len()).map(of_task).collect()
    }

    /// Within its own pair of classes every image is right; among all four, class 2 draws the images of 0, and class 0 that
    /// of class 3.
    const CONFUSED: [[f32; 4]; 4] =
        [[0.6, 0.1, 0.9, 0.1], [0.1, 0.8, 0.2, 0.1], [0.3, 0.1, 0.7, 0.2], [0.9, 0.1, 0.3, 0.6]];

    #[test]
    fn which_task_an_image_is_from_is_not_told() {
        let stream = class_incremental(&items(), 2, None, &ClassOrder::Given(Label::first(4).collect())).unwrap();
        assert_eq!(stream.steps[0].test, [1, 3]);
        // Of the first task alone nothing else is known yet; the second is held against all that will come.
        assert_eq!(row(&stream, 0, CONFUSED), [1.0, 0.5]);
        // Class 2, of the task just learnt, takes an image of the first; class 0 one of the second.
        assert_eq!(row(&stream, 1, CONFUSED), [0.5, 0.5]);
    }

    #[test]
    fn which_domain_an_image_is_from_is_not_told() {
        let stream = domain_incremental(&items(), &[0, 1], &[]).unwrap();
        assert_eq!(stream.steps[0].classes, [0, 1].map(Label));
        for step in 0..2 {
            assert_eq!(row(&stream, step, CONFUSED), [0.5, 0.5]);
        }
    }

    #[test]
    fn broken_test_images_are_left_out() {
        let rows = HashMap::from([(7, 0)]);
        let scores = Scores { rows, columns: 2, values: vec![0.9, 0.1] };
        let answers = scores.answers(&[6, 7], &[0, 1].map(Label), |_| Label(0));
        assert_eq!(answers, [Answer { sample: 7, truth: 0, chosen: 0 }]);
        assert_eq!(accuracy(&scores.answers(&[6], &[0, 1].map(Label), |_| Label(0))), None);
    }

    #[test]
    fn any_of_a_pictures_captions_is_right() {
        let columns = [0, 1, 2, 3];
        assert_eq!(choose_among(&[0.1, 0.9, 0.5, 0.7], &columns, &[2, 1]), (1, 1));
        assert_eq!(choose_among(&[0.1, 0.9, 0.5, 0.7], &columns, &[0, 2]), (2, 1));
        let (truth, chosen) = choose_among(&[0.1, 0.9, 0.9, 0.7], &columns, &[2, 1]);
        assert_eq!(truth, chosen, "its own may tie");
        let (truth, chosen) = choose_among(&[0.9, 0.9, 0.2, 0.7], &columns, &[2, 1]);
        assert_eq!((truth, chosen), (1, 0), "another may not");
        let (truth, chosen) = choose_among(&[0.9, f32::NAN, 0.2, 0.7], &columns, &[1, 2]);
        assert_eq!((truth, chosen), (2, 0));
    }

    #[test]
    fn recalls_have_their_names() {
        let recall = |first: f64| crate::eval::retrieval::Recall { at_1: first, at_5: first + 0.1, at_10: first + 0.2 };
        let named = recalls(Some(Retrieval { image_to_text: recall(0.1), text_to_image: recall(0.5) }));
        let named: Vec<(&str, f64)> = named.iter().map(|(name, value)| (name.as_str(), value.unwrap())).collect();
        let expected = [
            ("image_to_text_recall@1", 0.1),
            ("image_to_text_recall@5", 0.1 + 0.1),
            ("image_to_text_recall@10", 0.1 + 0.2),
            ("text_to_image_recall@1", 0.5),
            ("text_to_image_recall@5", 0.5 + 0.1),
            ("text_to_image_recall@10", 0.5 + 0.2),
        ];
        assert_eq!(named, expected);
    }
}
