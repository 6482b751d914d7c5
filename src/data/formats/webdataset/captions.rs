//! One caption of several lines, or several captions, a line each.
//!
//! Sets for retrieval (CLIP_benchmark's Flickr30k and COCO) have the captions of a picture in one text, a line each. Crawled captions
//! hold a line's end now and then, and are one caption all the same. A list of shards is of one kind or the other.

use serde::{Deserialize, Serialize};

/// How a text of several lines is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Captions {
    /// Line by line where more than half of the texts of a list of shards have several lines, and few have an empty one among them,
    /// as paragraphs do.
    #[default]
    Auto,
    /// Each line is a caption of its own.
    Lines,
    /// Each text is one caption.
    Whole,
}

/// The captions that a text holds where it is read line by line.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// What was counted of the texts of a list of shards.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    texts: usize,
    /// Of them, those of several lines.
    several: usize,
    /// Of those, the ones with an empty line.
    paragraphs: usize,
    lines: usize,
}

impl Counted {
    pub(crate) fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Counted {
        let mut counted = Counted::default();
        for text in texts {
            let count = lines(text).count();
            counted.texts += 1;
            counted.lines += count;
            counted.several += usize::from(count > 1);
            counted.paragraphs += usize::from(text.lines().any(|line| line.trim().is_empty()));
        }
        counted
    }

    /// Whether the texts are read line by line.
    pub(crate) fn by_lines(&self, rule: Captions) -> bool {
        match rule {
            Captions::Auto => 2 * self.several > self.texts && 10 * self.paragraphs < self.several,
            Captions::Lines => true,
            Captions::Whole => false,
        }
    }

    /// What was done with the texts of `list`; nothing to tell where each is one line.
    pub(crate) fn note(&self, list: &str, rule: Captions) -> Option<String> {
        let Counted { texts, several, lines, .. } = self;
        let what = match self.by_lines(rule) {
            true => format!(
                "each line is a caption of its own, {lines} of them; data.webdataset.captions = \"whole\" reads a text as one"
            ),
            false => "each is one caption; data.webdataset.captions = \"lines\" makes one of each line".to_string(),
        };
        (*several > 0).then(|| format!("{list}: {several} of {texts} texts have several lines, and {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_for_retrieval_are_told_from_crawled_captions() {
        let counted = |texts: &[&str]| Counted::of(texts.iter().copied());
        let retrieval = counted(&["a cat\nthe cat\r\none cat", "a dog", "a bird\nthe bird\n"]);
        assert!(retrieval.by_lines(Captions::Auto) && !retrieval.by_lines(Captions::Whole));
        assert_eq!(
            retrieval.note("test", Captions::Auto).unwrap(),
            "test: 2 of 3 texts have several lines, and each line is a caption of its own, 6 of them; data.webdataset.captions = \
             \"whole\" reads a text as one"
        );
        let crawled = counted(&["a cat", "buy now\nfree delivery", "a dog", "a bird"]);
        assert!(!crawled.by_lines(Captions::Auto) && crawled.by_lines(Captions::Lines));
        let note = crawled.note("train", Captions::Auto).unwrap();
        assert!(note.starts_with("train: 1 of 4 texts have several lines, and each is one caption;"), "{note}");
        let described = counted(&["The picture shows a cat.\n\nIt sleeps.", "A dog.\n\nIt runs."]);
        assert!(!described.by_lines(Captions::Auto));
        assert_eq!(counted(&["a cat", "a dog"]).note("test", Captions::Lines), None);
        assert_eq!(lines(" a \r\n\n b\n").collect::<Vec<_>>(), ["a", "b"]);
    }
}
