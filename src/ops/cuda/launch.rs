//! What the driver is told: addresses, kernels with their parameters, launches.

use std::marker::PhantomData;

/// A place in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The place so many bytes further on.
    pub fn offset(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// A place in device memory where values of a type lie, one after another. `T` is what a kernel sees there, and is never made.
pub(crate) struct Pointer<T> {
    address: Address,
    values: PhantomData<fn() -> T>,
}

impl<T> Pointer<T> {
    /// The place where `address` is.
    pub(crate) fn new(address: Address) -> Pointer<T> {
        Pointer { address, values: PhantomData }
    }

    /// What lies `count` values behind.
    pub(crate) fn offset(self, count: usize) -> Pointer<T> {
        Pointer::new(self.address.offset(count * size_of::<T>()))
    }

    /// Where the first value lies.
    pub(crate) fn address(self) -> Address {
        self.address
    }
}

impl<T> Clone for Pointer<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Pointer<T> {}

/// A kernel that takes parameters `P`, as its source declares it.
pub(crate) struct Kernel<P> {
    name: &'static str,
    most_threads: usize,
    resident: usize,
    threads: usize,
    shared: usize,
    parameters: PhantomData<fn(P)>,
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for Kernel<P> {}

impl<P> Kernel<P> {
    pub(crate) const fn new(name: &'static str, most_threads: usize, resident: usize) -> Self {
        Kernel { name, most_threads, resident, threads: most_threads, shared: 0, parameters: PhantomData }
    }

    /// In blocks of fewer threads than it can have.
    pub(crate) fn threads(self, threads: usize) -> Self {
        debug_assert!(threads <= self.most_threads, "{} takes {} threads, not {threads}", self.name, self.most_threads);
        Kernel { threads, ..self }
    }

    /// With this many bytes of dynamic shared memory.
    pub(crate) fn shared(self, shared: usize) -> Self {
        Kernel { shared, ..self }
    }

    /// Warps of a full block.
    pub(crate) const fn warps(self) -> usize {
        self.most_threads / 32
    }

    /// Threads of a full block.
    pub(crate) const fn most_threads(self) -> usize {
        self.most_threads
    }

    /// Blocks that its registers let a multiprocessor hold.
    pub(crate) const fn resident(self) -> usize {
        self.resident
    }

    /// The launch of it on `grid` blocks with these arguments.
    pub(crate) fn launch(self, grid: [usize; 3], arguments: &[Argument]) -> Launch<'_> {
        let (block, shared) = (self.threads as u32, self.shared as u32);
        Launch { kernel: self.name, grid: grid.map(|blocks| blocks as u32), block, shared, arguments }
    }
}

/// The parameters of a kernel by name, each of its type.
pub(crate) trait Parameters {
    /// An array of arguments.
    type Arguments: AsRef<[Argument]>;

    /// In the order of the kernel's declaration.
    fn arguments(self) -> Self::Arguments;
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

/// Which of the embedded kernels a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Ampere and Ada: cp.async, ldmatrix, mma.sync.
    Sm80,
    /// Hopper: TMA and wgmma besides.
    Sm90a,
    /// What the GPU's driver makes of PTX for any GPU from Ampere on.
    Compute80,
}

impl Target {
    /// What GPUs of a compute capability run; None for those that are too old. Code for 8.0 runs on later ones of the same
    /// generation, but on none that are part of a processor (8.7).
    pub fn of(capability: (usize, usize)) -> Option<Target> {
        match capability {
            (..8, _) => None,
            (8, 0 | 6 | 9) => Some(Target::Sm80),
            (9, 0) => Some(Target::Sm90a),
            _ => Some(Target::Compute80),
        }
    }

    /// The compiler's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Target::Sm80 => "sm_80",
            Target::Sm90a => "sm_90a",
            Target::Compute80 => "compute_80",
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
impl<T> From<Pointer<T>> for Argument {
    fn from(pointer: Pointer<T>) -> Argument {
        Argument::Address(pointer.address)
    }
}
impl<T> From<Option<Pointer<T>>> for Argument {
    /// A null pointer for none.
    fn from(pointer: Option<Pointer<T>>) -> Argument {
        Argument::Address(pointer.map_or(Address(0), Pointer::address))
    }
}
impl From<u32> for Argument {
    fn from(value: u32) -> Argument {
        Argument::Int(value as i32)
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
    /// A size that a kernel takes as `int64_t`.
    pub(crate) fn long(value: usize) -> Argument {
        Argument::Long(value as i64)
    }

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

/// A TMA descriptor: opaque, made by [`Driver::tensor_map`](super::driver::Driver::tensor_map), passed by value.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
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
