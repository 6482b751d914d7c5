//! The command line: `perennial --help`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    end_with_the_reader();
    cli::main()
}

/// Has `perennial list kernels | head` end when its reader has enough, as other programs do, instead of failing to print.
fn end_with_the_reader() {
    #[cfg(unix)]
    {
        unsafe extern "C" {
            fn signal(signal: std::ffi::c_int, handler: usize) -> usize;
        }
        const PIPE: std::ffi::c_int = 13;
        const DEFAULT: usize = 0;
        // SAFETY: the default action of a signal needs nothing of ours.
        unsafe { signal(PIPE, DEFAULT) };
    }
}
