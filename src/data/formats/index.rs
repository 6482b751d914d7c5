//! Indexes of data sets that are slow to list, kept in a file from one run to the next.
//!
//! The file lies beside the data (`NAME.KIND.perennial-index` beside the folder `NAME`), or, where nothing can be written there, in
//! the user's folder for caches (`$XDG_CACHE_HOME/perennial`, else `~/.cache/perennial`). It holds when each folder or shard that
//! the index was made from was last changed, and is used only as long as all of that is still so. Losing it costs time alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::data::{fingerprint, id_of};
use crate::error::{Error, Result};
use crate::files::{cache_folder, write_atomically};

/// Goes up when the form of any index changes: an old file is then made anew.
const VERSION: u32 = 2;

/// Bytes of the hash in front of an index, in hexadecimal: what is no longer as it was written is made anew.
const HASH: usize = 64;

/// A change so young may be followed by another that looks as old: nothing is kept of it.
const YOUNG: Duration = Duration::from_secs(2);

/// A folder or a file that an index was made from, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Relative to the data set's folder.
    path: String,
    /// Nanoseconds since 1970.
    modified: u64,
    len: u64,
}

impl Stamp {
    /// `path` in `folder` as it is now. A folder's length differs between file systems, and is taken as 0.
    pub(crate) fn of(folder: &Path, path: &str) -> Result<Stamp> {
        let whole = folder.join(path);
        let wrong = |cause: std::io::Error| Error::reading(&whole, cause);
        let data = fs::metadata(&whole).map_err(wrong)?;
        let modified = data.modified().map_err(wrong)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let len = if data.is_dir() { 0 } else { data.len() };
        Ok(Stamp { path: path.to_string(), modified: modified.as_nanos() as u64, len })
    }

    /// Whether it is the stamp of `path`.
    pub(crate) fn is_of(&self, path: &str) -> bool {
        self.path == path
    }

    /// Bytes of the file; 0 of a folder.
    pub(crate) fn bytes(&self) -> u64 {
        self.len
    }

    fn still_holds(&self, folder: &Path) -> bool {
        Stamp::of(folder, &self.path).is_ok_and(|now| now == *self)
    }
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    version: u32,
    /// What the data set was asked for: another question has another answer.
    question: String,
    stamps: Vec<Stamp>,
    content: T,
}

/// The index of `kind` (a word that can be part of a file name) for `folder` and `question`: the one that was kept, if nothing has
/// changed since; else what `make` finds, with all that it has looked at.
///
/// A file's hash tells accidents alone, so `fits` says whether what was kept could be what `make` finds: everything that is relied
/// on without another look.
pub(crate) fn kept<T: Serialize + DeserializeOwned>(
    folder: &Path,
    kind: &str,
    question: &str,
    fits: impl Fn(&[Stamp], &T) -> bool,
    make: impl FnOnce() -> Result<(Vec<Stamp>, T)>,
) -> Result<T> {
    let places = places(folder, kind);
    for place in &places {
        if let Some(content) = read(place, folder, question, &fits) {
            return Ok(content);
        }
    }
    let (stamps, content) = make()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if stamps.iter().any(|stamp| Duration::from_nanos(stamp.modified) + YOUNG > now) {
        return Ok(content);
    }
    let kept = Kept { version: VERSION, question: question.to_string(), stamps, content };
    let json = serde_json::to_vec(&kept).expect("an index is plain values");
    let bytes = [fingerprint([("", json.as_slice())]).as_bytes(), b"\n", &json].concat();
    for place in &places {
        let parent = place.parent().expect("an index lies in a folder");
        // Where it cannot be kept it is made again the next time.
        if fs::create_dir_all(parent).is_ok() && write_atomically(place, &bytes).is_ok() {
            break;
        }
    }
    Ok(kept.content)
}

fn read<T: DeserializeOwned>(
    place: &Path,
    folder: &Path,
    question: &str,
    fits: impl Fn(&[Stamp], &T) -> bool,
) -> Option<T> {
    let bytes = fs::read(place).ok()?;
    let (hash, json) = bytes.split_at_checked(HASH)?;
    let json = json.strip_prefix(b"\n")?;
    if hash != fingerprint([("", json)]).as_bytes() {
        return None;
    }
    let kept: Kept<T> = serde_json::from_slice(json).ok()?;
    let same = kept.version == VERSION && kept.question == question && fits(&kept.stamps, &kept.content);
    (same && kept.stamps.iter().all(|stamp| stamp.still_holds(folder))).then_some(kept.content)
}

/// Where an index may lie, the best place first.
fn places(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    let mut places = Vec::new();
    if let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) {
        let mut file = name.to_os_string();
        file.push(format!(".{kind}.perennial-index"));
        places.push(parent.join(file));
    }
    if let Some(cache) = cache_folder() {
        let id = id_of(&[&folder.to_string_lossy()]);
        places.push(cache.join(format!("{id:016x}.{kind}.perennial-index")));
    }
    places
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;

    use super::*;

    /// As if a folder or file had been left alone for an hour.
    fn age(path: &Path) {
        File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }

    #[test]
    fn an_index_is_made_once_and_again_after_a_change() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        fs::create_dir(&folder).unwrap();
        age(&folder);
        let made = Cell::new(0);
        let fits = |_: &[Stamp], content: &Vec<String>| content[0] != "no";
        let ask = |question: &str| {
            kept(&folder, "test", question, fits, || {
                made.set(made.get() + 1);
                Ok((vec![Stamp::of(&folder, "")?], vec![question.to_string()]))
            })
            .unwrap()
        };
        assert_eq!((ask("a"), ask("a"), made.get()), (vec!["a".to_string()], vec!["a".to_string()], 1));
        assert!(parent.path().join("data.test.perennial-index").exists());
        assert_eq!((ask("b"), made.get()), (vec!["b".to_string()], 2));
        fs::write(folder.join("new.png"), "").unwrap();
        assert_eq!((ask("b"), made.get()), (vec!["b".to_string()], 3));
        // The change is young: nothing was kept.
        assert_eq!((ask("b"), made.get()), (vec!["b".to_string()], 4));
        age(&folder);
        ask("b");
        ask("b");
        assert_eq!(made.get(), 5);
        let place = parent.path().join("data.test.perennial-index");
        let mut bytes = fs::read(&place).unwrap();
        *bytes.iter_mut().rfind(|byte| **byte == b'b').unwrap() = b'c';
        fs::write(&place, bytes).unwrap();
        assert_eq!((ask("b"), made.get()), (vec!["b".to_string()], 6));
        // What does not fit is never taken from the file.
        assert_eq!((ask("no"), ask("no"), made.get()), (vec!["no".to_string()], vec!["no".to_string()], 8));
    }
}
