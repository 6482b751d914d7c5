//! Files that appear whole or not at all; and what is no file is written to, and never replaced by one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Names of files in the making: `.perennial-<process>-<number>.tmp`, beside the file that they become.
const PREFIX: &str = ".perennial-";
const SUFFIX: &str = ".tmp";

/// A text that a person or another program wrote, as they write them: UTF-8, with or without a byte order mark, or UTF-16 with one. A
/// line's end may be Windows's: readers go by [`str::lines`]. An error of input names the file, and the place of what is no text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    text_of(path, fs::read(path).map_err(|cause| Error::reading(path, cause))?)
}

/// The same of a file's bytes. Where lines end in carriage returns alone, as on old Macs, these become line feeds. A NUL is an error: it
/// is how UTF-16 without its mark begins, and no text of a person's has one.
pub(crate) fn text_of(path: &Path, bytes: Vec<u8>) -> Result<String> {
    let text = decode_text(bytes).map_err(|what| Error::reading(path, what))?;
    if let Some(place) = text.find('\0') {
        let line = 1 + text[..place].matches('\n').count();
        let what =
            format!("line {line} holds a NUL character: it is no text, or UTF-16 without its mark; save it as UTF-8");
        return Err(Error::reading(path, what));
    }
    Ok(if text.contains('\r') && !text.contains('\n') { text.replace('\r', "\n") } else { text })
}

/// The same of bytes that are there already; an error says what is no text, and on which line.
pub(crate) fn decode_text(bytes: Vec<u8>) -> Result<String, String> {
    let wide = |units: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = units.chunks(2).map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&0xff)])).collect();
        String::from_utf16(&units).map_err(|_| "it begins as UTF-16 and is none".to_string())
    };
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => decode_text(rest.to_vec()),
        _ => String::from_utf8(bytes).map_err(|error| {
            let (valid, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
            let line = 1 + bytes[..valid].iter().filter(|byte| **byte == b'\n').count();
            format!("line {line} is no UTF-8 (byte {valid}, {:#04x}): save it as UTF-8", bytes[valid])
        }),
    }
}

/// Writes a file whole or not at all: beside, flushed to the disk, then renamed over the file that `path` was. Of a symbolic link the
/// file that it leads to is replaced, and the link stays. A device, a pipe or a socket is written to.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes))
}

/// The same without the wait for the disk: a reader finds the old file or the new one, and a power failure may take either.
pub(crate) fn write_quickly(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (beside, mut file) = create_beside(folder_of(path))?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&beside, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// The same for content that `fill` writes piece by piece.
pub(crate) fn write_atomically_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    match Place::of(path).map_err(|cause| Error::writing(path, cause))? {
        Place::File(file) => write_and(&file, fill, |beside| fs::rename(beside, &file)),
        Place::Stream => write_to_stream(path, fill).map_err(|cause| Error::writing(path, cause)),
    }
}

/// What a path of an output leads to.
enum Place {
    /// A regular file, or none yet: here, behind all links.
    File(PathBuf),
    /// What keeps no content that could be replaced: a device, a pipe, or what is open as standard output or error.
    Stream,
}

impl Place {
    fn of(path: &Path) -> io::Result<Place> {
        // Links that lead in circles end here.
        const MOST_LINKS: usize = 40;
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(ErrorKind::IsADirectory.into()),
            Ok(meta) if !meta.is_file() || own_output(path).is_some() => {
                return if is_disk(&meta) { Err(io::Error::other("it is a disk")) } else { Ok(Place::Stream) };
            }
            _ => {}
        }
        let mut place = path.to_path_buf();
        for _ in 0..MOST_LINKS {
            match fs::read_link(&place) {
                Ok(target) => place = folder_of(&place).join(target),
                Err(_) => return Ok(Place::File(place)),
            }
        }
        Err(io::Error::other("too many symbolic links"))
    }
}

#[cfg(unix)]
fn is_disk(meta: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&meta.file_type())
}

#[cfg(not(unix))]
fn is_disk(_: &fs::Metadata) -> bool {
    false
}

/// What is open as this process's standard output or error, if `path` is that: `/dev/stdout`, or a file that the shell sends it to.
/// Opened anew, such a file would be written to from its beginning.
#[cfg(unix)]
fn own_output(path: &Path) -> Option<File> {
    use std::os::fd::AsFd;
    let open = [io::stdout().as_fd().try_clone_to_owned(), io::stderr().as_fd().try_clone_to_owned()];
    let path = identity(&fs::metadata(path).ok()?);
    open.into_iter().flatten().map(File::from).find(|file| file.metadata().is_ok_and(|meta| identity(&meta) == path))
}

#[cfg(not(unix))]
fn own_output(_: &Path) -> Option<File> {
    None
}

/// Writes to what is no regular file. A reader that closes its end early is no error.
fn write_to_stream(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // What was printed before comes before; whether it could be is another's to tell.
    let _ = io::stdout().flush();
    let file = own_output(path).map_or_else(|| OpenOptions::new().write(true).open(path), Ok)?;
    let mut buffered = BufWriter::new(file);
    match fill(&mut buffered).and_then(|()| buffered.flush()) {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => Err(cause),
        _ => Ok(()),
    }
}

/// Which file it is, by whatever name.
#[cfg(unix)]
fn identity(meta: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

/// Whether two paths lead to one file or folder, through links of either kind. What does not exist is nothing's like.
#[cfg(unix)]
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::metadata(one), fs::metadata(other)), (Ok(one), Ok(other)) if identity(&one) == identity(&other))
}

#[cfg(not(unix))]
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// Fails where the output at `path` would replace one of `inputs`, files that the command reads, by whatever path or link.
pub(crate) fn check_no_input<P: AsRef<Path>>(path: &Path, inputs: impl IntoIterator<Item = P>) -> Result<()> {
    // Nothing is replaced of what is no regular file.
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Ok(());
    }
    match inputs.into_iter().find(|input| is_same(path, input.as_ref())) {
        None => Ok(()),
        Some(input) => {
            let (path, input) = (path.display().to_string(), input.as_ref().display().to_string());
            let which = if path == input { String::new() } else { format!(" ({input})") };
            Err(Error::input(format!("{path} is one of the files that are read{which}: write to another")))
        }
    }
}

/// Every file below a folder; of what is no folder, the path itself. Folders that links lead to are not entered: they may lead back up.
pub(crate) fn files_below(path: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![path.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            found.push(folder);
            continue;
        };
        for entry in entries.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

/// The same for a file that must not take another's place: where there is one by the time that all is written, it is left alone, and
/// the error says where what was written lies instead.
pub(crate) fn write_new_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut kept = None;
    let written = write_and(path, fill, |beside| match fs::hard_link(beside, path) {
        Ok(()) => fs::remove_file(beside),
        // Not every file system has links.
        Err(cause) if cause.kind() != ErrorKind::AlreadyExists && !path.exists() => fs::rename(beside, path),
        Err(_) => {
            kept = Some(beside.to_path_buf());
            Ok(())
        }
    });
    match kept {
        Some(kept) if written.is_ok() => Err(Error::run(format!(
            "{} has appeared meanwhile and is left as it is; what should be there is whole in {}",
            path.display(),
            kept.display()
        ))),
        _ => written,
    }
}

/// Fills a file beside `path` and flushes it to the disk; `place` gives it its name.
fn write_and(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    place: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<()> {
    let wrong = |cause: io::Error| Error::writing(path, cause);
    let folder = folder_of(path);
    let (beside, file) = create_beside(folder).map_err(wrong)?;
    let written = fill_and_flush(file, fill).and_then(|()| place(&beside));
    if let Err(cause) = written {
        // The first cause is reported; a leftover is removed with the next `remove_stale`.
        let _ = fs::remove_file(&beside);
        return Err(wrong(cause));
    }
    sync_folder(folder).map_err(wrong)
}

/// Fails unless a file can be written at `path`: to be asked before hours of work. Leaves nothing behind.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let wrong = |cause: io::Error| Error::input(format!("cannot write {}: {cause}", path.display()));
    let refuse = |why: String| Err(Error::input(format!("cannot write {}: {why}", path.display())));
    if path.is_dir() {
        return refuse("it is a folder".to_string());
    }
    let place = match Place::of(path).map_err(wrong)? {
        Place::File(file) => file,
        // Whether it takes what is written is not known before.
        Place::Stream => return Ok(()),
    };
    let folder = folder_of(&place);
    if !folder.is_dir() {
        return refuse(format!("there is no folder {}", folder.display()));
    }
    let (beside, file) = create_beside(folder).map_err(wrong)?;
    drop(file);
    fs::remove_file(&beside).map_err(wrong)
}

/// Removes what an interrupted process left half-written in `folder`, and says how many files that were. To be
/// called at start, by the one process that writes there. A folder that does not exist holds nothing.
pub(crate) fn remove_stale(folder: &Path) -> Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(|cause| Error::reading(folder, cause))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(|cause| Error::reading(folder, cause))?;
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|cause| Error::run(format!("cannot remove {}: {cause}", path.display())))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file under a name that nothing else has.
fn create_beside(folder: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{PREFIX}{}-{number}{SUFFIX}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => continue,
            file => return Ok((path, file?)),
        }
    }
}

fn fill_and_flush(file: File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = BufWriter::new(file);
    fill(&mut buffered)?;
    buffered.into_inner().map_err(|error| error.into_error())?.sync_all()
}

/// Makes the rename itself survive a power failure.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Only Unix opens folders as files.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The program's folder among the user's caches.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("perennial"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn texts_are_read_as_editors_save_them() {
        let utf16 = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            mark.into_iter().chain("katze\r\nhund ü".encode_utf16().flat_map(unit)).collect::<Vec<u8>>()
        };
        let text = "katze\r\nhund ü".to_string();
        for bytes in [
            text.clone().into_bytes(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            utf16([0xff, 0xfe], u16::to_le_bytes),
            utf16([0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(decode_text(bytes), Ok(text.clone()));
        }
        let message = decode_text(b"one\ntwo \xe4\n".to_vec()).unwrap_err();
        assert_eq!(message, "line 2 is no UTF-8 (byte 8, 0xe4): save it as UTF-8");
        assert!(decode_text(vec![0xff, 0xfe, 0, 0xd8, b'a']).is_err());
    }

    #[test]
    fn old_line_ends_are_read_and_nul_characters_are_refused() {
        let of = |bytes: &[u8]| text_of(Path::new("t.txt"), bytes.to_vec()).map_err(|error| error.to_string());
        assert_eq!(of(b"one\rtwo\r"), Ok("one\ntwo\n".to_string()));
        assert_eq!(of(b"one\r\ntwo\rthree\n"), Ok("one\r\ntwo\rthree\n".to_string()));
        let wide: Vec<u8> = "one\ntwo".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(of(&wide).unwrap_err().starts_with("cannot read t.txt: line 1 holds a NUL character"));
        assert!(of(b"one\ntw\0o").unwrap_err().contains("line 2 holds a NUL"));
    }

    #[test]
    fn writes_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_failure_keeps_the_old_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomically(&path, b"old").unwrap();
        let error = write_atomically_with(&path, |file| {
            file.write_all(&[0; 100_000])?;
            Err(io::Error::other("the disk is full"))
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}: the disk is full", path.display()));
        assert_eq!(error.fault(), crate::error::Fault::Run);
        assert_eq!(fs::read(&path).unwrap(), b"old");

        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(write_atomically(&taken, b"x").is_err());
        assert!(write_atomically(&folder.path().join("nowhere/b.json"), b"x").is_err());
        assert_eq!(names(folder.path()), ["a.json", "taken"]);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        fs::write(at("deep/file"), "old").unwrap();
        symlink("deep/file", at("one")).unwrap();
        symlink("one", at("two")).unwrap();
        symlink("deep/new", at("dangling")).unwrap();
        for (link, file) in [("two", "deep/file"), ("dangling", "deep/new")] {
            check_writable(&at(link)).unwrap();
            write_atomically(&at(link), b"new").unwrap();
            assert_eq!(fs::read(at(file)).unwrap(), b"new");
        }
        assert!(["one", "two", "dangling"].iter().all(|link| at(link).is_symlink()));
        assert_eq!(names(&at("deep")), ["file", "new"]);
        symlink("circle", at("circle")).unwrap();
        assert!(check_writable(&at("circle")).is_err() && write_atomically(&at("circle"), b"x").is_err());
        assert_eq!(names(folder.path()), ["circle", "dangling", "deep", "one", "two"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_and_pipes_are_written_to() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let null = Path::new("/dev/null");
        std::os::unix::fs::symlink(null, folder.path().join("null")).unwrap();
        for path in [null, &folder.path().join("null")] {
            check_writable(path).unwrap();
            write_atomically(path, b"nothing of this is kept").unwrap();
        }
        assert!(fs::symlink_metadata(null).unwrap().file_type().is_char_device());
        let full = write_atomically(Path::new("/dev/full"), b"x").unwrap_err().to_string();
        assert!(full.starts_with("cannot write /dev/full: No space left"), "{full}");

        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        check_writable(&pipe).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_atomically(&pipe, b"through the pipe").unwrap();
        assert_eq!(reader.join().unwrap(), b"through the pipe");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(folder.path()), ["null", "pipe"]);
    }

    #[test]
    #[cfg(unix)]
    fn an_output_is_no_input_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("model/sub")).unwrap();
        for name in ["model/weights", "model/sub/table", "other"] {
            fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink("model/weights", at("soft")).unwrap();
        fs::hard_link(at("model/weights"), at("hard")).unwrap();
        let inputs = files_below(&at("model"));
        assert_eq!(inputs.len(), 2);
        for name in ["model/weights", "model/sub/table", "model/../model/weights", "soft", "hard"] {
            let message = check_no_input(&at(name), &inputs).unwrap_err().to_string();
            assert!(message.contains("is one of the files that are read"), "{message}");
        }
        check_no_input(&at("other"), &inputs).unwrap();
        check_no_input(&at("new"), &inputs).unwrap();
        check_no_input(Path::new("/dev/null"), [Path::new("/dev/null")]).unwrap();
        assert_eq!(files_below(&at("other")), [at("other")]);
    }

    #[test]
    fn a_file_that_has_appeared_meanwhile_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pack");
        write_new_with(&path, |file| file.write_all(b"first")).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"first".to_vec(), vec!["a.pack".to_string()]));
        fs::remove_file(&path).unwrap();
        let error = write_new_with(&path, |file| {
            fs::write(&path, "another's")?;
            file.write_all(b"second")
        })
        .unwrap_err()
        .to_string();
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        let kept = names(folder.path()).into_iter().find(|name| name.starts_with(PREFIX)).unwrap();
        assert!(error.ends_with(&kept), "{error}");
        assert_eq!(fs::read(folder.path().join(kept)).unwrap(), b"second");
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let folder = tempfile::tempdir().unwrap();
        check_writable(&folder.path().join("new.json")).unwrap();
        assert!(names(folder.path()).is_empty());
        let message = check_writable(&folder.path().join("nowhere/new.json")).unwrap_err().to_string();
        assert!(message.contains("nowhere/new.json: there is no folder"), "{message}");
        assert!(check_writable(folder.path()).unwrap_err().to_string().ends_with("it is a folder"));
    }

    #[test]
    fn threads_do_not_disturb_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let path = &path;
                scope.spawn(move || (0..10).for_each(|_| write_atomically(path, &[writer; 5000]).unwrap()));
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 5000 && bytes.iter().all(|byte| *byte == bytes[0]));
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn stale_files_of_ours_go_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".perennial-1-0.tmp", ".perennial-77-3.tmp", "mine.tmp", ".perennial-notes"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        assert_eq!(remove_stale(folder.path()).unwrap(), 2);
        assert_eq!(names(folder.path()), [".perennial-notes", "mine.tmp"]);
        assert_eq!(remove_stale(&folder.path().join("nowhere")).unwrap(), 0);
    }
}
