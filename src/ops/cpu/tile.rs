//! f32 products on AVX-512: tiles of up to 14 x 32 that stay in registers over the whole inner loop.
//!
//! A step of the inner loop multiplies 14 values of a with two vectors of b: 28 registers of sums, 2 of b, 1 of a. Both
//! factors are packed so that the loop reads them in order: a in strips `[k][16]` of up to 14 rows, b in panels `[k][32]`
//! of up to 32 columns. A block of a (24 strips) stays in the second-level cache, a panel of b in the first while the
//! strips pass by. Blocks depend on sizes alone, and each sum runs over k in one order: the same bits every time.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::matmul::{Factor, MatrixView};

/// Rows of the largest tile, and of a packed strip with its padding.
const TILE_ROWS: usize = 14;
const STRIP: usize = 16;
/// Columns of a panel: two vectors.
pub(crate) const PANEL: usize = 32;
/// Strips that are packed together: with all steps of a block 384 KiB.
const BLOCK_STRIPS: usize = 24;
/// The most steps of k between two visits of c: a panel then takes 32 KiB.
const BLOCK_STEPS: usize = 256;

#[repr(align(64))]
struct Aligned<const N: usize>(MaybeUninit<[f32; N]>);

impl<const N: usize> Aligned<N> {
    fn new() -> Self {
        Aligned(MaybeUninit::uninit())
    }

    fn pointer(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

pub(crate) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// The size of the largest parts, at most `limit`, when `count` is cut into as few parts as possible.
pub(crate) fn even_parts(count: usize, limit: usize) -> usize {
    count.div_ceil(count.div_ceil(limit))
}

/// c = alpha a b, or c += alpha a b; a [m, k], b [k, n], c [m, n] with rows `c_stride` apart.
///
/// # Safety
/// The processor has AVX-512, all operands lie inside their memory, and c overlaps neither factor. Where `b.panels` is not
/// empty it holds all of b as [`pack_panel`] leaves it, panel by panel.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn matmul(
    [m, n, k]: [usize; 3],
    alpha: f32,
    a: MatrixView<f32>,
    b: Factor<f32>,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
) {
    let mut strips = Aligned::<{ BLOCK_STRIPS * STRIP * BLOCK_STEPS }>::new();
    let mut panel = Aligned::<{ PANEL * BLOCK_STEPS }>::new();
    let (strips, panel) = (strips.pointer(), panel.pointer());
    let steps = even_parts(k, BLOCK_STEPS).next_multiple_of(16);
    let block_rows = even_parts(m, BLOCK_STRIPS * TILE_ROWS);
    for first_step in (0..k).step_by(steps) {
        let steps = steps.min(k - first_step);
        for first_row in (0..m).step_by(block_rows) {
            let rows = block_rows.min(m - first_row);
            let height = even_parts(rows, TILE_ROWS);
            // Along the rows of memory, so that lines arrive in order: of a transposed matrix a few steps of all strips.
            let stretch = if a.row_stride == 1 { 16 } else { steps };
            for step in (0..steps).step_by(stretch) {
                for (strip, row) in (0..rows).step_by(height).enumerate() {
                    // SAFETY: the rows and steps lie inside a; a strip has room for 16 values of each step.
                    unsafe {
                        let (height, stretch) = (height.min(rows - row), stretch.min(steps - step));
                        let from = a.pointer(first_row + row, first_step + step);
                        let to = strips.add((strip * steps + step) * STRIP);
                        pack(height, stretch, from, a.row_stride, a.column_stride, to, STRIP);
                    }
                }
            }
            for column in (0..n).step_by(PANEL) {
                let columns = PANEL.min(n - column);
                // SAFETY: as the caller promises; the panel has room for 32 values of each step.
                let packed: *const f32 = unsafe {
                    if b.panels.is_empty() {
                        let part = MatrixView { values: b.matrix.after(first_step, column), ..b.matrix };
                        pack_panel(columns, steps, part, panel);
                        panel
                    } else {
                        b.panels.as_ptr().add(column * k + first_step * PANEL)
                    }
                };
                for (strip, row) in (0..rows).step_by(height).enumerate() {
                    // SAFETY: the strip and the panel were packed for `steps` steps, and the tile lies inside c.
                    unsafe {
                        let a = strips.add(strip * STRIP * steps);
                        let c = c.add((first_row + row) * c_stride + column);
                        let height = height.min(rows - row);
                        let accumulate = accumulate || first_step > 0;
                        tile(height, Tile { columns, steps, alpha, a, b: packed, c, c_stride, accumulate });
                    }
                }
            }
        }
    }
}

/// Packs the first `columns` columns and `steps` rows of b into a panel `[steps][32]`.
///
/// # Safety
/// The processor has AVX-512, they lie inside b, and `to` has room for the panel.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn pack_panel(columns: usize, steps: usize, b: MatrixView<f32>, to: *mut f32) {
    // SAFETY: as the caller promises.
    unsafe {
        for first in (0..columns).step_by(16) {
            let from = b.pointer(0, first);
            pack((columns - first).min(16), steps, from, b.column_stride, b.row_stride, to.add(first), PANEL);
        }
    }
}

/// to[step * to_stride + lane] = from[lane * lane_stride + step * step_stride] for up to 16 lanes; the rest of the 16 become 0.
#[target_feature(enable = "avx512f")]
unsafe fn pack(
    lanes: usize,
    steps: usize,
    from: *const f32,
    lane_stride: usize,
    step_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    let mask = first_lanes(lanes);
    // SAFETY: masks keep every access to `lanes` lanes and `steps` steps of `from`, and to 16 lanes of `to`.
    unsafe {
        if lane_stride == 1 {
            for step in 0..steps {
                let values = _mm512_maskz_loadu_ps(mask, from.add(step * step_stride));
                _mm512_storeu_ps(to.add(step * to_stride), values);
            }
        } else if step_stride == 1 {
            for first in (0..steps).step_by(16) {
                let count = (steps - first).min(16);
                let mut square = [_mm512_setzero_ps(); 16];
                for (lane, row) in square.iter_mut().enumerate() {
                    if lane < lanes {
                        *row = _mm512_maskz_loadu_ps(first_lanes(count), from.add(lane * lane_stride + first));
                    }
                }
                let square = transpose(square);
                for (step, row) in square.iter().enumerate() {
                    if step < count {
                        _mm512_storeu_ps(to.add((first + step) * to_stride), *row);
                    }
                }
            }
        } else {
            for step in 0..steps {
                for lane in 0..16 {
                    *to.add(step * to_stride + lane) =
                        if lane < lanes { *from.add(lane * lane_stride + step * step_stride) } else { 0.0 };
                }
            }
        }
    }
}

fn first_lanes(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    // Pairs, then quadruples within each quarter of a vector, then the quarters themselves.
    let mut pairs = rows;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // quads[4 i + j] holds, for rows 4 i to 4 i + 3, the columns j, j + 4, j + 8, j + 12.
    let mut quads = rows;
    for i in (0..16).step_by(4) {
        for half in 0..2 {
            let (upper, lower) = (_mm512_castps_pd(pairs[i + half]), _mm512_castps_pd(pairs[i + 2 + half]));
            quads[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(upper, lower));
            quads[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(upper, lower));
        }
    }
    let mut columns = rows;
    for j in 0..4 {
        let (upper, lower) = ([quads[j], quads[j + 4]], [quads[j + 8], quads[j + 12]]);
        let even = |pair: [__m512; 2]| _mm512_shuffle_f32x4::<0b10_00_10_00>(pair[0], pair[1]);
        let odd = |pair: [__m512; 2]| _mm512_shuffle_f32x4::<0b11_01_11_01>(pair[0], pair[1]);
        columns[j] = even([even(upper), even(lower)]);
        columns[j + 8] = odd([even(upper), even(lower)]);
        columns[j + 4] = even([odd(upper), odd(lower)]);
        columns[j + 12] = odd([odd(upper), odd(lower)]);
    }
    columns
}

/// One tile of c (=, +=) alpha a b, from a strip and a panel.
#[derive(Clone, Copy)]
struct Tile {
    columns: usize,
    steps: usize,
    alpha: f32,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
}

/// # Safety
/// The processor has AVX-512, a and b hold `steps` steps, and c has room for `rows` rows of `columns` columns.
#[target_feature(enable = "avx512f")]
unsafe fn tile(rows: usize, tile: Tile) {
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match rows {
                $($rows if tile.columns > 16 => tile_of::<$rows, 2>(tile),
                $rows => tile_of::<$rows, 1>(tile),)*
                _ => unreachable!("a tile has 1 to {TILE_ROWS} rows"),
            }
        };
    }
    // SAFETY: as the caller promises.
    unsafe { of_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
}

#[target_feature(enable = "avx512f")]
unsafe fn tile_of<const ROWS: usize, const VECTORS: usize>(tile: Tile) {
    let Tile { columns, steps, alpha, mut a, mut b, c, c_stride, accumulate } = tile;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    // SAFETY: a and b hold `steps` steps; the masks keep c's accesses to `columns` columns.
    unsafe {
        for _ in 0..steps {
            let vectors: [__m512; VECTORS] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(16 * v)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let factor = _mm512_set1_ps(*a.add(row));
                for v in 0..VECTORS {
                    sums[v] = _mm512_fmadd_ps(factor, vectors[v], sums[v]);
                }
            }
            a = a.add(STRIP);
            b = b.add(PANEL);
        }
        let alpha = _mm512_set1_ps(alpha);
        for (row, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let mask = first_lanes((columns - 16 * v).min(16));
                let place = c.add(row * c_stride + 16 * v);
                let old = if accumulate { _mm512_maskz_loadu_ps(mask, place) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(place, mask, _mm512_fmadd_ps(*sum, alpha, old));
            }
        }
    }
}
