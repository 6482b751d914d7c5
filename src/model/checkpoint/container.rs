//! Files of named tensors, mapped: safetensors here, PyTorch's in `torch.rs`, several files of either kind in `shards.rs`.
//!
//! A safetensors file is an 8-byte length, a JSON header, then the tensors' bytes (little-endian, row-major).
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

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use super::kind::{self, Kind};
use super::{shards, torch};
use crate::error::{Error, Result};
use crate::files::write_atomically_with;
use crate::seal::{self, Seal};

/// Under this name the metadata says that there is a seal, and what it is: a file that says so and has none has lost it.
const SEALED: &str = "sealed";

/// The safetensors format's own limit, in bytes.
pub(crate) const LONGEST_HEADER: u64 = 100_000_000;

/// Weights in the memory's address space: a safetensors file, one of PyTorch's, or several of them with their index, of which the
/// headers have been read and found sound. The system reads a tensor when it is looked at. (Another program that cuts a file short
/// meanwhile ends this one.)
pub(crate) struct Container {
    /// The file that was opened; of several files, their index.
    pub path: PathBuf,
    /// Every file that was read, the index among them.
    pub paths: Vec<PathBuf>,
    files: Vec<Mmap>,
    pub metadata: BTreeMap<String, String>,
    /// By place in the file.
    pub tensors: Vec<Tensor>,
    /// Warnings about the file, for the user.
    pub notes: Vec<String>,
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// In a file, from a byte on; where the numbers do not follow one another, how many lie between the places of each dimension.
    Bytes { file: usize, begin: usize, strides: Option<Vec<usize>> },
    /// A whole number that stands for itself.
    Number(i64),
}

impl Tensor {
    /// A tensor whose numbers follow one another from byte `begin` of the only file on.
    pub(crate) fn new(name: String, dtype: Dtype, shape: Vec<usize>, begin: usize) -> Tensor {
        Tensor { name, dtype, shape, place: Place::Bytes { file: 0, begin, strides: None } }
    }

    /// The same with as many numbers as `strides` say from one place to the next of each dimension.
    pub(crate) fn with_strides(mut self, strides: Vec<usize>) -> Tensor {
        let mut next = 1;
        let rows_first = self.shape.iter().zip(&strides).rev().all(|(extent, stride)| {
            let follows = *extent <= 1 || *stride == next;
            next = next.saturating_mul(*extent);
            follows
        });
        if let (Place::Bytes { strides: place, .. }, false) = (&mut self.place, rows_first) {
            *place = Some(strides);
        }
        self
    }

    /// A number that a pickle holds as such.
    pub(crate) fn number(name: String, value: i64) -> Tensor {
        Tensor { name, dtype: Dtype::I64, shape: Vec::new(), place: Place::Number(value) }
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Container {
    /// Opens a file of any kind that is read, or the one in a folder that Hugging Face or open_clip wrote, and reads its header.
    /// Whatever is wrong with it is an error of input that names the file.
    pub(crate) fn open(path: &Path) -> Result<Container> {
        let path = find_file(path)?;
        let bytes = map(&path)?;
        if kind::of(&path, &bytes) == Kind::Json {
            return shards::open(&path, &bytes);
        }
        Container::of_one(path, bytes)
    }

    /// The same for one file that holds tensors itself.
    pub(crate) fn open_one(path: &Path) -> Result<Container> {
        Container::of_one(path.to_path_buf(), map(path)?)
    }

    /// The same for a file that this program wrote.
    pub(crate) fn open_safetensors(path: &Path) -> Result<Container> {
        let bytes = map(path)?;
        let (tensors, metadata) = read_safetensors(&bytes).map_err(|what| at(path, what))?;
        Ok(Container::new(path.to_path_buf(), bytes, tensors, metadata, Vec::new()))
    }

    fn of_one(path: PathBuf, bytes: Mmap) -> Result<Container> {
        let (mut metadata, mut notes) = (BTreeMap::new(), Vec::new());
        let read = match kind::of(&path, &bytes) {
            Kind::Safetensors => read_safetensors(&bytes).map(|(tensors, found)| {
                metadata = found;
                tensors
            }),
            kind @ (Kind::Archive | Kind::Pickle) => {
                let read = if kind == Kind::Archive { torch::read_archive } else { torch::read_pickle };
                read(&bytes).map(|(tensors, found)| {
                    notes = found.into_iter().map(|note| format!("{}: {note}", path.display())).collect();
                    tensors
                })
            }
            Kind::Json => Err("a JSON text, and no weights".to_string()),
            Kind::Other(what) => Err(what.to_string()),
        };
        let tensors = read.map_err(|what| at(&path, what))?;
        Ok(Container::new(path, bytes, tensors, metadata, notes))
    }

    fn new(
        path: PathBuf,
        bytes: Mmap,
        tensors: Vec<Tensor>,
        metadata: BTreeMap<String, String>,
        notes: Vec<String>,
    ) -> Container {
        Container { paths: vec![path.clone()], path, files: vec![bytes], metadata, tensors, notes }
    }

    /// The tensors of several files as those of one, of which `index` says the files.
    pub(crate) fn join(index: PathBuf, parts: Vec<Container>) -> Container {
        let mut whole = Container {
            paths: vec![index.clone()],
            path: index,
            files: Vec::new(),
            metadata: BTreeMap::new(),
            tensors: Vec::new(),
            notes: Vec::new(),
        };
        for part in parts {
            let number = whole.files.len();
            whole.paths.extend(part.paths);
            whole.files.extend(part.files);
            whole.notes.extend(part.notes);
            whole.tensors.extend(part.tensors.into_iter().map(|mut tensor| {
                if let Place::Bytes { file, .. } = &mut tensor.place {
                    *file += number;
                }
                tensor
            }));
        }
        whole
    }

    /// The bytes of tensor number `index` of a safetensors file, at any alignment.
    pub(crate) fn bytes(&self, index: usize) -> &[u8] {
        let Tensor { dtype, shape, place, .. } = &self.tensors[index];
        let Place::Bytes { file, begin, strides: None } = place else { panic!("tensors of safetensors lie in a row") };
        &self.files[*file][*begin..][..shape.iter().product::<usize>() * dtype.bitsize() / 8]
    }

    /// Reads tensor number `index`, of a type of floating point, as f32, rows first.
    pub(crate) fn read_floats(&self, index: usize, target: &mut [f32]) {
        let Tensor { dtype, shape, place, .. } = &self.tensors[index];
        let Place::Bytes { file, begin, strides } = place else { panic!("whole numbers are no weights") };
        let (bytes, width) = (&self.files[*file][*begin..], dtype.bitsize() / 8);
        let Some(strides) = strides else {
            let bytes = &bytes[..target.len() * width];
            if *dtype == Dtype::F32 {
                return bytemuck::cast_slice_mut(target).copy_from_slice(bytes);
            }
            for (value, raw) in target.iter_mut().zip(bytes.chunks_exact(width)) {
                *value = float(*dtype, raw);
            }
            return;
        };
        let (mut place, mut at) = (vec![0; shape.len()], 0);
        for value in target {
            *value = float(*dtype, &bytes[at * width..][..width]);
            // The next place: the last dimension first.
            for dimension in (0..shape.len()).rev() {
                place[dimension] += 1;
                at += strides[dimension];
                if place[dimension] < shape[dimension] {
                    break;
                }
                at -= strides[dimension] * shape[dimension];
                place[dimension] = 0;
            }
        }
    }

    /// The one whole number that a tensor is, of any type; None where it is something else.
    pub(crate) fn whole_number(&self, index: usize) -> Option<i64> {
        let tensor = &self.tensors[index];
        let (file, begin) = match tensor.place {
            Place::Number(value) => return Some(value),
            Place::Bytes { file, begin, .. } if tensor.len() == 1 && tensor.shape.len() <= 1 => (file, begin),
            Place::Bytes { .. } => return None,
        };
        let raw = &self.files[file][begin..][..tensor.dtype.bitsize() / 8];
        let mut wide = [0; 8];
        match tensor.dtype {
            Dtype::I64 | Dtype::U64 | Dtype::I32 | Dtype::U32 | Dtype::I16 | Dtype::U16 | Dtype::I8 | Dtype::U8 => {
                wide[..raw.len()].copy_from_slice(raw);
                Some(i64::from_le_bytes(wide))
            }
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64 => {
                let value = float(tensor.dtype, raw);
                (value.fract() == 0.0 && value.abs() < 1e9).then_some(value as i64)
            }
            _ => None,
        }
    }
}

/// One number of a type of floating point.
fn float(dtype: Dtype, raw: &[u8]) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_le_bytes([raw[0], raw[1]]).to_f32(),
        Dtype::BF16 => bf16::from_le_bytes([raw[0], raw[1]]).to_f32(),
        Dtype::F32 => f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]),
        _ => f64::from_le_bytes([raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], raw[6], raw[7]]) as f32,
    }
}

fn at(path: &Path, what: String) -> Error {
    Error::input(format!("{}: {what}", path.display()))
}

/// A file in the memory's address space.
fn map(path: &Path) -> Result<Mmap> {
    let reading = |cause: std::io::Error| Error::reading(path, cause);
    let file = File::open(path).map_err(reading)?;
    let about = file.metadata().map_err(reading)?;
    if !about.is_file() {
        return Err(at(path, "not a file".into()));
    }
    let size = about.len();
    if size < 8 {
        let empty = if size == 0 { ": the file is empty" } else { "" };
        return Err(at(path, format!("not a safetensors file: {size} bytes are too few for one{empty}")));
    }
    // SAFETY: the bytes are only read; a change of the file meanwhile changes numbers, which were not trusted anyway.
    unsafe { Mmap::map(&file) }.map_err(reading)
}

/// The tensors and the metadata of a safetensors file.
fn read_safetensors(bytes: &[u8]) -> Result<(Vec<Tensor>, BTreeMap<String, String>), String> {
    let size = bytes.len() as u64;
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    if length > LONGEST_HEADER {
        return Err(format!(
            "not a safetensors file: the header's length is given as {length} bytes, and at most {LONGEST_HEADER} are \
             allowed"
        ));
    }
    let Some(data_size) = (size - 8).checked_sub(length) else {
        return Err(format!("the file is truncated: the header should take {length} bytes, and {} follow", size - 8));
    };
    let data = 8 + length as usize;
    let header: Header = serde_json::from_slice(&bytes[8..data])
        .map_err(|cause| format!("not a safetensors file: cannot understand the header: {cause}"))?;
    let Header { metadata, mut tensors } = header;
    tensors.sort_by(|(left_name, left), (right_name, right)| {
        left.data_offsets.cmp(&right.data_offsets).then_with(|| left_name.cmp(right_name))
    });
    check_places(&tensors, data_size)?;
    match seal::check(&bytes[..data], seal::HEADER_MARK, &bytes[data..]) {
        Seal::Whole => {}
        Seal::None if !metadata.contains_key(SEALED) => {}
        _ => return Err(seal::DAMAGED.to_string()),
    }
    let tensors = tensors.into_iter().map(|(name, info)| {
        let begin = data + info.data_offsets.0;
        Tensor::new(name, info.dtype, info.shape, begin)
    });
    Ok((tensors.collect(), metadata))
}

/// The files that open_clip and Hugging Face write beside their configurations, in the order in which one is taken.
pub(crate) const NAMES: [&str; 7] = [
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin.index.json",
];

/// The file with the weights: `path`, or the one that open_clip or Hugging Face put into the folder `path`.
fn find_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if let Some(found) = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(found);
    }
    let what = "a folder, and without open_clip_model.safetensors or model.safetensors in it, nor a pytorch_model.bin";
    Err(at(path, what.into()))
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
            return Err(format!(
                "tensor '{name}' cannot take {} bytes: it is {}",
                end - begin,
                describe(info.dtype, &info.shape)
            ));
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
pub(crate) fn printable(name: &str) -> String {
    let mut text: String = name.chars().take(100).flat_map(char::escape_debug).collect();
    if name.chars().nth(100).is_some() {
        text.push_str("...");
    }
    text
}

/// Type and shape, as `F32 [768, 512]`.
pub(crate) fn describe(dtype: Dtype, shape: &[usize]) -> String {
    match shape.len() {
        0..=8 => format!("{dtype} {shape:?}"),
        dimensions => format!("{dtype} of {dimensions} dimensions"),
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
                        // Python's writer may say that there is none.
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
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
pub(crate) struct Outgoing<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Numbers<'a>,
}

/// Numbers of one type.
pub(crate) enum Numbers<'a> {
    U8(Cow<'a, [u8]>),
    F32(Cow<'a, [f32]>),
    U32(Cow<'a, [u32]>),
    U64(Cow<'a, [u64]>),
}

impl Numbers<'_> {
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Numbers::U8(_) => Dtype::U8,
            Numbers::F32(_) => Dtype::F32,
            Numbers::U32(_) => Dtype::U32,
            Numbers::U64(_) => Dtype::U64,
        }
    }

    pub(crate) fn len(&self) -> usize {
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
pub(crate) fn write(path: &Path, metadata: &BTreeMap<String, String>, mut tensors: Vec<Outgoing>) -> Result<()> {
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
