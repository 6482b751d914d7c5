//! What fixtures of whole models have beside tensors of numbers.

use safetensors::SafeTensors;

use crate::fixtures::Fixture;

impl Fixture {
    pub fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// What follows `prefix` in the names that begin with it, in alphabetical order.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = self.tensors();
        let mut names: Vec<String> =
            tensors.names().into_iter().filter_map(|name| name.strip_prefix(prefix)).map(String::from).collect();
        names.sort_unstable();
        names
    }

    pub fn u8(&self, name: &str) -> Vec<u8> {
        self.tensors().tensor(name).unwrap().data().to_vec()
    }

    pub fn metadata(&self, key: &str) -> String {
        SafeTensors::read_metadata(&self.bytes).unwrap().1.metadata().as_ref().unwrap()[key].clone()
    }
}
