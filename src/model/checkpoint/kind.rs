//! What a file is by its first bytes, so that one that holds no weights is called by its name.

use std::path::Path;

use super::container::LONGEST_HEADER;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Also whatever looks like nothing else: the reader says what is wrong with it.
    Safetensors,
    /// A zip archive, as PyTorch has written since 1.6.
    Archive,
    /// As PyTorch wrote before.
    Pickle,
    /// An object of JSON: the index of a model in several files, or something else.
    Json,
    /// Not weights: what it is, and what would be.
    Other(&'static str),
}

/// Beginnings of files of other formats.
const BEGINNINGS: [(&[u8], &str); 21] = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer in place of the weights: 'git lfs pull' in its folder fetches them",
    ),
    (b"GGUF", "a GGUF file, which llama.cpp reads; safetensors or a PyTorch file of the same model is wanted"),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file (.h5), as TensorFlow and Keras write; the model's safetensors or PyTorch file is wanted",
    ),
    (b"\x93NUMPY", "one of NumPy's arrays (.npy); the model's safetensors or PyTorch file is wanted"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"\xfd7zXZ\0", "compressed by xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"%PDF-", "a PDF document"),
    (b"\x7fELF", "a program, not weights"),
    (b"ARROW1", "an Arrow table, not weights"),
    (b"PAR1", "a Parquet table, not weights"),
    (b"SQLite format 3", "a database, not weights"),
    (b"\x00asm", "a WebAssembly module, not weights"),
    (b"ggml", "a GGML file; safetensors or a PyTorch file of the same model is wanted"),
    (b"lmgg", "a GGML file; safetensors or a PyTorch file of the same model is wanted"),
];

const FLAX: &str = "a MessagePack file, as Flax writes; the model's safetensors or PyTorch file is wanted";

/// What the file `path` with these bytes is.
pub(crate) fn of(path: &Path, bytes: &[u8]) -> Kind {
    if let Some((length, [b'{', ..])) = bytes.split_first_chunk::<8>()
        && u64::from_le_bytes(*length) <= LONGEST_HEADER
    {
        return Kind::Safetensors;
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Kind::Archive;
    }
    if let [0x80, 0..=5, ..] = bytes {
        return Kind::Pickle;
    }
    if let Some((_, what)) = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return Kind::Other(what);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Kind::Other(
            "a tar archive: unpack it first (PyTorch itself wrote such files before 0.1.10: save it anew)",
        );
    }
    if let Some(other) = text_kind(bytes) {
        return other;
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_lowercase();
    match (bytes, ending.as_str()) {
        (_, "onnx") => Kind::Other("an ONNX file; the model's safetensors or PyTorch file is wanted"),
        (_, "pb") => Kind::Other("a graph of TensorFlow; the model's safetensors or PyTorch file is wanted"),
        // A version of the format, then the name of the program that wrote it.
        ([0x08, 1..=32, 0x12, length, ..], _) if bytes.get(4).is_some_and(u8::is_ascii_alphabetic) && *length < 64 => {
            Kind::Other("an ONNX file; the model's safetensors or PyTorch file is wanted")
        }
        (_, "msgpack") => Kind::Other(FLAX),
        // A map whose first key is a short text.
        ([0x81..=0x8f, 0xa1..=0xbf, letter, ..], _) if letter.is_ascii_alphabetic() => Kind::Other(FLAX),
        ([0x81..=0x8f, 0xd9, _, letter, ..], _) if letter.is_ascii_alphabetic() => Kind::Other(FLAX),
        ([0xde, _, _, 0xa1..=0xbf, letter, ..], _) if letter.is_ascii_alphabetic() => Kind::Other(FLAX),
        _ => Kind::Safetensors,
    }
}

/// What a text is; None where the bytes are no text.
fn text_kind(bytes: &[u8]) -> Option<Kind> {
    let start = &bytes[..bytes.len().min(512)];
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let readable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    if start.len() < 8 || !start.iter().all(readable) {
        return None;
    }
    let text = String::from_utf8_lossy(start).trim_start().to_lowercase();
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| text.starts_with(beginning));
    // Of letters beyond ASCII in bytes that are no UTF-8 there is nothing to say.
    let is_text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(_) => true,
        // A letter may be cut at the end.
        Err(error) => error.error_len().is_none(),
    };
    Some(match () {
        () if begins(&["<!doctype html", "<html", "<head", "<body", "<script"]) => {
            Kind::Other("a web page (HTML) in place of the weights: the download has failed, or wants a login")
        }
        () if begins(&["<?xml", "<"]) => {
            Kind::Other("an XML text in place of the weights: the download has failed, or wants a login")
        }
        () if text.starts_with('{') => Kind::Json,
        () if is_text(start) => Kind::Other("a text, and no weights"),
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_first_bytes() {
        let of = |name: &str, bytes: &[u8]| of(Path::new(name), bytes);
        let told = |name: &str, bytes: &[u8], word: &str| match of(name, bytes) {
            Kind::Other(what) => assert!(what.contains(word), "{what}"),
            kind => panic!("{word}: {kind:?}"),
        };
        told("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer");
        told("a.pt", b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "web page");
        told("a.pt", b"<?xml version='1.0'?><Error/>", "XML");
        told("a.bin", b"Entry not found", "a text");
        told("a.bin", "Für diese Datei".as_bytes(), "a text");
        told("a.pt", b"\x1f\x8b\x08\0\0\0\0\0", "gzip");
        told("a.h5", b"\x89HDF\r\n\x1a\n\0\0", "HDF5");
        told("a.onnx", b"\x08\x07\x12\x07pytorch\x1a", "ONNX");
        told("a", b"\x08\x07\x12\x07pytorch\x1a", "ONNX");
        told("flax_model", b"\x85\xabtext_model\x81\xa1a", "Flax");
        told("a.gguf", b"GGUF\x03\0\0\0\0", "GGUF");
        let mut tar = vec![0; 600];
        tar[257..262].copy_from_slice(b"ustar");
        told("a.pt", &tar, "tar archive");
        assert_eq!(of("a", b"PK\x03\x04\0\0"), Kind::Archive);
        assert_eq!(of("a", b"\x80\x02\x8a\x0al"), Kind::Pickle);
        assert_eq!(of("a", b" {\"weight_map\": {}}"), Kind::Json);
        assert_eq!(of("a.safetensors", b"\x02\0\0\0\0\0\0\0{}"), Kind::Safetensors);
        // A length that begins as a zip archive does.
        assert_eq!(of("a", b"PK\x03\x04\0\0\0\0{}"), Kind::Safetensors);
        assert_eq!(of("a", b"\0\0\0\0\0\0\0\x10{}"), Kind::Safetensors);
    }
}
