//! A classifier that is fitted to the features of a frozen tower: which features it takes in, where they come from, and what it answers.
//!
//! A picture goes through the tower once in a run, whether it is for training or for tests: its features lie in `features.bin`
//! ([`FeatureFile`]). What the classifier has taken in lies nowhere; a run that goes on takes it in again, in the order of the stream.
//!
//! Blocks of the file are batches of evaluation, and their pictures follow from the stream: a block that has to be computed again has the
//! same bits again.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::evaluation::test_batches;
use super::setup::Setup;
use crate::data::Label;
use crate::error::{Error, Result};
use crate::eval::features::{FeatureFile, Layout};
use crate::eval::zero_shot::class_embeddings;
use crate::method::fitted::{Classifier, Feature, Fit, Fitting, Sizes};
use crate::ops::cpu::{Room, available};
use crate::stream::ClassId;
use crate::train::Trainer;

/// In a run's directory; removed once the run is finished.
pub(super) const FILE: &str = "features.bin";

/// Pictures that are scored at once.
const SCORED: usize = 256;

/// A run's classifier and the features that it sees.
pub(super) struct Fitted {
    features: Features,
    classifier: Box<dyn Classifier>,
    /// How many steps it has taken in, and how many it is fitted to.
    taken: usize,
    fitted: usize,
    /// Which classes of the stream have had samples.
    learnt: Vec<bool>,
}

/// How much a run's classifier is fitted to.
pub(super) fn sizes(setup: &Setup) -> Sizes {
    Sizes {
        pooled: setup.model.vision_cfg.width,
        projected: setup.model.embed_dim,
        classes: setup.stream.class_order.len(),
        samples: (0..setup.stream.steps.len()).map(|step| setup.own_samples(step).len()).sum(),
    }
}

/// Fails where a classifier needs more memory than there is. Returns what it needs; none where the method has no such classifier.
pub(super) fn check_room(setup: &Setup) -> Result<Option<usize>> {
    let Some(fit) = setup.method.fit() else { return Ok(None) };
    let needed = fit.bytes(sizes(setup));
    match available() {
        Some(Room { bytes, limit }) if needed > bytes => Err(Error::input(format!(
            "the classifier of {} needs up to {} MiB of memory, and {} MiB are available ({limit}); {} needs less",
            setup.row().name,
            needed >> 20,
            bytes >> 20,
            fit.remedy()
        ))),
        _ => Ok(Some(needed)),
    }
}

impl Fitted {
    /// Opens the features of a run in the directory `run`. `trainer` holds the weights that they are of. Returns what is to be told too.
    pub(super) fn open(
        setup: &Setup,
        fit: &dyn Fit,
        trainer: &mut Trainer,
        run: &Path,
    ) -> Result<(Fitted, Option<String>)> {
        let (features, note) = Features::open(setup, trainer, &run.join(FILE))?;
        let parameters = trainer.parameters();
        let scale = trainer.clip.parameters.get("logit_scale").offset;
        let scale = f64::from(parameters[scale]).exp();
        let mut texts = || {
            let of_class = setup.class_prompts.len() / setup.dataset.classes.len();
            let prompts = |class: &Label| &setup.class_prompts[class.index() * of_class..][..of_class];
            let prompts: Vec<&[u32]> = setup.stream.class_order.iter().flat_map(prompts).map(Vec::as_slice).collect();
            let classes = setup.stream.class_order.len();
            class_embeddings(&mut *trainer.device, &trainer.evaluation, &prompts, classes)
        };
        let sizes = sizes(setup);
        let classifier = fit.open(&mut Fitting { sizes, seed: setup.config.seed, scale, texts: &mut texts });
        Ok((Fitted { features, classifier, taken: 0, fitted: 0, learnt: vec![false; sizes.classes] }, note))
    }

    /// Has the classifier know the steps up to and with `step`, and no others. Returns numbers for the log, where it was fitted anew.
    pub(super) fn fit_to(
        &mut self,
        trainer: &mut Trainer,
        setup: &Setup,
        step: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<(&'static str, f64)>> {
        while self.taken <= step {
            let samples = setup.own_samples(self.taken);
            self.features.provide(trainer, setup, &samples, progress)?;
            let taken: Vec<(Feature, ClassId)> = samples
                .iter()
                .filter_map(|sample| Some((self.features.of(setup, *sample)?, setup.class_id(*sample))))
                .collect();
            taken.iter().for_each(|(_, class)| self.learnt[class.index()] = true);
            self.classifier.take_in(&taken);
            self.taken += 1;
        }
        if self.fitted == self.taken {
            return Ok(Vec::new());
        }
        self.fitted = self.taken;
        self.classifier.fit()
    }

    /// Whether it can tell classes that have had no samples.
    pub(super) fn knows_names(&self) -> bool {
        self.classifier.knows_names()
    }

    /// Scores of those of `samples` that are not broken, among the first `classes` of the stream: the samples, and `[samples, classes]`.
    pub(super) fn scores(
        &mut self,
        trainer: &mut Trainer,
        setup: &Setup,
        samples: &[u32],
        classes: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(Vec<u32>, Vec<f32>)> {
        self.features.provide(trainer, setup, samples, progress)?;
        let known = samples.iter().filter_map(|sample| Some((*sample, self.features.of(setup, *sample)?)));
        let (known, features): (Vec<u32>, Vec<Feature>) = known.unzip();
        let pieces = features.chunks(SCORED);
        let mut scores: Vec<f32> = pieces.flat_map(|pictures| self.classifier.scores(pictures, classes)).collect();
        if !self.classifier.knows_names() {
            for row in scores.chunks_exact_mut(classes) {
                let unknown = row.iter_mut().zip(&self.learnt).filter(|(_, learnt)| !**learnt);
                unknown.for_each(|(score, _)| *score = f32::NEG_INFINITY);
            }
        }
        Ok((known, scores))
    }
}

/// The features of a run's pictures.
struct Features {
    file: FeatureFile,
    /// The pictures in the order of the file, each by its first sample.
    pictures: Vec<u32>,
    /// The block and the place of each.
    places: HashMap<u32, (usize, usize)>,
    /// Which blocks were looked through for broken pictures.
    looked: Vec<bool>,
}

impl Features {
    fn open(setup: &Setup, trainer: &Trainer, path: &Path) -> Result<(Features, Option<String>)> {
        // Tests are needed from the first step's on.
        let (mut known, mut pictures, mut groups) = (HashSet::new(), Vec::new(), Vec::new());
        let mut group = |samples: &[u32]| {
            let first = |sample: &u32| setup.dataset.first_of_picture(*sample);
            let before = pictures.len();
            pictures.extend(samples.iter().map(first).filter(|picture| known.insert(*picture)));
            groups.push(pictures.len() - before);
        };
        for step in 0..setup.stream.steps.len() {
            group(&setup.own_samples(step));
            if step == 0 {
                group(&setup.test_samples().collect::<Vec<u32>>());
            }
        }
        let mut key = Sha256::new();
        for part in [&trainer.device.name(), &setup.dataset.fingerprint, &setup.model.to_json()] {
            key.update((part.len() as u64).to_le_bytes());
            key.update(part);
        }
        key.update(bytemuck::cast_slice::<u32, u8>(&pictures));
        key.update(bytemuck::cast_slice::<f32, u8>(&trainer.parameters()));
        let layout = Layout {
            key: key.finalize().into(),
            widths: [setup.model.vision_cfg.width, setup.model.embed_dim],
            block: trainer.evaluation.capacity.images,
            groups,
        };
        let (file, note) = FeatureFile::open(path, &layout)?;
        let mut places = HashMap::with_capacity(pictures.len());
        for (block, range) in file.blocks().iter().enumerate() {
            places.extend(range.clone().map(|place| (pictures[place], (block, place))));
        }
        let looked = vec![false; file.blocks().len()];
        Ok((Features { file, pictures, places, looked }, note))
    }

    /// Has the features of these samples at hand: those that are not there go through the tower. `progress` hears how many.
    fn provide(
        &mut self,
        trainer: &mut Trainer,
        setup: &Setup,
        samples: &[u32],
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let first = |sample: &u32| setup.dataset.first_of_picture(*sample);
        let mut blocks: Vec<usize> = samples.iter().map(|sample| self.places[&first(sample)].0).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let missing: Vec<usize> = blocks.iter().copied().filter(|block| !self.file.is_whole(*block)).collect();
        let requests: Vec<Vec<u32>> =
            missing.iter().map(|block| self.pictures[self.file.blocks()[*block].clone()].to_vec()).collect();
        let mut loader = test_batches(setup, requests.clone())?;
        let mut done = 0;
        for (block, pictures) in missing.iter().zip(&requests) {
            let batch = loader.next().ok_or_else(|| Error::run("the loader ended early"))??;
            let rows = see(trainer, &batch.samples, &batch.pixels)?;
            let width = rows.len() / batch.samples.len().max(1);
            // A broken picture has features that are no numbers.
            let broken = vec![f32::NAN; setup.model.vision_cfg.width + setup.model.embed_dim];
            let mut rows = batch.samples.iter().zip(rows.chunks_exact(width.max(1))).peekable();
            let mut values = Vec::with_capacity(pictures.len() * broken.len());
            for picture in pictures {
                let row = rows.next_if(|(sample, _)| *sample == picture).map_or(&broken[..], |(_, row)| row);
                values.extend_from_slice(row);
            }
            done += pictures.len();
            self.file.write(*block, &values)?;
            self.looked[*block] = true;
            loader.recycle(batch);
            progress(done);
        }
        // What another process has found broken counts here too.
        for block in blocks {
            if !std::mem::replace(&mut self.looked[block], true) {
                let places = self.file.blocks()[block].clone();
                let broken = places.filter(|place| self.file.features(block, *place).0[0].is_nan());
                let broken: Vec<u32> = broken.map(|place| self.pictures[place]).collect();
                setup.meet_broken(&broken)?;
            }
        }
        Ok(())
    }

    /// The features of a sample that were provided; none where its picture is broken.
    fn of(&self, setup: &Setup, sample: u32) -> Option<Feature<'_>> {
        let (block, place) = self.places[&setup.dataset.first_of_picture(sample)];
        let (pooled, projected) = self.file.features(block, place);
        (!pooled[0].is_nan()).then_some(Feature { pooled, projected })
    }
}

/// The pooled and the projected feature of each picture, one after the other.
fn see(trainer: &mut Trainer, samples: &[u32], pixels: &[u8]) -> Result<Vec<f32>> {
    let (count, clip) = (samples.len(), &trainer.evaluation);
    if count == 0 {
        return Ok(Vec::new());
    }
    trainer.device.write(clip.vision.pixels(), pixels);
    clip.vision.forward(&mut *trainer.device, count);
    let (width, embed_dim) = (clip.spec.vision_cfg.width, clip.spec.embed_dim);
    let pooled = trainer.device.read_vec(clip.vision.pooled().first(count * width));
    let projected = trainer.device.read_vec(clip.vision.features().first(count * embed_dim));
    trainer.device.health()?;
    if let Some(place) = pooled.iter().position(|value| !value.is_finite()) {
        return Err(Error::run(format!(
            "the features of sample {} are not numbers: the weights are too large, or not those of this model",
            samples[place / width]
        )));
    }
    let pairs = pooled.chunks_exact(width).zip(projected.chunks_exact(embed_dim));
    Ok(pairs.flat_map(|(pooled, projected)| pooled.iter().chain(projected)).copied().collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::Instant;

    use super::super::config::Config;
    use super::super::directory::Access;
    use super::super::record::Evaluation;
    use super::super::run::{Iteration, Observer, run};
    use super::*;
    use crate::ops::cpu::Cpu;
    use crate::ops::device_memory::{DeviceMemory, Kind, Span};
    use crate::ops::measure::Measure;
    use crate::ops::{Op, Plan, Run, Stats, Tensor};

    /// The CPU, which counts the pictures that come to an image tower.
    struct Counted {
        cpu: Cpu<f32>,
        pictures: Arc<AtomicUsize>,
    }

    impl<O: Op> Run<O> for Counted
    where
        Cpu<f32>: Run<O>,
    {
        fn run(&mut self, op: O) {
            if O::NAME == "patch_embed" {
                let shape = op.shape();
                let pictures: usize = shape.split(' ').next().unwrap().parse().unwrap();
                self.pictures.fetch_add(pictures, Relaxed);
            }
            self.cpu.run(op);
        }
    }

    impl Measure for Counted {
        type Mark = Instant;

        fn mark(&mut self) -> Result<Instant> {
            self.cpu.mark()
        }

        fn seconds_between(&self, from: Instant, to: Instant) -> Result<f64> {
            self.cpu.seconds_between(from, to)
        }
    }

    impl DeviceMemory for Counted {
        const STORAGE_BYTES: usize = Cpu::<f32>::STORAGE_BYTES;
        const WORKSPACE_BYTES: usize = Cpu::<f32>::WORKSPACE_BYTES;
        type Place = Arc<AtomicUsize>;

        fn with_plan(place: &Self::Place, plan: &Plan) -> Result<Self> {
            Ok(Counted { cpu: Cpu::with_plan(&(), plan)?, pictures: Arc::clone(place) })
        }

        fn name(&self) -> String {
            self.cpu.name()
        }

        fn write<K: Kind>(&mut self, to: Span<K>, from: &[K::Host]) {
            self.cpu.write(to, from);
        }

        fn read<K: Kind>(&self, from: Span<K>, to: &mut [K::Host]) {
            self.cpu.read(from, to);
        }

        fn fill<K: Kind>(&mut self, to: Span<K>, value: K::Host) {
            self.cpu.fill(to, value);
        }

        fn copy<K: Kind>(&mut self, from: Span<K>, to: Span<K>) {
            self.cpu.copy(from, to);
        }

        fn refresh(&mut self, master: Stats, weights: Tensor) {
            self.cpu.refresh(master, weights);
        }
    }

    /// Notes how many pictures have come by after each step.
    struct Watch {
        pictures: Arc<AtomicUsize>,
        after: Vec<usize>,
    }

    impl Observer for Watch {
        fn started(&mut self, _: &Setup, _: &Plan, _: Option<&str>) {}
        fn iteration(&mut self, _: &Setup, _: Iteration) {}
        fn evaluated(&mut self, _: &Setup, _: &Evaluation) {
            self.after.push(self.pictures.load(Relaxed));
        }
        fn note(&mut self, _: &str) {}
    }

    #[test]
    fn a_picture_goes_through_the_tower_once_in_a_run() {
        for (kind, method) in [("class_incremental", "ranpac"), ("domain_incremental", "rail")] {
            let mut config = Config::find("tests/fixtures/tiny-run.toml").unwrap().for_method(method).unwrap();
            let settings = ["objective.ranpac.width=50", "objective.rail.width=50", "evaluation.batch=37"];
            settings.iter().for_each(|setting| config.set(setting).unwrap());
            config.set(&format!("stream.kind={kind}")).unwrap();
            let setup = Setup::open(&config).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mut watch = Watch { pictures: Arc::default(), after: Vec::new() };
            let place = Arc::clone(&watch.pictures);
            run::<Counted>(&place, &config, folder.path(), Access::default(), &mut watch).unwrap();
            let tests: Vec<u32> = setup.test_samples().collect();
            let mut seen: HashSet<u32> = tests.iter().map(|test| setup.dataset.first_of_picture(*test)).collect();
            let expected: Vec<usize> = (setup.stream.steps.iter())
                .map(|step| {
                    seen.extend(step.train.iter().map(|sample| setup.dataset.first_of_picture(*sample)));
                    seen.len()
                })
                .collect();
            assert_eq!(watch.after, expected, "{method}: every test with the first step, and no picture twice");
            assert!(!folder.path().join(FILE).exists(), "a finished run needs it no more");
        }
    }
}
