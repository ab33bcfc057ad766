//! Grammars that answers follow: JSON schemas, regular expressions, and context-free grammars in Lark's syntax.

mod constraint;
mod fault;
mod vocabulary;

use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

pub use constraint::GrammarConstraint;
pub(super) use vocabulary::GrammarVocabulary;

use super::TextModel;
use crate::error::{Error, Result};

/// The key of a schema under which options of the compiler stand.
const OPTIONS_KEY: &str = "x-guidance";
/// What errors call a JSON schema.
const JSON_SCHEMA: &str = "JSON schema";

/// What the text of an answer must be.
///
/// ```
/// use edge_run::Grammar;
///
/// let schema = r#"{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}"#;
/// Grammar::json_schema(schema)?;
/// Grammar::regex("[0-9]{4}-[0-9]{2}-[0-9]{2}")?;
/// Grammar::lark(r#"start: "yes" | "no""#)?;
/// // What is wrong is told when a grammar is made.
/// assert!(Grammar::json_schema(r#"{"type": "number", "multipleOf": "x"}"#).is_err());
/// # Ok::<(), edge_run::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Grammar {
    /// What errors call it.
    name: &'static str,
    grammar: TopLevelGrammar,
}

impl Grammar {
    /// JSON that the schema, itself a JSON text, describes. Its keys come in the schema's order.
    ///
    /// Between its parts the answer has the white space `, ` and `: ` and no other, so that none goes on for ever. A
    /// schema that sets options of its own under `x-guidance` has its own white space. Text and numbers that the schema
    /// does not bound may be as long as the context.
    ///
    /// Fails where the schema is no JSON, and with the JSON pointer of the field at fault where it asks for what is not
    /// supported or cannot be, which takes too many alternatives or a field without an end too.
    pub fn json_schema(schema: &str) -> Result<Grammar> {
        let schema: Value = serde_json::from_str(schema)
            .map_err(|fault| Error::argument(JSON_SCHEMA, "a text in JSON", fault.to_string()))?;
        let grammar = |schema: &Value| Grammar { name: JSON_SCHEMA, grammar: of_schema(schema) };
        let whole = grammar(&schema);
        match whole.try_it() {
            Ok(()) => Ok(whole),
            Err(fault) => {
                let place = fault::place(&schema, &fault, |other| grammar(other).try_it().err());
                Err(Error::grammar(JSON_SCHEMA, place, fault))
            }
        }
    }

    /// A JSON object of any fields.
    pub fn json() -> Result<Grammar> {
        Grammar { name: "JSON object", grammar: of_schema(&json!({"type": "object"})) }.checked()
    }

    /// Text that the regular expression matches as a whole, in the syntax of the crate `regex` without anchors,
    /// look-around and lazy repetition. Fails where it is no such expression.
    pub fn regex(expression: &str) -> Result<Grammar> {
        Grammar { name: "regular expression", grammar: TopLevelGrammar::from_regex(expression) }.checked()
    }

    /// Text that the grammar describes, in Lark's syntax as the crate `llguidance` reads it; it begins at the rule
    /// `start`. Fails with the line at fault where it is no such grammar. What depends on the tokens that it names is
    /// seen when a model is to follow it.
    pub fn lark(grammar: &str) -> Result<Grammar> {
        Grammar { name: "grammar", grammar: TopLevelGrammar::from_lark(grammar.to_string()) }.checked()
    }

    /// The grammar, or an error that says what is wrong with it. What is wrong with tokens that it names does not show
    /// here, as the model may have them.
    fn checked(self) -> Result<Grammar> {
        match self.try_it() {
            Err(fault) if !fault::is_of_tokens(&fault) => Err(Error::grammar(self.name, "", fault)),
            _ => Ok(self),
        }
    }

    /// Tries it over single bytes: what is wrong with it, in words, is so with any vocabulary.
    fn try_it(&self) -> std::result::Result<(), String> {
        GrammarVocabulary::of_bytes()?.try_beginning(&self.grammar)
    }
}

/// The grammar of what a schema describes, with its own white space or ours.
fn of_schema(schema: &Value) -> TopLevelGrammar {
    let mut schema = match schema {
        Value::Bool(true) => Value::Object(Map::new()),
        other => other.clone(),
    };
    if let Value::Object(fields) = &mut schema
        && !fields.contains_key(OPTIONS_KEY)
    {
        let spaces = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        fields.insert(OPTIONS_KEY.into(), spaces);
    }
    TopLevelGrammar::from_json_schema(schema)
}

impl TextModel {
    /// What makes answers in this model's tokens follow the grammar. The first call takes a moment, in which the
    /// vocabulary is made ready for grammars. Fails where the grammar takes too much to be followed.
    pub fn constraint(&self, grammar: &Grammar) -> Result<GrammarConstraint> {
        let refused = |fault: String| Error::grammar(grammar.name, "", fault);
        let vocabulary = self.grammar_vocabulary.get_or_init(|| GrammarVocabulary::new(self));
        let vocabulary = vocabulary.as_ref().map_err(|fault| refused(fault.clone()))?;
        let start = vocabulary.matcher(&grammar.grammar).map_err(refused)?;
        Ok(GrammarConstraint::new(grammar.name, start, self.vocab(), &self.defaults().end))
    }
}

#[cfg(test)]
mod tests;
