//! WebDataset: tar shards in which the members of a sample share a key.
//!
//! `key.jpg` (or `.jpeg`, `.png`, `.webp`) is the picture, `key.txt` its caption, `key.cls` the number of its class, `key.json`
//! what else is known: the caption where there is no `key.txt`, and under the keys that the settings name the time and the domain.
//! The key is a member's path up to the first dot of its name; members of other endings are nobody's business.
//!
//! One pass over the headers makes an index of all shards (`index.rs` keeps it); pictures are then read where they stand, so the
//! order of samples is the loader's, and no shard has to be shuffled. Members of one key need not stand side by side: WebDataset's
//! own reader takes those for two samples, here they are one. What a shard holds that cannot be used is counted by its reason:
//!
//! | reason | what |
//! |---|---|
//! | `truncated` | the shard ends within a member, without the empty block that ends a tar file, or in more zeros than padding is |
//! | `unreadable` | bytes that are no member's header, or that follow the empty block of an end: the rest of the shard is not read |
//! | `empty file` | a shard without a member |
//! | `duplicate` | a second picture, caption, class or `json` of a key in one shard; the first one counts |
//! | `missing image` | a caption, a class or a `json` without a picture |
//! | `missing caption`, `missing class` | a picture without one, where other samples have one |
//! | `missing time`, `missing domain` | nothing that can be used under the key that the settings name |
//! | `undecodable` | a text that is no UTF-8, a `json` or a class that is none |
//! | `too large` | a picture file beyond 256 MiB, a text beyond 1 MiB |

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::braces::expand;
use super::broken::{self, Broken};
use super::csv::{MISSING_DOMAIN, MISSING_TIME, find};
use super::index::{self, Stamp};
use super::{Dataset, Images, Sample, Source, Split, class_names, fingerprint, id_of, time};
use crate::error::{Error, Result};

/// Which shards there are, and what their `key.json` tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebDatasetSettings {
    /// Shards of training samples: paths relative to the data set's folder, with brace ranges (`{00000..00012}`), lists in braces
    /// (`{a,b}`) and globs; `::` parts several, as in open_clip.
    pub train: Vec<String>,
    /// Shards of test samples, likewise.
    pub test: Vec<String>,
    /// The key of `key.json` that tells a sample's time: a year, a date that begins with one, or seconds since 1970; empty for
    /// none.
    pub time: String,
    /// The key of `key.json` that tells a sample's domain; empty for none.
    pub domain: String,
}

/// A member that there is already.
const DUPLICATE: &str = "duplicate";

/// Bytes of the file of a picture, at most.
const MOST_IMAGE: u64 = 1 << 28;
/// Bytes of a caption, a class or a `json`, at most.
const MOST_TEXT: u64 = 1 << 20;
/// A tar file is made of blocks of so many bytes.
const BLOCK: u64 = 512;
/// Bytes of zeros after the end of a shard, at most: tar fills up its last record, of 10 KiB where nobody asks for another size.
/// More is a file whose room was taken before its bytes came.
const MOST_PADDING: u64 = 1 << 20;

/// Opens the shards that `source.webdataset` names, in `source.folder`.
///
/// Fails when there is none, when one cannot be opened or is compressed, when nothing in them can be used, or when a class is out of
/// range.
pub fn open(source: &Source) -> Result<Dataset> {
    let (folder, settings) = (source.folder()?, &source.webdataset);
    let mut names = Vec::new();
    let mut of_training = 0;
    for (key, specs) in [("train", &settings.train), ("test", &settings.test)] {
        names.extend(shards(folder, specs).map_err(|error| error.at(format!("data.webdataset.{key}")))?);
        if key == "train" {
            of_training = names.len();
        }
    }
    if names.is_empty() {
        return Err(Error::input("data.webdataset.train and data.webdataset.test name no shard; at least one must"));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::input(format!("data.webdataset names the shard {} twice", folder.join(twice[0]).display())));
    }
    let question = serde_json::to_string(&(&settings.time, &settings.domain, &names)).expect("settings are plain");
    let fits = |stamps: &[Stamp], shards: &Vec<Shard>| {
        let each = stamps.len() == names.len() && shards.len() == names.len();
        each && names
            .iter()
            .zip(stamps)
            .zip(shards)
            .all(|((name, stamp), shard)| stamp.is_of(name) && shard.fits(stamp))
    };
    let shards: Vec<Shard> = index::kept(folder, "webdataset", &question, fits, || {
        let read = names.par_iter().map(|name| {
            let stamp = Stamp::of(folder, name)?;
            Ok((stamp, Shard::read(folder, name, settings)?))
        });
        Ok(read.collect::<Result<Vec<_>>>()?.into_iter().unzip())
    })?;
    assemble(source, folder, names, of_training, shards)
}

/// A sample as its shard tells it. Of a sample with `damage` nothing else counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Entry {
    key: Box<str>,
    /// Where the picture's file begins in the shard, and its bytes.
    image: Option<(u64, u64)>,
    caption: Option<Box<str>>,
    class: Option<u32>,
    domain: Option<Box<str>>,
    time: Option<i32>,
    damage: Option<Damage>,
}

/// Why something cannot be used: the reason by which it is counted, and what it is.
type Damage = (String, String);

/// What a shard holds, in the order of each sample's first member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Shard {
    entries: Vec<Entry>,
    /// What is nobody's damage in particular.
    damage: Vec<Damage>,
}

/// What a member of a sample is.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Image,
    Caption,
    Class,
    Json,
}

impl Part {
    fn of(ending: &str) -> Option<Part> {
        match ending.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" | "png" | "webp" => Some(Part::Image),
            "txt" => Some(Part::Caption),
            "cls" => Some(Part::Class),
            "json" => Some(Part::Json),
            _ => None,
        }
    }
}

impl Shard {
    /// Whether all pictures that may be loaded lie within a shard of this stamp and are not too large: an index that was kept may
    /// be of anybody's making.
    fn fits(&self, stamp: &Stamp) -> bool {
        let within = |(begin, len): (u64, u64)| {
            len <= MOST_IMAGE && begin.checked_add(len).is_some_and(|end| end <= stamp.bytes())
        };
        self.entries.iter().all(|entry| entry.damage.is_some() || entry.image.is_none_or(within))
    }

    /// Reads the headers of a shard, and its texts.
    fn read(folder: &Path, name: &str, settings: &WebDatasetSettings) -> Result<Shard> {
        let path = folder.join(name);
        let wrong = |cause: std::io::Error| Error::reading(&path, cause);
        let mut file = File::open(&path).map_err(wrong)?;
        let bytes = file.metadata().map_err(wrong)?.len();
        let mut start = Vec::new();
        (&mut file).take(2).read_to_end(&mut start).map_err(wrong)?;
        if start == [0x1f, 0x8b] {
            return Err(Error::reading(
                &path,
                "the shard is compressed; pictures are read where they stand, so unpack it to a plain .tar (gunzip)",
            ));
        }
        file.rewind().map_err(wrong)?;
        let mut reading =
            Reading { name, settings, shard: Shard::default(), places: HashMap::new(), parts: Vec::new() };
        reading.members(file, bytes);
        Ok(reading.shard)
    }
}

/// A shard that is being read.
struct Reading<'a> {
    name: &'a str,
    settings: &'a WebDatasetSettings,
    shard: Shard,
    /// The entry of each key.
    places: HashMap<Box<str>, usize>,
    /// The members met so far, by entry.
    parts: Vec<Vec<Part>>,
}

impl Reading<'_> {
    /// Takes in all members of a shard of so many bytes.
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
        let (Some(part), Some(place)) = (Part::of(ending), self.places.get(key)) else { return };
        if !self.parts[*place].contains(&part) && self.shard.entries[*place].damage.is_none() {
            self.shard.entries.remove(*place);
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
        if !member.header().entry_type().is_file() {
            return;
        }
        let Ok(path) = String::from_utf8(member.path_bytes().into_owned()) else {
            let what = format!("{}, byte {begin}: the name of the member is no UTF-8", self.name);
            return self.shard.damage.push((broken::UNDECODABLE.to_string(), what));
        };
        let Some((key, ending)) = split_path(&path) else { return };
        let Some(part) = Part::of(ending) else { return };
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
        let with_text = self.parts[place].contains(&Part::Caption);
        let entry = &mut self.shard.entries[place];
        let taken = if part == Part::Image {
            entry.image = Some((begin, member.size()));
            let too_large =
                || (broken::TOO_LARGE, format!("a file of {} bytes; {MOST_IMAGE} are the most", member.size()));
            if member.size() <= MOST_IMAGE { Ok(()) } else { Err(too_large()) }
        } else {
            read_text(member).and_then(|text| match part {
                Part::Json => entry.take_json(&text, self.settings, with_text),
                Part::Class => entry.take_class(&text),
                _ => {
                    entry.caption = Some(text.trim()).filter(|text| !text.is_empty()).map(Into::into);
                    Ok(())
                }
            })
        };
        if let (Err((reason, what)), None) = (taken, &entry.damage) {
            entry.damage = Some(damage(reason, what));
        }
        self.parts[place].push(part);
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
    String::from_utf8(bytes).map_err(|_| (broken::UNDECODABLE, "the text is no UTF-8".to_string()))
}

impl Entry {
    fn take_class(&mut self, text: &str) -> Taken<()> {
        let wrong = || {
            let found: String = text.escape_debug().take(60).collect();
            (broken::UNDECODABLE, format!("found '{found}', expected the number of a class"))
        };
        self.class = Some(text.trim().parse().map_err(|_| wrong())?);
        Ok(())
    }

    fn take_json(&mut self, text: &str, settings: &WebDatasetSettings, with_text: bool) -> Taken<()> {
        let json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|cause| (broken::UNDECODABLE, format!("no JSON object: {cause}")))?;
        let value = |key: &str| match json.get(key).filter(|_| !key.is_empty()) {
            Some(serde_json::Value::String(text)) => Some(text.trim().to_string()),
            Some(serde_json::Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let value = |key: &str| value(key).filter(|text| !text.is_empty());
        self.time = value(&settings.time).and_then(|text| time::year(&text));
        self.domain = value(&settings.domain).map(Into::into);
        if !with_text {
            self.caption = value("caption").map(Into::into);
        }
        Ok(())
    }
}

/// The shards that some specifications mean, relative to the folder.
fn shards(folder: &Path, specs: &[String]) -> Result<Vec<String>> {
    let mut expanded = Vec::new();
    for spec in specs.iter().flat_map(|spec| spec.split("::")) {
        expanded.extend(expand(spec.trim()).map_err(|error| error.at(format!("'{spec}'")))?);
    }
    let named = |path: PathBuf| {
        let path = path.strip_prefix(folder).map(Path::to_path_buf).unwrap_or(path);
        path.into_os_string()
            .into_string()
            .map_err(|path| Error::input(format!("{}: the name is no UTF-8", folder.join(path).display())))
    };
    find(folder, &expanded)?.into_iter().map(named).collect()
}

/// Pictures in shards.
struct ShardPictures {
    folder: PathBuf,
    names: Vec<String>,
    /// Of each sample: its shard, its key, and where the file of its picture begins and how many bytes it has.
    places: Vec<(u32, Box<str>, (u64, u64))>,
}

impl Images for ShardPictures {
    fn load(&self, sample: usize) -> Result<RgbImage> {
        let (shard, key, (begin, len)) = &self.places[sample];
        let path = self.folder.join(&self.names[*shard as usize]);
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
        format!("{}, {key}", self.names[*shard as usize])
    }
}

/// The data set of shards that were read; the first `of_training` are of training.
fn assemble(
    source: &Source,
    folder: &Path,
    names: Vec<String>,
    of_training: usize,
    shards: Vec<Shard>,
) -> Result<Dataset> {
    let settings = &source.webdataset;
    let uses = |has: fn(&Entry) -> bool| shards.iter().flat_map(|shard| &shard.entries).any(has);
    let (captions, classes) = (uses(|entry| entry.caption.is_some()), uses(|entry| entry.class.is_some()));
    let hash = fingerprint([
        ("shards", serde_json::to_vec(&(&names, of_training)).expect("names are plain").as_slice()),
        ("members", &serde_json::to_vec(&shards).expect("entries are plain")),
        ("class names", source.class_names.as_bytes()),
    ]);

    let mut skipped = Broken::default();
    let (mut samples, mut places, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    let mut domains: Vec<Box<str>> = Vec::new();
    let mut number_of_domain: HashMap<Box<str>, u32> = HashMap::new();
    for (number, shard) in shards.into_iter().enumerate() {
        let name = &names[number];
        for (reason, what) in shard.damage {
            skipped.add(&reason, what);
        }
        for entry in shard.entries {
            let (key, nothing) = (&entry.key, "has none".to_string());
            let missing = [
                (entry.image.is_none(), broken::MISSING_IMAGE, nothing.clone()),
                (captions && entry.caption.is_none(), broken::MISSING_CAPTION, nothing.clone()),
                (classes && entry.class.is_none(), broken::MISSING_CLASS, nothing),
                (
                    !settings.time.is_empty() && entry.time.is_none(),
                    MISSING_TIME,
                    format!("no time under '{}' in its json", settings.time),
                ),
                (
                    !settings.domain.is_empty() && entry.domain.is_none(),
                    MISSING_DOMAIN,
                    format!("no domain under '{}' in its json", settings.domain),
                ),
            ];
            if let Some((reason, what)) = entry.damage {
                skipped.add(&reason, what);
                continue;
            }
            if let Some((_, reason, what)) = missing.into_iter().find(|(is_missing, ..)| *is_missing) {
                skipped.add(reason, format!("{name}, {key}: {what}"));
                continue;
            }
            // One that nobody asked for may stand in an index of another's making.
            let domain = entry.domain.filter(|_| !settings.domain.is_empty()).unwrap_or_default();
            let domain = *number_of_domain.entry(domain).or_insert_with_key(|domain| {
                domains.push(domain.clone());
                domains.len() as u32 - 1
            });
            samples.push(Sample {
                id: id_of(&[name, key]),
                caption: entry.caption.unwrap_or_default().into_string(),
                class: entry.class.unwrap_or_default(),
                domain,
                time: entry.time.unwrap_or_default(),
                split: if number < of_training { Split::Train } else { Split::Test },
            });
            labels.push(entry.class.unwrap_or_default());
            places.push((number as u32, entry.key, entry.image.expect("there is a picture")));
        }
    }
    if samples.is_empty() {
        let why = if skipped.is_empty() { "no pictures".to_string() } else { skipped.summary() };
        return Err(Error::input(format!("{}: nothing in the shards can be used: {why}", folder.display())));
    }
    let place = |sample: usize| {
        let (shard, key, _): &(u32, Box<str>, (u64, u64)) = &places[sample];
        format!("{}, {key}.cls", names[*shard as usize])
    };
    let (keys, classes) = match classes {
        true => class_names::numbered(&source.class_names, &labels, place)?,
        false => (vec![String::new()], vec![String::new()]),
    };
    let domains = match settings.domain.is_empty() {
        true => vec!["webdataset".to_string()],
        false => domains.into_iter().map(String::from).collect(),
    };
    let images = ShardPictures { folder: folder.to_path_buf(), names, places };
    let dataset = Dataset::new("webdataset", classes, domains, samples, hash, Box::new(images));
    Ok(dataset.with_class_keys(keys).with_skipped(skipped))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::ImageFormat;
    use proptest::prelude::*;

    use super::*;

    /// What Python's tarfile writes, in its usual format (PAX); `make_shard.py` beside it writes it.
    const BY_PYTHON: &[u8] = include_bytes!("../../tests/fixtures/webdataset/python.tar");

    fn png(value: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        RgbImage::from_pixel(4, 3, image::Rgb([value, 0, 0]))
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes
    }

    fn shard(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn settings(train: &[&str], test: &[&str]) -> WebDatasetSettings {
        let owned = |specs: &[&str]| specs.iter().map(|spec| spec.to_string()).collect();
        WebDatasetSettings { train: owned(train), test: owned(test), ..WebDatasetSettings::default() }
    }

    fn opened(shards: &[(&str, &[u8])], webdataset: WebDatasetSettings) -> Result<Dataset> {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        for (name, bytes) in shards {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let dataset = super::super::open(&Source { webdataset, ..Source::new("webdataset", Some(&folder)) })?;
        // While the shards are there.
        for sample in 0..dataset.samples.len() {
            let _ = dataset.image(sample);
        }
        Ok(dataset)
    }

    fn of_one(members: &[(&str, &[u8])]) -> Result<Dataset> {
        opened(&[("a.tar", &shard(members))], settings(&["a.tar"], &[]))
    }

    #[test]
    fn members_of_a_key_are_a_sample_wherever_they_stand() {
        let (first, second) = (png(10), png(20));
        let members: [(&str, &[u8]); 7] = [
            ("./x/001.txt", b"one\n"),
            ("./x/002.json", br#"{"caption": "two", "when": "2015-02-03", "place": "home"}"#),
            ("./x/002.PNG", &second),
            ("./x/001.png", &first),
            ("./x/001.json", br#"{"caption": "not this", "when": 1425168000, "place": "away"}"#),
            ("./x/001.seg.png", b"a mask"),
            ("./x/.hidden.png", b"nothing"),
        ];
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.tar"), shard(&members)).unwrap();
        let webdataset =
            WebDatasetSettings { time: "when".to_string(), domain: "place".to_string(), ..settings(&["a.tar"], &[]) };
        let dataset = open(&Source { webdataset, ..Source::new("webdataset", Some(root.path())) }).unwrap();
        assert!(dataset.broken().is_empty() && !dataset.has_classes());
        assert_eq!(dataset.domains, ["away", "home"]);
        let found: Vec<_> = dataset.samples.iter().map(|s| (s.caption.as_str(), s.domain, s.time, s.id)).collect();
        let expected = [("one", 0, 2015, id_of(&["a.tar", "x/001"])), ("two", 1, 2015, id_of(&["a.tar", "x/002"]))];
        assert_eq!(found, expected);
        for (sample, value) in [(0, 10), (1, 20)] {
            assert_eq!(dataset.image(sample).unwrap().get_pixel(3, 2).0, [value, 0, 0]);
        }
    }

    #[test]
    fn python_writes_the_same_format() {
        let webdataset = WebDatasetSettings { time: "year".to_string(), ..settings(&[], &["python.tar"]) };
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("python.tar"), BY_PYTHON).unwrap();
        let source =
            Source { webdataset, class_names: "cifar10".to_string(), ..Source::new("webdataset", Some(root.path())) };
        let dataset = open(&source).unwrap();
        // The samples of make_shard.py: a name beyond tar's hundred bytes, a caption in Greek.
        let found: Vec<_> = dataset
            .samples
            .iter()
            .enumerate()
            .map(|(index, sample)| (sample.caption.as_str(), sample.class, sample.time, dataset.image(index).unwrap()))
            .map(|(caption, class, time, image)| (caption, class, time, image.dimensions(), image.get_pixel(0, 0).0))
            .collect();
        let expected =
            [("a red square", 3, 2014, (5, 4), [255, 0, 0]), ("ένα πράσινο τετράγωνο", 9, 2016, (6, 4), [0, 255, 0])];
        assert_eq!(found, expected);
        assert_eq!(dataset.classes[9], "truck");
        assert!(dataset.broken().is_empty());
    }

    #[test]
    fn what_is_missing_or_wrong_is_counted_by_its_reason() {
        let picture = png(1);
        let members: [(&str, &[u8]); 15] = [
            ("a.png", &picture),
            ("a.txt", b"fine"),
            ("a.cls", b"0"),
            ("b.png", &picture),
            ("b.cls", b"0"),
            ("c.txt", b"no picture"),
            ("d.png", &picture),
            ("d.txt", b"no class"),
            ("e.png", &picture),
            ("e.txt", b"\xff\xfe"),
            ("f.png", &picture),
            ("f.cls", b"dog"),
            ("a.png", &picture),
            ("g.png", &picture),
            ("g.json", b"[1, 2"),
        ];
        let dataset = of_one(&members).unwrap();
        assert_eq!(dataset.samples.len(), 1);
        assert_eq!(
            dataset.broken().summary(),
            "1 duplicate, 1 missing caption, 1 missing class, 1 missing image, 3 undecodable"
        );
        let message = dataset.broken().check("webdataset", 0).unwrap_err().to_string();
        for place in ["a.tar, a.png: the key has", "a.tar, b: has none", "a.tar, c: has none", "a.tar, e.txt: the text"]
        {
            assert!(message.contains(place), "{place}: {message}");
        }
    }

    #[test]
    fn a_shard_that_is_cut_off_gives_what_it_has() {
        let picture = png(1);
        let members: [(&str, &[u8]); 4] =
            [("a.png", &picture), ("a.txt", b"one"), ("b.txt", b"two"), ("b.png", &picture)];
        let whole = shard(&members);
        // Each member is a block of header and a block of content; two blocks end the shard.
        assert_eq!(whole.len(), 10 * 512);
        for (bytes, samples, damage) in [
            (whole.len(), 2, ""),
            (8 * 512, 2, "a.tar: the shard ends at byte 4096 without"),
            (7 * 512 + 10, 1, "a.tar, b.png: the shard ends within it"),
            (6 * 512 + 10, 1, "a.tar: no member's header at byte 3072"),
            (2 * 512 + 1, 1, "a.tar: no member's header at byte 1024"),
        ] {
            let dataset = opened(&[("a.tar", &whole[..bytes])], settings(&["a.tar"], &[])).unwrap();
            assert_eq!(dataset.samples.len(), samples, "{bytes} bytes");
            let broken = dataset.broken();
            let found: Vec<_> =
                broken.iter().filter(|(reason, _)| *reason == "truncated").flat_map(|(_, kind)| &kind.first).collect();
            assert_eq!(found.len(), usize::from(!damage.is_empty()), "{bytes} bytes: {found:?}");
            assert!(found.iter().all(|what| what.starts_with(damage)), "{found:?}");
        }
        let mut torn = whole;
        torn[4 * 512..5 * 512].fill(b'x');
        let dataset = opened(&[("a.tar", &torn)], settings(&["a.tar"], &[])).unwrap();
        assert_eq!((dataset.samples.len(), dataset.broken().summary().as_str()), (1, "1 unreadable"));
    }

    /// What a shard's bytes are counted as, and how many samples they give.
    fn counted(bytes: &[u8]) -> (usize, String) {
        let dataset = opened(&[("a.tar", bytes)], settings(&["a.tar"], &[])).unwrap();
        (dataset.samples.len(), dataset.broken().summary())
    }

    #[test]
    fn a_cut_within_any_member_is_counted_once() {
        let picture = png(1);
        let directory = {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_path("folder").unwrap();
            header.set_size(600);
            header.set_cksum();
            [header.as_bytes().as_slice(), &[0; 1024]].concat()
        };
        let no_text = {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..5].copy_from_slice(b"\xff.png");
            header.set_size(600);
            header.set_cksum();
            [header.as_bytes().as_slice(), &[7; 1024]].concat()
        };
        let first = shard(&[("a.png", &picture), ("a.txt", b"one")]);
        let first = &first[..first.len() - 1024];
        let member = |name: &str| shard(&[(name, &[7; 600])]);
        for (last, expected) in [
            (member("b.npy"), (1, "1 truncated")),
            (member("a.seg.png"), (1, "1 truncated")),
            (member("no-ending"), (1, "1 truncated")),
            (member("b.png"), (1, "1 truncated")),
            (directory, (1, "1 truncated")),
            (no_text, (1, "1 truncated")),
            // A second picture of a key: the first one is whole, and so is its sample.
            (member("a.png"), (1, "1 truncated")),
        ] {
            let cut = [first, &last[..512 + 300]].concat();
            assert_eq!(counted(&cut), (expected.0, expected.1.to_string()), "{:?}", &last[..9]);
        }
        // Its caption is cut: the sample is not whole.
        let cut = [&shard(&[("a.png", &picture)])[..1024], &member("a.txt")[..812]].concat();
        let both = opened(&[("a.tar", &cut), ("b.tar", first)], settings(&["a.tar", "b.tar"], &[])).unwrap();
        assert_eq!((both.samples.len(), both.broken().summary().as_str()), (1, "2 truncated"));
    }

    #[test]
    fn what_follows_the_end_of_a_shard_is_not_lost_in_silence() {
        let picture = png(1);
        let whole = shard(&[("a.png", &picture)]);
        let content = &whole[..1024];
        for zeros in [512, 1024, 10 * 1024, MOST_PADDING as usize + 512] {
            assert_eq!(counted(&[content, &vec![0; zeros]].concat()), (1, String::new()), "{zeros} zeros");
        }
        let unreadable = (1, "1 unreadable".to_string());
        // A hole of one block, and two shards in one file.
        assert_eq!(counted(&[content, &[0; 512], content, &[0; 1024]].concat()), unreadable);
        assert_eq!(counted(&[content, &[0; 9216], &whole].concat()), unreadable);
        assert_eq!(counted(&[content, &[0; 1000], b"x"].concat()), unreadable);
        // A download whose room was taken before.
        let zeros = vec![0; MOST_PADDING as usize + 1024];
        assert_eq!(counted(&[content, &zeros].concat()), (1, "1 truncated".to_string()));
        for nothing in [&[0; 10240][..], &[0; 1024], &[]] {
            let shards: [(&str, &[u8]); 2] = [("a.tar", nothing), ("b.tar", &whole)];
            let dataset = opened(&shards, settings(&["a.tar", "b.tar"], &[])).unwrap();
            assert_eq!(dataset.broken().summary(), "1 empty file", "{} bytes", nothing.len());
        }
    }

    #[test]
    fn a_kept_index_that_cannot_be_true_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a.tar"), shard(&[("1.png", &png(1)), ("2.png", &png(2))])).unwrap();
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        File::open(folder.join("a.tar")).unwrap().set_modified(long_ago).unwrap();
        let source = Source { webdataset: settings(&["a.tar"], &[]), ..Source::new("webdataset", Some(&folder)) };
        let place = root.path().join("data.webdataset.perennial-index");
        open(&source).unwrap();
        let kept = std::fs::read_to_string(&place).unwrap();
        let json: serde_json::Value = serde_json::from_str(kept.split_once('\n').unwrap().1).unwrap();
        let mut wrong = Vec::new();
        let mut change = |change: fn(&mut serde_json::Value)| {
            let mut json = json.clone();
            change(&mut json);
            wrong.push(json);
        };
        change(|json| json["content"][0]["entries"][0]["image"][1] = (1u64 << 60).into());
        change(|json| json["content"][0]["entries"][0]["image"][0] = u64::MAX.into());
        change(|json| {
            let shard = json["content"][0].clone();
            json["content"].as_array_mut().unwrap().push(shard);
        });
        change(|json| json["content"].as_array_mut().unwrap().clear());
        change(|json| json["stamps"].as_array_mut().unwrap().clear());
        let write = |json: &str| {
            std::fs::write(&place, format!("{}\n{json}", fingerprint([("", json.as_bytes())]))).unwrap();
        };
        for json in wrong {
            let json = json.to_string();
            write(&json);
            let dataset = open(&source).unwrap();
            assert_eq!(dataset.samples.len(), 2, "{json}");
            assert_eq!(dataset.image(0).unwrap().get_pixel(0, 0).0, [1, 0, 0]);
            assert_eq!(std::fs::read_to_string(&place).unwrap(), kept, "{json}");
        }
        let mut with_domain = json;
        with_domain["content"][0]["entries"][1]["domain"] = "home".into();
        write(&with_domain.to_string());
        assert_eq!(open(&source).unwrap().domains, ["webdataset"]);
    }

    #[test]
    fn errors_name_the_shard() {
        let message =
            |shards: &[(&str, &[u8])], specs: &[&str]| opened(shards, settings(specs, &[])).unwrap_err().to_string();
        assert!(message(&[], &[]).contains("name no shard"));
        assert!(message(&[], &["a-{0..1}.tar"]).contains("a-0.tar"));
        assert!(message(&[], &["*.tar"]).contains("'*.tar' matches no file"));
        assert!(message(&[], &["a-{0..1.tar"]).contains("a brace is not closed"));
        assert!(message(&[("a.tar", b"\x1f\x8b\x08")], &["a.tar"]).contains("the shard is compressed"));
        assert!(message(&[("a.tar", &shard(&[]))], &["a.tar"]).contains("nothing in the shards can be used"));
        assert!(message(&[("a.tar", &shard(&[]))], &["a.tar", "*.tar"]).contains("twice"));
        let members: [(&str, &[u8]); 2] = [("k/a.png", &png(0)), ("k/a.cls", b"4000000000")];
        assert!(
            of_one(&members).unwrap_err().to_string().starts_with("a.tar, k/a.cls: the label 4000000000 is out of")
        );
    }

    #[test]
    fn several_sources_keep_their_order() {
        let picture = png(1);
        let of = |key: &str| shard(&[(key, &picture)]);
        let shards =
            [("b-0.tar", of("1.png")), ("b-1.tar", of("1.png")), ("a.tar", of("1.png")), ("t.tar", of("1.png"))];
        let shards: Vec<(&str, &[u8])> = shards.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let dataset = opened(&shards, settings(&["b-{1..0}.tar::a.*"], &["t.tar"])).unwrap();
        let found: Vec<(u64, Split)> = dataset.samples.iter().map(|sample| (sample.id, sample.split)).collect();
        let (train, test) = (Split::Train, Split::Test);
        let expected = [("b-1.tar", train), ("b-0.tar", train), ("a.tar", train), ("t.tar", test)]
            .map(|(shard, split)| (id_of(&[shard, "1"]), split));
        assert_eq!(found, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn damaged_shards_are_harmless(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in proptest::option::weighted(0.3, any::<prop::sample::Index>()),
        ) {
            let mut bytes = BY_PYTHON.to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = opened(&[("a.tar", &bytes)], WebDatasetSettings { time: "year".to_string(), ..settings(&["a.tar"], &[]) });
        }
    }
}
