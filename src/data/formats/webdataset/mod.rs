//! WebDataset: tar shards in which the members of a sample share a key.
//!
//! `key.jpg` (or another picture's ending) is the picture, `key.txt` its caption, `key.cls` its class, `key.json` what else is known:
//! the caption where there is no `key.txt`, its UID, and under the keys that the settings name the time and the domain. The key is a
//! member's path up to the first dot of its name; members of other endings are passed over, and told.
//!
//! One pass over the headers makes an index of all shards (`index.rs` keeps it); pictures are then read where they stand, so the
//! order of samples is the loader's, and no shard has to be shuffled. Members of one key need not stand side by side: WebDataset's
//! own reader takes those for two samples, here they are one.
//!
//! | file | job |
//! |---|---|
//! | `braces.rs` | names of shards with ranges and lists in braces |
//! | `sources.rs` | from the settings' lists to files |
//! | `pipe.rs` | copies of what commands print |
//! | `foreign.rs` | what lies in the place of a shard and is none |
//! | `shard.rs` | one shard: its members, and the samples that they make |
//! | `json.rs` | `key.json` as Python writes it |
//! | `times.rs` | where a sample's time comes from |
//! | `uids.rs` | sorted lists of UIDs |
//! | `captions.rs` | one caption of several lines, or several captions |
//! | `assemble.rs` | from shards to a data set |
//!
//! What a shard holds that cannot be used is counted by its reason:
//!
//! | reason | what |
//! |---|---|
//! | `truncated` | the shard ends within a member, without the empty block that ends a tar file, or in more zeros than padding is |
//! | `unreadable` | bytes that are no member's header, or that follow the empty block of an end: the rest of the shard is not read; a link to what is not there |
//! | `empty file` | a shard without a member |
//! | `duplicate` | a second member of a key and an ending in one shard; the first one counts |
//! | `missing image` | a caption, a class or a `json` without a picture |
//! | `missing caption`, `missing class` | a picture without one, where other samples of its list have one |
//! | `missing time`, `missing domain` | nothing that can be used where the settings look for it |
//! | `in no list` | a UID that no list of UIDs has |
//! | `undecodable` | a text that is no UTF-8, a class that is no number where most are; a `json` that is none, where something is wanted of it |
//! | `too large` | a picture file beyond 256 MiB, a text beyond 1 MiB |

mod assemble;
mod braces;
mod captions;
mod foreign;
mod json;
mod pipe;
mod shard;
mod sources;
#[cfg(test)]
mod tests;
mod times;
mod uids;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Source;
use super::index::{self, Stamp};
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
pub use captions::Captions;
use pipe::Copies;
use shard::Shard;
use sources::{ShardFile, shards};
use times::Times;

/// Which shards there are, and what their `key.json` tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebDatasetSettings {
    /// Shards of training samples: paths relative to the data set's folder, with brace ranges (`{00000..00012}`), lists in braces
    /// (`{a,b}`) and globs; `::` parts several, as in open_clip. `pipe:COMMAND` is what a command prints.
    pub train: Vec<String>,
    /// Shards of test samples, likewise.
    pub test: Vec<String>,
    /// Sets of tests with a name, which is their domain: `retrieval=eval/retrieval/*/*.tar`.
    pub tests: Vec<String>,
    /// The key of `key.json` that tells a sample's time: a year, a date that begins with one, or seconds since 1970; empty for
    /// none.
    pub time: String,
    /// Where times come from: `json`, `path` (of the shard) or `uids`; empty for what the other settings name.
    pub time_from: String,
    /// Paths of shards with a place for the year: `train/{year}/*.tar`, `{yyyymm}/*.tar`, `old/*.tar=2014`; `::` parts several.
    pub time_pattern: String,
    /// Sorted lists of UIDs with the year in their name, relative to the folder: `{year}.npy`; `::` parts several.
    pub time_uids: String,
    /// The key of `key.json` that tells a sample's domain; empty for none.
    pub domain: String,
    /// Whether a text of several lines is one caption or several.
    pub captions: Captions,
    /// Where copies of what commands print lie; empty for the user's folder of caches.
    pub cache: String,
    /// GiB of such copies, at most.
    pub cache_limit: u64,
}

impl Default for WebDatasetSettings {
    fn default() -> Self {
        WebDatasetSettings {
            train: Vec::new(),
            test: Vec::new(),
            tests: Vec::new(),
            time: String::new(),
            time_from: String::new(),
            time_pattern: String::new(),
            time_uids: String::new(),
            domain: String::new(),
            captions: Captions::default(),
            cache: String::new(),
            cache_limit: 100,
        }
    }
}

/// Bytes of the file of a picture, at most.
const MOST_IMAGE: u64 = 1 << 28;

/// Shards of one list of the settings.
#[derive(Clone, Debug, Serialize)]
struct List {
    /// `train`, `test`, or the name of a set of tests.
    name: String,
    split: Split,
    /// The domain of all its samples, where it is a named set.
    domain: Option<String>,
    /// How many shards.
    shards: usize,
}

/// Opens the shards that `source.webdataset` names, in `source.folder`.
///
/// Fails when there is none, when one cannot be opened or is compressed, when nothing in them can be used, or when a class is out of
/// range.
pub fn open(source: &Source) -> Result<Dataset> {
    let (folder, settings) = (source.folder()?, &source.webdataset);
    let copies = Copies::new(&settings.cache, settings.cache_limit);
    let (mut files, mut lists, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |key: &str, specs: &[String], list: List| -> Result<()> {
        let found = shards(folder, specs, &copies, &mut notes);
        let found = found.map_err(|error| error.at(format!("data.webdataset.{key}")))?;
        lists.push(List { shards: found.len(), ..list });
        files.extend(found);
        Ok(())
    };
    let list = |name: &str, split| List { name: name.to_string(), split, domain: None, shards: 0 };
    add("train", &settings.train, list("train", Split::Train))?;
    add("test", &settings.test, list("test", Split::Test))?;
    let mut names: Vec<&str> = Vec::new();
    for set in &settings.tests {
        let (name, specs) = named(set)?;
        if names.contains(&name) {
            return Err(Error::input(format!(
                "data.webdataset.tests names the set '{name}' twice; '::' parts its shards"
            )));
        }
        names.push(name);
        let domain = Some(name.to_string());
        add("tests", &[specs.to_string()], List { domain, ..list(name, Split::Test) })?;
    }
    if files.is_empty() {
        return Err(Error::input(
            "data.webdataset.train, data.webdataset.test and data.webdataset.tests name no shard; at least one must",
        ));
    }
    let mut sorted: Vec<&String> = files.iter().map(|file| &file.name).collect();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::input(format!("data.webdataset names the shard {} twice", twice[0])));
    }
    notes.extend(copies.note());
    let times = Times::open(folder, settings)?;
    let times_of = files.iter().map(|file| times.of_shard(&file.name)).collect::<Result<Vec<_>>>()?;
    let asked = (&settings.time, &settings.time_from, &settings.time_pattern, times.stamps(folder)?, &settings.domain);
    let question = serde_json::to_string(&("members, 2", asked, &sorted)).expect("settings are plain");
    let fits = |stamps: &[Stamp], shards: &Vec<Shard>| {
        let each = stamps.len() == files.len() && shards.len() == files.len();
        let is_of =
            |((file, stamp), shard): ((&ShardFile, &Stamp), &Shard)| stamp.is_of(&file.path) && shard.fits(stamp);
        each && files.iter().zip(stamps).zip(shards).all(is_of)
    };
    let shards: Vec<Shard> = index::kept(folder, "webdataset", &question, fits, || {
        let read = files.par_iter().map(|file| {
            let stamp = Stamp::of(folder, &file.path)?;
            Ok((stamp, Shard::read(folder, file, &settings.domain, &times)?))
        });
        Ok(read.collect::<Result<Vec<_>>>()?.into_iter().unzip())
    })?;
    assemble::assemble(
        assemble::Parts { source, folder, files, lists, shards, times_of, lists_of_uids: times.lists() },
        notes,
    )
}

/// Name and shards of a set of tests, `retrieval=eval/retrieval/*/*.tar`.
fn named(set: &str) -> Result<(&str, &str)> {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || "-_.".contains(letter));
    let parts = set.split_once('=').map(|(name, specs)| (name.trim(), specs.trim()));
    parts.filter(|(name, specs)| is_name(name) && !specs.is_empty()).ok_or_else(|| {
        Error::input(format!(
            "data.webdataset.tests: found '{set}', expected a name and its shards, as retrieval=eval/retrieval/*/*.tar"
        ))
    })
}
