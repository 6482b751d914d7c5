//! A model in several files: `model.safetensors.index.json` and `pytorch_model.bin.index.json`, as Hugging Face writes them, say which
//! file has which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::container::{Container, printable};
use crate::error::{Error, Result};

/// Bytes of an index, and files that it names.
const LONGEST: usize = 64 << 20;
const MOST_FILES: usize = 1000;

#[derive(Deserialize)]
struct ShardIndex {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// Opens the files that the index with these bytes names, which lie beside it. It is an error of input if one is missing, if a
/// tensor is not where the index says, or if a file holds one of which the index says nothing.
pub(crate) fn open(path: &Path, bytes: &[u8]) -> Result<Container> {
    let wrong = |what: String| Error::input(format!("{}: {what}", path.display()));
    if bytes.len() > LONGEST {
        return Err(wrong(format!("a JSON text of {} bytes, and no weights", bytes.len())));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let index: ShardIndex = serde_json::from_slice(bytes).map_err(|cause| {
        wrong(format!("a JSON text, and no weights, nor the index of a model in several files (weight_map): {cause}"))
    })?;
    let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    if names.is_empty() || names.len() > MOST_FILES {
        return Err(wrong(format!("an index of {} files; 1 to {MOST_FILES} are expected", names.len())));
    }
    let mut parts = Vec::new();
    for name in names {
        if name.contains(['/', '\\', '\0']) || name == ".." {
            return Err(wrong(format!("the index names '{}', which is no file beside it", printable(name))));
        }
        let file = path.with_file_name(name);
        if !file.is_file() {
            let what =
                format!("the index of a model in several files, of which '{}' is missing beside it", printable(name));
            return Err(wrong(what));
        }
        let part = Container::open_one(&file)?;
        let of_file = |tensor: &str| index.weight_map.get(tensor).is_some_and(|file| file == name);
        if let Some(unknown) = part.tensors.iter().find(|tensor| !of_file(&tensor.name)) {
            return Err(wrong(format!(
                "'{}' is in {}, where the index does not have it",
                printable(&unknown.name),
                file.display()
            )));
        }
        let held: BTreeSet<&str> = part.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let mut expected = index.weight_map.iter().filter(|(_, file)| *file == name);
        if let Some((missing, _)) = expected.find(|(tensor, _)| !held.contains(tensor.as_str())) {
            return Err(wrong(format!("'{}' should be in {}, and is not", printable(missing), file.display())));
        }
        parts.push(part);
    }
    Ok(Container::join(path.to_path_buf(), parts))
}

/// Where a file's name says that it is one of several (`model-00001-of-00002.safetensors`), what to give instead.
pub(crate) fn of_several(path: &Path) -> Option<String> {
    let (before, count) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let several = digits(count) && digits(before.rsplit_once('-')?.1);
    several.then(|| "this is one of the files of a model in several: give their folder, or the index".to_string())
}
