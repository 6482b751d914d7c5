//! Random damage: no panic, and no memory beyond what the file and the model need.

use std::fs;
use std::sync::LazyLock;

use perennial::model::checkpoint::{TensorFile, export_hugging_face, export_open_clip, load, read_spec};
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{assemble, entries, tiny, values, with_header, write};
use crate::largest::largest;

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
        let ((weights, spec, tensors), largest) =
            largest(|| (load(&path, &tiny()), read_spec(&path), TensorFile::load(&path)));
        prop_assert!(largest < 2 * size, "{largest} bytes at once");
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
