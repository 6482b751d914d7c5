//! The report's page as people see it: in a browser, wide and narrow, light and dark.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use perennial::data;
use serde_json::{Value, json};

use crate::setups::{TINY_RUN, TINY_TIC};
use crate::support::browser::{Theme, lay_out};
use crate::support::{perennial, succeed};

/// gcl and gdro, each with two memory sizes and two seeds, as `compare` leaves them.
fn compare(folder: &Path) -> Vec<String> {
    let out = folder.to_str().unwrap();
    let grid = ["compare", TINY_RUN, "--methods", "gcl,gdro", "--memory", "0,120", "--seeds", "2", "--out", out];
    succeed(&[&grid[..], &["--set", "train.epochs=1"]].concat());
    let mut runs: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().to_str().unwrap().to_string()).collect();
    runs.sort();
    assert_eq!(runs.len(), 8);
    runs
}

/// A right and a wrong prediction of the first two test images; the wrong one is what nobody should write into a page.
fn predict(run: &str) {
    let dataset = data::open(&data::Source::new("emoji", None)).unwrap();
    let tests = dataset.samples.iter().enumerate().filter(|(_, sample)| sample.split == data::Split::Test);
    let predictions: Vec<Value> = tests
        .take(2)
        .zip([None, Some("<script>document.body.remove()</script>")])
        .map(|((place, sample), wrong)| {
            let truth = &dataset.classes[sample.class.index()];
            json!({ "sample": place, "task": 0, "truth": truth, "predicted": wrong.unwrap_or(truth) })
        })
        .collect();
    let sealed = perennial::seal::to_json(&json!({ "predictions": predictions }));
    fs::write(Path::new(run).join("predictions.json"), sealed).unwrap();
}

fn report(runs: &[String], page: &Path) -> String {
    let runs = runs.iter().map(String::as_str);
    succeed(&["report"].into_iter().chain(runs).chain(["--html", page.to_str().unwrap()]).collect::<Vec<_>>());
    fs::read_to_string(page).unwrap()
}

/// By section, the names of the plots that stand in a page's text.
fn drawings(page: &str) -> BTreeMap<String, Vec<String>> {
    let quoted = |text: &str| text.split('"').next().unwrap().to_string();
    let sections = page.split("<section id=\"").skip(1).map(|section| {
        let plots = section.split("<svg role=\"img\" aria-label=\"").skip(1).map(quoted);
        (quoted(section), plots.collect::<Vec<_>>())
    });
    sections.filter(|(_, plots)| !plots.is_empty()).collect()
}

#[test]
fn every_plot_is_drawn_and_nothing_leaves_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let runs = compare(&folder.path().join("runs"));
    for run in &runs {
        predict(run);
    }
    let page = folder.path().join("report.html");
    let drawings = drawings(&report(&runs, &page));

    let mut colors = Vec::new();
    for (width, theme) in [(1280, Theme::Light), (1280, Theme::Dark), (360, Theme::Light), (360, Theme::Dark)] {
        let layout = lay_out(&page, width, theme);
        assert!(layout.overflow <= 0.0, "{width}: {} pixels too wide", layout.overflow);
        assert_eq!(layout.outside, Vec::<String>::new(), "{width}");
        assert_eq!(layout.requests, 0, "the page is one file");
        assert_eq!(layout.dead_links, Vec::<String>::new());
        assert!(
            layout.pictures.len() == 2 && layout.pictures.iter().all(|width| *width > 0.0),
            "{:?}",
            layout.pictures
        );
        let mut drawn: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for plot in layout.plots {
            assert!(plot.width > 100.0 && plot.height > 10.0 && plot.marks > 0, "{width}: {plot:?}");
            assert_eq!(plot.cut, Vec::<String>::new(), "{width}: {}", plot.name);
            drawn.entry(plot.section).or_default().push(plot.name);
        }
        assert_eq!(drawn, drawings, "{width}: what stands in the file is drawn, all of it");
        let against_budget = ["average", "in-domain", "backward"].map(|metric| format!("{metric} against the budget"));
        let by_step = "accuracy after each step against the budget spent by then".to_string();
        assert_eq!(drawn["budget"], [&against_budget[..], &[by_step]].concat());
        let counts: Vec<(&str, usize)> = drawn.iter().map(|(section, names)| (section.as_str(), names.len())).collect();
        let expected = [
            ("accuracy", 2),   // a panel for each method
            ("budget", 4),     // three metrics, and step by step
            ("forgetting", 3), // bars, and a panel for each method
            ("matrix", 5),     // a scale, and a matrix for each method and memory size
            ("memory", 2),     // average and forgetting
            ("training", 6),   // loss, learning rate and gradient norm of each method
            ("weights", 2),    // gdro's, for each memory size
        ];
        assert_eq!(counts, expected, "{width}");
        colors.push(layout.colors);
    }
    assert_ne!(colors[0].0, colors[1].0, "the page follows the theme");
    assert_ne!(colors[0].1, colors[1].1, "and so do the plots");
}

/// The page's fact of this name.
fn fact<'a>(page: &'a str, name: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("<dt>{name}</dt><dd>")).unwrap_or_else(|| panic!("no {name} in {page}"));
    rest.split_once("</dd>").unwrap().0
}

#[test]
fn facts_are_true_of_every_method_of_the_group() {
    let folder = tempfile::tempdir().unwrap();
    let facts = |preset: &str, methods: &[&str], settings: &[&str]| {
        let name = methods.join("-");
        let runs: Vec<String> = (methods.iter())
            .map(|method| folder.path().join(format!("{name}-{method}")).to_str().unwrap().to_string())
            .collect();
        for (method, run) in methods.iter().zip(&runs) {
            let fixed = ["run", preset, "--method", method, "--out", run];
            succeed(
                &fixed.into_iter().chain(settings.iter().flat_map(|setting| ["--set", setting])).collect::<Vec<_>>(),
            );
        }
        let page = report(&runs, &folder.path().join(format!("{name}.html")));
        ["Tested by", "Training"].map(|name| fact(&page, name).to_string())
    };
    let short = ["train.epochs=0.5", "probe.epochs=1", "objective.cassle.hidden=64"];
    let [tested, trained] = facts(TINY_RUN, &["zero-shot", "finetune-ce", "joint", "icarl", "cassle"], &short);
    assert_eq!(
        tested,
        "classification by the nearest class prompt (zero-shot, joint); by a linear head (finetune-ce); by the nearest \
         mean of kept images (icarl); by a linear head trained after the step (cassle)"
    );
    assert_eq!(
        trained,
        "batch 32, 0.5 epochs a step, learning rate 0.001; batch 32, 0.5 epochs a step for every step seen, learning rate 0.001"
    );
    let [tested, _] = facts(TINY_RUN, &["finetune-ce"], &["train.epochs=0.5"]);
    assert_eq!(tested, "classification by a linear head");
    let [tested, trained] = facts(TINY_TIC, &["sequential"], &[]);
    assert_eq!(tested, "retrieval: mean of image-to-text and text-to-image recall@1");
    assert_eq!(trained, "batch 32, 96 samples a step, learning rate 0.001");
}

#[test]
fn a_page_is_made_of_whatever_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").to_str().unwrap().to_string();
    succeed(&["run", TINY_RUN, "--method", "zero-shot", "--out", &run]);
    predict(&run);
    let page = folder.path().join("report.html");
    let runs = [run.clone()];

    // A data set that is gone takes the pictures with it, not the report.
    let config = Path::new(&run).join("config.toml");
    let settings = fs::read_to_string(&config).unwrap();
    fs::write(&config, settings.replace("folder = \"\"", "folder = \"/nowhere\"")).unwrap();
    let text = report(&runs, &page);
    assert!(text.contains("There are no pictures: ") && text.contains("/nowhere") && !text.contains("<img"), "{text}");

    // So does a data set that is another one now.
    fs::write(&config, &settings).unwrap();
    let manifest = Path::new(&run).join("manifest.json");
    let mut known: Value = serde_json::from_str(&fs::read_to_string(&manifest).unwrap()).unwrap();
    known["sha256"]["data"] = json!("another");
    fs::write(&manifest, perennial::seal::to_json(&known)).unwrap();
    assert!(report(&runs, &page).contains("has changed since the run"));

    // Damaged files are told of on the page.
    fs::write(&manifest, "{").unwrap();
    fs::write(Path::new(&run).join("predictions.json"), "[{").unwrap();
    fs::remove_file(Path::new(&run).join("metrics.jsonl")).unwrap();
    let text = report(&runs, &page);
    assert!(text.contains("predictions.json") && text.contains("metrics.jsonl"), "{text}");
    let layout = lay_out(&page, 360, Theme::Light);
    assert!(layout.overflow <= 0.0 && layout.outside.is_empty(), "{layout:?}");

    // Without its settings nobody knows what the run was.
    fs::remove_file(&config).unwrap();
    let outcome = perennial(&["report", &run, "--html", page.to_str().unwrap()]);
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("config.toml"), "{}", outcome.stderr);
}

#[cfg(feature = "tensorboard")]
#[test]
fn events_of_a_run_stand_in_one_file_however_often_it_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for _ in 0..2 {
        succeed(&["run", TINY_RUN, "--method", "zero-shot", "--tensorboard", "--out", run.to_str().unwrap()]);
        let files = crate::runs::files(&run.join("tensorboard"));
        assert_eq!(files.len(), 1, "{:?}", files.keys());
        let bytes = files.values().next().unwrap();
        let count = |tag: &[u8]| bytes.windows(tag.len()).filter(|bytes| *bytes == tag).count();
        assert_eq!((count(b"accuracy/all_seen"), count(b"accuracy/task_3")), (3, 3));
    }
}
