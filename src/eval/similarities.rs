//! Cosine similarities of many embeddings with many, on the device that made them, a block at a time.

use std::borrow::Cow;
use std::iter::repeat_n;

use half::bf16;
use rayon::prelude::*;

use crate::ops::cpu::Cpu;
use crate::ops::similarity::{Similarity, SimilarityShape};
use crate::ops::{Device, Plan, Stats, Tensor};

/// Rows, and columns, of a block.
const ROWS: usize = 512;
const COLUMNS: usize = 2048;

/// Rows and columns are filled up to multiples of these, so that a block's edges are computed as its middle is: by whole tiles of a GPU's
/// kernels, and on the CPU by products that are neither narrow nor vectors, for which there is other code with another order of sums.
const WHOLE_ROWS: usize = 16;
const WHOLE_COLUMNS: usize = 128;

/// Where on a device blocks of similarities are computed.
///
/// A similarity depends on its two embeddings alone, not on where they stand, so that equal embeddings tie exactly: to call a tie wrong
/// is worth nothing where ties differ in their last bit.
pub struct Similarities {
    /// D, values of an embedding.
    width: usize,
    /// As how many values in the device's storage precision a value of a column is kept: as many as leave nothing of an f32.
    parts: usize,
    /// `[rows, parts D]`, each row `parts` times.
    a: Tensor,
    /// `[columns, parts D]`, the parts of each row one after the other.
    b: Tensor,
    /// `[rows, columns]`
    s: Stats,
}

impl Similarities {
    /// Room for blocks of embeddings of `width` values.
    pub fn plan(plan: &mut Plan, width: usize) -> Similarities {
        Similarities::plan_for(plan, width, [ROWS, COLUMNS])
    }

    fn plan_for(plan: &mut Plan, width: usize, [rows, columns]: [usize; 2]) -> Similarities {
        let parts = if plan.unified() { 1 } else { 3 };
        plan.section("evaluation", |plan| Similarities {
            width,
            parts,
            a: plan.tensor(rows * parts * width),
            b: plan.tensor(columns * parts * width),
            s: plan.stats(rows * columns),
        })
    }

    /// A CPU with room for as many rows and columns as there are, or for blocks of them: where embeddings have lost their device.
    pub(crate) fn on_cpu(width: usize, [rows, columns]: [usize; 2]) -> (Similarities, Cpu<f32>) {
        let mut plan = Plan::new::<Cpu<f32>>();
        let size = [rows.next_multiple_of(WHOLE_ROWS).min(ROWS), columns.next_multiple_of(WHOLE_COLUMNS).min(COLUMNS)];
        let similarities = Similarities::plan_for(&mut plan, width, size);
        (similarities, Cpu::allocate(&plan))
    }

    /// How many embeddings lie in `values`.
    pub(crate) fn rows(&self, values: &[f32]) -> usize {
        values.len() / self.width
    }

    /// Those of unit rows `a [rows, D]` and `b [columns, D]`: `[rows, columns]`. Of `a` the device sees as much as its storage precision
    /// holds, so they are embeddings that it has made; of `b` it sees every bit.
    pub fn all(&self, device: &mut dyn Device, a: &[f32], b: &[f32]) -> Vec<f32> {
        let mut all = Vec::with_capacity(a.len() / self.width * (b.len() / self.width));
        self.strips(device, a, b, |_, strip| all.extend_from_slice(strip));
        all
    }

    /// What `each` makes of every row of [`Similarities::all`], in the order of `a`; it is told the row's number and the similarities
    /// `[columns]`.
    pub(crate) fn map<R: Send>(
        &self,
        device: &mut dyn Device,
        a: &[f32],
        b: &[f32],
        each: impl Fn(usize, &[f32]) -> R + Sync,
    ) -> Vec<R> {
        let columns = b.len() / self.width;
        let mut made = Vec::with_capacity(a.len() / self.width);
        self.strips(device, a, b, |first, strip| {
            let rows = strip.par_chunks_exact(columns.max(1)).enumerate();
            made.par_extend(rows.map(|(row, similarities)| each(first + row, similarities)));
        });
        made
    }

    /// Hands over up to [`ROWS`] rows at a time, with the number of the first.
    fn strips(&self, device: &mut dyn Device, a: &[f32], b: &[f32], mut take: impl FnMut(usize, &[f32])) {
        let Similarities { width, parts, .. } = *self;
        let columns = b.len() / width;
        if columns == 0 {
            return;
        }
        let (most_rows, most_columns) = (self.a.len() / (parts * width), self.b.len() / (parts * width));
        let mut strip = Vec::new();
        let mut block = Vec::new();
        for (strip_number, a) in a.chunks(most_rows * width).enumerate() {
            let rows = a.len() / width;
            device.write(self.a, &repeated(a, width, parts));
            strip.clear();
            strip.resize(rows * columns, 0.0);
            for (block_number, b) in b.chunks(most_columns * width).enumerate() {
                let first = block_number * most_columns;
                let of_block = b.len() / width;
                device.write(self.b, &split(b, width, parts));
                let shape = SimilarityShape {
                    rows: rows.next_multiple_of(WHOLE_ROWS),
                    columns: of_block.next_multiple_of(WHOLE_COLUMNS),
                    width: parts * width,
                };
                device.run(Similarity { shape, a: self.a, b: self.b, s: self.s });
                block.resize(rows * shape.columns, 0.0);
                device.read(self.s.first(block.len()), &mut block);
                let rows = strip.par_chunks_exact_mut(columns).zip(block.par_chunks_exact(shape.columns));
                rows.for_each(|(to, from)| to[first..][..of_block].copy_from_slice(&from[..of_block]));
            }
            take(strip_number * most_rows, &strip);
        }
    }
}

/// Each row `parts` times: `[rows, parts width]`.
fn repeated(rows: &[f32], width: usize, parts: usize) -> Cow<'_, [f32]> {
    match parts {
        1 => Cow::Borrowed(rows),
        _ => rows.chunks_exact(width).flat_map(|row| repeat_n(row, parts)).flatten().copied().collect(),
    }
}

/// Each row as rows of `parts` values of bf16 that add up to it, the largest part first: `[rows, parts width]`.
fn split(rows: &[f32], width: usize, parts: usize) -> Cow<'_, [f32]> {
    if parts == 1 {
        return Cow::Borrowed(rows);
    }
    let mut out = Vec::with_capacity(rows.len() * parts);
    for row in rows.chunks_exact(width) {
        let mut rest = row.to_vec();
        for _ in 0..parts {
            for value in &mut rest {
                let part = bf16::from_f32(*value).to_f32();
                out.push(part);
                *value -= part;
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::rng::{normal, rng};

    /// Unit rows `[rows, width]`.
    fn unit_rows(rows: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut generator = rng(seed, "unit rows", &[]);
        let mut values: Vec<f32> = (0..rows * width).map(|_| normal(&mut generator) as f32).collect();
        for row in values.chunks_exact_mut(width) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        values
    }

    /// Sizes around those of blocks, tiles and whole rows; and one of each.
    const SIZES: [[usize; 3]; 6] =
        [[1, 1, 7], [3, 129, 64], [16, 128, 512], [515, 2050, 30], [530, 5, 768], [2, 2049, 100]];

    #[test]
    fn they_are_inner_products() {
        for [rows, columns, width] in SIZES {
            let (a, b) = (unit_rows(rows, width, 1), unit_rows(columns, width, 2));
            let (similarities, mut device) = Similarities::on_cpu(width, [rows, columns]);
            let all = similarities.all(&mut device, &a, &b);
            assert_eq!(all.len(), rows * columns);
            for (place, found) in all.iter().enumerate() {
                let (row, column) = (place / columns, place % columns);
                let products = a[row * width..][..width].iter().zip(&b[column * width..][..width]);
                let expected: f64 = products.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                // Every sum of unit rows has terms that add up to 1 at most, and a rounding of 2^-24 of that each.
                let bound = (width as f64 + 1.0) * 2f64.powi(-24);
                assert_abs_diff_eq!(f64::from(*found), expected, epsilon = bound);
            }
            let rows_of = similarities.map(&mut device, &a, &b, |row, found| (row, found.to_vec()));
            for (row, (told, found)) in rows_of.into_iter().enumerate() {
                assert_eq!((told, found.as_slice()), (row, &all[row * columns..][..columns]));
            }
        }
    }

    #[test]
    fn equal_embeddings_tie_wherever_they_stand() {
        for [rows, columns, width] in SIZES {
            // Two directions, of each side one, in every place.
            let (a, b) = (unit_rows(1, width, 1).repeat(rows), unit_rows(1, width, 2).repeat(columns));
            let (similarities, mut device) = Similarities::on_cpu(width, [rows, columns]);
            let all = similarities.all(&mut device, &a, &b);
            assert!(all.iter().all(|found| found.to_bits() == all[0].to_bits()), "{rows} x {columns} x {width}");
        }
    }

    #[test]
    fn three_parts_are_all_of_a_value() {
        let values = unit_rows(3, 40, 5);
        let parts = split(&values, 40, 3);
        for (row, parts) in values.chunks_exact(40).zip(parts.chunks_exact(120)) {
            for (place, value) in row.iter().enumerate() {
                assert_eq!(parts[place] + parts[40 + place] + parts[80 + place], *value);
                assert!(
                    (0..3).all(|part| bf16::from_f32(parts[40 * part + place]).to_f32() == parts[40 * part + place])
                );
            }
        }
        assert_eq!(
            repeated(&[1.0, 2.0, 3.0, 4.0], 2, 3)[..],
            [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0]
        );
        assert_eq!((&*split(&values, 40, 1), &*repeated(&values, 40, 1)), (&values[..], &values[..]));
    }
}
