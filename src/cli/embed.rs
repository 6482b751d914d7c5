//! `perennial embed`: embeddings of images or texts by any checkpoint.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use perennial::error::{Error, Result};
use perennial::eval::pretrained::{Pretrained, find_spec, read_image};
use perennial::files::check_writable;
use perennial::model::checkpoint::TensorFile;
use perennial::model::clip::Capacity;
use perennial::model::spec::ModelSpec;
use perennial::ops::Device;
use perennial::ops::linear::Activation;

use super::compute::{Compute, Place, on_device};

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["images", "texts"]))]
pub struct Arguments {
    #[command(flatten)]
    model: Model,
    /// Images: a pattern such as 'photos/**/*.jpg', in quotes; embedded in the order of their names
    #[arg(long, value_name = "GLOB")]
    images: Option<String>,
    /// A file of texts, one a line
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Where the tensor `embeddings` goes: [N, D], f32, rows of length 1 (safetensors)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    inference: Inference,
}

/// Which checkpoint, and what it does not say of itself.
#[derive(clap::Args)]
pub struct Model {
    /// Weights in open_clip's or Hugging Face's names (safetensors)
    #[arg(long, value_name = "CKPT")]
    pub model: PathBuf,
    /// The model, where the file does not say it: a bundled one (see 'perennial list models') or an open_clip JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub arch: Option<String>,
    /// Its activation, where the file does not say it: quick_gelu for OpenAI's weights, gelu for LAION's
    #[arg(long, value_enum, value_name = "NAME")]
    pub activation: Option<ActivationName>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum ActivationName {
    #[value(name = "gelu")]
    Gelu,
    #[value(name = "quick_gelu")]
    QuickGelu,
}

impl Model {
    pub fn spec(&self) -> Result<ModelSpec> {
        let activation = self.activation.map(|name| match name {
            ActivationName::Gelu => Activation::Gelu,
            ActivationName::QuickGelu => Activation::QuickGelu,
        });
        find_spec(&self.model, self.arch.as_deref(), activation)
    }

    /// The model, ready for at most `images` images and `texts` texts at once; notes go to standard error.
    pub fn open<D: Device>(&self, place: &D::Place, images: usize, texts: usize) -> Result<Pretrained<D>> {
        let capacity = Capacity { images: images.max(1), texts: texts.max(1) };
        let (model, notes) = Pretrained::open(place, &self.model, &self.spec()?, capacity)?;
        notes.iter().for_each(|note| eprintln!("note: {note}"));
        Ok(model)
    }
}

/// Where and how a model is run.
#[derive(clap::Args)]
pub struct Inference {
    #[command(flatten)]
    compute: Compute,
    /// Images, or texts, encoded at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch: usize,
}

impl Inference {
    pub fn prepare(&self) -> Result<Place> {
        if self.batch == 0 {
            return Err(Error::input("--batch is 0; it must be at least 1"));
        }
        self.compute.prepare()
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    on_device!(&arguments.inference.prepare()?, D, place => run_on::<D>(place, arguments))
}

fn run_on<D: Device>(place: &D::Place, arguments: &Arguments) -> Result<()> {
    let (out, batch) = (&arguments.out, arguments.inference.batch);
    // Before any work, which may take hours.
    check_writable(out)?;
    let (count, width, embeddings) = match (&arguments.images, &arguments.texts) {
        (Some(pattern), _) => {
            let paths = find_files(pattern)?;
            let mut model = arguments.model.open::<D>(place, batch.min(paths.len()), 1)?;
            let mut counter = Counter::new("images", paths.len());
            let embeddings =
                model.embed_images(paths.len(), |image| read_image(&paths[image]), &mut |done| counter.set(done))?;
            (paths.len(), model.clip.spec.embed_dim, embeddings)
        }
        (None, Some(path)) => {
            let text = fs::read_to_string(path).map_err(|cause| Error::reading(path, cause))?;
            let texts: Vec<&str> = text.lines().collect();
            if texts.is_empty() {
                return Err(Error::input(format!("{} holds no texts, expected one a line", path.display())));
            }
            let mut model = arguments.model.open::<D>(place, 1, batch.min(texts.len()))?;
            let mut counter = Counter::new("texts", texts.len());
            let embeddings = model.embed_texts(&texts, &mut |done| counter.set(done))?;
            (texts.len(), model.clip.spec.embed_dim, embeddings)
        }
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let mut file = TensorFile::new();
    file.insert_f32("embeddings", &[count, width], embeddings);
    file.save(out)?;
    println!("{}: {count} embeddings of width {width}", out.display());
    Ok(())
}

/// The files that match, by name. Folders are passed over.
fn find_files(pattern: &str) -> Result<Vec<PathBuf>> {
    let matches = glob::glob(pattern)
        .map_err(|error| Error::input(format!("--images '{pattern}', character {}: {}", error.pos + 1, error.msg)))?;
    let mut paths = Vec::new();
    for path in matches {
        let path = path.map_err(|error| Error::reading(error.path(), error.error()))?;
        if !path.is_dir() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::input(format!("--images '{pattern}' matches no file")));
    }
    paths.sort();
    Ok(paths)
}

/// How far a count has come: a bar on a terminal, plain lines elsewhere, both on standard error.
pub struct Counter {
    what: &'static str,
    total: usize,
    bar: Option<ProgressBar>,
    start: Instant,
    last_line: Instant,
}

impl Counter {
    pub fn new(what: &'static str, total: usize) -> Counter {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} left");
            bar.set_style(style.expect("the template is well formed"));
            bar.with_prefix(what)
        });
        Counter { what, total, bar, start: Instant::now(), last_line: Instant::now() }
    }

    pub fn set(&mut self, done: usize) {
        const PLAIN_INTERVAL: Duration = Duration::from_secs(15);
        match &self.bar {
            Some(bar) if done == self.total => bar.finish_and_clear(),
            Some(bar) => bar.set_position(done as u64),
            None if self.last_line.elapsed() >= PLAIN_INTERVAL && done < self.total => {
                self.last_line = Instant::now();
                let left = (self.total - done) as f64 * self.start.elapsed().as_secs_f64() / done as f64;
                eprintln!("{}  {done}/{}  {left:.0} s left", self.what, self.total);
            }
            None => {}
        }
    }
}
