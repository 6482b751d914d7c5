//! PyTorch's own files: the zip archives of `torch.save` and of TorchScript, and the pickles from before version 1.6.
//!
//! Both are a pickle of dictionaries and tensors, and storages beside it, of which every tensor is a view. The pickle is read by
//! [`crate::pickle`], which runs nothing; the storages stay where they are in the mapped file.

use std::collections::{HashMap, HashSet};
use std::io::Cursor;

use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::container::{Tensor, printable};
use super::layout::OPENAI_SIZES;
use crate::pickle::{Id, Node, Pickle};

/// What a file holds, in the order of its pickle, and warnings about it.
pub(crate) type Found = (Vec<Tensor>, Vec<String>);

/// Bytes of a tensor's name.
const LONGEST_NAME: usize = 1000;
/// Tensors of one model.
const MOST_TENSORS: usize = 1 << 16;
/// How deep modules lie within modules, and dictionaries within dictionaries.
const DEEPEST: usize = 32;

/// Under which name the weights are in what training programs save, in the order in which one is taken.
const NESTED: [&str; 11] = [
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "clip",
    "model_ema",
    "state_dict_ema",
];

/// A zip archive: the pickle and each storage are members, stored as they are.
pub(crate) fn read_archive(bytes: &[u8]) -> Result<Found, String> {
    let damaged = |cause: zip::result::ZipError| {
        format!("a zip archive, as torch.save writes them, that is damaged or cut short: {cause}")
    };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    if archive.has_duplicate_names() {
        return Err("a zip archive of which two members have one name".into());
    }
    let names: Vec<String> = archive.file_names_raw().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let root = names.iter().find_map(|name| match name.strip_suffix("data.pkl") {
        Some(root) if root.is_empty() || root.find('/') == Some(root.len() - 1) => Some(root.to_string()),
        _ => None,
    });
    let Some(root) = root else { return Err(foreign_archive(&names)) };
    let mut member = |name: &str| match archive.index_for_name(&format!("{root}{name}")) {
        None => Ok(None),
        Some(index) => {
            let member = archive.by_index_raw(index).map_err(damaged)?;
            let (stored, size) = (member.compression() == CompressionMethod::STORE, member.size());
            if !stored || member.encrypted() || member.compressed_size() != size {
                let what = "is compressed or encrypted: PyTorch stores it as it is. Was the file packed anew?";
                return Err(format!("its member '{}' {what}", printable(name)));
            }
            let begin = member.data_start().ok_or("a member without a place")?;
            let (begin, size) =
                (usize::try_from(begin).unwrap_or(usize::MAX), usize::try_from(size).unwrap_or(usize::MAX));
            let end = begin.checked_add(size).filter(|end| *end <= bytes.len());
            let end = end.ok_or_else(|| format!("it is cut short: its member '{}' is not whole", printable(name)))?;
            let mut sum = crc32fast::Hasher::new();
            sum.update(&bytes[begin..end]);
            if sum.finalize() != member.crc32() {
                return Err(format!("its member '{}' is damaged: the checksum is another", printable(name)));
            }
            Ok(Some(begin..end))
        }
    };
    if let Some(order) = member("byteorder")?
        && bytes[order.clone()] != b"little"[..]
    {
        let order = printable(&String::from_utf8_lossy(&bytes[order]));
        return Err(format!("its numbers are of the byte order '{order}', and little is read"));
    }
    let pickle = &bytes[member("data.pkl")?.ok_or("it has no data.pkl")?];
    let pickle = Pickle::read(pickle).map_err(|what| format!("data.pkl: {what}"))?;
    let mut places = HashMap::new();
    collect(&pickle, |key| {
        if let Some(place) = places.get(key) {
            return Ok(Clone::clone(place));
        }
        let missing = || format!("its storage '{}' is missing", printable(key));
        let place = member(&format!("data/{key}"))?.ok_or_else(missing)?;
        places.insert(key.to_string(), place.clone());
        Ok(place)
    })
}

/// What a zip archive is in which PyTorch's pickle is not.
fn foreign_archive(names: &[String]) -> String {
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    let what = match () {
        () if has(".npy") => "an archive of NumPy's arrays (.npz)",
        () if has("model.weights.h5") => "a model of Keras",
        () if has("model.json") || has("attributes.pkl") => "a TorchScript archive from before PyTorch 1.4",
        () if has(".pt") || has(".safetensors") || has(".pth") || has(".bin") => {
            "a zip archive with files of weights in it: unpack it first"
        }
        () => "a zip archive that torch.save did not write (it has no data.pkl)",
    };
    format!("{what}; a safetensors or PyTorch file of weights is wanted")
}

/// The number that begins PyTorch's files from before 1.6, as a pickle of its own.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Five pickles: a magic number, a version, what the machine was, the object, the keys of the storages; then the storages.
pub(crate) fn read_pickle(bytes: &[u8]) -> Result<Found, String> {
    if bytes.get(2..).is_none_or(|rest| !rest.starts_with(MAGIC)) {
        return Err(
            "a pickle of Python's that torch.save did not write; a safetensors or PyTorch file of weights is wanted"
                .into(),
        );
    }
    let mut at = 2 + MAGIC.len();
    let mut next = |what: &str| {
        let pickle = Pickle::read(&bytes[at..]).map_err(|cause| format!("{what}: {cause}"))?;
        at += pickle.len;
        Ok::<_, String>((pickle, at))
    };
    let (version, _) = next("the version")?;
    if version.int(version.root()) != Some(1001) {
        return Err("PyTorch's file of a version that is not known".into());
    }
    let (machine, _) = next("the description of the machine")?;
    let little = machine.get(machine.root(), "little_endian");
    if little.is_some_and(|little| matches!(machine.node(little), Node::Bool(false))) {
        return Err("its numbers are of the byte order 'big', and little is read".into());
    }
    let (object, _) = next("the object")?;
    let (keys, mut at) = next("the list of storages")?;
    let sizes = storage_sizes(&object);
    let mut places = HashMap::new();
    for key in keys.items(keys.root()).ok_or("the list of storages is none")? {
        let key = keys.text(*key).ok_or("a storage without a name")?;
        let cut = || format!("it is cut short: its storage '{}' is not whole", printable(key));
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| cut())?;
        let width = sizes.get(key).ok_or_else(|| format!("nothing is said of its storage '{}'", printable(key)))?;
        let begin = at + 8;
        let end = count.checked_mul(*width).and_then(|size| size.checked_add(begin)).filter(|end| *end <= bytes.len());
        at = end.ok_or_else(cut)?;
        if places.insert(key, begin..at).is_some() {
            return Err(format!("its storage '{}' occurs twice", printable(key)));
        }
    }
    collect(&object, |key| {
        let place = places.get(key).ok_or_else(|| format!("its storage '{}' is missing", printable(key)))?;
        Ok(place.clone())
    })
}

/// Bytes of a number of each storage.
fn storage_sizes<'p>(pickle: &'p Pickle) -> HashMap<&'p str, usize> {
    pickle.storages().map(|storage| (storage.key, storage.dtype.bitsize() / 8)).collect()
}

type Range = std::ops::Range<usize>;

/// The tensors of the model in a pickle. `place` says where in the file the storage of a key is.
fn collect(pickle: &Pickle, mut place: impl FnMut(&str) -> Result<Range, String>) -> Result<Found, String> {
    let mut notes = Vec::new();
    let mut names = Vec::new();
    if let Node::Object(_) = pickle.node(pickle.root()) {
        let mut walk = Walk { pickle, left: MOST_ATTRIBUTES, found: Vec::new() };
        walk.module(pickle.root(), "", 0)?;
        names = walk.found;
    } else {
        let (within, mut others) = (state_dict(pickle, &mut notes)?, Vec::new());
        for (key, value) in pickle.entries(within).unwrap_or_default() {
            let name = pickle.text(*key).ok_or("a tensor of which the name is no text")?;
            match pickle.node(*value) {
                Node::Tensor(_) | Node::Array(_) => names.push((check_name(name)?.to_string(), *value)),
                Node::Int(_) if OPENAI_SIZES.contains(&name) => names.push((name.to_string(), *value)),
                _ => others.push(name),
            }
        }
        if let Some(first) = others.first() {
            let count = others.len();
            notes.push(format!(
                "beside the tensors, what is none is passed over: {count}, the first '{}'",
                printable(first)
            ));
        }
    }
    if names.len() > MOST_TENSORS {
        return Err(format!("it has {} tensors; {MOST_TENSORS} are the most", names.len()));
    }
    let mut known = HashSet::new();
    if let Some((twice, _)) = names.iter().find(|(name, _)| !known.insert(name.as_str())) {
        return Err(format!("the name '{}' occurs twice", printable(twice)));
    }
    let mut tensors = Vec::with_capacity(names.len());
    for (name, value) in names {
        match pickle.node(value) {
            Node::Tensor(tensor) => {
                let Node::Storage(storage) = *pickle.node(tensor.storage) else { continue };
                let wrong = |what: String| format!("tensor '{}': {what}", printable(&name));
                let place = place(storage.key).map_err(wrong)?;
                let found =
                    view(&name, storage.dtype, (storage.before, storage.count), tensor, place).map_err(wrong)?;
                tensors.push(found);
            }
            Node::Int(value) => tensors.push(Tensor::number(name, *value)),
            _ => return Err(format!("'{}' is an array of NumPy's; PyTorch's tensors are wanted", printable(&name))),
        }
    }
    if !tensors.iter().any(|tensor| tensor.dtype != Dtype::I64) {
        return Err("it holds no tensors; a state_dict is wanted".into());
    }
    Ok((tensors, notes))
}

fn check_name(name: &str) -> Result<&str, String> {
    match name.len() {
        0..=LONGEST_NAME => Ok(name),
        long => Err(format!("a tensor has a name of {long} bytes; {LONGEST_NAME} are the most")),
    }
}

/// A tensor in the file; the storage lies at `place`. It is an error if it would reach out of it.
fn view(
    name: &str,
    dtype: Dtype,
    (before, count): (u64, u64),
    tensor: &crate::pickle::Tensor,
    place: Range,
) -> Result<Tensor, String> {
    let width = dtype.bitsize() / 8;
    let whole = before.checked_add(count).and_then(|end| usize::try_from(end).ok()?.checked_mul(width));
    if whole.is_none_or(|bytes| bytes > place.len()) {
        return Err(format!("its storage should have {count} numbers of {width} bytes, and has {} bytes", place.len()));
    }
    let numbers = tensor.shape.iter().try_fold(1usize, |product, extent| product.checked_mul(*extent));
    let numbers = numbers.ok_or("more numbers than any memory has")?;
    let reach = || {
        let steps = tensor.shape.iter().zip(&tensor.strides);
        let last = steps
            .filter(|_| numbers > 0)
            .try_fold(0usize, |sum, (extent, stride)| sum.checked_add((extent - 1).checked_mul(*stride)?))?;
        usize::try_from(tensor.offset).ok()?.checked_add(last)?.checked_add(usize::from(numbers > 0))
    };
    if reach().is_none_or(|end| end as u64 > count) {
        return Err(format!("it reaches out of its storage of {count} numbers"));
    }
    let begin = place.start + (before as usize + tensor.offset as usize) * width;
    Ok(Tensor::new(name.to_string(), dtype, tensor.shape.clone(), begin).with_strides(tensor.strides.clone()))
}

/// The dictionary of tensors: the pickle's own, or the one that a training program put into it.
fn state_dict(pickle: &Pickle, notes: &mut Vec<String>) -> Result<Id, String> {
    let is_tensor = |id: Id| matches!(pickle.node(id), Node::Tensor(_) | Node::Array(_));
    let among = |wanted: &dyn Fn(Id) -> bool| -> HashSet<Id> {
        let has = |entries: &[(Id, Id)]| entries.iter().any(|(_, value)| wanted(*value));
        pickle.dictionaries().filter(|(_, entries)| has(entries)).map(|(id, _)| id).collect()
    };
    let holders = among(&is_tensor);
    let above = among(&|id| holders.contains(&id));
    let (mut at, mut path) = (pickle.root(), String::new());
    for _ in 0..DEEPEST {
        let leads = |id: &Id| holders.contains(id) || above.contains(id);
        let inner: Vec<(&str, Id)> = (pickle.entries(at).unwrap_or_default().iter())
            .filter(|(_, value)| leads(value))
            .filter_map(|(key, value)| Some((pickle.text(*key)?, *value)))
            .collect();
        let preferred = NESTED.iter().find_map(|name| inner.iter().find(|(key, _)| key == name));
        let next = match (preferred, inner.as_slice()) {
            (Some(preferred), _) => preferred,
            (None, _) if holders.contains(&at) => {
                if !path.is_empty() {
                    notes.push(format!("the weights are those under '{}'", printable(&path)));
                }
                return Ok(at);
            }
            (None, [only]) => only,
            (None, []) => break,
            (None, several) => {
                let names: Vec<String> =
                    several.iter().take(5).map(|(key, _)| format!("'{}'", printable(key))).collect();
                return Err(format!(
                    "it holds several dictionaries of tensors, under {}: save the one that is meant by itself",
                    names.join(", ")
                ));
            }
        };
        let others = inner.iter().filter(|(key, _)| key != &next.0 && NESTED.contains(key));
        notes.extend(
            others.map(|(key, _)| format!("what is under '{key}' is not read, but what is under '{}'", next.0)),
        );
        path = if path.is_empty() { next.0.to_string() } else { format!("{path}.{}", next.0) };
        check_name(&path)?;
        at = next.1;
    }
    Err("it holds no dictionary of tensors; a state_dict is wanted: torch.save(model.state_dict(), FILE)".into())
}

/// Attributes that are looked at, in all.
const MOST_ATTRIBUTES: usize = 1 << 20;

/// The tensors of a module of TorchScript and of those within it, by the path of their attributes.
struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    /// How many attributes may still be looked at: a module may stand in many places.
    left: usize,
    found: Vec<(String, Id)>,
}

impl Walk<'_, '_> {
    fn module(&mut self, module: Id, path: &str, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("modules lie within modules to a depth of more than {DEEPEST}"));
        }
        for (key, value) in self.pickle.entries(module).unwrap_or_default() {
            self.left = self.left.checked_sub(1).ok_or("its modules have more attributes than any model's")?;
            let key = self.pickle.text(*key).ok_or("an attribute of which the name is no text")?;
            let name = || {
                let name = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                check_name(&name).map(str::to_string)
            };
            match self.pickle.node(*value) {
                Node::Tensor(_) => self.found.push((name()?, *value)),
                Node::Int(_) if path.is_empty() && OPENAI_SIZES.contains(&key) => self.found.push((name()?, *value)),
                Node::Object(_) => self.module(*value, &name()?, depth + 1)?,
                _ => {}
            }
            if self.found.len() > MOST_TENSORS {
                return Err(format!("it has more than {MOST_TENSORS} tensors"));
            }
        }
        Ok(())
    }
}
