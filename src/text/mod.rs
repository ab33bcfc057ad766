//! The text side of a model: its tokenizer, its chat template, and the choice of the next token.

mod charsmap;
mod chat;
mod detokenizer;
mod ends;
mod generation;
mod plain_text;
mod sampler;
mod template;
mod tokenizer;
mod tokenizer_file;

pub use detokenizer::Detokenizer;
pub use ends::{is_text_end, is_turn_end};
pub use generation::{GenerationDefaults, token_id};
pub use sampler::{DrawPosition, Sampler, same_numbers};
pub use template::{ChatTemplate, ChatTemplates, Message, Role};
#[cfg(test)]
pub(crate) use tokenizer::test_models;
pub use tokenizer::{TextFiles, TextModel};

pub use crate::sampling::SamplerSettings;
