//! One shard: its members, and the samples that they make.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::index::Stamp;
use super::super::time;
use super::MOST_IMAGE;
use super::foreign;
use super::json::Object;
use super::sources::ShardFile;
use super::times::{TimeOf, Times};
use super::uids;
use crate::data::broken;
use crate::data::images::picture::ENDINGS;
use crate::error::{Error, Result};
use crate::files::decode_text;

/// A member that there is already.
const DUPLICATE: &str = "duplicate";

/// Bytes of a caption, a class or a `json`, at most.
const MOST_TEXT: u64 = 1 << 20;
/// A tar file is made of blocks of so many bytes.
const BLOCK: u64 = 512;
/// Bytes of zeros after the end of a shard, at most: tar fills up its last record, of 10 KiB unless another size is asked for.
/// More is a file whose room was taken before its bytes came.
pub(super) const MOST_PADDING: u64 = 1 << 20;

/// Endings of pictures in the order in which one is chosen of several in a sample; the others follow.
pub(crate) const PICTURES: [&str; 4] = ["jpg", "png", "jpeg", "webp"];
/// Endings of captions, likewise; the `json` comes last.
pub(crate) const CAPTIONS: [&str; 3] = ["txt", "text", "caption"];

/// A sample as its shard tells it. Of a sample with `damage` nothing else counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub key: Box<str>,
    /// Where the picture's file begins in the shard, and its bytes.
    pub image: Option<(u64, u64)>,
    /// The whole text, of one line or of several.
    pub caption: Option<Box<str>>,
    /// What stands in its `cls`.
    pub class: Option<Box<str>>,
    pub domain: Option<Box<str>>,
    pub time: Option<i32>,
    /// Where the time comes from lists of UIDs: what was looked for, and in how many of them it is.
    pub uid: Option<(Box<str>, u32)>,
    pub damage: Option<Damage>,
    /// What is wrong with its `json`: it costs what was wanted of that, and no more.
    pub json_damage: Option<Damage>,
}

/// Why something cannot be used: the reason by which it is counted, and what it is.
pub(crate) type Damage = (String, String);

/// How often something was met, and the first of it by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Met {
    pub count: u64,
    pub first: String,
}

impl Met {
    pub(crate) fn add(&mut self, first: impl FnOnce() -> String) {
        self.merge(&Met { count: 1, first: if self.count == 0 { first() } else { String::new() } });
    }

    pub(crate) fn merge(&mut self, other: &Met) {
        if self.count == 0 {
            self.first = other.first.clone();
        }
        self.count += other.count;
    }
}

/// What was passed over or read in another way than it stands there, in a shard or in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Members that are no part of a sample, by their ending.
    pub others: BTreeMap<String, Met>,
    /// Members that point to others and are read as those.
    pub links: Met,
    /// Samples with several pictures, and with several captions.
    pub pictures: Met,
    pub captions: Met,
    /// A `json` with what Python alone writes.
    pub odd_json: Met,
}

impl Told {
    /// Kinds of endings that are told apart; the rest counts together. Shards may have as many as members.
    const MOST_ENDINGS: usize = 8;

    pub(crate) fn merge(&mut self, other: &Told) {
        for (ending, met) in &other.others {
            self.other(ending).merge(met);
        }
        for (met, more) in [
            (&mut self.links, &other.links),
            (&mut self.pictures, &other.pictures),
            (&mut self.captions, &other.captions),
            (&mut self.odd_json, &other.odd_json),
        ] {
            met.merge(more);
        }
    }

    fn other(&mut self, ending: &str) -> &mut Met {
        let room = self.others.len() < Self::MOST_ENDINGS || self.others.contains_key(ending);
        self.others.entry(if room { ending } else { "..." }.to_string()).or_default()
    }
}

/// What a shard holds, in the order of each sample's first member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shard {
    pub entries: Vec<Entry>,
    /// Damage that belongs to no sample in particular.
    pub damage: Vec<Damage>,
    pub told: Told,
}

/// What a member of a sample is; of pictures and captions, the place of its ending in the order of choice.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Image(usize),
    Caption(usize),
    Class,
    Json,
}

impl Part {
    fn of(ending: &str) -> Option<Part> {
        let ending = ending.to_ascii_lowercase();
        let place = |endings: &[&str]| endings.iter().position(|known| *known == ending);
        match ending.as_str() {
            "cls" => Some(Part::Class),
            "json" => Some(Part::Json),
            // A picture's ending is one word: `seg.png` is another thing of the same sample.
            _ => {
                let other = || place(&ENDINGS).map(|place| PICTURES.len() + place);
                let image = place(&PICTURES).or_else(other).map(Part::Image);
                image.or_else(|| place(&CAPTIONS).map(Part::Caption))
            }
        }
    }
}

impl Shard {
    /// Whether all pictures that may be loaded lie within a shard of this stamp and are not too large: an index that was kept may
    /// have been written by another program.
    pub(crate) fn fits(&self, stamp: &Stamp) -> bool {
        let within = |(begin, len): (u64, u64)| {
            len <= MOST_IMAGE && begin.checked_add(len).is_some_and(|end| end <= stamp.bytes())
        };
        self.entries.iter().all(|entry| entry.damage.is_some() || entry.image.is_none_or(within))
    }

    /// Reads the headers of a shard, and its texts. `domain` is the key of the `json` that tells a sample's domain.
    pub(crate) fn read(folder: &Path, source: &ShardFile, domain: &str, times: &Times) -> Result<Shard> {
        let path = folder.join(&source.path);
        let wrong = |cause: std::io::Error| Error::reading(&path, cause);
        let mut file = File::open(&path).map_err(wrong)?;
        let bytes = file.metadata().map_err(wrong)?.len();
        let mut start = Vec::new();
        (&mut file).take(64).read_to_end(&mut start).map_err(wrong)?;
        if let Some(what) = foreign::recognise(&start, &path.display().to_string()) {
            return Err(Error::reading(&path, what));
        }
        file.rewind().map_err(wrong)?;
        let mut reading = Reading {
            name: &source.name,
            domain,
            time: times.of_shard(&source.name)?,
            times,
            shard: Shard::default(),
            places: HashMap::new(),
            parts: Vec::new(),
            files: HashMap::new(),
            links: Vec::new(),
        };
        let texts = File::open(&path).map_err(wrong)?;
        reading.members(file, bytes);
        reading.follow_links(&texts);
        if reading.time == TimeOf::Uids {
            reading.uids_of_keys();
        }
        Ok(reading.shard)
    }
}

/// A member that points to another.
struct Link {
    path: String,
    target: String,
}

/// A shard that is being read.
struct Reading<'a> {
    name: &'a str,
    domain: &'a str,
    time: TimeOf,
    times: &'a Times,
    shard: Shard,
    /// The entry of each key.
    places: HashMap<Box<str>, usize>,
    /// The members met so far, by entry.
    parts: Vec<Vec<Part>>,
    /// Where the content of each file lies, and its bytes: links point there.
    files: HashMap<Box<str>, (u64, u64)>,
    links: Vec<Link>,
}

impl Reading<'_> {
    /// Takes in all members of a shard of so many bytes, but those that point to others.
    fn members(&mut self, file: File, bytes: u64) {
        let mut archive = tar::Archive::new(file);
        let mut end = 0;
        let mut holds_any = false;
        match archive.entries_with_seek() {
            Ok(entries) => {
                for member in entries {
                    let mut member = match member {
                        Ok(member) => member,
                        Err(cause) => return self.stop(end, bytes, &cause),
                    };
                    let begin = member.raw_file_position();
                    let content_end = begin.checked_add(stored_size(&member));
                    let Some(content_end) = content_end.filter(|end| *end <= bytes) else { return self.cut(&member) };
                    self.member(&mut member, begin);
                    end = content_end.div_ceil(BLOCK) * BLOCK;
                    holds_any = true;
                }
            }
            Err(cause) => return self.stop(end, bytes, &cause),
        }
        let damage = if bytes > 0 && end + BLOCK > bytes {
            let what = format!("the shard ends at byte {bytes} without the empty blocks of an end");
            Some((broken::TRUNCATED, what))
        } else {
            // The reader stops behind the first empty block.
            after_end(archive.into_inner()).unwrap_or_else(|cause| {
                Some((broken::UNREADABLE, format!("what follows byte {end} cannot be read: {cause}")))
            })
        };
        let nothing = || (!holds_any).then(|| (broken::EMPTY_FILE, "the shard holds no member".to_string()));
        if let Some((reason, what)) = damage.or_else(nothing) {
            self.shard.damage.push((reason.to_string(), format!("{}: {what}", self.name)));
        }
    }

    /// Notes that the shard ends within a member. The sample that the member is of is not whole, and counts no second time.
    fn cut(&mut self, member: &tar::Entry<'_, File>) {
        let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let what = format!("{}, {path}: the shard ends within it", self.name);
        self.shard.damage.push((broken::TRUNCATED.to_string(), what));
        let Some((key, ending)) = split_path(&path).filter(|_| member.header().entry_type().is_file()) else { return };
        let (Some(part), Some(place)) = (Part::of(ending), self.places.get(key).copied()) else { return };
        if !self.parts[place].contains(&part) && self.shard.entries[place].damage.is_none() {
            self.shard.entries.remove(place);
            self.parts.remove(place);
            self.places.retain(|_, other| *other != place);
            self.places.values_mut().filter(|other| **other > place).for_each(|other| *other -= 1);
        }
    }

    /// Notes that nothing can be read from byte `end` on.
    fn stop(&mut self, end: u64, bytes: u64, cause: &std::io::Error) {
        let reason = if bytes < end + BLOCK { broken::TRUNCATED } else { broken::UNREADABLE };
        let what = format!("{}: no member's header at byte {end} ({cause}); what follows is not read", self.name);
        self.shard.damage.push((reason.to_string(), what));
    }

    /// Takes in a member whose content begins at byte `begin` of the shard and is all there.
    fn member(&mut self, member: &mut tar::Entry<'_, File>, begin: u64) {
        let kind = member.header().entry_type();
        if !kind.is_file() && !kind.is_hard_link() && !kind.is_symlink() {
            return;
        }
        let Ok(path) = String::from_utf8(member.path_bytes().into_owned()) else {
            let what = format!("{}, byte {begin}: the name of the member is no UTF-8", self.name);
            return self.shard.damage.push((broken::UNDECODABLE.to_string(), what));
        };
        if kind.is_file() {
            let size = member.size();
            self.files.insert(plain(&path).into(), (begin, size));
            return self.file(&path, (begin, size), member);
        }
        let target = member.link_name_bytes().and_then(|target| String::from_utf8(target.into_owned()).ok());
        let target = target.unwrap_or_default();
        // A symbolic link counts from its own folder, a hard one from that of all.
        let target = match path.rfind('/').filter(|_| kind.is_symlink() && !target.starts_with('/')) {
            Some(slash) => format!("{}/{target}", &path[..slash]),
            None => target,
        };
        self.links.push(Link { path, target });
    }

    /// Takes in the members that point to others, now that all are known.
    fn follow_links(&mut self, texts: &File) {
        for Link { path, target } in std::mem::take(&mut self.links) {
            if split_path(&path).and_then(|(_, ending)| Part::of(ending)).is_none() {
                self.pass_over(&path);
            } else if let Some((begin, size)) = self.files.get(plain(&target).as_str()).copied() {
                let mut content = texts;
                if content.seek(SeekFrom::Start(begin)).is_ok() {
                    self.shard.told.links.add(|| format!("{}, {path}", self.name));
                    self.file(&path, (begin, size), &mut content.take(size));
                }
            } else {
                let what = format!("{}, {path}: it points to '{target}', which is no file of the shard", self.name);
                self.shard.damage.push((broken::UNREADABLE.to_string(), what));
            }
        }
    }

    /// Takes a sample's key for its UID where its json has none: resharded data have UID-0, UID-1, ... for keys.
    fn uids_of_keys(&mut self) {
        for entry in self.shard.entries.iter_mut().filter(|entry| entry.uid.is_none()) {
            let name = entry.key.rsplit('/').next().unwrap_or_default().to_string();
            entry.look_up(name.split('-').next().unwrap_or_default(), self.times);
        }
    }

    /// Counts a member that is no part of a sample.
    fn pass_over(&mut self, path: &str) {
        let name = path.rsplit('/').next().unwrap_or(path);
        let ending = match split_path(path) {
            // Keys with dots have an ending each.
            Some((_, ending)) => match ending.rfind('.') {
                Some(dot) => format!(".*{}", ending[dot..].to_ascii_lowercase()),
                None => format!(".{}", ending.to_ascii_lowercase()),
            },
            None if name.starts_with('.') => "hidden".to_string(),
            None => "no ending".to_string(),
        };
        let place = format!("{}, {path}", self.name);
        self.shard.told.other(&ending).add(|| place);
    }

    /// Takes in a file of so many bytes from `begin` on.
    fn file(&mut self, path: &str, (begin, size): (u64, u64), content: &mut impl Read) {
        let known = split_path(path).and_then(|(key, ending)| Some((key, Part::of(ending)?)));
        let Some((key, part)) = known else { return self.pass_over(path) };
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => {
                self.places.insert(key.into(), self.parts.len());
                self.parts.push(Vec::new());
                self.shard.entries.push(Entry { key: key.into(), ..Entry::default() });
                self.parts.len() - 1
            }
        };
        let damage = |reason: &str, what: String| (reason.to_string(), format!("{}, {path}: {what}", self.name));
        if self.parts[place].contains(&part) {
            let again = damage(DUPLICATE, "the key has such a member already".to_string());
            return self.shard.damage.push(again);
        }
        // Of several pictures or captions, the best place counts.
        let others = self.parts[place].iter().filter_map(|other| match (part, *other) {
            (Part::Image(_), Part::Image(other)) | (Part::Caption(_), Part::Caption(other)) => Some(other),
            _ => None,
        });
        let best = others.clone().min();
        if others.count() == 1 {
            let told = &mut self.shard.told;
            let met = if matches!(part, Part::Image(_)) { &mut told.pictures } else { &mut told.captions };
            met.add(|| format!("{}, {key}", self.name));
        }
        let with_text = self.parts[place].iter().any(|part| matches!(part, Part::Caption(_)));
        self.parts[place].push(part);
        let entry = &mut self.shard.entries[place];
        let taken = match part {
            Part::Image(own) | Part::Caption(own) if best.is_some_and(|best| best < own) => Ok(()),
            Part::Image(_) if size > MOST_IMAGE => {
                Err((broken::TOO_LARGE, format!("a file of {size} bytes; {MOST_IMAGE} are the most")))
            }
            Part::Image(_) => {
                entry.image = Some((begin, size));
                Ok(())
            }
            Part::Caption(_) => read_text(content).map(|text| entry.caption = filled(&text)),
            Part::Class => read_text(content).map(|text| entry.class = filled(&text)),
            Part::Json => {
                let object = read_text(content)
                    .and_then(|text| Object::parse(&text).map_err(|what| (broken::UNDECODABLE, what)));
                match object {
                    Ok(object) => {
                        if object.is_odd {
                            self.shard.told.odd_json.add(|| format!("{}, {path}", self.name));
                        }
                        entry.take_json(&object, self.domain, self.time, with_text, self.times);
                    }
                    Err((reason, what)) => entry.json_damage = Some(damage(reason, what)),
                }
                Ok(())
            }
        };
        if let (Err((reason, what)), None) = (taken, &entry.damage) {
            entry.damage = Some(damage(reason, what));
        }
    }
}

/// Bytes of a member's content as they stand in the shard; a sparse file's size is that of the file it was.
fn stored_size(member: &tar::Entry<'_, File>) -> u64 {
    let header = member.header();
    if header.entry_type().is_gnu_sparse() { header.entry_size().unwrap_or(u64::MAX) } else { member.size() }
}

/// What is wrong with what follows the first empty block of a shard, where `file` stands: zeros may, and no more than padding has.
fn after_end(file: File) -> std::io::Result<Option<(&'static str, String)>> {
    let begin = (&file).stream_position()?;
    let mut rest = Vec::new();
    file.take(MOST_PADDING + 1).read_to_end(&mut rest)?;
    let damage = match rest.iter().position(|byte| *byte != 0) {
        Some(first) => {
            let first = begin + first as u64;
            let what = format!("the shard goes on at byte {first}, behind the empty block of an end; that is not read");
            Some((broken::UNREADABLE, what))
        }
        None if rest.len() as u64 > MOST_PADDING => {
            let what =
                format!("nothing but zeros from byte {begin} on, more than {MOST_PADDING} of them: not all bytes came");
            Some((broken::TRUNCATED, what))
        }
        None => None,
    };
    Ok(damage)
}

/// Key and ending of a member: its path before and after the first dot of its name. `None` where there is no key or no ending.
fn split_path(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = name + path[name..].find('.')?;
    (dot > name && dot + 1 < path.len()).then(|| (&path[..dot], &path[dot + 1..]))
}

/// A path without its `.` and `..`.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A text without the blanks around it; `None` where nothing is left.
fn filled(text: &str) -> Option<Box<str>> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(Into::into)
}

type Taken<T> = Result<T, (&'static str, String)>;

fn read_text(member: &mut impl Read) -> Taken<String> {
    let mut bytes = Vec::new();
    member
        .take(MOST_TEXT + 1)
        .read_to_end(&mut bytes)
        .map_err(|cause| (broken::UNREADABLE, format!("cannot be read: {cause}")))?;
    if bytes.len() as u64 > MOST_TEXT {
        return Err((broken::TOO_LARGE, format!("a text of more than {MOST_TEXT} bytes")));
    }
    decode_text(bytes).map_err(|what| (broken::UNDECODABLE, what))
}

impl Entry {
    fn take_json(&mut self, json: &Object, domain: &str, time: TimeOf, with_text: bool, times: &Times) {
        match time {
            TimeOf::Json => self.time = json.text(times.key()).and_then(|text| time::year(&text)),
            TimeOf::Uids => {
                let uid = json.text("uid");
                if let Some(uid) = uid {
                    self.look_up(&uid, times);
                }
            }
            TimeOf::Year(_) | TimeOf::Nothing => {}
        }
        if !domain.is_empty() {
            self.domain = json.text(domain).map(Into::into);
        }
        if !with_text {
            self.caption = json.text("caption").map(Into::into);
        }
    }

    /// The time of a UID by the lists.
    fn look_up(&mut self, uid: &str, times: &Times) {
        if let Some(number) = uids::parse(uid) {
            let (year, lists) = times.of_uid(number);
            (self.time, self.uid) = (year, Some((uid.into(), lists)));
        }
    }
}
