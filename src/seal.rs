//! Files that hold a digest of themselves, so that a single bit that flipped on a disk or on a network is noticed.
//!
//! A seal is the SHA-256 of the whole file in hexadecimal, with zeros in place of the seal itself. It stands behind a mark that its
//! format can carry: a member of a JSON object, a comment of a TOML file, a string of a safetensors file's metadata. A line of a log has
//! a CRC-32 of its own, since its file grows.

use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Where a seal will stand.
pub(crate) const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Under this name a JSON object, or the metadata of a safetensors file, has its seal.
pub(crate) const KEY: &str = "seal";

/// What stands before the seal of a pretty-printed JSON object, of TOML, and of a safetensors file's header.
const JSON_MARK: &str = "\"seal\": \"";
const TOML_MARK: &str = "# seal = \"";
pub(crate) const HEADER_MARK: &str = "\"seal\":\"";

/// What stands before the checksum of a line of a log, and behind it.
const LINE_MARK: &str = ",\"crc\":\"";
const LINE_END: &str = "\"}";

/// What a file's seal says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// The file is as it was written.
    Whole,
    /// It has none: another program's, or an earlier version's.
    None,
    /// It is not as it was written.
    Broken,
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The place of the last seal, or of the blank for one, behind `mark`.
fn place(bytes: &[u8], mark: &str) -> Option<Range<usize>> {
    let at = bytes.windows(mark.len()).rposition(|window| window == mark.as_bytes())? + mark.len();
    let place = at..at + BLANK.len();
    bytes.get(place.clone())?.iter().all(u8::is_ascii_alphanumeric).then_some(place)
}

/// Puts the seal into the blank behind `mark` in `head`, the beginning of a file that goes on with `rest`. Panics where there is no blank:
/// a bug of the caller.
pub(crate) fn close<'a>(head: &mut [u8], mark: &str, rest: impl IntoIterator<Item = &'a [u8]>) {
    let place = place(head, mark).expect("a blank for the seal");
    let mut hash = Sha256::new_with_prefix(&*head);
    rest.into_iter().for_each(|piece| hash.update(piece));
    head[place].copy_from_slice(hex(hash).as_bytes());
}

/// Holds a file that begins with `head` and goes on with `rest` against the seal behind `mark` in its head.
pub(crate) fn check(head: &[u8], mark: &str, rest: &[u8]) -> Seal {
    let Some(place) = place(head, mark) else { return Seal::None };
    let mut hash = Sha256::new();
    for piece in [&head[..place.start], BLANK.as_bytes(), &head[place.end..], rest] {
        hash.update(piece);
    }
    if hex(hash).as_bytes() == &head[place] { Seal::Whole } else { Seal::Broken }
}

/// A JSON object, pretty-printed, with its seal as last member. Panics where `value` is no object of plain values: a bug of the caller.
pub fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut value = serde_json::to_value(value).expect("plain values");
    value.as_object_mut().expect("an object").insert(KEY.to_string(), BLANK.into());
    let mut text = serde_json::to_vec_pretty(&value).expect("plain values");
    text.push(b'\n');
    close(&mut text, JSON_MARK, []);
    text
}

/// Reads what [`to_json`] wrote, or an object without a seal; what is not as it was written is an error that says so.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Seal), String> {
    match check(bytes, JSON_MARK, &[]) {
        Seal::Broken => Err(DAMAGED.to_string()),
        seal => match serde_json::from_slice(bytes) {
            Ok(value) => Ok((value, seal)),
            Err(cause) => Err(cause.to_string()),
        },
    }
}

/// What is said of a file whose seal is broken.
pub(crate) const DAMAGED: &str = "it is damaged: its bytes are not those that were written (a flipped bit, or an edit)";

/// TOML with its seal as a comment in the last line.
pub(crate) fn to_toml(text: &str) -> Vec<u8> {
    let mut text = format!("{text}{TOML_MARK}{BLANK}\"\n").into_bytes();
    close(&mut text, TOML_MARK, []);
    text
}

/// What the seal in the last line of TOML says. A last line that is another comment was a seal once.
pub(crate) fn check_toml(bytes: &[u8]) -> Seal {
    match check(bytes, TOML_MARK, &[]) {
        Seal::None if bytes.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).is_some_and(is_comment) => {
            Seal::Broken
        }
        seal => seal,
    }
}

fn is_comment(line: &[u8]) -> bool {
    line.starts_with(b"#")
}

/// An object as a line of a log, without the end of the line, its checksum as last member.
pub(crate) fn to_line(value: &Value) -> String {
    let text = value.to_string();
    let open = text.strip_suffix('}').expect("an object");
    format!("{open}{LINE_MARK}{:08x}{LINE_END}", crc32fast::hash(open.as_bytes()))
}

/// Reads what [`to_line`] wrote; a line without a checksum is one of an earlier version, which had no times either. None where it is
/// damaged.
pub(crate) fn from_line(line: &[u8]) -> Option<Value> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let value: Value = serde_json::from_slice(line).ok()?;
    let tail = LINE_MARK.len() + 8 + LINE_END.len();
    let sealed = line
        .len()
        .checked_sub(tail)
        .map(|at| line.split_at(at))
        .filter(|(_, tail)| tail.starts_with(LINE_MARK.as_bytes()));
    match sealed {
        Some((open, tail)) => {
            let written = &tail[LINE_MARK.len()..][..8];
            (format!("{:08x}", crc32fast::hash(open)).as_bytes() == written).then_some(value)
        }
        None => (value.is_object() && value.get("time").is_none()).then_some(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Flips each bit in turn, and asks whether that goes unnoticed.
    fn unnoticed(bytes: &[u8], passes: impl Fn(&[u8]) -> bool) -> Vec<(usize, u8)> {
        let mut bytes = bytes.to_vec();
        let mut found = Vec::new();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                if passes(&bytes) {
                    found.push((at, bit));
                }
                bytes[at] ^= 1 << bit;
            }
        }
        found
    }

    #[test]
    fn a_flipped_bit_of_json_breaks_its_seal_or_takes_it_away() {
        let written = to_json(&json!({ "method": "gcl", "matrix": [[0.25, null]], "name": "a \"seal\": \"b" }));
        let (read, seal): (Value, Seal) = from_json(&written).unwrap();
        assert_eq!((read["matrix"][0][0].as_f64(), seal), (Some(0.25), Seal::Whole));
        let passes = |bytes: &[u8]| matches!(from_json::<Value>(bytes), Ok((_, Seal::Whole)));
        assert!(unnoticed(&written, passes).is_empty());
        // Where the mark itself is hit, the file has no seal any more; its reader knows whether it must have one.
        assert_eq!(from_json::<Value>(b"{\"a\": 1}"), Ok((json!({ "a": 1 }), Seal::None)));
    }

    #[test]
    fn a_flipped_bit_of_toml_is_noticed() {
        let written = to_toml("method = \"gcl\"\n\n[train]\nbatch = 32\n");
        assert_eq!(check_toml(&written), Seal::Whole);
        let passes = |bytes: &[u8]| {
            let parses = std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<toml::Table>().is_ok());
            parses && check_toml(bytes) != Seal::Broken
        };
        assert!(unnoticed(&written, passes).is_empty());
        assert_eq!(check_toml(b"method = \"gcl\"\n"), Seal::None);
    }

    #[test]
    fn a_flipped_bit_of_a_line_is_noticed() {
        let written =
            to_line(&json!({ "time": "2026-01-01T00:00:00Z", "step": 1, "loss": 2.5, "weights": { "cat": 0.5 } }));
        assert_eq!(from_line(written.as_bytes()).unwrap()["loss"].as_f64(), Some(2.5));
        assert!(unnoticed(written.as_bytes(), |line| from_line(line).is_some()).is_empty());
        assert_eq!(from_line(b"{\"step\":1}"), Some(json!({ "step": 1 })));
        for cut in 0..written.len() {
            assert_eq!(from_line(&written.as_bytes()[..cut]), None, "{cut} bytes");
        }
    }
}
