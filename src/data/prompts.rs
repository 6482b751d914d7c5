//! Prompts: the texts that stand for a class, made from templates such as `a photo of a {}.`
//!
//! Templates are data: text files, one a line, the class's name at `{}`. The run's manifest records their hash.

use std::path::Path;

use super::fingerprint;
use crate::error::{Error, Result, unknown};

/// Templates, in their file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

/// The templates that come with the program.
const BUNDLED: [(&str, &str); 5] = [
    ("emoji", include_str!("../../presets/prompts/emoji.txt")),
    ("cifar", include_str!("../../presets/prompts/cifar.txt")),
    ("imagenet", include_str!("../../presets/prompts/imagenet.txt")),
    ("photo", include_str!("../../presets/prompts/photo.txt")),
    ("bad-photo", include_str!("../../presets/prompts/bad-photo.txt")),
];

const SLOT: &str = "{}";

impl Templates {
    /// Names of the bundled templates.
    pub fn names() -> impl Iterator<Item = &'static str> + Clone {
        BUNDLED.iter().map(|(name, _)| *name)
    }

    /// Bundled templates by name, or those of a file whose name ends in `.txt`. Fails when the name is not known, or
    /// when the file cannot be read or holds no templates.
    pub fn find(name: &str) -> Result<Templates> {
        if let Some((_, text)) = BUNDLED.iter().find(|(known, _)| *known == name) {
            return Templates::parse(name, text);
        }
        if !name.ends_with(".txt") {
            return Err(unknown("prompt templates", name, Templates::names()));
        }
        let text = std::fs::read_to_string(name).map_err(|cause| Error::reading(Path::new(name), cause))?;
        Templates::parse(name, &text)
    }

    /// Reads templates, one a line; empty lines are left out. `file` is their name in errors. Fails when there is none,
    /// or one that does not hold `{}` once.
    pub fn parse(file: &str, text: &str) -> Result<Templates> {
        let mut templates = Vec::new();
        for (line, template) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            match template.matches(SLOT).count() {
                _ if template.is_empty() => {}
                1 => templates.push(template.to_string()),
                found => {
                    let message =
                        format!("{file}, line {line}: found '{SLOT}' {found} times in '{template}', expected it once");
                    return Err(Error::input(message));
                }
            }
        }
        if templates.is_empty() {
            return Err(Error::input(format!(
                "{file}: found no templates, expected one a line, with '{SLOT}' for the class"
            )));
        }
        Ok(Templates(templates))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.0.iter().map(String::as_str)
    }

    /// All prompts of a class, in the templates' order.
    pub fn prompts(&self, class: &str) -> Vec<String> {
        self.iter().map(|template| fill(template, class)).collect()
    }

    /// SHA-256 of the templates, in hexadecimal: for the run's manifest.
    pub fn hash(&self) -> String {
        fingerprint(self.iter().map(|template| ("", template.as_bytes())))
    }
}

/// The template with the class's name in its place.
pub fn fill(template: &str, class: &str) -> String {
    template.replace(SLOT, class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_templates_are_whole() {
        let emoji = Templates::find("emoji").unwrap();
        assert_eq!(emoji.prompts("a cat")[..2], ["an emoji of a cat.", "a cat"]);
        let cifar = Templates::find("cifar").unwrap();
        assert_eq!(cifar.iter().len(), 18);
        assert!(cifar.iter().any(|template| template == "a photo of the small {}."));
        assert_ne!(emoji.hash(), cifar.hash());
    }

    #[test]
    fn file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.txt");
        std::fs::write(&path, "{} one\r\n\r\ntwo {}").unwrap();
        let templates = Templates::find(path.to_str().unwrap()).unwrap();
        assert_eq!(templates.iter().collect::<Vec<_>>(), ["{} one", "two {}"]);
        assert_eq!(templates.hash(), Templates::parse("", "{} one\ntwo {}\n").unwrap().hash());
    }

    #[test]
    fn errors_name_the_place() {
        let error = |text| Templates::parse("my.txt", text).unwrap_err().to_string();
        assert_eq!(error("{}\na cat"), "my.txt, line 2: found '{}' 0 times in 'a cat', expected it once");
        assert!(error("{} {}").contains("line 1: found '{}' 2 times"));
        assert!(error(" \n").contains("my.txt: found no templates"));
        let message = Templates::find("cifra").unwrap_err().to_string();
        assert!(message.contains("did you mean 'cifar'"), "{message}");
        let message = Templates::find("no/such.txt").unwrap_err().to_string();
        assert!(message.starts_with("cannot read no/such.txt"), "{message}");
    }
}
