//! From what a data set calls its classes (folders, labels) to the names that prompts want.
//!
//! The setting `data.class_names` is empty, the name of a bundled list, or a file. Without a tab in it, such a list has a readable
//! name on each line, in the order of the data set's own classes: of their numbers, where all are called by whole numbers. With tabs it
//! has `key<TAB>readable name` on each line, the key being what the data set calls the class, in any order, and may name more classes
//! than there are. A file may also hold JSON: a list of names, or a dictionary, as torchvision and Keras write theirs.
//!
//! What may be wrong with names and is no error becomes a note: classes that share a readable name, and names that are nearly the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use crate::data::{Dataset, broken};
use crate::error::{Error, Result, nearest, unknown};
use crate::files::read_text;

/// The lists that come with the program.
const BUNDLED: [(&str, &str); 4] = [
    ("cifar10", include_str!("../../../presets/class_names/cifar10.txt")),
    ("cifar100", include_str!("../../../presets/class_names/cifar100.txt")),
    ("imagenet", include_str!("../../../presets/class_names/imagenet.tsv")),
    ("imagenet-v2", include_str!("../../../presets/class_names/imagenet-v2.tsv")),
];

/// A list of readable names.
pub struct ClassNames {
    /// What it is called in errors.
    file: String,
    names: Names,
}

enum Names {
    /// In the order of the data set's classes.
    InOrder(Vec<String>),
    OfKey(HashMap<String, String>),
}

impl ClassNames {
    /// The list of the setting `name`; `None` where that is empty. Fails when there is no such list or file, or when a line is not
    /// what it must be.
    pub(crate) fn find(name: &str) -> Result<Option<ClassNames>> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Some((_, text)) = BUNDLED.iter().find(|(known, _)| *known == name) {
            return ClassNames::parse(name, text).map(Some);
        }
        let path = Path::new(name);
        if !path.exists() && path.extension().is_none() && path.components().count() == 1 {
            return Err(unknown("list of class names", name, BUNDLED.iter().map(|(name, _)| *name)));
        }
        ClassNames::parse(name, &read_text(path)?).map(Some)
    }

    /// Reads a list; `file` is its name in errors.
    pub fn parse(file: &str, text: &str) -> Result<ClassNames> {
        let named = |names| Ok(ClassNames { file: file.to_string(), names });
        if text.trim_start().starts_with(['[', '{']) {
            return named(of_json(text).map_err(|error| error.at(file))?);
        }
        let lines = || {
            let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
            numbered.filter(|(_, line)| !line.trim().is_empty())
        };
        let wrong = |line: usize, what: String| Err(Error::input(format!("{file}, line {line}: {what}")));
        let Some((last, _)) = lines().last() else {
            return Err(Error::input(format!("{file}: found no names, expected one a line")));
        };
        if !text.contains('\t') {
            let names: Vec<String> = text.lines().take(last).map(|line| line.trim().to_string()).collect();
            if let Some(empty) = names.iter().position(String::is_empty) {
                let what = "the line is empty, and the names after it would move to other classes: remove it, or name its class";
                return wrong(empty + 1, what.to_string());
            }
            check_plain(file, &names)?;
            return named(Names::InOrder(names));
        }
        let mut names = HashMap::new();
        let mut line_of_key = HashMap::new();
        for (number, line) in lines() {
            let Some((key, name)) = line.split_once('\t').map(|(key, name)| (key.trim(), name.trim())) else {
                return wrong(
                    number,
                    "found no tab, expected the class's key, a tab, and its readable name".to_string(),
                );
            };
            if key.is_empty() || name.is_empty() || name.contains('\t') {
                return wrong(number, "expected the class's key, one tab, and its readable name".to_string());
            }
            if let Some(first) = line_of_key.insert(key, number) {
                return wrong(number, format!("the class '{key}' stands already on line {first}"));
            }
            names.insert(key.to_string(), name.to_string());
        }
        named(Names::OfKey(names))
    }

    /// How many classes the list has in order; `None` where it goes by keys.
    fn len(&self) -> Option<usize> {
        match &self.names {
            Names::InOrder(names) => Some(names.len()),
            Names::OfKey(_) => None,
        }
    }

    /// How many classes the list has where its keys are the numbers from 0 on.
    fn numbers(&self) -> Option<usize> {
        let Names::OfKey(names) = &self.names else { return None };
        (0..names.len()).all(|number| names.contains_key(&number.to_string())).then_some(names.len())
    }

    /// The readable names of the classes `keys`. Fails when one has none, naming it, or when the list's order has another number
    /// of classes.
    fn of(&self, keys: &[String]) -> Result<Vec<String>> {
        match &self.names {
            Names::InOrder(names) if names.len() == keys.len() => {
                self.check_keys(names, keys)?;
                let Some(numbers) = numbers(keys) else { return Ok(names.clone()) };
                let mut ranked: Vec<usize> = (0..keys.len()).collect();
                ranked.sort_by_key(|place| numbers[*place]);
                if let Some(pair) = ranked.windows(2).find(|pair| numbers[pair[0]] == numbers[pair[1]]) {
                    return Err(Error::input(format!(
                        "{} (data.class_names) names classes by number, and '{}' and '{}' are the same",
                        self.file, keys[pair[0]], keys[pair[1]]
                    )));
                }
                let mut of_keys = vec![String::new(); keys.len()];
                ranked.into_iter().zip(names).for_each(|(place, name)| of_keys[place].clone_from(name));
                Ok(of_keys)
            }
            Names::InOrder(names) => Err(Error::input(format!(
                "{}: found {} names, one a line, but the data set has {} classes{}",
                self.file,
                names.len(),
                keys.len(),
                keys.get(names.len()).map(|key| format!("; the first without a name is '{key}'")).unwrap_or_default()
            ))),
            Names::OfKey(names) => {
                let name = |key: &String| {
                    names.get(key).cloned().ok_or_else(|| {
                        let near = nearest(key, names.keys().map(String::as_str));
                        let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
                        Error::input(format!(
                            "{} (data.class_names): there is no name for the class '{key}'{hint}",
                            self.file
                        ))
                    })
                };
                keys.iter().map(name).collect()
            }
        }
    }

    /// Fails where the lines of a list in order begin with the classes' keys, and no tab parts them.
    fn check_keys(&self, names: &[String], keys: &[String]) -> Result<()> {
        let known: HashSet<&str> = keys.iter().map(String::as_str).collect();
        let begins = |name: &String| {
            name.split([' ', ',', ':', ';']).next().is_some_and(|word| word != name && known.contains(word))
        };
        if keys.len() > 1 && names.iter().all(begins) {
            return Err(Error::input(format!(
                "{}, line 1: found '{}', which begins with what the data set calls a class; expected a tab behind it, or the names alone",
                self.file, names[0]
            )));
        }
        Ok(())
    }
}

/// Fails where the lines of a list are no names as a prompt wants them: all in quotes, or all with their numbers in front.
fn check_plain(file: &str, names: &[String]) -> Result<()> {
    let refuse = |what: &str| Err(Error::input(format!("{file}, line 1: found '{}', {what}", names[0])));
    let in_quotes = |name: &String| name.starts_with(['"', '\'']) && name.trim_end_matches(',').ends_with(['"', '\'']);
    if names.iter().all(in_quotes) {
        return refuse("expected a name without quotes around it");
    }
    let number_of = |name: &String| {
        let digits = name.bytes().take_while(u8::is_ascii_digit).count();
        let parted = name[digits..].starts_with([' ', ',', ':', ';', '.', ')']);
        name[..digits].parse::<usize>().ok().filter(|_| parted && name.len() > digits + 1)
    };
    let numbers: Option<Vec<usize>> = names.iter().map(number_of).collect();
    if names.len() > 1
        && numbers.is_some_and(|numbers| numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) && numbers[0] <= 1)
    {
        return refuse("expected names without their numbers, or a tab between the class's key and its name");
    }
    Ok(())
}

/// A dictionary in its own order, each key as often as it stands there.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Pairs, D::Error> {
        struct AllPairs;
        impl<'de> Visitor<'de> for AllPairs {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a dictionary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(AllPairs)
    }
}

/// The names in a JSON text: `["tench", ...]`; `{"n01440764": "tench", ...}`, whose keys may be the numbers of classes;
/// `{"0": ["n01440764", "tench"], ...}` (Keras); `{"tench": 0, ...}` (torchvision's `class_to_idx`).
fn of_json(text: &str) -> Result<Names> {
    let no_json = |cause: serde_json::Error| {
        Error::input(format!("it begins as JSON and is none ({cause}); expected a name a line"))
    };
    let expected = || {
        Error::input(
            "expected a JSON list of names, or a dictionary from keys to names, from numbers to [key, name], or from names to numbers",
        )
    };
    let readable = |value: &Value| Some(with_spaces(value.as_str()?)).filter(|name| !name.is_empty());
    if text.trim_start().starts_with('[') {
        let names: Vec<Value> = serde_json::from_str(text).map_err(no_json)?;
        let names: Option<Vec<String>> = names.iter().map(readable).collect();
        return names.filter(|names| !names.is_empty()).map(Names::InOrder).ok_or_else(expected);
    }
    let Pairs(pairs) = serde_json::from_str(text).map_err(no_json)?;
    let mut known = HashSet::new();
    if let Some((twice, _)) = pairs.iter().find(|(key, _)| !known.insert(key.trim())) {
        return Err(Error::input(format!("the key '{twice}' is there twice")));
    }
    // By number, where the numbers are those from 0 on.
    let in_order = |numbered: Vec<(u64, String)>| {
        let sorted: BTreeMap<u64, String> = numbered.iter().cloned().collect();
        let is_whole = sorted.len() == numbered.len() && sorted.keys().copied().eq(0..numbered.len() as u64);
        is_whole.then(|| Names::InOrder(sorted.into_values().collect()))
    };
    let to_numbers = pairs.iter().map(|(name, number)| Some((number.as_u64()?, with_spaces(name))));
    let from_numbers = pairs.iter().map(|(number, name)| Some((number.trim().parse().ok()?, readable(name)?)));
    let of_keys = pairs.iter().map(|(key, name)| Some((key.trim().to_string(), readable(name)?)));
    let of_pairs = pairs.iter().map(|(_, pair)| match pair.as_array()?.as_slice() {
        [key, name] => Some((key.as_str()?.trim().to_string(), readable(name)?)),
        _ => None,
    });
    let (to_numbers, from_numbers): (Option<Vec<_>>, Option<Vec<_>>) = (to_numbers.collect(), from_numbers.collect());
    let (of_keys, of_pairs): (Option<Vec<_>>, Option<Vec<_>>) = (of_keys.collect(), of_pairs.collect());
    let keyed = |pairs: Vec<(String, String)>| {
        let names: HashMap<String, String> = pairs.iter().cloned().collect();
        (names.len() == pairs.len()).then_some(Names::OfKey(names))
    };
    let in_order = to_numbers.and_then(in_order).or_else(|| from_numbers.and_then(in_order));
    let found = in_order.or_else(|| of_keys.or(of_pairs).and_then(keyed));
    found.filter(|_| !pairs.is_empty()).ok_or_else(expected)
}

/// The numbers that keys are, if all are whole numbers.
fn numbers(keys: &[String]) -> Option<Vec<u64>> {
    let number = |key: &String| key.bytes().all(|byte| byte.is_ascii_digit()).then(|| key.parse().ok())?;
    keys.iter().map(number).collect()
}

/// Puts the classes of a data set that are called by their folders in order: of their numbers, where all are whole numbers and the
/// setting `class_names` is a list of names in order; else of their texts, as ImageFolder.
pub(crate) fn sort(class_names: &str, keys: &mut [String]) -> Result<()> {
    keys.sort();
    let in_order = ClassNames::find(class_names)?.is_some_and(|list| list.len().is_some());
    if let (true, Some(_)) = (in_order, numbers(keys)) {
        keys.sort_by_cached_key(|key| key.parse::<u64>().expect("all are numbers"));
    }
    Ok(())
}

/// The readable names of the classes `keys` by the setting `class_names`; without one, the keys with spaces for underscores.
pub(crate) fn readable(class_names: &str, keys: &[String]) -> Result<Vec<String>> {
    match ClassNames::find(class_names)? {
        Some(names) => names.of(keys),
        None => Ok(keys.iter().map(|key| with_spaces(key)).collect()),
    }
}

/// What is to be told of the names of a data set's classes and domains: classes that share a readable name, names that are nearly the
/// same, classes without a sample, numbers that are not in their order, and names of the list that no class has.
pub(crate) fn notes(class_names: &str, dataset: &Dataset) -> Result<Vec<String>> {
    let Dataset { class_keys: keys, classes, domains, .. } = dataset;
    let mut notes = Vec::new();
    let mut of_name: HashMap<String, Vec<usize>> = HashMap::new();
    for (class, name) in classes.iter().enumerate() {
        // Texts lose their capitals before they are cut into tokens.
        of_name.entry(name.to_lowercase()).or_default().push(class);
    }
    let mut shared: Vec<Vec<usize>> = of_name.into_values().filter(|same| same.len() > 1).collect();
    shared.sort();
    if !shared.is_empty() {
        let told = shared.iter().map(|same| {
            let own: Vec<&str> = same.iter().map(|class| keys[*class].as_str()).collect();
            format!("'{}' ({})", classes[same[0]], own.join(", "))
        });
        notes.push(format!(
            "{} of the classes' readable names belong to more than one class: {}; their prompts are the same, so that of such classes the \
             first alone is ever answered",
            shared.len(),
            first_of(told)
        ));
    }
    for (what, words) in [("classes", keys), ("domains", domains)] {
        let near = nearly_the_same(words);
        if !near.is_empty() {
            let told = near.iter().map(|(first, second)| format!("'{first}' and '{second}'"));
            notes.push(format!("{what} that differ by capitals, signs or spaces alone stay apart: {}", first_of(told)));
        }
    }
    let mut has_sample = vec![false; classes.len()];
    dataset.samples.iter().for_each(|sample| has_sample[sample.class.index()] = true);
    let without = keys.iter().zip(&has_sample).filter(|(_, has)| !**has).map(|(key, _)| format!("'{key}'"));
    let without: Vec<String> = without.collect();
    if !without.is_empty() && without.len() < classes.len() {
        notes.push(format!(
            "no sample of {} of the {} classes: {}",
            without.len(),
            classes.len(),
            first_of(without.into_iter())
        ));
    }
    let list = ClassNames::find(class_names)?;
    let numbers = numbers(keys).filter(|numbers| numbers.len() > 1);
    match (&list, numbers) {
        (Some(ClassNames { names: Names::InOrder(_), .. }), Some(numbers)) => {
            let (first, last) = (numbers.iter().min(), numbers.iter().max());
            if (first, last) != (Some(&0), Some(&(numbers.len() as u64 - 1))) {
                let place =
                    |number: Option<&u64>| numbers.iter().position(|one| Some(one) == number).unwrap_or_default();
                let told =
                    [place(first), place(last)].map(|class| format!("'{}' is '{}'", keys[class], classes[class]));
                notes.push(format!(
                    "the classes are not called 0 to {}; {class_names} names them in the order of their numbers: {}",
                    numbers.len() - 1,
                    told.join(", ")
                ));
            }
        }
        (_, Some(numbers)) if !numbers.is_sorted() => notes.push(format!(
            "the classes are called by numbers and stand in the order of texts: {}",
            first_of(keys.iter().map(|key| format!("'{key}'")))
        )),
        _ => {}
    }
    if let Some(ClassNames { file, names: Names::OfKey(names) }) = &list
        && !BUNDLED.iter().any(|(known, _)| known == file)
    {
        let known: HashSet<&str> = keys.iter().map(String::as_str).collect();
        let mut unused: Vec<&str> = names.keys().map(String::as_str).filter(|key| !known.contains(key)).collect();
        unused.sort();
        if !unused.is_empty() {
            let told = unused.iter().map(|key| format!("'{key}'"));
            notes.push(format!("{file}: {} of its names are of no class here: {}", unused.len(), first_of(told)));
        }
    }
    Ok(notes)
}

/// Pairs of names that would be one without capitals, signs, spaces and the two ways to write an accent: the first of each kind, and
/// another.
fn nearly_the_same(words: &[String]) -> Vec<(&str, &str)> {
    let mut known: HashMap<String, &str> = HashMap::new();
    let mut near = Vec::new();
    for word in words {
        let bare: String = word.nfkc().flat_map(char::to_lowercase).filter(|one| one.is_alphanumeric()).collect();
        // Of names of signs alone nothing is left.
        if bare.is_empty() {
            continue;
        }
        match known.get(&bare) {
            Some(first) => near.push((*first, word.as_str())),
            None => drop(known.insert(bare, word)),
        }
    }
    near
}

/// The first few for a message.
fn first_of(told: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = told.collect();
    let more = if all.len() > broken::SHOWN { ", ..." } else { "" };
    format!("{}{more}", all[..all.len().min(broken::SHOWN)].join(", "))
}

/// Classes that a data set knows by number alone: their keys `0`, `1`, ... and readable names. There are as many as the setting's
/// list has in its order, or else up to the largest of `labels`. A label beyond the list is an error at its `place`, and so is the
/// largest where there is no list and a class below has no label: one stray number would make many classes.
pub(crate) fn numbered(
    class_names: &str,
    labels: &[u32],
    place: impl Fn(usize) -> String,
) -> Result<(Vec<String>, Vec<String>)> {
    /// A label beyond is no class's: it would make a list of names of its own length.
    const MOST: u32 = 1 << 20;
    let list = ClassNames::find(class_names)?;
    let listed = list.as_ref().and_then(|list| list.len().or_else(|| list.numbers()));
    let bound = listed.map_or(MOST, |len| len as u32);
    if let Some(index) = labels.iter().position(|label| *label >= bound) {
        let why = listed.map(|len| format!(", as {class_names} has {len} names")).unwrap_or_default();
        let label = labels[index];
        return Err(Error::input(format!(
            "{}: the label {label} is out of range, expected 0 to {}{why}",
            place(index),
            bound - 1
        )));
    }
    if let (None, Some((index, largest))) = (&list, labels.iter().enumerate().max_by_key(|(_, label)| **label)) {
        let mut has_label = vec![false; *largest as usize + 1];
        labels.iter().for_each(|label| has_label[*label as usize] = true);
        if let Some(class) = has_label.iter().position(|has| !has) {
            return Err(Error::input(format!(
                "{}: the label is {largest}, but the class {class} has no sample; where that is right, data.class_names must list all \
                 classes",
                place(index)
            )));
        }
    }
    let count = listed.unwrap_or_else(|| labels.iter().max().map_or(0, |largest| *largest as usize + 1));
    let keys: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    let names = list.map_or_else(|| Ok(keys.clone()), |list| list.of(&keys))?;
    Ok((keys, names))
}

/// A key as a prompt wants it: `aircraft_carrier` becomes `aircraft carrier`.
fn with_spaces(key: &str) -> String {
    key.replace('_', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| key.to_string()).collect()
    }

    #[test]
    fn names_come_by_order_or_by_key() {
        assert_eq!(readable("", &keys(&["aircraft_carrier", "dog"])).unwrap(), ["aircraft carrier", "dog"]);
        let listed = ClassNames::parse("names.txt", "tench\ngoldfish, a fish\r\n\n").unwrap();
        assert_eq!(listed.of(&keys(&["n01", "n02"])).unwrap(), ["tench", "goldfish, a fish"]);
        let keyed = ClassNames::parse("names.tsv", "n02\tgoldfish\nn01\ttench\nn03\tshark\n").unwrap();
        assert_eq!(keyed.of(&keys(&["n01", "n02"])).unwrap(), ["tench", "goldfish"]);
        let numbers: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        assert_eq!(readable("cifar10", &numbers).unwrap()[9], "truck");
        assert_eq!(ClassNames::find("cifar100").unwrap().unwrap().len(), Some(100));
    }

    #[test]
    fn a_list_in_order_follows_numbers() {
        let of = |list: &str, folders: &[&str]| ClassNames::parse("n.txt", list).unwrap().of(&keys(folders));
        // The order of texts, as folders are listed.
        assert_eq!(of("zero\none\ntwo\nten", &["0", "1", "10", "2"]).unwrap(), ["zero", "one", "ten", "two"]);
        assert_eq!(of("zero\none", &["000", "001"]).unwrap(), ["zero", "one"]);
        assert_eq!(of("zero\none\ntwo", &["0", "b", "10"]).unwrap(), ["zero", "one", "two"]);
        let message = of("zero\none", &["1", "01"]).unwrap_err().to_string();
        assert_eq!(message, "n.txt (data.class_names) names classes by number, and '1' and '01' are the same");
        let sorted = |list: &str| {
            let mut sorted = keys(&["10", "9", "8", "7", "6", "5", "4", "3", "2", "1"]);
            sort(list, &mut sorted).unwrap();
            sorted.join(" ")
        };
        assert_eq!(sorted("cifar10"), "1 2 3 4 5 6 7 8 9 10");
        for other in ["", "imagenet"] {
            assert_eq!(sorted(other), "1 10 2 3 4 5 6 7 8 9");
        }
    }

    #[test]
    fn json_gives_names_by_order_and_by_key() {
        let of = |json: &str, folders: &[&str]| {
            ClassNames::parse("n.json", json)
                .and_then(|list| list.of(&keys(folders)))
                .map_err(|error| error.to_string())
        };
        let own = ["n01", "n02"];
        for json in [
            r#"["great_white shark", "crane"]"#,
            r#"{"1": "crane", "0": "great white shark"}"#,
            r#"{"crane": 1, "great_white_shark": 0}"#,
            r#"{"n02": "crane", "n01": "great_white_shark"}"#,
            r#"{"0": ["n01", "great_white_shark"], "1": ["n02", "crane"]}"#,
        ] {
            assert_eq!(of(json, &own).unwrap(), ["great white shark", "crane"], "{json}");
        }
        assert_eq!(of(r#"{"n01": "a", "n01": "b"}"#, &own).unwrap_err(), "n.json: the key 'n01' is there twice");
        for json in
            ["[]", "{}", "[1, 2]", r#"{"a": [1]}"#, r#"{"a": 0, "b": 0}"#, r#"{"0": ["n", "a"], "1": ["n", "b"]}"#]
        {
            assert!(of(json, &own).unwrap_err().starts_with("n.json: expected a JSON list of names"), "{json}");
        }
        assert!(of("['crane',\n 'shark']", &own).unwrap_err().starts_with("n.json: it begins as JSON and is none"));
    }

    #[test]
    fn lists_that_are_no_plain_names_are_refused() {
        let error = |text| {
            ClassNames::parse("n.txt", text).and_then(|list| list.of(&keys(&["n01", "n02"]))).unwrap_err().to_string()
        };
        assert!(error("tench\n\nshark\n").starts_with("n.txt, line 2: the line is empty"));
        assert!(error("\"tench\",\n\"shark\"\n").contains("without quotes around it"));
        assert!(error("0 tench\n1 shark\n").contains("names without their numbers"));
        assert!(error("1: tench\n2: shark\n").contains("names without their numbers"));
        assert!(error("n01 tench\nn02 shark\n").contains("expected a tab behind it"));
        // Names may begin with numbers of their own.
        ClassNames::parse("n.txt", "2 euro coin\n10 euro note\n").unwrap();
    }

    #[test]
    fn names_that_are_alike_are_told() {
        let dataset = |own: &[&str], names: &[&str]| {
            let images = crate::data::formats::files::PictureFiles { folder: Default::default(), paths: Vec::new() };
            let (own, names) = (keys(own), keys(names));
            let domains = keys(&["real", "Real"]);
            Dataset::new("test", names, domains, Vec::new(), String::new(), Box::new(images)).with_class_keys(own)
        };
        let of_domains =
            "domains that differ by capitals, signs or spaces alone stay apart: 'real' and 'Real'".to_string();
        let found = notes("", &dataset(&["n1", "n2", "n3", "n4"], &["crane", "maillot", "Crane", "maillot"])).unwrap();
        let shared = "2 of the classes' readable names belong to more than one class: 'crane' (n1, n3), 'maillot' (n2, n4); their prompts \
                      are the same, so that of such classes the first alone is ever answered";
        assert_eq!(found, [shared.to_string(), of_domains.clone()]);
        let accents = ["caf\u{e9}", "cafe\u{301}", "sea_lion", "Sea lion"];
        let found = notes("", &dataset(&accents, &["a", "b", "c", "d"])).unwrap();
        assert_eq!(
            found[0],
            "classes that differ by capitals, signs or spaces alone stay apart: 'caf\u{e9}' and 'cafe\u{301}', 'sea_lion' and 'Sea lion'"
        );
        let found = notes("", &dataset(&["0", "10", "2"], &["0", "10", "2"])).unwrap();
        assert_eq!(found[1], "the classes are called by numbers and stand in the order of texts: '0', '10', '2'");
        assert_eq!(notes("", &dataset(&["a", "b"], &["a", "b"])).unwrap(), [of_domains]);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let list = file("in-order.txt", "\u{feff}one\r\ntwo\r\n");
        let of = |own: &[&str]| {
            notes(
                &list,
                &dataset(own, &readable(&list, &keys(own)).unwrap().iter().map(String::as_str).collect::<Vec<_>>()),
            )
        };
        assert!(of(&["1", "2"]).unwrap()[1].ends_with("in the order of their numbers: '1' is 'one', '2' is 'two'"));
        assert_eq!(of(&["0", "1"]).unwrap().len(), 1);
        let list = file("by-key.tsv", "a\tone\nb\ttwo\nc\tthree\n");
        assert!(
            notes(&list, &dataset(&["a", "b"], &["one", "two"])).unwrap()[1]
                .ends_with("1 of its names are of no class here: 'c'")
        );
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_class() {
        let error = |text| ClassNames::parse("n.tsv", text).map(|_| ()).unwrap_err().to_string();
        assert!(error("a\tb\nc").starts_with("n.tsv, line 2: found no tab"));
        assert_eq!(error("a\tb\nc\t"), "n.tsv, line 2: expected the class's key, one tab, and its readable name");
        assert_eq!(error("a\tb\na\tc"), "n.tsv, line 2: the class 'a' stands already on line 1");
        assert!(error("\n").contains("found no names"));
        let keyed = ClassNames::parse("n.tsv", "n01440764\ttench").unwrap();
        let message = keyed.of(&keys(&["n01440765"])).unwrap_err().to_string();
        assert_eq!(
            message,
            "n.tsv (data.class_names): there is no name for the class 'n01440765'; did you mean 'n01440764'?"
        );
        let message = readable("cifar10", &keys(&["x"; 11])).unwrap_err().to_string();
        assert_eq!(
            message,
            "cifar10: found 10 names, one a line, but the data set has 11 classes; the first without a name is 'x'"
        );
        assert!(readable("cifar", &[]).unwrap_err().to_string().contains("did you mean 'cifar10'"));
        assert!(readable("no/such.txt", &[]).unwrap_err().to_string().starts_with("cannot read no/such.txt"));
    }

    #[test]
    fn labels_by_number_stay_in_range() {
        let place = |index: usize| format!("t.csv, line {}", index + 2);
        let (keys, names) = numbered("", &[1, 0, 3, 2], place).unwrap();
        assert_eq!((keys.len(), names[3].as_str()), (4, "3"));
        let message = numbered("", &[0, 3, 1], place).unwrap_err().to_string();
        assert!(message.starts_with("t.csv, line 3: the label is 3, but the class 2 has no sample;"), "{message}");
        assert_eq!(numbered("", &[], place).unwrap().0.len(), 0);
        assert_eq!(numbered("cifar10", &[0, 1], place).unwrap().1[1], "automobile");
        let message = numbered("cifar10", &[0, 10], place).unwrap_err().to_string();
        assert_eq!(message, "t.csv, line 3: the label 10 is out of range, expected 0 to 9, as cifar10 has 10 names");
        // All that a list of numbered keys names, whether a sample has it or not.
        let (keys, names) = numbered("imagenet-v2", &[3], place).unwrap();
        assert_eq!((keys.len(), names[999].as_str()), (1000, "toilet paper"));
        assert!(numbered("", &[u32::MAX], place).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_list_or_an_error(text in "[a-c\t\n\r é]{0,40}|[{\\[]([\"0-2ab:,\\[\\]{} ]{0,30})") {
            if let Ok(names) = ClassNames::parse("n", &text) {
                let _ = names.of(&keys(&["a", "b"]));
            }
        }
    }
}
