//! Weights of every program, and what lies beside them.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use perennial::data::text::tokenizer;
use perennial::eval::pretrained::find_spec;
use perennial::model::checkpoint::{self, Positions};
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;
use perennial::ops::linear::Activation;
use perennial::rng::{Rng, below};
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::mutate::{mutate, mutate_json, unsealed};
use crate::{FILES, fuzz_folder, scratch};

/// The header alone, three times of four, and its length is made right.
fn mutate_safetensors(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    // A configuration beside it.
    if bytes.first() == Some(&b'{') {
        return mutate_json(bytes, others, rng);
    }
    if below(rng, 4) == 0 {
        return mutate(bytes, others, rng);
    }
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = bytes[8..end].to_vec();
    mutate_json(&mut header, &[], rng);
    let len = (header.len() as u64).to_le_bytes();
    *bytes = [&len, header.as_slice(), &bytes[end..]].concat();
}

#[test]
fn checkpoints() {
    let json = r#"{"embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}}"#;
    let spec = ModelSpec::from_json(json).unwrap();
    let list = ParameterList::of(&spec);
    let values = list.initial_values(1);
    let folder = scratch();
    checkpoint::export_open_clip(folder.path(), &spec, &list, &values).unwrap();
    checkpoint::export_hugging_face(folder.path(), &spec, &list, &values).unwrap();
    let open_clip = ["open_clip_config.json", "open_clip_model.safetensors"];
    let hugging_face = ["config.json", "preprocessor_config.json", "model.safetensors"];
    for (format, names, says_model) in [
        ("open_clip's checkpoint", &open_clip[..], true),
        ("open_clip's configuration", &open_clip, false),
        ("Hugging Face's checkpoint", &hugging_face, false),
    ] {
        // Where the weights do not say their model, the configuration beside them counts.
        let read = |name: &&'static str| {
            let mut bytes = unsealed(fs::read(folder.path().join(name)).unwrap());
            if let (false, Some(place)) = (says_model, bytes.windows(9).position(|window| window == b"model_cfg")) {
                bytes[place..place + 9].copy_from_slice(if name.ends_with("json") {
                    b"model_cfg"
                } else {
                    b"other_key"
                });
            }
            (*name, bytes)
        };
        let files: Vec<(&str, Vec<u8>)> = names.iter().map(read).collect();
        fuzz_folder(format, FILES, &files, mutate_safetensors, |folder, _| {
            let read = |positions| {
                let (spec, _) = find_spec(folder, None, Some(Activation::Gelu), positions)?;
                checkpoint::load_with(folder, &spec, positions)
            };
            let _ = checkpoint::load(folder, &spec);
            read(Positions::AsStored).is_ok() | read(Positions::Interpolated).is_ok()
        });
    }
}

/// The pickle of a zip archive of PyTorch's, three times of four, and the archive is written anew, so that its checksums are right.
fn mutate_archive(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    if below(rng, 4) == 0 {
        return mutate(bytes, others, rng);
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes.as_slice())).unwrap();
    let mut written = ZipWriter::new(Cursor::new(Vec::new()));
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).unwrap();
        // TorchScript's sources, which nobody reads.
        if member.compression() != CompressionMethod::STORE {
            continue;
        }
        let (name, mut content) = (member.name().unwrap().into_owned(), Vec::new());
        member.read_to_end(&mut content).unwrap();
        if name.ends_with("data.pkl") || below(rng, 40) == 0 {
            mutate(&mut content, &[], rng);
        }
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::STORE);
        written.start_file(name, stored).unwrap();
        written.write_all(&content).unwrap();
    }
    *bytes = written.finish().unwrap().into_inner();
}

/// PyTorch's own files, in each of their forms.
#[test]
fn pytorchs_files() {
    let spec = ModelSpec::from_json(include_str!("../fixtures/torch/model.json")).unwrap();
    let read = |folder: &Path, _: &mut Rng| {
        let read = checkpoint::read_spec(folder).is_ok();
        checkpoint::load(folder, &spec).is_ok() & read
    };
    for (form, bytes) in [
        ("a state_dict", &include_bytes!("../fixtures/torch/bf16_views.pt")[..]),
        ("a training program", include_bytes!("../fixtures/torch/settings.ckpt")),
        ("TorchScript", include_bytes!("../fixtures/torch/script.pt")),
    ] {
        let files = [("pytorch_model.bin", bytes.to_vec())];
        fuzz_folder(&format!("PyTorch's archive of {form}"), FILES, &files, mutate_archive, read);
    }
    let legacy = [("pytorch_model.bin", include_bytes!("../fixtures/torch/legacy_views.pt").to_vec())];
    fuzz_folder("PyTorch's file from before 1.6", FILES, &legacy, mutate, read);

    let map: serde_json::Map<String, Value> =
        (ParameterList::of(&spec).iter()).map(|parameter| (parameter.name.clone(), json!("a.bin"))).collect();
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string().into_bytes();
    let files =
        [("model.safetensors.index.json", index), ("a.bin", include_bytes!("../fixtures/torch/f16.pt").to_vec())];
    fuzz_folder("index of several files", FILES, &files, mutate_index, read);
}

fn mutate_index(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    match bytes.first() {
        Some(b'{') => mutate_json(bytes, &[], rng),
        _ => mutate_archive(bytes, others, rng),
    }
}

/// What lies beside Hugging Face's weights and says what tokens they were trained with.
#[test]
fn tokenizers() {
    let folder = scratch();
    tokenizer::save_hugging_face(folder.path(), 77).unwrap();
    let config = fs::read(folder.path().join("tokenizer_config.json")).unwrap();
    let files = [("tokenizer_config.json", config), ("added_tokens.json", b"{\"<cat>\": 49408}".to_vec())];
    fuzz_folder("tokenizer's configuration", FILES, &files, mutate_json, |folder, _| {
        tokenizer::check_folder(folder).is_ok()
    });
}
