//! JPEG, decoded by libjpeg-turbo as the crate `mozjpeg-sys` carries it, and driven as Pillow drives it: whole-number inverse DCT,
//! colours upsampled smoothly, warnings passed over, and a file that ends before its last line refused.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{mem, ptr};

use image::RgbImage;
use mozjpeg_sys::{
    J_COLOR_SPACE, jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct, jpeg_destroy_decompress,
    jpeg_error_mgr, jpeg_finish_decompress, jpeg_progress_mgr, jpeg_read_header, jpeg_read_scanlines,
    jpeg_resync_to_restart, jpeg_source_mgr, jpeg_start_decompress, jpeg_std_error,
};

use super::{Fault, MOST_PIXELS, check_size, from_grey, from_inks, picture};

/// Scans over a picture of the most pixels that are followed; a smaller picture may have more, to the same work. Encoders write a
/// dozen; thousands are an attack.
const MOST_SCANS: u64 = 100;

/// What the components of a JPEG are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Colours {
    /// What its markers and the numbers of its components say, and RGB is made of it.
    AsMarked,
    /// Luminance and two colour differences; RGB is made of them.
    YCbCr,
    /// Nothing that is looked at: they stay as they are.
    AsStored,
}

/// The picture in a JPEG file of one, three or four components: grey, RGB of YCbCr or RGB, and RGB of inks, which are taken as
/// inverted.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let (width, height, samples, values) = samples(bytes, Colours::AsMarked)?;
    let pixels = match samples {
        1 => from_grey(&values),
        4 => values.chunks_exact(4).flat_map(from_inks).collect(),
        _ => values,
    };
    picture(width, height, pixels)
}

/// Width and height of a JPEG, how many values a pixel has, and the values.
pub(crate) fn samples(bytes: &[u8], colours: Colours) -> Result<(u32, u32, usize, Vec<u8>), Fault> {
    let decoded = catch_unwind(AssertUnwindSafe(|| Decompressor::new(bytes).samples(colours)));
    decoded.unwrap_or_else(|stopped| Err(fault(stopped)))
}

/// Tables for pictures whose JPEG streams leave them out, as TIFF files keep them, with the stream: one stream that has them.
pub(crate) fn with_tables(tables: &[u8], stream: &[u8]) -> Vec<u8> {
    const MARK: usize = 2;
    match (tables.len().checked_sub(MARK), stream.get(MARK..)) {
        (Some(end), Some(rest)) if end > MARK => [&tables[..end], rest].concat(),
        _ => stream.to_vec(),
    }
}

/// What libjpeg is stopped by. It asks that its handler of errors does not return, so the handler unwinds through it; without the
/// panic hook, so that nothing is printed.
struct Stop(Fault);

fn fault(stopped: Box<dyn Any + Send>) -> Fault {
    match stopped.downcast::<Stop>() {
        Ok(stop) => stop.0,
        Err(panic) => resume_unwind(panic),
    }
}

fn stop(fault: Fault) -> ! {
    resume_unwind(Box::new(Stop(fault)))
}

/// libjpeg's state for one file. Its parts point to one another and stay where they are.
struct Decompressor<'a> {
    info: Box<jpeg_decompress_struct>,
    source: Box<jpeg_source_mgr>,
    error: Box<jpeg_error_mgr>,
    progress: Box<jpeg_progress_mgr>,
    _bytes: std::marker::PhantomData<&'a [u8]>,
}

impl<'a> Decompressor<'a> {
    fn new(bytes: &'a [u8]) -> Decompressor<'a> {
        // SAFETY: all of these are plain C structs of numbers, pointers and optional functions, for which zeros are good values.
        let mut decompressor: Decompressor<'a> = unsafe {
            Decompressor {
                info: Box::new(mem::zeroed()),
                source: Box::new(mem::zeroed()),
                error: Box::new(mem::zeroed()),
                progress: Box::new(mem::zeroed()),
                _bytes: std::marker::PhantomData,
            }
        };
        let Decompressor { info, source, error, progress, .. } = &mut decompressor;
        source.next_input_byte = bytes.as_ptr();
        source.bytes_in_buffer = bytes.len();
        source.init_source = Some(nothing);
        source.fill_input_buffer = Some(no_more);
        source.skip_input_data = Some(skip);
        source.resync_to_restart = Some(jpeg_resync_to_restart);
        source.term_source = Some(nothing);
        progress.progress_monitor = Some(count_scans);
        // SAFETY: the structs live as long as `info` does, and `Drop` gives back what libjpeg takes.
        unsafe {
            jpeg_std_error(error);
            error.error_exit = Some(error_exit);
            error.output_message = Some(no_message);
            info.common.err = &mut **error;
            jpeg_create_decompress(&mut **info);
            info.src = &mut **source;
            info.common.progress = &mut **progress;
        }
        decompressor
    }

    fn samples(&mut self, colours: Colours) -> Result<(u32, u32, usize, Vec<u8>), Fault> {
        // What jpeg_read_header answers; else there were tables alone, and the picture comes behind them.
        const SUSPENDED: c_int = 0;
        const HEADER_OK: c_int = 1;
        let info = &mut *self.info;
        // SAFETY: in each call libjpeg gets the state that `new` made, and the functions come in the order that it asks for.
        unsafe {
            loop {
                match jpeg_read_header(info, 0) {
                    SUSPENDED => return Err(Fault::CutShort),
                    HEADER_OK => break,
                    _ => {}
                }
            }
            let (width, height) = (info.image_width, info.image_height);
            check_size(width, height)?;
            info.out_color_space = match info.num_components {
                1 => J_COLOR_SPACE::JCS_GRAYSCALE,
                3 => J_COLOR_SPACE::JCS_RGB,
                4 => J_COLOR_SPACE::JCS_CMYK,
                other => return Err(Fault::Wrong(format!("a JPEG of {other} components; 1, 3 and 4 are read"))),
            };
            match colours {
                Colours::AsMarked => {}
                Colours::YCbCr => info.jpeg_color_space = J_COLOR_SPACE::JCS_YCbCr,
                Colours::AsStored => info.jpeg_color_space = info.out_color_space,
            }
            if jpeg_start_decompress(info) == 0 {
                return Err(Fault::CutShort);
            }
            let samples = info.output_components as usize;
            let line = width as usize * samples;
            let mut values = vec![0; height as usize * line];
            for row in values.chunks_exact_mut(line) {
                if jpeg_read_scanlines(info, &mut row.as_mut_ptr(), 1) != 1 {
                    return Err(Fault::CutShort);
                }
            }
            // All lines are there, so that a missing end does no harm.
            jpeg_finish_decompress(info);
            Ok((width, height, samples, values))
        }
    }
}

impl Drop for Decompressor<'_> {
    fn drop(&mut self) {
        // SAFETY: `new` created it.
        unsafe { jpeg_destroy_decompress(&mut self.info) }
    }
}

unsafe extern "C-unwind" fn error_exit(info: &mut jpeg_common_struct) {
    /// JMSG_LENGTH_MAX of jpeglib.h. (The crate's declaration has another number.)
    const LONGEST: usize = 200;
    type Format = unsafe extern "C-unwind" fn(*mut jpeg_common_struct, *mut c_char);
    let mut message = [0 as c_char; LONGEST];
    // SAFETY: jpeg_std_error set the function, whose type in C is this one.
    let message = unsafe {
        let format = (*info.err).format_message.map(|format| mem::transmute::<*const (), Format>(format as *const ()));
        if let Some(format) = format {
            format(info, message.as_mut_ptr());
        }
        message[LONGEST - 1] = 0;
        CStr::from_ptr(message.as_ptr()).to_string_lossy().into_owned()
    };
    // SAFETY: an error comes with the whole struct, which begins with the common part, and the source is that of `new`. Before there
    // is one, nothing was read.
    let ended = unsafe {
        let source = (*ptr::from_mut(info).cast::<jpeg_decompress_struct>()).src;
        !source.is_null() && (*source).bytes_in_buffer == 0
    };
    stop(if ended { Fault::CutShort } else { Fault::Wrong(format!("its JPEG decoder says '{message}'")) });
}

unsafe extern "C-unwind" fn no_message(_: &mut jpeg_common_struct) {}

unsafe extern "C-unwind" fn nothing(_: &mut jpeg_decompress_struct) {}

/// All bytes were there from the beginning: libjpeg stops in between, and the file is cut short.
unsafe extern "C-unwind" fn no_more(_: &mut jpeg_decompress_struct) -> c_int {
    0
}

unsafe extern "C-unwind" fn skip(info: &mut jpeg_decompress_struct, bytes: c_long) {
    // SAFETY: the source is that of `new`.
    let source = unsafe { &mut *info.src };
    let bytes = usize::try_from(bytes).unwrap_or(0).min(source.bytes_in_buffer);
    source.next_input_byte = source.next_input_byte.wrapping_add(bytes);
    source.bytes_in_buffer -= bytes;
}

unsafe extern "C-unwind" fn count_scans(info: &mut jpeg_common_struct) {
    // SAFETY: libjpeg's monitors are called with the whole struct, which begins with the common part.
    let info = unsafe { &*ptr::from_mut(info).cast::<jpeg_decompress_struct>() };
    let pixels = u64::from(info.image_width) * u64::from(info.image_height);
    if info.input_scan_number as u64 * pixels > MOST_SCANS * MOST_PIXELS {
        stop(Fault::Wrong(format!("a JPEG of more than {} scans", info.input_scan_number - 1)));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use sha2::{Digest, Sha256};

    use super::super::decode;
    use crate::data::broken::{TRUNCATED, UNDECODABLE};

    /// Files over markers, components, sampling, coding, sizes and damage, and what Pillow makes of each; `make_jpegs.py` beside them
    /// writes them.
    const FILES: &[u8] = include_bytes!("../../../../tests/fixtures/jpeg/matrix.tar.gz");
    const PILLOW: &str = include_str!("../../../../tests/fixtures/jpeg/matrix.json");

    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        width: Option<u32>,
        height: Option<u32>,
        sha256: Option<String>,
        /// `truncated`, or `broken` in another way.
        refused: Option<String>,
    }

    #[test]
    fn every_kind_and_every_damage_is_read_as_pillow_reads_it() {
        let cases: Vec<Case> = serde_json::from_str(PILLOW).unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(FILES));
        let mut differences = Vec::new();
        let (mut read, mut refused) = (0, 0);
        for (case, member) in cases.iter().zip(archive.entries().unwrap()) {
            let mut file = Vec::new();
            member.unwrap().read_to_end(&mut file).unwrap();
            match (decode(&file), &case.refused) {
                (Ok(image), None) => {
                    let hash: String =
                        Sha256::digest(image.as_raw()).iter().map(|byte| format!("{byte:02x}")).collect();
                    let found = (Some(image.width()), Some(image.height()), Some(hash));
                    if found != (case.width, case.height, case.sha256.clone()) {
                        differences.push(format!("{}: other pixels", case.name));
                    }
                    read += 1;
                }
                (Err(error), Some(pillow)) => {
                    // Pillow does not say it of an arithmetic code, and of headers, that they are cut short.
                    let short = error.reason() == Some(TRUNCATED);
                    let unsaid = case.name.contains("arithmetic") || case.name.starts_with("damaged cut");
                    let same = short == (pillow == "truncated") || short && unsaid;
                    if !same || !short && error.reason() != Some(UNDECODABLE) {
                        differences.push(format!("{}: {error}; Pillow: {pillow}", case.name));
                    }
                    refused += 1;
                }
                (Ok(_), Some(pillow)) => differences.push(format!("{}: read; Pillow: {pillow}", case.name)),
                (Err(error), None) => differences.push(format!("{}: {error}; Pillow reads it", case.name)),
            }
        }
        assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), cases.len(), differences.join("\n"));
        assert!(cases.len() >= 780 && read >= 600 && refused >= 100, "{read} read, {refused} refused");
    }
}
