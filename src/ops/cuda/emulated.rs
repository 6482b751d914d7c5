//! The emulated GPUs of `tests/emulator/`: a `libcuda.so.1` of its own, which runs the kernels on the CPU.
//!
//! Everything above it is the code that talks to NVIDIA's driver. It is how that code and the kernels are proven without a
//! GPU: under any schedule, with a race checker, with the compiler's sanitizers, and with faults at will. What the driver
//! refuses or finds is in the errors of the calls; docs/emulator.md has what can be found.

use std::ffi::{CString, c_char, c_int};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use cudarc::driver::sys;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::counters::{Counters, KernelCounters};
use super::launch::{Address, Gpu};
use crate::error::{Error, Result};

/// In which order threads run, and when asynchronous work is done: that of kernels, and that of the driver's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    order: u32,
    completion: u32,
    seed: u64,
    threads: usize,
}

impl Schedule {
    /// Threads one after another, work as soon as it is asked for.
    pub const EARLY: Schedule = Schedule { order: 0, completion: 0, seed: 0, threads: 1 };
    /// Threads one after another, work only when it is waited for.
    pub const LATE: Schedule = Schedule { order: 0, completion: 1, seed: 0, threads: 1 };

    /// Warps by random priorities, work at random moments.
    pub const fn random(seed: u64) -> Schedule {
        Schedule { order: 1, completion: 2, seed, threads: 1 }
    }

    /// The same with kernels on `threads` threads of the CPU.
    pub const fn on(self, threads: usize) -> Schedule {
        Schedule { threads, ..self }
    }
}

/// How an emulated GPU's kernels were compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// As they are.
    Plain,
    /// Reports two accesses of shared memory that nothing orders.
    Race,
    /// Under AddressSanitizer and UndefinedBehaviorSanitizer.
    Asan,
    /// Counts what hardware would have to do: [`counters`].
    Count,
}

/// What an emulated GPU is like.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// The library of its kernels.
    pub kernels: PathBuf,
    /// Its compute capability.
    pub capability: (u32, u32),
    /// How many it says that it has.
    pub multiprocessors: usize,
    /// In which order its threads take turns.
    pub schedule: Schedule,
    /// What goes wrong on purpose; nothing by default.
    pub faults: Faults,
}

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The GPU has only this much memory.
    pub memory: Option<usize>,
    /// The GPU is lost at this launch, counted from 0.
    pub lost_at_launch: Option<usize>,
    /// The kernel of this launch waits for a barrier that never comes.
    pub lost_barrier_at_launch: Option<usize>,
    /// No graph can be made executable.
    pub no_graphs: bool,
    /// Calls of these functions do nothing, as if the host had forgotten them.
    pub forgotten: Vec<&'static str>,
}

/// The image of a module that stands for all that a GPU's library of kernels holds; NVIDIA's driver would refuse it.
pub const IMAGE: &[u8] = b"emulated\0";

/// The driver's functions that are not NVIDIA's.
struct Driver {
    add: unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> c_int,
    remove: unsafe extern "C" fn(c_int, *mut c_char, usize) -> c_int,
    forbid: unsafe extern "C" fn(u64, usize),
    counters: unsafe extern "C" fn(c_int, *mut c_char, usize, *mut Counters, usize) -> c_int,
    _library: Library,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Loads the emulated libcuda that was built with this program, or the one that `PERENNIAL_EMULATED_LIBCUDA` names. Fails where
/// this process has NVIDIA's already.
pub fn load() -> Result<()> {
    driver().map(|_| ())
}

/// Fails where this process has the emulated driver already.
pub(super) fn not_loaded() -> Result<()> {
    match DRIVER.get() {
        None => Ok(()),
        Some(_) => Err(one_driver()),
    }
}

fn one_driver() -> Error {
    Error::input("a process has one CUDA driver: it uses NVIDIA's GPUs or emulated ones, and cannot use both")
}

fn driver() -> Result<&'static Driver> {
    // One thread loads; the others wait.
    static LOADING: Mutex<()> = Mutex::new(());
    let _guard = LOADING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let path = std::env::var_os("PERENNIAL_EMULATED_LIBCUDA");
    let path = PathBuf::from(path.unwrap_or_else(|| env!("PERENNIAL_EMULATED_LIBCUDA").into()));
    // SAFETY: the library has no initialisers of weight. Loaded before cudarc looks for libcuda by its name, it is what the
    // loader finds, because it calls itself by that name.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|cause| Error::reading(&path, cause))?;
    fn symbol<T: Copy>(library: &Library, path: &Path, name: &str) -> Result<T> {
        // SAFETY: the types are those of the driver's definitions.
        let symbol = unsafe { library.get::<T>(name) }.map_err(|cause| Error::reading(path, cause))?;
        Ok(*symbol)
    }
    // SAFETY: as above.
    let found = unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"emulated_add") };
    if found.is_err() {
        return Err(one_driver());
    }
    let driver = Driver {
        add: symbol(&library, &path, "emulated_add")?,
        remove: symbol(&library, &path, "emulated_remove")?,
        forbid: symbol(&library, &path, "emulated_forbid")?,
        counters: symbol(&library, &path, "emulated_counters")?,
        _library: library,
    };
    Ok(DRIVER.get_or_init(|| driver))
}

/// Says that nothing may touch these bytes of the current GPU's memory: kernels under the sanitizers are watched.
pub(super) fn forbid(from: Address, bytes: usize) {
    if let Some(driver) = DRIVER.get() {
        // SAFETY: the range is part of the GPU's memory.
        unsafe { (driver.forbid)(from.0, bytes) }
    }
}

/// Takes what each kernel of an emulated GPU has done since this was last asked, in the order of their names; those that did
/// nothing are left out. Fails where the GPU's kernels are not compiled to count: [`Flavour::Count`].
pub fn counters(gpu: Gpu) -> Result<Vec<KernelCounters>> {
    let Gpu::Emulated(number) = gpu else {
        return Err(Error::input("counters are of an emulated GPU: give --device emulated with --counters"));
    };
    let mut found = Vec::new();
    loop {
        let (mut kernel, mut counters) = ([0u8; 256], Counters::default());
        // SAFETY: the name and the counters have the bytes that are said.
        let status = unsafe {
            let (name, length) = (kernel.as_mut_ptr().cast(), kernel.len());
            (driver()?.counters)(number as c_int, name, length, &mut counters, size_of::<Counters>())
        };
        match status {
            1 => found.push(KernelCounters { kernel: text(&kernel), counters }),
            0 => return Ok(found),
            _ => {
                return Err(Error::input(
                    "the emulated GPU's kernels do not count: `make -C tests/emulator FLAVOUR=count` makes such as do, for \
                     PERENNIAL_EMULATOR or for `kernels` in PERENNIAL_EMULATED_GPUS",
                ));
            }
        }
    }
}

/// Adds a GPU that `description` describes (docs/emulator.md), and gives its number.
fn add(description: &str) -> Result<usize> {
    let description = CString::new(description).map_err(|_| Error::input("an emulated GPU is described by a text"))?;
    let mut message = [0u8; 1024];
    // SAFETY: the texts are live, and the message has the bytes that are said.
    let number = unsafe { (driver()?.add)(description.as_ptr(), message.as_mut_ptr().cast(), message.len()) };
    usize::try_from(number).map_err(|_| Error::input(text(&message)))
}

fn text(message: &[u8]) -> String {
    let length = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
    String::from_utf8_lossy(&message[..length]).into_owned()
}

/// The library of kernels that was built with this program, or the one that `PERENNIAL_EMULATOR` names.
fn built_in() -> PathBuf {
    if let Some(counting) = COUNTING.get() {
        return counting.clone();
    }
    std::env::var_os("PERENNIAL_EMULATOR").unwrap_or_else(|| env!("PERENNIAL_EMULATOR").into()).into()
}

/// The library that counts, once it is asked for.
static COUNTING: OnceLock<PathBuf> = OnceLock::new();

/// Has the GPUs that [`gpu`] finds from here on count what their kernels do, unless `PERENNIAL_EMULATOR` names a library or the
/// GPU's description does. The library is made from the sources that this program was built from, which takes a minute at
/// the first time.
pub fn use_counting_kernels() -> Result<()> {
    if COUNTING.get().is_some() || std::env::var_os("PERENNIAL_EMULATOR").is_some() {
        return Ok(());
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plain = Path::new(env!("PERENNIAL_EMULATOR"));
    let folder = plain.ancestors().nth(2).unwrap_or(sources).join("count");
    let mut make = Command::new("make");
    make.args(["--quiet", "kernels", "FLAVOUR=count", "--directory"]).arg(sources.join("tests/emulator"));
    make.arg(format!("--jobs={}", std::thread::available_parallelism().map_or(1, |count| count.get())));
    make.arg(format!("KERNELS={}", sources.join("kernels").display()));
    make.arg(format!("BUILD={}", folder.display()));
    let unmade =
        |why: &str| Error::run(format!("the kernels that count cannot be made from {}: {why}", sources.display()));
    let output = make.env_remove("MAKEFLAGS").output().map_err(|cause| unmade(&cause.to_string()))?;
    if !output.status.success() {
        return Err(unmade(String::from_utf8_lossy(&output.stderr).trim()));
    }
    let _ = COUNTING.set(folder.join("libemulator.so"));
    Ok(())
}

/// The emulated GPU of this number among those that `PERENNIAL_EMULATED_GPUS` describes, parted by semicolons; without it there
/// is one, an H100's little sister of four multiprocessors.
pub fn gpu(number: usize) -> Result<Gpu> {
    static ADDED: Mutex<bool> = Mutex::new(false);
    let mut added = ADDED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !*added {
        let described = std::env::var("PERENNIAL_EMULATED_GPUS").unwrap_or_else(|_| "capability=9.0".to_string());
        for description in described.split(';').filter(|description| !description.trim().is_empty()) {
            add(&format!("kernels={},{}", built_in().display(), description.trim()))
                .map_err(|error| error.at("PERENNIAL_EMULATED_GPUS"))?;
        }
        *added = true;
    }
    driver()?;
    Ok(Gpu::Emulated(number))
}

impl Emulator {
    /// A GPU of this capability with the kernels that were built with this program.
    pub fn built_in(capability: (u32, u32)) -> Emulator {
        Emulator::of(&built_in(), capability)
    }

    /// A GPU of this capability with the kernels of a library.
    pub fn of(kernels: &Path, capability: (u32, u32)) -> Emulator {
        let (schedule, faults) = (Schedule::EARLY, Faults::default());
        Emulator { kernels: kernels.to_path_buf(), capability, multiprocessors: 4, schedule, faults }
    }

    /// Plugs such a GPU into this process.
    pub fn plug_in(&self) -> Result<PluggedIn> {
        let Schedule { order, completion, seed, threads } = self.schedule;
        let ((major, minor), multiprocessors) = (self.capability, self.multiprocessors);
        let mut description = format!(
            "kernels={},capability={major}.{minor},multiprocessors={multiprocessors},order={order},\
             completion={completion},seed={seed},threads={threads}",
            self.kernels.display()
        );
        let Faults { memory, lost_at_launch, lost_barrier_at_launch, no_graphs, forgotten } = &self.faults;
        let mut say = |what: std::fmt::Arguments| description.write_fmt(what).expect("a string takes any text");
        memory.iter().for_each(|bytes| say(format_args!(",memory={bytes}")));
        lost_at_launch.iter().for_each(|launch| say(format_args!(",lost={launch}")));
        lost_barrier_at_launch.iter().for_each(|launch| say(format_args!(",barrier={launch}")));
        no_graphs.then(|| say(format_args!(",instantiation=fails")));
        forgotten.iter().for_each(|function| say(format_args!(",forget={function}")));
        Ok(PluggedIn { number: add(&description)? })
    }
}

/// An emulated GPU in this process, taken out again when this goes: whatever used it must be gone by then.
#[derive(Debug)]
pub struct PluggedIn {
    number: usize,
}

impl PluggedIn {
    /// By which a [`Driver`](super::driver::Driver) opens it, for as long as it is plugged in.
    pub fn gpu(&self) -> Gpu {
        Gpu::Emulated(self.number)
    }

    /// Takes the GPU out; what the host has not given back to it.
    pub fn take_out(self) -> Option<String> {
        let left = self.remove();
        std::mem::forget(self);
        left
    }

    fn remove(&self) -> Option<String> {
        let (driver, mut message) = (driver().ok()?, [0u8; 1024]);
        // SAFETY: the message has the bytes that are said.
        let left = unsafe { (driver.remove)(self.number as c_int, message.as_mut_ptr().cast(), message.len()) };
        (left != 0).then(|| text(&message))
    }
}

impl Drop for PluggedIn {
    /// What is left behind on a healthy GPU is a mistake of the host's.
    fn drop(&mut self) {
        if let Some(left) = self.remove()
            && !std::thread::panicking()
        {
            panic!("an emulated GPU was given up with {left} on it");
        }
    }
}
