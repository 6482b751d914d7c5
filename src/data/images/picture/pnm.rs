//! PBM, PGM and PPM, plain and binary, in Pillow's reading: greys of more than 255 steps are spread over 16 bits and then clipped at
//! 255, colours of more are scaled to 255.

use image::RgbImage;

use super::{Fault, check_size, from_grey, picture};

/// The picture in a file that begins with `P1` to `P6`.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let kind = bytes[1] - b'0';
    let mut words = Words { rest: &bytes[2..] };
    let (width, height) = (words.header()?, words.header()?);
    check_size(width, height)?;
    let most = if matches!(kind, 1 | 4) { 1 } else { words.header()? };
    if !(1..=65535).contains(&most) {
        return Err(Fault::Wrong(format!("a largest value of {most}; 1 to 65535 are possible")));
    }
    let colours = if matches!(kind, 3 | 6) { 3 } else { 1 };
    let count = width as usize * height as usize * colours;
    let pixels = match kind {
        1 => words.bits(count)?,
        2 | 3 => words.numbers(count, most, |value| scaled(value, most, colours))?,
        4 => {
            let row_bytes = (width as usize).div_ceil(8);
            let rows = words.rest.get(..row_bytes * height as usize).ok_or(Fault::CutShort)?;
            let row = |row: &[u8]| (0..width as usize).map(|x| ink(row[x / 8] >> (7 - x % 8) & 1)).collect::<Vec<u8>>();
            rows.chunks_exact(row_bytes).flat_map(row).collect()
        }
        _ if most < 256 => {
            let values = words.rest.get(..count).ok_or(Fault::CutShort)?;
            values.iter().map(|value| scaled(u32::from(*value), most, colours)).collect()
        }
        _ => {
            let values = words.rest.get(..2 * count).ok_or(Fault::CutShort)?.as_chunks().0;
            values.iter().map(|value| scaled(u32::from(u16::from_be_bytes(*value)), most, colours)).collect()
        }
    };
    picture(width, height, if colours == 3 { pixels } else { from_grey(&pixels) })
}

/// A value of `most` steps as a byte.
fn scaled(value: u32, most: u32, colours: usize) -> u8 {
    let full = if colours == 1 && most > 255 { 65535.0 } else { 255.0 };
    (f64::from(value) / f64::from(most) * full).round_ties_even().min(255.0) as u8
}

/// In PBM, 1 is black.
fn ink(bit: u8) -> u8 {
    if bit == 0 { 255 } else { 0 }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// What is left of a file, of which words are taken.
struct Words<'a> {
    rest: &'a [u8],
}

impl Words<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// The next byte that is not of a comment, which reaches from '#' to the end of its line.
    fn uncommented(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b'#' => while !matches!(self.byte()?, b'\n' | b'\r') {},
                byte => return Some(byte),
            }
        }
    }

    /// The next word, with the one space behind it. A comment within a word does not end it.
    fn word(&mut self) -> Result<Vec<u8>, Fault> {
        const LONGEST: usize = 10;
        let mut word = Vec::new();
        while let Some(byte) = self.uncommented() {
            if !is_space(byte) {
                word.push(byte);
            } else if !word.is_empty() {
                break;
            }
            if word.len() > LONGEST {
                return Err(Fault::Wrong("a number of more than 10 digits".to_string()));
            }
        }
        if word.is_empty() { Err(Fault::CutShort) } else { Ok(word) }
    }

    fn header(&mut self) -> Result<u32, Fault> {
        let word = self.word()?;
        std::str::from_utf8(&word).ok().and_then(|word| word.parse().ok()).ok_or_else(|| {
            Fault::Wrong(format!("'{}' where a number must be", String::from_utf8_lossy(&word).escape_debug()))
        })
    }

    fn numbers(&mut self, count: usize, most: u32, scale: impl Fn(u32) -> u8) -> Result<Vec<u8>, Fault> {
        // What the file can hold is taken, not what its header says.
        let mut values = Vec::with_capacity(count.min(self.rest.len()));
        while values.len() < count {
            let value = self.header()?;
            if value > most {
                return Err(Fault::Wrong(format!("a value of {value}, where {most} is the largest")));
            }
            values.push(scale(value));
        }
        Ok(values)
    }

    fn bits(&mut self, count: usize) -> Result<Vec<u8>, Fault> {
        let mut values = Vec::with_capacity(count.min(self.rest.len()));
        while values.len() < count {
            match self.uncommented().ok_or(Fault::CutShort)? {
                bit @ (b'0' | b'1') => values.push(ink(bit - b'0')),
                byte if is_space(byte) => {}
                other => return Err(Fault::Wrong(format!("'{}' where 0 or 1 must be", other.escape_ascii()))),
            }
        }
        Ok(values)
    }
}
