//! A checkpoint tested on samples of a data set: zero-shot classification, and retrieval by captions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Clip, Rows};
use crate::data::loader::{BatchRequest, Loader, LoaderOptions};
use crate::data::text::prompts::Templates;
use crate::data::{Dataset, Label};
use crate::error::{Error, Result};
use crate::eval::pretrained::Pretrained;
use crate::eval::retrieval::{Retrieval, retrieve};
use crate::eval::zero_shot::Classification;

/// Samples of a data set that a model is tested on. The methods' `progress` is told what is embedded, how many are done, and of how many.
#[derive(Clone, Debug)]
pub struct TestSet {
    /// Where the samples, their classes and captions are.
    pub dataset: Arc<Dataset>,
    /// Places in the data set.
    pub samples: Vec<u32>,
    /// Broken samples that are left out before it is an error.
    pub max_broken: usize,
}

impl TestSet {
    /// Zero-shot classification among all classes of the data set; and how many pictures there were. Every sample must have a class.
    pub fn classify(
        &self,
        clip: &mut Clip,
        templates: &Templates,
        progress: &mut dyn FnMut(&'static str, usize, usize),
    ) -> Result<(usize, Classification)> {
        let classes = clip.embed_classes(&self.dataset.classes, templates)?;
        let (pictures, images) = self.embed(clip, progress)?;
        let labels: Vec<Label> = pictures.iter().map(|sample| self.dataset.samples[*sample as usize].class).collect();
        let Pretrained { device, similarities, .. } = &mut clip.model;
        let found = Classification::of(&mut **device, similarities, &images.values, &classes.values, &labels);
        device.health()?;
        Ok((pictures.len(), found.expect("there is a picture")))
    }

    /// The captions of the samples, each once, in the order in which they are met.
    pub fn captions(&self) -> Vec<&str> {
        let mut known = HashSet::new();
        let captions = self.samples.iter().map(|sample| self.dataset.samples[*sample as usize].caption.as_str());
        captions.filter(|caption| known.insert(*caption)).collect()
    }

    /// Retrieval of pictures by captions and of captions by pictures; and how many of each there were. Every sample must have a caption.
    pub fn retrieve(
        &self,
        clip: &mut Clip,
        progress: &mut dyn FnMut(&'static str, usize, usize),
    ) -> Result<([usize; 2], Retrieval)> {
        let captions = self.captions();
        let column_of: HashMap<&str, u32> = captions.iter().copied().zip(0..).collect();
        // Of each picture, by its first sample, the places of its captions.
        let mut of_picture: HashMap<u32, Vec<u32>> = HashMap::new();
        for sample in &self.samples {
            let column = column_of[self.dataset.samples[*sample as usize].caption.as_str()];
            let own = of_picture.entry(self.dataset.first_of_picture(*sample)).or_default();
            if !own.contains(&column) {
                own.push(column);
            }
        }
        progress("texts", 0, captions.len());
        let texts = clip.embed_texts_with(&captions, &mut |done| progress("texts", done, captions.len()))?;
        let (pictures, images) = self.embed(clip, progress)?;
        let texts_of_image: Vec<Vec<u32>> = pictures.iter().map(|picture| of_picture[picture].clone()).collect();
        let Pretrained { device, similarities, .. } = &mut clip.model;
        let (_, found) =
            retrieve(&mut **device, similarities, &images.values, &texts.values, &texts_of_image, |_, _| ());
        device.health()?;
        Ok(([pictures.len(), captions.len()], found.expect("every picture has a caption")))
    }

    /// Embeddings of the samples' pictures, each once: the first sample of each picture, without the broken ones, and a row each.
    fn embed(&self, clip: &mut Clip, progress: &mut dyn FnMut(&'static str, usize, usize)) -> Result<(Vec<u32>, Rows)> {
        let mut known = HashSet::new();
        let firsts = self.samples.iter().map(|sample| self.dataset.first_of_picture(*sample));
        let pictures: Vec<u32> = firsts.filter(|picture| known.insert(*picture)).collect();
        let requests: Vec<BatchRequest> = (pictures.chunks(clip.capacity.images))
            .map(|samples| BatchRequest { samples: samples.to_vec(), augment: None })
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let options = LoaderOptions { threads, prefetch: 4, max_broken: self.max_broken };
        let size = clip.spec().vision_cfg.image_size;
        let mut loader = Loader::new(Arc::clone(&self.dataset), requests.into_iter(), size, options)?;
        let mut embedded = Vec::new();
        progress("images", 0, pictures.len());
        let rows = clip.rows(|model| {
            let (samples, values) =
                model.embed_batches(&mut loader, &mut |done| progress("images", done, pictures.len()))?;
            embedded = samples;
            Ok(values)
        })?;
        if embedded.is_empty() {
            return Err(Error::input(format!("every sample of {} is broken", self.dataset.name)));
        }
        Ok((embedded, rows))
    }
}
