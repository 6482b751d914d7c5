//! A general container of named tensors: the state of a run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use super::container::{self, Container, Numbers, Outgoing, printable};
use crate::error::{Error, Result};

/// Named tensors of u8, f32, u32 and u64, and strings beside them; a safetensors file on disk.
#[derive(Default)]
pub struct TensorFile {
    /// Where it came from, for errors.
    origin: String,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, (Vec<usize>, Numbers<'static>)>,
}

impl TensorFile {
    /// Without tensors or metadata: to be filled and saved.
    pub fn new() -> TensorFile {
        TensorFile { origin: "tensors in memory".into(), ..TensorFile::default() }
    }

    /// Reads a whole file. It is an error of input if it is no sound safetensors file, or holds a type other than
    /// u8, f32, u32, u64.
    pub fn load(path: &Path) -> Result<TensorFile> {
        let container = Container::open_safetensors(path)?;
        let origin = path.display().to_string();
        let mut tensors = BTreeMap::new();
        for index in 0..container.tensors.len() {
            let tensor = container.tensors[index].clone();
            let (name, shape) = (tensor.name, tensor.shape);
            let bytes = container.bytes(index);
            let numbers = match tensor.dtype {
                Dtype::U8 => Numbers::U8(bytes.to_vec().into()),
                Dtype::F32 => Numbers::F32(bytemuck::pod_collect_to_vec(bytes).into()),
                Dtype::U32 => Numbers::U32(bytemuck::pod_collect_to_vec(bytes).into()),
                Dtype::U64 => Numbers::U64(bytemuck::pod_collect_to_vec(bytes).into()),
                other => {
                    let name = printable(&name);
                    let message = format!("{origin}: tensor '{name}' is of type {other}; expected U8, F32, U32 or U64");
                    return Err(Error::input(message));
                }
            };
            tensors.insert(name, (shape, numbers));
        }
        Ok(TensorFile { origin, metadata: container.metadata, tensors })
    }

    /// Writes atomically; the same content gives the same bytes, whatever the order of insertion.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors = self.tensors.iter().map(|(name, (shape, numbers))| Outgoing {
            name: name.clone(),
            shape: shape.clone(),
            data: match numbers {
                Numbers::U8(values) => Numbers::U8(Cow::Borrowed(values)),
                Numbers::F32(values) => Numbers::F32(Cow::Borrowed(values)),
                Numbers::U32(values) => Numbers::U32(Cow::Borrowed(values)),
                Numbers::U64(values) => Numbers::U64(Cow::Borrowed(values)),
            },
        });
        container::write(path, &self.metadata, tensors.collect())
    }

    /// Puts a tensor in, in place of one of the same name. Panics when the shape does not fit: a bug of the caller.
    pub fn insert_f32(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        self.insert(name, shape, Numbers::F32(values.into()));
    }

    /// As [`TensorFile::insert_f32`].
    pub fn insert_u8(&mut self, name: &str, shape: &[usize], values: Vec<u8>) {
        self.insert(name, shape, Numbers::U8(values.into()));
    }

    /// As [`TensorFile::insert_f32`].
    pub fn insert_u32(&mut self, name: &str, shape: &[usize], values: Vec<u32>) {
        self.insert(name, shape, Numbers::U32(values.into()));
    }

    /// As [`TensorFile::insert_f32`].
    pub fn insert_u64(&mut self, name: &str, shape: &[usize], values: Vec<u64>) {
        self.insert(name, shape, Numbers::U64(values.into()));
    }

    fn insert(&mut self, name: &str, shape: &[usize], numbers: Numbers<'static>) {
        assert_eq!(shape.iter().product::<usize>(), numbers.len(), "tensor '{name}' has shape {shape:?}");
        self.tensors.insert(name.to_string(), (shape.to_vec(), numbers));
    }

    /// Sets the string under `key`.
    pub fn insert_metadata(&mut self, key: &str, value: impl Into<String>) {
        self.metadata.insert(key.to_string(), value.into());
    }

    /// The string under `key`. It is an error of input if there is none.
    pub fn metadata(&self, key: &str) -> Result<&str> {
        let value = self.metadata.get(key);
        value.map(String::as_str).ok_or_else(|| Error::input(format!("{}: no metadata '{key}'", self.origin)))
    }

    /// Whether a tensor has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Names of all tensors, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor. It is an error of input if there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.find(name)?.0)
    }

    /// The tensor of that name. It is an error of input if it is missing or of another shape or type: the error
    /// names the file, the tensor, what was expected and what was found.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<&[f32]> {
        match self.find(name)? {
            (found, Numbers::F32(values)) if found == shape => Ok(values),
            found => Err(self.unlike(name, Dtype::F32, shape, found)),
        }
    }

    /// As [`TensorFile::f32`].
    pub fn u8(&self, name: &str, shape: &[usize]) -> Result<&[u8]> {
        match self.find(name)? {
            (found, Numbers::U8(values)) if found == shape => Ok(values),
            found => Err(self.unlike(name, Dtype::U8, shape, found)),
        }
    }

    /// As [`TensorFile::f32`].
    pub fn u32(&self, name: &str, shape: &[usize]) -> Result<&[u32]> {
        match self.find(name)? {
            (found, Numbers::U32(values)) if found == shape => Ok(values),
            found => Err(self.unlike(name, Dtype::U32, shape, found)),
        }
    }

    /// As [`TensorFile::f32`].
    pub fn u64(&self, name: &str, shape: &[usize]) -> Result<&[u64]> {
        match self.find(name)? {
            (found, Numbers::U64(values)) if found == shape => Ok(values),
            found => Err(self.unlike(name, Dtype::U64, shape, found)),
        }
    }

    fn find(&self, name: &str) -> Result<&(Vec<usize>, Numbers<'static>)> {
        self.tensors.get(name).ok_or_else(|| Error::input(format!("{}: no tensor '{name}'", self.origin)))
    }

    fn unlike(&self, name: &str, dtype: Dtype, shape: &[usize], found: &(Vec<usize>, Numbers)) -> Error {
        Error::input(format!(
            "{}: tensor '{name}': expected {dtype} {shape:?}, found {} {:?}",
            self.origin,
            found.1.dtype(),
            found.0
        ))
    }
}
