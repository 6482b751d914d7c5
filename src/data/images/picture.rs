//! From the bytes of a picture file to 8-bit RGB: what Pillow's `Image.open(file).convert("RGB")` gives, pixel for pixel.
//!
//! Transparency is dropped, not blended; an orientation in the EXIF data is not applied (that of a TIFF is); colour profiles and gamma
//! are not looked at. Three conversions are Pillow's own and would surprise elsewhere: 16-bit grey is clipped at 255 and not
//! scaled, other 16-bit pictures keep their high bytes, and a CMYK JPEG is taken as inverted, as Adobe writes it.
//!
//! JPEG is decoded by libjpeg-turbo itself, with its rounding in the inverse DCT, in the upsampling of the colours and in their
//! conversion: decoders that round otherwise differ by several units, which no filter takes back. BMP, TIFF, PBM, PGM and PPM are
//! read here, by crates' codecs where they are compressed: the crates that read these formats whole read fewer kinds, and other
//! values.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageError, Limits, RgbImage};

use crate::data::broken::{TOO_LARGE, TRUNCATED, UNDECODABLE};
use crate::error::{Error, Result};

mod bmp;
mod gif;
mod guard;
mod jpeg;
mod pnm;
mod tiff;

pub(in crate::data) use guard::guarded;

/// Pixels beyond which a picture is taken for an attack on the memory: Pillow's limit.
pub(crate) const MOST_PIXELS: u64 = 178_956_970;

/// Endings of the names of picture files: those of torchvision's ImageFolder, and `gif`, `jfif` and `pbm`. They say which files are
/// taken for pictures; what a file is, its first bytes say.
pub(crate) const ENDINGS: [&str; 12] =
    ["png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm"];

/// Whether a file of this name, or path, is taken for a picture: by its ending, in small or capital letters.
pub(crate) fn is_picture_name(name: &str) -> bool {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// What is wrong with a picture.
#[derive(Debug, PartialEq)]
enum Fault {
    /// The file ends before its picture does.
    CutShort,
    /// Width and height of more than [`MOST_PIXELS`].
    TooLarge(u32, u32),
    Wrong(String),
}

impl From<ImageError> for Fault {
    fn from(cause: ImageError) -> Fault {
        Fault::Wrong(cause.to_string())
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Fault {
        Fault::Wrong(what)
    }
}

impl Fault {
    fn into_error(self) -> Error {
        match self {
            Fault::CutShort => Error::input("the picture is cut short").because(TRUNCATED),
            Fault::TooLarge(width, height) => {
                Error::input(format!("a picture of {width} x {height} pixels; {MOST_PIXELS} are the most"))
                    .because(TOO_LARGE)
            }
            Fault::Wrong(what) => Error::input(format!("not a whole image: {what}")).because(UNDECODABLE),
        }
    }
}

type Decode = fn(&[u8]) -> Result<RgbImage, Fault>;

/// What the first bytes of a file tell: its decoder, or the name of what is not read.
fn kind(bytes: &[u8]) -> Result<Decode, &'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Ok(png),
        [0xff, 0xd8, 0xff, ..] => Ok(jpeg::decode),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(webp),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(gif::decode),
        [b'B', b'M', ..] => Ok(bmp::decode),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok(tiff::decode),
        [b'P', b'1'..=b'6', b'\t'..=b'\r' | b' ', ..] => Ok(pnm::decode),
        [b'P', b'7', b'\n', ..] => Err("PAM"),
        [b'P', b'f' | b'F', b'\n', ..] => Err("PFM"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f' | b's', ..] => Err("AVIF"),
        [_, _, _, _, b'f', b't', b'y', b'p', b'h', b'e', ..]
        | [_, _, _, _, b'f', b't', b'y', b'p', b'm', b'i' | b's', b'f', b'1', ..] => Err("HEIF"),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => Err("JPEG 2000"),
        [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] | [0xff, 0x0a, ..] => Err("JPEG XL"),
        [0xff, 0xd8, ..] => Err("a JPEG without a marker behind its first, which"),
        [b'I', b'I', 0xbc, ..] => Err("JPEG XR"),
        [0, 0, 1 | 2, 0, ..] => Err("ICO"),
        [b'8', b'B', b'P', b'S', ..] => Err("PSD"),
        [b'D', b'D', b'S', b' ', ..] => Err("DDS"),
        [b'q', b'o', b'i', b'f', ..] => Err("QOI"),
        [0x76, 0x2f, 0x31, 0x01, ..] => Err("OpenEXR"),
        [b'%', b'!', b'P', b'S', ..] => Err("PostScript"),
        [b'%', b'P', b'D', b'F', ..] => Err("PDF"),
        [b'<', b's', b'v', b'g', ..] => Err("SVG"),
        _ => Err(""),
    }
}

/// The picture in the bytes of a file, whatever its name: PNG, JPEG, WebP, GIF, BMP, TIFF, PBM, PGM or PPM; of an animation the
/// first frame, of several pages the first. It is an error of input, with its reason ([`crate::data::broken`]), if the file is broken, cut
/// short, of another format, or of more than 179 million pixels, and where a decoder panics.
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    const READ: &str = "PNG, JPEG, WebP, GIF, BMP, TIFF, PBM, PGM and PPM are";
    let decoded = match kind(bytes) {
        Ok(decode) => guarded(|| decode(bytes)),
        Err("") => Err(Fault::Wrong(format!("it begins like no picture that is read; {READ}"))),
        Err(other) => Err(Fault::Wrong(format!("{other} is not read; {READ}"))),
    };
    decoded.map_err(Fault::into_error)
}

/// The limits for a decoder of the crate `image`: 16 bytes a pixel hold every kind of it.
fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(16 * MOST_PIXELS);
    limits
}

fn check_size(width: u32, height: u32) -> Result<(), Fault> {
    match u64::from(width) * u64::from(height) {
        0 => Err(Fault::Wrong(format!("a picture of {width} x {height} pixels"))),
        1..=MOST_PIXELS => Ok(()),
        _ => Err(Fault::TooLarge(width, height)),
    }
}

fn png(bytes: &[u8]) -> Result<RgbImage, Fault> {
    // The header's place in the file is fixed; the decoder tells only what it makes of the pixels.
    let grey = bytes.get(25) == Some(&0);
    if let Some([w0, w1, w2, w3, h0, h1, h2, h3]) = bytes.get(16..24) {
        check_size(u32::from_be_bytes([*w0, *w1, *w2, *w3]), u32::from_be_bytes([*h0, *h1, *h2, *h3]))?;
    }
    let image = PngDecoder::with_limits(Cursor::new(bytes), limits()).and_then(DynamicImage::from_decoder);
    let image = image.map_err(|cause| {
        let whole = bytes.windows(4).rev().any(|window| window == b"IEND");
        if whole { cause.into() } else { Fault::CutShort }
    })?;
    if !matches!(image.color().bytes_per_pixel() / image.color().channel_count(), 2) {
        return Ok(image.into_rgb8());
    }
    let wide = image.into_rgb16();
    let narrow = |value: u16| if grey { value.min(255) as u8 } else { (value >> 8) as u8 };
    let (width, height) = wide.dimensions();
    let pixels = wide.into_raw().into_iter().map(narrow).collect();
    Ok(RgbImage::from_raw(width, height, pixels).expect("as many values as before"))
}

fn webp(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let size = bytes.get(4..8).map_or(0, |size| u32::from_le_bytes(size.try_into().expect("four bytes")));
    let wrong = |cause: ImageError| {
        if (bytes.len() as u64) < 8 + u64::from(size) { Fault::CutShort } else { cause.into() }
    };
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    decoder.set_limits(limits()).map_err(wrong)?;
    Ok(DynamicImage::from_decoder(decoder).map_err(wrong)?.into_rgb8())
}

/// Indices into a palette as colours. What a palette does not have is black.
fn from_palette(indices: &[u8], palette: &[[u8; 3]]) -> Vec<u8> {
    indices.iter().flat_map(|index| palette.get(usize::from(*index)).copied().unwrap_or_default()).collect()
}

/// Greys as colours.
fn from_grey(greys: &[u8]) -> Vec<u8> {
    greys.iter().flat_map(|grey| [*grey; 3]).collect()
}

/// A picture of as many values as its size asks for.
fn picture(width: u32, height: u32, pixels: Vec<u8>) -> Result<RgbImage, Fault> {
    let values = pixels.len();
    Some(pixels)
        .filter(|pixels| 3 * u64::from(width) * u64::from(height) == pixels.len() as u64)
        .and_then(|pixels| RgbImage::from_raw(width, height, pixels))
        .ok_or_else(|| Fault::Wrong(format!("the decoder gave {values} values for {width} x {height} pixels")))
}

/// RGB of cyan, magenta, yellow and black, stored inverted: what is left of the white after the black, less the ink's part
/// of it.
fn from_inks(stored: &[u8]) -> [u8; 3] {
    let white = u32::from(stored[3]);
    std::array::from_fn(|ink| {
        // A product of bytes divided by 255, rounded.
        let product = (255 - u32::from(stored[ink])) * white + 128;
        (white - ((product + (product >> 8)) >> 8)) as u8
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use std::io::Read;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    /// Files of every kind, and what Pillow makes of them; `make_pictures.py` beside it writes it.
    const PILLOW: &str = include_str!("../../../tests/fixtures/pillow/pictures.json");

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        width: u32,
        height: u32,
        file: String,
        rgb: String,
    }

    impl Case {
        fn file(&self) -> Vec<u8> {
            BASE64_STANDARD.decode(&self.file).unwrap()
        }
    }

    static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| serde_json::from_str(PILLOW).unwrap());

    #[test]
    fn every_kind_is_read_as_pillow_reads_it() {
        assert!(CASES.len() >= 60);
        for case in CASES.iter() {
            let image = decode(&case.file()).unwrap();
            assert_eq!(image.dimensions(), (case.width, case.height), "{}", case.name);
            let expected = BASE64_STANDARD.decode(&case.rgb).unwrap();
            let difference = image.as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
            assert_eq!(difference, Some(0), "{}", case.name);
        }
    }

    /// Small files of every kind of BMP, GIF, TIFF, PBM, PGM and PPM, and what Pillow makes of each; `make_formats.py` beside them
    /// writes them.
    const FORMATS: &[u8] = include_bytes!("../../../tests/fixtures/formats/formats.tar.gz");
    const OF_FORMATS: &str = include_str!("../../../tests/fixtures/formats/formats.json");

    #[derive(serde::Deserialize)]
    struct OfFormat {
        name: String,
        width: Option<u32>,
        height: Option<u32>,
        /// Of the pixels; where Pillow refuses the file there is none.
        sha256: Option<String>,
    }

    #[test]
    fn every_format_is_read_as_pillow_reads_it() {
        let cases: Vec<OfFormat> = serde_json::from_str(OF_FORMATS).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(FORMATS));
        let (mut differences, mut read) = (Vec::new(), 0);
        for (case, member) in cases.iter().zip(archive.entries().unwrap()) {
            let mut file = Vec::new();
            member.unwrap().read_to_end(&mut file).unwrap();
            let found = decode(&file).map(|image| {
                read += 1;
                let hash: String = Sha256::digest(image.as_raw()).iter().map(|byte| format!("{byte:02x}")).collect();
                (Some(image.width()), Some(image.height()), Some(hash))
            });
            let same = match &found {
                Ok(found) => *found == (case.width, case.height, case.sha256.clone()),
                Err(_) => case.sha256.is_none(),
            };
            if !same {
                differences.push(format!("{}: {found:?}", case.name));
            }
        }
        assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), cases.len(), differences.join("\n"));
        assert!(read >= 600, "{read} are read");
    }

    #[test]
    fn pictures_are_known_by_their_endings() {
        for name in ["a.png", "a.b/c.d.JPEG", ".hidden.Gif", "x.tif", "x.TIFF", "x.pbm", "x.jfif"] {
            assert!(is_picture_name(name), "{name}");
        }
        for name in ["", "png", "a.png.txt", "a.png/b", "a.", "a.json", "a.avif"] {
            assert!(!is_picture_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_whole_picture_is_refused() {
        const READ: &str = "PNG, JPEG, WebP, GIF, BMP, TIFF, PBM, PGM and PPM are";
        let message = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert_eq!(message(b"<html>"), format!("not a whole image: it begins like no picture that is read; {READ}"));
        for (bytes, name) in [
            (&b"\0\0\0\x1cftypavif\0\0\0\0"[..], "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
            (b"P7\nWIDTH 1", "PAM"),
        ] {
            assert_eq!(message(bytes), format!("not a whole image: {name} is not read; {READ}"));
        }
        for case in CASES.iter() {
            let file = case.file();
            let error = decode(&file[..file.len() * 2 / 3]).unwrap_err();
            assert!([Some(TRUNCATED), Some(UNDECODABLE)].contains(&error.reason()), "{}: {error}", case.name);
        }
    }

    #[test]
    fn a_decoder_that_panics_is_an_error() {
        let decoded: Result<(), String> = guarded(|| panic!("no such Huffman table"));
        assert_eq!(decoded.unwrap_err(), "its decoder panicked");
    }

    #[test]
    fn a_decoder_that_gives_another_number_of_pixels_is_an_error() {
        assert_eq!(picture(2, 1, vec![7; 6]).unwrap().dimensions(), (2, 1));
        for (width, height, values) in [(2, 1, 5), (2, 1, 7), (u32::MAX, 1, 3)] {
            let wrong = picture(width, height, vec![7; values]).unwrap_err();
            let message = format!("the decoder gave {values} values for {width} x {height} pixels");
            assert_eq!(wrong, Fault::Wrong(message));
        }
    }

    #[test]
    fn a_picture_beyond_all_bounds_is_refused_before_memory_is_taken() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        png.extend(60_000u32.to_be_bytes().repeat(2));
        png.extend([8, 2, 0, 0, 0]);
        let mut checksum = flate2::Crc::new();
        checksum.update(&png[12..]);
        png.extend(checksum.sum().to_be_bytes());
        png.extend(b"\0\0\0\x04IDAT1234\0\0\0\0");
        let error = decode(&png).unwrap_err();
        assert_eq!(error.reason(), Some(TOO_LARGE), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn damaged_files_are_harmless(
            case in any::<prop::sample::Index>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let mut file = CASES[case.index(CASES.len())].file();
            for (place, byte) in changes {
                let place = place.index(file.len());
                file[place] = byte;
            }
            if let Some(cut) = cut {
                file.truncate(cut.index(file.len()));
            }
            if let Ok(image) = decode(&file) {
                prop_assert!(image.width() > 0 && image.height() > 0);
            }
        }
    }
}
