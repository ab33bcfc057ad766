//! Fields of a table that a person wrote, read one by one, so that an error names the field.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::encoding;
use crate::error::{Error, Result};
use crate::json;

/// The text of a file that a person wrote, which has at most so many bytes.
pub fn read_text(file: &Path, bytes_max: u64) -> Result<String> {
    let bytes = json::read_bytes(file, bytes_max)?;
    encoding::decode(bytes).map_err(|fault| Error::damaged(file, "the file", encoding::EXPECTED, fault))
}

/// A table of a file, whose fields are taken out as they are read.
pub struct PowerFields<'a> {
    file: &'a Path,
    /// Where in the file the table is: a line, or the table's name.
    place: String,
    /// Fields that are not yet read.
    left: Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> PowerFields<'a> {
    /// The fields of `value`, which must be a table.
    pub fn of(file: &'a Path, place: impl Into<String>, value: Value) -> Result<PowerFields<'a>> {
        let place = place.into();
        match value {
            Value::Object(left) => Ok(PowerFields { file, place, left, known: Vec::new() }),
            other => Err(Error::damaged(file, place, "a table of fields", other)),
        }
    }

    /// The field, if it is there.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.shift_remove(name)
    }

    /// The number in `range`, if the field is there.
    pub fn number(&mut self, name: &'static str, range: RangeInclusive<f32>) -> Result<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().map(|number| number as f32).filter(|number| range.contains(number));
        match number {
            Some(number) => Ok(Some(number)),
            None => {
                // A number that JSON does not have is here as its text.
                let endless = value.as_str().filter(|text| text.parse().is_ok_and(|number: f64| !number.is_finite()));
                let got = endless.map_or_else(|| value.to_string(), String::from);
                Err(self.wrong(name, format!("{} to {}", range.start(), range.end()), got))
            }
        }
    }

    /// Yes or no, if the field is there.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false", value))
    }

    /// One of `names`, if the field is there.
    pub fn one_of<T: Copy>(&mut self, name: &'static str, names: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = names.iter().find(|(text, _)| value.as_str() == Some(text)).map(|(_, item)| *item);
        let expected = || names.iter().map(|(text, _)| format!("\"{text}\"")).collect::<Vec<_>>().join(", ");
        found.map(Some).ok_or_else(|| self.wrong(name, expected(), value))
    }

    /// Fails where a field was not read.
    pub fn end(self) -> Result<()> {
        match self.left.iter().next() {
            Some((name, _)) => {
                Err(self.wrong(name, format!("only the fields {}", self.known.join(", ")), "this field"))
            }
            None => Ok(()),
        }
    }

    /// The error for the field `name`.
    pub fn wrong(&self, name: &str, expected: impl ToString, got: impl ToString) -> Error {
        Error::damaged(self.file, format!("{}, field `{name}`", self.place), expected, got)
    }
}
