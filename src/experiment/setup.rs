//! What a run is made from: its data, stream, prompts and model, checked before anything is trained.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::config::{Config, EvaluationConfig, EvaluationTask, ModelConfig, TrainConfig, TrainText};
use crate::data::broken::SHOWN;
use crate::data::text::prompts::{Templates, fill};
use crate::data::text::tokenizer::Tokenizer;
use crate::data::{self, Dataset, Label, Split};
use crate::error::{Error, Result, unknown};
use crate::eval::pretrained::{check_tokenizer, known_activation};
use crate::memory::{Memory, ReplayRule, replay_counts, subsample};
use crate::method::{Method, Row, Sees, Spends};
use crate::model::checkpoint::{self, Positions};
use crate::model::clip::Capacity;
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;
use crate::ops::linear::Activation;
use crate::ops::{Backend, Plan};
use crate::stream::{self, ClassId, ClassOrder, Item, Step, Stream, StreamKind};
use crate::train::{Stage, TextBank, Trainer, TrainerSpec};

/// All that a run works with, opened and checked before work begins.
pub struct Setup {
    /// The settings that it was opened from.
    pub config: Config,
    /// The method at these settings.
    pub method: Arc<dyn Method>,
    /// Training and test samples.
    pub dataset: Arc<Dataset>,
    /// The steps, by places in the data set.
    pub stream: Stream,
    /// The model's sizes.
    pub model: ModelSpec,
    /// The parameters that the first step starts from: the arena of the model's own, without a method's.
    pub(crate) initial: Vec<f32>,
    /// Warnings: the run can go on.
    pub notes: Vec<String>,
    /// Every training prompt.
    pub texts: TextBank,
    /// The training prompts of each sample of the data set, one list for each kind in use.
    texts_of_sample: Vec<Vec<u32>>,
    /// The prompts of every class for zero-shot classification, class by class; as many of each as there are templates.
    pub(crate) class_prompts: Vec<Vec<u32>>,
    /// Distinct captions, for retrieval, and which each sample has.
    pub(crate) captions: Vec<Vec<u32>>,
    pub(crate) caption_of_sample: Vec<u32>,
    /// Of each step, the tests that are for retrieval, and those that are classified: all, unless the settings name domains.
    pub(crate) retrieved: Vec<Vec<u32>>,
    pub(crate) classified: Vec<Vec<u32>>,
    /// Test samples of each domain beside the stream, with its name.
    pub(crate) static_sets: Vec<(String, Vec<u32>)>,
    /// Hashes of everything that came from outside the settings, for the manifest.
    pub hashes: Vec<(&'static str, String)>,
}

impl Setup {
    /// Opens and checks everything that `config` names.
    pub fn open(config: &Config) -> Result<Setup> {
        let method: Arc<dyn Method> = Arc::from(config.validate()?);
        let dataset = data::open(&config.data.source())?;
        dataset.broken().check(&dataset.name, config.data.max_broken)?;
        let stream = open_stream(config, &dataset)?;
        check_sizes(config, method.row(), &stream)?;
        let static_sets = static_sets(config, &dataset, &stream)?;
        let EvaluationConfig { task, also_classify, retrieval_domains, classification_domains, .. } =
            &config.evaluation;
        let retrieves = *task == EvaluationTask::Retrieval;
        let classifies = !retrieves || *also_classify;
        let tests = |key: &str, wanted: bool, domains: &[String]| {
            let domains = if wanted && config.evaluation.held_out == 0.0 { domains } else { &[] };
            tests_of(&dataset, &stream, domains).map_err(|error| error.at(format!("evaluation.{key}")))
        };
        let retrieved = tests("retrieval_domains", retrieves, retrieval_domains)?;
        let classified = tests("classification_domains", classifies, classification_domains)?;
        check_texts(config, method.row(), &dataset, &stream, &retrieved, &static_sets)?;
        let static_tests = static_sets.iter().map(|(_, tests)| tests);
        let answered = classified.iter().filter(|_| classifies).chain(static_tests);
        check_labels(config, method.row(), &dataset, &stream, answered)?;
        let (model, initial, mut hashes, mut notes) = open_model(config)?;
        notes.extend(dataset.notes.iter().map(|note| format!("{}: {note}", dataset.name)));
        let skipped = dataset.broken();
        if !skipped.is_empty() {
            notes.push(format!("{}: left out before training: {}", dataset.name, skipped.summary()));
        }
        let TrainConfig { samples, epochs, .. } = config.train;
        if samples > 0 && epochs != TrainConfig::default().epochs {
            notes.push(format!(
                "train.samples is {samples} and goes before train.epochs; 0 would let {epochs} epochs count"
            ));
        }

        let tokenizer = Tokenizer::clip();
        let context = model.text_cfg.context_length;
        if model.text_cfg.vocab_size <= Tokenizer::END as usize {
            return Err(Error::input(format!(
                "{}: vocab_size is {}; CLIP's tokenizer needs {}",
                config.model.name,
                model.text_cfg.vocab_size,
                Tokenizer::END + 1
            )));
        }
        let mut captions = Vec::new();
        let mut known = HashMap::new();
        let caption_of_sample: Vec<u32> = dataset
            .samples
            .iter()
            .map(|sample| {
                *known.entry(sample.caption.as_str()).or_insert_with(|| {
                    captions.push(tokenizer.encode(&sample.caption, context));
                    captions.len() as u32 - 1
                })
            })
            .collect();
        let mut texts = TextBank::default();
        // A caption that classes share is a prompt of each of them: a batch tells a sample's class by its prompt.
        let mut add_captions = || -> Vec<u32> {
            let mut known = HashMap::new();
            let mut add = |caption: u32, class: Label| {
                *known.entry((caption, class)).or_insert_with(|| texts.add(captions[caption as usize].clone(), class))
            };
            let samples = dataset.samples.iter().zip(&caption_of_sample);
            samples.map(|(sample, caption)| add(*caption, sample.class)).collect()
        };
        let with_captions = (config.data.text != TrainText::Class).then(&mut add_captions);
        let mut add_prompts = || -> Vec<u32> {
            let first = texts.len() as u32;
            for (class, name) in (0..).map(Label).zip(&dataset.classes) {
                texts.add(tokenizer.encode(&fill(&config.data.prompt, name), context), class);
            }
            dataset.samples.iter().map(|sample| first + sample.class.0).collect()
        };
        let with_prompts = (config.data.text != TrainText::Caption).then(&mut add_prompts);
        let texts_of_sample = with_captions.into_iter().chain(with_prompts).collect();
        let templates = Templates::find(&config.evaluation.templates)?;
        let prompts = |class: &String| templates.prompts(class);
        let class_prompts =
            dataset.classes.iter().flat_map(prompts).map(|prompt| tokenizer.encode(&prompt, context)).collect();
        hashes.push(("data", dataset.fingerprint.clone()));
        hashes.push(("templates", templates.hash()));
        hashes.push(("class_order", hash_of(Label::numbers(&stream.class_order))));
        Ok(Setup {
            config: config.clone(),
            method,
            stream,
            model,
            initial,
            notes,
            texts,
            texts_of_sample,
            class_prompts,
            captions,
            caption_of_sample,
            retrieved,
            classified,
            static_sets,
            hashes,
            dataset: Arc::new(dataset),
        })
    }

    /// What there is to say of its method.
    pub(crate) fn row(&self) -> &Row {
        self.method.row()
    }

    /// Counts samples again that an earlier part of the run has found broken.
    pub fn meet_broken(&self, samples: &[u32]) -> Result<()> {
        for sample in samples {
            if let Err(error) = self.dataset.image(*sample as usize) {
                self.dataset.count_broken([(*sample, error)], self.config.data.max_broken)?;
            }
        }
        Ok(())
    }

    /// The training prompt of a sample in an epoch: where there are several kinds, each in its turn.
    pub fn text_of(&self, sample: u32, epoch: usize) -> u32 {
        let kind = (sample as usize + epoch) % self.texts_of_sample.len();
        self.texts_of_sample[kind][sample as usize]
    }

    /// The training samples of step `step`, without replay.
    pub(crate) fn own_samples(&self, step: usize) -> Vec<u32> {
        let steps = if self.row().sees == Sees::AllSoFar { 0..=step } else { step..=step };
        let mut samples: Vec<u32> =
            self.stream.steps[steps].iter().flat_map(|step| step.train.iter().copied()).collect();
        let held_back = self.held_back(step);
        samples.retain(|sample| held_back.binary_search(sample).is_err());
        samples.sort_unstable();
        samples
    }

    /// The part of a step's training samples that the method holds back, ascending.
    pub fn held_back(&self, step: usize) -> Vec<u32> {
        let part = self.method.held_back();
        if part == 0.0 {
            return Vec::new();
        }
        part_of(&self.dataset, &self.stream.steps[step].train, part, self.config.seed, &[u64::MAX, step as u64])
    }

    /// What a stage of step `step` draws from, ascending.
    pub fn pool(&self, step: usize, stage: Stage, memory: &Memory) -> Vec<u32> {
        if stage == Stage::Probe && self.row().uses_memory() {
            return memory.indices();
        }
        let mut pool = self.own_samples(step);
        match self.row().sees {
            Sees::StepAndMemory(_) => pool.extend(memory.indices()),
            Sees::StepAndReplay(rule) => pool.extend(self.replay(rule, step)),
            Sees::Step | Sees::AllSoFar => {}
        }
        pool.sort_unstable();
        pool.dedup();
        pool
    }

    /// Samples of earlier steps by a rule of the time-continual protocol; D is the size of the step's own data.
    fn replay(&self, rule: ReplayRule, step: usize) -> Vec<u32> {
        let steps = &self.stream.steps;
        let earlier: Vec<usize> = steps[..step].iter().map(|earlier| earlier.train.len()).collect();
        let counts = replay_counts(rule, steps[step].train.len(), &earlier);
        let chosen = counts.iter().zip(&steps[..step]).enumerate().flat_map(|(number, (count, earlier))| {
            subsample(&earlier.train, *count, self.config.seed, &[step as u64, number as u64])
        });
        chosen.collect()
    }

    /// The samples that a stage may train on, of a pool of `pool`.
    pub fn budget(&self, step: usize, stage: Stage, pool: usize) -> usize {
        let parts = self.method.stages(step);
        let all = self.step_budget(step);
        let main = (all as f64 * self.method.main_share()).round() as usize;
        match stage {
            Stage::Main if parts.contains(&Stage::Compression) => main,
            Stage::Compression => all - main,
            Stage::Main => all,
            Stage::Probe => (pool as f64 * self.config.probe.epochs).round() as usize,
            Stage::Closing => pool,
        }
    }

    /// The budget C of a step, in samples.
    pub fn step_budget(&self, step: usize) -> usize {
        let train = &self.config.train;
        let budget = |step: usize| match train.samples {
            0 => (self.stream.steps[step].train.len() as f64 * train.epochs).round() as usize,
            given => given,
        };
        match self.row().spends {
            Spends::OncePerStepSeen => (0..=step).map(budget).sum(),
            Spends::Once => budget(step),
            Spends::Nothing => 0,
        }
    }

    /// How many classes have been seen before step `step`, and with it.
    pub(crate) fn class_counts(&self, step: usize) -> (usize, usize) {
        let seen = |step: usize| self.stream.classes_seen(step).len();
        (step.checked_sub(1).map_or(0, seen), seen(step))
    }

    /// The class of one of the stream's samples.
    pub(crate) fn class_id(&self, sample: u32) -> ClassId {
        let label = self.dataset.samples[sample as usize].class;
        self.stream.class_id(label).expect("a stream has the classes of its samples")
    }

    /// What a trainer for this run is planned for.
    pub fn trainer_spec(&self) -> TrainerSpec {
        let batch = self.config.train.batch;
        TrainerSpec {
            model: self.model.clone(),
            // Methods that know no texts plan no memory for them.
            capacity: Capacity {
                // What is fitted is never trained.
                images: if self.row().is_fitted() { 1 } else { batch * self.row().views },
                texts: if self.row().reads_texts() { batch.min(self.texts.len()) } else { 0 },
            },
            optimizer: self.config.optimizer.clone(),
            learn_logit_scale: self.config.train.learn_logit_scale,
            samples: self.dataset.samples.len(),
            classes: self.dataset.classes.len(),
            by_class: self.config.data.text != TrainText::Caption,
            steps: self.stream.steps.len(),
        }
    }

    /// A trainer of its method for `spec`, and of its evaluation: see `Trainer::plan`.
    pub fn plan<B: Backend>(&self, spec: &TrainerSpec) -> (Plan, impl FnOnce(B) -> Trainer + use<B>) {
        Trainer::plan(spec, &*self.method, self.evaluation_capacity())
    }

    /// Everything that the model is tested on after each step.
    pub(crate) fn test_samples(&self) -> impl Iterator<Item = u32> {
        let steps = self.stream.steps.iter().flat_map(|step| &step.test);
        steps.chain(self.static_sets.iter().flat_map(|(_, samples)| samples)).copied()
    }

    /// Batch sizes of evaluation, no larger than what there is.
    pub(crate) fn evaluation_capacity(&self) -> Capacity {
        let tests = self.test_samples().count();
        let texts = match self.config.evaluation.task {
            EvaluationTask::Classification => self.class_prompts.len(),
            EvaluationTask::Retrieval => self.captions.len().max(self.class_prompts.len()),
        };
        let batch = self.config.evaluation.batch;
        Capacity { images: batch.min(tests).max(1), texts: batch.min(texts).max(1) }
    }
}

fn domain_index(dataset: &Dataset, name: &str) -> Result<u32> {
    let place = dataset.domains.iter().position(|domain| domain == name);
    let known = dataset.domains.iter().map(String::as_str);
    place.map(|place| place as u32).ok_or_else(|| unknown("domain", name, known))
}

/// Of each step, the tests of some domains; all where none is named. Fails where a step has none of theirs.
fn tests_of(dataset: &Dataset, stream: &Stream, domains: &[String]) -> Result<Vec<Vec<u32>>> {
    let wanted = domains.iter().map(|name| domain_index(dataset, name)).collect::<Result<Vec<u32>>>()?;
    let is_wanted = |test: &u32| wanted.is_empty() || wanted.contains(&dataset.samples[*test as usize].domain);
    let of_step = |step: &Step| {
        let tests: Vec<u32> = step.test.iter().copied().filter(is_wanted).collect();
        match tests.is_empty() && !step.test.is_empty() {
            true => Err(Error::input(format!("{} has no tests of {}", step.name, domains.join(" or ")))),
            false => Ok(tests),
        }
    };
    stream.steps.iter().map(of_step).collect()
}

/// The test samples of the domains that `evaluation.static_domains` names.
fn static_sets(config: &Config, dataset: &Dataset, stream: &Stream) -> Result<Vec<(String, Vec<u32>)>> {
    let names = &config.evaluation.static_domains;
    let wrong = |name: &str, what: &str| Err(Error::input(format!("evaluation.static_domains: '{name}' {what}")));
    let mut sets = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let domain = domain_index(dataset, name).map_err(|error| error.at("evaluation.static_domains"))?;
        let is_of = |sample: &u32| dataset.samples[*sample as usize].domain == domain;
        if names[..place].contains(name) {
            return wrong(name, "stands there twice");
        }
        if stream.steps.iter().any(|step| step.train.iter().any(is_of)) {
            return wrong(name, "is a domain that the stream trains on; a static set lies beside it");
        }
        let tests = (0..dataset.samples.len() as u32).filter(is_of);
        let tests: Vec<u32> = tests.filter(|test| dataset.samples[*test as usize].split == Split::Test).collect();
        if tests.is_empty() {
            return wrong(name, "has no test samples");
        }
        sets.push((name.clone(), tests));
    }
    Ok(sets)
}

fn open_stream(config: &Config, dataset: &Dataset) -> Result<Stream> {
    let domain_index = |name: &String| domain_index(dataset, name);
    let wanted = config.data.domains.iter().map(domain_index).collect::<Result<Vec<u32>>>()?;
    let kept = |domain: u32| wanted.is_empty() || wanted.contains(&domain);
    // A stream sees the samples of the wanted domains alone; its indices are translated back to the data set's.
    let all = 0..dataset.samples.len() as u32;
    let mut places: Vec<u32> = all.filter(|place| kept(dataset.samples[*place as usize].domain)).collect();
    if config.data.per_class != (0, 0) {
        places = balanced(dataset, &places, config.data.per_class)?;
    }
    let item = |place: &u32| {
        let sample = &dataset.samples[*place as usize];
        Item { class: sample.class, domain: sample.domain, time: sample.time, train: sample.split == Split::Train }
    };
    let items: Vec<Item> = places.iter().map(item).collect();
    let settings = &config.stream;
    let mut stream = match settings.kind {
        StreamKind::Single => stream::single(&items),
        StreamKind::ClassIncremental => {
            check_trained(config, dataset, &items)?;
            let first = (settings.first_task > 0).then_some(settings.first_task);
            stream::class_incremental(&items, settings.tasks, first, &class_order(config, dataset, &items)?)
        }
        StreamKind::DomainIncremental => {
            let order = match settings.domain_order.is_empty() {
                true => (0..dataset.domains.len() as u32).filter(|domain| kept(*domain)).collect(),
                false => settings.domain_order.iter().map(domain_index).collect::<Result<Vec<u32>>>()?,
            };
            stream::domain_incremental(&items, &order, &dataset.domains)
        }
        StreamKind::TimeIncremental => stream::time_incremental(&items, &settings.periods),
    }?;
    for step in &mut stream.steps {
        for index in step.train.iter_mut().chain(&mut step.test) {
            *index = places[*index as usize];
        }
    }
    hold_out(&mut stream, dataset, config.evaluation.held_out);
    Ok(stream)
}

/// Of `samples` as many of each class, for training and for tests, chosen at random, ascending; classes with fewer of either are left out.
/// Which ones does not depend on the run's seed.
fn balanced(dataset: &Dataset, samples: &[u32], (train, test): (usize, usize)) -> Result<Vec<u32>> {
    let mut of_class = vec![(Vec::new(), Vec::new()); dataset.classes.len()];
    for place in samples.iter().filter(|place| dataset.is_labelled(**place)) {
        let sample = &dataset.samples[*place as usize];
        let (own_train, own_test) = &mut of_class[sample.class.index()];
        if sample.split == Split::Train { own_train } else { own_test }.push(*place);
    }
    let mut chosen = Vec::new();
    for (class, (own_train, own_test)) in (0..).zip(&of_class) {
        if own_train.len() >= train && own_test.len() >= test {
            chosen.extend(subsample(own_train, train, 0, &[u64::MAX - 2, class, 0]));
            chosen.extend(subsample(own_test, test, 0, &[u64::MAX - 2, class, 1]));
        }
    }
    if chosen.is_empty() {
        let most =
            of_class.iter().map(|(train, test)| (train.len().min(4 * test.len()), train.len(), test.len())).max();
        let (_, most_train, most_test) = most.unwrap_or_default();
        return Err(Error::input(format!(
            "data.per_class is [{train}, {test}], and no class has so many training and test samples; one of the largest has {most_train} \
             and {most_test}"
        )));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// Puts a part of each step's training samples in the place of its tests. Which ones does not depend on the run's seed, so that
/// every run of a search for settings is judged by the same.
fn hold_out(stream: &mut Stream, dataset: &Dataset, part: f64) {
    if part == 0.0 {
        return;
    }
    for (number, step) in stream.steps.iter_mut().enumerate() {
        step.test = part_of(dataset, &step.train, part, 0, &[u64::MAX - 1, number as u64]);
        step.train.retain(|sample| step.test.binary_search(sample).is_err());
    }
}

/// A random part of `samples`, ascending as they are: so many pictures of theirs, each with all its samples. Captions of one picture
/// must not be parted, or what is held back is trained on.
fn part_of(dataset: &Dataset, samples: &[u32], part: f64, seed: u64, place: &[u64]) -> Vec<u32> {
    let picture = |sample: &u32| dataset.first_of_picture(*sample);
    let mut pictures: Vec<u32> = samples.iter().map(picture).collect();
    pictures.sort_unstable();
    pictures.dedup();
    let chosen = subsample(&pictures, (pictures.len() as f64 * part).round() as usize, seed, place);
    samples.iter().copied().filter(|sample| chosen.binary_search(&picture(sample)).is_ok()).collect()
}

/// Fails where the samples of a stream of classes have a class without one for training: it names the classes and the domains.
fn check_trained(config: &Config, dataset: &Dataset, items: &[Item]) -> Result<()> {
    let mut splits = vec![(false, false); dataset.classes.len()];
    for item in items {
        let (any, trained) = &mut splits[item.class.index()];
        (*any, *trained) = (true, *trained || item.train);
    }
    let untrained = splits.iter().zip(&dataset.classes).filter(|((any, trained), _)| *any && !trained);
    let untrained: Vec<String> = untrained.map(|(_, name)| format!("'{name}'")).collect();
    if untrained.is_empty() {
        return Ok(());
    }
    let shown = untrained[..untrained.len().min(SHOWN)].join(", ");
    let more = if untrained.len() > SHOWN { format!(" and {} more", untrained.len() - SHOWN) } else { String::new() };
    let within = match config.data.domains.as_slice() {
        [] => format!("in {}", dataset.name),
        domains => format!("in the chosen domains of {} (data.domains: {})", dataset.name, domains.join(", ")),
    };
    Err(Error::input(format!(
        "classes without training samples {within}: {shown}{more}; a stream of classes trains on each: choose more domains, or leave their \
         tests out"
    )))
}

/// The order in which classes arrive: a file's, numpy's, or the seed's.
fn class_order(config: &Config, dataset: &Dataset, items: &[Item]) -> Result<ClassOrder> {
    let file = &config.stream.class_order;
    if file.is_empty() {
        return Ok(ClassOrder::Seed(config.stream.class_order_seed));
    }
    let mut present = vec![false; dataset.classes.len()];
    items.iter().for_each(|item| present[item.class.index()] = true);
    if let Some(seed) = stream::seed_of(file) {
        let seed = seed.map_err(|error| error.at("stream.class_order"))?;
        let classes: Vec<Label> =
            (0..).map(Label).zip(&present).filter(|(_, present)| **present).map(|(class, _)| class).collect();
        let order = stream::permutation(seed, classes.len()).into_iter();
        return Ok(ClassOrder::Given(order.map(|place| classes[place as usize]).collect()));
    }
    let text = stream::class_list(file).map_err(|error| error.at("stream.class_order"))?;
    Ok(ClassOrder::Given(stream::parse_class_order(file, &text, &dataset.classes, &dataset.class_keys, &present)?))
}

/// Fails when the run needs captions or classes that the data set does not have.
fn check_texts(
    config: &Config,
    method: &Row,
    dataset: &Dataset,
    stream: &Stream,
    retrieved: &[Vec<u32>],
    static_sets: &[(String, Vec<u32>)],
) -> Result<()> {
    let retrieves = config.evaluation.task == EvaluationTask::Retrieval;
    let learns_captions = config.data.text != TrainText::Class && method.reads_texts() && !method.learns_nothing();
    let without_caption =
        |samples: &[u32]| samples.iter().copied().find(|sample| dataset.samples[*sample as usize].caption.is_empty());
    let refuse = |sample: u32, why: &str| {
        Err(Error::input(format!("{} has no caption for sample {sample}, but {why}", dataset.name)))
    };
    if learns_captions && let Some(sample) = stream.steps.iter().find_map(|step| without_caption(&step.train)) {
        return refuse(sample, "data.text trains on captions; \"class\" needs none");
    }
    let mut tests = retrieved.iter().chain(static_sets.iter().map(|(_, tests)| tests));
    if retrieves && let Some(sample) = tests.find_map(|tests| without_caption(tests)) {
        return refuse(sample, "evaluation.task asks for captions; \"classification\" needs none");
    }
    if dataset.has_classes() {
        return Ok(());
    }
    let needs = [
        (config.data.text != TrainText::Caption, "data.text trains on classes; \"caption\" needs none"),
        (!retrieves, "evaluation.task classifies; \"retrieval\" needs no classes"),
        (config.evaluation.also_classify, "evaluation.also_classify asks for classes"),
        (!static_sets.is_empty(), "evaluation.static_domains are classified"),
        (config.stream.kind == StreamKind::ClassIncremental, "stream.kind = \"class_incremental\" asks for classes"),
    ];
    match needs.into_iter().find(|(needed, _)| *needed) {
        Some((_, why)) => Err(Error::input(format!("{} has no classes, but {why}", dataset.name))),
        None => Ok(()),
    }
}

/// Fails when a sample without a class, in a data set where others have one, would be trained or tested by it. `answered` are the
/// tests that are classified.
fn check_labels<'a>(
    config: &Config,
    method: &Row,
    dataset: &Dataset,
    stream: &Stream,
    mut answered: impl Iterator<Item = &'a Vec<u32>>,
) -> Result<()> {
    let without = |samples: &[u32]| samples.iter().copied().find(|sample| !dataset.is_labelled(*sample));
    let refuse = |sample: u32, why: &str| {
        let domain = &dataset.domains[dataset.samples[sample as usize].domain as usize];
        Err(Error::input(format!("{} has no class for sample {sample} (domain '{domain}'), but {why}", dataset.name)))
    };
    if !dataset.has_classes() {
        return Ok(());
    }
    if let Some(sample) = answered.find_map(|tests| without(tests)) {
        return refuse(
            sample,
            "it would be classified; evaluation.classification_domains names those that have classes",
        );
    }
    let learns_classes = config.data.text != TrainText::Caption
        || config.stream.kind == StreamKind::ClassIncremental
        || (!method.reads_texts() && !method.learns_nothing());
    match stream.steps.iter().find_map(|step| without(&step.train)).filter(|_| learns_classes) {
        Some(sample) => refuse(sample, "the run trains on classes; data.text = \"caption\" needs none"),
        None => Ok(()),
    }
}

fn check_sizes(config: &Config, method: &Row, stream: &Stream) -> Result<()> {
    if let Some(step) = stream.steps.iter().find(|step| step.test.is_empty()) {
        return Err(Error::input(format!("{} has no test samples", step.name)));
    }
    if method.learns_nothing() {
        return Ok(());
    }
    let smallest = stream.steps.iter().min_by_key(|step| step.train.len()).expect("a stream has steps");
    if smallest.train.is_empty() {
        return Err(Error::input(format!(
            "{}: there are no training samples, and {} trains; zero-shot does not",
            smallest.name, method.name
        )));
    }
    // Without training there are neither batches nor a budget.
    if method.is_fitted() {
        return Ok(());
    }
    if config.train.batch > smallest.train.len() {
        return Err(Error::input(format!(
            "train.batch is {}, but {} has {} training samples; it can be {} at most",
            config.train.batch,
            smallest.name,
            smallest.train.len(),
            smallest.train.len()
        )));
    }
    if config.train.batch < 2 {
        return Err(Error::input("train.batch is 1; a contrastive loss needs at least 2 samples"));
    }
    let TrainConfig { batch, samples, epochs, .. } = config.train;
    if samples > 0 && samples < batch {
        return Err(Error::input(format!(
            "train.samples is {samples}, less than one batch; it must be 0, for train.epochs, or {batch} at least"
        )));
    }
    if samples == 0 && epochs == 0.0 {
        return Err(Error::input(format!("train.epochs is 0; the method {} trains", method.name)));
    }
    let samples: usize = stream.steps.iter().map(|step| step.train.len()).sum();
    if config.memory.size > samples {
        return Err(Error::input(format!(
            "memory.size is {}, more than the {samples} training samples that there are",
            config.memory.size
        )));
    }
    let classes = stream.class_order.len();
    if method.needs_memory() && config.memory.size < classes {
        return Err(Error::input(format!(
            "memory.size is {}; {} needs at least one sample of each of the {classes} classes, {classes} in all",
            config.memory.size, method.name
        ))
        .because(Error::NO_MEANING));
    }
    Ok(())
}

/// The model, its first parameters, the checkpoint's hash, and notes.
#[allow(clippy::type_complexity)]
pub(super) fn open_model(config: &Config) -> Result<(ModelSpec, Vec<f32>, Vec<(&'static str, String)>, Vec<String>)> {
    let (mut model, told) = ModelSpec::find_with_activation(&config.model.name)?;
    let activation = config.model.given_activation()?;
    if let Some(activation) = activation {
        model.quick_gelu = activation == Activation::QuickGelu;
    }
    if config.model.pretrained.is_empty() {
        let initial = ParameterList::of(&model).initial_values(config.seed);
        return Ok((model, initial, Vec::new(), Vec::new()));
    }
    if config.model.pretrained == ModelConfig::NEEDED {
        return Err(Error::input(format!(
            "the preset starts from pretrained weights, which do not come with the program: give those of a {} with --set \
             model.pretrained=FILE.safetensors, or --set model.pretrained= for random values",
            config.model.name
        )));
    }
    let path = Path::new(&config.model.pretrained);
    if !path.exists() && config.model.pretrained.starts_with("runs/emoji-pretrain/") {
        return Err(Error::input(format!(
            "{} does not exist yet: make it with 'perennial run emoji-pretrain --out runs/emoji-pretrain'",
            path.display()
        )));
    }
    let stored = checkpoint::read_spec(path)?;
    let mut notes = check_tokenizer(stored.as_ref())?;
    let described = Some((config.model.name.as_str(), model.quick_gelu, told));
    let (quick_gelu, note) = known_activation(path, stored.as_ref(), described, activation)?;
    model.quick_gelu = quick_gelu;
    let positions = if config.model.interpolate_positions { Positions::Interpolated } else { Positions::AsStored };
    let weights = checkpoint::load_with(path, &model, positions)?.checked(config.model.allow_non_finite)?;
    notes.extend(note.into_iter().chain(weights.notes));
    let hashes = weights.paths.iter().map(|path| hash_of_file(path)).collect::<Result<Vec<_>>>()?;
    let hash = match hashes.as_slice() {
        [one] => one.clone(),
        several => hex(&Sha256::digest(several.concat())),
    };
    Ok((model, weights.values, vec![("pretrained", hash)], notes))
}

/// In pieces: a file of weights may be larger than the memory that is left.
fn hash_of_file(path: &Path) -> Result<String> {
    let reading = |cause: std::io::Error| Error::reading(path, cause);
    let mut file = std::fs::File::open(path).map_err(reading)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => hash.update(&piece[..count]),
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) => return Err(reading(cause)),
        }
    }
}

fn hash_of(values: &[u32]) -> String {
    hex(&Sha256::digest(bytemuck::cast_slice::<u32, u8>(values)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
