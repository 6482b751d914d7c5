//! A checkpoint opened for inference: which model it holds, and its embeddings of images and texts.

use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;

use super::embed;
use super::similarities::Similarities;
use super::zero_shot::class_embeddings;
use crate::data::images::transform;
use crate::data::loader::Loader;
use crate::data::text::prompts::Templates;
use crate::data::text::tokenizer::{self, Tokenizer};
use crate::error::{Error, Result};
use crate::files::folder_of;
use crate::model::checkpoint::{self, Positions, Stored, Weights};
use crate::model::clip::{Capacity, Clip};
use crate::model::spec::{ModelSpec, Told};
use crate::model::transformer::Purpose;
use crate::ops::linear::Activation;
use crate::ops::{Backend, Device, Plan};

/// The model that the checkpoint at `path` holds: what the file says of itself, or else `arch`, a bundled model or an
/// open_clip JSON file. `activation` goes before what either says. Also returns warnings for the user.
///
/// Weights of other programs do not say which activation they were trained with, and a wrong guess costs several points
/// silently; so it is an error of input where nothing says it. An `arch` other than what the file says is an error too, but
/// for its `image_size` where positions are interpolated.
pub fn find_spec(
    path: &Path,
    arch: Option<&str>,
    activation: Option<Activation>,
    positions: Positions,
) -> Result<(ModelSpec, Vec<String>)> {
    let stored = checkpoint::read_spec(path)?;
    let mut notes = check_tokenizer(stored.as_ref())?;
    let given = arch.map(|name| Ok((name, ModelSpec::find_with_activation(name)?))).transpose()?;
    let described = given.as_ref().map(|(name, (spec, told))| (*name, spec.quick_gelu, *told));
    let known = known_activation(path, stored.as_ref(), described, activation);
    let mut spec = match (stored.map(|stored| stored.spec), given) {
        (Some(stored), Some((name, (given, _)))) => {
            let mut comparable = ModelSpec { quick_gelu: stored.quick_gelu, ..given.clone() };
            if positions == Positions::Interpolated {
                comparable.vision_cfg.image_size = stored.vision_cfg.image_size;
            }
            if comparable != stored {
                return Err(Error::input(format!(
                    "{}: the file says that its model is {}, which is not --arch {name}; leave --arch out",
                    path.display(),
                    stored.in_words(),
                )));
            }
            given
        }
        (Some(spec), None) | (None, Some((_, (spec, _)))) => spec,
        (None, None) => {
            let names = ModelSpec::names().collect::<Vec<_>>().join(", ");
            return Err(Error::input(format!(
                "{}: the file does not say which model it holds: give --arch ({names}, or an open_clip JSON file)",
                path.display()
            )));
        }
    };
    let (quick_gelu, note) = known?;
    spec.quick_gelu = quick_gelu;
    notes.extend(note);
    Ok((spec, notes))
}

/// Fails where a tokenizer other than CLIP's lies beside the configuration that tells the model; returns a warning about one that
/// has more words.
pub(crate) fn check_tokenizer(stored: Option<&Stored>) -> Result<Vec<String>> {
    match stored {
        Some(Stored { origin, .. }) if origin.extension().is_some_and(|ending| ending == "json") => {
            tokenizer::check_folder(folder_of(origin))
        }
        _ => Ok(Vec::new()),
    }
}

/// Whether the model is used with QuickGELU, and a warning about that: what the user says, `given`; or else what
/// the checkpoint says in words, or the description of the model that the user named (its name, whether it is QuickGELU, and
/// how it tells that); or else a configuration's default, which is told. It is an error of input where the two contradict
/// one another, and where neither says it.
pub(crate) fn known_activation(
    path: &Path,
    stored: Option<&Stored>,
    described: Option<(&str, bool, Told)>,
    given: Option<Activation>,
) -> Result<(bool, Option<String>)> {
    let name = |quick_gelu: bool| if quick_gelu { "quick_gelu" } else { "gelu" };
    if let Some(activation) = given {
        return Ok((activation == Activation::QuickGelu, None));
    }
    let stored = stored.map(|Stored { spec, told, origin }| (origin.display().to_string(), spec.quick_gelu, *told));
    let described = described.map(|(name, quick_gelu, told)| (name.to_string(), quick_gelu, told));
    let sources: Vec<(String, bool, Told)> = stored.into_iter().chain(described).collect();
    let told = |how: Told| sources.iter().filter(move |(.., told)| *told == how).collect::<Vec<_>>();
    match (told(Told::InWords).as_slice(), told(Told::ByDefault).as_slice()) {
        ([(file, one, _), (description, other, _)], _) if one != other => Err(Error::input(format!(
            "{file} says that the model's activation is {}, and {description} that it is {}: give --activation (in a run \
             the setting is model.activation)",
            name(*one),
            name(*other)
        ))),
        ([(_, quick_gelu, _), ..], _) => Ok((*quick_gelu, None)),
        ([], [(origin, quick_gelu, _), ..]) => {
            let default = name(*quick_gelu);
            let note = format!(
                "{origin}: it does not say which activation its model uses; taken as {default}, the default of such a \
                 file; --activation (model.activation) says another"
            );
            Ok((*quick_gelu, Some(note)))
        }
        ([], []) => Err(Error::input(format!(
            "{}: the file does not say which activation its model uses, and a wrong guess costs accuracy without a \
             sign: give --activation (quick_gelu for OpenAI's, MetaCLIP's and DFN's weights, gelu for LAION's and \
             DataComp's; in a run the setting is model.activation)",
            path.display()
        ))),
    }
}

/// A model on a device, with memory for inference alone.
pub(crate) struct Pretrained {
    pub device: Box<dyn Device>,
    pub clip: Clip,
    pub similarities: Similarities,
    tokenizer: Tokenizer,
    /// Whether weights are not numbers and the user has let them pass: then embeddings need not be numbers either.
    not_finite: bool,
}

impl Pretrained {
    /// Loads `weights` as the model `spec`, for batches of `capacity`.
    pub(crate) fn open<B: Backend>(
        place: &B::Place,
        weights: &Weights,
        spec: &ModelSpec,
        capacity: Capacity,
    ) -> Result<Pretrained> {
        let mut plan = Plan::new::<B>();
        let clip = Clip::plan(&mut plan, spec, capacity, Purpose::Inference);
        let similarities = Similarities::plan(&mut plan, spec.embed_dim);
        let device = B::with_plan(place, &plan).map_err(|error| match capacity.images.max(capacity.texts) {
            batch if batch > 1 && error.reason() == Some(Error::NO_ROOM) => {
                Error::input(format!("{error}; a --batch below {batch} needs less"))
            }
            _ => Error::input(error.to_string()),
        })?;
        let mut device: Box<dyn Device> = Box::new(device);
        clip.load(&mut *device, &weights.values);
        let not_finite = weights.not_finite.is_some();
        Ok(Pretrained { device, clip, similarities, tokenizer: Tokenizer::clip(), not_finite })
    }

    /// L2-normalised embeddings `[count, D]` of the images that `load` yields for 0 to `count` - 1; threads ask for
    /// several at the same time. `progress` is told how many are done.
    pub(crate) fn embed_images(
        &mut self,
        count: usize,
        load: &(dyn Fn(usize) -> Result<RgbImage> + Sync),
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>> {
        let Pretrained { device, clip, not_finite, .. } = self;
        let (size, width) = (clip.spec.vision_cfg.image_size, clip.spec.embed_dim);
        let mut pixels = vec![0; clip.capacity.images.min(count) * transform::bytes(size)];
        let mut embeddings = Vec::with_capacity(count * width);
        for first in (0..count).step_by(clip.capacity.images) {
            let images = clip.capacity.images.min(count - first);
            let pixels = &mut pixels[..images * transform::bytes(size)];
            prepare(pixels, size, |image| load(first + image))?;
            device.write(clip.vision.pixels(), pixels);
            clip.vision.forward(&mut **device, images);
            let rows = device.read_vec(clip.vision.embeddings().first(images * width));
            device.health()?;
            if !*not_finite {
                check_finite(&rows, width, "image", first)?;
            }
            embeddings.extend(rows);
            progress(first + images);
        }
        Ok(embeddings)
    }

    /// The ids of each text. Fails when the model's vocabulary is not the tokenizer's.
    pub(crate) fn tokenize<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        let text = &self.clip.spec.text_cfg;
        if text.vocab_size <= Tokenizer::END as usize {
            let needed = Tokenizer::END + 1;
            return Err(Error::input(format!(
                "the model's vocab_size is {}; CLIP's tokenizer needs {needed}",
                text.vocab_size
            )));
        }
        Ok(texts.iter().map(|one| self.tokenizer.encode(one.as_ref(), text.context_length)).collect())
    }

    /// L2-normalised embeddings `[texts, D]`. `progress` is told how many are done.
    pub(crate) fn embed_texts<T: AsRef<str>>(
        &mut self,
        texts: &[T],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>> {
        let tokens = self.tokenize(texts)?;
        let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let Pretrained { device, clip, not_finite, .. } = self;
        let mut embeddings = Vec::with_capacity(tokens.len() * clip.spec.embed_dim);
        let mut done = 0;
        for tokens in tokens.chunks(clip.capacity.texts) {
            let rows = embed::embed_texts(&mut **device, clip, tokens);
            device.health()?;
            if !*not_finite {
                check_finite(&rows, clip.spec.embed_dim, "text", done)?;
            }
            embeddings.extend(rows);
            done += tokens.len();
            progress(done);
        }
        Ok(embeddings)
    }

    /// Embeddings `[classes, D]`: of each class the mean direction of its prompts.
    pub(crate) fn embed_classes(&mut self, classes: &[&str], templates: &Templates) -> Result<Vec<f32>> {
        let prompts: Vec<String> = classes.iter().flat_map(|class| templates.prompts(class)).collect();
        let tokens = self.tokenize(&prompts)?;
        let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let rows = class_embeddings(&mut *self.device, &self.clip, &tokens, classes.len());
        self.device.health()?;
        self.check(&rows, "class")?;
        Ok(rows)
    }

    /// L2-normalised embeddings of everything the loader yields, with the data set's index of each; a broken sample has none. `progress` is
    /// told how many are done.
    pub(crate) fn embed_batches(
        &mut self,
        loader: &mut Loader,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(Vec<u32>, Vec<f32>)> {
        let embedded = embed::embed_images(&mut *self.device, &self.clip, loader, progress)?;
        self.device.health()?;
        self.check(&embedded.1, "image")?;
        Ok(embedded)
    }

    fn check(&self, rows: &[f32], what: &str) -> Result<()> {
        if self.not_finite { Ok(()) } else { check_finite(rows, self.clip.spec.embed_dim, what, 0) }
    }
}

/// Fails unless all embeddings are numbers; `what` the rows are of, of which the first is number `first`, counted from 0.
fn check_finite(rows: &[f32], width: usize, what: &str, first: usize) -> Result<()> {
    match rows.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(place) => Err(Error::run(format!(
            "the embedding of {what} {} is not a number, though all weights are: they are too large, or not those of this \
             model",
            first + place / width + 1
        ))),
    }
}

/// The pixels that a model of `size` x `size` pixels sees of the images that `load` yields, [images, size, size, 3];
/// threads ask for several at the same time.
pub(crate) fn prepare(pixels: &mut [u8], size: usize, load: impl Fn(usize) -> Result<RgbImage> + Sync) -> Result<()> {
    let tried: Vec<Result<()>> = pixels
        .par_chunks_exact_mut(transform::bytes(size))
        .enumerate()
        .map(|(image, out)| transform::evaluation(&load(image)?, size, out))
        .collect();
    // The first error in order, whichever thread was first.
    tried.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::model::checkpoint::TensorFile;
    use crate::model::parameters::ParameterList;

    fn small() -> ModelSpec {
        ModelSpec::from_json(
            r#"{"embed_dim": 16, "quick_gelu": true,
                "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 16},
                "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1}}"#,
        )
        .unwrap()
    }

    #[test]
    fn our_own_files_say_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (spec, list) = (small(), ParameterList::of(&small()));
        checkpoint::save(&path, &spec, &list, &list.initial_values(0), &[]).unwrap();
        assert_eq!(find_spec(&path, None, None, Positions::AsStored).unwrap(), (spec.clone(), vec![]));
        let other = find_spec(&path, None, Some(Activation::Gelu), Positions::AsStored).unwrap();
        assert_eq!(other, (ModelSpec { quick_gelu: false, ..spec.clone() }, vec![]));
        let message = find_spec(&path, Some("emoji-tiny"), None, Positions::AsStored).unwrap_err().to_string();
        assert!(message.contains("is not --arch emoji-tiny"), "{message}");

        // Two that contradict one another are not heard, unless the user decides.
        let arch = folder.path().join("gelu.json");
        fs::write(&arch, ModelSpec { quick_gelu: false, ..spec.clone() }.to_json()).unwrap();
        let message = find_spec(&path, arch.to_str(), None, Positions::AsStored).unwrap_err().to_string();
        for part in ["model.safetensors says that the model's activation is quick_gelu", "gelu.json that it is gelu"] {
            assert!(message.contains(part), "{message}");
        }
        let decided = find_spec(&path, arch.to_str(), Some(Activation::QuickGelu), Positions::AsStored).unwrap();
        assert_eq!(decided, (spec, vec![]));
    }

    /// Writes weights that say nothing of their model.
    fn wordless(path: PathBuf) -> PathBuf {
        let mut file = TensorFile::new();
        file.insert_f32("logit_scale", &[1], vec![1.0]);
        file.save(&path).unwrap();
        path
    }

    #[test]
    fn nothing_is_guessed_of_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = wordless(folder.path().join("model.safetensors"));
        let find = |arch: Option<&str>, activation| find_spec(&path, arch, activation, Positions::AsStored);
        let message = find(None, Some(Activation::Gelu)).unwrap_err().to_string();
        assert!(message.contains("give --arch (ViT-B-32"), "{message}");
        let message = find(Some("ViT-B-16"), None).unwrap_err().to_string();
        assert!(message.contains("give --activation (quick_gelu for"), "{message}");
        assert!(find(Some("ViT-B-16"), Some(Activation::QuickGelu)).unwrap().0.quick_gelu);

        // open_clip's own file of a model may say it.
        let arch = folder.path().join("arch.json");
        fs::write(&arch, small().to_json()).unwrap();
        assert_eq!(find(arch.to_str(), None).unwrap(), (small(), vec![]));
    }

    /// A configuration that open_clip wrote means gelu where it says nothing: beside the weights and as `--arch` alike, and
    /// not in silence. Words go before a default.
    #[test]
    fn defaults_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = wordless(folder.path().join("open_clip_model.safetensors"));
        let config = |name: &str, spec: &ModelSpec| {
            let sizes = spec.to_json().replace(r#","quick_gelu":false"#, "");
            let path = folder.path().join(name);
            fs::write(&path, format!(r#"{{"model_cfg": {sizes}}}"#)).unwrap();
            path
        };
        let gelu = ModelSpec { quick_gelu: false, ..small() };
        let given = config("given.json", &gelu);
        let words = config("words.json", &small());
        let find = |arch: Option<&Path>, activation| {
            find_spec(&path, arch.and_then(Path::to_str), activation, Positions::AsStored).unwrap()
        };
        let (spec, note) = find(Some(&given), None);
        let note = note.join("\n");
        assert_eq!(spec, gelu);
        assert!(
            note.contains("given.json: it does not say which activation") && note.contains("taken as gelu"),
            "{note}"
        );
        config("open_clip_config.json", &gelu);
        let (spec, note) = find(None, None);
        assert_eq!(spec, gelu);
        assert!(note[0].contains("open_clip_config.json: it does not say which activation"));
        assert_eq!(find(None, Some(Activation::Gelu)), (gelu, vec![]));
        assert_eq!(find(None, Some(Activation::QuickGelu)), (small(), vec![]));
        assert_eq!(find(Some(&words), None), (small(), vec![]));
    }

    #[test]
    fn embeddings_that_are_no_numbers_are_refused() {
        check_finite(&[0.0, 1.0, -1.0, 0.5], 2, "text", 0).unwrap();
        let message = check_finite(&[0.0, 1.0, f32::NAN, 0.5], 2, "text", 64).unwrap_err().to_string();
        assert!(message.starts_with("the embedding of text 66 is not a number"), "{message}");
    }

    #[test]
    fn open_clip_finds_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let list = ParameterList::of(&small());
        checkpoint::export_open_clip(&folder.path().join("new"), &small(), &list, &list.initial_values(0)).unwrap();
        let text = fs::read_to_string(folder.path().join("new/open_clip_config.json")).unwrap();
        assert_eq!(ModelSpec::from_json(&text).unwrap(), small());
        assert!(text.contains("0.48145466,") && text.contains("0.26130258,"), "{text}");
    }
}
