//! Features of pictures in a memory-mapped file, so that each is computed once: `features.bin` in a run's directory.
//!
//! | bytes | what |
//! |---|---|
//! | 64 | header: `PERNFEAT`, the form, values of a pooled and of a projected feature, pictures of a block, pictures in all (u32 each), the key (32 bytes), a CRC-32 of all that |
//! | a block | of each picture its features, f32; a CRC-32 of the block's number and these |
//!
//! All numbers are little-endian. The key is a hash of whatever the features follow from; a file of another key, or none at all, is begun
//! anew. A block's place follows from its number; one that was not written whole, or is damaged, fails its checksum and is as one that was
//! never written. So nothing that is read here can be wrong: it is computed again.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"PERNFEAT";
const FORM: u32 = 1;
const HEADER: usize = 64;

/// How the pictures lie in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What the features follow from: weights, data, device.
    pub key: [u8; 32],
    /// Values of a pooled and of a projected feature.
    pub widths: [usize; 2],
    /// Pictures of a block at most.
    pub block: usize,
    /// Pictures of each group; a block has those of one group alone.
    pub groups: Vec<usize>,
}

impl Layout {
    /// The places of the pictures of each block.
    fn blocks(&self) -> Vec<Range<usize>> {
        let mut blocks = Vec::new();
        let mut first = 0;
        for count in &self.groups {
            let end = first + count;
            while first < end {
                let next = end.min(first + self.block);
                blocks.push(first..next);
                first = next;
            }
        }
        blocks
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        let pictures = self.groups.iter().sum::<usize>();
        let numbers = [FORM as usize, self.widths[0], self.widths[1], self.block, pictures];
        for (place, number) in numbers.into_iter().enumerate() {
            header[8 + 4 * place..][..4].copy_from_slice(&(number as u32).to_le_bytes());
        }
        header[28..60].copy_from_slice(&self.key);
        let sum = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&sum.to_le_bytes());
        header
    }
}

/// A file of features, open.
pub struct FeatureFile {
    path: PathBuf,
    file: File,
    /// All of it; what is written is seen.
    bytes: Mmap,
    widths: [usize; 2],
    blocks: Vec<Range<usize>>,
    /// Where each block begins.
    begins: Vec<usize>,
    /// Which blocks are known to be whole.
    whole: Vec<bool>,
}

impl FeatureFile {
    /// Opens the file at `path`, or makes it. Returns what is to be told: that one of something else lay there and was begun anew.
    pub fn open(path: &Path, layout: &Layout) -> Result<(FeatureFile, Option<String>)> {
        let blocks = layout.blocks();
        let width = layout.widths[0] + layout.widths[1];
        let mut end = HEADER;
        let mut begins = Vec::with_capacity(blocks.len());
        for block in &blocks {
            begins.push(end);
            end += 4 * (block.len() * width + 1);
        }
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = options.map_err(|cause| Error::writing(path, cause))?;
        let length = file.metadata().map_err(|cause| Error::reading(path, cause))?.len();
        let (mut head, header) = ([0; HEADER], layout.header());
        let is_it = length == end as u64 && file.read_exact_at(&mut head, 0).is_ok() && head == header;
        if !is_it {
            let begun =
                file.set_len(0).and_then(|()| file.set_len(end as u64)).and_then(|()| file.write_all_at(&header, 0));
            begun.map_err(|cause| Error::writing(path, cause))?;
        }
        // SAFETY: the run's directory is locked; a program that cuts the file short meanwhile ends this one.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|cause| Error::reading(path, cause))?;
        let note = (!is_it && length > 0).then(|| {
            format!("{}: it is damaged, or of other weights or data: its features are computed anew", path.display())
        });
        let whole = vec![false; blocks.len()];
        let file = FeatureFile { path: path.to_path_buf(), file, bytes, widths: layout.widths, blocks, begins, whole };
        Ok((file, note))
    }

    /// The places of the pictures of each block.
    pub fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    /// Whether a block is there, as it was written.
    pub fn is_whole(&mut self, block: usize) -> bool {
        if !self.whole[block] {
            let (begin, end) = self.place(block);
            let written = u32::from_le_bytes(self.bytes[end..end + 4].try_into().expect("four bytes"));
            self.whole[block] = checksum(block, &self.bytes[begin..end]) == written;
        }
        self.whole[block]
    }

    /// Writes a block: of each of its pictures the pooled feature, then the projected one. Fails where the disk does.
    pub fn write(&mut self, block: usize, values: &[f32]) -> Result<()> {
        let (begin, end) = self.place(block);
        let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(bytes.len(), end - begin, "the features of a block");
        bytes.extend(checksum(block, &bytes).to_le_bytes());
        self.file.write_all_at(&bytes, begin as u64).map_err(|cause| Error::writing(&self.path, cause))?;
        self.whole[block] = true;
        Ok(())
    }

    /// The pooled and the projected feature of the picture at `place` of a block that is whole.
    pub fn features(&self, block: usize, place: usize) -> (&[f32], &[f32]) {
        assert!(self.whole[block], "block {block} is not there");
        let width = self.widths[0] + self.widths[1];
        let row = &self.bytes[self.begins[block] + 4 * width * (place - self.blocks[block].start)..][..4 * width];
        // A header of 64 bytes, and values of four: they are aligned.
        bytemuck::cast_slice(row).split_at(self.widths[0])
    }

    /// From where to where a block's values lie.
    fn place(&self, block: usize) -> (usize, usize) {
        let begin = self.begins[block];
        (begin, begin + 4 * self.blocks[block].len() * (self.widths[0] + self.widths[1]))
    }
}

/// Of a block's number and its bytes; never 0, so that a hole in a file is no block of zeros.
fn checksum(block: usize, bytes: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&(block as u64).to_le_bytes());
    hash.update(bytes);
    hash.finalize().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { key: [7; 32], widths: [3, 2], block: 4, groups: vec![5, 0, 3] }
    }

    #[test]
    fn blocks_are_read_as_they_were_written_and_damage_is_a_block_that_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.bin");
        let values =
            |block: usize, count: usize| (0..5 * count).map(|at| (100 * block + at) as f32).collect::<Vec<f32>>();
        let (mut file, note) = FeatureFile::open(&path, &layout()).unwrap();
        assert_eq!((file.blocks(), note), (&[0..4, 4..5, 5..8][..], None));
        for block in [0, 2] {
            assert!(!file.is_whole(block));
            let count = file.blocks()[block].len();
            file.write(block, &values(block, count)).unwrap();
        }
        drop(file);
        let (mut file, note) = FeatureFile::open(&path, &layout()).unwrap();
        assert_eq!((note, [0, 1, 2].map(|block| file.is_whole(block))), (None, [true, false, true]));
        assert_eq!(file.features(2, 6), (&[205.0, 206.0, 207.0][..], &[208.0, 209.0][..]));
        drop(file);
        // Every bit of the file: the header begins it anew, a block's takes that block away.
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, &damaged).unwrap();
            let (mut file, note) = FeatureFile::open(&path, &layout()).unwrap();
            let there = [0, 1, 2].map(|block| file.is_whole(block));
            let expected = match at {
                0..64 => [false; 3],
                64..148 => [false, false, true],
                148..172 => [true, false, true],
                _ => [true, false, false],
            };
            assert_eq!((note.is_some(), there), (at < 64, expected), "byte {at}");
        }
        for other in [
            Layout { key: [8; 32], ..layout() },
            Layout { groups: vec![8], ..layout() },
            Layout { widths: [2, 3], ..layout() },
        ] {
            std::fs::write(&path, &whole).unwrap();
            let (mut file, note) = FeatureFile::open(&path, &other).unwrap();
            assert!(note.unwrap().contains("computed anew") && !file.is_whole(0));
        }
    }
}
