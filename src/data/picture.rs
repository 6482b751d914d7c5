//! From the bytes of a picture file to 8-bit RGB: what Pillow's `Image.open(file).convert("RGB")` gives, pixel for pixel.
//!
//! Transparency is dropped, not blended; an orientation in the EXIF data is not applied; colour profiles and gamma are
//! not looked at. Three conversions are Pillow's own and would surprise elsewhere: 16-bit grey is clipped at 255 and not
//! scaled, other 16-bit pictures keep their high bytes, and a CMYK JPEG is taken as inverted, as Adobe writes it.
//!
//! JPEG is decoded as libjpeg-turbo does it, with its rounding in the inverse DCT, in the upsampling of the colours and
//! in their conversion: decoders that round otherwise differ by several units, which no filter takes back.

use std::io::Cursor;
use std::panic::{UnwindSafe, catch_unwind};

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits, RgbImage};
use libjpeg_turbo_rs::{ColorSpace, Decoder, JpegError, PixelFormat};

use crate::error::{Error, Result};

/// Pixels beyond which a picture is taken for an attack on the memory: Pillow's limit.
pub const MOST_PIXELS: u64 = 178_956_970;

/// Endings of the names of picture files: those of torchvision's ImageFolder, and `gif`, `jfif` and `pbm`. They say which files are
/// taken for pictures; what a file is, its first bytes say.
pub const ENDINGS: [&str; 12] =
    ["png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm"];

/// Whether a file of this name, or path, is taken for a picture: by its ending, in small or capital letters.
pub fn is_picture_name(name: &str) -> bool {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// The picture in the bytes of a PNG, JPEG or WebP file; of an animation the first frame. It is an error of input if the
/// file is broken, cut short, of another format, or of more than 179 million pixels, and where a decoder panics.
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let decoded = guarded(|| match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => png(bytes).map_err(|cause| cause.to_string()),
        Ok(ImageFormat::WebP) => webp(bytes).map_err(|cause| cause.to_string()),
        Ok(ImageFormat::Jpeg) => jpeg(bytes),
        Ok(other) => Err(format!("{other:?} is not read; PNG, JPEG and WebP are")),
        Err(_) => Err("it begins like no PNG, JPEG or WebP file".to_string()),
    });
    decoded.map_err(|cause| Error::input(format!("not a whole image: {cause}")))
}

/// What `decode` makes of bytes from outside. Decoders are others' work, and one picture of a million must not end a run: a panic is
/// an error like another.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T, String> + UnwindSafe) -> Result<T, String> {
    catch_unwind(decode).unwrap_or_else(|_| Err("its decoder panicked".to_string()))
}

/// The limits for a decoder of the crate `image`: 16 bytes a pixel hold every kind of it.
fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(16 * MOST_PIXELS);
    limits
}

fn check_size((width, height): (u32, u32)) -> Result<(), ImageError> {
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(ImageError::Limits(image::error::LimitError::from_kind(
            image::error::LimitErrorKind::DimensionError,
        )));
    }
    Ok(())
}

fn png(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    // The header's place in the file is fixed; the decoder tells only what it makes of the pixels.
    let grey = bytes.get(25) == Some(&0);
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits())?;
    check_size(decoder.dimensions())?;
    let image = DynamicImage::from_decoder(decoder)?;
    if !matches!(image.color().bytes_per_pixel() / image.color().channel_count(), 2) {
        return Ok(image.into_rgb8());
    }
    let wide = image.into_rgb16();
    let narrow = |value: u16| if grey { value.min(255) as u8 } else { (value >> 8) as u8 };
    let (width, height) = wide.dimensions();
    let pixels = wide.into_raw().into_iter().map(narrow).collect();
    Ok(RgbImage::from_raw(width, height, pixels).expect("as many values as before"))
}

fn webp(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    check_size(decoder.dimensions())?;
    decoder.set_limits(limits())?;
    Ok(DynamicImage::from_decoder(decoder)?.into_rgb8())
}

fn jpeg(bytes: &[u8]) -> Result<RgbImage, String> {
    let wrong = |cause: JpegError| cause.to_string();
    let mut decoder = Decoder::new(bytes).map_err(wrong)?;
    decoder.set_max_pixels(MOST_PIXELS as usize);
    let four_inks = matches!(decoder.jpeg_color_space(), ColorSpace::Cmyk | ColorSpace::Ycck);
    decoder.set_output_format(if four_inks { PixelFormat::Cmyk } else { PixelFormat::Rgb });
    let image = decoder.decode_image().map_err(wrong)?;
    let pixels = if four_inks { image.data.chunks_exact(4).flat_map(from_inks).collect() } else { image.data };
    whole(image.width, image.height, pixels)
}

/// A decoder's pixels as a picture of the size that the decoder tells: others' work, so no more than a claim.
fn whole(width: usize, height: usize, pixels: Vec<u8>) -> Result<RgbImage, String> {
    let values = pixels.len();
    let sides = u32::try_from(width).ok().zip(u32::try_from(height).ok());
    sides
        .filter(|(width, height)| u64::from(*width) * u64::from(*height) * 3 == values as u64)
        .and_then(|(width, height)| RgbImage::from_raw(width, height, pixels))
        .ok_or_else(|| format!("the decoder gave {values} values for {width} x {height} pixels"))
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

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::*;

    /// Files of every kind, and what Pillow makes of them; `make_pictures.py` beside it writes it.
    const PILLOW: &str = include_str!("../../tests/fixtures/pillow/pictures.json");

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
        let message = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert_eq!(message(b""), "not a whole image: it begins like no PNG, JPEG or WebP file");
        assert_eq!(message(b"GIF89a and so on"), "not a whole image: Gif is not read; PNG, JPEG and WebP are");
        for case in CASES.iter() {
            let file = case.file();
            let message = message(&file[..file.len() * 2 / 3]);
            assert!(message.starts_with("not a whole image: "), "{}: {message}", case.name);
        }
    }

    #[test]
    fn a_decoder_that_panics_is_an_error() {
        let decoded: Result<(), String> = guarded(|| panic!("no such Huffman table"));
        assert_eq!(decoded.unwrap_err(), "its decoder panicked");
    }

    #[test]
    fn a_decoder_that_gives_another_number_of_pixels_is_an_error() {
        assert_eq!(whole(2, 1, vec![7; 6]).unwrap().dimensions(), (2, 1));
        for (width, height, values) in [(2, 1, 5), (2, 1, 7), (1 << 32, 1, 3), (usize::MAX, usize::MAX, 3)] {
            let message = whole(width, height, vec![7; values]).unwrap_err();
            assert_eq!(message, format!("the decoder gave {values} values for {width} x {height} pixels"));
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
        let message = decode(&png).unwrap_err().to_string();
        assert!(message.starts_with("not a whole image: "), "{message}");
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
