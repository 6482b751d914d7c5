//! Data sets in every format, and what is kept beside them.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, SystemTime};

use image::{ImageFormat, Rgb, RgbImage};
use perennial::data::formats::csv::CsvSettings;
use perennial::data::formats::emoji;
use perennial::data::formats::packed::{Edges, Packing};
use perennial::data::formats::webdataset::WebDatasetSettings;
use perennial::data::{self, Source};
use perennial::rng::{Rng, below};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::mutate::{mend_png, mutate, mutate_json};
use crate::{FILES, PICTURE, PICTURES, fuzz, fuzz_files, fuzz_folder, look_at, scratch};

#[test]
fn cifar() {
    let record = |labels: &[u8]| [labels, &[7; 3072]].concat();
    let names = |names: &str| names.as_bytes().to_vec();
    let mut ten = vec![("batches.meta.txt", names("airplane\nautomobile\n")), ("test_batch.bin", record(&[1]))];
    let batches = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
    ten.extend(batches.map(|name| (name, [record(&[0]), record(&[1])].concat())));
    fuzz_files("cifar10", &ten, mutate, |folder| Source::new("cifar10", Some(folder)));
    let hundred = [
        ("fine_label_names.txt", names("apple\naquarium_fish\n")),
        ("train.bin", [record(&[0, 1]), record(&[0, 0])].concat()),
        ("test.bin", record(&[0, 1])),
    ];
    fuzz_files("cifar100", &hundred, mutate, |folder| Source::new("cifar100", Some(folder)));
}

/// CIFAR as Python has it.
#[test]
fn pickles_of_pictures() {
    let files = [
        ("meta", include_bytes!("../fixtures/cifar/cifar-100-python/meta").to_vec()),
        ("train", include_bytes!("../fixtures/cifar/cifar-100-python/train").to_vec()),
        ("test", include_bytes!("../fixtures/cifar/cifar-100-python/test").to_vec()),
    ];
    fuzz_files("CIFAR for Python", &files, mutate, |folder| Source::new("cifar100", Some(folder)));
}

/// Where it is a PNG file, mostly one whose checksums are right.
fn mutate_with_png(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    mutate(bytes, others, rng);
    if bytes.starts_with(b"\x89PNG") && below(rng, 4) > 0 {
        mend_png(bytes);
    }
}

pub const EMOJI_INDEX: &str = "id\tdomain\ttile\tname\tclass\tyear\tsplit\n7\tsun\t0\tgrinning\tface-smiling\t2010\ttrain\n9\tmoon\t0\tpalette\t\
                 arts & crafts\t2015\ttest\n";

#[test]
fn emoji_folder() {
    let mut atlas = Vec::new();
    let picture = RgbImage::from_fn(emoji::COLUMNS * emoji::TILE, emoji::TILE, |x, y| Rgb([x as u8, y as u8, 7]));
    picture.write_to(&mut Cursor::new(&mut atlas), ImageFormat::Png).unwrap();
    let files = [("index.tsv", EMOJI_INDEX.as_bytes().to_vec()), ("sun.png", atlas.clone()), ("moon.png", atlas)];
    fuzz_files("emoji", &files, mutate_with_png, |folder| Source::new("emoji", Some(folder)));
}

#[test]
fn domainnet() {
    let text = |text: &str| text.as_bytes().to_vec();
    let files = [
        ("clipart_train.txt", text("clipart/aircraft_carrier/1.jpg 0\nclipart/dog/2.jpg 7\n")),
        ("clipart_test.txt", text("clipart/dog/3.jpg 7\n")),
        ("real_train.txt", text("real/dog/1.jpg 7\nreal/aircraft_carrier/2.jpg 0\nreal/dog/3.jpg 7\n")),
        ("real_test.txt", text("real/aircraft_carrier/9.jpg 0\n")),
    ];
    fuzz_files("domainnet", &files, mutate, |folder| Source::new("domainnet", Some(folder)));
}

#[test]
fn csv() {
    let table = "filepath,title,label,place,when\na.jpg,\"a cat, \"\"asleep\"\"\",3,home,2014\nb.jpg,a dog,1,street,\
                 2015-02-03\na.jpg,the same cat,3,home,1425168000\n";
    let files = [
        ("t.csv", table.as_bytes().to_vec()),
        ("t.tsv", table.replace(',', "\t").replace("a.jpg", "c.jpg").into_bytes()),
        ("a.jpg", PICTURES[0].1.to_vec()),
        ("names.txt", b"one\ntwo\nthree\nfour\n".to_vec()),
    ];
    let column = |name: &str| name.to_string();
    fuzz_files("csv", &files, mutate, |folder| Source {
        class_names: folder.join("names.txt").display().to_string(),
        csv: CsvSettings {
            train: vec![column("t.csv")],
            test: vec![column("*.tsv")],
            caption: column("title"),
            label: column("label"),
            domain: column("place"),
            time: column("when"),
            ..CsvSettings::default()
        },
        ..Source::new("csv", Some(folder))
    });
}

/// Folders and files of any names, with links here and there.
#[test]
fn folder() {
    const NAMES: [&str; 14] =
        ["train", "val", "test", "a", "b", "..c", ".d", "Training", "é", "x.png", "y.JPG", "z.webp", "-", "7"];
    fuzz("folder", PICTURE, |rng| {
        let parent: TempDir = scratch();
        let root = parent.path().join("data");
        fs::create_dir(&root).unwrap();
        for _ in 0..below(rng, 12) {
            let mut path = root.clone();
            for _ in 0..1 + below(rng, 4) {
                path.push(NAMES[below(rng, NAMES.len() as u64) as usize]);
            }
            let _ = fs::create_dir_all(path.parent().unwrap());
            match below(rng, 8) {
                0 => drop(fs::create_dir(&path)),
                #[cfg(unix)]
                1 => drop(std::os::unix::fs::symlink(["..", ".", "../..", "nowhere"][below(rng, 4) as usize], &path)),
                _ => drop(fs::write(&path, PICTURES[0].1)),
            }
        }
        let opened = data::open(&Source::new("folder", Some(&root)));
        if let Ok(dataset) = &opened {
            look_at(dataset, rng);
        }
        opened.is_ok()
    });
}

/// A member's header has a checksum: without a right one no mutation would get past it.
fn mutate_tar(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    mutate(bytes, others, rng);
    if below(rng, 4) == 0 {
        return;
    }
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + 512) {
        at += 512;
        if header.iter().all(|byte| *byte == 0) {
            continue;
        }
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok().and_then(|size| usize::from_str_radix(size, 8).ok());
        at += size.unwrap_or(0).next_multiple_of(512);
    }
}

#[test]
fn webdataset() {
    let shard = |first: usize, count: usize| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        };
        for (number, (name, picture)) in PICTURES.iter().enumerate().skip(first).take(count) {
            // Every other name is longer than a header's field.
            let key = format!("{}{number}", "long/".repeat(30 * (number % 2)));
            let json = format!("{{\"when\": {}, \"where\": \"home {number}\"}}", 1_425_168_000 + number);
            add(format!("{key}.{}", name.rsplit('.').next().unwrap()), picture);
            add(format!("{key}.txt"), b"a caption");
            add(format!("{key}.cls"), number.to_string().as_bytes());
            add(format!("{key}.json"), json.as_bytes());
        }
        archive.into_inner().unwrap()
    };
    let files = [("a-0.tar", shard(0, 2)), ("a-1.tar", shard(2, 2)), ("b.tar", shard(4, 1))];
    let setting = |text: &str| text.to_string();
    fuzz_files("webdataset", &files, mutate_tar, |folder| Source {
        webdataset: WebDatasetSettings {
            train: vec![setting("a-{0..1}.tar")],
            test: vec![setting("b.tar")],
            time: setting("when"),
            domain: setting("where"),
            ..WebDatasetSettings::default()
        },
        ..Source::new("webdataset", Some(folder))
    });
    let by_python = [("python.tar", include_bytes!("../fixtures/webdataset/python.tar").to_vec())];
    fuzz_files("webdataset of Python's", &by_python, mutate_tar, |folder| Source {
        class_names: setting("cifar10"),
        webdataset: WebDatasetSettings {
            train: vec![setting("python.tar")],
            time: setting("year"),
            ..WebDatasetSettings::default()
        },
        ..Source::new("webdataset", Some(folder))
    });
}

/// What stands beside a picture in a shard: the json, with what Python alone writes, and lists of UIDs.
#[test]
fn texts_and_lists_of_shards() {
    let shard = |json: &[u8]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in [("1.png", PICTURES[4].1), ("1.txt", b"one\ntwo"), ("1.cls", b"07\n"), ("1.json", json)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let json = format!(
        "{{\"uid\": \"{:032x}\", \"when\": 2015, \"p\": NaN, \"q\": [-Infinity, 1e999], \"exif\": \"\\ud83d \\ud83d\\ude00\"}}",
        7 << 64 | 9u128
    );
    let source = |folder: &Path, by_uid: bool| Source {
        class_names: "cifar10".to_string(),
        webdataset: WebDatasetSettings {
            train: vec!["*.tar".to_string()],
            time: if by_uid { String::new() } else { "when".to_string() },
            time_uids: if by_uid { "{year}.npy".to_string() } else { String::new() },
            ..WebDatasetSettings::default()
        },
        ..Source::new("webdataset", Some(folder))
    };
    let folder = scratch();
    fuzz("json of shards", FILES, |rng| {
        let mut json = json.clone().into_bytes();
        mutate(&mut json, &[], rng);
        fs::write(folder.path().join("a.tar"), shard(&json)).unwrap();
        data::open(&source(folder.path(), false)).is_ok()
    });

    let halves: Vec<u8> = [0u64, 1, 7, 9, 7, 10].into_iter().flat_map(u64::to_le_bytes).collect();
    let header = "{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (3,), }";
    let list = [b"\x93NUMPY\x01\x00v\x00".as_slice(), format!("{header:117}\n").as_bytes(), &halves].concat();
    fs::write(folder.path().join("a.tar"), shard(json.as_bytes())).unwrap();
    let files = [("2015.npy", list.clone()), ("2016.npy", list), ("a.tar", shard(json.as_bytes()))];
    fuzz_files("lists of UIDs", &files, mutate, |folder| source(folder, true));
}

/// Three times of four the index alone is changed, and its length and its hash are made right.
fn mutate_packed(bytes: &mut Vec<u8>, others: &[&[u8]], rng: &mut Rng) {
    if below(rng, 4) == 0 {
        return mutate(bytes, others, rng);
    }
    let tail = bytes.len() - 56;
    let foot = bytes[tail + 40..].to_vec();
    let begin = tail - u64::from_le_bytes(bytes[tail..tail + 8].try_into().unwrap()) as usize;
    let mut index = bytes[begin..tail].to_vec();
    mutate_json(&mut index, &[], rng);
    bytes.truncate(begin);
    let len = (index.len() as u64).to_le_bytes();
    [&index, &len[..], &Sha256::digest(&index), &foot].iter().for_each(|part| bytes.extend_from_slice(part));
}

#[test]
fn packed() {
    let folder = scratch();
    for (name, bytes) in &PICTURES[..6] {
        let class = folder.path().join("data").join(if name.starts_with('b') { "train/a" } else { "train/b" });
        fs::create_dir_all(&class).unwrap();
        fs::write(class.join(name), bytes).unwrap();
    }
    fs::create_dir_all(folder.path().join("data/val/a")).unwrap();
    fs::write(folder.path().join("data/val/a/x.png"), PICTURES[6].1).unwrap();
    let dataset = data::open(&Source::new("folder", Some(&folder.path().join("data")))).unwrap();
    let path = folder.path().join("p.pack");
    Packing::of(&dataset, Edges { train: 16, test: 12 }).unwrap().write(&path, 0, &mut |_| {}).unwrap();
    let files = [("p.pack", fs::read(path).unwrap())];
    fuzz_folder("packed", FILES, &files, mutate_packed, |folder, rng| {
        let opened = data::open(&Source::new("packed", Some(&folder.join("p.pack"))));
        if let Ok(dataset) = &opened {
            look_at(dataset, rng);
        }
        opened.is_ok()
    });
}

/// Indexes that are kept beside the data, with their hash made right. One that cannot be true is not used but made anew, so that the
/// data set opens all the same; good are those that are used.
#[test]
fn kept_indexes() {
    let parent = scratch();
    let folder = parent.path().join("data");
    let age = |path: &Path| {
        let hour = Duration::from_secs(3600);
        File::open(path).unwrap().set_modified(SystemTime::now() - hour).unwrap();
    };
    fs::create_dir_all(folder.join("class")).unwrap();
    fs::write(folder.join("class/1.jpg"), PICTURES[0].1).unwrap();
    fs::write(folder.join("class/2.png"), PICTURES[4].1).unwrap();
    fs::write(folder.join("a.tar"), include_bytes!("../fixtures/webdataset/python.tar")).unwrap();
    [folder.join("class"), folder.join("a.tar"), folder.clone()].iter().for_each(|path| age(path));
    let webdataset = WebDatasetSettings { train: vec!["*.tar".to_string()], ..WebDatasetSettings::default() };
    let source = |name: &str| Source {
        webdataset: webdataset.clone(),
        class_names: if name == "folder" { String::new() } else { "cifar10".to_string() },
        ..Source::new(name, Some(&folder))
    };
    for name in ["folder", "webdataset"] {
        let (source, place) = (source(name), parent.path().join(format!("data.{name}.perennial-index")));
        data::open(&source).unwrap();
        let kept = fs::read(&place).unwrap();
        fuzz(&format!("kept index of {name}"), FILES, |rng| {
            let mut json = kept[65..].to_vec();
            mutate_json(&mut json, &[], rng);
            let mut hash = Sha256::new();
            [&[0; 8], &(json.len() as u64).to_le_bytes(), json.as_slice()].iter().for_each(|part| hash.update(part));
            let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            let changed = [hash.as_bytes(), b"\n", &json].concat();
            fs::write(&place, &changed).unwrap();
            let opened = data::open(&source);
            if let Ok(dataset) = &opened {
                look_at(dataset, rng);
            }
            let used = fs::read(&place).unwrap() == changed;
            assert!(used || opened.is_ok(), "{}", opened.unwrap_err());
            used
        });
    }
}
