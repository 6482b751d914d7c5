//! Mutated inputs: no reader of outside bytes panics, hangs, or asks for more memory than its limit.
//!
//! 500 inputs of each format; `PERENNIAL_FUZZ=100000 cargo test --release --test fuzz` for the long run. An input depends on nothing
//! but its format and its number, which a failure tells.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use perennial::data::class_names::ClassNames;
use perennial::data::csv::CsvSettings;
use perennial::data::prompts::Templates;
use perennial::data::{self, Source, broken, emoji, picture};
use perennial::rng::{Rng, below, rng};
use tempfile::TempDir;

/// How long one input may take. A machine of continuous integration does other things too.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes that may be in use at once. A picture of the most pixels that are decoded, 179 million, needs 8 bytes for each where they
/// are wide, and 3 more when they are made narrow; decoders have buffers of their own.
const MOST_BYTES: usize = 4 << 30;

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

fn inputs() -> u64 {
    match std::env::var("PERENNIAL_FUZZ") {
        Ok(count) => count.parse().expect("PERENNIAL_FUZZ is a number of inputs"),
        Err(_) => 500,
    }
}

/// Changes bytes as files are changed by accident and by malice: bits flip, numbers become extreme, pieces are lost, doubled,
/// moved, taken from `others`, and the end is cut off.
fn mutate(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    let mut draw = |bound: usize| below(rng, bound.max(1) as u64) as usize;
    for _ in 0..1 + draw(4) {
        let (len, at) = (bytes.len(), draw(bytes.len()));
        let most = 1 + draw(64);
        let some = 1 + draw(most);
        let end = (at + some).min(len);
        match draw(10) {
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

/// Runs `read` on every input of a format; it says whether the input was a good one.
#[track_caller]
fn fuzz(format: &str, read: impl Fn(&mut Rng) -> bool) {
    let _turn = my_turn();
    let place = Arc::new(AtomicUsize::new(0));
    let (done, watched) = mpsc::channel::<()>();
    let watchdog = thread::spawn({
        let (place, format) = (Arc::clone(&place), format.to_string());
        move || {
            let mut last = usize::MAX;
            while watched.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = place.load(Relaxed);
                if now == last {
                    eprintln!("{format}, input {now}: no end after {} s", LONGEST.as_secs());
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
        assert!(peak <= MOST_BYTES, "{format}, input {input}: {peak} bytes in use");
    }
    drop(done);
    watchdog.join().unwrap();
    println!("{format}: {} inputs, {good} of them still read", inputs());
    assert!(good < inputs(), "{format}: nothing was ever wrong; the mutations do not reach it");
}

/// A format of files in a folder: each input changes one of them.
fn fuzz_files(format: &str, files: &[(&str, Vec<u8>)], source: impl Fn(&Path) -> Source) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let source = source(folder.path());
    data::open(&source).unwrap_or_else(|error| panic!("{format}: the files as they are: {error}"));
    let all: Vec<&[u8]> = files.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    fuzz(format, |rng| {
        let (name, bytes) = &files[below(rng, files.len() as u64) as usize];
        let mut changed = bytes.clone();
        mutate(&mut changed, &all, rng);
        let path = folder.path().join(name);
        fs::write(&path, changed).unwrap();
        let opened = data::open(&source);
        if let Ok(dataset) = &opened {
            for sample in 0..dataset.samples.len().min(4) {
                let _ = dataset.image(sample);
            }
        }
        fs::write(&path, bytes).unwrap();
        opened.is_ok()
    });
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
    fuzz(ending, |rng| {
        let mut bytes = all[below(rng, all.len() as u64) as usize].to_vec();
        mutate(&mut bytes, &all, rng);
        if ending == "png" && below(rng, 4) > 0 {
            mend_png(&mut bytes);
        }
        // The decoder itself: a panic of its must be seen here though the reader above it would catch it.
        let decoded = picture::decode(&bytes);
        if let Err(error) = broken::decode_picture(&bytes) {
            assert!(error.reason().is_some(), "{error}");
        }
        decoded.is_ok()
    });
}

#[test]
fn png() {
    fuzz_pictures("png");
}

#[test]
fn jpeg() {
    fuzz_pictures("jpg");
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
    fuzz_files("cifar10", &ten, |folder| Source::new("cifar10", Some(folder)));
    let hundred = [
        ("fine_label_names.txt", names("apple\naquarium_fish\n")),
        ("train.bin", [record(&[0, 1]), record(&[0, 0])].concat()),
        ("test.bin", record(&[0, 1])),
    ];
    fuzz_files("cifar100", &hundred, |folder| Source::new("cifar100", Some(folder)));
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
    fuzz_files("domainnet", &files, |folder| Source::new("domainnet", Some(folder)));
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
    fuzz_files("csv", &files, |folder| Source {
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
        ["train", "val", "test", "a", "b", "..c", ".d", "a b", "é", "x.png", "y.JPG", "z.webp", "-", "%"];
    fuzz("folder", |rng| {
        let parent: TempDir = tempfile::tempdir().unwrap();
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
            for sample in 0..dataset.samples.len().min(4) {
                let _ = dataset.image(sample);
            }
        }
        opened.is_ok()
    });
}

/// A text that some parser reads: its bytes as they are.
fn fuzz_text(format: &str, text: &str, parse: impl Fn(&[u8]) -> bool) {
    assert!(parse(text.as_bytes()), "{format}: the text as it is");
    fuzz(format, |rng| {
        let mut bytes = text.as_bytes().to_vec();
        mutate(&mut bytes, &[], rng);
        parse(&bytes)
    });
}

#[test]
fn texts() {
    let index = "id\tdomain\ttile\tname\tclass\tyear\tsplit\n7\tsun\t0\tgrinning\tface-smiling\t2010\ttrain\n9\tmoon\t0\tpalette\t\
                 arts & crafts\t2015\ttest\n";
    fuzz_text("emoji index", index, |bytes| emoji::Index::parse("index.tsv", bytes).is_ok());
    fuzz_text("prompt templates", "a photo of a {}.\na {} indeed\n", |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| Templates::parse("t.txt", text).is_ok())
    });
    fuzz_text("class names", "n01\ttench\nn02\tgoldfish\n", |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| ClassNames::parse("n.txt", text).is_ok())
    });
}
