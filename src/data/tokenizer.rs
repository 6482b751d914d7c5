//! CLIP's tokenizer: from a text to the ids that the text tower reads, the same ids as open_clip's.
//!
//! A text is cleaned (`clean.rs` says what of open_clip's cleaning is missing), cut into words, and each word's bytes are
//! merged pair by pair, the pair that comes first in the list of merges first. The list is CLIP's, `data/clip/`.
//!
//! As in open_clip, the words `<start_of_text>` and `<end_of_text>` in a text (in any case, and unless punctuation
//! stands right before them) are the start and the end token. The text tower reads its feature at the first end token,
//! so such a text ends there.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::clean::clean;
use crate::error::{Error, Result};
use crate::files::write_atomically;

/// The merges in their order, one a line, with a space between the two parts.
static MERGES: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    let mut packed = GzDecoder::new(&include_bytes!("../../data/clip/merges.txt.gz")[..]);
    packed.read_to_string(&mut text).expect("the bundled merges are sound");
    text
});

/// How a cleaned text is cut into words. Two oddities are open_clip's: in all of its expression the case does not matter,
/// so that `ſ` is an `s` where `'s` is cut off, and U+0345, a mark that is the small form of a letter, is in no word.
const WORDS: &str = r"(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+";

/// Turns texts into token ids. Making one takes a moment (it builds the vocabulary's tables), so make it once; threads
/// can share it.
pub struct Tokenizer {
    /// The token of each byte; where it ends a word, 256 more.
    bytes: [u32; 256],
    /// The pair that becomes each token from number 512 on.
    pairs: Vec<(u32, u32)>,
    /// The token that each pair becomes. A smaller one is merged sooner.
    merged: HashMap<(u32, u32), u32>,
    words: Regex,
}

impl Tokenizer {
    /// The id in front of every text.
    pub const START: u32 = 49406;
    /// The id behind every text, the largest of all.
    pub const END: u32 = 49407;

    /// The tokenizer of every model that OpenAI and open_clip call CLIP: 49408 ids.
    pub fn clip() -> Tokenizer {
        let mut bytes = [0; 256];
        let mut names = HashMap::new();
        for (token, (byte, name)) in (0..).zip(named_bytes()) {
            bytes[byte as usize] = token;
            names.insert(name.to_string(), token);
            names.insert(format!("{name}</w>"), token + 256);
        }
        let mut pairs = Vec::new();
        for (token, line) in (512..).zip(MERGES.lines()) {
            let (left, right) = line.split_once(' ').expect("two parts");
            pairs.push((names[left], names[right]));
            names.insert(format!("{left}{right}"), token);
        }
        let merged = pairs.iter().copied().zip(512..).collect();
        Tokenizer { bytes, pairs, merged, words: Regex::new(WORDS).expect("well formed") }
    }

    /// The ids of `text`: start, body, end; at most `context` (2 or more) of them and no padding. A body that is too
    /// long loses its end.
    ///
    /// A model with a smaller vocabulary needs the caller's check that every id is below its size.
    pub fn encode(&self, text: &str, context: usize) -> Vec<u32> {
        assert!(context >= 2, "a context of {context} cannot hold the start and the end token");
        let mut text = clean(text);
        // No token stands for so many bytes that the rest could matter, and merging one long word takes quadratic time.
        const LONGEST_TOKEN: usize = 128;
        let mut end = text.len().min(context * LONGEST_TOKEN);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        let mut tokens = vec![Tokenizer::START];
        for word in self.words.find_iter(&text) {
            match word.as_str() {
                "<start_of_text>" => tokens.push(Tokenizer::START),
                "<end_of_text>" => tokens.push(Tokenizer::END),
                word => self.push_word(word, &mut tokens),
            }
            if tokens.len() >= context {
                break;
            }
        }
        tokens.truncate(context - 1);
        tokens.push(Tokenizer::END);
        tokens
    }

    /// The tokens of one word, behind those of the words before.
    fn push_word(&self, word: &str, tokens: &mut Vec<u32>) {
        let start = tokens.len();
        tokens.extend(word.bytes().map(|byte| self.bytes[byte as usize]));
        *tokens.last_mut().expect("the start token is before every word") += 256;
        while let Some(&token) = tokens[start..].windows(2).filter_map(|two| self.merged.get(&(two[0], two[1]))).min() {
            let (left, right) = self.pairs[token as usize - 512];
            let (mut from, mut to) = (start, start);
            while from < tokens.len() {
                let pair = tokens[from] == left && tokens.get(from + 1) == Some(&right);
                tokens[to] = if pair { token } else { tokens[from] };
                (from, to) = (from + 1 + usize::from(pair), to + 1);
            }
            tokens.truncate(to);
        }
    }
}

/// The bytes in the order of their tokens, each with the character that stands for it in the vocabulary: printable ones of
/// Latin-1 for themselves, the others, in order, for the characters from U+0100 on.
fn named_bytes() -> impl Iterator<Item = (u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255).filter(move |byte| !printable(byte)).zip('\u{100}'..);
    (0..=255).filter(printable).map(|byte| (byte, char::from(byte))).chain(others)
}

/// Writes the tokenizer's files as Hugging Face's `CLIPTokenizer.from_pretrained` reads them into `folder`: `vocab.json`,
/// `merges.txt`, `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, for texts of `context` tokens.
pub fn save_hugging_face(folder: &Path, context: usize) -> Result<()> {
    const SPECIAL: [(&str, u32); 2] = [("<|startoftext|>", Tokenizer::START), ("<|endoftext|>", Tokenizer::END)];
    let [start, end] = SPECIAL.map(|(name, _)| name);
    fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
    let names = named_bytes().map(|(_, name)| name.to_string());
    let ends = named_bytes().map(|(_, name)| format!("{name}</w>"));
    let merged = MERGES.lines().map(|line| line.replacen(' ', "", 1));
    let special = SPECIAL.iter().map(|(name, _)| name.to_string());
    let vocabulary: Map<String, Value> =
        names.chain(ends).chain(merged).chain(special).zip((0..).map(|token: u32| json!(token))).collect();

    let added = |(content, id): (&str, u32)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    let expression = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIAL.map(added),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": "\\s+" }, "content": " " },
            { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": expression }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] },
        "post_processor": { "type": "RobertaProcessing", "sep": [end, Tokenizer::END],
            "cls": [start, Tokenizer::START], "trim_offsets": false, "add_prefix_space": false },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": end, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
            "merges": MERGES.lines().collect::<Vec<_>>() },
    });
    let special = |content: &str| json!({ "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true });
    let map = json!({ "bos_token": special(start), "eos_token": special(end), "unk_token": special(end),
        "pad_token": end });
    let config = json!({
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "add_prefix_space": false,
        "do_lower_case": true,
        "errors": "replace",
        "model_max_length": context,
    });
    let write = |name: &str, content: String| write_atomically(&folder.join(name), content.as_bytes());
    write("vocab.json", format!("{}\n", json!(vocabulary)))?;
    write("merges.txt", format!("#version: 0.2\n{}", *MERGES))?;
    write("tokenizer.json", format!("{tokenizer}\n"))?;
    write("tokenizer_config.json", format!("{config:#}\n"))?;
    write("special_tokens_map.json", format!("{map:#}\n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::clip);

    /// What open_clip makes of varied lines; `make_tokens.py` beside it writes it.
    const OPEN_CLIP: &str = include_str!("../../tests/fixtures/tokens.json");

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        context: usize,
        ids: Vec<u32>,
    }

    #[test]
    fn ids_are_those_of_open_clip() {
        let cases: Vec<Case> = serde_json::from_str(OPEN_CLIP).unwrap();
        assert!(cases.len() > 500);
        for Case { text, context, ids } in cases {
            assert_eq!(TOKENIZER.encode(&text, context), ids, "{text:?} in {context}");
        }
    }

    #[test]
    fn long_text_keeps_its_end_token() {
        let ids = TOKENIZER.encode("a b c d e f", 4);
        assert_eq!(ids, [Tokenizer::START, 320, 321, Tokenizer::END]);
        assert_eq!(TOKENIZER.encode("a b c", 2), [Tokenizer::START, Tokenizer::END]);
    }

    #[test]
    fn endless_text_is_quick_and_starts_the_same() {
        for part in ["x", "é", "0", "lorem ipsum ", " \n "] {
            let (long, longer) = (part.repeat(3_000), part.repeat(100_000));
            assert_eq!(TOKENIZER.encode(&longer, 77), TOKENIZER.encode(&long, 77));
        }
    }

    #[test]
    fn hugging_faces_files_name_every_token_once() {
        let folder = tempfile::tempdir().unwrap();
        save_hugging_face(folder.path(), 77).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let vocabulary: HashMap<String, u32> = serde_json::from_str(&read("vocab.json")).unwrap();
        let mut ids: Vec<u32> = vocabulary.values().copied().collect();
        ids.sort();
        assert_eq!(ids, (0..=Tokenizer::END).collect::<Vec<_>>());
        // `Ġ` is the space's character; `in` is the first merge; "a photo of a cat" by the names of its ids.
        assert_eq!((vocabulary["!"], vocabulary["Ġ"], vocabulary["!</w>"], vocabulary["in"]), (0, 220, 256, 512));
        let words = ["a</w>", "photo</w>", "of</w>", "a</w>", "cat</w>"].map(|name| vocabulary[name]);
        assert_eq!(TOKENIZER.encode("a photo of a cat", 77)[1..6], words);
        assert_eq!(read("merges.txt").lines().count(), 1 + 48_894);
        let tokenizer: Value = serde_json::from_str(&read("tokenizer.json")).unwrap();
        assert_eq!(tokenizer["model"]["vocab"].as_object().unwrap().len(), 49_408);
        let config: Value = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
        assert_eq!(config["model_max_length"], 77);
    }

    proptest! {
        #[test]
        fn every_text_has_start_and_end(text in ".{0,200}", context in 2..80usize) {
            let ids = TOKENIZER.encode(&text, context);
            prop_assert!(ids.len() >= 2 && ids.len() <= context);
            prop_assert_eq!((ids[0], ids[ids.len() - 1]), (Tokenizer::START, Tokenizer::END));
            prop_assert!(ids.iter().all(|&id| id <= Tokenizer::END));
        }
    }
}
