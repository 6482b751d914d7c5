//! Mutated inputs: no reader of outside bytes panics, hangs, or asks for more memory than its limit.
//!
//! 500 inputs of each format; `PERENNIAL_FUZZ=100000 cargo test --release --test fuzz` for the long run. An input depends on nothing
//! but its format and its number, which a failure tells. Where a checksum or a hash would stop every mutation, it is made right again,
//! so that what lies behind is reached.
//!
//! The memory in use is that of the process, which no other tests share.

mod features;
mod formats;
mod mutate;
mod pictures;
mod texts;
mod weights;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use perennial::data::images::transform;
use perennial::data::{self, Dataset, Source};
use perennial::rng::{Rng, below, rng};
use tempfile::TempDir;

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
    ("baseline.jpg", include_bytes!("../fixtures/pictures/baseline.jpg")),
    ("progressive.jpg", include_bytes!("../fixtures/pictures/progressive.jpg")),
    ("grey.jpg", include_bytes!("../fixtures/pictures/grey.jpg")),
    ("cmyk.jpg", include_bytes!("../fixtures/pictures/cmyk.jpg")),
    ("rgb.png", include_bytes!("../fixtures/pictures/rgb.png")),
    ("alpha.png", include_bytes!("../fixtures/pictures/alpha.png")),
    ("palette.png", include_bytes!("../fixtures/pictures/palette.png")),
    ("bits.png", include_bytes!("../fixtures/pictures/bits.png")),
    ("grey16.png", include_bytes!("../fixtures/pictures/grey16.png")),
    ("lossy.webp", include_bytes!("../fixtures/pictures/lossy.webp")),
    ("alpha.webp", include_bytes!("../fixtures/pictures/alpha.webp")),
    ("lossless.webp", include_bytes!("../fixtures/pictures/lossless.webp")),
    ("animated.webp", include_bytes!("../fixtures/pictures/animated.webp")),
];
