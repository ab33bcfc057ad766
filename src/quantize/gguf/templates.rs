//! The chat templates of a GGUF file: one for all, and others by their names.

use super::metadata::Metadata;
use crate::error::Result;

const TEMPLATE: &str = "tokenizer.chat_template";
/// The names of the others, each of which is under [`TEMPLATE`], a dot, and its name.
const NAMES: &str = "tokenizer.chat_templates";

/// The template that is taken where none is asked for; a blank one is none.
pub fn default(metadata: &Metadata) -> Result<Option<String>> {
    let text = metadata.text(TEMPLATE)?.map(String::from);
    let text = match text {
        None => metadata.text(&format!("{TEMPLATE}.default"))?.map(String::from),
        text => text,
    };
    Ok(text.filter(|text| !text.trim().is_empty()))
}

/// The templates that have names of their own, in the order in which the file names them.
pub fn named(metadata: &Metadata) -> Result<Vec<(String, String)>> {
    let mut templates: Vec<(String, String)> = Vec::new();
    for name in metadata.texts(NAMES)?.unwrap_or_default() {
        let text = metadata.text(&format!("{TEMPLATE}.{name}"))?.unwrap_or_default();
        if name != "default" && !text.trim().is_empty() && templates.iter().all(|(other, _)| other != name) {
            templates.push((name.to_string(), text.to_string()));
        }
    }
    Ok(templates)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::super::metadata::Value;
    use super::*;

    fn metadata(values: &[(&str, Value)]) -> Metadata {
        let values: HashMap<String, Value> =
            values.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
        Metadata::new(Path::new("m.gguf"), values)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn a_blank_template_is_none() {
        assert_eq!(default(&metadata(&[(TEMPLATE, text(" \n"))])).unwrap(), None);
        assert_eq!(default(&metadata(&[(TEMPLATE, text("x"))])).unwrap().as_deref(), Some("x"));
    }

    #[test]
    fn templates_by_name_are_kept_with_the_default() {
        let names = Value::List(vec![text("rag"), text("default"), text("tools"), text("absent")]);
        let metadata = metadata(&[
            (NAMES, names),
            ("tokenizer.chat_template.rag", text("r")),
            ("tokenizer.chat_template.default", text("d")),
            ("tokenizer.chat_template.tools", text("t")),
        ]);
        assert_eq!(default(&metadata).unwrap().as_deref(), Some("d"));
        let expected = [("rag", "r"), ("tools", "t")].map(|(name, text)| (name.to_string(), text.to_string()));
        assert_eq!(named(&metadata).unwrap(), expected);
    }
}
