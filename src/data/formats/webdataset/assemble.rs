//! From the shards that were read to a data set.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use image::RgbImage;

use super::super::Source;
use super::List;
use super::captions::{Counted, lines};
use super::shard::{CAPTIONS, Damage, Entry, Met, PICTURES, Shard, Told};
use super::sources::ShardFile;
use super::times::TimeOf;
use crate::data::broken::{self, Broken};
use crate::data::text::class_names;
use crate::data::{Dataset, Images, Label, Sample, fingerprint, id_of};
use crate::error::{Error, Result};

/// A sample that the lists of UIDs know nothing of.
const IN_NO_LIST: &str = "in no list";

/// All that a data set is made of.
pub(crate) struct Parts<'a> {
    pub source: &'a Source,
    pub folder: &'a Path,
    pub files: Vec<ShardFile>,
    /// The lists of the settings, in the order of their files.
    pub lists: Vec<List>,
    /// One for each file, as are the times.
    pub shards: Vec<Shard>,
    pub times_of: Vec<TimeOf>,
    pub lists_of_uids: usize,
}

/// Pictures in shards.
struct ShardPictures {
    folder: PathBuf,
    files: Vec<ShardFile>,
    /// Of each sample: its shard, its key, and where the file of its picture begins and how many bytes it has.
    places: Vec<Place>,
}

type Place = (u32, Box<str>, (u64, u64));

impl Images for ShardPictures {
    fn load(&self, sample: usize) -> Result<RgbImage> {
        let (shard, key, (begin, len)) = &self.places[sample];
        let path = self.folder.join(&self.files[*shard as usize].path);
        let mut bytes = vec![0; *len as usize];
        File::open(&path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(*begin))?;
                file.read_exact(&mut bytes)
            })
            .map_err(|cause| Error::reading(&path, cause).because(broken::UNREADABLE))?;
        broken::decode_picture(&bytes).map_err(|error| error.at(format!("cannot read {}, {key}", path.display())))
    }

    fn name(&self, sample: usize) -> String {
        let (shard, key, _) = &self.places[sample];
        format!("{}, {key}", self.files[*shard as usize].name)
    }
}

/// What the samples of a list have.
struct Having {
    captions: bool,
    classes: bool,
    by_lines: bool,
}

/// The samples so far, and what was counted.
#[derive(Default)]
struct Samples {
    samples: Vec<Sample>,
    places: Vec<Place>,
    first_of_picture: Vec<u32>,
    labelled: Vec<bool>,
    labels: Vec<u32>,
    domains: Vec<String>,
    number_of_domain: HashMap<String, u32>,
    skipped: Broken,
    /// Samples that several lists of UIDs have, and a `json` that is none where nothing was wanted of it.
    in_several: Met,
    useless_json: Met,
}

/// Makes the data set; `notes` are told before what is found here.
pub(crate) fn assemble(parts: Parts, mut notes: Vec<String>) -> Result<Dataset> {
    let Parts { source, folder, files, lists, shards, times_of, .. } = &parts;
    let settings = &source.webdataset;
    let mut told = Told::default();
    shards.iter().for_each(|shard| told.merge(&shard.told));
    let hash = fingerprint([
        (
            "shards",
            serde_json::to_vec(&(files.iter().map(|file| &file.name).collect::<Vec<_>>(), lists))
                .expect("plain")
                .as_slice(),
        ),
        ("members", &serde_json::to_vec(shards).expect("entries are plain")),
        ("times", format!("{times_of:?}").as_bytes()),
        ("captions", format!("{:?}", settings.captions).as_bytes()),
        ("class names", source.class_names.as_bytes()),
    ]);
    let labels = Labels::of(shards.iter().flat_map(|shard| &shard.entries));
    let mut made = Samples::default();
    let mut first = 0;
    for list in lists {
        let own = first..first + list.shards;
        first = own.end;
        let entries = || shards[own.clone()].iter().flat_map(|shard| &shard.entries);
        let texts = || entries().filter_map(|entry| entry.caption.as_deref());
        let counted = Counted::of(texts());
        notes.extend(counted.note(&list.name, settings.captions));
        let having = Having {
            captions: texts().next().is_some(),
            classes: entries().any(|entry| entry.class.is_some()),
            by_lines: counted.by_lines(settings.captions),
        };
        for number in own {
            for (reason, what) in &shards[number].damage {
                made.skipped.add(reason, what);
            }
            for entry in &shards[number].entries {
                made.add(&parts, list, &having, &labels, (number, entry));
            }
        }
    }
    notes.extend(tell(&told, &made));
    let Samples { samples, places, first_of_picture, labelled, labels: numbers, mut domains, skipped, .. } = made;
    if samples.is_empty() {
        let counted = skipped.iter().map(|(reason, kind)| format!("{} {reason}, first {}", kind.count, kind.first[0]));
        let why: Vec<String> = counted.chain(notes).collect();
        let why = if why.is_empty() { "no member has the ending of a picture".to_string() } else { why.join("; ") };
        return Err(Error::input(format!("{}: nothing in the shards can be used: {why}", folder.display())));
    }
    let with_classes: Vec<usize> = (0..samples.len()).filter(|sample| labelled[*sample]).collect();
    let (keys, classes) = match &labels {
        Labels::None => (vec![String::new()], vec![String::new()]),
        Labels::Numbers { .. } => {
            let place = |label: usize| {
                let (shard, key, _) = &places[with_classes[label]];
                format!("{}, {key}.cls", files[*shard as usize].name)
            };
            let numbers: Vec<u32> = with_classes.iter().map(|sample| numbers[*sample]).collect();
            class_names::numbered(&source.class_names, &numbers, place)?
        }
        Labels::Names(names) => {
            let keys: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            let readable = class_names::readable(&source.class_names, &keys)?;
            (keys, readable)
        }
    };
    notes.extend(labels.note());
    if domains.iter().all(String::is_empty) {
        domains = vec!["webdataset".to_string()];
    }
    domains.iter_mut().filter(|domain| domain.is_empty()).for_each(|domain| *domain = "webdataset".to_string());
    let shares = first_of_picture.iter().zip(0..).any(|(first, sample)| *first != sample);
    let images = ShardPictures { folder: folder.to_path_buf(), files: files.clone(), places };
    let dataset = Dataset::new("webdataset", classes, domains, samples, hash, Box::new(images));
    let dataset = dataset.with_class_keys(keys).with_skipped(skipped).with_notes(notes);
    let dataset = if shares { dataset.with_shared_pictures(first_of_picture) } else { dataset };
    let mixed = labelled.contains(&true) && labelled.contains(&false);
    Ok(if mixed { dataset.with_labelled(labelled) } else { dataset })
}

impl Samples {
    /// Takes in a sample of the shard `number`, or counts why not.
    fn add(&mut self, parts: &Parts, list: &List, having: &Having, labels: &Labels, (number, entry): (usize, &Entry)) {
        let (settings, name) = (&parts.source.webdataset, &parts.files[number].name);
        let key = &entry.key;
        let has_none = |reason: &str| (reason.to_string(), format!("{name}, {key}: has none"));
        // What is missing since the json cannot be read has that for its reason.
        let of_json = |reason: &str, what: String| {
            let missing = || (reason.to_string(), format!("{name}, {key}: {what}"));
            entry.json_damage.clone().unwrap_or_else(missing)
        };
        let class = entry.class.as_deref().map(|label| labels.number(label));
        let time = match parts.times_of[number] {
            TimeOf::Nothing => Ok(0),
            TimeOf::Year(year) => Ok(year),
            TimeOf::Json => entry
                .time
                .ok_or_else(|| of_json(broken::MISSING_TIME, format!("no time under '{}' in its json", settings.time))),
            TimeOf::Uids => match (&entry.uid, entry.time) {
                (None, _) => {
                    Err(of_json(broken::MISSING_TIME, "no uid of 32 hexadecimal digits in its json".to_string()))
                }
                (Some((uid, _)), None) => {
                    let lists = parts.lists_of_uids;
                    Err((IN_NO_LIST.to_string(), format!("{name}, {key}: none of {lists} lists has its uid {uid}")))
                }
                (Some(_), Some(year)) => Ok(year),
            },
        };
        let domain = match &list.domain {
            Some(domain) => Ok(domain.as_str()),
            None if settings.domain.is_empty() => Ok(""),
            None => entry.domain.as_deref().ok_or_else(|| {
                of_json(broken::MISSING_DOMAIN, format!("no domain under '{}' in its json", settings.domain))
            }),
        };
        let damage: Option<Damage> = if entry.damage.is_some() {
            entry.damage.clone()
        } else if entry.image.is_none() {
            Some(has_none(broken::MISSING_IMAGE))
        } else if let Some(Err(what)) = &class {
            Some((broken::UNDECODABLE.to_string(), format!("{name}, {key}.cls: {what}")))
        } else if having.captions && entry.caption.is_none() {
            Some(of_json(broken::MISSING_CAPTION, "has none".to_string()))
        } else if having.classes && class.is_none() {
            Some(has_none(broken::MISSING_CLASS))
        } else {
            time.as_ref().err().or(domain.as_ref().err()).cloned()
        };
        if let Some((reason, what)) = damage {
            return self.skipped.add(&reason, what);
        }
        let (Ok(time), Ok(domain)) = (time, domain) else { unreachable!("it is damage") };
        if let Some((_, what)) = &entry.json_damage {
            self.useless_json.add(|| what.clone());
        }
        if let Some((uid, _)) = entry.uid.as_ref().filter(|(_, lists)| *lists > 1) {
            self.in_several.add(|| format!("{name}, {key}, {uid}"));
        }
        let label = class.and_then(Result::ok);
        let domain = *self.number_of_domain.entry(domain.to_string()).or_insert_with_key(|domain| {
            self.domains.push(domain.clone());
            self.domains.len() as u32 - 1
        });
        let text = entry.caption.as_deref().unwrap_or_default();
        let captions: Vec<&str> = if having.by_lines && !text.is_empty() { lines(text).collect() } else { vec![text] };
        let first = self.samples.len() as u32;
        for (line, caption) in captions.into_iter().enumerate() {
            let id = if line == 0 { id_of(&[name, key]) } else { id_of(&[name, key, &line.to_string()]) };
            let class = label.unwrap_or_default();
            self.samples.push(Sample {
                id,
                caption: caption.to_string(),
                class: Label(class),
                domain,
                time,
                split: list.split,
            });
            self.labels.push(class);
            self.labelled.push(label.is_some());
            self.first_of_picture.push(first);
            self.places.push((number as u32, key.clone(), entry.image.expect("there is a picture")));
        }
    }
}

/// What the classes of samples are called.
enum Labels {
    None,
    /// By their number; among them, by number, those that are written in several ways.
    Numbers {
        alike: BTreeMap<u32, BTreeSet<String>>,
    },
    /// By name, sorted.
    Names(Vec<Box<str>>),
}

impl Labels {
    /// Numbers where more than half of the samples' labels are, else names.
    fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Labels {
        let usable = entries.filter(|entry| entry.image.is_some() && entry.damage.is_none());
        let labels: Vec<&str> = usable.filter_map(|entry| entry.class.as_deref()).collect();
        let like_numbers = labels.iter().filter(|label| label.parse::<f64>().is_ok()).count();
        let by_number = 2 * like_numbers > labels.len();
        let labels: BTreeSet<&str> = labels.into_iter().collect();
        if labels.is_empty() {
            return Labels::None;
        }
        if !by_number {
            return Labels::Names(labels.into_iter().map(Box::from).collect());
        }
        let mut written = BTreeMap::<u32, BTreeSet<String>>::new();
        for label in labels {
            if let Some(number) = number_of(label) {
                written.entry(number).or_default().insert(label.to_string());
            }
        }
        written.retain(|_, ways| ways.len() > 1);
        Labels::Numbers { alike: written }
    }

    /// The number of a class, or what is wrong with its label.
    fn number(&self, label: &str) -> Result<u32, String> {
        match self {
            Labels::None => Err("no sample that can be used has a class".to_string()),
            Labels::Names(names) => Ok(names.partition_point(|name| **name < *label) as u32),
            Labels::Numbers { .. } => number_of(label).ok_or_else(|| {
                let found: String = label.escape_debug().take(60).collect();
                format!("found '{found}', expected the number of a class, as most labels are numbers")
            }),
        }
    }

    fn note(&self) -> Option<String> {
        match self {
            Labels::Numbers { alike } => {
                let (number, ways) = alike.first_key_value()?;
                let ways: Vec<String> = ways.iter().map(|way| format!("'{way}'")).collect();
                let (count, ways) = (alike.len(), ways.join(" and "));
                Some(format!("{count} classes have labels that are written in several ways: {ways} are both {number}"))
            }
            Labels::Names(names) => {
                let numbers: Vec<&Box<str>> = names.iter().filter(|name| name.parse::<f64>().is_ok()).collect();
                let first = numbers.first()?;
                let (count, all) = (numbers.len(), names.len());
                Some(format!("{count} of {all} labels are numbers (first '{first}'), and are names as the others are"))
            }
            Labels::None => None,
        }
    }
}

fn number_of(label: &str) -> Option<u32> {
    label.bytes().all(|byte| byte.is_ascii_digit()).then(|| label.parse().ok())?
}

/// What was passed over or read in another way than it stands there.
fn tell(told: &Told, made: &Samples) -> Vec<String> {
    let mut notes = Vec::new();
    if !told.others.is_empty() {
        let kinds: Vec<String> =
            told.others.iter().map(|(ending, met)| format!("{} {ending} (first {})", met.count, met.first)).collect();
        let with_dots = told.others.keys().any(|ending| {
            let last = ending.rsplit('.').next().unwrap_or_default();
            ending.starts_with(".*.") && (PICTURES.contains(&last) || CAPTIONS.contains(&last))
        });
        let why = match with_dots {
            true => {
                "; a key ends at the first dot of the name, so that photo.0.jpg is no picture of photo.0: rename it photo_0.jpg"
            }
            false => "",
        };
        notes.push(format!("members that are no part of a sample are passed over: {}{why}", kinds.join(", ")));
    }
    let mut note = |met: &Met, what: &str| {
        if met.count > 0 {
            notes.push(format!("{} {what} (first {})", met.count, met.first));
        }
    };
    note(&told.links, "members are links and read as what they point to");
    let order =
        format!("samples have several pictures, of which one is read: the first of {}, others", PICTURES.join(", "));
    note(&told.pictures, &order);
    let order = format!("samples have several texts, of which one is read: the first of {}", CAPTIONS.join(", "));
    note(&told.captions, &order);
    note(
        &told.odd_json,
        "json hold what Python alone writes: NaN, Infinity and the like are no value, halves of letters U+FFFD",
    );
    note(&made.useless_json, "json cannot be read, of samples that need nothing of it");
    note(&made.in_several, "samples are in several lists of UIDs, and the earliest year counts");
    notes
}
