//! Tables: a line for each sample.

use serde::{Deserialize, Serialize};

/// The tables, and what their columns are. A column of an empty name is not there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsvSettings {
    /// The tables of training samples: names relative to the data set's folder; patterns such as `train-*.csv` are allowed.
    pub train: Vec<String>,
    /// The tables of test samples, likewise.
    pub test: Vec<String>,
    /// What parts the columns: `,` or a tab; empty for what the file's ending says: a tab in `.tsv` and `.txt`, else a comma.
    pub separator: String,
    /// The column with the path of the picture, relative to the data set's folder.
    pub image: String,
    pub caption: String,
    /// The class: a name, or a number where every label is one.
    pub label: String,
    pub domain: String,
    /// A year, a date that begins with one, or seconds since 1970.
    pub time: String,
}

impl Default for CsvSettings {
    fn default() -> Self {
        CsvSettings {
            train: Vec::new(),
            test: Vec::new(),
            separator: String::new(),
            image: "filepath".to_string(),
            caption: String::new(),
            label: String::new(),
            domain: String::new(),
            time: String::new(),
        }
    }
}
