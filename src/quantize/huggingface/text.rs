//! The text side of a Hugging Face folder: tokenizer, chat template, special tokens, licence.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::config::CONFIG_FILE;
use super::read_json;
use super::templates::{self, Templates};
use crate::error::{Error, Result};
use crate::format::{GENERATION_FILE, TOKENIZER_FILE};
use crate::quantize::source::TextAssets;

/// Ids that older folders have in config.json only.
const SPECIAL_IDS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// The text side's files of the folder `dir`.
pub fn read(dir: &Path) -> Result<TextAssets> {
    let path = dir.join(TOKENIZER_FILE);
    let tokenizer = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Tokenizer::from_bytes(&tokenizer).map_err(|fault| Error::damaged(&path, "JSON", "a tokenizer", fault))?;
    let Templates { default: chat_template, named: named_templates } = templates::read(dir)?;
    Ok(TextAssets { tokenizer, chat_template, named_templates, generation_config: generation_config(dir)? })
}

/// The folder's name, for a model that has no other.
pub fn folder_name(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or(dir.to_path_buf());
    real.file_name().map_or("unnamed".into(), |name| name.to_string_lossy().into_owned())
}

/// The licence that the front matter of README.md states, as model cards on the Hugging Face hub do.
pub fn licence(dir: &Path) -> Option<String> {
    let card = std::fs::read_to_string(dir.join("README.md")).ok()?;
    let mut lines = card.lines();
    lines.next().filter(|line| line.trim_end() == "---")?;
    let front_matter = lines.take_while(|line| line.trim_end() != "---");
    let licence = front_matter.filter_map(|line| line.strip_prefix("license:")).next()?;
    Some(licence.trim().trim_matches(['"', '\'']).to_string()).filter(|licence| !licence.is_empty())
}

/// generation_config.json, with the special ids that only config.json has.
fn generation_config(dir: &Path) -> Result<String> {
    let path = dir.join(GENERATION_FILE);
    let text = if_there(std::fs::read_to_string(&path), dir, GENERATION_FILE)?;
    let mut settings: Map<String, Value> = match &text {
        Some(text) => {
            serde_json::from_str(text).map_err(|fault| Error::damaged(&path, "JSON", "an object of settings", fault))?
        }
        None => Map::new(),
    };
    let config: Map<String, Value> = read_json(&dir.join(CONFIG_FILE))?;
    let absent = |value: Option<&Value>| value.is_none_or(Value::is_null);
    for id in SPECIAL_IDS.into_iter().filter(|id| !absent(config.get(*id))) {
        if absent(settings.get(id)) {
            settings.insert(id.into(), config[id].clone());
        }
    }
    Ok(serde_json::to_string_pretty(&settings).expect("JSON that was read") + "\n")
}

/// The text that was read, or `None` where there is no such file.
fn if_there(read: std::io::Result<String>, dir: &Path, name: &str) -> Result<Option<String>> {
    match read {
        Ok(text) => Ok(Some(text)),
        Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(Error::io("read", dir.join(name))(fault)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        dir
    }

    #[test]
    fn special_ids_of_config_json_fill_the_gaps_of_generation_config_json() {
        let config = r#"{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": null, "hidden_size": 64}"#;
        let read = |dir: &Path| serde_json::from_str::<Value>(&generation_config(dir).unwrap()).unwrap();
        let both = folder(&[(CONFIG_FILE, config), (GENERATION_FILE, r#"{"eos_token_id": [2, 7], "top_p": 0.9}"#)]);
        assert_eq!(read(both.path()), json!({"eos_token_id": [2, 7], "top_p": 0.9, "bos_token_id": 1}));
        let one = folder(&[(CONFIG_FILE, config)]);
        assert_eq!(read(one.path()), json!({"bos_token_id": 1, "eos_token_id": 2}));
    }

    #[test]
    fn the_licence_is_the_model_card_s() {
        let card = |text| licence(folder(&[("README.md", text)]).path());
        assert_eq!(card("---\ntags:\n- x\nlicense: apache-2.0\n---\n# Model").as_deref(), Some("apache-2.0"));
        assert_eq!(card("# Model\nlicense: none of this counts"), None);
        assert_eq!(card("---\ntags: []\n---\nlicense: too late"), None);
    }
}
