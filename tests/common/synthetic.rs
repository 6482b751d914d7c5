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
    let names = include_str!("../../presets/class_names/cifar100.txt").replace(' ', "_");
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
    write(&folder, "batches.meta.txt", include_str!("../../presets/class_names/cifar10.txt"));
}

/// A training and a validation picture of each of ImageNet's classes.
pub fn imagenet(folder: &Path) {
    for (number, class) in include_str!("../../presets/class_orders/imagenet.txt").lines().enumerate() {
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

/// WebDataset shards of captioned pictures with a time, twelve training and four test samples of each year.
pub fn shards(folder: &Path, years: &[i32]) {
    for year in years {
        for (split, first, count) in [("train", 0, 8), ("train", 8, 4), ("test", 12, 4)] {
            let mut shard = Vec::new();
            for number in first..first + count {
                let key = format!("{year}{number:06}");
                add_member(&mut shard, &format!("{key}.jpg"), &picture(number + *year as usize));
                add_member(&mut shard, &format!("{key}.txt"), format!("picture {number} of {year}").as_bytes());
                let json = format!("{{\"url\": \"http://pictures/{key}\", \"timestamp\": \"{year}-06-01T12:00:00Z\"}}");
                add_member(&mut shard, &format!("{key}.json"), json.as_bytes());
            }
            shard.extend([0; 1024]);
            write(folder, &format!("{split}/{year}/{first:08}.tar"), shard);
        }
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
