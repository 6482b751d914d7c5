//! Run directories, settings, lists and other small texts.

use std::fs;
use std::process::Command;

use perennial::data::formats::{emoji, time};
use perennial::data::text::class_names::ClassNames;
use perennial::data::text::prompts::Templates;
use perennial::experiment::Config;
use perennial::model::spec::ModelSpec;
use perennial::report::{self, Reference, Run};
use perennial::stream::parse_class_order;

use crate::formats::EMOJI_INDEX;
use crate::mutate::{mutate_json, unsealed};
use crate::{FILES, TEXT, fuzz, fuzz_folder, scratch};

/// What a run leaves behind, and all that the report makes of it.
#[test]
fn run_directories() {
    let folder = scratch();
    let out = folder.path().join("run");
    let run = Command::new(env!("CARGO_BIN_EXE_perennial"))
        .args(["run", "tests/fixtures/tiny-tic.toml", "--out", out.to_str().unwrap(), "--set", "train.samples=32"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let names = ["evaluation.json", "config.toml", "metrics.jsonl", "manifest.json"];
    let files = names.map(|name| (name, unsealed(fs::read(out.join(name)).unwrap())));
    let reference = Reference::find("reference").unwrap();
    fuzz_folder("run directory", FILES, &files, mutate_json, |folder, _| {
        let Ok(run) = Run::read(folder) else { return false };
        if !run.evaluation.is_complete() {
            return true;
        }
        let _ = (report::matrix_table(&run.evaluation), report::transfer_table(&run.evaluation));
        let _ = report::static_table(&run.evaluation);
        if let Ok(groups) = report::group(vec![run]) {
            for cells in &groups {
                let table = report::summary_table(cells);
                let _ = (table.to_text(), table.to_markdown(), table.to_csv(), reference.compare(cells).table.to_csv());
            }
            let _ = report::page(groups, &[], Some(&reference));
        }
        true
    });
}

/// A text that some parser reads: its bytes as they are.
fn fuzz_bytes(format: &str, text: &str, parse: impl Fn(&[u8]) -> bool) {
    assert!(parse(text.as_bytes()), "{format}: the text as it is");
    fuzz(format, TEXT, |rng| {
        let mut bytes = text.as_bytes().to_vec();
        mutate_json(&mut bytes, &[], rng);
        parse(&bytes)
    });
}

/// The same where the parser wants UTF-8.
fn fuzz_text(format: &str, text: &str, parse: impl Fn(&str) -> bool) {
    fuzz_bytes(format, text, |bytes| std::str::from_utf8(bytes).is_ok_and(&parse));
}

#[test]
fn texts() {
    fuzz_bytes("emoji index", EMOJI_INDEX, |bytes| emoji::EmojiIndex::parse("index.tsv", bytes).is_ok());
    fuzz_text("prompt templates", "a photo of a {}.\na {} indeed\n", |text| Templates::parse("t.txt", text).is_ok());
    fuzz_text("prompt templates in JSON", r#"["a photo of a {c}.", "{} indeed"]"#, |text| {
        Templates::parse("t.json", text).is_ok()
    });
    for json in [
        r#"["tench", "great_white_shark"]"#,
        r#"{"0": ["n01", "tench"], "1": ["n02", "shark"]}"#,
        r#"{"tench": 0, "shark": 1}"#,
    ] {
        fuzz_text("class names in JSON", json, |text| ClassNames::parse("n.json", text).is_ok());
    }
    fuzz_text("class names", "n01\ttench\nn02\tgoldfish\n", |text| ClassNames::parse("n.txt", text).is_ok());
    let names = ["sea lion", "tabby cat", "aircraft carrier"].map(String::from);
    let keys = ["n01", "n02", "n03"].map(String::from);
    fuzz_text("class order", "n02\nsea lion\naircraft carrier\n", |text| {
        parse_class_order("o.txt", text, &names, &keys, &[true; 3]).is_ok()
    });
    fuzz_text("times", "2015-03-01T12:00:00Z", |text| time::year(text).is_some());
    fuzz_text("times in digits", "20150301", |text| time::year(text).is_some());
}

#[test]
fn settings() {
    let presets = [
        ("cifar100-cil", include_str!("../../presets/cifar100-cil.toml")),
        ("tic-yfcc", include_str!("../../presets/tic-yfcc.toml")),
        ("domainnet-dil", include_str!("../../presets/domainnet-dil.toml")),
    ];
    for (name, toml) in presets {
        fuzz_text(&format!("preset {name}"), toml, |text| {
            let Ok(config) = Config::parse(text) else { return false };
            assert_eq!(Config::parse(&config.to_toml()).unwrap().to_toml(), config.to_toml());
            let _ = config.validate();
            let _ = config.for_method("ewc");
            true
        });
    }
    for assignment in ["train.epochs=3", "data.webdataset.test=['a-{0..9}.tar', 'b.tar']", "data.text=class"] {
        fuzz_text(&format!("setting {assignment}"), assignment, |text| Config::default().set(text).is_ok());
    }
}

#[test]
fn models_and_figures() {
    fuzz_text("model", include_str!("../../presets/models/ViT-B-16.json"), |text| {
        let Ok(spec) = ModelSpec::from_json(text) else { return false };
        assert_eq!(ModelSpec::from_json(&spec.to_json()).unwrap(), spec);
        let _ = (spec.vision(), spec.text(), spec.patches(), spec.image_macs(), spec.text_macs(77));
        true
    });
    // The first figures are enough: 650 lines would hide most changes.
    let figures = include_str!("../../presets/reference.toml");
    let some = figures.match_indices("\n\n").nth(8).map_or(figures.len(), |(place, _)| place + 1);
    fuzz_text("published figures", &figures[..some], |text| Reference::parse(text).is_ok());
}
