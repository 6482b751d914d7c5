//! The largest piece of memory that some work asks for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Remembers the largest piece of memory that each thread has asked for, so that tests may run side by side.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn asked(bytes: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        asked(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        asked(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        asked(size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The result of `work`, and the largest piece of memory that it asked for on this thread, in bytes.
pub fn largest<R>(work: impl FnOnce() -> R) -> (R, usize) {
    LARGEST.set(0);
    let result = work();
    (result, LARGEST.get())
}
