//! What the program says: results go to standard output, everything else to standard error.
//!
//! Neither ever stops the work. Once a reader has closed its end (`| head`), further output is dropped without an error.
//! What cannot be printed for another reason, a full disk say, is remembered and is an error at the end: until then the files that were
//! asked for are written.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// What became of standard output.
enum State {
    Open,
    /// Nothing more is written: its reader has gone, or for this reason.
    Closed(Option<io::Error>),
}

static STDOUT: Mutex<State> = Mutex::new(State::Open);

/// Prints to standard output, as `println!` does.
macro_rules! put {
    ($($text:tt)*) => { $crate::cli::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line to standard error; if that fails, the line is dropped.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::tell(format_args!("{}\n", format_args!($($text)*))) };
}

pub(super) use {put, say};

/// Writes to standard output, until something keeps it from being written.
pub(crate) fn print(text: fmt::Arguments) {
    let mut state = STDOUT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    note(&mut state, |stdout| stdout.write_fmt(text));
}

/// Writes to standard error.
pub(crate) fn tell(text: fmt::Arguments) {
    // One write for each line: several processes may share a log.
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}

/// Prints the one JSON document of a command: what it found, after the program's version and the command's name. A number that is
/// none is null.
pub(crate) fn document(command: &str, found: Value) {
    let mut document = json!({ "perennial": env!("CARGO_PKG_VERSION"), "command": command });
    if let (Value::Object(document), Value::Object(found)) = (&mut document, found) {
        document.extend(found);
    }
    put!("{document:#}");
}

/// Fails if standard output has lost anything but its reader. To be asked last.
pub(crate) fn finish() -> Result<()> {
    let mut state = STDOUT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    note(&mut state, |stdout| stdout.flush());
    match &*state {
        State::Closed(Some(cause)) => Err(Error::run(format!("cannot print to standard output: {cause}"))),
        State::Open | State::Closed(None) => Ok(()),
    }
}

fn note(state: &mut State, write: impl FnOnce(&mut io::Stdout) -> io::Result<()>) {
    if let State::Open = state
        && let Err(cause) = write(&mut io::stdout())
    {
        *state = State::Closed(if cause.kind() == ErrorKind::BrokenPipe { None } else { Some(cause) });
    }
}
