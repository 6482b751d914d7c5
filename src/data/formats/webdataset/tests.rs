use std::fs::File;
use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use proptest::prelude::*;

use super::shard::MOST_PADDING;
use super::*;
use crate::data::{fingerprint, id_of};

/// What Python's tarfile writes, in its usual format (PAX); `make_shard.py` beside it writes it.
const BY_PYTHON: &[u8] = include_bytes!("../../../../tests/fixtures/webdataset/python.tar");

fn png(value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::from_pixel(4, 3, image::Rgb([value, 0, 0]))
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

fn shard(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn settings(train: &[&str], test: &[&str]) -> WebDatasetSettings {
    let owned = |specs: &[&str]| specs.iter().map(|spec| spec.to_string()).collect();
    WebDatasetSettings { train: owned(train), test: owned(test), ..WebDatasetSettings::default() }
}

fn opened(shards: &[(&str, &[u8])], webdataset: WebDatasetSettings) -> Result<Dataset> {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    std::fs::create_dir(&folder).unwrap();
    for (name, bytes) in shards {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let dataset = super::super::open(&Source { webdataset, ..Source::new("webdataset", Some(&folder)) })?;
    // While the shards are there.
    for sample in 0..dataset.samples.len() {
        let _ = dataset.image(sample);
    }
    Ok(dataset)
}

fn of_one(members: &[(&str, &[u8])]) -> Result<Dataset> {
    opened(&[("a.tar", &shard(members))], settings(&["a.tar"], &[]))
}

#[test]
fn members_of_a_key_are_a_sample_wherever_they_stand() {
    let (first, second) = (png(10), png(20));
    let members: [(&str, &[u8]); 7] = [
        ("./x/001.txt", b"one\n"),
        ("./x/002.json", br#"{"caption": "two", "when": "2015-02-03", "place": "home"}"#),
        ("./x/002.PNG", &second),
        ("./x/001.png", &first),
        ("./x/001.json", br#"{"caption": "not this", "when": 1425168000, "place": "away"}"#),
        ("./x/001.seg.png", b"a mask"),
        ("./x/.hidden.png", b"nothing"),
    ];
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.tar"), shard(&members)).unwrap();
    let webdataset =
        WebDatasetSettings { time: "when".to_string(), domain: "place".to_string(), ..settings(&["a.tar"], &[]) };
    let dataset = open(&Source { webdataset, ..Source::new("webdataset", Some(root.path())) }).unwrap();
    assert!(dataset.broken().is_empty() && !dataset.has_classes());
    assert_eq!(dataset.domains, ["away", "home"]);
    let found: Vec<_> = dataset.samples.iter().map(|s| (s.caption.as_str(), s.domain, s.time, s.id)).collect();
    let expected = [("one", 0, 2015, id_of(&["a.tar", "x/001"])), ("two", 1, 2015, id_of(&["a.tar", "x/002"]))];
    assert_eq!(found, expected);
    for (sample, value) in [(0, 10), (1, 20)] {
        assert_eq!(dataset.image(sample).unwrap().get_pixel(3, 2).0, [value, 0, 0]);
    }
}

#[test]
fn python_writes_the_same_format() {
    let webdataset = WebDatasetSettings { time: "year".to_string(), ..settings(&[], &["python.tar"]) };
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("python.tar"), BY_PYTHON).unwrap();
    let source =
        Source { webdataset, class_names: "cifar10".to_string(), ..Source::new("webdataset", Some(root.path())) };
    let dataset = open(&source).unwrap();
    // The samples of make_shard.py: a name beyond tar's hundred bytes, a caption in Greek.
    let found: Vec<_> = dataset
        .samples
        .iter()
        .enumerate()
        .map(|(index, sample)| (sample.caption.as_str(), sample.class.0, sample.time, dataset.image(index).unwrap()))
        .map(|(caption, class, time, image)| (caption, class, time, image.dimensions(), image.get_pixel(0, 0).0))
        .collect();
    let expected =
        [("a red square", 3, 2014, (5, 4), [255, 0, 0]), ("ένα πράσινο τετράγωνο", 9, 2016, (6, 4), [0, 255, 0])];
    assert_eq!(found, expected);
    assert_eq!(dataset.classes[9], "truck");
    assert!(dataset.broken().is_empty() && dataset.notes.is_empty());
}

/// The note that begins or goes on so.
#[track_caller]
fn noted(dataset: &Dataset, part: &str) {
    assert!(dataset.notes.iter().any(|note| note.contains(part)), "'{part}' is not in {:#?}", dataset.notes);
}

#[test]
fn a_json_costs_what_was_asked_of_it_and_no_more() {
    let picture = png(1);
    let members: [(&str, &[u8]); 9] = [
        ("a.png", &picture),
        ("a.txt", b"one"),
        ("a.json", br#"{"when": 2015, "similarity": NaN, "exif": "cut \ud83d", "p": -Infinity, "q": 1e999}"#),
        ("b.png", &picture),
        ("b.txt", b"two"),
        ("b.json", b"\xef\xbb\xbf{\"when\": 2014, \"when\": 2016}"),
        ("c.png", &picture),
        ("c.txt", b"three"),
        ("c.json", b"{\"when\": "),
    ];
    let dataset = of_one(&members).unwrap();
    assert_eq!((dataset.samples.len(), dataset.broken().is_empty()), (3, true));
    noted(&dataset, "1 json hold what Python alone writes");
    noted(
        &dataset,
        "1 json cannot be read, of samples that need nothing of it (first a.tar, c.json: no JSON object: EOF",
    );
    let timed = WebDatasetSettings { time: "when".to_string(), ..settings(&["a.tar"], &[]) };
    let dataset = opened(&[("a.tar", &shard(&members))], timed).unwrap();
    assert_eq!(dataset.samples.iter().map(|sample| sample.time).collect::<Vec<_>>(), [2015, 2016]);
    let message = dataset.broken().check("webdataset", 0).unwrap_err().to_string();
    assert!(message.contains("1 undecodable") && message.contains("a.tar, c.json: no JSON object"), "{message}");
    // What is asked for and is no number is missing.
    let odd = WebDatasetSettings { time: "similarity".to_string(), ..settings(&["a.tar"], &[]) };
    let dataset = opened(&[("a.tar", &shard(&members[..6]))], odd).map(|dataset| dataset.samples.len());
    let message = dataset.unwrap_err().to_string();
    assert!(message.contains("2 missing time, first a.tar, a: no time under 'similarity' in its json"), "{message}");
}

#[test]
fn lines_of_a_text_are_captions_of_one_picture() {
    let pictures = [png(1), png(2)];
    let texts = ["a cat\nthe cat\n cat asleep \n", "a dog\r\nthe dog"];
    let members: Vec<(String, &[u8])> = (0..2)
        .flat_map(|n| [(format!("{n}.png"), pictures[n].as_slice()), (format!("{n}.txt"), texts[n].as_bytes())])
        .collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let bytes = shard(&members);
    let dataset = opened(&[("a.tar", &bytes)], settings(&[], &["a.tar"])).unwrap();
    let found: Vec<_> = dataset.samples.iter().map(|sample| sample.caption.as_str()).collect();
    assert_eq!(found, ["a cat", "the cat", "cat asleep", "a dog", "the dog"]);
    let firsts: Vec<u32> = (0..5).map(|sample| dataset.first_of_picture(sample)).collect();
    assert_eq!(firsts, [0, 0, 0, 3, 3]);
    noted(&dataset, "test: 2 of 2 texts have several lines, and each line is a caption of its own, 5 of them");
    let whole = WebDatasetSettings { captions: Captions::Whole, ..settings(&[], &["a.tar"]) };
    let dataset = opened(&[("a.tar", &bytes)], whole).unwrap();
    assert_eq!(dataset.samples[1].caption, "a dog\r\nthe dog");
    noted(&dataset, "each is one caption");
}

#[test]
fn members_have_many_endings_and_one_choice() {
    let (jpg, other) = (png(1), png(2));
    let members: [(&str, &[u8]); 12] = [
        ("a.gif", &other),
        ("a.JPG", &jpg),
        ("a.png", &other),
        ("a.text", b"second"),
        ("a.txt", b"first"),
        ("b.bmp", &other),
        ("b.caption", b"a caption"),
        ("b.seg.png", b"a mask"),
        ("b.npy", b"an array"),
        (".b.png", b"hidden"),
        ("README", b"no ending"),
        ("a.seg.png", b"a mask"),
    ];
    let dataset = of_one(&members).unwrap();
    assert!(dataset.broken().is_empty(), "{}", dataset.broken().summary());
    let captions: Vec<_> = dataset.samples.iter().map(|sample| sample.caption.as_str()).collect();
    assert_eq!(captions, ["first", "a caption"]);
    let opened_again = opened_with_pictures(&members);
    assert_eq!(opened_again, [1, 2]);
    noted(
        &dataset,
        "1 samples have several pictures, of which one is read: the first of jpg, png, jpeg, webp, others (first a.tar, a)",
    );
    noted(
        &dataset,
        "1 samples have several texts, of which one is read: the first of txt, text, caption (first a.tar, a)",
    );
    noted(
        &dataset,
        "passed over: 2 .*.png (first a.tar, b.seg.png), 1 .npy (first a.tar, b.npy), 1 hidden (first a.tar, .b.png), 1 no ending \
         (first a.tar, README)",
    );
}

/// The red of each sample's picture.
fn opened_with_pictures(members: &[(&str, &[u8])]) -> Vec<u8> {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.tar"), shard(members)).unwrap();
    let webdataset = settings(&["a.tar"], &[]);
    let dataset = open(&Source { webdataset, ..Source::new("webdataset", Some(root.path())) }).unwrap();
    (0..dataset.samples.len()).map(|sample| dataset.image(sample).unwrap().get_pixel(0, 0).0[0]).collect()
}

#[test]
fn links_are_read_as_what_they_point_to() {
    let root = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, link: Option<(tar::EntryType, &str)>, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        match link {
            Some((kind, target)) => {
                header.set_entry_type(kind);
                archive.append_link(&mut header, name, target).unwrap();
            }
            None => archive.append_data(&mut header, name, bytes).unwrap(),
        }
    };
    use tar::EntryType::{Link, Symlink};
    add("./x/1.png", None, &png(7));
    add("./x/1.txt", None, b"one");
    add("./x/2.png", Some((Link, "x/1.png")), b"");
    add("./x/2.txt", Some((Symlink, "../x/1.txt")), b"");
    add("./x/3.png", Some((Symlink, "gone.png")), b"");
    let bytes = archive.into_inner().unwrap();
    std::fs::write(root.path().join("a.tar"), bytes).unwrap();
    let source = Source { webdataset: settings(&["a.tar"], &[]), ..Source::new("webdataset", Some(root.path())) };
    let dataset = open(&source).unwrap();
    let found: Vec<_> = dataset.samples.iter().map(|sample| sample.caption.as_str()).collect();
    assert_eq!(found, ["one", "one"]);
    assert_eq!(dataset.image(1).unwrap().get_pixel(0, 0).0, [7, 0, 0]);
    noted(&dataset, "2 members are links and read as what they point to (first a.tar, x/2.png)");
    let message = dataset.broken().check("webdataset", 0).unwrap_err().to_string();
    assert!(message.contains("a.tar, x/3.png: it points to 'x/gone.png', which is no file of the shard"), "{message}");
}

#[test]
fn labels_are_numbers_or_names() {
    let picture = png(1);
    let classes = |labels: [&str; 3]| {
        let members: Vec<(String, &[u8])> = labels
            .iter()
            .enumerate()
            .flat_map(|(n, label)| [(format!("{n}.png"), picture.as_slice()), (format!("{n}.cls"), label.as_bytes())])
            .collect();
        let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        of_one(&members).unwrap()
    };
    let numbers = |dataset: &Dataset| dataset.samples.iter().map(|sample| sample.class.0).collect::<Vec<_>>();
    let named = classes(["sea_lion\n", "cat", "sea_lion"]);
    assert_eq!(
        (named.classes.as_slice(), numbers(&named)),
        (["cat", "sea lion"].map(String::from).as_slice(), vec![1, 0, 1])
    );
    let alike = classes(["1\n", "01", "0"]);
    assert_eq!(numbers(&alike), [1, 1, 0]);
    noted(&alike, "1 classes have labels that are written in several ways: '01' and '1' are both 1");
    let mixed = classes(["cat", "dog", "3"]);
    assert_eq!(mixed.classes, ["3", "cat", "dog"]);
    noted(&mixed, "1 of 3 labels are numbers (first '3'), and are names as the others are");
}

#[test]
fn what_is_no_shard_is_told_with_what_to_do() {
    let message = |bytes: &[u8]| opened(&[("a.tar", bytes)], settings(&["a.tar"], &[])).unwrap_err().to_string();
    for (bytes, parts) in [
        (b"BZh91AY&SY".as_slice(), ["compressed with bzip2", "bunzip2 -k '"]),
        (b"\xfd7zXZ\0", ["compressed with xz", "unxz -k '"]),
        (b"\x28\xb5\x2f\xfd", ["compressed with zstd", "unzstd '"]),
        (b"\x04\x22\x4d\x18", ["compressed with lz4", "unlz4 '"]),
        (b"\x1f\x8b\x08", ["compressed with gzip", "gunzip -k '"]),
        (b"PK\x03\x04", ["a zip archive", "unzip '"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["a pointer of Git LFS", "git lfs pull"]),
        (b"\n<!DOCTYPE html><html>", ["a web page", "download it again"]),
        (b"PAR1\x15", ["a Parquet table", "*.tar"]),
    ] {
        let found = message(bytes);
        assert!(parts.iter().all(|part| found.contains(part)) && found.contains("a.tar"), "{found}");
    }
}

#[test]
fn where_nothing_can_be_used_the_first_names_say_why() {
    let picture = png(1);
    let message = |members: &[(&str, &[u8])]| of_one(members).unwrap_err().to_string();
    let dots = message(&[("photo.0.png", &picture), ("photo.0.txt", b"one"), ("photo.1.png", &picture)]);
    assert!(dots.contains("2 .*.png (first a.tar, photo.0.png)") && dots.contains("rename it photo_0.jpg"), "{dots}");
    let none = message(&[("a.txt", b"one"), ("b.txt", b"two"), ("a.avif", b"x")]);
    assert!(
        none.contains("2 missing image, first a.tar, a: has none") && none.contains("1 .avif (first a.tar, a.avif)"),
        "{none}"
    );
    let broken =
        message(&[("a.png", &picture), ("a.cls", b"1"), ("b.png", &picture), ("b.cls", b"2"), ("c.cls", b"\xe9")]);
    assert!(broken.contains("the class 0 has no sample"), "{broken}");
}

#[test]
fn commands_print_shards() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..2 {
        let name = format!("{number}.png");
        std::fs::write(folder.join(format!("{number}.tar")), shard(&[(&name, &png(number))])).unwrap();
    }
    let cache = root.path().join("cache").display().to_string();
    let command = |end: &str| format!("pipe:cat '{}/'{{0..1}}.tar{end}", folder.display());
    let source = |spec: String| {
        let webdataset = WebDatasetSettings { cache: cache.clone(), ..settings(&[&spec], &[]) };
        Source { webdataset, ..Source::new("webdataset", Some(&folder)) }
    };
    let dataset = super::super::open(&source(command(""))).unwrap();
    assert_eq!(dataset.samples.len(), 2);
    assert_eq!(dataset.image(1).unwrap().get_pixel(0, 0).0, [1, 0, 0]);
    noted(&dataset, "2 shards are copies of what commands print, ");
    let message = super::super::open(&source(command("; exit 5"))).unwrap_err().to_string();
    assert!(
        message.starts_with("data.webdataset.train: the command 'cat ") && message.contains("(exit status: 5)"),
        "{message}"
    );
    let message = super::super::open(&source("s3://bucket/{0..1}.tar".to_string())).unwrap_err().to_string();
    assert!(message.contains("\"pipe:aws s3 cp 's3://bucket/{0..1}.tar' -\""), "{message}");
}

/// A sorted list of UIDs as numpy writes it.
fn npy(uids: &[u128]) -> Vec<u8> {
    let header =
        format!("{{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': ({},), }}", uids.len());
    let halves = uids.iter().flat_map(|uid| [(uid >> 64) as u64, *uid as u64]);
    let bytes: Vec<u8> = halves.flat_map(u64::to_le_bytes).collect();
    [b"\x93NUMPY\x01\x00v\x00".as_slice(), format!("{header:117}\n").as_bytes(), &bytes].concat()
}

#[test]
fn times_come_from_lists_of_uids() {
    let uid = |number: u128| number << 64 | (100 - number);
    let picture = png(1);
    let members: Vec<(String, Vec<u8>)> = (1..5u128)
        .flat_map(|n| {
            let json = format!("{{\"uid\": \"{:032x}\"}}", uid(n));
            [(format!("{n:09}.png"), picture.clone()), (format!("{n:09}.json"), json.into_bytes())]
        })
        .chain([(format!("{:032x}-0.png", uid(1)), picture.clone()), ("x.png".to_string(), picture.clone())])
        .collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let files = [
        ("shards/00000000.tar", shard(&members)),
        ("lists/2016.npy", npy(&[uid(1), uid(3)])),
        ("lists/2014.npy", npy(&[uid(2), uid(3)])),
        ("lists/sizes.npy", b"nothing".to_vec()),
        ("eval/2020/0.tar", shard(&[("y.png", &picture)])),
    ];
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let webdataset = WebDatasetSettings {
        time_uids: "lists/{year}.npy".to_string(),
        time_pattern: "eval/{year}/*.tar".to_string(),
        ..settings(&["shards/*.tar"], &["eval/*/*.tar"])
    };
    let dataset = opened(&files, webdataset).unwrap();
    let times: Vec<i32> = dataset.samples.iter().map(|sample| sample.time).collect();
    assert_eq!(times, [2016, 2014, 2014, 2016, 2020]);
    noted(
        &dataset,
        "1 samples are in several lists of UIDs, and the earliest year counts (first shards/00000000.tar, 000000003, ",
    );
    assert_eq!(dataset.broken().summary(), "1 in no list, 1 missing time");
    let message = dataset.broken().check("webdataset", 0).unwrap_err().to_string();
    assert!(message.contains("none of 2 lists has its uid 00000000000000040000000000000060"), "{message}");
    assert!(message.contains("shards/00000000.tar, x: no uid of 32 hexadecimal digits in its json"), "{message}");
}

#[test]
fn years_lie_in_paths() {
    let picture = png(1);
    let one = shard(&[("1.png", &picture), ("1.json", br#"{"caption": "one"}"#)]);
    let names = ["train_batch_0__00000000.tar", "train_batch_3__00000000.tar", "old/test_batch_0__00000000.tar"];
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, one.as_slice())).collect();
    let webdataset = WebDatasetSettings {
        time_pattern: "*_batch_0__*.tar=2008::*_batch_3__*.tar=2014".to_string(),
        ..settings(&["**/train_batch_*.tar"], &["**/test_batch_*.tar"])
    };
    let dataset = opened(&files, webdataset).unwrap();
    let found: Vec<_> = dataset.samples.iter().map(|sample| (sample.time, sample.split)).collect();
    assert_eq!(found, [(2008, Split::Train), (2014, Split::Train), (2008, Split::Test)]);
}

#[test]
fn sets_of_tests_have_names() {
    let picture = png(1);
    let captioned = shard(&[("1.png", &picture), ("1.txt", b"one")]);
    let labelled = shard(&[("2.png", &picture), ("2.txt", b"two"), ("2.cls", b"7\n")]);
    let files: [(&str, &[u8]); 3] = [
        ("train/2016/0.tar", &captioned),
        ("eval/retrieval/2016/0.tar", &captioned),
        ("eval/datacompnet/2014/0.tar", &labelled),
    ];
    let root = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let with = |tests: [&str; 2]| {
        let webdataset = WebDatasetSettings {
            tests: tests.map(String::from).to_vec(),
            time_from: "path".to_string(),
            ..settings(&["train/*/*.tar"], &[])
        };
        let named = Source::new("webdataset", Some(root.path()));
        super::super::open(&Source { webdataset, class_names: "cifar10".to_string(), ..named })
    };
    let dataset = with(["datacompnet=eval/datacompnet/*/*.tar", "retrieval=eval/retrieval/*/*.tar"]).unwrap();
    assert!(dataset.broken().is_empty(), "{}", dataset.broken().summary());
    let found: Vec<_> = dataset
        .samples
        .iter()
        .zip(0..)
        .map(|(sample, n)| {
            (dataset.domains[sample.domain as usize].as_str(), sample.time, sample.class.0, dataset.is_labelled(n))
        })
        .collect();
    assert_eq!(found, [("webdataset", 2016, 0, false), ("datacompnet", 2014, 7, true), ("retrieval", 2016, 0, false)]);
    for (tests, part) in [
        (["a=eval/retrieval/*/*.tar", "a=eval/datacompnet/*/*.tar"], "names the set 'a' twice"),
        (["a=eval/retrieval/*/*.tar", "eval/datacompnet"], "found 'eval/datacompnet', expected a name and its shards"),
    ] {
        let message = with(tests).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_counted_by_its_reason() {
    let picture = png(1);
    let members: [(&str, &[u8]); 15] = [
        ("a.png", &picture),
        ("a.txt", b"fine"),
        ("a.cls", b"0"),
        ("b.png", &picture),
        ("b.cls", b"0"),
        ("c.txt", b"no picture"),
        ("d.png", &picture),
        ("d.txt", b"no class"),
        ("e.png", &picture),
        ("e.txt", b"caf\xe9"),
        ("f.png", &picture),
        ("f.cls", b"dog"),
        ("a.png", &picture),
        ("g.png", &picture),
        ("g.json", b"[1, 2"),
    ];
    let dataset = of_one(&members).unwrap();
    assert_eq!(dataset.samples.len(), 1);
    assert_eq!(
        dataset.broken().summary(),
        "1 duplicate, 1 missing caption, 1 missing class, 1 missing image, 3 undecodable"
    );
    let message = dataset.broken().check("webdataset", 0).unwrap_err().to_string();
    for place in
        ["a.tar, a.png: the key has", "a.tar, b: has none", "a.tar, c: has none", "a.tar, e.txt: line 1 is no UTF-8"]
    {
        assert!(message.contains(place), "{place}: {message}");
    }
}

#[test]
fn a_shard_that_is_cut_off_gives_what_it_has() {
    let picture = png(1);
    let members: [(&str, &[u8]); 4] = [("a.png", &picture), ("a.txt", b"one"), ("b.txt", b"two"), ("b.png", &picture)];
    let whole = shard(&members);
    // Each member is a block of header and a block of content; two blocks end the shard.
    assert_eq!(whole.len(), 10 * 512);
    for (bytes, samples, damage) in [
        (whole.len(), 2, ""),
        (8 * 512, 2, "a.tar: the shard ends at byte 4096 without"),
        (7 * 512 + 10, 1, "a.tar, b.png: the shard ends within it"),
        (6 * 512 + 10, 1, "a.tar: no member's header at byte 3072"),
        (2 * 512 + 1, 1, "a.tar: no member's header at byte 1024"),
    ] {
        let dataset = opened(&[("a.tar", &whole[..bytes])], settings(&["a.tar"], &[])).unwrap();
        assert_eq!(dataset.samples.len(), samples, "{bytes} bytes");
        let broken = dataset.broken();
        let found: Vec<_> =
            broken.iter().filter(|(reason, _)| *reason == "truncated").flat_map(|(_, kind)| &kind.first).collect();
        assert_eq!(found.len(), usize::from(!damage.is_empty()), "{bytes} bytes: {found:?}");
        assert!(found.iter().all(|what| what.starts_with(damage)), "{found:?}");
    }
    let mut torn = whole;
    torn[4 * 512..5 * 512].fill(b'x');
    let dataset = opened(&[("a.tar", &torn)], settings(&["a.tar"], &[])).unwrap();
    assert_eq!((dataset.samples.len(), dataset.broken().summary().as_str()), (1, "1 unreadable"));
}

/// What a shard's bytes are counted as, and how many samples they give.
fn counted(bytes: &[u8]) -> (usize, String) {
    let dataset = opened(&[("a.tar", bytes)], settings(&["a.tar"], &[])).unwrap();
    (dataset.samples.len(), dataset.broken().summary())
}

#[test]
fn a_cut_within_any_member_is_counted_once() {
    let picture = png(1);
    let directory = {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_path("folder").unwrap();
        header.set_size(600);
        header.set_cksum();
        [header.as_bytes().as_slice(), &[0; 1024]].concat()
    };
    let no_text = {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..5].copy_from_slice(b"\xff.png");
        header.set_size(600);
        header.set_cksum();
        [header.as_bytes().as_slice(), &[7; 1024]].concat()
    };
    let first = shard(&[("a.png", &picture), ("a.txt", b"one")]);
    let first = &first[..first.len() - 1024];
    let member = |name: &str| shard(&[(name, &[7; 600])]);
    for (last, expected) in [
        (member("b.npy"), (1, "1 truncated")),
        (member("a.seg.png"), (1, "1 truncated")),
        (member("no-ending"), (1, "1 truncated")),
        (member("b.png"), (1, "1 truncated")),
        (directory, (1, "1 truncated")),
        (no_text, (1, "1 truncated")),
        // A second picture of a key: the first one is whole, and so is its sample.
        (member("a.png"), (1, "1 truncated")),
    ] {
        let cut = [first, &last[..512 + 300]].concat();
        assert_eq!(counted(&cut), (expected.0, expected.1.to_string()), "{:?}", &last[..9]);
    }
    // Its caption is cut: the sample is not whole.
    let cut = [&shard(&[("a.png", &picture)])[..1024], &member("a.txt")[..812]].concat();
    let both = opened(&[("a.tar", &cut), ("b.tar", first)], settings(&["a.tar", "b.tar"], &[])).unwrap();
    assert_eq!((both.samples.len(), both.broken().summary().as_str()), (1, "2 truncated"));
}

#[test]
fn what_follows_the_end_of_a_shard_is_not_lost_in_silence() {
    let picture = png(1);
    let whole = shard(&[("a.png", &picture)]);
    let content = &whole[..1024];
    for zeros in [512, 1024, 10 * 1024, MOST_PADDING as usize + 512] {
        assert_eq!(counted(&[content, &vec![0; zeros]].concat()), (1, String::new()), "{zeros} zeros");
    }
    let unreadable = (1, "1 unreadable".to_string());
    // A hole of one block, and two shards in one file.
    assert_eq!(counted(&[content, &[0; 512], content, &[0; 1024]].concat()), unreadable);
    assert_eq!(counted(&[content, &[0; 9216], &whole].concat()), unreadable);
    assert_eq!(counted(&[content, &[0; 1000], b"x"].concat()), unreadable);
    // A download whose room was taken before.
    let zeros = vec![0; MOST_PADDING as usize + 1024];
    assert_eq!(counted(&[content, &zeros].concat()), (1, "1 truncated".to_string()));
    for nothing in [&[0; 10240][..], &[0; 1024], &[]] {
        let shards: [(&str, &[u8]); 2] = [("a.tar", nothing), ("b.tar", &whole)];
        let dataset = opened(&shards, settings(&["a.tar", "b.tar"], &[])).unwrap();
        assert_eq!(dataset.broken().summary(), "1 empty file", "{} bytes", nothing.len());
    }
}

#[test]
fn a_kept_index_that_cannot_be_true_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.tar"), shard(&[("1.png", &png(1)), ("2.png", &png(2))])).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    File::open(folder.join("a.tar")).unwrap().set_modified(long_ago).unwrap();
    let source = Source { webdataset: settings(&["a.tar"], &[]), ..Source::new("webdataset", Some(&folder)) };
    let place = root.path().join("data.webdataset.perennial-index");
    open(&source).unwrap();
    let kept = std::fs::read_to_string(&place).unwrap();
    let json: serde_json::Value = serde_json::from_str(kept.split_once('\n').unwrap().1).unwrap();
    let mut wrong = Vec::new();
    let mut change = |change: fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        change(&mut json);
        wrong.push(json);
    };
    change(|json| json["content"][0]["entries"][0]["image"][1] = (1u64 << 60).into());
    change(|json| json["content"][0]["entries"][0]["image"][0] = u64::MAX.into());
    change(|json| {
        let shard = json["content"][0].clone();
        json["content"].as_array_mut().unwrap().push(shard);
    });
    change(|json| json["content"].as_array_mut().unwrap().clear());
    change(|json| json["stamps"].as_array_mut().unwrap().clear());
    let write = |json: &str| {
        std::fs::write(&place, format!("{}\n{json}", fingerprint([("", json.as_bytes())]))).unwrap();
    };
    for json in wrong {
        let json = json.to_string();
        write(&json);
        let dataset = open(&source).unwrap();
        assert_eq!(dataset.samples.len(), 2, "{json}");
        assert_eq!(dataset.image(0).unwrap().get_pixel(0, 0).0, [1, 0, 0]);
        assert_eq!(std::fs::read_to_string(&place).unwrap(), kept, "{json}");
    }
    let mut with_domain = json;
    with_domain["content"][0]["entries"][1]["domain"] = "home".into();
    write(&with_domain.to_string());
    assert_eq!(open(&source).unwrap().domains, ["webdataset"]);
}

#[test]
fn errors_name_the_shard() {
    let message =
        |shards: &[(&str, &[u8])], specs: &[&str]| opened(shards, settings(specs, &[])).unwrap_err().to_string();
    assert!(message(&[], &[]).contains("name no shard"));
    assert!(message(&[], &["a-{0..1}.tar"]).contains("a-0.tar"));
    assert!(message(&[], &["*.tar"]).contains("'*.tar' matches no file"));
    assert!(message(&[], &["a-{0..1.tar"]).contains("a brace is not closed"));
    assert!(message(&[("a.tar", b"\x1f\x8b\x08")], &["a.tar"]).contains("the shard is compressed with gzip"));
    assert!(message(&[("a.tar", &shard(&[]))], &["a.tar"]).contains("nothing in the shards can be used"));
    assert!(message(&[("a.tar", &shard(&[]))], &["a.tar", "*.tar"]).contains("twice"));
    let members: [(&str, &[u8]); 2] = [("k/a.png", &png(0)), ("k/a.cls", b"4000000000")];
    assert!(of_one(&members).unwrap_err().to_string().starts_with("a.tar, k/a.cls: the label 4000000000 is out of"));
}

#[test]
fn several_sources_keep_their_order() {
    let picture = png(1);
    let of = |key: &str| shard(&[(key, &picture)]);
    let shards = [("b-0.tar", of("1.png")), ("b-1.tar", of("1.png")), ("a.tar", of("1.png")), ("t.tar", of("1.png"))];
    let shards: Vec<(&str, &[u8])> = shards.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let dataset = opened(&shards, settings(&["b-{1..0}.tar::a.*"], &["t.tar"])).unwrap();
    let found: Vec<(u64, Split)> = dataset.samples.iter().map(|sample| (sample.id, sample.split)).collect();
    let (train, test) = (Split::Train, Split::Test);
    let expected = [("b-1.tar", train), ("b-0.tar", train), ("a.tar", train), ("t.tar", test)]
        .map(|(shard, split)| (id_of(&[shard, "1"]), split));
    assert_eq!(found, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn damaged_shards_are_harmless(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut bytes = BY_PYTHON.to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = opened(&[("a.tar", &bytes)], WebDatasetSettings { time: "year".to_string(), ..settings(&["a.tar"], &[]) });
    }
}
