//! The text side of a GGUF file: rebuilds tokenizer.json and generation_config.json from the metadata.

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::metadata::Metadata;
use super::{pretokenizer, sentencepiece, templates};
use crate::error::{Error, Result};
use crate::quantize::source::TextAssets;

/// What `tokenizer.ggml.token_type` says of a token; other numbers are ordinary tokens.
mod token_type {
    /// Stands for what the vocabulary lacks.
    pub const UNKNOWN: u32 = 2;
    /// Never made from plain text, never shown.
    pub const CONTROL: u32 = 3;
    /// Found in text before anything else is.
    pub const USER_DEFINED: u32 = 4;
    /// One byte, written `<0xAB>`.
    pub const BYTE: u32 = 6;
}

/// Tokens that end a turn of a conversation in files which do not name theirs.
const TURN_ENDS: [&str; 2] = ["<|eot_id|>", "<|im_end|>"];

/// The text side's files. `vocab` is V, the number of ids that the weights know.
pub fn read(metadata: &Metadata, vocab: u32) -> Result<TextAssets> {
    let tokens = Tokens::read(metadata, vocab)?;
    let kind = metadata.text("tokenizer.ggml.model")?.unwrap_or("none stated");
    let tokenizer = match kind {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => sentence_piece(metadata, &tokens)?,
        other => {
            return Err(Error::Unsupported {
                what: "tokenizer".into(),
                got: other.into(),
                supported: "gpt2 (byte-level BPE), llama (SentencePiece BPE)".into(),
            });
        }
    };
    let tokenizer = serde_json::to_string_pretty(&tokenizer).expect("JSON made here");
    Tokenizer::from_bytes(&tokenizer)
        .map_err(|fault| Error::damaged(metadata.path(), "tokenizer.ggml", "a sound vocabulary", fault))?;
    Ok(TextAssets {
        tokenizer,
        chat_template: templates::default(metadata)?,
        named_templates: templates::named(metadata)?,
        generation_config: generation_config(metadata, &tokens, kind)?,
    })
}

/// The vocabulary: texts by id, and their types.
struct Tokens {
    texts: Vec<String>,
    types: Vec<u32>,
}

impl Tokens {
    fn read(metadata: &Metadata, vocab: u32) -> Result<Tokens> {
        let key = "tokenizer.ggml.tokens";
        let texts = metadata.texts(key)?.ok_or_else(|| metadata.missing(key, "the vocabulary"))?;
        if texts.len() > vocab as usize {
            let expected = format!("at most {vocab} tokens, the rows of the embedding");
            return Err(Error::damaged(metadata.path(), key, expected, texts.len()));
        }
        let key = "tokenizer.ggml.token_type";
        let types = metadata.numbers(key)?.unwrap_or_else(|| vec![1.0; texts.len()]);
        same_length(metadata, key, types.len(), texts.len())?;
        // An empty text would match everywhere; llama.cpp gives such tokens a name too.
        let named =
            |(id, text): (usize, &&str)| if text.is_empty() { format!("[EMPTY_{id}]") } else { text.to_string() };
        Ok(Tokens {
            texts: texts.iter().enumerate().map(named).collect(),
            types: types.into_iter().map(|kind| kind as u32).collect(),
        })
    }

    /// The id in `key`, if there is one and it is an id.
    fn id(&self, metadata: &Metadata, key: &str) -> Result<Option<u32>> {
        let id = metadata.u32(key)?;
        match id.filter(|id| *id as usize >= self.texts.len()) {
            Some(id) => Err(Error::damaged(metadata.path(), key, format!("an id below {}", self.texts.len()), id)),
            None => Ok(id),
        }
    }

    fn vocabulary(&self) -> Map<String, Value> {
        self.texts.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect()
    }

    /// The tokens that are looked for in the text before it is split.
    fn added(&self) -> Vec<Value> {
        let kinds = self.texts.iter().zip(&self.types).enumerate();
        kinds
            .filter_map(|(id, (text, kind))| {
                let special = match *kind {
                    token_type::UNKNOWN | token_type::CONTROL => true,
                    token_type::USER_DEFINED => false,
                    _ => return None,
                };
                Some(json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                }))
            })
            .collect()
    }
}

fn byte_level(metadata: &Metadata, tokens: &Tokens) -> Result<Value> {
    let splitting = pretokenizer::splitting(metadata.text("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let key = "tokenizer.ggml.merges";
    let merges = metadata.texts(key)?.ok_or_else(|| metadata.missing(key, "the merges"))?;
    let pair = |merge: &&str| {
        // A part may begin with a space of its own, so the one between the parts is not the first character.
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let (left, right) = merge.split_at(at.unwrap_or(merge.len()));
        json!([left, right.strip_prefix(' ').unwrap_or(right)])
    };
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": splitting.ignore_merges, "vocab": tokens.vocabulary(),
        "merges": merges.iter().map(pair).collect::<Vec<_>>(),
    });
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(splitting.add_bos);
    let bos = tokens.id(metadata, "tokenizer.ggml.bos_token_id")?;
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens.added(),
        "normalizer": splitting.normalizer, "pre_tokenizer": splitting.pre_tokenizer,
        "post_processor": post_processor(metadata, tokens, bos.filter(|_| add_bos), add_bos)?,
        "decoder": decoder, "model": model,
    }))
}

fn sentence_piece(metadata: &Metadata, tokens: &Tokens) -> Result<Value> {
    let key = "tokenizer.ggml.scores";
    let scores = metadata.numbers(key)?.ok_or_else(|| metadata.missing(key, "the pieces' scores"))?;
    same_length(metadata, key, scores.len(), tokens.texts.len())?;
    let plain = |kind: u32| !(token_type::UNKNOWN..=token_type::BYTE).contains(&kind);
    let pieces: Vec<(&str, u32, f32)> = tokens
        .texts
        .iter()
        .zip(&tokens.types)
        .zip(scores)
        .enumerate()
        .filter(|(_, ((_, kind), _))| plain(**kind))
        .map(|(id, ((text, _), score))| (text.as_str(), id as u32, score))
        .collect();
    let unknown = tokens.id(metadata, "tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": tokens.texts.get(unknown as usize),
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
        "ignore_merges": false, "vocab": tokens.vocabulary(), "merges": sentencepiece::merges(&pieces),
    });
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(true);
    let bos = tokens.id(metadata, "tokenizer.ggml.bos_token_id")?.or(Some(SENTENCE_PIECE_BOS));
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens.added(),
        "normalizer": sentencepiece::normalizer(prefix), "pre_tokenizer": null,
        "post_processor": post_processor(metadata, tokens, bos.filter(|_| add_bos), add_bos)?,
        "decoder": sentencepiece::decoder(prefix), "model": model,
    }))
}

/// What SentencePiece vocabularies begin texts with, where the file does not say.
const SENTENCE_PIECE_BOS: u32 = 1;
/// What SentencePiece vocabularies end texts with, where the file does not say.
const SENTENCE_PIECE_EOS: u32 = 2;

/// Puts `bos` before texts; null where nothing is to be put there.
fn post_processor(metadata: &Metadata, tokens: &Tokens, bos: Option<u32>, wanted: bool) -> Result<Value> {
    let Some(id) = bos else {
        let key = "tokenizer.ggml.bos_token_id";
        return if wanted { Err(metadata.missing(key, "the token that begins texts")) } else { Ok(Value::Null) };
    };
    let key = "tokenizer.ggml.tokens";
    let text = tokens.texts.get(id as usize);
    let text = text.ok_or_else(|| Error::damaged(metadata.path(), key, format!("a token {id}"), tokens.texts.len()))?;
    let special = |kind: u32| json!({"SpecialToken": {"id": text, "type_id": kind}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
    }))
}

fn generation_config(metadata: &Metadata, tokens: &Tokens, kind: &str) -> Result<String> {
    let id = |name: &str| tokens.id(metadata, &format!("tokenizer.ggml.{name}_token_id"));
    let sentence_piece = kind == "llama";
    let mut ends: Vec<u32> = [id("eos")?.or(sentence_piece.then_some(SENTENCE_PIECE_EOS)), id("eot")?, id("eom")?]
        .into_iter()
        .flatten()
        .collect();
    if id("eot")?.is_none() {
        let named = |(at, text): (usize, &String)| TURN_ENDS.contains(&text.as_str()).then_some(at as u32);
        ends.extend(tokens.texts.iter().enumerate().filter_map(named));
    }
    let mut seen = Vec::new();
    ends.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    let mut settings = Map::new();
    if let Some(bos) = id("bos")?.or(sentence_piece.then_some(SENTENCE_PIECE_BOS)) {
        settings.insert("bos_token_id".into(), bos.into());
    }
    settings.insert("eos_token_id".into(), ends.into());
    if let Some(pad) = id("padding")? {
        settings.insert("pad_token_id".into(), pad.into());
    }
    Ok(serde_json::to_string_pretty(&settings).expect("JSON made here") + "\n")
}

fn same_length(metadata: &Metadata, key: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::damaged(metadata.path(), key, format!("{expected} values, one for each token"), got))
}

#[cfg(test)]
mod tests;
