//! JSON as people and other programs write it: with a byte order mark, and with Python's words for what is no number.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

const UTF8_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
const UTF16_MARKS: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
/// What Python's `json` writes for floats that are no number, and reads again; JSON itself has no such words.
const NO_NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The text of `file`, whose content is `bytes`, without the byte order mark that it may begin with. Fails where the
/// bytes are not UTF-8.
pub fn text(file: &Path, mut bytes: Vec<u8>) -> Result<String> {
    if UTF16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(Error::damaged(file, "encoding", "UTF-8", "UTF-16, by its byte order mark: save it as UTF-8"));
    }
    if bytes.starts_with(UTF8_MARK) {
        bytes.drain(..UTF8_MARK.len());
    }
    String::from_utf8(bytes).map_err(|fault| Error::damaged(file, "encoding", "UTF-8", fault.utf8_error()))
}

/// The JSON of `file`, whose content is `text`. `NaN`, `Infinity` and `-Infinity` become the texts of these names, and
/// whoever reads the field finds that it is no number. Fails where the text is no JSON.
pub fn parse(file: &Path, text: &str) -> Result<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parsed = serde_json::from_str(text).or_else(|fault| {
        let quoted = quote_no_numbers(text).ok_or(fault)?;
        serde_json::from_str(&quoted)
    });
    parsed.map_err(|fault| Error::damaged(file, "JSON", "a value that can be read", fault))
}

/// The text with quotes around Python's words for what is no number; `None` where it has none.
fn quote_no_numbers(text: &str) -> Option<String> {
    let (mut quoted, mut found, mut at) = (String::with_capacity(text.len() + 16), false, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with('"') {
            let end = string_end(rest);
            quoted.push_str(&rest[..end]);
            at += end;
        } else if let Some(word) = NO_NUMBERS.iter().find(|word| rest.starts_with(**word)) {
            quoted.extend(["\"", word, "\""]);
            found = true;
            at += word.len();
        } else {
            let next = rest.chars().next().expect("text is left");
            quoted.push(next);
            at += next.len_utf8();
        }
    }
    found.then_some(quoted)
}

/// Bytes of the string that `text` begins with, its quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => (),
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file() -> &'static Path {
        Path::new("x.json")
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_json() {
        let marked = text(file(), b"\xef\xbb\xbf{\"a\": 1}".to_vec()).unwrap();
        assert_eq!(marked, "{\"a\": 1}");
        assert_eq!(parse(file(), "\u{feff}{\"a\": 1}").unwrap(), json!({"a": 1}));
    }

    #[test]
    fn other_encodings_are_named() {
        for bytes in [&b"\xff\xfe{\0}\0"[..], b"\xfe\xff\0{\0}"] {
            let fault = text(file(), bytes.to_vec()).unwrap_err().to_string();
            assert!(fault.contains("x.json") && fault.contains("UTF-16"), "{fault}");
        }
        assert!(text(file(), vec![b'{', 0xff]).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn the_words_of_python_for_no_number_are_read_outside_of_strings_only() {
        let source = r#"{"a": NaN, "NaN \" Infinity": [-Infinity, "NaN", Infinity, 1.5]}"#;
        let expected = json!({"a": "NaN", "NaN \" Infinity": ["-Infinity", "NaN", "Infinity", 1.5]});
        assert_eq!(parse(file(), source).unwrap(), expected);
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for source in ["", "{", "{\"a\": Nan}", "{\"a\": NaN", "\"NaN", "nothing"] {
            let fault = parse(file(), source).unwrap_err().to_string();
            assert!(fault.contains("x.json") && fault.contains("line 1"), "{source}: {fault}");
        }
    }
}
