//! What lies beside weights and says what they are: the configurations of Hugging Face's and open_clip's folders.

use std::fs;

use perennial::model::checkpoint::{export_open_clip, load, read_spec, save};
use perennial::model::parameters::ParameterList;
use perennial::model::spec::{ModelSpec, Told};
use serde_json::{Value, json};

use super::{assemble, bits, contains, entries, hugging_face_entries, spec_of, tiny, values, write};

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
