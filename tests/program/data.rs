//! Data sets of users through the program: what is read, what is left out, and what is refused.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use perennial::experiment::{Config, Setup};
use perennial::model::checkpoint::TensorFile;
use serde_json::Value;
use tempfile::TempDir;

use crate::setups::TINY_RUN;
use crate::support::micro::{MICRO, checkpoint};
use crate::support::{Outcome, perennial, succeed};

/// A picture that its number tells from others.
fn picture(number: u32) -> RgbImage {
    RgbImage::from_fn(40, 36, |x, y| {
        let wave = |k: u32| (((x * (1 + number % 5) + y * (1 + number / 5) + 40 * k) * 7) % 256) as u8;
        Rgb([wave(0), wave(1), (number * 37 % 256) as u8])
    })
}

/// Two classes of pictures, eight each for training and four for the tests; the first test picture is cut short.
fn animals() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut number = 0;
    for (split, count) in [("train", 8), ("val", 4)] {
        for class in ["sea_lion", "tabby_cat"] {
            let folder = root.path().join("animals").join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            for file in 0..count {
                number += 1;
                picture(number).save(folder.join(format!("{file}.png"))).unwrap();
            }
        }
    }
    let broken = root.path().join("animals/val/sea_lion/0.png");
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    root
}

/// `run` on the pictures of [`animals`].
fn run(root: &TempDir, settings: &[&str]) -> Outcome {
    let (data, out) = (root.path().join("animals"), root.path().join("run"));
    let preset = root.path().join("animals.toml");
    let text = format!(
        "method = \"sequential\"\n[data]\nname = \"folder\"\ntext = \"class\"\n[model]\nname = \"{MICRO}\"\n[train]\nbatch = 8\n"
    );
    fs::write(&preset, text).unwrap();
    let (data, out, preset) = (data.to_str().unwrap(), out.to_str().unwrap(), preset.to_str().unwrap());
    let fixed = ["run", preset, "--data", data, "--out", out];
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    perennial(&fixed.into_iter().chain(settings).collect::<Vec<_>>())
}

#[test]
fn broken_samples_are_counted_and_named() {
    let root = animals();
    let outcome = run(&root, &["data.max_broken=1"]);
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("broken samples left out: 1 truncated\n  truncated: sample 16"),
        "{}",
        outcome.stdout
    );
    let text = fs::read_to_string(root.path().join("run/evaluation.json")).unwrap();
    let evaluation: Value = serde_json::from_str(&text).unwrap();
    let truncated = &evaluation["broken"]["truncated"];
    assert_eq!(truncated["count"], 1);
    assert!(truncated["first"][0].as_str().unwrap().contains("val/sea_lion/0.png"), "{truncated}");
    // The state is saved before the tests, which find the same again whenever they are done again.
    let state = TensorFile::load(&root.path().join("run/checkpoints/state.safetensors")).unwrap();
    assert_eq!(state.u32("broken", &[0]).unwrap(), [0; 0]);
    let mut config = Config::find(root.path().join("animals.toml").to_str().unwrap()).unwrap();
    config.data.folder = root.path().join("animals").display().to_string();
    config.data.max_broken = 1;
    let setup = Setup::open(&config).unwrap();
    setup.meet_broken(&[16]).unwrap();
    assert_eq!(serde_json::to_value(setup.dataset.broken()).unwrap(), evaluation["broken"]);
    // Seven of eight test pictures are left: the accuracy is a number of sevenths.
    let sevenths = 7.0 * evaluation["matrix"][0][0].as_f64().unwrap();
    assert!((sevenths - sevenths.round()).abs() < 1e-9, "{sevenths}");
}

#[test]
fn more_broken_samples_than_allowed_end_the_run() {
    let outcome = run(&animals(), &[]);
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    let parts = ["1 broken sample in folder (1 truncated), more than data.max_broken = 0 allows", "val/sea_lion/0.png"];
    assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "{}", outcome.stderr);
}

#[test]
fn what_the_data_cannot_give_is_refused_before_training() {
    let root = animals();
    for (setting, part) in [
        (
            "data.text=caption",
            "folder has no caption for sample 0, but data.text trains on captions; \"class\" needs none",
        ),
        ("evaluation.task=retrieval", "folder has no caption for sample 16, but evaluation.task asks for captions"),
        ("data.class_names=cifar10", "cifar10: found 10 names, one a line, but the data set has 2 classes"),
        ("data.folder=/nowhere", "cannot read /nowhere"),
        ("data.name=csv", "data.csv.caption and data.csv.label are empty"),
    ] {
        let outcome = run(&root, &[setting, "data.max_broken=1"]);
        assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(2), ""), "{setting}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(part), "'{part}' is not in: {}", outcome.stderr);
        assert!(!root.path().join("run").exists(), "{setting}");
    }
    let table = root.path().join("animals/t.csv");
    let rows: String = (0..8).map(|row| format!("val/sea_lion/1.png,a sea lion {row}\n")).collect();
    fs::write(table, format!("filepath,title\n{rows}")).unwrap();
    let captions = ["data.name=csv", "data.csv.caption=title", "data.csv.test=['t.csv']", "data.csv.train=['t.csv']"];
    let outcome = run(&root, &captions);
    assert!(outcome.stderr.contains("csv has no classes, but data.text trains on classes"), "{}", outcome.stderr);
}

/// The rows of a tensor `embeddings`, each of 16.
fn rows(path: &Path) -> Vec<Vec<f32>> {
    let file = TensorFile::load(path).unwrap();
    let shape = file.shape("embeddings").unwrap().to_vec();
    file.f32("embeddings", &shape).unwrap().chunks(16).map(<[f32]>::to_vec).collect()
}

#[test]
fn retrieval_counts_any_of_a_pictures_captions() {
    let root = tempfile::tempdir().unwrap();
    let (folder, model) = (root.path(), checkpoint(root.path(), |_, _| {}));
    // Nine pictures with three captions each; one caption is the same for two of them.
    let caption = |image: usize, turn: usize| match (image, turn) {
        (8, 2) => "caption 0 of thing 3".to_string(),
        _ => format!("caption {turn} of thing {image}"),
    };
    let mut table = "filepath\ttitle\n".to_string();
    for turn in 0..3 {
        for image in 0..9 {
            table += &format!("{image}.png\t{}\n", caption(image, turn));
        }
    }
    (0..9).for_each(|image| picture(image).save(folder.join(format!("{image}.png"))).unwrap());
    fs::write(folder.join("t.tsv"), table).unwrap();
    let place = folder.to_str().unwrap();
    let found = succeed(&[
        "eval",
        "--model",
        &model,
        "--data",
        "csv",
        "--folder",
        place,
        "--task",
        "retrieval",
        "--set",
        "data.csv.caption=title",
        "--set",
        "data.csv.test=['t.tsv']",
    ]);

    // The same by hand from the embeddings.
    let mut texts: Vec<String> = (0..27).map(|row| caption(row % 9, row / 9)).collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 26);
    fs::write(folder.join("texts.txt"), texts.join("\n")).unwrap();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_string();
    succeed(&["embed", "--model", &model, "--images", &file("*.png"), "--out", &file("images.safetensors")]);
    succeed(&["embed", "--model", &model, "--texts", &file("texts.txt"), "--out", &file("texts.safetensors")]);
    let (images, words) = (rows(&folder.join("images.safetensors")), rows(&folder.join("texts.safetensors")));
    let score = |image: usize, text: usize| -> f32 { images[image].iter().zip(&words[text]).map(|(a, b)| a * b).sum() };
    let belongs = |image: usize, text: usize| (0..3).any(|turn| caption(image, turn) == texts[text]);
    let recall = |k: usize, of_images: bool| {
        let (queries, items) = if of_images { (9, 26) } else { (26, 9) };
        let pair = |query, item| if of_images { (query, item) } else { (item, query) };
        let hit = |query: usize| {
            let mut ranked: Vec<usize> = (0..items).collect();
            ranked.sort_by(|a, b| {
                let of = |item: usize| score(pair(query, item).0, pair(query, item).1);
                of(*b).total_cmp(&of(*a))
            });
            ranked[..k.min(items)].iter().any(|item| belongs(pair(query, *item).0, pair(query, *item).1))
        };
        format!("{:.2} %", 100.0 * (0..queries).filter(|query| hit(*query)).count() as f64 / queries as f64)
    };
    assert!(found.contains("pictures          9\n") && found.contains("captions          26\n"), "{found}");
    for (name, of_images) in [("image_to_text", true), ("text_to_image", false)] {
        let line = found.lines().find(|line| line.starts_with(name)).unwrap();
        let expected = [1, 5, 10].map(|k| recall(k, of_images)).join(" ");
        assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "), expected, "{found}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_refused_first() {
    let root = tempfile::tempdir().unwrap();
    let (model, blocked) = (checkpoint(root.path(), |_, _| {}), root.path().join("file"));
    fs::write(&blocked, "").unwrap();
    let out = blocked.join("run");
    let outcome = perennial(&["run", TINY_RUN, "--out", out.to_str().unwrap()]);
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("error: cannot make "), "{}", outcome.stderr);
    let texts = ["embed", "--model", &model, "--texts", "README.md", "--out", root.path().to_str().unwrap()];
    let outcome = perennial(&texts);
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("it is a folder"), "{}", outcome.stderr);
}

#[test]
fn a_broken_picture_is_left_out_of_a_pack_with_all_its_captions() {
    let root = animals();
    let rows = |picture: &str, count: usize| -> String {
        (0..count).map(|row| format!("val/sea_lion/{picture}.png,a sea lion {row}\n")).collect()
    };
    let table = format!("filepath,title\n{}{}", rows("0", 2), rows("1", 3));
    fs::write(root.path().join("animals/t.csv"), table).unwrap();
    let pack = |max_broken: &str| {
        let (data, out) = (root.path().join("animals"), root.path().join("p.pack"));
        let allowed = format!("data.max_broken={max_broken}");
        let settings = ["data.csv.caption=title", "data.csv.test=['t.csv']", &allowed];
        let fixed = ["pack", "--data", "csv", "--size", "32", "--folder", data.to_str().unwrap()];
        let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
        let out = ["--out", out.to_str().unwrap()];
        perennial(&fixed.into_iter().chain(settings).chain(out).collect::<Vec<_>>())
    };
    let outcome = pack("1");
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("2 broken samples in csv (2 truncated)"), "{}", outcome.stderr);
    let outcome = pack("2");
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("left out: 2 truncated, first sample 0 "), "{}", outcome.stderr);
    assert!(outcome.stdout.ends_with("p.pack: 3 samples\n"), "{}", outcome.stdout);
}

/// A table in which rows are doubled, labels merged, and two classes share a name.
fn untidy() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        let mut table = "filepath,title,label\n".to_string();
        for number in 0..8 {
            let path = format!("{split}-{number}.png");
            picture(number).save(root.path().join(&path)).unwrap();
            let label = ["crane", " crane", "crane_", "dog"][number as usize % 4];
            table += &format!("{path},picture {number},{label}\n");
        }
        fs::write(root.path().join(format!("{split}.csv")), table + &format!("{split}-7.png,picture 7,dog\n")).unwrap();
    }
    root
}

#[test]
fn what_is_merged_or_passed_over_is_told_by_eval_doctor_and_the_manifest() {
    let root = untidy();
    let (folder, model) = (root.path().to_str().unwrap(), checkpoint(root.path(), |_, _| {}));
    let expected = [
        "csv: 4 labels are another with white space around it, as 'crane' and ' crane' (",
        "csv: 2 rows stand there twice, word for word; each counts; the first is 'train-7.png' at ",
        "csv: 1 of the classes' readable names belong to more than one class: 'crane' (crane, crane_); their prompts are the same",
        "csv: classes that differ by capitals, signs or spaces alone stay apart: 'crane' and 'crane_'",
    ];
    let tables = [
        "data.csv.test=['test.csv']",
        "data.csv.train=['train.csv']",
        "data.csv.caption=title",
        "data.csv.label=label",
    ];
    let settings: Vec<&str> = tables.iter().flat_map(|setting| ["--set", *setting]).collect();
    let eval = ["eval", "--model", &model, "--data", "csv", "--folder", folder];
    let outcome = perennial(&[&eval, settings.as_slice()].concat());
    assert_eq!(outcome.status, Some(0), "{}", outcome.stderr);
    let preset = root.path().join("untidy.toml");
    let text =
        format!("method = \"zero-shot\"\n[data]\nname = \"csv\"\ntext = \"class\"\n[model]\nname = \"{MICRO}\"\n");
    fs::write(&preset, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    let preset = preset.to_str().unwrap();
    let doctor = perennial(&[&["doctor", preset, "--data", folder], settings.as_slice()].concat());
    let out = root.path().join("run");
    succeed(&[&["run", preset, "--data", folder, "--out", out.to_str().unwrap()], settings.as_slice()].concat());
    let manifest: Value = serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let kept: Vec<&str> = manifest["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    for note in expected {
        assert_eq!(outcome.stderr.matches(&format!("note: {note}")).count(), 1, "'{note}' in: {}", outcome.stderr);
        assert_eq!(doctor.stdout.matches(&format!("note   {note}")).count(), 1, "'{note}' in: {}", doctor.stdout);
        assert_eq!(kept.iter().filter(|kept| kept.starts_with(note)).count(), 1, "'{note}' in: {kept:?}");
    }
}

#[test]
fn a_picture_that_is_missing_is_named_with_its_table_and_line() {
    let root = untidy();
    let (folder, model) = (root.path().to_str().unwrap(), checkpoint(root.path(), |_, _| {}));
    fs::remove_file(root.path().join("test-2.png")).unwrap();
    let eval = ["eval", "--model", &model, "--data", "csv", "--folder", folder, "--set", "data.csv.test=['test.csv']"];
    let outcome =
        perennial(&[eval.as_slice(), &["--set", "data.csv.label=label", "--set", "data.csv.caption=title"]].concat());
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(2), ""), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("test.csv, line 4: cannot read ") && outcome.stderr.contains("1 missing file"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn an_order_of_numpys_is_kept_in_words() {
    let root = tempfile::tempdir().unwrap();
    for split in ["train", "val"] {
        for class in 0..10 {
            let folder = root.path().join("data").join(split).join(format!("kind{class}"));
            fs::create_dir_all(&folder).unwrap();
            (0..2).for_each(|file| picture(class * 2 + file).save(folder.join(format!("{file}.png"))).unwrap());
        }
    }
    let preset = root.path().join("p.toml");
    let text = format!(
        "method = \"zero-shot\"\n[data]\nname = \"folder\"\ntext = \"class\"\n[stream]\nkind = \"class_incremental\"\ntasks = 5\n[model]\n\
         name = \"{MICRO}\"\n"
    );
    fs::write(&preset, text).unwrap();
    let (data, out) = (root.path().join("data"), root.path().join("run"));
    let fixed = ["run", preset.to_str().unwrap(), "--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let outcome = perennial(&[fixed.as_slice(), &["--set", "stream.class_order=numpy:-3"]].concat());
    assert_eq!(outcome.status, Some(2));
    assert!(outcome.stderr.contains("stream.class_order: found 'numpy:-3'"), "{}", outcome.stderr);
    succeed(&[fixed.as_slice(), &["--set", "stream.class_order=numpy:0"]].concat());
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    // numpy.random.seed(0); numpy.random.permutation(10)
    let order = [2, 8, 4, 9, 1, 6, 7, 3, 0, 5].map(|class| manifest.find(&format!("kind{class}\"")).unwrap());
    assert!(order.is_sorted(), "{manifest}");
}
