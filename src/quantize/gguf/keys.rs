//! The keys of a file that begin with its architecture's name.

use super::metadata::{Metadata, Value};
use crate::error::{Error, Result};

/// The metadata of a file, by what follows the architecture in their keys.
#[derive(Debug, Clone, Copy)]
pub struct FamilyKeys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> FamilyKeys<'a> {
    /// The keys of `architecture`.
    pub fn new(metadata: &'a Metadata, architecture: &'a str) -> FamilyKeys<'a> {
        FamilyKeys { metadata, architecture }
    }

    /// The whole of a key.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// The value of a key as an unsigned integer of 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.metadata.u32(&self.name(key))
    }

    /// The same, or a list of one such number for each of `layers` layers, all of them equal.
    pub fn u32_per_layer(&self, key: &str, layers: u32) -> Result<Option<u32>> {
        self.metadata.u32_per_layer(&self.name(key), layers)
    }

    /// The value of a key as a number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.metadata.f32(&self.name(key))
    }

    /// The same, finite and above 0; 0 counts as absent, as in llama.cpp.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.f32(key)?.filter(|number| *number != 0.0) {
            Some(number) if !(number.is_finite() && number > 0.0) => {
                Err(self.damaged(key, "a positive number", number))
            }
            number => Ok(number.map(f64::from)),
        }
    }

    /// The value of a key as text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.metadata.text(&self.name(key))
    }

    /// The value of a key as a truth value.
    pub fn truth(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.value(&self.name(key)) {
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(other) => Err(self.damaged(key, "true or false", other.shown())),
            None => Ok(None),
        }
    }

    /// The value of a key as a list of one truth value for each of `layers` layers; `None` where it is no list.
    pub fn truths(&self, key: &str, layers: u32) -> Result<Option<Vec<bool>>> {
        let truth = |value: Value| match value {
            Value::Bool(truth) => Some(truth),
            Value::Unsigned(number) => Some(number != 0),
            Value::Signed(number) => Some(number != 0),
            _ => None,
        };
        let (truths, got): (Option<Vec<bool>>, _) = match self.metadata.value(&self.name(key)) {
            Some(value @ Value::Numbers(numbers)) => (numbers.iter().map(truth).collect(), value.shown()),
            Some(value @ Value::List(values)) => (values.iter().cloned().map(truth).collect(), value.shown()),
            _ => return Ok(None),
        };
        let truths = truths.filter(|truths| truths.len() == layers as usize);
        truths.map(Some).ok_or_else(|| self.damaged(key, format!("{layers} truth values, one a layer"), got))
    }

    /// The error for a number that must be there and is not.
    pub fn missing(&self, key: &str) -> Error {
        self.metadata.missing(&self.name(key), "a number")
    }

    /// The error for a key.
    pub fn damaged(&self, key: &str, expected: impl ToString, got: impl ToString) -> Error {
        Error::damaged(self.metadata.path(), self.name(key), expected, got)
    }
}
