//! What the program writes: to streams that are full or closed, to devices and links, over its own inputs, and as documents for other
//! programs.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use approx::assert_abs_diff_eq;
use serde_json::Value;
use tempfile::TempDir;

use crate::runs::assert_same_result;
use crate::setups::TINY_RUN;
use crate::support::micro::{MICRO, bare_checkpoint};
use crate::support::{Outcome, command, outcome, perennial, refused, succeed, written};

/// What makes a run of the tests' preset short: three tasks, and a few iterations of each.
const SHORT: [&str; 2] = ["--set", "train.epochs=0.5"];

/// A run that trains nothing, in a folder of its own.
fn zero_shot(folder: &TempDir, name: &str) -> String {
    let out = folder.path().join(name).to_str().unwrap().to_string();
    succeed(&["run", TINY_RUN, "--method", "zero-shot", "--out", &out]);
    out
}

/// A pipe whose reader has gone.
#[cfg(unix)]
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[test]
#[cfg(target_os = "linux")]
fn training_goes_on_whatever_becomes_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let run = |name: &str, stdout: Stdio, stderr: Stdio| {
        let out = out(name);
        let arguments = [&["run", TINY_RUN, "--out", out.to_str().unwrap()][..], &SHORT].concat();
        command(&arguments).stdout(stdout).stderr(stderr).status().unwrap().code()
    };
    assert_eq!(run("plain", Stdio::null(), Stdio::null()), Some(0));
    assert_eq!(run("full", Stdio::null(), full_disk()), Some(0));
    assert_eq!(run("gone", closed_pipe(), closed_pipe()), Some(0));
    // The table is lost, which is told; the run is not.
    assert_eq!(run("table", full_disk(), Stdio::null()), Some(1));
    for name in ["full", "gone", "table"] {
        assert_same_result(name, &out("plain"), &out(name));
    }
    let compared = out("compare");
    let grid = ["compare", TINY_RUN, "--methods", "zero-shot", "--out", compared.to_str().unwrap()];
    assert_eq!(command(&grid).stdout(closed_pipe()).stderr(full_disk()).status().unwrap().code(), Some(0));
    assert!(compared.join("zero-shot-m0-s0/evaluation.json").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_table_that_cannot_be_printed_is_an_error_and_the_files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let run = zero_shot(&folder, "run");
    let [csv, markdown, html] = ["t.csv", "t.md", "t.html"].map(|name| folder.path().join(name));
    let mut report = vec!["report", run.as_str()];
    for (option, path) in [("--csv", &csv), ("--markdown", &markdown), ("--html", &html)] {
        report.extend([option, path.to_str().unwrap()]);
    }
    let lost =
        |arguments: &[&str]| outcome(command(arguments).stdout(full_disk()).stderr(Stdio::piped()).output().unwrap());
    let Outcome { status, stderr, .. } = lost(&report);
    assert_eq!((status, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.starts_with("error: cannot print to standard output: No space left"), "{stderr}");
    assert!([&csv, &markdown, &html].iter().all(|path| path.exists()));
    for arguments in [&["list", "presets"][..], &["--help"], &["--version"], &["report", &run, "--json"]] {
        let Outcome { status, stderr, .. } = lost(arguments);
        assert_eq!((status, stderr.lines().count()), (Some(1), 1), "{arguments:?}: {stderr}");
    }
    // A reader that has gone has had enough.
    for arguments in [&["list", "presets"][..], &["--help"], &["report", &run]] {
        let Outcome { status, stderr, .. } =
            outcome(command(arguments).stdout(closed_pipe()).stderr(Stdio::piped()).output().unwrap());
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
    // The command's own failure goes before that of its output.
    let Outcome { status, stderr, .. } = lost(&["report", "/nowhere"]);
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.starts_with("error: cannot read /nowhere"), "{stderr}");
    assert_eq!(
        command(&["report", "/nowhere"]).stdout(Stdio::null()).stderr(full_disk()).status().unwrap().code(),
        Some(2)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn devices_links_and_open_outputs_keep_their_place() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().unwrap();
    let run = zero_shot(&folder, "run");
    let report = succeed(&["report", &run]);
    assert_eq!(succeed(&["report", &run, "--csv", "/dev/null"]), report);
    assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    // As standard output, a file has both, one after the other.
    let both = folder.path().join("both.txt");
    let file = File::create(&both).unwrap();
    let written = command(&["report", &run, "--csv", "/dev/stdout"]).stdout(file).status().unwrap();
    let text = fs::read_to_string(&both).unwrap();
    assert!(written.success() && text.starts_with("method,memory,seeds,average,") && text.ends_with(&report), "{text}");
    let link = folder.path().join("link.md");
    std::os::unix::fs::symlink("table.md", &link).unwrap();
    succeed(&["report", &run, "--markdown", link.to_str().unwrap()]);
    assert!(link.is_symlink() && fs::read_to_string(folder.path().join("table.md")).unwrap().starts_with("| method"));
}

#[test]
#[cfg(unix)]
fn no_output_takes_the_place_of_an_input() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let model = bare_checkpoint(folder.path(), "m.safetensors", |name, shape| Some((name.to_string(), shape)));
    let texts = written(&folder, "texts.txt", "a cat\n");
    let picture = at("a.png");
    image::RgbImage::new(8, 8).save(&picture).unwrap();
    symlink(&model, at("soft")).unwrap();
    fs::hard_link(&model, at("hard")).unwrap();
    let of_model = ["--model", &model, "--arch", MICRO, "--activation", "gelu"];
    let before = fs::read(&model).unwrap();
    let embed = |what: &[&str], out: &str| {
        refused(&[&["embed"], &of_model[..], what, &["--out", out]].concat(), &["is one of the files that are read"]);
    };
    for out in [&model, &at("soft"), &at("hard"), &texts, &at("./m.safetensors")] {
        embed(&["--texts", &texts], out);
    }
    embed(&["--images", &at("*.png")], &picture);
    refused(
        &[&["export"], &of_model[..], &["--format", "hf", "--out", folder.path().to_str().unwrap()]].concat(),
        &["is the model's own folder"],
    );
    // A folder with a link that would be followed to the model.
    fs::create_dir(at("other")).unwrap();
    symlink(&model, at("other/model.safetensors")).unwrap();
    let exported = at("other");
    let export = [&["export"], &of_model[..], &["--format", "hf", "--out", &exported]].concat();
    refused(&export, &["other/model.safetensors is one of the files that are read"]);
    fs::remove_file(at("other/model.safetensors")).unwrap();
    succeed(&export);
    for out in ["other/model.safetensors", "other/config.json", "other/new.safetensors"] {
        let outcome = perennial(&["embed", "--model", &exported, "--texts", &texts, "--out", &at(out)]);
        assert_eq!(outcome.status, Some(2), "{out}: {}", outcome.stderr);
    }
    refused(
        &["export", "--model", &exported, "--format", "open_clip", "--out", &exported],
        &["the model's own folder"],
    );
    assert!(fs::read(&model).unwrap() == before && fs::read(&texts).unwrap() == b"a cat\n");

    fs::create_dir_all(at("classes/train/cat")).unwrap();
    fs::copy(&picture, at("classes/train/cat/a.png")).unwrap();
    let (classes, packed) = (at("classes"), at("classes/train/cat/a.png"));
    let pack = ["pack", "--data", "folder", "--folder", &classes, "--size", "8", "--out", &packed];
    assert_eq!(perennial(&pack).status, Some(2));
    assert!(fs::read(&packed).unwrap() == fs::read(&picture).unwrap());

    let run = zero_shot(&folder, "run");
    let inside = |name: &str| Path::new(&run).join(name).to_str().unwrap().to_string();
    let evaluation = fs::read(inside("evaluation.json")).unwrap();
    symlink(inside("evaluation.json"), at("evaluation")).unwrap();
    for option in ["--html", "--markdown", "--csv"] {
        for out in [inside("evaluation.json"), at("evaluation"), inside("checkpoints/step-001.safetensors")] {
            refused(&["report", &run, option, &out], &["is one of the files that are read"]);
        }
    }
    let table = at("table");
    refused(&["report", &run, "--csv", &table, "--markdown", &table], &["is two outputs at once"]);
    assert_eq!(fs::read(inside("evaluation.json")).unwrap(), evaluation);
    // A page in the run's directory is made anew.
    for _ in 0..2 {
        succeed(&["report", &run, "--html", &inside("report.html")]);
    }
}

/// The one document that a command prints.
#[track_caller]
fn document(arguments: &[&str]) -> Value {
    let document: Value = serde_json::from_str(&succeed(&[arguments, &["--json"]].concat())).unwrap();
    assert_eq!(document["perennial"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["command"], arguments[0]);
    document
}

#[test]
fn commands_print_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let read = |run: &str| -> Value {
        serde_json::from_slice(&fs::read(PathBuf::from(run).join("evaluation.json")).unwrap()).unwrap()
    };
    let run = at("run");
    let ran = document(&[&["run", TINY_RUN, "--out", &run][..], &SHORT].concat());
    let evaluation = read(&run);
    assert_eq!(ran["directory"], run.as_str());
    for (name, value) in evaluation.as_object().unwrap() {
        // What keeps a file from damage is no result.
        assert!(name == "seal" || ran[name] == *value, "{name}");
    }
    let out = at("grid");
    let grid = ["compare", TINY_RUN, "--methods", "zero-shot,gcl", "--seeds", "2", "--out", &out];
    let compared = document(&[&grid[..], &SHORT].concat());
    let runs = compared["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &compared["failed"]), (4, &serde_json::json!([])));
    for run in runs {
        assert_eq!(run["summary"], read(run["directory"].as_str().unwrap())["summary"]);
        assert_eq!(run["samples_per_second"].is_number(), run["method"] == "gcl");
    }
    let mean = |name: &str| {
        let values = runs.iter().filter(|run| run["method"] == "gcl").map(|run| run["summary"][name].as_f64().unwrap());
        values.sum::<f64>() / 2.0
    };
    let cell = &compared["cells"][1];
    assert_eq!((&cell["method"], &cell["seeds"]), (&"gcl".into(), &serde_json::json!([0, 1])));
    for name in ["average_incremental_accuracy", "last_accuracy", "forgetting", "bwt"] {
        assert_abs_diff_eq!(cell[name]["mean"].as_f64().unwrap(), mean(name), epsilon = 1e-12);
        assert!(cell[name]["deviation"].is_number());
    }
    let reported = document(&["report", &run, "--against", "reference"]);
    let group = &reported["groups"][0];
    let average = &group["cells"][0]["average_incremental_accuracy"];
    assert_eq!(average["mean"], evaluation["summary"]["average_incremental_accuracy"]);
    assert!(average["deviation"].is_null());
    assert_eq!(group["cells"][0]["runs"], serde_json::json!([run]));
    assert_eq!(group["against"]["figures"][0]["published of"], "no published figure");

    let model = Path::new(&run).join("checkpoints/step-003.safetensors");
    let eval = ["eval", "--model", model.to_str().unwrap(), "--data", "emoji", "--domains", "fxemoji"];
    let found = document(&eval);
    let text = succeed(&eval);
    for name in ["top_1_accuracy", "top_5_accuracy", "mean_per_class_recall"] {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line.split_whitespace().nth(1).unwrap(), format!("{:.2}", 100.0 * found[name].as_f64().unwrap()));
    }
    assert_eq!((&found["pictures"], &found["classes"]), (&185.into(), &98.into()));
    assert_eq!((&found["data"], &found["task"]), (&"emoji".into(), &"classification".into()));
    let found = document(&[&eval[..], &["--task", "retrieval"]].concat());
    let [there, back] = ["image_to_text_recall@1", "text_to_image_recall@1"].map(|name| found[name].as_f64().unwrap());
    assert_abs_diff_eq!(found["mean_recall@1"].as_f64().unwrap(), (there + back) / 2.0, epsilon = 1e-12);
    let examined = document(&["doctor", TINY_RUN, "--decode", "8", "--out", &at("new")]);
    assert_eq!(examined["wrong"], 0);
    assert!(examined["findings"].as_array().unwrap().iter().all(|finding| finding["text"].is_string()));
}

#[test]
fn a_damaged_run_costs_no_other_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (whole, damaged) = (zero_shot(&folder, "whole"), zero_shot(&folder, "damaged"));
    let path = Path::new(&damaged).join("evaluation.json");
    let evaluation: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let reports = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let mut changed = evaluation.clone();
        change(&mut changed);
        fs::write(&path, perennial::seal::to_json(&changed)).unwrap();
        refused(&["report", &damaged], parts);
        let csv = at("table.csv");
        let outcome = perennial(&["report", &whole, &damaged, "--csv", &csv]);
        assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
        assert!(outcome.stdout.contains("zero-shot") && fs::read_to_string(&csv).unwrap().contains("\nzero-shot,"));
        let note = outcome.stderr.lines().next().unwrap();
        assert!(
            note.starts_with("note: a run is left out: ") && parts.iter().all(|part| note.contains(part)),
            "{note}"
        );
        let last = outcome.stderr.lines().last().unwrap();
        assert_eq!(last, "error: 1 of 2 runs cannot be read: see above");
    };
    reports(&|one| drop(one["accuracy"].as_array_mut().unwrap().pop()), &["evaluation.json", "accuracy has 2 values"]);
    reports(&|one| drop(one["matrix"][1].as_array_mut().unwrap().pop()), &["row 2 of matrix has 2 values"]);
    reports(&|one| one["accuracy"][0] = Value::Null, &["evaluation.json", "null"]);
    reports(&|one| one["summary"]["forgetting"] = 0.75.into(), &["summary.forgetting is 0.75"]);
    // And no run goes on from such a ground.
    let again = perennial(&["run", TINY_RUN, "--method", "zero-shot", "--out", &damaged]);
    assert_eq!(again.status, Some(2), "{}", again.stderr);
    assert!(again.stderr.contains("evaluation.json: summary.forgetting is 0.75"), "{}", again.stderr);
    reports(&|one| one["method"] = "=HYPERLINK(\"http://nowhere\")".into(), &["are not of one run"]);
}

#[test]
fn cells_of_tables_are_no_marks_and_no_formulas() {
    let folder = tempfile::tempdir().unwrap();
    let runs = ["a", "b"].map(|name| zero_shot(&folder, name));
    for (run, weights) in runs.iter().zip(["=x|q", "@y`<b>"]) {
        let path = Path::new(run).join("config.toml");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(path, config.replace("pretrained = \"\"", &format!("pretrained = \"{weights}\""))).unwrap();
    }
    let [csv, markdown] = ["t.csv", "t.md"].map(|name| folder.path().join(name));
    let tables = ["--csv", csv.to_str().unwrap(), "--markdown", markdown.to_str().unwrap(), "--against", "reference"];
    succeed(&[&["report", &runs[0], &runs[1]], &tables[..]].concat());
    let markdown = fs::read_to_string(markdown).unwrap();
    assert!(markdown.contains(r"zero-shot (=x\|q)") && markdown.contains(r"zero-shot (@y\`\<b\>)"), "{markdown}");
    let mut reader = csv::Reader::from_path(csv).unwrap();
    let weights: Vec<String> = reader.records().map(|record| record.unwrap()[2].to_string()).collect();
    assert_eq!(weights, ["'=x|q", "'@y`<b>"]);
}
