//! Mutated inputs: no reader of outside bytes panics, hangs, or asks for more memory than its limit.
//!
//! 500 inputs of each format; `PERENNIAL_FUZZ=100000 cargo test --release --test fuzz` for the long run. An input depends on nothing
//! but its format and its number, which a failure tells. Where a checksum or a hash would stop every mutation, it is made right again,
//! so that what lies behind is reached.

#[path = "common/program.rs"]
mod program;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use image::{ImageFormat, Rgb, RgbImage};
use perennial::data::formats::csv::CsvSettings;
use perennial::data::formats::packed::{Edges, Packing};
use perennial::data::formats::webdataset::WebDatasetSettings;
use perennial::data::formats::{emoji, time};
use perennial::data::images::{picture, transform};
use perennial::data::text::class_names::ClassNames;
use perennial::data::text::prompts::Templates;
use perennial::data::text::tokenizer;
use perennial::data::{self, Dataset, Source, broken};
use perennial::eval::pretrained::find_spec;
use perennial::experiment::Config;
use perennial::model::checkpoint::{self, Positions};
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;
use perennial::ops::linear::Activation;
use perennial::report::{self, Reference, Run};
use perennial::rng::{Rng, below, rng};
use perennial::stream::parse_class_order;
use program::{TINY_TIC, succeed};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// What one input may take.
#[derive(Clone, Copy)]
struct Limits {
    /// Bytes in use at once.
    bytes: usize,
    /// Without an end after it, and after it once more. A machine of continuous integration does other things too.
    time: Duration,
}

/// A picture of the most pixels that are decoded, 179 million, needs 8 bytes for each where they are wide, and 3 more when they are
/// made narrow; decoders have buffers of their own.
const PICTURE: Limits = Limits { bytes: 4 << 30, time: Duration::from_secs(60) };

/// A text of some kilobytes, and what becomes of it.
const TEXT: Limits = Limits { bytes: 16 << 20, time: Duration::from_secs(10) };

/// Files of at most a megabyte, without their pictures.
const FILES: Limits = Limits { bytes: 64 << 20, time: Duration::from_secs(10) };

/// Counts the bytes in use.
struct Counted;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let now = IN_USE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        IN_USE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// One format at a time: their memory is counted together.
static TURN: Mutex<()> = Mutex::new(());

fn my_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder in memory, where the system has one: every input is written to a file, and disks are slow.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn inputs() -> u64 {
    match std::env::var("PERENNIAL_FUZZ") {
        Ok(count) => count.parse().expect("PERENNIAL_FUZZ is a number of inputs"),
        Err(_) => 500,
    }
}

/// Numbers that a text may hold and few expect.
const EXTREME: [&str; 12] = [
    "0",
    "-1",
    "1",
    "65536",
    "178956971",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "-0.0",
    "1e-400",
];

/// Changes bytes as files are changed by accident and by malice: bits flip, numbers become extreme, pieces are lost, doubled,
/// written otherwise, moved, taken from `others`, and the end is cut off.
fn mutate(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    let mut draw = |bound: usize| below(rng, bound.max(1) as u64) as usize;
    for _ in 0..1 + draw(4) {
        let (len, at) = (bytes.len(), draw(bytes.len()));
        let most = 1 + draw(64);
        let some = 1 + draw(most);
        let end = (at + some).min(len);
        match draw(11) {
            0 if len > 0 => bytes[at] ^= 1 << draw(8),
            1 if len > 0 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'\t', b'"', b'9', b'-'][draw(10)],
            2 if len > 0 => {
                // An extreme number, as a file would write it.
                let number = [0, 1, u64::MAX, u64::MAX / 2, 1 << 31, u64::from(u32::MAX), 1 << 60][draw(7)];
                let width = [2, 4, 8][draw(3)].min(len - at);
                let written = if draw(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let from = if draw(2) == 0 { 0 } else { 8 - width };
                bytes[at..at + width].copy_from_slice(&written[from..from + width]);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].to_vec();
                let to = draw(len + 1);
                bytes.splice(to..to, piece);
            }
            6 => {
                let piece: Vec<u8> = (0..some).map(|_| draw(256) as u8).collect();
                bytes.splice(at..at, piece);
            }
            7 => bytes[at..end].iter_mut().for_each(|byte| *byte = draw(256) as u8),
            8 if !others.is_empty() => {
                let other = others[draw(others.len())];
                let from = draw(other.len());
                let piece = &other[from..(from + some).min(other.len())];
                bytes.splice(at..end, piece.iter().copied());
            }
            9 => {
                // An extreme number, as a text would write it, in place of one.
                let Some(first) = bytes[at.min(len)..].iter().position(u8::is_ascii_digit).map(|place| at + place)
                else {
                    continue;
                };
                let after = bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = EXTREME[draw(EXTREME.len())];
                bytes.splice(first..first + after, number.bytes());
            }
            _ => {
                // A line, where there are lines, stands twice.
                let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
                let stop = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(len, |place| at + place + 1);
                let line = bytes[start..stop.min(start + 4096)].to_vec();
                bytes.splice(start..start, line);
            }
        }
    }
}

/// Changes the values of a JSON text, of which it remains one; half the time its bytes.
fn mutate_json(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    let Some(mut value) = serde_json::from_slice::<Value>(bytes).ok().filter(|_| below(rng, 2) == 0) else {
        return mutate(bytes, others, rng);
    };
    for _ in 0..1 + below(rng, 3) {
        let mut place = &mut value;
        loop {
            let len = place.as_array().map_or(0, Vec::len) + place.as_object().map_or(0, |object| object.len());
            if len == 0 || below(rng, 8) == 0 {
                break;
            }
            let at = below(rng, len as u64) as usize;
            place = match place {
                Value::Array(items) => &mut items[at],
                Value::Object(object) => object.values_mut().nth(at).expect("there are more"),
                _ => unreachable!("others hold nothing"),
            };
        }
        let other = [Value::Null, json!(""), json!([]), json!({}), json!(true), json!("0\u{0}é")];
        match (below(rng, 4), &mut *place) {
            (0, place) => *place = other[below(rng, other.len() as u64) as usize].clone(),
            (1, Value::Array(items)) if !items.is_empty() => items.push(items[0].clone()),
            (1, Value::Array(items)) => drop(items.pop()),
            (1, Value::Object(object)) => {
                let key = object.keys().next().cloned();
                key.map(|key| object.remove(&key));
            }
            (2, Value::Number(number)) => {
                *place = json!(number.as_i64().unwrap_or_default().wrapping_add([-1, 1][below(rng, 2) as usize]));
            }
            (_, place) => {
                let number = EXTREME[below(rng, EXTREME.len() as u64) as usize];
                *place = serde_json::from_str(number).unwrap_or_default();
            }
        }
    }
    *bytes = value.to_string().into_bytes();
}

/// Runs `read` on every input of a format; it says whether the input was a good one.
#[track_caller]
fn fuzz(format: &str, limits: Limits, read: impl Fn(&mut Rng) -> bool) {
    let _turn = my_turn();
    let place = Arc::new(AtomicUsize::new(0));
    let (done, watched) = mpsc::channel::<()>();
    let watchdog = thread::spawn({
        let (place, format) = (Arc::clone(&place), format.to_string());
        move || {
            let mut last = usize::MAX;
            while watched.recv_timeout(limits.time) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = place.load(Relaxed);
                if now == last {
                    // Not by eprintln: the harness would keep it for itself.
                    let _ = writeln!(io::stderr(), "{format}, input {now}: no end after {} s", limits.time.as_secs());
                    std::process::abort();
                }
                last = now;
            }
        }
    });
    let mut good = 0;
    for input in 0..inputs() {
        place.store(input as usize, Relaxed);
        PEAK.store(IN_USE.load(Relaxed), Relaxed);
        let before = IN_USE.load(Relaxed);
        let mut rng = rng(0, format, &[input]);
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&mut rng)));
        good += u64::from(read.unwrap_or_else(|_| panic!("{format}, input {input}: it panicked")));
        let peak = PEAK.load(Relaxed).saturating_sub(before);
        assert!(peak <= limits.bytes, "{format}, input {input}: {peak} bytes in use");
    }
    drop(done);
    watchdog.join().unwrap();
    println!("{format}: {} inputs, {good} of them still read", inputs());
    assert!(good < inputs(), "{format}: nothing was ever wrong; the mutations do not reach it");
    assert!(good > 0, "{format}: nothing was ever right; the mutations get no further than the first check");
}

/// What changes the bytes of a file; the others are those of all files.
type Change = fn(&mut Vec<u8>, &[&[u8]], &mut Rng);

/// Files in a folder, of which each input changes one; `read` is given the folder.
fn fuzz_folder(
    format: &str,
    limits: Limits,
    files: &[(&str, Vec<u8>)],
    change: Change,
    read: impl Fn(&Path, &mut Rng) -> bool,
) {
    let folder = scratch();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    assert!(read(folder.path(), &mut rng(0, format, &[])), "{format}: the files as they are");
    let all: Vec<&[u8]> = files.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    fuzz(format, limits, |rng| {
        let (name, bytes) = &files[below(rng, files.len() as u64) as usize];
        let mut changed = bytes.clone();
        change(&mut changed, &all, rng);
        let path = folder.path().join(name);
        fs::write(&path, changed).unwrap();
        let good = read(folder.path(), rng);
        fs::write(&path, bytes).unwrap();
        good
    });
}

/// A data set of such files. Its pictures may take what pictures may; all else keeps to [`FILES`].
fn fuzz_files(format: &str, files: &[(&str, Vec<u8>)], change: Change, source: impl Fn(&Path) -> Source) {
    fuzz_folder(format, PICTURE, files, change, |folder, rng| {
        let before = IN_USE.load(Relaxed);
        let opened = data::open(&source(folder));
        let peak = PEAK.load(Relaxed).saturating_sub(before);
        assert!(peak <= FILES.bytes, "{peak} bytes in use to open it");
        if let Ok(dataset) = &opened {
            look_at(dataset, rng);
        }
        opened.is_ok()
    });
}

/// A few pictures of a data set, as they are and as a model sees them.
fn look_at(dataset: &Dataset, rng: &mut Rng) {
    let mut pixels = vec![0; transform::bytes(8)];
    for sample in 0..dataset.samples.len().min(4) {
        let _ = dataset.image(sample);
        if let Ok((image, shape)) = dataset.stored_image(sample) {
            let _ = transform::evaluation_of(&image, shape, 8, &mut pixels);
            let _ = transform::training_of(&image, shape, 8, (0.5, 1.0), rng, &mut pixels);
        }
    }
}

const PICTURES: [(&str, &[u8]); 13] = [
    ("baseline.jpg", include_bytes!("fixtures/pictures/baseline.jpg")),
    ("progressive.jpg", include_bytes!("fixtures/pictures/progressive.jpg")),
    ("grey.jpg", include_bytes!("fixtures/pictures/grey.jpg")),
    ("cmyk.jpg", include_bytes!("fixtures/pictures/cmyk.jpg")),
    ("rgb.png", include_bytes!("fixtures/pictures/rgb.png")),
    ("alpha.png", include_bytes!("fixtures/pictures/alpha.png")),
    ("palette.png", include_bytes!("fixtures/pictures/palette.png")),
    ("bits.png", include_bytes!("fixtures/pictures/bits.png")),
    ("grey16.png", include_bytes!("fixtures/pictures/grey16.png")),
    ("lossy.webp", include_bytes!("fixtures/pictures/lossy.webp")),
    ("alpha.webp", include_bytes!("fixtures/pictures/alpha.webp")),
    ("lossless.webp", include_bytes!("fixtures/pictures/lossless.webp")),
    ("animated.webp", include_bytes!("fixtures/pictures/animated.webp")),
];

/// PNG has a checksum for every chunk: without a right one no mutation would get past it.
fn mend_png(bytes: &mut [u8]) {
    let mut at = 8;
    while bytes.len() >= at + 12 {
        let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if bytes.len() - at - 12 < len {
            return;
        }
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes[at + 4..at + 8 + len]);
        bytes[at + 8 + len..at + 12 + len].copy_from_slice(&checksum.sum().to_be_bytes());
        at += 12 + len;
    }
}

fn fuzz_pictures(ending: &str) {
    let all: Vec<&[u8]> = PICTURES.iter().filter(|(name, _)| name.ends_with(ending)).map(|(_, bytes)| *bytes).collect();
    for bytes in &all {
        let found = picture::decode(bytes).unwrap();
        assert_eq!(found.dimensions(), (27, 19));
    }
    fuzz_decoder(ending, &all);
}

/// The files of an archive whose names have an ending, those that can be decoded.
fn archived(archive: &[u8], ending: &str) -> Vec<Vec<u8>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut files = Vec::new();
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        if member.path().unwrap().extension().is_some_and(|found| found == ending) && picture::decode(&bytes).is_ok() {
            files.push(bytes);
        }
    }
    assert!(files.len() >= 20, "{} files .{ending}", files.len());
    files
}

fn fuzz_decoder(ending: &str, all: &[&[u8]]) {
    let panics = AtomicUsize::new(0);
    fuzz(ending, PICTURE, |rng| {
        let mut bytes = all[below(rng, all.len() as u64) as usize].to_vec();
        mutate(&mut bytes, all, rng);
        if ending == "png" && below(rng, 4) > 0 {
            mend_png(&mut bytes);
        }
        let decoded = picture::decode(&bytes);
        // The decoders are others' work: what they do not expect is caught, and told here.
        let panicked = decoded.as_ref().is_err_and(|error| error.to_string().ends_with("panicked"));
        panics.fetch_add(usize::from(panicked), Relaxed);
        if let Err(error) = broken::decode_picture(&bytes) {
            assert!(error.reason().is_some(), "{error}");
        }
        decoded.is_ok()
    });
    println!("{ending}: the decoder panicked at {} of them", panics.into_inner());
}

#[test]
fn png() {
    fuzz_pictures("png");
}

#[test]
fn jpeg() {
    fuzz_pictures("jpg");
}

/// Every colour, sampling and coding of JPEG, and every kind of the other formats.
#[test]
fn kinds_of_pictures() {
    const JPEGS: &[u8] = include_bytes!("fixtures/jpeg/matrix.tar.gz");
    const FORMATS: &[u8] = include_bytes!("fixtures/formats/formats.tar.gz");
    for (name, files) in [
        ("jpg of every kind", archived(JPEGS, "jpg")),
        ("bmp", archived(FORMATS, "bmp")),
        ("gif", archived(FORMATS, "gif")),
        ("tiff", archived(FORMATS, "tif")),
        ("pnm", archived(FORMATS, "pnm")),
    ] {
        fuzz_decoder(name, &files.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
}

#[test]
fn webp() {
    fuzz_pictures("webp");
}

#[test]
fn cifar() {
    let record = |labels: &[u8]| [labels, &[7; 3072]].concat();
    let names = |names: &str| names.as_bytes().to_vec();
    let mut ten = vec![("batches.meta.txt", names("airplane\nautomobile\n")), ("test_batch.bin", record(&[1]))];
    let batches = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
    ten.extend(batches.map(|name| (name, [record(&[0]), record(&[1])].concat())));
    fuzz_files("cifar10", &ten, mutate, |folder| Source::new("cifar10", Some(folder)));
    let hundred = [
        ("fine_label_names.txt", names("apple\naquarium_fish\n")),
        ("train.bin", [record(&[0, 1]), record(&[0, 0])].concat()),
        ("test.bin", record(&[0, 1])),
    ];
    fuzz_files("cifar100", &hundred, mutate, |folder| Source::new("cifar100", Some(folder)));
}

/// Where it is a PNG file, mostly one whose checksums are right.
fn mutate_with_png(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    mutate(bytes, others, rng);
    if bytes.starts_with(b"\x89PNG") && below(rng, 4) > 0 {
        mend_png(bytes);
    }
}

const EMOJI_INDEX: &str = "id\tdomain\ttile\tname\tclass\tyear\tsplit\n7\tsun\t0\tgrinning\tface-smiling\t2010\ttrain\n9\tmoon\t0\tpalette\t\
                 arts & crafts\t2015\ttest\n";

#[test]
fn emoji_folder() {
    let mut atlas = Vec::new();
    let picture = RgbImage::from_fn(emoji::COLUMNS * emoji::TILE, emoji::TILE, |x, y| Rgb([x as u8, y as u8, 7]));
    picture.write_to(&mut Cursor::new(&mut atlas), ImageFormat::Png).unwrap();
    let files = [("index.tsv", EMOJI_INDEX.as_bytes().to_vec()), ("sun.png", atlas.clone()), ("moon.png", atlas)];
    fuzz_files("emoji", &files, mutate_with_png, |folder| Source::new("emoji", Some(folder)));
}

#[test]
fn domainnet() {
    let text = |text: &str| text.as_bytes().to_vec();
    let files = [
        ("clipart_train.txt", text("clipart/aircraft_carrier/1.jpg 0\nclipart/dog/2.jpg 7\n")),
        ("clipart_test.txt", text("clipart/dog/3.jpg 7\n")),
        ("real_train.txt", text("real/dog/1.jpg 7\nreal/aircraft_carrier/2.jpg 0\nreal/dog/3.jpg 7\n")),
        ("real_test.txt", text("real/aircraft_carrier/9.jpg 0\n")),
    ];
    fuzz_files("domainnet", &files, mutate, |folder| Source::new("domainnet", Some(folder)));
}

#[test]
fn csv() {
    let table = "filepath,title,label,place,when\na.jpg,\"a cat, \"\"asleep\"\"\",3,home,2014\nb.jpg,a dog,1,street,\
                 2015-02-03\na.jpg,the same cat,3,home,1425168000\n";
    let files = [
        ("t.csv", table.as_bytes().to_vec()),
        ("t.tsv", table.replace(',', "\t").replace("a.jpg", "c.jpg").into_bytes()),
        ("a.jpg", PICTURES[0].1.to_vec()),
        ("names.txt", b"one\ntwo\nthree\nfour\n".to_vec()),
    ];
    let column = |name: &str| name.to_string();
    fuzz_files("csv", &files, mutate, |folder| Source {
        class_names: folder.join("names.txt").display().to_string(),
        csv: CsvSettings {
            train: vec![column("t.csv")],
            test: vec![column("*.tsv")],
            caption: column("title"),
            label: column("label"),
            domain: column("place"),
            time: column("when"),
            ..CsvSettings::default()
        },
        ..Source::new("csv", Some(folder))
    });
}

/// Folders and files of any names, with links here and there.
#[test]
fn folder() {
    const NAMES: [&str; 14] =
        ["train", "val", "test", "a", "b", "..c", ".d", "Training", "é", "x.png", "y.JPG", "z.webp", "-", "7"];
    fuzz("folder", PICTURE, |rng| {
        let parent: TempDir = scratch();
        let root = parent.path().join("data");
        fs::create_dir(&root).unwrap();
        for _ in 0..below(rng, 12) {
            let mut path = root.clone();
            for _ in 0..1 + below(rng, 4) {
                path.push(NAMES[below(rng, NAMES.len() as u64) as usize]);
            }
            let _ = fs::create_dir_all(path.parent().unwrap());
            match below(rng, 8) {
                0 => drop(fs::create_dir(&path)),
                #[cfg(unix)]
                1 => drop(std::os::unix::fs::symlink(["..", ".", "../..", "nowhere"][below(rng, 4) as usize], &path)),
                _ => drop(fs::write(&path, PICTURES[0].1)),
            }
        }
        let opened = data::open(&Source::new("folder", Some(&root)));
        if let Ok(dataset) = &opened {
            look_at(dataset, rng);
        }
        opened.is_ok()
    });
}

/// A member's header has a checksum: without a right one no mutation would get past it.
fn mutate_tar(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    mutate(bytes, others, rng);
    if below(rng, 4) == 0 {
        return;
    }
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + 512) {
        at += 512;
        if header.iter().all(|byte| *byte == 0) {
            continue;
        }
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok().and_then(|size| usize::from_str_radix(size, 8).ok());
        at += size.unwrap_or(0).next_multiple_of(512);
    }
}

#[test]
fn webdataset() {
    let shard = |first: usize, count: usize| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        };
        for (number, (name, picture)) in PICTURES.iter().enumerate().skip(first).take(count) {
            // Every other name is longer than a header's field.
            let key = format!("{}{number}", "long/".repeat(30 * (number % 2)));
            let json = format!("{{\"when\": {}, \"where\": \"home {number}\"}}", 1_425_168_000 + number);
            add(format!("{key}.{}", name.rsplit('.').next().unwrap()), picture);
            add(format!("{key}.txt"), b"a caption");
            add(format!("{key}.cls"), number.to_string().as_bytes());
            add(format!("{key}.json"), json.as_bytes());
        }
        archive.into_inner().unwrap()
    };
    let files = [("a-0.tar", shard(0, 2)), ("a-1.tar", shard(2, 2)), ("b.tar", shard(4, 1))];
    let setting = |text: &str| text.to_string();
    fuzz_files("webdataset", &files, mutate_tar, |folder| Source {
        webdataset: WebDatasetSettings {
            train: vec![setting("a-{0..1}.tar")],
            test: vec![setting("b.tar")],
            time: setting("when"),
            domain: setting("where"),
            ..WebDatasetSettings::default()
        },
        ..Source::new("webdataset", Some(folder))
    });
    let by_python = [("python.tar", include_bytes!("fixtures/webdataset/python.tar").to_vec())];
    fuzz_files("webdataset of Python's", &by_python, mutate_tar, |folder| Source {
        class_names: setting("cifar10"),
        webdataset: WebDatasetSettings {
            train: vec![setting("python.tar")],
            time: setting("year"),
            ..WebDatasetSettings::default()
        },
        ..Source::new("webdataset", Some(folder))
    });
}

/// What stands beside a picture in a shard: the json, with what Python alone writes, and lists of UIDs.
#[test]
fn texts_and_lists_of_shards() {
    let shard = |json: &[u8]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in [("1.png", PICTURES[4].1), ("1.txt", b"one\ntwo"), ("1.cls", b"07\n"), ("1.json", json)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let json = format!(
        "{{\"uid\": \"{:032x}\", \"when\": 2015, \"p\": NaN, \"q\": [-Infinity, 1e999], \"exif\": \"\\ud83d \\ud83d\\ude00\"}}",
        7 << 64 | 9u128
    );
    let source = |folder: &Path, by_uid: bool| Source {
        class_names: "cifar10".to_string(),
        webdataset: WebDatasetSettings {
            train: vec!["*.tar".to_string()],
            time: if by_uid { String::new() } else { "when".to_string() },
            time_uids: if by_uid { "{year}.npy".to_string() } else { String::new() },
            ..WebDatasetSettings::default()
        },
        ..Source::new("webdataset", Some(folder))
    };
    let folder = scratch();
    fuzz("json of shards", FILES, |rng| {
        let mut json = json.clone().into_bytes();
        mutate(&mut json, &[], rng);
        fs::write(folder.path().join("a.tar"), shard(&json)).unwrap();
        data::open(&source(folder.path(), false)).is_ok()
    });

    let halves: Vec<u8> = [0u64, 1, 7, 9, 7, 10].into_iter().flat_map(u64::to_le_bytes).collect();
    let header = "{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (3,), }";
    let list = [b"\x93NUMPY\x01\x00v\x00".as_slice(), format!("{header:117}\n").as_bytes(), &halves].concat();
    fs::write(folder.path().join("a.tar"), shard(json.as_bytes())).unwrap();
    let files = [("2015.npy", list.clone()), ("2016.npy", list), ("a.tar", shard(json.as_bytes()))];
    fuzz_files("lists of UIDs", &files, mutate, |folder| source(folder, true));
}

/// Three times of four the index alone is changed, and its length and its hash are made right.
fn mutate_packed(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    if below(rng, 4) == 0 {
        return mutate(bytes, others, rng);
    }
    let tail = bytes.len() - 56;
    let foot = bytes[tail + 40..].to_vec();
    let begin = tail - u64::from_le_bytes(bytes[tail..tail + 8].try_into().unwrap()) as usize;
    let mut index = bytes[begin..tail].to_vec();
    mutate_json(&mut index, &[], rng);
    bytes.truncate(begin);
    let len = (index.len() as u64).to_le_bytes();
    [&index, &len[..], &Sha256::digest(&index), &foot].iter().for_each(|part| bytes.extend_from_slice(part));
}

#[test]
fn packed() {
    let folder = scratch();
    for (name, bytes) in &PICTURES[..6] {
        let class = folder.path().join("data").join(if name.starts_with('b') { "train/a" } else { "train/b" });
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(name), bytes).unwrap();
    }
    fs::create_dir_all(folder.path().join("data/val/a")).unwrap();
    fs::write(folder.path().join("data/val/a/x.png"), PICTURES[6].1).unwrap();
    let dataset = data::open(&Source::new("folder", Some(&folder.path().join("data")))).unwrap();
    let path = folder.path().join("p.pack");
    Packing::of(&dataset, Edges { train: 16, test: 12 }).unwrap().write(&path, 0, &mut |_| {}).unwrap();
    let files = [("p.pack", fs::read(path).unwrap())];
    fuzz_folder("packed", FILES, &files, mutate_packed, |folder, rng| {
        let opened = data::open(&Source::new("packed", Some(&folder.join("p.pack"))));
        if let Ok(dataset) = &opened {
            look_at(dataset, rng);
        }
        opened.is_ok()
    });
}

/// Indexes that are kept beside the data, with their hash made right. One that cannot be true is not used but made anew, so that the
/// data set opens all the same; good are those that are used.
#[test]
fn kept_indexes() {
    let parent = scratch();
    let folder = parent.path().join("data");
    let age = |path: &Path| {
        let hour = Duration::from_secs(3600);
        File::open(path).unwrap().set_modified(SystemTime::now() - hour).unwrap();
    };
    fs::create_dir_all(folder.join("class")).unwrap();
    fs::write(folder.join("class/1.jpg"), PICTURES[0].1).unwrap();
    fs::write(folder.join("class/2.png"), PICTURES[4].1).unwrap();
    fs::write(folder.join("a.tar"), include_bytes!("fixtures/webdataset/python.tar")).unwrap();
    [folder.join("class"), folder.join("a.tar"), folder.clone()].iter().for_each(|path| age(path));
    let webdataset = WebDatasetSettings { train: vec!["*.tar".to_string()], ..WebDatasetSettings::default() };
    let source = |name: &str| Source {
        webdataset: webdataset.clone(),
        class_names: if name == "folder" { String::new() } else { "cifar10".to_string() },
        ..Source::new(name, Some(&folder))
    };
    for name in ["folder", "webdataset"] {
        let (source, place) = (source(name), parent.path().join(format!("data.{name}.perennial-index")));
        data::open(&source).unwrap();
        let kept = fs::read(&place).unwrap();
        fuzz(&format!("kept index of {name}"), FILES, |rng| {
            let mut json = kept[65..].to_vec();
            mutate_json(&mut json, &[], rng);
            let mut hash = Sha256::new();
            [&[0; 8], &(json.len() as u64).to_le_bytes(), json.as_slice()].iter().for_each(|part| hash.update(part));
            let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            let changed = [hash.as_bytes(), b"\n", &json].concat();
            fs::write(&place, &changed).unwrap();
            let opened = data::open(&source);
            if let Ok(dataset) = &opened {
                look_at(dataset, rng);
            }
            let used = fs::read(&place).unwrap() == changed;
            assert!(used || opened.is_ok(), "{}", opened.unwrap_err());
            used
        });
    }
}

/// The header alone, three times of four, and its length is made right.
/// A file without its seal, and a directory or a log from before there were any: with one, every change would end there.
fn unsealed(mut bytes: Vec<u8>) -> Vec<u8> {
    for (sealed, plain) in [
        ("\"seal\":", "\"leas\":"),
        ("\"sealed\":", "\"delaes\":"),
        ("\"format\": 2", "\"format\": 1"),
        ("\"crc\":\"", "\"rcr\":\""),
        ("\"time\":\"2", "\"emit\":\"2"),
    ] {
        let places: Vec<usize> =
            (0..bytes.len()).filter(|place| bytes[*place..].starts_with(sealed.as_bytes())).collect();
        places.iter().for_each(|place| bytes[*place..*place + plain.len()].copy_from_slice(plain.as_bytes()));
    }
    bytes
}

fn mutate_safetensors(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    // A configuration beside it.
    if bytes.first() == Some(&b'{') {
        return mutate_json(bytes, others, rng);
    }
    if below(rng, 4) == 0 {
        return mutate(bytes, others, rng);
    }
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = bytes[8..end].to_vec();
    mutate_json(&mut header, &[], rng);
    let len = (header.len() as u64).to_le_bytes();
    *bytes = [&len, header.as_slice(), &bytes[end..]].concat();
}

#[test]
fn checkpoints() {
    let json = r#"{"embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}}"#;
    let spec = ModelSpec::from_json(json).unwrap();
    let list = ParameterList::of(&spec);
    let values = list.initial_values(1);
    let folder = scratch();
    checkpoint::export_open_clip(folder.path(), &spec, &list, &values).unwrap();
    checkpoint::export_hugging_face(folder.path(), &spec, &list, &values).unwrap();
    let open_clip = ["open_clip_config.json", "open_clip_model.safetensors"];
    let hugging_face = ["config.json", "preprocessor_config.json", "model.safetensors"];
    for (format, names, says_model) in [
        ("open_clip's checkpoint", &open_clip[..], true),
        ("open_clip's configuration", &open_clip, false),
        ("Hugging Face's checkpoint", &hugging_face, false),
    ] {
        // Where the weights do not say their model, the configuration beside them counts.
        let read = |name: &&'static str| {
            let mut bytes = unsealed(fs::read(folder.path().join(name)).unwrap());
            if let (false, Some(place)) = (says_model, bytes.windows(9).position(|window| window == b"model_cfg")) {
                bytes[place..place + 9].copy_from_slice(if name.ends_with("json") {
                    b"model_cfg"
                } else {
                    b"other_key"
                });
            }
            (*name, bytes)
        };
        let files: Vec<(&str, Vec<u8>)> = names.iter().map(read).collect();
        fuzz_folder(format, FILES, &files, mutate_safetensors, |folder, _| {
            let read = |positions| {
                let (spec, _) = find_spec(folder, None, Some(Activation::Gelu), positions)?;
                checkpoint::load_with(folder, &spec, positions)
            };
            let _ = checkpoint::load(folder, &spec);
            read(Positions::AsStored).is_ok() | read(Positions::Interpolated).is_ok()
        });
    }
}

/// The pickle of a zip archive of PyTorch's, three times of four, and the archive is written anew, so that its checksums are right.
fn mutate_archive(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    if below(rng, 4) == 0 {
        return mutate(bytes, others, rng);
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes.as_slice())).unwrap();
    let mut written = ZipWriter::new(Cursor::new(Vec::new()));
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).unwrap();
        // TorchScript's sources, which nobody reads.
        if member.compression() != CompressionMethod::STORE {
            continue;
        }
        let (name, mut content) = (member.name().unwrap().into_owned(), Vec::new());
        member.read_to_end(&mut content).unwrap();
        if name.ends_with("data.pkl") || below(rng, 40) == 0 {
            mutate(&mut content, &[], rng);
        }
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::STORE);
        written.start_file(name, stored).unwrap();
        written.write_all(&content).unwrap();
    }
    *bytes = written.finish().unwrap().into_inner();
}

/// PyTorch's own files, in each of their forms.
#[test]
fn pytorchs_files() {
    let spec = ModelSpec::from_json(include_str!("fixtures/torch/model.json")).unwrap();
    let read = |folder: &Path, _: &mut Rng| {
        let read = checkpoint::read_spec(folder).is_ok();
        checkpoint::load(folder, &spec).is_ok() & read
    };
    for (form, bytes) in [
        ("a state_dict", &include_bytes!("fixtures/torch/bf16_views.pt")[..]),
        ("a training program", include_bytes!("fixtures/torch/settings.ckpt")),
        ("TorchScript", include_bytes!("fixtures/torch/script.pt")),
    ] {
        let files = [("pytorch_model.bin", bytes.to_vec())];
        fuzz_folder(&format!("PyTorch's archive of {form}"), FILES, &files, mutate_archive, read);
    }
    let legacy = [("pytorch_model.bin", include_bytes!("fixtures/torch/legacy_views.pt").to_vec())];
    fuzz_folder("PyTorch's file from before 1.6", FILES, &legacy, mutate, read);

    let map: serde_json::Map<String, Value> =
        (ParameterList::of(&spec).iter()).map(|parameter| (parameter.name.clone(), json!("a.bin"))).collect();
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string().into_bytes();
    let files = [("model.safetensors.index.json", index), ("a.bin", include_bytes!("fixtures/torch/f16.pt").to_vec())];
    fuzz_folder("index of several files", FILES, &files, mutate_index, read);
}

fn mutate_index(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    match bytes.first() {
        Some(b'{') => mutate_json(bytes, &[], rng),
        _ => mutate_archive(bytes, others, rng),
    }
}

/// CIFAR as Python has it.
#[test]
fn pickles_of_pictures() {
    let files = [
        ("meta", include_bytes!("fixtures/cifar/cifar-100-python/meta").to_vec()),
        ("train", include_bytes!("fixtures/cifar/cifar-100-python/train").to_vec()),
        ("test", include_bytes!("fixtures/cifar/cifar-100-python/test").to_vec()),
    ];
    fuzz_files("CIFAR for Python", &files, mutate, |folder| Source::new("cifar100", Some(folder)));
}

/// What lies beside Hugging Face's weights and says what tokens they were trained with.
#[test]
fn tokenizers() {
    let folder = scratch();
    tokenizer::save_hugging_face(folder.path(), 77).unwrap();
    let config = fs::read(folder.path().join("tokenizer_config.json")).unwrap();
    let files = [("tokenizer_config.json", config), ("added_tokens.json", b"{\"<cat>\": 49408}".to_vec())];
    fuzz_folder("tokenizer's configuration", FILES, &files, mutate_json, |folder, _| {
        tokenizer::check_folder(folder).is_ok()
    });
}

/// What a run leaves behind, and all that the report makes of it.
#[test]
fn run_directories() {
    let folder = scratch();
    let out = folder.path().join("run");
    succeed(&["run", TINY_TIC, "--out", out.to_str().unwrap(), "--set", "train.samples=32"]);
    let names = ["evaluation.json", "config.toml", "metrics.jsonl", "manifest.json"];
    let files = names.map(|name| (name, unsealed(fs::read(out.join(name)).unwrap())));
    let reference = Reference::find("reference").unwrap();
    fuzz_folder("run directory", FILES, &files, mutate_json, |folder, _| {
        let Ok(run) = Run::read(folder) else { return false };
        if !run.evaluation.is_complete() {
            return true;
        }
        let _ = (report::matrix_table(&run.evaluation), report::transfer_table(&run.evaluation));
        let _ = report::static_table(&run.evaluation);
        if let Ok(groups) = report::group(vec![run]) {
            for cells in &groups {
                let table = report::summary_table(cells);
                let _ = (table.to_text(), table.to_markdown(), table.to_csv(), reference.compare(cells).table.to_csv());
            }
            let _ = report::page(groups, &[], Some(&reference));
        }
        true
    });
}

/// A text that some parser reads: its bytes as they are.
fn fuzz_bytes(format: &str, text: &str, parse: impl Fn(&[u8]) -> bool) {
    assert!(parse(text.as_bytes()), "{format}: the text as it is");
    fuzz(format, TEXT, |rng| {
        let mut bytes = text.as_bytes().to_vec();
        mutate_json(&mut bytes, &[], rng);
        parse(&bytes)
    });
}

/// The same where the parser wants UTF-8.
fn fuzz_text(format: &str, text: &str, parse: impl Fn(&str) -> bool) {
    fuzz_bytes(format, text, |bytes| std::str::from_utf8(bytes).is_ok_and(&parse));
}

#[test]
fn texts() {
    fuzz_bytes("emoji index", EMOJI_INDEX, |bytes| emoji::Index::parse("index.tsv", bytes).is_ok());
    fuzz_text("prompt templates", "a photo of a {}.\na {} indeed\n", |text| Templates::parse("t.txt", text).is_ok());
    fuzz_text("prompt templates in JSON", r#"["a photo of a {c}.", "{} indeed"]"#, |text| {
        Templates::parse("t.json", text).is_ok()
    });
    for json in [
        r#"["tench", "great_white_shark"]"#,
        r#"{"0": ["n01", "tench"], "1": ["n02", "shark"]}"#,
        r#"{"tench": 0, "shark": 1}"#,
    ] {
        fuzz_text("class names in JSON", json, |text| ClassNames::parse("n.json", text).is_ok());
    }
    fuzz_text("class names", "n01\ttench\nn02\tgoldfish\n", |text| ClassNames::parse("n.txt", text).is_ok());
    let names = ["sea lion", "tabby cat", "aircraft carrier"].map(String::from);
    let keys = ["n01", "n02", "n03"].map(String::from);
    fuzz_text("class order", "n02\nsea lion\naircraft carrier\n", |text| {
        parse_class_order("o.txt", text, &names, &keys, &[true; 3]).is_ok()
    });
    fuzz_text("times", "2015-03-01T12:00:00Z", |text| time::year(text).is_some());
    fuzz_text("times in digits", "20150301", |text| time::year(text).is_some());
}

#[test]
fn settings() {
    let presets = [
        ("cifar100-cil", include_str!("../presets/cifar100-cil.toml")),
        ("tic-yfcc", include_str!("../presets/tic-yfcc.toml")),
        ("domainnet-dil", include_str!("../presets/domainnet-dil.toml")),
    ];
    for (name, toml) in presets {
        fuzz_text(&format!("preset {name}"), toml, |text| {
            let Ok(config) = Config::parse(text) else { return false };
            assert_eq!(Config::parse(&config.to_toml()).unwrap().to_toml(), config.to_toml());
            let _ = config.validate();
            let _ = config.for_method("ewc");
            true
        });
    }
    for assignment in ["train.epochs=3", "data.webdataset.test=['a-{0..9}.tar', 'b.tar']", "data.text=class"] {
        fuzz_text(&format!("setting {assignment}"), assignment, |text| Config::default().set(text).is_ok());
    }
}

#[test]
fn models_and_figures() {
    fuzz_text("model", include_str!("../presets/models/ViT-B-16.json"), |text| {
        let Ok(spec) = ModelSpec::from_json(text) else { return false };
        assert_eq!(ModelSpec::from_json(&spec.to_json()).unwrap(), spec);
        let _ = (spec.vision(), spec.text(), spec.patches(), spec.image_macs(), spec.text_macs(77));
        true
    });
    // The first figures are enough: 650 lines would hide most changes.
    let figures = include_str!("../presets/reference.toml");
    let some = figures.match_indices("\n\n").nth(8).map_or(figures.len(), |(place, _)| place + 1);
    fuzz_text("published figures", &figures[..some], |text| Reference::parse(text).is_ok());
}
