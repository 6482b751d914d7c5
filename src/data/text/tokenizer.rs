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
use crate::files::{read_text, write_atomically};

/// The merges in their order, one a line, with a space between the two parts.
static MERGES: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    let mut packed = GzDecoder::new(&include_bytes!("../../../data/clip/merges.txt.gz")[..]);
    packed.read_to_string(&mut text).expect("the bundled merges are sound");
    text
});

/// How a cleaned text is cut into words. Two oddities are open_clip's: in all of its expression the case does not matter,
/// so that `ſ` is an `s` where `'s` is cut off, and U+0345, a mark that is the small form of a letter, is in no word.
const WORDS: &str = r"(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+";

/// Turns texts into token ids. Making one takes a moment (it builds the vocabulary's tables), so make it once; threads
/// can share it.
pub(crate) struct Tokenizer {
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
    pub(crate) const START: u32 = 49406;
    /// The id behind every text, the largest of all.
    pub(crate) const END: u32 = 49407;

    /// The tokenizer of every model that OpenAI and open_clip call CLIP: 49408 ids.
    pub(crate) fn clip() -> Tokenizer {
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
    pub(crate) fn encode(&self, text: &str, context: usize) -> Vec<u32> {
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

/// The start and the end token as Hugging Face's files name them.
const SPECIAL: [(&str, u32); 2] = [("<|startoftext|>", Tokenizer::START), ("<|endoftext|>", Tokenizer::END)];

/// The vocabulary as Hugging Face's files write it: the token of each name.
fn vocabulary() -> Map<String, Value> {
    let names = named_bytes().map(|(_, name)| name.to_string());
    let ends = named_bytes().map(|(_, name)| format!("{name}</w>"));
    let merged = MERGES.lines().map(|line| line.replacen(' ', "", 1));
    let special = SPECIAL.iter().map(|(name, _)| name.to_string());
    names.chain(ends).chain(merged).chain(special).zip((0..).map(|token: u32| json!(token))).collect()
}

/// Files of tokenizers of other kinds.
const FOREIGN: [&str; 6] =
    ["spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "vocab.txt", "bpe.codes"];

/// Classes of Hugging Face's that read any `tokenizer.json`.
const GENERAL: [&str; 3] = ["PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"];

/// Fails where the files of a tokenizer in `folder`, as Hugging Face writes them beside weights, are not those of CLIP's: the texts
/// would be read with other tokens than the weights were trained with. Returns a note where they are, and have more words. It is an error
/// of input; a folder without such files is no error.
pub fn check_folder(folder: &Path) -> Result<Vec<String>> {
    let read = |name: &str| {
        let path = folder.join(name);
        path.is_file().then(|| read_text(&path).map(|text| (path, text))).transpose()
    };
    let parse =
        |path: &Path, text: &str| serde_json::from_str::<Value>(text).map_err(|cause| Error::reading(path, cause));
    let other = |path: &Path, what: String| {
        let message = format!("{}: {what}; texts are read with CLIP's tokenizer alone", path.display());
        Error::input(message)
    };
    let mut class = String::new();
    if let Some((path, text)) = read("tokenizer_config.json")? {
        let config = parse(&path, &text)?;
        class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("").to_string();
        if !class.is_empty() && !class.starts_with("CLIPTokenizer") && !GENERAL.contains(&class.as_str()) {
            return Err(other(&path, format!("the tokenizer is a {class}")));
        }
        for (key, (name, _)) in ["bos_token", "eos_token"].into_iter().zip(SPECIAL) {
            let token = config.get(key).map(|token| token.get("content").unwrap_or(token));
            if let Some(token) = token.and_then(Value::as_str).filter(|token| *token != name) {
                return Err(other(&path, format!("{key} is '{}', not CLIP's '{name}'", token.escape_debug())));
            }
        }
    }
    if !class.starts_with("CLIPTokenizer")
        && let Some(name) = FOREIGN.iter().find(|name| folder.join(name).is_file())
    {
        return Err(other(&folder.join(name), "it is of a tokenizer of another kind".to_string()));
    }
    let ours = vocabulary();
    let mut more = Vec::new();
    // Every word of CLIP's must have its number, and others larger ones.
    let beside = |theirs: &Map<String, Value>| {
        theirs.keys().filter(|word| !ours.contains_key(*word)).cloned().collect::<Vec<_>>()
    };
    let compare = |path: &Path, theirs: &Map<String, Value>| {
        if let Some((word, id)) = ours.iter().find(|(word, id)| theirs.get(*word) != Some(*id)) {
            let found = theirs.get(word).map_or("none".to_string(), Value::to_string);
            let (count, word) = (theirs.len(), word.escape_debug());
            return Err(other(
                path,
                format!("of its {count} words '{word}' is number {found}, and CLIP's is number {id}"),
            ));
        }
        Ok(beside(theirs))
    };
    if let Some((path, text)) = read("tokenizer.json")? {
        let tokenizer = parse(&path, &text)?;
        let model = tokenizer.get("model").unwrap_or(&Value::Null);
        let kind = model.get("type").and_then(Value::as_str).unwrap_or("BPE");
        if kind != "BPE" {
            return Err(other(&path, format!("the tokenizer's model is a {kind}")));
        }
        match model.get("end_of_word_suffix").and_then(Value::as_str) {
            Some("</w>") => {}
            suffix => {
                let suffix = suffix.unwrap_or("");
                return Err(other(&path, format!("end_of_word_suffix is '{suffix}', not '</w>'")));
            }
        }
        match model.get("vocab").and_then(Value::as_object) {
            Some(words) => more.extend(compare(&path, words)?),
            None => return Err(other(&path, "it has no words".to_string())),
        }
    }
    for name in ["vocab.json", "added_tokens.json"] {
        let Some((path, text)) = read(name)? else { continue };
        let Value::Object(words) = parse(&path, &text)? else {
            return Err(other(&path, "it is no list of words".to_string()));
        };
        match name {
            "vocab.json" => more.extend(compare(&path, &words)?),
            _ => more.extend(beside(&words)),
        }
    }
    if let Some((path, text)) = read("merges.txt")? {
        let theirs = text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
        let mut theirs = theirs.enumerate();
        for ours in MERGES.lines() {
            match theirs.next() {
                Some((_, line)) if line.trim_end() == ours => {}
                Some((number, line)) => {
                    let line: String = line.chars().take(40).flat_map(char::escape_debug).collect();
                    return Err(other(&path, format!("its merge {} is '{line}', and CLIP's '{ours}'", number + 1)));
                }
                None => return Err(other(&path, format!("it ends before CLIP's merge '{ours}'"))),
            }
        }
    }
    more.sort();
    more.dedup();
    let note = more.first().map(|first| {
        format!(
            "{}: its tokenizer has {} words beside CLIP's, the first '{}'; they are read as plain text",
            folder.display(),
            more.len(),
            first.escape_debug()
        )
    });
    Ok(note.into_iter().collect())
}

/// Writes the tokenizer's files as Hugging Face's `CLIPTokenizer.from_pretrained` reads them into `folder`: `vocab.json`,
/// `merges.txt`, `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, for texts of `context` tokens.
pub fn save_hugging_face(folder: &Path, context: usize) -> Result<()> {
    let [start, end] = SPECIAL.map(|(name, _)| name);
    fs::create_dir_all(folder).map_err(|cause| Error::writing(folder, cause))?;
    let vocabulary = vocabulary();

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
    const OPEN_CLIP: &str = include_str!("../../../tests/fixtures/tokens.json");

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

    #[test]
    fn the_files_of_another_tokenizer_are_told_from_clips() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        let refused = |parts: &[&str]| {
            let message = check_folder(folder.path()).unwrap_err().to_string();
            for part in parts.iter().chain(&["CLIP's tokenizer alone"]) {
                assert!(message.contains(part), "'{part}' is not in: {message}");
            }
            save_hugging_face(folder.path(), 77).unwrap();
            assert_eq!(check_folder(folder.path()).unwrap(), [""; 0]);
        };
        assert_eq!(check_folder(folder.path()).unwrap(), [""; 0]);
        write("spiece.model", "x".into());
        let message = check_folder(folder.path()).unwrap_err().to_string();
        assert!(message.contains("spiece.model: it is of a tokenizer of another kind"), "{message}");
        fs::remove_file(folder.path().join("spiece.model")).unwrap();
        for class in ["BertTokenizer", "XLMRobertaTokenizerFast", "SiglipTokenizer"] {
            write("tokenizer_config.json", json!({ "tokenizer_class": class }).to_string());
            refused(&["tokenizer_config.json", &format!("the tokenizer is a {class}")]);
        }
        write("tokenizer_config.json", json!({ "eos_token": { "content": "[SEP]" } }).to_string());
        refused(&["eos_token is '[SEP]', not CLIP's '<|endoftext|>'"]);
        write("tokenizer.json", json!({ "model": { "type": "Unigram" } }).to_string());
        refused(&["tokenizer.json", "the tokenizer's model is a Unigram"]);
        write("tokenizer.json", json!({ "model": { "type": "BPE", "vocab": {} } }).to_string());
        refused(&["end_of_word_suffix is '', not '</w>'"]);

        let mut words = vocabulary();
        words.insert("cat</w>".into(), json!(5));
        write("vocab.json", json!(words).to_string());
        refused(&["vocab.json: of its 49408 words 'cat</w>' is number 5, and CLIP's is number 2368"]);
        words.shift_remove("cat</w>");
        write("vocab.json", json!(words).to_string());
        refused(&["of its 49407 words 'cat</w>' is number none"]);
        let swapped = MERGES.replacen("a n\n", "n a\n", 1);
        write("merges.txt", format!("#version: 0.2\n{swapped}"));
        refused(&["merges.txt: its merge", "is 'n a', and CLIP's 'a n'"]);
        write("merges.txt", "#version: 0.2\ni n\n".into());
        refused(&["merges.txt: it ends before CLIP's merge 't h'"]);

        write("added_tokens.json", json!({ "<cat-toy>": 49408 }).to_string());
        let notes = check_folder(folder.path()).unwrap();
        assert!(notes[0].contains("has 1 words beside CLIP's, the first '<cat-toy>'"), "{notes:?}");
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
