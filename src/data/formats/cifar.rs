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
//!
//! Python's version of the same files (`cifar-10-batches-py`, `cifar-100-python`: pickles of a dictionary with an array of the pixels
//! and lists of labels) has the same records in the same order: it is read as the binary files that it stands for, so that samples have
//! the same ids.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};

use super::Source;
use crate::data::text::class_names;
use crate::data::{Dataset, Images, Label, Sample, Split, fingerprint, id_of};
use crate::error::{Error, Result};
use crate::files::text_of;
use crate::pickle::{Node, Pickle};

const EDGE: usize = 32;
const PLANE: usize = EDGE * EDGE;

struct Variant {
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    /// Bytes before the label of a class.
    before: usize,
    /// The folder of Python's version, and its file of names.
    python: [&'static str; 2],
    /// Under which keys Python's version has the names and, of a file of pictures, the labels in the order of the record.
    names_key: &'static str,
    label_keys: &'static [&'static str],
}

impl Variant {
    fn record(&self) -> usize {
        self.before + 1 + 3 * PLANE
    }
}

/// CIFAR-10.
pub(crate) fn open_10(source: &Source) -> Result<Dataset> {
    open(
        source,
        &Variant {
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
            python: ["cifar-10-batches-py", "batches.meta"],
            names_key: "label_names",
            label_keys: &["labels"],
        },
    )
}

/// CIFAR-100 with its 100 fine classes.
pub(crate) fn open_100(source: &Source) -> Result<Dataset> {
    open(
        source,
        &Variant {
            folder: "cifar-100-binary",
            train: &["train.bin"],
            test: "test.bin",
            names: "fine_label_names.txt",
            before: 1,
            python: ["cifar-100-python", "meta"],
            names_key: "fine_label_names",
            label_keys: &["coarse_labels", "fine_labels"],
        },
    )
}

/// Reads all files into memory: 184 MB. Fails when one is missing, when it is not a whole number of records, or when a label is out
/// of range; the error names the file and the record.
fn open(source: &Source, variant: &Variant) -> Result<Dataset> {
    let (folder, python) = find_folder(source.folder()?, variant)?;
    let read = |name: &str| {
        if python {
            return python_file(&folder, name, variant).map_err(|error| {
                let binary = format!("the binary version ({}) is read too", variant.folder);
                Error::input(format!("{error}; {binary}"))
            });
        }
        let path = folder.join(name);
        fs::read(&path).map_err(|cause| Error::reading(&path, cause))
    };
    let names = read(variant.names)?;
    let keys = parse_names(&folder.join(variant.names), &names)?;
    let classes = class_names::readable(&source.class_names, &keys)?;

    let mut files = vec![(variant.names, names), ("", classes.join("\n").into_bytes())];
    let (mut samples, mut places) = (Vec::new(), Vec::new());
    let with_split = variant.train.iter().map(|name| (*name, Split::Train)).chain([(variant.test, Split::Test)]);
    for (name, split) in with_split {
        let bytes = read(name)?;
        let labels = parse_labels(&folder.join(name), &bytes, variant, keys.len())?;
        for (record, class) in labels.enumerate() {
            let id = id_of(&[name, &record.to_string()]);
            samples.push(Sample { id, caption: String::new(), class: Label(class), domain: 0, time: 0, split });
            places.push((files.len() as u32, (record * variant.record() + variant.before + 1) as u32));
        }
        files.push((name, bytes));
    }
    let fingerprint = fingerprint(files.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
    let images = Records { files: files.into_iter().map(|(_, bytes)| bytes).collect(), places };
    let domain = vec![source.name.clone()];
    Ok(Dataset::new(&source.name, classes, domain, samples, fingerprint, Box::new(images)).with_class_keys(keys))
}

/// The folder of the files, `folder` itself or the one in it that the archive unpacks to, and whether it is Python's version.
fn find_folder(folder: &Path, variant: &Variant) -> Result<(PathBuf, bool)> {
    let [python, python_names] = variant.python;
    for (inner, names, is_python) in [(variant.folder, variant.names, false), (python, python_names, true)] {
        let inner = folder.join(inner);
        if inner.is_dir() {
            return Ok((inner, is_python));
        }
        if folder.join(names).is_file() {
            return Ok((folder.to_path_buf(), is_python));
        }
    }
    let wanted = format!("unpack {} or {python}, the binary version or Python's, in it", variant.folder);
    let entries = fs::read_dir(folder).map_err(|cause| Error::reading(folder, cause))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let about = |name: &String| match name.as_str() {
        name if name.ends_with(".mat") || name.ends_with("matlab") => {
            Some(format!("{}: '{name}' is of the version for MATLAB, which is not read: {wanted}", folder.display()))
        }
        name if name.starts_with("cifar-") && [".tar.gz", ".tgz", ".tar"].iter().any(|end| name.ends_with(end)) => {
            Some(format!("{}: '{name}' is an archive: {wanted}", folder.display()))
        }
        _ => None,
    };
    match names.iter().find_map(about) {
        Some(what) => Err(Error::input(what)),
        // The error that names the first file.
        None => Ok((folder.to_path_buf(), false)),
    }
}

/// What the binary file `name` would hold, from the file of Python's version that stands for it.
fn python_file(folder: &Path, name: &str, variant: &Variant) -> Result<Vec<u8>> {
    let own = if name == variant.names { variant.python[1] } else { name.trim_end_matches(".bin") };
    let path = folder.join(own);
    let bytes = fs::read(&path).map_err(|cause| Error::reading(&path, cause))?;
    let wrong = |what: String| Error::input(format!("{}: {what}", path.display()));
    let pickle = Pickle::read(&bytes).map_err(wrong)?;
    let list = |key: &str| {
        let missing = || wrong(format!("no list '{key}': this is no {own} of CIFAR for Python"));
        pickle.get(pickle.root(), key).and_then(|list| pickle.items(list)).ok_or_else(missing)
    };
    if name == variant.names {
        let mut names = String::new();
        for name in list(variant.names_key)? {
            names.push_str(pickle.text(*name).ok_or_else(|| wrong("a name of a class that is no text".into()))?);
            names.push('\n');
        }
        return Ok(names.into_bytes());
    }
    let labels = variant.label_keys.iter().map(|key| list(key)).collect::<Result<Vec<_>>>()?;
    let pixels = pickle.get(pickle.root(), "data").map(|data| pickle.node(data));
    let Some(Node::Array(array)) = pixels else { return Err(wrong("no array 'data'".into())) };
    let count = labels[0].len();
    let data = array.bytes.and_then(|data| pickle.bytes(data)).unwrap_or_default();
    if array.dtype != "u1" || array.shape != [count, 3 * PLANE] || data.len() != count * 3 * PLANE {
        return Err(wrong(format!(
            "'data' is of type '{}' and shape {:?}, expected bytes ('u1') of shape [{count}, {}]",
            array.dtype.escape_debug(),
            array.shape,
            3 * PLANE
        )));
    }
    if let Some((other, key)) = labels.iter().zip(variant.label_keys).find(|(other, _)| other.len() != count) {
        return Err(wrong(format!("'{key}' has {} labels, expected {count}", other.len())));
    }
    let mut records = Vec::with_capacity(count * variant.record());
    for record in 0..count {
        for labels in &labels {
            let label = pickle.int(labels[record]).and_then(|label| u8::try_from(label).ok());
            records.push(label.ok_or_else(|| wrong(format!("record {record} (from 0): a label that is none")))?);
        }
        match array.fortran {
            false => records.extend_from_slice(&data[record * 3 * PLANE..][..3 * PLANE]),
            // By columns: a pixel of every record, then the next pixel.
            true => records.extend((0..3 * PLANE).map(|pixel| data[pixel * count + record])),
        }
    }
    Ok(records)
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
    variant: &Variant,
    classes: usize,
) -> Result<impl Iterator<Item = u32> + use<'a>> {
    let (record, before) = (variant.record(), variant.before);
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) || bytes.len() > u32::MAX as usize {
        return Err(Error::input(format!(
            "{}: found {} bytes, expected a whole number of records of {record} bytes: the file is cut short, or no {} file",
            path.display(),
            bytes.len(),
            variant.folder
        )));
    }
    let labels = move || bytes.chunks_exact(record).map(move |record| record[before]);
    if let Some((number, label)) = labels().enumerate().find(|(_, label)| usize::from(*label) >= classes) {
        return Err(Error::input(format!(
            "{}, record {number} (from 0): the label {label} is out of range, expected 0 to {} as {} has {classes} names",
            path.display(),
            classes - 1,
            variant.names
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
            let found: Vec<(u32, Split)> =
                dataset.samples.iter().map(|sample| (sample.class.0, sample.split)).collect();
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
        assert_eq!(dataset.samples.iter().map(|sample| sample.class.0).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1]);
        assert_eq!(dataset.image(4).unwrap().get_pixel(0, 0), &Rgb([0, 0, 3]));
    }

    /// Pickles that Python and NumPy wrote; `make_torch.py` beside them says of what.
    #[test]
    fn pythons_version_has_the_records_of_the_binary_one() {
        let pixels = |number: usize| (0..3 * PLANE).map(move |place| ((number * 16 + place) % 251) as u8);
        let row = |labels: &[u8], number| labels.iter().copied().chain(pixels(number)).collect::<Vec<u8>>();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cifar");
        let binary = hundred(&[row(&[1, 1], 1), row(&[0, 0], 2)].concat(), &row(&[1, 1], 3));
        let same = |one: &Dataset, other: &Dataset| {
            let parts = |dataset: &Dataset| {
                let samples =
                    dataset.samples.iter().map(|sample| (sample.id, sample.class, sample.split)).collect::<Vec<_>>();
                (dataset.classes.clone(), samples)
            };
            assert_eq!(parts(one), parts(other));
            for sample in 0..one.samples.len() {
                assert_eq!(one.image(sample).unwrap(), other.image(sample).unwrap());
            }
        };
        let expected = open_100(&Source::new("cifar100", Some(binary.path()))).unwrap();
        for folder in [fixtures.clone(), fixtures.join("cifar-100-python")] {
            same(&open_100(&Source::new("cifar100", Some(&folder))).unwrap(), &expected);
        }

        let binary = tempfile::tempdir().unwrap();
        fs::write(binary.path().join("batches.meta.txt"), "airplane\nautomobile\n").unwrap();
        for batch in 1..=5 {
            fs::write(binary.path().join(format!("data_batch_{batch}.bin")), row(&[batch as u8 % 2], batch)).unwrap();
        }
        fs::write(binary.path().join("test_batch.bin"), row(&[1], 6)).unwrap();
        let expected = open_10(&Source::new("cifar10", Some(binary.path()))).unwrap();
        same(&open_10(&Source::new("cifar10", Some(&fixtures))).unwrap(), &expected);
    }

    /// As Python 2 wrote the published files: texts are strings of bytes.
    #[test]
    fn strings_of_python_2_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let meta = b"\x80\x02}q\x01U\x10fine_label_namesq\x02]q\x03(U\x05appleU\x04beares.";
        fs::write(folder.path().join("meta"), meta).unwrap();
        let mut train = b"\x80\x02}q\x01(U\x0bfine_labelsq\x02]q\x03K\x01aU\x0dcoarse_labelsq\x04]q\x05K\x00aU\x04dataq\x06\
            cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01K\x01M\x00\x0c\x86\
            cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00"
            .to_vec();
        train.extend(&record(&[], 9));
        train.extend(b"tbu.");
        fs::write(folder.path().join("train"), &train).unwrap();
        fs::write(folder.path().join("test"), &train).unwrap();
        let dataset = open_100(&Source::new("cifar100", Some(folder.path()))).unwrap();
        assert_eq!(dataset.classes, ["apple", "bear"]);
        assert_eq!(dataset.samples.iter().map(|sample| sample.class.0).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(dataset.image(0).unwrap().get_pixel(3, 5), &Rgb([3, 5, 9]));
    }

    #[test]
    fn what_is_no_file_of_either_version_is_told() {
        let root = tempfile::tempdir().unwrap();
        let message = || open_100(&Source::new("cifar100", Some(root.path()))).unwrap_err().to_string();
        assert!(message().contains("fine_label_names.txt"), "{}", message());
        fs::write(root.path().join("cifar-100-python.tar.gz"), "x").unwrap();
        assert!(message().contains("'cifar-100-python.tar.gz' is an archive: unpack"), "{}", message());
        fs::remove_file(root.path().join("cifar-100-python.tar.gz")).unwrap();
        fs::write(root.path().join("train.mat"), "x").unwrap();
        assert!(message().contains("'train.mat' is of the version for MATLAB"), "{}", message());
        let python = root.path().join("cifar-100-python");
        fs::create_dir(&python).unwrap();
        fs::write(python.join("meta"), b"\x80\x02}").unwrap();
        let cut = message();
        assert!(cut.contains("meta: byte 3 of the pickle: it is cut short"), "{cut}");
        assert!(cut.contains("the binary version (cifar-100-binary) is read too"), "{cut}");
        fs::write(python.join("meta"), b"\x80\x02}.").unwrap();
        assert!(message().contains("no list 'fine_label_names'"), "{}", message());
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
