//! `perennial eval`: zero-shot accuracy or retrieval of any checkpoint.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use perennial::data::loader::{BatchRequest, Loader, LoaderOptions};
use perennial::data::prompts::Templates;
use perennial::data::{self, Dataset, Split};
use perennial::error::{Error, Result, unknown};
use perennial::eval::embed::embed_images;
use perennial::eval::pretrained::Pretrained;
use perennial::eval::retrieval::retrieve;
use perennial::eval::zero_shot::{Classification, class_embeddings};
use perennial::experiment::{Config, EvaluationTask, PRESETS};
use perennial::model::spec::ModelSpec;
use perennial::ops::Device;

use super::compute::on_device;
use super::embed::{Counter, Inference, Model};
use super::run::print_broken;

#[derive(clap::Args)]
pub struct Arguments {
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
    // What takes no time comes before what may take long.
    let templates = Templates::find(&evaluation.templates)?;
    let spec = arguments.model.spec()?;
    let dataset = data::open(&data.source())?;
    dataset.notes.iter().for_each(|note| eprintln!("note: {}: {note}", dataset.name));
    dataset.broken().check(&dataset.name, data.max_broken)?;
    let samples = choose(arguments, &data.domains, &dataset)?;
    let classifies = evaluation.task == EvaluationTask::Classification;
    if classifies && !dataset.has_classes() {
        return Err(Error::input(format!("{} has no classes; --task retrieval needs none", dataset.name)));
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
    let tests = Tests { dataset: Arc::new(dataset), samples, max_broken: data.max_broken };
    if classifies {
        on_device!(&place, D, at => classification::<D>(at, arguments, &spec, &templates, &tests))?;
        println!("templates              {}", evaluation.templates);
    } else {
        on_device!(&place, D, at => retrieval::<D>(at, arguments, &spec, &tests))?;
    }
    print_broken(&tests.dataset.broken());
    Ok(())
}

/// What a model is tested on.
struct Tests {
    dataset: Arc<Dataset>,
    /// Places in the data set.
    samples: Vec<u32>,
    max_broken: usize,
}

impl Tests {
    /// Embeddings of the samples' pictures, each once: the first sample of each picture, without the broken ones, and a row each.
    fn embed<D: Device>(&self, model: &mut Pretrained<D>) -> Result<(Vec<u32>, Vec<f32>)> {
        let mut known = HashSet::new();
        let firsts = self.samples.iter().map(|sample| self.dataset.first_of_picture(*sample));
        let pictures: Vec<u32> = firsts.filter(|picture| known.insert(*picture)).collect();
        let mut counter = Counter::new("images", pictures.len());
        let requests: Vec<BatchRequest> = (pictures.chunks(model.clip.capacity.images))
            .map(|samples| BatchRequest { samples: samples.to_vec(), augment: None })
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let options = LoaderOptions { threads, prefetch: 4, max_broken: self.max_broken };
        let size = model.clip.spec.vision_cfg.image_size;
        let mut loader = Loader::new(Arc::clone(&self.dataset), requests.into_iter(), size, options)?;
        let Pretrained { device, clip, .. } = &mut *model;
        let embedded = embed_images(device, clip, &mut loader, &mut |done| counter.set(done))?;
        device.health()?;
        if embedded.0.is_empty() {
            return Err(Error::input(format!("every sample of {} is broken", self.dataset.name)));
        }
        model.check_finite(&embedded.1, "image", 0)?;
        Ok(embedded)
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

fn classification<D: Device>(
    place: &D::Place,
    arguments: &Arguments,
    spec: &ModelSpec,
    templates: &Templates,
    tests: &Tests,
) -> Result<()> {
    let Tests { dataset, samples, .. } = tests;
    let prompts: Vec<String> = dataset.classes.iter().flat_map(|class| templates.prompts(class)).collect();
    let mut model = open::<D>(place, arguments, spec, samples.len(), prompts.len())?;
    let tokens = model.tokenize(&prompts)?;
    let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let (width, classes) = (model.clip.spec.embed_dim, dataset.classes.len());
    let texts = class_embeddings(&mut model.device, &model.clip, &tokens, classes);
    model.device.health()?;
    model.check_finite(&texts, "class", 0)?;
    let (pictures, images) = tests.embed(&mut model)?;
    let labels: Vec<u32> = pictures.iter().map(|sample| dataset.samples[*sample as usize].class).collect();
    let found = Classification::of(&images, &texts, width, &labels).expect("there is a picture");
    println!("pictures               {}", pictures.len());
    println!("classes                {classes}");
    for (name, part) in [
        ("top_1_accuracy", found.top_1),
        ("top_5_accuracy", found.top_5),
        ("mean_per_class_recall", found.mean_per_class_recall),
    ] {
        println!("{name:21}  {:.2} %", 100.0 * part);
    }
    Ok(())
}

fn retrieval<D: Device>(place: &D::Place, arguments: &Arguments, spec: &ModelSpec, tests: &Tests) -> Result<()> {
    let Tests { dataset, samples, .. } = tests;
    let mut captions: Vec<&str> = Vec::new();
    let mut known = HashMap::new();
    // Of each picture, by its first sample, the places of its captions.
    let mut of_picture: HashMap<u32, Vec<u32>> = HashMap::new();
    for sample in samples {
        let caption = dataset.samples[*sample as usize].caption.as_str();
        let column = *known.entry(caption).or_insert_with(|| {
            captions.push(caption);
            captions.len() as u32 - 1
        });
        let own = of_picture.entry(dataset.first_of_picture(*sample)).or_default();
        if !own.contains(&column) {
            own.push(column);
        }
    }
    let mut model = open::<D>(place, arguments, spec, samples.len(), captions.len())?;
    let mut counter = Counter::new("texts", captions.len());
    let texts = model.embed_texts(&captions, &mut |done| counter.set(done))?;
    let (pictures, images) = tests.embed(&mut model)?;
    let texts_of_image: Vec<Vec<u32>> = pictures.iter().map(|picture| of_picture[picture].clone()).collect();
    let (_, result) = retrieve(&images, &texts, model.clip.spec.embed_dim, &texts_of_image, |_, _| ());
    let result = result.expect("every picture has a caption");
    println!("pictures          {}", pictures.len());
    println!("captions          {}", captions.len());
    println!("                  recall@1  recall@5  recall@10");
    for (name, recall) in [("image_to_text", result.image_to_text), ("text_to_image", result.text_to_image)] {
        let [at_1, at_5, at_10] = [recall.at_1, recall.at_5, recall.at_10].map(|part| format!("{:.2} %", 100.0 * part));
        println!("{name:16}  {at_1:>8}  {at_5:>8}  {at_10:>9}");
    }
    println!("mean_recall@1     {:.2} %", 100.0 * result.mean_recall_at_1());
    Ok(())
}

fn open<D: Device>(
    place: &D::Place,
    arguments: &Arguments,
    spec: &ModelSpec,
    images: usize,
    texts: usize,
) -> Result<Pretrained<D>> {
    let batch = arguments.inference.batch;
    arguments.model.open(place, spec, batch.min(images), batch.min(texts))
}
