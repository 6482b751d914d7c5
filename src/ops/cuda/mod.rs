//! The contract on NVIDIA's GPUs, by the kernels of `kernels/`: bf16 storage, f32 accumulation and statistics.
//!
//! Launch code alone lies here: which kernel, what grid, how much shared memory. Under it the [`Driver`] has them run, by
//! NVIDIA's libcuda or the emulated one. Failures surface in [`DeviceMemory::health`]; after the first one nothing more is
//! launched.

#[cfg(feature = "emulator")]
pub mod counters;
pub mod driver;
#[cfg(feature = "emulator")]
pub mod emulated;
pub mod family;
pub mod kernels;
pub mod launch;
mod nvtx;

mod adamw;
mod arena;
mod attention;
mod contrastive;
mod cross_entropy;
mod distillation;
mod group_dro;
mod l2_normalize;
mod layer_norm;
pub(crate) mod linear;
mod patch_embed;
mod pool;
mod position_embed;
mod relu;
mod similarity;
mod supcon;
mod token_embed;

use std::cell::RefCell;
use std::collections::HashMap;

use half::bf16;

use super::device::RecordKey;
use super::device_memory::{Byte, DeviceMemory, Integer, Kind, Plan, Region, Span, Stats, Storage, Tensor, Wide};
use super::measure::Measure;
use crate::error::{Error, Result};
use driver::Driver;
use family::Family;
use kernels::memory;
use launch::{Address, Gpu, Kernel, Matrix, Parameters, Pointer, Target, TensorMap};

/// A GPU with all of a run's memory.
pub struct Cuda {
    driver: Driver,
    /// What multiplies matrices.
    family: Family,
    /// Where the planned storage, wide, index and byte memory begin.
    pools: [Address; 4],
    /// [`DeviceMemory::WORKSPACE_BYTES`] for the partial results of one op at a time.
    workspace: Address,
    /// Small tables that kernels read, sent once.
    tables: HashMap<Vec<u32>, Address>,
    recordings: HashMap<RecordKey, Recording>,
    profile: Option<Vec<(&'static str, usize)>>,
    /// The first failure; from then on nothing is launched.
    failure: RefCell<Option<Error>>,
}

/// What is known of a list of ops that may come again.
enum Recording {
    /// It was run once: what only the first run does is done.
    Seen,
    Graph(usize),
    /// The driver can make no graph of it: it is told op by op every time.
    NoGraph,
}

/// Texts of a batch differ in number and length from batch to batch: no more than this many graphs are kept.
const MOST_RECORDINGS: usize = 64;

/// What a kernel finds where a span of this kind lies.
trait Element: Kind {
    type Value;
}

impl Element for Storage {
    type Value = bf16;
}
impl Element for Wide {
    type Value = f32;
}
impl Element for Integer {
    type Value = u32;
}
impl Element for Byte {
    type Value = u8;
}

impl Cuda {
    /// Multiplies matrices by this family from here on, whatever was chosen: to hold the two against each other.
    pub(crate) fn use_family(&mut self, family: Family) {
        self.family = family;
    }

    /// Launches `kernel` on a grid of blocks.
    fn launch<P: Parameters>(&mut self, kernel: Kernel<P>, grid: [usize; 3], parameters: P) {
        if grid.contains(&0) {
            return;
        }
        let arguments = parameters.arguments();
        let launch = kernel.launch(grid, arguments.as_ref());
        let (name, shared) = (launch.kernel, launch.shared as usize);
        let most = kernels::dynamic_shared(name, self.target());
        debug_assert!(most.is_some_and(|most| shared <= most), "{name}: `list kernels` tells less than {shared} bytes");
        let room = self.shared_memory();
        if shared > room {
            let gpu = self.driver.name();
            return self.fail(Error::run(format!(
                "{name} asks for {shared} bytes of shared memory, and a block of {gpu} has {room}"
            )));
        }
        self.attempt(|driver| driver.launch(launch));
    }

    /// Launches a kernel that strides over `count` values.
    fn sweep<P: Parameters>(&mut self, kernel: Kernel<P>, count: usize, parameters: P) {
        let blocks = count.div_ceil(8 * kernel.most_threads()).min(16 * self.multiprocessors());
        self.launch(kernel, [blocks, 1, 1], parameters);
    }

    /// Does `work` unless something failed before, and keeps its failure.
    fn attempt<T>(&mut self, work: impl FnOnce(&mut Driver) -> Result<T>) -> Option<T> {
        if self.failure.get_mut().is_some() {
            return None;
        }
        match work(&mut self.driver) {
            Ok(done) => Some(done),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Notes a failure: a shape that no kernel supports, or what the driver says.
    fn fail(&self, error: Error) {
        self.failure.borrow_mut().get_or_insert_with(|| self.driver.with_lost_barrier(error));
    }

    /// Where a span lies on the device.
    fn address<K: Kind>(&self, span: Span<K>) -> Address {
        self.pools[K::REGION as usize].offset(span.range().start * bytes_of(K::REGION))
    }

    /// The same for kernels.
    fn at<K: Element>(&self, span: Span<K>) -> Pointer<K::Value> {
        Pointer::new(self.address(span))
    }

    /// The start of the workspace; at most [`DeviceMemory::WORKSPACE_BYTES`] from there.
    fn workspace<T>(&self) -> Pointer<T> {
        Pointer::new(self.workspace)
    }

    fn target(&self) -> Target {
        self.driver.target()
    }

    fn multiprocessors(&self) -> usize {
        self.driver.multiprocessors()
    }

    fn shared_memory(&self) -> usize {
        self.driver.shared_memory()
    }

    fn tensor_map(&mut self, matrix: Matrix) -> TensorMap {
        self.attempt(|driver| driver.tensor_map(matrix)).unwrap_or(TensorMap([0; 16]))
    }

    /// A table in device memory, sent when it is first asked for.
    fn table(&mut self, values: &[u32]) -> Pointer<u32> {
        if let Some(address) = self.tables.get(values) {
            return Pointer::new(*address);
        }
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let sent = self.attempt(|driver| {
            let address = driver.allocate(bytes.len())?;
            driver.upload(address, bytes.len(), |from, to| to.copy_from_slice(&bytes[from..][..to.len()]))?;
            Ok(address)
        });
        let address = sent.unwrap_or(Address(0));
        self.tables.insert(values.to_vec(), address);
        Pointer::new(address)
    }
}

fn bytes_of(pool: Region) -> usize {
    match pool {
        Region::Storage => size_of::<bf16>(),
        Region::Wide | Region::Integer => 4,
        Region::Byte => 1,
    }
}

const POOLS: [Region; 4] = [Region::Storage, Region::Wide, Region::Integer, Region::Byte];

impl DeviceMemory for Cuda {
    const STORAGE_BYTES: usize = size_of::<bf16>();
    const WORKSPACE_BYTES: usize = 64 << 20;
    const STAGING_BYTES: usize = 16 << 20;
    type Place = Gpu;

    fn with_plan(place: &Gpu, plan: &Plan) -> Result<Self> {
        let mut driver = Driver::open(*place)?;
        let family = Family::of(*place, driver.target(), &driver.name())?;
        let free = driver.free_memory()?;
        if plan.bytes() > free {
            return Err(Error::run(format!(
                "this run needs {} MiB of GPU memory and {} MiB are free on {}",
                plan.bytes() >> 20,
                free >> 20,
                driver.name()
            ))
            .because(Error::NO_ROOM));
        }
        // One arena; each pool begins on a multiple of 1024 bytes, as TMA's matrices and vector accesses like it.
        let sizes = POOLS.map(|pool| (plan.elements()[pool as usize] * bytes_of(pool)).next_multiple_of(1024));
        let arena = driver.allocate(Self::WORKSPACE_BYTES + sizes.iter().sum::<usize>())?;
        let mut next = arena.offset(Self::WORKSPACE_BYTES);
        let pools = sizes.map(|size| {
            let start = next;
            next = next.offset(size);
            start
        });
        driver.stage(plan.staging())?;
        #[cfg(feature = "emulator")]
        for (pool, gaps) in POOLS.iter().zip(plan.gaps()) {
            for gap in gaps {
                let bytes = bytes_of(*pool);
                driver.forbid(pools[*pool as usize].offset(gap.start * bytes), gap.len() * bytes);
            }
        }
        Ok(Cuda {
            driver,
            family,
            pools,
            workspace: arena,
            tables: HashMap::new(),
            recordings: HashMap::new(),
            profile: None,
            failure: RefCell::new(None),
        })
    }

    /// The GPU, its driver, and which kernels it runs.
    fn name(&self) -> String {
        let family = match (self.target(), self.family) {
            (Target::Sm90a, Family::Mma) => " without wgmma",
            _ => "",
        };
        format!("{}, kernels {}{family}", self.driver.name(), self.target().name())
    }

    fn write<K: Kind>(&mut self, to: Span<K>, from: &[K::Host]) {
        let to = to.first(from.len());
        if to.is_empty() {
            return;
        }
        let (address, bytes) = (self.address(to), from.len() * bytes_of(K::REGION));
        self.attempt(|driver| {
            driver.upload(address, bytes, |sent, staged| match K::REGION {
                Region::Storage => {
                    let values: &[f32] = bytemuck::cast_slice(from);
                    for (to, value) in staged.chunks_exact_mut(2).zip(&values[sent / 2..]) {
                        to.copy_from_slice(&bf16::from_f32(*value).to_ne_bytes());
                    }
                }
                _ => {
                    let bytes: &[u8] = bytemuck::cast_slice(from);
                    staged.copy_from_slice(&bytes[sent..][..staged.len()]);
                }
            })
        });
    }

    /// After a failure `to` is left as it was; [`DeviceMemory::health`] tells.
    fn read<K: Kind>(&self, from: Span<K>, to: &mut [K::Host]) {
        assert_eq!(from.len(), to.len(), "a read needs as much room as the span holds");
        if self.failure.borrow().is_some() || from.is_empty() {
            return;
        }
        let done = match K::REGION {
            Region::Storage => {
                let mut values = vec![bf16::ZERO; from.len()];
                let done = self.driver.download(self.address(from), bytemuck::cast_slice_mut(&mut values));
                let to: &mut [f32] = bytemuck::cast_slice_mut(to);
                to.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_f32());
                done
            }
            _ => self.driver.download(self.address(from), bytemuck::cast_slice_mut(to)),
        };
        if let Err(error) = done {
            self.fail(error);
        }
    }

    fn fill<K: Kind>(&mut self, to: Span<K>, value: K::Host) {
        let (address, count) = (self.address(to), to.len());
        match K::REGION {
            Region::Storage => {
                let value: f32 = bytemuck::cast(value);
                self.sweep(memory::FILL_BF16, count, memory::FillBf16 { to: Pointer::new(address), value, count });
            }
            Region::Wide => {
                let value: f32 = bytemuck::cast(value);
                self.sweep(memory::FILL_F32, count, memory::FillF32 { to: Pointer::new(address), value, count });
            }
            Region::Integer => {
                let value: u32 = bytemuck::cast(value);
                self.sweep(memory::FILL_U32, count, memory::FillU32 { to: Pointer::new(address), value, count });
            }
            Region::Byte => {
                let value: u8 = bytemuck::cast(value);
                self.attempt(|driver| driver.upload(address, count, |_, staged| staged.fill(value)));
            }
        }
    }

    fn copy<K: Kind>(&mut self, from: Span<K>, to: Span<K>) {
        assert_eq!(from.len(), to.len(), "a copy goes to a span of the same length");
        let (from, to, bytes) = (self.address(from), self.address(to), from.len() * bytes_of(K::REGION));
        self.attempt(|driver| driver.copy(from, to, bytes));
    }

    fn refresh(&mut self, master: Stats, weights: Tensor) {
        let count = master.len();
        self.sweep(memory::TO_BF16, count, memory::ToBf16 { from: self.at(master), to: self.at(weights), count });
    }

    fn health(&self) -> Result<()> {
        match &*self.failure.borrow() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// The first time tells the device op by op, the second captures a graph, and from then on that is replayed.
    fn record(&mut self, key: RecordKey, work: impl FnOnce(&mut Self)) {
        if self.profile.is_some() || !self.driver.can_capture() {
            return work(self);
        }
        match self.recordings.get(&key) {
            Some(Recording::NoGraph) => work(self),
            Some(Recording::Graph(graph)) => {
                let graph = *graph;
                self.attempt(|driver| driver.replay(graph));
            }
            Some(Recording::Seen) => {
                self.attempt(Driver::begin_capture);
                work(self);
                if self.failure.get_mut().is_some() {
                    // A stream that is left capturing would refuse to give its memory back; the failure is known already.
                    let _ = self.driver.end_capture();
                }
                match self.attempt(Driver::end_capture) {
                    Some(Some(graph)) => {
                        self.recordings.insert(key, Recording::Graph(graph));
                        self.attempt(|driver| driver.replay(graph));
                    }
                    Some(None) => {
                        self.recordings.insert(key, Recording::NoGraph);
                    }
                    None => {}
                }
            }
            None => {
                if self.recordings.len() < MOST_RECORDINGS {
                    self.recordings.insert(key, Recording::Seen);
                }
                work(self);
            }
        }
    }

    fn forget(&mut self) {
        self.recordings.clear();
        self.driver.drop_graphs();
    }
}

impl Measure for Cuda {
    const CACHE_BYTES: usize = 256 << 20;

    type Mark = usize;

    fn mark(&mut self) -> Result<usize> {
        let mark = self.attempt(Driver::mark);
        self.health()?;
        Ok(mark.expect("a healthy device marks its queue"))
    }

    fn seconds_between(&self, from: usize, to: usize) -> Result<f64> {
        self.driver.seconds_between(from, to)
    }

    fn collect(&mut self, on: bool) -> Result<()> {
        self.health()?;
        self.driver.collect(on)
    }

    /// Dense bf16 of the data sheets.
    fn peak_operations(&self) -> Option<f64> {
        let name = self.driver.name();
        let known = [("H100 PCIe", 756e12), ("H100", 989e12), ("H200", 989e12), ("A100", 312e12)];
        known.into_iter().find(|(model, _)| name.contains(model)).map(|(_, peak)| peak)
    }

    fn begin_profile(&mut self) {
        self.profile = Some(Vec::new());
    }

    fn end_profile(&mut self) -> Result<Vec<(&'static str, f64)>> {
        self.phase("");
        let marks = self.profile.take().unwrap_or_default();
        self.health()?;
        self.driver.synchronize()?;
        marks.windows(2).map(|pair| Ok((pair[0].0, self.driver.seconds_between(pair[0].1, pair[1].1)?))).collect()
    }

    fn phase(&mut self, name: &'static str) {
        self.driver.range(name);
        if self.profile.is_some()
            && let Some(mark) = self.attempt(Driver::mark)
            && let Some(marks) = &mut self.profile
        {
            marks.push((name, mark));
        }
    }
}
