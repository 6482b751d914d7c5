//! `perennial eval`: zero-shot accuracy or retrieval of any checkpoint.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::embed::{Counter, Inference, Model};
use super::output::{self, put, say};
use super::run::print_broken;
use crate::data::text::prompts::Templates;
use crate::data::{self, Dataset, Split};
use crate::error::{Error, Result, unknown};
use crate::experiment::{Config, EvaluationTask, PRESETS};
use crate::model::spec::ModelSpec;
use crate::{Clip, Place, TestSet};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: Model,
    /// A preset, such as imagenet-r or cifar100, for its data, templates and task; or a format of data: emoji, folder, domainnet, csv,
    /// webdataset, packed
    #[arg(long, value_name = "SPEC")]
    data: String,
    /// Where its files are [default: the data set inside the program]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A setting of the data as a run has it, such as --set data.csv.caption=title; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The domains, separated by commas [default: the preset's, or all]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    domains: Vec<String>,
    /// Which samples
    #[arg(long, value_enum, default_value = "test")]
    split: SplitName,
    /// Prompt templates of the classes: a bundled list (emoji, cifar, imagenet, photo) or a .txt file, one a line [default: the
    /// preset's; of a format photo, of emoji its own]
    #[arg(long, value_name = "NAME|FILE")]
    templates: Option<String>,
    /// Zero-shot classification among all classes, or retrieval by captions [default: the preset's, or classification]
    #[arg(long, value_enum)]
    task: Option<Task>,
    /// Print one JSON document in place of lines (docs/output.md)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    inference: Inference,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SplitName {
    Test,
    Train,
    All,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Task {
    Classification,
    Retrieval,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let place = arguments.inference.prepare()?;
    let Config { mut data, evaluation, .. } = config(arguments)?;
    // What takes no time comes before what may take long.
    let templates = Templates::find(&evaluation.templates)?;
    let spec = arguments.model.spec()?;
    let dataset = data::open(&data.source())?;
    dataset.notes.iter().for_each(|note| say!("note: {}: {note}", dataset.name));
    dataset.broken().check(&dataset.name, data.max_broken)?;
    let classifies = evaluation.task == EvaluationTask::Classification;
    if data.domains.is_empty() {
        // A preset may have sets of tests for one and for the other.
        data.domains = if classifies { evaluation.classification_domains } else { evaluation.retrieval_domains };
    }
    let samples = choose(arguments, &data.domains, &dataset)?;
    if classifies && !dataset.has_classes() {
        return Err(Error::input(format!("{} has no classes; --task retrieval needs none", dataset.name)));
    }
    if let (true, Some(sample)) = (classifies, samples.iter().find(|sample| !dataset.is_labelled(**sample))) {
        let domain = &dataset.domains[dataset.samples[*sample as usize].domain as usize];
        return Err(Error::input(format!(
            "{} has no class for sample {sample}, of the domain '{domain}'; --domains names those that have classes",
            dataset.name
        )));
    }
    if let (false, Some(sample)) =
        (classifies, samples.iter().find(|sample| dataset.samples[**sample as usize].caption.is_empty()))
    {
        let what = match samples.iter().all(|sample| dataset.samples[*sample as usize].caption.is_empty()) {
            true => "has no captions".to_string(),
            false => format!("has no caption for sample {sample}"),
        };
        return Err(Error::input(format!("{} {what}; --task classification needs none", dataset.name)));
    }
    let tests = TestSet { dataset: Arc::new(dataset), samples, max_broken: data.max_broken };
    let mut found = match classifies {
        true => classification(&place, arguments, &spec, &templates, &tests)?,
        false => retrieval(&place, arguments, &spec, &tests)?,
    };
    if classifies {
        found.settings.push(("templates", evaluation.templates.clone()));
    }
    let broken = tests.dataset.broken();
    if arguments.json {
        let mut document = found.document();
        document["data"] = tests.dataset.name.as_str().into();
        document["task"] = json!(evaluation.task);
        document["broken"] = json!(broken);
        document["notes"] = json!(tests.dataset.notes);
        output::document("eval", document);
        return Ok(());
    }
    found.print();
    print_broken(&broken);
    Ok(())
}

/// What a model came to, by the names that lines and document share.
#[derive(Default)]
struct Found {
    counts: Vec<(&'static str, usize)>,
    /// Fractions.
    parts: Vec<(&'static str, f64)>,
    /// Of both directions, fractions at 1, 5 and 10.
    recalls: Vec<(&'static str, [f64; 3])>,
    settings: Vec<(&'static str, String)>,
}

impl Found {
    fn print(&self) {
        let width = if self.recalls.is_empty() { 21 } else { 16 };
        self.counts.iter().for_each(|(name, count)| put!("{name:width$}  {count}"));
        if !self.recalls.is_empty() {
            put!("{:width$}  recall@1  recall@5  recall@10", "");
        }
        for (name, recalls) in &self.recalls {
            let [at_1, at_5, at_10] = recalls.map(|part| format!("{:.2} %", 100.0 * part));
            put!("{name:width$}  {at_1:>8}  {at_5:>8}  {at_10:>9}");
        }
        self.parts.iter().for_each(|(name, part)| put!("{name:width$}  {:.2} %", 100.0 * part));
        self.settings.iter().for_each(|(name, setting)| put!("{name:width$}  {setting}"));
    }

    fn document(&self) -> Value {
        let mut document = json!({});
        self.counts.iter().for_each(|(name, count)| document[*name] = json!(count));
        for (name, recalls) in &self.recalls {
            for (at, recall) in [1, 5, 10].iter().zip(recalls) {
                document[format!("{name}_recall@{at}")] = json!(recall);
            }
        }
        self.parts.iter().for_each(|(name, part)| document[*name] = json!(part));
        self.settings.iter().for_each(|(name, setting)| document[*name] = json!(setting));
        document
    }
}

/// The settings of a preset, or of a format by its name, with what the command line changes. Those of training have no meaning here.
fn config(arguments: &Arguments) -> Result<Config> {
    let name = &arguments.data;
    let is_preset = PRESETS.iter().any(|preset| preset.name == name) || name.ends_with(".toml");
    let mut config = match is_preset {
        true => Config::find(name)?,
        false if data::names().any(|format| format == name) => {
            let mut config = Config::default();
            config.data.name = name.clone();
            if name != "emoji" {
                config.evaluation.templates = "photo".to_string();
            }
            config
        }
        false => {
            let presets = PRESETS.iter().map(|preset| preset.name);
            let formats = data::names().filter(|format| PRESETS.iter().all(|preset| preset.name != *format));
            return Err(unknown("data set", name, formats.chain(presets)));
        }
    };
    for setting in &arguments.settings {
        if !setting.trim_start().starts_with("data.") {
            return Err(Error::input(format!("--set {setting}: eval has the settings data.* alone")));
        }
        config.set(setting)?;
    }
    if let Some(folder) = &arguments.folder {
        config.data.folder = folder.display().to_string();
    }
    if !arguments.domains.is_empty() {
        config.data.domains = arguments.domains.clone();
    }
    if let Some(templates) = &arguments.templates {
        config.evaluation.templates = templates.clone();
    }
    if let Some(task) = arguments.task {
        config.evaluation.task = match task {
            Task::Classification => EvaluationTask::Classification,
            Task::Retrieval => EvaluationTask::Retrieval,
        };
    }
    Ok(config)
}

/// The samples of the wanted domains and split, by their places in the data set.
fn choose(arguments: &Arguments, domains: &[String], dataset: &Dataset) -> Result<Vec<u32>> {
    let domain = |name: &String| {
        let place = dataset.domains.iter().position(|domain| domain == name);
        place.ok_or_else(|| unknown("domain", name, dataset.domains.iter().map(String::as_str)))
    };
    let domains = domains.iter().map(domain).collect::<Result<Vec<usize>>>()?;
    let wanted = match arguments.split {
        SplitName::Test => Some(Split::Test),
        SplitName::Train => Some(Split::Train),
        SplitName::All => None,
    };
    let samples: Vec<u32> = (0..)
        .zip(&dataset.samples)
        .filter(|(_, sample)| domains.is_empty() || domains.contains(&(sample.domain as usize)))
        .filter(|(_, sample)| wanted.is_none_or(|split| sample.split == split))
        .map(|(place, _)| place)
        .collect();
    if samples.is_empty() {
        return Err(Error::input(format!("{} has no samples of these domains and this split", dataset.name)));
    }
    Ok(samples)
}

fn classification(
    place: &Place,
    arguments: &Arguments,
    spec: &ModelSpec,
    templates: &Templates,
    tests: &TestSet,
) -> Result<Found> {
    let classes = tests.dataset.classes.len();
    let prompts = classes * templates.iter().count();
    let mut clip = open(place, arguments, spec, tests.samples.len(), prompts)?;
    let (pictures, found) = tests.classify(&mut clip, templates, &mut Counting::default().progress())?;
    Ok(Found {
        counts: vec![("pictures", pictures), ("classes", classes)],
        parts: vec![
            ("top_1_accuracy", found.top_1),
            ("top_5_accuracy", found.top_5),
            ("mean_per_class_recall", found.mean_per_class_recall),
        ],
        ..Found::default()
    })
}

fn retrieval(place: &Place, arguments: &Arguments, spec: &ModelSpec, tests: &TestSet) -> Result<Found> {
    let mut clip = open(place, arguments, spec, tests.samples.len(), tests.captions().len())?;
    let ([pictures, captions], found) = tests.retrieve(&mut clip, &mut Counting::default().progress())?;
    let both = [("image_to_text", found.image_to_text), ("text_to_image", found.text_to_image)];
    Ok(Found {
        counts: vec![("pictures", pictures), ("captions", captions)],
        parts: vec![("mean_recall@1", found.mean_recall_at_1())],
        recalls: both.map(|(name, recall)| (name, [recall.at_1, recall.at_5, recall.at_10])).to_vec(),
        ..Found::default()
    })
}

fn open(place: &Place, arguments: &Arguments, spec: &ModelSpec, images: usize, texts: usize) -> Result<Clip> {
    let batch = arguments.inference.batch;
    arguments.model.open(place, spec, batch.min(images), batch.min(texts))
}

/// How far each kind of thing has come that a model embeds.
#[derive(Default)]
struct Counting(Option<(&'static str, Counter)>);

impl Counting {
    fn progress(mut self) -> impl FnMut(&'static str, usize, usize) {
        move |what, done, total| {
            if self.0.as_ref().is_none_or(|(counted, _)| *counted != what) {
                self.0 = Some((what, Counter::new(what, total)));
            }
            self.0.iter_mut().for_each(|(_, counter)| counter.set(done));
        }
    }
}
