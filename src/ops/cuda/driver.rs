//! The driver that GPUs come with: libcuda, loaded when a GPU is asked for; or the emulated one, which runs the same kernels on
//! the CPU.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString, c_int, c_void};
use std::ops::Range;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::slice;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::kernels::linear::Barrier;
use super::kernels::{self, MODULES};
use super::launch::{Address, Argument, Gpu, Launch, Matrix, Target, TensorMap};
use super::nvtx;
use crate::error::{Error, Result};

/// Calls a function of the driver and names it in its error.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: handles are live ones that this driver made, and pointers are valid for the call.
        check(unsafe { sys::$function($($argument),*) }, || stringify!($function).to_string())
    };
}

/// One GPU: its memory, and its one queue of work. Copies and launches are done in the order in which they are given;
/// [`Driver::upload`] and [`Driver::launch`] may return before.
pub struct Driver {
    name: String,
    target: Target,
    multiprocessors: usize,
    shared_memory: usize,
    context: sys::CUcontext,
    /// All launches, and what must come in turn with them.
    stream: sys::CUstream,
    /// Copies of large batches, which overlap with launches.
    copies: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
    allocations: Vec<Address>,
    ring: Option<Ring>,
    graphs: Vec<sys::CUgraphExec>,
    /// What is launched and copied while the stream is captured.
    captured: Option<Vec<Captured>>,
    marks: Vec<sys::CUevent>,
    /// Page-locked: where a kernel writes which barrier it waited for in vain, counted from 1. On GPUs whose kernels have such.
    lost_barrier: *mut u32,
    /// Whether every launch is waited for: `PERENNIAL_SYNC=1`.
    waits: bool,
    /// Whether a profiler wants to hear of ranges, and whether one is open.
    nvtx: bool,
    in_range: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it is allowed.
    shared: u32,
}

/// Work that a capture holds, for when no graph can be made of it.
enum Captured {
    Launch { kernel: &'static str, grid: [u32; 3], block: u32, shared: u32, arguments: Vec<Argument> },
    Copy { from: Address, to: Address, bytes: usize },
}

/// Page-locked memory through which the host's values go, piece after piece, round and round; and as much on the device,
/// where large pieces land while the queue still works on what came before.
struct Ring {
    host: *mut u8,
    landing: Address,
    bytes: usize,
    /// Where the next piece begins.
    next: usize,
    /// Pieces that may be in use, the oldest first.
    pieces: VecDeque<Piece>,
    /// Events of pieces that are free.
    events: Vec<sys::CUevent>,
}

#[derive(Clone)]
struct Piece {
    range: Range<usize>,
    /// Reached when the memory may be used again.
    free: sys::CUevent,
}

impl Ring {
    const ALIGNMENT: usize = 256;
    /// Pieces in use at once: a batch has about ten small ones.
    const PIECES: usize = 64;

    /// The largest piece: two of them fit.
    fn largest_piece(&self) -> usize {
        self.bytes / 2
    }

    /// Room for `bytes`, at most the largest piece, that nothing uses any more. It is in use from here on.
    fn take(&mut self, bytes: usize) -> Result<Piece> {
        let bytes = bytes.next_multiple_of(Self::ALIGNMENT);
        let start = if self.next + bytes <= self.bytes { self.next } else { 0 };
        let range = start..start + bytes;
        let overlaps = |piece: &Piece| piece.range.start < range.end && range.start < piece.range.end;
        while self.pieces.len() >= Self::PIECES || self.pieces.iter().any(overlaps) {
            let oldest = self.pieces.pop_front().expect("there is a piece that overlaps, or too many");
            self.events.push(oldest.free);
            call!(cuEventSynchronize(oldest.free))?;
        }
        let free = match self.events.pop() {
            Some(event) => event,
            None => event(false)?,
        };
        self.next = range.end;
        let piece = Piece { range, free };
        self.pieces.push_back(piece.clone());
        Ok(piece)
    }
}

/// Copies from this size on go through the second queue.
const LARGE: usize = 1 << 20;

/// What the driver keeps for itself, which is not free for a plan.
const RESERVE: usize = 256 << 20;

/// An error of the driver's, with what was being done.
fn check(status: CUresult, doing: impl FnOnce() -> String) -> Result<()> {
    if status == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let doing = doing();
    let hint = match status {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => "the GPU is out of memory",
        CUresult::CUDA_ERROR_NO_DEVICE => "no NVIDIA GPU is visible on this machine",
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_IMAGE
        | CUresult::CUDA_ERROR_INVALID_PTX
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the kernels in this program are newer than the driver, or not for this GPU"
        }
        CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => {
            "the driver's compiler of PTX (libnvidia-ptxjitcompiler.so.1) is missing: install the whole driver, also in a container"
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS => {
            "a kernel made a mistake, which is one of this program's or its driver's; the same command with PERENNIAL_SYNC=1 \
             names the kernel, `perennial check` tries them all, and the run goes on from its last checkpoint"
        }
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "the GPU was lost to this run; run the same command again to go on from the last checkpoint"
        }
        _ => "the CUDA driver failed",
    };
    let mut text = std::ptr::null();
    // SAFETY: on success the driver gives a string that lives for ever.
    let text = unsafe {
        match sys::cuGetErrorString(status, &mut text) {
            CUresult::CUDA_SUCCESS => CStr::from_ptr(text).to_string_lossy().into_owned(),
            _ => format!("{status:?}"),
        }
    };
    let error = Error::run(format!("{doing}: {hint} ({text})"));
    Err(if status == CUresult::CUDA_ERROR_OUT_OF_MEMORY { error.because(Error::NO_ROOM) } else { error })
}

impl Driver {
    fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<usize> {
        let mut value: c_int = 0;
        call!(cuDeviceGetAttribute(&mut value, attribute, device))?;
        Ok(value as usize)
    }

    /// Loads all embedded kernels of the GPU's target.
    fn load_kernels(&mut self) -> Result<()> {
        let target = self.target;
        #[cfg(feature = "emulator")]
        if MODULES.is_empty() {
            return self.load(super::emulated::IMAGE);
        }
        for module in MODULES.iter().filter(|module| module.target == target) {
            self.load(module.code()?).map_err(|error| error.at(format!("the kernels of {}", module.file)))?;
        }
        Ok(())
    }

    /// Loads the kernels of an image: a whole cubin, or PTX with a zero byte at its end, which the driver translates and keeps
    /// for the next time.
    pub fn load(&mut self, image: &[u8]) -> Result<()> {
        let mut module = null_mut();
        call!(cuModuleLoadData(&mut module, image.as_ptr().cast()))?;
        self.modules.push(module);
        Ok(())
    }

    /// Tells all kernels where to say which barrier never came.
    fn listen_for_barriers(&mut self) -> Result<()> {
        for module in &self.modules {
            let (mut variable, mut bytes) = (0, 0);
            // Most modules have no such variable.
            // SAFETY: the module is live and the name ends with a zero byte.
            match unsafe { sys::cuModuleGetGlobal_v2(&mut variable, &mut bytes, *module, c"lost_barrier".as_ptr()) } {
                CUresult::CUDA_ERROR_NOT_FOUND => continue,
                status => check(status, || "looking for lost_barrier".to_string())?,
            }
            if self.lost_barrier.is_null() {
                let mut host = null_mut();
                call!(cuMemAllocHost_v2(&mut host, 2 * size_of::<u64>()))?;
                self.lost_barrier = host.cast();
                // SAFETY: there is room for both: what the kernels write, and, behind it, its address for the copies below.
                unsafe {
                    host.cast::<u64>().write(0);
                    host.cast::<u64>().add(1).write(host as u64);
                }
            }
            // SAFETY: the second half of the memory.
            let address = unsafe { self.lost_barrier.cast::<u64>().add(1) };
            call!(cuMemcpyHtoDAsync_v2(variable, address.cast(), bytes, self.stream))?;
        }
        self.synchronize()
    }

    /// An error of any call, with the barrier that a kernel waited for in vain, if that is what happened.
    pub fn with_lost_barrier(&self, error: Error) -> Error {
        if self.lost_barrier.is_null() {
            return error;
        }
        // SAFETY: the memory is live, and kernels write it as a whole.
        let number = unsafe { self.lost_barrier.read_volatile() } as usize;
        match number.checked_sub(1).and_then(|number| Barrier::ALL.get(number)) {
            Some(barrier) => {
                let name = format!("{barrier:?}").to_lowercase();
                error.at(format!("a kernel waited ten seconds in vain for its barrier '{name}'"))
            }
            None => error,
        }
    }

    /// Makes this GPU the one that this thread's calls are for.
    fn bind(&self) -> Result<()> {
        call!(cuCtxSetCurrent(self.context))
    }

    /// The kernel of this name, from whichever module has it.
    fn find(&self, kernel: &'static str) -> Result<Function> {
        let name = CString::new(kernel).expect("kernels' names hold no zero byte");
        for module in &self.modules {
            let mut handle = null_mut();
            // SAFETY: the module is live and the name ends with a zero byte.
            match unsafe { sys::cuModuleGetFunction(&mut handle, *module, name.as_ptr()) } {
                CUresult::CUDA_ERROR_NOT_FOUND => continue,
                status => check(status, || format!("looking for the kernel {kernel}"))?,
            }
            // What a kernel has of its own counts in the 48 KiB that need no asking.
            let mut own: c_int = 0;
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
            call!(cuFuncGetAttribute(&mut own, attribute, handle))?;
            return Ok(Function { handle, shared: (48u32 << 10).saturating_sub(own as u32) });
        }
        Err(Error::run(format!("no kernel {kernel} for {} is in this program", self.target.name())))
    }

    fn function(&mut self, kernel: &'static str, shared: u32) -> Result<sys::CUfunction> {
        let known = self.functions.get(kernel).copied();
        let mut function = known.map_or_else(|| self.find(kernel), Ok)?;
        if shared > function.shared {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            call!(cuFuncSetAttribute(function.handle, attribute, shared as c_int))
                .map_err(|error| error.at(format!("{kernel} asks for {shared} bytes of shared memory")))?;
            function.shared = shared;
        }
        self.functions.insert(kernel, function);
        Ok(function.handle)
    }

    /// Makes the ring through which uploads go, where it is not made yet.
    fn ring(&mut self, bytes: usize) -> Result<&mut Ring> {
        if self.ring.is_none() {
            let landing = self.allocate(bytes)?;
            let mut host = null_mut();
            call!(cuMemAllocHost_v2(&mut host, bytes))?;
            let (pieces, events) = (VecDeque::new(), Vec::new());
            self.ring = Some(Ring { host: host.cast(), landing, bytes, next: 0, pieces, events });
        }
        Ok(self.ring.as_mut().expect("it is made"))
    }
}

fn event(timed: bool) -> Result<sys::CUevent> {
    let mut event = null_mut();
    let flags = match timed {
        true => sys::CUevent_flags::CU_EVENT_DEFAULT,
        false => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
    };
    call!(cuEventCreate(&mut event, flags as u32))?;
    Ok(event)
}

/// What is known of a GPU before it is opened.
pub(crate) struct Identity {
    device: sys::CUdevice,
    /// Its own name and its driver's version.
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) multiprocessors: usize,
}

impl Identity {
    /// Fails where the GPU, its driver or kernels for it cannot be had.
    pub(crate) fn of(gpu: Gpu) -> Result<Identity> {
        let number = match gpu {
            Gpu::Real(number) => {
                #[cfg(feature = "emulator")]
                super::emulated::not_loaded()?;
                // SAFETY: loading libcuda runs NVIDIA's initialisers alone.
                if !unsafe { sys::is_culib_present() } {
                    return Err(Error::input(
                        "no NVIDIA driver was found (libcuda.so); use --device cpu, or install the driver",
                    ));
                }
                number
            }
            #[cfg(feature = "emulator")]
            Gpu::Emulated(number) => {
                super::emulated::load()?;
                number
            }
        };
        // The emulated driver's GPUs have kernels of their own, compiled for the CPU.
        if MODULES.is_empty() && matches!(gpu, Gpu::Real(_)) {
            return Err(Error::input(
                "no CUDA kernels are in this program, because no NVRTC was found when it was built; build it with `make`",
            ));
        }
        call!(cuInit(0))?;
        let (mut version, mut count) = (0, 0);
        call!(cuDriverGetVersion(&mut version))?;
        let (major, minor) = (version / 1000, version % 1000 / 10);
        let compiled = kernels::CUDA_VERSION;
        if major < compiled.0 {
            return Err(Error::input(format!(
                "the driver supports CUDA {major}.{minor}, and the kernels in this program need CUDA {}: update the \
                 driver, or build with PERENNIAL_NVRTC naming a libnvrtc of CUDA {major}",
                compiled.0
            )));
        }
        call!(cuDeviceGetCount(&mut count))?;
        if number >= count as usize {
            return Err(Error::input(format!("there is no GPU {number}: this machine has {count}, numbered from 0")));
        }
        let mut device = 0;
        call!(cuDeviceGet(&mut device, number as c_int))?;
        let mut name = [0; 128];
        call!(cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device))?;
        // SAFETY: the driver ends the name with a zero byte.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let capability = (
            Driver::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            Driver::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let Some(target) = Target::of(capability) else {
            return Err(Error::input(format!(
                "{name} has compute capability {}.{}; the kernels in this program are for 8.0 (Ampere) and later",
                capability.0, capability.1
            )));
        };
        if target == Target::Compute80 && (major, minor) < compiled {
            return Err(Error::input(format!(
                "{name} runs this program's kernels as PTX of CUDA {}.{}, which its driver must translate, and the driver \
                 supports CUDA {major}.{minor}: update it, or build with PERENNIAL_NVRTC naming a libnvrtc of CUDA \
                 {major}.{minor} or earlier",
                compiled.0, compiled.1
            )));
        }
        let multiprocessors = Driver::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Identity { device, name: format!("{name}, CUDA driver {major}.{minor}"), target, multiprocessors })
    }
}

impl Driver {
    /// The device that `gpu` names, with all kernels for it. Fails where it, its driver or kernels for it cannot be had.
    pub fn open(gpu: Gpu) -> Result<Driver> {
        let Identity { device, name, target, multiprocessors } = Identity::of(gpu)?;
        let mut context = null_mut();
        call!(cuDevicePrimaryCtxRetain(&mut context, device))?;
        call!(cuCtxSetCurrent(context))?;
        let (mut stream, mut copies) = (null_mut(), null_mut());
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&mut stream, flags))?;
        call!(cuStreamCreate(&mut copies, flags))?;
        let mut driver = Driver {
            name,
            target,
            multiprocessors,
            shared_memory: Driver::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            context,
            stream,
            copies,
            modules: Vec::new(),
            functions: HashMap::new(),
            allocations: Vec::new(),
            ring: None,
            graphs: Vec::new(),
            captured: None,
            marks: Vec::new(),
            lost_barrier: null_mut(),
            waits: std::env::var("PERENNIAL_SYNC").is_ok_and(|value| value == "1"),
            nvtx: nvtx::start(),
            in_range: Cell::new(false),
        };
        driver.load_kernels()?;
        driver.listen_for_barriers()?;
        Ok(driver)
    }

    /// The device's own name and its driver's version, for manifests and tables.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Which of the embedded cubins it runs.
    pub fn target(&self) -> Target {
        self.target
    }

    /// How many blocks can be at work, one each.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// The most shared memory that a block can have, in bytes.
    pub fn shared_memory(&self) -> usize {
        self.shared_memory
    }

    /// Bytes that can still be allocated.
    pub fn free_memory(&self) -> Result<usize> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        call!(cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok(free.saturating_sub(RESERVE))
    }

    /// Zeroed memory, aligned to 256 bytes, that lives as long as the driver.
    pub fn allocate(&mut self, bytes: usize) -> Result<Address> {
        self.bind()?;
        let mut pointer = 0;
        // SAFETY: `pointer` is valid for the call.
        let status = unsafe { sys::cuMemAlloc_v2(&mut pointer, bytes.max(1)) };
        check(status, || format!("allocating {} MiB", bytes >> 20))?;
        self.allocations.push(Address(pointer));
        call!(cuMemsetD8Async(pointer, 0, bytes.max(1), self.stream))?;
        // The second queue must not write there before.
        self.synchronize()?;
        Ok(Address(pointer))
    }

    /// Says that nothing may touch these bytes; the emulated driver watches.
    #[cfg(feature = "emulator")]
    /// Says that nothing may touch these bytes, for drivers that can watch.
    pub fn forbid(&mut self, from: Address, bytes: usize) {
        super::emulated::forbid(from, bytes);
    }

    /// Sets aside this many bytes of the host's memory, and as many of the device's, for uploads to go through. Without it the
    /// first upload sets aside a few MiB.
    pub fn stage(&mut self, bytes: usize) -> Result<()> {
        self.ring(bytes.next_multiple_of(LARGE)).map(|_| ())
    }

    /// `fill` writes the bytes to be sent into memory that the device can fetch from, piece by piece: it gets the number of
    /// bytes before a piece, and the piece, which begins on a multiple of 256 of them.
    pub fn upload(&mut self, to: Address, bytes: usize, mut fill: impl FnMut(usize, &mut [u8])) -> Result<()> {
        self.bind()?;
        let (stream, copies) = (self.stream, self.copies);
        let ring = self.ring(8 * LARGE)?;
        let mut done = 0;
        while done < bytes {
            let (to, part) = (to.offset(done), (bytes - done).min(ring.largest_piece()));
            let Piece { range, free } = ring.take(part)?;
            // SAFETY: the piece lies in the ring's memory, and nothing else uses it.
            let staged = unsafe { slice::from_raw_parts_mut(ring.host.add(range.start), part) };
            fill(done, staged);
            let staged = staged.as_ptr().cast();
            if part < LARGE {
                call!(cuMemcpyHtoDAsync_v2(to.0, staged, part, stream))?;
            } else {
                let landing = ring.landing.offset(range.start);
                call!(cuMemcpyHtoDAsync_v2(landing.0, staged, part, copies))?;
                call!(cuEventRecord(free, copies))?;
                call!(cuStreamWaitEvent(stream, free, 0))?;
                call!(cuMemcpyDtoDAsync_v2(to.0, landing.0, part, stream))?;
            }
            call!(cuEventRecord(free, stream))?;
            done += part;
        }
        Ok(())
    }

    /// Waits for all work given before.
    pub fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.0, to.len(), self.stream))?;
        self.synchronize()
    }

    /// Copies `bytes` bytes inside the device's memory; the two places do not overlap.
    pub fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.bind()?;
        if let Some(captured) = &mut self.captured {
            captured.push(Captured::Copy { from, to, bytes });
        }
        call!(cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.stream))
    }

    /// Queues a launch. What goes wrong while it runs may be told by a later call.
    pub fn launch(&mut self, launch: Launch) -> Result<()> {
        self.bind()?;
        let Launch { kernel, grid, block, shared, arguments } = launch;
        let [x, y, z] = grid;
        let function = self.function(kernel, shared)?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        let (stream, parameters) = (self.stream, pointers.as_mut_ptr());
        // SAFETY: there is a pointer for every parameter of the kernel, which the emulated tests of this launch code show.
        let status =
            unsafe { sys::cuLaunchKernel(function, x, y, z, block, 1, 1, shared, stream, parameters, null_mut()) };
        check(status, || format!("launching {kernel} on {x} x {y} x {z} blocks of {block} threads"))?;
        if let Some(captured) = &mut self.captured {
            captured.push(Captured::Launch { kernel, grid, block, shared, arguments: arguments.to_vec() });
        } else if self.waits {
            self.synchronize().map_err(|error| {
                error.at(format!(
                    "{kernel} on {x} x {y} x {z} blocks of {block} threads, {shared} bytes of shared memory"
                ))
            })?;
        }
        Ok(())
    }

    /// The descriptor by which a kernel fetches boxes of `matrix`, on devices with TMA.
    pub fn tensor_map(&self, matrix: Matrix) -> Result<TensorMap> {
        self.bind()?;
        let Matrix { base, rows, columns, pitch, tile } = matrix;
        let mut map = TensorMap([0; 16]);
        let (sizes, strides) = ([columns as u64, rows as u64], [2 * pitch as u64]);
        let (tile, steps) = ([tile.1 as u32, tile.0 as u32], [1, 1]);
        call!(cuTensorMapEncodeTiled(
            std::ptr::from_mut(&mut map).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            with_exposed_provenance_mut(base.0 as usize),
            sizes.as_ptr(),
            strides.as_ptr(),
            tile.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ))
        .map_err(|error| error.at(format!("a TMA descriptor of {rows} x {columns}")))?;
        Ok(map)
    }

    /// Whether graphs are of use: not where each launch is waited for.
    pub fn can_capture(&self) -> bool {
        !self.waits
    }

    /// What is launched and copied from here on is kept instead of run, until [`Driver::end_capture`].
    pub fn begin_capture(&mut self) -> Result<()> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call!(cuStreamBeginCapture_v2(self.stream, mode))?;
        self.captured = Some(Vec::new());
        Ok(())
    }

    /// The launches and copies since [`Driver::begin_capture`], to be run by [`Driver::replay`] under the number returned. None
    /// where the driver can make no graph of them: then they have been run once, one by one.
    pub fn end_capture(&mut self) -> Result<Option<usize>> {
        self.bind()?;
        let captured = self.captured.take().unwrap_or_default();
        let (mut graph, mut executable) = (null_mut(), null_mut());
        call!(cuStreamEndCapture(self.stream, &mut graph))?;
        let made = call!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        call!(cuGraphDestroy(graph))?;
        if made.is_ok() {
            self.graphs.push(executable);
            return Ok(Some(self.graphs.len() - 1));
        }
        for work in captured {
            match work {
                Captured::Launch { kernel, grid, block, shared, arguments } => {
                    self.launch(Launch { kernel, grid, block, shared, arguments: &arguments })?
                }
                Captured::Copy { from, to, bytes } => self.copy(from, to, bytes)?,
            }
        }
        Ok(None)
    }

    /// Drops all captured graphs; one at work comes to its end.
    pub fn drop_graphs(&mut self) {
        // A context that cannot be made current has no graphs that could be dropped.
        if self.bind().is_err() {
            return;
        }
        for graph in self.graphs.drain(..) {
            // SAFETY: the graph is this driver's, and nothing names it any more. The driver lets one in flight finish.
            unsafe { sys::cuGraphExecDestroy(graph) };
        }
    }

    /// Queues all that [`Driver::end_capture`] numbered so.
    pub fn replay(&mut self, graph: usize) -> Result<()> {
        self.bind()?;
        call!(cuGraphLaunch(self.graphs[graph], self.stream))
    }

    /// Waits for all work given before, and says what became of it.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream is live.
        let status = unsafe { sys::cuStreamSynchronize(self.stream) };
        check(status, || "waiting for the GPU".to_string())
    }

    /// Marks this place in the queue; a number for [`Driver::seconds_between`].
    pub fn mark(&mut self) -> Result<usize> {
        self.bind()?;
        let event = event(true)?;
        self.marks.push(event);
        call!(cuEventRecord(event, self.stream))?;
        Ok(self.marks.len() - 1)
    }

    /// Seconds of device time between two marks, once the second is reached.
    pub fn seconds_between(&self, from: usize, to: usize) -> Result<f64> {
        self.bind()?;
        let mut milliseconds = 0.0;
        call!(cuEventSynchronize(self.marks[to]))?;
        call!(cuEventElapsedTime(&mut milliseconds, self.marks[from], self.marks[to]))?;
        Ok(milliseconds as f64 / 1e3)
    }

    /// Tells a profiler to begin or to stop collecting, all work given before done.
    pub fn collect(&self, on: bool) -> Result<()> {
        self.synchronize()?;
        if on { call!(cuProfilerStart()) } else { call!(cuProfilerStop()) }
    }

    /// Opens a range of this name in a profiler's timeline, closing the one before.
    pub fn range(&mut self, name: &'static str) {
        if !self.nvtx {
            return;
        }
        if self.in_range.replace(!name.is_empty()) {
            nvtx::pop();
        }
        if !name.is_empty() {
            nvtx::push(name);
        }
    }
}

impl Drop for Driver {
    /// Gives everything back but the context, which costs a third of a second to make again. Errors have no one to go to here: they follow one that was reported.
    fn drop(&mut self) {
        self.range("");
        // SAFETY: every handle is live and not used again; the queue is drained first.
        unsafe {
            sys::cuCtxSetCurrent(self.context);
            sys::cuStreamSynchronize(self.stream);
            sys::cuStreamSynchronize(self.copies);
            for graph in &self.graphs {
                sys::cuGraphExecDestroy(*graph);
            }
            if let Some(ring) = &self.ring {
                let in_use = ring.pieces.iter().map(|piece| piece.free);
                for event in in_use.chain(ring.events.iter().copied()) {
                    sys::cuEventDestroy_v2(event);
                }
                sys::cuMemFreeHost(ring.host.cast());
            }
            if !self.lost_barrier.is_null() {
                sys::cuMemFreeHost(self.lost_barrier.cast());
            }
            for mark in &self.marks {
                sys::cuEventDestroy_v2(*mark);
            }
            for allocation in &self.allocations {
                sys::cuMemFree_v2(allocation.0);
            }
            for module in &self.modules {
                sys::cuModuleUnload(*module);
            }
            sys::cuStreamDestroy_v2(self.stream);
            sys::cuStreamDestroy_v2(self.copies);
        }
    }
}
