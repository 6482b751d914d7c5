//! Any checkpoint, opened for embeddings.

use std::path::Path;

use image::RgbImage;

use super::Rows;
use crate::data::broken::read_picture;
use crate::data::text::prompts::Templates;
use crate::error::Result;
use crate::eval::pretrained::{Pretrained, find_spec};
use crate::model::checkpoint::{self, Positions, Weights};
use crate::model::clip::Capacity;
use crate::model::spec::ModelSpec;
use crate::ops::linear::Activation;
use crate::place::{Place, on_device};

/// How a checkpoint is opened: where it computes, and what its file does not say of itself.
#[derive(Clone, Debug)]
pub struct ClipOptions {
    /// Where it computes.
    pub place: Place,
    /// A bundled model by name, or an open_clip JSON file, where the checkpoint does not say which model it holds.
    pub arch: Option<String>,
    /// Where the checkpoint does not say it: quick GELU for OpenAI's weights, GELU for LAION's.
    pub activation: Option<Activation>,
    /// Whether a positional embedding of another resolution is fitted to the model's.
    pub positions: Positions,
    /// Go on with weights that are NaN or infinite.
    pub allow_non_finite: bool,
    /// How many images, and how many texts, are encoded at once.
    pub capacity: Capacity,
}

impl Default for ClipOptions {
    /// On the CPU, 64 images or texts at once, and everything else as the checkpoint says.
    fn default() -> Self {
        ClipOptions {
            place: Place::Cpu,
            arch: None,
            activation: None,
            positions: Positions::AsStored,
            allow_non_finite: false,
            capacity: Capacity { images: 64, texts: 64 },
        }
    }
}

impl ClipOptions {
    /// Opens a checkpoint: see [`Clip::open`].
    ///
    /// ```no_run
    /// use perennial::{Activation, Clip, ClipOptions, Place};
    ///
    /// let options = ClipOptions {
    ///     place: Place::parse("cuda:0")?,
    ///     arch: Some("ViT-B-32".to_string()),
    ///     activation: Some(Activation::QuickGelu),
    ///     ..ClipOptions::default()
    /// };
    /// let clip = options.open("ViT-B-32.pt")?;
    /// # Ok::<(), perennial::error::Error>(())
    /// ```
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Clip> {
        let (spec, mut notes) = self.spec(path.as_ref())?;
        let mut clip = self.open_as(path.as_ref(), &spec)?;
        notes.append(&mut clip.notes);
        clip.notes = notes;
        Ok(clip)
    }

    /// Which model the checkpoint holds, by its file's header and what lies beside it, and notes for the user.
    pub fn spec(&self, path: &Path) -> Result<(ModelSpec, Vec<String>)> {
        find_spec(path, self.arch.as_deref(), self.activation, self.positions)
    }

    /// The checkpoint's weights as those of the model `spec`.
    pub fn weights(&self, path: &Path, spec: &ModelSpec) -> Result<Weights> {
        checkpoint::load_with(path, spec, self.positions)?.checked(self.allow_non_finite)
    }

    /// Opens the checkpoint as the model `spec`.
    pub fn open_as(&self, path: &Path, spec: &ModelSpec) -> Result<Clip> {
        let weights = self.weights(path, spec)?;
        let capacity = Capacity { images: self.capacity.images.max(1), texts: self.capacity.texts.max(1) };
        let model = on_device!(&self.place, B, at => Pretrained::open::<B>(at, &weights, spec, capacity)?);
        Ok(Clip { model, spec: spec.clone(), capacity, notes: weights.notes })
    }
}

/// A CLIP, opened for embeddings: a checkpoint of ours, or any that open_clip, OpenAI or Hugging Face wrote.
///
/// ```
/// use perennial::{Clip, Templates};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let model = folder.path().join("model.safetensors");
/// # let spec = perennial::model::spec::ModelSpec::find("emoji-tiny")?;
/// # let list = perennial::model::parameters::ParameterList::of(&spec);
/// # perennial::model::checkpoint::save(&model, &spec, &list, &list.initial_values(0), &[])?;
/// # let photos = ["tests/fixtures/pictures/alpha.png", "tests/fixtures/pictures/palette.png"];
/// let mut clip = Clip::open(&model)?;
/// let images = clip.embed_images(&photos)?;
/// let texts = clip.embed_texts(&["a cat", "a dog", "a tree"])?;
/// assert_eq!((images.len(), texts.len()), (2, 3));
/// println!("how alike picture 0 and each text are: {:?}", images.similarities(&texts).row(0));
///
/// let classes = ["cat", "dog", "tree"];
/// let scores = clip.zero_shot(&photos, &classes, &Templates::find("imagenet")?)?;
/// println!("picture 0 is a {}", classes[scores.largest(0)]);
/// # Ok::<(), perennial::error::Error>(())
/// ```
pub struct Clip {
    pub(super) model: Pretrained,
    spec: ModelSpec,
    pub(super) capacity: Capacity,
    notes: Vec<String>,
}

impl Clip {
    /// Opens a checkpoint on the CPU: a file (safetensors, or PyTorch's), or the folder that open_clip or Hugging Face wrote. It is an
    /// error where the file does not say which model it holds, or with which activation: [`ClipOptions`] say it then.
    pub fn open(path: impl AsRef<Path>) -> Result<Clip> {
        ClipOptions::default().open(path)
    }

    /// Its sizes.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What there is to know of how the file was read, a sentence each; mostly nothing.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Embeddings of picture files, a row each in their order, of unit length. A file that cannot be read is an error that names it.
    pub fn embed_images<P: AsRef<Path> + Sync>(&mut self, files: &[P]) -> Result<Rows> {
        self.embed_loaded(files.len(), &|image| read_picture(files[image].as_ref()), &mut |_| ())
    }

    /// Embeddings of the `count` pictures that `load` yields; threads ask for several at the same time. `progress` is told how many are
    /// done.
    pub fn embed_loaded(
        &mut self,
        count: usize,
        load: &(dyn Fn(usize) -> Result<RgbImage> + Sync),
        progress: &mut dyn FnMut(usize),
    ) -> Result<Rows> {
        self.rows(|model| model.embed_images(count, load, progress))
    }

    /// Embeddings of texts, a row each in their order, of unit length.
    pub fn embed_texts<T: AsRef<str>>(&mut self, texts: &[T]) -> Result<Rows> {
        self.embed_texts_with(texts, &mut |_| ())
    }

    /// The same; `progress` is told how many are done.
    pub fn embed_texts_with<T: AsRef<str>>(&mut self, texts: &[T], progress: &mut dyn FnMut(usize)) -> Result<Rows> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        self.rows(|model| model.embed_texts(&texts, progress))
    }

    /// Embeddings of classes, a row each: the mean direction of all prompts of a class.
    pub fn embed_classes<T: AsRef<str>>(&mut self, classes: &[T], templates: &Templates) -> Result<Rows> {
        let classes: Vec<&str> = classes.iter().map(AsRef::as_ref).collect();
        self.rows(|model| model.embed_classes(&classes, templates))
    }

    /// Zero-shot classification: cosine similarities with a row for each picture file and a column for each class. The class of a
    /// picture is that of the largest ([`Rows::largest`]).
    pub fn zero_shot<P: AsRef<Path> + Sync, T: AsRef<str>>(
        &mut self,
        files: &[P],
        classes: &[T],
        templates: &Templates,
    ) -> Result<Rows> {
        let classes = self.embed_classes(classes, templates)?;
        Ok(self.embed_images(files)?.similarities(&classes))
    }

    pub(super) fn rows(&mut self, embed: impl FnOnce(&mut Pretrained) -> Result<Vec<f32>>) -> Result<Rows> {
        Ok(Rows { values: embed(&mut self.model)?, width: self.spec.embed_dim })
    }
}
