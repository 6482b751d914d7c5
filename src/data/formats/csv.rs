//! Tables: a line for each sample, the columns named in a header.
//!
//! Which columns there are is a setting. Rows of one picture, such as its five captions in Flickr30k and COCO, are samples that share
//! it: training sees each with its caption, evaluation the picture once, with all of its captions. A row whose cell is empty in a
//! column that was named is a broken sample. What two rows say of one picture, and what is merged, becomes a note.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{ListedFiles, PictureFiles, Place};
use super::rows::{Row, Rows};
use super::{Source, time};
use crate::data::broken::{self, Broken};
use crate::data::images::picture::is_picture_name;
use crate::data::text::class_names;
use crate::data::{Dataset, Label, Sample, Split, fingerprint, id_of};
use crate::error::{Error, Result, nearest};
use crate::files::text_of;

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
    /// Whether quotes enclose cells.
    pub quotes: Quotes,
    /// The column with the path of the picture, relative to the data set's folder.
    pub image: String,
    /// The column with the text that belongs to the picture.
    pub caption: String,
    /// The class: names, or whole numbers from 0 on; where most are numbers, all must be.
    pub label: String,
    /// The column with a domain's name.
    pub domain: String,
    /// A year, a date that begins with one, or seconds since 1970.
    pub time: String,
}

/// What a quote means that opens a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quotes {
    /// The cell ends at the next quote that is not doubled; one that seems to hold whole rows is an error.
    #[default]
    Checked,
    /// The same, and what it holds is believed.
    Csv,
    /// Nothing: quotes are text.
    None,
}

impl Default for CsvSettings {
    fn default() -> Self {
        CsvSettings {
            train: Vec::new(),
            test: Vec::new(),
            separator: String::new(),
            quotes: Quotes::default(),
            image: "filepath".to_string(),
            caption: String::new(),
            label: String::new(),
            domain: String::new(),
            time: String::new(),
        }
    }
}

/// Opens the tables that `source.csv` names, in `source.folder`.
///
/// Fails when there is none, when one lacks a column that is named, when its quotes are wrong, when a row has another number of cells
/// than the header, when a time is none or a label is out of range, or when a picture without captions stands there twice; the error
/// names the file and the line.
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
            tables.add(&path, &text_of(&path, bytes.clone())?, settings, split)?;
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
    files.push((printed(settings), classes.join("\n").into_bytes()));
    let fingerprint = fingerprint(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    let notes = tables.all_notes();
    let Tables { files, samples, paths, places, domains, skipped, first_of_picture, .. } = tables;
    let domains = if settings.domain.is_empty() { vec!["csv".to_string()] } else { domains.texts };
    let images = ListedFiles { pictures: PictureFiles { folder: folder.to_path_buf(), paths }, lists: files, places };
    let dataset = Dataset::new("csv", classes, domains, samples, fingerprint, Box::new(images));
    Ok(dataset.with_class_keys(keys).with_shared_pictures(first_of_picture).with_skipped(skipped).with_notes(notes))
}

/// The settings as the fingerprint knows them. What quotes mean is part of it where it is not the usual, so that fingerprints of before
/// the setting hold.
fn printed(settings: &CsvSettings) -> String {
    let CsvSettings { train, test, separator, quotes, image, caption, label, domain, time } = settings;
    let mut text = format!(
        "CsvSettings {{ train: {train:?}, test: {test:?}, separator: {separator:?}, image: {image:?}, caption: {caption:?}, label: \
         {label:?}, domain: {domain:?}, time: {time:?} }}"
    );
    if *quotes == Quotes::None {
        text.push_str(" without quotes");
    }
    text
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
    labels: Words,
    domains: Words,
    skipped: Broken,
    notes: Vec<String>,
}

/// The texts of a column, each once, without the white space around them.
#[derive(Default)]
struct Words {
    texts: Vec<String>,
    /// Of each text its place, and how it was first written.
    numbers: HashMap<String, (u32, String)>,
    /// How many cells are another's text with other white space around it, and the first such: both as written, and its place.
    merged: Option<(usize, String, String, Place)>,
}

impl Words {
    /// The place of a cell's text among those met so far.
    fn number_of(&mut self, cell: &str, place: Place) -> u32 {
        let text = cell.trim();
        let Some((number, written)) = self.numbers.get(text) else {
            self.texts.push(text.to_string());
            let number = self.texts.len() as u32 - 1;
            self.numbers.insert(text.to_string(), (number, cell.to_string()));
            return number;
        };
        if written != cell {
            let first = || (0, written.clone(), cell.to_string(), place);
            self.merged.get_or_insert_with(first).0 += 1;
        }
        *number
    }
}

/// A column: its place, and its name.
struct Column<'a> {
    place: usize,
    name: &'a str,
}

impl Tables {
    /// Reads a table. `path` is its name in errors; its ending says what parts the columns where the settings do not.
    fn add(&mut self, path: &Path, text: &str, settings: &CsvSettings, split: Split) -> Result<()> {
        let file = path.display().to_string();
        self.files.push(file.clone());
        let separator = separator(path, settings)?;
        let mut rows = Rows::of(text, separator, settings.quotes != Quotes::None);
        let mut next = || {
            rows.next_row()
                .map_err(|fault| Error::input(format!("{file}, line {}: {}; {QUOTES_HELP}", fault.line, fault.what)))
        };
        let header = next()?.ok_or_else(|| Error::input(format!("{file}: the table is empty, expected a header")))?;
        let column = |name| find_column(&file, &header, separator, name);
        let image = column(&settings.image)?.expect("open has looked");
        let [caption, label, domain, time] =
            [&settings.caption, &settings.label, &settings.domain, &settings.time].map(|name| column(name));
        let (caption, label, domain, time) = (caption?, label?, domain?, time?);

        while let Some(row) = next()? {
            let line = row.line;
            check_length(&file, &row, header.cells.len(), separator)?;
            if settings.quotes == Quotes::Checked {
                check_tall(&file, &row, header.cells.len(), image.place, separator)?;
            }
            let cell = |column: &Option<Column>| column.as_ref().map_or("", |column| &row.cells[column.place]);
            let text = |column: &Option<Column>| cell(column).trim();
            let path = row.cells[image.place].trim();
            let holes = [
                (path.is_empty(), broken::MISSING_IMAGE, &image.name),
                (caption.is_some() && text(&caption).is_empty(), broken::MISSING_CAPTION, &settings.caption.as_str()),
                (label.is_some() && text(&label).is_empty(), broken::MISSING_CLASS, &settings.label.as_str()),
                (domain.is_some() && text(&domain).is_empty(), broken::MISSING_DOMAIN, &settings.domain.as_str()),
                (time.is_some() && text(&time).is_empty(), broken::MISSING_TIME, &settings.time.as_str()),
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
            let place = (self.files.len() as u32 - 1, line);
            self.first_of_picture.push(*first);
            self.samples.push(Sample {
                // The same wherever the table's other rows stand.
                id: id_of(&[path, &count.to_string()]),
                caption: text(&caption).to_string(),
                class: Label(self.labels.number_of(cell(&label), place)),
                domain: self.domains.number_of(cell(&domain), place),
                time: year,
                split,
            });
            *count += 1;
            self.paths.push(path.into());
            self.places.push(place);
        }
        if let Some((count, first)) = rows.empty_lines {
            self.notes
                .push(format!("{file}: passed over, empty lines between rows: {count}, the first is line {first}"));
        }
        Ok(())
    }

    /// Where a row stands, for a message.
    fn at(&self, (file, line): Place) -> String {
        format!("{}, line {line}", self.files[file as usize])
    }

    /// What was merged, and what rows of one picture say of it.
    fn all_notes(&mut self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.notes);
        for (what, words) in [("labels", &self.labels), ("domains", &self.domains)] {
            if let Some((count, first, other, place)) = &words.merged {
                notes.push(format!(
                    "{count} {what} are another with white space around it, as '{first}' and '{other}' ({}): merged",
                    self.at(*place)
                ));
            }
        }
        // The rows of each picture with several, side by side.
        let mut rows: Vec<usize> = (0..self.samples.len()).collect();
        rows.retain(|row| self.pictures[&self.paths[*row]].1 > 1);
        rows.sort_by_key(|row| (self.first_of_picture[*row], *row));
        let mut found = [Found::default(); 5];
        for rows in rows.chunk_by(|a, b| self.first_of_picture[*a] == self.first_of_picture[*b]) {
            let mut known: HashMap<(&str, u32, u32, i32, bool), usize> = HashMap::new();
            let mut differs = [false; 4];
            for row in rows {
                let of = |row: usize| {
                    let sample = &self.samples[row];
                    (sample.caption.as_str(), sample.class.0, sample.domain, sample.time, sample.split == Split::Train)
                };
                let (first, this) = (of(rows[0]), of(*row));
                if let Some(same) = known.insert(this, *row) {
                    found[0].add(same, *row);
                }
                let now = [first.1 != this.1, first.2 != this.2, first.3 != this.3, first.4 != this.4];
                for (kind, now) in now.into_iter().enumerate() {
                    if now && !differs[kind] {
                        differs[kind] = true;
                        found[1 + kind].add(rows[0], *row);
                    }
                }
            }
        }
        let told = [
            "rows stand there twice, word for word; each counts",
            "pictures have rows of more than one class; in tests of classes the picture's first row counts",
            "pictures have rows of more than one domain",
            "pictures have rows of more than one time",
            "pictures stand among the training samples and among the tests",
        ];
        for (found, told) in found.iter().zip(told).filter(|(found, _)| found.count > 0) {
            let [first, second] = found.first.map(|row| self.at(self.places[row]));
            let path = &self.paths[found.first[0]];
            notes.push(format!("{} {told}; the first is '{path}' at {first} and at {second}", found.count));
        }
        notes
    }

    /// Keys and readable names of the classes; the samples' classes are then places among them.
    fn classes(&mut self, source: &Source) -> Result<(Vec<String>, Vec<String>)> {
        if source.csv.label.is_empty() {
            return Ok((vec![String::new()], vec![String::new()]));
        }
        let labels = &self.labels.texts;
        let place = |label: usize| {
            let sample = self.samples.iter().position(|sample| sample.class.index() == label);
            self.at(self.places[sample.expect("every label is a sample's")])
        };
        let by_number = |label: &String| label.bytes().all(|byte| byte.is_ascii_digit()).then(|| label.parse().ok())?;
        let numbers: Vec<Option<u32>> = labels.iter().map(by_number).collect();
        // Among numbers a name is a slip, and so is a number that is no class's: taken for names, all would change places.
        let like_numbers = labels.iter().filter(|label| label.parse::<f64>().is_ok()).count();
        if let (Some(odd), true) = (numbers.iter().position(Option::is_none), 2 * like_numbers > labels.len()) {
            let found: String = labels[odd].escape_debug().take(60).collect();
            return Err(Error::input(format!(
                "{}, column '{}': found '{found}', expected a whole number from 0 on, as most labels are numbers",
                place(odd),
                source.csv.label
            )));
        }
        if let Some(numbers) = numbers.into_iter().collect::<Option<Vec<u32>>>() {
            let classes = class_names::numbered(&source.class_names, &numbers, place)?;
            let mut known = HashMap::new();
            let again =
                numbers.iter().zip(labels).filter_map(|(number, label)| Some((known.insert(number, label)?, label)));
            let merged: Vec<String> = again.map(|(first, second)| format!("'{first}' and '{second}'")).collect();
            if let Some(first) = merged.first() {
                let count = merged.len();
                self.notes.push(format!(
                    "{count} labels are another's number, as {first}: labels are numbers here, and merged"
                ));
            }
            self.samples.iter_mut().for_each(|sample| sample.class = Label(numbers[sample.class.index()]));
            return Ok(classes);
        }
        let mut keys = labels.clone();
        keys.sort();
        let place = |label: &String| keys.binary_search(label).expect("every label is among them") as u32;
        let places: Vec<u32> = labels.iter().map(place).collect();
        self.samples.iter_mut().for_each(|sample| sample.class = Label(places[sample.class.index()]));
        let names = class_names::readable(&source.class_names, &keys)?;
        Ok((keys, names))
    }
}

/// What two rows of one picture have in common, or not: how often it was found, and the first two rows.
#[derive(Clone, Copy, Default)]
struct Found {
    count: usize,
    first: [usize; 2],
}

impl Found {
    fn add(&mut self, first: usize, second: usize) {
        if self.count == 0 {
            self.first = [first, second];
        }
        self.count += 1;
    }
}

/// What an error about quotes adds.
const QUOTES_HELP: &str =
    "a cell in quotes doubles those within it; where quotes are text, set data.csv.quotes to \"none\"";

/// Fails when a row has another number of cells than the header.
fn check_length(file: &str, row: &Row, expected: usize, separator: u8) -> Result<()> {
    let found = row.cells.len();
    if found == expected {
        return Ok(());
    }
    let hint = match (row.cells[0].trim_start().starts_with('#'), found > expected) {
        (true, _) => "; comments are not read: remove the line".to_string(),
        (_, true) => format!("; a cell with {:?} in it must stand in quotes", char::from(separator)),
        _ => String::new(),
    };
    let line = row.line;
    Err(Error::input(format!("{file}, line {line}: found {found} columns, expected {expected} as in the header{hint}")))
}

/// Fails when a line within a cell in quotes looks like a row of its own: it has as many cells as the header, and a picture's path
/// where those stand. A quote that was never meant to open a cell swallows such rows, up to the next quote.
fn check_tall(file: &str, row: &Row, columns: usize, image: usize, separator: u8) -> Result<()> {
    let own = row.cells[image].trim();
    // Where pictures' names have no ending, a word is one.
    let is_path = |cell: &str| {
        is_picture_name(cell) || (!is_picture_name(own) && !cell.is_empty() && !cell.contains(char::is_whitespace))
    };
    for tall in &row.tall {
        let lines: Vec<&str> = tall.content.split(['\n', '\r']).collect();
        for (number, line) in lines.iter().enumerate() {
            let before = if number == 0 { tall.place } else { 0 };
            let cells: Vec<&str> = line.split(char::from(separator)).collect();
            let path = image.checked_sub(before).and_then(|place| cells.get(place)).map(|cell| cell.trim());
            // The last line ends at a quote, and more cells may follow it.
            let is_whole = match number + 1 == lines.len() {
                true => cells.len() > 1,
                false => before + cells.len() == columns,
            };
            if is_whole && path.is_some_and(is_path) {
                let shown: String = line.escape_debug().take(60).collect();
                return Err(Error::input(format!(
                    "{file}, line {}: a quote opens a cell here, and a line before the quote that closes it looks like a row of its own: \
                     '{shown}'; {QUOTES_HELP}, and where the cell is meant, to \"csv\"",
                    tall.line
                )));
            }
        }
    }
    Ok(())
}

fn separator(path: &Path, settings: &CsvSettings) -> Result<u8> {
    match settings.separator.as_bytes() {
        [] => {
            let by_tabs = path.extension().is_some_and(|ending| ending == "tsv" || ending == "txt");
            Ok(if by_tabs { b'\t' } else { b',' })
        }
        // As it is typed in a shell.
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(*byte),
        _ => Err(Error::input(format!("data.csv.separator is {:?}; it must be \",\" or \"\\t\"", settings.separator))),
    }
}

/// The column of a name; `None` where the name is empty. Fails when there is none of it, saying which there are, or more than one.
fn find_column<'a>(file: &str, header: &Row, separator: u8, name: &'a str) -> Result<Option<Column<'a>>> {
    if name.is_empty() {
        return Ok(None);
    }
    let line = header.line;
    let titles: Vec<&str> = header.cells.iter().map(|title| title.trim()).collect();
    let mut places = titles.iter().enumerate().filter(|(_, title)| **title == name).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(Some(Column { place, name })),
        (Some(_), Some(_)) => Err(Error::input(format!("{file}, line {line}: the column '{name}' is there twice"))),
        (None, _) => {
            let other = [',', '\t', ';', '|'].into_iter().find(|other| {
                *other != char::from(separator)
                    && titles.iter().any(|title| title.split(*other).any(|one| one.trim() == name))
            });
            let hint = match (other, nearest(name, titles.iter().copied())) {
                (Some(other), _) => format!("; its columns seem to be parted by {other:?}: set data.csv.separator"),
                (None, Some(near)) => format!("; did you mean '{near}'?"),
                _ if titles.iter().any(|title| is_picture_name(title)) => {
                    "; the first line must name the columns, and this one looks like a sample".to_string()
                }
                _ => String::new(),
            };
            let shown: Vec<String> = (titles.iter().take(20))
                .map(|title| format!("'{}'", title.escape_debug().take(60).collect::<String>()))
                .collect();
            Err(Error::input(format!(
                "{file}, line {line}: found the columns {}, none named '{name}'{hint}",
                shown.join(", ")
            )))
        }
    }
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
            .map(|s| (s.caption.as_str(), dataset.classes[s.class.index()].as_str(), s.domain, s.time))
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
        assert_eq!(dataset.samples.iter().map(|sample| sample.class.0).collect::<Vec<_>>(), [9, 0]);
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

    /// Captions by the path of their picture, by tabs.
    fn captions(table: &str, quotes: Quotes) -> Result<Vec<String>, String> {
        let csv = CsvSettings {
            test: vec!["t.tsv".to_string()],
            caption: "title".to_string(),
            quotes,
            ..CsvSettings::default()
        };
        let dataset = opened(&[("t.tsv", table)], csv, "").map_err(|error| error.to_string())?;
        Ok(dataset.samples.iter().map(|sample| sample.caption.clone()).collect())
    }

    #[test]
    fn an_open_quote_never_swallows_rows() {
        let checked = |rows: &str| captions(&format!("filepath\ttitle\n{rows}"), Quotes::Checked).unwrap_err();
        let never = "t.tsv, line 3: the quote that opens a cell here is never closed; a cell in quotes doubles those within it; where \
                     quotes are text, set data.csv.quotes to \"none\"";
        assert_eq!(checked("1.png\tone\n2.png\t\"two inch nails\n3.png\tthree\n4.png\tfour\n"), never);
        // The next quote is that of another row's cell, at its beginning, within it, or at its end.
        let behind = "found 'two more' behind the quote that closes a cell that opens on line 3";
        let row = "looks like a row of its own: '3.png";
        for (last, part) in [
            ("\"two more", behind),
            ("5\" nails", "found 'nails' behind the quote"),
            ("nails of 5\"", row),
            ("\"\"", "never closed"),
        ] {
            let message =
                checked(&format!("1.png\tone\n2.png\t\"two inch nails\n3.png\tthree\n4.png\t{last}\n5.png\tfive\n"));
            assert!(message.contains(part), "{message}");
            assert!(message.starts_with("t.tsv, line 3: ") || message.starts_with("t.tsv, line 5: "), "{message}");
        }
        let next = checked("2.png\t\"two inch nails\n3.png\tnails of 3\"\n");
        assert!(next.contains("looks like a row of its own: '3.png\\tnails of 3'"), "{next}");
        let first = captions("title\tfilepath\n\"two inch\t2.png\nnails of 3\"\t3.png\n", Quotes::Checked).unwrap_err();
        assert!(first.contains("looks like a row of its own: 'two inch\\t2.png'"), "{first}");
        let bare = checked("2\t\"two inch nails\n3\tthree\n4\tnails of 4\"\n");
        assert!(bare.contains("looks like a row of its own: '3\\tthree'"), "{bare}");
    }

    #[test]
    fn quotes_are_as_the_settings_say() {
        let rows = "filepath\ttitle\n1.png\t\"a cat,\n\tasleep, \"\"here\"\"\nsee 2.png\"\n3.png\t5\" nails\n";
        let tall = "a cat,\n\tasleep, \"here\"\nsee 2.png";
        assert_eq!(captions(rows, Quotes::Checked).unwrap(), [tall, "5\" nails"]);
        let believed = "filepath\ttitle\n1.png\t\"a list:\n2.png\tof pictures\"\n";
        assert!(captions(believed, Quotes::Checked).is_err());
        assert_eq!(captions(believed, Quotes::Csv).unwrap(), ["a list:\n2.png\tof pictures"]);
        let plain = "filepath\ttitle\n1.png\t\"two inch nails\n2.png\t\"hello\" she said\n3.png\t\"all\"\n";
        assert_eq!(captions(plain, Quotes::None).unwrap(), ["\"two inch nails", "\"hello\" she said", "\"all\""]);
    }

    #[test]
    fn tables_are_read_as_systems_write_them() {
        let root = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            fs::write(root.path().join("t.csv"), bytes).unwrap();
            open(&Source { csv: settings(), ..Source::new("csv", Some(root.path())) })
        };
        let plain = of(TABLE.as_bytes()).unwrap();
        let wide: Vec<u8> = [0xfeff].into_iter().chain(TABLE.encode_utf16()).flat_map(u16::to_be_bytes).collect();
        for bytes in [
            TABLE.replace('\n', "\r\n").into_bytes(),
            TABLE.replace('\n', "\r").into_bytes(),
            [b"\xef\xbb\xbf", TABLE.as_bytes()].concat(),
            TABLE.replace("filepath", "\"filepath\" ").into_bytes(),
            TABLE.replace("title", " title ").into_bytes(),
            wide.clone(),
        ] {
            let read = of(&bytes).unwrap();
            assert_eq!((&read.samples, &read.notes), (&plain.samples, &plain.notes));
        }
        let message = of(&wide[2..]).unwrap_err().to_string();
        assert!(message.contains("t.csv: line 1 holds a NUL character"), "{message}");
        assert!(of(b"filepath\xff,title\n").unwrap_err().to_string().contains("t.csv: line 1 is no UTF-8"));
        // Lines count as editors count them.
        let windows = TABLE.replace("2015-02-03", "soon").replace('\n', "\r\n");
        assert!(of(windows.as_bytes()).unwrap_err().to_string().contains("t.csv, line 3, column 'when'"));
    }

    #[test]
    fn a_header_that_is_none_is_told() {
        let of = |table: &str| wrong(table, settings());
        assert!(
            of("a.jpg,a cat,cat,home,2014\n")
                .ends_with("the first line must name the columns, and this one looks like a sample")
        );
        let semicolons = of(&TABLE.replace("\"a cat, asleep\"", "a cat").replace(',', ";"));
        assert!(semicolons.ends_with("its columns seem to be parted by ';': set data.csv.separator"), "{semicolons}");
        assert_eq!(of(""), "t.csv: the table is empty, expected a header");
        assert_eq!(
            of(&TABLE.replace("b.jpg", "# by hand\nb.jpg")),
            "t.csv, line 3: found 1 columns, expected 5 as in the header; comments are not read: remove the line"
        );
        assert_eq!(
            of(&TABLE.replace("a dog", "a dog, asleep")),
            "t.csv, line 3: found 6 columns, expected 5 as in the header; a cell with ',' in it must stand in quotes"
        );
    }

    #[test]
    fn what_is_merged_and_what_rows_say_of_one_picture_is_told() {
        let rows = [
            "filepath,title,label,place,when",
            "a.jpg,one,cat,home,2014",
            "a.jpg,one,cat,home,2014",
            "",
            "a.jpg,two, cat,home,2015",
            "a.jpg,three,dog,street,2014",
            "b.jpg,four,Cat,home ,2014",
            "b.jpg,five,Cat,home,2014",
        ];
        let csv = CsvSettings { test: vec!["u.csv".to_string()], ..settings() };
        let test = format!("{}\nb.jpg,six,Cat,home,2014\n", rows[0]);
        let dataset = opened(&[("t.csv", &rows.join("\n")), ("u.csv", &test)], csv, "").unwrap();
        assert_eq!(dataset.classes, ["Cat", "cat", "dog"]);
        // Without the folder, whose name changes.
        let folder = dataset.notes[0].split("t.csv").next().unwrap();
        let notes: Vec<String> = dataset.notes.iter().map(|note| note.replace(folder, "")).collect();
        assert_eq!(
            notes,
            [
                "t.csv: passed over, empty lines between rows: 1, the first is line 4",
                "1 labels are another with white space around it, as 'cat' and ' cat' (t.csv, line 5): merged",
                "1 domains are another with white space around it, as 'home' and 'home ' (t.csv, line 7): merged",
                "1 rows stand there twice, word for word; each counts; the first is 'a.jpg' at t.csv, line 2 and at t.csv, line 3",
                "1 pictures have rows of more than one class; in tests of classes the picture's first row counts; the first is 'a.jpg' \
                 at t.csv, line 2 and at t.csv, line 6",
                "1 pictures have rows of more than one domain; the first is 'a.jpg' at t.csv, line 2 and at t.csv, line 6",
                "1 pictures have rows of more than one time; the first is 'a.jpg' at t.csv, line 2 and at t.csv, line 5",
                "1 pictures stand among the training samples and among the tests; the first is 'b.jpg' at t.csv, line 7 and at u.csv, \
                 line 2",
            ]
        );
        assert!(
            opened(&[("t.csv", TABLE)], settings(), "")
                .unwrap()
                .notes
                .iter()
                .all(|note| note.contains("more than one time"))
        );
        let numbers =
            CsvSettings { label: "label".to_string(), train: vec!["t.csv".to_string()], ..CsvSettings::default() };
        let dataset = opened(&[("t.csv", "filepath,label\na.jpg,1\nb.jpg,0\nc.jpg,01\n")], numbers, "").unwrap();
        assert_eq!(dataset.samples.iter().map(|sample| sample.class.0).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(
            dataset.notes,
            ["1 labels are another's number, as '1' and '01': labels are numbers here, and merged"]
        );
    }

    #[test]
    fn an_error_about_a_picture_names_the_table_and_the_line() {
        let dataset = opened(&[("t.csv", TABLE)], settings(), "").unwrap();
        let error = dataset.image(1).unwrap_err();
        assert!(error.to_string().contains("t.csv, line 3: cannot read "), "{error}");
        assert_eq!(error.reason(), Some(broken::MISSING_FILE));
    }

    #[test]
    fn the_fingerprint_knows_what_quotes_mean() {
        // As it was before there was such a setting.
        assert_eq!(
            printed(&CsvSettings::default()),
            "CsvSettings { train: [], test: [], separator: \"\", image: \"filepath\", caption: \"\", label: \"\", domain: \"\", time: \"\" }"
        );
        assert_ne!(printed(&CsvSettings { quotes: Quotes::None, ..settings() }), printed(&settings()));
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
            let text = String::from_utf8_lossy(&table);
            if tables.add(Path::new("t.csv"), &text, &settings(), Split::Train).is_ok() {
                tables.all_notes();
                let _ = tables.classes(&Source { csv: settings(), ..Source::new("csv", None) });
            }
        }
    }
}
