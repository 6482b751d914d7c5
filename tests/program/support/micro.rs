//! Checkpoints of a model of a few thousand parameters, as tests want them.

use std::path::Path;

use perennial::model::checkpoint::{TensorFile, save};
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;

pub const MICRO: &str = "tests/fixtures/micro.json";

pub fn micro() -> ModelSpec {
    ModelSpec::find(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/micro.json")).unwrap()
}

/// A checkpoint of the micro model with random weights, changed by `change`.
pub fn checkpoint(folder: &Path, change: impl FnOnce(&ParameterList, &mut [f32])) -> String {
    let path = folder.join("micro.safetensors");
    let list = ParameterList::of(&micro());
    let mut values = list.initial_values(3);
    change(&list, &mut values);
    save(&path, &micro(), &list, &values, &[]).unwrap();
    path.to_str().unwrap().to_string()
}

/// The same weights without a word about the model; tensors pass through `change`, which may rename, reshape or drop them.
pub fn bare_checkpoint(
    folder: &Path,
    name: &str,
    change: impl Fn(&str, Vec<usize>) -> Option<(String, Vec<usize>)>,
) -> String {
    let whole = TensorFile::load(Path::new(&checkpoint(folder, |_, _| {}))).unwrap();
    let mut file = TensorFile::new();
    for name in whole.names() {
        let shape = whole.shape(name).unwrap();
        if let Some((renamed, reshaped)) = change(name, shape.to_vec()) {
            let values = whole.f32(name, shape).unwrap().to_vec();
            file.insert_f32(&renamed, &reshaped, values);
        }
    }
    let path = folder.join(name);
    file.save(&path).unwrap();
    path.to_str().unwrap().to_string()
}
