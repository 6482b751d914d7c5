//! `key.json` as Python writes it.
//!
//! Python's `json.dumps` writes what no standard has, and its `json.loads` reads it: `NaN`, `Infinity` and `-Infinity`, numbers beyond
//! what a double holds, and halves of surrogate pairs (`\ud83d` alone, of a text that was cut within an emoji). Of two values under
//! one key both take the last.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

/// Strings, which stay whole, and what may be a number.
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?s)"(?:[^"\\]|\\.)*"|-?Infinity|NaN|-?[0-9][0-9.eE+-]*"#).expect("the pattern is fine")
});
/// Escapes of a string: whole surrogate pairs, halves (the group), and all others.
static ESCAPE: LazyLock<Regex> = LazyLock::new(|| {
    let pattern =
        r"(?s)\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)";
    Regex::new(pattern).expect("the pattern is fine")
});

/// The object that a text is.
#[derive(Debug)]
pub(crate) struct Object {
    values: Map<String, Value>,
    /// Whether it holds what Python alone writes.
    pub is_odd: bool,
}

impl Object {
    /// Fails with what is wrong and where in the text.
    pub(crate) fn parse(text: &str) -> Result<Object, String> {
        if let Ok(values) = serde_json::from_str(text) {
            return Ok(Object { values, is_odd: false });
        }
        let values = serde_json::from_str(&strict(text)).map_err(|cause| format!("no JSON object: {cause}"))?;
        Ok(Object { values, is_odd: true })
    }

    /// The text or the number under a key; `None` where there is neither, or a blank text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let text = match self.values.get(key)? {
            Value::String(text) => text.trim().to_string(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

/// The text with `null` for every number that none is, and U+FFFD for every half of a surrogate pair.
fn strict(text: &str) -> Cow<'_, str> {
    TOKEN.replace_all(text, |token: &Captures| match &token[0] {
        string if string.starts_with('"') => ESCAPE
            .replace_all(string, |escape: &Captures| match escape.get(1) {
                Some(_) => r"\ufffd".to_string(),
                None => escape[0].to_string(),
            })
            .into_owned(),
        number if number.parse::<f64>().is_ok_and(f64::is_finite) => number.to_string(),
        // One that is no number at all stays, and is an error of its own.
        word if word.parse::<f64>().is_err() => word.to_string(),
        _ => "null".to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        // Of `json.dumps` in Python 3.13, and what its `json.loads` makes of it; a number that is none counts as no value.
        let text = r#"{"a": NaN, "b": [Infinity, -Infinity], "c": "cut \ud83d", "d": "\ud83d\ude00 \\ud83d NaN", "e": 1e999,
            "f": 123456789012345678901234567890, "g": -0.5, "h": "\ude00\ud83d\ud83d\ude00"}"#;
        let object = Object::parse(text).unwrap();
        assert!(object.is_odd);
        let expected = [
            ("a", None),
            ("b", None),
            ("c", Some("cut \u{fffd}")),
            ("d", Some("😀 \\ud83d NaN")),
            ("e", None),
            ("f", Some("1.2345678901234568e+29")),
            ("g", Some("-0.5")),
            ("h", Some("\u{fffd}\u{fffd}😀")),
            ("none", None),
        ];
        for (key, value) in expected {
            assert_eq!(object.text(key).as_deref(), value, "{key}");
        }
        let plain = Object::parse(r#"{"a": 1, "a": " two ", "b": " "}"#).unwrap();
        assert_eq!((plain.is_odd, plain.text("a").as_deref(), plain.text("b")), (false, Some("two"), None));
    }

    #[test]
    fn what_is_none_is_an_error_with_its_place() {
        for wrong in
            ["[1, 2", "", "[1]", "{\"a\": nan}", "{\"a\": NaN", "{\"a\": \"NaN}", "{\"a\": 1-2}", "{\"a\": 01}"]
        {
            let message = Object::parse(wrong).unwrap_err();
            assert!(message.starts_with("no JSON object: ") && message.contains("line 1 column"), "{wrong}: {message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_object_or_an_error(text in r#"[{}":,\\ud83e0NaIfinty\-\[\]]{0,40}"#, value in any::<f64>()) {
            let _ = Object::parse(&text);
            let object = Object::parse(&format!("{{\"a\": NaN, \"b\": {value:?}, \"c\": {text:?}}}"));
            if let Ok(object) = object {
                prop_assert_eq!(object.text("a"), None);
            }
        }
    }
}
