//! The command line: `perennial --help`. All of it is in the library; here is what belongs to the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    survive_file_size_limits();
    perennial::cli()
}

/// Has a limit of file sizes (`ulimit -f`) be an error of the write that meets it.
fn survive_file_size_limits() {
    // SAFETY: a signal that is ignored needs nothing of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// The system's allocator. Where it has nothing left, the program says so and ends with 1: what lies on the disk is whole.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: all is the system allocator's; what it cannot give does not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given(unsafe { System.realloc(pointer, layout, size) }, size)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn given(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() { out_of_memory(size) } else { pointer }
}

/// Says it without taking memory.
#[cold]
fn out_of_memory(size: usize) -> ! {
    let mut text = [0; 300];
    let mut rest = text.as_mut_slice();
    let _ = writeln!(
        rest,
        "error: memory ran out: {size} bytes more could not be taken; a limit (ulimit -v, a control group) or the machine is too small: \
         a smaller batch, fewer --threads or a larger limit helps, and a run goes on from its last saved state"
    );
    let left = rest.len();
    let length = text.len() - left;
    // SAFETY: writes bytes that are there, and ends the process.
    unsafe {
        libc::write(2, text.as_ptr().cast(), length);
        libc::_exit(1)
    }
}
