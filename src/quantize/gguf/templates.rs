//! The chat templates of a GGUF file: one for all, and others by their names.

use super::optional::Optional;

const TEMPLATE: &str = "tokenizer.chat_template";
/// The names of the others, each of which is under [`TEMPLATE`], a dot, and its name.
const NAMES: &str = "tokenizer.chat_templates";

/// The template that is taken where none is asked for; a blank one is none.
pub fn default(optional: &mut Optional<'_>) -> Option<String> {
    optional.text(TEMPLATE).or_else(|| optional.text(&format!("{TEMPLATE}.default"))).map(String::from)
}

/// The templates that have names of their own, in the order in which the file names them.
pub fn named(optional: &mut Optional<'_>) -> Vec<(String, String)> {
    let mut templates: Vec<(String, String)> = Vec::new();
    for name in optional.texts(NAMES) {
        let Some(text) = optional.text(&format!("{TEMPLATE}.{name}")) else { continue };
        if name != "default" && templates.iter().all(|(other, _)| other != name) {
            templates.push((name.to_string(), text.to_string()));
        }
    }
    templates
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::super::metadata::{Metadata, Value};
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
        assert_eq!(default(&mut Optional::new(&metadata(&[(TEMPLATE, text(" \n"))]))), None);
        assert_eq!(default(&mut Optional::new(&metadata(&[(TEMPLATE, text("x\n"))]))).as_deref(), Some("x\n"));
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
        let mut optional = Optional::new(&metadata);
        assert_eq!(default(&mut optional).as_deref(), Some("d"));
        let expected = [("rag", "r"), ("tools", "t")].map(|(name, text)| (name.to_string(), text.to_string()));
        assert_eq!(named(&mut optional), expected);
    }
}
