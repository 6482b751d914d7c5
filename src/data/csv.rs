//! Tables: a line for each sample, the columns named in a header.
//!
//! Which columns there are is a setting. Rows of one picture, such as its five captions in Flickr30k and COCO, are samples that share
//! it: training sees each with its caption, evaluation the picture once, with all of its captions. A row whose cell is empty in a
//! column that was named is a broken sample.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use ::csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde::{Deserialize, Serialize};

use super::broken::{self, Broken};
use super::folder::PictureFiles;
use super::{Dataset, Sample, Source, Split, class_names, fingerprint, id_of, time};
use crate::error::{Error, Result, nearest};

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
    /// The class: names, or whole numbers from 0 on; where most are numbers, all must be.
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

/// What an empty cell makes a row count as.
pub(super) const MISSING_DOMAIN: &str = "missing domain";
pub(super) const MISSING_TIME: &str = "missing time";

/// Opens the tables that `source.csv` names, in `source.folder`.
///
/// Fails when there is none, when one lacks a column that is named, when a row has another number of cells than the header, when a
/// time is none or a label is out of range, or when a picture without captions stands there twice; the error names the file and the
/// line.
pub fn open(source: &Source) -> Result<Dataset> {
    let (folder, settings) = (source.folder()?, &source.csv);
    if settings.image.is_empty() {
        return Err(Error::input("data.csv.image is empty; it must name the column with the pictures' paths"));
    }
    if settings.caption.is_empty() && settings.label.is_empty() {
        return Err(Error::input(
            "data.csv.caption and data.csv.label are empty; at least one must name a column, or nothing is known of a picture",
        ));
    }
    let mut tables = Tables::default();
    let mut files = Vec::new();
    for (key, split, patterns) in [("train", Split::Train, &settings.train), ("test", Split::Test, &settings.test)] {
        for path in find(folder, patterns).map_err(|error| error.at(format!("data.csv.{key}")))? {
            let bytes = fs::read(&path).map_err(|cause| Error::reading(&path, cause))?;
            tables.add(&path, &bytes, settings, split)?;
            files.push((path.strip_prefix(folder).unwrap_or(&path).display().to_string(), bytes));
        }
    }
    if files.is_empty() {
        return Err(Error::input("data.csv.train and data.csv.test name no table; at least one must"));
    }
    if tables.samples.is_empty() {
        let why = if tables.skipped.is_empty() { "no row" } else { "no row without a hole" };
        return Err(Error::input(format!("{}: {why} after the header", files[0].0)));
    }
    let (keys, classes) = tables.classes(source)?;
    files.push((format!("{settings:?}"), classes.join("\n").into_bytes()));
    let fingerprint = fingerprint(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let Tables { samples, paths, mut domains, skipped, first_of_picture, .. } = tables;
    if settings.domain.is_empty() {
        domains = vec!["csv".to_string()];
    }
    let images = PictureFiles { folder: folder.to_path_buf(), paths };
    let dataset = Dataset::new("csv", classes, domains, samples, fingerprint, Box::new(images));
    Ok(dataset.with_class_keys(keys).with_shared_pictures(first_of_picture).with_skipped(skipped))
}

/// The files that some names or patterns in a folder mean, each once: those of a pattern sorted by name.
pub(super) fn find(folder: &Path, patterns: &[String]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    for pattern in patterns {
        let mut of_pattern = Vec::new();
        if pattern.contains(['*', '?', '[']) {
            let whole = format!("{}/{pattern}", glob::Pattern::escape(&folder.to_string_lossy()));
            let matches = glob::glob(&whole).map_err(|error| Error::input(format!("'{pattern}': {}", error.msg)))?;
            for path in matches {
                of_pattern.push(path.map_err(|error| Error::reading(error.path(), error.error()))?);
            }
            of_pattern.sort();
            if of_pattern.is_empty() {
                return Err(Error::input(format!("'{pattern}' matches no file in {}", folder.display())));
            }
        } else {
            of_pattern.push(folder.join(pattern));
        }
        for path in of_pattern {
            if !known.insert(path.clone()) {
                return Err(Error::input(format!("{} is named twice", path.display())));
            }
            found.push(path);
        }
    }
    Ok(found)
}

/// A row of a table: the table's place in [`Tables::files`], and the line, from 1.
type Place = (u32, u32);

/// What the tables say so far.
#[derive(Default)]
struct Tables {
    /// Names of the tables, for errors.
    files: Vec<String>,
    /// Their classes are places in `labels`.
    samples: Vec<Sample>,
    paths: Vec<Box<str>>,
    places: Vec<Place>,
    first_of_picture: Vec<u32>,
    /// Of each path, its first sample and how many there are.
    pictures: HashMap<Box<str>, (u32, u32)>,
    labels: Vec<String>,
    number_of_label: HashMap<String, u32>,
    domains: Vec<String>,
    number_of_domain: HashMap<String, u32>,
    skipped: Broken,
}

/// A column: its place, and its name.
struct Column<'a> {
    place: usize,
    name: &'a str,
}

impl Tables {
    /// Reads a table. `path` is its name in errors; its ending says what parts the columns where the settings do not.
    fn add(&mut self, path: &Path, bytes: &[u8], settings: &CsvSettings, split: Split) -> Result<()> {
        let file = path.display().to_string();
        self.files.push(file.clone());
        let mut reader = ReaderBuilder::new().delimiter(separator(path, settings)?).from_reader(bytes);
        let header = reader.headers().map_err(|error| table_error(&file, error))?.clone();
        let column = |name| find_column(&file, &header, name);
        let image = column(&settings.image)?.expect("open has looked");
        let [caption, label, domain, time] =
            [&settings.caption, &settings.label, &settings.domain, &settings.time].map(|name| column(name));
        let (caption, label, domain, time) = (caption?, label?, domain?, time?);

        let mut row = StringRecord::new();
        while reader.read_record(&mut row).map_err(|error| table_error(&file, error))? {
            let line = row.position().map_or(0, |position| position.line());
            let text = |column: &Option<Column>| column.as_ref().map_or("", |column| row[column.place].trim());
            let path = row[image.place].trim();
            let holes = [
                (path.is_empty(), broken::MISSING_IMAGE, &image.name),
                (caption.is_some() && text(&caption).is_empty(), broken::MISSING_CAPTION, &settings.caption.as_str()),
                (label.is_some() && text(&label).is_empty(), broken::MISSING_CLASS, &settings.label.as_str()),
                (domain.is_some() && text(&domain).is_empty(), MISSING_DOMAIN, &settings.domain.as_str()),
                (time.is_some() && text(&time).is_empty(), MISSING_TIME, &settings.time.as_str()),
            ];
            if let Some((_, reason, name)) = holes.iter().find(|(is_hole, ..)| *is_hole) {
                self.skipped.add(reason, format!("{file}, line {line}: nothing in the column '{name}'"));
                continue;
            }
            let year = match &time {
                None => 0,
                Some(column) => time::year(text(&time)).ok_or_else(|| {
                    let found: String = text(&time).escape_debug().take(60).collect();
                    Error::input(format!(
                        "{file}, line {line}, column '{}': found '{found}', expected a year, a date that begins with one, or seconds \
                         since 1970",
                        column.name
                    ))
                })?,
            };
            let sample = self.samples.len() as u32;
            let (first, count) = self.pictures.entry(path.into()).or_insert((sample, 0));
            if *count > 0 && caption.is_none() {
                let (file_of_first, line_of_first) = self.places[*first as usize];
                return Err(Error::input(format!(
                    "{file}, line {line}: the picture '{path}' stands already at {}, line {line_of_first}",
                    self.files[file_of_first as usize]
                )));
            }
            self.first_of_picture.push(*first);
            self.samples.push(Sample {
                // The same wherever the table's other rows stand.
                id: id_of(&[path, &count.to_string()]),
                caption: text(&caption).to_string(),
                class: number_of(text(&label), &mut self.labels, &mut self.number_of_label),
                domain: number_of(text(&domain), &mut self.domains, &mut self.number_of_domain),
                time: year,
                split,
            });
            *count += 1;
            self.paths.push(path.into());
            self.places.push((self.files.len() as u32 - 1, line as u32));
        }
        Ok(())
    }

    /// Keys and readable names of the classes; the samples' classes are then places among them.
    fn classes(&mut self, source: &Source) -> Result<(Vec<String>, Vec<String>)> {
        if source.csv.label.is_empty() {
            return Ok((vec![String::new()], vec![String::new()]));
        }
        let place = |label: usize| {
            let sample = self.samples.iter().position(|sample| sample.class == label as u32);
            let (file, line) = self.places[sample.expect("every label is a sample's")];
            format!("{}, line {line}", self.files[file as usize])
        };
        let by_number = |label: &String| label.bytes().all(|byte| byte.is_ascii_digit()).then(|| label.parse().ok())?;
        let numbers: Vec<Option<u32>> = self.labels.iter().map(by_number).collect();
        // Among numbers a name is a slip, and so is a number that is no class's: taken for names, all would change places.
        let like_numbers = self.labels.iter().filter(|label| label.parse::<f64>().is_ok()).count();
        if let (Some(odd), true) = (numbers.iter().position(Option::is_none), 2 * like_numbers > self.labels.len()) {
            let found: String = self.labels[odd].escape_debug().take(60).collect();
            return Err(Error::input(format!(
                "{}, column '{}': found '{found}', expected a whole number from 0 on, as most labels are numbers",
                place(odd),
                source.csv.label
            )));
        }
        if let Some(numbers) = numbers.into_iter().collect::<Option<Vec<u32>>>() {
            let classes = class_names::numbered(&source.class_names, &numbers, place)?;
            self.samples.iter_mut().for_each(|sample| sample.class = numbers[sample.class as usize]);
            return Ok(classes);
        }
        let mut keys = self.labels.clone();
        keys.sort();
        let place = |label: &String| keys.binary_search(label).expect("every label is among them") as u32;
        let places: Vec<u32> = self.labels.iter().map(place).collect();
        self.samples.iter_mut().for_each(|sample| sample.class = places[sample.class as usize]);
        let names = class_names::readable(&source.class_names, &keys)?;
        Ok((keys, names))
    }
}

/// The place of a text among those met so far.
fn number_of(text: &str, texts: &mut Vec<String>, numbers: &mut HashMap<String, u32>) -> u32 {
    if let Some(number) = numbers.get(text) {
        return *number;
    }
    texts.push(text.to_string());
    numbers.insert(text.to_string(), texts.len() as u32 - 1);
    texts.len() as u32 - 1
}

fn separator(path: &Path, settings: &CsvSettings) -> Result<u8> {
    match settings.separator.as_bytes() {
        [] => {
            let by_tabs = path.extension().is_some_and(|ending| ending == "tsv" || ending == "txt");
            Ok(if by_tabs { b'\t' } else { b',' })
        }
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(*byte),
        _ => Err(Error::input(format!("data.csv.separator is {:?}; it must be \",\" or \"\\t\"", settings.separator))),
    }
}

/// The column of a name; `None` where the name is empty. Fails when there is none of it, saying which there are, or more than one.
fn find_column<'a>(file: &str, header: &StringRecord, name: &'a str) -> Result<Option<Column<'a>>> {
    if name.is_empty() {
        return Ok(None);
    }
    let mut places = header.iter().enumerate().filter(|(_, title)| title.trim() == name).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(Some(Column { place, name })),
        (Some(_), Some(_)) => Err(Error::input(format!("{file}, line 1: the column '{name}' is there twice"))),
        (None, _) => {
            let near = nearest(name, header.iter());
            let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            let shown: Vec<String> = header
                .iter()
                .take(20)
                .map(|title| format!("'{}'", title.escape_debug().take(60).collect::<String>()))
                .collect();
            Err(Error::input(format!(
                "{file}, line 1: found the columns {}, none named '{name}'{hint}",
                shown.join(", ")
            )))
        }
    }
}

/// An error of the crate with the file and the line in front.
fn table_error(file: &str, error: ::csv::Error) -> Error {
    let line = error.position().map(|position| format!(", line {}", position.line())).unwrap_or_default();
    let what = match error.kind() {
        ErrorKind::Utf8 { .. } => "the text is no UTF-8".to_string(),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("found {len} columns, expected {expected_len} as in the header")
        }
        _ => error.to_string(),
    };
    Error::input(format!("{file}{line}: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "filepath,title,label,place,when
a.jpg,\"a cat, asleep\",cat,home,2014
b.jpg,a dog,dog,street,2015-02-03
a.jpg,the same cat,cat,home,1425168000
";

    fn settings() -> CsvSettings {
        let name = |name: &str| name.to_string();
        CsvSettings {
            train: vec![name("t.csv")],
            caption: name("title"),
            label: name("label"),
            domain: name("place"),
            time: name("when"),
            ..CsvSettings::default()
        }
    }

    fn opened(files: &[(&str, &str)], csv: CsvSettings, class_names: &str) -> Result<Dataset> {
        let root = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| fs::write(root.path().join(name), text).unwrap());
        let source = Source { csv, class_names: class_names.to_string(), ..Source::new("csv", Some(root.path())) };
        // Errors without the folder, whose name changes.
        open(&source)
            .map_err(|error| Error::input(error.to_string().replace(&format!("{}/", root.path().display()), "")))
    }

    fn wrong(table: &str, csv: CsvSettings) -> String {
        opened(&[("t.csv", table)], csv, "").unwrap_err().to_string()
    }

    #[test]
    fn every_column_is_read() {
        let dataset = opened(&[("t.csv", TABLE)], settings(), "").unwrap();
        assert_eq!(
            (dataset.classes.len(), dataset.domains.as_slice()),
            (2, ["home", "street"].map(String::from).as_slice())
        );
        let found: Vec<(&str, &str, u32, i32)> = (dataset.samples.iter())
            .map(|s| (s.caption.as_str(), dataset.classes[s.class as usize].as_str(), s.domain, s.time))
            .collect();
        let expected = [("a cat, asleep", "cat", 0, 2014), ("a dog", "dog", 1, 2015), ("the same cat", "cat", 0, 2015)];
        assert_eq!(found, expected);
        assert_eq!((0..3).map(|sample| dataset.first_of_picture(sample)).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(dataset.image(1).unwrap_err().to_string().contains("b.jpg"));
    }

    #[test]
    fn captions_alone_make_a_data_set_without_classes() {
        let csv = CsvSettings { label: String::new(), domain: String::new(), time: String::new(), ..settings() };
        let tabs = TABLE.replace("\"a cat, asleep\"", "a cat asleep").replace(',', "\t");
        for (name, table) in [("t.tsv", tabs.as_str()), ("t.csv", TABLE)] {
            let csv = CsvSettings { test: vec!["t.*".to_string()], train: Vec::new(), ..csv.clone() };
            let dataset = opened(&[(name, table)], csv, "").unwrap();
            assert!(!dataset.has_classes());
            assert_eq!((dataset.samples.len(), dataset.domains.as_slice()), (3, ["csv".to_string()].as_slice()));
            assert!(dataset.samples.iter().all(|sample| sample.split == Split::Test && sample.time == 0));
        }
    }

    #[test]
    fn an_id_does_not_depend_on_other_rows() {
        let id = |table: &str, caption: &str| {
            let dataset = opened(&[("t.csv", table)], settings(), "").unwrap();
            dataset.samples.iter().find(|sample| sample.caption == caption).unwrap().id
        };
        let lines: Vec<&str> = TABLE.lines().collect();
        let other = [lines[0], "c.jpg,new,cat,home,2014", lines[2], lines[1], lines[3]].join("\n");
        for caption in ["a cat, asleep", "a dog", "the same cat"] {
            assert_eq!(id(TABLE, caption), id(&other, caption));
        }
        assert_ne!(id(TABLE, "a cat, asleep"), id(TABLE, "the same cat"));
    }

    #[test]
    fn labels_that_are_numbers_keep_them() {
        let table = "filepath,label\na.jpg,9\nb.jpg,0\n";
        let csv =
            CsvSettings { label: "label".to_string(), train: vec!["t.csv".to_string()], ..CsvSettings::default() };
        let dataset = opened(&[("t.csv", table)], csv.clone(), "cifar10").unwrap();
        assert_eq!(dataset.samples.iter().map(|sample| sample.class).collect::<Vec<_>>(), [9, 0]);
        assert_eq!((dataset.classes[9].as_str(), dataset.classes.len()), ("truck", 10));
        let message = opened(&[("t.csv", &table.replace('9', "10"))], csv, "cifar10").unwrap_err().to_string();
        assert_eq!(message, "t.csv, line 2: the label 10 is out of range, expected 0 to 9, as cifar10 has 10 names");
    }

    #[test]
    fn among_numbers_every_label_is_a_whole_number() {
        let csv =
            CsvSettings { label: "label".to_string(), train: vec!["t.csv".to_string()], ..CsvSettings::default() };
        let found = |labels: &[&str]| {
            let rows = labels.iter().enumerate().map(|(row, label)| format!("{row}.jpg,{label}\n"));
            opened(&[("t.csv", &format!("filepath,label\n{}", rows.collect::<String>()))], csv.clone(), "")
        };
        for odd in ["-1", "3.0", "4294967296", "1e3", "cat", "0x1"] {
            let message = found(&["0", "1", "2", odd]).unwrap_err().to_string();
            let expected = format!(
                "t.csv, line 5, column 'label': found '{odd}', expected a whole number from 0 on, as most labels are numbers"
            );
            assert_eq!(message, expected);
        }
        assert!(
            found(&["1.0", "0.0"]).unwrap_err().to_string().starts_with("t.csv, line 2, column 'label': found '1.0'")
        );
        // Names, one of which happens to be a number.
        assert_eq!(found(&["cat", "dog", "1984"]).unwrap().classes, ["1984", "cat", "dog"]);
        assert_eq!(found(&["1", "0", "02"]).unwrap().classes, ["0", "1", "2"]);
    }

    #[test]
    fn a_number_that_no_sample_has_is_no_class() {
        let csv =
            CsvSettings { label: "label".to_string(), train: vec!["t.csv".to_string()], ..CsvSettings::default() };
        let table = "filepath,label\na.jpg,0\nb.jpg,1000000\nc.jpg,1\n";
        let message = opened(&[("t.csv", table)], csv, "").unwrap_err().to_string();
        assert!(message.starts_with("t.csv, line 3: the label is 1000000, but the class 2 has no sample"), "{message}");
    }

    #[test]
    fn files_are_in_the_order_of_their_patterns_and_each_once() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b-2.csv", "b-1.csv", "a.csv"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let names = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.to_string()).collect();
            let found = find(root.path(), &patterns)?;
            Ok::<_, Error>(found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect())
        };
        let found: Vec<String> = names(&["b-*.csv", "a.csv"]).unwrap();
        assert_eq!(found, ["b-1.csv", "b-2.csv", "a.csv"]);
        for twice in [["*.csv", "a.csv"], ["a.csv", "a.csv"]] {
            let result: Result<Vec<String>> = names(&twice);
            assert!(result.unwrap_err().to_string().ends_with("a.csv is named twice"));
        }
    }

    #[test]
    fn many_files_are_found_in_no_time() {
        // A comparison of each with each would take an hour.
        let patterns: Vec<String> = (0..1_000_000).map(|number| format!("shard-{number:06}.tar")).collect();
        assert_eq!(find(Path::new("/data"), &patterns).unwrap().len(), patterns.len());
    }

    #[test]
    fn rows_with_holes_are_counted() {
        let table =
            format!("{TABLE}c.jpg,,cat,home,2014\n,x,cat,home,2014\nd.jpg,x,cat,home,\ne.jpg, ,cat,home,2014\n");
        let dataset = opened(&[("t.csv", &table)], settings(), "").unwrap();
        assert_eq!(dataset.samples.len(), 3);
        let broken = dataset.broken();
        assert_eq!(broken.summary(), "2 missing caption, 1 missing image, 1 missing time");
        let (_, captions) = broken.iter().next().unwrap();
        assert_eq!(captions.first[0].rsplit('/').next().unwrap(), "t.csv, line 5: nothing in the column 'title'");
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_column() {
        let csv = |caption: &str| CsvSettings { caption: caption.to_string(), ..settings() };
        assert_eq!(
            wrong(TABLE, csv("titel")),
            "t.csv, line 1: found the columns 'filepath', 'title', 'label', 'place', 'when', none named 'titel'; did you mean \
             'title'?"
        );
        assert_eq!(
            wrong(&format!("{TABLE}c.jpg,x,cat\n"), settings()),
            "t.csv, line 5: found 3 columns, expected 5 as in the header"
        );
        assert!(
            wrong(&TABLE.replace("2014", "early"), settings())
                .starts_with("t.csv, line 2, column 'when': found 'early'")
        );
        let label = CsvSettings { caption: String::new(), ..settings() };
        assert_eq!(wrong(TABLE, label), "t.csv, line 4: the picture 'a.jpg' stands already at t.csv, line 2");
        assert_eq!(wrong("filepath,title,label,place,when\n", settings()), "t.csv: no row after the header");
        assert!(wrong("a,a\n1,2\n", CsvSettings { image: "a".to_string(), ..csv("a") }).contains("'a' is there twice"));
        let none = CsvSettings { train: Vec::new(), ..settings() };
        assert!(wrong(TABLE, none).contains("name no table"));
        let twice = CsvSettings { test: vec!["x*.csv".to_string()], ..settings() };
        assert!(wrong(TABLE, twice).starts_with("data.csv.test: 'x*.csv' matches no file in"));
        let nothing = CsvSettings { caption: String::new(), label: String::new(), ..settings() };
        assert!(wrong(TABLE, nothing).starts_with("data.csv.caption and data.csv.label are empty"));
        assert!(
            wrong(TABLE, CsvSettings { separator: ";;".to_string(), ..settings() }).starts_with("data.csv.separator")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut table = b"filepath,title,label,place,when\n".to_vec();
            table.extend(bytes);
            let mut tables = Tables::default();
            if tables.add(Path::new("t.csv"), &table, &settings(), Split::Train).is_ok() {
                let _ = tables.classes(&Source { csv: settings(), ..Source::new("csv", None) });
            }
        }
    }
}
