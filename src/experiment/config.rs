//! A run's settings: presets, files, and `--set key=value`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::presets::{Expected, PRESETS};
use crate::data::Source;
use crate::data::formats::csv::CsvSettings;
use crate::data::formats::folder::SplitSettings;
use crate::data::formats::webdataset::WebDatasetSettings;
use crate::error::{Error, Result, nearest, unknown};
use crate::files::read_text;
use crate::method::patching::PatchingSettings;
use crate::method::{self, Chosen, Classifies, JointSettings, Method, Settings};
use crate::ops::linear::Activation;
use crate::stream::StreamKind;
use crate::train::OptimizerSettings;

/// Everything that decides a run's result. Every key has a default; a preset names those it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The bundled preset that the settings began as, for published figures; empty for none.
    pub preset: String,
    /// A row of the table of methods.
    pub method: String,
    /// Decides class order apart, everything that is random: starting values, order of samples, crops, memory.
    pub seed: u64,
    /// `[data]`: what there is to learn from.
    pub data: DataConfig,
    /// `[stream]`: how it arrives.
    pub stream: StreamConfig,
    /// `[model]`: what learns.
    pub model: ModelConfig,
    /// `[train]`: budget, learning rate, and how often states are saved.
    pub train: TrainConfig,
    /// What methods declare, and below it each one's table under its name.
    pub objective: Settings,
    /// `[optimizer]`: AdamW.
    pub optimizer: OptimizerSettings,
    /// `[memory]`: replay, for methods that have it.
    pub memory: MemoryConfig,
    /// `[joint]`: which of its two forms the method `joint` has.
    pub joint: JointSettings,
    /// `[patching]`: the method `patching`.
    pub patching: PatchingSettings,
    /// `[head]`: linear heads that are trained with the features.
    pub head: HeadConfig,
    /// `[probe]`: linear heads on finished features.
    pub probe: ProbeConfig,
    /// `[evaluation]`: what is tested, and how.
    pub evaluation: EvaluationConfig,
    /// By method, the settings that were found best for it where they differ: `[tuned.joint.train]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tuned: BTreeMap<String, toml::Table>,
    /// What a preset's data are like when they are whole, for `perennial doctor`; a run does not look at it.
    #[serde(skip_serializing_if = "Expected::is_empty")]
    pub expected: Expected,
}

/// `[data]`: the data set, and how its pictures and texts become samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// A format of data by name: `emoji`, `folder`, `csv`, ...
    pub name: String,
    /// Where its files are; empty for the data set inside the program.
    pub folder: String,
    /// Readable names of the classes: a bundled list, or a file; empty for the data set's own.
    pub class_names: String,
    /// Domains to use; empty for all.
    pub domains: Vec<String>,
    /// How many training and test samples of each class, chosen at random; classes with fewer of either are left out. `[0, 0]` for all
    /// that there are.
    pub per_class: (usize, usize),
    /// What an image is paired with in training.
    pub text: TrainText,
    /// The training prompt of a class, `{}` standing for its name.
    pub prompt: String,
    /// Area of the random crop in training, as a part of the image.
    pub crop: (f64, f64),
    /// Threads that decode and crop, 0 for as many as there are cores; results do not depend on it.
    pub loader_threads: usize,
    /// Samples that may be broken before the run stops.
    pub max_broken: usize,
    /// Where `name` is `folder`: the folders of the splits.
    pub splits: SplitSettings,
    /// Where `name` is `csv`: the tables, and what their columns are.
    pub csv: CsvSettings,
    /// Where `name` is `webdataset`: the shards.
    pub webdataset: WebDatasetSettings,
}

impl DataConfig {
    /// What [`crate::data::open`] wants to know.
    pub(crate) fn source(&self) -> Source {
        Source {
            name: self.name.clone(),
            folder: (!self.folder.is_empty()).then(|| PathBuf::from(&self.folder)),
            class_names: self.class_names.clone(),
            splits: self.splits.clone(),
            csv: self.csv.clone(),
            webdataset: self.webdataset.clone(),
        }
    }
}

/// The text that a sample is trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainText {
    /// The sample's own caption.
    #[default]
    Caption,
    /// The prompt of its class.
    Class,
    /// One and the other in turn: half the samples of an epoch with their captions, half with their prompts.
    CaptionAndClass,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            name: "emoji".to_string(),
            folder: String::new(),
            class_names: String::new(),
            domains: Vec::new(),
            per_class: (0, 0),
            text: TrainText::Caption,
            prompt: "a photo of a {}.".to_string(),
            crop: (0.9, 1.0),
            loader_threads: 0,
            max_broken: 0,
            splits: SplitSettings::default(),
            csv: CsvSettings::default(),
            webdataset: WebDatasetSettings::default(),
        }
    }
}

/// `[stream]`: which samples each step brings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// What parts one step from the next.
    pub kind: StreamKind,
    /// Class-incremental: the number of tasks.
    pub tasks: usize,
    /// Class-incremental: classes of the first task; 0 for as many as the others.
    pub first_task: usize,
    /// Class-incremental: the seed of the class order; it is not the run's, so that seeds of a run share it.
    pub class_order_seed: u64,
    /// Class-incremental: a bundled list of classes or a file, one a line, in the order in which they arrive, by their readable
    /// names or the data set's own; `numpy:SEED` for the permutation that numpy draws; empty for the seed's.
    pub class_order: String,
    /// Domain-incremental: the domains in order; empty for the data set's order.
    pub domain_order: Vec<String>,
    /// Time-incremental: the last year of each period.
    pub periods: Vec<i32>,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            kind: StreamKind::Single,
            tasks: 10,
            first_task: 0,
            class_order_seed: 1993,
            class_order: String::new(),
            domain_order: Vec::new(),
            periods: Vec::new(),
        }
    }
}

/// `[model]`: sizes, and where the first weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A bundled model or an open_clip JSON file.
    pub name: String,
    /// A checkpoint to start from, or the folder that open_clip or Hugging Face wrote; empty for random values; `needed` in a preset
    /// whose user must name one.
    pub pretrained: String,
    /// `gelu` or `quick_gelu`, where the checkpoint does not say it; empty for what the checkpoint, or the model, says.
    pub activation: String,
    /// Fit the checkpoint's positional embedding to the model's resolution.
    pub interpolate_positions: bool,
    /// Go on with weights that are NaN or infinite.
    pub allow_non_finite: bool,
}

impl ModelConfig {
    /// In place of a checkpoint that the user must name.
    pub const NEEDED: &str = "needed";

    /// The activation that the user gives.
    pub(crate) fn given_activation(&self) -> Result<Option<Activation>> {
        match self.activation.as_str() {
            "" => Ok(None),
            "gelu" => Ok(Some(Activation::Gelu)),
            "quick_gelu" => Ok(Some(Activation::QuickGelu)),
            other => Err(unknown("activation", other, ["gelu", "quick_gelu"]).at("model.activation")),
        }
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            name: "emoji-tiny".to_string(),
            pretrained: String::new(),
            activation: String::new(),
            interpolate_positions: false,
            allow_non_finite: false,
        }
    }
}

/// `[train]`: a step's budget and schedule, and what is written down as it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Samples of a batch, at most: an epoch is cut into batches that are as even as can be.
    pub batch: usize,
    /// The budget C of a step in samples; 0 for what `epochs` says.
    pub samples: usize,
    /// The budget C of a step: this many times the step's own training samples.
    pub epochs: f64,
    /// The maximum of the cosine.
    pub learning_rate: f64,
    /// Each further step's maximum is this times the last's; 1 keeps it.
    pub learning_rate_decay: f64,
    /// Iterations of warm-up in the first step; in every step where a method trains the first model anew at each (joint, restart,
    /// oracle).
    pub warmup: usize,
    /// Whether later steps warm up too, of methods that go on with the last step's model.
    pub warmup_every_step: bool,
    /// Whether moments are kept from step to step; they are zeroed otherwise.
    pub keep_optimizer: bool,
    /// Whether the logit scale is trained.
    pub learn_logit_scale: bool,
    /// Iterations between saved states, for resuming.
    pub save_every: usize,
    /// Minutes after which a state is saved in any case.
    pub save_minutes: f64,
    /// Iterations between lines of `metrics.jsonl`.
    pub log_every: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            batch: 128,
            samples: 0,
            epochs: 1.0,
            learning_rate: 1e-5,
            learning_rate_decay: 1.0,
            warmup: 0,
            warmup_every_step: false,
            keep_optimizer: false,
            learn_logit_scale: false,
            save_every: 500,
            save_minutes: 10.0,
            log_every: 10,
        }
    }
}

/// `[memory]`: replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// M, samples kept from earlier steps in all.
    pub size: usize,
}

/// `[head]`: the linear head that some methods train with the features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// What the rows of new classes start as.
    pub start: HeadStart,
    /// The length of rows that start as embeddings.
    pub scale: f64,
}

/// What the rows of new classes in a head start as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadStart {
    /// Random values.
    Random,
    /// The mean direction of the class's prompts, by the text tower: a new class is classified as zero-shot until it is learnt.
    #[default]
    Text,
}

impl Default for HeadConfig {
    fn default() -> Self {
        HeadConfig { start: HeadStart::Text, scale: 1.0 }
    }
}

/// The linear head that some methods train after each step, on features that stay as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// Passes over its samples: the memory, or the step's own where there is none.
    pub epochs: f64,
    /// The maximum of its cosine.
    pub learning_rate: f64,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        ProbeConfig { epochs: 5.0, learning_rate: 1e-2 }
    }
}

/// `[evaluation]`: what a step's tests ask of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// Classification or retrieval.
    pub task: EvaluationTask,
    /// Prompt templates: a bundled list or a file, one a line.
    pub templates: String,
    /// Images, and texts, encoded at once.
    pub batch: usize,
    /// Beside retrieval, zero-shot accuracy on each step's tests among all classes of the stream.
    pub also_classify: bool,
    /// Domains whose tests are for retrieval, where not all are: a set of tests with a name is a domain.
    pub retrieval_domains: Vec<String>,
    /// Domains whose tests are classified, where not all are; then among all classes of the data set.
    pub classification_domains: Vec<String>,
    /// Domains beside the stream: after each step the model is also tested on their test samples.
    pub static_domains: Vec<String>,
    /// The part of each step's training samples that is not trained on and stands in for its tests, for choosing settings; 0 for
    /// the tests themselves.
    pub held_out: f64,
}

/// What a test image is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluationTask {
    /// Zero-shot accuracy among the classes seen so far.
    #[default]
    Classification,
    /// Mean of image-to-text and text-to-image recall@1 over captions.
    Retrieval,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        EvaluationConfig {
            task: EvaluationTask::Classification,
            templates: "emoji".to_string(),
            batch: 256,
            also_classify: false,
            retrieval_domains: Vec::new(),
            classification_domains: Vec::new(),
            static_domains: Vec::new(),
            held_out: 0.0,
        }
    }
}

/// Threads that load pictures, at most: a number beyond it is a slip of the hand.
const MOST_THREADS: usize = 1024;

/// What versions did that did not know a key, where that is not the default.
const EARLIER: &str = r#"
[head]
start = "random"
[objective]
finetune-ce.own_classes = false
ewc.own_classes = false
der.balance = false
"#;

impl Config {
    /// A bundled preset by name, or a file whose name ends in `.toml`.
    pub fn find(name: &str) -> Result<Config> {
        if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
            let config = Config::parse(preset.toml).map_err(|error| error.at(name))?;
            return Ok(Config { preset: name.to_string(), ..config });
        }
        if !name.ends_with(".toml") {
            return Err(unknown("preset", name, PRESETS.iter().map(|preset| preset.name)));
        }
        let path = Path::new(name);
        let text = read_text(path)?;
        Config::parse(&text).map_err(|error| error.at(name))
    }

    /// Reads TOML. An unknown key, or a value of the wrong kind, is an error that names the line.
    pub fn parse(text: &str) -> Result<Config> {
        let table: toml::Table = text.parse().map_err(toml_error)?;
        check_keys(&table, text, "")?;
        toml::from_str(text).map_err(toml_error)
    }

    /// Reads the settings of a run, which have every key that the version knew that began it.
    pub(crate) fn parse_run(text: &str) -> Result<Config> {
        Config::parse(text)?;
        let [mut table, given] = [EARLIER, text].map(|text| text.parse::<toml::Table>().expect("it was read"));
        overlay(&mut table, &given);
        table.try_into().map_err(toml_error)
    }

    /// The settings for a method: its own, where the preset has some.
    pub fn for_method(&self, name: &str) -> Result<Config> {
        let method = method::find(name)?;
        let mut config = Config {
            method: method.name().to_string(),
            tuned: BTreeMap::new(),
            expected: Expected::default(),
            ..self.clone()
        };
        let Some(tuned) = self.tuned.get(name) else { return Ok(config) };
        let mut table = config.to_table();
        overlay(&mut table, tuned);
        config = table.try_into().map_err(|error| toml_error(error).at(format!("tuned.{name}")))?;
        Ok(config)
    }

    /// With the defaults of what other methods alone read: later versions may have other ones.
    pub(crate) fn without_other_methods(&self) -> Config {
        let mut config = self.clone();
        let Ok(method) = method::find(&self.method) else { return config };
        config.objective.keep(method.settings);
        if !self.method().is_ok_and(|method| method.row().trains_head()) {
            config.head = HeadConfig::default();
        }
        config
    }

    /// These settings as a file that [`Config::find`] reads.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings are plain values")
    }

    /// Applies one `key=value`, the key dotted (`train.epochs=3`), the value in TOML, or a bare word.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let wrong = || Error::input(format!("'{assignment}' is not of the form key=value, as train.epochs=3"));
        let (key, value) = assignment.split_once('=').ok_or_else(wrong)?;
        let key = key.trim();
        let mut table = self.to_table();
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().ok_or_else(wrong)?;
        let mut place = &mut table;
        for part in &parts {
            let inner = place.get_mut(*part).and_then(toml::Value::as_table_mut);
            place = inner.ok_or_else(|| unknown_key(key))?;
        }
        if !place.contains_key(last) || place[last].is_table() {
            return Err(unknown_key(key));
        }
        let value = value.trim();
        let parsed = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
        let parsed = match (parsed, &place[last]) {
            // Whole numbers are fine where any number is.
            (Some(toml::Value::Integer(number)), toml::Value::Float(_)) => toml::Value::Float(number as f64),
            (Some(parsed), _) => parsed,
            (None, _) => toml::Value::String(value.to_string()),
        };
        place.insert(last.to_string(), parsed);
        *self = table.try_into().map_err(|error: toml::de::Error| {
            Error::input(format!("{key} cannot be {value}: {}", readable(error.message())))
        })?;
        Ok(())
    }

    fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("settings are plain values")
    }

    /// The method at these settings.
    pub(crate) fn method(&self) -> Result<Box<dyn Method>> {
        if self.method.is_empty() {
            return Err(Error::input("no method is named: give --method, or method = \"...\" in the preset"));
        }
        let Config { objective, joint, patching, .. } = self;
        Ok(method::find(&self.method)?.open(&Chosen { objective, joint, patching }))
    }

    /// Whether the values can make a run at all; what depends on the data is checked once it is open.
    pub fn validate(&self) -> Result<Box<dyn Method>> {
        let method = self.method()?;
        let row = method.row();
        let TrainConfig { batch, epochs, learning_rate, learning_rate_decay, save_every, log_every, .. } = self.train;
        let at_least_one = [
            ("train.batch", batch),
            ("train.save_every", save_every),
            ("train.log_every", log_every),
            ("evaluation.batch", self.evaluation.batch),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                return Err(Error::input(format!("{key} is 0; it must be at least 1")));
            }
        }
        if self.data.loader_threads > MOST_THREADS {
            return Err(Error::input(format!(
                "data.loader_threads is {}; {MOST_THREADS} are the most, and 0 takes as many as there are cores",
                self.data.loader_threads
            )));
        }
        let ranges = [
            ("train.epochs", epochs, 0.0, 1e6),
            ("train.learning_rate", learning_rate, 0.0, 10.0),
            ("train.save_minutes", self.train.save_minutes, 0.0, 1e6),
            ("train.learning_rate_decay", learning_rate_decay, 0.0, 1.0),
            ("data.crop[0]", self.data.crop.0, 1e-3, 1.0),
            ("data.crop[1]", self.data.crop.1, self.data.crop.0, 1.0),
            ("patching.validation", self.patching.validation, 0.0, 0.9),
            ("evaluation.held_out", self.evaluation.held_out, 0.0, 0.9),
            ("head.scale", self.head.scale, 1e-6, 1e6),
            ("probe.epochs", self.probe.epochs, 0.0, 1e6),
            ("probe.learning_rate", self.probe.learning_rate, 0.0, 10.0),
            ("optimizer.beta1", self.optimizer.beta1, 0.0, 0.999_999_9),
            ("optimizer.beta2", self.optimizer.beta2, 0.0, 0.999_999_9),
            ("optimizer.eps", self.optimizer.eps, 0.0, 1.0),
            ("optimizer.weight_decay", self.optimizer.weight_decay, 0.0, 1e3),
            ("optimizer.clip_norm", self.optimizer.clip_norm, 0.0, 1e9),
        ];
        let ranges = ranges.map(|(key, value, low, high)| (key.to_string(), value, low, high));
        let of_methods =
            self.objective.iter().map(|(key, setting, value)| (key, value.number(), setting.range.0, setting.range.1));
        for (key, value, low, high) in ranges.into_iter().chain(of_methods) {
            if !(low..=high).contains(&value) {
                return Err(Error::input(format!("{key} is {value}; it must lie between {low} and {high}")));
            }
        }
        method.check()?;
        if row.classifies != Classifies::ByText && self.evaluation.task == EvaluationTask::Retrieval {
            return Err(Error::input(format!(
                "{} knows classes and no texts: it has no meaning with evaluation.task = \"retrieval\"; set it to \
                 \"classification\"",
                row.name
            ))
            .because(Error::NO_MEANING));
        }
        if row.needs_new_classes
            && matches!(self.stream.kind, StreamKind::DomainIncremental | StreamKind::TimeIncremental)
        {
            return Err(Error::input(format!(
                "{} tells new classes from old ones: it has no meaning in a stream whose steps share their classes; \
                 stream.kind must be \"class_incremental\"",
                row.name
            ))
            .because(Error::NO_MEANING));
        }
        if (self.data.per_class.0 == 0) != (self.data.per_class.1 == 0) {
            return Err(Error::input(format!(
                "data.per_class is [{}, {}]; it must be [0, 0], for all samples, or have samples for training and for tests",
                self.data.per_class.0, self.data.per_class.1
            )));
        }
        if !self.data.prompt.contains("{}") {
            return Err(Error::input(format!("data.prompt '{}' has no {{}} for the class", self.data.prompt)));
        }
        Ok(method)
    }
}

/// A TOML error with its place, on one line.
fn toml_error(error: toml::de::Error) -> Error {
    let text = error.to_string();
    let place = text.lines().next().unwrap_or_default().strip_prefix("TOML parse error at ").unwrap_or_default();
    let message = readable(error.message());
    Error::input(if place.is_empty() { message } else { format!("{place}: {message}") })
}

/// A message about a value of the wrong kind, in words that are not Rust's.
fn readable(message: &str) -> String {
    let kinds = [
        ("expected f64", "expected a number"),
        ("expected usize", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected i32", "expected a whole number"),
        ("expected a sequence", "expected a list, as [\"a\", \"b\"]"),
        ("expected a tuple of size 2", "expected two numbers, as [0.5, 1.0] or [50, 10]"),
    ];
    kinds.iter().fold(message.trim_end().to_string(), |message, (rust, words)| message.replace(rust, words))
}

/// Every dotted key that a configuration may have.
fn known_keys() -> Vec<String> {
    dotted_keys(&Config::default().to_table())
}

/// The keys of all values in a table of tables.
fn dotted_keys(table: &toml::Table) -> Vec<String> {
    let keys = table.iter().flat_map(|(key, value)| match value.as_table() {
        Some(inner) => dotted_keys(inner).into_iter().map(|inner| format!("{key}.{inner}")).collect(),
        None => vec![key.clone()],
    });
    keys.collect()
}

/// Lays the values of one table over those of another.
fn overlay(table: &mut toml::Table, values: &toml::Table) {
    for (key, value) in values {
        match (table.get_mut(key).and_then(toml::Value::as_table_mut), value.as_table()) {
            (Some(known), Some(inner)) => overlay(known, inner),
            _ => drop(table.insert(key.clone(), value.clone())),
        }
    }
}

fn unknown_key(key: &str) -> Error {
    let known = known_keys();
    // A key of the right name in the wrong section is nearer than any spelling.
    let name = key.rsplit('.').next().unwrap_or(key);
    let elsewhere = known.iter().find(|known| known.rsplit('.').next() == Some(name)).map(String::as_str);
    let near = elsewhere.or_else(|| nearest(key, known.iter().map(String::as_str)));
    let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
    Error::input(format!("unknown key '{key}'{hint}"))
}

/// `within` is where the table stands in the file: empty, or `tuned.METHOD.`.
fn check_keys(table: &toml::Table, text: &str, within: &str) -> Result<()> {
    let mut table = table.clone();
    if let Some(toml::Value::Table(tuned)) = table.remove("tuned") {
        for (method, settings) in &tuned {
            method::find(method)?;
            let settings = settings.as_table().ok_or_else(|| unknown_key(&format!("tuned.{method}")))?;
            check_keys(settings, text, &format!("tuned.{method}."))?;
        }
    }
    // Its keys are checked where it is read.
    table.remove("expected");
    let known = known_keys();
    let Some(key) = dotted_keys(&table).into_iter().find(|key| !known.contains(key)) else { return Ok(()) };
    let name = key.rsplit('.').next().unwrap_or(&key);
    // By the last part of a line's key: `train.epoch = 3`, or `epoch = 3` under `[train]`.
    let is_it = |line: &str| line.split_once('=').is_some_and(|(key, _)| key.trim().rsplit('.').next() == Some(name));
    let error = unknown_key(&key);
    let error = if within.is_empty() { error } else { error.at(within.trim_end_matches('.')) };
    Err(match text.lines().position(is_it) {
        Some(line) => error.at(format!("line {}", line + 1)),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_their_own_toml() {
        for preset in &PRESETS {
            let config = Config::find(preset.name).unwrap();
            assert_eq!(config.preset, preset.name);
            config.validate().unwrap();
            assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
            // What is tuned for a method is sound too, and a run's settings know nothing of what is expected.
            for method in std::iter::once(&config.method).chain(config.tuned.keys()) {
                let config = config.for_method(method).unwrap();
                config.validate().unwrap();
                assert!(config.expected.is_empty());
            }
        }
    }

    #[test]
    fn every_key_stands_in_the_docs_with_its_default() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let told: Vec<(&str, &str)> = rows
            .map(|row| {
                let mut cells = row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`'));
                (cells.next().unwrap(), cells.next().unwrap())
            })
            .collect();
        let defaults = toml::Value::Table(Config::default().to_table());
        let of = |key: &str| key.split('.').fold(&defaults, |table, part| &table[part]);
        for key in known_keys() {
            let (_, default) = told.iter().find(|(told, _)| *told == key).unwrap_or_else(|| panic!("{key} is missing"));
            let written: toml::Table = format!("value = {default}").parse().unwrap();
            assert_eq!(written["value"], *of(&key), "{key}");
        }
        assert_eq!(told.len(), known_keys().len(), "each once, and no other");
        for (key, setting, _) in Settings::default().iter() {
            let row = text.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).unwrap();
            let words = row.split('|').nth(3).unwrap().trim();
            assert_eq!(words, setting.doc, "{key}: what its method says of it");
        }
    }

    #[test]
    fn values_are_set_by_dotted_keys() {
        let mut config = Config::find("emoji-cil").unwrap();
        for assignment in ["train.epochs=3", "method=joint", "objective.lambda = 0.5", "data.crop=[0.5, 1.0]"] {
            config.set(assignment).unwrap();
        }
        assert_eq!(
            (config.train.epochs, config.method.as_str(), config.objective.number("lambda")),
            (3.0, "joint", 0.5)
        );
        assert_eq!(config.data.crop, (0.5, 1.0));
    }

    #[test]
    fn a_methods_own_settings_apply_to_it_alone() {
        let text = "[train]\nepochs = 2.0\n[tuned.joint.train]\nlearning_rate = 0.5\n";
        let config = Config::parse(text).unwrap();
        let rates = ["joint", "gcl"].map(|name| config.for_method(name).unwrap().train.learning_rate);
        assert_eq!(rates, [0.5, TrainConfig::default().learning_rate]);
        let joint = config.for_method("joint").unwrap();
        assert_eq!((joint.method.as_str(), joint.train.epochs), ("joint", 2.0));
        assert!(!joint.to_toml().contains("tuned"), "a run's settings are resolved");
    }

    #[test]
    fn a_run_of_an_earlier_version_goes_on_as_it_began() {
        let run = Config { method: "der".to_string(), ..Config::default() };
        assert_eq!(Config::parse_run(&run.to_toml()).unwrap(), run, "a run of this version has every key");
        let new = ["[head]", "start = ", "scale = ", "own_classes = ", "balance = ", "balance_temperature = "];
        let earlier: Vec<String> = (run.to_toml().lines().map(str::to_string))
            .filter(|line| !new.iter().any(|key| line.starts_with(key)))
            .collect();
        let earlier = Config::parse_run(&earlier.join("\n")).unwrap();
        assert_eq!(earlier.head, HeadConfig { start: HeadStart::Random, scale: 1.0 });
        let flags = ["finetune-ce.own_classes", "ewc.own_classes", "der.balance"];
        assert_eq!(flags.map(|key| earlier.objective.number(key)), [0.0; 3]);
        assert_eq!(earlier.train, run.train);
        // What other methods read makes no other run of it.
        let of = |method: &str| Config { method: method.to_string(), ..earlier.clone() }.without_other_methods();
        let now = |method: &str| Config { method: method.to_string(), ..run.clone() }.without_other_methods();
        assert_eq!(
            ["gcl", "zero-shot", "co2l", "der"].map(|method| of(method) == now(method)),
            [true, true, true, false]
        );
        assert!(Config::parse_run("[train]\nepoch = 3\n").unwrap_err().to_string().starts_with("line 2: "));
    }

    #[test]
    fn errors_name_the_place_and_the_right_word() {
        let message = |result: Result<Config>| result.unwrap_err().to_string();
        assert_eq!(
            message(Config::parse("method = \"gcl\"\n[train]\nepoch = 3\n")),
            "line 3: unknown key 'train.epoch'; did you mean 'train.epochs'?"
        );
        let wrong = message(Config::parse("[train]\nbatch = \"many\"\n"));
        assert!(wrong.contains("line 2") && wrong.contains("expected a whole number"), "{wrong}");
        assert!(message(Config::parse("method = \n")).contains("line 1"));
        assert!(message(Config::find("emoji-cli")).contains("did you mean 'emoji-cil'?"));
        let wrong = message(Config::parse("[tuned.joint.train]\nrate = 1\n"));
        assert!(wrong.starts_with("line 2: tuned.joint: unknown key 'train.rate'"), "{wrong}");
        let wrong = message(Config::parse("[tuned]\ngcl.train.epoch = 2\n"));
        assert!(wrong.starts_with("line 2: tuned.gcl: unknown key 'train.epoch'"), "{wrong}");
        let mut config = Config::default();
        let mut error = |assignment: &str| config.set(assignment).unwrap_err().to_string();
        assert_eq!(error("train.lambda=1"), "unknown key 'train.lambda'; did you mean 'objective.lambda'?");
        assert!(error("train.batch=many").starts_with("train.batch cannot be many"));
        assert!(error("data.csv.test=t.csv").ends_with("expected a list, as [\"a\", \"b\"]"));
        assert!(error("train.epochs=few").ends_with("expected a number"));
        assert!(error("train").contains("key=value"));
        config.method = "gdor".to_string();
        assert!(config.validate().unwrap_err().to_string().contains("did you mean 'gdro'?"));
    }
}
