//! Weights in files: safetensors in open_clip's names, which is what this program writes, and in Hugging Face's.

mod container;
mod hugging_face;
mod layout;
mod positions;
mod tensor_file;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Value, json};

use self::container::{Container, Numbers, Outgoing, describe, printable};
use self::layout::{Layout, Piece};
use super::parameters::ParameterList;
use super::spec::{ModelSpec, Told};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::ops::patch_embed::Normalization;

pub use container::save_bytes;
pub use positions::Positions;
pub use tensor_file::TensorFile;

/// The metadata key under which we store the model's configuration.
const MODEL_KEY: &str = "model_cfg";

/// How many wrong tensors an error names.
const NAMED: usize = 5;

/// The weights of a file.
#[derive(Debug)]
pub struct Weights {
    /// The file that was read: where a folder was given, the one in it.
    pub path: PathBuf,
    /// The whole arena of the model's [`ParameterList`]; the gaps are 0.
    pub values: Vec<f32>,
    /// The model that the file says it holds, in our metadata or in the configuration beside it.
    pub spec: Option<ModelSpec>,
    /// What the user should hear though the file can be used.
    pub notes: Vec<String>,
    /// How many weights are NaN or infinite, and the first tensor with one; None where all are numbers.
    pub not_finite: Option<String>,
}

/// A model that a file says it holds, in our metadata or in the configuration beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub spec: ModelSpec,
    /// How it tells the activation.
    pub told: Told,
    /// The file that says it.
    pub origin: PathBuf,
}

/// Reads the weights of the model `spec` from a file or the folder that Hugging Face or open_clip wrote: open_clip's names,
/// with or without `module.` or `text.` in front, or Hugging Face's; f32, f16, bf16 or f64. It is an error of input if the file is broken, or if a tensor is unknown,
/// missing, misshapen or not of floating point: the error names the first five. The file is mapped; the model's f32
/// values are all the memory that is taken.
pub fn load(path: &Path, spec: &ModelSpec) -> Result<Weights> {
    load_with(path, spec, Positions::AsStored)
}

/// [`load`], where the image tower's positional embedding may be that of another resolution.
pub fn load_with(path: &Path, spec: &ModelSpec, positions: Positions) -> Result<Weights> {
    let container = Container::open(path)?;
    let path = container.path.as_path();
    let mut notes = Vec::new();
    let stored = stored_spec(&container, &mut notes)?.map(|stored| stored.spec);
    let list = ParameterList::of(spec);
    let layout = Layout::detect(container.tensors.iter().map(|(name, _)| name.as_str()));
    let pieces = layout.pieces(&list);
    let same_sizes = |stored: &ModelSpec| ModelSpec { quick_gelu: spec.quick_gelu, ..stored.clone() } == *spec;
    let sources = match_tensors(&container, layout, &pieces, positions).map_err(|error| match &stored {
        Some(stored) if !same_sizes(stored) => {
            error.at(format!("{}: it holds {}, not {}", path.display(), stored.in_words(), spec.in_words()))
        }
        _ => error.at(path.display()),
    })?;

    let mut values = vec![0.0; list.arena_len()];
    for (piece, source) in pieces.iter().zip(sources) {
        let target = &mut values[piece.offset..][..piece.len()];
        let shape = &container.tensors[source].1.shape;
        if let Some((old, new)) = regridded(layout, piece, shape) {
            let mut stored = vec![0.0; shape.iter().product()];
            read_floats(&container, source, &mut stored);
            target.copy_from_slice(&positions::interpolate(&stored, old, new, piece.shape[1]));
            notes.push(format!(
                "{}: the positional embedding is interpolated from {old} x {old} to {new} x {new} patches",
                path.display()
            ));
            continue;
        }
        read_floats(&container, source, target);
        if piece.transposed {
            let (rows, columns) = piece.sides();
            target.copy_from_slice(&transpose(target, rows, columns));
        }
    }

    if let Some(stored) = stored.as_ref().filter(|stored| *stored != spec) {
        notes.push(match same_sizes(stored) {
            true => {
                let [of_file, used] = [stored, spec].map(ModelSpec::activation_name);
                format!("{}: the file's model has the activation {of_file}, and is used with {used}", path.display())
            }
            false => {
                let [of_file, used] = [stored, spec].map(ModelSpec::in_words);
                format!("{}: the file's model is {of_file}, and it is used as {used}", path.display())
            }
        });
    }
    let not_finite = not_finite(path, &list, &values);
    Ok(Weights { path: container.path, values, spec: stored, notes, not_finite })
}

/// The model that a file, or the one in a folder, holds: the configuration in our metadata; otherwise the one that was written
/// with the file and lies beside it, `config.json` for Hugging Face's layout, `open_clip_config.json` for open_clip's. None
/// where neither is there.
pub fn read_spec(path: &Path) -> Result<Option<Stored>> {
    stored_spec(&Container::open(path)?, &mut Vec::new())
}

fn stored_spec(container: &Container, notes: &mut Vec<String>) -> Result<Option<Stored>> {
    let path = &container.path;
    if ["parameters", "first_moment"].iter().all(|state| container.tensors.iter().any(|(name, _)| name == state)) {
        let what = "this is the state of a run, not a model's weights: those are in step-NNN.safetensors beside it";
        return Err(Error::input(format!("{}: {what}", path.display())));
    }
    if let Some(json) = container.metadata.get(MODEL_KEY) {
        let read = ModelSpec::read_json(json).map_err(|error| error.at(format!("{}: {MODEL_KEY}", path.display())))?;
        return Ok(Some(Stored { spec: read.0, told: read.1, origin: path.clone() }));
    }
    // A file of another name beside a configuration may be anyone's.
    if !path.file_name().is_some_and(|name| container::NAMES.iter().any(|known| name == *known)) {
        return Ok(None);
    }
    let read = |name: &str| {
        let path = path.with_file_name(name);
        match fs::read_to_string(&path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::reading(&path, cause)),
            Ok(text) => Ok(Some((path, text))),
        }
    };
    let layout = Layout::detect(container.tensors.iter().map(|(name, _)| name.as_str()));
    let (config, preprocessing) = match layout {
        Layout::HuggingFace => (read("config.json")?, read("preprocessor_config.json")?),
        Layout::OpenClip => (read("open_clip_config.json")?, read("open_clip_config.json")?),
    };
    let stored = match config {
        None => None,
        Some((path, json)) => {
            let described = match layout {
                Layout::HuggingFace => hugging_face::read_config(&json),
                Layout::OpenClip => ModelSpec::read_json(&json),
            };
            let (spec, told) = described.map_err(|error| error.at(path.display()))?;
            Some(Stored { spec, told, origin: path })
        }
    };
    if let Some((path, json)) = preprocessing {
        let size = stored.as_ref().map(|stored| stored.spec.vision_cfg.image_size);
        notes.extend(other_preprocessing(&json, size).map(|what| format!("{}: {what}", path.display())));
    }
    Ok(stored)
}

/// What a configuration says of pictures that this program does otherwise: it has CLIP's mean, deviation, resizing and crop.
/// `size` is the edge of the model's pictures.
fn other_preprocessing(json: &str, size: Option<usize>) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    let settings = value.get("preprocess_cfg").unwrap_or(&value);
    let numbers = |value: &Value| value.as_array().map(|all| all.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
    let unlike = |key: &str, ours: &[f64]| {
        let theirs = settings.get(key).and_then(numbers)?;
        let same = theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(a, b)| (a - b).abs() < 1e-4);
        (!same).then(|| format!("{key} is {theirs:?}"))
    };
    let other = |key: &str, ours: &[Value]| {
        let theirs = settings.get(key).filter(|theirs| !theirs.is_null() && !ours.contains(theirs))?;
        Some(format!("{key} is {theirs}"))
    };
    // open_clip writes an edge or two, Hugging Face an edge, the shortest edge, or height and width; of its size, these two mean
    // that the picture is squashed.
    let edges = |key: &str| {
        let edge = size.map(|size| vec![json!(size), json!([size, size]), json!({ "shortest_edge": size })])?;
        other(key, &edge)
    };
    let crop = size.map(|size| [json!(size), json!({ "height": size, "width": size })]);
    let Normalization { mean, std } = Normalization::CLIP;
    let differences = [
        unlike("mean", &mean),
        unlike("std", &std),
        unlike("image_mean", &mean),
        unlike("image_std", &std),
        other("interpolation", &[json!("bicubic")]),
        other("resize_mode", &[json!("shortest")]),
        other("resample", &[json!(3)]),
        edges("size"),
        crop.and_then(|crop| other("crop_size", &crop)),
        other("do_resize", &[json!(true)]),
        other("do_center_crop", &[json!(true)]),
        other("do_rescale", &[json!(true)]),
        other("do_normalize", &[json!(true)]),
    ];
    let differences: Vec<String> = differences.into_iter().flatten().collect();
    let clip = "pictures are prepared as CLIP's all the same: bicubic, the shortest edge to the model's size, the middle cut out, \
                CLIP's mean and deviation";
    (!differences.is_empty()).then(|| format!("{}; {clip}", differences.join(", ")))
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
/// be, as Hugging Face's `CLIPModel.from_pretrained` reads them. The tokenizer's files are another floor's.
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
fn match_tensors(container: &Container, layout: Layout, pieces: &[Piece], positions: Positions) -> Result<Vec<usize>> {
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
        let regridded = regridded(layout, piece, &info.shape);
        if let (Some((old, new)), Positions::AsStored) = (regridded, positions) {
            unlike.push(format!(
                "'{name}': expected {expected:?}, found {}: it is for {old} x {old} patches and the model has \
                 {new} x {new}; --interpolate-positions (model.interpolate_positions = true) makes it fit",
                describe(info)
            ));
        } else if regridded.is_none() && info.shape != *expected && !(expected.is_empty() && info.shape == [1]) {
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

/// The sides of the grids, the file's and the model's, where a tensor of that shape is the image tower's positional
/// embedding for another number of patches.
fn regridded(layout: Layout, piece: &Piece, shape: &[usize]) -> Option<(usize, usize)> {
    let (&[stored, width], &[rows, expected]) = (shape, piece.shape.as_slice()) else { return None };
    if piece.name != layout.image_positions() || stored == rows || width != expected {
        return None;
    }
    Some((positions::side(stored)?, positions::side(rows)?))
}

/// Reads tensor number `index`, of a type of floating point, as f32.
fn read_floats(container: &Container, index: usize, target: &mut [f32]) {
    let (dtype, bytes) = (container.tensors[index].1.dtype, container.bytes(index));
    if dtype == Dtype::F32 {
        return bytemuck::cast_slice_mut(target).copy_from_slice(bytes);
    }
    for (value, raw) in target.iter_mut().zip(bytes.chunks_exact(dtype.bitsize() / 8)) {
        *value = match dtype {
            Dtype::F16 => f16::from_le_bytes([raw[0], raw[1]]).to_f32(),
            Dtype::BF16 => bf16::from_le_bytes([raw[0], raw[1]]).to_f32(),
            _ => f64::from_le_bytes([raw[0], raw[1], raw[2], raw[3], raw[4], raw[5], raw[6], raw[7]]) as f32,
        };
    }
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
