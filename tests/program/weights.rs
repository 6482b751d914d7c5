//! Weights as people bring and take them: what `embed`, `eval` and `export` make of checkpoints, right and wrong.

use std::fs;
use std::path::{Path, PathBuf};

use approx::assert_abs_diff_eq;
use image::RgbImage;
use perennial::model::checkpoint::TensorFile;
use perennial::model::spec::ModelSpec;
use tempfile::TempDir;

use crate::runs::files;
use crate::support::micro::{MICRO, bare_checkpoint, checkpoint, micro};
use crate::support::{perennial, refused, run_refused, succeed, written};

/// The embeddings in a file, [N, 16].
fn embeddings(path: &Path) -> Vec<f32> {
    let file = TensorFile::load(path).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["embeddings"]);
    let shape = file.shape("embeddings").unwrap();
    assert!(shape.len() == 2 && shape[1] == 16, "{shape:?}");
    file.f32("embeddings", shape).unwrap().to_vec()
}

/// Runs `embed` and returns the file's bytes.
#[track_caller]
fn embed(folder: &TempDir, arguments: &[&str]) -> Vec<u8> {
    let out = folder.path().join("embeddings.safetensors");
    let fixed = ["embed", "--out", out.to_str().unwrap()];
    succeed(&fixed.iter().chain(arguments).copied().collect::<Vec<_>>());
    let bytes = fs::read(&out).unwrap();
    let unit = |row: &[f32]| (row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5;
    assert!(embeddings(&out).chunks(16).all(unit), "rows of length 1");
    bytes
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_abs_diff_eq!(found, expected, epsilon = 1e-5);
    }
}

#[test]
fn texts_are_embedded_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let lines = ["a cat", "", "the flag of Peru, and a much longer text than the others", "a cat", "grinning face"];
    let texts = written(&folder, "texts.txt", lines.join("\n"));
    let backward =
        written(&folder, "backward.txt", lines.iter().rev().flat_map(|line| [line, "\n"]).collect::<String>());
    let out = folder.path().join("embeddings.safetensors");

    let first = embed(&folder, &["--model", &model, "--texts", &texts]);
    let rows = embeddings(&out);
    assert_eq!(rows.len(), 5 * 16);
    assert!(first == embed(&folder, &["--model", &model, "--texts", &texts]), "the same command gives the same bytes");
    assert!(first == embed(&folder, &["--model", &model, "--texts", &texts, "--threads", "1"]), "with one thread too");
    assert_close(&rows[..16], &rows[3 * 16..4 * 16]);
    assert!(rows[..16] != rows[4 * 16..]);
    embed(&folder, &["--model", &model, "--texts", &backward, "--batch", "2"]);
    let reversed: Vec<f32> = embeddings(&out).chunks(16).rev().flatten().copied().collect();
    assert_close(&reversed, &rows);
    embed(&folder, &["--model", &model, "--texts", &texts, "--activation", "quick_gelu"]);
    assert!(embeddings(&out) != rows, "another activation gives other embeddings");
}

/// Images of different looks and formats: names in order, and their folder.
fn images(folder: &TempDir) -> (PathBuf, Vec<&'static str>) {
    let photos = folder.path().join("photos");
    fs::create_dir_all(photos.join("folder.png")).unwrap();
    let names = vec!["a.png", "b.jpg", "c.webp", "d.png"];
    for (number, name) in names.iter().enumerate().rev() {
        let (width, height) = [(40, 40), (64, 48), (31, 80), (32, 32)][number];
        let pixel = |x, y| image::Rgb([(x * 5) as u8, (y * 3) as u8, (number * 60) as u8]);
        RgbImage::from_fn(width, height, pixel).save(photos.join(name)).unwrap();
    }
    (photos, names)
}

#[test]
fn images_are_embedded_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let (photos, names) = images(&folder);
    let out = folder.path().join("embeddings.safetensors");
    let pattern = |name: &str| photos.join(name).to_str().unwrap().to_string();

    let all = embed(&folder, &["--model", &model, "--images", &pattern("*")]);
    let rows = embeddings(&out);
    assert_eq!(rows.len(), 4 * 16);
    assert!(all == embed(&folder, &["--model", &model, "--images", &pattern("*")]));
    assert!(all == embed(&folder, &["--model", &model, "--images", &pattern("*"), "--threads", "1"]));
    for (name, row) in names.iter().zip(rows.chunks(16)) {
        embed(&folder, &["--model", &model, "--images", &pattern(name)]);
        assert_close(&embeddings(&out), row);
    }
    embed(&folder, &["--model", &model, "--images", &pattern("*"), "--batch", "3"]);
    assert_close(&embeddings(&out), &rows);
}

#[test]
fn inputs_are_what_the_model_reads() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let out = folder.path().join("inputs.safetensors");
    let embed = |arguments: &[&str]| {
        let fixed = ["embed", "--inputs", "--model", &model, "--out", out.to_str().unwrap()];
        assert_eq!(perennial(&[&fixed[..], arguments].concat()).status, Some(0));
        TensorFile::load(&out).unwrap()
    };
    let texts = written(&folder, "texts.txt", "a photo of a cat\n\n");
    let file = embed(&["--texts", &texts]);
    let tokens = file.u32("tokens", file.shape("tokens").unwrap()).unwrap();
    let context = micro().text_cfg.context_length;
    assert_eq!(file.shape("tokens").unwrap(), [2, context]);
    assert_eq!(tokens[..3], [49406, 320, 1125]);
    assert_eq!(tokens[context..][..3], [49406, 49407, 0]);

    // A picture of the model's size is read as it is.
    let size = micro().vision_cfg.image_size as u32;
    let picture = RgbImage::from_fn(size, size, |x, y| image::Rgb([x as u8, y as u8, 7]));
    picture.save(folder.path().join("p.png")).unwrap();
    let file = embed(&["--images", folder.path().join("p.png").to_str().unwrap()]);
    let shape = [1, size as usize, size as usize, 3];
    assert_eq!(file.u8("pixels", &shape).unwrap(), picture.as_raw().as_slice());

    // However many pictures are in memory at a time.
    let (photos, _) = images(&folder);
    let pattern = photos.join("*").to_str().unwrap().to_string();
    let written = |batch: &str| {
        embed(&["--images", &pattern, "--batch", batch]);
        fs::read(&out).unwrap()
    };
    assert!(written("64") == written("3"));
}

#[test]
fn another_resolution_is_fitted_only_when_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let mut larger = micro();
    larger.vision_cfg.image_size *= 2;
    let arch = written(&folder, "larger.json", larger.to_json());
    let texts = written(&folder, "texts.txt", "a cat\n");
    let out = folder.path().join("embeddings.safetensors");
    let given = ["embed", "--model", &model, "--texts", &texts, "--arch", &arch, "--out", out.to_str().unwrap()];
    refused(&given, &["is not --arch", "larger.json"]);
    let done = perennial(&[&given[..], &["--interpolate-positions"]].concat());
    assert_eq!(done.status, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("the positional embedding is interpolated from"), "{}", done.stderr);

    let export = ["export", "--model", &model, "--format", "hf", "--out"];
    let target = folder.path().join("hf");
    assert_eq!(perennial(&[&export[..], &[target.to_str().unwrap()]].concat()).status, Some(0));
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt"] {
        assert!(target.join(name).is_file(), "{name}");
    }
    // The folder is a checkpoint too.
    let from_folder = ["embed", "--model", target.to_str().unwrap(), "--texts", &texts, "--out", out.to_str().unwrap()];
    assert_eq!(perennial(&from_folder).status, Some(0));
}

#[test]
fn other_files_of_a_run_and_of_another_model_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    run_refused(
        &["--set", &format!("model.pretrained={model}"), "--set", "model.name=emoji-tiny"],
        &["micro.safetensors: it holds {", "not emoji-tiny with gelu: the tensors are not those of the model"],
    );
    let mut state = TensorFile::new();
    ["parameters", "first_moment"].iter().for_each(|name| state.insert_f32(name, &[2], vec![0.0; 2]));
    let path = folder.path().join("state.safetensors");
    state.save(&path).unwrap();
    let texts = written(&folder, "texts.txt", "a cat\n");
    let out = folder.path().join("out.safetensors");
    let embed = ["embed", "--model", path.to_str().unwrap(), "--texts", &texts, "--out", out.to_str().unwrap()];
    refused(&embed, &["state.safetensors: this is the state of a run", "step-NNN.safetensors"]);
}

#[test]
fn embed_refuses_what_it_cannot_embed() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let (photos, _) = images(&folder);
    let out = folder.path().join("out.safetensors");
    let embed_refused = |arguments: &[&str], parts: &[&str]| {
        let fixed = ["embed", "--model", &model, "--out", out.to_str().unwrap()];
        refused(&fixed.iter().chain(arguments).copied().collect::<Vec<_>>(), parts);
        assert!(!out.exists());
    };
    fs::write(photos.join("e.png"), "no image").unwrap();
    let pattern = photos.join("*.png");
    let pattern = pattern.to_str().unwrap();
    embed_refused(&["--images", pattern], &["cannot read", "e.png", "not a whole image"]);
    let whole = fs::read(photos.join("a.png")).unwrap();
    fs::write(photos.join("e.png"), &whole[..whole.len() / 2]).unwrap();
    embed_refused(&["--images", pattern], &["cannot read", "e.png", "the picture is cut short"]);
    embed_refused(&["--images", pattern, "--inputs"], &["cannot read", "e.png", "the picture is cut short"]);
    embed_refused(&["--images", &pattern.replace("*.png", "*.gif")], &["matches no file"]);
    embed_refused(&["--images", "a[.png"], &["--images 'a[.png', character 2"]);
    embed_refused(&["--texts", &written(&folder, "empty.txt", "")], &["empty.txt holds no texts"]);
    embed_refused(&["--texts", &written(&folder, "latin.txt", [0xe9, b'\n'])], &["cannot read", "latin.txt"]);
    embed_refused(&["--texts", "nowhere.txt"], &["cannot read nowhere.txt"]);
    let texts = written(&folder, "texts.txt", "a cat\n");
    embed_refused(&["--texts", &texts, "--batch", "0"], &["--batch is 0"]);
    embed_refused(&["--texts", &texts, "--device", "tpu"], &["unknown device 'tpu'"]);
    embed_refused(&["--texts", &texts, "--arch", "ViT-B-16"], &["is not --arch ViT-B-16"]);
    let nowhere = folder.path().join("nowhere/out.safetensors");
    refused(
        &["embed", "--model", &model, "--texts", &texts, "--out", nowhere.to_str().unwrap()],
        &["cannot write", "there is no folder"],
    );
    let neither = perennial(&["embed", "--model", &model, "--out", out.to_str().unwrap()]);
    assert_eq!(neither.status, Some(2));
    assert!(neither.stderr.contains("--images") && neither.stderr.contains("--texts"), "{}", neither.stderr);
}

#[test]
fn exports_embed_alike() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let texts = written(&folder, "texts.txt", "a cat\na dog\n");
    let (photos, _) = images(&folder);
    let pattern = photos.join("*.*").to_str().unwrap().to_string();
    let expected = [["--texts", &texts], ["--images", &pattern]]
        .map(|what| embed(&folder, &[&["--model", &model][..], &what].concat()));
    for (format, file) in [("hf", "model.safetensors"), ("open_clip", "open_clip_model.safetensors")] {
        let target = folder.path().join(format);
        succeed(&["export", "--model", &model, "--format", format, "--out", target.to_str().unwrap()]);
        let exported = target.join(file).to_str().unwrap().to_string();
        let found = [["--texts", &texts], ["--images", &pattern]]
            .map(|what| embed(&folder, &[&["--model", &exported][..], &what].concat()));
        assert!(found == expected, "{format}");
    }
    let names = |format: &str| files(&folder.path().join(format)).into_keys().collect::<Vec<_>>();
    let expected = [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ];
    assert_eq!(names("hf"), expected.map(PathBuf::from));
    assert_eq!(names("open_clip"), ["open_clip_config.json", "open_clip_model.safetensors"].map(PathBuf::from));
    let config = folder.path().join("open_clip/open_clip_config.json");
    assert_eq!(ModelSpec::find(config.to_str().unwrap()).unwrap(), micro());
}

#[test]
fn weights_of_others_need_their_architecture_and_activation() {
    let folder = tempfile::tempdir().unwrap();
    let ours = checkpoint(folder.path(), |_, _| {});
    let bare = bare_checkpoint(folder.path(), "bare.safetensors", |name, shape| Some((name.to_string(), shape)));
    let texts = written(&folder, "texts.txt", "a cat\na dog\n");
    let out = folder.path().join("out.safetensors");
    let fixed = ["embed", "--model", &bare, "--texts", &texts, "--out", out.to_str().unwrap()];
    refused(&fixed, &["does not say which model", "give --arch"]);
    refused(&[&fixed[..], &["--activation", "gelu"]].concat(), &["give --arch"]);
    refused(&[&fixed[..], &["--arch", MICRO]].concat(), &["does not say which activation", "give --activation"]);
    refused(&[&fixed[..], &["--arch", "ViT-B-61"]].concat(), &["unknown model 'ViT-B-61'", "'ViT-B-16'?"]);
    assert!(!out.exists());
    let expected = embed(&folder, &["--model", &ours, "--texts", &texts]);
    let given = ["--model", &bare, "--arch", MICRO, "--activation", "gelu", "--texts", &texts];
    assert!(embed(&folder, &given) == expected);
    // Who has said the activation hears nothing of it.
    let said = perennial(&[&fixed[..], &["--arch", MICRO, "--activation", "gelu"]].concat());
    assert_eq!((said.status, said.stderr.as_str()), (Some(0), ""));

    // Whether the model is known comes before the data, which may take long to open.
    let eval = ["eval", "--model", &bare, "--data", "folder", "--folder", "/nowhere"];
    refused(&eval, &["does not say which model"]);
    refused(&[&eval[..], &["--arch", MICRO]].concat(), &["does not say which activation"]);

    // A file and a description that contradict one another.
    let quick = ModelSpec { quick_gelu: true, ..micro() };
    let arch = written(&folder, "quick.json", quick.to_json());
    let parts = ["says that the model's activation is gelu", "quick.json that it is quick_gelu", "--activation"];
    refused(&["embed", "--model", &ours, "--arch", &arch, "--texts", &texts, "--out", fixed[6]], &parts);
    let (name, pretrained) = (format!("model.name={arch}"), format!("model.pretrained={ours}"));
    run_refused(&["--set", &name, "--set", &pretrained], &parts);
}

#[test]
fn tensors_that_are_not_the_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let same = |name: &str, shape: Vec<usize>| Some((name.to_string(), shape));
    let missing = bare_checkpoint(folder.path(), "missing.safetensors", |name, shape| {
        if name == "ln_final.weight" { None } else { same(name, shape) }
    });
    let extra = bare_checkpoint(folder.path(), "extra.safetensors", |name, shape| {
        same(if name == "ln_final.weight" { "ln_last.weight" } else { name }, shape)
    });
    let misshapen = bare_checkpoint(folder.path(), "misshapen.safetensors", |name, shape| match name {
        "visual.proj" => same(name, vec![shape[1], shape[0]]),
        _ => same(name, shape),
    });
    let texts = written(&folder, "texts.txt", "a cat\n");
    let out = folder.path().join("out.safetensors");
    for (path, parts) in [
        (&missing, ["'ln_final.weight' is missing", "[16]"]),
        (&extra, ["'ln_last.weight' is unknown", "'ln_final.weight' is missing"]),
        (&misshapen, ["'visual.proj': expected [32, 16]", "[16, 32]"]),
    ] {
        let parts = [path.as_str(), parts[0], parts[1]];
        let pretrained = format!("model.pretrained={path}");
        run_refused(&["--set", &pretrained], &["does not say which activation", "model.activation"]);
        run_refused(&["--set", &pretrained, "--set", "model.activation=gelu"], &parts);
        let embed = ["embed", "--model", path, "--arch", MICRO, "--activation", "gelu", "--texts", &texts];
        refused(&[&embed[..], &["--out", out.to_str().unwrap()]].concat(), &parts);
        assert!(!out.exists());
        let target = folder.path().join("exported");
        let export = ["export", "--model", path, "--arch", MICRO, "--activation", "gelu", "--format", "hf", "--out"];
        refused(&[&export[..], &[target.to_str().unwrap()]].concat(), &parts);
        assert!(!target.exists());
    }
}

/// A checkpoint whose header is changed and whose tensors' bytes stay.
fn with_header(path: &str, name: &str, change: impl FnOnce(&str) -> String) -> String {
    let bytes = fs::read(path).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header = change(std::str::from_utf8(header).unwrap());
    // Another program's file has no seal.
    let header = header.replace("\"sealed\":", "\"other\":").replace("\"seal\":", "\"another\":");
    let target = Path::new(path).with_file_name(name);
    fs::write(&target, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
    target.to_str().unwrap().to_string()
}

#[test]
fn each_adversarial_checkpoint_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let same = |name: &str, shape: Vec<usize>| Some((name.to_string(), shape));
    let sound = bare_checkpoint(folder.path(), "sound.safetensors", same);
    let missing = bare_checkpoint(folder.path(), "missing.safetensors", |name, shape| {
        if name == "visual.proj" { None } else { same(name, shape) }
    });
    let misshapen = bare_checkpoint(folder.path(), "misshapen.safetensors", |name, shape| match name {
        "visual.proj" => same(name, vec![shape[1], shape[0]]),
        _ => same(name, shape),
    });
    let retyped = |name: &str, tensor: &str, dtype: &str, shape: &[usize]| {
        let mut file = TensorFile::new();
        let whole = TensorFile::load(Path::new(&sound)).unwrap();
        for known in whole.names() {
            let shape = whole.shape(known).unwrap();
            file.insert_f32(known, shape, whole.f32(known, shape).unwrap().to_vec());
        }
        match dtype {
            "U32" => file.insert_u32(tensor, shape, vec![1; shape.iter().product()]),
            _ => file.insert_f32(tensor, shape, vec![1.0; shape.iter().product()]),
        }
        let path = folder.path().join(name);
        file.save(&path).unwrap();
        path.to_str().unwrap().to_string()
    };
    let extra = retyped("extra.safetensors", "visual.proj_2", "F32", &[3]);
    let dtype = retyped("dtype.safetensors", "ln_final.bias", "U32", &[16]);
    let bytes = fs::read(&sound).unwrap();
    let truncated = written(&folder, "truncated.safetensors", &bytes[..bytes.len() - 5]);
    let long = written(&folder, "long.safetensors", [&(1u64 << 60).to_le_bytes()[..], &bytes[8..]].concat());
    let overlapping = with_header(&sound, "overlapping.safetensors", |header| {
        let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
        let offsets = header["visual.proj"]["data_offsets"].as_array_mut().unwrap();
        offsets.iter_mut().for_each(|offset| *offset = (offset.as_u64().unwrap() - 4).into());
        header.to_string()
    });
    // Two tensors of one shape, so that nothing but the name is wrong.
    let duplicate = with_header(&sound, "duplicate.safetensors", |header| {
        assert!(header.contains("\"ln_final.bias\""));
        header.replace("\"ln_final.bias\"", "\"ln_final.weight\"")
    });
    let texts = written(&folder, "texts.txt", "a cat\n");
    let out = folder.path().join("out.safetensors");
    let embed = |path: &str, more: &[&str]| {
        let fixed = ["embed", "--model", path, "--texts", &texts, "--out", out.to_str().unwrap()];
        fixed.iter().chain(more).map(|argument| argument.to_string()).collect::<Vec<_>>()
    };
    let eval = |path: &str, more: &[&str]| {
        let fixed = ["eval", "--model", path, "--data", "emoji", "--domains", "fxemoji"];
        fixed.iter().chain(more).map(|argument| argument.to_string()).collect::<Vec<_>>()
    };
    let given = ["--arch", MICRO, "--activation", "gelu"];
    for (path, parts) in [
        (&missing, ["missing.safetensors", "'visual.proj' is missing (expected [32, 16])"]),
        (&extra, ["extra.safetensors", "'visual.proj_2' is unknown (found F32 [3])"]),
        (&misshapen, ["misshapen.safetensors", "'visual.proj': expected [32, 16], found F32 [16, 32]"]),
        (&dtype, ["dtype.safetensors", "'ln_final.bias': expected F32, F16, BF16 or F64, found U32 [16]"]),
        (&truncated, ["truncated.safetensors", "the file is truncated"]),
        (&long, ["long.safetensors", "the header's length is given as 1152921504606846976 bytes"]),
        (&overlapping, ["overlapping.safetensors", "tensor 'visual.proj' is said to take bytes"]),
        (&duplicate, ["duplicate.safetensors", "the name 'ln_final.weight' occurs twice"]),
    ] {
        for arguments in [embed(path, &given), eval(path, &given)] {
            refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &parts);
        }
    }
    let nan = checkpoint(folder.path(), |list, values| values[list.get("visual.proj").offset] = f32::NAN);
    for arguments in [embed(&nan, &[]), eval(&nan, &[])] {
        let parts = ["micro.safetensors: 1 of the weights are NaN or infinite, the first of them in 'visual.proj'"];
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &parts);
    }
    assert!(!out.exists());
    let ours = checkpoint(folder.path(), |_, _| {});
    let other = ["--activation", "quick_gelu"];
    for arguments in [embed(&ours, &other), eval(&ours, &other)] {
        let said = perennial(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((said.status, said.stderr.lines().count()), (Some(0), 1), "{}", said.stderr);
        for part in
            ["note: ", "micro.safetensors: the file's model has the activation gelu, and is used with quick_gelu"]
        {
            assert!(said.stderr.contains(part), "'{part}' is not in: {}", said.stderr);
        }
    }
}

#[test]
fn weights_that_are_no_numbers_stop_every_command_that_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let nan = checkpoint(folder.path(), |list, values| values[list.get("visual.proj").offset + 17] = f32::NAN);
    let texts = written(&folder, "texts.txt", "a cat\n");
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (out, exported) = (path("out.safetensors"), path("exported"));
    let what = ["1 of the weights are NaN or infinite", "'visual.proj' (NaN at [1, 1])", "--allow-non-finite"];
    let embed = ["embed", "--model", &nan, "--texts", &texts, "--out", &out];
    let export = ["export", "--model", &nan, "--format", "hf", "--out", &exported];
    refused(&embed, &what);
    refused(&export, &what);
    refused(&["eval", "--model", &nan, "--data", "emoji", "--domains", "fxemoji"], &what);
    assert!(!Path::new(&out).exists() && !Path::new(&exported).exists());
    let (name, pretrained) = (format!("model.name={MICRO}"), format!("model.pretrained={nan}"));
    for method in ["zero-shot", "sequential"] {
        let method = format!("method={method}");
        run_refused(&["--set", &method, "--set", &name, "--set", &pretrained], &what);
    }
    // With the user's word they pass, and are told.
    for command in [&embed[..], &export] {
        let done = perennial(&[command, &["--allow-non-finite"]].concat());
        assert_eq!(done.status, Some(0), "{}", done.stderr);
        assert!(done.stderr.contains("note: ") && done.stderr.contains(what[0]), "{}", done.stderr);
    }
}

#[test]
fn a_text_ends_at_its_first_end_token() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let texts = written(&folder, "texts.txt", "a cat\na cat<end_of_text> and a dog\na cat and a dog\n");
    embed(&folder, &["--model", &model, "--texts", &texts]);
    let rows = embeddings(&folder.path().join("embeddings.safetensors"));
    assert_close(&rows[..16], &rows[16..32]);
    assert!(rows[..16] != rows[32..]);
}

#[test]
fn a_models_own_files_are_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let texts = written(&folder, "texts.txt", "a cat\n");
    let before = fs::read(&model).unwrap();
    let own = ["is one of the files that are read: write to another"];
    refused(&["embed", "--model", &model, "--texts", &texts, "--out", &model], &own);
    let target = folder.path().join("hf").to_str().unwrap().to_string();
    succeed(&["export", "--model", &model, "--format", "hf", "--out", &target]);
    refused(&["export", "--model", &target, "--format", "hf", "--out", &target], &["is the model's own folder"]);
    assert!(fs::read(&model).unwrap() == before);
}

#[test]
fn weights_are_known_by_what_lies_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let texts = written(&folder, "texts.txt", "a cat\n");
    let hf = folder.path().join("hf");
    let target = hf.to_str().unwrap();
    succeed(&["export", "--model", &model, "--format", "hf", "--out", target]);
    let expected = embed(&folder, &["--model", &model, "--texts", &texts]);
    // Without our own word in the file, its configuration counts.
    let weights = hf.join("model.safetensors");
    with_header(weights.to_str().unwrap(), "model.safetensors", |header| header.replace("model_cfg", "other_cfg"));
    assert!(embed(&folder, &["--model", target, "--texts", &texts]) == expected);

    let out = folder.path().join("out.safetensors");
    let command = ["embed", "--model", target, "--texts", &texts, "--out", out.to_str().unwrap()];
    let pretrained = format!("model.pretrained={target}");
    let told = |name: &str, text: &str, parts: &[&str]| {
        let path = hf.join(name);
        let before = fs::read(&path).ok();
        fs::write(&path, text).unwrap();
        refused(&command, parts);
        run_refused(&["--set", &pretrained, "--set", &format!("model.name={MICRO}")], parts);
        match before {
            Some(before) => fs::write(&path, before).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    };
    told("tokenizer_config.json", r#"{"tokenizer_class": "BertTokenizer"}"#, &["the tokenizer is a BertTokenizer"]);
    told("vocab.json", r#"{"a": 0}"#, &["vocab.json: of its 1 words", "texts are read with CLIP's tokenizer alone"]);
    told("config.json", r#"{"model_type": "siglip"}"#, &["config.json: model_type is 'siglip'"]);
    told("config.json", r#"{"model_type": "metaclip_2"}"#, &["config.json: model_type is 'metaclip_2'"]);
}
