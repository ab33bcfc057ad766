//! From text to token ids, and what a model's special tokens mean.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::{ChatTemplates, GenerationDefaults};
use crate::error::{Error, Result};
use crate::format::{CHAT_TEMPLATE_FILE, CHAT_TEMPLATES_FILE, GENERATION_FILE, ModelFolder, TOKENIZER_FILE};

/// The text of the files that make up a model's text side.
#[derive(Debug, Clone, Copy)]
pub struct TextFiles<'a> {
    /// The folder that errors place the files in.
    pub folder: &'a Path,
    /// `tokenizer.json`
    pub tokenizer: &'a str,
    /// `chat_template.jinja`
    pub template: Option<&'a str>,
    /// `chat_templates.json`
    pub templates: Option<&'a str>,
    /// `generation_config.json`
    pub generation: Option<&'a str>,
}

/// Tokenizer, chat template and special tokens of a model.
#[derive(Debug)]
pub struct TextModel {
    pub(super) file: PathBuf,
    pub(super) tokenizer: Tokenizer,
    special: HashSet<u32>,
    pub(super) templates: ChatTemplates,
    defaults: GenerationDefaults,
}

impl TextModel {
    /// The text side of the model in `folder`.
    pub fn open(folder: &ModelFolder) -> Result<TextModel> {
        let tokenizer = folder.read_text(TOKENIZER_FILE)?.ok_or_else(|| {
            Error::damaged(folder.dir().join(TOKENIZER_FILE), "the file", "a tokenizer", "no file of this name")
        })?;
        let template = folder.read_text(CHAT_TEMPLATE_FILE)?;
        let templates = folder.read_text(CHAT_TEMPLATES_FILE)?;
        let generation = folder.read_text(GENERATION_FILE)?;
        let text = TextModel::from_files(&TextFiles {
            folder: folder.dir(),
            tokenizer: &tokenizer,
            template: template.as_deref(),
            templates: templates.as_deref(),
            generation: generation.as_deref(),
        })?;
        text.check_vocabulary(folder.shape().vocab)?;
        Ok(text)
    }

    /// The text side that `files` describe.
    pub fn from_files(files: &TextFiles<'_>) -> Result<TextModel> {
        let file = files.folder.join(TOKENIZER_FILE);
        let mut tokenizer = Tokenizer::from_bytes(files.tokenizer)
            .map_err(|e| Error::damaged(&file, "JSON", "a tokenizer as Hugging Face writes it", e))?;
        // Training set-ups leave these in the file; a prompt is never cut or filled up.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| Error::damaged(&file, "truncation", "none", e))?;
        let generation = files.folder.join(GENERATION_FILE);
        let defaults = files.generation.map(|text| GenerationDefaults::parse(&generation, text)).transpose()?;
        let templates = ChatTemplates::read(files.folder, files.template, files.templates)?;
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        Ok(TextModel { file, tokenizer, special, templates, defaults: defaults.unwrap_or_default() })
    }

    /// Token ids of `text`; with `add_special`, those that the tokenizer puts around every text come with it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, add_special)
            .map_err(|e| Error::damaged(&self.file, "tokenizer", "one that takes any text", e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids` as a whole; special tokens and ids outside the vocabulary have none.
    pub fn decode(&self, ids: &[u32]) -> String {
        // Decoders work on strings that the vocabulary itself gave them; one that refuses them has no text to give.
        self.tokenizer.decode(ids, true).unwrap_or_default()
    }

    /// Whether the token ends a turn or a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.defaults.end.contains(&id)
    }

    /// Whether the token stands for something other than text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id) || self.is_end(id)
    }

    /// What the model's makers recommend.
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    /// Refuses a tokenizer that gives ids which a model of `vocab` embeddings does not have.
    fn check_vocabulary(&self, vocab: u32) -> Result<()> {
        let highest = self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        let outside = self.defaults.end.iter().chain(&self.defaults.bos).copied().chain([highest]).max().unwrap_or(0);
        if outside < vocab {
            return Ok(());
        }
        Err(Error::damaged(&self.file, "token ids", format!("ids below {vocab}, the model's vocabulary"), outside))
    }
}

/// Small tokenizers for the tests of this folder.
#[cfg(test)]
pub(super) mod test_models {
    use serde_json::{Map, Value, json};

    use super::*;

    /// The characters that byte-level tokenizers write for each byte (GPT-2's table).
    fn byte_characters(bytes: &[u8]) -> String {
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let shifted = |b: u8| 256 + (0..b).filter(|c| !printable(*c)).count() as u32;
        let character = |b: &u8| if printable(*b) { char::from(*b) } else { char::from_u32(shifted(*b)).unwrap() };
        bytes.iter().map(character).collect()
    }

    pub fn build(vocabulary: Vec<String>, decoder: Value, template: Option<&str>) -> TextModel {
        let end = vocabulary.len();
        let vocabulary: Map<String, Value> = vocabulary.into_iter().zip(0..).map(|(t, id)| (t, json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": [{"id": end, "content": "<|end|>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": decoder,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        });
        TextModel::from_files(&TextFiles {
            folder: Path::new("model"),
            tokenizer: &tokenizer.to_string(),
            template,
            templates: None,
            generation: Some(&json!({ "bos_token_id": end, "eos_token_id": end }).to_string()),
        })
        .unwrap()
    }

    /// A byte-level vocabulary of `pieces`, ids in order, and `<|end|>`.
    pub fn byte_level(pieces: &[&[u8]]) -> TextModel {
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        build(pieces.iter().map(|p| byte_characters(p)).collect(), decoder, None)
    }

    /// A vocabulary in the way of SentencePiece, with the decoder of LLaMA-2.
    pub fn sentence_piece(pieces: &[&str]) -> TextModel {
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        build(pieces.iter().map(|p| p.to_string()).collect(), decoder, None)
    }

    impl TextModel {
        /// The id of `<|end|>`.
        pub fn special_for_test(&self) -> u32 {
            self.defaults.end[0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::test_models::byte_level;
    use super::*;

    #[test]
    fn ids_outside_the_vocabulary_are_ordinary_and_empty() {
        let text = byte_level(&[b"a"]);
        for id in [2, 49152, u32::MAX] {
            assert!(!text.is_end(id) && !text.is_special(id));
            assert_eq!(text.decode(&[0, id]), "a");
        }
    }

    #[test]
    fn special_tokens_in_a_text_become_one_token() {
        let text = byte_level(&[b"a"]);
        let end = text.special_for_test();
        assert_eq!(text.encode("a<|end|>a", false).unwrap(), [0, end, 0]);
        assert!(text.is_end(end) && text.is_special(end));
        assert_eq!(text.decode(&[0, end, 0]), "aa");
    }

    #[test]
    fn a_tokenizer_with_more_ids_than_the_model_is_refused() {
        let text = byte_level(&[b"a", b"b"]);
        assert!(text.check_vocabulary(3).is_ok());
        let error = text.check_vocabulary(2).unwrap_err();
        assert!(matches!(&error, Error::Damaged { got, .. } if got == "2"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_named() {
        let files = TextFiles {
            folder: Path::new("model"),
            tokenizer: "{}",
            template: None,
            templates: None,
            generation: None,
        };
        let error = TextModel::from_files(&files).unwrap_err();
        assert!(matches!(&error, Error::Damaged { file, .. } if file.ends_with(TOKENIZER_FILE)), "{error}");
    }
}
