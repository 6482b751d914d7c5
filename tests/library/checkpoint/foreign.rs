//! What others write is read: names with prefixes, several files, other types of numbers.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use perennial::model::checkpoint::load;
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{Entry, assemble, bits, contains, entries, hugging_face_entries, refusal, tiny, values, write};

#[test]
fn prefixes_and_stored_constants_do_not_matter() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let custom = |name: &str| match name {
        name if name.starts_with("visual.") || name == "logit_scale" => name.to_string(),
        name => format!("text.{name}"),
    };
    let renamings: [&dyn Fn(&str) -> String; 3] =
        [&|name| format!("module.{name}"), &custom, &|name| format!("module.{}", custom(name))];
    for rename in renamings {
        let mut tensors = entries();
        for (name, _, shape, _) in &mut tensors {
            if name == "logit_scale" {
                *shape = vec![1];
            }
            *name = rename(name);
        }
        tensors.push((rename("attn_mask"), "F32".into(), vec![12, 12], vec![0; 576]));
        let path = write(&folder, &assemble(None, &tensors));
        let weights = load(&path, &spec).unwrap();
        assert_eq!(bits(&weights.values), bits(&values(&list)));
        assert_eq!((weights.spec, weights.notes), (None, vec![]));
    }
}

#[test]
fn what_wrappers_put_in_front_is_taken_off() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let expected = bits(&values(&ParameterList::of(&spec)));
    let renamed = |rename: &dyn Fn(&str) -> String| {
        let mut tensors = entries();
        tensors.iter_mut().for_each(|(name, ..)| *name = rename(name));
        tensors
    };
    for prefix in ["model.", "clip.", "clip_model.", "model.clip.", "state_dict.", "net.backbone.", "teacher."] {
        let mut tensors = renamed(&|name| format!("{prefix}{name}"));
        // What averaging puts beside the model, under no module's name.
        tensors.push(("n_averaged".into(), "I64".into(), vec![], vec![0; 8]));
        let weights = load(&write(&folder, &assemble(None, &tensors)), &spec).unwrap();
        assert_eq!(bits(&weights.values), expected, "{prefix}");
        contains(&weights.notes.join("; "), &[&format!("all names begin with '{prefix}', which is taken off")]);
    }
    let wrappers: [&dyn Fn(&str) -> String; 4] = [
        &|name| format!("_orig_mod.{name}"),
        &|name| format!("module._orig_mod.{name}"),
        &|name| name.replace("visual.", "visual._orig_mod.").replace("transformer.", "transformer.module."),
        &|name| format!("_orig_mod.module.text.{name}").replace("text.visual", "visual"),
    ];
    for rename in wrappers {
        let weights = load(&write(&folder, &assemble(None, &renamed(rename))), &spec).unwrap();
        assert_eq!(bits(&weights.values), expected);
    }
    let hugging_face: Vec<Entry> = hugging_face_entries(&folder, &spec)
        .into_iter()
        .map(|(name, dtype, shape, data)| (format!("model.clip.{name}"), dtype, shape, data))
        .collect();
    let weights = load(&write(&folder, &assemble(None, &hugging_face)), &spec).unwrap();
    assert_eq!(bits(&weights.values), expected);

    let mut mixed = renamed(&|name| format!("model.{name}"));
    let count = mixed.len();
    mixed.push(("head.weight".into(), "F32".into(), vec![1], vec![0; 4]));
    let message = refusal(&assemble(None, &mixed));
    let what = format!("{count} of the {} names begin with 'model.' and others, as 'head.weight', do not", count + 1);
    contains(&message, &[&what]);
    let two = [renamed(&|name| format!("student.{name}")), renamed(&|name| format!("teacher.{name}"))].concat();
    contains(
        &refusal(&assemble(None, &two)),
        &["it holds several models, whose names begin with 'student.' and 'teacher.'"],
    );
}

#[test]
fn the_sizes_beside_openais_weights_are_held_against_the_model() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let with = |sizes: [(&str, i64); 3]| {
        let mut tensors = entries();
        for (name, size) in sizes {
            tensors.push((name.into(), "I64".into(), vec![], size.to_le_bytes().to_vec()));
        }
        assemble(None, &tensors)
    };
    let right = [("input_resolution", 12), ("context_length", 12), ("vocab_size", 100)];
    let weights = load(&write(&folder, &with(right)), &spec).unwrap();
    assert_eq!(bits(&weights.values), bits(&values(&ParameterList::of(&spec))));
    let message = refusal(&with([right[0], ("context_length", 77), right[2]]));
    contains(&message, &["its context_length is 77, and the model's text_cfg.context_length 12"]);
}

#[test]
fn a_header_may_say_that_there_is_no_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let weights = load(&write(&folder, &assemble(Some(Value::Null), &entries())), &tiny()).unwrap();
    assert_eq!((weights.spec, weights.notes), (None, vec![]));
}

#[test]
fn a_model_in_several_files_is_read_by_its_index() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let place = |name: &str| folder.path().join(name);
    let all = entries();
    let parts = [("model-00001-of-00002.safetensors", &all[..9]), ("model-00002-of-00002.safetensors", &all[9..])];
    let mut map = serde_json::Map::new();
    for (file, tensors) in parts {
        fs::write(place(file), assemble(None, tensors)).unwrap();
        tensors.iter().for_each(|(name, ..)| drop(map.insert(name.clone(), json!(file))));
    }
    let index = place("model.safetensors.index.json");
    let write_index = |map: &serde_json::Map<String, Value>| {
        fs::write(&index, json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string()).unwrap();
    };
    write_index(&map);
    for path in [folder.path(), &index] {
        let weights = load(path, &spec).unwrap();
        assert_eq!(bits(&weights.values), bits(&values(&ParameterList::of(&spec))));
        assert_eq!(weights.paths, [index.clone(), place(parts[0].0), place(parts[1].0)]);
    }
    let message = || load(folder.path(), &spec).unwrap_err().to_string();
    let one = load(&place(parts[0].0), &spec).unwrap_err().to_string();
    contains(&one, &["this is one of the files of a model in several: give their folder, or the index", "is missing"]);

    let (moved, other) = (all[0].0.clone(), all[20].0.clone());
    let mut wrong = map.clone();
    wrong.insert(moved.clone(), json!(parts[1].0));
    write_index(&wrong);
    contains(&message(), &[&format!("'{moved}' is in "), parts[0].0, "where the index does not have it"]);
    let mut wrong = map.clone();
    wrong.insert("absent".into(), json!(parts[1].0));
    write_index(&wrong);
    contains(&message(), &["'absent' should be in ", parts[1].0, "and is not"]);
    let mut wrong = map.clone();
    wrong.insert(other, json!("../elsewhere.safetensors"));
    write_index(&wrong);
    contains(&message(), &["'../elsewhere.safetensors', which is no file beside it"]);
    write_index(&map);
    fs::remove_file(place(parts[1].0)).unwrap();
    contains(
        &message(),
        &["the index of a model in several files, of which 'model-00002-of-00002.safetensors' is missing"],
    );
}

/// The same with each number written by `convert`.
fn entries_as(dtype: &str, convert: impl Fn(f32) -> Vec<u8>) -> Vec<Entry> {
    let number = |raw: &[u8]| f32::from_le_bytes(raw.try_into().unwrap());
    let bytes = |data: &[u8]| data.chunks_exact(4).flat_map(|raw| convert(number(raw))).collect();
    entries().into_iter().map(|(name, _, shape, data)| (name, dtype.into(), shape, bytes(&data))).collect()
}

#[test]
fn half_and_double_precision_are_read() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let exact = values(&list);
    let check = |tensors: Vec<Entry>, rounded: &dyn Fn(f32) -> f32| {
        let weights = load(&write(&folder, &assemble(None, &tensors)), &spec).unwrap();
        let expected: Vec<f32> = exact.iter().map(|value| rounded(*value)).collect();
        assert_eq!(bits(&weights.values), bits(&expected));
    };
    check(entries_as("F64", |value| (value as f64).to_le_bytes().to_vec()), &|value| value);
    check(entries_as("F16", |value| f16::from_f32(value).to_le_bytes().to_vec()), &|value| {
        f16::from_f32(value).to_f32()
    });
    check(entries_as("BF16", |value| bf16::from_f32(value).to_le_bytes().to_vec()), &|value| {
        bf16::from_f32(value).to_f32()
    });
}

#[test]
fn tensors_that_pytorch_wrote_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny_quick_gelu.safetensors");
    let bytes = fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let spec = ModelSpec::from_json(&metadata.metadata().as_ref().unwrap()["config"]).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let initial: Vec<Entry> = tensors
        .tensors()
        .into_iter()
        .filter_map(|(name, tensor)| {
            let name = name.strip_prefix("init/")?.to_string();
            Some((name, "F32".into(), tensor.shape().to_vec(), tensor.data().to_vec()))
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let weights = load(&write(&folder, &assemble(None, &initial)), &spec).unwrap();
    let list = ParameterList::of(&spec);
    assert_eq!(initial.len(), list.len());
    for (name, _, _, data) in &initial {
        let stored: Vec<u32> = data.chunks_exact(4).map(|raw| u32::from_le_bytes(raw.try_into().unwrap())).collect();
        assert_eq!(bits(&weights.values[list.get(name).range()]), stored, "{name}");
    }
}
