//! The driver that GPUs come with: libcuda, loaded when a GPU is asked for.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::slice;

use cudarc::driver::sys::{self, CUresult};
use cudarc::nvtx;

use super::driver::{Address, Argument, Driver, Launch, Matrix, Target, TensorMap};
use super::kernels::{self, MODULES};
use crate::error::{Error, Result};

/// One GPU of this machine, and one queue of work on it.
pub struct Nvidia {
    name: String,
    target: Target,
    multiprocessors: usize,
    shared_memory: usize,
    /// All launches, and what must come in turn with them.
    stream: sys::CUstream,
    /// Copies of large batches, which overlap with launches.
    copies: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
    allocations: Vec<Address>,
    staging: Vec<Staging>,
    graphs: Vec<sys::CUgraphExec>,
    marks: Vec<sys::CUevent>,
    /// Whether NVTX's library is there, and a range is open.
    nvtx: bool,
    in_range: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it is allowed.
    shared: u32,
}

/// Page-locked memory through which the host's values go.
struct Staging {
    host: *mut u8,
    /// For large copies: memory on the device, where they land while the queue still works on what came before.
    device: Option<Address>,
    bytes: usize,
    /// Reached when the memory may be used again.
    free: sys::CUevent,
}

/// Copies from this size on go through the second queue.
const LARGE: usize = 1 << 20;
/// Buffers of one size: large copies are double-buffered; a batch has about ten small ones.
const LARGE_BUFFERS: usize = 2;
const SMALL_BUFFERS: usize = 24;

/// What the driver keeps for itself and for staging, which is not free for a plan.
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
        | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the kernels in this program are newer than the driver, or not for this GPU"
        }
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
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

/// Calls a function of the driver and names it in its error.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: handles are live ones that this driver made, and pointers are valid for the call.
        check(unsafe { sys::$function($($argument),*) }, || stringify!($function).to_string())
    };
}

impl Nvidia {
    fn attribute(device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<usize> {
        let mut value: c_int = 0;
        call!(cuDeviceGetAttribute(&mut value, attribute, device))?;
        Ok(value as usize)
    }

    /// Kernels of `target` by name, from all embedded modules.
    fn load_kernels(&mut self) -> Result<()> {
        for module in MODULES.iter().filter(|module| module.target == self.target) {
            let cubin = module.cubin()?;
            let mut handle = null_mut();
            // SAFETY: the image is a whole cubin.
            let status = unsafe { sys::cuModuleLoadData(&mut handle, cubin.as_ptr().cast()) };
            check(status, || format!("loading the kernels of {}", module.file))?;
            self.modules.push(handle);
            for report in module.reports() {
                let name = CString::new(report.kernel.as_str()).expect("kernels' names hold no zero byte");
                let mut function = null_mut();
                call!(cuModuleGetFunction(&mut function, handle, name.as_ptr()))?;
                // Names live as long as the program, as the modules that they come from do.
                let name: &'static str = String::leak(report.kernel);
                // What a kernel has of its own counts in the 48 KiB that need no asking.
                let shared = (48u32 << 10).saturating_sub(report.shared as u32);
                self.functions.insert(name, Function { handle: function, shared });
            }
        }
        Ok(())
    }

    fn function(&mut self, kernel: &'static str, shared: u32) -> Result<sys::CUfunction> {
        let function = self.functions.get_mut(kernel);
        let function = function.ok_or_else(|| Error::run(format!("no kernel {kernel} for {:?}", self.target)))?;
        if shared > function.shared {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            call!(cuFuncSetAttribute(function.handle, attribute, shared as c_int))
                .map_err(|error| error.at(format!("{kernel} asks for {shared} bytes of shared memory")))?;
            function.shared = shared;
        }
        Ok(function.handle)
    }

    /// A staging buffer of at least `bytes` that nothing uses any more.
    fn staging(&mut self, bytes: usize) -> Result<usize> {
        let bytes = if bytes < LARGE { bytes.next_power_of_two().max(256) } else { bytes.next_multiple_of(LARGE) };
        let most = if bytes >= LARGE { LARGE_BUFFERS } else { SMALL_BUFFERS };
        let same: Vec<usize> = (0..self.staging.len()).filter(|i| self.staging[*i].bytes == bytes).collect();
        // SAFETY: the events are live.
        let free = same.iter().find(|i| unsafe { sys::cuEventQuery(self.staging[**i].free) } == CUresult::CUDA_SUCCESS);
        if let Some(index) = free {
            return Ok(*index);
        }
        if same.len() < most {
            let mut host = null_mut();
            call!(cuMemAllocHost_v2(&mut host, bytes))?;
            let device = if bytes >= LARGE { Some(self.allocate(bytes)?) } else { None };
            let free = event(false)?;
            self.staging.push(Staging { host: host.cast(), device, bytes, free });
            return Ok(self.staging.len() - 1);
        }
        // The one that was used longest ago comes first, because each use moves it to the end.
        let index = same[0];
        call!(cuEventSynchronize(self.staging[index].free))?;
        Ok(index)
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

impl Driver for Nvidia {
    /// The GPU's number, from 0.
    type Place = usize;

    fn open(place: &usize) -> Result<Nvidia> {
        // SAFETY: loading libcuda runs NVIDIA's initialisers alone.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::input(
                "no NVIDIA driver was found (libcuda.so); use --device cpu, or install the driver",
            ));
        }
        if MODULES.is_empty() {
            return Err(Error::input(
                "no CUDA kernels are in this program, because no NVRTC was found when it was built; build it with `make`",
            ));
        }
        call!(cuInit(0))?;
        let (mut version, mut count) = (0, 0);
        call!(cuDriverGetVersion(&mut version))?;
        let (major, minor) = (version / 1000, version % 1000 / 10);
        if major < kernels::CUDA_MAJOR {
            return Err(Error::input(format!(
                "the driver supports CUDA {major}.{minor}, and the kernels in this program need CUDA {}: update the \
                 driver, or build with PERENNIAL_NVRTC naming a libnvrtc of CUDA {major}",
                kernels::CUDA_MAJOR
            )));
        }
        call!(cuDeviceGetCount(&mut count))?;
        if *place >= count as usize {
            return Err(Error::input(format!("there is no GPU {place}: this machine has {count}, numbered from 0")));
        }
        let mut device = 0;
        call!(cuDeviceGet(&mut device, *place as c_int))?;
        let mut name = [0; 128];
        call!(cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device))?;
        // SAFETY: the driver ends the name with a zero byte.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        use sys::CUdevice_attribute as Attribute;
        let capability = (
            Nvidia::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            Nvidia::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let target = match capability {
            (8, 0 | 6 | 9) => Target::Sm80,
            (9, 0) => Target::Sm90a,
            (major, minor) => {
                return Err(Error::input(format!(
                    "{name} has compute capability {major}.{minor}; the kernels in this program are for 8.0, 8.6, 8.9 and 9.0"
                )));
            }
        };
        let mut context = null_mut();
        call!(cuDevicePrimaryCtxRetain(&mut context, device))?;
        call!(cuCtxSetCurrent(context))?;
        let (mut stream, mut copies) = (null_mut(), null_mut());
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        call!(cuStreamCreate(&mut stream, flags))?;
        call!(cuStreamCreate(&mut copies, flags))?;
        let mut driver = Nvidia {
            name: format!("{name}, CUDA driver {major}.{minor}"),
            target,
            multiprocessors: Nvidia::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: Nvidia::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            stream,
            copies,
            modules: Vec::new(),
            functions: HashMap::new(),
            allocations: Vec::new(),
            staging: Vec::new(),
            graphs: Vec::new(),
            marks: Vec::new(),
            // SAFETY: loading the library runs NVIDIA's initialisers alone.
            nvtx: unsafe { nvtx::sys::is_culib_present() },
            in_range: Cell::new(false),
        };
        driver.load_kernels()?;
        Ok(driver)
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn target(&self) -> Target {
        self.target
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn shared_memory(&self) -> usize {
        self.shared_memory
    }

    fn free_memory(&self) -> Result<usize> {
        let (mut free, mut total) = (0, 0);
        call!(cuMemGetInfo_v2(&mut free, &mut total))?;
        Ok(free.saturating_sub(RESERVE))
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
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

    fn upload(&mut self, to: Address, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let index = self.staging(bytes)?;
        // What is used goes to the end.
        let staging = self.staging.remove(index);
        self.staging.push(staging);
        let Staging { host, device, free, .. } = *self.staging.last().expect("just pushed");
        // SAFETY: the buffer has at least `bytes` bytes, and `free` says that no copy reads it.
        fill(unsafe { slice::from_raw_parts_mut(host, bytes) });
        match device {
            None => call!(cuMemcpyHtoDAsync_v2(to.0, host.cast(), bytes, self.stream))?,
            Some(landing) => {
                call!(cuMemcpyHtoDAsync_v2(landing.0, host.cast(), bytes, self.copies))?;
                call!(cuEventRecord(free, self.copies))?;
                call!(cuStreamWaitEvent(self.stream, free, 0))?;
                call!(cuMemcpyDtoDAsync_v2(to.0, landing.0, bytes, self.stream))?;
            }
        }
        call!(cuEventRecord(free, self.stream))
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.0, to.len(), self.stream))?;
        self.synchronize()
    }

    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()> {
        call!(cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.stream))
    }

    fn launch(&mut self, launch: Launch) -> Result<()> {
        let Launch { kernel, grid: [x, y, z], block, shared, arguments } = launch;
        let function = self.function(kernel, shared)?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        let (stream, parameters) = (self.stream, pointers.as_mut_ptr());
        // SAFETY: there is a pointer for every parameter of the kernel, which the emulated tests of this launch code show.
        let status =
            unsafe { sys::cuLaunchKernel(function, x, y, z, block, 1, 1, shared, stream, parameters, null_mut()) };
        check(status, || format!("launching {kernel} on {x} x {y} x {z} blocks of {block} threads"))
    }

    fn tensor_map(&self, matrix: Matrix) -> Result<TensorMap> {
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

    fn begin_capture(&mut self) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call!(cuStreamBeginCapture_v2(self.stream, mode))
    }

    fn end_capture(&mut self) -> Result<usize> {
        let (mut graph, mut executable) = (null_mut(), null_mut());
        call!(cuStreamEndCapture(self.stream, &mut graph))?;
        let made = call!(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        call!(cuGraphDestroy(graph))?;
        made?;
        self.graphs.push(executable);
        Ok(self.graphs.len() - 1)
    }

    fn drop_graphs(&mut self) {
        for graph in self.graphs.drain(..) {
            // SAFETY: the graph is this driver's, and nothing names it any more. The driver lets one in flight finish.
            unsafe { sys::cuGraphExecDestroy(graph) };
        }
    }

    fn replay(&mut self, graph: usize) -> Result<()> {
        call!(cuGraphLaunch(self.graphs[graph], self.stream))
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is live.
        let status = unsafe { sys::cuStreamSynchronize(self.stream) };
        check(status, || "waiting for the GPU".to_string())
    }

    fn mark(&mut self) -> Result<usize> {
        let event = event(true)?;
        self.marks.push(event);
        call!(cuEventRecord(event, self.stream))?;
        Ok(self.marks.len() - 1)
    }

    fn seconds_between(&self, from: usize, to: usize) -> Result<f64> {
        let mut milliseconds = 0.0;
        call!(cuEventSynchronize(self.marks[to]))?;
        call!(cuEventElapsedTime(&mut milliseconds, self.marks[from], self.marks[to]))?;
        Ok(milliseconds as f64 / 1e3)
    }

    /// NVTX ranges, on machines that have its library.
    fn range(&mut self, name: &'static str) {
        if !self.nvtx {
            return;
        }
        if self.in_range.replace(!name.is_empty()) {
            nvtx::result::range_pop();
        }
        if !name.is_empty() {
            nvtx::result::range_push(name);
        }
    }
}

impl Drop for Nvidia {
    /// Gives everything back but the context, which costs a third of a second to make again. Errors have no one to go to here: they follow one that was reported.
    fn drop(&mut self) {
        // SAFETY: every handle is live and not used again; the queue is drained first.
        unsafe {
            sys::cuStreamSynchronize(self.stream);
            sys::cuStreamSynchronize(self.copies);
            for graph in &self.graphs {
                sys::cuGraphExecDestroy(*graph);
            }
            for staging in &self.staging {
                sys::cuEventDestroy_v2(staging.free);
                sys::cuMemFreeHost(staging.host.cast());
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
