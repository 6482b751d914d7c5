//! Signals that ask a run to stop: SIGTERM, SIGINT, SIGHUP and SIGUSR1.
//!
//! While training holds a [`Hold`], a first signal is noted: the run saves its state and stops by itself. At any other time, and at a
//! second signal, a thread of its own ends the process at once, with 128 and the signal's number as every shell reports it: what was
//! trained is saved before anything else begins, and files appear whole or not at all.
//!
//! A SIGHUP that was ignored when the program began (`nohup`) stays ignored.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};

struct State {
    listening: bool,
    /// Whether work is in hand that must be saved first.
    held: bool,
    /// The signal that is noted.
    asked: Option<i32>,
    /// What a process that ends at once says of what it leaves behind.
    left: String,
}

static STATE: Mutex<State> = Mutex::new(State { listening: false, held: false, asked: None, left: String::new() });

fn state() -> MutexGuard<'static, State> {
    // Nothing panics under the lock.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens from now on. To be called by commands that train, before they begin; a second call does nothing.
pub(crate) fn listen() -> Result<()> {
    let mut state = state();
    if state.listening {
        return Ok(());
    }
    let mut wanted = vec![SIGTERM, SIGINT, SIGUSR1];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let wrong = |cause: std::io::Error| Error::run(format!("cannot listen to signals: {cause}"));
    let mut signals = Signals::new(wanted).map_err(wrong)?;
    let thread = std::thread::Builder::new().name("signals".to_string());
    thread.spawn(move || signals.forever().for_each(receive)).map_err(wrong)?;
    state.listening = true;
    Ok(())
}

/// Sets what is printed behind "stopped by SIGTERM" when a signal comes while nothing is held: what the process leaves behind.
pub(crate) fn leave(message: String) {
    state().left = message;
}

fn receive(signal: i32) {
    let mut state = state();
    if state.held && state.asked.is_none() {
        state.asked = Some(signal);
        return;
    }
    // Standard error may be full or gone.
    let _ = writeln!(std::io::stderr(), "stopped by {}{}", name(signal), state.left);
    // SAFETY: ends the process without a look at what other threads do; files are whole at any moment.
    unsafe { libc::_exit(status(signal)) }
}

/// Work in hand that is to be saved before the process ends.
pub(crate) struct Hold(());

impl Hold {
    /// Fails where a signal came while an earlier one was held, and was not followed.
    pub(crate) fn new() -> Result<Hold> {
        let mut state = state();
        match state.asked {
            Some(signal) => Err(stopped(signal, &state.left)),
            None => {
                state.held = true;
                Ok(Hold(()))
            }
        }
    }

    /// The error to stop with, once all is saved, where a signal has come.
    pub(crate) fn asked(&self, left: &str) -> Option<Error> {
        state().asked.map(|signal| stopped(signal, left))
    }

    /// Whether a signal has come.
    pub(crate) fn is_asked(&self) -> bool {
        state().asked.is_some()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        state().held = false;
    }
}

fn stopped(signal: i32, left: &str) -> Error {
    Error::stopped(status(signal), format!("stopped by {}{left}", name(signal)))
}

/// The exit status of a process that a signal has stopped.
fn status(signal: i32) -> i32 {
    128 + signal
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        SIGHUP => "SIGHUP",
        SIGUSR1 => "SIGUSR1",
        _ => "a signal",
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: asks for the action of a signal alone, into a place of its size.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}
