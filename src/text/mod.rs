//! The text side of a model: its tokenizer, its chat template, and the choice of the next token.

mod charsmap;
mod chat;
mod detokenizer;
mod ends;
mod generation;
#[cfg(feature = "grammar")]
mod grammar;
mod known_prompt;
mod message;
mod plain_text;
mod sampler;
mod stops;
mod template;
mod text_tokens;
mod token_bytes;
mod tokenizer;
mod tokenizer_file;
mod tool_calls;
mod tools;

pub use detokenizer::Detokenizer;
pub use ends::{is_text_end, is_turn_end};
pub use generation::{GenerationDefaults, token_id};
#[cfg(feature = "grammar")]
pub use grammar::{Grammar, GrammarConstraint};
pub(crate) use known_prompt::KnownPrompt;
pub use message::{Message, Role};
pub use sampler::{DrawPosition, Sampler, same_numbers};
pub use stops::StopMatcher;
pub use template::{ChatTemplate, ChatTemplates};
pub use text_tokens::TextTokens;
#[cfg(test)]
pub(crate) use tokenizer::test_models;
pub use tokenizer::{TextFiles, TextModel};
pub use tool_calls::{AnswerPart, ToolCallFormat, ToolCallParser};
pub use tools::{Tool, ToolCall};

pub use crate::sampling::{LogitBias, SamplerSettings};
