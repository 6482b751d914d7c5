//! Where a sample's time comes from: its `json`, the path of its shard, or lists of UIDs.

use std::path::Path;

use regex::Regex;

use super::super::index::Stamp;
use super::super::time;
use super::WebDatasetSettings;
use super::sources::matching;
use super::uids::UidList;
use crate::error::{Error, Result, unknown};

/// What tells the time of a shard's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeOf {
    /// There are no times.
    Nothing,
    /// The shard's path: all are of this year.
    Year(i32),
    Json,
    Uids,
}

/// Years by all means that the settings name.
#[derive(Debug)]
pub(crate) struct Times {
    patterns: Vec<Pattern>,
    /// For shards that no pattern is for; a year stands for the one in the path.
    other: Option<TimeOf>,
    key: String,
    /// By year.
    lists: Vec<(i32, String, UidList)>,
}

impl Times {
    /// Fails when the settings contradict one another, when a pattern is none, or when a list of UIDs cannot be read.
    pub(crate) fn open(folder: &Path, settings: &WebDatasetSettings) -> Result<Times> {
        let WebDatasetSettings { time, time_from, time_pattern, time_uids, .. } = settings;
        let patterns = parsed(time_pattern).map_err(|error| error.at("data.webdataset.time_pattern"))?;
        let missing = |key: &str, what: &str| {
            Err(Error::input(format!(
                "data.webdataset.time_from is \"{time_from}\", but {key} is empty; it must name {what}"
            )))
        };
        let other = match time_from.as_str() {
            "" if !time_uids.is_empty() => Some(TimeOf::Uids),
            "" if !time.is_empty() => Some(TimeOf::Json),
            "" if !patterns.is_empty() => None,
            "" => Some(TimeOf::Nothing),
            "json" if time.is_empty() => return missing("data.webdataset.time", "the key of the json"),
            "json" => Some(TimeOf::Json),
            "uids" if time_uids.is_empty() => {
                return missing("data.webdataset.time_uids", "the lists of UIDs, as in {year}.npy");
            }
            "uids" => Some(TimeOf::Uids),
            "path" => None,
            other => {
                return Err(unknown("source of times", other, ["json", "path", "uids"]).at("data.webdataset.time_from"));
            }
        };
        let mut lists = Vec::new();
        if other == Some(TimeOf::Uids) {
            for pattern in parsed(time_uids).map_err(|error| error.at("data.webdataset.time_uids"))? {
                for path in matching(folder, &pattern.glob()).map_err(|error| error.at("data.webdataset.time_uids"))? {
                    let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                    if let Some(year) = pattern.year_of(&name) {
                        lists.push((year, name, UidList::open(&path)?));
                    }
                }
            }
            lists.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            if lists.is_empty() {
                return Err(Error::input(format!(
                    "data.webdataset.time_uids: '{time_uids}' matches no list in {} that has a year in its name",
                    folder.display()
                )));
            }
        }
        Ok(Times { patterns, other, key: time.clone(), lists })
    }

    /// The key of the `json` with the time.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// What tells the times of a shard. Fails when its path must and does not.
    pub(crate) fn of_shard(&self, name: &str) -> Result<TimeOf> {
        if let Some(year) = self.patterns.iter().find_map(|pattern| pattern.year_of(name)) {
            return Ok(TimeOf::Year(year));
        }
        if let Some(other) = self.other {
            return Ok(other);
        }
        let advice = "data.webdataset.time_pattern says where it stands, as in train/{year}/*.tar";
        if !self.patterns.is_empty() {
            let patterns: Vec<&str> = self.patterns.iter().map(|pattern| pattern.text.as_str()).collect();
            let what = "no pattern of data.webdataset.time_pattern is for its path";
            return Err(Error::input(format!("the shard {name}: {what} ({})", patterns.join(", "))));
        }
        match years_in(name).as_slice() {
            [year] => Ok(TimeOf::Year(*year)),
            [] => Err(Error::input(format!("the shard {name}: there is no year in its path; {advice}"))),
            [first, second, ..] => Err(Error::input(format!(
                "the shard {name}: there are several years in its path, {first} and {second}; {advice}"
            ))),
        }
    }

    /// The year of a UID, the earliest where it is in several lists, and in how many of them it is.
    pub(crate) fn of_uid(&self, uid: u128) -> (Option<i32>, u32) {
        let mut found = self.lists.iter().filter(|(_, _, list)| list.holds(uid)).map(|(year, ..)| *year);
        let first = found.next();
        (first, u32::from(first.is_some()) + found.count() as u32)
    }

    /// How many lists of UIDs there are.
    pub(crate) fn lists(&self) -> usize {
        self.lists.len()
    }

    /// The lists as they are now: an index that was made with others is another.
    pub(crate) fn stamps(&self, folder: &Path) -> Result<Vec<Stamp>> {
        self.lists.iter().map(|(_, name, _)| Stamp::of(folder, name)).collect()
    }
}

/// Paths with a place for the year: `train/{year}/*.tar`, `{yyyymm}/*.tar`, or, of one year each, `*_batch_0__*.tar=2008`.
#[derive(Debug)]
struct Pattern {
    text: String,
    path: Regex,
    year: Option<i32>,
}

/// The places that a pattern may have, and what stands there.
const PLACES: [(&str, &str); 2] = [("{year}", "([0-9]{4})"), ("{yyyymm}", "([0-9]{4})(?:0[1-9]|1[0-2])")];

fn parsed(patterns: &str) -> Result<Vec<Pattern>> {
    let each = patterns.split("::").map(str::trim).filter(|text| !text.is_empty());
    each.map(|text| Pattern::parse(text).map_err(|error| error.at(format!("'{text}'")))).collect()
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern> {
        let given = text.rsplit_once('=').and_then(|(path, year)| Some((path, year.parse::<i32>().ok()?)));
        let (path, year) = given.map_or((text, None), |(path, year)| (path, Some(year)));
        let mut regex = String::new();
        let (mut rest, mut places) = (path, 0);
        while !rest.is_empty() {
            if let Some((place, digits)) = PLACES.iter().find(|(place, _)| rest.starts_with(place)) {
                regex += digits;
                places += 1;
                rest = &rest[place.len()..];
                continue;
            }
            let wild = [("**/", "(?:.*/)?"), ("**", ".*"), ("*", "[^/]*"), ("?", "[^/]")];
            if let Some((sign, any)) = wild.iter().find(|(sign, _)| rest.starts_with(sign)) {
                regex += any;
                rest = &rest[sign.len()..];
                continue;
            }
            let letter = rest.chars().next().expect("something is left");
            if "{}".contains(letter) {
                return Err(Error::input("a pattern has {year} or {yyyymm}, and no other braces"));
            }
            regex += &regex::escape(&letter.to_string());
            rest = &rest[letter.len_utf8()..];
        }
        if places != usize::from(year.is_none()) {
            return Err(Error::input(
                "a pattern has one {year} or {yyyymm}, as in train/{year}/*.tar, or ends with the year, as in old/*.tar=2014",
            ));
        }
        // A command names its file among other words.
        let path = Regex::new(&format!(r#"(?:^|[/\s'"]){regex}(?:$|[\s'"])"#));
        let path = path.map_err(|_| Error::input("the pattern is too long"))?;
        Ok(Pattern { text: text.to_string(), path, year })
    }

    /// The same for the file system.
    fn glob(&self) -> String {
        let path =
            self.text.rsplit_once('=').filter(|_| self.year.is_some()).map_or(self.text.as_str(), |(path, _)| path);
        PLACES.iter().fold(path.to_string(), |path, (place, _)| path.replace(place, "*"))
    }

    /// The year of a path that the pattern is for.
    fn year_of(&self, path: &str) -> Option<i32> {
        let found = self.path.captures(path)?;
        self.year.or_else(|| found.get(1)?.as_str().parse().ok())
    }
}

/// The years in a path: those of its folders, or else of the file's name. A year is four digits (`2016`), six with a month or eight
/// with a day, from 1900 to 2099, between what are no digits.
fn years_in(path: &str) -> Vec<i32> {
    let of = |text: &str| -> Vec<i32> {
        let runs = text.split(|letter: char| !letter.is_ascii_digit()).filter(|run| [4, 6, 8].contains(&run.len()));
        let mut years: Vec<i32> = runs.filter_map(time::year).filter(|year| (1900..2100).contains(year)).collect();
        years.sort_unstable();
        years.dedup();
        years
    };
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let years = of(folders);
    if years.is_empty() { of(name) } else { years }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(change: impl FnOnce(&mut WebDatasetSettings)) -> Result<Times> {
        let mut settings = WebDatasetSettings::default();
        change(&mut settings);
        Times::open(Path::new("/nowhere"), &settings)
    }

    #[test]
    fn a_year_in_the_path_is_found() {
        let times = times(|settings| settings.time_from = "path".to_string()).unwrap();
        for (path, year) in [
            ("train/2016/00000000.tar", 2016),
            ("eval/datacompnet/2014/3.tar", 2014),
            ("monthly/train/201603/0001.tar", 2016),
            ("train/2016/2001.tar", 2016),
            ("test_batch_2014__3.tar", 2014),
            ("train_batch_2017__00000012.tar", 2017),
            ("pipe:aws s3 cp s3://bucket/train/2019/00000000.tar -", 2019),
        ] {
            assert_eq!(times.of_shard(path).unwrap(), TimeOf::Year(year), "{path}");
        }
        let message = |path: &str| times.of_shard(path).unwrap_err().to_string();
        assert!(message("train/00002016.tar").contains("no year in its path; data.webdataset.time_pattern says"));
        assert!(message("2014/2016/0.tar").contains("several years in its path, 2014 and 2016"));
    }

    #[test]
    fn patterns_say_where_it_stands() {
        let patterns = "*/{year}/**/*.tar::{yyyymm}.tar::*_batch_1__?.tar=2010";
        let times = times(|settings| settings.time_pattern = patterns.to_string()).unwrap();
        for (path, year) in [
            ("2001/2016/0.tar", Some(2016)),
            ("x/2016/a/b/2001.tar", Some(2016)),
            ("a/201603.tar", Some(2016)),
            ("201613.tar", None),
            ("shards/train_batch_1__7.tar", Some(2010)),
            ("train_batch_1__17.tar", None),
            ("pipe:cat '/d/x/2018/0.tar'", Some(2018)),
        ] {
            let found = times.of_shard(path).ok();
            assert_eq!(found, year.map(TimeOf::Year), "{path}");
        }
        assert!(
            times.of_shard("a.tar").unwrap_err().to_string().contains("no pattern of data.webdataset.time_pattern")
        );
    }

    #[test]
    fn settings_that_contradict_one_another_are_refused() {
        let message = |change: fn(&mut WebDatasetSettings)| times(change).unwrap_err().to_string();
        assert!(message(|s| s.time_from = "paht".to_string()).contains("did you mean 'path'"));
        assert!(message(|s| s.time_from = "json".to_string()).contains("data.webdataset.time is empty"));
        assert!(message(|s| s.time_from = "uids".to_string()).contains("{year}.npy"));
        for wrong in ["train/*.tar", "{year}/{yyyymm}", "{month}", "{year}.tar=2014", "a}b=2014"] {
            let settings = WebDatasetSettings { time_pattern: wrong.to_string(), ..WebDatasetSettings::default() };
            let message = Times::open(Path::new("."), &settings).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("data.webdataset.time_pattern: '{wrong}': a pattern has")),
                "{message}"
            );
        }
        assert!(message(|s| s.time_uids = "{year}.npy".to_string()).contains("matches no file in /nowhere"));
        // A key of the json remains what it was.
        let json = times(|s| s.time = "when".to_string()).unwrap();
        assert_eq!(json.of_shard("train/2016/0.tar").unwrap(), TimeOf::Json);
        assert_eq!(times(|_| ()).unwrap().of_shard("train/2016/0.tar").unwrap(), TimeOf::Nothing);
    }

    proptest! {
        #[test]
        fn any_pattern_is_fine_or_an_error(pattern in r"[a{}year*?\[(.=0-9:/ ]{0,24}|\PC{0,12}", path in r"[a0-9/_. -]{0,24}") {
            if let Ok(patterns) = parsed(&pattern) {
                prop_assert!(patterns.iter().filter_map(|pattern| pattern.year_of(&path)).count() <= patterns.len());
            }
            years_in(&path);
        }
    }
}
