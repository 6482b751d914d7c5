//! Ranges of NVTX 3 in a profiler's timeline.
//!
//! Version 3 has no library of its own: a profiler names its library in `NVTX_INJECTION64_PATH`, and the program loads it and
//! hands it tables of function pointers to fill in. Without a profiler nothing is loaded, and a range costs one comparison.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::mem::transmute;
use std::os::unix::ffi::OsStringExt;
use std::ptr::null;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The functions of each module that a profiler may ask for, counted with the first, which does not exist: none, core, CUDA,
/// OpenCL, CUDA's runtime, domains, synchronisation. The program calls two of the core's.
const FUNCTIONS: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
const CORE: usize = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;
const MOST: usize = 16;

/// What the profiler puts in: null where it wants no calls.
static FILLED_IN: [[AtomicPtr<c_void>; MOST]; FUNCTIONS.len()] =
    [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST] }; FUNCTIONS.len()];

type Table = [*const AtomicPtr<c_void>; MOST];
struct Tables([Table; FUNCTIONS.len()]);
// SAFETY: the pointers lead to what is static and atomic.
unsafe impl Sync for Tables {}
unsafe impl Send for Tables {}
static TABLES: OnceLock<Tables> = OnceLock::new();

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    bytes: usize,
    function_table: unsafe extern "C" fn(c_uint, *mut *const *const AtomicPtr<c_void>, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct Version {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_version: unsafe extern "C" fn(u32),
}

static CALLBACKS: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), function_table };
static VERSION: Version = Version { bytes: size_of::<Version>(), version: 3, reserved: 0, set_version };

unsafe extern "C" fn function_table(
    module: c_uint,
    table: *mut *const *const AtomicPtr<c_void>,
    size: *mut c_uint,
) -> c_int {
    let tables = TABLES.get_or_init(|| {
        let mut tables = [[null(); MOST]; FUNCTIONS.len()];
        for ((table, slots), count) in tables.iter_mut().zip(&FILLED_IN).zip(FUNCTIONS) {
            for (entry, slot) in table.iter_mut().zip(slots).take(count).skip(1) {
                *entry = slot;
            }
        }
        Tables(tables)
    });
    match tables.0.get(module as usize) {
        Some(found) if FUNCTIONS[module as usize] > 0 => {
            // SAFETY: both places are the profiler's, or null where it does not ask.
            unsafe {
                table.as_mut().into_iter().for_each(|table| *table = found.as_ptr());
                size.as_mut().into_iter().for_each(|size| *size = FUNCTIONS[module as usize] as c_uint);
            }
            1
        }
        _ => 0,
    }
}

unsafe extern "C" fn set_version(_: u32) {}

unsafe extern "C" fn export_table(which: u32) -> *const c_void {
    match which {
        1 => (&raw const CALLBACKS).cast(),
        3 => (&raw const VERSION).cast(),
        _ => null(),
    }
}

/// Loads the profiler's library, if there is one. Whether it wants to hear of ranges.
pub(crate) fn start() -> bool {
    static STARTED: OnceLock<bool> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let Some(path) = std::env::var_os("NVTX_INJECTION64_PATH") else { return false };
        let Ok(path) = CString::new(path.into_vec()) else { return false };
        type Initialise = unsafe extern "C" fn(unsafe extern "C" fn(u32) -> *const c_void) -> c_int;
        // SAFETY: the library is the profiler's, and its function has the type that NVTX fixes.
        let attached = unsafe {
            let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY);
            let symbol =
                if library.is_null() { library } else { libc::dlsym(library, c"InitializeInjectionNvtx2".as_ptr()) };
            !symbol.is_null() && transmute::<*mut c_void, Initialise>(symbol)(export_table) != 0
        };
        attached && !FILLED_IN[CORE][RANGE_PUSH].load(Ordering::Acquire).is_null()
    })
}

/// Opens a range of this name on this thread.
pub(crate) fn push(name: &str) {
    let function = FILLED_IN[CORE][RANGE_PUSH].load(Ordering::Acquire);
    if !function.is_null()
        && let Ok(name) = CString::new(name)
    {
        // SAFETY: the profiler put in `int nvtxRangePushA(const char*)`.
        unsafe { transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_int>(function)(name.as_ptr()) };
    }
}

/// Closes the range of this thread that was opened last.
pub(crate) fn pop() {
    let function = FILLED_IN[CORE][RANGE_POP].load(Ordering::Acquire);
    if !function.is_null() {
        // SAFETY: the profiler put in `int nvtxRangePop()`.
        unsafe { transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(function)() };
    }
}
