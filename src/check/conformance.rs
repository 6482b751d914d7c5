//! Each function of `kernels/ptx.cuh` against what NVIDIA's PTX ISA says of its instruction.
//!
//! The kernels of `kernels/conformance.cu` run one instruction each. What must come out is computed here from the ISA's
//! own definitions (fragments, swizzles, rounding), and not by the emulator's bodies: a GPU and the emulator are held
//! to the same third text. Results must be the very values, except where the ISA allows an error. Operands of products
//! are small integers, whose sums are exact in f32 in any order.

use std::fmt::Debug;
use std::time::Instant;

use bytemuck::Pod;
use rand::RngExt;

use super::Outcome;
use crate::error::{Error, Result};
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::launch::{Address, Argument, Gpu, Launch, Matrix, Target};
use crate::rng::{Rng, below, rng, unit};

/// The name of these checks, beside the ops'.
pub(crate) const OP: &str = "ptx";

const PREFIX: &str = "conformance_";

/// How often a check draws other operands.
const TRIALS: usize = 4;
/// Operands of an arithmetic function.
const VALUES: usize = 4096;

type Test = fn(&mut Bench) -> Result<f64>;

/// The kernels that every device runs.
fn everywhere() -> [(&'static str, Test); 10] {
    [
        ("conformance_shared_address", shared_address),
        ("conformance_ex2", ex2),
        ("conformance_rcp", rcp),
        ("conformance_cvt_bf16x2", cvt_bf16x2),
        ("conformance_bf16", bf16),
        ("conformance_cp_async16", cp_async16),
        ("conformance_ldmatrix_x4", |bench| ldmatrix(bench, false)),
        ("conformance_ldmatrix_x4_trans", |bench| ldmatrix(bench, true)),
        ("conformance_mma_m16n8k16", mma),
        ("conformance_bar_sync", bar_sync),
    ]
}

/// Hopper's own.
fn hopper() -> [(&'static str, Test); 17] {
    [
        ("conformance_mbarrier_wait", mbarrier_wait),
        ("conformance_tma_load_2d", tma_load_2d),
        ("conformance_wgmma_m64n64k16_kk", |bench| wgmma(bench, 64, false, false)),
        ("conformance_wgmma_m64n64k16_km", |bench| wgmma(bench, 64, false, true)),
        ("conformance_wgmma_m64n64k16_mk", |bench| wgmma(bench, 64, true, false)),
        ("conformance_wgmma_m64n64k16_mm", |bench| wgmma(bench, 64, true, true)),
        ("conformance_wgmma_m64n128k16_kk", |bench| wgmma(bench, 128, false, false)),
        ("conformance_wgmma_m64n128k16_km", |bench| wgmma(bench, 128, false, true)),
        ("conformance_wgmma_m64n128k16_mk", |bench| wgmma(bench, 128, true, false)),
        ("conformance_wgmma_m64n128k16_mm", |bench| wgmma(bench, 128, true, true)),
        ("conformance_wgmma_m64n256k16_kk", |bench| wgmma(bench, 256, false, false)),
        ("conformance_wgmma_m64n256k16_km", |bench| wgmma(bench, 256, false, true)),
        ("conformance_wgmma_m64n256k16_mk", |bench| wgmma(bench, 256, true, false)),
        ("conformance_wgmma_m64n256k16_mm", |bench| wgmma(bench, 256, true, true)),
        ("conformance_wgmma_wait", wgmma_wait),
        ("conformance_fence_proxy_async", fence_proxy_async),
        ("conformance_setmaxnreg", setmaxnreg),
    ]
}

/// Whether this one, by its name without [`PREFIX`], needs Hopper's instructions.
pub(super) fn is_hoppers(name: &str) -> bool {
    hopper().iter().any(|(kernel, _)| kernel.strip_prefix(PREFIX) == Some(name))
}

/// Runs every kernel that the device at `place` has the instructions for. Returns how many it has not.
pub fn check(gpu: Gpu, seed: u64, observer: &mut dyn FnMut(&Outcome)) -> Result<usize> {
    let mut driver = Driver::open(gpu)?;
    let mut tests: Vec<(&'static str, Test)> = everywhere().into();
    let mut skipped = 0;
    match driver.target() {
        Target::Sm90a => tests.extend(hopper()),
        Target::Sm80 | Target::Compute80 => skipped = hopper().len(),
    }
    for (kernel, test) in tests {
        let start = Instant::now();
        let mut bench = Bench { driver: &mut driver, kernel, generator: rng(seed, kernel, &[]) };
        let result = test(&mut bench).map_err(|error| error.to_string());
        observer(&Outcome::of(OP, kernel.trim_start_matches(PREFIX).to_string(), start, result));
    }
    Ok(skipped)
}

/// One kernel on the device, and where its operands come from.
struct Bench<'a> {
    driver: &'a mut Driver,
    kernel: &'static str,
    generator: Rng,
}

impl Bench<'_> {
    fn send<T: Pod>(&mut self, values: &[T]) -> Result<Address> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.driver.allocate(bytes.len())?;
        self.driver.upload(address, bytes.len(), |from, to| to.copy_from_slice(&bytes[from..][..to.len()]))?;
        Ok(address)
    }

    /// Room for `count` results, which begin as NaN, so that one left unwritten shows.
    fn room<T: Pod>(&mut self, count: usize) -> Result<Address> {
        self.send(&vec![0xffu8; count * size_of::<T>()])
    }

    fn launch(&mut self, block: u32, shared: usize, arguments: &[Argument]) -> Result<()> {
        let shared = shared as u32;
        self.driver.launch(Launch { kernel: self.kernel, grid: [1; 3], block, shared, arguments })
    }

    fn fetch<T: Pod>(&self, from: Address, count: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); count];
        self.driver.download(from, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    fn below(&mut self, bound: usize) -> usize {
        below(&mut self.generator, bound as u64) as usize
    }

    /// A number from `first` to `last`.
    fn between(&mut self, first: i32, last: i32) -> i32 {
        first + self.below((last - first + 1) as usize) as i32
    }

    fn words<T: Pod>(&mut self, count: usize) -> Vec<T> {
        let bytes: Vec<u8> = (0..count * size_of::<T>()).map(|_| self.generator.random()).collect();
        bytemuck::pod_collect_to_vec(&bytes)
    }

    /// Small integers, in f32.
    fn integers(&mut self, count: usize, largest: i32) -> Vec<f32> {
        (0..count).map(|_| self.between(-largest, largest) as f32).collect()
    }

    /// What is special, then any bits, numbers near 0, and halves of a unit in bf16's last place.
    fn floats(&mut self, range: f64) -> Vec<f32> {
        const SMALLEST: u32 = 0x0080_0000;
        let mut magnitudes = vec![0, 1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001];
        magnitudes.extend([0x7fc0_0000, 0x7fff_ffff, 0x7f7f_7fff, 0x7f7f_8000, 0x7e80_0000, 0x7f00_0000, 0x0040_0000]);
        magnitudes.extend([1.0f32, 2.0, 126.0, 127.0, 128.0, 149.0, 150.0].map(f32::to_bits));
        magnitudes.extend([125.999_99f32, 126.000_01, 127.999_99].map(f32::to_bits));
        let mut values: Vec<f32> = magnitudes.iter().flat_map(|m| [*m, m | 1 << 31]).map(f32::from_bits).collect();
        while values.len() < VALUES {
            let bits: u32 = self.generator.random();
            values.push(match values.len() % 4 {
                0 => f32::from_bits(bits),
                1 => ((2.0 * unit(&mut self.generator) - 1.0) * range) as f32,
                2 => ((2.0 * unit(&mut self.generator) - 1.0) * 1.5) as f32,
                _ => f32::from_bits((bits & 0xffff_0000) + 0x7fff + self.below(3) as u32),
            });
        }
        values
    }
}

/// An error unless all values are what they must be; `whose` says what lies at an index.
fn same<T: PartialEq + Debug>(found: &[T], expected: &[T], whose: impl Fn(usize) -> String) -> Result<f64> {
    assert_eq!(found.len(), expected.len(), "as many results as the ISA defines");
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(0.0),
        Some(i) => {
            let (found, expected) = (&found[i], &expected[i]);
            Err(Error::run(format!("{} is {found:?}, where the PTX ISA says {expected:?}", whose(i))))
        }
    }
}

// ---- Addresses

/// An address in the block's window of shared memory, in bytes; dynamic shared memory was asked for on 1024 bytes.
fn shared_address(bench: &mut Bench) -> Result<f64> {
    const BYTES: usize = 16 << 10;
    const WINDOW: u32 = 256 << 10;
    let mut offsets: Vec<u32> = (0..128).map(|_| bench.below(BYTES) as u32).collect();
    offsets[0] = 0;
    let (from, to) = (bench.send(&offsets)?, bench.room::<u32>(offsets.len())?);
    bench.launch(128, BYTES, &[from.into(), to.into()])?;
    let addresses: Vec<u32> = bench.fetch(to, offsets.len())?;
    let start = addresses[0];
    if !start.is_multiple_of(1024) || start > WINDOW {
        return Err(Error::run(format!("dynamic shared memory begins at {start} in the window of shared memory")));
    }
    let expected: Vec<u32> = offsets.iter().map(|offset| start + offset).collect();
    same(&addresses, &expected, |i| format!("the address of byte {}", offsets[i]))
}

// ---- Arithmetic

/// Subnormal numbers are 0 of the same sign: `.ftz`.
fn flushed(value: f32) -> f32 {
    if value.is_subnormal() { 0.0f32.copysign(value) } else { value }
}

/// How many units in the last place `found` is off, as a share of those allowed; `None` if it is too many. `rounded` is
/// the correctly rounded result, before it is flushed: what lies so near to it is flushed, too.
fn share_of_units(found: f32, rounded: f32, allowed: u32) -> Option<f64> {
    if rounded.is_nan() {
        return found.is_nan().then_some(0.0);
    }
    let sign = rounded.to_bits() & 1 << 31;
    let magnitude = rounded.to_bits() ^ sign;
    let matches = |magnitude: u32| {
        let value = f32::from_bits(sign | magnitude);
        magnitude <= f32::INFINITY.to_bits() && flushed(value).to_bits() == found.to_bits()
    };
    let units =
        (0..=allowed).find(|units| matches(magnitude + units) || magnitude.checked_sub(*units).is_some_and(matches));
    units.map(|units| units as f64 / allowed.max(1) as f64)
}

/// Runs an approximation of one operand. `rounded`: the correctly rounded result, and the units in the last place
/// allowed.
fn approximation(bench: &mut Bench, rounded: impl Fn(f32) -> (f32, u32)) -> Result<f64> {
    let operands = bench.floats(150.0);
    let (from, to) = (bench.send(&operands)?, bench.room::<f32>(operands.len())?);
    bench.launch(128, 0, &[from.into(), to.into(), operands.len().into()])?;
    let results: Vec<f32> = bench.fetch(to, operands.len())?;
    let mut worst = 0.0f64;
    for (operand, found) in operands.into_iter().zip(results) {
        let (expected, allowed) = rounded(operand);
        let share = share_of_units(found, expected, allowed).ok_or_else(|| {
            Error::run(format!(
                "of {operand:e} (bits {:08x}) it is {found:e} (bits {:08x}), where the PTX ISA says {expected:e} within \
                 {allowed} units in the last place, subnormal numbers flushed",
                operand.to_bits(),
                found.to_bits()
            ))
        })?;
        worst = worst.max(share);
    }
    Ok(worst)
}

/// "The maximum ulp error is 2 ulp from correctly rounded result across the full range of inputs"; the table of special
/// operands is exact. Subnormal operands and results are flushed.
fn ex2(bench: &mut Bench) -> Result<f64> {
    approximation(bench, |x| {
        let x = flushed(x);
        let exact = x == 0.0 || x.is_infinite();
        ((x as f64).exp2() as f32, if exact { 0 } else { 2 })
    })
}

/// "The maximum ulp error is 1 across the full range of inputs"; otherwise as ex2. Zeros and infinities keep their
/// sign.
fn rcp(bench: &mut Bench) -> Result<f64> {
    approximation(bench, |x| {
        let x = flushed(x);
        let exact = x == 0.0 || x.is_infinite();
        ((1.0 / x as f64) as f32, if exact { 0 } else { 1 })
    })
}

/// To nearest, ties to even: of the two neighbours in bf16 the one less than half a unit away. Any NaN for a NaN: the
/// ISA does not say which.
fn is_rounded(found: u16, value: f32) -> bool {
    let bits = value.to_bits();
    let (below, rest) = ((bits >> 16) as u16, bits & 0xffff);
    match rest.cmp(&0x8000) {
        _ if value.is_nan() => found & 0x7fff > 0x7f80,
        std::cmp::Ordering::Less => found == below,
        std::cmp::Ordering::Equal => found == below + below % 2,
        std::cmp::Ordering::Greater => found == below + 1,
    }
}

fn check_rounding(found: u16, value: f32, which: &str) -> Result<()> {
    if is_rounded(found, value) {
        return Ok(());
    }
    Err(Error::run(format!(
        "{which}{value:e} (bits {:08x}) becomes {found:04x}, not the nearest bf16",
        value.to_bits()
    )))
}

/// The first operand of the instruction goes to the upper half; the function takes the lower one first.
fn cvt_bf16x2(bench: &mut Bench) -> Result<f64> {
    let (low, mut high) = (bench.floats(150.0), bench.floats(150.0));
    high.rotate_left(7);
    let (at_low, at_high, to) = (bench.send(&low)?, bench.send(&high)?, bench.room::<u32>(low.len())?);
    bench.launch(128, 0, &[at_low.into(), at_high.into(), to.into(), low.len().into()])?;
    for ((pair, low), high) in bench.fetch::<u32>(to, low.len())?.into_iter().zip(low).zip(high) {
        check_rounding(pair as u16, low, "lower half: ")?;
        check_rounding((pair >> 16) as u16, high, "upper half: ")?;
    }
    Ok(0.0)
}

/// The same rounding; and a bf16 is the upper half of its f32.
fn bf16(bench: &mut Bench) -> Result<f64> {
    let wide = bench.floats(150.0);
    let (from, narrow, back) = (bench.send(&wide)?, bench.room::<u16>(wide.len())?, bench.room::<u32>(wide.len())?);
    bench.launch(128, 0, &[from.into(), narrow.into(), back.into(), wide.len().into()])?;
    let (narrow, back) = (bench.fetch::<u16>(narrow, wide.len())?, bench.fetch::<u32>(back, wide.len())?);
    for (wide, narrow) in wide.iter().zip(&narrow) {
        check_rounding(*narrow, *wide, "")?;
    }
    let expected: Vec<u32> = narrow.iter().map(|narrow| (*narrow as u32) << 16).collect();
    same(&back, &expected, |i| format!("{:04x} in f32", narrow[i]))
}

// ---- Copies and matrices of a warp

/// 16 bytes.
type Chunk = [u16; 8];

/// `src-size` 16 copies 16 bytes, 0 writes zeros; `wait_group n` waits for all but the last n groups of the thread.
fn cp_async16(bench: &mut Bench) -> Result<f64> {
    const CHUNKS: usize = 300;
    for _ in 0..TRIALS {
        let chunks: Vec<Chunk> = bench.words(CHUNKS);
        let sources: Vec<i32> = (0..256).map(|_| bench.between(-60, CHUNKS as i32 - 1)).collect();
        let (at, from, to) = (bench.send(&chunks)?, bench.send(&sources)?, bench.room::<Chunk>(256)?);
        bench.launch(128, 256 * size_of::<Chunk>(), &[at.into(), from.into(), to.into()])?;
        let copied = |slot: usize| chunks.get(sources[slot] as usize).copied().unwrap_or_default();
        let expected: Vec<Chunk> = (0..256).map(|i| copied(if i < 128 { i } else { 128 + 255 - i })).collect();
        same(&bench.fetch(to, 256)?, &expected, |i| format!("chunk {i}"))?;
    }
    Ok(0.0)
}

/// Threads 8 i to 8 i + 7 give the rows of matrix i; thread t receives, of each, elements 2 (t mod 4) and the next of
/// row t / 4, or with `.trans` of column t / 4.
fn ldmatrix(bench: &mut Bench, transposed: bool) -> Result<f64> {
    for _ in 0..TRIALS {
        let chunks: Vec<Chunk> = bench.words(64);
        let rows: Vec<u32> = (0..32).map(|_| bench.below(64) as u32).collect();
        let (at, from, to) = (bench.send(&chunks)?, bench.send(&rows)?, bench.room::<u16>(32 * 8)?);
        bench.launch(32, 64 * size_of::<Chunk>(), &[at.into(), from.into(), to.into()])?;
        let element = |matrix: usize, row: usize, column: usize| chunks[rows[8 * matrix + row] as usize][column];
        let mut expected: Vec<u16> = Vec::new();
        for thread in 0..32 {
            for matrix in 0..4 {
                for half in 0..2 {
                    let (across, along) = (thread / 4, 2 * (thread % 4) + half);
                    let (row, column) = if transposed { (along, across) } else { (across, along) };
                    expected.push(element(matrix, row, column));
                }
            }
        }
        let whose = |i: usize| format!("half {} of register {} of lane {}", i % 2, i / 2 % 4, i / 8);
        same(&bench.fetch(to, expected.len())?, &expected, whose)?;
    }
    Ok(0.0)
}

/// A small integer in bf16, which holds it exactly.
fn narrow(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}

/// "Matrix Fragments for mma.m16n8k16 with floating point type": groupID is the lane / 4, threadID_in_group the lane
/// mod 4.
fn mma(bench: &mut Bench) -> Result<f64> {
    const K: usize = 16;
    const N: usize = 8;
    for _ in 0..TRIALS {
        let (a, b, c) = (bench.integers(16 * K, 16), bench.integers(K * N, 16), bench.integers(16 * N, 1000));
        let (mut left, mut right, mut before, mut expected) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            for i in 0..8 {
                let row = if i % 4 < 2 { group } else { group + 8 };
                let column = thread * 2 + i % 2 + if i < 4 { 0 } else { 8 };
                left.push(narrow(a[row * K + column]));
            }
            for i in 0..4 {
                let row = thread * 2 + i % 2 + if i < 2 { 0 } else { 8 };
                right.push(narrow(b[row * N + group]));
            }
            for i in 0..4 {
                let row = if i < 2 { group } else { group + 8 };
                let column = thread * 2 + i % 2;
                let sum: f32 = (0..K).map(|k| a[row * K + k] * b[k * N + column]).sum();
                before.push(c[row * N + column]);
                expected.push(c[row * N + column] + sum);
            }
        }
        let (at_a, at_b, at_c) = (bench.send(&left)?, bench.send(&right)?, bench.send(&before)?);
        let to = bench.room::<f32>(expected.len())?;
        bench.launch(32, 0, &[at_a.into(), at_b.into(), at_c.into(), to.into()])?;
        same(&bench.fetch(to, expected.len())?, &expected, |i| format!("d[{}] of lane {}", i % 4, i / 4))?;
    }
    Ok(0.0)
}

// ---- Barriers

/// What is handed over in rows of `width`, and read in reverse.
fn hand_over(bench: &mut Bench, block: u32, width: usize, rows: usize, steps: usize) -> Result<f64> {
    let values: Vec<u32> = bench.words(rows * width);
    let (from, to) = (bench.send(&values)?, bench.room::<u32>(values.len())?);
    bench.launch(block, 0, &[from.into(), to.into(), steps.into()])?;
    let expected: Vec<u32> = values.chunks(width).flat_map(|row| row.iter().rev().copied()).collect();
    same(&bench.fetch(to, values.len())?, &expected, |i| format!("value {} of step {}", i % width, i / width))
}

/// A barrier completes when the threads counted have arrived, by `bar.sync` or `bar.arrive`, and is then as at the
/// start.
fn bar_sync(bench: &mut Bench) -> Result<f64> {
    const ROUNDS: usize = 40;
    hand_over(bench, 128, 64, ROUNDS + 2, ROUNDS)
}

/// A phase completes with the last arrival expected, and the next begins; `try_wait.parity` is true of the phase
/// before.
fn mbarrier_wait(bench: &mut Bench) -> Result<f64> {
    const STEPS: usize = 41;
    hand_over(bench, 256, 128, STEPS, STEPS)
}

// ---- Hopper

/// `Swizzle<3,4,3>`, the 128-byte swizzle: bits 4 to 6 of the address, exclusive or bits 7 to 9.
fn swizzled(address: usize) -> usize {
    address ^ (address >> 3 & 0x70)
}

/// A box of 64 columns, row after row, in the 128-byte swizzle; zeros for elements outside the tensor. All bytes of the
/// box count for the mbarrier.
fn tma_load_2d(bench: &mut Bench) -> Result<f64> {
    const PAIRS: usize = 6;
    const BOX_COLUMNS: usize = 64;
    // The boxes of the products' tiles, and any.
    for tile in [Some(64), Some(128), Some(256), None] {
        // Rows are a multiple of 16 bytes apart, and boxes one of 1024 bytes.
        let box_rows = tile.unwrap_or_else(|| 8 * (1 + bench.below(12)));
        let (rows, columns) = (1 + bench.below(box_rows + 20), 1 + bench.below(160));
        let pitch = columns.next_multiple_of(8) + 8 * bench.below(2);
        let matrix: Vec<u16> = bench.words(rows * pitch);
        let mut places: Vec<i32> = Vec::new();
        for _ in 0..2 * PAIRS {
            places.push(bench.between(-70, columns as i32 + 10));
            places.push(bench.between(-3 - box_rows as i32, rows as i32 + 3));
        }
        places[..4].copy_from_slice(&[0, 0, 8, 1]);
        let base = bench.send(&matrix)?;
        let map = bench.driver.tensor_map(Matrix { base, rows, columns, pitch, tile: (box_rows, BOX_COLUMNS) })?;
        let box_bytes = box_rows * BOX_COLUMNS * 2;
        let values = 2 * PAIRS * box_bytes / 2;
        let (at, to) = (bench.send(&places)?, bench.room::<u16>(values)?);
        bench.launch(128, 2 * box_bytes, &[map.into(), at.into(), to.into(), PAIRS.into(), box_bytes.into()])?;
        let mut expected = vec![0u16; values];
        for (place, expected) in places.chunks(2).zip(expected.chunks_mut(box_bytes / 2)) {
            for row in 0..box_rows {
                for column in 0..BOX_COLUMNS {
                    let (x, y) = (place[0] + column as i32, place[1] + row as i32);
                    if (0..columns as i32).contains(&x) && (0..rows as i32).contains(&y) {
                        let to = swizzled(row * 128 + 2 * column) / 2;
                        expected[to] = matrix[y as usize * pitch + x as usize];
                    }
                }
            }
        }
        same(&bench.fetch(to, values)?, &expected, |i| {
            let (which, at) = (i / (box_bytes / 2), i % (box_bytes / 2));
            let (x, y) = (places[2 * which], places[2 * which + 1]);
            format!("byte {} of the box of {box_rows} rows at ({x}, {y}) in a matrix of {rows} x {columns}", 2 * at)
        })?;
    }
    Ok(0.0)
}

/// Values of K in a tile.
const K: usize = 64;

/// Where an operand of wgmma lies: `Layout` of conformance.cu, in bytes.
#[derive(Clone, Copy)]
struct OperandLayout {
    mn_major: bool,
    start: usize,
    leading: usize,
    stride: usize,
}

impl OperandLayout {
    /// One that the ISA allows, from `start` on. `extent`: how many of M or N.
    fn draw(bench: &mut Bench, mn_major: bool, extent: usize, start: usize) -> OperandLayout {
        let (leading, stride) = match (mn_major, bench.below(2)) {
            // Swizzled and K-major: "not used, assumed to be 1".
            (false, loose) => (16 * bench.below(2), 1024 << loose),
            // 64 of M or N with all of K, then the next 64: 8,192 bytes further, as in the products' tiles, or more.
            (true, 0) => (K * 128 + 1024 * bench.below(2), 1024),
            // 8 of K with all of M or N, then the next 8.
            (true, _) => (1024, extent / 64 * 1024),
        };
        OperandLayout { mn_major, start, leading, stride }
    }

    /// "Canonical Layouts" with T = 8, 128-byte swizzling: ((8,m),(T,2k)):((8T,SBO),(1,T)) for K-major operands,
    /// ((T,8,m),(8,k)):((1,T,LBO),(8T,SBO)) for the others; the swizzle comes on top.
    fn place(&self, mn: usize, k: usize) -> usize {
        const T: usize = 8;
        let element = size_of::<u16>();
        let offset = if self.mn_major {
            (mn % T + mn / T % 8 * T + k % 8 * 8 * T) * element + mn / (8 * T) * self.leading + k / 8 * self.stride
        } else {
            (mn % 8 * 8 * T + k % T + k / T * T) * element + mn / 8 * self.stride
        };
        swizzled(self.start + offset)
    }

    /// Bytes to the next 16 values of K.
    fn step(&self) -> usize {
        if self.mn_major { 2 * self.stride } else { 16 * size_of::<u16>() }
    }

    fn words(&self) -> [i32; 4] {
        [self.start, self.leading, self.stride, self.step()].map(|bytes| bytes as i32)
    }
}

/// A [64, K] and B [K, n], an image of shared memory that holds both, and their product.
struct Product {
    layouts: [OperandLayout; 2],
    bytes: usize,
}

impl Product {
    fn draw(bench: &mut Bench, n: usize, a_mn_major: bool, b_mn_major: bool) -> Product {
        let gaps = [0, 1].map(|_| 1024 * bench.below(2));
        let a = OperandLayout::draw(bench, a_mn_major, 64, gaps[0]);
        let b = OperandLayout::draw(bench, b_mn_major, n, Product::end(&a, 64) + gaps[1]);
        Product { layouts: [a, b], bytes: Product::end(&b, n) }
    }

    fn end(layout: &OperandLayout, extent: usize) -> usize {
        let places = (0..extent).flat_map(|mn| (0..K).map(move |k| layout.place(mn, k)));
        places.max().unwrap_or_default().next_multiple_of(1024)
    }

    fn operands(&self) -> Vec<i32> {
        let [a, b] = self.layouts.map(|layout| layout.words());
        [&a[..], &b[..], &[self.bytes as i32]].concat()
    }

    /// The image of random operands, NaN where nothing lies, and their product [64, n].
    fn image(&self, bench: &mut Bench, n: usize) -> (Vec<u16>, Vec<f32>) {
        let (a, b) = (bench.integers(64 * K, 8), bench.integers(K * n, 8));
        let mut image = vec![0xffff; self.bytes / 2];
        for k in 0..K {
            (0..64).for_each(|m| image[self.layouts[0].place(m, k) / 2] = narrow(a[m * K + k]));
            (0..n).for_each(|j| image[self.layouts[1].place(j, k) / 2] = narrow(b[k * n + j]));
        }
        let mut product = vec![0.0; 64 * n];
        for (a, product) in a.chunks(K).zip(product.chunks_mut(n)) {
            for (a, b) in a.iter().zip(b.chunks(n)) {
                product.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
            }
        }
        (image, product)
    }
}

/// "Register Fragments and Shared Memory Matrix Layouts", D: a matrix [64, n] as the registers [n / 2, 128] of a
/// warpgroup.
fn registers(matrix: &[f32]) -> Vec<f32> {
    let n = matrix.len() / 64;
    let at = |i: usize, thread: usize| {
        let (warp, lane) = (thread / 32, thread % 32);
        let row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
        let column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
        matrix[row * n + column]
    };
    (0..n / 2).flat_map(|i| (0..128).map(move |thread| at(i, thread))).collect()
}

fn same_registers(found: &[f32], expected: &[f32], which: &str) -> Result<f64> {
    same(found, expected, |i| format!("{which}[{}] of thread {}", i / 128, i % 128))
}

fn wgmma(bench: &mut Bench, n: usize, a_mn_major: bool, b_mn_major: bool) -> Result<f64> {
    for _ in 0..TRIALS {
        let product = Product::draw(bench, n, a_mn_major, b_mn_major);
        let (image, result) = product.image(bench, n);
        let before = bench.integers(64 * n, 1000);
        let expected: Vec<f32> = registers(&result).iter().zip(&before).map(|(sum, before)| sum + before).collect();
        let (at_image, at_operands) = (bench.send(&image)?, bench.send(&product.operands())?);
        let (c, d) = (bench.send(&before)?, bench.room::<f32>(expected.len())?);
        bench.launch(128, product.bytes, &[at_image.into(), at_operands.into(), c.into(), d.into()])?;
        same_registers(&bench.fetch(d, expected.len())?, &expected, "d")?;
    }
    Ok(0.0)
}

/// Groups complete in order; an accumulator may be read once its group has been waited for.
fn wgmma_wait(bench: &mut Bench) -> Result<f64> {
    let product = Product::draw(bench, 64, false, false);
    let (image, result) = product.image(bench, 64);
    let (sum, before) = (registers(&result), bench.integers(2 * 64 * 64, 1000));
    let added = |before: &[f32]| -> Vec<f32> { sum.iter().zip(before).map(|(sum, before)| sum + before).collect() };
    let (first, second) = (added(&before[..64 * 64]), added(&before[64 * 64..]));
    let third = added(&first.iter().map(|value| 2.0 * value).collect::<Vec<_>>());
    let (at_image, at_operands) = (bench.send(&image)?, bench.send(&product.operands())?);
    let (c, d) = (bench.send(&before)?, bench.room::<f32>(3 * 64 * 64)?);
    bench.launch(128, product.bytes, &[at_image.into(), at_operands.into(), c.into(), d.into()])?;
    let found: Vec<f32> = bench.fetch(d, 3 * 64 * 64)?;
    for ((found, expected), which) in
        found.chunks(64 * 64).zip([first, second, third]).zip(["first", "second", "third"])
    {
        same_registers(found, &expected, which)?;
    }
    Ok(0.0)
}

/// After `fence.proxy.async` and a barrier, the async proxy reads what the generic one wrote.
fn fence_proxy_async(bench: &mut Bench) -> Result<f64> {
    const ROUNDS: usize = 8;
    let product = Product::draw(bench, 64, false, false);
    let rounds: Vec<_> = (0..ROUNDS).map(|_| product.image(bench, 64)).collect();
    let images: Vec<u16> = rounds.iter().flat_map(|(image, _)| image.iter().copied()).collect();
    let (at_images, at_operands) = (bench.send(&images)?, bench.send(&product.operands())?);
    let d = bench.room::<f32>(ROUNDS * 64 * 64)?;
    bench.launch(128, product.bytes, &[at_images.into(), at_operands.into(), d.into(), ROUNDS.into()])?;
    let found: Vec<f32> = bench.fetch(d, ROUNDS * 64 * 64)?;
    for (round, (found, (_, result))) in found.chunks(64 * 64).zip(&rounds).enumerate() {
        same_registers(found, &registers(result), &format!("round {round}: d"))?;
    }
    Ok(0.0)
}

/// Registers keep what they hold, and those gained hold what is put there.
fn setmaxnreg(bench: &mut Bench) -> Result<f64> {
    const THREADS: usize = 384;
    const MANY: usize = 200;
    const FEW: usize = 16;
    let values: Vec<u32> = bench.words(MANY * THREADS);
    let (from, to) = (bench.send(&values)?, bench.room::<u32>(values.len())?);
    bench.launch(THREADS as u32, 0, &[from.into(), to.into()])?;
    let count = |thread: usize| if thread < 128 { FEW } else { MANY };
    let sum = |thread: usize| (0..count(thread)).fold(0u32, |sum, i| sum.wrapping_add(values[i * THREADS + thread]));
    let sums: Vec<u32> = (0..THREADS).map(sum).collect();
    let expected = (0..MANY * THREADS).map(|i| {
        let (row, thread) = (i / THREADS, i % THREADS);
        if row < count(thread) { values[i] ^ sums[thread] } else { u32::MAX }
    });
    let whose = |i: usize| format!("value {} of thread {}", i / THREADS, i % THREADS);
    same(&bench.fetch(to, values.len())?, &expected.collect::<Vec<u32>>(), whose)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FUNCTIONS: &str = include_str!("../../kernels/ptx.cuh");
    const KERNELS: &str = include_str!("../../kernels/conformance.cu");

    /// The name before the first parenthesis.
    fn declared(line: &str) -> Option<&str> {
        let before = line.split_once('(')?.0;
        before.rsplit(' ').next()
    }

    #[test]
    fn every_function_has_a_kernel() {
        let code: String = KERNELS.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let functions: Vec<&str> =
            FUNCTIONS.lines().filter(|line| line.starts_with("DEVICE ")).filter_map(declared).collect();
        assert!(functions.len() > 25, "{functions:?}");
        for function in functions {
            let called = [format!("ptx::{function}("), format!("ptx::{function}<")];
            assert!(called.iter().any(|call| code.contains(call)), "conformance.cu has no kernel for ptx::{function}");
        }
    }

    #[test]
    fn every_kernel_is_checked() {
        let kernels: BTreeSet<&str> = KERNELS
            .lines()
            .filter(|line| line.starts_with("KERNEL("))
            .filter_map(|line| line.split(", ").nth(2))
            .collect();
        let checked = everywhere().map(|test| test.0).into_iter().chain(hopper().map(|test| test.0));
        assert_eq!(kernels, checked.collect());
    }
}
