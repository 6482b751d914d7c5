//! Spans of device memory, and the plan that lays them out before anything is allocated.

use std::marker::PhantomData;
use std::ops::Range;

use super::device::RecordKey;
use crate::error::Result;

/// A stretch of device memory: an offset and a length in elements of one [`Kind`]. Cheap to copy; it owns nothing.
pub struct Span<K> {
    offset: usize,
    len: usize,
    kind: PhantomData<fn() -> K>,
}

/// What a span's elements are, on every device.
pub trait Kind: 'static {
    /// The element as the host sees it in [`DeviceMemory::write`] and [`DeviceMemory::read`].
    type Host: bytemuck::Pod;
    /// Where on a device such elements lie.
    const REGION: Region;
}

/// The four parts of a device's memory, one for each [`Kind`] of elements, for devices that keep each in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// [`Storage`].
    Storage,
    /// [`Wide`].
    Wide,
    /// [`Integer`].
    Integer,
    /// [`Byte`].
    Byte,
}

/// Values in the device's storage precision: f32 on the CPU, bf16 on CUDA.
pub enum Storage {}
/// Values that must not lose bits: master weights, moments, statistics, gradients of weights. f32.
pub enum Wide {}
/// Token ids, row numbers, class numbers: u32.
pub enum Integer {}
/// Pixels: u8.
pub enum Byte {}

impl Kind for Storage {
    type Host = f32;
    const REGION: Region = Region::Storage;
}
impl Kind for Wide {
    type Host = f32;
    const REGION: Region = Region::Wide;
}
impl Kind for Integer {
    type Host = u32;
    const REGION: Region = Region::Integer;
}
impl Kind for Byte {
    type Host = u8;
    const REGION: Region = Region::Byte;
}

/// Activations and the weights that ops read.
pub type Tensor = Span<Storage>;
/// Values in f32 on every device.
pub type Stats = Span<Wide>;
/// Whole numbers: token ids, rows, classes.
pub type Ids = Span<Integer>;
/// Pixels.
pub type Bytes = Span<Byte>;

impl<K> Clone for Span<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Span<K> {}

impl<K> std::fmt::Debug for Span<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}..{}]", self.offset, self.offset + self.len)
    }
}

impl<K> Span<K> {
    /// A span of `len` elements from `offset`; for devices and plans, which know what lies there.
    pub fn new(offset: usize, len: usize) -> Self {
        Span { offset, len, kind: PhantomData }
    }

    /// Elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Its elements in their region.
    pub fn range(self) -> Range<usize> {
        self.offset..self.offset + self.len
    }

    /// `len` elements of this span from `start`. Panics when they do not lie inside: a bug of the caller.
    pub fn slice(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "span of {len} from {start} leaves {self:?}");
        Span::new(self.offset + start, len)
    }

    /// The first `len` elements.
    pub fn first(self, len: usize) -> Self {
        self.slice(0, len)
    }
}

/// The layout of a run's whole device memory. Everything is planned, and can be printed or refused, before the
/// device allocates it in one piece; an iteration of training allocates nothing.
///
/// ```
/// # use perennial::ops::{Plan, cpu::Cpu};
/// let mut plan = Plan::new::<Cpu<f32>>();
/// let x = plan.section("activations", |plan| plan.tensor(1000));
/// let device = Cpu::<f32>::allocate(&plan);
/// assert_eq!(device.slice(x).len(), 1000);
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    storage_bytes: usize,
    workspace_bytes: usize,
    staging_bytes: usize,
    /// Elements planned: storage, wide, integer, byte. Where storage is as wide as statistics, the first stays 0.
    elements: [usize; 4],
    /// The elements between spans, which nothing may touch, in each region.
    gaps: [Vec<Range<usize>>; 4],
    sections: Vec<(String, usize)>,
}

/// A place in a plan to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark([usize; 4]);

/// Every span starts on a multiple of this many elements, so that vector loads and asynchronous copies are aligned.
const ALIGNMENT: usize = 64;

impl Plan {
    /// An empty plan for a device of type `D`: what its own ops need is counted already.
    pub fn new<D: DeviceMemory>() -> Plan {
        let own = [("workspace", D::WORKSPACE_BYTES), ("staging", D::STAGING_BYTES)];
        let own = own.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| (name.to_string(), bytes));
        Plan {
            storage_bytes: D::STORAGE_BYTES,
            workspace_bytes: D::WORKSPACE_BYTES,
            staging_bytes: D::STAGING_BYTES,
            elements: [0; 4],
            gaps: Default::default(),
            sections: own.collect(),
        }
    }

    /// Whether storage precision is f32, and lies in the same memory.
    pub(crate) fn unified(&self) -> bool {
        self.storage_bytes >= 4
    }

    fn span<K: Kind>(&mut self, len: usize) -> Span<K> {
        let region = if K::REGION == Region::Storage && self.unified() { Region::Wide } else { K::REGION };
        let used = &mut self.elements[region as usize];
        let offset = *used;
        *used += len.next_multiple_of(ALIGNMENT);
        if offset + len < *used {
            self.gaps[region as usize].push(offset + len..*used);
        }
        Span::new(offset, len)
    }

    /// Room for `len` elements in storage precision.
    pub fn tensor(&mut self, len: usize) -> Tensor {
        self.span(len)
    }

    /// Room for `len` elements of f32.
    pub fn stats(&mut self, len: usize) -> Stats {
        self.span(len)
    }

    /// Room for `len` elements of u32.
    pub fn ids(&mut self, len: usize) -> Ids {
        self.span(len)
    }

    /// Room for `len` bytes.
    pub fn pixels(&mut self, len: usize) -> Bytes {
        self.span(len)
    }

    /// The storage-precision copy of `master` that the ops read: the same memory where storage is f32.
    pub fn weights(&mut self, master: Stats) -> Tensor {
        if self.unified() { Span::new(master.offset, master.len) } else { self.tensor(master.len) }
    }

    /// Plans what `build` asks for under one heading of the printed plan.
    pub fn section<R>(&mut self, name: &str, build: impl FnOnce(&mut Plan) -> R) -> R {
        let before = self.bytes();
        let built = build(self);
        let bytes = self.bytes() - before;
        match self.sections.iter_mut().find(|(known, _)| known == name) {
            Some(section) => section.1 += bytes,
            None => self.sections.push((name.to_string(), bytes)),
        }
        built
    }

    /// Where the plan ends now; see [`Plan::over`].
    pub fn mark(&self) -> Mark {
        Mark(self.elements)
    }

    /// Plans what `build` asks for over the memory that was planned since `mark`: both are never in use at the same time.
    pub fn over<R>(&mut self, mark: Mark, build: impl FnOnce(&mut Plan) -> R) -> R {
        let before = std::mem::replace(&mut self.elements, mark.0);
        let built = build(self);
        for (used, before) in self.elements.iter_mut().zip(before) {
            *used = before.max(*used);
        }
        // What is a gap of one may be a span of another.
        for (gaps, start) in self.gaps.iter_mut().zip(mark.0) {
            gaps.retain(|gap| gap.start < start);
        }
        built
    }

    /// Bytes under these headings.
    pub fn bytes_of(&self, names: &[&str]) -> usize {
        self.sections.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(_, bytes)| bytes).sum()
    }

    /// Headings and bytes, in the order in which they were planned.
    pub fn sections(&self) -> &[(String, usize)] {
        &self.sections
    }

    /// Elements of storage, wide, integer and byte memory.
    pub fn elements(&self) -> [usize; 4] {
        self.elements
    }

    /// Bytes on their way to the device at once, on devices that stage them.
    pub(crate) fn staging(&self) -> usize {
        self.staging_bytes + self.elements[Region::Byte as usize]
    }

    /// The elements between spans of each region, which no op may touch.
    #[cfg(any(test, feature = "emulator"))]
    pub(crate) fn gaps(&self) -> &[Vec<Range<usize>>; 4] {
        &self.gaps
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        // Where uploads are staged, pixels have their place twice: a batch arrives while the one before is at work.
        let sizes = [self.storage_bytes, 4, 4, if self.staging_bytes > 0 { 2 } else { 1 }];
        self.workspace_bytes
            + self.staging_bytes
            + self.elements.iter().zip(sizes).map(|(count, size)| count * size).sum::<usize>()
    }
}

/// What every device does with its memory.
pub trait DeviceMemory: Sized {
    /// Bytes of one [`Storage`] element.
    const STORAGE_BYTES: usize;

    /// Bytes through which uploads go to the device, beside as many as the plan has pixels; 0 where the host's memory is the
    /// device's own.
    const STAGING_BYTES: usize = 0;
    /// Bytes that the device's own ops need beside what is planned.
    const WORKSPACE_BYTES: usize;

    /// Which of several such devices, and how it is set up.
    type Place: Clone;

    /// The device at `place` with all that `plan` holds, zeroed. Fails when it does not have as much memory, or cannot be had.
    fn with_plan(place: &Self::Place, plan: &Plan) -> Result<Self>;

    /// How the device calls itself in manifests and tables.
    fn name(&self) -> String;

    /// Copies host values into the first `from.len()` elements of `to`.
    fn write<K: Kind>(&mut self, to: Span<K>, from: &[K::Host]);

    /// Copies the span into `to`, which has its length.
    fn read<K: Kind>(&self, from: Span<K>, to: &mut [K::Host]);

    /// Sets every element to `value`.
    fn fill<K: Kind>(&mut self, to: Span<K>, value: K::Host);

    /// Copies a span onto another of its length.
    fn copy<K: Kind>(&mut self, from: Span<K>, to: Span<K>);

    /// Brings the storage-precision `weights` up to date with `master`, after `master` was written by the host.
    fn refresh(&mut self, master: Stats, weights: Tensor);

    /// The first thing that went wrong since the device was made, for devices that work on their own and hear of failures late:
    /// what was read since then means nothing.
    fn health(&self) -> Result<()> {
        Ok(())
    }

    /// Does `work`, whose ops and spans depend on `key` alone. A device that can replay a list of ops faster than it is told
    /// them may do so when a key comes again; values that change from time to time must lie in its memory.
    fn record(&mut self, key: RecordKey, work: impl FnOnce(&mut Self)) {
        let _ = key;
        work(self);
    }

    /// Forgets what was recorded: from now on the same keys stand for other lists of ops.
    fn forget(&mut self) {}

    /// The span's values as a new vector.
    fn read_vec<K: Kind>(&self, from: Span<K>) -> Vec<K::Host> {
        let mut to = vec![bytemuck::Zeroable::zeroed(); from.len()];
        self.read(from, &mut to);
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cpu::Cpu;

    #[test]
    fn what_is_planned_over_something_takes_its_place_and_no_more_than_the_larger() {
        let mut plan = Plan::new::<Cpu<f32>>();
        let first = plan.stats(100);
        let mark = plan.mark();
        let under = [plan.stats(70), plan.stats(10)];
        let ids = plan.ids(5);
        let over = plan.over(mark, |plan| plan.stats(300));
        let smaller = plan.over(mark, |plan| (plan.stats(1), plan.ids(1)));
        let last = plan.stats(10);
        assert_eq!(first.range(), 0..100);
        assert_eq!((under[0].range().start, over.range().start, smaller.0.range().start), (128, 128, 128));
        assert_eq!(last.range().start, 128 + 320, "behind the larger");
        assert_eq!((ids.range().start, smaller.1.range().start), (0, 0));
        // Between spans nothing may be touched, but what is a gap of one is a span of the other here.
        assert_eq!(plan.gaps()[Region::Wide as usize], [100..128, 458..512]);
    }
}
