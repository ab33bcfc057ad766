//! From text to token ids, and what a model's special tokens mean.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokenizers::{Encoding, Tokenizer};

#[cfg(feature = "grammar")]
use super::grammar::GrammarVocabulary;
use super::plain_text::PlainText;
use super::text_tokens::TextTokens;
use super::tokenizer_file::{self, unwinding};
use super::{ChatTemplates, GenerationDefaults, ends};
use crate::error::{Error, Result, as_absent, shortened};
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

impl TextFiles<'_> {
    /// The file that errors name for the one called `name`: of a model that is one file, that file.
    fn place(&self, name: &str) -> PathBuf {
        if self.folder.is_file() { self.folder.to_path_buf() } else { self.folder.join(name) }
    }
}

/// What errors call a text that has no name.
pub(super) const THIS_TEXT: &str = "this text";

/// Tokenizer, chat template and special tokens of a model.
#[derive(Debug)]
pub struct TextModel {
    pub(super) file: PathBuf,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// The tokens that stand as written, once a conversation was encoded.
    plain: OnceLock<PlainText>,
    vocab: u32,
    special: HashSet<u32>,
    pub(super) templates: ChatTemplates,
    defaults: GenerationDefaults,
    warnings: Vec<String>,
    /// The vocabulary as grammars take it, once one was asked for; or why there is none.
    #[cfg(feature = "grammar")]
    pub(super) grammar_vocabulary: OnceLock<std::result::Result<GrammarVocabulary, String>>,
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
        let files = TextFiles {
            folder: folder.dir(),
            tokenizer: &tokenizer,
            template: template.as_deref(),
            templates: templates.as_deref(),
            generation: generation.as_deref(),
        };
        TextModel::from_files(&files, folder.shape().vocab)
    }

    /// The text side that `files` describe, of a model with V = `vocab`. Fails where the tokenizer cannot be read; what
    /// else cannot be followed is among the [warnings](TextModel::warnings).
    pub fn from_files(files: &TextFiles<'_>, vocab: u32) -> Result<TextModel> {
        let mut warnings = Vec::new();
        let file = files.place(TOKENIZER_FILE);
        let tokenizer = tokenizer_file::read(&file, files.tokenizer, &mut warnings)?;
        let generation = files.place(GENERATION_FILE);
        let defaults = files.generation.map(|text| GenerationDefaults::parse(&generation, text, &mut warnings));
        let templates = ChatTemplates::read(files.folder, files.template, files.templates)?;
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let defaults = defaults.unwrap_or_default();
        let mut text = TextModel {
            file,
            tokenizer: Arc::new(tokenizer),
            plain: OnceLock::new(),
            vocab,
            special,
            templates,
            defaults,
            warnings,
            #[cfg(feature = "grammar")]
            grammar_vocabulary: OnceLock::new(),
        };
        text.warn_of_tokens_outside();
        text.drop_ids_outside(&generation);
        let mut tokens: Vec<(u32, &str)> = added.iter().map(|(id, token)| (*id, token.content.as_str())).collect();
        tokens.retain(|(id, _)| *id < vocab);
        tokens.sort_unstable();
        ends::complete(&mut text.defaults, &tokens);
        Ok(text)
    }

    /// What of the files cannot be followed and counts as absent, in sentences for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Token ids of `text`; with `add_special`, those that the tokenizer puts around every text come with it. Fails
    /// where the tokenizer has no tokens for the text, or a token that the model has no embedding of.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        self.encode_named(THIS_TEXT, text, add_special)
    }

    /// The same of a text that errors call `name`.
    pub fn encode_named(&self, name: &str, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.encoding(text, add_special)?;
        self.within_vocabulary(name, encoding.get_ids().to_vec())
    }

    /// The tokens of a text that errors call `name`, to be cut into windows. Fails where the tokenizer has none for it,
    /// and where one of these or of those before every text has no embedding.
    pub fn encode_for_windows(&self, name: &str, text: &str) -> Result<TextTokens> {
        let encoding = self.encoding(text, true)?;
        let text = TextTokens::new(encoding.get_ids(), encoding.get_special_tokens_mask());
        self.check_vocabulary("what comes before every text", text.before())?;
        self.check_vocabulary(name, text.ids())?;
        Ok(text)
    }

    /// What the tokenizer's library makes of a text.
    fn encoding(&self, text: &str, add_special: bool) -> Result<Encoding> {
        let expected = "one that takes any text";
        let encoded = unwinding(|| self.tokenizer.encode_fast(text, add_special));
        encoded
            .ok_or_else(|| Error::damaged(&self.file, "tokenizer", expected, "one that its library fails on"))?
            .map_err(|e| Error::damaged(&self.file, "tokenizer", expected, e))
    }

    /// The ids of the text `name`, all of which the model must have an embedding of.
    pub(super) fn within_vocabulary(&self, name: &str, ids: Vec<u32>) -> Result<Vec<u32>> {
        self.check_vocabulary(name, &ids).map(|()| ids)
    }

    /// Fails where the text `name` has an id that the model has no embedding of.
    fn check_vocabulary(&self, name: &str, ids: &[u32]) -> Result<()> {
        let Some(id) = ids.iter().find(|id| **id >= self.vocab) else { return Ok(()) };
        let token = shortened(&self.tokenizer.id_to_token(*id).unwrap_or_default());
        let expected = format!("an id below {}, the size of the model's vocabulary", self.vocab);
        Err(Error::damaged(&self.file, format!("token `{token}` of {name}"), expected, id))
    }

    /// What is to be known of the tokenizer's tokens to keep what is said from becoming one.
    pub(super) fn plain_text(&self) -> &PlainText {
        let is_control = |id| self.is_special(id) || self.defaults.bos == Some(id);
        self.plain.get_or_init(|| PlainText::new(&self.tokenizer, is_control))
    }

    /// Text of `ids` as a whole; special tokens and ids outside the vocabulary have none.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut tokens = ids.iter().filter(|id| !self.special.contains(id));
        // Some decoders fail on no tokens.
        if !tokens.clone().any(|id| self.tokenizer.id_to_token(*id).is_some()) {
            return String::new();
        }
        match unwinding(|| self.tokenizer.decode(ids, true)) {
            Some(Ok(text)) => text,
            // Better the tokens as the vocabulary writes them than a text that lacks some.
            _ => tokens.by_ref().filter_map(|id| self.tokenizer.id_to_token(*id)).collect(),
        }
    }

    /// What chat templates print for BOS; empty where the model has none.
    pub fn bos_text(&self) -> String {
        self.stated_or_token(&self.defaults.bos_text, self.defaults.bos)
    }

    /// What chat templates print for EOS; empty where the model has none.
    pub fn eos_text(&self) -> String {
        self.stated_or_token(&self.defaults.eos_text, self.defaults.end.first().copied())
    }

    /// V
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Whether the token ends a turn or a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.defaults.end.contains(&id)
    }

    /// Whether the token stands for something other than text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id) || self.is_end(id)
    }

    /// The id of the token with this text, if there is one.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text)
    }

    /// The token of this id as the vocabulary writes it, if there is one.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// What the model's makers recommend.
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    fn stated_or_token(&self, stated: &Option<String>, id: Option<u32>) -> String {
        let token = || id.and_then(|id| self.tokenizer.id_to_token(id));
        stated.clone().or_else(token).unwrap_or_default()
    }

    /// Tokens without an embedding do no harm as long as no text has them: paddings of a fine-tuning often are some.
    fn warn_of_tokens_outside(&mut self) {
        let vocab = self.tokenizer.get_vocab(true);
        let outside = || vocab.iter().filter(|(_, id)| **id >= self.vocab);
        if let Some((text, id)) = outside().min_by_key(|(text, id)| (**id, text.as_str())) {
            let (file, vocab, token) = (self.file.display(), self.vocab, shortened(text));
            self.warnings.push(match outside().count() {
                1 => format!(
                    "`{file}`: the token `{token}` with id {id} is past the model's vocabulary of {vocab}: \
                     a text that has it cannot be run"
                ),
                count => format!(
                    "`{file}`: {count} tokens are past the model's vocabulary of {vocab}, `{token}` with id {id} \
                     first: a text that has one of them cannot be run"
                ),
            });
        }
    }

    /// Takes ids away that the model does not have.
    fn drop_ids_outside(&mut self, file: &Path) {
        let vocab = self.vocab;
        let mut keep = |key: &str, id: u32| {
            if id >= vocab {
                self.warnings.push(as_absent(file, key, format!("an id below {vocab}, the model's vocabulary"), id));
            }
            id < vocab
        };
        let defaults = &mut self.defaults;
        defaults.bos = defaults.bos.filter(|id| keep("bos_token_id", *id));
        defaults.pad = defaults.pad.filter(|id| keep("pad_token_id", *id));
        defaults.end.retain(|id| keep("eos_token_id", *id));
    }
}

/// Small tokenizers for tests.
#[cfg(test)]
pub(crate) mod test_models {
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
        let files = TextFiles {
            folder: Path::new("model"),
            tokenizer: &tokenizer.to_string(),
            template,
            templates: None,
            generation: Some(&json!({ "bos_token_id": end, "eos_token_id": end }).to_string()),
        };
        TextModel::from_files(&files, end as u32 + 1).unwrap()
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
#[path = "tokenizer_tests.rs"]
mod tests;
