//! The chat templates of a Hugging Face folder, from all the places where these have been kept.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint_files::{PROCESSOR_TEMPLATE_FILE, TEMPLATES_FOLDER, TOKENIZER_CONFIG_FILE};
use crate::error::{Error, Result};
use crate::filetype;
use crate::format::CHAT_TEMPLATE_FILE;
use crate::json;

/// Files with a field `chat_template`, newest first.
const CONFIGURATIONS: [&str; 2] = [PROCESSOR_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE];
const DEFAULT_NAME: &str = "default";

/// A model's templates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Templates {
    /// The one that is taken where none is asked for.
    pub default: Option<String>,
    /// Those that have names of their own.
    pub named: Vec<(String, String)>,
}

/// The templates of the folder `dir`. Of two with one name the first counts of chat_template.jinja and
/// additional_chat_templates, chat_template.json, and tokenizer_config.json; blank ones count as none.
pub fn read(dir: &Path) -> Result<Templates> {
    let mut templates = Templates::default();
    let file = dir.join(CHAT_TEMPLATE_FILE);
    if !filetype::is_absent(&file) && !is_empty_file(&file) {
        templates.add(DEFAULT_NAME, json::read_text(&file)?);
    }
    additional(&dir.join(TEMPLATES_FOLDER), &mut templates)?;
    for name in CONFIGURATIONS {
        let file = dir.join(name);
        if !filetype::is_absent(&file) {
            configured(&file, &json::read_object(&file)?, &mut templates)?;
        }
    }
    Ok(templates)
}

impl Templates {
    fn add(&mut self, name: &str, text: String) {
        if text.trim_start_matches('\u{feff}').trim().is_empty() {
            return;
        }
        if name == DEFAULT_NAME {
            self.default.get_or_insert(text);
        } else if self.named.iter().all(|(other, _)| other != name) {
            self.named.push((name.to_string(), text));
        }
    }
}

/// Some repositories have a file of nothing, where a blank template is none.
fn is_empty_file(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() == 0)
}

/// Adds the templates in the folder `dir`, in the order of their names.
fn additional(dir: &Path, templates: &mut Templates) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(Error::io("read", dir))?;
    files.sort();
    for file in files.iter().filter(|file| file.extension() == Some(OsStr::new("jinja")) && !file.is_dir()) {
        if is_empty_file(file) {
            continue;
        }
        let text = json::read_text(file)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        templates.add(&name, text);
    }
    Ok(())
}

/// Adds what the field `chat_template` of a file holds: one template, a list of named ones, or an object of them.
fn configured(file: &Path, config: &Map<String, Value>, templates: &mut Templates) -> Result<()> {
    match config.get("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => templates.add(DEFAULT_NAME, text.clone()),
        Some(Value::Array(entries)) => {
            for entry in entries {
                if let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str()) {
                    templates.add(name, text.to_string());
                }
            }
        }
        Some(Value::Object(entries)) => {
            for (name, text) in entries {
                templates.add(name, text.as_str().unwrap_or_default().to_string());
            }
        }
        Some(other) => {
            let expected = "a text, or texts by name";
            return Err(Error::damaged(file, "chat_template", expected, json::shown(other)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(TEMPLATES_FOLDER)).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        dir
    }

    fn default_of(files: &[(&str, &str)]) -> Option<String> {
        read(folder(files).path()).unwrap().default
    }

    #[test]
    fn a_template_file_goes_before_configurations() {
        let config = ("tokenizer_config.json", r#"{"chat_template": "old"}"#);
        let processor = ("chat_template.json", r#"{"chat_template": "later"}"#);
        assert_eq!(default_of(&[(CHAT_TEMPLATE_FILE, "new"), processor, config]).as_deref(), Some("new"));
        assert_eq!(default_of(&[processor, config]).as_deref(), Some("later"));
        assert_eq!(default_of(&[config]).as_deref(), Some("old"));
        assert_eq!(default_of(&[]), None);
        assert_eq!(default_of(&[(CHAT_TEMPLATE_FILE, " \r\n"), config]).as_deref(), Some("old"));
        assert_eq!(default_of(&[(CHAT_TEMPLATE_FILE, "\u{feff}")]), None);
        assert_eq!(default_of(&[(CHAT_TEMPLATE_FILE, ""), ("additional_chat_templates/rag.jinja", "")]), None);
        assert_eq!(default_of(&[("tokenizer_config.json", r#"{"chat_template": " "}"#)]), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_template_that_is_not_there_is_named() {
        for name in [CHAT_TEMPLATE_FILE, "chat_template.json", "additional_chat_templates/rag.jinja"] {
            let dir = folder(&[]);
            std::os::unix::fs::symlink("../blobs/5f0c", dir.path().join(name)).unwrap();
            let fault = read(dir.path()).unwrap_err().to_string();
            assert!(fault.contains(name) && fault.contains("a link to `../blobs/5f0c`"), "{fault}");
        }
    }

    #[test]
    fn named_templates_are_all_kept() {
        let config = json!({"chat_template": [
            {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"},
            {"name": "rag", "template": "old rag"}, {"name": "blank", "template": " "}]});
        let files = [
            ("tokenizer_config.json", &*config.to_string()),
            ("additional_chat_templates/rag.jinja", "rag"),
            ("additional_chat_templates/README.md", "no template"),
        ];
        let templates = read(folder(&files).path()).unwrap();
        assert_eq!(templates.default.as_deref(), Some("plain"));
        let named = [("rag", "rag"), ("tool_use", "tools")].map(|(name, text)| (name.to_string(), text.to_string()));
        assert_eq!(templates.named, named);
        let by_name = read(folder(&[("chat_template.json", r#"{"chat_template": {"a": "x"}}"#)]).path()).unwrap();
        assert_eq!((by_name.default, by_name.named), (None, vec![("a".to_string(), "x".to_string())]));
        let odd = folder(&[("tokenizer_config.json", r#"{"chat_template": 7}"#)]);
        assert!(read(odd.path()).unwrap_err().to_string().contains("chat_template"));
    }
}
