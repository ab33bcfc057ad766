//! Calls of tools in the text of an answer, in the ways in which model families write them.

mod json_span;
mod named_call;

use serde_json::{Map, Value};

use self::json_span::{JsonSpan, SpanEnd};
use self::named_call::Heading;
use super::ToolCall;
use super::stops::begun;

/// How a family of models writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToolCallFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, any number of times and with text around: Hermes, Qwen.
    Hermes,
    /// An answer that is one object `{"name": …, "parameters": …}`, or several with `;` between: LLaMA 3. Text may come
    /// before it where `<|python_tag|>` stands between.
    Llama3,
    /// `[TOOL_CALLS] [{"name": …, "arguments": …}, …]`: Mistral. The mark is a special token, which has no text, and so
    /// may be missing at the beginning of an answer.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}` for each call: Ministral 3. All marks are special tokens, and so may be missing at
    /// the beginning of an answer and after a call; where all are missing, a call behind a text is not found. An
    /// answer that spells its marks may have `[CALL_ID]id` behind a name. Templates with that mark, such as Mistral
    /// Small 3.2's, do not choose this format: without the mark's text an id could not be told from the name.
    MistralNamed,
}

impl ToolCallFormat {
    /// The format that a chat template writes calls in, if it is one of those known.
    pub fn of_template(source: &str) -> Option<ToolCallFormat> {
        let has = |mark: &str| source.contains(mark);
        if has(HERMES[0]) {
            Some(ToolCallFormat::Hermes)
        } else if has(MISTRAL) && has(named_call::ARGUMENTS) && !has(named_call::ID) {
            Some(ToolCallFormat::MistralNamed)
        } else if has(MISTRAL) {
            Some(ToolCallFormat::Mistral)
        } else if has(LLAMA) || has("ipython") {
            Some(ToolCallFormat::Llama3)
        } else {
            None
        }
    }

    /// What begins a call after text.
    fn mark(self) -> &'static str {
        match self {
            ToolCallFormat::Hermes => HERMES[0],
            ToolCallFormat::Llama3 => LLAMA,
            ToolCallFormat::Mistral | ToolCallFormat::MistralNamed => MISTRAL,
        }
    }

    /// Whether a call begins with `rest` at the beginning of an answer, without the mark; `None` where what comes
    /// decides it.
    fn begins_bare(self, rest: &str) -> Option<bool> {
        let opening = match self {
            ToolCallFormat::Hermes => return Some(false),
            ToolCallFormat::Llama3 => "{",
            ToolCallFormat::Mistral => "[{",
            ToolCallFormat::MistralNamed => {
                return match Heading::of(rest) {
                    Heading::Whole { .. } => Some(true),
                    Heading::Open => None,
                    Heading::Other => Some(false),
                };
            }
        };
        // White space may stand between the two characters that begin a list of calls.
        let dense: String = rest.chars().filter(|c| !c.is_whitespace()).take(2).collect();
        match dense.starts_with(opening) {
            true => Some(true),
            false => (!opening.starts_with(&dense)).then_some(false),
        }
    }
}

const HERMES: [&str; 2] = ["<tool_call>", "</tool_call>"];
const LLAMA: &str = "<|python_tag|>";
const MISTRAL: &str = "[TOOL_CALLS]";

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerPart {
    /// Text for people.
    Text(String),
    /// A call of a tool.
    Call(ToolCall),
}

/// Finds the calls of tools in an answer whose text comes in pieces. What looks like a call and is none is text, and no
/// text makes it fail.
///
/// ```
/// use edge_run::{AnswerPart, ToolCallFormat, ToolCallParser};
///
/// let mut parser = ToolCallParser::new(ToolCallFormat::Hermes);
/// let mut parts = parser.push("Let me see.<tool_call>{\"name\": \"weather\", ");
/// parts.extend(parser.push("\"arguments\": {\"city\": \"Paris\"}}</tool_call>"));
/// parts.extend(parser.finish());
/// assert_eq!(parts[0], AnswerPart::Text("Let me see.".into()));
/// let AnswerPart::Call(call) = &parts[1] else { panic!("no call") };
/// assert_eq!((call.name.as_str(), call.arguments.as_str()), ("weather", r#"{"city":"Paris"}"#));
/// ```
#[derive(Debug, Clone)]
pub struct ToolCallParser {
    format: ToolCallFormat,
    place: AnswerPlace,
    /// Text that is not handed out yet.
    held: String,
    calls: usize,
}

/// Where in an answer the held text begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum AnswerPlace {
    /// Where a call may stand without its mark: at the beginning of an answer, or after a call.
    Open { after_call: bool },
    /// Within text.
    Text,
    /// Within a call, whose mark and white space take so many bytes.
    Call { opening: usize, span: JsonSpan },
}

impl ToolCallParser {
    /// A parser at the beginning of an answer.
    pub fn new(format: ToolCallFormat) -> ToolCallParser {
        ToolCallParser { format, place: AnswerPlace::Open { after_call: false }, held: String::new(), calls: 0 }
    }

    /// Goes on with `text`: the parts that are known with it. Text that may be the beginning of a call is held back.
    pub fn push(&mut self, text: &str) -> Vec<AnswerPart> {
        self.held += text;
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// Ends the answer: the parts that were held back. The parser is then at the beginning of the next answer.
    pub fn finish(&mut self) -> Vec<AnswerPart> {
        let mut parts = Vec::new();
        // A model may end its turn in the place of the mark that ends a call.
        if let AnswerPlace::Call { opening, .. } = self.place
            && let Some(calls) = calls_of(self.format, self.held[opening..].trim())
        {
            parts.extend(self.numbered(calls));
            self.held.clear();
        }
        if self.place == (AnswerPlace::Open { after_call: true }) && self.held.trim().is_empty() {
            self.held.clear();
        }
        if !self.held.is_empty() {
            parts.push(AnswerPart::Text(std::mem::take(&mut self.held)));
        }
        self.place = AnswerPlace::Open { after_call: false };
        self.calls = 0;
        parts
    }

    /// Takes a part off the held text, or learns where it is; whether there may be more of that.
    fn step(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        match self.place.clone() {
            AnswerPlace::Open { after_call } => self.open(after_call),
            AnswerPlace::Text => self.text(parts),
            AnswerPlace::Call { opening, span } => self.call(opening, span, parts),
        }
    }

    fn open(&mut self, after_call: bool) -> bool {
        let separators: &[char] = match (after_call, self.format) {
            (true, ToolCallFormat::Llama3) => &[' ', '\t', '\r', '\n', ';'],
            _ => &[' ', '\t', '\r', '\n'],
        };
        let rest = self.held.trim_start_matches(separators);
        let before = self.held.len() - rest.len();
        let mark = self.format.mark();
        if rest.starts_with(mark) {
            self.enter(before + mark.len());
            return true;
        }
        match self.format.begins_bare(rest) {
            Some(true) => self.enter(before),
            Some(false) if !mark.starts_with(rest) => self.place = AnswerPlace::Text,
            _ => return false,
        }
        true
    }

    fn enter(&mut self, opening: usize) {
        self.place = AnswerPlace::Call { opening, span: JsonSpan::default() };
    }

    fn text(&mut self, parts: &mut Vec<AnswerPart>) -> bool {
        let mark = self.format.mark();
        let (ready, found) = match self.held.find(mark) {
            Some(at) => (at, true),
            None => (self.held.len() - begun(&self.held, mark), false),
        };
        let rest = self.held.split_off(ready);
        let text = std::mem::replace(&mut self.held, rest);
        if !text.is_empty() {
            parts.push(AnswerPart::Text(text));
        }
        if found {
            self.enter(mark.len());
        }
        found
    }

    fn call(&mut self, opening: usize, mut span: JsonSpan, parts: &mut Vec<AnswerPart>) -> bool {
        let json = &self.held[opening..];
        let heading = match self.format {
            ToolCallFormat::MistralNamed => Heading::of(json),
            _ => Heading::Whole { name: "", bytes: 0 },
        };
        let end = match (self.format, heading) {
            (ToolCallFormat::Hermes, _) => json.find(HERMES[1]).map(|at| (at, at + HERMES[1].len())),
            (_, Heading::Open) => None,
            (_, Heading::Other) => return self.no_call(opening, parts),
            (_, Heading::Whole { bytes, .. }) => match span.end(&json[bytes..]) {
                SpanEnd::At(end) => Some((bytes + end, bytes + end)),
                SpanEnd::Open => None,
                SpanEnd::NoJson => return self.no_call(opening, parts),
            },
        };
        let Some((json_end, end)) = end else {
            self.place = AnswerPlace::Call { opening, span };
            return false;
        };
        match calls_of(self.format, json[..json_end].trim()) {
            Some(calls) => {
                parts.extend(self.numbered(calls));
                self.held.drain(..opening + end);
                self.place = AnswerPlace::Open { after_call: true };
                true
            }
            None => self.no_call(opening + end, parts),
        }
    }

    /// Hands out as text the first bytes of what turned out to be no call, and goes on within text.
    fn no_call(&mut self, bytes: usize, parts: &mut Vec<AnswerPart>) -> bool {
        let rest = self.held.split_off(bytes);
        let text = std::mem::replace(&mut self.held, rest);
        if !text.is_empty() {
            parts.push(AnswerPart::Text(text));
        }
        self.place = AnswerPlace::Text;
        true
    }

    fn numbered(&mut self, calls: Vec<(String, String)>) -> Vec<AnswerPart> {
        let mut numbered = |(name, arguments)| {
            self.calls += 1;
            // Templates of Mistral's models take ids of nine characters only.
            AnswerPart::Call(ToolCall { id: format!("call{:05}", self.calls), name, arguments })
        };
        calls.into_iter().map(&mut numbered).collect()
    }
}

/// The calls that a text without its marks is, if it is any: names and arguments.
fn calls_of(format: ToolCallFormat, json: &str) -> Option<Vec<(String, String)>> {
    if format == ToolCallFormat::MistralNamed {
        let Heading::Whole { name, bytes } = Heading::of(json) else { return None };
        let arguments: Map<String, Value> = serde_json::from_str(&json[bytes..]).ok()?;
        return Some(vec![(name.to_string(), Value::Object(arguments).to_string())]);
    }
    let calls = match serde_json::from_str(json).ok()? {
        Value::Array(calls) if format == ToolCallFormat::Mistral && !calls.is_empty() => calls,
        object @ Value::Object(_) if format != ToolCallFormat::Mistral => vec![object],
        _ => return None,
    };
    calls.into_iter().map(name_and_arguments).collect()
}

fn name_and_arguments(call: Value) -> Option<(String, String)> {
    let Value::Object(mut call) = call else { return None };
    let Some(Value::String(name)) = call.remove("name") else { return None };
    let arguments = match call.remove("arguments").or_else(|| call.remove("parameters")) {
        None | Some(Value::Null) => Value::Object(Map::new()),
        // Some models write the text of the arguments, as a program would hand them on.
        Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
        Some(arguments) => arguments,
    };
    arguments.is_object().then(|| (name, arguments.to_string()))
}

#[cfg(test)]
mod tests;
