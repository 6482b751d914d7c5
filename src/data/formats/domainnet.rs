//! DomainNet: a list of pictures for each domain and split.
//!
//! `DOMAIN_train.txt` and `DOMAIN_test.txt`, each line a path relative to the folder, a space, and the number of the class, as
//! `clipart/aircraft_carrier/clipart_001_000001.jpg 0`. The name of a class is that of its pictures' folder. Domains are all that
//! there are lists of, sorted by name.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use super::Source;
use super::files::{ListedFiles, PictureFiles, Place};
use crate::data::broken;
use crate::data::text::class_names;
use crate::data::{Dataset, Label, Sample, Split, fingerprint, id_of};
use crate::error::{Error, Result};
use crate::files::text_of;

const LISTS: [(&str, Split); 2] = [("_train.txt", Split::Train), ("_test.txt", Split::Test)];

/// Opens the lists in `source.folder`.
///
/// Fails when there is none, when one of a domain's two is missing or has no lines, when a line has no class, when a class has two
/// names or a name two classes, or when a path is listed twice; the error names the file and the line.
pub(crate) fn open(source: &Source) -> Result<Dataset> {
    let folder = source.folder()?;
    let wrong = |cause: std::io::Error| Error::reading(folder, cause);
    let mut domains = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name();
        let name = name.to_string_lossy();
        match LISTS.iter().find_map(|(ending, _)| name.strip_suffix(ending)).filter(|_| !name.starts_with('.')) {
            Some(domain) => domains.push(domain.to_string()),
            None if name.ends_with(".txt") || name.ends_with("_train") || name.ends_with("_test") => {
                others.push(name.to_string())
            }
            None => {}
        }
    }
    domains.sort();
    domains.dedup();
    others.sort();
    let notes = (!others.is_empty()).then(|| {
        let shown = others[..others.len().min(broken::SHOWN)].join(", ");
        let more = if others.len() > broken::SHOWN { ", ..." } else { "" };
        format!(
            "passed over, files that are no DOMAIN_train.txt or DOMAIN_test.txt: {}, as {shown}{more}",
            others.len()
        )
    });
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
            lists.add(&path.display().to_string(), &text_of(&path, bytes.clone())?, domain as u32, split)?;
            files.push((format!("{name}{ending}"), bytes));
        }
    }
    let Lists { files: names_of_lists, names, mut samples, paths, places, .. } = lists;
    let place_of: HashMap<u32, u32> = names.keys().zip(0..).map(|(label, place)| (*label, place)).collect();
    samples.iter_mut().for_each(|sample| sample.class = Label(place_of[&sample.class.0]));
    let keys: Vec<String> = names.into_values().map(|(name, _)| name).collect();
    let classes = class_names::readable(&source.class_names, &keys)?;
    files.push((String::new(), classes.join("\n").into_bytes()));
    let fingerprint = fingerprint(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let pictures = PictureFiles { folder: folder.to_path_buf(), paths };
    let images = ListedFiles { pictures, lists: names_of_lists, places };
    let dataset = Dataset::new("domainnet", classes, domains, samples, fingerprint, Box::new(images));
    Ok(dataset.with_class_keys(keys).with_notes(notes.into_iter().collect()))
}

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
    places: Vec<Place>,
}

impl Lists {
    /// Reads a list; `file` is its name in errors.
    fn add(&mut self, file: &str, text: &str, domain: u32, split: Split) -> Result<()> {
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
            self.samples.push(Sample { id, caption: String::new(), class: Label(label), domain, time: 0, split });
            self.paths.push(path.into());
            self.places.push(place);
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
            dataset.samples.iter().map(|sample| (sample.domain, sample.class.0, sample.split)).collect();
        let (train, test) = (Split::Train, Split::Test);
        assert_eq!(found, [(0, 1, train), (0, 1, test), (1, 1, train), (1, 0, train), (1, 1, test)]);
        let message = dataset.image(3).unwrap_err().to_string();
        assert!(
            message.contains("sketch_train.txt, line 2: ") && message.contains("sketch/aircraft_carrier/a b.jpg"),
            "{message}"
        );
        assert_eq!(
            dataset.notes,
            ["passed over, files that are no DOMAIN_train.txt or DOMAIN_test.txt: 1, as readme.txt"]
        );
    }

    #[test]
    fn lists_are_read_as_systems_write_them() {
        let (train, test) = ("real/dog/1.jpg 0\nreal/cat/1.jpg 1\n", "real/dog/2.jpg 0\n");
        let of = |train: &[u8]| {
            let root = folder(&[("real_test.txt", test), ("._real_train.txt", "Mac OS X\0")]);
            fs::write(root.path().join("real_train.txt"), train).unwrap();
            open(&Source::new("domainnet", Some(root.path()))).map(|dataset| dataset.samples)
        };
        let plain = of(train.as_bytes()).unwrap();
        let wide: Vec<u8> = [0xfeff].into_iter().chain(train.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        for bytes in [
            [b"\xef\xbb\xbf", train.as_bytes()].concat(),
            train.replace('\n', "\r\n").into_bytes(),
            train.replace('\n', "\r").into_bytes(),
            wide.clone(),
        ] {
            assert_eq!(of(&bytes).unwrap(), plain);
        }
        assert!(of(&wide[2..]).unwrap_err().to_string().contains("real_train.txt: line 1 holds a NUL"));
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
            let _ = Lists::default().add("list", &String::from_utf8_lossy(&bytes), 0, Split::Train);
        }
    }
}
