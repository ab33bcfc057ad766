//! The header of a safetensors file: where each tensor lies, with none there twice and none over another.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{self, Error};
use crate::json;

/// Bytes of a header at most, as in the safetensors library.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The key of a file's own facts.
const FACTS_KEY: &str = "__metadata__";

/// Reads the header `text`, JSON, of the file at `path`. Fails where a tensor is there twice, where one does not begin
/// where the one before it ends, and where one has not the bytes of its dtype and shape. In memory a header takes up
/// to 24 times its bytes.
pub fn parse_header(path: &Path, text: &[u8]) -> error::Result<Metadata> {
    let Header { facts, tensors } =
        serde_json::from_slice(text).map_err(|fault| Error::damaged(path, "header", "a safetensors header", fault))?;
    let mut tensors: Vec<(String, TensorInfo)> = tensors.into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut before: (&str, usize) = ("the header", 0);
    for (name, info) in &tensors {
        let (start, end) = info.data_offsets;
        if start != before.1 {
            let expected = format!("data from byte {} on, where `{}` ends", before.1, before.0);
            return Err(Error::damaged(path, name, expected, format!("data from byte {start} on")));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, dim| bits.checked_mul(*dim));
        let got = format!("bytes {start} to {end}");
        let Some(bits) = bits else {
            let expected = "a shape whose bytes can be counted";
            return Err(Error::damaged(path, name, expected, format!("{} {:?}", info.dtype, info.shape)));
        };
        if end.checked_sub(start) != Some(bits.div_ceil(8)) {
            let expected = format!("{} bytes for {} {:?}", bits.div_ceil(8), info.dtype, info.shape);
            return Err(Error::damaged(path, name, expected, got));
        }
        before = (name, end);
    }
    Metadata::new(facts, tensors).map_err(|fault| Error::damaged(path, "header", "a safetensors header", fault))
}

/// A header as it is written.
struct Header {
    facts: Option<HashMap<String, String>>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Header, D::Error> {
        from.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut facts = None;
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == FACTS_KEY && facts.is_none() {
                facts = Some(map.next_value::<Option<HashMap<String, String>>>()?);
            } else if name == FACTS_KEY || tensors.contains_key(&name) {
                return Err(json::twice(&name));
            } else {
                let info = map.next_value().map_err(|fault| A::Error::custom(format!("`{name}`: {fault}")))?;
                tensors.insert(name, info);
            }
        }
        Ok(Header { facts: facts.flatten(), tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(header: &str) -> String {
        parse_header(Path::new("x.safetensors"), header.as_bytes()).unwrap_err().to_string()
    }

    fn tensor(name: &str, start: usize, end: usize) -> String {
        format!("\"{name}\": {{\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [{start}, {end}]}}")
    }

    #[test]
    fn a_sound_header_is_read_in_any_order() {
        let text = format!("{{{}, \"__metadata__\": {{\"a\": \"b\"}}, {}}}  ", tensor("y", 8, 16), tensor("x", 0, 8));
        let metadata = parse_header(Path::new("x"), text.as_bytes()).unwrap();
        assert_eq!((metadata.data_len(), metadata.tensors().len()), (16, 2));
        assert_eq!(metadata.metadata().as_ref().unwrap()["a"], "b");
        assert_eq!(parse_header(Path::new("x"), b"{}").unwrap().data_len(), 0);
    }

    #[test]
    fn tensors_that_are_there_twice_or_over_one_another_are_named() {
        let both = |a: String, b: String| format!("{{{a}, {b}}}");
        let twice = fault(&both(tensor("w.weight", 0, 8), tensor("w.weight", 8, 16)));
        assert!(twice.contains("the key `w.weight` twice"), "{twice}");
        let over = fault(&both(tensor("a", 0, 8), tensor("b", 4, 12)));
        assert!(over.contains("b: expected data from byte 8 on, where `a` ends, got data from byte 4 on"), "{over}");
        assert!(fault(&both(tensor("a", 0, 8), tensor("b", 0, 8))).contains("b: expected data from byte 8"));
        assert!(fault(&both(tensor("a", 0, 8), tensor("b", 9, 17))).contains("b: expected data from byte 8"));
        assert!(fault(&format!("{{{}}}", tensor("a", 0, 9))).contains("a: expected 8 bytes for F32 [2]"));
        let huge = "{\"a\": {\"dtype\": \"F32\", \"shape\": [4294967295, 4294967295, 9], \"data_offsets\": [0, 8]}}";
        assert!(fault(huge).contains("a: expected a shape"), "{}", fault(huge));
        let backward =
            "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8], \"data_offsets\": [8, 0]}}";
        assert!(fault(backward).contains("data_offsets"));
        let odd = "{\"a\": {\"dtype\": \"F9\", \"shape\": [2], \"data_offsets\": [0, 8]}}";
        assert!(fault(odd).contains("`a`") && fault(odd).contains("F9"), "{}", fault(odd));
    }
}
