//! A device as models and training see it: whichever it is.
//!
//! A [`Backend`] is chosen where a program opens one; from there on everything speaks to a `dyn Device`, so that models, objectives and
//! runs are written, and compiled, once.

use super::device_memory::{Byte, Bytes, DeviceMemory, Ids, Integer, Kind, Region, Span, Stats, Storage, Tensor, Wide};
use super::measure::Measure;
use super::trace::Trace;
use super::{Backend, Ops};
use crate::error::Result;

/// What tells one list of launches from another where lists are recorded: everything that the ops of a step depend on beside what lies
/// in the device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// Of everything beside sizes.
    pub stage: u64,
    /// Images of the batch, every view counted.
    pub images: usize,
    /// Distinct texts of the batch.
    pub texts: usize,
    /// The length that texts run at.
    pub tokens: usize,
}

/// Any [`Backend`]: its ops, what it does with its memory, and what it tells of itself. What is typed by a span's kind is a method of
/// `dyn Device`, over the `_erased` ones.
pub trait Device: Ops {
    /// [`DeviceMemory::name`].
    fn name(&self) -> String;
    /// [`DeviceMemory::refresh`].
    fn refresh(&mut self, master: Stats, weights: Tensor);
    /// [`DeviceMemory::health`].
    fn health(&self) -> Result<()>;
    /// [`DeviceMemory::forget`].
    fn forget(&mut self);
    /// [`Measure::phase`].
    fn phase(&mut self, name: &'static str);
    /// [`Measure::collect`].
    fn collect(&mut self, on: bool) -> Result<()>;
    /// [`Measure::begin_trace`].
    fn begin_trace(&mut self) -> Result<()>;
    /// [`Measure::end_trace`].
    fn end_trace(&mut self) -> Result<Trace>;
    /// [`Measure::begin_profile`].
    fn begin_profile(&mut self);
    /// [`Measure::end_profile`].
    fn end_profile(&mut self) -> Result<Vec<(&'static str, f64)>>;
    /// [`Measure::peak_operations`].
    fn peak_operations(&self) -> Option<f64>;

    /// Writes elements of `region` from element `start` on; `from` holds them as [`Kind::Host`] has them.
    fn write_erased(&mut self, region: Region, start: usize, from: &[u8]);
    /// Reads elements of `region` from element `start` on, as many as `to` has room for.
    fn read_erased(&self, region: Region, start: usize, to: &mut [u8]);
    /// Sets `len` elements to the one in `value`.
    fn fill_erased(&mut self, region: Region, start: usize, len: usize, value: &[u8]);
    /// Copies `len` elements of `region` from element `from` on to element `to` on; the two do not overlap.
    fn copy_erased(&mut self, region: Region, from: usize, to: usize, len: usize);
    /// [`DeviceMemory::record`] of work on any device.
    fn record_erased(&mut self, key: RecordKey, work: &mut dyn FnMut(&mut dyn Device));
}

impl dyn Device + '_ {
    /// [`DeviceMemory::write`].
    pub fn write<K: Kind>(&mut self, to: Span<K>, from: &[K::Host]) {
        let to = to.first(from.len());
        self.write_erased(K::REGION, to.range().start, bytemuck::cast_slice(from));
    }

    /// [`DeviceMemory::read`].
    pub fn read<K: Kind>(&self, from: Span<K>, to: &mut [K::Host]) {
        assert_eq!(from.len(), to.len(), "a read needs as much room as the span holds");
        self.read_erased(K::REGION, from.range().start, bytemuck::cast_slice_mut(to));
    }

    /// [`DeviceMemory::read_vec`].
    pub fn read_vec<K: Kind>(&self, from: Span<K>) -> Vec<K::Host> {
        let mut to = vec![bytemuck::Zeroable::zeroed(); from.len()];
        self.read(from, &mut to);
        to
    }

    /// [`DeviceMemory::fill`].
    pub fn fill<K: Kind>(&mut self, to: Span<K>, value: K::Host) {
        self.fill_erased(K::REGION, to.range().start, to.len(), bytemuck::bytes_of(&value));
    }

    /// [`DeviceMemory::copy`].
    pub fn copy<K: Kind>(&mut self, from: Span<K>, to: Span<K>) {
        assert_eq!(from.len(), to.len(), "a copy goes to a span of the same length");
        self.copy_erased(K::REGION, from.range().start, to.range().start, from.len());
    }

    /// [`DeviceMemory::record`].
    pub fn record(&mut self, key: RecordKey, mut work: impl FnMut(&mut dyn Device)) {
        self.record_erased(key, &mut work);
    }
}

impl<B: Backend> Device for B {
    fn name(&self) -> String {
        DeviceMemory::name(self)
    }

    fn refresh(&mut self, master: Stats, weights: Tensor) {
        DeviceMemory::refresh(self, master, weights);
    }

    fn health(&self) -> Result<()> {
        DeviceMemory::health(self)
    }

    fn forget(&mut self) {
        DeviceMemory::forget(self);
    }

    fn phase(&mut self, name: &'static str) {
        Measure::phase(self, name);
    }

    fn collect(&mut self, on: bool) -> Result<()> {
        Measure::collect(self, on)
    }

    fn begin_trace(&mut self) -> Result<()> {
        Measure::begin_trace(self)
    }

    fn end_trace(&mut self) -> Result<Trace> {
        Measure::end_trace(self)
    }

    fn begin_profile(&mut self) {
        Measure::begin_profile(self);
    }

    fn end_profile(&mut self) -> Result<Vec<(&'static str, f64)>> {
        Measure::end_profile(self)
    }

    fn peak_operations(&self) -> Option<f64> {
        Measure::peak_operations(self)
    }

    fn write_erased(&mut self, region: Region, start: usize, from: &[u8]) {
        fn write<B: Backend, K: Kind>(backend: &mut B, start: usize, from: &[u8]) {
            let from: &[K::Host] = bytemuck::cast_slice(from);
            DeviceMemory::write(backend, Span::<K>::new(start, from.len()), from);
        }
        match region {
            Region::Storage => write::<B, Storage>(self, start, from),
            Region::Wide => write::<B, Wide>(self, start, from),
            Region::Integer => write::<B, Integer>(self, start, from),
            Region::Byte => write::<B, Byte>(self, start, from),
        }
    }

    fn read_erased(&self, region: Region, start: usize, to: &mut [u8]) {
        fn read<B: Backend, K: Kind>(backend: &B, start: usize, to: &mut [u8]) {
            let to: &mut [K::Host] = bytemuck::cast_slice_mut(to);
            DeviceMemory::read(backend, Span::<K>::new(start, to.len()), to);
        }
        match region {
            Region::Storage => read::<B, Storage>(self, start, to),
            Region::Wide => read::<B, Wide>(self, start, to),
            Region::Integer => read::<B, Integer>(self, start, to),
            Region::Byte => read::<B, Byte>(self, start, to),
        }
    }

    fn fill_erased(&mut self, region: Region, start: usize, len: usize, value: &[u8]) {
        match region {
            Region::Storage => DeviceMemory::fill(self, Tensor::new(start, len), bytemuck::pod_read_unaligned(value)),
            Region::Wide => DeviceMemory::fill(self, Stats::new(start, len), bytemuck::pod_read_unaligned(value)),
            Region::Integer => DeviceMemory::fill(self, Ids::new(start, len), bytemuck::pod_read_unaligned(value)),
            Region::Byte => DeviceMemory::fill(self, Bytes::new(start, len), bytemuck::pod_read_unaligned(value)),
        }
    }

    fn copy_erased(&mut self, region: Region, from: usize, to: usize, len: usize) {
        match region {
            Region::Storage => DeviceMemory::copy(self, Tensor::new(from, len), Tensor::new(to, len)),
            Region::Wide => DeviceMemory::copy(self, Stats::new(from, len), Stats::new(to, len)),
            Region::Integer => DeviceMemory::copy(self, Ids::new(from, len), Ids::new(to, len)),
            Region::Byte => DeviceMemory::copy(self, Bytes::new(from, len), Bytes::new(to, len)),
        }
    }

    fn record_erased(&mut self, key: RecordKey, work: &mut dyn FnMut(&mut dyn Device)) {
        DeviceMemory::record(self, key, |backend| work(backend));
    }
}
