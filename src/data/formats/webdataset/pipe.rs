//! Shards that a command prints: `pipe:aws s3 cp s3://bucket/000.tar -`.
//!
//! Pictures are read where they stand, in the loader's order, so that a stream must become a file first: the command runs once, and
//! what it printed is kept in a folder of copies, until that is cleared by hand.

use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::foreign;
use crate::data::id_of;
use crate::error::{Error, Fault, Result};
use crate::files::{cache_folder, write_atomically_with};

const GIB: u64 = 1 << 30;
/// Bytes that stay free where copies are written.
const KEPT_FREE: u64 = GIB;
/// Bytes between two looks at the room that is left.
const PIECE: u64 = 64 << 20;
/// Bytes of what a command says, of which the last line is told.
const MOST_SAID: usize = 4096;

/// Copies of what commands print.
pub(crate) struct Copies {
    folder: PathBuf,
    /// Bytes of all copies of a data set, at most.
    limit: u64,
    bytes: AtomicU64,
    made: AtomicU64,
    found: AtomicU64,
}

impl Copies {
    /// Copies in a folder, that of the user's caches where none is named; all of them together may have so many GiB.
    pub(crate) fn new(folder: &str, limit: u64) -> Copies {
        let of_user = || cache_folder().unwrap_or_else(std::env::temp_dir).join("shards");
        Copies {
            folder: if folder.is_empty() { of_user() } else { PathBuf::from(folder) },
            limit: limit.saturating_mul(GIB),
            bytes: AtomicU64::new(0),
            made: AtomicU64::new(0),
            found: AtomicU64::new(0),
        }
    }

    /// Where the copies of some commands lie, each with its number; those that are not there are made, several at once.
    pub(crate) fn of_all(&self, commands: &[(usize, String)]) -> Result<Vec<(usize, String)>> {
        let path = |(number, command): &(usize, String)| {
            let path = self.of(command).map_err(|error| error.at(format!("the command '{command}'")))?;
            let path = path.into_os_string().into_string();
            path.map(|path| (*number, path)).map_err(|_| Error::input("data.webdataset.cache: the name is no UTF-8"))
        };
        commands.par_iter().map(path).collect()
    }

    /// What was done, for the user.
    pub(crate) fn note(&self) -> Option<String> {
        let [made, found, bytes] = [&self.made, &self.found, &self.bytes].map(|count| count.load(Ordering::Relaxed));
        (made + found > 0).then(|| {
            format!(
                "{} shards are copies of what commands print, {bytes} bytes in {}: {made} made now, {found} before; a command runs again \
                 when its copy is removed",
                made + found,
                self.folder.display()
            )
        })
    }

    fn of(&self, command: &str) -> Result<PathBuf> {
        if command.is_empty() {
            return Err(Error::input("it is empty"));
        }
        std::fs::create_dir_all(&self.folder).map_err(|cause| Error::writing(&self.folder, cause))?;
        let folder = self.folder.canonicalize().map_err(|cause| Error::reading(&self.folder, cause))?;
        // The same words mean other files in another folder.
        let here = std::env::current_dir().unwrap_or_default();
        let path = folder.join(format!("{:016x}.tar", id_of(&[command, &here.to_string_lossy()])));
        if let Ok(data) = std::fs::metadata(&path) {
            self.found.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(data.len(), Ordering::Relaxed);
            return Ok(path);
        }
        self.make(command, &path)?;
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(path)
    }

    /// Runs a command and keeps what it prints, whole or not at all.
    fn make(&self, command: &str, path: &Path) -> Result<()> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| Error::run(format!("sh cannot be run: {cause}")))?;
        let said = child.stderr.take().map(|stderr| std::thread::spawn(|| last_line(stderr)));
        let mut failure = None;
        let written = write_atomically_with(path, |file| {
            self.copy(&mut child, path, file)
                .and_then(|start| {
                    let status =
                        child.wait().map_err(|cause| Error::run(format!("its end cannot be waited for: {cause}")))?;
                    match foreign::recognise(&start, "...") {
                        _ if !status.success() => Err(Error::input(format!("it failed ({status})"))),
                        _ if start.is_empty() => Err(Error::input("it printed nothing")),
                        Some(what) => Err(Error::input(format!("what it prints is no shard: {what}"))),
                        None => Ok(()),
                    }
                })
                .map_err(|error| {
                    failure = Some(error);
                    io::Error::other("no copy")
                })
        });
        // A command that is still running would write into a closed pipe.
        let _ = child.kill();
        let _ = child.wait();
        let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
        match failure {
            Some(error) if said.is_empty() || error.fault() == Fault::Run => Err(error),
            Some(error) => Err(Error::input(format!("{error}: {said}"))),
            None => written,
        }
    }

    /// Copies what a command prints to `file`, which becomes `path`, and gives its first bytes.
    fn copy(&self, child: &mut Child, path: &Path, file: &mut dyn Write) -> Result<Vec<u8>> {
        let mut printed = child.stdout.take().expect("it was asked for");
        let mut start = Vec::new();
        loop {
            let free = fs4::available_space(&self.folder).map_err(|cause| Error::reading(&self.folder, cause))?;
            let advice = "data.webdataset.cache may name another folder";
            if free < KEPT_FREE + PIECE {
                let folder = self.folder.display();
                return Err(Error::run(format!("there is no room for a copy of what it prints in {folder}; {advice}")));
            }
            let mut piece = (&mut printed).take(PIECE);
            let mut bytes = [0; 1 << 16];
            let mut count = 0;
            loop {
                match piece.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(some) => {
                        start.extend_from_slice(&bytes[..some.min(64usize.saturating_sub(start.len()))]);
                        file.write_all(&bytes[..some]).map_err(|cause| Error::writing(path, cause))?;
                        count += some as u64;
                    }
                    Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                    Err(cause) => return Err(Error::run(format!("what it prints cannot be read: {cause}"))),
                }
            }
            if count == 0 {
                return Ok(start);
            }
            let bytes = self.bytes.fetch_add(count, Ordering::Relaxed) + count;
            if bytes > self.limit {
                return Err(Error::input(format!(
                    "the copies of what commands print have more than {} GiB, the limit (data.webdataset.cache_limit)",
                    self.limit / GIB
                )));
            }
        }
    }
}

/// The last line of what a command says beside what it prints.
fn last_line(mut stderr: ChildStderr) -> String {
    let (mut said, mut bytes) = (Vec::new(), [0; MOST_SAID]);
    while let Ok(count @ 1..) = stderr.read(&mut bytes) {
        said.extend_from_slice(&bytes[..count]);
        said.drain(..said.len().saturating_sub(MOST_SAID));
    }
    let text = String::from_utf8_lossy(&said);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_runs_once_and_its_failures_are_told() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("cache").display().to_string();
        let copies = || Copies::new(&folder, 1);
        let counted = root.path().join("runs").display().to_string();
        let command = format!("echo x >> '{counted}'; head -c 3000000 /dev/zero; echo done >&2");
        for made in [1, 0] {
            let copies = copies();
            let (_, path) = copies.of_all(&[(0, command.clone())]).unwrap().remove(0);
            assert_eq!(std::fs::metadata(path).unwrap().len(), 3_000_000);
            let note = copies.note().unwrap();
            assert!(note.contains(&format!("{made} made now, {} before", 1 - made)), "{note}");
        }
        assert_eq!(std::fs::read_to_string(&counted).unwrap(), "x\n");

        let message = |command: &str| copies().of_all(&[(0, command.to_string())]).unwrap_err().to_string();
        let failed = message("echo first >&2; printf x; echo 'no such bucket' >&2; exit 3");
        assert!(failed.ends_with("exit 3': it failed (exit status: 3): no such bucket"), "{failed}");
        assert_eq!(message("true"), "the command 'true': it printed nothing");
        assert!(
            message("printf '\\037\\213\\010'")
                .contains("what it prints is no shard: the shard is compressed with gzip")
        );
        assert!(message("no-such-program-anywhere").contains("it failed (exit status: 127): "));
        // More than the limit: the command is stopped.
        let limited = Copies::new(&folder, 0).of_all(&[(0, "yes".to_string())]).unwrap_err().to_string();
        assert!(limited.contains("more than 0 GiB, the limit (data.webdataset.cache_limit)"), "{limited}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left of what failed");
    }
}
