//! Weights and run state in files: what is written comes back, what others write is read, and what is broken is
//! refused in words.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use approx::assert_abs_diff_eq;
use half::{bf16, f16};
use perennial::error::{Error, Fault};
use perennial::model::checkpoint::{
    Positions, TensorFile, export_hugging_face, export_open_clip, load, load_with, read_spec, save, save_bytes,
};
use perennial::model::parameters::ParameterList;
use perennial::model::spec::{ModelSpec, Told};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Remembers the largest piece of memory that this thread has asked for.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

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

/// The same with each number written by `convert`.
fn entries_as(dtype: &str, convert: impl Fn(f32) -> Vec<u8>) -> Vec<Entry> {
    let number = |raw: &[u8]| f32::from_le_bytes(raw.try_into().unwrap());
    let bytes = |data: &[u8]| data.chunks_exact(4).flat_map(|raw| convert(number(raw))).collect();
    entries().into_iter().map(|(name, _, shape, data)| (name, dtype.into(), shape, bytes(&data))).collect()
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

// ---------------------------------------------------------------- what is written comes back

#[test]
fn saved_weights_come_back_bit_for_bit() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let values = values(&list);
    let path = folder.path().join("step-001.safetensors");
    save(&path, &spec, &list, &values, &[("step", "1".into())]).unwrap();
    let weights = load(&path, &spec).unwrap();
    assert_eq!(bits(&weights.values), bits(&values));
    assert_eq!(weights.spec, Some(spec.clone()));
    assert_eq!(weights.notes, [""; 0]);
    assert_eq!(spec_of(&path), Some(spec));
}

#[test]
fn the_same_weights_give_the_same_bytes() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let values = values(&list);
    let extra = ["a", "b", "c", "d", "e", "f"].map(|key| (key, key.to_string()));
    let mut backwards = extra.clone();
    backwards.reverse();
    let bytes = |metadata: &[(&str, String)]| {
        let path = folder.path().join("model.safetensors");
        save(&path, &spec, &list, &values, metadata).unwrap();
        fs::read(&path).unwrap()
    };
    let first = bytes(&extra);
    assert!((0..5).all(|_| bytes(&backwards) == first));
}

#[test]
fn the_official_reader_reads_what_we_save() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let values = values(&list);
    let path = folder.path().join("model.safetensors");
    save(&path, &spec, &list, &values, &[]).unwrap();
    let bytes = fs::read(&path).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    let strings = metadata.metadata().as_ref().unwrap();
    assert_eq!((strings["format"].as_str(), strings["model_cfg"].clone()), ("pt", spec.to_json()));
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), list.len());
    assert_eq!(tensors.tensor("logit_scale").unwrap().shape(), [0usize; 0]);
    for parameter in list.iter() {
        let tensor = tensors.tensor(&parameter.name).unwrap();
        assert_eq!((tensor.shape(), tensor.dtype()), (&parameter.shape[..], safetensors::Dtype::F32));
        let stored: Vec<u32> =
            tensor.data().chunks_exact(4).map(|raw| u32::from_le_bytes(raw.try_into().unwrap())).collect();
        assert_eq!(stored, bits(&values[parameter.range()]), "{}", parameter.name);
    }
}

#[test]
fn an_export_for_hugging_face_comes_back_bit_for_bit() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let values = values(&list);
    let export = folder.path().join("a/b");
    export_hugging_face(&export, &spec, &list, &values).unwrap();
    let path = export.join("model.safetensors");
    let weights = load(&path, &spec).unwrap();
    assert_eq!(bits(&weights.values), bits(&values));
    assert_eq!((weights.spec, weights.notes), (Some(spec.clone()), vec![]));

    // By hand: the transposed projection, and the keys' rows of the packed one.
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let number = |name: &str, shape: &[usize], index: usize| {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.shape(), shape, "{name}");
        f32::from_le_bytes(tensor.data()[4 * index..][..4].try_into().unwrap())
    };
    let ours = |name: &str, index: usize| values[list.get(name).offset + index];
    assert_eq!(number("visual_projection.weight", &[20, 48], 7 * 48 + 31), ours("visual.proj", 31 * 20 + 7));
    assert_eq!(number("text_projection.weight", &[20, 32], 3 * 32 + 8), ours("text_projection", 8 * 20 + 3));
    let keys = "vision_model.encoder.layers.1.self_attn.k_proj.weight";
    let packed = "visual.transformer.resblocks.1.attn.in_proj_weight";
    assert_eq!(number(keys, &[48, 48], 5 * 48 + 9), ours(packed, (48 + 5) * 48 + 9));
    let values_bias = "text_model.encoder.layers.0.self_attn.v_proj.bias";
    assert_eq!(number(values_bias, &[32], 4), ours("transformer.resblocks.0.attn.in_proj_bias", 2 * 32 + 4));

    let read = |name: &str| serde_json::from_str::<Value>(&fs::read_to_string(export.join(name)).unwrap()).unwrap();
    let config = read("config.json");
    assert_eq!(config["vision_config"]["hidden_act"], "quick_gelu");
    assert_eq!(config["vision_config"]["num_attention_heads"], 3);
    assert_eq!(config["vision_config"]["intermediate_size"], 192);
    assert_eq!(config["text_config"]["max_position_embeddings"], 12);
    assert_eq!(
        (&config["text_config"]["bos_token_id"], &config["text_config"]["eos_token_id"]),
        (&json!(98), &json!(99))
    );
    assert_eq!(config["projection_dim"], 20);
    assert_eq!(config["logit_scale_init_value"].as_f64().unwrap() as f32, ours("logit_scale", 0));
    assert_eq!(read("preprocessor_config.json")["crop_size"], json!({ "height": 12, "width": 12 }));
}

// ---------------------------------------------------------------- what others write is read

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

// ---------------------------------------------------------------- PyTorch's own files

/// A file that PyTorch wrote; `make_torch.py` beside them says of what.
fn torch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch").join(name)
}

fn torch_spec() -> ModelSpec {
    ModelSpec::find(torch("model.json").to_str().unwrap()).unwrap()
}

/// The numbers of all those files, by the formula that their script states.
fn torch_values(list: &ParameterList) -> Vec<f32> {
    let block = |name: &str| {
        let parts = [
            "ln_1.weight",
            "ln_1.bias",
            "attn.in_proj_weight",
            "attn.in_proj_bias",
            "attn.out_proj.weight",
            "attn.out_proj.bias",
            "ln_2.weight",
            "ln_2.bias",
            "mlp.c_fc.weight",
            "mlp.c_fc.bias",
            "mlp.c_proj.weight",
            "mlp.c_proj.bias",
        ];
        parts.map(|part| format!("{name}transformer.resblocks.0.{part}"))
    };
    let named = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let names = [
        named(&["positional_embedding", "text_projection", "logit_scale", "visual.class_embedding"]),
        named(&["visual.positional_embedding", "visual.proj", "visual.conv1.weight"]),
        named(&["visual.ln_pre.weight", "visual.ln_pre.bias"]),
        block("visual.").to_vec(),
        named(&["visual.ln_post.weight", "visual.ln_post.bias"]),
        block("").to_vec(),
        named(&["token_embedding.weight", "ln_final.weight", "ln_final.bias"]),
    ]
    .concat();
    assert_eq!(names.len(), list.len());
    let mut values = vec![0.0; list.arena_len()];
    for (place, name) in names.iter().enumerate() {
        for (number, value) in values[list.get(name).range()].iter_mut().enumerate() {
            *value = ((31 * place + 7 * number) % 129) as f32 / 64.0 - 1.0;
        }
    }
    values
}

#[test]
fn every_form_in_which_pytorch_saves_weights_is_read() {
    let spec = torch_spec();
    let expected = bits(&torch_values(&ParameterList::of(&spec)));
    for (name, notes) in [
        ("f32.pt", &[][..]),
        ("f16.pt", &[]),
        ("bf16_views.pt", &[]),
        ("legacy_views.pt", &[]),
        ("training.pt", &["the weights are those under 'state_dict'"]),
        (
            "settings.ckpt",
            &["the weights are those under 'state_dict'", "all names begin with 'model.', which is taken off"],
        ),
        ("script.pt", &[]),
    ] {
        let weights = load(&torch(name), &spec).unwrap();
        assert_eq!(bits(&weights.values), expected, "{name}");
        assert_eq!(weights.notes.len(), notes.len(), "{name}: {:?}", weights.notes);
        contains(&weights.notes.join("; "), notes);
        assert_eq!((weights.spec, weights.paths), (None, vec![torch(name)]));
    }
    // The sizes in the archive of TorchScript are held against the model.
    let mut other = spec.clone();
    other.text_cfg.context_length = 6;
    other.vision_cfg.image_size = 9;
    contains(&load(&torch("script.pt"), &other).unwrap_err().to_string(), &["its input_resolution is 8"]);
}

#[test]
fn a_file_of_pytorchs_takes_the_models_memory() {
    let spec = torch_spec();
    LARGEST.set(0);
    load(&torch("training.pt"), &spec).unwrap();
    // The values of the pickle, with the optimiser's, are 4,096 places of 72 bytes. Of the storages nothing is copied.
    assert!(LARGEST.get() < 300_000, "{}", LARGEST.get());
}

#[test]
fn what_is_no_state_dict_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| load(path, &torch_spec()).unwrap_err().to_string();
    contains(
        &message(&torch("module.pt")),
        &[
            "module.pt: data.pkl: byte 2 of the pickle: it asks for Python's '__main__.Part'",
            "torch.save(model.state_dict(), FILE)",
        ],
    );
    let damaged = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(torch(name)).unwrap();
        change(&mut bytes);
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        message(&path)
    };
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap();
    let flipped = damaged("f32.pt", &|bytes| {
        // 160 bytes of numbers begin at most 78 bytes behind the name's first.
        let place = find(bytes, b"f32/data/4");
        bytes[place + 80] ^= 1;
    });
    contains(&flipped, &["its member 'data/4' is damaged: the checksum is another"]);
    contains(
        &damaged("f32.pt", &|bytes| bytes.truncate(9000)),
        &["a zip archive, as torch.save writes them, that is damaged"],
    );
    contains(&damaged("legacy_views.pt", &|bytes| bytes.truncate(9000)), &["it is cut short: its storage"]);
    let big = damaged("legacy_views.pt", &|bytes| {
        let place = find(bytes, b"little_endian");
        let place = place + bytes[place..].iter().position(|byte| *byte == 0x88).unwrap();
        bytes[place] = 0x89;
    });
    contains(&big, &["byte order 'big'"]);
    let system = damaged("legacy_views.pt", &|bytes| {
        let place = find(bytes, b"ctorch._utils\n_rebuild_tensor_v2\n");
        bytes[place..place + 34].copy_from_slice(b"cos\nsystem_of_no_tensor_anywhere12\n"[..34].try_into().unwrap());
    });
    contains(&system, &["it asks for Python's 'os.system_of_no_tensor_anywhere1"]);
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
fn a_hugging_face_folder_tells_its_model() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let path = folder.path().join("model.safetensors");

    // With position_ids, as older versions write them.
    let mut theirs = hugging_face_entries(&folder, &spec);
    theirs.push(("text_model.embeddings.position_ids".into(), "I64".into(), vec![1, 12], vec![0; 96]));
    write(&folder, &assemble(Some(json!({ "format": "pt" })), &theirs));
    assert_eq!(spec_of(&path), Some(spec.clone()));
    let weights = load(&path, &spec).unwrap();
    assert_eq!(bits(&weights.values), bits(&values(&list)));
    assert_eq!((weights.spec, weights.notes), (Some(spec), vec![]));

    fs::write(folder.path().join("config.json"), "{").unwrap();
    contains(&read_spec(&path).unwrap_err().to_string(), &["config.json: not a CLIP configuration"]);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_eq!(spec_of(&path), None);
}

#[test]
fn an_open_clip_folder_tells_its_model() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    export_open_clip(folder.path(), &spec, &list, &values(&list)).unwrap();
    // As open_clip writes it, without our metadata.
    fs::write(folder.path().join("open_clip_model.safetensors"), assemble(None, &entries())).unwrap();
    assert_eq!(spec_of(folder.path()), Some(spec.clone()));
    let weights = load(folder.path(), &spec).unwrap();
    assert_eq!(bits(&weights.values), bits(&values(&list)));
    assert_eq!((weights.spec, weights.notes), (Some(spec.clone()), vec![]));
    assert_eq!(weights.path, folder.path().join("open_clip_model.safetensors"));

    // SigLIP's pictures are other ones.
    let config = json!({ "model_cfg": spec, "preprocess_cfg": { "mean": [0.5, 0.5, 0.5], "resize_mode": "squash" } });
    fs::write(folder.path().join("open_clip_config.json"), config.to_string()).unwrap();
    let notes = load(folder.path(), &spec).unwrap().notes;
    assert_eq!(notes.len(), 1);
    contains(&notes[0], &["open_clip_config.json: mean is [0.5, 0.5, 0.5], resize_mode is \"squash\"", "as CLIP's"]);
}

#[test]
fn a_configuration_counts_for_the_file_that_it_was_written_with() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    export_open_clip(folder.path(), &spec, &list, &values(&list)).unwrap();
    let other = folder.path().join("fine-tuned.safetensors");
    fs::write(&other, assemble(None, &entries())).unwrap();
    assert_eq!(spec_of(&other), None);
    assert_eq!(load(&other, &spec).unwrap().spec, None);

    // Without our metadata, the configuration says the activation: in words, or as open_clip's default.
    let file = folder.path().join("open_clip_model.safetensors");
    fs::write(&file, assemble(None, &entries())).unwrap();
    let stored = read_spec(&file).unwrap().unwrap();
    assert_eq!((stored.told, stored.origin), (Told::InWords, folder.path().join("open_clip_config.json")));
    let mut config = json!({ "model_cfg": spec });
    config["model_cfg"].as_object_mut().unwrap().remove("quick_gelu");
    fs::write(folder.path().join("open_clip_config.json"), config.to_string()).unwrap();
    let stored = read_spec(&file).unwrap().unwrap();
    assert_eq!((stored.told, stored.spec), (Told::ByDefault, ModelSpec { quick_gelu: false, ..spec }));
}

/// The tensors of a model that is exported to `folder` in Hugging Face's layout, as it would write them: without our metadata.
fn hugging_face_entries(folder: &TempDir, spec: &ModelSpec) -> Vec<Entry> {
    let list = ParameterList::of(spec);
    export_hugging_face(folder.path(), spec, &list, &values(&list)).unwrap();
    let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
    tensors.map(|(name, tensor)| (name, "F32".into(), tensor.shape().to_vec(), tensor.data().to_vec())).collect()
}

#[test]
fn pictures_that_others_prepare_otherwise_are_noted() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let path = write(&folder, &assemble(None, &hugging_face_entries(&folder, &spec)));
    let file = folder.path().join("preprocessor_config.json");
    let ours: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let notes = |key: &str, value: Value| {
        let mut config = ours.clone();
        config[key] = value;
        fs::write(&file, config.to_string()).unwrap();
        load(&path, &spec).unwrap().notes
    };
    for (key, value) in [("size", json!(12)), ("crop_size", json!(12)), ("do_center_crop", Value::Null)] {
        assert_eq!(notes(key, value), [""; 0], "{key}");
    }
    let different = [
        ("size", json!({ "height": 12, "width": 12 }), r#"size is {"height":12,"width":12}"#),
        ("size", json!({ "shortest_edge": 14 }), r#"size is {"shortest_edge":14}"#),
        ("crop_size", json!(14), "crop_size is 14"),
        ("do_center_crop", json!(false), "do_center_crop is false"),
        ("do_resize", json!(false), "do_resize is false"),
        ("resample", json!(2), "resample is 2"),
        ("image_std", json!([0.5, 0.5, 0.5]), "image_std is [0.5, 0.5, 0.5]"),
    ];
    for (key, value, told) in different {
        let notes = notes(key, value);
        assert_eq!(notes.len(), 1, "{key}: {notes:?}");
        contains(&notes[0], &["preprocessor_config.json: ", told, "as CLIP's all the same"]);
    }
}

#[test]
fn a_folder_without_a_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = |name: &str| {
        if !name.is_empty() {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        load(folder.path(), &tiny()).unwrap_err().to_string()
    };
    contains(&message(""), &["a folder, and without open_clip_model.safetensors or model.safetensors in it"]);
    contains(&message("pytorch_model.bin"), &["pytorch_model.bin", "2 bytes are too few"]);
    contains(&message("model.safetensors.index.json"), &["model.safetensors.index.json", "2 bytes are too few"]);
}

/// The tensors of the tiny model with a positional embedding for a grid of `side` x `side` patches: each row is made of
/// the row's number.
fn entries_for_grid(name: &str, side: usize, mut tensors: Vec<Entry>) -> Vec<Entry> {
    let (_, _, shape, data) = tensors.iter_mut().find(|(known, ..)| known == name).unwrap();
    *shape = vec![1 + side * side, 48];
    *data = (0..shape[0]).flat_map(|row| (row as f32).to_le_bytes().repeat(48)).collect();
    tensors
}

#[test]
fn positions_of_another_resolution_are_fitted_when_that_is_asked_for() {
    const NAME: &str = "visual.positional_embedding";
    let folder = tempfile::tempdir().unwrap();
    let bytes = assemble(None, &entries_for_grid(NAME, 5, entries()));
    contains(
        &refusal(&bytes),
        &[
            "'visual.positional_embedding': expected [10, 48], found F32 [26, 48]: it is for 5 x 5 patches and the model \
             has 3 x 3; --interpolate-positions (model.interpolate_positions = true) makes it fit",
        ],
    );
    let weights = load_with(&write(&folder, &bytes), &tiny(), Positions::Interpolated).unwrap();
    contains(&weights.notes[0], &["the positional embedding is interpolated from 5 x 5 to 3 x 3 patches"]);
    let found = &weights.values[ParameterList::of(&tiny()).get(NAME).range()];
    // The class token stays; the middle of a grid that rises evenly stays in the middle, and corners are mirror images.
    assert_eq!(found[..48], [0.0; 48]);
    let row = |place: usize| found[(1 + place) * 48];
    assert_abs_diff_eq!(row(4), 13.0, epsilon = 1e-5);
    assert!((row(0) + row(8) - 26.0).abs() < 1e-4 && row(0) > 1.0, "{} {}", row(0), row(8));

    // What is no grid of a square, or has another width, does not fit in any way.
    for shape in [vec![27, 48], vec![26, 24], vec![26]] {
        let mut tensors = entries();
        let (_, _, found, data) = tensors.iter_mut().find(|(name, ..)| name == NAME).unwrap();
        *data = vec![0; 4 * shape.iter().product::<usize>()];
        *found = shape;
        let path = write(&folder, &assemble(None, &tensors));
        let message = load_with(&path, &tiny(), Positions::Interpolated).unwrap_err().to_string();
        contains(&message, &["'visual.positional_embedding': expected [10, 48], found F32"]);
        assert!(!message.contains("--interpolate-positions"), "{message}");
    }
}

#[test]
fn positions_in_hugging_faces_layout_are_fitted_too() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let theirs = hugging_face_entries(&folder, &spec);
    let theirs = entries_for_grid("vision_model.embeddings.position_embedding.weight", 2, theirs);
    let path = write(&folder, &assemble(None, &theirs));
    let weights = load_with(&path, &spec, Positions::Interpolated).unwrap();
    contains(&weights.notes[0], &["from 2 x 2 to 3 x 3 patches"]);
    contains(&load(&path, &spec).unwrap_err().to_string(), &["it is for 2 x 2 patches and the model has 3 x 3"]);
}

#[test]
fn a_model_used_as_another_is_noted() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    let path = folder.path().join("model.safetensors");
    save(&path, &spec, &list, &values(&list), &[]).unwrap();
    let other = ModelSpec { quick_gelu: false, ..spec };
    let notes = load(&path, &other).unwrap().notes;
    assert_eq!(notes.len(), 1);
    contains(&notes[0], &["the file's model has the activation quick_gelu, and is used with gelu"]);
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

// ---------------------------------------------------------------- what is broken is refused in words

#[test]
fn a_missing_tensor_is_named() {
    let mut tensors = entries();
    tensors.retain(|(name, ..)| name != "visual.proj");
    let message = refusal(&assemble(None, &tensors));
    contains(&message, &["the tensors are not those of the model: 'visual.proj' is missing (expected [48, 20])"]);
}

#[test]
fn an_unknown_tensor_is_named() {
    let mut tensors = entries();
    tensors.push(("logit_bias".into(), "F32".into(), vec![1], vec![0; 4]));
    contains(&refusal(&assemble(None, &tensors)), &["'logit_bias' is unknown (found F32 [1])"]);
}

#[test]
fn a_misshapen_tensor_is_named() {
    let mut tensors = entries();
    tensors.iter_mut().find(|(name, ..)| name == "visual.proj").unwrap().2 = vec![20, 48];
    contains(&refusal(&assemble(None, &tensors)), &["'visual.proj': expected [48, 20], found F32 [20, 48]"]);
}

#[test]
fn integers_are_no_weights() {
    let mut tensors = entries();
    let (_, dtype, _, data) = tensors.iter_mut().find(|(name, ..)| name == "ln_final.bias").unwrap();
    (*dtype, *data) = ("I64".into(), vec![0; 256]);
    let message = refusal(&assemble(None, &tensors));
    contains(&message, &["'ln_final.bias': expected F32, F16, BF16 or F64, found I64 [32]"]);
}

#[test]
fn a_truncated_file_is_refused() {
    let bytes = assemble(None, &entries());
    let message = refusal(&bytes[..bytes.len() - 1]);
    contains(&message, &["the file is truncated: the tensors should take", "follow the header"]);
    contains(&refusal(&bytes[..100]), &["the file is truncated: the header should take", "and 92 follow"]);
    contains(&refusal(&bytes[..5]), &["not a safetensors file: 5 bytes are too few"]);
    contains(&refusal(&[&bytes[..], &[0]].concat()), &["the file is too long"]);
}

#[test]
fn an_absurd_header_length_is_refused() {
    let mut bytes = assemble(None, &entries());
    bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    LARGEST.set(0);
    contains(&refusal(&bytes), &["the header's length is given as 1152921504606846976 bytes"]);
    assert!(LARGEST.get() < 1 << 20, "{}", LARGEST.get());
}

#[test]
fn overlapping_tensors_are_refused() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let message = refusal(&with_header(header, &[0; 12]));
    contains(
        &message,
        &["tensor 'b' is said to take bytes 4 to 12, where byte 8 should come first: tensors overlap or leave a gap"],
    );
    let backwards = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[],"data_offsets":[8,4]}}"#;
    contains(&refusal(&with_header(backwards, &[0; 8])), &["tensor 'b' is said to take bytes 8 to 4"]);
}

#[test]
fn duplicate_names_are_refused() {
    let header = r#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#;
    contains(&refusal(&with_header(header, &[0; 8])), &["the name 'a' occurs twice"]);
    let mut tensors = entries();
    tensors.push(("module.logit_scale".into(), "F32".into(), vec![], vec![0; 4]));
    contains(&refusal(&assemble(None, &tensors)), &["'logit_scale' and 'module.logit_scale' are the same tensor"]);
}

#[test]
fn nan_weights_are_noted() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let mut tensors = entries();
    let (_, _, _, data) = tensors.iter_mut().find(|(name, ..)| name == "visual.ln_post.bias").unwrap();
    data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    data[16..20].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let weights = load(&write(&folder, &assemble(None, &tensors)), &spec).unwrap();
    let what = "2 of the weights are NaN or infinite, the first of them in 'visual.ln_post.bias' (NaN at [2])";
    contains(weights.not_finite.as_ref().unwrap(), &[what]);
    assert_eq!(weights.notes, [""; 0]);
    let path = write(&folder, &assemble(None, &tensors));
    let passed = weights.checked(true).unwrap();
    assert_eq!((passed.notes.len(), passed.not_finite.is_some()), (1, true));
    contains(&passed.notes[0], &[what]);
    let error = load(&path, &spec).unwrap().checked(false).unwrap_err();
    contains(&error.to_string(), &[what, "--allow-non-finite (model.allow_non_finite = true) lets them pass"]);
}

#[test]
fn an_empty_file_is_refused() {
    contains(&refusal(&[]), &["not a safetensors file: 0 bytes are too few for one"]);
    let folder = tempfile::tempdir().unwrap();
    let nowhere = load(&folder.path().join("nowhere"), &tiny()).unwrap_err();
    contains(&nowhere.to_string(), &["cannot read", "nowhere"]);
}

#[test]
fn other_formats_are_recognised() {
    contains(&refusal(b"PK\x03\x04\x14\x00\x08\x08 and so on"), &["a zip archive", "damaged or cut short"]);
    contains(&refusal(b"version https://git-lfs.github.com/spec/v1\noid"), &["a Git LFS pointer", "git lfs pull"]);
    contains(&refusal(b"<!doctype html><html>404"), &["a web page (HTML) in place of the weights"]);
    contains(
        &refusal(b"{\"a\": [1, 2, 3]}"),
        &["a JSON text, and no weights, nor the index of a model in several files"],
    );
    contains(&refusal(b"\x80\x02}q\x00X\x01\x00\x00\x00as."), &["a pickle of Python's that torch.save did not write"]);
    contains(&refusal(&with_header("[1, 2]", &[])), &["cannot understand the header", "expected an object"]);
    contains(&refusal(&with_header("{\"a\": \"\u{1b}\"", &[])), &["cannot understand the header"]);
}

#[test]
fn many_wrong_tensors_give_one_short_error() {
    let mut tensors = entries();
    tensors.iter_mut().for_each(|(name, ..)| *name = format!("x{name}"));
    let message = refusal(&assemble(None, &tensors));
    let count = 2 * tensors.len() - 5;
    contains(&message, &["'positional_embedding' is missing", "'xpositional_embedding' is unknown"]);
    contains(&message, &[&format!("; and {count} more")]);
    assert!(message.len() < 700, "{message}");
}

#[test]
fn names_from_a_file_cannot_spoil_the_message() {
    let mut tensors = entries();
    tensors.push((format!("\u{1b}[31m{}", "x".repeat(5000)), "U8".into(), vec![1; 50], vec![0]));
    let message = refusal(&assemble(None, &tensors));
    contains(&message, &["\\u{1b}[31mxxx", "xxx...' is unknown (found U8 of 50 dimensions)"]);
    assert!(message.len() < 400 && !message.contains('\u{1b}'), "{message}");
}

/// A sound file to be damaged, and where its header ends.
static SOUND: LazyLock<(Vec<u8>, usize)> = LazyLock::new(|| {
    let bytes = assemble(Some(json!({ "model_cfg": tiny().to_json() })), &entries());
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (bytes, header)
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever happens to the bytes, mostly to those of the header: no panic, and no memory beyond that of the
    /// file and the model.
    #[test]
    fn damaged_files_are_harmless(
        header in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
        anywhere in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
        digits in proptest::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 0..4),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let (mut bytes, end) = SOUND.clone();
        let size = bytes.len();
        for (index, byte) in header {
            bytes[index.index(end)] = byte;
        }
        for (index, byte) in anywhere {
            bytes[index.index(size)] = byte;
        }
        // Wrong numbers in a header that is still JSON.
        let places: Vec<usize> = (8..end).filter(|index| bytes[*index].is_ascii_digit()).collect();
        for (index, digit) in digits {
            bytes[places[index.index(places.len())]] = digit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(size));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder, &bytes);
        LARGEST.set(0);
        let weights = load(&path, &tiny());
        let spec = read_spec(&path);
        let tensors = TensorFile::load(&path);
        prop_assert!(LARGEST.get() < 2 * size, "{} bytes at once", LARGEST.get());
        for message in [weights.err(), spec.err(), tensors.err()].into_iter().flatten().map(|error| error.to_string()) {
            prop_assert!(message.contains("model.safetensors"), "{message}");
        }
    }
}

/// What stands beside the tiny model's weights: Hugging Face's configuration and open_clip's.
static CONFIGURATIONS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let list = ParameterList::of(&spec);
    export_hugging_face(folder.path(), &spec, &list, &values(&list)).unwrap();
    export_open_clip(folder.path(), &spec, &list, &values(&list)).unwrap();
    ["config.json", "open_clip_config.json"]
        .map(|name| serde_json::from_str(&fs::read_to_string(folder.path().join(name)).unwrap()).unwrap())
});

/// A JSON value of any kind, mostly one that a configuration has in that place.
fn some_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..5000u64).prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        prop_oneof!["gelu", "quick_gelu", "gelu_new", ".{0,5}"].prop_map(|text| json!(text)),
        Just(json!({})),
        Just(Value::Null),
        Just(json!([1, 2])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever stands beside the weights: a model within bounds, or an error that names the file.
    #[test]
    fn damaged_configurations_are_harmless(
        open_clip in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), some_value()), 1..4),
        noise in proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (name, tensor) = match open_clip {
            true => ("open_clip_config.json", "logit_scale"),
            false => ("config.json", "text_model.x"),
        };
        let header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}"#);
        let path = write(&folder, &with_header(&header, &[]));
        let config = folder.path().join(name);
        let mut value: Value = CONFIGURATIONS[usize::from(open_clip)].clone();
        for (place, change) in changes {
            let mut places = Vec::new();
            pointers(&value, String::new(), &mut places);
            let place: &String = place.get(&places);
            *value.pointer_mut(place).unwrap() = change;
        }
        let mut bytes = value.to_string().into_bytes();
        if let Some((place, byte)) = noise {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        fs::write(&config, bytes).unwrap();
        match read_spec(&path) {
            Ok(None) => prop_assert!(false, "the configuration is there"),
            Ok(Some(stored)) => prop_assert!(ModelSpec::from_json(&stored.spec.to_json()).is_ok()),
            Err(error) => prop_assert!(error.to_string().contains(name), "{error}"),
        }
    }
}

/// Where there is a value in a JSON document.
fn pointers(value: &Value, place: String, places: &mut Vec<String>) {
    if let Some(object) = value.as_object() {
        object.iter().for_each(|(key, value)| pointers(value, format!("{place}/{key}"), places));
    }
    places.push(place);
}

// ---------------------------------------------------------------- the state of a run

fn state() -> TensorFile {
    let mut file = TensorFile::new();
    file.insert_u32("memory/indices", &[3], vec![5, u32::MAX, 0]);
    file.insert_f32("moments", &[2, 2], vec![1.0, -0.0, f32::NAN, f32::MIN_POSITIVE]);
    file.insert_u64("step", &[], vec![u64::MAX]);
    file.insert_f32("empty", &[0, 4], vec![]);
    file.insert_metadata("method", "gdro");
    file.insert_metadata("epoch", "3");
    file
}

#[test]
fn run_state_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    state().save(&path).unwrap();
    let file = TensorFile::load(&path).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["empty", "memory/indices", "moments", "step"]);
    assert_eq!(file.u32("memory/indices", &[3]).unwrap(), [5, u32::MAX, 0]);
    assert_eq!(bits(file.f32("moments", &[2, 2]).unwrap()), bits(&[1.0, -0.0, f32::NAN, f32::MIN_POSITIVE]));
    assert_eq!(file.u64("step", &[]).unwrap(), [u64::MAX]);
    assert_eq!(file.f32("empty", &[0, 4]).unwrap(), [0.0; 0]);
    assert_eq!(file.shape("moments").unwrap(), [2, 2]);
    assert_eq!(file.metadata("method").unwrap(), "gdro");
    assert!(file.contains("step") && !file.contains("steps"));
    SafeTensors::deserialize(&fs::read(&path).unwrap()).unwrap();
}

#[test]
fn the_same_run_state_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |file: &TensorFile| {
        let path = folder.path().join("state.safetensors");
        file.save(&path).unwrap();
        fs::read(&path).unwrap()
    };
    let mut other = TensorFile::new();
    other.insert_metadata("epoch", "3");
    other.insert_metadata("method", "gdro");
    other.insert_u64("step", &[], vec![u64::MAX]);
    other.insert_f32("empty", &[0, 4], vec![]);
    other.insert_f32("moments", &[2, 2], vec![1.0, -0.0, f32::NAN, f32::MIN_POSITIVE]);
    other.insert_u32("memory/indices", &[3], vec![5, u32::MAX, 0]);
    assert_eq!(bytes(&state()), bytes(&other));
}

#[test]
fn bytes_are_written_part_by_part_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole.safetensors"), folder.path().join("parts.safetensors"));
    let mut file = TensorFile::new();
    file.insert_u8("pixels", &[3, 2], vec![1, 2, 3, 4, 5, 6]);
    file.save(&whole).unwrap();
    save_bytes(&parts, "pixels", &[3, 2], [vec![1, 2, 3, 4], vec![5, 6]].into_iter().map(Ok)).unwrap();
    let pixels = |path| TensorFile::load(path).unwrap().u8("pixels", &[3, 2]).unwrap().to_vec();
    assert_eq!(pixels(&parts), pixels(&whole));

    let failing = [Ok(vec![1, 2, 3, 4]), Err(Error::input("cannot read b.png"))];
    let none = folder.path().join("none.safetensors");
    let error = save_bytes(&none, "pixels", &[3, 2], failing.into_iter()).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.fault()), ("cannot read b.png", Fault::Input));
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["parts.safetensors", "whole.safetensors"]);
}

#[test]
fn a_wrong_question_to_the_run_state_is_answered_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    state().save(&path).unwrap();
    let file = TensorFile::load(&path).unwrap();
    let place = path.display();
    let message = |error: perennial::error::Error| error.to_string();
    assert_eq!(message(file.f32("moment", &[2]).unwrap_err()), format!("{place}: no tensor 'moment'"));
    assert_eq!(
        message(file.f32("moments", &[4]).unwrap_err()),
        format!("{place}: tensor 'moments': expected F32 [4], found F32 [2, 2]")
    );
    assert_eq!(
        message(file.u64("memory/indices", &[3]).unwrap_err()),
        format!("{place}: tensor 'memory/indices': expected U64 [3], found U32 [3]")
    );
    assert_eq!(message(file.metadata("seed").unwrap_err()), format!("{place}: no metadata 'seed'"));
    let other = assemble(None, &[("x".into(), "I16".into(), vec![1], vec![0; 2])]);
    fs::write(&path, other).unwrap();
    let error = TensorFile::load(&path).err().unwrap();
    assert_eq!(message(error), format!("{place}: tensor 'x' is of type I16; expected U8, F32, U32 or U64"));
}
