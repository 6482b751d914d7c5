//! Weights in files: safetensors in open_clip's names, which is what this program writes, and in Hugging Face's; and PyTorch's own
//! files of both.

mod container;
mod hugging_face;
mod kind;
mod layout;
mod positions;
mod shards;
mod tensor_file;
mod torch;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};

use self::container::{Container, Numbers, Outgoing, describe, printable};
use self::layout::{Layout, Naming, OPENAI_SIZES, Piece};
use super::parameters::ParameterList;
use super::spec::{ModelSpec, Told};
use crate::error::{Error, Result};
use crate::files::{read_text, write_atomically};
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
    /// The file that was read: where a folder was given, the one in it; of a model in several files, their index.
    pub path: PathBuf,
    /// Every file that was read.
    pub paths: Vec<PathBuf>,
    /// The whole arena of the model's [`ParameterList`]; the gaps are 0.
    pub values: Vec<f32>,
    /// The model that the file says it holds, in our metadata or in the configuration beside it.
    pub spec: Option<ModelSpec>,
    /// Warnings, for the user; the file can be used.
    pub notes: Vec<String>,
    /// How many weights are NaN or infinite, and where the first of them is; None where all are numbers.
    pub not_finite: Option<String>,
}

impl Weights {
    /// The same weights if all are numbers. Others, of which nothing but NaN can come, are an error of input; or a note, where the
    /// user has `allowed` them.
    pub fn checked(mut self, allowed: bool) -> Result<Weights> {
        match self.not_finite.take() {
            Some(what) if !allowed => {
                Err(Error::input(format!("{what}; --allow-non-finite (model.allow_non_finite = true) lets them pass")))
            }
            what => {
                self.notes.extend(what.clone());
                self.not_finite = what;
                Ok(self)
            }
        }
    }
}

/// A model that a file says it holds, in our metadata or in the configuration beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its sizes and its activation.
    pub spec: ModelSpec,
    /// How it tells the activation.
    pub told: Told,
    /// The file that says it.
    pub origin: PathBuf,
}

/// Reads the weights of the model `spec` from a file or the folder that Hugging Face or open_clip wrote: safetensors or PyTorch's,
/// in one file or several; open_clip's names or Hugging Face's, with or without what wrappers put in front; f32, f16, bf16 or f64.
/// It is an error of input if a file is broken, or if a tensor is unknown, missing, misshapen or not of floating point: the error
/// names the first five. The files are mapped; the model's f32 values are all the memory that is taken.
pub fn load(path: &Path, spec: &ModelSpec) -> Result<Weights> {
    load_with(path, spec, Positions::AsStored)
}

/// [`load`], where the image tower's positional embedding may be that of another resolution.
pub fn load_with(path: &Path, spec: &ModelSpec, positions: Positions) -> Result<Weights> {
    let container = Container::open(path)?;
    let path = container.path.as_path();
    let mut notes = container.notes.clone();
    let stored = stored_spec(&container, &mut notes)?.map(|stored| stored.spec);
    let list = ParameterList::of(spec);
    let naming = Naming::detect(names(&container));
    let layout = naming.layout;
    let pieces = layout.pieces(&list);
    let same_sizes = |stored: &ModelSpec| ModelSpec { quick_gelu: spec.quick_gelu, ..stored.clone() } == *spec;
    let sources = match_tensors(&container, &naming, &pieces, positions).map_err(|error| match &stored {
        Some(stored) if !same_sizes(stored) => {
            error.at(format!("{}: it holds {}, not {}", path.display(), stored.in_words(), spec.in_words()))
        }
        _ => error.at(path.display()),
    })?;
    check_sizes(&container, spec, positions).map_err(|error| error.at(path.display()))?;
    if !naming.prefix.is_empty() {
        let prefix = printable(&naming.prefix);
        notes.push(format!("{}: all names begin with '{prefix}', which is taken off", path.display()));
    }

    let mut values = vec![0.0; list.arena_len()];
    for (piece, source) in pieces.iter().zip(sources) {
        let target = &mut values[piece.offset..][..piece.len()];
        let shape = &container.tensors[source].shape;
        if let Some((old, new)) = regridded(layout, piece, shape) {
            let mut stored = vec![0.0; shape.iter().product()];
            container.read_floats(source, &mut stored);
            target.copy_from_slice(&positions::interpolate(&stored, old, new, piece.shape[1]));
            notes.push(format!(
                "{}: the positional embedding is interpolated from {old} x {old} to {new} x {new} patches",
                path.display()
            ));
            continue;
        }
        container.read_floats(source, target);
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
    Ok(Weights { path: container.path, paths: container.paths, values, spec: stored, notes, not_finite })
}

/// The model that a file, or the one in a folder, holds: the configuration in our metadata; otherwise the one that was written
/// with the file and lies beside it, `config.json` for Hugging Face's layout, `open_clip_config.json` for open_clip's. None
/// where neither is there.
pub fn read_spec(path: &Path) -> Result<Option<Stored>> {
    stored_spec(&Container::open(path)?, &mut Vec::new())
}

/// The files that are read where `path` is given: that of the weights, or all of several, and the configuration that counts for them.
pub(crate) fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let container = Container::open(path)?;
    let stored = stored_spec(&container, &mut Vec::new())?;
    Ok(container.paths.into_iter().chain(stored.map(|stored| stored.origin)).collect())
}

fn stored_spec(container: &Container, notes: &mut Vec<String>) -> Result<Option<Stored>> {
    let path = &container.path;
    if ["parameters", "first_moment"].iter().all(|state| names(container).any(|name| name == *state)) {
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
        match path.symlink_metadata() {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            _ => read_text(&path).map(|text| Some((path, text))),
        }
    };
    let layout = Naming::detect(names(container)).layout;
    // Hugging Face's file of a model whose tensors are named in neither way.
    if layout == Layout::OpenClip
        && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("open_clip"))
        && let Some((path, text)) = read("config.json")?
        && let Ok(config) = serde_json::from_str::<Value>(&text)
    {
        hugging_face::check_identity(&config).map_err(|error| error.at(path.display()))?;
    }
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

fn names(container: &Container) -> impl Iterator<Item = &str> + Clone {
    container.tensors.iter().map(|tensor| tensor.name.as_str())
}

/// Fails unless the sizes that OpenAI's files have beside the weights are those of the model.
fn check_sizes(container: &Container, spec: &ModelSpec, positions: Positions) -> Result<()> {
    let [pixels, tokens, words] = OPENAI_SIZES;
    let sizes = [
        (pixels, "vision_cfg.image_size", spec.vision_cfg.image_size),
        (tokens, "text_cfg.context_length", spec.text_cfg.context_length),
        (words, "text_cfg.vocab_size", spec.text_cfg.vocab_size),
    ];
    for (index, tensor) in container.tensors.iter().enumerate() {
        let Some((name, field, size)) = sizes.iter().find(|(name, ..)| *name == tensor.name) else { continue };
        let Some(found) = container.whole_number(index) else {
            let found = describe(tensor.dtype, &tensor.shape);
            return Err(Error::input(format!("'{name}': expected one whole number, found {found}")));
        };
        if found != *size as i64 && !(*name == pixels && positions == Positions::Interpolated) {
            return Err(Error::input(format!("its {name} is {found}, and the model's {field} {size}")));
        }
    }
    Ok(())
}

/// For each piece the number of its tensor in the file, or an error that lists what does not fit.
fn match_tensors(container: &Container, naming: &Naming, pieces: &[Piece], positions: Positions) -> Result<Vec<usize>> {
    let (mut doubled, mut missing, mut unlike, mut unknown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut found = HashMap::new();
    for (index, name) in names(container).enumerate() {
        let plain = naming.plain_name(name);
        if naming.ignores(&plain) || OPENAI_SIZES.contains(&name) || plain == "n_averaged" {
            continue;
        }
        if let Some(other) = found.insert(plain, index) {
            let other = printable(&container.tensors[other].name);
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
        let tensor = &container.tensors[index];
        let has = || describe(tensor.dtype, &tensor.shape);
        let regridded = regridded(naming.layout, piece, &tensor.shape);
        if let (Some((old, new)), Positions::AsStored) = (regridded, positions) {
            unlike.push(format!(
                "'{name}': expected {expected:?}, found {}: it is for {old} x {old} patches and the model has \
                 {new} x {new}; --interpolate-positions (model.interpolate_positions = true) makes it fit",
                has()
            ));
        } else if regridded.is_none() && tensor.shape != *expected && !(expected.is_empty() && tensor.shape == [1]) {
            unlike.push(format!("'{name}': expected {expected:?}, found {}", has()));
        } else if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
            unlike.push(format!("'{name}': expected F32, F16, BF16 or F64, found {}", has()));
        }
        sources.push(index);
    }
    for (index, tensor) in container.tensors.iter().enumerate() {
        if found.get(&naming.plain_name(&tensor.name)) == Some(&index) {
            let has = describe(tensor.dtype, &tensor.shape);
            unknown.push(format!("'{}' is unknown (found {has})", printable(&tensor.name)));
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
    let plain: Vec<Cow<str>> = names(container).map(layout::without_wrappers).collect();
    if let Some(what) = layout::foreign(&plain.iter().map(Cow::as_ref).collect::<Vec<_>>()) {
        message = format!("{what}: {message}");
    }
    if let Some(what) = shards::of_several(&container.path) {
        message = format!("{what}: {message}");
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

/// The transpose [columns, rows] of a matrix [rows, columns].
fn transpose(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])).collect()
}

/// A note when numbers are NaN or infinite.
fn not_finite(path: &Path, list: &ParameterList, values: &[f32]) -> Option<String> {
    let count = values.iter().filter(|value| !value.is_finite()).count();
    let (first, mut place) = list.iter().find_map(|parameter| {
        let place = values[parameter.range()].iter().position(|value| !value.is_finite())?;
        Some((parameter, place))
    })?;
    let value = values[first.offset + place];
    let mut indices: Vec<usize> = Vec::new();
    for extent in first.shape.iter().rev() {
        indices.insert(0, place % extent);
        place /= extent;
    }
    Some(format!(
        "{}: {count} of the weights are NaN or infinite, the first of them in '{}' ({value} at {indices:?})",
        path.display(),
        first.name
    ))
}
