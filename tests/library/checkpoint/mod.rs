//! Weights and run state in files: what is written comes back, what others write is read, and what is broken is
//! refused in words.

mod broken;
mod damaged;
mod folders;
mod foreign;
mod positions;
mod pytorch;
mod round_trip;
mod state;

use std::fs;
use std::path::{Path, PathBuf};

use perennial::error::Fault;
use perennial::model::checkpoint::{export_hugging_face, load, read_spec};
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A model of 60 thousand numbers, with sizes that all differ.
fn tiny() -> ModelSpec {
    let json = r#"{
        "embed_dim": 20,
        "vision_cfg": { "image_size": 12, "layers": 2, "width": 48, "head_width": 16, "patch_size": 4 },
        "text_cfg": { "context_length": 12, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1 },
        "quick_gelu": true
    }"#;
    ModelSpec::from_json(json).unwrap()
}

/// Different numbers everywhere, 0 in the gaps.
fn values(list: &ParameterList) -> Vec<f32> {
    let mut values = list.initial_values(5);
    for parameter in list.iter() {
        for (place, value) in values[parameter.range()].iter_mut().enumerate() {
            *value += 0.001 * (1 + place % 97) as f32;
        }
    }
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A tensor of a file: name, type, shape, bytes.
type Entry = (String, String, Vec<usize>, Vec<u8>);

/// The bytes of a file with these tensors, by the format's description and not by our writer.
fn assemble(metadata: Option<Value>, tensors: &[Entry]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), metadata);
    }
    let (mut begin, mut data) = (0, Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let end = begin + bytes.len();
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }));
        data.extend(bytes);
        begin = end;
    }
    with_header(&Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The tensors of the tiny model as f32.
fn entries() -> Vec<Entry> {
    let list = ParameterList::of(&tiny());
    let values = values(&list);
    let bytes = |range: std::ops::Range<usize>| values[range].iter().flat_map(|value| value.to_le_bytes()).collect();
    list.iter().map(|one| (one.name.clone(), "F32".into(), one.shape.clone(), bytes(one.range()))).collect()
}

fn write(folder: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    path
}

/// The model that a file says it holds.
#[track_caller]
fn spec_of(path: &Path) -> Option<ModelSpec> {
    read_spec(path).unwrap().map(|stored| stored.spec)
}

/// The message with which a file is refused.
#[track_caller]
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, bytes);
    let error = load(&path, &tiny()).unwrap_err();
    assert_eq!(error.fault(), Fault::Input);
    let message = error.to_string();
    assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
    message
}

#[track_caller]
fn contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

/// The tensors of a model that is exported to `folder` in Hugging Face's layout, as it would write them: without our metadata.
fn hugging_face_entries(folder: &TempDir, spec: &ModelSpec) -> Vec<Entry> {
    let list = ParameterList::of(spec);
    export_hugging_face(folder.path(), spec, &list, &values(&list)).unwrap();
    let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
    tensors.map(|(name, tensor)| (name, "F32".into(), tensor.shape().to_vec(), tensor.data().to_vec())).collect()
}
