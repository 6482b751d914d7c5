//! Images with captions, classes, domains and years: formats, transforms, prompts, tokens and the loader.
//!
//! | file | job |
//! |---|---|
//! | `mod.rs` | what every format yields, and the table of formats |
//! | `emoji.rs` | the bundled data set and folders of its layout |
//! | `picture.rs` | from a picture file to RGB, as Pillow |
//! | `transform.rs` | from a picture to the model's pixels |
//! | `clean.rs` | what becomes of a text before it is cut into tokens |
//! | `tokenizer.rs` | from a text to token ids |
//! | `prompts.rs` | from a class name to the texts that stand for it |
//! | `loader.rs` | batches ahead of time, in an order that no thread can change |

mod clean;
pub mod emoji;
pub mod loader;
pub mod picture;
pub mod prompts;
pub mod tokenizer;
pub mod transform;

use std::fmt;
use std::path::Path;

use image::RgbImage;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, unknown};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    Train,
    Test,
}

/// One image and what is known of it. The picture itself comes from [`Dataset::image`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The same in every run, and its own within the data set: it keys the moving averages and the random crops.
    pub id: u64,
    pub caption: String,
    /// Index into [`Dataset::classes`].
    pub class: u32,
    /// Index into [`Dataset::domains`].
    pub domain: u32,
    /// The year in which it appeared.
    pub time: i32,
    pub split: Split,
}

/// Where a data set's pictures come from. Loader threads ask at the same time.
pub trait Images: Send + Sync {
    /// The picture of the sample at index `sample` of [`Dataset::samples`]. An error means that this sample is broken.
    fn load(&self, sample: usize) -> Result<RgbImage>;
}

/// What every format yields. A sample's index is its place in `samples`; `u32` holds it everywhere.
pub struct Dataset {
    pub name: String,
    /// Readable names with spaces, as prompts want them; sorted.
    pub classes: Vec<String>,
    /// In the order of their first sample.
    pub domains: Vec<String>,
    pub samples: Vec<Sample>,
    /// SHA-256 in hexadecimal of all that the data set was read from.
    pub fingerprint: String,
    images: Box<dyn Images>,
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
        Dataset { name: name.into(), classes, domains, samples, fingerprint, images }
    }

    /// The picture of the sample at `index`, in its own size. An error names the sample and its cause: the sample is
    /// broken, or there is none of that index.
    pub fn image(&self, index: usize) -> Result<RgbImage> {
        let Some(sample) = self.samples.get(index) else {
            return Err(Error::input(format!("{} has {} samples, none at {index}", self.name, self.samples.len())));
        };
        self.images.load(index).map_err(|error| error.at(format!("sample {index} (id {})", sample.id)))
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dataset { name, classes, domains, samples, .. } = self;
        write!(f, "{name}: {} samples, {} classes, {} domains", samples.len(), classes.len(), domains.len())
    }
}

/// A data format: the name users give, and how it is opened from a folder, or as it comes with the program (`None`).
struct Format {
    name: &'static str,
    open: fn(Option<&Path>) -> Result<Dataset>,
}

/// All formats. A new one is a file of its own and a row here.
const FORMATS: [Format; 1] = [Format { name: "emoji", open: emoji::open }];

/// The names that [`open`] knows.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    FORMATS.iter().map(|format| format.name)
}

/// Opens the data set `name` from `folder`, or the one that comes with the program. Fails when the name is not known,
/// or when its files cannot be read or are not what the format says.
pub fn open(name: &str, folder: Option<&Path>) -> Result<Dataset> {
    match FORMATS.iter().find(|format| format.name == name) {
        Some(format) => (format.open)(folder),
        None => Err(unknown("data set", name, names())),
    }
}

/// SHA-256, in hexadecimal, of named pieces of bytes: no two different lists of pieces have the same.
fn fingerprint<'a>(pieces: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
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
        let message = open("emojy", None).unwrap_err().to_string();
        assert!(message.contains("'emojy'") && message.contains("did you mean 'emoji'"), "{message}");
    }

    #[test]
    fn fingerprint_tells_pieces_apart() {
        let known = fingerprint([("a", b"bc".as_slice())]);
        assert_eq!(known.len(), 64);
        assert_ne!(known, fingerprint([("ab", b"c".as_slice())]));
        assert_ne!(known, fingerprint([("a", b"b".as_slice()), ("", b"c".as_slice())]));
    }
}
