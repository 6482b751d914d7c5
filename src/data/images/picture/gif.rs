//! The first frame of a GIF, in Pillow's reading: what the frame leaves of the screen has its transparent colour, or else colour 0.

use std::io::{Cursor, ErrorKind};

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use image::RgbImage;

use super::{Fault, MOST_PIXELS, check_size, from_palette, picture};

pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let coloured;
    let bytes = match bytes.get(..13) {
        None => return Err(Fault::CutShort),
        // Without a table of colours, whose decoder asks for one, indices are greys.
        Some(head) if head[10] & 0x80 == 0 => {
            let greys: Vec<u8> = (0..=255).flat_map(|grey| [grey; 3]).collect();
            coloured = [&head[..10], &[head[10] | 0x87], &head[11..], &greys, &bytes[13..]].concat();
            &coloured
        }
        Some(_) => bytes,
    };
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(MOST_PIXELS.try_into().expect("a limit of more than 0")));
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(fault)?;
    let screen = (decoder.width(), decoder.height());
    let palette = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.next_frame_info().map_err(fault)?;
    let frame = frame.ok_or_else(|| Fault::Wrong("a GIF without a picture".to_string()))?;
    let (left, top, frame_width, frame_height) = (frame.left, frame.top, frame.width, frame.height);
    let filler = frame.transparent.unwrap_or(0);
    let palette = frame.palette.clone().or(palette).unwrap_or_default();
    // A frame that reaches beyond the screen widens it.
    let side = |screen: u16, before: u16, frame: u16| u32::from(screen).max(u32::from(before) + u32::from(frame));
    let (width, height) = (side(screen.0, left, frame_width), side(screen.1, top, frame_height));
    check_size(width, height)?;
    let (frame_width, left) = (usize::from(frame_width), usize::from(left));
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(fault)?;
    let mut screen = vec![filler; width as usize * height as usize];
    if frame_width > 0 {
        let rows = screen.chunks_exact_mut(width as usize).skip(usize::from(top));
        for (row, indices) in rows.zip(indices.chunks_exact(frame_width)) {
            row[left..left + frame_width].copy_from_slice(indices);
        }
    }
    picture(width, height, from_palette(&screen, palette.as_chunks().0))
}

fn fault(cause: DecodingError) -> Fault {
    match cause {
        DecodingError::Io(cause) if cause.kind() == ErrorKind::UnexpectedEof => Fault::CutShort,
        other => Fault::Wrong(other.to_string()),
    }
}
