//! Every preset, end to end, on a small synthetic data set in the exact layout that it names: loader, stream, training, evaluation
//! and report of the real thing with a tiny model. And what `doctor` and `eval` say of such data.

use std::fs;
use std::path::Path;

use approx::assert_abs_diff_eq;
use perennial::experiment::{Evaluation, EvaluationTask, PRESETS, RunDirectory};
use perennial::model::spec::ModelSpec;
use tempfile::TempDir;

use crate::runs::files;
use crate::support::micro::{MICRO, checkpoint};
use crate::support::{Outcome, perennial, succeed, synthetic, written};

/// Makes a preset's data in a folder.
type Make = fn(&Path);

/// The presets on data from outside: how their data are made, and the steps and training samples of each step that come of it.
const CASES: [(&str, Make, usize, usize); 18] = [
    ("cifar100-cil", synthetic::cifar100, 10, 20),
    ("cifar100-dytox", synthetic::cifar100, 10, 20),
    ("imagenet1k-cil", synthetic::imagenet, 10, 100),
    ("domainnet-dil", synthetic::domainnet, 6, 20),
    ("tic-yfcc", |folder| synthetic::batches(folder, &["0", "1", "2", "3"]), 4, 12),
    ("tic-redcaps", |folder| synthetic::batches(folder, &["2017", "2018", "2019", "2020"]), 4, 12),
    ("tic-datacomp-medium", datacomp, 7, 12),
    ("tic-datacomp-large", datacomp, 7, 12),
    ("tic-datacomp-xlarge", datacomp, 7, 12),
    ("cifar10", synthetic::cifar10, 1, 20),
    ("cifar100", synthetic::cifar100, 1, 200),
    ("imagenet", |folder| synthetic::class_folders(folder, "imagenet"), 1, 0),
    ("imagenet-v2", synthetic::numbered_folders, 1, 0),
    ("imagenet-r", |folder| synthetic::class_folders(folder, "imagenet-r"), 1, 0),
    ("imagenet-sketch", |folder| synthetic::class_folders(folder, "imagenet"), 1, 0),
    ("imagenet-a", |folder| synthetic::class_folders(folder, "imagenet-a"), 1, 0),
    ("flickr30k", |folder| synthetic::captions(folder, "flickr30k_test_karpathy.csv"), 1, 0),
    ("coco", |folder| synthetic::captions(folder, "coco_test_karpathy.csv"), 1, 0),
];

/// Of TiC-DataComp.
const YEARS: [i32; 7] = [2016, 2017, 2018, 2019, 2020, 2021, 2022];

fn datacomp(folder: &Path) {
    synthetic::datacomp(folder, &YEARS);
}

/// What makes a preset small: a tiny model from random values, and a batch and a memory that fit little data.
const SMALL: [&str; 7] = [
    "model.name=tests/fixtures/micro.json",
    "model.pretrained=",
    "train.batch=8",
    "train.warmup=1",
    "memory.size=20",
    "data.loader_threads=2",
    "evaluation.batch=512",
];

fn data(make: Make) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    folder
}

/// A command with a preset, its data, and what makes it small.
fn small(command: &str, preset: &str, data: &Path, more: &[&str]) -> Outcome {
    let mut arguments = vec![command, preset, "--data", data.to_str().unwrap()];
    SMALL.iter().for_each(|setting| arguments.extend(["--set", setting]));
    if preset.starts_with("tic-") {
        arguments.extend(["--set", "train.samples=24"]);
    }
    arguments.extend(more);
    perennial(&arguments)
}

#[test]
fn every_preset_on_outside_data_has_a_case() {
    let outside = PRESETS.iter().filter(|preset| preset.group != "bundled").map(|preset| preset.name);
    assert_eq!(outside.collect::<Vec<_>>(), CASES.map(|(name, ..)| name));
}

/// Runs a preset on its synthetic data and looks at its evaluation and its report.
#[track_caller]
fn end_to_end(name: &str) {
    let (_, make, steps, train) = CASES.into_iter().find(|(known, ..)| *known == name).unwrap();
    let (data, folder) = (data(make), tempfile::tempdir().unwrap());
    let out = folder.path().join("run");
    let mut more = vec!["--out", out.to_str().unwrap()];
    // 80 templates of 1000 classes would be most of the test's time; the sets of 200 classes have them.
    if ["imagenet1k-cil", "imagenet", "imagenet-v2", "imagenet-sketch"].contains(&name) || name.contains("datacomp") {
        more.extend(["--set", "evaluation.templates=photo"]);
    }
    let outcome = small("run", name, data.path(), &more);
    assert_eq!(outcome.status, Some(0), "{name}\n{}", outcome.stderr);

    let evaluation: Evaluation = RunDirectory::read_evaluation(&out).unwrap();
    assert!(evaluation.is_complete() && evaluation.steps.len() == steps, "{name}: {:?}", evaluation.steps);
    assert!(evaluation.steps.iter().all(|step| step.train == train && step.test > 0), "{name}: {:?}", evaluation.steps);
    for row in &evaluation.matrix {
        let values: Vec<f64> = row.iter().map(|value| value.expect("every step has tests")).collect();
        assert!(values.len() == steps && values.iter().all(|value| (0.0..=1.0).contains(value)), "{name}: {values:?}");
    }
    let retrieves = name.starts_with("tic-") || ["flickr30k", "coco"].contains(&name);
    assert_eq!(evaluation.task == EvaluationTask::Retrieval, retrieves, "{name}");
    if name.contains("datacomp") {
        let found = &evaluation.dynamic["classification"];
        assert!(found.iter().flatten().all(Option::is_some) && found.len() == steps, "{name}: {found:?}");
    }
    let trained = evaluation.samples_spent > 0;
    assert_eq!(trained, evaluation.method != "zero-shot", "{name}");

    let [html, markdown, csv] = ["page.html", "table.md", "table.csv"].map(|file| folder.path().join(file));
    let files = [("--html", &html), ("--markdown", &markdown), ("--csv", &csv)];
    let mut report = vec!["report", out.to_str().unwrap(), "--against", "reference"];
    files.iter().for_each(|(flag, path)| report.extend([*flag, path.to_str().unwrap()]));
    let text = succeed(&report);
    let [html, markdown, csv] = [&html, &markdown, &csv].map(|path| fs::read_to_string(path).unwrap());
    // The presets' own methods: zero-shot has figures, of other weights than random values; gdro and cumulative-all are told of in words.
    let told = match trained {
        true => ["no published figure", "the paper says: "],
        false => ["no comparable figure", "ViT-B-16, openai"],
    };
    for (what, page) in [("text", &text), ("html", &html), ("markdown", &markdown)] {
        assert!(told.iter().all(|told| page.contains(told)), "{name}, {what}: {page}");
        assert!(page.contains("has other settings than the preset: "), "{name}, {what}: {page}");
    }
    let header = "method,memory,weights,metric,here,here_deviation,published,difference,published of,origin,source\n";
    assert!(csv.starts_with(header), "{csv}");
    assert!(csv.contains(told[0]), "{csv}");
}

macro_rules! cases {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            end_to_end($name);
        })*
    };
}

cases! {
    cifar100_cil: "cifar100-cil",
    cifar100_dytox: "cifar100-dytox",
    imagenet1k_cil: "imagenet1k-cil",
    domainnet_dil: "domainnet-dil",
    tic_yfcc: "tic-yfcc",
    tic_redcaps: "tic-redcaps",
    tic_datacomp_medium: "tic-datacomp-medium",
    tic_datacomp_large: "tic-datacomp-large",
    tic_datacomp_xlarge: "tic-datacomp-xlarge",
    cifar10: "cifar10",
    cifar100: "cifar100",
    imagenet: "imagenet",
    imagenet_v2: "imagenet-v2",
    imagenet_r: "imagenet-r",
    imagenet_sketch: "imagenet-sketch",
    imagenet_a: "imagenet-a",
    flickr30k: "flickr30k",
    coco: "coco",
}

#[test]
fn figures_stand_beside_a_runs_own_with_the_difference() {
    let (data, folder) = (data(synthetic::cifar100), tempfile::tempdir().unwrap());
    let out = folder.path().join("run");
    let outcome = small("run", "cifar100-cil", data.path(), &["--method", "zero-shot", "--out", out.to_str().unwrap()]);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let summary = RunDirectory::read_evaluation(&out).unwrap().summary;
    // Figures of the run's own experiment, but for the last: it is of another order of classes.
    let figure = |metric: &str, value: f64, order: &str| {
        format!(
            "[[figure]]\npreset = \"cifar100-cil\"\nmethod = \"zero-shot\"\nmetric = \"{metric}\"\nvalue = {value}\n\
             model = \"{MICRO}\"\nweights = \"random values\"\norder = \"{order}\"\nprompt = \"cifar\"\norigin = \"reported\"\n\
             source = \"nowhere\"\n"
        )
    };
    let figures = [("average", 75.17, "cifar100"), ("last", 66.72, "cifar100"), ("forgetting", 1.5, "cifar100-dytox")];
    let figures: String = figures.iter().map(|(metric, value, order)| figure(metric, *value, order)).collect();
    let mine = written(&folder, "mine.toml", figures);
    let csv = folder.path().join("table.csv");
    let text = succeed(&["report", out.to_str().unwrap(), "--against", &mine, "--csv", csv.to_str().unwrap()]);
    assert!(text.contains("forgetting 1.50 of tests/fixtures/micro.json, random values, nowhere: class order cifar100-dytox, here cifar100"), "{text}");
    let text = fs::read_to_string(csv).unwrap();
    for (metric, here, published) in [
        ("average", summary.average_incremental_accuracy.unwrap(), "75.17"),
        ("last", summary.last_accuracy.unwrap(), "66.72"),
    ] {
        let row = text.lines().find(|line| line.starts_with(&format!("zero-shot,0,random values,{metric},"))).unwrap();
        let cells: Vec<&str> = row.split(',').collect();
        assert_eq!((cells[4], cells[5], cells[6]), (format!("{:.4}", 100.0 * here).as_str(), "", published));
        let difference: f64 = cells[7].parse().unwrap();
        assert_abs_diff_eq!(difference, 100.0 * here - published.parse::<f64>().unwrap(), epsilon = 0.051);
    }
    assert!(!text.contains("forgetting"), "{text}");
    let outcome = perennial(&["report", out.to_str().unwrap(), "--against", "refrence"]);
    assert_eq!(outcome.status, Some(2));
    assert!(outcome.stderr.contains("did you mean 'reference'?"), "{}", outcome.stderr);
}

#[test]
fn eval_takes_a_presets_data_templates_and_task() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let evaluate = |preset: &str, make: Make, more: &[&str]| {
        let data = data(make);
        let fixed = ["eval", "--model", &model, "--data", preset, "--folder", data.path().to_str().unwrap()];
        succeed(&[&fixed[..], more].concat())
    };
    let text = evaluate("cifar10", synthetic::cifar10, &[]);
    assert!(text.contains("classes                10\n") && text.contains("templates              cifar\n"), "{text}");
    let text =
        evaluate("imagenet-r", |folder| synthetic::class_folders(folder, "imagenet-r"), &["--templates", "photo"]);
    assert!(text.contains("classes                200\n") && text.contains("templates              photo\n"), "{text}");
    let text = evaluate("flickr30k", |folder| synthetic::captions(folder, "flickr30k_test_karpathy.csv"), &[]);
    assert!(text.contains("mean_recall@1"), "{text}");
}

#[test]
fn weights_that_a_preset_needs_are_asked_for() {
    let data = data(synthetic::cifar10);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let arguments = ["run", "cifar10", "--data", data.path().to_str().unwrap(), "--out", out.to_str().unwrap()];
    let outcome = perennial(&arguments);
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("those of a ViT-B-16 with --set model.pretrained=FILE"), "{}", outcome.stderr);
    assert!(!out.exists());
}

/// What `doctor` says: its exit status, and its lines.
fn examined(preset: &str, data: &Path, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let Outcome { status, stdout, stderr } = small("doctor", preset, data, more);
    assert_eq!(stdout.lines().any(|line| line.starts_with("WRONG")), status == Some(1), "{stdout}{stderr}");
    (status, stdout.lines().map(str::to_string).collect())
}

#[track_caller]
fn says(lines: &[String], line: &str) {
    assert!(lines.iter().any(|found| found.starts_with(line)), "'{line}' is not in:\n{}", lines.join("\n"));
}

#[test]
fn a_healthy_folder_passes_and_says_what_a_run_needs() {
    let (data, folder) = (data(synthetic::cifar100), tempfile::tempdir().unwrap());
    let preset = folder.path().join("mine.toml");
    let text = fs::read_to_string("presets/cifar100-cil.toml").unwrap();
    let text = text.replace("train = 50000", "train = 200").replace("test = 10000", "test = 100");
    fs::write(&preset, text).unwrap();
    let (status, lines) = examined(preset.to_str().unwrap(), data.path(), &["--decode", "all"]);
    assert_eq!(status, Some(0), "{}", lines.join("\n"));
    for line in [
        "note   tests/fixtures/micro.json starts from random values",
        "ok     200 training samples",
        "ok     100 test samples",
        "ok     100 classes",
        "ok     every class of the list 'cifar100' is there, and no other",
        "ok     300 pictures decoded, ",
        "ok     10 steps, from task 1 with 20 training and 10 test samples to task 10",
        "ok     the run's directory needs about",
        "ok     cpu has room for the run's",
        "note   about ",
    ] {
        says(&lines, line);
    }
    let time = lines.last().unwrap();
    assert!(time.contains("on cpu: 200 samples of training and 10 x 100 tests; an estimate by "), "{time}");
    assert!(time.contains("decoding, which goes on beside it, takes "), "{time}");

    // A folder cannot lie in a file.
    let (status, lines) =
        examined(preset.to_str().unwrap(), data.path(), &["--out", preset.join("run").to_str().unwrap()]);
    assert_eq!(status, Some(1));
    says(&lines, "WRONG  the run's directory cannot be ");
}

#[test]
fn a_run_goes_on_where_its_data_lie_now_and_on_no_others() {
    let make = synthetic::domainnet;
    let (data, folder) = (data(make), tempfile::tempdir().unwrap());
    let out = folder.path().join("run");
    let out = out.to_str().unwrap();
    let run = |data: &Path, more: &[&str]| {
        small("run", "domainnet-dil", data, &[&["--out", out, "--set", "data.max_broken=1"], more].concat())
    };
    assert_eq!(run(data.path(), &[]).status, Some(0));
    let before = files(Path::new(out));

    let moved = folder.path().join("moved");
    fs::rename(data.path(), &moved).unwrap();
    // More may be broken than when it began.
    assert_eq!(run(&moved, &["--set", "data.max_broken=2"]).status, Some(0));
    assert!(files(Path::new(out)) == before, "a finished run was not left as it was");

    // One line fewer: every later sample has another number.
    let list = moved.join("real_train.txt");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.split_once('\n').unwrap().1).unwrap();
    let outcome = run(&moved, &[]);
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("began with other data (sha256 "), "{}", outcome.stderr);
    assert!(files(Path::new(out)) == before);
}

#[test]
fn counts_and_weights_that_are_not_as_expected_are_told() {
    let data = data(synthetic::cifar100);
    let (status, lines) = examined("cifar100-cil", data.path(), &["--set", "model.pretrained=needed"]);
    assert_eq!(status, Some(1));
    says(&lines, "WRONG  the preset starts from pretrained weights");
    says(&lines, "WRONG  200 training samples, expected 50,000: 49,800 are missing");
    says(&lines, "WRONG  100 test samples, expected 10,000: 9,900 are missing");
    says(&lines, "ok     100 classes");
}

#[test]
fn missing_and_misspelt_classes_are_told_with_the_nearest() {
    let data = data(|folder| synthetic::class_folders(folder, "imagenet-a"));
    fs::rename(data.path().join("n01498041"), data.path().join("n0149804")).unwrap();
    fs::remove_dir_all(data.path().join("n01531178")).unwrap();
    let (status, lines) = examined("imagenet-a", data.path(), &[]);
    assert_eq!(status, Some(1));
    says(
        &lines,
        "WRONG  imagenet (data.class_names): there is no name for the class 'n0149804'; did you mean 'n01498041'?",
    );
    says(&lines, "WRONG  199 classes, expected 200: 1 are missing");
    says(&lines, "WRONG  the class 'n0149804' is not on the list 'imagenet-a'; did you mean 'n01498041'?");
    says(&lines, "WRONG  the class 'n01531178' is missing");
    says(&lines, "WRONG  a run would refuse this: ");
}

#[test]
fn unreadable_pictures_and_missing_domains_are_told() {
    let data = data(synthetic::domainnet);
    let path = data.path().join("sketch/ant_hill/0.jpg");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(data.path().join("real/ant_hill/1.jpg")).unwrap();
    for list in ["quickdraw_train.txt", "quickdraw_test.txt"] {
        fs::rename(data.path().join(list), data.path().join(list.replace("quick", "quik"))).unwrap();
    }
    let (status, lines) = examined("domainnet-dil", data.path(), &["--decode", "all", "--set", "data.max_broken=1"]);
    assert_eq!(status, Some(1));
    says(&lines, "WRONG  the domain 'quickdraw' is missing; did you mean 'quikdraw'?");
    says(&lines, "WRONG  1 of these pictures cannot be used, truncated: ");
    says(&lines, "WRONG  1 of these pictures cannot be used, missing file: ");
    says(&lines, "note   180 pictures decoded, ");

    let nowhere = data.path().join("nowhere");
    let (status, lines) = examined("domainnet-dil", &nowhere, &[]);
    assert_eq!(status, Some(1));
    says(&lines, "WRONG  cannot read ");
}

/// The pool of DataComp as it was downloaded, by lists of UIDs, gives the run that its resharded form gives.
#[test]
fn a_pool_by_lists_of_uids_needs_no_resharding() {
    let folder = data(|folder| synthetic::datacomp_pool(folder, &YEARS));
    let out = folder.path().join("run");
    let settings = [
        "data.webdataset.train=['shards/*']",
        "data.webdataset.time_uids=lists/{year}.npy",
        "data.webdataset.time_pattern=eval/*/{year}/*.tar",
        "data.webdataset.time_from=uids",
        "evaluation.templates=photo",
    ];
    let mut more = vec!["--out", out.to_str().unwrap()];
    settings.iter().for_each(|setting| more.extend(["--set", setting]));
    fs::write(folder.path().join("shards/00000000.parquet"), "PAR1").unwrap();
    let outcome = small("run", "tic-datacomp-medium", folder.path(), &more);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let evaluation: Evaluation = RunDirectory::read_evaluation(&out).unwrap();
    let counts: Vec<(usize, usize)> = evaluation.steps.iter().map(|step| (step.train, step.test)).collect();
    assert_eq!(counts, [(12, 8); 7]);
    assert!(
        evaluation.matrix.iter().flatten().all(Option::is_some) && evaluation.dynamic.contains_key("classification")
    );
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(manifest.contains("what is no shard by its name is passed over: 1 .parquet"), "{manifest}");

    // Retrieval and classification of their own sets by `eval`; a set without classes is not classified.
    let place = folder.path().to_str().unwrap();
    let model = checkpoint(folder.path(), |_, _| {});
    let eval = |more: &[&str]| {
        let fixed = ["eval", "--model", &model, "--data", "tic-datacomp-medium", "--folder", place];
        let pool = ["--set", "data.webdataset.train=[]", "--templates", "photo"];
        perennial(&[&fixed[..], &pool, more].concat())
    };
    let found = eval(&[]);
    assert!(found.stdout.contains("pictures          28\ncaptions          28\n"), "{}{}", found.stdout, found.stderr);
    let found = eval(&["--task", "classification"]);
    assert!(
        found.stdout.contains("pictures               28\nclasses                1000\n"),
        "{}{}",
        found.stdout,
        found.stderr
    );
    let found = eval(&["--task", "classification", "--domains", "retrieval"]);
    assert_eq!(found.status, Some(2));
    assert!(
        found.stderr.contains("of the domain 'retrieval'; --domains names those that have classes"),
        "{}",
        found.stderr
    );
}

#[test]
fn presets_name_models_that_there_are() {
    assert!(Path::new(MICRO).exists());
    for preset in &PRESETS {
        let config = perennial::experiment::Config::find(preset.name).unwrap();
        ModelSpec::find(&config.model.name).unwrap();
    }
}
