//! Files of zero-shot examples: a JSON object a line.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A text and how it goes on, as in LAMBADA: `{"context": ..., "continuation": ...}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// What comes before.
    pub context: String,
    /// What follows, with the space that it may begin with.
    pub continuation: String,
}

/// A question and its answers: `{"query": ..., "choices": [...], "gold": ...}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceExample {
    /// What comes before each choice and the space that joins them.
    pub query: String,
    /// Two or more.
    pub choices: Vec<String>,
    /// The right one's place among the choices, from 0 on.
    pub gold: usize,
}

/// The examples of a file, all of one kind, each with its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFile {
    /// The file, for messages.
    pub path: PathBuf,
    /// What it holds.
    pub examples: Examples,
}

/// Examples and their lines, from 1 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examples {
    /// The text must go on as given.
    Continuations(Vec<(usize, Continuation)>),
    /// One of several must be the likeliest.
    Choices(Vec<(usize, ChoiceExample)>),
}

const CONTINUATION_FIELDS: &[&str] = &["context", "continuation"];
const CHOICE_FIELDS: &[&str] = &["query", "choices", "gold"];

impl TaskFile {
    /// The examples in `text`, which is that of the file `path`. Empty lines count as none.
    ///
    /// Fails with the line and the field where a line is no JSON object, has other fields or lacks one, where `gold`
    /// is no place among the choices, where a text to score is empty, and where lines are of different kinds.
    pub fn parse(path: &Path, text: &str) -> Result<TaskFile> {
        let (mut continuations, mut choices) = (Vec::new(), Vec::new());
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let object = serde_json::from_str::<Map<String, Value>>(line);
            let object = object.map_err(|e| {
                Error::damaged(path, format!("line {}", at + 1), "a JSON object", format!("`{}`: {e}", shortened(line)))
            })?;
            let line = Line { path, number: at + 1, object };
            // What the first line is, all are.
            let is_choice = match (choices.is_empty(), continuations.is_empty()) {
                (true, true) => !line.object.contains_key("context") && !line.object.contains_key("continuation"),
                (no_choices, _) => !no_choices,
            };
            if is_choice {
                choices.push((line.number, line.choice()?));
            } else {
                continuations.push((line.number, line.continuation()?));
            }
        }
        if choices.is_empty() && continuations.is_empty() {
            return Err(Error::damaged(path, "the file", "a JSON object a line", "no line"));
        }
        let examples =
            if choices.is_empty() { Examples::Continuations(continuations) } else { Examples::Choices(choices) };
        Ok(TaskFile { path: path.to_path_buf(), examples })
    }

    /// Keeps the first `most` examples.
    pub fn limit(&mut self, most: usize) {
        match &mut self.examples {
            Examples::Continuations(examples) => examples.truncate(most),
            Examples::Choices(examples) => examples.truncate(most),
        }
    }
}

/// A line that is being read.
struct Line<'a> {
    path: &'a Path,
    number: usize,
    object: Map<String, Value>,
}

impl Line<'_> {
    fn continuation(&self) -> Result<Continuation> {
        self.check_fields(CONTINUATION_FIELDS)?;
        let continuation = self.filled("continuation", &self.object["continuation"])?;
        Ok(Continuation { context: self.string("context", &self.object["context"])?, continuation })
    }

    fn choice(&self) -> Result<ChoiceExample> {
        self.check_fields(CHOICE_FIELDS)?;
        let Some(choices) = self.object["choices"].as_array().filter(|choices| choices.len() > 1) else {
            return Err(self.fault("choices", "a list of two strings or more", &self.object["choices"]));
        };
        let choices: Vec<String> = choices.iter().map(|c| self.filled("choices", c)).collect::<Result<_>>()?;
        let gold = self.object["gold"].as_u64().and_then(|gold| usize::try_from(gold).ok());
        let Some(gold) = gold.filter(|gold| *gold < choices.len()) else {
            return Err(self.fault("gold", &format!("0 to {}", choices.len() - 1), &self.object["gold"]));
        };
        Ok(ChoiceExample { query: self.string("query", &self.object["query"])?, choices, gold })
    }

    /// All of the fields must be there, and no other.
    fn check_fields(&self, fields: &[&str]) -> Result<()> {
        let expected = fields.join(", ");
        if let Some(other) = self.object.keys().find(|key| !fields.contains(&key.as_str())) {
            let what = format!("line {}, field `{other}`", self.number);
            return Err(Error::damaged(self.path, what, format!("only the fields {expected}"), "this field"));
        }
        match fields.iter().find(|field| !self.object.contains_key(**field)) {
            None => Ok(()),
            Some(field) => {
                let what = format!("line {}, field `{field}`", self.number);
                Err(Error::damaged(self.path, what, format!("the fields {expected}"), "no such field"))
            }
        }
    }

    fn string(&self, field: &str, value: &Value) -> Result<String> {
        value.as_str().map(str::to_string).ok_or_else(|| self.fault(field, "a string", value))
    }

    fn filled(&self, field: &str, value: &Value) -> Result<String> {
        let text = self.string(field, value)?;
        if text.trim().is_empty() { Err(self.fault(field, "some text", value)) } else { Ok(text) }
    }

    fn fault(&self, field: &str, expected: &str, got: &Value) -> Error {
        let what = format!("line {}, field `{field}`", self.number);
        Error::damaged(self.path, what, expected, shortened(&got.to_string()))
    }
}

/// The beginning of a text that may be long.
fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    if text.chars().count() <= MOST { text.to_string() } else { text.chars().take(MOST).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAMBADA: &str = r#"{"context": "She sat", "continuation": " down"}"#;
    const CHOICE: &str = r#"{"query": "Fire is", "choices": ["cold", "hot"], "gold": 1}"#;

    fn parse(lines: &[&str]) -> Result<TaskFile> {
        TaskFile::parse(Path::new("task.jsonl"), &lines.join("\n"))
    }

    #[test]
    fn both_kinds_are_read_with_their_lines() {
        let example = Continuation { context: "She sat".into(), continuation: " down".into() };
        let mut file = parse(&[LAMBADA, "", LAMBADA]).unwrap();
        assert_eq!(file.examples, Examples::Continuations(vec![(1, example.clone()), (3, example.clone())]));
        file.limit(1);
        assert_eq!(file.examples, Examples::Continuations(vec![(1, example)]));
        let example = ChoiceExample { query: "Fire is".into(), choices: vec!["cold".into(), "hot".into()], gold: 1 };
        assert_eq!(parse(&[CHOICE]).unwrap().examples, Examples::Choices(vec![(1, example)]));
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_field() {
        for (lines, words) in [
            (&[LAMBADA, CHOICE][..], "line 2, field `query`: expected only the fields context, continuation"),
            (&[CHOICE, "", LAMBADA], "line 3, field `context`: expected only the fields query, choices, gold"),
            (&[r#"{"context": "a", "continuation": "b", "id": 1}"#], "line 1, field `id`"),
            (
                &[r#"{"context": "a"}"#],
                "line 1, field `continuation`: expected the fields context, continuation, got no",
            ),
            (&[r#"{"context": 1, "continuation": "b"}"#], "field `context`: expected a string, got 1"),
            (&[r#"{"context": "a", "continuation": " "}"#], "field `continuation`: expected some text"),
            (&[r#"{"query": "a", "choices": ["b", "c"], "gold": 2}"#], "field `gold`: expected 0 to 1, got 2"),
            (&[r#"{"query": "a", "choices": ["b", "c"], "gold": -1}"#], "field `gold`: expected 0 to 1, got -1"),
            (&[r#"{"query": "a", "choices": ["b", "c"], "gold": "1"}"#], "field `gold`: expected 0 to 1, got \"1\""),
            (&[r#"{"query": "a", "choices": ["b"], "gold": 0}"#], "field `choices`: expected a list of two"),
            (&[r#"{"query": "a", "choices": ["b", 2], "gold": 0}"#], "field `choices`: expected a string, got 2"),
            (&["{}"], "line 1, field `query`"),
            (&[LAMBADA, "nonsense"], "line 2: expected a JSON object, got `nonsense`"),
            (&["[1]"], "line 1: expected a JSON object"),
            (&["", " "], "the file: expected a JSON object a line, got no line"),
        ] {
            let error = parse(lines).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("task.jsonl"), "{error}");
        }
    }
}
