//! How bytes and texts are changed.

use perennial::rng::{Rng, below};
use serde_json::{Value, json};

/// Numbers that a text may hold and few expect.
const EXTREME: [&str; 12] = [
    "0",
    "-1",
    "1",
    "65536",
    "178956971",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "-0.0",
    "1e-400",
];

/// Changes bytes as files are changed by accident and by malice: bits flip, numbers become extreme, pieces are lost, doubled,
/// written otherwise, moved, taken from `others`, and the end is cut off.
pub fn mutate(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    let mut draw = |bound: usize| below(rng, bound.max(1) as u64) as usize;
    for _ in 0..1 + draw(4) {
        let (len, at) = (bytes.len(), draw(bytes.len()));
        let most = 1 + draw(64);
        let some = 1 + draw(most);
        let end = (at + some).min(len);
        match draw(11) {
            0 if len > 0 => bytes[at] ^= 1 << draw(8),
            1 if len > 0 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'\t', b'"', b'9', b'-'][draw(10)],
            2 if len > 0 => {
                // An extreme number, as a file would write it.
                let number = [0, 1, u64::MAX, u64::MAX / 2, 1 << 31, u64::from(u32::MAX), 1 << 60][draw(7)];
                let width = [2, 4, 8][draw(3)].min(len - at);
                let written = if draw(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let from = if draw(2) == 0 { 0 } else { 8 - width };
                bytes[at..at + width].copy_from_slice(&written[from..from + width]);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].to_vec();
                let to = draw(len + 1);
                bytes.splice(to..to, piece);
            }
            6 => {
                let piece: Vec<u8> = (0..some).map(|_| draw(256) as u8).collect();
                bytes.splice(at..at, piece);
            }
            7 => bytes[at..end].iter_mut().for_each(|byte| *byte = draw(256) as u8),
            8 if !others.is_empty() => {
                let other = others[draw(others.len())];
                let from = draw(other.len());
                let piece = &other[from..(from + some).min(other.len())];
                bytes.splice(at..end, piece.iter().copied());
            }
            9 => {
                // An extreme number, as a text would write it, in place of one.
                let Some(first) = bytes[at.min(len)..].iter().position(u8::is_ascii_digit).map(|place| at + place)
                else {
                    continue;
                };
                let after = bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = EXTREME[draw(EXTREME.len())];
                bytes.splice(first..first + after, number.bytes());
            }
            _ => {
                // A line, where there are lines, stands twice.
                let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
                let stop = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(len, |place| at + place + 1);
                let line = bytes[start..stop.min(start + 4096)].to_vec();
                bytes.splice(start..start, line);
            }
        }
    }
}

/// Changes the values of a JSON text, of which it remains one; half the time its bytes.
pub fn mutate_json(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    let Some(mut value) = serde_json::from_slice::<Value>(bytes).ok().filter(|_| below(rng, 2) == 0) else {
        return mutate(bytes, others, rng);
    };
    for _ in 0..1 + below(rng, 3) {
        let mut place = &mut value;
        loop {
            let len = place.as_array().map_or(0, Vec::len) + place.as_object().map_or(0, |object| object.len());
            if len == 0 || below(rng, 8) == 0 {
                break;
            }
            let at = below(rng, len as u64) as usize;
            place = match place {
                Value::Array(items) => &mut items[at],
                Value::Object(object) => object.values_mut().nth(at).expect("there are more"),
                _ => unreachable!("others hold nothing"),
            };
        }
        let other = [Value::Null, json!(""), json!([]), json!({}), json!(true), json!("0\u{0}é")];
        match (below(rng, 4), &mut *place) {
            (0, place) => *place = other[below(rng, other.len() as u64) as usize].clone(),
            (1, Value::Array(items)) if !items.is_empty() => items.push(items[0].clone()),
            (1, Value::Array(items)) => drop(items.pop()),
            (1, Value::Object(object)) => {
                let key = object.keys().next().cloned();
                key.map(|key| object.remove(&key));
            }
            (2, Value::Number(number)) => {
                *place = json!(number.as_i64().unwrap_or_default().wrapping_add([-1, 1][below(rng, 2) as usize]));
            }
            (_, place) => {
                let number = EXTREME[below(rng, EXTREME.len() as u64) as usize];
                *place = serde_json::from_str(number).unwrap_or_default();
            }
        }
    }
    *bytes = value.to_string().into_bytes();
}

/// PNG has a checksum for every chunk: without a right one no mutation would get past it.
pub fn mend_png(bytes: &mut [u8]) {
    let mut at = 8;
    while bytes.len() >= at + 12 {
        let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if bytes.len() - at - 12 < len {
            return;
        }
        let mut checksum = flate2::Crc::new();
        checksum.update(&bytes[at + 4..at + 8 + len]);
        bytes[at + 8 + len..at + 12 + len].copy_from_slice(&checksum.sum().to_be_bytes());
        at += 12 + len;
    }
}

/// A file without its seal, and a directory or a log from before there were any: with one, every change would end there.
pub fn unsealed(mut bytes: Vec<u8>) -> Vec<u8> {
    for (sealed, plain) in [
        ("\"seal\":", "\"leas\":"),
        ("\"sealed\":", "\"delaes\":"),
        ("\"format\": 2", "\"format\": 1"),
        ("\"crc\":\"", "\"rcr\":\""),
        ("\"time\":\"2", "\"emit\":\"2"),
    ] {
        let places: Vec<usize> =
            (0..bytes.len()).filter(|place| bytes[*place..].starts_with(sealed.as_bytes())).collect();
        places.iter().for_each(|place| bytes[*place..*place + plain.len()].copy_from_slice(plain.as_bytes()));
    }
    bytes
}
