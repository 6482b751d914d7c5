//! Prompts: the texts that stand for a class, made from templates such as `a photo of a {}.`
//!
//! Templates are data: text files, one a line, the class's name at `{}`, or at one word in braces, as in the lists of others: `{c}`,
//! `{0}`, `{classname}`. A JSON list of them is read too. The run's manifest records their hash.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use crate::data::fingerprint;
use crate::error::{Error, Result, unknown};
use crate::files::read_text;

/// Templates, in their file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

/// The templates that come with the program.
const BUNDLED: [(&str, &str); 5] = [
    ("emoji", include_str!("../../../presets/prompts/emoji.txt")),
    ("cifar", include_str!("../../../presets/prompts/cifar.txt")),
    ("imagenet", include_str!("../../../presets/prompts/imagenet.txt")),
    ("photo", include_str!("../../../presets/prompts/photo.txt")),
    ("bad-photo", include_str!("../../../presets/prompts/bad-photo.txt")),
];

const SLOT: &str = "{}";

impl Templates {
    /// Names of the bundled templates.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> + Clone {
        BUNDLED.iter().map(|(name, _)| *name)
    }

    /// Bundled templates by name, or those of a file whose name ends in `.txt` or `.json`. Fails when the name is not known, or
    /// when the file cannot be read or holds no templates.
    pub fn find(name: &str) -> Result<Templates> {
        if let Some((_, text)) = BUNDLED.iter().find(|(known, _)| *known == name) {
            return Templates::parse(name, text);
        }
        if !name.ends_with(".txt") && !name.ends_with(".json") {
            return Err(unknown("prompt templates", name, Templates::names()));
        }
        Templates::parse(name, &read_text(Path::new(name))?)
    }

    /// Reads templates, one a line, or a JSON list; empty lines are left out. `file` is their name in errors. Fails when there is none,
    /// one that does not hold a place for the class once, or one that is a piece of a program.
    pub fn parse(file: &str, text: &str) -> Result<Templates> {
        static PLACE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{[A-Za-z0-9_]*\}").expect("well formed"));
        let no_list = |cause| Error::input(format!("{file}: it begins as JSON and is no list of templates ({cause})"));
        let begin = text.trim_start();
        let begins_with_place = PLACE.find(begin).is_some_and(|place| place.start() == 0);
        let (kind, lines): (_, Vec<String>) =
            match begin.starts_with('[') || (begin.starts_with('{') && !begins_with_place) {
                true => ("template", serde_json::from_str(begin).map_err(no_list)?),
                false => ("line", text.lines().map(str::to_string).collect()),
            };
        let mut templates = Vec::new();
        for (number, template) in lines.iter().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            let wrong = |what: String| Err(Error::input(format!("{file}, {kind} {number}: {what}")));
            let quoted = template.starts_with(['"', '\'']) && template.trim_end_matches(',').ends_with(['"', '\'']);
            if quoted || template.starts_with("lambda ") || template.starts_with("f'") || template.starts_with("f\"") {
                return wrong(format!(
                    "found '{template}', a piece of a program; expected the words alone, as a photo of a {SLOT}."
                ));
            }
            match PLACE.find_iter(template).count() {
                _ if template.is_empty() => {}
                1 => templates.push(PLACE.replace(template, SLOT).into_owned()),
                found => return wrong(format!("found '{SLOT}' {found} times in '{template}', expected it once")),
            }
        }
        if templates.is_empty() {
            return Err(Error::input(format!(
                "{file}: found no templates, expected one a line, with '{SLOT}' for the class"
            )));
        }
        Ok(Templates(templates))
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.0.iter().map(String::as_str)
    }

    /// All prompts of a class, in the templates' order.
    pub(crate) fn prompts(&self, class: &str) -> Vec<String> {
        self.iter().map(|template| fill(template, class)).collect()
    }

    /// SHA-256 of the templates, in hexadecimal: for the run's manifest.
    pub(crate) fn hash(&self) -> String {
        fingerprint(self.iter().map(|template| ("", template.as_bytes())))
    }
}

/// The template with the class's name in its place.
pub(crate) fn fill(template: &str, class: &str) -> String {
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
    fn the_place_of_the_class_is_read_as_others_write_it() {
        let plain = Templates::parse("", "a photo of a {}.\n{} two\n").unwrap();
        for text in [
            "a photo of a {c}.\r\n{c} two",
            "a photo of a {0}.\n{classname} two",
            "[\"a photo of a {}.\", \"{class_name} two\"]",
        ] {
            assert_eq!(Templates::parse("", text).unwrap(), plain, "{text}");
        }
        assert_eq!(Templates::parse("", "{} one").unwrap().prompts("cat"), ["cat one"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json");
        std::fs::write(&path, "\u{feff}[\"a photo of a {}.\",\n\"{} two\"]").unwrap();
        assert_eq!(Templates::find(path.to_str().unwrap()).unwrap(), plain);
    }

    #[test]
    fn pieces_of_programs_are_refused() {
        let error = |text: &str| Templates::parse("my.txt", text).unwrap_err().to_string();
        for line in
            ["'a photo of a {}.',", "\"a photo of a {}.\"", "lambda c: f'a photo of a {c}.',", "f'a photo of a {c}.',"]
        {
            assert!(error(&format!("one {{}}\n    {line}")).starts_with("my.txt, line 2: found '"), "{line}");
        }
        assert!(error("imagenet_templates = [\n    'a photo of a {}.',\n]").contains("line 1: found '{}' 0 times"));
        assert!(
            error("{\"imagenet1k\": [\"a photo of a {c}.\"]}")
                .contains("it begins as JSON and is no list of templates")
        );
        assert!(error("[\n'a photo of a {}.',\n]").contains("it begins as JSON and is no list of templates"));
        assert!(error("a {c} of {c}").contains("found '{}' 2 times"));
    }

    #[test]
    fn errors_name_the_place() {
        let error = |text: &str| Templates::parse("my.txt", text).unwrap_err().to_string();
        assert_eq!(error("{}\na cat"), "my.txt, line 2: found '{}' 0 times in 'a cat', expected it once");
        assert!(error("{} {}").contains("line 1: found '{}' 2 times"));
        assert!(error(" \n").contains("my.txt: found no templates"));
        let message = Templates::find("cifra").unwrap_err().to_string();
        assert!(message.contains("did you mean 'cifar'"), "{message}");
        let message = Templates::find("no/such.txt").unwrap_err().to_string();
        assert!(message.starts_with("cannot read no/such.txt"), "{message}");
    }
}
