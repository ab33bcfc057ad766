//! Reads JSON as Python's programs write it, and refuses objects that name a key twice.
//!
//! Python writes NaN and Infinity, which JSON does not know; editors put a byte order mark before the text. Neither is
//! a reason to refuse a model that does not use the field. A key that is there twice is: programs disagree on which one
//! counts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::encoding;
use crate::error::{self, Error};
use crate::filetype::{self, FileType};

/// Bytes of a configuration file at most: in memory it takes up to 80 times as many.
const CONFIG_BYTES_MAX: u64 = 32 << 20;
/// Bytes of any text file of a model at most.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// The text of the file at `path`, without a byte order mark. A Git LFS pointer, a web page and the like are refused by
/// name, as is a file of more than 1 GiB.
pub fn read_text(path: &Path) -> error::Result<String> {
    read_at_most(path, TEXT_BYTES_MAX)
}

/// As [`read_text`], of a configuration file, which has at most 32 MiB.
pub fn read_config(path: &Path) -> error::Result<String> {
    read_at_most(path, CONFIG_BYTES_MAX)
}

/// The bytes of a file that a person named, which may be a pipe. Fails where it cannot be read, and where it has more
/// than `bytes_max`.
pub fn read_bytes(path: &Path, bytes_max: u64) -> error::Result<Vec<u8>> {
    let read = File::open(path).and_then(|file| encoding::read_at_most(file, bytes_max));
    let too_long = || Error::damaged(path, "length", format!("at most {bytes_max} bytes"), "more");
    read.map_err(Error::io("read", path))?.ok_or_else(too_long)
}

/// The value in the configuration file at `path`.
pub fn read<T: DeserializeOwned>(path: &Path) -> error::Result<T> {
    parse(path, &read_config(path)?)
}

/// The object in the file at `path`, none of whose keys, at any depth, is there twice.
pub fn read_object(path: &Path) -> error::Result<Map<String, Value>> {
    parse_object(path, &read_config(path)?)
}

/// The object in `text`, which the file at `path` held, none of whose keys, at any depth, is there twice.
pub fn parse_object(path: &Path, text: &str) -> error::Result<Map<String, Value>> {
    let Unique(value) = parse(path, text)?;
    match value {
        Value::Object(object) => Ok(object),
        other => Err(Error::damaged(path, "JSON", "an object", shown(&other))),
    }
}

/// The value in `text`, which the file at `path` held, with or without a byte order mark.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> error::Result<T> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(&plain_numbers(text))
        .map_err(|fault| Error::damaged(path, "JSON", "the fields of such a file", fault))
}

/// A value in words, for messages: long ones are cut.
pub fn shown(value: &Value) -> String {
    const CHARACTERS_MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Reads a map of which no key is there twice; for `deserialize_with`.
pub fn unique<'de, D: Deserializer<'de>, V: Deserialize<'de>>(from: D) -> Result<BTreeMap<String, V>, D::Error> {
    struct Entries<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if entries.contains_key(&key) {
                    return Err(twice(&key));
                }
                let value = map.next_value().map_err(|fault| A::Error::custom(format!("`{key}`: {fault}")))?;
                entries.insert(key, value);
            }
            Ok(entries)
        }
    }

    from.deserialize_map(Entries(PhantomData))
}

/// The error for a key that is there twice.
pub fn twice<E: serde::de::Error>(key: &str) -> E {
    E::custom(format!("the key `{key}` twice"))
}

/// A value none of whose objects has a key twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Unique, D::Error> {
        from.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(twice(&key));
            }
            let Unique(value) = map.next_value()?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

fn read_at_most(path: &Path, bytes_max: u64) -> error::Result<String> {
    let (file, bytes) = filetype::open(path, FileType::Other, "text")?;
    if bytes > bytes_max {
        return Err(Error::damaged(path, "length", format!("at most {bytes_max} bytes"), bytes));
    }
    let mut read = Vec::with_capacity(bytes as usize);
    // A file that grows meanwhile is read no further.
    file.take(bytes).read_to_end(&mut read).map_err(Error::io("read", path))?;
    encoding::decode(read).map_err(|fault| Error::damaged(path, "text", encoding::EXPECTED, fault))
}

/// The text with numbers that JSON cannot state, NaN, Infinity and those beyond 64-bit floats, made into texts: where a
/// field of one is needed, it is no number.
fn plain_numbers(text: &str) -> Cow<'_, str> {
    let mut plain = String::new();
    let mut copied = 0;
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_alphanumeric()) {
        let from = text.len() - rest.len() + at;
        rest = &rest[at..];
        if rest.starts_with('"') {
            rest = after_string(rest);
            continue;
        }
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        let word;
        (word, rest) = rest.split_at(end);
        let number = word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
        let endless = number && word.parse::<f64>().is_ok_and(f64::is_infinite);
        if endless || ["NaN", "Infinity", "-Infinity"].contains(&word) {
            plain.push_str(&text[copied..from]);
            plain.extend(["\"", word, "\""]);
            copied = from + word.len();
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    plain.push_str(&text[copied..]);
    Cow::Owned(plain)
}

/// What comes after the string that `text` begins with; nothing where it does not end.
fn after_string(text: &str) -> &str {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return &text[at + 1..],
            _ => at += 1,
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(bytes: &[u8]) -> error::Result<Map<String, Value>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read_object(file.path())
    }

    #[test]
    fn numbers_of_python_and_marks_of_editors_are_taken() {
        let read = object(
            b"\xef\xbb\xbf{\"a\": NaN, \"b\": [Infinity, -Infinity, 1e999, -2.5], \"c\": \"NaN \\\" Infinity\"}",
        );
        let expected = json!({"a": "NaN", "b": ["Infinity", "-Infinity", "1e999", -2.5], "c": "NaN \" Infinity"});
        assert_eq!(Value::from(read.unwrap()), expected);
        let wide: Vec<u8> =
            [0xff, 0xfe].into_iter().chain("{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        assert_eq!(Value::from(object(&wide).unwrap()), json!({"a": 1}));
        for text in ["{\"a\": 1, \"b\": [true, false, null, -1e-3]}", "\"é\\\\\"", "\"open \\", "", "nan", "-"] {
            assert_eq!(plain_numbers(text), text);
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        for text in ["{\"rope\": 1, \"rope\": 1}", "{\"b\": [{\"rope\": 1, \"c\": 2, \"rope\": {}}]}"] {
            let fault = object(text.as_bytes()).unwrap_err().to_string();
            assert!(fault.contains("the key `rope` twice"), "{fault}");
        }
        assert!(object(b"{\"a\": {\"b\": 1}, \"c\": {\"b\": 1}}").is_ok());
    }

    #[test]
    fn what_is_no_object_is_refused_and_never_panics() {
        let deep = "[".repeat(100_000);
        for text in
            ["[1]", "7", "{\"a\":", deep.as_str(), "{\"a\": NaNa}", "version https://git-lfs.github.com/spec/v1"]
        {
            assert!(object(text.as_bytes()).is_err(), "{text:.20}");
        }
        assert!(object(b"\x80\x03}").is_err());
        assert!(shown(&json!("x".repeat(100))).len() < 70);
    }
}
