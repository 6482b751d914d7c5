//! CLIP's tokenizer: from a text to the ids that the text tower reads.
//!
//! The byte-pair encoding and its vocabulary are the crate `instant-clip-tokenizer`'s; this file adds what open_clip
//! does before and after. The ids are open_clip's, but for texts that it repairs with `ftfy` and that are rare in
//! captions: of that, typographic quotes become plain ones here (the names of emoji have them); mojibake, ligatures,
//! full-width letters, terminal escapes, control characters and decomposed accents stay as they are. Of HTML's
//! character references the numeric ones and `amp`, `lt`, `gt`, `quot`, `apos` and `nbsp` are resolved, and only with
//! their semicolon.
//!
//! As in open_clip, the words `<start_of_text>` and `<end_of_text>` in a text (in any case, and unless punctuation
//! stands right before them) are the start and the end token. The text tower reads its feature at the first end token,
//! so such a text ends there.

use instant_clip_tokenizer as clip;

/// Turns texts into token ids. Making one takes a moment (it builds the vocabulary's tables), so make it once; threads
/// can share it.
pub struct Tokenizer {
    inner: clip::Tokenizer,
}

impl Tokenizer {
    /// The id in front of every text.
    pub const START: u32 = 49406;
    /// The id behind every text, the largest of all.
    pub const END: u32 = 49407;

    /// The tokenizer of every model that OpenAI and open_clip call CLIP: 49408 ids.
    pub fn clip() -> Tokenizer {
        Tokenizer { inner: clip::Tokenizer::new() }
    }

    /// The ids of `text`: start, body, end; at most `context` (2 or more) of them and no padding. A body that is too
    /// long loses its end.
    ///
    /// A model with a smaller vocabulary needs the caller's check that every id is below its size.
    pub fn encode(&self, text: &str, context: usize) -> Vec<u32> {
        assert!(context >= 2, "a context of {context} cannot hold the start and the end token");
        let mut text = unescape(&unescape(&plain_quotes(text)));
        // No token stands for so many bytes that the rest could matter, and the encoding of one long word takes
        // quadratic time.
        const LONGEST_TOKEN: usize = 128;
        if text.len() > context * LONGEST_TOKEN {
            text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut end = text.len().min(context * LONGEST_TOKEN);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
        let mut tokens = vec![self.inner.start_of_text()];
        // Lower-cases, and white space only parts words.
        self.inner.encode(&text, &mut tokens);
        tokens.truncate(context - 1);
        tokens.push(self.inner.end_of_text());
        tokens.into_iter().map(|token| token.to_u16().into()).collect()
    }
}

fn plain_quotes(text: &str) -> String {
    let plain = |character| match character {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        other => other,
    };
    text.chars().map(plain).collect()
}

/// Resolves HTML's character references, once.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        // The longest reference is `&#1114111;`, beside leading zeros.
        let end = rest.bytes().take(16).position(|byte| byte == b';');
        match end.and_then(|end| Some((reference(&rest[1..end])?, end))) {
            Some((character, end)) => {
                plain.push(character);
                rest = &rest[end + 1..];
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain + rest
}

/// The character that stands between `&` and `;`.
fn reference(name: &str) -> Option<char> {
    // `from_str_radix` takes a sign, a reference has none.
    let number =
        |digits: &str, base| if digits.starts_with('+') { None } else { u32::from_str_radix(digits, base).ok() };
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => {
            let digits = name.strip_prefix('#')?;
            let code = match digits.strip_prefix(['x', 'X']) {
                Some(digits) => number(digits, 16),
                None => number(digits, 10),
            };
            code.and_then(char::from_u32)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

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
        assert!(cases.len() > 30);
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
    fn references_are_resolved_once_a_pass() {
        assert_eq!(unescape("&amp;lt; &#65;&#x42;&#X43; &#0067;"), "&lt; ABC C");
        for plain in ["&", "&;", "&#;", "&#x;", "&#+65;", "&#xg;", "&#1114112;", "&none;", "&amp", "a & b; c", "&é;"] {
            assert_eq!(unescape(plain), plain);
        }
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
