//! What the driver is told: addresses, arguments of kernels, launches.

/// A place in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub u64);

impl Address {
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
    Address(Address),
    Int(i32),
    Long(i64),
    Float(f32),
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

/// A TMA descriptor: opaque, made by [`Driver::tensor_map`](super::driver::Driver::tensor_map), passed by value.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);

/// A bf16 matrix in device memory, and the box of it that one TMA copy brings into shared memory in the 128-byte swizzle.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub base: Address,
    pub rows: usize,
    pub columns: usize,
    /// Elements from a row to the next; their bytes are a multiple of 16.
    pub pitch: usize,
    /// Rows and columns of the box; 64 columns fill the swizzle.
    pub tile: (usize, usize),
}

/// One launch of a kernel: what `cuLaunchKernel` takes.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub arguments: &'a [Argument],
}
