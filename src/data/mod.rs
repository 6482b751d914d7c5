//! Images with captions, classes, domains and years: formats, transforms, prompts, tokens and the loader.
//!
//! | file | job |
//! |---|---|
//! | `mod.rs` | what every format yields, and the table of formats |
//! | `emoji.rs` | the bundled data set and folders of its layout |
//! | `folder.rs` | a folder of pictures for each class |
//! | `cifar.rs` | the binary files of CIFAR-10 and CIFAR-100 |
//! | `domainnet.rs` | DomainNet's lists |
//! | `webdataset/` | tar shards |
//! | `braces.rs` | names of shards with ranges and lists in braces |
//! | `packed.rs` | pixels in one file |
//! | `csv.rs` | a table with a line for each sample |
//! | `rows.rs` | the rows and cells of a table |
//! | `class_names.rs` | from a data set's own names of classes to readable ones |
//! | `time.rs` | from a date or a timestamp to a year |
//! | `index.rs` | indexes of data sets that are slow to list, kept |
//! | `broken.rs` | samples that cannot be used: which, how many, and why |
//! | `picture.rs` | from a picture file to RGB, as Pillow |
//! | `resample.rs` | Pillow's resize, value for value |
//! | `transform.rs` | from a picture to the model's pixels |
//! | `clean.rs` | what becomes of a text before it is cut into tokens |
//! | `tokenizer.rs` | from a text to token ids |
//! | `prompts.rs` | from a class name to the texts that stand for it |
//! | `loader.rs` | batches ahead of time, in an order that no thread can change |

mod braces;
pub mod broken;
pub mod cifar;
pub mod class_names;
mod clean;
pub mod csv;
pub mod domainnet;
pub mod emoji;
pub mod folder;
pub mod index;
pub mod loader;
pub mod packed;
pub mod picture;
pub mod prompts;
mod resample;
mod rows;
pub mod time;
pub mod tokenizer;
pub mod transform;
pub mod webdataset;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::RgbImage;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, unknown};
use broken::Broken;
use csv::CsvSettings;
use folder::SplitSettings;
use webdataset::WebDatasetSettings;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Split {
    Train,
    Test,
}

/// One image and what is known of it. The picture itself comes from [`Dataset::image`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The same in every run, and its own within the data set: it keys the moving averages and the random crops.
    pub id: u64,
    /// Empty where the data set has no captions.
    pub caption: String,
    /// Index into [`Dataset::classes`].
    pub class: u32,
    /// Index into [`Dataset::domains`].
    pub domain: u32,
    /// The year in which it appeared; 0 where the data set does not say.
    pub time: i32,
    pub split: Split,
}

/// Where a data set's pictures come from. Loader threads ask at the same time.
pub trait Images: Send + Sync {
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
    pub name: String,
    /// Readable names with spaces, as prompts want them, in the data set's own order. A data set without classes has a
    /// single one without a name.
    pub classes: Vec<String>,
    /// What the data set itself calls its classes: the names of folders, labels. The readable names where it has no others.
    pub class_keys: Vec<String>,
    /// In the order of their first sample. A data set without domains has a single one of the format's name.
    pub domains: Vec<String>,
    pub samples: Vec<Sample>,
    /// SHA-256 in hexadecimal of all that the data set was read from. Of picture files, names and sizes.
    pub fingerprint: String,
    images: Box<dyn Images>,
    /// Whether a sample has a class, by sample; empty where all have, or none.
    labelled: Vec<bool>,
    /// The first sample of the same picture, by sample; empty where every sample has a picture of its own.
    first_of_picture: Vec<u32>,
    /// What the format passed over, merged, or read in another way than its files say, a sentence each, with counts and names: nobody
    /// need look for it. `eval`, `doctor` and a run's manifest tell it.
    pub notes: Vec<String>,
    /// What the format has left out of `samples`.
    skipped: Broken,
    /// The samples whose picture could not be loaded so far, and why.
    unloadable: Mutex<BTreeMap<u32, Error>>,
}

impl Dataset {
    /// Puts together what a format has read. Panics when a sample's class or domain does not exist: a bug of the
    /// format.
    pub fn new(
        name: impl Into<String>,
        classes: Vec<String>,
        domains: Vec<String>,
        samples: Vec<Sample>,
        fingerprint: String,
        images: Box<dyn Images>,
    ) -> Dataset {
        for sample in &samples {
            assert!((sample.class as usize) < classes.len(), "sample {}: no class {}", sample.id, sample.class);
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
    pub fn with_class_keys(self, class_keys: Vec<String>) -> Dataset {
        assert_eq!(class_keys.len(), self.classes.len(), "a key for each class");
        Dataset { class_keys, ..self }
    }

    /// Says which samples share a picture: the index of the picture's first sample for each.
    pub fn with_shared_pictures(self, first_of_picture: Vec<u32>) -> Dataset {
        assert_eq!(first_of_picture.len(), self.samples.len(), "a first sample for each");
        Dataset { first_of_picture, ..self }
    }

    /// Says which samples have a class, where some have and others have none: `class` means nothing in those.
    pub fn with_labelled(self, labelled: Vec<bool>) -> Dataset {
        assert_eq!(labelled.len(), self.samples.len(), "a word for each");
        Dataset { labelled, ..self }
    }

    /// Says what the format passed over, merged or read in another way: see [`Dataset::notes`].
    pub fn with_notes(self, notes: Vec<String>) -> Dataset {
        Dataset { notes, ..self }
    }

    /// Says what the format has left out of `samples`, and why.
    pub fn with_skipped(self, broken: Broken) -> Dataset {
        Dataset { skipped: broken, ..self }
    }

    /// The first sample that has the same picture as this one; mostly itself.
    pub fn first_of_picture(&self, sample: u32) -> u32 {
        self.first_of_picture.get(sample as usize).copied().unwrap_or(sample)
    }

    /// Whether the data set tells its samples' classes.
    pub fn has_classes(&self) -> bool {
        self.classes.len() != 1 || !self.classes[0].is_empty()
    }

    /// Whether the data set tells this sample's class.
    pub fn is_labelled(&self, sample: u32) -> bool {
        self.has_classes() && self.labelled.get(sample as usize).copied().unwrap_or(true)
    }

    /// The picture of the sample at `index`, in its own size. An error names the sample and its cause: the sample is
    /// broken, or there is none of that index.
    pub fn image(&self, index: usize) -> Result<RgbImage> {
        self.with_sample(index, || self.images.load(index))
    }

    /// The same as it is stored, and the width and the height of the picture that it was squeezed from: what
    /// [`transform::evaluation_of`] and [`transform::training_of`] want.
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
    pub fn broken_samples(&self) -> Vec<u32> {
        self.unloadable().keys().copied().collect()
    }

    /// Counts samples as broken, each once. Fails when more are than `most` allows (the setting `data.max_broken`).
    pub fn count_broken(&self, broken: impl IntoIterator<Item = (u32, Error)>, most: usize) -> Result<()> {
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

/// Where a data set lies, and how it is read: what [`open`] wants to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// A format by its name: `emoji`, `folder`, `csv`, ...
    pub name: String,
    /// Where its files are; `None` for a data set that comes with the program.
    pub folder: Option<PathBuf>,
    /// Readable names of the classes: a bundled list or a file, see [`class_names`]. Empty for the data set's own names, their
    /// underscores as spaces.
    pub class_names: String,
    /// Which folders hold the splits; the format `folder` alone looks here.
    pub splits: SplitSettings,
    /// What the columns of a table are; the format `csv` alone looks here.
    pub csv: CsvSettings,
    /// Which shards there are; the format `webdataset` alone looks here.
    pub webdataset: WebDatasetSettings,
}

impl Source {
    /// A data set of a format with its usual settings.
    pub fn new(name: &str, folder: Option<&Path>) -> Source {
        Source { name: name.to_string(), folder: folder.map(Path::to_path_buf), ..Source::default() }
    }

    /// The folder. Fails where none is given, or where it is none: a format that does not come with the program needs one.
    pub fn folder(&self) -> Result<&Path> {
        let Some(folder) = &self.folder else {
            return Err(Error::input(format!(
                "the data set '{}' does not come with the program: say where its folder is (data.folder, or --folder)",
                self.name
            )));
        };
        match std::fs::metadata(folder) {
            Ok(data) if data.is_dir() => Ok(folder),
            Ok(_) => Err(Error::input(format!("{} is no folder; '{}' is read from one", folder.display(), self.name))),
            Err(cause) => Err(Error::reading(folder, cause)),
        }
    }
}

/// A data format: the name users give, and how it is opened.
struct Format {
    name: &'static str,
    open: fn(&Source) -> Result<Dataset>,
}

/// All formats. A new one is a file of its own and a row here.
const FORMATS: [Format; 8] = [
    Format { name: "emoji", open: |source| emoji::open(source.folder.as_deref()) },
    Format { name: "folder", open: folder::open },
    Format { name: "cifar10", open: cifar::open_10 },
    Format { name: "cifar100", open: cifar::open_100 },
    Format { name: "domainnet", open: domainnet::open },
    Format { name: "csv", open: csv::open },
    Format { name: "webdataset", open: webdataset::open },
    Format { name: "packed", open: packed::open },
];

/// The names that [`open`] knows.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    FORMATS.iter().map(|format| format.name)
}

/// Opens a data set. Fails when its format is not known, or when its files cannot be read or are not what the format says.
pub fn open(source: &Source) -> Result<Dataset> {
    let Some(format) = FORMATS.iter().find(|format| format.name == source.name) else {
        return Err(unknown("data set", &source.name, names()));
    };
    let mut dataset = (format.open)(source)?;
    let of_names = class_names::notes(&source.class_names, &dataset)?;
    dataset.notes.extend(of_names);
    check_ids(&dataset)?;
    if dataset.samples.len() > u32::MAX as usize {
        return Err(Error::input(format!(
            "{} has {} samples; 2^32 - 1 are the most",
            source.name,
            dataset.samples.len()
        )));
    }
    Ok(dataset)
}

/// Fails when two samples have the same id, naming both.
fn check_ids(dataset: &Dataset) -> Result<()> {
    let mut ids: Vec<(u64, usize)> = dataset.samples.iter().map(|sample| sample.id).zip(0..).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => {
            let [first, second] = [pair[0].1, pair[1].1].map(|sample| dataset.images.name(sample));
            Err(Error::input(format!(
                "{}: {first} and {second} have the same id, {}; each sample must have its own",
                dataset.name, pair[0].0
            )))
        }
        None => Ok(()),
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
    fn unknown_data_set_names_the_nearest() {
        let message = open(&Source::new("emojy", None)).unwrap_err().to_string();
        assert!(message.contains("'emojy'") && message.contains("did you mean 'emoji'"), "{message}");
    }

    #[test]
    fn samples_of_one_id_are_both_named() {
        let sample = |id| Sample { id, caption: String::new(), class: 0, domain: 0, time: 0, split: Split::Train };
        let dataset = |ids: [u64; 4]| {
            let paths = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"].map(Box::from).to_vec();
            let images = folder::PictureFiles { folder: PathBuf::new(), paths };
            let name = || vec!["one".to_string()];
            let samples = ids.into_iter().map(sample).collect();
            Dataset::new("folder", name(), name(), samples, String::new(), Box::new(images))
        };
        check_ids(&dataset([4, 3, 2, 1])).unwrap();
        let message = check_ids(&dataset([9, 5, 7, 5])).unwrap_err().to_string();
        assert_eq!(message, "folder: a/2.jpg and b/2.jpg have the same id, 5; each sample must have its own");
    }

    #[test]
    fn fingerprint_tells_pieces_apart() {
        let known = fingerprint([("a", b"bc".as_slice())]);
        assert_eq!(known.len(), 64);
        assert_ne!(known, fingerprint([("ab", b"c".as_slice())]));
        assert_ne!(known, fingerprint([("a", b"b".as_slice()), ("", b"c".as_slice())]));
    }
}
