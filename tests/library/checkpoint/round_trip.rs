//! What is written comes back, and others can read it.

use std::fs;

use perennial::model::checkpoint::{export_hugging_face, load, save};
use perennial::model::parameters::ParameterList;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::{bits, spec_of, tiny, values};

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
