//! Reading the reference tensors under `tests/fixtures/`.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

pub struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    /// `tests/fixtures/<name>.safetensors`.
    pub fn open(name: &str) -> Fixture {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"));
        Fixture { bytes: std::fs::read(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display())) }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    #[allow(dead_code)]
    pub fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// What follows `prefix` in the names that begin with it, in alphabetical order.
    #[allow(dead_code)]
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = self.tensors();
        let mut names: Vec<String> =
            tensors.names().into_iter().filter_map(|name| name.strip_prefix(prefix)).map(String::from).collect();
        names.sort_unstable();
        names
    }

    #[allow(dead_code)]
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap().shape().to_vec()
    }

    /// f32 or f64 values.
    pub fn f64(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|cause| panic!("{name}: {cause}"));
        match tensor.dtype() {
            Dtype::F64 => tensor.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F32 => tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    /// i32 values that are not negative.
    pub fn u32(&self, name: &str) -> Vec<u32> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I32);
        tensor.data().chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).try_into().unwrap()).collect()
    }

    #[allow(dead_code)]
    pub fn u8(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap().data().to_vec()
    }

    #[allow(dead_code)]
    pub fn metadata(&self, key: &str) -> String {
        SafeTensors::read_metadata(&self.bytes).unwrap().1.metadata().as_ref().unwrap()[key].clone()
    }
}
