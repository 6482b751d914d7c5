//! What lies under the launch code: memory, copies, and launches by name. [`super::nvidia`] fulfils it, through NVIDIA's
//! driver or through an emulated one that runs the same kernels on the CPU.

use crate::error::Result;

/// A place in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The place so many bytes further on.
    pub fn offset(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// A GPU by its number, from 0. A process has one driver: NVIDIA's or the emulated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// One that NVIDIA's driver finds.
    Real(usize),
    /// One of the emulated driver: [`super::emulated`].
    #[cfg(feature = "emulator")]
    Emulated(usize),
}

/// Which of the embedded cubins a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Ampere and Ada: cp.async, ldmatrix, mma.sync.
    Sm80,
    /// Hopper: TMA and wgmma besides.
    Sm90a,
}

impl Target {
    /// The compiler's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Target::Sm80 => "sm_80",
            Target::Sm90a => "sm_90a",
        }
    }
}

/// One argument of a kernel.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A pointer; 0 for none.
    Address(Address),
    /// A C `int`: sizes and flags.
    Int(i32),
    /// 64 bits.
    Long(i64),
    /// A C `float`.
    Float(f32),
    /// A `__grid_constant__` descriptor, by value.
    Map(TensorMap),
}

impl From<Address> for Argument {
    fn from(address: Address) -> Argument {
        Argument::Address(address)
    }
}
impl From<Option<Address>> for Argument {
    /// A null pointer for none.
    fn from(address: Option<Address>) -> Argument {
        Argument::Address(address.unwrap_or(Address(0)))
    }
}
impl From<i32> for Argument {
    fn from(value: i32) -> Argument {
        Argument::Int(value)
    }
}
impl From<bool> for Argument {
    fn from(value: bool) -> Argument {
        Argument::Int(value as i32)
    }
}
impl From<usize> for Argument {
    /// A size; kernels take sizes as `int`.
    fn from(value: usize) -> Argument {
        Argument::Int(i32::try_from(value).expect("a size of an op is below 2^31"))
    }
}
impl From<i64> for Argument {
    fn from(value: i64) -> Argument {
        Argument::Long(value)
    }
}
impl From<f32> for Argument {
    fn from(value: f32) -> Argument {
        Argument::Float(value)
    }
}
impl From<TensorMap> for Argument {
    fn from(map: TensorMap) -> Argument {
        Argument::Map(map)
    }
}

impl Argument {
    /// Where the argument's value lies, as `cuLaunchKernel` takes it.
    pub(super) fn pointer(&self) -> *mut std::ffi::c_void {
        match self {
            Argument::Address(address) => std::ptr::from_ref(&address.0).cast_mut().cast(),
            Argument::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Argument::Long(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Argument::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Argument::Map(map) => std::ptr::from_ref(map).cast_mut().cast(),
        }
    }
}

/// A TMA descriptor: opaque, made by [`Driver::tensor_map`], passed by value.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);

/// A bf16 matrix in device memory, and the box of it that one TMA copy brings into shared memory in the 128-byte swizzle.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Element (0, 0); its address is a multiple of 16.
    pub base: Address,
    /// Rows of the whole matrix.
    pub rows: usize,
    /// Columns of the whole matrix.
    pub columns: usize,
    /// Elements from a row to the next; their bytes are a multiple of 16.
    pub pitch: usize,
    /// Rows and columns of the box; 64 columns fill the swizzle.
    pub tile: (usize, usize),
}

/// One launch of a kernel: what `cuLaunchKernel` takes.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The function's name in its module, without mangling.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, along x alone.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// In the order of the kernel's parameters.
    pub arguments: &'a [Argument],
}

/// A device's memory and its one queue of work. Copies and launches are done in the order in which they are given;
/// [`Driver::upload`] and [`Driver::launch`] may return before.
pub trait Driver: Sized {
    /// The device that `gpu` names. Fails where it, its driver or kernels for it cannot be had.
    fn open(gpu: Gpu) -> Result<Self>;

    /// The device's own name and its driver's version, for manifests and tables.
    fn name(&self) -> String;
    /// Which of the embedded cubins it runs.
    fn target(&self) -> Target;
    /// How many blocks can be at work, one each.
    fn multiprocessors(&self) -> usize;

    /// The most shared memory that a block can have, in bytes.
    fn shared_memory(&self) -> usize;

    /// Bytes that can still be allocated.
    fn free_memory(&self) -> Result<usize>;

    /// Zeroed memory, aligned to 256 bytes, that lives as long as the driver.
    fn allocate(&mut self, bytes: usize) -> Result<Address>;

    /// Says that nothing may touch these bytes, for drivers that can watch.
    fn forbid(&mut self, from: Address, bytes: usize) {
        let _ = (from, bytes);
    }

    /// Sets aside this many bytes of the host's memory, and as many of the device's, for uploads to go through. Without it the
    /// first upload sets aside a few MiB.
    fn stage(&mut self, bytes: usize) -> Result<()>;

    /// `fill` writes the bytes to be sent into memory that the device can fetch from, piece by piece: it gets the number of
    /// bytes before a piece, and the piece, which begins on a multiple of 256 of them.
    fn upload(&mut self, to: Address, bytes: usize, fill: impl FnMut(usize, &mut [u8])) -> Result<()>;

    /// Waits for all work given before.
    fn download(&self, from: Address, to: &mut [u8]) -> Result<()>;

    /// Copies `bytes` bytes inside the device's memory; the two places do not overlap.
    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()>;

    /// Queues a launch. What goes wrong while it runs may be told by a later call.
    fn launch(&mut self, launch: Launch) -> Result<()>;

    /// The descriptor by which a kernel fetches boxes of `matrix`, on devices with TMA.
    fn tensor_map(&self, matrix: Matrix) -> Result<TensorMap>;

    /// Whether graphs are of use: not where each launch is waited for.
    fn can_capture(&self) -> bool;

    /// What is launched and copied from here on is kept instead of run, until [`Driver::end_capture`].
    fn begin_capture(&mut self) -> Result<()>;

    /// The launches and copies since [`Driver::begin_capture`], to be run by [`Driver::replay`] under the number returned. None
    /// where the driver can make no graph of them: then they have been run once, one by one.
    fn end_capture(&mut self) -> Result<Option<usize>>;

    /// Queues all that [`Driver::end_capture`] numbered so.
    fn replay(&mut self, graph: usize) -> Result<()>;

    /// Drops all captured graphs; one at work comes to its end.
    fn drop_graphs(&mut self);

    /// Waits for all work given before, and says what became of it.
    fn synchronize(&self) -> Result<()>;

    /// Marks this place in the queue; a number for [`Driver::seconds_between`].
    fn mark(&mut self) -> Result<usize>;

    /// Seconds of device time between two marks, once the second is reached.
    fn seconds_between(&self, from: usize, to: usize) -> Result<f64>;

    /// Opens a range of this name in a profiler's timeline, closing the one before.
    fn range(&mut self, name: &'static str) {
        let _ = name;
    }
}
