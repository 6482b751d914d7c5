//! DomainNet: a list of pictures for each domain and split.
//!
//! `DOMAIN_train.txt` and `DOMAIN_test.txt`, each line a path relative to the folder, a space, and the number of the class, as
//! `clipart/aircraft_carrier/clipart_001_000001.jpg 0`. The name of a class is that of its pictures' folder. Domains are all that
//! there are lists of, sorted by name.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use super::folder::PictureFiles;
use super::{Dataset, Sample, Source, Split, class_names, fingerprint, id_of};
use crate::error::{Error, Result};

const LISTS: [(&str, Split); 2] = [("_train.txt", Split::Train), ("_test.txt", Split::Test)];

/// Opens the lists in `source.folder`.
///
/// Fails when there is none, when one of a domain's two is missing or has no lines, when a line has no class, when a class has two
/// names or a name two classes, or when a path is listed twice; the error names the file and the line.
pub fn open(source: &Source) -> Result<Dataset> {
    let folder = source.folder()?;
    let wrong = |cause: std::io::Error| Error::reading(folder, cause);
    let mut domains = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name();
        let name = name.to_string_lossy();
        domains.extend(LISTS.iter().filter_map(|(ending, _)| name.strip_suffix(ending)).map(str::to_string));
    }
    domains.sort();
    domains.dedup();
    if domains.is_empty() {
        return Err(Error::input(format!(
            "{} has no lists, expected DOMAIN_train.txt and DOMAIN_test.txt",
            folder.display()
        )));
    }

    let mut lists = Lists::default();
    let mut files = Vec::new();
    for (domain, name) in domains.iter().enumerate() {
        for (ending, split) in LISTS {
            let path = folder.join(format!("{name}{ending}"));
            let bytes = fs::read(&path).map_err(|cause| Error::reading(&path, cause))?;
            lists.add(&path.display().to_string(), &bytes, domain as u32, split)?;
            files.push((format!("{name}{ending}"), bytes));
        }
    }
    let Lists { names, mut samples, paths, .. } = lists;
    let place_of: HashMap<u32, u32> = names.keys().zip(0..).map(|(label, place)| (*label, place)).collect();
    samples.iter_mut().for_each(|sample| sample.class = place_of[&sample.class]);
    let keys: Vec<String> = names.into_values().map(|(name, _)| name).collect();
    let classes = class_names::readable(&source.class_names, &keys)?;
    files.push((String::new(), classes.join("\n").into_bytes()));
    let fingerprint = fingerprint(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let images = PictureFiles { folder: folder.to_path_buf(), paths };
    let dataset = Dataset::new("domainnet", classes, domains, samples, fingerprint, Box::new(images));
    Ok(dataset.with_class_keys(keys))
}

/// A line of a list: the list's place in [`Lists::files`], and the line, from 1.
type Place = (u32, u32);

/// What the lists say.
#[derive(Default)]
struct Lists {
    /// Names of the lists themselves, for errors.
    files: Vec<String>,
    /// The name of each number, and where it stood first.
    names: BTreeMap<u32, (String, Place)>,
    /// The number of each name.
    numbers: HashMap<String, u32>,
    place_of_path: HashMap<Box<str>, Place>,
    /// Their classes are still numbers of the lists.
    samples: Vec<Sample>,
    paths: Vec<Box<str>>,
}

impl Lists {
    /// Reads a list; `file` is its name in errors.
    fn add(&mut self, file: &str, bytes: &[u8], domain: u32, split: Split) -> Result<()> {
        let text = std::str::from_utf8(bytes).map_err(|cause| {
            let line = 1 + bytes[..cause.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Error::input(format!("{file}, line {line}: the text is no UTF-8"))
        })?;
        let before = self.samples.len();
        self.files.push(file.to_string());
        let files = &self.files;
        let at = |(file, line): Place| format!("{}, line {line}", files[file as usize]);
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            let place = (files.len() as u32 - 1, number as u32);
            let wrong = |what: String| Error::input(format!("{}: {what}", at(place)));
            if line.is_empty() {
                continue;
            }
            let shown: String = line.escape_debug().take(80).collect();
            let (path, label) = line
                .rsplit_once(char::is_whitespace)
                .and_then(|(path, label)| Some((path.trim_end(), label.parse::<u32>().ok()?)))
                .ok_or_else(|| {
                    wrong(format!("found '{shown}', expected a path, a space, and the number of a class"))
                })?;
            let mut parts = path.rsplit('/').skip(1);
            let Some(class) = parts.next().filter(|name| !name.is_empty()) else {
                return Err(wrong(format!("found '{shown}', expected a path with the class's folder in it")));
            };
            let (known, first) = self.names.entry(label).or_insert_with(|| (class.to_string(), place));
            if known != class {
                return Err(wrong(format!("the class {label} is '{class}' here, and '{known}' at {}", at(*first))));
            }
            let other = *self.numbers.entry(class.to_string()).or_insert(label);
            if other != label {
                let (_, first) = &self.names[&other];
                return Err(wrong(format!(
                    "the class '{class}' has the number {label} here, and {other} at {}",
                    at(*first)
                )));
            }
            if let Some(first) = self.place_of_path.insert(path.into(), place) {
                return Err(wrong(format!("'{path}' stands already at {}", at(first))));
            }
            let id = id_of(&[path]);
            self.samples.push(Sample { id, caption: String::new(), class: label, domain, time: 0, split });
            self.paths.push(path.into());
        }
        if self.samples.len() == before {
            return Err(Error::input(format!("{file}: found no lines, expected a path and a class on each")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(root.path().join(name), text).unwrap());
        root
    }

    fn wrong(train: &str) -> String {
        let root = folder(&[("real_train.txt", train), ("real_test.txt", "real/dog/9.jpg 1\n")]);
        let message = open(&Source::new("domainnet", Some(root.path()))).unwrap_err().to_string();
        message.replace(&format!("{}/", root.path().display()), "")
    }

    #[test]
    fn lists_give_domains_classes_and_splits() {
        let root = folder(&[
            ("sketch_train.txt", "sketch/dog/1.jpg 7\nsketch/aircraft_carrier/a b.jpg 2\n"),
            ("sketch_test.txt", "sketch/dog/2.jpg 7\r\n\r\n"),
            ("clipart_train.txt", "clipart/dog/1.jpg 7"),
            ("clipart_test.txt", "clipart/dog/2.jpg 7"),
            ("readme.txt", "not a list"),
        ]);
        let dataset = open(&Source::new("domainnet", Some(root.path()))).unwrap();
        assert_eq!(dataset.domains, ["clipart", "sketch"]);
        assert_eq!(dataset.classes, ["aircraft carrier", "dog"]);
        let found: Vec<(u32, u32, Split)> =
            dataset.samples.iter().map(|sample| (sample.domain, sample.class, sample.split)).collect();
        let (train, test) = (Split::Train, Split::Test);
        assert_eq!(found, [(0, 1, train), (0, 1, test), (1, 1, train), (1, 0, train), (1, 1, test)]);
        let message = dataset.image(3).unwrap_err().to_string();
        assert!(message.contains("sketch/aircraft_carrier/a b.jpg"), "{message}");
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        assert!(
            wrong("real/dog/1.jpg\n").starts_with("real_train.txt, line 1: found 'real/dog/1.jpg', expected a path")
        );
        assert!(wrong("1.jpg 0").starts_with("real_train.txt, line 1: found '1.jpg 0', expected a path with"));
        assert_eq!(
            wrong("real/dog/1.jpg 1\n\nreal/cat/1.jpg 1"),
            "real_train.txt, line 3: the class 1 is 'cat' here, and 'dog' at real_train.txt, line 1"
        );
        assert_eq!(
            wrong("real/cat/1.jpg 0\nreal/dog/1.jpg 2\n"),
            "real_test.txt, line 1: the class 'dog' has the number 1 here, and 2 at real_train.txt, line 2"
        );
        assert_eq!(
            wrong("real/dog/9.jpg 1\n"),
            "real_test.txt, line 1: 'real/dog/9.jpg' stands already at real_train.txt, line 1"
        );
        assert!(wrong("\n").starts_with("real_train.txt: found no lines"));
        let root = folder(&[("real_train.txt", "real/dog/1.jpg 1")]);
        let message = open(&Source::new("domainnet", Some(root.path()))).unwrap_err().to_string();
        assert!(message.contains("real_test.txt"), "{message}");
        let message = open(&Source::new("domainnet", Some(folder(&[]).path()))).unwrap_err().to_string();
        assert!(message.contains("No such file") || message.contains("has no lists"), "{message}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Lists::default().add("list", &bytes, 0, Split::Train);
        }
    }
}
