//! The text side of a model: its tokenizer, its chat template, and the choice of the next token.

mod chat;
mod detokenizer;
mod generation;
mod plain_text;
mod sampler;
mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use generation::GenerationDefaults;
pub use sampler::{DrawPosition, Sampler};
pub use template::{ChatTemplate, ChatTemplates, Message, Role};
pub use tokenizer::{TextFiles, TextModel};

pub use crate::sampling::SamplerSettings;
