//! The templates of one model: the default and those that have a name of their own.

use std::path::Path;

use serde_json::{Map, Value};

use super::ChatTemplate;
use crate::encoding;
use crate::error::{Error, Result};
use crate::format::{CHAT_TEMPLATE_FILE, CHAT_TEMPLATES_FILE};
use crate::json;

/// The name of the template that is taken where none is asked for.
const DEFAULT_NAME: &str = "default";
/// Bytes of a template's file at most.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// A model's chat templates, of which one is in use.
#[derive(Debug, Clone, Default)]
pub struct ChatTemplates {
    chosen: Option<ChatTemplate>,
    named: Vec<(String, ChatTemplate)>,
}

impl ChatTemplates {
    /// The templates in a model folder: `default` is the text of chat_template.jinja, `others` that of
    /// chat_templates.json, an object of templates by name. Blank ones count as none. Fails where `others` is no such
    /// object.
    pub fn read(folder: &Path, default: Option<&str>, others: Option<&str>) -> Result<ChatTemplates> {
        let mut templates = ChatTemplates::default();
        templates.add(DEFAULT_NAME, &folder.join(CHAT_TEMPLATE_FILE), default.unwrap_or_default());
        let file = folder.join(CHAT_TEMPLATES_FILE);
        let expected = "an object of templates by name";
        let others: Map<String, Value> = match others {
            Some(text) => serde_json::from_str(text).map_err(|e| Error::damaged(&file, "JSON", expected, e))?,
            None => Map::new(),
        };
        for (name, source) in &others {
            let source = source.as_str().ok_or_else(|| Error::damaged(&file, name, "a template's text", source))?;
            templates.add(name, &file.join(name), source);
        }
        templates.chosen = templates.get(DEFAULT_NAME).cloned();
        Ok(templates)
    }

    fn add(&mut self, name: &str, file: &Path, source: &str) {
        if !is_blank(source) && self.get(name).is_none() {
            self.named.push((name.to_string(), ChatTemplate::new(file, source)));
        }
    }

    fn get(&self, name: &str) -> Option<&ChatTemplate> {
        self.named.iter().find(|(other, _)| other == name).map(|(_, template)| template)
    }

    /// The names that can be chosen.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(name, _)| name.as_str())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_none() && self.named.is_empty()
    }

    /// The template in use, or `None` where the model has none at all. Fails where it has some and none was chosen.
    pub fn chosen(&self, folder: &Path) -> Result<Option<&ChatTemplate>> {
        if self.chosen.is_none() && !self.named.is_empty() {
            let names = self.quoted_names();
            return Err(Error::Template {
                file: folder.join(CHAT_TEMPLATES_FILE),
                line: None,
                message: format!(
                    "the model has chat templates of the names {names}, and none of them is `default`: choose one"
                ),
            });
        }
        Ok(self.chosen.as_ref())
    }

    /// Why those that cannot be compiled cannot.
    pub fn faults(&self) -> Vec<String> {
        self.named.iter().filter_map(|(_, template)| template.fault()).collect()
    }

    /// Uses the template in the file `file_or_name`, or where there is no such file the one of that name.
    pub fn choose(&mut self, file_or_name: &str) -> Result<()> {
        let file = Path::new(file_or_name);
        if file.is_file() {
            let text = encoding::decode(json::read_bytes(file, TEMPLATE_BYTES_MAX)?);
            let text = text.map_err(|fault| Error::damaged(file, "text", encoding::EXPECTED, fault))?;
            if is_blank(&text) {
                return Err(Error::damaged(file, "the file", "a chat template", "a blank file"));
            }
            self.chosen = Some(ChatTemplate::new(file, &text));
            return Ok(());
        }
        let Some(template) = self.get(file_or_name).cloned() else {
            let expected = match self.named.is_empty() {
                true => "a file, as this model has no chat template".to_string(),
                false => format!("a file, or one of the model's templates: {}", self.quoted_names()),
            };
            return Err(Error::argument("chat template", expected, format!("`{file_or_name}`")));
        };
        self.chosen = Some(template);
        Ok(())
    }

    fn quoted_names(&self) -> String {
        let names: Vec<String> = self.names().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    }
}

/// Whether a template has nothing but white space.
fn is_blank(source: &str) -> bool {
    source.trim_start_matches('\u{feff}').trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(default: Option<&str>, others: Option<&str>) -> ChatTemplates {
        ChatTemplates::read(Path::new("m"), default, others).unwrap()
    }

    fn chosen(templates: &ChatTemplates) -> &str {
        templates.chosen(Path::new("m")).unwrap().unwrap().source()
    }

    #[test]
    fn a_blank_template_is_none() {
        for blank in ["", " \n\t", "\u{feff}\r\n"] {
            let templates = read(Some(blank), Some(&serde_json::json!({ "x": blank }).to_string()));
            assert!(templates.is_empty() && templates.chosen(Path::new("m")).unwrap().is_none(), "{blank:?}");
        }
    }

    #[test]
    fn named_templates_are_chosen_and_a_file_goes_before_a_name() {
        let mut templates = read(Some("plain"), Some(r#"{"tools": "t", "blank": " "}"#));
        assert_eq!((chosen(&templates), templates.names().collect::<Vec<_>>()), ("plain", vec!["default", "tools"]));
        templates.choose("tools").unwrap();
        assert_eq!(chosen(&templates), "t");
        templates.choose("default").unwrap();
        assert_eq!(chosen(&templates), "plain");
        let error = templates.choose("blank").unwrap_err().to_string();
        assert!(error.contains("`default`, `tools`") && error.contains("`blank`"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tools");
        std::fs::write(&file, "from the file").unwrap();
        templates.choose(file.to_str().unwrap()).unwrap();
        assert_eq!(chosen(&templates), "from the file");
        let utf16: Vec<u8> = "\u{feff}as UTF-16".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&file, utf16).unwrap();
        templates.choose(file.to_str().unwrap()).unwrap();
        assert_eq!(chosen(&templates), "as UTF-16");
        for odd in [&b" "[..], b"\xff"] {
            std::fs::write(&file, odd).unwrap();
            assert!(templates.choose(file.to_str().unwrap()).is_err());
        }
    }

    #[test]
    fn names_are_told_where_none_is_the_default() {
        let mut templates = read(None, Some(r#"{"rag": "r", "tool_use": "t"}"#));
        let error = templates.chosen(Path::new("m")).unwrap_err().to_string();
        assert!(error.contains("`rag`, `tool_use`") && !templates.is_empty(), "{error}");
        templates.choose("rag").unwrap();
        assert_eq!(chosen(&templates), "r");
    }

    #[test]
    fn what_is_no_object_of_texts_is_damaged() {
        for bad in ["[]", "{", r#"{"a": 1}"#] {
            let error = ChatTemplates::read(Path::new("m"), None, Some(bad)).unwrap_err();
            assert!(matches!(&error, Error::Damaged { file, .. } if file.ends_with(CHAT_TEMPLATES_FILE)), "{error}");
        }
    }
}
