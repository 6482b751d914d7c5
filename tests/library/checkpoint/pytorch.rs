//! PyTorch's own files.

use std::fs;
use std::path::{Path, PathBuf};

use perennial::model::checkpoint::load;
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;

use super::{bits, contains};
use crate::largest::largest;

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
    let (_, largest) = largest(|| load(&torch("training.pt"), &spec).unwrap());
    // The values of the pickle, with the optimiser's, are 4,096 places of 72 bytes. Of the storages nothing is copied.
    assert!(largest < 300_000, "{largest}");
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
