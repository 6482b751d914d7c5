//! `perennial eval`: zero-shot accuracy or retrieval of any checkpoint.

use std::collections::HashMap;
use std::path::PathBuf;

use perennial::data::prompts::Templates;
use perennial::data::{self, Dataset, Split};
use perennial::error::{Error, Result, unknown};
use perennial::eval::metrics::{Retrieval, top_1_accuracy};
use perennial::eval::pretrained::Pretrained;
use perennial::eval::zero_shot::{class_embeddings, similarities};
use perennial::experiment::{Config, EvaluationTask, PRESETS};
use perennial::ops::Device;

use super::compute::on_device;
use super::embed::{Counter, Inference, Model};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    model: Model,
    /// A preset, such as imagenet-r, for its data, templates and task; or a format of data: emoji, folder, cifar10, cifar100,
    /// domainnet, csv, webdataset
    #[arg(long, value_name = "SPEC")]
    data: String,
    /// Where its files are [default: the data set inside the program]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A setting of the data as a run has it, such as --set data.csv.caption=title; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The domains, separated by commas [default: all]
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

pub fn run(arguments: &Arguments) -> Result<()> {
    let place = arguments.inference.prepare()?;
    let Config { data, evaluation, .. } = config(arguments)?;
    let dataset = data::open(&data.source())?;
    let samples = choose(arguments, &data.domains, &dataset)?;
    match evaluation.task {
        EvaluationTask::Classification => {
            let templates = Templates::find(&evaluation.templates)?;
            on_device!(&place, D, at => classification::<D>(at, arguments, &templates, &dataset, &samples))?;
            println!("templates       {}", evaluation.templates);
            Ok(())
        }
        EvaluationTask::Retrieval => on_device!(&place, D, at => retrieval::<D>(at, arguments, &dataset, &samples)),
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
            let known = data::names().chain(PRESETS.iter().map(|preset| preset.name));
            return Err(unknown("data set", name, known));
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
fn choose(arguments: &Arguments, domains: &[String], dataset: &Dataset) -> Result<Vec<usize>> {
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
    let samples: Vec<usize> = (dataset.samples.iter().enumerate())
        .filter(|(_, sample)| domains.is_empty() || domains.contains(&(sample.domain as usize)))
        .filter(|(_, sample)| wanted.is_none_or(|split| sample.split == split))
        .map(|(place, _)| place)
        .collect();
    if samples.is_empty() {
        return Err(Error::input(format!("{} has no samples of these domains and this split", dataset.name)));
    }
    Ok(samples)
}

fn classification<D: Device>(
    place: &D::Place,
    arguments: &Arguments,
    templates: &Templates,
    dataset: &Dataset,
    samples: &[usize],
) -> Result<()> {
    let prompts: Vec<String> = dataset.classes.iter().flat_map(|class| templates.prompts(class)).collect();
    let mut model = open::<D>(place, arguments, samples.len(), prompts.len())?;
    let tokens = model.tokenize(&prompts)?;
    let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let (width, classes) = (model.clip.spec.embed_dim, dataset.classes.len());
    let texts = class_embeddings(&mut model.device, &model.clip, &tokens, classes);
    model.device.health()?;
    let mut counter = Counter::new("images", samples.len());
    let images = model.embed_images(samples.len(), |i| dataset.image(samples[i]), &mut |done| counter.set(done))?;
    let labels: Vec<u32> = samples.iter().map(|sample| dataset.samples[*sample].class).collect();
    let accuracy = top_1_accuracy(&similarities(&images, &texts, width), classes, &labels).unwrap_or_default();
    println!("samples         {}", samples.len());
    println!("classes         {classes}");
    println!("top_1_accuracy  {:.2} %", 100.0 * accuracy);
    Ok(())
}

fn retrieval<D: Device>(place: &D::Place, arguments: &Arguments, dataset: &Dataset, samples: &[usize]) -> Result<()> {
    let mut captions: Vec<&str> = Vec::new();
    let mut known = HashMap::new();
    let mut caption_of = |caption| {
        *known.entry(caption).or_insert_with(|| {
            captions.push(caption);
            captions.len() as u32 - 1
        })
    };
    let groups: Vec<u32> = samples.iter().map(|sample| caption_of(dataset.samples[*sample].caption.as_str())).collect();
    let mut model = open::<D>(place, arguments, samples.len(), captions.len())?;
    let mut counter = Counter::new("texts", captions.len());
    let texts = model.embed_texts(&captions, &mut |done| counter.set(done))?;
    let mut counter = Counter::new("images", samples.len());
    let images = model.embed_images(samples.len(), |i| dataset.image(samples[i]), &mut |done| counter.set(done))?;
    let text_groups: Vec<u32> = (0..captions.len() as u32).collect();
    let scores = similarities(&images, &texts, model.clip.spec.embed_dim);
    let result = Retrieval::of(&scores, &groups, &text_groups).expect("every image has its caption among the texts");
    println!("samples           {}", samples.len());
    println!("captions          {}", captions.len());
    println!("                  recall@1  recall@5  recall@10");
    for (name, recall) in [("image_to_text", result.image_to_text), ("text_to_image", result.text_to_image)] {
        let [at_1, at_5, at_10] = [recall.at_1, recall.at_5, recall.at_10].map(|part| format!("{:.2} %", 100.0 * part));
        println!("{name:16}  {at_1:>8}  {at_5:>8}  {at_10:>9}");
    }
    println!("mean_recall@1     {:.2} %", 100.0 * result.mean_recall_at_1());
    Ok(())
}

fn open<D: Device>(place: &D::Place, arguments: &Arguments, images: usize, texts: usize) -> Result<Pretrained<D>> {
    let batch = arguments.inference.batch;
    arguments.model.open(place, batch.min(images), batch.min(texts))
}
