//! From what a data set calls its classes (folders, labels) to the names that prompts want.
//!
//! The setting `data.class_names` is empty, the name of a bundled list, or a file. Without a tab in it, such a list has a readable
//! name on each line, in the order of the data set's own classes. With tabs it has `key<TAB>readable name` on each line, the key
//! being what the data set calls the class, in any order, and may name more classes than there are. Empty lines are left out.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result, nearest, unknown};

/// The lists that come with the program.
const BUNDLED: [(&str, &str); 4] = [
    ("cifar10", include_str!("../../presets/class_names/cifar10.txt")),
    ("cifar100", include_str!("../../presets/class_names/cifar100.txt")),
    ("imagenet", include_str!("../../presets/class_names/imagenet.tsv")),
    ("imagenet-v2", include_str!("../../presets/class_names/imagenet-v2.tsv")),
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
    pub fn find(name: &str) -> Result<Option<ClassNames>> {
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
        let text = std::fs::read_to_string(path).map_err(|cause| Error::reading(path, cause))?;
        ClassNames::parse(name, &text).map(Some)
    }

    /// Reads a list; `file` is its name in errors.
    pub fn parse(file: &str, text: &str) -> Result<ClassNames> {
        let lines = || {
            let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
            numbered.filter(|(_, line)| !line.trim().is_empty())
        };
        let wrong = |line: usize, what: String| Err(Error::input(format!("{file}, line {line}: {what}")));
        if lines().next().is_none() {
            return Err(Error::input(format!("{file}: found no names, expected one a line")));
        }
        if !text.contains('\t') {
            let names = lines().map(|(_, line)| line.trim().to_string()).collect();
            return Ok(ClassNames { file: file.to_string(), names: Names::InOrder(names) });
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
        Ok(ClassNames { file: file.to_string(), names: Names::OfKey(names) })
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
            Names::InOrder(names) if names.len() == keys.len() => Ok(names.clone()),
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
}

/// The readable names of the classes `keys` by the setting `class_names`; without one, the keys with spaces for underscores.
pub fn readable(class_names: &str, keys: &[String]) -> Result<Vec<String>> {
    match ClassNames::find(class_names)? {
        Some(names) => names.of(keys),
        None => Ok(keys.iter().map(|key| with_spaces(key)).collect()),
    }
}

/// Classes that a data set knows by number alone: their keys `0`, `1`, ... and readable names. There are as many as the setting's
/// list has in its order, or else up to the largest of `labels`. A label beyond the list is an error at its `place`, and so is the
/// largest where there is no list and a class below has no label: one stray number would make many classes.
pub fn numbered(
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
        let listed = ClassNames::parse("names.txt", "tench\n\ngoldfish, a fish\r\n").unwrap();
        assert_eq!(listed.of(&keys(&["n01", "n02"])).unwrap(), ["tench", "goldfish, a fish"]);
        let keyed = ClassNames::parse("names.tsv", "n02\tgoldfish\nn01\ttench\nn03\tshark\n").unwrap();
        assert_eq!(keyed.of(&keys(&["n01", "n02"])).unwrap(), ["tench", "goldfish"]);
        assert_eq!(readable("cifar10", &keys(&["0"; 10])).unwrap()[9], "truck");
        assert_eq!(ClassNames::find("cifar100").unwrap().unwrap().len(), Some(100));
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
        fn any_text_is_a_list_or_an_error(text in "[a-c\t\n\r é]{0,40}") {
            if let Ok(names) = ClassNames::parse("n", &text) {
                let _ = names.of(&keys(&["a", "b"]));
            }
        }
    }
}
