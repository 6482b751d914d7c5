//! Images with captions, classes, domains and years: from files to batches.
//!
//! | place | job |
//! |---|---|
//! | `mod.rs` | what every format yields |
//! | `formats/` | how data lie in files: a file for each format, and the table of them |
//! | `images/` | from a picture's file to the model's pixels |
//! | `text/` | from captions and names of classes to token ids |
//! | `broken.rs` | samples that cannot be used: which, how many, and why |
//! | `loader.rs` | batches ahead of time, in an order that no thread can change |

pub mod broken;
pub mod formats;
pub mod images;
pub mod loader;
pub mod text;

pub(crate) use formats::names;
pub use formats::{Source, open};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::TransparentWrapper;
use image::RgbImage;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use broken::Broken;

/// What a sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Split {
    /// A model may learn from it.
    Train,
    /// A model is only tested on it.
    Test,
}

/// A class by its number in the data set's own order: the index into [`Dataset::classes`]. A stream brings the classes in another order,
/// whose numbers are [`crate::stream::ClassId`]s; [`crate::stream::Stream::class_id`] and [`crate::stream::Stream::label`] translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Label(pub u32);

// SAFETY: it is represented as its number is.
unsafe impl TransparentWrapper<u32> for Label {}

impl Label {
    /// Of the first `count` classes, in order.
    pub fn first(count: usize) -> impl Iterator<Item = Label> {
        (0..count as u32).map(Label)
    }

    /// Its place in what has an entry for every class of the data set.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// What files and a device's memory hold of them.
    pub fn numbers(of: &[Label]) -> &[u32] {
        Label::peel_slice(of)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One image and what is known of it. The picture itself comes from [`Dataset::image`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The same in every run, and its own within the data set: it keys the moving averages and the random crops.
    pub id: u64,
    /// Empty where the data set has no captions.
    pub caption: String,
    /// What it shows, of [`Dataset::classes`].
    pub class: Label,
    /// Index into [`Dataset::domains`].
    pub domain: u32,
    /// The year in which it appeared; 0 where the data set does not say.
    pub time: i32,
    /// What it is for.
    pub split: Split,
}

/// Where a data set's pictures come from. Loader threads ask at the same time.
pub(crate) trait Images: Send + Sync {
    /// The picture of the sample at index `sample` of [`Dataset::samples`]. An error means that this sample is broken.
    fn load(&self, sample: usize) -> Result<RgbImage>;

    /// The same as it is stored, with the width and the height of the picture that it was squeezed from.
    fn load_stored(&self, sample: usize) -> Result<(RgbImage, (u32, u32))> {
        let image = self.load(sample)?;
        let shape = image.dimensions();
        Ok((image, shape))
    }

    /// What its user finds the sample by: its file, or its place in one.
    fn name(&self, sample: usize) -> String {
        format!("sample {sample} (from 0)")
    }
}

/// What every format yields. A sample's index is its place in `samples`; `u32` holds it everywhere.
pub struct Dataset {
    /// The format's: `csv`, `cifar100`.
    pub name: String,
    /// Readable names with spaces, as prompts want them, in the data set's own order. A data set without classes has a
    /// single one without a name.
    pub classes: Vec<String>,
    /// What the data set itself calls its classes: the names of folders, labels. The readable names where it has no others.
    pub class_keys: Vec<String>,
    /// In the order of their first sample. A data set without domains has a single one of the format's name.
    pub domains: Vec<String>,
    /// All of them, of both splits, in the order in which the format has them.
    pub samples: Vec<Sample>,
    /// SHA-256 in hexadecimal of all that the data set was read from. Of picture files, names and sizes.
    pub fingerprint: String,
    images: Box<dyn Images>,
    /// Whether a sample has a class, by sample; empty where all have, or none.
    labelled: Vec<bool>,
    /// The first sample of the same picture, by sample; empty where every sample has a picture of its own.
    first_of_picture: Vec<u32>,
    /// What the format passed over, merged, or read in another way than its files say, a sentence each, with counts and names.
    /// `eval`, `doctor` and a run's manifest show them.
    pub notes: Vec<String>,
    /// What the format has left out of `samples`.
    skipped: Broken,
    /// The samples whose picture could not be loaded so far, and why.
    unloadable: Mutex<BTreeMap<u32, Error>>,
}

impl Dataset {
    /// Puts together what a format has read. Panics when a sample's class or domain does not exist: a bug of the
    /// format.
    pub(crate) fn new(
        name: impl Into<String>,
        classes: Vec<String>,
        domains: Vec<String>,
        samples: Vec<Sample>,
        fingerprint: String,
        images: Box<dyn Images>,
    ) -> Dataset {
        for sample in &samples {
            assert!(sample.class.index() < classes.len(), "sample {}: no class {}", sample.id, sample.class);
            assert!((sample.domain as usize) < domains.len(), "sample {}: no domain {}", sample.id, sample.domain);
        }
        Dataset {
            name: name.into(),
            class_keys: classes.clone(),
            classes,
            domains,
            samples,
            fingerprint,
            images,
            labelled: Vec::new(),
            first_of_picture: Vec::new(),
            notes: Vec::new(),
            skipped: Broken::default(),
            unloadable: Mutex::default(),
        }
    }

    /// Gives the data set's own names of its classes, one for each.
    pub(crate) fn with_class_keys(self, class_keys: Vec<String>) -> Dataset {
        assert_eq!(class_keys.len(), self.classes.len(), "a key for each class");
        Dataset { class_keys, ..self }
    }

    /// Says which samples share a picture: the index of the picture's first sample for each.
    pub(crate) fn with_shared_pictures(self, first_of_picture: Vec<u32>) -> Dataset {
        assert_eq!(first_of_picture.len(), self.samples.len(), "a first sample for each");
        Dataset { first_of_picture, ..self }
    }

    /// Says which samples have a class, where some have and others have none: `class` means nothing in those.
    pub(crate) fn with_labelled(self, labelled: Vec<bool>) -> Dataset {
        assert_eq!(labelled.len(), self.samples.len(), "a word for each");
        Dataset { labelled, ..self }
    }

    /// Says what the format passed over, merged or read in another way: see [`Dataset::notes`].
    pub(crate) fn with_notes(self, notes: Vec<String>) -> Dataset {
        Dataset { notes, ..self }
    }

    /// Says what the format has left out of `samples`, and why.
    pub(crate) fn with_skipped(self, broken: Broken) -> Dataset {
        Dataset { skipped: broken, ..self }
    }

    /// The first sample that has the same picture as this one; mostly itself.
    pub fn first_of_picture(&self, sample: u32) -> u32 {
        self.first_of_picture.get(sample as usize).copied().unwrap_or(sample)
    }

    /// Whether the data set tells its samples' classes.
    pub(crate) fn has_classes(&self) -> bool {
        self.classes.len() != 1 || !self.classes[0].is_empty()
    }

    /// Whether the data set tells this sample's class.
    pub(crate) fn is_labelled(&self, sample: u32) -> bool {
        self.has_classes() && self.labelled.get(sample as usize).copied().unwrap_or(true)
    }

    /// The picture of the sample at `index`, in its own size. An error names the sample and its cause: the sample is
    /// broken, or there is none of that index.
    pub fn image(&self, index: usize) -> Result<RgbImage> {
        self.with_sample(index, || self.images.load(index))
    }

    /// The same as it is stored, and the width and the height of the picture that it was squeezed from: what
    /// [`images::transform::evaluation_of`] and [`images::transform::training_of`] want.
    pub fn stored_image(&self, index: usize) -> Result<(RgbImage, (u32, u32))> {
        self.with_sample(index, || self.images.load_stored(index))
    }

    fn with_sample<T>(&self, index: usize, load: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(sample) = self.samples.get(index) else {
            return Err(Error::input(format!("{} has {} samples, none at {index}", self.name, self.samples.len())));
        };
        load().map_err(|error| error.at(format!("sample {index} (id {})", sample.id)))
    }

    /// All that is known to be broken so far: what the format has left out, and the samples whose picture could not be loaded, in
    /// the order of the samples, whenever they were met.
    pub fn broken(&self) -> Broken {
        let mut broken = self.skipped.clone();
        for error in self.unloadable().values() {
            broken.add(error.reason().unwrap_or(broken::UNREADABLE), error.to_string());
        }
        broken
    }

    /// The samples whose picture could not be loaded so far, ascending.
    pub(crate) fn broken_samples(&self) -> Vec<u32> {
        self.unloadable().keys().copied().collect()
    }

    /// Counts samples as broken, each once. Fails when more are than `most` allows (the setting `data.max_broken`).
    pub(crate) fn count_broken(&self, broken: impl IntoIterator<Item = (u32, Error)>, most: usize) -> Result<()> {
        let mut known = self.unloadable();
        for (sample, error) in broken {
            known.entry(sample).or_insert(error);
        }
        let count = self.skipped.count() + known.len();
        drop(known);
        if count > most { self.broken().check(&self.name, most) } else { Ok(()) }
    }

    fn unloadable(&self) -> MutexGuard<'_, BTreeMap<u32, Error>> {
        // Nothing panics under the lock.
        self.unloadable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dataset { name, classes, domains, samples, .. } = self;
        write!(f, "{name}: {} samples, {} classes, {} domains", samples.len(), classes.len(), domains.len())
    }
}

/// A number that stands for a sample in every run, made of what its data set calls it: 64 bits of its SHA-256. Of a million
/// samples two share theirs once in forty million data sets.
pub(crate) fn id_of(parts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    u64::from_le_bytes(hash.finalize()[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

/// SHA-256, in hexadecimal, of named pieces of bytes: no two different lists of pieces have the same.
pub(crate) fn fingerprint<'a>(pieces: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in pieces {
        for part in [name.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_tells_pieces_apart() {
        let known = fingerprint([("a", b"bc".as_slice())]);
        assert_eq!(known.len(), 64);
        assert_ne!(known, fingerprint([("ab", b"c".as_slice())]));
        assert_ne!(known, fingerprint([("a", b"b".as_slice()), ("", b"c".as_slice())]));
    }
}
