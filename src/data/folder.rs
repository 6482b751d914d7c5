//! A folder of pictures for each class, by the rules of torchvision's ImageFolder.
//!
//! `root/train/CLASS/...` and `root/val/CLASS/...` (or `root/test/CLASS/...`; where there are both, `val` is read: ImageNet's `test`
//! has no classes), or `root/CLASS/...` for test samples alone. Pictures are the files ending in `.png`, `.jpg`, `.jpeg` or
//! `.webp`, in small or capital letters, at any depth below their class; other files, and all whose name begins with a dot, are
//! none. Classes are sorted by the names of their folders, a class's pictures by their paths.
//!
//! A folder is listed once and its index kept (`index.rs`); it is listed anew when a folder in it has changed. A file that is
//! written over in place under the same name changes no folder: then remove the index.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::index::{self, Stamp};
use super::{Dataset, Images, Sample, Source, Split, broken, class_names, fingerprint, id_of};
use crate::error::{Error, Result, nearest};

const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
const TRAIN: &str = "train";
const TESTS: [&str; 2] = ["val", "test"];

/// Folders in folders, at most: a link to a folder above would have no end.
const DEEPEST: usize = 16;

/// Pictures in files of their own.
pub struct PictureFiles {
    pub folder: PathBuf,
    /// Of each sample, relative to `folder`, or absolute.
    pub paths: Vec<Box<str>>,
}

impl Images for PictureFiles {
    fn load(&self, sample: usize) -> Result<RgbImage> {
        broken::read_picture(&self.folder.join(&*self.paths[sample]))
    }

    fn name(&self, sample: usize) -> String {
        self.paths[sample].to_string()
    }
}

/// The pictures below a class's folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Class {
    name: String,
    /// Paths relative to the data set's folder, and bytes, in order.
    files: Vec<(Box<str>, u64)>,
}

/// What a folder holds: classes in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Index {
    train: Vec<Class>,
    test: Vec<Class>,
}

impl Index {
    /// Whether it could be a listing: of its root at least, with classes in order, and a picture in each.
    fn fits(stamps: &[Stamp], index: &Index) -> bool {
        let in_order = |classes: &[Class]| {
            let sorted = classes.windows(2).all(|pair| pair[0].name < pair[1].name);
            sorted && classes.iter().all(|class| !class.files.is_empty())
        };
        let holds_any = !index.train.is_empty() || !index.test.is_empty();
        stamps.iter().any(|stamp| stamp.is_of("")) && holds_any && in_order(&index.train) && in_order(&index.test)
    }
}

/// Opens the pictures in `source.folder`.
///
/// Fails when a folder cannot be listed, when there is no class, when a class's folder holds no picture, or when a class of the tests
/// is none of training.
pub fn open(source: &Source) -> Result<Dataset> {
    let root = source.folder()?;
    let Index { train, test } = index::kept(root, "folder", "", Index::fits, || list(root))?;
    let mut keys: Vec<String> = train.iter().chain(&test).map(|class| class.name.clone()).collect();
    keys.sort();
    keys.dedup();
    if let (false, Some(class)) =
        (train.is_empty(), test.iter().find(|class| train.binary_search_by_key(&&class.name, |one| &one.name).is_err()))
    {
        let near = nearest(&class.name, train.iter().map(|class| class.name.as_str()));
        let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
        return Err(Error::input(format!(
            "{}: the tests have a class '{}' that training has not{hint}",
            root.display(),
            class.name
        )));
    }
    let classes = class_names::readable(&source.class_names, &keys)?;

    let (names, files) = (classes.join("\n"), files_hash(train.iter().chain(&test)));
    let fingerprint = fingerprint([("classes", names.as_bytes()), ("files", files.as_bytes())]);
    let (mut samples, mut paths) = (Vec::new(), Vec::new());
    for (split, found) in [(Split::Train, train), (Split::Test, test)] {
        for class in found {
            let number = keys.binary_search(&class.name).expect("every class is in the list") as u32;
            for (path, _) in class.files {
                let id = id_of(&[&path]);
                samples.push(Sample { id, caption: String::new(), class: number, domain: 0, time: 0, split });
                paths.push(path);
            }
        }
    }
    let images = PictureFiles { folder: root.to_path_buf(), paths };
    let dataset = Dataset::new("folder", classes, vec!["folder".to_string()], samples, fingerprint, Box::new(images));
    Ok(dataset.with_class_keys(keys))
}

/// A hash of the names and sizes of all files.
fn files_hash<'a>(classes: impl Iterator<Item = &'a Class>) -> String {
    let sizes: Vec<(&str, [u8; 8])> =
        classes.flat_map(|class| &class.files).map(|(path, len)| (&**path, len.to_le_bytes())).collect();
    fingerprint(sizes.iter().map(|(path, len)| (*path, len.as_slice())))
}

/// Lists everything below `root`.
fn list(root: &Path) -> Result<(Vec<Stamp>, Index)> {
    let top = Listing::of(root, "")?;
    let has = |name: &str| top.folders.iter().any(|folder| folder == name);
    let test = TESTS.into_iter().find(|name| has(name));
    let mut stamps = vec![top.stamp.clone()];
    let mut index = Index::default();
    if !has(TRAIN) && test.is_none() {
        index.test = list_classes(root, "", &top, &mut stamps)?;
    }
    for (split, classes) in [(has(TRAIN).then_some(TRAIN), &mut index.train), (test, &mut index.test)] {
        if let Some(split) = split {
            let listing = Listing::of(root, split)?;
            stamps.push(listing.stamp.clone());
            *classes = list_classes(root, split, &listing, &mut stamps)?;
        }
    }
    Ok((stamps, index))
}

/// The classes that the folder `split` of `root` lists.
fn list_classes(root: &Path, split: &str, listing: &Listing, stamps: &mut Vec<Stamp>) -> Result<Vec<Class>> {
    if listing.folders.is_empty() {
        return Err(Error::input(format!(
            "{} holds no folders, expected one for each class (or '{TRAIN}' and '{}' with one for each class in them)",
            root.join(split).display(),
            TESTS[0]
        )));
    }
    let found: Vec<(Vec<Stamp>, Class)> =
        listing.folders.par_iter().map(|name| list_class(root, split, name)).collect::<Result<_>>()?;
    let (of_classes, classes): (Vec<Vec<Stamp>>, Vec<Class>) = found.into_iter().unzip();
    stamps.extend(of_classes.into_iter().flatten());
    Ok(classes)
}

fn list_class(root: &Path, split: &str, name: &str) -> Result<(Vec<Stamp>, Class)> {
    let mut class = Class { name: name.to_string(), files: Vec::new() };
    let mut stamps = Vec::new();
    let mut waiting = vec![(join(split, name), 0)];
    let mut found = Vec::new();
    while let Some((folder, depth)) = waiting.pop() {
        if depth > DEEPEST {
            let path = root.join(&folder);
            return Err(Error::input(format!("{}: more than {DEEPEST} folders in folders", path.display())));
        }
        let listing = Listing::of(root, &folder)?;
        waiting.extend(listing.folders.iter().map(|inner| (join(&folder, inner), depth + 1)));
        stamps.push(listing.stamp);
        found.push((folder, listing.pictures));
    }
    // As ImageFolder: by folder, then by name.
    found.sort();
    for (folder, pictures) in found {
        class.files.extend(pictures.into_iter().map(|(name, len)| (join(&folder, &name).into_boxed_str(), len)));
    }
    if class.files.is_empty() {
        return Err(Error::input(format!(
            "{} holds no picture ({}): an empty class",
            root.join(split).join(name).display(),
            EXTENSIONS.map(|extension| format!(".{extension}")).join(", ")
        )));
    }
    Ok((stamps, class))
}

/// `folder/name`, or `name` where `folder` is the data set's own.
fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

/// What stands in one folder, sorted by name.
struct Listing {
    stamp: Stamp,
    folders: Vec<String>,
    /// Names and bytes.
    pictures: Vec<(String, u64)>,
}

impl Listing {
    /// Lists `folder` of `root`. What changes in the meantime changes the stamp, which is taken before.
    fn of(root: &Path, folder: &str) -> Result<Listing> {
        let stamp = Stamp::of(root, folder)?;
        let whole = root.join(folder);
        let (mut folders, mut pictures) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&whole).map_err(|cause| Error::reading(&whole, cause))? {
            let entry = entry.map_err(|cause| Error::reading(&whole, cause))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let is_picture = Path::new(&name)
                .extension()
                .is_some_and(|found| EXTENSIONS.iter().any(|extension| found.eq_ignore_ascii_case(extension)));
            let kind = entry.file_type().map_err(|cause| Error::reading(&entry.path(), cause))?;
            if !is_picture && kind.is_file() {
                continue;
            }
            let Ok(name) = name.into_string() else {
                return Err(Error::input(format!("{}: the name is no UTF-8", entry.path().display())));
            };
            // Links are followed; the loader says of a picture's that leads nowhere what it is.
            match fs::metadata(entry.path()) {
                Ok(data) if data.is_dir() => folders.push(name),
                Ok(data) if is_picture => pictures.push((name, data.len())),
                Err(_) if is_picture => pictures.push((name, 0)),
                Ok(_) => {}
                Err(cause) => return Err(Error::reading(&entry.path(), cause)),
            }
        }
        folders.sort();
        pictures.sort();
        Ok(Listing { stamp, folders, pictures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of the paths; each file holds its path.
    fn folder(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join("data").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, path.display().to_string()).unwrap();
        }
        root
    }

    fn opened(root: &tempfile::TempDir) -> Result<Dataset> {
        open(&Source::new("folder", Some(&root.path().join("data"))))
    }

    fn wrong(paths: &[&str]) -> String {
        let root = folder(paths);
        let message = opened(&root).unwrap_err().to_string();
        message.replace(&format!("{}/", root.path().display()), "")
    }

    #[test]
    fn classes_and_pictures_are_in_image_folders_order() {
        // What torchvision 0.21's ImageFolder lists for these files, as (path, class), apart from the ending that it has not.
        let root = folder(&[
            "train/b_b/10.png",
            "train/b_b/9.jpg",
            "train/b_b/notes.txt",
            "train/b_b/.hidden.png",
            "train/a/z.JPEG",
            "train/a/sub/a.webp",
            "train/a/a.png",
            "val/a/1.png",
            "val/b_b/1.png",
            "val/readme.md",
            "test/1.png",
        ]);
        let dataset = opened(&root).unwrap();
        assert_eq!(dataset.classes, ["a", "b b"]);
        assert_eq!(dataset.class_keys, ["a", "b_b"]);
        let found: Vec<(u32, bool)> =
            dataset.samples.iter().map(|sample| (sample.class, sample.split == Split::Train)).collect();
        let (train, test) = (true, false);
        assert_eq!(found, [(0, train), (0, train), (0, train), (1, train), (1, train), (0, test), (1, test)]);
        let ids: Vec<u64> =
            ["train/a/a.png", "train/a/z.JPEG", "train/a/sub/a.webp", "train/b_b/10.png", "train/b_b/9.jpg"]
                .iter()
                .map(|path| id_of(&[path]))
                .collect();
        assert_eq!(dataset.samples[..5].iter().map(|sample| sample.id).collect::<Vec<_>>(), ids);
        let message = dataset.image(1).unwrap_err().to_string();
        assert!(message.contains("train/a/z.JPEG"), "{message}");
    }

    #[test]
    fn a_folder_of_classes_alone_is_a_test_set() {
        let dataset = opened(&folder(&["n01/a.jpg", "n02/b.jpg"])).unwrap();
        assert!(dataset.samples.iter().all(|sample| sample.split == Split::Test));
        assert_eq!(dataset.classes, ["n01", "n02"]);
    }

    #[test]
    fn errors_name_the_folder() {
        assert!(
            wrong(&["train/a/1.png", "train/b/notes.txt", "val/a/1.png"]).starts_with("data/train/b holds no picture")
        );
        assert!(wrong(&["1.png"]).starts_with("data/ holds no folders, expected one for each class"));
        assert_eq!(
            wrong(&["train/dog/1.png", "train/cat/1.png", "val/dgo/1.png"]).replace("data: ", ""),
            "the tests have a class 'dgo' that training has not; did you mean 'dog'?"
        );
        let message = open(&Source::new("folder", None)).unwrap_err().to_string();
        assert!(message.contains("say where its folder is"), "{message}");
        let message = open(&Source::new("folder", Some(Path::new("no/such")))).unwrap_err().to_string();
        assert!(message.starts_with("cannot read no/such: "), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_loop_of_links_ends() {
        let root = folder(&["a/1.png"]);
        std::os::unix::fs::symlink("..", root.path().join("data/a/up")).unwrap();
        let message = opened(&root).unwrap_err().to_string();
        assert!(message.contains("folders in folders"), "{message}");
    }

    #[test]
    fn the_fingerprint_tells_names_and_sizes() {
        let print = |paths: &[&str], more: &str| {
            let root = folder(paths);
            fs::write(root.path().join("data/a/1.png"), more).unwrap();
            opened(&root).unwrap().fingerprint
        };
        let first = print(&["a/1.png", "b/1.png"], "x");
        assert_ne!(first, print(&["a/1.png", "b/2.png"], "x"));
        assert_ne!(first, print(&["a/1.png", "b/1.png"], "xy"));
    }
}
