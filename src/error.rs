//! Errors that tell a person what was wrong, where, and what would be right.

use std::fmt;
use std::path::Path;

/// A result whose error, unless said otherwise, is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it was; it decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The command or its input was wrong: exit status 2.
    Input,
    /// The run failed: exit status 1.
    Run,
    /// Another process is at work in the same place: exit status 75, as mail programs say «try again later».
    Locked,
    /// A signal stopped the run, and the same command goes on: this exit status, 128 and the signal's number.
    Stopped(i32),
}

/// What went wrong: a sentence for a person, whose fault it is, and for broken samples a kind by which they are counted.
#[derive(Clone)]
pub struct Error {
    fault: Fault,
    message: String,
    reason: Option<&'static str>,
}

impl Error {
    /// The reason where a method has no meaning in a stream or with a memory, though there is nothing wrong with either: a grid
    /// leaves such a method out, and does not fail.
    pub const NO_MEANING: &str = "no meaning";

    /// The reason where a device has less memory than was asked for: a smaller batch may fit.
    pub const NO_ROOM: &str = "no room";

    /// The command or its input was wrong.
    pub fn input(message: impl Into<String>) -> Error {
        Error { fault: Fault::Input, message: message.into(), reason: None }
    }

    /// The run failed though its input was right.
    pub fn run(message: impl Into<String>) -> Error {
        Error { fault: Fault::Run, message: message.into(), reason: None }
    }

    /// Another process is at work in the same place.
    pub(crate) fn locked(message: impl Into<String>) -> Error {
        Error { fault: Fault::Locked, message: message.into(), reason: None }
    }

    /// A signal stopped the run.
    pub(crate) fn stopped(status: i32, message: impl Into<String>) -> Error {
        Error { fault: Fault::Stopped(status), message: message.into(), reason: None }
    }

    /// A file of the user's that cannot be read: an error of input.
    pub(crate) fn reading(path: &Path, cause: impl fmt::Display) -> Error {
        Error::input(format!("cannot read {}: {cause}", path.display()))
    }

    /// A file that cannot be written: an error of the run.
    pub(crate) fn writing(path: &Path, cause: impl fmt::Display) -> Error {
        Error::run(format!("cannot write {}: {cause}", path.display()))
    }

    /// The same error with the place where it happened in front.
    pub fn at(self, place: impl fmt::Display) -> Error {
        Error { message: format!("{place}: {}", self.message), ..self }
    }

    /// The same error of a kind by which errors are counted: `truncated`, `missing file`.
    pub(crate) fn because(self, reason: &'static str) -> Error {
        Error { reason: Some(reason), ..self }
    }

    /// The kind that the error was given, if any.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason
    }

    /// Whose fault it is: what the command line's exit status follows.
    pub fn fault(&self) -> Fault {
        self.fault
    }
}

/// The message, so that a program whose `main` returns a [`Result`] prints it as a person reads it.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The candidate nearest to `word`, for "did you mean"; none when nothing is near.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// An error of input for a name that is not known: it lists what is, the nearest first.
pub(crate) fn unknown<'a>(what: &str, word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Error {
    let list = known.clone().into_iter().collect::<Vec<_>>().join(", ");
    let hint = nearest(word, known).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
    Error::input(format!("unknown {what} '{word}'{hint} (known: {list})"))
}
