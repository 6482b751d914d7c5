//! CIFAR-10 and CIFAR-100 as their binary files.
//!
//! | | CIFAR-10 | CIFAR-100 |
//! |---|---|---|
//! | folder (or the one above it) | `cifar-10-batches-bin` | `cifar-100-binary` |
//! | training | `data_batch_1.bin` to `data_batch_5.bin` | `train.bin` |
//! | tests | `test_batch.bin` | `test.bin` |
//! | classes, one a line | `batches.meta.txt` | `fine_label_names.txt` |
//! | a record | label, 3072 pixels | coarse label, label, 3072 pixels |
//!
//! Labels are a byte; the pixels are planes of 32 x 32 bytes: red, green, blue.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};

use super::{Dataset, Images, Sample, Source, Split, class_names, fingerprint, id_of};
use crate::error::{Error, Result};
use crate::files::text_of;

const EDGE: usize = 32;
const PLANE: usize = EDGE * EDGE;

struct Layout {
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    /// Bytes before the label of a class.
    before: usize,
}

impl Layout {
    fn record(&self) -> usize {
        self.before + 1 + 3 * PLANE
    }
}

/// CIFAR-10.
pub fn open_10(source: &Source) -> Result<Dataset> {
    open(
        source,
        &Layout {
            folder: "cifar-10-batches-bin",
            train: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            test: "test_batch.bin",
            names: "batches.meta.txt",
            before: 0,
        },
    )
}

/// CIFAR-100 with its 100 fine classes.
pub fn open_100(source: &Source) -> Result<Dataset> {
    open(
        source,
        &Layout {
            folder: "cifar-100-binary",
            train: &["train.bin"],
            test: "test.bin",
            names: "fine_label_names.txt",
            before: 1,
        },
    )
}

/// Reads all files into memory: 184 MB. Fails when one is missing, when it is not a whole number of records, or when a label is out
/// of range; the error names the file and the record.
fn open(source: &Source, layout: &Layout) -> Result<Dataset> {
    let folder = inner_folder(source.folder()?, layout.folder);
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|cause| Error::reading(&path, cause))
    };
    let names = read(layout.names)?;
    let keys = parse_names(&folder.join(layout.names), &names)?;
    let classes = class_names::readable(&source.class_names, &keys)?;

    let mut files = vec![(layout.names, names), ("", classes.join("\n").into_bytes())];
    let (mut samples, mut places) = (Vec::new(), Vec::new());
    let with_split = layout.train.iter().map(|name| (*name, Split::Train)).chain([(layout.test, Split::Test)]);
    for (name, split) in with_split {
        let bytes = read(name)?;
        let labels = parse_labels(&folder.join(name), &bytes, layout, keys.len())?;
        for (record, class) in labels.enumerate() {
            let id = id_of(&[name, &record.to_string()]);
            samples.push(Sample { id, caption: String::new(), class, domain: 0, time: 0, split });
            places.push((files.len() as u32, (record * layout.record() + layout.before + 1) as u32));
        }
        files.push((name, bytes));
    }
    let fingerprint = fingerprint(files.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
    let images = Records { files: files.into_iter().map(|(_, bytes)| bytes).collect(), places };
    let domain = vec![source.name.clone()];
    Ok(Dataset::new(&source.name, classes, domain, samples, fingerprint, Box::new(images)).with_class_keys(keys))
}

/// `folder` itself, or the one in it that the archive unpacks to.
fn inner_folder(folder: &Path, name: &str) -> PathBuf {
    let inner = folder.join(name);
    if inner.is_dir() { inner } else { folder.to_path_buf() }
}

fn parse_names(path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
    let text = text_of(path, bytes.to_vec())?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect();
    match names.len() {
        1..=256 => Ok(names),
        found => Err(Error::input(format!(
            "{}: found {found} names of classes, expected 1 to 256, one a line",
            path.display()
        ))),
    }
}

/// The labels of all records of a file.
fn parse_labels<'a>(
    path: &Path,
    bytes: &'a [u8],
    layout: &Layout,
    classes: usize,
) -> Result<impl Iterator<Item = u32> + use<'a>> {
    let (record, before) = (layout.record(), layout.before);
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) || bytes.len() > u32::MAX as usize {
        return Err(Error::input(format!(
            "{}: found {} bytes, expected a whole number of records of {record} bytes: the file is cut short, or no {} file",
            path.display(),
            bytes.len(),
            layout.folder
        )));
    }
    let labels = move || bytes.chunks_exact(record).map(move |record| record[before]);
    if let Some((number, label)) = labels().enumerate().find(|(_, label)| usize::from(*label) >= classes) {
        return Err(Error::input(format!(
            "{}, record {number} (from 0): the label {label} is out of range, expected 0 to {} as {} has {classes} names",
            path.display(),
            classes - 1,
            layout.names
        )));
    }
    Ok(labels().map(u32::from))
}

/// Pictures as they stand in the files.
struct Records {
    files: Vec<Vec<u8>>,
    /// The file of each sample, and where its pixels begin there.
    places: Vec<(u32, u32)>,
}

impl Images for Records {
    fn load(&self, sample: usize) -> Result<RgbImage> {
        let (file, start) = self.places[sample];
        let planes = &self.files[file as usize][start as usize..][..3 * PLANE];
        Ok(RgbImage::from_fn(EDGE as u32, EDGE as u32, |x, y| {
            let pixel = y as usize * EDGE + x as usize;
            Rgb([planes[pixel], planes[PLANE + pixel], planes[2 * PLANE + pixel]])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose red counts columns, green rows, and blue is `blue`.
    fn record(labels: &[u8], blue: u8) -> Vec<u8> {
        let plane = |value: fn(usize, u8) -> u8| (0..PLANE).map(move |pixel| value(pixel, blue));
        let planes = plane(|pixel, _| (pixel % EDGE) as u8)
            .chain(plane(|pixel, _| (pixel / EDGE) as u8))
            .chain(plane(|_, blue| blue));
        labels.iter().copied().chain(planes).collect()
    }

    fn hundred(train: &[u8], test: &[u8]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("cifar-100-binary");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("train.bin"), train).unwrap();
        fs::write(folder.join("test.bin"), test).unwrap();
        fs::write(folder.join("fine_label_names.txt"), "apple\naquarium_fish\n\n").unwrap();
        root
    }

    fn wrong(train: &[u8], test: &[u8]) -> String {
        let root = hundred(train, test);
        open_100(&Source::new("cifar100", Some(root.path()))).unwrap_err().to_string()
    }

    #[test]
    fn cifar_100_has_two_labels_and_planes() {
        let root = hundred(&[record(&[9, 1], 7), record(&[9, 0], 8)].concat(), &record(&[0, 1], 9));
        for folder in [root.path().to_path_buf(), root.path().join("cifar-100-binary")] {
            let dataset = open_100(&Source::new("cifar100", Some(&folder))).unwrap();
            assert_eq!(dataset.classes, ["apple", "aquarium fish"]);
            let found: Vec<(u32, Split)> = dataset.samples.iter().map(|sample| (sample.class, sample.split)).collect();
            assert_eq!(found, [(1, Split::Train), (0, Split::Train), (1, Split::Test)]);
            for (sample, blue) in [7, 8, 9].into_iter().enumerate() {
                let picture = dataset.image(sample).unwrap();
                assert_eq!(picture.dimensions(), (32, 32));
                assert_eq!(picture.get_pixel(3, 5), &Rgb([3, 5, blue]));
            }
        }
    }

    #[test]
    fn cifar_10_has_five_files() {
        let root = tempfile::tempdir().unwrap();
        let source = Source::new("cifar10", Some(root.path()));
        fs::write(root.path().join("batches.meta.txt"), "airplane\nautomobile\n").unwrap();
        fs::write(root.path().join("test_batch.bin"), record(&[1], 1)).unwrap();
        for batch in 1..=4 {
            fs::write(root.path().join(format!("data_batch_{batch}.bin")), record(&[0], 2)).unwrap();
        }
        let message = open_10(&source).unwrap_err().to_string();
        assert!(message.contains("data_batch_5.bin"), "{message}");
        fs::write(root.path().join("data_batch_5.bin"), record(&[1], 3)).unwrap();
        let dataset = open_10(&source).unwrap();
        assert_eq!(dataset.samples.iter().map(|sample| sample.class).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1]);
        assert_eq!(dataset.image(4).unwrap().get_pixel(0, 0), &Rgb([0, 0, 3]));
    }

    #[test]
    fn errors_name_the_file_and_the_record() {
        let good = record(&[0, 0], 0);
        let message = wrong(&[good.clone(), record(&[0, 2], 0)].concat(), &good);
        assert!(
            message.contains("train.bin, record 1 (from 0): the label 2 is out of range, expected 0 to 1"),
            "{message}"
        );
        let message = wrong(&good, &good[..3000]);
        assert!(
            message.contains("test.bin: found 3000 bytes, expected a whole number of records of 3074"),
            "{message}"
        );
        assert!(wrong(&[], &good).contains("train.bin: found 0 bytes"));
    }
}
