//! The header of a GGUF file: metadata and the places of tensors.
//!
//! Follows the format's description in the ggml repository (docs/gguf.md).

use std::collections::HashMap;
use std::path::Path;

use super::super::source::unsupported;
use super::blocks::BlockType;
use super::metadata::{Metadata, Numbers, Value, scalar, width};
use super::types::{dtype, dtype_name};
use crate::error::{Error, Result};
use crate::filetype;

/// Alignment of tensor data where the metadata does not state one.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The largest alignment that could be meant.
const ALIGNMENT_MAX: u64 = 1 << 20;
/// The number of the type of texts.
const TEXT: u32 = 8;
/// Dimensions that a tensor may have.
const DIMENSIONS_MAX: u32 = 4;
/// Arrays within arrays that are followed; no key has any, and each costs stack.
const NESTING_MAX: u32 = 4;

/// A GGUF file's header.
#[derive(Debug)]
pub struct GgufFile {
    /// The key-value pairs.
    pub metadata: Metadata,
    /// The tensors by name.
    pub tensors: HashMap<String, GgufTensor>,
}

/// Where a tensor lies and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Type of its blocks.
    pub dtype: BlockType,
    /// Slowest dimension first.
    pub dims: Vec<usize>,
    /// From the start of the file, in bytes.
    pub offset: u64,
    /// The number of its file among those of its model.
    pub part: usize,
}

impl GgufTensor {
    /// Bytes of a row of `input` weights, if they are whole blocks.
    pub fn row_bytes(&self, input: usize) -> Option<usize> {
        let blocks = input.is_multiple_of(self.dtype.weights()).then(|| input / self.dtype.weights());
        blocks?.checked_mul(self.dtype.bytes())
    }

    /// Bytes of the tensor, if its rows are whole blocks and the number is one.
    pub fn byte_count(&self) -> Option<usize> {
        let (&input, rows) = self.dims.split_last()?;
        rows.iter().try_fold(self.row_bytes(input)?, |bytes, dim| bytes.checked_mul(*dim))
    }
}

/// Reads the header of the file at `path`, whose bytes are `bytes`. Every tensor lies within them, and none over
/// another. No name or key is there twice. In memory a header takes up to 16 times its bytes.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<GgufFile> {
    let mut reader = Reader { path, bytes, at: 0 };
    if reader.take(4, "magic")? != b"GGUF" {
        return Err(reader.damaged("magic", "GGUF", "other bytes"));
    }
    let version = reader.u32("version")?;
    if !(2..=3).contains(&version) {
        // A file for big-endian machines has its version the wrong way round.
        let got = if version.swap_bytes() <= 3 { "big-endian".to_string() } else { version.to_string() };
        return unsupported("GGUF version", &got, "2, 3").map_err(Error::in_file(path));
    }
    let (tensor_count, pair_count) = (reader.u64("tensor count")?, reader.u64("metadata count")?);
    let mut values = HashMap::new();
    for _ in 0..pair_count {
        let key = reader.string("metadata key")?;
        let kind = reader.u32(&key)?;
        let value = reader.value(&key, kind, 0)?;
        if values.contains_key(&key) {
            return Err(reader.damaged(&key, "one value", "the key twice"));
        }
        values.insert(key, value);
    }
    let metadata = Metadata::new(path, values);
    let mut tensors = HashMap::new();
    for _ in 0..tensor_count {
        let name = reader.string("tensor name")?;
        let tensor = reader.tensor(&name)?;
        if tensors.contains_key(&name) {
            return Err(reader.damaged(&name, "one tensor", "two of this name"));
        }
        tensors.insert(name, tensor);
    }
    let alignment = metadata.u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return Err(reader.damaged("general.alignment", "a power of two", &alignment.to_string()));
    }
    let data_start = (reader.at as u64).next_multiple_of(alignment);
    place_all(path, bytes.len() as u64, data_start, &mut tensors)?;
    Ok(GgufFile { metadata, tensors })
}

/// Turns offsets in the data into those in the file, where every tensor must end, and begin after the one before.
fn place_all(path: &Path, file_bytes: u64, data_start: u64, tensors: &mut HashMap<String, GgufTensor>) -> Result<()> {
    let mut ranges = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let misfit = |got: String| Error::damaged(path, name, "whole blocks that can be counted", got);
        let described =
            || format!("{} {:?} at byte {} of the data", dtype_name(tensor.dtype), tensor.dims, tensor.offset);
        if tensor.dims.is_empty() {
            return Err(misfit("no dimensions".into()));
        }
        let bytes = tensor.byte_count();
        let start = data_start.checked_add(tensor.offset);
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes as u64));
        let (Some(start), Some(end)) = (start, end) else { return Err(misfit(described())) };
        tensor.offset = start;
        ranges.push((start, end, name.as_str()));
    }
    ranges.sort_unstable();
    let mut before = (data_start, "the header");
    for &(start, end, name) in &ranges {
        if start < before.0 && end > start {
            let expected = format!("data from byte {} of the file on, where `{}` ends", before.0, before.1);
            return Err(Error::damaged(path, name, expected, format!("data from byte {start} on")));
        }
        if end > start {
            before = (end, name);
        }
    }
    match ranges.iter().map(|(_, end, _)| *end).max() {
        Some(end) if end > file_bytes => Err(filetype::wrong_length(path, end, file_bytes)),
        _ => Ok(()),
    }
}

/// A position in the file's bytes.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            let left = format!("{} before the end of the file, which may be cut short", self.bytes.len() - self.at);
            self.damaged(what, &format!("{count} bytes"), &left)
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        Ok(self.take(N as u64, what)?.try_into().expect("as many bytes as asked for"))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        // Some vocabularies hold tokens that are not UTF-8; what they stand for cannot be typed or shown either way.
        Ok(String::from_utf8_lossy(self.take(length, what)?).into_owned())
    }

    fn value(&mut self, key: &str, kind: u32, nesting: u32) -> Result<Value> {
        if let Some(width) = width(kind) {
            let bytes = self.take(width as u64, key)?;
            return Ok(scalar(kind, bytes).expect("as many bytes as the type has"));
        }
        match kind {
            TEXT => Ok(Value::Text(self.string(key)?)),
            9 => self.list(key, nesting),
            _ => Err(self.damaged(key, "a value type up to 12", &kind.to_string())),
        }
    }

    fn list(&mut self, key: &str, nesting: u32) -> Result<Value> {
        if nesting >= NESTING_MAX {
            return Err(self.damaged(key, &format!("arrays at most {NESTING_MAX} deep"), "deeper ones"));
        }
        let (kind, count) = (self.u32(key)?, self.u64(key)?);
        if let Some(width) = width(kind) {
            let bytes = self.take(count.saturating_mul(width as u64), key)?.to_vec();
            return Ok(Value::Numbers(Numbers { kind, bytes }));
        }
        // Grown as values come: a damaged count ends with the file, not with the memory.
        if kind == TEXT {
            let mut texts = Vec::new();
            for _ in 0..count {
                texts.push(self.string(key)?);
            }
            return Ok(Value::Texts(texts));
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(key, kind, nesting + 1)?);
        }
        Ok(Value::List(values))
    }

    fn tensor(&mut self, name: &str) -> Result<GgufTensor> {
        let dimensions = self.u32(name)?;
        if dimensions > DIMENSIONS_MAX {
            let expected = format!("at most {DIMENSIONS_MAX} dimensions");
            return Err(self.damaged(name, &expected, &dimensions.to_string()));
        }
        let mut dims = Vec::new();
        for _ in 0..dimensions {
            let dim = self.u64(name)?;
            let dim = usize::try_from(dim).map_err(|_| self.damaged(name, "dimensions", &dim.to_string()))?;
            dims.push(dim);
        }
        // GGUF writes the fastest dimension first.
        dims.reverse();
        let dtype = dtype(name, self.u32(name)?).map_err(Error::in_file(self.path))?;
        Ok(GgufTensor { dtype, dims, offset: self.u64(name)?, part: 0 })
    }

    fn damaged(&self, what: &str, expected: &str, got: &str) -> Error {
        Error::damaged(self.path, what, expected, got)
    }
}

#[cfg(test)]
mod tests;
