//! A checkpoint opened for inference: which model it holds, and its embeddings of images and texts.

use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;

use super::embed;
use crate::data::tokenizer::Tokenizer;
use crate::data::transform;
use crate::error::{Error, Result};
use crate::model::checkpoint::{self, Positions};
use crate::model::clip::{Capacity, Clip};
use crate::model::spec::ModelSpec;
use crate::model::transformer::Purpose;
use crate::ops::linear::Activation;
use crate::ops::{Device, Plan};

/// The model that the checkpoint at `path` holds: what the file says of itself, or else `arch`, a bundled model or an
/// open_clip JSON file. `activation` goes before what the file says.
///
/// Weights of other programs do not say which activation they were trained with, and a wrong guess costs several points
/// silently; so it is an error of input where neither the file nor `activation` says it. An `arch` other than what the file
/// says is an error too, but for its `image_size` where positions are interpolated.
pub fn find_spec(
    path: &Path,
    arch: Option<&str>,
    activation: Option<Activation>,
    positions: Positions,
) -> Result<ModelSpec> {
    let stored = checkpoint::read_spec(path)?;
    let given = arch.map(ModelSpec::find).transpose()?;
    let quick_gelu = known_activation(path, stored.as_ref(), activation);
    let mut spec = match (stored, given) {
        (Some(stored), Some(given)) => {
            let mut comparable = ModelSpec { quick_gelu: stored.quick_gelu, ..given.clone() };
            if positions == Positions::Interpolated {
                comparable.vision_cfg.image_size = stored.vision_cfg.image_size;
            }
            if comparable != stored {
                return Err(Error::input(format!(
                    "{}: the file says that its model is {}, which is not --arch {}; leave --arch out",
                    path.display(),
                    stored.to_json(),
                    arch.unwrap_or_default()
                )));
            }
            given
        }
        (Some(spec), None) | (None, Some(spec)) => spec,
        (None, None) => {
            let names = ModelSpec::names().collect::<Vec<_>>().join(", ");
            return Err(Error::input(format!(
                "{}: the file does not say which model it holds: give --arch ({names}, or an open_clip JSON file)",
                path.display()
            )));
        }
    };
    spec.quick_gelu = quick_gelu?;
    Ok(spec)
}

/// Whether the model is used with QuickGELU: what the user says, or else the checkpoint's `stored` specification. It is
/// an error of input where neither says it.
pub fn known_activation(path: &Path, stored: Option<&ModelSpec>, given: Option<Activation>) -> Result<bool> {
    match (given, stored) {
        (Some(activation), _) => Ok(activation == Activation::QuickGelu),
        (None, Some(spec)) => Ok(spec.quick_gelu),
        (None, None) => Err(Error::input(format!(
            "{}: the file does not say which activation its model uses, and a wrong guess costs accuracy without a \
             sign: give --activation (quick_gelu for OpenAI's, MetaCLIP's and DFN's weights, gelu for LAION's and \
             DataComp's; in a run the setting is model.activation)",
            path.display()
        ))),
    }
}

/// A model on a device, with memory for inference alone.
pub struct Pretrained<D> {
    pub device: D,
    pub clip: Clip,
    tokenizer: Tokenizer,
}

impl<D: Device> Pretrained<D> {
    /// Loads the weights at `path` as the model `spec`, for batches of `capacity`. Returns also what the user should hear
    /// though the file can be used.
    pub fn open(
        place: &D::Place,
        path: &Path,
        spec: &ModelSpec,
        positions: Positions,
        capacity: Capacity,
    ) -> Result<(Pretrained<D>, Vec<String>)> {
        let weights = checkpoint::load_with(path, spec, positions)?;
        let mut plan = Plan::new::<D>();
        let clip = Clip::plan(&mut plan, spec, capacity, Purpose::Inference);
        let mut device = D::with_plan(place, &plan).map_err(|error| {
            Error::input(format!("{error}; a --batch below {} needs less", capacity.images.max(capacity.texts)))
        })?;
        clip.load(&mut device, &weights.values);
        Ok((Pretrained { device, clip, tokenizer: Tokenizer::clip() }, weights.notes))
    }

    /// L2-normalised embeddings `[count, D]` of the images that `load` yields for 0 to `count` - 1; threads ask for
    /// several at the same time. `progress` hears how many are done.
    pub fn embed_images(
        &mut self,
        count: usize,
        load: impl Fn(usize) -> Result<RgbImage> + Sync,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>> {
        let Pretrained { device, clip, .. } = self;
        let (size, width) = (clip.spec.vision_cfg.image_size, clip.spec.embed_dim);
        let mut pixels = vec![0; clip.capacity.images.min(count) * transform::bytes(size)];
        let mut embeddings = Vec::with_capacity(count * width);
        for first in (0..count).step_by(clip.capacity.images) {
            let images = clip.capacity.images.min(count - first);
            let pixels = &mut pixels[..images * transform::bytes(size)];
            prepare(pixels, size, |image| load(first + image))?;
            device.write(clip.vision.pixels(), pixels);
            clip.vision.forward(device, images);
            embeddings.extend(device.read_vec(clip.vision.embeddings().first(images * width)));
            device.health()?;
            progress(first + images);
        }
        Ok(embeddings)
    }

    /// The ids of each text. Fails when the model's vocabulary is not the tokenizer's.
    pub fn tokenize<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
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

    /// L2-normalised embeddings `[texts, D]`. `progress` hears how many are done.
    pub fn embed_texts<T: AsRef<str>>(&mut self, texts: &[T], progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        let tokens = self.tokenize(texts)?;
        let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let Pretrained { device, clip, .. } = self;
        let mut embeddings = Vec::with_capacity(tokens.len() * clip.spec.embed_dim);
        let mut done = 0;
        for tokens in tokens.chunks(clip.capacity.texts) {
            embeddings.extend(embed::embed_texts(device, clip, tokens));
            device.health()?;
            done += tokens.len();
            progress(done);
        }
        Ok(embeddings)
    }
}

/// The pixels that a model of `size` x `size` pixels sees of the images that `load` yields, [images, size, size, 3];
/// threads ask for several at the same time.
pub fn prepare(pixels: &mut [u8], size: usize, load: impl Fn(usize) -> Result<RgbImage> + Sync) -> Result<()> {
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
        assert_eq!(find_spec(&path, None, None, Positions::AsStored).unwrap(), spec);
        let other = find_spec(&path, None, Some(Activation::Gelu), Positions::AsStored).unwrap();
        assert_eq!(other, ModelSpec { quick_gelu: false, ..spec });
        let message = find_spec(&path, Some("emoji-tiny"), None, Positions::AsStored).unwrap_err().to_string();
        assert!(message.contains("is not --arch emoji-tiny"), "{message}");
    }

    #[test]
    fn nothing_is_guessed_of_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut file = TensorFile::new();
        file.insert_f32("logit_scale", &[1], vec![1.0]);
        file.save(&path).unwrap();
        let message = find_spec(&path, None, Some(Activation::Gelu), Positions::AsStored).unwrap_err().to_string();
        assert!(message.contains("give --arch (ViT-B-32"), "{message}");
        let message = find_spec(&path, Some("ViT-B-16"), None, Positions::AsStored).unwrap_err().to_string();
        assert!(message.contains("give --activation (quick_gelu for"), "{message}");
        assert!(
            find_spec(&path, Some("ViT-B-16"), Some(Activation::QuickGelu), Positions::AsStored).unwrap().quick_gelu
        );
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
