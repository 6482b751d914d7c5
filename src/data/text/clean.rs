//! What open_clip does to a text before it is cut into tokens: `ftfy.fix_text`, HTML's character references twice, white
//! space, lower case.
//!
//! Of ftfy one thing is missing, its repair of mojibake (text that was decoded by the wrong table, such as `sÃ³` for
//! `só`): it weighs evidence by long tables, and captions that need it are rare. What ftfy does otherwise is here, and in
//! its order: references in text without `<`, C1 controls as Windows-1252, ligatures, width, quotes, line breaks, terminal
//! escapes, control characters, composition (NFC); again until nothing changes.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

/// The text that is cut into tokens: cleaned, its words one space apart, in lower case.
pub(crate) fn clean(text: &str) -> String {
    // Most captions have nothing to clean.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'&') {
        return text.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    }
    let fixed = fix(text);
    let plain = unescape(&fixed);
    let plain = unescape(&plain);
    plain.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// ftfy's `fix_text` without the repair of mojibake, line by line.
fn fix(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    // From the first line with a `<` on, references may be markup's and stay.
    let mut references = true;
    for line in text.split_inclusive('\n') {
        references &= !line.contains('<');
        let mut line = Cow::Borrowed(line);
        loop {
            let next = fix_once(&line, references);
            if next == line {
                break;
            }
            line = Cow::Owned(next);
        }
        fixed.push_str(&line);
    }
    fixed
}

fn fix_once(text: &str, references: bool) -> String {
    static REFERENCE: LazyLock<Regex> = LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").expect("well formed"));
    static ESCAPE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("well formed"));
    let text = match references {
        true => REFERENCE.replace_all(text, |found: &Captures| strict_reference(&found[0])),
        false => Cow::Borrowed(text),
    };
    let mut plain = String::with_capacity(text.len());
    text.chars().for_each(|character| push_plain(character, &mut plain));
    ESCAPE.replace_all(&plain, "").chars().filter(|one| !is_control(*one)).nfc().collect()
}

/// What stands for a reference with its semicolon. Names of lower case may also be written in capitals, which makes the
/// character a capital.
fn strict_reference(reference: &str) -> String {
    if reference.starts_with("&#") {
        let plain = unescape(reference);
        return if plain.contains(';') { reference.to_string() } else { plain.into_owned() };
    }
    if let Some(character) = named(reference) {
        return character.to_string();
    }
    let lower = reference.to_ascii_lowercase();
    let shouted = reference == reference.to_ascii_uppercase() && unescape(reference) == reference;
    match named(&lower) {
        Some(character) if shouted => character.to_uppercase(),
        _ => reference.to_string(),
    }
}

/// The characters that HTML's reference, ampersand and all, stands for.
fn named(reference: &str) -> Option<&'static str> {
    let bytes = htmlize::ENTITIES.get(reference.as_bytes())?;
    Some(std::str::from_utf8(bytes).expect("the table holds UTF-8"))
}

/// C1 controls as Windows-1252 has them, ligatures taken apart, full and half width made usual, quotes made straight.
fn push_plain(character: char, text: &mut String) {
    let plain = match windows_1252(character).unwrap_or(character) {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        '\u{3000}' => " ",
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\r' | '\u{2028}' | '\u{2029}' => "\n",
        wide @ '\u{ff01}'..='\u{ffef}' => return text.extend(std::iter::once(wide).nfkc()),
        other => return text.push(other),
    };
    text.push_str(plain);
}

/// What Windows-1252 has in the place of a C1 control; none where it has nothing.
fn windows_1252(character: char) -> Option<char> {
    const PLACES: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    let place = (character as usize).checked_sub(0x80)?;
    PLACES.get(place).copied()
}

/// Characters that have no place in a text and that ftfy removes.
fn is_control(character: char) -> bool {
    matches!(character,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffc}')
}

/// Resolves HTML's character references, once, as Python's `html.unescape`: with or without a semicolon where HTML knows
/// the name so, and of a longer word the longest beginning that is a name.
fn unescape(text: &str) -> Cow<'_, str> {
    static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new("&(?:#([0-9]+);?|#[xX]([0-9a-fA-F]+);?|([^\\t\\n\\x0c <&#;]{1,32};?))").expect("well formed")
    });
    REFERENCE.replace_all(text, |found: &Captures| {
        if let Some(digits) = found.get(1) {
            return numbered(digits.as_str(), 10);
        }
        if let Some(digits) = found.get(2) {
            return numbered(digits.as_str(), 16);
        }
        let whole = &found[0];
        let ends = whole.char_indices().map(|(place, _)| place).skip(3).chain([whole.len()]);
        for end in ends.collect::<Vec<_>>().into_iter().rev() {
            if let Some(characters) = named(&whole[..end]) {
                return format!("{characters}{}", &whole[end..]);
            }
        }
        whole.to_string()
    })
}

/// The character of that number, by HTML's rules for those that are none; nothing for controls and noncharacters.
fn numbered(digits: &str, base: u32) -> String {
    let Ok(number) = u32::from_str_radix(digits, base) else { return '\u{fffd}'.to_string() };
    let character = match number {
        0 => '\u{fffd}',
        0x0d => '\r',
        0x80..=0x9f => windows_1252(char::from_u32(number).expect("a C1 control")).expect("one of 32"),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => return String::new(),
        _ if number & 0xfffe == 0xfffe && number <= 0x10ffff => return String::new(),
        _ => char::from_u32(number).unwrap_or('\u{fffd}'),
    };
    character.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_resolved_once_a_pass() {
        assert_eq!(unescape("&amp;lt; &#65;&#x42;&#X43; &#0067;"), "&lt; ABC C");
        assert_eq!(unescape("&notit; &ampx &eacute &#x80; &#x81;|&#1;|&#xfffe;|"), "¬it; &x é € \u{81}|||");
        assert_eq!(unescape("&#0;&#xd800;&#x110000;&#99999999999;"), "\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        for plain in ["&", "&;", "&#;", "&#x;", "&#+65;", "&#xg;", "&none;", "a & b; c", "&é;"] {
            assert_eq!(unescape(plain), plain);
        }
    }

    #[test]
    fn names_in_capitals_make_capitals() {
        assert_eq!(fix("P&EACUTE;REZ &Ntilde;&NTILDE;&nTILDE; BUNDESSTRA&SZLIG;E"), "PÉREZ ÑÑ&nTILDE; BUNDESSTRASSE");
    }

    #[test]
    fn markup_keeps_its_references_until_later() {
        assert_eq!(fix("“a” &rdquo;\n<b> &rdquo;\n&rdquo;"), "\"a\" \"\n<b> &rdquo;\n&rdquo;");
        assert_eq!(clean("<b> &rdquo;"), "<b> ”");
    }

    #[test]
    fn typography_becomes_plain() {
        let text = "ﬂuﬃeﬆ ＬＯＵＤ　Ｕﾀｰﾝ \u{1b}[36;44mblue\u{1b}[0m a\u{feff}b\u{0} e\u{301} \u{93}x\u{94}\u{85}";
        assert_eq!(clean(text), "fluffiest loud uターン blue ab é \"x\"…");
    }

    proptest! {
        #[test]
        fn cleaning_ends_and_leaves_single_spaces(text in "\\PC{0,80}|[&#;x0-9a-zA-Z< ]{0,80}") {
            let cleaned = clean(&text);
            prop_assert!(cleaned.split(' ').all(|word| !word.contains(char::is_whitespace)));
            prop_assert!(cleaned.is_empty() || cleaned.split(' ').all(|word| !word.is_empty()));
        }
    }
}
