//! Reading the reference tensors under `tests/fixtures/`.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

pub struct Fixture {
    pub bytes: Vec<u8>,
}

impl Fixture {
    /// `tests/fixtures/<name>.safetensors`.
    pub fn open(name: &str) -> Fixture {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"));
        Fixture { bytes: std::fs::read(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display())) }
    }

    pub fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

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
}
