//! The driver that runs the kernels on the CPU: `tests/emulator/`, loaded as a shared library.
//!
//! It is how the launch code and the kernels are proven without a GPU: under any schedule, with a race checker, with the
//! compiler's sanitizers, and with faults at will.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::{Library, Symbol};

use super::driver::{Address, Argument, Driver, Launch, Matrix, Target, TensorMap};
use crate::error::{Error, Result};

/// In which order threads run, and when asynchronous copies land; the emulator's `EmulatorSchedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Schedule {
    order: c_int,
    completion: c_int,
    seed: u64,
    threads: c_int,
}

impl Schedule {
    /// Threads one after another, copies as soon as they are asked for.
    pub const EARLY: Schedule = Schedule { order: 0, completion: 0, seed: 0, threads: 1 };
    /// Threads one after another, copies only when they are waited for.
    pub const LATE: Schedule = Schedule { order: 0, completion: 1, seed: 0, threads: 1 };

    /// Warps by random priorities, copies at random moments.
    pub const fn random(seed: u64) -> Schedule {
        Schedule { order: 1, completion: 2, seed, threads: 1 }
    }

    /// The same on `threads` threads of the CPU.
    pub const fn on(self, threads: usize) -> Schedule {
        Schedule { threads: threads as c_int, ..self }
    }
}

/// How the emulator was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Plain,
    /// Reports two accesses of shared memory that nothing orders.
    Race,
    /// Under AddressSanitizer and UndefinedBehaviorSanitizer.
    Asan,
}

/// An emulator and how it runs.
#[derive(Clone, Debug)]
pub struct Emulator {
    pub library: Arc<Api>,
    pub schedule: Schedule,
    pub target: Target,
    /// A GPU of this many multiprocessors.
    pub multiprocessors: usize,
    pub faults: Faults,
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The device has only this much memory.
    pub memory: Option<usize>,
    /// The device is lost at this launch, counted from 0.
    pub lost_at_launch: Option<usize>,
}

type LaunchFunction = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    u32,
    *mut *mut c_void,
    *const Schedule,
    *mut c_char,
    usize,
) -> c_int;
type TensorMapFunction = unsafe extern "C" fn(*mut c_void, *const c_void, u64, u64, u64, u32, u32);

/// The emulator's C interface.
#[derive(Debug)]
pub struct Api {
    launch: LaunchFunction,
    tensor_map: TensorMapFunction,
    forbid: unsafe extern "C" fn(*const c_void, usize),
    has: unsafe extern "C" fn(*const c_char) -> c_int,
    flavour: unsafe extern "C" fn() -> c_int,
    _library: Library,
}

impl Emulator {
    /// The emulator that was built with this program, or the one that `PERENNIAL_EMULATOR` names.
    pub fn built_in() -> Result<Emulator> {
        let path = std::env::var_os("PERENNIAL_EMULATOR").unwrap_or_else(|| env!("PERENNIAL_EMULATOR").into());
        Emulator::open(Path::new(&path))
    }

    pub fn open(path: &Path) -> Result<Emulator> {
        // SAFETY: the emulator's initialisers only fill its table of kernels.
        let library = unsafe { Library::new(PathBuf::from(path)) };
        let library = library.map_err(|cause| Error::reading(path, cause))?;
        fn symbol<T: Copy>(library: &Library, path: &Path, name: &str) -> Result<T> {
            // SAFETY: the types are those of the emulator's declarations.
            let symbol: Symbol<T> = unsafe { library.get(name) }.map_err(|cause| Error::reading(path, cause))?;
            Ok(*symbol)
        }
        let api = Api {
            launch: symbol(&library, path, "emulator_launch")?,
            tensor_map: symbol(&library, path, "emulator_tensor_map")?,
            forbid: symbol(&library, path, "emulator_forbid")?,
            has: symbol(&library, path, "emulator_has")?,
            flavour: symbol(&library, path, "emulator_flavour")?,
            _library: library,
        };
        Ok(Emulator {
            library: Arc::new(api),
            schedule: Schedule::EARLY,
            target: Target::Sm90a,
            multiprocessors: 4,
            faults: Faults::default(),
        })
    }

    pub fn flavour(&self) -> Flavour {
        // SAFETY: the function takes nothing.
        match unsafe { (self.library.flavour)() } {
            1 => Flavour::Race,
            2 => Flavour::Asan,
            _ => Flavour::Plain,
        }
    }

    /// Whether it holds a kernel of this name.
    pub fn has(&self, kernel: &str) -> bool {
        let name = CString::new(kernel).unwrap_or_default();
        // SAFETY: the name is a C string.
        unsafe { (self.library.has)(name.as_ptr()) != 0 }
    }
}

/// An emulated device.
pub struct Emulated {
    emulator: Emulator,
    memory: Vec<(*mut u8, Layout)>,
    launches: usize,
    capturing: Option<Vec<Captured>>,
    graphs: Vec<Vec<Captured>>,
    marks: Vec<std::time::Instant>,
    lost: Cell<bool>,
}

/// Work that is kept.
enum Captured {
    Launch { kernel: &'static str, grid: [u32; 3], block: u32, shared: u32, arguments: Vec<Argument> },
    Copy { from: Address, to: Address, bytes: usize },
}

// SAFETY: the memory belongs to the device alone.
unsafe impl Send for Emulated {}

impl Emulated {
    fn taken(&self) -> usize {
        self.memory.iter().map(|(_, layout)| layout.size() - MARGIN).sum()
    }

    fn alive(&self) -> Result<()> {
        if self.lost.get() { Err(Error::run("the GPU was lost")) } else { Ok(()) }
    }

    fn run(&self, launch: &Launch) -> Result<()> {
        let kernel = CString::new(launch.kernel).expect("kernels' names hold no zero byte");
        let mut pointers: Vec<*mut c_void> = launch.arguments.iter().map(Argument::pointer).collect();
        let (block, mut message) = ([launch.block, 1, 1], [0u8; 1024]);
        // SAFETY: every pointer is valid for the call; what the kernel does with its arguments is what the emulator checks.
        let status = unsafe {
            (self.emulator.library.launch)(
                kernel.as_ptr(),
                launch.grid.as_ptr(),
                block.as_ptr(),
                launch.shared,
                pointers.as_mut_ptr(),
                &self.emulator.schedule,
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        let length = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
        Err(Error::run(String::from_utf8_lossy(&message[..length]).into_owned()))
    }
}

/// Memory of an emulated device, unless its faults say otherwise.
const MEMORY: usize = 8 << 30;

/// Bytes behind every allocation, all NaN: a kernel that reads a little too far computes what a check sees, and does not end the
/// process. The sanitizers have them as forbidden.
const MARGIN: usize = 256 << 10;

impl Driver for Emulated {
    type Place = Emulator;

    fn open(emulator: &Emulator) -> Result<Emulated> {
        Ok(Emulated {
            emulator: emulator.clone(),
            memory: Vec::new(),
            launches: 0,
            capturing: None,
            graphs: Vec::new(),
            marks: Vec::new(),
            lost: Cell::new(false),
        })
    }

    fn name(&self) -> String {
        format!("emulated {:?}", self.emulator.target)
    }

    fn target(&self) -> Target {
        self.emulator.target
    }

    fn multiprocessors(&self) -> usize {
        self.emulator.multiprocessors
    }

    /// The least of the target's GPUs.
    fn shared_memory(&self) -> usize {
        match self.emulator.target {
            Target::Sm80 => 99 << 10,
            Target::Sm90a => 227 << 10,
        }
    }

    fn free_memory(&self) -> Result<usize> {
        Ok(self.emulator.faults.memory.unwrap_or(MEMORY).saturating_sub(self.taken()))
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        let free = self.free_memory()?;
        if bytes > free {
            return Err(Error::run(format!("out of GPU memory: {bytes} bytes asked for, {free} free")));
        }
        let layout = Layout::from_size_align(bytes + MARGIN, 1024).expect("sizes are below 2^63");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(Error::run(format!("out of memory: {bytes} bytes asked for")));
        }
        // SAFETY: the margin is the allocation's end.
        unsafe { memory.add(bytes).write_bytes(0xff, MARGIN) };
        self.memory.push((memory, layout));
        let start = Address(memory.addr() as u64);
        self.forbid(start.offset(bytes), MARGIN);
        Ok(start)
    }

    fn forbid(&mut self, from: Address, bytes: usize) {
        // SAFETY: the range is part of the device's memory.
        unsafe { (self.emulator.library.forbid)(from.0 as *const c_void, bytes) }
    }

    fn upload(&mut self, to: Address, bytes: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        self.alive()?;
        assert!(self.capturing.is_none(), "a copy from the host cannot be part of a graph");
        // SAFETY: the range is part of the device's memory, which nothing else looks at now.
        fill(unsafe { std::slice::from_raw_parts_mut(to.0 as *mut u8, bytes) });
        Ok(())
    }

    fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.alive()?;
        assert!(self.capturing.is_none(), "a copy to the host cannot be part of a graph");
        // SAFETY: as above.
        to.copy_from_slice(unsafe { std::slice::from_raw_parts(from.0 as *const u8, to.len()) });
        Ok(())
    }

    fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.alive()?;
        if let Some(captured) = &mut self.capturing {
            captured.push(Captured::Copy { from, to, bytes });
            return Ok(());
        }
        // SAFETY: both ranges are parts of the device's memory.
        unsafe { std::ptr::copy(from.0 as *const u8, to.0 as *mut u8, bytes) };
        Ok(())
    }

    fn launch(&mut self, launch: Launch) -> Result<()> {
        self.alive()?;
        if let Some(captured) = &mut self.capturing {
            let Launch { kernel, grid, block, shared, arguments } = launch;
            captured.push(Captured::Launch { kernel, grid, block, shared, arguments: arguments.to_vec() });
            return Ok(());
        }
        if self.emulator.faults.lost_at_launch == Some(self.launches) {
            self.lost.set(true);
            return self.alive();
        }
        self.launches += 1;
        self.run(&launch)
    }

    fn tensor_map(&self, matrix: Matrix) -> Result<TensorMap> {
        let Matrix { base, rows, columns, pitch, tile } = matrix;
        let mut map = TensorMap([0; 16]);
        // SAFETY: the map has the 128 bytes that are written.
        unsafe {
            (self.emulator.library.tensor_map)(
                std::ptr::from_mut(&mut map).cast(),
                base.0 as *const c_void,
                columns as u64,
                rows as u64,
                2 * pitch as u64,
                tile.1 as u32,
                tile.0 as u32,
            )
        };
        Ok(map)
    }

    fn begin_capture(&mut self) -> Result<()> {
        self.capturing = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<usize> {
        self.graphs.extend(self.capturing.take());
        Ok(self.graphs.len() - 1)
    }

    fn drop_graphs(&mut self) {
        self.graphs.clear();
    }

    fn replay(&mut self, graph: usize) -> Result<()> {
        let kept = std::mem::take(&mut self.graphs[graph]);
        let done = kept.iter().try_for_each(|work| match *work {
            Captured::Launch { kernel, grid, block, shared, ref arguments } => {
                self.launch(Launch { kernel, grid, block, shared, arguments })
            }
            Captured::Copy { from, to, bytes } => self.copy(from, to, bytes),
        });
        self.graphs[graph] = kept;
        done
    }

    fn synchronize(&self) -> Result<()> {
        self.alive()
    }

    fn mark(&mut self) -> Result<usize> {
        self.marks.push(std::time::Instant::now());
        Ok(self.marks.len() - 1)
    }

    fn seconds_between(&self, from: usize, to: usize) -> Result<f64> {
        Ok((self.marks[to] - self.marks[from]).as_secs_f64())
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        for (memory, layout) in &self.memory {
            // SAFETY: allocated with this layout, and nothing refers to it any more.
            unsafe { dealloc(*memory, *layout) };
        }
    }
}
