//! The chat template: from messages to the prompt that the model was trained on.

use std::path::{Path, PathBuf};

use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use serde::Serialize;
use serde::ser::Error as _;

use crate::error::{Error, Result};
use crate::format::CHAT_TEMPLATE_FILE;

/// Steps that a template may take, enough for thousands of messages: a template is part of a download, and one that
/// never ends must not hang the caller.
const MAX_STEPS: u64 = 10_000_000;

/// What a function that templates call answers.
type Answer<T> = std::result::Result<T, minijinja::Error>;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever set the assistant up.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

/// A Jinja template, in the dialect of Hugging Face's `apply_chat_template`.
#[derive(Debug)]
pub struct ChatTemplate {
    file: PathBuf,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles `source`, the text of `file`.
    pub fn new(file: &Path, source: &str) -> Result<ChatTemplate> {
        let mut environment = environment();
        environment.add_template_owned(CHAT_TEMPLATE_FILE, source.to_string()).map_err(|e| {
            let line = e.line().map_or("the template".to_string(), |line| format!("line {line}"));
            Error::damaged(file, line, "a Jinja template", sentence(&e))
        })?;
        Ok(ChatTemplate { file: file.to_path_buf(), environment })
    }

    /// The prompt of `messages`, ready for the assistant's next turn; `bos` and `eos` are the texts of those tokens.
    pub fn render(&self, messages: &[Message], bos: &str, eos: &str) -> Result<String> {
        let template = self.environment.get_template(CHAT_TEMPLATE_FILE).expect("new() added it");
        let values = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            bos_token => bos,
            eos_token => eos,
            // Templates may ask `is none` of these without asking `is defined` first.
            tools => (),
            documents => (),
        };
        template.render(values).map_err(|e| Error::Template {
            file: self.file.clone(),
            line: e.line(),
            message: sentence(&e),
        })
    }
}

/// The environment of `transformers`: its whitespace rules, its extra functions, Python's methods, no escaping.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are sound"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(MAX_STEPS));
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment
}

/// What the error says, without the place, which the caller names in its own way.
fn sentence(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// Templates call this for conversations that they do not take.
fn raise_exception(message: String) -> Answer<Value> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time in a format of C's `strftime`.
fn strftime_now(format: &str) -> Answer<String> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it; minijinja's own filter escapes for HTML.
fn tojson(value: &Value, options: Kwargs) -> Answer<String> {
    let indent: Option<usize> = options.get("indent")?;
    // Values are never other than ASCII-safe strings here, and keys keep their order: accepted, without effect.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
    };
    written
        .and_then(|()| String::from_utf8(out).map_err(serde_json::Error::custom))
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// Python's separators: a space after each comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, to: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, to: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, to: &mut W) -> std::io::Result<()> {
        to.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(Path::new("m/chat_template.jinja"), source)?.render(messages, "<s>", "</s>")
    }

    fn talk() -> Vec<Message> {
        vec![Message::new(Role::System, "Be brief."), Message::new(Role::User, " Hi <b>\"you\"</b> ")]
    }

    #[test]
    fn messages_become_a_prompt_with_the_whitespace_of_transformers() {
        let source = "{{ bos_token }}\n{%- for m in messages %}\n  {% if m.role == 'user' %}\n\
                      [{{ m['content'].strip() }}]\n  {% else %}\n({{ m.content | upper }})\n  {% endif %}\n\
                      {% endfor %}\n{% if add_generation_prompt %}A:{% endif %}\n";
        assert_eq!(render(source, &talk()).unwrap(), "<s>(BE BRIEF.)\n[Hi <b>\"you\"</b>]\nA:");
    }

    #[test]
    fn python_methods_loop_controls_and_namespaces_work() {
        let source = "{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}\
                      {% if m.role.startswith('sys') %}{% break %}{% endif %}\
                      {{ m.content.split(' ')[1] }}{% endfor %}{{ ns.n }}\
                      {% if tools is not none or documents %}tools{% endif %}";
        assert_eq!(render(source, &talk()).unwrap(), "Hi2");
    }

    #[test]
    fn tojson_writes_what_python_writes() {
        let source = "{{ messages[1] | tojson }} {{ [1, 'é', none, true] | tojson }}";
        let expected = r#"{"role": "user", "content": " Hi <b>\"you\"</b> "} [1, "é", null, true]"#;
        assert_eq!(render(source, &talk()).unwrap(), expected);
        assert_eq!(render("{{ {'a': [1]} | tojson(indent=2) }}", &[]).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }

    #[test]
    fn strftime_now_gives_the_date_and_refuses_nonsense() {
        let date = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
        let parts: Vec<&str> = date.split(' ').collect();
        assert!(parts.len() == 3 && parts[0].len() == 2 && parts[2].parse::<u32>().is_ok_and(|y| y >= 2024), "{date}");
        assert!(render("{{ strftime_now('%') }}", &[]).is_err());
    }

    #[test]
    fn what_a_template_refuses_is_told_with_file_and_line() {
        let error = render("one\n{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert_eq!(error.to_string(), "`m/chat_template.jinja`, line 2: roles must alternate");
        let error = render("one\ntwo\n{{ missing.field }}", &[]).unwrap_err();
        assert!(matches!(error, Error::Template { line: Some(3), .. }), "{error}");
    }

    #[test]
    fn a_template_that_cannot_be_read_is_damaged() {
        let error = render("one\n{% if %}", &[]).unwrap_err();
        assert!(matches!(&error, Error::Damaged { what, .. } if what == "line 2"), "{error}");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
        let error = render(source, &[]).unwrap_err();
        assert!(matches!(error, Error::Template { .. }), "{error}");
    }
}
