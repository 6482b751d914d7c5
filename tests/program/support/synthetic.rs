//! Small data sets in the layouts of the public ones, made on the spot.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};

/// A picture of 20 x 17 pixels, as JPEG; there are sixteen of them.
fn picture(number: usize) -> Vec<u8> {
    let color = |place: u32, factor: u32| ((number as u32 % 16 + 1) * factor + place * 5) as u8;
    let picture = RgbImage::from_fn(20, 17, |x, y| Rgb([color(x, 13), color(y, 37), color(x + y, 7)]));
    let mut bytes = Vec::new();
    picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg).unwrap();
    bytes
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// CIFAR's records: `before` bytes, the label, three planes of 32 x 32 bytes. Each class `per_class` times.
fn records(classes: usize, per_class: usize, before: &[u8]) -> Vec<u8> {
    let record = |number: usize| {
        let pixels = (0..3 * 1024).map(move |place| (number * 31 + place * 7) as u8);
        before.iter().copied().chain([(number % classes) as u8]).chain(pixels)
    };
    (0..classes * per_class).flat_map(record).collect()
}

/// 200 training and 100 test pictures in the layout of CIFAR-100's binary version.
pub fn cifar100(folder: &Path) {
    let folder = folder.join("cifar-100-binary");
    write(&folder, "train.bin", records(100, 2, &[0]));
    write(&folder, "test.bin", records(100, 1, &[0]));
    let names = include_str!("../../../presets/class_names/cifar100.txt").replace(' ', "_");
    write(&folder, "fine_label_names.txt", names);
}

/// 20 training and 10 test pictures in the layout of CIFAR-10's binary version.
pub fn cifar10(folder: &Path) {
    let folder = folder.join("cifar-10-batches-bin");
    let train = records(10, 2, &[]);
    for (number, part) in train.chunks(train.len() / 5).enumerate() {
        write(&folder, &format!("data_batch_{}.bin", number + 1), part);
    }
    write(&folder, "test_batch.bin", records(10, 1, &[]));
    write(&folder, "batches.meta.txt", include_str!("../../../presets/class_names/cifar10.txt"));
}

/// A training and a validation picture of each of ImageNet's classes.
pub fn imagenet(folder: &Path) {
    for (number, class) in include_str!("../../../presets/class_orders/imagenet.txt").lines().enumerate() {
        write(folder, &format!("train/{class}/{class}_1.JPEG"), picture(number));
        write(folder, &format!("val/{class}/ILSVRC2012_val_{number:08}.JPEG"), picture(number + 1));
    }
}

/// A picture in a folder for each class of a bundled list.
pub fn class_folders(folder: &Path, list: &str) {
    let list = fs::read_to_string(format!("presets/class_orders/{list}.txt")).unwrap();
    for (number, class) in list.lines().enumerate() {
        write(folder, &format!("{class}/picture.JPEG"), picture(number));
    }
}

/// A picture in a folder for each number from 0 to 999, as ImageNet-V2 has them.
pub fn numbered_folders(folder: &Path) {
    (0..1000).for_each(|number| write(folder, &format!("{number}/picture.jpeg"), picture(number)));
}

/// Six domains of ten classes, two training and one test picture of each, with DomainNet's lists.
pub fn domainnet(folder: &Path) {
    const CLASSES: [&str; 10] =
        ["aircraft_carrier", "ant_hill", "bee", "cat", "dog", "eye", "fan", "goatee", "hat", "zigzag"];
    for (place, domain) in ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"].iter().enumerate() {
        let (mut train, mut test) = (String::new(), String::new());
        for (label, class) in CLASSES.iter().enumerate() {
            for number in 0..3 {
                let path = format!("{domain}/{class}/{number}.jpg");
                write(folder, &path, picture(place + label + number));
                let list = if number < 2 { &mut train } else { &mut test };
                *list += &format!("{path} {label}\n");
            }
        }
        write(folder, &format!("{domain}_train.txt"), train);
        write(folder, &format!("{domain}_test.txt"), test);
    }
}

/// What a sample of a shard has beside its picture.
type Beside = fn(usize) -> Vec<(&'static str, String)>;

/// A shard of pictures; `key` makes a sample's key of its number.
fn shard(path: &Path, numbers: std::ops::Range<usize>, key: impl Fn(usize) -> String, beside: Beside) {
    let mut shard = Vec::new();
    for number in numbers {
        add_member(&mut shard, &format!("{}.jpg", key(number)), &picture(number));
        for (ending, text) in beside(number) {
            add_member(&mut shard, &format!("{}.{ending}", key(number)), text.as_bytes());
        }
    }
    shard.extend([0; 1024]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, shard).unwrap();
}

/// TiC-YFCC and TiC-RedCaps as their scripts write them, twelve training and four test samples of each group.
pub fn batches(folder: &Path, groups: &[&str]) {
    for (place, group) in groups.iter().enumerate() {
        for (split, number, first, count) in [("train", 0, 0, 8), ("train", 1, 8, 4), ("test", 0, 12, 4)] {
            let first = first + 16 * place;
            let path = folder.join(format!("shards/{split}_batch_{group}__{number:08}.tar"));
            let caption = |number: usize| vec![("json", format!("{{\"caption\": \"picture {number}\"}}"))];
            shard(&path, first..first + count, |number| number.to_string(), caption);
        }
    }
}

/// TiC-DataComp as its scripts write it: of each year twelve training samples, four tests for retrieval, and four with classes.
pub fn datacomp(folder: &Path, years: &[i32]) {
    let pair: Beside = |number| {
        let json = format!("{{\"uid\": \"{:032x}\", \"similarity\": NaN, \"original_width\": 20}}", uid(number));
        vec![("txt", format!("picture {number}")), ("json", json)]
    };
    let labelled: Beside = |number| vec![("cls", (number % 1000).to_string()), ("txt", format!("picture {number}"))];
    let key = |number: usize| format!("{:032x}-0", uid(number));
    for (place, year) in years.iter().enumerate() {
        let first = 20 * place;
        for (set, number, from, count, beside) in [
            ("train", "00000000", 0, 8, pair),
            ("train", "00000001", 8, 4, pair),
            ("eval/retrieval", "0", 12, 4, pair),
            ("eval/datacompnet", "0", 16, 4, labelled),
        ] {
            let path = folder.join(format!("{set}/{year}/{number}.tar"));
            shard(&path, first + from..first + from + count, key, beside);
            fs::write(path.with_extension("json"), "{\"successes\": 4}").unwrap();
        }
    }
}

/// The UID of a pair.
pub fn uid(number: usize) -> u128 {
    ((number as u128 + 1) << 64) | (0xffff_ffff_ffff_0000 - number as u128)
}

/// DataComp's pool as it was downloaded, with a sorted list of each year's UIDs, and the tests as [`datacomp`] has them.
pub fn datacomp_pool(folder: &Path, years: &[i32]) {
    datacomp(folder, years);
    fs::remove_dir_all(folder.join("train")).unwrap();
    let pair: Beside =
        |number| vec![("txt", format!("picture {number}")), ("json", format!("{{\"uid\": \"{:032x}\"}}", uid(number)))];
    // The years in turn, so that no shard is of one.
    let key = |number: usize| format!("{number:012}");
    shard(&folder.join("shards/00000000.tar"), 1000..1000 + 12 * years.len(), key, pair);
    for (place, year) in years.iter().enumerate() {
        let own = (0..12 * years.len()).filter(|number| number % years.len() == place).map(|number| uid(1000 + number));
        let halves = own.flat_map(|uid| [(uid >> 64) as u64, uid as u64]);
        let bytes: Vec<u8> = halves.flat_map(u64::to_le_bytes).collect();
        let count = bytes.len() / 16;
        let header =
            format!("{{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': ({count},), }}");
        let file = [b"\x93NUMPY\x01\x00v\x00".as_slice(), format!("{header:117}\n").as_bytes(), &bytes].concat();
        write(folder, &format!("lists/{year}.npy"), file);
    }
}

/// Appends a file to a tar archive: a header of POSIX.1-1988, the bytes, and zeros up to the next block.
fn add_member(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let mut header = [0; 512];
    let mut field = |start: usize, text: &str| header[start..start + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000644");
    field(124, &format!("{:011o}", bytes.len()));
    field(136, "00000000000");
    // The checksum counts itself as spaces.
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// Six pictures with five captions each, as a table.
pub fn captions(folder: &Path, table: &str) {
    let mut rows = "image,caption\n".to_string();
    for number in 0..6 {
        write(folder, &format!("{number}.jpg"), picture(number));
        for caption in ["a", "the", "one", "this", "that"] {
            rows += &format!("{number}.jpg,\"{caption} picture, of number {number}\"\n");
        }
    }
    write(folder, table, rows);
}
