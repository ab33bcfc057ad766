//! The text side of a model folder as both formats need it: tokens by id, what begins and ends a text, templates.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::rows::DepthRows;
use crate::error::{Error, Result};
use crate::format::{GENERATION_FILE, ModelFolder, TOKENIZER_FILE};
use crate::json;
use crate::precision::Depth;
use crate::quantize::{Source, TextAssets};
use crate::text::GenerationDefaults;

/// The text side.
#[derive(Debug)]
pub struct TextSide {
    /// The files.
    pub assets: TextAssets,
    /// tokenizer.json, read.
    pub tokenizer: Map<String, Value>,
    /// Special token ids.
    pub generation: GenerationDefaults,
    /// Added tokens by id: their texts, and whether they are special.
    pub added: BTreeMap<u32, (String, bool)>,
}

impl TextSide {
    /// The text side of a folder.
    pub fn read(folder: &ModelFolder) -> Result<TextSide> {
        let assets = DepthRows::new(folder, Depth::FULL).text()?;
        let file = folder.dir().join(TOKENIZER_FILE);
        let tokenizer: Value = json::parse(&file, &assets.tokenizer)?;
        let Value::Object(tokenizer) = tokenizer else {
            return Err(Error::damaged(file, "JSON", "an object", "another"));
        };
        let generation_file = folder.dir().join(GENERATION_FILE);
        let generation = GenerationDefaults::parse(&generation_file, &assets.generation_config, &mut Vec::new());
        let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let added = added.filter_map(|token| {
            let id = u32::try_from(token.get("id")?.as_u64()?).ok()?;
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            Some((id, (token.get("content")?.as_str()?.to_string(), special)))
        });
        Ok(TextSide { added: added.collect(), assets, tokenizer, generation })
    }

    /// The text of a token, by its id.
    pub fn token(&self, id: u32) -> Option<String> {
        let added = self.added.get(&id).map(|(text, _)| text.clone());
        added.or_else(|| {
            let vocabulary = self.model("vocab")?.as_object()?;
            vocabulary.iter().find(|(_, known)| known.as_u64() == Some(id.into())).map(|(text, _)| text.clone())
        })
    }

    /// A field of the tokenizer's model.
    pub fn model(&self, field: &str) -> Option<&Value> {
        self.tokenizer.get("model")?.get(field)
    }

    /// The token that the tokenizer puts before a text, if it puts one.
    pub fn prefix(&self) -> Option<u32> {
        let processor = self.tokenizer.get("post_processor")?;
        let steps = processor.get("processors").and_then(Value::as_array);
        let steps: Vec<&Value> = steps.map_or_else(|| vec![processor], |steps| steps.iter().collect());
        steps.into_iter().find_map(|step| {
            let id = step.get("single")?.as_array()?.first()?.pointer("/SpecialToken/id")?.as_str()?;
            let ids = step.get("special_tokens")?.get(id)?.get("ids")?.as_array()?;
            u32::try_from(ids.first()?.as_u64()?).ok()
        })
    }
}
