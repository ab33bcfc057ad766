//! The fields of a JSON object, read by type; null counts as absent, as in transformers.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::json::shown;

/// An object and where it is, for messages.
#[derive(Debug, Clone)]
pub struct ConfigFields<'a> {
    path: &'a Path,
    /// What goes before a field's name: empty, or `rope_scaling.` and the like.
    within: String,
    object: &'a Map<String, Value>,
}

impl<'a> ConfigFields<'a> {
    /// The fields of the file at `path`.
    pub fn new(path: &'a Path, object: &'a Map<String, Value>) -> ConfigFields<'a> {
        ConfigFields { path, within: String::new(), object }
    }

    /// The value of `field`, of any type.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// Whether `field` is there, if only as null.
    pub fn has(&self, field: &str) -> bool {
        self.object.contains_key(field)
    }

    /// The values of all fields.
    pub fn values(&self) -> impl Iterator<Item = &'a Value> {
        self.object.values()
    }

    /// The value of `field` as a whole number of 32 bits, which may be written as 512.0.
    pub fn whole(&self, field: &str) -> Result<Option<u32>> {
        self.read(field, "a whole number from 0 to 4294967295", whole)
    }

    /// The same, or a list of one such number for each layer, all of them equal.
    pub fn whole_per_layer(&self, field: &str) -> Result<Option<u32>> {
        let Some(Value::Array(numbers)) = self.get(field) else { return self.whole(field) };
        match numbers.split_first() {
            Some((first, rest)) if rest.iter().all(|other| whole(other) == whole(first)) => {
                self.take(field, "whole numbers from 0 to 4294967295", first, whole).map(Some)
            }
            Some(_) => Err(Error::Unsupported {
                what: "layers of different shape".into(),
                got: self.name(field),
                supported: "one number for all layers".into(),
            }),
            None => Err(self.damaged(field, "a number, or one for each layer", "an empty list")),
        }
    }

    /// The value of `field` as a number that 32 bits hold.
    pub fn number(&self, field: &str) -> Result<Option<f32>> {
        self.read(field, "a number", |value| {
            let number = value.as_f64()? as f32;
            number.is_finite().then_some(number)
        })
    }

    /// The value of `field` as a number of 64 bits.
    pub fn real(&self, field: &str) -> Result<Option<f64>> {
        self.read(field, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// The same, above 0.
    pub fn positive(&self, field: &str) -> Result<Option<f64>> {
        match self.real(field)? {
            Some(number) if number <= 0.0 => Err(self.damaged(field, "a number above 0", number)),
            number => Ok(number),
        }
    }

    /// The value of `field` as a list of so many numbers above 0.
    pub fn positives(&self, field: &str, count: usize) -> Result<Option<Vec<f32>>> {
        let expected = format!("a list of {count} numbers above 0");
        let number = |value: &Value| value.as_f64().map(|number| number as f32).filter(|n| n.is_finite() && *n > 0.0);
        self.list(field, count, &expected, number)
    }

    /// The value of `field` as a list of so many whole numbers of 32 bits.
    pub fn wholes(&self, field: &str, count: usize) -> Result<Option<Vec<u32>>> {
        self.list(field, count, &format!("a list of {count} whole numbers"), whole)
    }

    /// The value of `field` as a list of so many texts.
    pub fn texts(&self, field: &str, count: usize) -> Result<Option<Vec<&'a str>>> {
        self.list(field, count, &format!("a list of {count} texts, one a layer"), Value::as_str)
    }

    /// The value of `field` as a truth value.
    pub fn flag(&self, field: &str) -> Result<Option<bool>> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// The value of `field` as text.
    pub fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.read(field, "text", Value::as_str)
    }

    /// The value of `field` as an object.
    pub fn fields(&self, field: &str) -> Result<Option<ConfigFields<'a>>> {
        let object = self.read(field, "an object", Value::as_object)?;
        let within = format!("{}.", self.name(field));
        Ok(object.map(|object| ConfigFields { path: self.path, within, object }))
    }

    /// The name of `field` in the file.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.within)
    }

    /// The error for `field`.
    pub fn damaged(&self, field: &str, expected: impl ToString, got: impl ToString) -> Error {
        Error::damaged(self.path, self.name(field), expected, got)
    }

    fn read<T>(&self, field: &str, expected: &str, as_type: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(field).map(|value| self.take(field, expected, value, as_type)).transpose()
    }

    fn list<T>(
        &self,
        field: &str,
        count: usize,
        expected: &str,
        as_type: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let got = || match value.as_array().filter(|values| values.len() != count) {
            Some(values) => format!("{} of them", values.len()),
            None => shown(value),
        };
        let values = value.as_array().filter(|values| values.len() == count);
        let values = values.and_then(|values| values.iter().map(as_type).collect());
        values.map(Some).ok_or_else(|| self.damaged(field, expected, got()))
    }

    fn take<T>(
        &self,
        field: &str,
        expected: &str,
        value: &'a Value,
        as_type: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T> {
        as_type(value).ok_or_else(|| self.damaged(field, expected, shown(value)))
    }
}

fn whole(value: &Value) -> Option<u32> {
    let number = value.as_f64()?;
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}
