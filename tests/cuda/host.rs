//! The host's side of the driver: each of its mistakes, planted, must be found; a program without one runs on every schedule;
//! and what a machine may be like is met with the right words.

use std::ffi::{CStr, c_int, c_void};
use std::process::Command;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::slice;

use cudarc::driver::sys::{self, CUresult};
use perennial::check::{Size, step};
use perennial::ops::cuda::driver::Driver;
use perennial::ops::cuda::emulated::{Emulator, Faults, Flavour, IMAGE, PluggedIn, Schedule};
use perennial::ops::cuda::kernels::MODULES;
use perennial::ops::cuda::launch::{Argument, Gpu, Launch, Matrix};
use perennial::ops::{DeviceMemory, Plan, RecordKey};

use crate::{AMPERE, Device, HOPPER, assert_none, emulator, failures, failures_of, perennial};

const SCHEDULES: [Schedule; 4] = [Schedule::EARLY, Schedule::LATE, Schedule::random(3), Schedule::random(4)];

/// Values of which a copy is large enough for the second queue.
const LARGE: usize = 1 << 20;

/// What must be found when the host forgets to call a function.
enum Found {
    /// The driver says so.
    Error(&'static str),
    /// Values are not what they must be.
    Values,
    /// Something is left on the GPU.
    LeftBehind(&'static str),
}

/// What the host does: large and small uploads, more than the ring holds, a graph, a large block of shared memory. Errors are
/// the device's; false if values are wrong.
fn work(gpu: Gpu) -> Result<bool, perennial::error::Error> {
    let mut plan = Plan::new::<Device>();
    let (large, small, untouched) = (plan.stats(LARGE), plan.stats(1000), plan.stats(1000));
    let mut device = Device::with_plan(&gpu, &plan)?;
    // The first work of the second queue: nothing but the driver's own care orders it after the memory's zeros.
    device.write(large, &vec![1.0; LARGE]);
    let mut right = device.read_vec(untouched).iter().all(|value| *value == 0.0);
    for round in 0..12 {
        let values = |count: usize| -> Vec<f32> { (0..count).map(|i| (round * 7 + i % 1000) as f32).collect() };
        let (many, few) = (values(LARGE), values(1000));
        device.write(large, &many);
        device.write(small, &few);
        if round % 4 == 3 {
            right &= device.read_vec(large) == many && device.read_vec(small) == few;
        }
    }
    // More than there are pieces, and more than the ring has bytes.
    for round in 0..200 {
        device.write(large.first(150_000), &vec![round as f32; 150_000]);
    }
    right &= device.read_vec(large.first(150_000)).iter().all(|value| *value == 199.0);
    for round in 0..4 {
        device.fill(small, round as f32);
        device.record(RecordKey::default(), |device| device.fill(small, 7.0));
        right &= device.read_vec(small).iter().all(|value| *value == 7.0);
    }
    device.health()?;
    Ok(right)
}

#[test]
fn what_the_host_forgets_is_found() {
    let wrong = [
        ("cuStreamWaitEvent", Found::Error("no event orders the two")),
        ("cuEventRecord", Found::Error("no event orders the two")),
        ("cuEventSynchronize", Found::Error("no event orders the two")),
        ("cuStreamSynchronize", Found::Error("no event orders the two")),
        ("cuMemcpyHtoDAsync_v2", Found::Values),
        ("cuMemcpyDtoDAsync_v2", Found::Values),
        ("cuMemsetD8Async", Found::Values),
        ("cuLaunchKernel", Found::Values),
        ("cuGraphLaunch", Found::Values),
        ("cuMemFree_v2", Found::LeftBehind("allocations of")),
        ("cuMemFreeHost", Found::LeftBehind("page-locked allocations")),
    ];
    let schedule = Schedule::LATE;
    for (function, found) in wrong {
        let faults = Faults { forgotten: vec![function], ..Faults::default() };
        let plugged_in = Emulator { schedule, faults, ..emulator(Flavour::Plain) }.plug_in().unwrap();
        let result = work(plugged_in.gpu());
        let left = plugged_in.take_out();
        match found {
            Found::Error(text) => {
                let error = result.expect_err(function).to_string();
                assert!(error.contains(text), "{function}: {error}");
            }
            Found::Values => assert!(!result.expect(function), "without {function} all is as it must be"),
            Found::LeftBehind(text) => {
                assert!(left.as_ref().is_some_and(|left| left.contains(text)), "{function}: {left:?}");
            }
        }
    }
}

/// Small uploads go through one stream: the staging buffer alone can be reused too early.
#[test]
fn a_staging_buffer_that_is_reused_too_early_is_found() {
    let mut plan = Plan::new::<Device>();
    let small = plan.stats(1000);
    let upload = |forgotten: Vec<&'static str>| {
        let faults = Faults { forgotten, ..Faults::default() };
        let emulator = Emulator { schedule: Schedule::LATE, faults, ..emulator(Flavour::Plain) };
        let plugged_in = emulator.plug_in().unwrap();
        let mut device = Device::with_plan(&plugged_in.gpu(), &plan).unwrap();
        for round in 0..20_000 {
            device.write(small, &vec![round as f32; 1000]);
        }
        let values = device.read_vec(small);
        device.health().map(|()| values)
    };
    let error = upload(vec!["cuEventSynchronize"]).unwrap_err().to_string();
    assert!(error.contains("changed between the call and the copy"), "{error}");
    assert_eq!(upload(Vec::new()).unwrap(), [19_999.0; 1000]);
}

#[test]
fn shared_memory_that_was_not_asked_for_is_found() {
    let faults = Faults { forgotten: vec!["cuFuncSetAttribute"], ..Faults::default() };
    let failed = failures(
        Emulator { faults, ..emulator(Flavour::Plain) },
        Size::Smallest,
        Some("linear"),
        perennial::check::ops,
    );
    let first = failed.first().and_then(|outcome| outcome.failure.clone()).expect("it is found");
    assert!(first.contains("bytes of shared memory, where cuFuncSetAttribute allows"), "{first}");
}

#[test]
fn a_context_that_was_not_made_current_is_found() {
    let faults = Faults { forgotten: vec!["cuCtxSetCurrent"], ..Faults::default() };
    let plugged_in = Emulator { faults, ..emulator(Flavour::Plain) }.plug_in().unwrap();
    // Another thread has no context from before.
    let gpu = plugged_in.gpu();
    let error = std::thread::spawn(move || work(gpu).map(drop)).join().unwrap().unwrap_err().to_string();
    assert!(error.contains("this thread has no current context"), "{error}");
}

#[test]
fn a_host_that_forgets_nothing_is_not_accused() {
    for schedule in SCHEDULES {
        for capability in [AMPERE, HOPPER] {
            let plugged_in = Emulator { schedule, capability, ..emulator(Flavour::Plain) }.plug_in().unwrap();
            assert!(work(plugged_in.gpu()).unwrap(), "{schedule:?}");
            assert_eq!(plugged_in.take_out(), None, "{schedule:?}");
        }
    }
}

// ---- Small programs that make one mistake each

/// A GPU, two streams and an event, by the driver's own functions.
struct Raw {
    plugged_in: Option<PluggedIn>,
    context: sys::CUcontext,
    streams: [sys::CUstream; 2],
    event: sys::CUevent,
    /// fill_f32 of this program.
    fill: sys::CUfunction,
}

/// Calls a function of the driver; what it says unless it succeeds.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the emulated driver checks what it is given; pointers are valid for the call.
        told(unsafe { sys::$function($($argument),*) })
    };
}

fn told(status: CUresult) -> Result<(), String> {
    if status == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the driver gives a text that lives until the next call.
    let text = unsafe {
        sys::cuGetErrorString(status, &mut text);
        CStr::from_ptr(text).to_string_lossy().into_owned()
    };
    Err(format!("{status:?}: {text}"))
}

type Told = Result<(), String>;

impl Raw {
    /// A GPU of this schedule, current for this thread.
    fn new(schedule: Schedule) -> Raw {
        let plugged_in = Emulator { schedule, ..emulator(Flavour::Plain) }.plug_in().unwrap();
        #[allow(irrefutable_let_patterns)]
        let Gpu::Emulated(number) = plugged_in.gpu() else { panic!("it is emulated") };
        let (mut context, mut streams, mut event) = (null_mut(), [null_mut(); 2], null_mut());
        call!(cuInit(0)).unwrap();
        call!(cuDevicePrimaryCtxRetain(&mut context, number as c_int)).unwrap();
        call!(cuCtxSetCurrent(context)).unwrap();
        streams.iter_mut().for_each(|stream| call!(cuStreamCreate(stream, 1)).unwrap());
        call!(cuEventCreate(&mut event, 0)).unwrap();
        let mut gpu = Raw { plugged_in: Some(plugged_in), context, streams, event, fill: null_mut() };
        gpu.fill = gpu.kernel(c"fill_f32").unwrap();
        gpu
    }

    fn allocate(&self, bytes: usize) -> Result<u64, String> {
        let mut address = 0;
        call!(cuMemAlloc_v2(&mut address, bytes)).map(|()| address)
    }

    /// Page-locked memory of the host.
    fn pinned(&self, bytes: usize) -> &'static mut [u8] {
        let mut memory: *mut c_void = null_mut();
        call!(cuMemAllocHost_v2(&mut memory, bytes)).unwrap();
        // SAFETY: the memory has these bytes until the program of the test ends.
        unsafe { slice::from_raw_parts_mut(memory.cast(), bytes) }
    }

    fn send(&self, to: u64, from: &[u8], stream: usize) -> Told {
        call!(cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), self.streams[stream]))
    }

    fn fetch(&self, to: &mut [u8], from: u64, stream: usize) -> Told {
        call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), self.streams[stream]))
    }

    fn copy(&self, to: u64, from: u64, bytes: usize, stream: usize) -> Told {
        call!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.streams[stream]))
    }

    fn record(&self, stream: usize) -> Told {
        call!(cuEventRecord(self.event, self.streams[stream]))
    }

    fn wait_event(&self, stream: usize) -> Told {
        call!(cuStreamWaitEvent(self.streams[stream], self.event, 0))
    }

    fn wait(&self, stream: usize) -> Told {
        call!(cuStreamSynchronize(self.streams[stream]))
    }

    fn begin_capture(&self) -> Told {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        call!(cuStreamBeginCapture_v2(self.streams[0], mode))
    }

    fn end_capture(&self) -> Result<sys::CUgraphExec, String> {
        let (mut graph, mut executable) = (null_mut(), null_mut());
        call!(cuStreamEndCapture(self.streams[0], &mut graph))?;
        call!(cuGraphInstantiateWithFlags(&mut executable, graph, 0)).map(|()| executable)
    }

    /// A kernel of this program, asked for by name.
    fn kernel(&self, name: &CStr) -> Result<sys::CUfunction, String> {
        let (mut module, mut function) = (null_mut(), null_mut());
        call!(cuModuleLoadData(&mut module, IMAGE.as_ptr().cast()))?;
        call!(cuModuleGetFunction(&mut function, module, name.as_ptr())).map(|()| function)
    }

    /// fill_f32 of `count` values, with this much dynamic shared memory.
    fn fill(&self, to: u64, count: i64, shared: u32) -> Told {
        let arguments = [Argument::Long(to as i64), Argument::Float(1.0), Argument::Long(count)];
        let mut pointers = arguments.each_ref().map(|argument| match argument {
            Argument::Long(value) => std::ptr::from_ref(value).cast_mut().cast::<c_void>(),
            Argument::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
            _ => unreachable!("only these"),
        });
        let (stream, pointers) = (self.streams[0], pointers.as_mut_ptr());
        call!(cuLaunchKernel(self.fill, 1, 1, 1, 256, 1, 1, shared, stream, pointers, null_mut()))
    }

    fn tensor_map(&self, base: u64, sizes: [u64; 2], pitch: u64, box_rows: u32) -> Told {
        #[repr(align(64))]
        struct Map([u64; 16]);
        let mut map = Map([0; 16]);
        let (strides, tile, steps) = ([pitch], [64, box_rows], [1, 1]);
        call!(cuTensorMapEncodeTiled(
            map.0.as_mut_ptr().cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            with_exposed_provenance_mut(base as usize),
            sizes.as_ptr(),
            strides.as_ptr(),
            tile.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ))
    }
}

impl Drop for Raw {
    /// These programs give nothing back.
    fn drop(&mut self) {
        self.plugged_in.take().map(PluggedIn::take_out);
    }
}

const BYTES: usize = 4096;

/// Programs with a mistake, and what must be said of it, on every schedule but the first, which does everything at once.
type Program = (&'static str, &'static str, fn(&Raw) -> Told);
const LATER: &[Program] = &[
    ("a staging buffer is written again before its copy ran", "changed between the call and the copy", |gpu| {
        let (to, staging) = (gpu.allocate(BYTES)?, gpu.pinned(BYTES));
        gpu.send(to, staging, 0)?;
        staging.fill(1);
        gpu.wait(0)
    }),
    ("a buffer is written while results are on their way to it", "the host wrote to the memory", |gpu| {
        let (from, results) = (gpu.allocate(BYTES)?, gpu.pinned(BYTES));
        gpu.fetch(results, from, 0)?;
        results[7] = 1;
        gpu.wait(0)
    }),
    ("page-locked memory is freed while a copy reads it", "of memory that cuMemcpyHtoDAsync still uses", |gpu| {
        let (to, staging) = (gpu.allocate(BYTES)?, gpu.pinned(BYTES));
        gpu.send(to, staging, 0)?;
        call!(cuMemFreeHost(staging.as_mut_ptr().cast()))
    }),
    ("the time between events is asked for before the second", "CUDA_ERROR_NOT_READY", |gpu| {
        let (mut later, mut milliseconds) = (null_mut(), 0.0);
        call!(cuEventCreate(&mut later, 0))?;
        gpu.record(0)?;
        call!(cuEventRecord(later, gpu.streams[0]))?;
        call!(cuEventElapsedTime(&mut milliseconds, gpu.event, later))
    }),
];

/// The same, found on every schedule.
const ALWAYS: &[Program] = &[
    ("a copy on another stream does not wait for the first", "no event orders the two", |gpu| {
        let (a, b) = (gpu.allocate(BYTES)?, gpu.allocate(BYTES)?);
        gpu.send(a, gpu.pinned(BYTES), 0)?;
        gpu.copy(b, a, BYTES, 1)
    }),
    ("an event is recorded before the work that it should cover", "no event orders the two", |gpu| {
        let (a, b) = (gpu.allocate(BYTES)?, gpu.allocate(BYTES)?);
        gpu.record(0)?;
        gpu.send(a, gpu.pinned(BYTES), 0)?;
        gpu.wait_event(1)?;
        gpu.copy(b, a, BYTES, 1)
    }),
    ("the event of one stream is taken for another's", "no event orders the two", |gpu| {
        let (a, b) = (gpu.allocate(BYTES)?, gpu.allocate(BYTES)?);
        gpu.send(a, gpu.pinned(BYTES), 0)?;
        gpu.record(1)?;
        gpu.wait_event(1)?;
        gpu.copy(b, a, BYTES, 1)
    }),
    ("two streams write the same bytes", "no event orders the two", |gpu| {
        let a = gpu.allocate(BYTES)?;
        gpu.send(a, gpu.pinned(BYTES), 0)?;
        call!(cuMemsetD8Async(a + 64, 0, 64, gpu.streams[1]))
    }),
    ("a kernel writes what another stream's copy reads", "no event orders the two", |gpu| {
        let (a, b) = (gpu.allocate(BYTES)?, gpu.allocate(BYTES)?);
        gpu.copy(b, a, BYTES, 1)?;
        gpu.fill(a, 16, 0)
    }),
    ("memory is allocated while a stream is captured", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", |gpu| {
        gpu.begin_capture()?;
        gpu.allocate(BYTES).map(drop)
    }),
    ("a capture in which memory was allocated is used", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", |gpu| {
        gpu.begin_capture()?;
        let _ = gpu.allocate(BYTES);
        gpu.end_capture().map(drop)
    }),
    ("a captured stream is waited for", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", |gpu| {
        gpu.begin_capture()?;
        gpu.wait(0)
    }),
    ("an event is asked about while a stream is captured", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", |gpu| {
        gpu.record(1)?;
        gpu.begin_capture()?;
        call!(cuEventQuery(gpu.event))
    }),
    ("a copy from pageable memory is captured", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", |gpu| {
        let a = gpu.allocate(BYTES)?;
        gpu.begin_capture()?;
        gpu.send(a, &[0; BYTES], 0)
    }),
    ("a copy to pageable memory is captured", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", |gpu| {
        let a = gpu.allocate(BYTES)?;
        gpu.begin_capture()?;
        gpu.fetch(&mut [0; BYTES], a, 0)
    }),
    ("a capture waits for work outside it", "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", |gpu| {
        gpu.record(1)?;
        gpu.begin_capture()?;
        gpu.wait_event(0)
    }),
    ("a capture is begun twice", "CUDA_ERROR_ILLEGAL_STATE", |gpu| {
        gpu.begin_capture()?;
        gpu.begin_capture()
    }),
    ("a graph writes to memory that was freed", "CUDA_ERROR_ILLEGAL_ADDRESS", |gpu| {
        let a = gpu.allocate(BYTES)?;
        gpu.begin_capture()?;
        gpu.fill(a, 16, 0)?;
        let graph = gpu.end_capture()?;
        call!(cuMemFree_v2(a))?;
        call!(cuGraphLaunch(graph, gpu.streams[0]))?;
        gpu.wait(0)
    }),
    ("a copy is longer than the memory", "CUDA_ERROR_INVALID_VALUE", |gpu| {
        let a = gpu.allocate(BYTES - 1)?;
        gpu.send(a, gpu.pinned(BYTES), 0)
    }),
    ("memory is freed twice", "CUDA_ERROR_INVALID_VALUE", |gpu| {
        let a = gpu.allocate(BYTES)?;
        call!(cuMemFree_v2(a))?;
        call!(cuMemFree_v2(a))
    }),
    (
        "a kernel writes far behind its memory",
        "an allocation of 4096 bytes was overrun: byte 0 behind its end",
        |gpu| {
            let a = gpu.allocate(BYTES)?;
            gpu.fill(a + BYTES as u64, 16384, 0)?;
            gpu.wait(0)
        },
    ),
    ("a kernel gets an address that is not aligned", "CUDA_ERROR_MISALIGNED_ADDRESS", |gpu| {
        let a = gpu.allocate(BYTES)?;
        gpu.fill(a + 2, 16, 0)?;
        gpu.wait(0)
    }),
    ("after a fault the GPU is used on", "CUDA_ERROR_MISALIGNED_ADDRESS", |gpu| {
        let a = gpu.allocate(BYTES)?;
        let _ = gpu.fill(a + 2, 16, 0).and_then(|()| gpu.wait(0));
        gpu.allocate(BYTES).map(drop)
    }),
    ("a launch has more shared memory than was asked for", "where cuFuncSetAttribute allows 49152", |gpu| {
        let a = gpu.allocate(BYTES)?;
        gpu.fill(a, 16, 49 << 10)
    }),
    ("a kernel does not exist", "CUDA_ERROR_NOT_FOUND", |gpu| gpu.kernel(c"no_such_kernel").map(drop)),
    ("an image is no cubin", "CUDA_ERROR_INVALID_IMAGE", |_| {
        let mut module = null_mut();
        call!(cuModuleLoadData(&mut module, [0u8; 64].as_ptr().cast()))
    }),
    ("a stream of another GPU", "CUDA_ERROR_INVALID_HANDLE", |gpu| {
        let other = Raw::new(Schedule::EARLY);
        call!(cuCtxSetCurrent(gpu.context))?;
        call!(cuStreamSynchronize(other.streams[0]))
    }),
    ("a stream is used after its end", "CUDA_ERROR_INVALID_HANDLE", |gpu| {
        call!(cuStreamDestroy_v2(gpu.streams[1]))?;
        gpu.wait(1)
    }),
    ("a tensor map of no rows", "a size is not from 1 to 2^32", |gpu| gpu.tensor_map(1 << 20, [64, 0], 128, 64)),
    ("a tensor map of no columns", "a size is not from 1 to 2^32", |gpu| gpu.tensor_map(1 << 20, [0, 64], 128, 64)),
    ("a tensor map whose matrix is not aligned", "a multiple of 16 bytes", |gpu| {
        gpu.tensor_map((1 << 20) + 8, [64, 64], 128, 64)
    }),
    ("a tensor map whose rows are not aligned", "a multiple of 16 bytes", |gpu| {
        gpu.tensor_map(1 << 20, [64, 64], 136, 64)
    }),
    ("a tensor map with too tall a box", "a side of the box", |gpu| gpu.tensor_map(1 << 20, [64, 512], 128, 257)),
];

#[test]
fn every_planted_mistake_is_found() {
    let everywhere = SCHEDULES.into_iter().flat_map(|schedule| ALWAYS.iter().map(move |program| (schedule, program)));
    let later = [Schedule::LATE].into_iter().flat_map(|schedule| LATER.iter().map(move |program| (schedule, program)));
    let mut unnoticed = Vec::new();
    for (schedule, (mistake, text, program)) in everywhere.chain(later) {
        let gpu = Raw::new(schedule);
        match program(&gpu) {
            Err(told) if told.contains(text) => {}
            other => unnoticed.push(format!("{mistake}, {schedule:?}: expected '{text}', found {other:?}")),
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}

/// Results are not there before they are waited for.
#[test]
fn results_that_were_not_waited_for_are_poison() {
    let gpu = Raw::new(Schedule::LATE);
    let (a, results) = (gpu.allocate(BYTES).unwrap(), gpu.pinned(BYTES));
    gpu.send(a, &[5; BYTES], 0).unwrap();
    gpu.fetch(results, a, 0).unwrap();
    assert_eq!(results, [0xff; BYTES]);
    gpu.wait(0).unwrap();
    assert_eq!(results, [5; BYTES]);
}

/// An event orders what comes before it in its stream, and nothing else.
#[test]
fn waiting_for_an_event_does_what_comes_before_it_alone() {
    let gpu = Raw::new(Schedule::LATE);
    let (a, b) = (gpu.allocate(BYTES).unwrap(), gpu.allocate(BYTES).unwrap());
    let results = [(); 3].map(|()| gpu.pinned(BYTES));
    gpu.send(a, &[1; BYTES], 0).unwrap();
    gpu.send(b, &[2; BYTES], 1).unwrap();
    let [before, after, elsewhere] = results;
    gpu.fetch(before, a, 0).unwrap();
    gpu.record(0).unwrap();
    gpu.fetch(after, a, 0).unwrap();
    gpu.fetch(elsewhere, b, 1).unwrap();
    call!(cuEventSynchronize(gpu.event)).unwrap();
    assert_eq!((before[0], after[0], elsewhere[0]), (1, 0xff, 0xff));
    gpu.wait(1).unwrap();
    assert_eq!((after[0], elsewhere[0]), (0xff, 2));
    gpu.wait(0).unwrap();
    assert_eq!(after[0], 1);
}

/// The same copies in order are right on every schedule, and nothing is said.
#[test]
fn what_events_order_is_in_order() {
    for schedule in SCHEDULES {
        let gpu = Raw::new(schedule);
        let (a, b) = (gpu.allocate(BYTES).unwrap(), gpu.allocate(BYTES).unwrap());
        let (staging, results) = (gpu.pinned(BYTES), gpu.pinned(BYTES));
        for round in 0..20 {
            staging.fill(round);
            gpu.send(a, staging, 0).unwrap();
            gpu.record(0).unwrap();
            gpu.wait_event(1).unwrap();
            gpu.copy(b, a, BYTES, 1).unwrap();
            gpu.fetch(results, b, 1).unwrap();
            gpu.wait(1).unwrap();
            assert_eq!(results, [round; BYTES], "{schedule:?}");
        }
    }
}

// ---- What a machine may be like

#[test]
fn every_capability_runs_or_is_refused_by_name() {
    for capability in [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1)] {
        let emulator = Emulator { capability, ..emulator(Flavour::Plain) };
        let failed = failures(emulator, Size::Smallest, Some("linear"), perennial::check::ops);
        assert_none(&format!("{capability:?}"), failed);
    }
    let plugged_in = Emulator { capability: (7, 5), ..emulator(Flavour::Plain) }.plug_in().unwrap();
    let error = Device::with_plan(&plugged_in.gpu(), &Plan::new::<Device>()).err().expect("it is refused");
    let message = error.to_string();
    assert!(message.contains("compute capability 7.5"), "{message}");
    assert!(message.contains("8.0 (Ampere) and later"), "{message}");
}

#[test]
fn kernels_for_another_gpu_are_refused() {
    let (ampere, hopper, ptx) = ("sm_80", "sm_90a", "compute_80");
    for (capability, runs) in [
        ((8, 0), &[ampere, ptx][..]),
        ((8, 9), &[ampere, ptx]),
        ((9, 0), &[hopper, ptx]),
        ((10, 0), &[ptx]),
        ((12, 0), &[ptx]),
    ] {
        let plugged_in = Emulator { capability, ..emulator(Flavour::Plain) }.plug_in().unwrap();
        let mut device = Driver::open(plugged_in.gpu()).unwrap();
        assert!(!MODULES.is_empty(), "no kernels are in this build: run `make test`, which fetches NVRTC");
        for module in MODULES {
            let loaded = device.load(module.code().unwrap());
            let expected = runs.contains(&module.target.name());
            assert_eq!(loaded.is_ok(), expected, "{} on {capability:?}: {loaded:?}", module.file);
            if let Err(error) = loaded {
                assert!(error.to_string().contains("not for this GPU"), "{error}");
            }
        }
    }
}

#[test]
fn a_missing_kernel_is_named() {
    let plugged_in = emulator(Flavour::Plain).plug_in().unwrap();
    let mut device = Driver::open(plugged_in.gpu()).unwrap();
    let launch = Launch { kernel: "no_such_kernel", grid: [1; 3], block: 32, shared: 0, arguments: &[] };
    let error = device.launch(launch).unwrap_err().to_string();
    assert_eq!(error, "no kernel no_such_kernel for sm_90a is in this program");
}

#[test]
fn an_empty_matrix_has_no_tensor_map() {
    let plugged_in = emulator(Flavour::Plain).plug_in().unwrap();
    let mut device = Driver::open(plugged_in.gpu()).unwrap();
    let base = device.allocate(1024).unwrap();
    let matrix = Matrix { base, rows: 0, columns: 64, pitch: 64, tile: (64, 64) };
    let error = device.tensor_map(matrix).unwrap_err().to_string();
    assert!(error.contains("a TMA descriptor of 0 x 64"), "{error}");
}

#[test]
fn two_gpus_in_one_thread_do_not_mix() {
    let plugged_in = [AMPERE, HOPPER].map(|capability| {
        Emulator { capability, schedule: Schedule::LATE, ..emulator(Flavour::Plain) }.plug_in().unwrap()
    });
    let mut plan = Plan::new::<Device>();
    let values = plan.stats(LARGE);
    let mut devices = plugged_in.each_ref().map(|gpu| Device::with_plan(&gpu.gpu(), &plan).unwrap());
    for (i, device) in devices.iter_mut().enumerate() {
        device.write(values, &vec![i as f32; LARGE]);
    }
    devices[0].fill(values.first(10), 5.0);
    for (i, device) in devices.iter_mut().enumerate() {
        let found = device.read_vec(values);
        device.health().unwrap();
        assert!(found[10..].iter().all(|value| *value == i as f32));
        assert_eq!(found[0], if i == 0 { 5.0 } else { 1.0 });
    }
}

#[test]
fn without_graphs_steps_are_launched_one_by_one() {
    let faults = Faults { no_graphs: true, ..Faults::default() };
    let emulator = Emulator { faults, schedule: Schedule::LATE.on(2), ..emulator(Flavour::Plain) };
    assert_none("no graphs", failures_of(1, emulator, Size::Smallest, None, step::check));
}

#[test]
fn a_process_has_one_driver() {
    let plugged_in = emulator(Flavour::Plain).plug_in().unwrap();
    let error = Driver::open(Gpu::Real(0)).err().expect("it is refused").to_string();
    assert!(error.contains("cannot use both"), "{error}");
    drop(plugged_in);
}

/// `perennial check --device emulated` on a machine that these variables describe.
fn check(device: &str, only: &str, variables: &[(&str, &str)]) -> (bool, String) {
    perennial(&["check", "--device", device, "--smallest", "--only", only], variables)
}

#[test]
fn machines_of_all_kinds_are_named_by_variables() {
    let gpus = ("PERENNIAL_EMULATED_GPUS", "capability=8.9,memory=24G,name=Little; capability=9.0,completion=2,seed=5");
    for device in ["emulated", "emulated:1"] {
        let (success, text) = check(device, "pool", &[gpus]);
        assert!(success && text.contains("all agree"), "{text}");
    }
    let refused = [
        ("emulated:2", gpus, "there is no GPU 2: this machine has 2"),
        ("emulated", ("PERENNIAL_EMULATED_GPUS", ""), "there is no GPU 0: this machine has 0"),
        ("emulated", ("PERENNIAL_EMULATED_GPUS", "capability=9.0,colour=red"), "'colour=red' of an emulated GPU"),
        ("emulated", ("PERENNIAL_EMULATED_GPUS", "memory=300M"), "MiB are free on emulated GPU 9.0"),
        ("emulated", ("PERENNIAL_EMULATED_DRIVER", "11.8"), "the driver supports CUDA 11.8"),
        ("emulated", ("PERENNIAL_EMULATED_LIBCUDA", "/no/such/libcuda.so"), "cannot read /no/such/libcuda.so"),
        ("emulated:x", gpus, "'x' in --device emulated:x is not the number of a GPU"),
    ];
    for (device, variable, message) in refused {
        let (success, text) = check(device, "pool", &[variable]);
        assert!(!success && text.contains(message), "{variable:?}: {text}");
    }
    // A GPU for which the driver must translate PTX that it is too old to know.
    let blackwell = ("PERENNIAL_EMULATED_GPUS", "capability=12.0");
    let (success, text) = check("emulated", "pool", &[blackwell, ("PERENNIAL_EMULATED_DRIVER", "12.2")]);
    assert!(!success && text.contains("supports CUDA 12.2: update it"), "{text}");
}

#[test]
fn a_fault_names_its_kernel_when_each_launch_is_waited_for() {
    let lost = ("PERENNIAL_EMULATED_GPUS", "lost=1,completion=1");
    let (success, text) = check("emulated", "pool", &[lost, ("PERENNIAL_SYNC", "1")]);
    assert!(
        !success && text.contains("1 blocks of 256 threads, 0 bytes of shared memory: waiting for the GPU"),
        "{text}"
    );
    let (success, text) = check("emulated", "step", &[("PERENNIAL_SYNC", "1")]);
    assert!(success, "{text}");
}

/// A profiler that writes down what it hears, as NVTX 3 fixes it.
const PROFILER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
struct Callbacks { size_t bytes; int (*table)(unsigned, void***, unsigned*); };
static FILE* file;
static int depth;
static int push(const char* name) { fprintf(file, "push %s\n", name); return depth++; }
static int pop() { fprintf(file, "pop\n"); return --depth; }
extern "C" int InitializeInjectionNvtx2(const void* (*exported)(unsigned)) {
    const Callbacks* callbacks = (const Callbacks*)exported(1);
    void** table;
    unsigned size;
    if (!callbacks || callbacks->bytes < sizeof *callbacks || exported(99)) return 0;
    if (callbacks->table(0, &table, &size) || callbacks->table(7, &table, &size)) return 0;
    if (!callbacks->table(1, &table, &size) || size != 16 || table[0]) return 0;
    file = fopen(getenv("RANGES"), "w");
    setvbuf(file, nullptr, _IOLBF, 1 << 16);
    *(void**)table[9] = (void*)push;
    *(void**)table[11] = (void*)pop;
    return 1;
}
"#;

#[test]
fn a_profiler_hears_of_ranges() {
    let folder = tempfile::tempdir().unwrap();
    let [source, library, ranges] = ["profiler.cpp", "profiler.so", "ranges"].map(|name| folder.path().join(name));
    std::fs::write(&source, PROFILER).unwrap();
    let built = Command::new("g++").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(built.success());
    let variables = [("NVTX_INJECTION64_PATH", library.to_str().unwrap()), ("RANGES", ranges.to_str().unwrap())];
    let (success, text) = check("emulated", "step", &variables);
    assert!(success, "{text}");
    let heard = std::fs::read_to_string(ranges).unwrap();
    let (mut open, mut names) = (None, std::collections::BTreeSet::new());
    for line in heard.lines() {
        match line.strip_prefix("push ") {
            Some(name) => assert_eq!(open.replace(name), None, "one range at a time"),
            None => names.extend(open.take()),
        }
    }
    assert!(open.is_none() && names.len() > 2, "{names:?}");
    let (success, text) = check("emulated", "pool", &[("NVTX_INJECTION64_PATH", "/no/such/library.so")]);
    assert!(success, "{text}");
}
