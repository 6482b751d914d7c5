//! WebDataset: tar shards with a sample's members under one key.

use serde::{Deserialize, Serialize};

use super::{Dataset, Source};
use crate::error::{Error, Result};

/// Which shards there are, and what their `key.json` tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebDatasetSettings {
    /// Shards of training samples: paths relative to the data set's folder, with brace ranges (`{00000..00012}`) and globs.
    pub train: Vec<String>,
    /// Shards of test samples, likewise.
    pub test: Vec<String>,
    /// The key of `key.json` that tells a sample's time; empty for none.
    pub time: String,
    /// The key of `key.json` that tells a sample's domain; empty for none.
    pub domain: String,
}

pub fn open(source: &Source) -> Result<Dataset> {
    Err(Error::input(format!("the format '{}' is not read yet", source.name)))
}
