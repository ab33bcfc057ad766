//! Metadata that nothing depends on: what cannot be followed is a warning and counts as absent.

use super::metadata::{Metadata, Value};
use crate::error::as_absent;

/// The key-value pairs of a file, read as far as they can be followed.
pub struct Optional<'a> {
    metadata: &'a Metadata,
    /// What could not be followed, in sentences for people.
    pub warnings: Vec<String>,
}

impl<'a> Optional<'a> {
    /// The pairs of `metadata`.
    pub fn new(metadata: &'a Metadata) -> Optional<'a> {
        Optional { metadata, warnings: Vec::new() }
    }

    /// The value of `key` as text, as it stands; one of blanks is none.
    pub fn text(&mut self, key: &str) -> Option<&'a str> {
        let text = self.read(key, "text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        });
        text.filter(|text| !text.trim().is_empty())
    }

    /// The value of `key` as a list of texts; none where it is no such list.
    pub fn texts(&mut self, key: &str) -> Vec<&'a str> {
        let texts = self.metadata.texts(key).ok().flatten();
        self.read(key, "a list of texts", |_| texts).unwrap_or_default()
    }

    /// The value of `key` as a truth value, for which 0 and 1 will do.
    pub fn truth(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", |value| match (value, whole(value)) {
            (Value::Bool(truth), _) => Some(*truth),
            (_, Some(0.0)) => Some(false),
            (_, Some(1.0)) => Some(true),
            _ => None,
        })
    }

    /// The value of `key` as the id of one of `tokens` tokens.
    pub fn id(&mut self, key: &str, tokens: usize) -> Option<u32> {
        let id = |value: &Value| whole(value).filter(|id| (0.0..tokens as f64).contains(id)).map(|id| id as u32);
        self.read(key, &format!("the id of one of {tokens} tokens"), id)
    }

    /// The value of `key` as a list of numbers, one for each of `tokens` tokens.
    pub fn numbers(&mut self, key: &str, tokens: usize) -> Option<Vec<f32>> {
        let numbers = self.metadata.numbers(key).ok().flatten().filter(|numbers| numbers.len() == tokens);
        self.read(key, &format!("a list of {tokens} numbers, one for each token"), |_| numbers)
    }

    /// Adds a sentence about the file.
    pub fn warn(&mut self, sentence: impl std::fmt::Display) {
        self.warnings.push(format!("`{}`: {sentence}", self.metadata.path().display()));
    }

    fn read<T>(&mut self, key: &str, expected: &str, as_type: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.metadata.value(key)?;
        let read = as_type(value);
        if read.is_none() {
            self.warnings.push(as_absent(self.metadata.path(), key, expected, value.shown()));
        }
        read
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Unsigned(value) => Some(*value as f64),
        Value::Signed(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        _ => None,
    }
}

fn whole(value: &Value) -> Option<f64> {
    number(value).filter(|number| number.fract() == 0.0)
}
