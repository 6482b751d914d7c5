//! Pillow's BICUBIC resize of 8-bit RGB, value for value.
//!
//! The filter is Catmull-Rom (a = -0.5), stretched to the scale when it shrinks (antialiasing). Each direction is a pass of its own,
//! whose weights are rounded to 22 binary places and whose result is rounded and clipped to 8 bits. The rows come first; as in
//! Pillow from version 13 on, the columns do where the height loses more than twice the pixels that the width loses, as in very tall
//! pictures.
//!
//! It is our own because no library rounds as Pillow does: with weights of another precision a value near a half falls to the other
//! side, in both directions at times.

use crate::ops::cpu::vector::vectorized;

/// Binary places of a weight: a sum of 8-bit values times weights, whose absolute values add up to less than 2, fits 32 bits.
const PLACES: u32 = 22;

/// Some of the pixels of a picture, rows of RGB.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pixels: &'a [u8],
    /// Bytes from one row to the next.
    stride: usize,
    width: usize,
    height: usize,
}

impl<'a> View<'a> {
    /// `pixels`: [height, width, 3].
    pub(crate) fn new(pixels: &'a [u8], width: usize, height: usize) -> View<'a> {
        View { pixels, stride: 3 * width, width, height }
    }

    /// The pixels of a box inside, as if there were nothing around them.
    pub(crate) fn cut(self, left: usize, top: usize, width: usize, height: usize) -> View<'a> {
        View { pixels: &self.pixels[top * self.stride + 3 * left..], width, height, ..self }
    }

    fn row(&self, y: usize) -> &'a [u8] {
        &self.pixels[y * self.stride..][..3 * self.width]
    }
}

/// What becomes of one direction of a picture: a stretch of it becomes `resized` pixels, of which `shown` from `first` on are wanted.
/// The filter looks beyond the stretch where there is more picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    /// All pixels of the source, and the stretch (from, to) in them.
    pub source: usize,
    pub stretch: (f64, f64),
    pub resized: usize,
    pub first: usize,
    pub shown: usize,
}

impl Axis {
    /// All of `source` pixels become `resized`, and all of these are wanted.
    pub(crate) fn whole(source: usize, resized: usize) -> Axis {
        Axis { source, stretch: (0.0, source as f64), resized, first: 0, shown: resized }
    }

    /// Whether nothing but a choice of pixels is left to do.
    fn is_copy(&self) -> bool {
        self.source == self.resized && self.stretch == (0.0, self.source as f64)
    }

    /// Pixels that are lost.
    fn lost(&self) -> isize {
        self.source as isize - self.resized as isize
    }

    fn taps(&self) -> Taps {
        let (from, to) = self.stretch;
        let scale = (to - from) / self.resized as f64;
        let stretched = scale.max(1.0);
        let support = 2.0 * stretched;
        let mut taps = Taps { spans: Vec::with_capacity(self.shown), weights: Vec::new() };
        let mut weights = Vec::new();
        for place in self.first..self.first + self.shown {
            let center = from + (place as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(self.source);
            weights.clear();
            weights.extend((first..end).map(|pixel| catmull_rom((pixel as f64 - center + 0.5) / stretched)));
            let total: f64 = weights.iter().sum();
            if total != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= total);
            }
            taps.push(first, &weights);
        }
        taps
    }
}

/// Which source pixels each wanted pixel is made of.
struct Taps {
    /// The first of them, and where their weights lie.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i32>,
}

impl Taps {
    fn push(&mut self, first: usize, weights: &[f64]) {
        let start = self.weights.len();
        // Rounded away from zero.
        let fixed = |weight: &f64| (weight * f64::from(1 << PLACES) + 0.5f64.copysign(*weight)) as i32;
        self.weights.extend(weights.iter().map(fixed));
        self.spans.push((first, start..self.weights.len()));
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.spans.iter().map(|(first, weights)| (*first, &self.weights[weights.clone()]))
    }

    /// The first source pixel that is read, and the one behind the last.
    fn reach(&self) -> (usize, usize) {
        let first = self.spans.iter().map(|(first, _)| *first).min().unwrap_or(0);
        let end = self.spans.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(0);
        (first, end)
    }
}

fn catmull_rom(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Bytes of a buffer that are kept for the next picture, at most.
const MOST_KEPT: usize = 16 << 20;

/// What a thread keeps from picture to picture.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The picture between the passes.
    between: Vec<u8>,
    /// A row of the source, and a byte more.
    row: Vec<u8>,
    sums: Vec<i32>,
}

impl Scratch {
    /// Resizes a picture of `x.source` x `y.source` pixels. `out`: [y.shown, x.shown, 3]. Panics where the sizes do not fit: a bug of
    /// the caller.
    pub(crate) fn resize(&mut self, source: View, x: Axis, y: Axis, out: &mut [u8]) {
        assert_eq!((source.width, source.height), (x.source, y.source), "the axes are the picture's");
        assert_eq!(out.len(), 3 * x.shown * y.shown, "the output has a place for every pixel");
        match (x.is_copy(), y.is_copy()) {
            (true, true) => {
                let shown = source.cut(x.first, y.first, x.shown, y.shown);
                let rows = out.chunks_exact_mut(3 * x.shown).enumerate();
                return rows.for_each(|(row, out)| out.copy_from_slice(shown.row(row)));
            }
            (true, false) => {
                return self.along_columns(source.cut(x.first, 0, x.shown, y.source), 0, &y.taps(), out);
            }
            (false, true) => return self.along_rows(source.cut(0, y.first, x.source, y.shown), 0, &x.taps(), out),
            (false, false) => {}
        }
        let (of_x, of_y) = (x.taps(), y.taps());
        let mut between = std::mem::take(&mut self.between);
        if y.lost() > 0 && y.lost() > 2 * x.lost() {
            let (left, right) = of_x.reach();
            let width = right - left;
            between.resize(3 * width * y.shown, 0);
            self.along_columns(source.cut(left, 0, width, y.source), 0, &of_y, &mut between);
            self.along_rows(View::new(&between, width, y.shown), left, &of_x, out);
        } else {
            let (top, bottom) = of_y.reach();
            let height = bottom - top;
            between.resize(3 * x.shown * height, 0);
            self.along_rows(source.cut(0, top, x.source, height), 0, &of_x, &mut between);
            self.along_columns(View::new(&between, x.shown, height), top, &of_y, out);
        }
        self.between = between;
        for buffer in [&mut self.between, &mut self.row] {
            if buffer.capacity() > MOST_KEPT {
                *buffer = Vec::new();
            }
        }
    }

    /// Every row of `source` by itself. The taps count from `offset` pixels left of it. `out`: [height, taps, 3].
    fn along_rows(&mut self, source: View, offset: usize, taps: &Taps, out: &mut [u8]) {
        // Four bytes are read of every pixel, so that three channels are a vector.
        self.row.resize(3 * source.width + 1, 0);
        for (y, out) in out.chunks_exact_mut(3 * taps.spans.len()).enumerate() {
            self.row[..3 * source.width].copy_from_slice(source.row(y));
            let row = &self.row;
            vectorized(
                #[inline(always)]
                || {
                    for ((first, weights), out) in taps.iter().zip(out.chunks_exact_mut(3)) {
                        let mut sums = [1 << (PLACES - 1); 4];
                        let pixels = &row[3 * (first - offset)..][..3 * weights.len() + 1];
                        for (tap, weight) in weights.iter().enumerate() {
                            let pixel: &[u8; 4] = pixels[3 * tap..3 * tap + 4].try_into().expect("four bytes");
                            for channel in 0..4 {
                                sums[channel] += weight * i32::from(pixel[channel]);
                            }
                        }
                        out.copy_from_slice(&sums.map(to_byte)[..3]);
                    }
                },
            );
        }
    }

    /// Every column of `source` by itself. The taps count from `offset` pixels above it. `out`: [taps, width, 3].
    fn along_columns(&mut self, source: View, offset: usize, taps: &Taps, out: &mut [u8]) {
        for ((first, weights), out) in taps.iter().zip(out.chunks_exact_mut(3 * source.width)) {
            self.sums.clear();
            self.sums.resize(out.len(), 1 << (PLACES - 1));
            let sums = &mut self.sums;
            vectorized(
                #[inline(always)]
                || {
                    for (tap, weight) in weights.iter().enumerate() {
                        for (sum, value) in sums.iter_mut().zip(source.row(first - offset + tap)) {
                            *sum += weight * i32::from(*value);
                        }
                    }
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = to_byte(*sum));
                },
            );
        }
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PLACES).clamp(0, 255) as u8
}
