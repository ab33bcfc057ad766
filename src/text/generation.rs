//! `generation_config.json`: special token ids, and the sampling that the model's makers recommend.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// What a model's makers say about generating with it; everything is optional.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a turn or a text.
    pub end: Vec<u32>,
    /// Recommended [`temperature`](super::SamplerSettings::temperature).
    pub temperature: Option<f32>,
    /// Recommended [`top_k`](super::SamplerSettings::top_k).
    pub top_k: Option<usize>,
    /// Recommended [`top_p`](super::SamplerSettings::top_p).
    pub top_p: Option<f32>,
}

/// The file's fields that matter here.
#[derive(Deserialize)]
struct GenerationFile {
    bos_token_id: Option<OneOrMany>,
    eos_token_id: Option<OneOrMany>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
}

/// Token ids as the file gives them: one, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(i64),
    Many(Vec<i64>),
}

impl OneOrMany {
    /// The ids; negative ones stand for "none" in some files.
    fn ids(self) -> Vec<u32> {
        let ids = match self {
            OneOrMany::One(id) => vec![id],
            OneOrMany::Many(ids) => ids,
        };
        ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()
    }
}

impl GenerationDefaults {
    /// Reads the text of the file, which errors call `file`.
    pub fn parse(file: &Path, text: &str) -> Result<GenerationDefaults> {
        let raw: GenerationFile = serde_json::from_str(text).map_err(|e| {
            Error::damaged(file, "JSON", "token ids and sampling defaults as Hugging Face writes them", e)
        })?;
        if let Some(t) = raw.temperature
            && !(t.is_finite() && t >= 0.0)
        {
            return Err(Error::damaged(file, "temperature", "0 or more", t));
        }
        if let Some(p) = raw.top_p
            && !(0.0..=1.0).contains(&p)
        {
            return Err(Error::damaged(file, "top_p", "0 to 1", p));
        }
        Ok(GenerationDefaults {
            bos: raw.bos_token_id.and_then(|ids| ids.ids().first().copied()),
            end: raw.eos_token_id.map(OneOrMany::ids).unwrap_or_default(),
            temperature: raw.temperature,
            top_k: raw.top_k,
            top_p: raw.top_p,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GenerationDefaults> {
        GenerationDefaults::parse(Path::new("generation_config.json"), text)
    }

    #[test]
    fn end_tokens_may_be_one_or_a_list_or_absent() {
        assert_eq!(parse(r#"{"bos_token_id": 1, "eos_token_id": 2}"#).unwrap().end, [2]);
        let many = parse(r#"{"eos_token_id": [5, 7], "bos_token_id": [3], "transformers_version": "4"}"#).unwrap();
        assert_eq!((many.bos, many.end), (Some(3), vec![5, 7]));
        assert_eq!(parse("{}").unwrap(), GenerationDefaults::default());
        assert!(parse(r#"{"eos_token_id": -1}"#).unwrap().end.is_empty());
    }

    #[test]
    fn sampling_defaults_are_read_and_checked() {
        let full = parse(r#"{"temperature": 0.6, "top_k": 20, "top_p": 0.9}"#).unwrap();
        assert_eq!((full.temperature, full.top_k, full.top_p), (Some(0.6), Some(20), Some(0.9)));
        for bad in [r#"{"top_p": 1.5}"#, r#"{"temperature": -1}"#, r#"{"eos_token_id": "x"}"#, "{"] {
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.contains("generation_config.json"), "{message}");
        }
    }
}
