//! The first picture of a TIFF or BigTIFF file, in Pillow's reading: strips and tiles, plain or compressed, of greys, palettes, RGB and
//! inks. Unlike an orientation in a JPEG's or a PNG's EXIF data, a TIFF's own is applied.
//!
//! Wide greys are clipped at 255 and not scaled; wide colours keep their high bytes.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::ZlibDecoder;
use image::{RgbImage, imageops};
use weezl::BitOrder;

use super::jpeg::{self, Colours};
use super::{Fault, check_size, from_inks};

pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let tags = Tags::read(bytes)?;
    let layout = PixelLayout::of(&tags)?;
    let mut image = RgbImage::new(layout.width, layout.height);
    for (place, y) in (0..layout.height).step_by(layout.chunk_height as usize).enumerate() {
        for (along, x) in (0..layout.width).step_by(layout.chunk_width as usize).enumerate() {
            let chunk = layout.chunk(bytes, place * layout.across() + along, y)?;
            for row in 0..layout.chunk_height.min(layout.height - y) {
                for column in 0..layout.chunk_width.min(layout.width - x) {
                    image.put_pixel(
                        x + column,
                        y + row,
                        image::Rgb(layout.colour(&chunk, column as usize, row as usize)),
                    );
                }
            }
        }
    }
    Ok(match tags.number(ORIENTATION).unwrap_or(1) {
        2 => imageops::flip_horizontal(&image),
        3 => imageops::rotate180(&image),
        4 => imageops::flip_vertical(&image),
        5 => imageops::flip_horizontal(&imageops::rotate90(&image)),
        6 => imageops::rotate90(&image),
        7 => imageops::flip_horizontal(&imageops::rotate270(&image)),
        8 => imageops::rotate270(&image),
        _ => image,
    })
}

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES: u16 = 277;
const STRIP_ROWS: u16 = 278;
const STRIP_BYTES: u16 = 279;
const PLANAR: u16 = 284;
const PREDICTOR: u16 = 317;
const COLOUR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTES: u16 = 325;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;
const JPEG_TABLES: u16 = 347;

/// What is looked at of a directory: a tag of a few bytes may ask for as many numbers as the file has bytes.
const READ: [u16; 21] = [
    WIDTH,
    HEIGHT,
    BITS,
    COMPRESSION,
    PHOTOMETRIC,
    FILL_ORDER,
    STRIP_OFFSETS,
    ORIENTATION,
    SAMPLES,
    STRIP_ROWS,
    STRIP_BYTES,
    PLANAR,
    PREDICTOR,
    COLOUR_MAP,
    TILE_WIDTH,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_BYTES,
    EXTRA_SAMPLES,
    SAMPLE_FORMAT,
    JPEG_TABLES,
];

/// Numbers of a tag, at most: a million strips.
const MOST_NUMBERS: u64 = 1 << 20;

/// The whole numbers of a file's first directory, by their tags.
struct Tags {
    big_endian: bool,
    numbers: HashMap<u16, Vec<u64>>,
}

impl Tags {
    fn read(bytes: &[u8]) -> Result<Tags, Fault> {
        let big_endian = bytes[0] == b'M';
        let number = |at: usize, len: usize| {
            let bytes = at.checked_add(len).and_then(|end| bytes.get(at..end)).ok_or(Fault::CutShort)?;
            let join = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
            Ok::<u64, Fault>(if big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) })
        };
        // BigTIFF's numbers are twice as long.
        let long = if number(2, 2)? == 43 { 8 } else { 4 };
        let at = number(long, long)? as usize;
        let count_len = if long == 8 { 8 } else { 2 };
        let entry_len = 4 + 2 * long;
        let mut numbers = HashMap::new();
        for entry in 0..number(at, count_len)?.min(1 << 16) as usize {
            let entry = at.saturating_add(count_len + entry * entry_len);
            let (tag, kind, count) = (number(entry, 2)?, number(entry + 2, 2)?, number(entry + 4, long)?);
            let len = match kind {
                1 | 6 | 7 => 1,
                3 | 8 => 2,
                4 | 9 => 4,
                16 | 17 => 8,
                _ => continue,
            };
            if !READ.contains(&(tag as u16)) || numbers.contains_key(&(tag as u16)) || count > MOST_NUMBERS {
                continue;
            }
            let count = count as usize;
            let place = entry + 4 + long;
            let place = if count * len <= long { place } else { number(place, long)? as usize };
            // What is cut short may be a tag that is never read.
            let values =
                (0..count).map(|value| number(place.saturating_add(value * len), len)).collect::<Result<_, _>>();
            if let Ok(values) = values {
                numbers.insert(tag as u16, values);
            }
        }
        Ok(Tags { big_endian, numbers })
    }

    fn all(&self, tag: u16) -> &[u64] {
        self.numbers.get(&tag).map_or(&[], Vec::as_slice)
    }

    fn number(&self, tag: u16) -> Option<u64> {
        self.all(tag).first().copied()
    }

    /// A number that must be there, 1 or more.
    fn side(&self, tag: u16, what: &str) -> Result<u32, Fault> {
        let number = self.number(tag).and_then(|number| u32::try_from(number).ok());
        number.filter(|number| *number > 0).ok_or_else(|| Fault::Wrong(format!("a TIFF without its {what}")))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    Palette,
    Inks,
    YCbCr,
}

/// How a picture lies in its file.
struct PixelLayout {
    width: u32,
    height: u32,
    kind: Kind,
    bits: usize,
    samples: usize,
    /// 1: whole numbers, 2: those with a sign, 3: floating point.
    format: u64,
    /// Colours were multiplied by the alpha behind them.
    multiplied: bool,
    compression: u64,
    predicted: bool,
    reversed: bool,
    planar: bool,
    big_endian: bool,
    chunk_width: u32,
    chunk_height: u32,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    palette: Vec<u64>,
    tables: Vec<u8>,
}

impl PixelLayout {
    fn of(tags: &Tags) -> Result<PixelLayout, Fault> {
        const MOST_SAMPLES: u64 = 6;
        let (width, height) = (tags.side(WIDTH, "width")?, tags.side(HEIGHT, "height")?);
        check_size(width, height)?;
        let kind = match tags.number(PHOTOMETRIC).unwrap_or(0) {
            0 => Kind::WhiteIsZero,
            1 => Kind::BlackIsZero,
            2 => Kind::Rgb,
            3 => Kind::Palette,
            5 => Kind::Inks,
            6 => Kind::YCbCr,
            8..=10 => return Err(Fault::Wrong("a TIFF in L*a*b* is not read".to_string())),
            other => return Err(Fault::Wrong(format!("a TIFF of the photometric interpretation {other} is not read"))),
        };
        let samples = tags.number(SAMPLES).unwrap_or(1);
        let bits = tags.number(BITS).unwrap_or(1);
        let format = tags.number(SAMPLE_FORMAT).unwrap_or(1);
        let least = match kind {
            Kind::Rgb | Kind::YCbCr => 3,
            Kind::Inks => 4,
            _ => 1,
        };
        let possible = match (kind, format) {
            (Kind::WhiteIsZero | Kind::BlackIsZero, 1) => matches!(bits, 1 | 2 | 4 | 8 | 12 | 16 | 32),
            (Kind::BlackIsZero, 2) => matches!(bits, 8 | 16 | 32),
            (Kind::WhiteIsZero | Kind::BlackIsZero, 3) => bits == 32,
            (Kind::Palette, 1) => matches!(bits, 1 | 2 | 4 | 8),
            (Kind::Rgb | Kind::Inks, 1) => matches!(bits, 8 | 16),
            (Kind::YCbCr, 1) => bits == 8,
            _ => false,
        };
        let one_size = tags.all(BITS).iter().all(|other| *other == bits);
        if !possible || !one_size || !(least..=MOST_SAMPLES).contains(&samples) {
            return Err(Fault::Wrong(format!(
                "a TIFF ({kind:?}) of {samples} samples of {bits} bits in the sample format {format} is not read"
            )));
        }
        let compression = tags.number(COMPRESSION).unwrap_or(1);
        if kind == Kind::YCbCr && compression != JPEG {
            return Err(Fault::Wrong("a TIFF in YCbCr without compression by JPEG is not read".to_string()));
        }
        let predicted = match tags.number(PREDICTOR).unwrap_or(1) {
            2 if matches!(compression, LZW | DEFLATE | OLD_DEFLATE) && matches!(bits, 8 | 16 | 32) => true,
            2 | 3 if matches!(compression, LZW | DEFLATE | OLD_DEFLATE) => {
                return Err(Fault::Wrong(format!("a TIFF's predictor of samples of {bits} bits is not read")));
            }
            _ => false,
        };
        let tiled = !tags.all(TILE_OFFSETS).is_empty() && tags.all(STRIP_OFFSETS).is_empty();
        let (chunk_width, chunk_height) = if tiled {
            (tags.side(TILE_WIDTH, "tiles' width")?, tags.side(TILE_HEIGHT, "tiles' height")?)
        } else {
            let rows = tags.number(STRIP_ROWS).unwrap_or(u64::MAX).clamp(1, u64::from(height));
            (width, rows as u32)
        };
        check_size(chunk_width, chunk_height)?;
        let (offsets, lengths) = if tiled { (TILE_OFFSETS, TILE_BYTES) } else { (STRIP_OFFSETS, STRIP_BYTES) };
        let palette = tags.all(COLOUR_MAP).to_vec();
        if kind == Kind::Palette && palette.len() < 3 << bits {
            return Err(Fault::Wrong(format!("a TIFF with {} of {} entries in its palette", palette.len(), 3 << bits)));
        }
        Ok(PixelLayout {
            width,
            height,
            kind,
            bits: bits as usize,
            samples: samples as usize,
            format,
            multiplied: kind == Kind::Rgb && tags.number(EXTRA_SAMPLES) == Some(1) && samples > 3,
            compression,
            predicted,
            reversed: tags.number(FILL_ORDER) == Some(2),
            planar: tags.number(PLANAR) == Some(2) && samples > 1,
            big_endian: tags.big_endian,
            chunk_width,
            chunk_height,
            offsets: tags.all(offsets).to_vec(),
            lengths: tags.all(lengths).to_vec(),
            palette,
            tables: tags.all(JPEG_TABLES).iter().map(|byte| *byte as u8).collect(),
        })
    }

    fn across(&self) -> usize {
        self.width.div_ceil(self.chunk_width) as usize
    }

    /// Samples of a pixel that stand side by side.
    fn together(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    fn row_bytes(&self) -> usize {
        (self.chunk_width as usize * self.together() * self.bits).div_ceil(8)
    }

    /// The bytes of a strip or a tile, uncompressed; of planes, those of each. `y` is where it begins.
    fn chunk(&self, bytes: &[u8], place: usize, y: u32) -> Result<Vec<Vec<u8>>, Fault> {
        let planes = if self.planar { self.samples } else { 1 };
        let of_plane = self.across() * self.height.div_ceil(self.chunk_height) as usize;
        (0..planes).map(|plane| self.plane(bytes, plane * of_plane + place, y)).collect()
    }

    fn plane(&self, bytes: &[u8], place: usize, y: u32) -> Result<Vec<u8>, Fault> {
        let begin = *self.offsets.get(place).ok_or(Fault::CutShort)?;
        let stored = usize::try_from(begin).ok().and_then(|begin| bytes.get(begin..)).ok_or(Fault::CutShort)?;
        let length = self.lengths.get(place).and_then(|length| usize::try_from(*length).ok()).unwrap_or(stored.len());
        let tiled = self.chunk_width != self.width;
        let rows = if tiled { self.chunk_height } else { self.chunk_height.min(self.height - y) } as usize;
        let needed = self.row_bytes() * rows;
        if self.compression == PLAIN {
            let plain = stored.get(..needed).ok_or(Fault::CutShort)?;
            return Ok(if self.reversed { reversed(plain) } else { plain.to_vec() });
        }
        let stored = stored.get(..length).ok_or(Fault::CutShort)?;
        if self.compression == JPEG {
            return self.of_jpeg(stored, rows);
        }
        let turned;
        let stored = if self.reversed {
            turned = reversed(stored);
            &turned
        } else {
            stored
        };
        let mut plain = Vec::new();
        match self.compression {
            LZW => {
                let mut decoder = weezl::decode::Configuration::with_tiff_size_switch(BitOrder::Msb, 8).build();
                let mut rest = stored;
                // A few bytes may stand for very many: no more than are needed are made of them.
                while plain.len() < needed {
                    let before = plain.len();
                    plain.resize((before + CHUNK).min(needed), 0);
                    let made = decoder.decode_bytes(rest, &mut plain[before..]);
                    plain.truncate(before + made.consumed_out);
                    rest = &rest[made.consumed_in..];
                    made.status.map_err(|cause| Fault::Wrong(format!("a TIFF's LZW data: {cause}")))?;
                    if made.consumed_in == 0 && made.consumed_out == 0 {
                        break;
                    }
                }
            }
            DEFLATE | OLD_DEFLATE => {
                let read = ZlibDecoder::new(stored).take(needed as u64).read_to_end(&mut plain);
                read.map_err(|cause| Fault::Wrong(format!("a TIFF's deflated data: {cause}")))?;
            }
            PACK_BITS => unpack(stored, needed, &mut plain),
            GROUP_4 => self.of_fax(stored, rows, &mut plain)?,
            other => {
                let name = match other {
                    2 => "CCITT's modified Huffman code",
                    3 => "CCITT's group 3",
                    6 => "JPEG in its old style",
                    34925 => "LZMA",
                    50000 => "Zstandard",
                    50001 => "WebP",
                    _ => "",
                };
                return Err(Fault::Wrong(
                    format!("a TIFF of the compression {other} ({name}) is not read").replace(" ()", ""),
                ));
            }
        }
        if plain.len() < needed {
            return Err(Fault::CutShort);
        }
        if self.predicted {
            plain.chunks_exact_mut(self.row_bytes()).for_each(|row| self.undo_prediction(row));
        }
        Ok(plain)
    }

    /// Each sample was stored as its difference from the one before it.
    fn undo_prediction(&self, row: &mut [u8]) {
        let len = self.bits / 8;
        let step = len * self.together();
        for at in step..row.len() {
            if at % len == 0 {
                let sum = self.sample_at(row, at - step).wrapping_add(self.sample_at(row, at));
                let written = if self.big_endian { sum.to_be_bytes() } else { sum.to_le_bytes() };
                let from = if self.big_endian { 4 - len } else { 0 };
                row[at..at + len].copy_from_slice(&written[from..from + len]);
            }
        }
    }

    /// The sample of whole bytes at a byte.
    fn sample_at(&self, row: &[u8], at: usize) -> u32 {
        let join = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        let bytes = &row[at..at + self.bits / 8];
        if self.big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    }

    fn of_jpeg(&self, stored: &[u8], rows: usize) -> Result<Vec<u8>, Fault> {
        let colours = match self.kind {
            Kind::YCbCr => Colours::YCbCr,
            _ => Colours::AsStored,
        };
        let stream = jpeg::with_tables(&self.tables, stored);
        let (width, height, samples, values) = jpeg::samples(&stream, colours)?;
        if self.bits != 8 || samples != self.together() || width != self.chunk_width || (height as usize) < rows {
            return Err(Fault::Wrong(format!(
                "a TIFF's JPEG data are of {width} x {height} pixels of {samples} samples"
            )));
        }
        Ok(values)
    }

    fn of_fax(&self, stored: &[u8], rows: usize, plain: &mut Vec<u8>) -> Result<(), Fault> {
        if self.bits != 1 || self.together() != 1 {
            return Err(Fault::Wrong(format!("a TIFF of {} bits as a fax", self.bits)));
        }
        let width: u16 =
            self.chunk_width.try_into().map_err(|_| Fault::Wrong("a fax of more than 65535 pixels".to_string()))?;
        fax::decoder::decode_g4(
            stored.iter().copied(),
            width,
            Some(rows.min(usize::from(u16::MAX)) as u16),
            |changes| {
                let mut row = vec![0; self.row_bytes()];
                for (x, colour) in fax::decoder::pels(changes, width).enumerate() {
                    row[x / 8] |= u8::from(colour == fax::Color::Black) << (7 - x % 8);
                }
                plain.extend(row);
            },
        );
        Ok(())
    }

    /// The colour of a pixel of a chunk.
    fn colour(&self, chunk: &[Vec<u8>], x: usize, y: usize) -> [u8; 3] {
        let sample = |number: usize| {
            let (plane, along) = if self.planar { (number, x) } else { (0, x * self.samples + number) };
            let row = &chunk[plane][y * self.row_bytes()..];
            match self.bits {
                12 => {
                    let pair = &row[along / 2 * 3..];
                    let (low, high) = (u32::from(pair[along % 2]), u32::from(pair[1 + along % 2]));
                    if along % 2 == 0 { low << 4 | high >> 4 } else { (low & 15) << 8 | high }
                }
                1 | 2 | 4 => {
                    let shift = 8 - self.bits - along * self.bits % 8;
                    u32::from(row[along * self.bits / 8] >> shift) & ((1 << self.bits) - 1)
                }
                _ => self.sample_at(row, along * self.bits / 8),
            }
        };
        let high = |number: usize| (sample(number) >> (self.bits - 8)) as u8;
        match self.kind {
            Kind::WhiteIsZero | Kind::BlackIsZero => {
                let value = sample(0);
                let grey = match (self.bits, self.format) {
                    (1 | 2 | 4 | 8, _) => {
                        let grey = (value * 255 / ((1 << self.bits) - 1)) as u8;
                        if self.kind == Kind::WhiteIsZero { 255 - grey } else { grey }
                    }
                    (_, 3) => f32::from_bits(value) as u8,
                    (16, 2) => (value as u16 as i16).clamp(0, 255) as u8,
                    (32, _) => (value as i32).clamp(0, 255) as u8,
                    _ => value.min(255) as u8,
                };
                [grey; 3]
            }
            Kind::Palette => {
                let colours = self.palette.len() / 3;
                std::array::from_fn(|part| (self.palette[part * colours + sample(0) as usize] / 256) as u8)
            }
            Kind::Rgb if self.multiplied => match high(3) {
                0 => [0; 3],
                alpha => std::array::from_fn(|part| (u32::from(high(part)) * 255 / u32::from(alpha)).min(255) as u8),
            },
            Kind::Rgb | Kind::YCbCr => std::array::from_fn(high),
            // Not inverted, as the inks of a JPEG are.
            Kind::Inks => from_inks(&std::array::from_fn::<u8, 4, _>(|ink| 255 - high(ink))),
        }
    }
}

const PLAIN: u64 = 1;
const GROUP_4: u64 = 4;
const LZW: u64 = 5;
const JPEG: u64 = 7;
const DEFLATE: u64 = 8;
const PACK_BITS: u64 = 32773;
const OLD_DEFLATE: u64 = 32946;

/// Bytes that are uncompressed at a time.
const CHUNK: usize = 1 << 16;

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte.reverse_bits()).collect()
}

/// Runs of one byte and of literal ones.
fn unpack(stored: &[u8], needed: usize, plain: &mut Vec<u8>) {
    let mut rest = stored;
    while let Some((count, behind)) = rest.split_first()
        && plain.len() < needed
    {
        let taken = match (*count as i8, behind) {
            (-128, _) => 0,
            (count @ 0.., literal) => {
                let taken = (count as usize + 1).min(literal.len());
                plain.extend(&literal[..taken]);
                taken
            }
            (count, [value, ..]) => {
                plain.resize(plain.len() + 1 + usize::from(count.unsigned_abs()), *value);
                1
            }
            (_, []) => break,
        };
        rest = &behind[taken..];
    }
    plain.truncate(needed);
}
