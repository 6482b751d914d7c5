//! Decoders of pictures.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use perennial::data::broken;
use perennial::data::images::picture;
use perennial::rng::below;

use crate::mutate::{mend_png, mutate};
use crate::{PICTURE, PICTURES, fuzz};

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
    const JPEGS: &[u8] = include_bytes!("../fixtures/jpeg/matrix.tar.gz");
    const FORMATS: &[u8] = include_bytes!("../fixtures/formats/formats.tar.gz");
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
