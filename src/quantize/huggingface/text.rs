//! The text side of a Hugging Face folder: tokenizer, chat template, special tokens, licence.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use super::templates::{self, Templates};
use crate::checkpoint_files::{CONFIG_FILE, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE};
use crate::error::{Error, Result, as_absent};
use crate::filetype;
use crate::format::{GENERATION_FILE, TOKENIZER_FILE};
use crate::json;
use crate::quantize::source::TextAssets;
use crate::quantize::text::as_file;
use crate::text::{GenerationDefaults, TextFiles, TextModel};

/// Ids that older folders have in config.json only.
const SPECIAL_IDS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// The text side's files of the folder `dir`.
pub fn read(dir: &Path) -> Result<TextAssets> {
    let tokenizer = read_text(dir, TOKENIZER_FILE)?;
    let tokenizer = tokenizer.ok_or_else(|| {
        let missing = std::io::Error::from(ErrorKind::NotFound);
        Error::io("read", dir.join(TOKENIZER_FILE))(missing)
    })?;
    let files = TextFiles { folder: dir, tokenizer: &tokenizer, template: None, templates: None, generation: None };
    let text = TextModel::from_files(&files, u32::MAX)?;
    let mut warnings = Vec::new();
    let config = read_object(dir, TOKENIZER_CONFIG_FILE)?;
    let generation_config = generation_config(dir, &config, &text, &mut warnings)?;
    warn_of_surroundings(dir, &config, &text, &mut warnings);
    let Templates { default: chat_template, named: named_templates } = templates::read(dir)?;
    Ok(TextAssets { tokenizer, chat_template, named_templates, generation_config, warnings })
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

/// generation_config.json, with what only the other files say of special tokens: the ids of config.json, and the tokens
/// of the tokenizer's configuration `config`. A turn ends with each token that any of them names.
fn generation_config(
    dir: &Path,
    config: &Map<String, Value>,
    text: &TextModel,
    warnings: &mut Vec<String>,
) -> Result<String> {
    let file = dir.join(GENERATION_FILE);
    let source = read_text(dir, GENERATION_FILE).unwrap_or_else(|fault| {
        warnings.push(format!("{fault}; it counts as absent"));
        None
    });
    let mut said = source
        .as_ref()
        .map_or_else(GenerationDefaults::default, |source| GenerationDefaults::parse(&file, source, warnings));
    let mut names = SpecialTokens::read(dir, config, warnings);
    let mut id_of = |text_of: &Option<String>, key: &str| {
        let token = text_of.as_ref()?;
        let id = text.token_id(token);
        if id.is_none() {
            warnings.push(as_absent(
                dir.join(TOKENIZER_CONFIG_FILE),
                key,
                "a token of the tokenizer",
                format!("`{token}`"),
            ));
        }
        id
    };
    let (bos, eos) = (id_of(&names.bos, "bos_token"), id_of(&names.eos, "eos_token"));
    let old = old_ids(dir, warnings)?;
    let ends: Vec<u32> = eos.into_iter().chain(old.end).collect();
    for id in ends {
        // config.json may be the base model's, or have the default of its writer: a piece of text that it names ends
        // a turn only where nothing else does.
        let trusted = Some(id) == eos || said.end.is_empty() || text.is_special(id);
        match said.end.contains(&id) {
            true => (),
            false if trusted => said.end.push(id),
            false => {
                let expected = "a special token, as other files name";
                warnings.push(as_absent(dir.join(CONFIG_FILE), "eos_token_id", expected, id));
            }
        }
    }
    said.bos = said.bos.or(old.bos).or(bos);
    said.pad = said.pad.or(old.pad);
    said.bos_text = names.bos.take().or(said.bos_text);
    said.eos_text = names.eos.take().or(said.eos_text);
    let parsed = source.and_then(|source| json::parse(&file, &source).ok());
    let mut settings = match parsed {
        Some(Value::Object(settings)) => settings,
        _ => Map::new(),
    };
    said.write_into(&mut settings);
    Ok(as_file(&settings))
}

/// Tells where the tokenizer's configuration says otherwise than the tokenizer what is put around a text. The tokenizer
/// counts: it is what the model folder keeps.
fn warn_of_surroundings(dir: &Path, config: &Map<String, Value>, text: &TextModel, warnings: &mut Vec<String>) {
    let (Ok(own), Ok(whole)) = (text.encode_for_windows("a text", "a"), text.encode("a", true)) else { return };
    let before = own.before().len();
    let after = whole.len() - before - own.ids().len();
    for (key, place, added) in [("add_bos_token", "before", before), ("add_eos_token", "after", after)] {
        if config.get(key).and_then(Value::as_bool).is_some_and(|stated| stated != (added > 0)) {
            let (file, puts) = (dir.join(TOKENIZER_CONFIG_FILE), if added > 0 { "puts a" } else { "puts no" });
            let file = file.display();
            warnings.push(format!(
                "`{file}`: {key} is not what {TOKENIZER_FILE} does, which {puts} token {place} a text and counts"
            ));
        }
    }
}

/// The special ids of config.json.
fn old_ids(dir: &Path, warnings: &mut Vec<String>) -> Result<GenerationDefaults> {
    let mut config = read_object(dir, CONFIG_FILE)?;
    config.retain(|key, _| SPECIAL_IDS.contains(&key.as_str()));
    Ok(GenerationDefaults::parse(&dir.join(CONFIG_FILE), &Value::Object(config).to_string(), warnings))
}

/// The texts of the tokens that begin and end a text.
struct SpecialTokens {
    bos: Option<String>,
    eos: Option<String>,
}

impl SpecialTokens {
    /// What the tokenizer's configuration `config` says, or the file that older folders have beside it.
    fn read(dir: &Path, config: &Map<String, Value>, warnings: &mut Vec<String>) -> SpecialTokens {
        let older = read_object(dir, SPECIAL_TOKENS_FILE).unwrap_or_else(|fault| {
            warnings.push(format!("{fault}; it counts as absent"));
            Map::new()
        });
        let mut token = |key: &str| {
            let files = [(TOKENIZER_CONFIG_FILE, config), (SPECIAL_TOKENS_FILE, &older)];
            files.into_iter().find_map(|(file, fields)| {
                let value = fields.get(key).filter(|value| !value.is_null())?;
                // A token with properties is an object.
                let token = value.as_str().or_else(|| value.get("content")?.as_str());
                if token.is_none() {
                    warnings.push(as_absent(dir.join(file), key, "a token's text", value));
                }
                token.filter(|token| !token.is_empty()).map(String::from)
            })
        };
        SpecialTokens { bos: token("bos_token"), eos: token("eos_token") }
    }
}

/// The object of JSON in the file `name`; empty where there is no such file.
fn read_object(dir: &Path, name: &str) -> Result<Map<String, Value>> {
    let text = read_text(dir, name)?;
    text.map_or(Ok(Map::new()), |text| json::parse_object(&dir.join(name), &text))
}

/// The text of the file `name`, without a byte order mark; `None` where there is no such file.
fn read_text(dir: &Path, name: &str) -> Result<Option<String>> {
    let path = dir.join(name);
    if filetype::is_absent(&path) { Ok(None) } else { json::read_text(&path).map(Some) }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
