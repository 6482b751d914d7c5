//! The program as people meet it: its commands, and what it says when their input is wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use perennial::Clip;
use perennial::data::Sample;
use perennial::experiment::RunDirectory;
use perennial::method::{METHODS, Row};
use perennial::model::checkpoint::TensorFile;
use perennial::model::spec::ModelSpec;
use serde_json::Value;
use tempfile::TempDir;

use crate::runs::files;
use crate::setups::{TINY_RUN, TINY_TIC};
use crate::support::browser::{Theme, lay_out};
use crate::support::micro::{MICRO, bare_checkpoint, checkpoint, micro};
use crate::support::{command, outcome, perennial, refused, run_refused, succeed, written};

/// Settings that make the tests' preset as small as it gets: one vendor, one step.
const SMALL: [&str; 6] =
    ["--set", "data.domains=['fxemoji']", "--set", "stream.kind=single", "--set", "train.epochs=0.2"];

#[test]
fn wrong_names_are_told_with_the_nearest_right_one() {
    refused(&["run", "emoji-cli"], &["unknown preset 'emoji-cli'", "did you mean 'emoji-cil'?"]);
    run_refused(&["--method", "gdor"], &["unknown method 'gdor'", "did you mean 'gdro'?"]);
    run_refused(&["--set", "train.epoch=3"], &["unknown key 'train.epoch'", "did you mean 'train.epochs'?"]);
    run_refused(&["--set", "model.name=emoji-tinny"], &["unknown model 'emoji-tinny'", "'emoji-tiny'?"]);
    run_refused(&["--set", "data.domains=['fxemojis']"], &["unknown domain 'fxemojis'", "'fxemoji'?"]);
    run_refused(&["--set", "data.name=emojy"], &["unknown data set 'emojy'", "'emoji'?"]);
    run_refused(&["--device", "tpu"], &["unknown device 'tpu'", "known: cpu, cuda"]);
    let missing = ["compare", TINY_RUN, "--methods", "gcl,gdor", "--out", "/nowhere/compare"];
    refused(&missing, &["unknown method 'gdor'"]);
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn settings_without_a_method_ask_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, "mine.toml", "seed = 1\n");
    for command in ["run", "doctor"] {
        refused(&[command, &path], &["no method is named: give --method"]);
    }
}

#[test]
fn the_library_embeds_as_the_command_does() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let out = folder.path().join("embeddings.safetensors");
    let pictures = ["tests/fixtures/pictures/alpha.png", "tests/fixtures/pictures/rgb.png"];
    let pattern = "tests/fixtures/pictures/[ar]*[ab].png";
    succeed(&["embed", "--model", &model, "--images", pattern, "--out", out.to_str().unwrap()]);
    let file = TensorFile::load(&out).unwrap();
    let embedded = Clip::open(&model).unwrap().embed_images(&pictures).unwrap();
    let shape = [embedded.len(), embedded.width];
    assert_eq!(file.f32("embeddings", &shape).unwrap(), embedded.values);
}

#[test]
fn a_device_that_this_machine_has_not_is_refused() {
    // With a driver and without one.
    let no_such_gpu = |arguments: &[&str]| {
        let message = perennial(arguments).stderr;
        let reasons = ["no NVIDIA driver was found", "there is no GPU 99", "no CUDA kernels are in this program"];
        assert!(reasons.iter().any(|reason| message.contains(reason)), "{arguments:?}: {message}");
    };
    no_such_gpu(&["run", TINY_RUN, "--device", "cuda:99", "--out", "/nowhere/run"]);
    no_such_gpu(&["check", "--device", "cuda:99"]);
    no_such_gpu(&["bench", "step", "--device", "cuda:99"]);
    assert!(!Path::new("/nowhere").exists());
    run_refused(&["--device", "cuda:one"], &["'one'", "is not the number of a GPU"]);
    refused(&["check", "--device", "cpu"], &["give --device cuda"]);
    refused(&["check", "--only", "liner"], &["unknown op 'liner'", "did you mean 'linear'?"]);
}

#[test]
fn mistakes_in_a_preset_are_told_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let refused_file = |name: &str, text: &str, parts: &[&str]| {
        let path = written(&folder, name, text);
        let out = folder.path().join("run");
        refused(&["run", &path, "--out", out.to_str().unwrap()], &[&[path.as_str()], parts].concat());
        assert!(!out.exists());
    };
    refused_file(
        "key.toml",
        "method = \"gcl\"\n\n[train]\nbatchs = 3\n",
        &["line 4", "unknown key 'train.batchs'", "did you mean 'train.batch'?"],
    );
    refused_file("type.toml", "method = \"gcl\"\n[train]\nbatch = \"many\"\n", &["line 3", "invalid type"]);
    refused_file("kind.toml", "method = \"gcl\"\n[stream]\nkind = \"singel\"\n", &["line 3", "singel", "single"]);
    refused_file("toml.toml", "method = \"gcl\"\n[train\n", &["line 2"]);
    refused(&["run", "nowhere/such.toml"], &["cannot read nowhere/such.toml"]);
    run_refused(&["--set", "train.batch=many"], &["train.batch cannot be many"]);
    run_refused(&["--set", "train.batch"], &["key=value"]);
    run_refused(&["--set", "train.batch=0"], &["train.batch is 0"]);
    run_refused(&["--set", "train.learning_rate=-1"], &["train.learning_rate is -1"]);
    run_refused(&["--threads", "0"], &["--threads is 0"]);
}

#[test]
fn sizes_that_do_not_fit_the_data_are_told_with_those_that_would() {
    run_refused(&["--memory", "100000"], &["memory.size is 100000", "training samples"]);
    run_refused(&["--set", "train.batch=5000"], &["train.batch is 5000", "task", "at most"]);
    run_refused(&["--set", "stream.tasks=1000"], &["1000"]);
    run_refused(&["--set", "train.epochs=0"], &["train.epochs is 0"]);
    run_refused(&["--set", "data.per_class=[50, 0]"], &["data.per_class is [50, 0]", "[0, 0], for all samples"]);
    run_refused(
        &["--set", "data.per_class=[5000, 10]"],
        &["data.per_class is [5000, 10]", "no class has so many", "one of the largest has "],
    );
    run_refused(
        &["--set", "objective.weighting=batch", "--set", "objective.gamma2=0.5"],
        &["objective.gamma2 is 0.5", "objective.weighting", "set it to 0"],
    );
    run_refused(
        &["--set", "objective.weighting=equal"],
        &["objective.weighting cannot be equal", "`prior`, `batch`, `sample`"],
    );
}

#[test]
fn methods_that_classify_by_a_head_need_classes() {
    for method in ["finetune-ce", "ewc", "icarl", "der", "foster", "co2l", "cassle"] {
        let message = [method, "knows classes and no texts", "evaluation.task", "\"classification\""];
        run_refused(&["--method", method, "--set", "evaluation.task=retrieval"], &message);
    }
    run_refused(
        &["--method", "joint", "--set", "joint.head=true", "--set", "evaluation.task=retrieval"],
        &["joint knows classes and no texts"],
    );
    for kind in ["domain_incremental", "time_incremental"] {
        let setting = format!("stream.kind={kind}");
        let message = ["der tells new classes from old ones", "stream.kind must be \"class_incremental\""];
        run_refused(&["--method", "der", "--set", &setting, "--set", "stream.periods=[2012, 2015]"], &message);
    }
}

#[test]
fn a_memory_without_a_sample_of_each_class_is_refused_where_each_is_needed() {
    for (method, size) in [("icarl", "0"), ("der", "93"), ("foster", "0"), ("co2l", "93")] {
        let message = [&format!("memory.size is {size}; {method} needs"), "each of the 94 classes, 94 in all"];
        run_refused(&["--method", method, "--memory", size], &message);
    }
}

/// The grid's table as rows of method and memory, and its notes; the command must go well.
#[track_caller]
fn grid(arguments: &[&str]) -> (Vec<(String, usize)>, Vec<String>) {
    let outcome = perennial(arguments);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let row = |line: &str| {
        let mut cells = line.split_whitespace();
        (cells.next().unwrap().to_string(), cells.next().unwrap().parse().unwrap())
    };
    let notes = outcome.stderr.lines().filter(|line| line.starts_with("note: ") && line.contains(" is left out"));
    (outcome.stdout.lines().skip(2).map(row).collect(), notes.map(String::from).collect())
}

#[test]
fn compare_leaves_out_what_has_no_meaning_in_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let (out, all) = (folder.path().to_str().unwrap(), METHODS.map(|entry| entry.name()).join(","));
    let (rows, notes) = grid(&["compare", TINY_TIC, "--methods", &all, "--set", "train.samples=32", "--out", out]);
    let methods = METHODS.iter().map(|entry| entry.row);
    let (with_texts, without): (Vec<Row>, Vec<Row>) = methods.partition(|row| row.reads_texts());
    assert_eq!((with_texts.len(), without.len()), (12, 12));
    assert_eq!(rows, with_texts.iter().map(|method| (method.name.to_string(), 0)).collect::<Vec<_>>());
    assert_eq!(notes.len(), without.len(), "{notes:?}");
    for (note, method) in notes.iter().zip(&without) {
        let start = format!("note: {} is left out: {} knows classes and no texts", method.name, method.name);
        assert!(note.starts_with(&start), "{note}");
    }
}

#[test]
fn compare_leaves_out_what_only_the_data_gives_no_meaning_to() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("compare");
    let grid_of = |methods: &'static str, memory: &'static str| {
        let domains = ["--set", "stream.kind=domain_incremental", "--set", "train.epochs=0.1", "--seeds", "2"];
        let fixed = ["compare", TINY_RUN, "--methods", methods, "--memory", memory, "--out", out.to_str().unwrap()];
        [&fixed[..], &domains].concat()
    };
    let (rows, notes) = grid(&grid_of("zero-shot,icarl,der,gcl", "0,93,94"));
    let expected = [("zero-shot", 0), ("gcl", 0), ("gcl", 93), ("gcl", 94), ("icarl", 94)];
    assert_eq!(rows, expected.map(|(method, memory)| (method.to_string(), memory)));
    // Once for all memory sizes, and once for all seeds.
    let expected = [
        "note: der is left out: der tells new classes from old ones",
        "note: icarl is left out with memory 0: memory.size is 0; icarl needs at least one sample of each of the 94 classes",
        "note: icarl is left out with memory 93: memory.size is 93; icarl needs at least one sample",
    ];
    assert_eq!(notes.len(), expected.len(), "{notes:?}");
    assert!(notes.iter().zip(expected).all(|(note, start)| note.starts_with(start)), "{notes:?}");
    assert!(!files(&out).keys().any(|path| path.starts_with("icarl-m93-s0")), "nothing lies where nothing ran");

    let nothing = perennial(&grid_of("der,icarl", "0"));
    assert_eq!(nothing.status, Some(2), "{}", nothing.stderr);
    assert!(
        nothing.stderr.ends_with("error: there is nothing to run: every method is left out\n"),
        "{}",
        nothing.stderr
    );
    // A failure stays one.
    let failure = perennial(&grid_of("der,gcl", "100000"));
    assert_eq!(failure.status, Some(1), "{}", failure.stderr);
    assert!(failure.stdout.contains("failed: gcl-m100000-s1: memory.size is 100000"), "{}", failure.stdout);
}

#[test]
fn settings_of_methods_are_told_with_their_range_and_their_name() {
    for (setting, range) in [
        ("objective.foster.boosting=2", "between 0.01 and 0.99"),
        ("objective.foster.boosting=0", "between 0.01 and 0.99"),
        ("objective.foster.beta=1", "between 0 and 0.9999999"),
        ("objective.foster.temperature=0", "between 0.001 and 1000"),
        ("objective.lwf.mu=-1", "between 0 and 1000000"),
        ("objective.ewc.lambda=-1", "between 0 and 1000000000000"),
        ("objective.icarl.temperature=0", "between 0.001 and 1000"),
        ("objective.der.auxiliary=-0.5", "between 0 and 1000000"),
        ("objective.co2l.teacher_tau=0", "between 0.001 and 1000"),
        ("objective.cassle.hidden=0", "between 1 and 65536"),
        ("objective.cassle.tau=nan", "between 0.001 and 1000"),
        ("objective.ranpac.width=1000001", "between 0 and 1000000"),
        ("objective.fecam.covariance=2", "between 0 and 1"),
        ("objective.rail.lambda=0", "between 0.000001 and 100000000"),
        ("patching.validation=1", "between 0 and 0.9"),
        ("probe.epochs=-1", "between 0 and 1000000"),
        ("probe.learning_rate=11", "between 0 and 10"),
    ] {
        let (key, value) = setting.split_once('=').unwrap();
        run_refused(&["--set", setting], &[&format!("{key} is {}", value.replace("nan", "NaN")), range]);
    }
    run_refused(
        &["--set", "objective.lwf.nu=1"],
        &["unknown key 'objective.lwf.nu'", "did you mean 'objective.lwf.mu'?"],
    );
    run_refused(&["--set", "objective.lwf=1"], &["unknown key 'objective.lwf'"]);
    run_refused(&["--set", "objective.der.align=1"], &["objective.der.align cannot be 1"]);
}

#[test]
fn budgets_below_a_batch_are_refused() {
    run_refused(&["--set", "train.samples=20"], &["train.samples is 20", "or 32 at least"]);
    run_refused(&["--set", "train.samples=-5"], &["train.samples cannot be -5"]);
}

#[test]
fn static_sets_lie_beside_the_stream() {
    let sets = |names: &str, parts: &[&str]| {
        let setting = format!("evaluation.static_domains={names}");
        run_refused(&["--set", &setting], &[&["evaluation.static_domains"], parts].concat());
    };
    sets("['noto-v2']", &["unknown domain 'noto-v2'", "'noto-v1'?"]);
    sets("['noto', 'fxemoji']", &["'fxemoji' is a domain that the stream trains on"]);
    sets("['noto', 'noto']", &["'noto' stands there twice"]);
    sets("noto", &["cannot be noto"]);

    let folder = copied_data();
    let index = folder.path().join("index.tsv");
    let text = fs::read_to_string(&index).unwrap();
    let tests_of_noto = |line: &&str| line.split('\t').nth(1) == Some("noto") && line.ends_with("test");
    let rest: String = text.lines().filter(|line| !tests_of_noto(line)).flat_map(|line| [line, "\n"]).collect();
    fs::write(&index, rest).unwrap();
    let arguments = ["--data", folder.path().to_str().unwrap(), "--set", "evaluation.static_domains=['noto']"];
    run_refused(&arguments, &["'noto' has no test samples"]);
}

#[test]
fn a_wrong_class_order_is_told_with_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = perennial::data::open(&perennial::data::Source::new("emoji", None)).unwrap();
    let domain = |sample: &Sample| dataset.domains[sample.domain as usize].as_str();
    let samples = dataset.samples.iter().filter(|sample| ["fxemoji", "emojione-v1"].contains(&domain(sample)));
    let present: BTreeSet<u32> = samples.map(|sample| sample.class.0).collect();
    let name = |class: usize| dataset.classes[class].as_str();
    let order = |name: &str, lines: &[&str], parts: &[&str]| {
        let path = written(&folder, name, lines.join("\n"));
        run_refused(&["--set", &format!("stream.class_order={path}")], &[&[path.as_str()], parts].concat());
    };
    let names: Vec<&str> = present.iter().map(|class| name(*class as usize)).collect();
    let absent = name((0..98).find(|class| !present.contains(class)).unwrap() as usize);
    let misspelt = format!("{}x", names[1]);
    order("unknown.txt", &[names[0], "", &misspelt], &["line 3", "unknown class", &misspelt, names[1]]);
    order("twice.txt", &[names[0], names[1], names[0]], &["line 3", names[0], "stands already on line 1"]);
    order("absent.txt", &[names[0], absent], &["line 2", "have no sample of the class", absent]);
    order("short.txt", &names[1..], &["line 93", "lacks classes", names[0]]);
    let latin = written(&folder, "latin.txt", [0xe9, b'\n']);
    run_refused(&["--set", &format!("stream.class_order={latin}")], &["cannot read", "latin.txt"]);
    run_refused(&["--set", "stream.class_order=nowhere.txt"], &["cannot read nowhere.txt"]);
}

#[test]
fn compare_opens_nothing_for_runs_that_are_finished() {
    let folder = copied_data();
    let out = folder.path().join("compare");
    let data = folder.path().to_str().unwrap();
    let fixed = ["compare", TINY_RUN, "--out", out.to_str().unwrap(), "--data", data];
    let methods = ["--methods", "zero-shot,sequential"];
    let first = succeed(&[&fixed[..], &methods, &SMALL].concat());
    assert!(first.lines().next().unwrap().ends_with("samples  GMACs  MMACs/sample  samples/s"), "{first}");
    let row = |method: &str| -> Vec<&str> {
        first.lines().find(|line| line.starts_with(method)).unwrap().split_whitespace().collect()
    };
    let (untrained, trained) = (row("zero-shot"), row("sequential"));
    assert_eq!(untrained.len() + 2, trained.len(), "what was not trained has no cost and no speed:\n{first}");
    let spent = RunDirectory::read_evaluation(&out.join("sequential-m0-s0")).unwrap();
    let cost = spent.macs_spent as f64 / spent.samples_spent as f64 / 1e6;
    assert_eq!(trained[trained.len() - 2], format!("{cost:.1}"));

    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    let before = files(&out);
    assert_eq!(succeed(&[&fixed[..], &methods, &SMALL].concat()), first);
    assert!(files(&out) == before);
    // Other settings are another run, which is told before the data is missed.
    let other = perennial(&[&fixed[..], &methods, &SMALL, &["--set", "train.warmup=1"]].concat());
    assert_eq!(other.status, Some(1), "{}", other.stderr);
    assert!(other.stderr.contains("holds a run with other settings (warmup = 3, now warmup = 1)"), "{}", other.stderr);
    assert!(files(&out) == before);
}

#[test]
fn compare_goes_on_after_a_failure_and_tells_it_in_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("compare");
    let fixed =
        ["compare", TINY_RUN, "--methods", "gcl,zero-shot", "--memory", "100000", "--out", out.to_str().unwrap()];
    let outcome = perennial(&[&fixed[..], &SMALL].concat());
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let cells = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    assert_eq!(cells(lines[2])[..3], ["zero-shot", "0", "1"], "{}", outcome.stdout);
    assert_eq!(cells(lines[3]), ["gcl", "100000", "0", "0", "0.0"], "{}", outcome.stdout);
    assert!(lines[4].starts_with("failed: gcl-m100000-s0: memory.size is 100000"), "{}", outcome.stdout);
    assert_eq!(lines.len(), 5);
    refused(&["compare", TINY_RUN, "--methods", "gcl", "--seeds", "0", "--out", "/nowhere/c"], &["nothing to run"]);
}

/// A copy of the data set's files.
fn copied_data() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/data/emoji")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "webp" || extension == "tsv") {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

#[test]
fn broken_data_is_told_with_its_file_and_place() {
    let nowhere = tempfile::tempdir().unwrap().path().join("emoji");
    run_refused(&["--data", nowhere.to_str().unwrap()], &["cannot read", nowhere.to_str().unwrap()]);

    let folder = copied_data();
    let data = folder.path().to_str().unwrap();
    let atlas = folder.path().join("fxemoji.webp");
    let whole = fs::read(&atlas).unwrap();
    fs::write(&atlas, &whole[..whole.len() / 2]).unwrap();
    run_refused(&["--data", data], &["cannot read", "fxemoji.webp", "not a whole image"]);
    fs::remove_file(&atlas).unwrap();
    run_refused(&["--data", data], &["cannot read", "fxemoji.webp", "no such file"]);
    fs::write(&atlas, whole).unwrap();

    let index = folder.path().join("index.tsv");
    let text = fs::read_to_string(&index).unwrap();
    let lines: Vec<&str> = text.lines().take(99).collect();
    let cut = format!("{}\n{}", lines.join("\n"), "99\tfxemoji\t0");
    fs::write(&index, cut).unwrap();
    run_refused(&["--data", data], &["index.tsv, line 100", "found 3 columns, expected 9"]);
    fs::write(&index, "").unwrap();
    run_refused(&["--data", data], &["index.tsv, line 1"]);
}

#[test]
fn a_missing_pretrained_model_is_told_with_how_to_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(&["run", "emoji-cil"]).current_dir(folder.path()).output().unwrap();
    let outcome = outcome(output);
    assert_eq!(outcome.status, Some(2));
    assert!(outcome.stderr.starts_with("error: runs/emoji-pretrain/"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("perennial run emoji-pretrain --out runs/emoji-pretrain"), "{}", outcome.stderr);
    assert!(files(folder.path()).is_empty() && !folder.path().join("runs").exists());
    run_refused(&["--set", "model.pretrained=/nowhere/a.safetensors"], &["cannot read /nowhere/a.safetensors"]);
}

#[test]
fn a_directory_that_cannot_be_used_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let taken = written(&folder, "taken", "a file");
    let beneath = format!("{taken}/run");
    refused(&["run", TINY_RUN, "--out", &beneath], &["cannot make", &beneath]);

    let out = folder.path().join("run");
    let first = [&["run", TINY_RUN, "--out", out.to_str().unwrap()][..], &SMALL].concat();
    succeed(&first);
    let before = files(&out);
    refused(&[&first[..], &["--seed", "1"]].concat(), &["holds a run with other settings", "seed = 0, now seed = 1"]);
    refused(&[&first[..], &["--method", "gcl"]].concat(), &["holds a run with other settings", "gdro", "gcl"]);
    assert!(files(&out) == before, "a refused run changed another's directory");
}

/// The last line of what a failed run says.
#[track_caller]
fn failed(arguments: &[&str]) -> String {
    let outcome = perennial(arguments);
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
    let last = outcome.stderr.lines().last().unwrap_or_default().to_string();
    assert!(last.starts_with("error: "), "{}", outcome.stderr);
    last
}

#[test]
fn nan_weights_stop_the_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pretrained = checkpoint(folder.path(), |list, values| {
        values[list.get("visual.proj").offset] = f32::NAN;
    });
    let out = folder.path().join("run");
    let setting = format!("model.pretrained={pretrained}");
    let allowed = ["--set", &setting, "--set", "model.allow_non_finite=true"];
    let arguments = [&["run", TINY_RUN, "--out", out.to_str().unwrap()][..], &allowed, &SMALL].concat();
    let error = failed(&arguments);
    for part in ["iteration 1 of", "last good checkpoint: none", "became NaN"] {
        assert!(error.contains(part), "{error}");
    }
    let left = files(&out);
    assert!(left.keys().all(|path| !path.to_str().unwrap().contains("safetensors")), "{:?}", left.keys());
}

#[test]
fn a_run_that_diverges_keeps_its_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut arguments = [&["run", TINY_RUN, "--out", out.to_str().unwrap()][..], &SMALL].concat();
    // Every iteration multiplies the matrices by -10^4, until they leave f32.
    for setting in [
        "train.learning_rate=10",
        "optimizer.weight_decay=1000",
        "train.warmup=0",
        "train.epochs=4",
        "train.save_every=1",
    ] {
        arguments.extend(["--set", setting]);
    }
    let error = failed(&arguments);
    let state = out.join("checkpoints/state.safetensors");
    for part in ["iteration", &format!("last good checkpoint: {}", state.display())] {
        assert!(error.contains(part), "{error}");
    }
    let saved = TensorFile::load(&state).unwrap();
    for name in ["parameters", "first_moment", "second_moment"] {
        let values = saved.f32(name, saved.shape(name).unwrap()).unwrap();
        assert!(
            values.iter().all(|value| value.is_finite()),
            "{name} of the last good checkpoint are not finite: {error}"
        );
    }
    assert!(failed(&arguments).contains("last good checkpoint"), "the same command fails alike");
}

#[test]
fn help_of_every_command_fits_a_page() {
    let help = succeed(&["--help"]);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    for known in ["run", "compare", "eval", "embed", "export", "pack", "report", "list", "doctor"] {
        assert!(commands.contains(&known), "{known} is not in {commands:?}");
    }
    for arguments in std::iter::once(vec!["--help"]).chain(commands.iter().map(|command| vec![*command, "--help"])) {
        let help = succeed(&arguments);
        assert!(help.contains("Usage: perennial"), "{help}");
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{arguments:?} is {widest} columns wide:\n{help}");
    }
}

#[test]
fn lists_have_one_name_first_on_each_line() {
    let names = |what: &str| -> Vec<String> {
        let text = succeed(&["list", what]);
        text.lines().map(|line| line.split_whitespace().next().expect("no empty lines").to_string()).collect()
    };
    for (what, known) in [
        ("methods", ["zero-shot", "sequential", "gcl", "gdro", "joint"].as_slice()),
        ("presets", &["emoji-pretrain", "emoji-cil", "emoji-cil-balanced", "emoji-dil", "emoji-tic"]),
        ("models", &["ViT-B-32", "ViT-B-16", "ViT-L-14", "emoji-small", "emoji-tiny"]),
        ("kernels", &[]),
    ] {
        let names = names(what);
        assert!(known.iter().all(|known| names.iter().any(|name| name == known)), "{what}: {names:?}");
    }
}

#[test]
fn what_cannot_be_written_is_told_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let missing = bare_checkpoint(folder.path(), "missing.safetensors", |name, shape| {
        (name != "visual.proj").then(|| (name.to_string(), shape))
    });
    let taken = written(&folder, "taken", "a file");
    let export = ["export", "--model", &missing, "--arch", MICRO, "--activation", "gelu", "--format", "hf", "--out"];
    refused(&[&export[..], &[&taken]].concat(), &["cannot write to", "taken: it is a file, and a folder is wanted"]);
    refused(&[&export[..], &[&format!("{taken}/a/b")]].concat(), &["cannot write to", "taken is no folder"]);

    for option in ["--html", "--markdown", "--csv"] {
        refused(&["report", "nowhere", option, &taken], &["cannot read nowhere"]);
        refused(&["report", "nowhere", option, "/nowhere/report"], &["cannot write /nowhere/report", "no folder"]);
    }

    let run = |name: &str, more: &[&str]| {
        let out = folder.path().join(name).to_str().unwrap().to_string();
        succeed(&[&["run", TINY_RUN, "--method", "zero-shot", "--out", &out], more].concat());
        out
    };
    let (one, other) = (run("one", &SMALL), run("other", &[]));
    let csv = folder.path().join("report.csv");
    refused(&["report", &one, &other, "--csv", csv.to_str().unwrap()], &["the runs are of 2 streams"]);
    assert!(!csv.exists());
}

#[test]
fn a_trace_of_a_step_has_every_op_with_its_time_inside_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.json");
    let file = file.to_str().unwrap();
    let html = folder.path().join("step.html");
    let html = html.to_str().unwrap();
    let step =
        ["bench", "step", "--model", "emoji-tiny", "--batch", "4", "--steps", "1", "--trace", file, "--html", html];
    let told = succeed(&step);
    assert!(told.contains(file) && told.contains(html), "the files are named");
    let trace: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let events: Vec<&Value> = trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X").collect();
    let of = |category: &str| events.iter().filter(|event| event["cat"] == category).copied().collect::<Vec<&Value>>();
    let span = |event: &Value| {
        let [start, time] = ["ts", "dur"].map(|key| event[key].as_f64().unwrap());
        (start, start + time)
    };

    let [step] = of("step")[..] else { panic!("one step") };
    let (phases, ops) = (of("phase"), of("op"));
    let names: Vec<&str> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["forward", "objective", "backward", "optimiser"]);
    let within = |inner: &Value, outer: &Value| {
        let ((start, end), (from, to)) = (span(inner), span(outer));
        from - 1e-3 <= start && end <= to + 1e-3
    };
    for event in &events {
        assert!(event["dur"].as_f64().unwrap() > 0.0 && within(event, step), "{event}");
    }
    for op in &ops {
        assert!(phases.iter().any(|phase| within(op, phase)), "{op}");
        let [bytes, share] = ["bytes", "percent_of_floor"].map(|key| op["args"][key].as_f64().unwrap());
        assert!(bytes > 0.0 && share > 0.0 && !op["args"]["shape"].as_str().unwrap().is_empty(), "{op}");
    }
    for pair in ops.windows(2) {
        assert!(span(pair[0]).1 <= span(pair[1]).0 + 1e-3, "one after the other: {} and {}", pair[0], pair[1]);
    }

    // As often as the model has them: in each block of both towers, and at their ends.
    let spec = ModelSpec::find("emoji-tiny").unwrap();
    let blocks = spec.vision_cfg.layers + spec.text_cfg.layers;
    for (name, count) in [
        ("patch_embed", 1),
        ("position_embed", 1),
        ("token_embed", 1),
        ("attention", blocks),
        ("layer_norm", 2 * blocks + 3),
        ("linear", 4 * blocks + 3),
        ("pool", 2),
        ("l2_normalize", 2),
        ("contrastive", 1),
        ("contrastive backward", 1),
        ("l2_normalize backward", 2),
        ("pool backward", 2),
        ("linear backward data", 4 * blocks + 2),
        ("linear backward weight", 4 * blocks + 3),
        ("layer_norm backward", 2 * blocks + 3),
        ("attention backward", blocks),
        ("token_embed backward", 1),
        ("position_embed backward", 1),
        ("gradient_norm", 1),
        ("adamw", 1),
        ("clamp", 1),
    ] {
        assert_eq!(ops.iter().filter(|op| op["name"] == name).count(), count, "{name}");
    }
    assert_eq!(ops.len(), 18 * blocks + 32, "and no others");

    let page = fs::read_to_string(html).unwrap();
    for op in &ops {
        let [name, shape] = [&op["name"], &op["args"]["shape"]].map(|text| text.as_str().unwrap());
        let row = format!("<td class=\"name\">{name}</td><td class=\"name\">{shape}</td>");
        assert_eq!(page.matches(&row).count(), 1, "one row for each op and shape: {row}");
    }
    for part in ["emoji-tiny", "\nforward\n</text>", "GFLOP/s", "operations a byte"] {
        assert!(page.contains(part), "{part}");
    }
    for (width, theme) in [(1280, Theme::Light), (360, Theme::Dark)] {
        let layout = lay_out(Path::new(html), width, theme);
        assert!(layout.overflow <= 0.0 && layout.outside.is_empty() && layout.dead_links.is_empty(), "{layout:?}");
        assert_eq!((layout.requests, layout.plots.len()), (0, 3), "one file, and its timeline, roofline and bars");
        for plot in layout.plots {
            assert!(plot.width > 100.0 && plot.marks > 0 && plot.cut.is_empty(), "{width}: {plot:?}");
        }
    }
    refused(&["bench", "kernels", "--trace", file], &["--trace", "perennial bench step"]);
    refused(&["bench", "step", "--trace", "/nowhere/trace.json"], &["cannot write /nowhere/trace.json"]);
    refused(&["bench", "kernels", "--html", html], &["--html", "perennial bench step"]);
}

#[test]
fn single_ops_are_timed_and_held_against_earlier_times() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (first, second, fast, foreign) = (path("first"), path("second"), path("fast"), path("foreign"));
    let bench = ["bench", "kernels", "--model", "emoji-tiny", "--batch", "4"];
    let with = |more: &[&'static str], files: &[&str]| -> Vec<String> {
        [&bench[..], more, files].concat().into_iter().map(String::from).collect()
    };
    let read = |path: &str| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let linear = ["--only", "linear", "--shape", "24,16,8", "--iterations", "3", "--json"];
    let arguments = with(&linear, &[&first]);
    let text = succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!text.contains("ceilings"), "with --iterations nothing else is run: {text}");
    let report = read(&first);
    let rows = report["ops"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["op"].as_str().unwrap()).collect();
    assert_eq!(names, ["linear", "linear backward data", "linear backward weight"]);
    assert!(rows.iter().all(|row| row["seconds"].as_f64().unwrap() > 0.0 && row["percent_of_floor"].is_null()));

    // Anything is faster than a hundred seconds, and slower than none.
    for (name, seconds) in [(&second, 100.0), (&fast, 1e-12)] {
        let mut report = report.clone();
        for row in report["ops"].as_array_mut().unwrap() {
            row["seconds"] = seconds.into();
        }
        fs::write(name, report.to_string()).unwrap();
    }
    let compare = |file: &str| {
        let arguments = with(&["--only", "linear", "--shape", "24,16,8", "--iterations", "1", "--compare"], &[file]);
        perennial(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let outcome = compare(&second);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let outcome = compare(&fast);
    assert_eq!(outcome.status, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("slower than before: linear "), "{}", outcome.stderr);

    fs::write(&foreign, "{\"ops\": 3}").unwrap();
    for (arguments, parts) in [
        (vec!["bench", "kernels", "--only", "liner"], &["liner", "linear"][..]),
        (vec!["bench", "step", "--only", "linear"], &["--only", "perennial bench kernels"]),
        (vec!["bench", "kernels", "--shape", "1,2,3"], &["--only linear"]),
        (vec!["bench", "kernels", "--only", "linear", "--shape", "1,2"], &["ROWS,INPUTS,OUTPUTS"]),
        (vec!["bench", "kernels", "--only", "memory"], &["memory", "op of this model"]),
        (vec!["bench", "kernels", "--compare", "/nowhere/base.json"], &["/nowhere/base.json"]),
        (vec!["bench", "kernels", "--counters"], &["--counters", "--device is cpu", "--device emulated"]),
        (vec!["bench", "kernels", "--counters", "--device", "cuda:1"], &["--device is cuda", "--device emulated"]),
        (vec!["bench", "kernels", "--counters", "--iterations", "3"], &["--iterations is of times"]),
        (vec!["bench", "loader", "--counters"], &["--counters", "perennial bench kernels"]),
        (vec!["bench", "kernels", "--compare", &foreign], &["it is no report of"]),
    ] {
        refused(&arguments, parts);
    }
}

/// The numbers on the line of `text` that starts with `name`.
fn numbers(text: &str, name: &str) -> Vec<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}:\n{text}"));
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn eval_agrees_with_the_run_that_made_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let run = [&["run", TINY_RUN, "--out", out.to_str().unwrap()][..], &SMALL].concat();
    succeed(&[&run[..], &["--set", "train.epochs=3"]].concat());
    let evaluation: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("evaluation.json")).unwrap()).unwrap();
    let accuracy = 100.0 * evaluation["matrix"][0][0].as_f64().unwrap();

    let model = out.join("checkpoints/step-001.safetensors");
    let eval = ["eval", "--model", model.to_str().unwrap(), "--data", "emoji", "--domains", "fxemoji"];
    let text = succeed(&eval);
    assert_eq!(numbers(&text, "pictures"), [185.0]);
    assert_eq!(numbers(&text, "classes"), [98.0]);
    let [top_1, top_5, recall] =
        ["top_1_accuracy", "top_5_accuracy", "mean_per_class_recall"].map(|name| numbers(&text, name)[0]);
    assert!((top_1 - accuracy).abs() < 0.006, "{accuracy} is not in:\n{text}");
    assert!(top_5 > top_1 && recall > 0.0 && recall != top_1, "{text}");

    let text = succeed(&[&eval[..], &["--task", "retrieval", "--split", "train"]].concat());
    assert_eq!(numbers(&text, "pictures"), [696.0]);
    let (there, back) = (numbers(&text, "image_to_text"), numbers(&text, "text_to_image"));
    assert!(there.len() == 3 && there.is_sorted() && back.len() == 3 && back.is_sorted(), "{text}");
    assert!((numbers(&text, "mean_recall@1")[0] - (there[0] + back[0]) / 2.0).abs() < 0.011, "{text}");

    refused(&[&eval[..3], &["--data", "emojy"]].concat(), &["unknown data set 'emojy'"]);
    refused(&[&eval[..5], &["--domains", "fxemojy"]].concat(), &["unknown domain 'fxemojy'", "'fxemoji'?"]);
    refused(&[&eval[..], &["--templates", "emojis"]].concat(), &["unknown prompt templates 'emojis'"]);
    refused(&[&eval[..], &["--folder", "/nowhere"]].concat(), &["cannot read /nowhere"]);
}

#[test]
fn a_run_on_a_packed_file_is_the_run_on_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("emoji.pack");
    let size = micro().vision_cfg.image_size.to_string();
    // Training pictures in their own size: their crops are then those of the data, bit for bit.
    let packing = ["pack", TINY_RUN, "--size", &size, "--train-size", "32", "--out", pack.to_str().unwrap()];
    let said = perennial(&packing);
    assert_eq!(said.status, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("32 x 32 for training") && said.stderr.contains(" MB"), "{}", said.stderr);
    assert_eq!(perennial(&packing).status, Some(2), "the file is there already");

    let evaluation = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        succeed(&[&["run", TINY_RUN, "--out", out.to_str().unwrap()], &SMALL[..], more].concat());
        fs::read_to_string(out.join("evaluation.json")).unwrap()
    };
    let file = format!("data.folder={}", pack.display());
    assert_eq!(evaluation("packed", &["--set", "data.name=packed", "--set", &file]), evaluation("data", &[]));
}
