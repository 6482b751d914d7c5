//! How data lie in files. Each format is a file of its own and a row of the table below; the settings that it alone has lie beside what
//! reads them.
//!
//! | file | job |
//! |---|---|
//! | `emoji.rs` | the bundled data set and folders of its layout |
//! | `folder.rs` | a folder of pictures for each class |
//! | `cifar.rs` | the files of CIFAR-10 and CIFAR-100 |
//! | `domainnet.rs` | DomainNet's lists |
//! | `csv.rs` | a table with a line for each sample |
//! | `rows.rs` | the rows and cells of a table |
//! | `webdataset/` | tar shards |
//! | `packed.rs` | pixels in one file |
//! | `files.rs` | pictures in files of their own |
//! | `time.rs` | from a date or a timestamp to a year |
//! | `index.rs` | indexes of data sets that are slow to list, kept |

pub(crate) mod cifar;
pub mod csv;
pub(crate) mod domainnet;
pub mod emoji;
pub(in crate::data) mod files;
pub mod folder;
pub(crate) mod index;
pub mod packed;
mod rows;
pub mod time;
pub mod webdataset;

use std::path::{Path, PathBuf};

use super::Dataset;
use super::text::class_names;
use crate::error::{Error, Result, unknown};
use csv::CsvSettings;
use folder::SplitSettings;
use webdataset::WebDatasetSettings;

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
    pub(crate) fn folder(&self) -> Result<&Path> {
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
pub(crate) fn names() -> impl Iterator<Item = &'static str> + Clone {
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

#[cfg(test)]
mod tests {
    use super::super::{Label, Sample, Split};
    use super::*;

    #[test]
    fn unknown_data_set_names_the_nearest() {
        let message = open(&Source::new("emojy", None)).unwrap_err().to_string();
        assert!(message.contains("'emojy'") && message.contains("did you mean 'emoji'"), "{message}");
    }

    #[test]
    fn samples_of_one_id_are_both_named() {
        let sample =
            |id| Sample { id, caption: String::new(), class: Label(0), domain: 0, time: 0, split: Split::Train };
        let dataset = |ids: [u64; 4]| {
            let paths = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"].map(Box::from).to_vec();
            let images = files::PictureFiles { folder: PathBuf::new(), paths };
            let name = || vec!["one".to_string()];
            let samples = ids.into_iter().map(sample).collect();
            Dataset::new("folder", name(), name(), samples, String::new(), Box::new(images))
        };
        check_ids(&dataset([4, 3, 2, 1])).unwrap();
        let message = check_ids(&dataset([9, 5, 7, 5])).unwrap_err().to_string();
        assert_eq!(message, "folder: a/2.jpg and b/2.jpg have the same id, 5; each sample must have its own");
    }
}
