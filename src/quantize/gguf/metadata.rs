//! The key-value pairs of a GGUF file, read by type.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A value; integers and floats of all widths are told apart by sign only.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// u8 to u64
    Unsigned(u64),
    /// i8 to i64
    Signed(i64),
    /// f32 and f64
    Float(f64),
    /// One byte.
    Bool(bool),
    /// UTF-8
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Numbers or truth values of one type, as they lie in the file.
    Numbers(Numbers),
    /// Values that are read one by one: in a file, lists.
    List(Vec<Value>),
}

/// A list of numbers or truth values, which takes no more memory than the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// The number of their type in GGUF.
    pub kind: u32,
    /// Their bytes, little-endian.
    pub bytes: Vec<u8>,
}

impl Numbers {
    /// The values.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        let width = width(self.kind).unwrap_or(1);
        self.bytes.chunks_exact(width).filter_map(|bytes| scalar(self.kind, bytes))
    }
}

/// Bytes of a number or truth value of the type `kind` of GGUF; `None` for texts, lists and what is no type.
pub fn width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The value of the type `kind` in `bytes`, as many as [`width`] says.
pub fn scalar(kind: u32, bytes: &[u8]) -> Option<Value> {
    Some(match kind {
        0 => Value::Unsigned((*bytes.first()?).into()),
        1 => Value::Signed(i8::from_le_bytes(bytes.try_into().ok()?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
        3 => Value::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
        4 => Value::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        5 => Value::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        6 => Value::Float(f32::from_le_bytes(bytes.try_into().ok()?).into()),
        7 => Value::Bool(*bytes.first()? != 0),
        10 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
        11 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
        12 => Value::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
        _ => return None,
    })
}

impl Value {
    /// The value in words, for messages: long texts are cut.
    pub fn shown(&self) -> String {
        const CHARACTERS_MAX: usize = 60;
        match self {
            Value::Unsigned(number) => number.to_string(),
            Value::Signed(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Text(text) => {
                let more = if text.chars().count() > CHARACTERS_MAX { "..." } else { "" };
                format!("the text `{}{more}`", text.chars().take(CHARACTERS_MAX).collect::<String>())
            }
            Value::Texts(texts) => format!("a list of {} texts", texts.len()),
            Value::Numbers(numbers) => format!("a list of {} numbers", numbers.iter().count()),
            Value::List(values) => format!("a list of {} values", values.len()),
        }
    }
}

/// The key-value pairs of a file.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    values: HashMap<String, Value>,
}

impl Metadata {
    /// The pairs of the file at `path`.
    pub fn new(path: &Path, values: HashMap<String, Value>) -> Metadata {
        Metadata { path: path.to_path_buf(), values }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`, whatever it is.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The value of `key` as an unsigned integer.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "an unsigned integer", unsigned)
    }

    /// The value of `key` as an unsigned integer of 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.read(key, "an unsigned integer of 32 bits", |value| u32::try_from(unsigned(value)?).ok())
    }

    /// The value of `key` as a number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.read(key, "a number", number)
    }

    /// The value of `key` as text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.read(key, "text", text)
    }

    /// The value of `key` as a list of texts.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.read(key, "a list of texts", |value| match value {
            Value::Texts(texts) => Some(texts.iter().map(String::as_str).collect()),
            // A list without values has any type.
            Value::Numbers(numbers) if numbers.bytes.is_empty() => Some(Vec::new()),
            Value::List(values) => values.iter().map(text).collect(),
            _ => None,
        })
    }

    /// The value of `key` as a list of numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.read(key, "a list of numbers", |value| match value {
            Value::Numbers(numbers) => numbers.iter().map(|value| number(&value)).collect(),
            Value::Texts(texts) if texts.is_empty() => Some(Vec::new()),
            Value::List(values) => values.iter().map(number).collect(),
            _ => None,
        })
    }

    /// The value of `key` as an unsigned integer of 32 bits, which may be a list of one for each of `layers` layers,
    /// all of them equal.
    pub fn u32_per_layer(&self, key: &str, layers: u32) -> Result<Option<u32>> {
        let as_u32 = |value: &Value| u32::try_from(unsigned(value)?).ok();
        let numbers: Option<Vec<u32>> = match self.values.get(key) {
            Some(Value::Numbers(numbers)) => numbers.iter().map(|value| as_u32(&value)).collect(),
            Some(Value::List(values)) => values.iter().map(as_u32).collect(),
            _ => return self.u32(key),
        };
        let expected = format!("{layers} numbers, one a layer");
        let got = || self.values[key].shown();
        let numbers = numbers.ok_or_else(|| Error::damaged(&self.path, key, "unsigned integers of 32 bits", got()))?;
        let first = numbers.first().filter(|_| numbers.len() == layers as usize);
        let first = *first.ok_or_else(|| Error::damaged(&self.path, key, expected, got()))?;
        if numbers.iter().any(|number| *number != first) {
            let supported = "one number for all layers".into();
            return Err(Error::Unsupported { what: "layers of different shape".into(), got: key.into(), supported });
        }
        Ok(Some(first))
    }

    /// The error for a `value` that `key` must have and has not.
    pub fn missing(&self, key: &str, expected: &str) -> Error {
        Error::damaged(&self.path, key, expected, "no such key")
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        as_type: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let read = as_type(value).ok_or_else(|| Error::damaged(&self.path, key, expected, value.shown()))?;
        Ok(Some(read))
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Unsigned(value) => Some(*value),
        Value::Signed(value) => u64::try_from(*value).ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f32> {
    match value {
        Value::Unsigned(value) => Some(*value as f32),
        Value::Signed(value) => Some(*value as f32),
        Value::Float(value) => Some(*value as f32),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(value) => Some(value),
        _ => None,
    }
}
