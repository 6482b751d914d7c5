//! Samples that cannot be used: which, how many, and why. Nothing is left out in silence.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::images::picture;
use crate::error::{Error, Result};

/// Reasons by which broken samples are counted.
pub(crate) const MISSING_FILE: &str = "missing file";
pub(crate) const UNREADABLE: &str = "unreadable";
pub(crate) const EMPTY_FILE: &str = "empty file";
pub(crate) const TRUNCATED: &str = "truncated";
pub(crate) const TOO_LARGE: &str = "too large";
pub(crate) const UNDECODABLE: &str = "undecodable";
pub(crate) const MISSING_CAPTION: &str = "missing caption";
pub(crate) const MISSING_CLASS: &str = "missing class";
pub(crate) const MISSING_IMAGE: &str = "missing image";
pub(crate) const MISSING_DOMAIN: &str = "missing domain";
pub(crate) const MISSING_TIME: &str = "missing time";

/// Broken samples by reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Broken(BTreeMap<String, OfReason>);

/// The broken samples of one reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct OfReason {
    pub count: usize,
    /// The first of them by name, [`SHOWN`] at most.
    pub first: Vec<String>,
}

/// Samples of a reason that are named.
pub(crate) const SHOWN: usize = 5;

impl Broken {
    /// Counts one. `what` names it and says what is wrong.
    pub(crate) fn add(&mut self, reason: &str, what: impl Into<String>) {
        let kind = self.0.entry(reason.to_string()).or_default();
        kind.count += 1;
        if kind.first.len() < SHOWN {
            kind.first.push(what.into());
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.values().map(|kind| kind.count).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &OfReason)> {
        self.0.iter().map(|(reason, kind)| (reason.as_str(), kind))
    }

    /// `3 truncated, 1 missing file`.
    pub(crate) fn summary(&self) -> String {
        self.iter().map(|(reason, kind)| format!("{} {reason}", kind.count)).collect::<Vec<_>>().join(", ")
    }

    /// Fails when there are more than `most`, the setting `data.max_broken`; `name` is the data set's.
    pub(crate) fn check(&self, name: &str, most: usize) -> Result<()> {
        let count = self.count();
        if count <= most {
            return Ok(());
        }
        let first: Vec<&str> = self.iter().flat_map(|(_, kind)| &kind.first).take(SHOWN).map(String::as_str).collect();
        let more = if count > first.len() { "; ..." } else { "" };
        let samples = if count == 1 { "sample" } else { "samples" };
        Err(Error::input(format!(
            "{count} broken {samples} in {name} ({}), more than data.max_broken = {most} allows: {}{more}",
            self.summary(),
            first.join("; ")
        )))
    }
}

/// The picture in a file of any name; an error names the file and has its reason.
pub(crate) fn read_picture(path: &Path) -> Result<RgbImage> {
    let bytes = fs::read(path).map_err(|cause| {
        let reason = if cause.kind() == ErrorKind::NotFound { MISSING_FILE } else { UNREADABLE };
        Error::reading(path, cause).because(reason)
    })?;
    decode_picture(&bytes).map_err(|error| error.at(format!("cannot read {}", path.display())))
}

/// The picture in the bytes of a file; an error has its reason.
pub fn decode_picture(bytes: &[u8]) -> Result<RgbImage> {
    if bytes.is_empty() {
        return Err(Error::input("the file is empty").because(EMPTY_FILE));
    }
    picture::decode(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::ImageFormat;

    use super::*;

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 5, y as u8 * 7, (x * y) as u8]));
        let mut bytes = Vec::new();
        picture.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    fn reason(bytes: &[u8]) -> Option<&'static str> {
        decode_picture(bytes).unwrap_err().reason()
    }

    #[test]
    fn each_broken_file_has_its_reason() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let whole = encoded(format);
            assert_eq!(decode_picture(&whole).unwrap().dimensions(), (40, 30));
            for part in [whole.len() / 2, whole.len() * 9 / 10] {
                assert_eq!(reason(&whole[..part]), Some(TRUNCATED), "{format:?}, {part} bytes of {}", whole.len());
            }
        }
        assert_eq!(reason(&[]), Some(EMPTY_FILE));
        assert_eq!(reason(b"<html>404</html>"), Some(UNDECODABLE));
        let mut wrong = encoded(ImageFormat::Png);
        let middle = wrong.len() / 2;
        wrong[middle] ^= 0xff;
        assert_eq!(reason(&wrong), Some(UNDECODABLE));
        let error = read_picture(Path::new("no/such.png")).unwrap_err();
        assert_eq!(error.reason(), Some(MISSING_FILE));
        assert!(error.to_string().starts_with("cannot read no/such.png"), "{error}");
    }

    #[test]
    fn bytes_after_the_end_do_no_harm() {
        let mut bytes = encoded(ImageFormat::Jpeg);
        bytes.extend([0; 100]);
        assert!(decode_picture(&bytes).is_ok());
    }

    #[test]
    fn a_thumbnails_end_is_not_the_pictures() {
        let whole = encoded(ImageFormat::Jpeg);
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
        let with = [&whole[..2], &thumbnail, &whole[2..]].concat();
        assert!(decode_picture(&with).is_ok());
        assert_eq!(reason(&with[..with.len() - 20]), Some(TRUNCATED));
    }

    #[test]
    fn a_picture_of_a_huge_size_is_refused_before_it_is_decoded() {
        // The header of a PNG of 100,000 x 100,000 pixels, with its checksum.
        let mut bomb = encoded(ImageFormat::Png);
        bomb[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
        let mut checksum = flate2::Crc::new();
        checksum.update(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
        assert_eq!(reason(&bomb), Some(TOO_LARGE));
    }

    #[test]
    fn counts_and_the_first_names_are_kept() {
        let mut broken = Broken::default();
        (0..7).for_each(|number| broken.add(TRUNCATED, format!("{number}.jpg")));
        broken.add(MISSING_FILE, "x.jpg");
        assert_eq!((broken.count(), broken.summary().as_str()), (8, "1 missing file, 7 truncated"));
        broken.check("folder", 8).unwrap();
        let message = broken.check("folder", 7).unwrap_err().to_string();
        let expected = "8 broken samples in folder (1 missing file, 7 truncated), more than data.max_broken = 7 allows: \
                        x.jpg; 0.jpg; 1.jpg; 2.jpg; 3.jpg; ...";
        assert_eq!(message, expected);
        let json = serde_json::to_string(&broken).unwrap();
        assert_eq!(serde_json::from_str::<Broken>(&json).unwrap(), broken);
    }
}
