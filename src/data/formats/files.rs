//! Pictures in files of their own: what formats of folders and of lists share.

use std::path::PathBuf;

use image::RgbImage;

use crate::data::{Images, broken};
use crate::error::Result;

/// Pictures in files of their own.
pub(crate) struct PictureFiles {
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

/// A row of a list: the list's place among others, and the line, from 1.
pub(crate) type Place = (u32, u32);

/// Pictures in files of their own that lists name; an error about one names the list and the line.
pub(crate) struct ListedFiles {
    pub pictures: PictureFiles,
    /// Names of the lists.
    pub lists: Vec<String>,
    /// Of each sample.
    pub places: Vec<Place>,
}

impl ListedFiles {
    fn place(&self, sample: usize) -> String {
        let (list, line) = self.places[sample];
        format!("{}, line {line}", self.lists[list as usize])
    }
}

impl Images for ListedFiles {
    fn load(&self, sample: usize) -> Result<RgbImage> {
        self.pictures.load(sample).map_err(|error| error.at(self.place(sample)))
    }

    fn name(&self, sample: usize) -> String {
        format!("{} ({})", self.pictures.name(sample), self.place(sample))
    }
}
