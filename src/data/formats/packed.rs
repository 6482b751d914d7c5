//! Packed files: all pictures of a data set as 8-bit pixels of one size, with all that is known of them, in one file that is
//! read where they stand. Training then waits for no decoder. `perennial pack` writes them.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `perennial packed` |
//! | pictures | one after the other, [edge, edge, 3], height, width, RGB; `edge` is the split's |
//! | index | JSON: `PackedIndex` |
//! | 8, 32, 16 | the index's bytes as u64 (little-endian), its SHA-256, `end of the pack.` |
//!
//! **Test pictures** are stored as evaluation shows them to a model: shorter edge to `size`, middle cut out. A model of this image
//! size sees, bit for bit, what it would see of the files; for another size the stored square is resized.
//!
//! **Training pictures** are stored whole, squeezed to a square of `train_size` (8/7 of `size` where nothing else is asked for: 256
//! for 224, so that a crop of nine tenths of the area has the model's 224 pixels), with the width and the height that they had.
//! Random crops are drawn for that shape, by the same generator, and so are those that training on the files would draw; their
//! pixels differ by what the second resizing blurs.
//!
//! Each picture has a checksum, looked at whenever it is read, and the index one of its own: an altered file is an error, not a
//! worse model.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Source;
use crate::data::broken::{TRUNCATED, UNREADABLE};
use crate::data::images::{picture, transform};
use crate::data::text::class_names;
use crate::data::{Dataset, Images, Label, Sample, Split};
use crate::error::{Error, Result};
use crate::files::{folder_of, write_new_with};

const HEAD: &[u8; 16] = b"perennial packed";
const FOOT: &[u8; 16] = b"end of the pack.";
/// The index's length and its SHA-256 before `FOOT`.
const TAIL: usize = 8 + 32 + FOOT.len();
const VERSION: u32 = 1;

/// The longest edge of stored pictures.
const LONGEST: usize = 1 << 14;

/// Pictures that are in memory at a time while a file is written.
const AT_ONCE: usize = 64;

/// The reason by which altered pictures are counted.
const ALTERED: &str = "altered";

/// Edges of the stored pictures, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges {
    /// Of training pictures: larger than the model's, so that random crops have something to choose from.
    pub train: usize,
    /// Of test pictures.
    pub test: usize,
}

impl Edges {
    /// For models of an image size: training pictures a little larger, so that random crops need not grow much.
    pub(crate) fn for_models_of(size: usize) -> Edges {
        Edges { train: (8 * size).div_ceil(7), test: size }
    }

    fn are_possible(&self) -> bool {
        [self.train, self.test].iter().all(|edge| (1..=LONGEST).contains(edge))
    }

    fn of(&self, train: bool) -> usize {
        if train { self.train } else { self.test }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PackedIndex {
    version: u32,
    classes: Vec<String>,
    class_keys: Vec<String>,
    domains: Vec<String>,
    edges: Edges,
    /// The fingerprint of the data set that was packed.
    packed_from: String,
    pictures: Vec<Picture>,
    samples: Vec<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Picture {
    train: bool,
    /// Of the picture before it was squeezed; of a test picture, of the square.
    width: u32,
    height: u32,
    /// CRC-32 of its pixels.
    checksum: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    id: u64,
    caption: String,
    class: u32,
    domain: u32,
    time: i32,
    train: bool,
    /// Place of its picture among all.
    picture: u32,
}

/// What packing a data set will take.
pub struct Packing<'a> {
    dataset: &'a Dataset,
    edges: Edges,
    /// A sample of each picture, in the order of samples.
    pictures: Vec<u32>,
    /// Of each sample, the place of its picture.
    picture_of: Vec<u32>,
    /// Bytes of the file if no picture is broken, its index estimated from above.
    pub(crate) bytes: u64,
}

impl<'a> Packing<'a> {
    /// Samples that share a picture share it in the file. Fails when an edge is 0 or beyond `LONGEST`.
    pub fn of(dataset: &'a Dataset, edges: Edges) -> Result<Packing<'a>> {
        if !edges.are_possible() {
            let Edges { train, test } = edges;
            return Err(Error::input(format!("edges of {train} and {test} pixels; both must be 1 to {LONGEST}")));
        }
        if let Some(sample) = (0..dataset.samples.len() as u32).find(|sample| !dataset.is_labelled(*sample))
            && dataset.has_classes()
        {
            return Err(Error::input(format!(
                "{} has no class for sample {sample} and classes for others; a packed file holds the one or the other",
                dataset.name
            )));
        }
        let mut places = HashMap::new();
        let (mut pictures, mut picture_of) = (Vec::new(), Vec::new());
        for (sample, known) in (0..).zip(&dataset.samples) {
            let place = places.entry((dataset.first_of_picture(sample), known.split)).or_insert_with(|| {
                pictures.push(sample);
                pictures.len() as u32 - 1
            });
            picture_of.push(*place);
        }
        let pixels = pictures.iter().map(|sample| {
            let train = dataset.samples[*sample as usize].split == Split::Train;
            transform::bytes(edges.of(train)) as u64
        });
        // An index's line is JSON: names and numbers, and a caption that may need a backslash here and there.
        let words = dataset.samples.iter().map(|sample| 150 + 2 * sample.caption.len() as u64);
        let names = dataset.classes.iter().chain(&dataset.class_keys).chain(&dataset.domains);
        let index = 1000
            + words.sum::<u64>()
            + 80 * pictures.len() as u64
            + names.map(|name| 2 * name.len() as u64 + 3).sum::<u64>();
        let bytes = pixels.sum::<u64>() + index;
        Ok(Packing { dataset, edges, pictures, picture_of, bytes })
    }

    /// Pictures in the file, if none is broken.
    pub(crate) fn pictures(&self) -> usize {
        self.pictures.len()
    }

    /// Fails when `path` exists, when its folder does not, or when that has no room for the file.
    pub(crate) fn check_room(&self, path: &Path) -> Result<()> {
        if path.exists() {
            return Err(Error::input(format!("{} is there already; remove it, or name another file", path.display())));
        }
        let folder = folder_of(path);
        let free = fs4::available_space(folder).map_err(|cause| Error::reading(folder, cause))?;
        if free < self.bytes {
            return Err(Error::input(format!(
                "{} needs {} but {} has {} left; a smaller --size needs less",
                path.display(),
                in_words(self.bytes),
                folder.display(),
                in_words(free)
            )));
        }
        Ok(())
    }

    /// Writes the file, whole or not at all, and says how many samples are in it. Samples whose picture is broken are left out and
    /// counted in the data set; `progress` is told how many pictures are done. Fails when more than `max_broken` are broken, when none
    /// is left, and when the file cannot be written.
    pub fn write(&self, path: &Path, max_broken: usize, progress: &mut dyn FnMut(usize)) -> Result<usize> {
        self.check_room(path)?;
        let mut filled = Ok(0);
        let written = write_new_with(path, |file| {
            self.fill(file, max_broken, progress).map(|samples| filled = Ok(samples)).map_err(|error| match error {
                Failure::Input(error) => {
                    let message = error.to_string();
                    filled = Err(error);
                    io::Error::other(message)
                }
                Failure::Writing(cause) => cause,
            })
        });
        let samples = filled?;
        written.map(|()| samples)
    }

    fn fill(&self, file: &mut dyn Write, max_broken: usize, progress: &mut dyn FnMut(usize)) -> Result<usize, Failure> {
        file.write_all(HEAD)?;
        let mut pictures = Vec::new();
        // The place of each planned picture among those that are whole.
        let mut place = vec![None; self.pictures.len()];
        for (number, chunk) in self.pictures.chunks(AT_ONCE).enumerate() {
            let squeezed: Vec<Result<(Picture, Vec<u8>)>> =
                chunk.par_iter().map(|sample| self.picture(*sample)).collect();
            let broken: HashMap<u32, &Error> = (number * AT_ONCE..)
                .zip(&squeezed)
                .filter_map(|(place, picture)| Some((place as u32, picture.as_ref().err()?)))
                .collect();
            self.dataset.count_broken(self.samples_of(&broken), max_broken)?;
            for (within, picture) in squeezed.into_iter().enumerate() {
                let Ok((picture, pixels)) = picture else { continue };
                file.write_all(&pixels)?;
                place[number * AT_ONCE + within] = Some(pictures.len() as u32);
                pictures.push(picture);
            }
            progress(number * AT_ONCE + chunk.len());
        }
        if pictures.is_empty() {
            return Err(Error::input(format!(
                "{}: no picture can be read; there is nothing to pack",
                self.dataset.name
            ))
            .into());
        }
        let row = |(sample, picture): (&Sample, &u32)| {
            Some(Row {
                id: sample.id,
                caption: sample.caption.clone(),
                class: sample.class.0,
                domain: sample.domain,
                time: sample.time,
                train: sample.split == Split::Train,
                picture: place[*picture as usize]?,
            })
        };
        let index = PackedIndex {
            version: VERSION,
            classes: self.dataset.classes.clone(),
            class_keys: self.dataset.class_keys.clone(),
            domains: self.dataset.domains.clone(),
            edges: self.edges,
            packed_from: self.dataset.fingerprint.clone(),
            pictures,
            samples: self.dataset.samples.iter().zip(&self.picture_of).filter_map(row).collect(),
        };
        let samples = index.samples.len();
        let index = serde_json::to_vec(&index).expect("an index is plain values");
        file.write_all(&index)?;
        file.write_all(&(index.len() as u64).to_le_bytes())?;
        file.write_all(&Sha256::digest(&index))?;
        file.write_all(FOOT)?;
        Ok(samples)
    }

    /// All samples of broken pictures, which `broken` has by their places, each with its error: a picture that several captions
    /// share is lost to all of them.
    fn samples_of(&self, broken: &HashMap<u32, &Error>) -> Vec<(u32, Error)> {
        if broken.is_empty() {
            return Vec::new();
        }
        let of_broken = |(sample, picture): (u32, &u32)| {
            let error = *broken.get(picture)?;
            let own = self.pictures[*picture as usize] == sample;
            // An error names its sample.
            let error =
                if own { None } else { self.dataset.image(sample as usize).err() }.unwrap_or_else(|| error.clone());
            Some((sample, error))
        };
        (0..).zip(&self.picture_of).filter_map(of_broken).collect()
    }

    fn picture(&self, sample: u32) -> Result<(Picture, Vec<u8>)> {
        let image = self.dataset.image(sample as usize)?;
        let train = self.dataset.samples[sample as usize].split == Split::Train;
        let edge = self.edges.of(train);
        let mut pixels = vec![0; transform::bytes(edge)];
        let (width, height) = if train {
            transform::squeeze(&image, edge, &mut pixels)?;
            image.dimensions()
        } else {
            transform::evaluation(&image, edge, &mut pixels)?;
            (edge as u32, edge as u32)
        };
        Ok((Picture { train, width, height, checksum: crc32fast::hash(&pixels) }, pixels))
    }
}

enum Failure {
    Input(Error),
    Writing(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Input(error)
    }
}

impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Failure {
        Failure::Writing(cause)
    }
}

/// `38.5 GB`.
pub(crate) fn in_words(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Opens the packed file `source.folder`. Fails when it is none, when it is cut short, or when its index was altered.
pub fn open(source: &Source) -> Result<Dataset> {
    let Some(path) = &source.folder else {
        return Err(Error::input(
            "the format 'packed' needs a file that 'perennial pack' wrote (data.folder, or --folder)",
        ));
    };
    let file = File::open(path).map_err(|cause| Error::reading(path, cause))?;
    let (index, hash) = read_index(&file).map_err(|what| Error::reading(path, what))?;
    let PackedIndex { classes, class_keys, domains, edges, pictures, samples: rows, .. } = index;
    let mut first_of_picture = Vec::new();
    let mut first: HashMap<u32, u32> = HashMap::new();
    let (mut samples, mut picture_of) = (Vec::new(), Vec::new());
    for (sample, row) in (0..).zip(rows) {
        first_of_picture.push(*first.entry(row.picture).or_insert(sample));
        picture_of.push(row.picture);
        samples.push(Sample {
            id: row.id,
            caption: row.caption,
            class: Label(row.class),
            domain: row.domain,
            time: row.time,
            split: if row.train { Split::Train } else { Split::Test },
        });
    }
    let offsets = pictures
        .iter()
        .scan(HEAD.len(), |end, picture| {
            let begin = *end;
            *end += transform::bytes(edges.of(picture.train));
            Some(begin)
        })
        .collect();
    let images = Squares { file, edges, pictures, offsets, picture_of };
    // The names that the file was packed with, unless others are asked for.
    let classes = match source.class_names.as_str() {
        "" => classes,
        names => class_names::readable(names, &class_keys)?,
    };
    let dataset = Dataset::new("packed", classes, domains, samples, hash, Box::new(images));
    Ok(dataset.with_class_keys(class_keys).with_shared_pictures(first_of_picture))
}

/// The index of a packed file, and its SHA-256 in hexadecimal; an error says only what is wrong.
fn read_index(file: &File) -> Result<(PackedIndex, String), String> {
    let short = || "the packed file is cut short; pack it again".to_string();
    let altered = |what: &str| format!("the packed file was altered ({what}); pack it again");
    let foreign = || "this is no packed file; 'perennial pack' writes one".to_string();
    let read = |bytes: &mut [u8], begin: u64| {
        file.read_exact_at(bytes, begin).map_err(|cause| match cause.kind() {
            ErrorKind::UnexpectedEof => short(),
            _ => cause.to_string(),
        })
    };
    let file_len = file.metadata().map_err(|cause| cause.to_string())?.len();
    let mut head = [0; HEAD.len()];
    if file_len < HEAD.len() as u64 {
        return Err(foreign());
    }
    read(&mut head, 0)?;
    if head != *HEAD {
        return Err(foreign());
    }
    let first = HEAD.len() as u64;
    let tail_begin = file_len.checked_sub(TAIL as u64).filter(|tail| *tail >= first).ok_or_else(short)?;
    let mut tail = [0; TAIL];
    read(&mut tail, tail_begin)?;
    if !tail.ends_with(FOOT) {
        return Err(short());
    }
    let len = u64::from_le_bytes(tail[..8].try_into().expect("eight bytes"));
    let begin = tail_begin.checked_sub(len).filter(|begin| *begin >= first);
    let begin = begin.ok_or_else(|| altered("the length of its index"))?;
    let mut bytes = vec![0; len as usize];
    read(&mut bytes, begin)?;
    let hash = Sha256::digest(&bytes);
    if hash[..] != tail[8..40] {
        return Err(altered("its index"));
    }
    let index: PackedIndex =
        serde_json::from_slice(&bytes).map_err(|cause| format!("its index is not ours: {cause}"))?;
    if index.version != VERSION {
        return Err(format!("version {} of packed files; this program reads {VERSION}: pack it again", index.version));
    }
    let pixels = |picture: &Picture| transform::bytes(index.edges.of(picture.train)) as u64;
    if !index.edges.are_possible() || index.pictures.iter().map(pixels).sum::<u64>() != begin - first {
        return Err(altered("its number of pixels"));
    }
    let fits = |row: &Row| {
        let of_split = index.pictures.get(row.picture as usize).is_some_and(|picture| picture.train == row.train);
        of_split && (row.class as usize) < index.classes.len() && (row.domain as usize) < index.domains.len()
    };
    let whole = |Picture { train, width, height, .. }: &Picture| {
        let square = [*width, *height].iter().all(|side| *side as usize == index.edges.test);
        let pixels = u64::from(*width) * u64::from(*height);
        (1..=picture::MOST_PIXELS).contains(&pixels) && (*train || square)
    };
    if index.samples.is_empty()
        || index.class_keys.len() != index.classes.len()
        || !index.samples.iter().all(fits)
        || !index.pictures.iter().all(whole)
    {
        return Err(altered("what its index says of the samples"));
    }
    Ok((index, hash.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Pictures in a packed file. It is read and not mapped: who cuts it off under a run makes an error and not a signal that ends the
/// process.
struct Squares {
    file: File,
    edges: Edges,
    pictures: Vec<Picture>,
    /// Where each picture begins in the file.
    offsets: Vec<usize>,
    /// Of each sample.
    picture_of: Vec<u32>,
}

impl Images for Squares {
    /// Of a training picture, its shape with the pixels that are there.
    fn load(&self, sample: usize) -> Result<RgbImage> {
        let (image, shape) = self.load_stored(sample)?;
        transform::unsqueeze(image, shape)
    }

    fn load_stored(&self, sample: usize) -> Result<(RgbImage, (u32, u32))> {
        let place = self.picture_of[sample] as usize;
        let (Picture { train, width, height, checksum }, begin) = (self.pictures[place], self.offsets[place]);
        let edge = self.edges.of(train);
        let mut pixels = vec![0; transform::bytes(edge)];
        self.file.read_exact_at(&mut pixels, begin as u64).map_err(|cause| match cause.kind() {
            ErrorKind::UnexpectedEof => {
                Error::input(format!("the packed file was cut short: picture {place}, from byte {begin}, is not there"))
                    .because(TRUNCATED)
            }
            _ => Error::input(format!("the packed file cannot be read at byte {begin}: {cause}")).because(UNREADABLE),
        })?;
        if crc32fast::hash(&pixels) != checksum {
            let what =
                format!("the packed file was altered: picture {place}, from byte {begin}, is not what was written");
            return Err(Error::input(what).because(ALTERED));
        }
        let image = RgbImage::from_raw(edge as u32, edge as u32, pixels).expect("three bytes a pixel");
        Ok((image, (width, height)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::broken;
    use crate::rng::{below, rng};

    /// Pictures of several shapes, smooth enough to be resized twice; sample 3 is broken, sample 1 shares the picture of sample 0.
    struct Fake;

    impl Images for Fake {
        fn load(&self, sample: usize) -> Result<RgbImage> {
            if sample == 3 {
                return Err(Error::input("torn in two").because(broken::TRUNCATED));
            }
            let (width, height) = [(64, 48), (64, 48), (40, 90), (1, 1), (50, 50), (70, 33)][sample];
            Ok(RgbImage::from_fn(width, height, |x, y| {
                let wave = |step: f64| (128.0 + 100.0 * ((f64::from(x) + 2.0 * f64::from(y)) * step).sin()) as u8;
                image::Rgb([wave(0.05), wave(0.08), wave(0.02) ^ sample as u8])
            }))
        }
    }

    fn dataset() -> Dataset {
        dataset_of(Box::new(Fake), vec![0, 0, 2, 3, 4, 5])
    }

    fn dataset_of(images: Box<dyn Images>, first_of_picture: Vec<u32>) -> Dataset {
        let sample = |index: usize| Sample {
            id: 100 + index as u64,
            caption: format!("number \"{index}\"\n"),
            class: Label(index as u32 % 2),
            domain: 0,
            time: 2000 + index as i32,
            split: if index < 4 { Split::Train } else { Split::Test },
        };
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let samples = (0..6).map(sample).collect();
        Dataset::new("fake", names(&["a b", "c"]), names(&["home"]), samples, "f".to_string(), images)
            .with_class_keys(names(&["a_b", "c"]))
            .with_shared_pictures(first_of_picture)
    }

    const EDGES: Edges = Edges { train: 32, test: 24 };

    fn packed(folder: &Path) -> Vec<u8> {
        let path = folder.join("p.pack");
        let dataset = dataset();
        let plan = Packing::of(&dataset, EDGES).unwrap();
        assert_eq!(plan.pictures(), 5);
        plan.write(&path, 1, &mut |_| {}).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!((bytes.len() as u64) <= plan.bytes);
        bytes
    }

    fn opened(path: &Path) -> Result<Dataset> {
        super::super::open(&Source::new("packed", Some(path)))
    }

    #[test]
    fn everything_but_broken_samples_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        packed(folder.path());
        let (before, after) = (dataset(), opened(&folder.path().join("p.pack")).unwrap());
        assert_eq!(
            (&after.classes, &after.class_keys, &after.domains),
            (&before.classes, &before.class_keys, &before.domains)
        );
        let expected: Vec<Sample> = [0, 1, 2, 4, 5].map(|index: usize| before.samples[index].clone()).to_vec();
        assert_eq!(after.samples, expected);
        assert_eq!((0..5).map(|sample| after.first_of_picture(sample)).collect::<Vec<_>>(), [0, 0, 2, 3, 4]);
        assert_eq!(after.image(2).unwrap().dimensions(), (21, 48));

        // Other readable names may be asked for: the data set's own are in the file.
        let names = folder.path().join("names.tsv");
        std::fs::write(&names, "c\tsea\na_b\talphabet\n").unwrap();
        let source = |names: &Path| Source {
            class_names: names.display().to_string(),
            ..Source::new("packed", Some(&folder.path().join("p.pack")))
        };
        assert_eq!(super::super::open(&source(&names)).unwrap().classes, ["alphabet", "sea"]);
        std::fs::write(&names, "c\tsea\n").unwrap();
        assert!(super::super::open(&source(&names)).is_err());
    }

    #[test]
    fn tests_are_what_evaluation_makes_of_the_pictures() {
        let folder = tempfile::tempdir().unwrap();
        packed(folder.path());
        let after = opened(&folder.path().join("p.pack")).unwrap();
        let (mut of_file, mut of_pack) = (vec![0; transform::bytes(24)], vec![0; transform::bytes(24)]);
        for (packed, original) in [(3, 4), (4, 5)] {
            transform::evaluation(&Fake.load(original).unwrap(), 24, &mut of_file).unwrap();
            let (image, shape) = after.stored_image(packed).unwrap();
            transform::evaluation_of(&image, shape, 24, &mut of_pack).unwrap();
            assert_eq!(of_file, of_pack);
        }
    }

    #[test]
    fn training_crops_are_those_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        packed(folder.path());
        let after = opened(&folder.path().join("p.pack")).unwrap();
        let bytes = transform::bytes(24);
        for (packed, original) in [(0, 0), (1, 1), (2, 2)] {
            let (image, shape) = after.stored_image(packed).unwrap();
            let file = Fake.load(original).unwrap();
            for draw in 0..20 {
                let (mut of_file, mut of_pack) = (vec![0; bytes], vec![0; bytes]);
                transform::training(&file, 24, (0.5, 1.0), &mut rng(draw, "crop", &[]), &mut of_file).unwrap();
                transform::training_of(&image, shape, 24, (0.5, 1.0), &mut rng(draw, "crop", &[]), &mut of_pack)
                    .unwrap();
                let sum: u32 = of_file.iter().zip(&of_pack).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
                // The pictures change by 10 a pixel and by 100 from side to side: another crop differs by far more.
                assert!(
                    sum as usize <= 4 * bytes,
                    "sample {original}, draw {draw}: {} a value",
                    sum as f64 / bytes as f64
                );
            }
            // So does evaluation of a training picture.
            let (mut of_file, mut of_pack) = (vec![0; bytes], vec![0; bytes]);
            transform::evaluation(&file, 24, &mut of_file).unwrap();
            transform::evaluation_of(&image, shape, 24, &mut of_pack).unwrap();
            let sum: u32 = of_file.iter().zip(&of_pack).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            assert!(sum as usize <= 4 * bytes, "sample {original}: {} a value", sum as f64 / bytes as f64);
        }
    }

    #[test]
    fn a_file_that_is_not_what_was_written_is_one_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let whole = packed(folder.path());
        let path = folder.path().join("wrong.pack");
        let message = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let message = opened(&path).unwrap_err().to_string();
            message.strip_prefix(&format!("cannot read {}: ", path.display())).unwrap().to_string()
        };
        assert!(message(b"PK\x03\x04").contains("this is no packed file"));
        assert!(message(&[]).contains("this is no packed file"));
        for len in [16, 40, whole.len() / 2, whole.len() - 1] {
            assert_eq!(message(&whole[..len]), "the packed file is cut short; pack it again", "{len} bytes");
        }
        let changed = |place: usize| {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            bytes
        };
        assert!(message(&changed(whole.len() - 60)).contains("was altered (its index)"));
        assert!(message(&changed(whole.len() - TAIL)).contains("was altered"));
        assert!(message(&[HEAD, &whole[20..]].concat()).contains("was altered (its number of pixels)"));

        // An index that is no accident, with its hash.
        let tail = whole.len() - TAIL;
        let len = u64::from_le_bytes(whole[tail..tail + 8].try_into().unwrap()) as usize;
        let index: serde_json::Value = serde_json::from_slice(&whole[tail - len..tail]).unwrap();
        let forged = |change: fn(&mut serde_json::Value)| {
            let mut index = index.clone();
            change(&mut index);
            let index = index.to_string().into_bytes();
            let size = (index.len() as u64).to_le_bytes();
            [&whole[..tail - len], &index, &size, &Sha256::digest(&index), FOOT].concat()
        };
        assert_eq!(forged(|_| {}), whole);
        let samples = "was altered (what its index says of the samples)";
        assert!(message(&forged(|index| index["pictures"][0]["width"] = u32::MAX.into())).contains(samples));
        assert!(message(&forged(|index| index["pictures"][0]["height"] = 0.into())).contains(samples));
        assert!(message(&forged(|index| index["pictures"][3]["height"] = 25.into())).contains(samples));
        assert!(message(&forged(|index| index["samples"][0]["picture"] = 9.into())).contains(samples));
        assert!(message(&forged(|index| index["samples"].as_array_mut().unwrap().clear())).contains(samples));
        std::fs::write(&path, forged(|index| index["samples"][2]["id"] = 100.into())).unwrap();
        let twice = opened(&path).unwrap_err().to_string();
        assert!(twice.starts_with("packed: sample 0 (from 0) and sample 2 (from 0) have the same id, 100"), "{twice}");

        std::fs::write(&path, changed(16 + 100)).unwrap();
        let dataset = opened(&path).unwrap();
        let error = dataset.image(0).unwrap_err();
        assert_eq!(error.reason(), Some(ALTERED));
        assert!(error.to_string().contains("picture 0, from byte 16,"), "{error}");
        assert!(dataset.image(2).is_ok());

        // Cut off while it is open.
        std::fs::write(&path, &whole).unwrap();
        let dataset = opened(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(16 + 100).unwrap();
        let error = dataset.image(0).unwrap_err();
        assert_eq!(error.reason(), Some(broken::TRUNCATED));
        assert!(error.to_string().contains("was cut short: picture 0, from byte 16,"), "{error}");
    }

    #[test]
    fn a_broken_picture_is_lost_to_all_its_captions() {
        struct Torn;

        impl Images for Torn {
            fn load(&self, sample: usize) -> Result<RgbImage> {
                Fake.load(if sample == 2 { 3 } else { sample })
            }
        }

        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset_of(Box::new(Torn), vec![0, 0, 2, 2, 4, 5]);
        let path = folder.path().join("p.pack");
        let plan = Packing::of(&dataset, EDGES).unwrap();
        assert!(plan.write(&path, 1, &mut |_| {}).unwrap_err().to_string().starts_with("2 broken samples"));
        assert_eq!(plan.write(&path, 2, &mut |_| {}).unwrap(), 4);
        assert_eq!(dataset.broken_samples(), [2, 3]);
        let first = dataset.broken().iter().flat_map(|(_, kind)| kind.first.clone()).collect::<Vec<_>>();
        assert!(first[0].starts_with("sample 2 (id 102)") && first[1].starts_with("sample 3 (id 103)"), "{first:?}");
        assert_eq!(opened(&path).unwrap().samples.len(), 4);
    }

    #[test]
    fn nothing_is_written_that_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.pack");
        let dataset = dataset();
        let plan = Packing::of(&dataset, EDGES).unwrap();
        let message = plan.write(&path, 0, &mut |_| {}).unwrap_err().to_string();
        assert!(message.contains("torn in two") && message.contains("data.max_broken = 0"), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(&path, "mine").unwrap();
        let message = plan.write(&path, 1, &mut |_| {}).unwrap_err().to_string();
        assert!(message.contains("is there already"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        let huge = Packing { bytes: u64::MAX, ..plan };
        let message = huge.check_room(&folder.path().join("q.pack")).unwrap_err().to_string();
        assert!(message.contains("needs 18446744073.7 GB but"), "{message}");
        assert!(Packing::of(&dataset, Edges { train: 0, test: 1 }).is_err());
    }

    #[test]
    fn damaged_files_are_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let whole = packed(folder.path());
        let path = folder.path().join("wrong.pack");
        let mut generator = rng(0, "damage", &[]);
        let mut draw = |most: usize| below(&mut generator, most as u64) as usize;
        for _ in 0..200 {
            let mut bytes = whole.clone();
            for _ in 0..1 + draw(4) {
                // The index and what follows it are as likely as the pixels.
                let place =
                    if draw(2) == 0 { draw(bytes.len()) } else { bytes.len() - 1 - draw(1500.min(bytes.len())) };
                bytes[place] = draw(256) as u8;
            }
            if draw(4) == 0 {
                bytes.truncate(draw(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(dataset) = opened(&path) {
                (0..dataset.samples.len()).for_each(|sample| drop(dataset.image(sample)));
            }
        }
    }
}
