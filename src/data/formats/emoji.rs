//! The bundled data set: every emoji as eight vendors drew it, over the years. `data/emoji/README.md` tells its story.
//!
//! A folder of this layout holds
//!
//! - `index.tsv`: UTF-8, a header line with the names of the columns, then a line for each image, columns parted by
//!   tabs. The columns `id`, `domain`, `tile`, `name`, `class`, `year` and `split` (`train` or `test`) are read, in
//!   whatever order they stand; others are left alone.
//! - an atlas for each domain, `<domain>.webp` or `<domain>.png`: tiles of 32 x 32 pixels in rows of 48, numbered from
//!   0 row by row. Transparency is dropped, as Pillow's `convert("RGB")` does.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use image::{GenericImageView, ImageDecoder, ImageReader, RgbImage};
use rayon::prelude::*;

use crate::data::images::picture;
use crate::data::{Dataset, Images, Label, Sample, Split, fingerprint};
use crate::error::{Error, Result};
use crate::files::decode_text;

/// Width and height of a tile, in pixels.
pub const TILE: u32 = 32;
/// Tiles in a row of an atlas.
pub const COLUMNS: u32 = 48;

const INDEX: &str = "index.tsv";
const ATLAS_EXTENSIONS: [&str; 2] = ["webp", "png"];

/// The data set inside the program: file names and bytes.
const BUNDLED: [(&str, &[u8]); 9] = [
    (INDEX, include_bytes!("../../../data/emoji/index.tsv")),
    ("noto.webp", include_bytes!("../../../data/emoji/noto.webp")),
    ("twemoji.webp", include_bytes!("../../../data/emoji/twemoji.webp")),
    ("openmoji.webp", include_bytes!("../../../data/emoji/openmoji.webp")),
    ("fluent.webp", include_bytes!("../../../data/emoji/fluent.webp")),
    ("emojione.webp", include_bytes!("../../../data/emoji/emojione.webp")),
    ("noto-v1.webp", include_bytes!("../../../data/emoji/noto-v1.webp")),
    ("emojione-v1.webp", include_bytes!("../../../data/emoji/emojione-v1.webp")),
    ("fxemoji.webp", include_bytes!("../../../data/emoji/fxemoji.webp")),
];

/// Opens the bundled data set, or the one in `folder`. All atlases are decoded into memory, 4 to 6 MB each.
///
/// Fails when a file is missing, cannot be decoded, or is not what the layout says; the error names the file, and for
/// `index.tsv` the line and the column.
pub fn open(folder: Option<&Path>) -> Result<Dataset> {
    match folder {
        None => build("the bundled", &|name| {
            Ok(BUNDLED.iter().find(|file| file.0 == name).map(|file| Cow::Borrowed(file.1)))
        }),
        Some(folder) => build(&folder.display().to_string(), &|name| {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(cause) => Err(Error::reading(&path, cause)),
            }
        }),
    }
}

/// The bytes of a file of the data set by its name, `None` where there is no such file.
type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Cow<'static, [u8]>>>;

fn build(place: &str, read: Read) -> Result<Dataset> {
    let file = |name: &str| Path::new(place).join(name);
    let missing = |name: &str| Error::reading(&file(name), "there is no such file");
    let bytes = read(INDEX)?.ok_or_else(|| missing(INDEX))?;
    let index = EmojiIndex::parse(&file(INDEX).display().to_string(), &bytes)?;

    let mut files = vec![(INDEX.to_string(), bytes)];
    for domain in &index.domains {
        files.push(find_atlas(domain, read)?.ok_or_else(|| missing(&format!("{domain}.{}", ATLAS_EXTENSIONS[0])))?);
    }
    let atlases: Vec<RgbImage> = files[1..]
        .par_iter()
        .map(|(name, bytes)| {
            picture::guarded(|| decode_atlas(bytes)).map_err(|cause| Error::reading(&file(name), cause))
        })
        .collect::<Result<_>>()?;
    let fingerprint = fingerprint(files.iter().map(|(name, bytes)| (name.as_str(), &**bytes)));
    index.check_tiles(&atlases)?;

    let EmojiIndex { classes, domains, samples, tiles, .. } = index;
    let images = Tiles { atlases, tiles };
    Ok(Dataset::new("emoji", classes, domains, samples, fingerprint, Box::new(images)))
}

fn find_atlas(domain: &str, read: Read) -> Result<Option<(String, Cow<'static, [u8]>)>> {
    for extension in ATLAS_EXTENSIONS {
        let name = format!("{domain}.{extension}");
        if let Some(bytes) = read(&name)? {
            return Ok(Some((name, bytes)));
        }
    }
    Ok(None)
}

/// Decodes an atlas and checks that whole tiles fill it; the error says only what is wrong with it.
fn decode_atlas(bytes: &[u8]) -> Result<RgbImage, String> {
    let not_decoded = |cause: image::ImageError| format!("not a whole image: {cause}");
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|cause| cause.to_string())?;
    let decoder = reader.into_decoder().map_err(not_decoded)?;
    // Before the pixels, so that a few bytes cannot ask for all the memory there is: WebP ends at 16383 pixels.
    let (width, height) = decoder.dimensions();
    if width != COLUMNS * TILE || height % TILE != 0 || height > 1 << 14 {
        return Err(format!(
            "found an image of {width} x {height} pixels, expected {} wide ({COLUMNS} tiles) and a multiple of {TILE} high",
            COLUMNS * TILE
        ));
    }
    Ok(image::DynamicImage::from_decoder(decoder).map_err(not_decoded)?.into_rgb8())
}

/// Atlases in memory; a sample's picture is cut out of its own.
struct Tiles {
    /// In the order of the domains.
    atlases: Vec<RgbImage>,
    /// Atlas and tile of each sample.
    tiles: Vec<(u32, u32)>,
}

impl Images for Tiles {
    fn load(&self, sample: usize) -> Result<RgbImage> {
        let (atlas, tile) = self.tiles[sample];
        let (x, y) = (tile % COLUMNS * TILE, tile / COLUMNS * TILE);
        Ok(self.atlases[atlas as usize].view(x, y, TILE, TILE).to_image())
    }
}

/// What `index.tsv` says.
#[derive(Debug)]
pub struct EmojiIndex {
    /// Readable names, sorted.
    pub(crate) classes: Vec<String>,
    /// In the order in which the file names them first.
    pub(crate) domains: Vec<String>,
    /// In the file's order.
    pub(crate) samples: Vec<Sample>,
    /// Domain and tile of each sample.
    pub(crate) tiles: Vec<(u32, u32)>,
    file: String,
    /// The column that holds the tile, counted from 0.
    tile_column: usize,
}

/// One line of the table with what an error about it needs.
struct Row<'a> {
    file: &'a str,
    /// Counted from 1, as editors do.
    line: usize,
    cells: Vec<&'a str>,
}

impl Row<'_> {
    /// The error of a cell: file, line, column, what was found and what was expected.
    fn wrong(&self, column: usize, name: &str, expected: impl std::fmt::Display) -> Error {
        wrong_cell(self.file, self.line, column, name, self.cells[column], expected)
    }

    fn text(&self, column: usize, name: &str) -> Result<&str> {
        let text = self.cells[column].trim();
        if text.is_empty() { Err(self.wrong(column, name, "a text")) } else { Ok(text) }
    }

    fn number<T: std::str::FromStr>(&self, column: usize, name: &str, expected: &str) -> Result<T> {
        self.cells[column].parse().map_err(|_| self.wrong(column, name, expected))
    }
}

fn wrong_cell(
    file: &str,
    line: usize,
    column: usize,
    name: &str,
    found: &str,
    expected: impl std::fmt::Display,
) -> Error {
    let column = column + 1;
    Error::input(format!("{file}, line {line}, column {column} ({name}): found {}, expected {expected}", quote(found)))
}

/// A cell as an error shows it: control characters escaped, at most 60 characters.
fn quote(cell: &str) -> String {
    let mut characters = cell.escape_debug();
    let shown: String = characters.by_ref().take(60).collect();
    format!("'{shown}{}'", if characters.next().is_some() { "..." } else { "" })
}

impl EmojiIndex {
    /// Reads the bytes of an `index.tsv`; `file` is its name in errors.
    ///
    /// Fails when the bytes are no UTF-8, no row follows the header, a column is missing or named twice, a line has
    /// another number of columns than the header, a number is none, a name, class or domain is empty or cannot be part
    /// of a file name, a split is neither `train` nor `test`, an id is given twice, or two samples of a domain share a
    /// tile.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<EmojiIndex> {
        // A byte order mark, of an editor's, is no part of the first column's name; UTF-16 has one always.
        let text = decode_text(bytes.to_vec()).map_err(|what| match std::str::from_utf8(bytes) {
            Err(cause) if !bytes.starts_with(&[0xff, 0xfe]) => not_utf8(file, bytes, cause.valid_up_to()),
            _ => Error::input(format!("{file}: {what}")),
        })?;
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
        let [id, domain, tile, name, class, year, split] =
            ["id", "domain", "tile", "name", "class", "year", "split"].map(|name| find_column(file, &header, name));
        let (id, domain, tile, name, class, year, split) = (id?, domain?, tile?, name?, class?, year?, split?);

        let mut index = EmojiIndex {
            classes: Vec::new(),
            domains: Vec::new(),
            samples: Vec::new(),
            tiles: Vec::new(),
            file: file.to_string(),
            tile_column: tile,
        };
        let mut domains = HashMap::new();
        let mut line_of_id = HashMap::new();
        let mut line_of_tile = HashMap::new();
        let mut classes = Vec::new();
        for (line, cells) in lines.enumerate().map(|(index, line)| (line_number(index), line.split('\t').collect())) {
            let row = Row { file, line, cells };
            if row.cells.len() != header.len() {
                let (found, expected) = (row.cells.len(), header.len());
                return Err(Error::input(format!(
                    "{file}, line {line}: found {found} columns, expected {expected} as in the header"
                )));
            }
            let sample_id: u64 = row.number(id, "id", "a whole number below 2^64")?;
            if let Some(first) = line_of_id.insert(sample_id, line) {
                return Err(row.wrong(id, "id", format!("an id of its own (line {first} has this one)")));
            }
            let domain_name = row.text(domain, "domain")?;
            if !is_file_name(domain_name) {
                return Err(row.wrong(domain, "domain", "letters, digits, '-', '_' and '.', no '.' in front"));
            }
            let domain_index = *domains.entry(domain_name.to_string()).or_insert_with(|| {
                index.domains.push(domain_name.to_string());
                index.domains.len() as u32 - 1
            });
            let tile_index: u32 = row.number(tile, "tile", "a whole number below 2^32")?;
            if let Some(first) = line_of_tile.insert((domain_index, tile_index), line) {
                return Err(row.wrong(tile, "tile", format!("a tile of its own (line {first} has this one)")));
            }
            let class_name = readable(row.text(class, "class")?);
            let split = match row.cells[split] {
                "train" => Split::Train,
                "test" => Split::Test,
                _ => return Err(row.wrong(split, "split", "'train' or 'test'")),
            };
            index.samples.push(Sample {
                id: sample_id,
                caption: format!("{}, {class_name}", row.text(name, "name")?),
                class: Label(0),
                domain: domain_index,
                time: row.number(year, "year", "a year")?,
                split,
            });
            index.tiles.push((domain_index, tile_index));
            classes.push(class_name);
        }
        if index.samples.is_empty() {
            return Err(Error::input(format!("{file}: found no samples, expected lines after the header")));
        }

        index.classes = classes.clone();
        index.classes.sort();
        index.classes.dedup();
        for (sample, class) in index.samples.iter_mut().zip(&classes) {
            sample.class = Label(index.classes.binary_search(class).expect("every class is in the list") as u32);
        }
        Ok(index)
    }

    /// Fails when a sample's tile lies outside its domain's atlas (`atlases` in the order of `domains`).
    fn check_tiles(&self, atlases: &[RgbImage]) -> Result<()> {
        for (sample, &(domain, tile)) in self.tiles.iter().enumerate() {
            let count = atlases[domain as usize].height() / TILE * COLUMNS;
            if tile >= count {
                let expected =
                    format!("below {count}, the number of tiles in the atlas '{}'", self.domains[domain as usize]);
                let line = line_number(sample);
                return Err(wrong_cell(&self.file, line, self.tile_column, "tile", &tile.to_string(), expected));
            }
        }
        Ok(())
    }
}

/// The file's line, counted from 1, on which the sample at `index` stands: the header is the first.
fn line_number(index: usize) -> usize {
    index + 2
}

fn find_column(file: &str, header: &[&str], name: &str) -> Result<usize> {
    let mut places = header.iter().enumerate().filter(|(_, title)| **title == name).map(|(place, _)| place);
    let found = || header.iter().take(20).map(|title| quote(title)).collect::<Vec<_>>().join(", ");
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (Some(_), Some(second)) => Err(wrong_cell(file, 1, second, name, name, "each column once")),
        (None, _) => {
            Err(Error::input(format!("{file}, line 1: found the columns {}, expected one named '{name}'", found())))
        }
    }
}

fn not_utf8(file: &str, bytes: &[u8], offset: usize) -> Error {
    let line = 1 + bytes[..offset].iter().filter(|&&byte| byte == b'\n').count();
    let column =
        1 + bytes[..offset].iter().rev().take_while(|&&byte| byte != b'\n').filter(|&&byte| byte == b'\t').count();
    Error::input(format!(
        "{file}, line {line}, column {column}: found the byte 0x{:02x}, expected UTF-8",
        bytes[offset]
    ))
}

/// Whether a domain's name can be part of a file name on every system, and stays inside the folder.
fn is_file_name(name: &str) -> bool {
    !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A class as a prompt wants it: "arts & crafts" becomes "arts and crafts", "face-smiling" becomes "face smiling".
/// Names that read the same are one class.
fn readable(class: &str) -> String {
    let words = class.replace(['-', '_'], " ").replace('&', " and ");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "id\tdomain\ttile\tcodepoints\tname\tgroup\tclass\tyear\tsplit";
    const SMALL: &str = "id\tdomain\ttile\tcodepoints\tname\tgroup\tclass\tyear\tsplit
7\tsun\t0\t1F600\tgrinning face\tSmileys\tface-smiling\t2010\ttrain
9\tmoon\t0\t1F3A8\tpalette\tActivities\tarts & crafts\t2015\ttest
8\tsun\t47\t1F603\tsão tomé\tFlags\tface-smiling\t-1\ttest
";

    fn parse_error(text: &str) -> String {
        EmojiIndex::parse("index.tsv", text.as_bytes()).unwrap_err().to_string()
    }

    /// An atlas of one row; the pixel at (x, y) is (x mod 251, y, tile).
    fn atlas(rows: u32) -> RgbImage {
        RgbImage::from_fn(COLUMNS * TILE, rows * TILE, |x, y| {
            image::Rgb([(x % 251) as u8, y as u8, (x / TILE + y / TILE * COLUMNS) as u8])
        })
    }

    fn encode(image: &RgbImage, format: image::ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    fn folder(index: &str, sun: &[u8], moon: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(INDEX), index).unwrap();
        std::fs::write(folder.path().join("sun.webp"), sun).unwrap();
        std::fs::write(folder.path().join("moon.png"), moon).unwrap();
        folder
    }

    #[test]
    fn index_is_read() {
        let index = EmojiIndex::parse("index.tsv", SMALL.as_bytes()).unwrap();
        assert_eq!(index.classes, ["arts and crafts", "face smiling"]);
        assert_eq!(index.domains, ["sun", "moon"]);
        assert_eq!(index.tiles, [(0, 0), (1, 0), (0, 47)]);
        let expected = |id, caption: &str, class, domain, time, split| Sample {
            id,
            caption: caption.to_string(),
            class: Label(class),
            domain,
            time,
            split,
        };
        let samples = [
            expected(7, "grinning face, face smiling", 1, 0, 2010, Split::Train),
            expected(9, "palette, arts and crafts", 0, 1, 2015, Split::Test),
            expected(8, "são tomé, face smiling", 1, 0, -1, Split::Test),
        ];
        assert_eq!(index.samples, samples);
        assert_eq!(EmojiIndex::parse("", SMALL.replace('\n', "\r\n").as_bytes()).unwrap().samples, samples);
    }

    #[test]
    fn errors_of_the_index_name_the_place() {
        let change = |from: &str, to: &str| parse_error(&SMALL.replacen(from, to, 1));
        let cases = [
            (
                change("9\tmoon", "7\tmoon"),
                "line 3, column 1 (id): found '7', expected an id of its own (line 2 has this one)",
            ),
            (change("9\tmoon", "x\tmoon"), "line 3, column 1 (id): found 'x', expected a whole number below 2^64"),
            (change("moon", "../moon"), "line 3, column 2 (domain): found '../moon'"),
            (change("moon", ""), "line 3, column 2 (domain): found '', expected a text"),
            (change("\t47\t", "\t-1\t"), "line 4, column 3 (tile): found '-1', expected a whole number"),
            (change("\t47\t", "\t0\t"), "line 4, column 3 (tile): found '0', expected a tile of its own (line 2"),
            (change("palette", " "), "line 3, column 5 (name): found ' ', expected a text"),
            (change("2010", "soon"), "line 2, column 8 (year): found 'soon', expected a year"),
            (change("train", "Train"), "line 2, column 9 (split): found 'Train', expected 'train' or 'test'"),
            (change("\ttrain", ""), "line 2: found 8 columns, expected 9 as in the header"),
            (change("\tyear", "\tdate"), "line 1: found the columns 'id', 'domain', 'tile'"),
            (change("\tyear", "\tdate"), "expected one named 'year'"),
            (change("codepoints", "year"), "line 1, column 8 (year): found 'year', expected each column once"),
            (parse_error(""), "line 1: found the columns '', expected one named 'id'"),
            (parse_error(HEADER), "index.tsv: found no samples"),
            (change("train", "train\n"), "line 3: found 1 columns"),
        ];
        for (message, expected) in cases {
            assert!(message.starts_with("index.tsv") && message.contains(expected), "{message}\nlacks {expected}");
        }
        let bytes: Vec<u8> = SMALL.bytes().map(|byte| if byte == b'p' { 0xff } else { byte }).collect();
        let message = EmojiIndex::parse("index.tsv", &bytes).unwrap_err().to_string();
        assert_eq!(message, "index.tsv, line 1, column 4: found the byte 0xff, expected UTF-8");
    }

    #[test]
    fn folder_is_read() {
        let (sun, moon) = (encode(&atlas(2), image::ImageFormat::WebP), encode(&atlas(1), image::ImageFormat::Png));
        let folder = folder(SMALL, &sun, &moon);
        let dataset = crate::data::open(&crate::data::Source::new("emoji", Some(folder.path()))).unwrap();
        assert_eq!(dataset.samples.len(), 3);
        let tile = dataset.image(2).unwrap();
        assert_eq!(tile.dimensions(), (TILE, TILE));
        assert_eq!(tile, atlas(1).view(47 * TILE, 0, TILE, TILE).to_image());
        assert!(dataset.image(3).is_err());
        let before = dataset.fingerprint.clone();
        std::fs::write(folder.path().join(INDEX), SMALL.replace("2015", "2016")).unwrap();
        assert_ne!(open(Some(folder.path())).unwrap().fingerprint, before);
    }

    #[test]
    fn errors_of_a_folder_name_the_file() {
        let (sun, moon) = (encode(&atlas(2), image::ImageFormat::WebP), encode(&atlas(1), image::ImageFormat::Png));
        let error = |index: &str, sun: &[u8], moon: &[u8]| {
            let folder = folder(index, sun, moon);
            open(Some(folder.path())).unwrap_err().to_string()
        };
        let outside = SMALL.replace("\t47\t", "\t96\t");
        let no_moon = SMALL.replace("moon", "mars");
        let narrow = encode(&RgbImage::new(64, 32), image::ImageFormat::Png);
        let cases = [
            (error(&outside, &sun, &moon), "index.tsv, line 4, column 3 (tile): found '96', expected below 96"),
            (error(&no_moon, &sun, &moon), "mars.webp: there is no such file"),
            (error(SMALL, &sun[..sun.len() / 2], &moon), "sun.webp: not a whole image"),
            (error(SMALL, b"", &moon), "sun.webp: not a whole image"),
            (error(SMALL, &sun, &moon[..moon.len() / 2]), "moon.png: not a whole image"),
            (error(SMALL, &sun, &narrow), "moon.png: found an image of 64 x 32 pixels, expected 1536 wide"),
        ];
        for (message, expected) in cases {
            assert!(message.contains(expected), "{message}\nlacks {expected}");
        }
        let message = open(Some(Path::new("/no/such/folder"))).unwrap_err().to_string();
        assert_eq!(message, "cannot read /no/such/folder/index.tsv: there is no such file");
    }

    #[test]
    fn bundled_data_is_whole() {
        let dataset = open(None).unwrap();
        assert!(dataset.samples.len() > 10_000, "{dataset:?}");
        assert_eq!(dataset.domains.len(), BUNDLED.len() - 1);
        assert!(dataset.classes.iter().all(|class| !class.contains(['-', '&', '_'])));
        for index in 0..dataset.samples.len() {
            let tile = dataset.image(index).unwrap();
            // Nothing is blank: some pixel differs from the first.
            assert!(tile.pixels().any(|pixel| pixel != tile.get_pixel(0, 0)), "{:?}", dataset.samples[index]);
        }
    }

    /// Bytes with a few of them replaced, removed from the end or inserted.
    fn damaged(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
        let edits = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3u8), 0..8);
        (edits, any::<proptest::sample::Index>(), any::<bool>()).prop_map(move |(edits, end, cut)| {
            let mut bytes = whole.clone();
            for (place, byte, kind) in edits {
                let place = place.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
                match kind {
                    0 if !bytes.is_empty() => bytes[place] = byte,
                    1 if !bytes.is_empty() => drop(bytes.remove(place)),
                    _ => bytes.insert(place, byte),
                }
            }
            if cut {
                bytes.truncate(end.index(bytes.len() + 1));
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn damaged_index_never_panics(bytes in damaged(SMALL.as_bytes().to_vec())) {
            if let Ok(index) = EmojiIndex::parse("index.tsv", &bytes) {
                prop_assert_eq!(index.samples.len(), index.tiles.len());
                prop_assert!(index.samples.iter().all(|sample| sample.class.index() < index.classes.len()));
            }
        }

        #[test]
        fn random_index_never_panics(lines in "(id\tdomain\ttile\tname\tclass\tyear\tsplit\n)?([0-9a-z\t\r\n&.-]{0,80})") {
            let _ = EmojiIndex::parse("index.tsv", lines.as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_webp_never_panics(bytes in damaged(encode(&atlas(1), image::ImageFormat::WebP))) {
            let _ = decode_atlas(&bytes);
        }

        #[test]
        fn damaged_png_never_panics(bytes in damaged(encode(&atlas(1), image::ImageFormat::Png))) {
            let _ = decode_atlas(&bytes);
        }
    }
}
