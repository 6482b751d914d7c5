//! BMP files of Windows and of OS/2's first version: palettes of 1, 4 and 8 bits, plain or with run lengths, and colours of 16, 24 and
//! 32 bits, in Pillow's reading. The fourth byte of a pixel is passed over.

use image::RgbImage;

use super::{Fault, check_size, from_palette, picture};

const PLAIN: u32 = 0;
const RUNS_OF_8: u32 = 1;
const RUNS_OF_4: u32 = 2;
const MASKS: u32 = 3;

/// Before the header that tells the picture.
const FILE_HEADER: usize = 14;

pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let header = Header::of(bytes)?;
    check_size(header.width, header.height)?;
    let (width, bits) = (header.width as usize, header.bits as usize);
    let data = bytes.get(header.pixels..).ok_or(Fault::CutShort)?;
    let rows: Vec<u8> = if matches!(header.compression, RUNS_OF_8 | RUNS_OF_4) {
        from_palette(&runs(data, &header)?, &header.palette)
    } else {
        let row_bytes = (width * bits).div_ceil(8);
        // Each row but the last is filled up to whole groups of four bytes.
        let stride = row_bytes.next_multiple_of(4);
        let mut rows = Vec::new();
        for y in 0..header.height as usize {
            let row = data.get(y * stride..y * stride + row_bytes).ok_or(Fault::CutShort)?;
            match bits {
                1 | 4 | 8 => {
                    let index = |x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & (0xff >> (8 - bits)) as u8;
                    rows.extend(from_palette(&(0..width).map(index).collect::<Vec<u8>>(), &header.palette));
                }
                16 => rows.extend(row.as_chunks().0.iter().flat_map(|pixel| header.of_16(u16::from_le_bytes(*pixel)))),
                _ => rows.extend(row.chunks_exact(bits / 8).flat_map(|pixel| header.places.map(|place| pixel[place]))),
            }
        }
        rows
    };
    let image = picture(header.width, header.height, rows)?;
    Ok(if header.from_the_top { image } else { image::imageops::flip_vertical(&image) })
}

/// What a file's beginning tells.
struct Header {
    width: u32,
    height: u32,
    from_the_top: bool,
    bits: u16,
    compression: u32,
    palette: Vec<[u8; 3]>,
    /// Of pixels of 16 bits, those of green: 5 or 6; red and blue have 5.
    green: u32,
    /// Of pixels of 24 or 32 bits, where red, green and blue stand.
    places: [usize; 3],
    /// Where the pixels begin.
    pixels: usize,
}

impl Header {
    fn of(bytes: &[u8]) -> Result<Header, Fault> {
        let u16_at = |at: usize| {
            let bytes = bytes.get(at..at + 2).ok_or(Fault::CutShort)?;
            Ok::<u16, Fault>(u16::from_le_bytes(bytes.try_into().expect("two bytes")))
        };
        let u32_at = |at: usize| Ok::<u32, Fault>(u32::from(u16_at(at)?) | u32::from(u16_at(at + 2)?) << 16);
        let size = u32_at(FILE_HEADER)? as usize;
        let (of_os2, colour_bytes) = (size == 12, if size == 12 { 3 } else { 4 });
        if !matches!(size, 12 | 40 | 52 | 56 | 64 | 108 | 124) {
            return Err(Fault::Wrong(format!("a BMP with a header of {size} bytes")));
        }
        let (width, height, bits) = if of_os2 {
            (u32::from(u16_at(18)?), u32::from(u16_at(20)?), u16_at(24)?)
        } else {
            (u32_at(18)?, u32_at(22)?, u16_at(28)?)
        };
        // A height below 0: the rows begin at the top.
        let from_the_top = !of_os2 && height >> 24 == 0xff;
        let height = if from_the_top { height.wrapping_neg() } else { height };
        let (compression, colours) = if of_os2 { (PLAIN, 0) } else { (u32_at(30)?, u32_at(46)?) };
        let allowed: &[u32] = match bits {
            1 => &[PLAIN],
            4 => &[PLAIN, RUNS_OF_4],
            8 => &[PLAIN, RUNS_OF_8],
            16 | 24 | 32 => &[PLAIN, MASKS],
            _ => return Err(Fault::Wrong(format!("a BMP of {bits} bits a pixel; 1, 4, 8, 16, 24 and 32 are read"))),
        };
        if !allowed.contains(&compression) {
            return Err(Fault::Wrong(format!("a BMP of {bits} bits a pixel with the compression {compression}")));
        }
        let mut end = FILE_HEADER + size;
        let (mut green, mut places) = (5, [2, 1, 0]);
        if compression == MASKS {
            let masks = [u32_at(54)?, u32_at(58)?, u32_at(62)?];
            // In a header of 40 bytes they follow it.
            end += if size == 40 { 12 } else { 0 };
            let whole_byte = |mask: u32| (0..4).find(|place| mask == 0xff << (8 * place));
            match (bits, masks) {
                (16, [0x7c00, 0x3e0, 0x1f]) | (32, [0, 0, 0]) => {}
                (16, [0xf800, 0x7e0, 0x1f]) => green = 6,
                (24, [0xff_0000, 0xff00, 0xff]) => {}
                (32, [red, green, blue]) if masks.iter().all(|mask| whole_byte(*mask).is_some()) => {
                    places = [red, green, blue].map(|mask| whole_byte(mask).unwrap_or_default());
                }
                (_, [red, green, blue]) => {
                    return Err(Fault::Wrong(format!(
                        "a BMP of {bits} bits a pixel with the masks {red:x}, {green:x} and {blue:x}"
                    )));
                }
            }
        }
        let mut pixels = u32_at(10)? as usize;
        let mut palette = Vec::new();
        if bits <= 8 {
            let colours = if colours == 0 { 1 << bits } else { colours as usize };
            if !(1..=1 << 16).contains(&colours) {
                return Err(Fault::Wrong(format!("a BMP of {colours} colours")));
            }
            let stored = bytes.get(end..end + colours * colour_bytes).ok_or(Fault::CutShort)?;
            palette =
                stored.chunks_exact(colour_bytes).take(256).map(|colour| [colour[2], colour[1], colour[0]]).collect();
            end += colours * colour_bytes;
            // Some files name the place of the palette as that of the pixels.
            if pixels == FILE_HEADER + size {
                pixels = end;
            }
        }
        if pixels == 0 {
            pixels = end;
        }
        Ok(Header { width, height, from_the_top, bits, compression, palette, green, places, pixels })
    }

    fn of_16(&self, pixel: u16) -> [u8; 3] {
        let pixel = u32::from(pixel);
        let part = |shift: u32, bits: u32| {
            let most = (1 << bits) - 1;
            ((pixel >> shift & most) * 255 / most) as u8
        };
        [part(5 + self.green, 5), part(5, self.green), part(0, 5)]
    }
}

/// Indices of run-length coded rows. What is skipped, and what an end before the end leaves, is of index 0.
fn runs(data: &[u8], header: &Header) -> Result<Vec<u8>, Fault> {
    let four = header.compression == RUNS_OF_4;
    let (width, total) = (header.width as usize, header.width as usize * header.height as usize);
    let mut indices: Vec<u8> = Vec::new();
    let mut x = 0;
    let mut at = 0;
    while indices.len() < total {
        let Some(&[count, value]) = data.get(at..at + 2) else { return Err(Fault::CutShort) };
        at += 2;
        match (count, value) {
            (0, 0) => {
                indices.resize(indices.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => return Err(Fault::CutShort),
            (0, 2) => {
                let Some(&[right, down]) = data.get(at..at + 2) else { return Err(Fault::CutShort) };
                at += 2;
                let skipped = usize::from(right) + usize::from(down) * width;
                indices.resize((indices.len() + skipped).min(total), 0);
                x = indices.len() % width;
            }
            (0, literal) => {
                let count = usize::from(literal).min(total - indices.len());
                let bytes = if four { count.div_ceil(2) } else { count };
                let stored = data.get(at..at + bytes).ok_or(Fault::CutShort)?;
                if four {
                    indices.extend(stored.iter().flat_map(|pair| [pair >> 4, pair & 15]).take(count));
                } else {
                    indices.extend(stored);
                }
                x += usize::from(literal);
                at += bytes;
                // Literals are filled up to an even place in the file.
                at += (header.pixels + at) % 2;
            }
            (count, value) => {
                let count = usize::from(count).min(width.saturating_sub(x));
                let pair = if four { [value >> 4, value & 15] } else { [value; 2] };
                indices.extend((0..count).map(|place| pair[place % 2]));
                x += count;
            }
        }
    }
    indices.truncate(total);
    Ok(indices)
}
