//! A folder of pictures for each class, by the rules of torchvision's ImageFolder.
//!
//! `root/train/CLASS/...` and `root/val/CLASS/...` (or `root/test/CLASS/...`; where there are both, `val` is read: ImageNet's `test`
//! has no classes), or `root/CLASS/...` for test samples alone. Pictures are the files of `picture::ENDINGS`, in small or capital
//! letters, at any depth below their class; all whose name begins with a dot are none. Classes are sorted by the names of their folders,
//! or by their numbers where all names are whole numbers and a list gives readable names in order; a class's pictures by their paths.
//! What is passed over is counted and named, and folders that look like splits are never taken for classes.
//!
//! A folder is listed once and its index kept (`index.rs`); it is listed anew when a folder in it has changed. A file that is
//! written over in place under the same name changes no folder: then remove the index.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Source;
use super::files::PictureFiles;
use super::index::{self, Stamp};
use crate::data::broken::{self, Broken};
use crate::data::images::picture::{self, is_picture_name};
use crate::data::text::class_names;
use crate::data::{Dataset, Label, Sample, Split, fingerprint, id_of};
use crate::error::{Error, Result, nearest};

const TRAIN: &str = "train";
const TESTS: [&str; 2] = ["val", "test"];

/// Names of what operating systems leave behind, but those that begin with `._`.
const OF_SYSTEMS: [&str; 8] = [
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
];

const ARCHIVES: [&str; 9] = ["tar", "tgz", "zip", "gz", "bz2", "xz", "zst", "7z", "rar"];

/// Folders in folders, at most: a link to a folder above would have no end.
const DEEPEST: usize = 16;

/// Which folders of the root hold the training and the test pictures; empty for `train`, and `val` or `test`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitSettings {
    /// The folder of the training pictures, relative to the data set's.
    pub train: String,
    /// That of the test pictures, likewise.
    pub test: String,
}

/// The pictures below a class's folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Class {
    name: String,
    /// Paths relative to the data set's folder, and bytes, in order.
    files: Vec<(Box<str>, u64)>,
}

/// What a folder holds: classes in the order of their names, and what is to be told of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct FolderIndex {
    train: Vec<Class>,
    test: Vec<Class>,
    notes: Vec<String>,
}

impl FolderIndex {
    /// Whether it could be a listing: of its root at least, with classes in order, and a picture in each.
    fn fits(stamps: &[Stamp], index: &FolderIndex) -> bool {
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
/// Fails when a folder cannot be listed, when folders look like splits and are not called so, when there is no class, when a class's
/// folder holds no picture, or when a class of the tests is none of training.
pub fn open(source: &Source) -> Result<Dataset> {
    let (root, given) = (source.folder()?, &source.splits);
    let question = format!("{}\n{}", given.train, given.test);
    let FolderIndex { train, test, mut notes } =
        index::kept(root, "folder", &question, FolderIndex::fits, || list(root, given))?;
    let mut keys: Vec<String> = train.iter().chain(&test).map(|class| class.name.clone()).collect();
    keys.sort();
    keys.dedup();
    let lacks = |classes: &[Class], key: &str| classes.binary_search_by_key(&key, |one| one.name.as_str()).is_err();
    if let (false, Some(class)) = (train.is_empty(), test.iter().find(|class| lacks(&train, &class.name))) {
        let near = nearest(&class.name, train.iter().map(|class| class.name.as_str()));
        let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
        return Err(Error::input(format!(
            "{}: the tests have a class '{}' that training has not{hint}",
            root.display(),
            class.name
        )));
    }
    let untested: Vec<&str> = keys.iter().map(String::as_str).filter(|key| lacks(&test, key)).collect();
    if !test.is_empty() && !untested.is_empty() {
        let shown = untested[..untested.len().min(broken::SHOWN)].join(", ");
        let more = if untested.len() > broken::SHOWN { ", ..." } else { "" };
        notes.push(format!("the tests have no picture of {} of the classes: {shown}{more}", untested.len()));
    }
    class_names::sort(&source.class_names, &mut keys)?;
    let classes = class_names::readable(&source.class_names, &keys)?;

    let (names, files) = (classes.join("\n"), files_hash(train.iter().chain(&test)));
    let fingerprint = fingerprint([("classes", names.as_bytes()), ("files", files.as_bytes())]);
    let number_of: HashMap<&str, u32> = keys.iter().map(String::as_str).zip(0..).collect();
    let (mut samples, mut paths) = (Vec::new(), Vec::new());
    for (split, found) in [(Split::Train, train), (Split::Test, test)] {
        for class in found {
            let number = number_of[class.name.as_str()];
            for (path, _) in class.files {
                let id = id_of(&[&path]);
                samples.push(Sample { id, caption: String::new(), class: Label(number), domain: 0, time: 0, split });
                paths.push(path);
            }
        }
    }
    let images = PictureFiles { folder: root.to_path_buf(), paths };
    let dataset = Dataset::new("folder", classes, vec!["folder".to_string()], samples, fingerprint, Box::new(images));
    Ok(dataset.with_class_keys(keys).with_notes(notes))
}

/// A hash of the names and sizes of all files.
fn files_hash<'a>(classes: impl Iterator<Item = &'a Class>) -> String {
    let sizes: Vec<(&str, [u8; 8])> =
        classes.flat_map(|class| &class.files).map(|(path, len)| (&**path, len.to_le_bytes())).collect();
    fingerprint(sizes.iter().map(|(path, len)| (*path, len.as_slice())))
}

/// Lists everything below `root`.
fn list(root: &Path, given: &SplitSettings) -> Result<(Vec<Stamp>, FolderIndex)> {
    let mut top = Listing::of(root, "")?;
    let mut stamps = vec![top.stamp.clone()];
    let mut index = FolderIndex::default();
    let (train, test) = splits(root, &top, given)?;
    let mut passed = std::mem::take(&mut top.passed);
    if train.is_none() && test.is_none() {
        let found = list_classes(root, "", &top, &mut stamps, &mut passed)?;
        let as_class = found.iter().find(|class| role_of(&class.name).is_some());
        index.notes.extend(as_class.map(|class| {
            format!("the folder '{}' is called as a split and holds no folders: it is taken for a class", class.name)
        }));
        index.test = found;
    } else {
        let of_split = |folder: &&String| {
            [&train, &test].into_iter().flatten().any(|split| split.split('/').next() == Some(folder))
        };
        let unread = top.folders.iter().filter(|folder| !of_split(folder));
        passed.extend(unread.map(|folder| (BESIDE_SPLITS.to_string(), folder.clone())));
        passed.extend(top.pictures.iter().map(|(name, _)| (BESIDE_FOLDERS.to_string(), name.clone())));
    }
    for (split, classes) in [(train, &mut index.train), (test, &mut index.test)] {
        if let Some(split) = split {
            let mut listing = Listing::of(root, &split)?;
            stamps.push(listing.stamp.clone());
            passed.append(&mut listing.passed);
            *classes = list_classes(root, &split, &listing, &mut stamps, &mut passed)?;
        }
    }
    for classes in [&index.train, &index.test] {
        if let [class] = classes.as_slice() {
            index.notes.push(format!(
                "all {} pictures of a split are of the one class '{}': is data.folder the folder above the classes?",
                class.files.len(),
                class.name
            ));
        }
    }
    let mut kinds = Broken::default();
    passed.sort();
    passed.iter().for_each(|(kind, path)| kinds.add(kind, path));
    index.notes.extend(kinds.iter().map(|(kind, of)| {
        let more = if of.count > of.first.len() { ", ..." } else { "" };
        format!("passed over, {kind}: {}, as {}{more}", of.count, of.first.join(", "))
    }));
    Ok((stamps, index))
}

/// The folders of the training and the test pictures, relative to `root`; neither where the classes' own folders stand there. Fails
/// where folders look like splits and are not called so.
fn splits(root: &Path, top: &Listing, given: &SplitSettings) -> Result<(Option<String>, Option<String>)> {
    let keys = [("data.splits.train", &given.train), ("data.splits.test", &given.test)];
    if keys.iter().any(|(_, name)| !name.is_empty()) {
        let missing = |name: &str| !name.is_empty() && !root.join(name).is_dir();
        if let Some((key, name)) = keys.iter().find(|(_, name)| missing(name)) {
            let near = nearest(name, top.folders.iter().map(String::as_str));
            let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            return Err(Error::input(format!("{key}: there is no folder '{name}' in {}{hint}", root.display())));
        }
        let [train, test] = keys.map(|(_, name)| (!name.is_empty()).then(|| name.clone()));
        return Ok((train, test));
    }
    let has = |name: &str| top.folders.iter().any(|folder| folder == name);
    let (train, test) = (has(TRAIN).then_some(TRAIN), TESTS.into_iter().find(|name| has(name)));
    let called_so = |name: &str| name == TRAIN || TESTS.contains(&name);
    let others: Vec<(&String, Role)> = (top.folders.iter())
        .filter(|name| !called_so(name))
        .filter_map(|name| Some((name, role_of(name)?)))
        .filter(|(_, role)| if *role == Role::Train { train.is_none() } else { test.is_none() })
        .collect();
    let mut looks = look_like_splits(&top.folders, true);
    for (name, _) in &others {
        looks = looks || !Listing::of(root, name)?.folders.is_empty();
    }
    if let ([(first, role), ..], true) = (others.as_slice(), looks) {
        let names: Vec<String> = others.iter().map(|(name, _)| format!("'{name}'")).collect();
        let (key, right) = if *role == Role::Train { ("train", "'train'") } else { ("test", "'val' or 'test'") };
        return Err(Error::input(format!(
            "{}: {} by name a split and no class; call '{first}' {right}, or say so with data.splits.{key} = \"{first}\"",
            root.display(),
            if names.len() == 1 { format!("{} is", names[0]) } else { format!("{} are each", names.join(" and ")) }
        )));
    }
    // A class may be called `train`, as CIFAR-100's is.
    let is_class =
        train.is_some() && test.is_none() && top.folders.len() > 1 && Listing::of(root, TRAIN)?.folders.is_empty();
    Ok(if is_class { (None, None) } else { (train.map(str::to_string), test.map(str::to_string)) })
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Train,
    Test,
}

/// What a folder is by its name, if it is called as splits are: `train`, `Training`, `train_images`, `val2017`, `testset`.
fn role_of(name: &str) -> Option<Role> {
    /// Words beside the split's own that say nothing, the longer before those that they begin with.
    const BESIDE: [&str; 22] = [
        "images", "image", "imgs", "img", "jpegs", "jpeg", "jpg", "png", "pictures", "picture", "photos", "photo",
        "dataset", "data", "sets", "set", "splits", "split", "folder", "ilsvrc", "imagenet", "coco",
    ];
    let mut spaced = String::new();
    for one in name.chars() {
        // `trainImages`.
        if one.is_uppercase() && spaced.ends_with(char::is_lowercase) {
            spaced.push(' ');
        }
        spaced.push(if one.is_alphabetic() { one } else { ' ' });
    }
    let spaced = spaced.to_lowercase();
    let mut words = spaced.split_whitespace().filter_map(|mut word| {
        while let Some(rest) = BESIDE.iter().find_map(|known| word.strip_suffix(known)) {
            word = rest;
        }
        (word.len() > 1).then_some(word)
    });
    let (word, None) = (words.next()?, words.next()) else { return None };
    match word {
        "train" | "training" | "trn" | "trainval" => Some(Role::Train),
        "val" | "vals" | "valid" | "validate" | "validation" | "dev" | "devel" | "development" | "test" | "tests"
        | "testing" | "tst" | "eval" | "evals" | "evaluation" | "holdout" | "heldout" => Some(Role::Test),
        _ => None,
    }
}

/// Whether folders side by side look like splits: some of training and some of tests, or, where `alone` will do, nothing else.
fn look_like_splits(folders: &[String], alone: bool) -> bool {
    let roles: Vec<Role> = folders.iter().filter_map(|name| role_of(name)).collect();
    let both = roles.contains(&Role::Train) && roles.contains(&Role::Test);
    both || (alone && !roles.is_empty() && roles.len() == folders.len())
}

const BESIDE_SPLITS: &str = "folders beside the splits";
const BESIDE_FOLDERS: &str = "pictures beside the folders of classes";

/// What is passed over: its kind, and its path.
type Passed = Vec<(String, String)>;

/// The classes that the folder `split` of `root` lists.
fn list_classes(
    root: &Path,
    split: &str,
    listing: &Listing,
    stamps: &mut Vec<Stamp>,
    passed: &mut Passed,
) -> Result<Vec<Class>> {
    if listing.folders.is_empty() {
        return Err(Error::input(format!(
            "{} holds no folders, expected one for each class (or '{TRAIN}' and '{}' with one for each class in them){}",
            root.join(split).display(),
            TESTS[0],
            what_else(passed)
        )));
    }
    passed.extend(listing.pictures.iter().map(|(name, _)| (BESIDE_FOLDERS.to_string(), join(split, name))));
    // All of them first: which error is told must not depend on the threads.
    let found: Vec<Result<Found>> = listing.folders.par_iter().map(|name| list_class(root, split, name)).collect();
    let mut classes = Vec::new();
    for of_class in found {
        let mut of_class = of_class?;
        stamps.append(&mut of_class.stamps);
        passed.append(&mut of_class.passed);
        classes.push(of_class.class);
    }
    Ok(classes)
}

/// What an error about a folder without pictures or classes tells of the rest.
fn what_else(passed: &Passed) -> String {
    let (mut passed, mut kinds) = (passed.clone(), Broken::default());
    passed.sort();
    passed.iter().for_each(|(kind, path)| kinds.add(kind, path));
    let told: Vec<String> =
        kinds.iter().map(|(kind, of)| format!("{kind}: {}, as {}", of.count, of.first[0])).collect();
    if told.is_empty() { String::new() } else { format!("; there are {}", told.join(", ")) }
}

/// What lies below a class's folder.
struct Found {
    class: Class,
    stamps: Vec<Stamp>,
    passed: Passed,
}

/// A folder that is still to be listed.
struct Waiting {
    path: String,
    depth: usize,
    /// Where the links led that were followed on the way.
    links: Vec<PathBuf>,
}

fn list_class(root: &Path, split: &str, name: &str) -> Result<Found> {
    let mut found =
        Found { class: Class { name: name.to_string(), files: Vec::new() }, stamps: Vec::new(), passed: Vec::new() };
    let mut waiting = vec![Waiting { path: join(split, name), depth: 0, links: Vec::new() }];
    let mut pictures = Vec::new();
    while let Some(Waiting { path: folder, depth, links }) = waiting.pop() {
        let whole = root.join(&folder);
        if depth > DEEPEST {
            return Err(Error::input(format!("{}: more than {DEEPEST} folders in folders", whole.display())));
        }
        let mut listing = Listing::of(root, &folder)?;
        if split.is_empty() && look_like_splits(&listing.folders, true) {
            return Err(Error::input(format!(
                "{} holds '{}', which look like splits and not like parts of a class; expected SPLIT/CLASS/pictures, and the folder \
                 above the splits as data.folder",
                whole.display(),
                listing.folders.join("', '")
            )));
        }
        for inner in &listing.folders {
            let path = join(&folder, inner);
            let mut links = links.clone();
            if listing.links.contains(inner) {
                links.push(followed(root, &folder, &path, &links)?);
            }
            waiting.push(Waiting { path, depth: depth + 1, links });
        }
        found.stamps.push(listing.stamp);
        found.passed.append(&mut listing.passed);
        pictures.push((folder, listing.pictures));
    }
    // As ImageFolder: by folder, then by name.
    pictures.sort();
    for (folder, pictures) in pictures {
        found.class.files.extend(pictures.into_iter().map(|(name, len)| (join(&folder, &name).into_boxed_str(), len)));
    }
    if found.class.files.is_empty() {
        return Err(Error::input(format!(
            "{} holds no picture ({}): an empty class{}",
            root.join(split).join(name).display(),
            picture::ENDINGS.map(|ending| format!(".{ending}")).join(", "),
            what_else(&found.passed)
        )));
    }
    Ok(found)
}

/// Where the link `path` in `folder` leads. Fails where that is a folder above, or one that was come through already: it has no end.
fn followed(root: &Path, folder: &str, path: &str, links: &[PathBuf]) -> Result<PathBuf> {
    let real = |path: &str| root.join(path).canonicalize().map_err(|cause| Error::reading(&root.join(path), cause));
    let target = real(path)?;
    if real(folder)?.starts_with(&target) || links.contains(&target) {
        let link = root.join(path);
        return Err(Error::input(format!(
            "{} is a link to {}, which it lies in: remove the link",
            link.display(),
            target.display()
        )));
    }
    Ok(target)
}

/// `folder/name`, or `name` where `folder` is the data set's own.
fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

/// The kind of what is passed over by its name alone.
fn passed_by_name(name: &str, is_file: bool) -> Option<String> {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_lowercase();
    Some(match ending.as_str() {
        _ if OF_SYSTEMS.contains(&name) || name.starts_with("._") => "left behind by operating systems".to_string(),
        _ if name.starts_with('.') => "hidden by a dot".to_string(),
        _ if !is_file || is_picture_name(name) => return None,
        archive if ARCHIVES.contains(&archive) => "archives, which are not opened".to_string(),
        "" => "files without an ending".to_string(),
        short if short.len() <= 5 => format!("files ending in .{short}"),
        _ => "files of other endings".to_string(),
    })
}

/// What stands in one folder, sorted by name.
struct Listing {
    stamp: Stamp,
    folders: Vec<String>,
    /// Those of the folders that are links to one.
    links: Vec<String>,
    /// Names and bytes.
    pictures: Vec<(String, u64)>,
    passed: Passed,
}

impl Listing {
    /// Lists `folder` of `root`. What changes in the meantime changes the stamp, which is taken before.
    fn of(root: &Path, folder: &str) -> Result<Listing> {
        let stamp = Stamp::of(root, folder)?;
        let whole = root.join(folder);
        let mut listing =
            Listing { stamp, folders: Vec::new(), links: Vec::new(), pictures: Vec::new(), passed: Vec::new() };
        for entry in fs::read_dir(&whole).map_err(|cause| Error::reading(&whole, cause))? {
            let entry = entry.map_err(|cause| Error::reading(&whole, cause))?;
            let kind = entry.file_type().map_err(|cause| Error::reading(&entry.path(), cause))?;
            let name = entry.file_name();
            let shown = name.to_string_lossy();
            if let Some(passed) = passed_by_name(&shown, kind.is_file()) {
                listing.passed.push((passed, join(folder, &shown)));
                continue;
            }
            let is_picture = is_picture_name(&shown);
            let Ok(name) = name.into_string() else {
                return Err(Error::input(format!("{}: the name is no UTF-8", entry.path().display())));
            };
            // Links are followed; the loader says of a picture's that leads nowhere what it is.
            match fs::metadata(entry.path()) {
                Ok(data) if data.is_dir() => {
                    if kind.is_symlink() {
                        listing.links.push(name.clone());
                    }
                    listing.folders.push(name);
                }
                Ok(data) if is_picture => listing.pictures.push((name, data.len())),
                Err(_) if is_picture => listing.pictures.push((name, 0)),
                Ok(_) => {
                    let passed = passed_by_name(&name, true).unwrap_or_default();
                    listing.passed.push((passed, join(folder, &name)));
                }
                Err(_) => listing.passed.push(("links that lead nowhere".to_string(), join(folder, &name))),
            }
        }
        listing.folders.sort();
        listing.pictures.sort();
        Ok(listing)
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
            dataset.samples.iter().map(|sample| (sample.class.0, sample.split == Split::Train)).collect();
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
        assert!(
            message.contains("data/a/up is a link to ") && message.ends_with("which it lies in: remove the link"),
            "{message}"
        );
        // By way of another folder, and from many classes at once.
        let root = folder(&["data/a/1.png", "other/2.png"]);
        let [data, other] = ["data/data", "data/other"].map(|path| root.path().join(path));
        for class in 0..40 {
            fs::create_dir(data.join(format!("c{class}"))).unwrap();
            fs::write(data.join(format!("c{class}/1.png")), "").unwrap();
            std::os::unix::fs::symlink(&other, data.join(format!("c{class}/x"))).unwrap();
        }
        std::os::unix::fs::symlink(&data, other.join("y")).unwrap();
        let message = open(&Source::new("folder", Some(&data))).unwrap_err().to_string();
        assert!(message.contains(" is a link to "), "{message}");
        // Links to other places are followed, as ImageFolder does.
        fs::remove_file(other.join("y")).unwrap();
        assert_eq!(open(&Source::new("folder", Some(&data))).unwrap().samples.len(), 1 + 2 * 40);
    }

    #[test]
    fn splits_have_their_names_in_many_spellings() {
        let train = [
            "train",
            "Train",
            "TRAIN",
            "training",
            "train_images",
            "train2017",
            "TrainImages",
            "ILSVRC2012_img_train",
            "trainset",
        ];
        let test = [
            "val",
            "Val",
            "valid",
            "validation",
            "VALIDATION",
            "test",
            "tests",
            "Testing",
            "dev",
            "eval",
            "val2017",
            "test_set",
        ];
        for (names, role) in [(train.as_slice(), Role::Train), (&test, Role::Test)] {
            names.iter().for_each(|name| assert!(role_of(name) == Some(role), "{name}"));
        }
        for name in [
            "cat",
            "trainer",
            "steam train",
            "n01440764",
            "2017",
            "images",
            "evaluate_me",
            "",
            "devil",
            "strain",
            "contest",
        ] {
            assert!(role_of(name).is_none(), "{name}");
        }
    }

    #[test]
    fn splits_under_other_names_are_no_classes() {
        for (a, b) in [
            ("Train", "Val"),
            ("training", "validation"),
            ("TRAIN", "TEST"),
            ("train_images", "test_images"),
            ("train", "valid"),
        ] {
            let [a_of, b_of] = [a, b].map(|split| ["cat", "dog"].map(|class| format!("{split}/{class}/1.png")));
            let paths: Vec<&str> = a_of.iter().chain(&b_of).map(String::as_str).collect();
            let message = wrong(&paths);
            assert!(message.contains(&format!("'{b}'")) && message.contains("data.splits."), "{message}");
            let root = folder(&paths);
            let splits = SplitSettings { train: a.to_string(), test: b.to_string() };
            let source = Source { splits, ..Source::new("folder", Some(&root.path().join("data"))) };
            let dataset = open(&source).unwrap();
            assert_eq!(dataset.classes, ["cat", "dog"]);
            assert_eq!(dataset.samples.iter().filter(|sample| sample.split == Split::Train).count(), 2);
        }
        let alone = wrong(&["Validation/cat/1.png", "Validation/dog/1.png", "labels/1.txt"]);
        assert!(alone.contains("call 'Validation' 'val' or 'test'"), "{alone}");
        let below = wrong(&[
            "ILSVRC/Data/CLS-LOC/train/n01/1.jpg",
            "ILSVRC/Data/CLS-LOC/val/n01/1.jpg",
            "ILSVRC/Annotations/1.xml",
        ]);
        assert!(below.starts_with("data/ILSVRC/Data/CLS-LOC holds 'train', 'val', which look like splits"), "{below}");
        let within = wrong(&["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"]);
        assert!(within.starts_with("data/cat holds 'test', 'train'"), "{within}");
        let root = folder(&["a/1.png"]);
        let splits = SplitSettings { train: String::new(), test: "tset".to_string() };
        let source = Source { splits, ..Source::new("folder", Some(&root.path().join("data"))) };
        assert!(open(&source).unwrap_err().to_string().starts_with("data.splits.test: there is no folder 'tset' in "));
    }

    #[test]
    fn a_class_may_be_called_as_a_split() {
        let dataset =
            opened(&folder(&["bus/1.png", "train/1.png", "vehicles/old/train/1.png", "vehicles/old/tram/1.png"]))
                .unwrap();
        assert_eq!(dataset.classes, ["bus", "train", "vehicles"]);
        assert_eq!(
            dataset.notes,
            ["the folder 'train' is called as a split and holds no folders: it is taken for a class"]
        );
    }

    #[test]
    fn what_is_passed_over_is_counted_and_named() {
        let root = folder(&[
            "train/a/1.png",
            "train/a/2.heic",
            "train/a/3.HEIC",
            "train/a/._1.png",
            "train/a/.hidden/1.png",
            "train/a/Thumbs.db",
            "train/__MACOSX/a/._1.png",
            "train/b/1.bmp",
            "train/b/labels",
            "train/beside.png",
            "val/a/1.png",
            "test/1.png",
            "test.tar.gz",
            "readme.md",
            "top.jpg",
        ]);
        let expected = [
            "the tests have no picture of 1 of the classes: b",
            "all 1 pictures of a split are of the one class 'a': is data.folder the folder above the classes?",
            "passed over, archives, which are not opened: 1, as test.tar.gz",
            "passed over, files ending in .heic: 2, as train/a/2.heic, train/a/3.HEIC",
            "passed over, files ending in .md: 1, as readme.md",
            "passed over, files without an ending: 1, as train/b/labels",
            "passed over, folders beside the splits: 1, as test",
            "passed over, hidden by a dot: 1, as train/a/.hidden",
            "passed over, left behind by operating systems: 3, as train/__MACOSX, train/a/._1.png, train/a/Thumbs.db",
            "passed over, pictures beside the folders of classes: 2, as top.jpg, train/beside.png",
        ];
        let told = |root: &tempfile::TempDir| {
            let mut notes = opened(root).unwrap().notes;
            notes.sort();
            notes
        };
        let mut sorted = expected.to_vec();
        sorted.sort();
        assert_eq!(told(&root), sorted);
        // What was kept tells the same: the folders are as old as they must be.
        let data = root.path().join("data");
        for folder in ["train/a", "train/b", "train", "val/a", "val", "test", ""] {
            let past = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
            fs::File::open(data.join(folder)).unwrap().set_modified(past).unwrap();
        }
        assert_eq!((told(&root), told(&root)), (sorted.iter().map(|note| note.to_string()).collect(), told(&root)));
        assert!(root.path().join("data.folder.perennial-index").exists());
        let empty = wrong(&["a/1.png", "b/1.avif", "b/2.avif"]);
        assert!(empty.ends_with("an empty class; there are files ending in .avif: 2, as b/1.avif"), "{empty}");
        let archives = wrong(&["train.tar", "val.tar"]);
        assert!(archives.ends_with("; there are archives, which are not opened: 2, as train.tar"), "{archives}");
        assert!(opened(&folder(&["a/1.png", "b/1.png"])).unwrap().notes.is_empty());
    }

    #[test]
    fn folders_that_are_numbers_take_names_in_their_order() {
        let paths: Vec<String> = (0..11).map(|class| format!("{class}/{class}.png")).collect();
        let root = folder(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        let list = root.path().join("names.txt");
        fs::write(&list, (0..11).map(|class| format!("thing {class}\n")).collect::<String>()).unwrap();
        let of = |class_names: &str| {
            let source = Source::new("folder", Some(&root.path().join("data")));
            open(&Source { class_names: class_names.to_string(), ..source }).unwrap()
        };
        let named = of(list.to_str().unwrap());
        for sample in 0..11 {
            let name = named.images.name(sample);
            let class = name.split('/').next().unwrap();
            assert_eq!(named.classes[named.samples[sample].class.index()], format!("thing {class}"));
        }
        assert_eq!(of("").class_keys[..4], ["0", "1", "10", "2"]);
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
