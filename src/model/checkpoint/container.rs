//! The safetensors container: an 8-byte length, a JSON header, then the tensors' bytes (little-endian, row-major).
//!
//! Types and names of the header come from the `safetensors` crate. Reading and writing are our own for three
//! reasons: the file is mapped and not read, so that memory stays bounded by what the model needs
//! and not by what a file claims; duplicate names, which the crate merges, are an error; and the crate writes
//! metadata in a random order, while the same input shall give the same bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::write_atomically_with;
use crate::seal::{self, Seal};

/// Under this name the metadata says that there is a seal, and what it is: a file that says so and has none has lost it.
const SEALED: &str = "sealed";

/// The safetensors format's own limit, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// A safetensors file in the memory's address space whose header has been read and found sound. The system reads a tensor
/// when it is looked at. (Another program that cuts the file short meanwhile ends this one.)
pub struct Container {
    pub path: PathBuf,
    bytes: Mmap,
    /// Where the tensors' bytes begin.
    data: usize,
    pub metadata: BTreeMap<String, String>,
    /// By place in the file.
    pub tensors: Vec<(String, TensorInfo)>,
}

impl Container {
    /// Opens a file, or the one in a folder that Hugging Face or open_clip wrote, and reads its header; of a sealed one all, to hold it
    /// against its seal. Whatever is wrong with it is an error of input that names the file.
    pub fn open(path: &Path) -> Result<Container> {
        let path = &find_file(path)?;
        let reading = |cause: std::io::Error| Error::reading(path, cause);
        let wrong = |what: String| Error::input(format!("{}: {what}", path.display()));
        let file = File::open(path).map_err(reading)?;
        let about = file.metadata().map_err(reading)?;
        if !about.is_file() {
            return Err(wrong("not a file".into()));
        }
        let size = about.len();
        if size < 8 {
            return Err(wrong(format!("not a safetensors file: {size} bytes are too few for one")));
        }
        // SAFETY: the bytes are only read; a change of the file meanwhile changes numbers, which were not trusted anyway.
        let bytes = unsafe { Mmap::map(&file) }.map_err(reading)?;
        let pickle = bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&[0x80, 2]);
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        if length > LONGEST_HEADER {
            if pickle {
                return Err(wrong("a PyTorch pickle, not a safetensors file; convert it to safetensors first".into()));
            }
            return Err(wrong(format!(
                "not a safetensors file: the header's length is given as {length} bytes, and at most \
                 {LONGEST_HEADER} are allowed"
            )));
        }
        let Some(data_size) = (size - 8).checked_sub(length) else {
            return Err(wrong(format!(
                "the file is truncated: the header should take {length} bytes, and {} follow",
                size - 8
            )));
        };
        let data = 8 + length as usize;
        let header: Header = serde_json::from_slice(&bytes[8..data])
            .map_err(|cause| wrong(format!("not a safetensors file: cannot understand the header: {cause}")))?;
        let Header { metadata, mut tensors } = header;
        match seal::check(&bytes[..data], seal::HEADER_MARK, &bytes[data..]) {
            Seal::None if !metadata.contains_key(SEALED) => {}
            Seal::Whole => {}
            _ => return Err(wrong(seal::DAMAGED.to_string())),
        }
        tensors.sort_by(|(left_name, left), (right_name, right)| {
            left.data_offsets.cmp(&right.data_offsets).then_with(|| left_name.cmp(right_name))
        });
        check_places(&tensors, data_size).map_err(wrong)?;
        Ok(Container { path: path.to_path_buf(), bytes, data, metadata, tensors })
    }

    /// The bytes of tensor number `index`, at any alignment.
    pub fn bytes(&self, index: usize) -> &[u8] {
        let (begin, end) = self.tensors[index].1.data_offsets;
        &self.bytes[self.data..][begin..end]
    }
}

/// The files that open_clip and Hugging Face write beside their configurations.
pub const NAMES: [&str; 2] = ["open_clip_model.safetensors", "model.safetensors"];

/// The file with the weights: `path`, or the one that open_clip or Hugging Face put into the folder `path`.
fn find_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if let Some(found) = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(found);
    }
    let has = |name: &str| path.join(name).is_file();
    let what = if has("model.safetensors.index.json") {
        "its model is in several files; save it in one (save_pretrained with max_shard_size='100GB')"
    } else if has("pytorch_model.bin") || has("open_clip_pytorch_model.bin") {
        "its model is a PyTorch pickle; convert it to safetensors first"
    } else {
        "a folder, and without open_clip_model.safetensors or model.safetensors in it"
    };
    Err(Error::input(format!("{}: {what}", path.display())))
}

/// Tensors must follow one another without gaps from the first byte to the last, each as long as its shape and type
/// say.
fn check_places(tensors: &[(String, TensorInfo)], data_size: u64) -> Result<(), String> {
    let mut next = 0;
    for (name, info) in tensors {
        let name = printable(name);
        let (begin, end) = info.data_offsets;
        if begin != next || end < begin {
            return Err(format!(
                "tensor '{name}' is said to take bytes {begin} to {end}, where byte {next} should come first: \
                 tensors overlap or leave a gap"
            ));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |product, extent| product.checked_mul(*extent));
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - begin) {
            return Err(format!("tensor '{name}' cannot take {} bytes: it is {}", end - begin, describe(info)));
        }
        next = end;
    }
    match data_size {
        size if size < next as u64 => {
            Err(format!("the file is truncated: the tensors should take {next} bytes, and {size} follow the header"))
        }
        size if size > next as u64 => {
            Err(format!("the tensors take {next} bytes, and {size} follow the header: the file is too long"))
        }
        _ => Ok(()),
    }
}

/// A name from a file as it may stand in a message: not too long, and without control characters.
pub fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(100).flat_map(char::escape_debug).collect();
    if name.chars().nth(100).is_some() {
        text.push_str("...");
    }
    text
}

/// Type and shape, as `F32 [768, 512]`.
pub fn describe(info: &TensorInfo) -> String {
    match info.shape.len() {
        0..=8 => format!("{} {:?}", info.dtype, info.shape),
        dimensions => format!("{} of {dimensions} dimensions", info.dtype),
    }
}

/// The JSON header, with duplicate names refused.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name '{}' occurs twice", printable(&name))));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        let wrong = |cause| A::Error::custom(format!("tensor '{}': {cause}", printable(&name)));
                        let info = map.next_value().map_err(wrong)?;
                        header.tensors.push((name, info));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A tensor about to be written: `data` in the order of the file.
pub struct Outgoing<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Numbers<'a>,
}

/// Numbers of one type.
pub enum Numbers<'a> {
    U8(Cow<'a, [u8]>),
    F32(Cow<'a, [f32]>),
    U32(Cow<'a, [u32]>),
    U64(Cow<'a, [u64]>),
}

impl Numbers<'_> {
    pub fn dtype(&self) -> Dtype {
        match self {
            Numbers::U8(_) => Dtype::U8,
            Numbers::F32(_) => Dtype::F32,
            Numbers::U32(_) => Dtype::U32,
            Numbers::U64(_) => Dtype::U64,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Numbers::U8(values) => values.len(),
            Numbers::F32(values) => values.len(),
            Numbers::U32(values) => values.len(),
            Numbers::U64(values) => values.len(),
        }
    }

    /// As they lie in memory, which is the file's order: every machine that this program runs on is little-endian.
    fn bytes(&self) -> &[u8] {
        const { assert!(cfg!(target_endian = "little")) };
        match self {
            Numbers::U8(values) => values,
            Numbers::F32(values) => bytemuck::cast_slice(values),
            Numbers::U32(values) => bytemuck::cast_slice(values),
            Numbers::U64(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Writes a file atomically, with a seal in its metadata; the same input gives the same bytes. Tensors lie in the official writer's
/// order, the most aligned type first and then by name, so that every tensor is aligned in a mapped file.
pub fn write(path: &Path, metadata: &BTreeMap<String, String>, mut tensors: Vec<Outgoing>) -> Result<()> {
    tensors.sort_by(|a, b| b.data.dtype().cmp(&a.data.dtype()).then_with(|| a.name.cmp(&b.name)));
    let mut header = Map::new();
    let mut metadata = metadata.clone();
    metadata.insert(SEALED.to_string(), "sha256".to_string());
    metadata.insert(seal::KEY.to_string(), seal::BLANK.to_string());
    header.insert("__metadata__".into(), json!(metadata));
    let mut begin = 0;
    for tensor in &tensors {
        let end = begin + tensor.data.bytes().len();
        let info = json!({ "dtype": tensor.data.dtype(), "shape": tensor.shape, "data_offsets": [begin, end] });
        header.insert(tensor.name.clone(), info);
        begin = end;
    }
    let mut header = header_bytes(header);
    seal::close(&mut header, seal::HEADER_MARK, tensors.iter().map(|tensor| tensor.data.bytes()));
    write_atomically_with(path, |file| {
        file.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| file.write_all(tensor.data.bytes()))
    })
}

/// Writes a file of one tensor of bytes, atomically, as `parts` yields it: it is never in memory as a whole. An error of a part
/// ends it. Panics when the parts are not as long together as the shape says: a bug of the caller.
pub fn save_bytes(
    path: &Path,
    name: &str,
    shape: &[usize],
    parts: impl Iterator<Item = Result<Vec<u8>>>,
) -> Result<()> {
    let count = shape.iter().product::<usize>();
    let mut header = Map::new();
    header.insert(name.into(), json!({ "dtype": Dtype::U8, "shape": shape, "data_offsets": [0, count] }));
    let (mut failed, mut written) = (None, 0);
    let done = write_atomically_with(path, |file| {
        file.write_all(&header_bytes(header))?;
        for part in parts {
            // The part's own error takes the place of this one below.
            let bytes = part.map_err(|error| std::io::Error::other(failed.insert(error).to_string()))?;
            written += bytes.len();
            file.write_all(&bytes)?;
        }
        assert_eq!(written, count, "the parts make the tensor");
        Ok(())
    });
    failed.map_or(done, Err)
}

/// The length of the header, and the header, filled up with spaces so that what follows is aligned.
fn header_bytes(header: Map<String, Value>) -> Vec<u8> {
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat()
}
