//! `perennial embed`: embeddings of images or texts by any checkpoint.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::compute::Compute;
use super::output::{put, say};
use crate::data::broken::read_picture;
use crate::data::images::transform;
use crate::data::text::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::pretrained::prepare;
use crate::files::{check_no_input, check_writable, files_below, folder_of, is_same, read_text};
use crate::model::checkpoint::{self, Positions, TensorFile, Weights, save_bytes};
use crate::model::clip::Capacity;
use crate::model::spec::ModelSpec;
use crate::{Activation, Clip, ClipOptions, Place};

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["images", "texts"]))]
pub(crate) struct Arguments {
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
    /// Write what the model reads in place of its embeddings: `pixels` [N, S, S, 3], u8, or `tokens` [N, context], u32
    #[arg(long)]
    inputs: bool,
    #[command(flatten)]
    inference: Inference,
}

/// Which checkpoint, and what it does not say of itself.
#[derive(clap::Args)]
pub(crate) struct Model {
    /// Weights in open_clip's or Hugging Face's names (safetensors, or PyTorch's .pt, .bin, .ckpt), or the folder that one of the two wrote
    #[arg(long, value_name = "CKPT")]
    pub model: PathBuf,
    /// The model, where the file does not say it: a bundled one (see 'perennial list models') or an open_clip JSON file
    #[arg(long, value_name = "NAME|FILE")]
    pub arch: Option<String>,
    /// Its activation, where the file does not say it: quick_gelu for OpenAI's weights, gelu for LAION's
    #[arg(long, value_enum, value_name = "NAME")]
    pub activation: Option<ActivationName>,
    /// Fit a positional embedding of another resolution to the model's, by bicubic interpolation as open_clip
    #[arg(long)]
    pub interpolate_positions: bool,
    /// Go on with weights that are NaN or infinite
    #[arg(long)]
    pub allow_non_finite: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum ActivationName {
    #[value(name = "gelu")]
    Gelu,
    #[value(name = "quick_gelu")]
    QuickGelu,
}

impl Model {
    fn options(&self) -> ClipOptions {
        ClipOptions {
            arch: self.arch.clone(),
            activation: self.activation.map(|name| match name {
                ActivationName::Gelu => Activation::Gelu,
                ActivationName::QuickGelu => Activation::QuickGelu,
            }),
            positions: if self.interpolate_positions { Positions::Interpolated } else { Positions::AsStored },
            allow_non_finite: self.allow_non_finite,
            ..ClipOptions::default()
        }
    }

    /// The model, from the file's header and what lies beside it; notes go to standard error.
    pub(crate) fn spec(&self) -> Result<ModelSpec> {
        let (spec, notes) = self.options().spec(&self.model)?;
        notes.iter().for_each(|note| say!("note: {note}"));
        Ok(spec)
    }

    /// The files that it may be read from: of a folder all, of a file also the parts that it lists and what may lie beside it.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = files_below(&self.model);
        files.extend(self.arch.iter().map(PathBuf::from));
        files.extend(checkpoint::files_of(&self.model).unwrap_or_default());
        files.extend(["open_clip_config.json", "config.json"].map(|name| folder_of(&self.model).join(name)));
        files
    }

    /// The weights of the model `spec`; notes go to standard error.
    pub(crate) fn load(&self, spec: &ModelSpec) -> Result<Weights> {
        let weights = self.options().weights(&self.model, spec)?;
        weights.notes.iter().for_each(|note| say!("note: {note}"));
        Ok(weights)
    }

    /// The model `spec`, ready for at most `images` images and `texts` texts at once; notes go to standard error.
    pub(crate) fn open(&self, place: &Place, spec: &ModelSpec, images: usize, texts: usize) -> Result<Clip> {
        let options = ClipOptions { place: place.clone(), capacity: Capacity { images, texts }, ..self.options() };
        let clip = options.open_as(&self.model, spec)?;
        clip.notes().iter().for_each(|note| say!("note: {note}"));
        Ok(clip)
    }
}

/// Where and how a model is run.
#[derive(clap::Args)]
pub(crate) struct Inference {
    #[command(flatten)]
    compute: Compute,
    /// Images, or texts, encoded at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch: usize,
}

impl Inference {
    pub(crate) fn prepare(&self) -> Result<Place> {
        if self.batch == 0 {
            return Err(Error::input("--batch is 0; it must be at least 1"));
        }
        self.compute.prepare()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    let place = arguments.inference.prepare()?;
    // Before any work, which may take hours.
    check_writable(out)?;
    let spec = arguments.model.spec()?;
    let source = match (&arguments.images, &arguments.texts) {
        (Some(pattern), _) => Source::Images(find_files(pattern)?),
        (None, Some(path)) => Source::Texts(read_texts(path)?),
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let own = match &source {
        Source::Images(paths) => paths.clone(),
        Source::Texts(_) => arguments.texts.iter().cloned().collect(),
    };
    check_no_input(out, own.into_iter().chain(arguments.model.files()))?;
    if arguments.model.model.is_dir() && is_same(folder_of(out), &arguments.model.model) {
        return Err(Error::input(format!(
            "{} lies in the model's folder, whose files say what the model is: write to another",
            out.display()
        )));
    }
    if arguments.inputs {
        return write_inputs(&spec, &source, arguments);
    }
    embed(&place, arguments, &spec, &source)
}

enum Source {
    Images(Vec<PathBuf>),
    /// The lines of a file.
    Texts(Vec<String>),
}

fn read_texts(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path)?;
    let texts: Vec<String> = text.lines().map(str::to_string).collect();
    if texts.is_empty() {
        return Err(Error::input(format!("{} holds no texts, expected one a line", path.display())));
    }
    Ok(texts)
}

/// What the model would read, for a look at preprocessing alone. Of the pictures, one batch is in memory at a time.
fn write_inputs(spec: &ModelSpec, source: &Source, arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    match source {
        Source::Images(paths) => {
            let size = spec.vision_cfg.image_size;
            let batches = paths.chunks(arguments.inference.batch).map(|paths| {
                let mut pixels = vec![0; paths.len() * transform::bytes(size)];
                prepare(&mut pixels, size, |image| read_picture(&paths[image]))?;
                Ok(pixels)
            });
            save_bytes(out, "pixels", &[paths.len(), size, size, 3], batches)?;
            put!("{}: {} images of {size} x {size} pixels", out.display(), paths.len());
        }
        Source::Texts(texts) => {
            let (tokenizer, context) = (Tokenizer::clip(), spec.text_cfg.context_length);
            let mut tokens = Vec::with_capacity(texts.len() * context);
            for text in texts {
                tokens.extend(tokenizer.encode(text, context));
                tokens.resize(tokens.len().next_multiple_of(context), 0);
            }
            let mut file = TensorFile::new();
            file.insert_u32("tokens", &[texts.len(), context], tokens);
            file.save(out)?;
            put!("{}: {} texts of {context} tokens", out.display(), texts.len());
        }
    }
    Ok(())
}

fn embed(place: &Place, arguments: &Arguments, spec: &ModelSpec, source: &Source) -> Result<()> {
    let (out, batch) = (&arguments.out, arguments.inference.batch);
    let embeddings = match source {
        Source::Images(paths) => {
            let mut clip = arguments.model.open(place, spec, batch.min(paths.len()), 1)?;
            let mut counter = Counter::new("images", paths.len());
            let load = |image: usize| read_picture(&paths[image]);
            clip.embed_loaded(paths.len(), &load, &mut |done| counter.set(done))?
        }
        Source::Texts(texts) => {
            let mut clip = arguments.model.open(place, spec, 1, batch.min(texts.len()))?;
            let mut counter = Counter::new("texts", texts.len());
            clip.embed_texts_with(texts, &mut |done| counter.set(done))?
        }
    };
    let (count, width) = (embeddings.len(), embeddings.width);
    let mut file = TensorFile::new();
    file.insert_f32("embeddings", &[count, width], embeddings.values);
    file.save(out)?;
    put!("{}: {count} embeddings of width {width}", out.display());
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
pub(crate) struct Counter {
    what: &'static str,
    total: usize,
    bar: Option<ProgressBar>,
    start: Instant,
    last_line: Instant,
}

impl Counter {
    pub(crate) fn new(what: &'static str, total: usize) -> Counter {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} left");
            bar.set_style(style.expect("the template is well formed"));
            bar.with_prefix(what)
        });
        Counter { what, total, bar, start: Instant::now(), last_line: Instant::now() }
    }

    pub(crate) fn set(&mut self, done: usize) {
        const PLAIN_INTERVAL: Duration = Duration::from_secs(15);
        match &self.bar {
            Some(bar) if done == self.total => bar.finish_and_clear(),
            Some(bar) => bar.set_position(done as u64),
            None if self.last_line.elapsed() >= PLAIN_INTERVAL && done < self.total => {
                self.last_line = Instant::now();
                let left = (self.total - done) as f64 * self.start.elapsed().as_secs_f64() / done as f64;
                say!("{}  {done}/{}  {left:.0} s left", self.what, self.total);
            }
            None => {}
        }
    }
}
