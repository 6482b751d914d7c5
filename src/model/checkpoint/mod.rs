//! Weights in files: safetensors in open_clip's names, which is what this program writes, and in Hugging Face's.

mod container;
mod hugging_face;
mod layout;
mod tensor_file;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Value, json};

use self::container::{Container, Numbers, Outgoing, describe, printable};
use self::layout::{Layout, Piece};
use super::parameters::ParameterList;
use super::spec::ModelSpec;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::ops::patch_embed::Normalization;

pub use tensor_file::TensorFile;

/// The metadata key under which we store the model's configuration.
const MODEL_KEY: &str = "model_cfg";

/// How many wrong tensors an error names.
const NAMED: usize = 5;

/// The weights of a file.
#[derive(Debug)]
pub struct Weights {
    /// The whole arena of the model's [`ParameterList`]; the gaps are 0.
    pub values: Vec<f32>,
    /// The model that the file says it holds, from our metadata.
    pub spec: Option<ModelSpec>,
    /// What the user should hear though the file can be used.
    pub notes: Vec<String>,
}

/// Reads the weights of the model `spec`: open_clip's names, with or without `module.` or `text.` in front, or
/// Hugging Face's; f32, f16, bf16 or f64. It is an error of input if the file is broken, or if a tensor is unknown,
/// missing, misshapen or not of floating point: the error names the first five. Reads no more memory than the model
/// and one tensor need.
pub fn load(path: &Path, spec: &ModelSpec) -> Result<Weights> {
    let mut container = Container::open(path)?;
    let stored = stored_spec(path, &container)?;
    let list = ParameterList::of(spec);
    let layout = Layout::detect(container.tensors.iter().map(|(name, _)| name.as_str()));
    let pieces = layout.pieces(&list);
    let sources = match_tensors(&container, layout, &pieces).map_err(|error| error.at(path.display()))?;

    let mut values = vec![0.0; list.arena_len()];
    for (piece, source) in pieces.iter().zip(sources) {
        let target = &mut values[piece.offset..][..piece.len()];
        read_floats(&mut container, source, target)?;
        if piece.transposed {
            let (rows, columns) = piece.sides();
            target.copy_from_slice(&transpose(target, rows, columns));
        }
    }

    let mut notes = Vec::new();
    match &stored {
        None => notes.push(format!(
            "{}: the file does not say which activation its model uses; taken as {}",
            path.display(),
            if spec.quick_gelu { "quick_gelu" } else { "gelu" }
        )),
        Some(stored) if stored != spec => notes.push(format!(
            "{}: the file's model is {}, and it is used as {}",
            path.display(),
            stored.to_json(),
            spec.to_json()
        )),
        Some(_) => {}
    }
    notes.extend(not_finite(path, &list, &values));
    Ok(Weights { values, spec: stored, notes })
}

/// The model that a file holds: the configuration in our metadata; for Hugging Face's layout, otherwise, the
/// `config.json` beside it. None where neither is there.
pub fn read_spec(path: &Path) -> Result<Option<ModelSpec>> {
    stored_spec(path, &Container::open(path)?)
}

fn stored_spec(path: &Path, container: &Container) -> Result<Option<ModelSpec>> {
    if let Some(json) = container.metadata.get(MODEL_KEY) {
        let spec = ModelSpec::from_json(json).map_err(|error| error.at(format!("{}: {MODEL_KEY}", path.display())))?;
        return Ok(Some(spec));
    }
    let config = path.with_file_name("config.json");
    let layout = Layout::detect(container.tensors.iter().map(|(name, _)| name.as_str()));
    if layout != Layout::HuggingFace || !config.exists() {
        return Ok(None);
    }
    let json = fs::read_to_string(&config).map_err(|cause| Error::reading(&config, cause))?;
    hugging_face::read_config(&json).map(Some).map_err(|error| error.at(config.display()))
}

/// Writes the weights in open_clip's names: f32, the logit scale 0-D, with the model's configuration in the
/// metadata beside `extra_metadata`. `values` is the arena of `list`. Atomic; the same input gives the same bytes.
pub fn save(
    path: &Path,
    spec: &ModelSpec,
    list: &ParameterList,
    values: &[f32],
    extra_metadata: &[(&str, String)],
) -> Result<()> {
    write_weights(path, Layout::OpenClip, spec, list, values, extra_metadata)
}

/// Writes `open_clip_model.safetensors` and `open_clip_config.json` into `folder`, which is created if need be, as
/// `open_clip.create_model_and_transforms` reads a local folder.
pub fn export_open_clip(folder: &Path, spec: &ModelSpec, list: &ParameterList, values: &[f32]) -> Result<()> {
    fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
    let Normalization { mean, std } = Normalization::CLIP;
    let preprocessing = json!({ "mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest" });
    let config = json!({ "model_cfg": spec, "preprocess_cfg": preprocessing });
    write_json(&folder.join("open_clip_config.json"), &config)?;
    save(&folder.join("open_clip_model.safetensors"), spec, list, values, &[])
}

/// Writes `model.safetensors`, `config.json` and `preprocessor_config.json` into `folder`, which is created if need
/// be, as Hugging Face's `CLIPModel.from_pretrained` reads them. The tokenizer's files are not written.
pub fn export_hugging_face(folder: &Path, spec: &ModelSpec, list: &ParameterList, values: &[f32]) -> Result<()> {
    fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
    let logit_scale = values[list.get("logit_scale").offset];
    write_json(&folder.join("config.json"), &hugging_face::config(spec, logit_scale))?;
    write_json(&folder.join("preprocessor_config.json"), &hugging_face::preprocessor(spec))?;
    write_weights(&folder.join("model.safetensors"), Layout::HuggingFace, spec, list, values, &[])
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomically(path, format!("{value:#}\n").as_bytes())
}

fn write_weights(
    path: &Path,
    layout: Layout,
    spec: &ModelSpec,
    list: &ParameterList,
    values: &[f32],
    extra_metadata: &[(&str, String)],
) -> Result<()> {
    let mut metadata: BTreeMap<String, String> =
        extra_metadata.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    metadata.insert("format".into(), "pt".into());
    metadata.insert(MODEL_KEY.into(), spec.to_json());
    let outgoing = |piece: Piece| {
        let stretch = &values[piece.offset..][..piece.len()];
        let data = if piece.transposed {
            let (rows, columns) = piece.sides();
            Cow::Owned(transpose(stretch, columns, rows))
        } else {
            Cow::Borrowed(stretch)
        };
        Outgoing { name: piece.name, shape: piece.shape, data: Numbers::F32(data) }
    };
    container::write(path, &metadata, layout.pieces(list).into_iter().map(outgoing).collect())
}

/// For each piece the number of its tensor in the file, or an error that lists what does not fit.
fn match_tensors(container: &Container, layout: Layout, pieces: &[Piece]) -> Result<Vec<usize>> {
    let (mut doubled, mut missing, mut unlike, mut unknown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut found = HashMap::new();
    for (index, (name, _)) in container.tensors.iter().enumerate() {
        let plain = layout.plain_name(name);
        if layout.ignores(plain) {
            continue;
        }
        if let Some(other) = found.insert(plain, index) {
            let other = printable(&container.tensors[other].0);
            doubled.push(format!("'{other}' and '{}' are the same tensor", printable(name)));
        }
    }
    let mut sources = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (name, expected) = (&piece.name, &piece.shape);
        let Some(index) = found.remove(name.as_str()) else {
            missing.push(format!("'{name}' is missing (expected {expected:?})"));
            continue;
        };
        let info = &container.tensors[index].1;
        if info.shape != *expected && !(expected.is_empty() && info.shape == [1]) {
            unlike.push(format!("'{name}': expected {expected:?}, found {}", describe(info)));
        } else if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
            unlike.push(format!("'{name}': expected F32, F16, BF16 or F64, found {}", describe(info)));
        }
        sources.push(index);
    }
    for (index, (name, info)) in container.tensors.iter().enumerate() {
        if found.get(layout.plain_name(name)) == Some(&index) {
            unknown.push(format!("'{}' is unknown (found {})", printable(name), describe(info)));
        }
    }
    // The first of every kind before the second of any: a wrong prefix shows both what is missing and what there is
    // instead.
    let kinds = [doubled, unlike, missing, unknown];
    let mut wrong: Vec<(usize, String)> = kinds.into_iter().flat_map(|kind| kind.into_iter().enumerate()).collect();
    if wrong.is_empty() {
        return Ok(sources);
    }
    wrong.sort_by_key(|(place, _)| *place);
    let named: Vec<&str> = wrong.iter().take(NAMED).map(|(_, what)| what.as_str()).collect();
    let mut message = format!("the tensors are not those of the model: {}", named.join("; "));
    if wrong.len() > NAMED {
        message.push_str(&format!("; and {} more", wrong.len() - NAMED));
    }
    Err(Error::input(message))
}

/// Reads tensor number `index`, of a type of floating point, as f32.
fn read_floats(container: &mut Container, index: usize, target: &mut [f32]) -> Result<()> {
    let dtype = container.tensors[index].1.dtype;
    if dtype == Dtype::F32 {
        return container.read(index, bytemuck::cast_slice_mut(target));
    }
    let size = dtype.bitsize() / 8;
    let mut bytes = vec![0; target.len() * size];
    container.read(index, &mut bytes)?;
    for (value, raw) in target.iter_mut().zip(bytes.chunks_exact(size)) {
        *value = match dtype {
            Dtype::F16 => f16::from_le_bytes([raw[0], raw[1]]).to_f32(),
            Dtype::BF16 => bf16::from_le_bytes([raw[0], raw[1]]).to_f32(),
            _ => f64::from_le_bytes([raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], raw[6], raw[7]]) as f32,
        };
    }
    Ok(())
}

/// The transpose [columns, rows] of a matrix [rows, columns].
fn transpose(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])).collect()
}

/// A note when numbers are NaN or infinite.
fn not_finite(path: &Path, list: &ParameterList, values: &[f32]) -> Option<String> {
    let count = values.iter().filter(|value| !value.is_finite()).count();
    let first = list.iter().find(|parameter| values[parameter.range()].iter().any(|value| !value.is_finite()))?;
    Some(format!(
        "{}: {count} of the weights are NaN or infinite, the first of them in '{}'",
        path.display(),
        first.name
    ))
}
