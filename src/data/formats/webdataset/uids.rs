//! Sorted lists of UIDs: which pairs of DataComp's pool are of which year.
//!
//! A list is a file of numpy (`.npy`) with one UID of 128 bits after the other, as two numbers of 64 bits, the upper half first: an
//! array of pairs (`dtype("u8,u8")`, as DataComp's tools write it) or one of shape `[n, 2]`. A list may be larger than the memory: it
//! is mapped, and each UID is found by bisection.

use std::fs::File;
use std::path::Path;
use std::sync::LazyLock;

use memmap2::Mmap;
use regex::Regex;

use crate::error::{Error, Result};

/// Bytes of a UID.
const WIDTH: usize = 16;
/// UIDs that are looked at, at most, before a list counts as sorted. Each is one in a shorter list, and spread evenly over a longer one.
const MOST_LOOKED_AT: usize = 1 << 16;

static HEADER: LazyLock<Regex> = LazyLock::new(|| {
    let pattern =
        r"(?s)^\s*\{\s*'descr':\s*(.+?),\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([^)]*)\),?\s*\}\s*$";
    Regex::new(pattern).expect("the pattern is fine")
});
static PAIR: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\[\('[^']*','<u8'\),\('[^']*','<u8'\),?\]$").expect("the pattern is fine"));

/// The UID that a text of 32 hexadecimal digits is.
pub(crate) fn parse(text: &str) -> Option<u128> {
    let is_one = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| u128::from_str_radix(text, 16).ok())?
}

/// The UIDs of a file, ascending.
#[derive(Debug)]
pub(crate) struct UidList {
    map: Mmap,
    /// Bytes of the header.
    begin: usize,
    /// How many UIDs there are.
    pub len: usize,
}

impl UidList {
    /// Fails when the file cannot be read, is none of numpy's, holds other numbers, ends before they do, or is not sorted.
    pub(crate) fn open(path: &Path) -> Result<UidList> {
        let wrong = |cause: std::io::Error| Error::reading(path, cause);
        let file = File::open(path).map_err(wrong)?;
        // An empty file cannot be mapped everywhere, and is no list.
        if file.metadata().map_err(wrong)?.len() == 0 {
            return Err(Error::reading(path, "the file is empty"));
        }
        // SAFETY: a list must not change while it is read; as with any mapped file, one that shrinks ends the process.
        let map = unsafe { Mmap::map(&file) }.map_err(wrong)?;
        let (begin, len) = header(&map).map_err(|what| Error::reading(path, what))?;
        let list = UidList { map, begin, len };
        match list.first_out_of_order() {
            Some(place) => Err(Error::reading(
                path,
                format!(
                    "the UIDs are not sorted: {:032x}, number {place} from 0, comes before a smaller one; sort them (numpy.sort of an array of \
                     dtype 'u8,u8')",
                    list.get(place)
                ),
            )),
            None => Ok(list),
        }
    }

    fn get(&self, place: usize) -> u128 {
        let at = self.begin + place * WIDTH;
        let half = |at: usize| u64::from_le_bytes(self.map[at..at + 8].try_into().expect("eight bytes"));
        u128::from(half(at)) << 64 | u128::from(half(at + 8))
    }

    pub(crate) fn holds(&self, uid: u128) -> bool {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).cmp(&uid) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }

    /// A place whose UID is larger than the next that was looked at.
    fn first_out_of_order(&self) -> Option<usize> {
        let step = self.len.div_ceil(MOST_LOOKED_AT).max(1);
        let places = (0..self.len).step_by(step).chain(self.len.checked_sub(1));
        places.clone().zip(places.skip(1)).find(|(a, b)| self.get(*a) > self.get(*b)).map(|(a, _)| a)
    }
}

/// How many bytes the header of a list has, and how many UIDs follow; else what is wrong.
fn header(bytes: &[u8]) -> Result<(usize, usize), String> {
    let none = || "this is no array of numpy (.npy)".to_string();
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(none)?;
    let (before, len) = match rest {
        [1, _, a, b, ..] => (10, u32::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([*a, *b, *c, *d])),
        [version, ..] if *version > 3 => return Err(format!("version {version} of numpy's format; 1 to 3 are known")),
        _ => return Err(none()),
    };
    let end = before + len as usize;
    let text = bytes.get(before..end).ok_or("the file ends within its header")?;
    let text = std::str::from_utf8(text).map_err(|_| none())?;
    let expected = "expected UIDs, an array of pairs of 64-bit numbers (dtype 'u8,u8', or 'u8' of shape [n, 2])";
    let shown = || text.trim().chars().take(120).collect::<String>();
    let parts = HEADER.captures(text).ok_or_else(|| format!("found the header {}, {expected}", shown()))?;
    let kind: String = parts[1].chars().filter(|letter| !letter.is_whitespace()).collect();
    let shape: Option<Vec<usize>> =
        parts[3].split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect();
    let len = match shape.as_deref() {
        Some([len]) if PAIR.is_match(&kind) => *len,
        Some([len, 2]) if kind == "'<u8'" && &parts[2] == "False" => *len,
        _ => return Err(format!("found the header {}, {expected}", shown())),
    };
    let needed = len.checked_mul(WIDTH).and_then(|bytes| bytes.checked_add(end));
    match needed {
        Some(needed) if needed <= bytes.len() => Ok((end, len)),
        _ => Err(format!("the file is cut short: {len} UIDs do not fit its {} bytes", bytes.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What numpy writes; `make_uids.py` beside them does.
    const PAIRS: &[u8] = include_bytes!("../../../../tests/fixtures/webdataset/pairs.npy");
    const COLUMNS: &[u8] = include_bytes!("../../../../tests/fixtures/webdataset/columns.npy");

    fn opened(bytes: &[u8]) -> Result<UidList> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2016.npy");
        std::fs::write(&path, bytes).unwrap();
        UidList::open(&path)
    }

    #[test]
    fn lists_of_numpy_hold_what_numpy_put_there() {
        let known = [
            "0000000000000000ffffffffffffffff",
            "00000000000000010000000000000000",
            "f0e1d2c3b4a5968778695a4b3c2d1e0f",
        ];
        for bytes in [PAIRS, COLUMNS] {
            let list = opened(bytes).unwrap();
            assert_eq!(list.len, 3);
            for uid in known {
                assert!(list.holds(parse(uid).unwrap()), "{uid}");
            }
            // The halves the other way round, and neighbours.
            for uid in [
                "ffffffffffffffff0000000000000000",
                "78695a4b3c2d1e0ff0e1d2c3b4a59687",
                "00000000000000010000000000000001",
            ] {
                assert!(!list.holds(parse(uid).unwrap()), "{uid}");
            }
        }
        assert_eq!(parse("f0e1d2c3b4a5968778695a4b3c2d1e0"), None);
        assert_eq!(parse("+0e1d2c3b4a5968778695a4b3c2d1e0f"), None);
    }

    #[test]
    fn other_files_are_refused_in_words() {
        let message = |bytes: &[u8]| opened(bytes).unwrap_err().to_string();
        assert!(message(b"").ends_with("the file is empty"));
        assert!(message(b"\x80\x04pickle").ends_with("no array of numpy (.npy)"));
        assert!(message(&PAIRS[..PAIRS.len() - 1]).contains("cut short: 3 UIDs do not fit its"));
        assert!(message(&PAIRS[..40]).ends_with("ends within its header"));
        let text = String::from_utf8_lossy(&COLUMNS[..128]).replace("<u8", "<f4");
        let floats = [b"\x93NUMPY\x01\x00v\x00", &text.as_bytes()[text.find('{').unwrap()..], &COLUMNS[128..]].concat();
        assert!(
            message(&floats).contains("'<f4'") && message(&floats).contains("expected UIDs"),
            "{}",
            message(&floats)
        );
        let mut unsorted = PAIRS.to_vec();
        let tail = unsorted.len() - 3 * WIDTH;
        unsorted[tail..].rotate_left(WIDTH);
        assert!(
            message(&unsorted).contains("not sorted: f0e1d2c3b4a5968778695a4b3c2d1e0f, number 1"),
            "{}",
            message(&unsorted)
        );
    }

    proptest! {
        #[test]
        fn damaged_lists_are_harmless(place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = PAIRS.to_vec();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(list) = opened(&bytes) {
                list.holds(1);
            }
        }
    }
}
