//! The settings of methods: the table `[objective]` of a run's settings, put together from what each method declares.
//!
//! A method declares its settings once, in its own file, with [`method_settings!`](crate::method_settings): name, default, range and the line of docs/settings.md.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::entries;

/// A value of a setting; its kind is that of its default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Whole(u64),
    /// A number with a fraction.
    Number(f64),
    /// One of several words.
    Word(Word),
}

/// A word, and those that it could be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Word {
    words: &'static [&'static str],
    place: usize,
}

/// The values of a setting that chooses: an enum, in whose place its users write words.
pub trait Choice: Copy + 'static {
    /// A word for each value.
    const WORDS: &'static [&'static str];

    /// The values in the order of their words.
    const VALUES: &'static [Self];
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the table.
    pub name: &'static str,
    /// What it is where nobody says otherwise; its kind is that of all its values.
    pub default: Value,
    /// What its value must lie between; a flag is 0 or 1.
    pub range: (f64, f64),
    /// What docs/settings.md says of it.
    pub doc: &'static str,
}

/// Settings that stand together.
#[derive(Debug)]
pub struct Group {
    /// Their table under `[objective]`; empty where they stand in it themselves.
    pub table: &'static str,
    /// In the order in which they are declared.
    pub settings: &'static [Setting],
}

/// Declares a struct of settings, for the table `[objective.NAME]`, with its [`Group`](crate::method::settings::Group). It is known to its
/// module alone, or as far as a `pub` or `pub(crate)` before its name says. A setting is an `f64` or a `usize` with its default and the range
/// of its values, or a `bool` or a [`Choice`](crate::method::settings::Choice) with its default alone; its comment is what
/// docs/settings.md says of it.
///
/// ```
/// perennial::method_settings! {
///     EwcSettings in "ewc" {
///         /// strength of the penalty
///         lambda: f64 = 1000.0, 0.0..=1e12;
///     }
/// }
/// assert_eq!(EwcSettings::default().lambda, 1000.0);
/// ```
#[macro_export]
macro_rules! method_settings {
    (@value f64 $value:literal) => { $crate::method::settings::Value::Number($value) };
    (@value usize $value:literal) => { $crate::method::settings::Value::Whole($value) };
    (@value bool $value:literal) => { $crate::method::settings::Value::Flag($value) };
    (@value $choice:ident $value:literal) => { $crate::method::settings::Value::word::<$choice>($value) };
    (@read f64 $value:expr) => { $value.number() };
    (@read usize $value:expr) => { $value.number() as usize };
    (@read bool $value:expr) => { $value.number() != 0.0 };
    (@read $choice:ident $value:expr) => { $value.choice::<$choice>() };
    (@range $low:literal..=$high:expr) => { ($low, $high) };
    (@range) => { (0.0, f64::INFINITY) };
    ($(#[$meta:meta])* $visible:vis $name:ident in $table:literal {
        $($(#[doc = $doc:literal])+ $key:ident: $kind:ident = $default:literal $(, $low:literal..=$high:expr)?;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        $visible struct $name {
            $($(#[doc = $doc])+ pub $key: $kind,)*
        }

        impl $name {
            $visible const GROUP: $crate::method::settings::Group = $crate::method::settings::Group {
                table: $table,
                settings: &[$($crate::method::settings::Setting {
                    name: stringify!($key),
                    default: $crate::method_settings!(@value $kind $default),
                    range: $crate::method_settings!(@range $($low..=$high)?),
                    doc: concat!($($doc),+).trim_ascii(),
                }),*],
            };

            /// As `settings` have them.
            $visible fn of(settings: &$crate::method::settings::Settings) -> $name {
                $name {
                    $($key: $crate::method_settings!(@read $kind settings.get($table, stringify!($key))),)*
                }
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($key: $crate::method_settings!(@read $kind $crate::method_settings!(@value $kind $default)),)* }
            }
        }
    };
}

impl Value {
    /// The word for one of the values of `C`. Fails to compile, in a constant, where there is no such word.
    pub const fn word<C: Choice>(word: &str) -> Value {
        let mut place = 0;
        while !is_same(C::WORDS[place], word) {
            place += 1;
        }
        Value::Word(Word { words: C::WORDS, place })
    }

    /// Flags are 0 or 1, words the number of those before them.
    pub fn number(self) -> f64 {
        match self {
            Value::Flag(flag) => f64::from(u8::from(flag)),
            Value::Whole(whole) => whole as f64,
            Value::Number(number) => number,
            Value::Word(word) => word.place as f64,
        }
    }

    /// What a word stands for. Panics where it is none of `C`: a bug of the caller.
    pub fn choice<C: Choice>(self) -> C {
        C::VALUES[self.number() as usize]
    }

    /// A value of the same kind.
    fn like(self, number: f64) -> Value {
        match self {
            Value::Flag(_) => Value::Flag(number != 0.0),
            Value::Whole(_) => Value::Whole(number as u64),
            Value::Number(_) => Value::Number(number),
            Value::Word(word) => Value::Word(Word { place: number as usize, ..word }),
        }
    }
}

/// `==` of strings, in constants.
const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut place = 0;
    while place < one.len() && place < other.len() && one[place] == other[place] {
        place += 1;
    }
    place == one.len() && place == other.len()
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.words[self.place])
    }
}

/// The value of every setting that some method has.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    tables: Vec<Table>,
}

#[derive(Clone, Debug, PartialEq)]
struct Table {
    name: &'static str,
    values: Vec<(&'static Setting, Value)>,
}

impl PartialEq for Setting {
    /// There is one of each.
    fn eq(&self, other: &Setting) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        let mut tables: Vec<Table> = vec![Table { name: "", values: Vec::new() }];
        for group in entries().iter().flat_map(|entry| entry.settings) {
            let values = group.settings.iter().map(|setting| (setting, setting.default));
            match tables.iter_mut().find(|table| table.name == group.table) {
                Some(table) => table
                    .values
                    .extend(values.filter(|(setting, _)| table.get(setting.name).is_none()).collect::<Vec<_>>()),
                None => tables.push(Table { name: group.table, values: values.collect() }),
            }
        }
        Settings { tables }
    }
}

impl Table {
    fn get(&self, name: &str) -> Option<Value> {
        self.values.iter().find(|(setting, _)| setting.name == name).map(|(_, value)| *value)
    }

    /// Takes the value of the setting `name` from `map`.
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        let known = self.values.iter_mut().find(|(setting, _)| setting.name == name);
        let (_, value) = known.ok_or_else(|| A::Error::custom(format!("unknown field `{name}`")))?;
        *value = match value {
            Value::Flag(_) => Value::Flag(map.next_value()?),
            Value::Whole(_) => Value::Whole(map.next_value()?),
            Value::Number(_) => Value::Number(map.next_value()?),
            Value::Word(word) => {
                let given: String = map.next_value()?;
                let place = word.words.iter().position(|known| *known == given);
                let wrong = || A::Error::unknown_variant(&given, word.words);
                Value::Word(Word { place: place.ok_or_else(wrong)?, ..*word })
            }
        };
        Ok(())
    }
}

impl Settings {
    /// The setting `name` in `table`. Panics where no method has one: a bug of the caller.
    pub fn get(&self, table: &str, name: &str) -> Value {
        let found = self.tables.iter().find(|known| known.name == table).and_then(|table| table.get(name));
        found.unwrap_or_else(|| panic!("no method declares objective.{table}.{name}"))
    }

    /// The number at a dotted key, as `lambda` or `lwf.mu`; flags are 0 or 1.
    pub fn number(&self, key: &str) -> f64 {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        self.get(table, name).number()
    }

    /// Sets the number at a dotted key. Panics where no method has one: a bug of the caller.
    pub fn set(&mut self, key: &str, number: f64) {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let table = self.tables.iter_mut().find(|known| known.name == table);
        let value = table.and_then(|table| table.values.iter_mut().find(|(setting, _)| setting.name == name));
        let (_, value) = value.unwrap_or_else(|| panic!("no method declares objective.{key}"));
        *value = value.like(number);
    }

    /// Takes back to its default what none of `groups` declares.
    pub(crate) fn keep(&mut self, groups: &[Group]) {
        for table in &mut self.tables {
            let own = groups.iter().filter(|group| group.table == table.name);
            let own: Vec<&str> = own.flat_map(|group| group.settings).map(|setting| setting.name).collect();
            let others = table.values.iter_mut().filter(|(setting, _)| !own.contains(&setting.name));
            others.for_each(|(setting, value)| *value = setting.default);
        }
    }

    /// Every setting with its key in a run's settings and its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (String, &'static Setting, Value)> {
        self.tables.iter().flat_map(|table| {
            let within =
                if table.name.is_empty() { "objective".to_string() } else { format!("objective.{}", table.name) };
            table.values.iter().map(move |(setting, value)| (format!("{within}.{}", setting.name), *setting, *value))
        })
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for table in &self.tables {
            if table.name.is_empty() {
                table.values.iter().try_for_each(|(setting, value)| map.serialize_entry(setting.name, value))?;
            } else {
                map.serialize_entry(table.name, table)?;
            }
        }
        map.end()
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.values.iter().map(|(setting, value)| (setting.name, value)))
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
        deserializer.deserialize_map(OfMethods)
    }
}

/// Reads a table over the defaults.
struct OfMethods;

impl<'de> Visitor<'de> for OfMethods {
    type Value = Settings;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a table of methods' settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
        let mut settings = Settings::default();
        while let Some(key) = map.next_key::<String>()? {
            match settings.tables.iter_mut().find(|table| !table.name.is_empty() && table.name == key) {
                Some(table) => map.next_value_seed(OfTable(table))?,
                None => settings.tables[0].take(&key, &mut map)?,
            }
        }
        Ok(settings)
    }
}

/// Reads one method's table.
struct OfTable<'a>(&'a mut Table);

impl<'de> serde::de::DeserializeSeed<'de> for OfTable<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OfTable<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "a table of the settings of {}", self.0.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            self.0.take(&key, &mut map)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_over_the_defaults_and_written_whole() {
        let text = "lambda = 2\nhinge = false\nweighting = \"sample\"\n[cassle]\nhidden = 16\n";
        let settings: Settings = toml::from_str(text).unwrap();
        assert_eq!(
            ["lambda", "hinge", "weighting", "cassle.hidden", "cassle.tau"].map(|key| settings.number(key)),
            [2.0, 0.0, 2.0, 16.0, 0.1]
        );
        assert_eq!(toml::from_str::<Settings>(&toml::to_string(&settings).unwrap()).unwrap(), settings);
        for wrong in [
            "lambdas = 2",
            "hinge = 1",
            "weighting = 1",
            "weighting = \"\"",
            "[cassle]\nhidden = 1.5",
            "[cassle]\nheight = 1",
            "cassle = 3",
        ] {
            assert!(toml::from_str::<Settings>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_default_lies_in_its_range() {
        for (key, setting, value) in Settings::default().iter() {
            assert!((setting.range.0..=setting.range.1).contains(&value.number()), "{key}");
        }
    }
}
