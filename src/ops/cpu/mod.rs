//! The contract on the CPU: the reference that other devices are compared with, and a backend that people use.
//!
//! Work is cut into pieces of fixed sizes, whatever the number of threads, and every sum has one order: results are the
//! same bits with one thread or many.

mod adamw;
mod arena;
mod attention;
mod contrastive;
mod cross_entropy;
mod distillation;
mod group_dro;
mod l2_normalize;
mod layer_norm;
mod linear;
mod matmul;
mod patch_embed;
mod pool;
mod position_embed;
mod real;
mod relu;
mod room;
mod similarity;
mod supcon;
#[cfg(target_arch = "x86_64")]
mod tile;
mod token_embed;
pub(crate) mod vector;

use std::sync::Mutex;
use std::time::Instant;

use rayon::prelude::*;

use super::device_memory::{DeviceMemory, Ids, Kind, Plan, Region, Span, Stats, Tensor};
use super::measure::Measure;
use crate::error::{Error, Result};

pub(crate) use matmul::{MatrixView, matmul};
pub use real::Real;
pub(crate) use room::{Room, available};

/// What a run takes beside its plan, in bytes, at the least: threads, batches on their way, the data set's index.
const BESIDE: usize = 16 << 20;

/// Storage and statistics in `T`: f32 to train, f64 to test gradients.
pub struct Cpu<T> {
    floats: Vec<T>,
    ids: Vec<u32>,
    bytes: Vec<u8>,
    /// One growing workspace for each thread, so that an iteration allocates nothing once one has run.
    scratch: Vec<Mutex<Vec<T>>>,
    /// A growing workspace for the partial sums of one op's first pass.
    partials: Mutex<Vec<T>>,
}

impl<T: Real> Cpu<T> {
    /// A device with all that `plan` holds, zeroed.
    pub fn allocate(plan: &Plan) -> Cpu<T> {
        let [storage, wide, index, byte] = plan.elements();
        let threads = rayon::current_num_threads() + 1;
        let mut floats: Vec<T> = bytemuck::allocation::zeroed_vec(storage + wide);
        ask_for_large_pages(&mut floats);
        Cpu {
            floats,
            ids: vec![0; index],
            bytes: vec![0; byte],
            scratch: (0..threads).map(|_| Mutex::new(Vec::new())).collect(),
            partials: Mutex::new(Vec::new()),
        }
    }

    /// The values of a tensor or of statistics.
    pub fn slice<K: Float>(&self, span: Span<K>) -> &[T] {
        &self.floats[span.range()]
    }

    /// The values of a tensor or of statistics, to be written.
    pub fn slice_mut<K: Float>(&mut self, span: Span<K>) -> &mut [T] {
        &mut self.floats[span.range()]
    }

    /// Splits memory into what an op writes, what it reads, and the rest of the device. Every output must lie apart from
    /// every other span; inputs may overlap one another.
    fn views<const O: usize, const I: usize>(
        &mut self,
        outputs: [Floats; O],
        inputs: [Floats; I],
    ) -> ([&mut [T]; O], [&[T]; I], Side<'_, T>) {
        for (i, output) in outputs.iter().enumerate() {
            for other in outputs[i + 1..].iter().chain(&inputs) {
                assert!(!output.overlaps(*other), "an op's output {output:?} overlaps its operand {other:?}");
            }
            assert!(output.end <= self.floats.len());
        }
        assert!(inputs.iter().all(|input| input.end <= self.floats.len()));
        let base = self.floats.as_mut_ptr();
        // SAFETY: all ranges lie inside `floats`, and the outputs are disjoint from each other and from the inputs, so no
        // mutable slice aliases another slice. The borrow of `self` lasts as long as the slices.
        unsafe {
            (
                outputs.map(|s| std::slice::from_raw_parts_mut(base.add(s.start), s.len())),
                inputs.map(|s| std::slice::from_raw_parts(base.add(s.start), s.len())),
                Side { ids: &self.ids, bytes: &self.bytes, scratch: &self.scratch, partials: &self.partials },
            )
        }
    }
}

/// What ops read beside floats, and the workspaces.
struct Side<'a, T> {
    ids: &'a [u32],
    bytes: &'a [u8],
    scratch: &'a [Mutex<Vec<T>>],
    partials: &'a Mutex<Vec<T>>,
}

impl<T: Real> Side<'_, T> {
    /// Lends the calling thread a workspace of `len` values, with whatever an earlier op left in them.
    fn with_scratch<R>(&self, len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
        let thread = rayon::current_thread_index().map_or(0, |index| index + 1);
        lend(&self.scratch[thread], len, work)
    }

    /// Lends the workspace that an op fills in parallel and then adds up; one op at a time.
    fn with_partials<R>(&self, len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
        lend(self.partials, len, work)
    }

    fn ids(&self, span: Ids) -> &[u32] {
        &self.ids[span.range()]
    }
}

fn lend<T: Real, R>(workspace: &Mutex<Vec<T>>, len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    let mut workspace = workspace.lock().expect("no op panics while it holds a workspace");
    if workspace.len() < len {
        workspace.resize(len, T::ZERO);
    }
    work(&mut workspace[..len])
}

/// Span kinds that hold `T` on the CPU.
pub trait Float: Kind<Host = f32> {}
impl<K: Kind<Host = f32>> Float for K {}

/// A range of the float arena.
#[derive(Clone, Copy, Debug)]
struct Floats {
    start: usize,
    end: usize,
}

impl Floats {
    const NONE: Floats = Floats { start: 0, end: 0 };

    fn len(self) -> usize {
        self.end - self.start
    }

    fn overlaps(self, other: Floats) -> bool {
        self.start.max(other.start) < self.end.min(other.end)
    }

    fn optional<K: Float>(span: Option<Span<K>>) -> Floats {
        span.map_or(Floats::NONE, Floats::from)
    }
}

impl<K: Float> From<Span<K>> for Floats {
    fn from(span: Span<K>) -> Floats {
        let range = span.range();
        Floats { start: range.start, end: range.end }
    }
}

impl<T: Real> DeviceMemory for Cpu<T> {
    const STORAGE_BYTES: usize = size_of::<T>();

    const WORKSPACE_BYTES: usize = 0;
    type Place = ();

    fn with_plan(_: &(), plan: &Plan) -> Result<Self> {
        // Parameters, moments and teachers are in memory once more while they are read or saved.
        let copied = plan.bytes_of(&["parameters", "optimiser", "teachers"]);
        let needed = plan.bytes() + copied + BESIDE;
        if let Some(Room { bytes, limit }) = available()
            && needed > bytes
        {
            return Err(Error::run(format!(
                "this run needs {} MiB of memory, of them {} MiB for copies that are read and saved, and {} MiB are available ({limit})",
                needed >> 20,
                copied >> 20,
                bytes >> 20
            ))
            .because(Error::NO_ROOM));
        }
        Ok(Cpu::allocate(plan))
    }

    fn name(&self) -> String {
        "cpu".to_string()
    }

    fn write<K: Kind>(&mut self, to: Span<K>, from: &[K::Host]) {
        let to = to.first(from.len()).range();
        match K::REGION {
            Region::Storage | Region::Wide => {
                let from: &[f32] = bytemuck::cast_slice(from);
                self.floats[to].iter_mut().zip(from).for_each(|(to, from)| *to = T::of_f32(*from));
            }
            Region::Integer => self.ids[to].copy_from_slice(bytemuck::cast_slice(from)),
            Region::Byte => self.bytes[to].copy_from_slice(bytemuck::cast_slice(from)),
        }
    }

    fn read<K: Kind>(&self, from: Span<K>, to: &mut [K::Host]) {
        assert_eq!(from.len(), to.len(), "a read needs as much room as the span holds");
        let from = from.range();
        match K::REGION {
            Region::Storage | Region::Wide => {
                let to: &mut [f32] = bytemuck::cast_slice_mut(to);
                to.iter_mut().zip(&self.floats[from]).for_each(|(to, from)| *to = from.as_f32());
            }
            Region::Integer => to.copy_from_slice(bytemuck::cast_slice(&self.ids[from])),
            Region::Byte => to.copy_from_slice(bytemuck::cast_slice(&self.bytes[from])),
        }
    }

    fn fill<K: Kind>(&mut self, to: Span<K>, value: K::Host) {
        let range = to.range();
        match K::REGION {
            Region::Storage | Region::Wide => self.floats[range].fill(T::of_f32(bytemuck::cast(value))),
            Region::Integer => self.ids[range].fill(bytemuck::cast(value)),
            Region::Byte => self.bytes[range].fill(bytemuck::cast(value)),
        }
    }

    fn copy<K: Kind>(&mut self, from: Span<K>, to: Span<K>) {
        assert_eq!(from.len(), to.len(), "a copy goes to a span of the same length");
        match K::REGION {
            Region::Storage | Region::Wide => {
                let [from, to] = [from, to].map(|span| Floats { start: span.range().start, end: span.range().end });
                let ([to], [from], _) = self.views([to], [from]);
                to.par_chunks_mut(1 << 18)
                    .zip(from.par_chunks(1 << 18))
                    .for_each(|(to, from)| to.copy_from_slice(from));
            }
            Region::Integer => self.ids.copy_within(from.range(), to.range().start),
            Region::Byte => self.bytes.copy_within(from.range(), to.range().start),
        }
    }

    fn refresh(&mut self, _master: Stats, _weights: Tensor) {
        // Weights are the master here.
    }
}

impl<T: Real> Measure for Cpu<T> {
    type Mark = Instant;

    fn mark(&mut self) -> Result<Instant> {
        Ok(Instant::now())
    }

    fn seconds_between(&self, from: Instant, to: Instant) -> Result<f64> {
        Ok((to - from).as_secs_f64())
    }
}

/// Has the system back the memory by large pages, where it can: strided passes over activations of many megabytes then find
/// their translations in the processor.
fn ask_for_large_pages<T>(memory: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        unsafe extern "C" {
            fn madvise(start: *mut std::ffi::c_void, len: usize, advice: std::ffi::c_int) -> std::ffi::c_int;
        }
        const HUGE_PAGE: std::ffi::c_int = 14;
        const PAGE: usize = 1 << 12;
        let bytes = size_of_val(memory);
        let skip = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr();
        if bytes > skip {
            // SAFETY: the range lies inside `memory`, and this advice changes no value. A refusal costs speed alone.
            unsafe { madvise(memory.as_mut_ptr().byte_add(skip).cast(), bytes - skip, HUGE_PAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
