//! Embeddings of images and texts, in batches of what a model is planned for.

use crate::data::loader::Loader;
use crate::error::Result;
use crate::model::clip::Clip;
use crate::ops::Device;

/// L2-normalised image embeddings `[images, D]` of everything the loader yields, with the data set's index of each. `progress`
/// is told how many are done.
pub(crate) fn embed_images(
    device: &mut dyn Device,
    clip: &Clip,
    loader: &mut Loader,
    progress: &mut dyn FnMut(usize),
) -> Result<(Vec<u32>, Vec<f32>)> {
    let width = clip.spec.embed_dim;
    let (mut samples, mut embeddings) = (Vec::new(), Vec::new());
    while let Some(batch) = loader.next() {
        let batch = batch?;
        let count = batch.samples.len();
        if count > 0 {
            device.write(clip.vision.pixels(), &batch.pixels);
            clip.vision.forward(device, count);
            embeddings.extend(device.read_vec(clip.vision.embeddings().first(count * width)));
            samples.extend_from_slice(&batch.samples);
        }
        loader.recycle(batch);
        progress(samples.len());
    }
    Ok((samples, embeddings))
}

/// L2-normalised text embeddings `[texts, D]`, each text given as token ids from its start to its end.
pub(crate) fn embed_texts(device: &mut dyn Device, clip: &Clip, texts: &[&[u32]]) -> Vec<f32> {
    let width = clip.spec.embed_dim;
    let mut embeddings = Vec::with_capacity(texts.len() * width);
    for texts in texts.chunks(clip.capacity.texts) {
        let tokens = clip.text.load(device, texts);
        clip.text.forward(device, texts.len(), tokens);
        embeddings.extend(device.read_vec(clip.text.embeddings().first(texts.len() * width)));
    }
    embeddings
}
