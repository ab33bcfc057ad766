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
    /// Values of one type.
    List(Vec<Value>),
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
        self.read(key, "a list of texts", |value| list(value)?.iter().map(text).collect())
    }

    /// The value of `key` as a list of numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.read(key, "a list of numbers", |value| list(value)?.iter().map(number).collect())
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
        let read = as_type(value).ok_or_else(|| {
            let got = match value {
                Value::List(_) => "a list of others".to_string(),
                other => format!("{other:?}"),
            };
            Error::damaged(&self.path, key, expected, got)
        })?;
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

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::List(values) => Some(values),
        _ => None,
    }
}
