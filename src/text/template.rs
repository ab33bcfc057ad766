//! The chat template: from messages to the prompt that the model was trained on.

mod characters;
mod environment;
mod expression;
#[cfg(test)]
mod expression_tests;
mod filters;
mod json;
mod named;
mod printf;
mod python;
mod source;
mod strings;
mod text_filters;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, Template, context};

pub use self::named::ChatTemplates;
use super::message::{Conversation, Message};
use crate::error::{Error, Result};
use crate::format::CHAT_TEMPLATE_FILE;

/// Fuel that a template may take whatever the messages are: a step takes one and 64 bytes of text another, so that
/// this is a fraction of a second and at most 32 MiB. A template is part of a download, and one that never ends or
/// makes endless text must not take the caller with it.
const FUEL: u64 = 500_000;
/// Fuel for each message.
const FUEL_PER_MESSAGE: u64 = 2000;
/// Fuel for each byte of the messages: a hundred filters may look at all that is said.
const FUEL_PER_BYTE: u64 = 4;
/// Most bytes of a template, some five times the longest known. Its length bounds how deep it can nest values.
const TEMPLATE_BYTES: usize = 256 << 10;
/// Stack to render on, the first that can be had: values nested in a template of the most bytes take at most 24 MiB.
const STACK_BYTES: [usize; 3] = [64 << 20, 32 << 20, 16 << 20];

/// How often a template may nest values, at most, and still be flat: more often than those of models do.
const FLAT_NESTINGS: usize = 512;
/// What may nest a value in another one: brackets, filters, and the sums and multiples of lists.
const NESTING: &[u8] = b"[({|+*";
/// Words that a template needs to call a part of itself.
const CALLING: [&str; 6] = ["macro", "recursive", "block", "include", "import", "extends"];

/// What a template sees as the content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentForm {
    /// The text.
    Text,
    /// A list of parts, one of them, as messages with pictures have it.
    Parts,
}

/// A Jinja template, in the dialect of Hugging Face's `apply_chat_template`. It is compiled when it is rendered, and a
/// flat one is then kept so.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    file: PathBuf,
    source: String,
    /// Whether it nests so little, and calls no part of itself, that any stack is enough to drop it.
    is_flat: bool,
    /// The environment that has a flat one compiled.
    flat: Arc<OnceLock<Environment<'static>>>,
}

impl ChatTemplate {
    /// The template `source`, the text of `file`.
    pub fn new(file: &Path, source: &str) -> ChatTemplate {
        let (file, source, is_flat) = (file.to_path_buf(), source.to_string(), is_flat(source));
        ChatTemplate { file, source, is_flat, flat: Arc::default() }
    }

    /// The file that errors name.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The template's text.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Why no conversation can be rendered with it, in a sentence, if it cannot be compiled.
    pub fn fault(&self) -> Option<String> {
        self.compiled(0, |_| Ok(())).err().map(|error| error.to_string())
    }

    /// The prompt of `messages`, ready for the assistant's next turn; `bos` and `eos` are the texts of those tokens.
    /// Fails with [`Error::Template`] where the template cannot be compiled, refuses the conversation, or takes too
    /// many steps or too much memory.
    pub fn render(&self, messages: &[Message], bos: &str, eos: &str) -> Result<String> {
        self.render_as(ContentForm::Text, &Conversation::new(messages, &[]), bos, eos)
    }

    /// [`render`](ChatTemplate::render), with tools, and with contents in the form given.
    pub(super) fn render_as(&self, form: ContentForm, chat: &Conversation, bos: &str, eos: &str) -> Result<String> {
        let Conversation { messages, tools } = chat;
        let count = messages.len() + tools.len();
        let fuel = FUEL + FUEL_PER_MESSAGE * count as u64 + FUEL_PER_BYTE * chat.bytes() as u64;
        let tools: Vec<Value> = tools.iter().map(|tool| template_value(&tool.value())).collect();
        self.compiled(fuel, |template| {
            template.render(context! {
                messages => messages.iter().map(|message| dictionary(message, form)).collect::<Vec<Value>>(),
                add_generation_prompt => true,
                bos_token => bos,
                eos_token => eos,
                // As transformers has them: templates may ask `is none` without asking `is defined` first.
                tools => if tools.is_empty() { Value::from(()) } else { Value::from(tools.clone()) },
                documents => (),
            })
        })
    }

    /// What `work` makes of the compiled template.
    fn compiled<T: Send>(
        &self,
        fuel: u64,
        work: impl FnOnce(&Template<'_, '_>) -> std::result::Result<T, minijinja::Error> + Send,
    ) -> Result<T> {
        let fault = |error: minijinja::Error| self.error(error.line(), sentence(&error));
        if self.source.len() > TEMPLATE_BYTES {
            let message = format!("a template of {} bytes is too long; at most {TEMPLATE_BYTES}", self.source.len());
            return Err(self.error(None, message));
        }
        self.apart(|| {
            let mut environment = self.environment().map_err(fault)?;
            environment.set_fuel(Some(fuel));
            environment.get_template(CHAT_TEMPLATE_FILE).and_then(|template| work(&template)).map_err(fault)
        })
    }

    /// An environment that has the template compiled.
    fn environment(&self) -> std::result::Result<Environment<'static>, minijinja::Error> {
        if let Some(environment) = self.flat.get() {
            return Ok(environment.clone());
        }
        let mut environment = environment::environment(0);
        environment.add_template_owned(CHAT_TEMPLATE_FILE, source::prepare(&self.source))?;
        Ok(if self.is_flat { self.flat.get_or_init(|| environment).clone() } else { environment })
    }

    /// Runs `work` in a thread with room for whatever a template nests.
    fn apart<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let work = std::sync::Mutex::new(Some(work));
        let once = || match work.lock().ok().and_then(|mut work| work.take()) {
            Some(work) => work(),
            None => Err(self.error(None, "the template was rendered already")),
        };
        std::thread::scope(|scope| {
            let mut fault = None;
            for bytes in STACK_BYTES {
                let thread = std::thread::Builder::new().name("chat template".into()).stack_size(bytes);
                match thread.spawn_scoped(scope, once) {
                    Ok(thread) => {
                        let failed = |_| Err(self.error(None, "the template engine failed"));
                        return thread.join().unwrap_or_else(failed);
                    }
                    Err(refusal) => fault = Some(refusal),
                }
            }
            let fault = fault.map_or_else(String::new, |fault| fault.to_string());
            Err(self.error(None, format!("no thread can be had to render it: {fault}")))
        })
    }

    /// An error of this template.
    pub(super) fn error(&self, line: Option<usize>, message: impl Into<String>) -> Error {
        Error::Template { file: self.file.clone(), line, message: message.into() }
    }
}

/// Whether a template nests so little, and calls no part of itself, that it may stay compiled.
fn is_flat(source: &str) -> bool {
    let nestings = source.bytes().filter(|byte| NESTING.contains(byte)).count();
    nestings <= FLAT_NESTINGS && !CALLING.iter().any(|word| source.contains(word))
}

/// A message as templates see it. What it does not have is not there, rather than empty.
fn dictionary(message: &Message, form: ContentForm) -> Value {
    let content = match form {
        ContentForm::Text => Value::from(message.content.as_str()),
        ContentForm::Parts => {
            Value::from(vec![Value::from_pairs([("type", "text"), ("text", message.content.as_str())])])
        }
    };
    let mut pairs = vec![("role", Value::from(message.role.to_string())), ("content", content)];
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| template_value(&call.value()));
        pairs.push(("tool_calls", Value::from(calls.collect::<Vec<Value>>())));
    }
    let named = [("tool_call_id", &message.tool_call_id), ("name", &message.name)];
    pairs.extend(named.into_iter().filter_map(|(key, text)| Some((key, Value::from(text.as_deref()?)))));
    Value::from_pairs(pairs)
}

/// A JSON value as templates see it, its fields in their order.
fn template_value(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(template_value).collect::<Vec<Value>>()),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), template_value(value))))
        }
    }
}

/// What the error says, without the place, which the caller names in its own way.
fn sentence(error: &minijinja::Error) -> String {
    use ErrorKind::{CannotUnpack, InvalidOperation, OutOfFuel, SyntaxError, UndefinedError};
    match (error.kind(), error.detail()) {
        (OutOfFuel, _) => "it takes too many steps or too much memory".to_string(),
        (SyntaxError, Some(detail)) => format!("it is no Jinja template: {detail}"),
        (UndefinedError, None) => "it uses a value that is not defined".to_string(),
        (InvalidOperation, None) => "it does with a value what cannot be done with it".to_string(),
        (kind @ (UndefinedError | CannotUnpack), Some(detail)) => format!("{kind}: {detail}"),
        (_, Some(detail)) => detail.to_string(),
        (kind, None) => kind.to_string(),
    }
}

#[cfg(test)]
mod tests;
