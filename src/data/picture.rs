//! From the bytes of a picture file to 8-bit RGB. Transparency is dropped, as Pillow's `convert("RGB")` does.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use crate::error::{Error, Result};

/// Pixels beyond which a picture is taken for an attack on the memory: Pillow's limit.
pub const MOST_PIXELS: u64 = 178_956_970;

/// The picture in the bytes of a PNG, JPEG or WebP file. It is an error of input if the file is broken or cut short, or has more
/// than [`MOST_PIXELS`].
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let wrong = |cause: String| Error::input(format!("not a whole image: {cause}"));
    let reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|cause| wrong(cause.to_string()))?;
    let mut decoder = reader.into_decoder().map_err(|cause| wrong(cause.to_string()))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(wrong(format!("{width} x {height} pixels are more than {MOST_PIXELS}")));
    }
    // 16 bytes hold a pixel of every kind.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(16 * MOST_PIXELS);
    decoder.set_limits(limits).map_err(|cause| wrong(cause.to_string()))?;
    Ok(DynamicImage::from_decoder(decoder).map_err(|cause| wrong(cause.to_string()))?.into_rgb8())
}
