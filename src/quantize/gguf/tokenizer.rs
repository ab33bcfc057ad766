//! The text side of a GGUF file: rebuilds tokenizer.json and generation_config.json from the metadata.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::control::{self, token_type};
use super::metadata::Metadata;
use super::optional::Optional;
use super::{added, pretokenizer, sentencepiece, templates};
use crate::error::{Error, Result, shortened};
use crate::quantize::source::TextAssets;
use crate::quantize::text::as_file;
use crate::text::GenerationDefaults;

/// The text side's files.
pub fn read(metadata: &Metadata) -> Result<TextAssets> {
    let mut optional = Optional::new(metadata);
    let tokens = Tokens::read(metadata, &mut optional)?;
    let kind = metadata.text("tokenizer.ggml.model")?.unwrap_or("none stated");
    let tokenizer = match kind {
        "gpt2" => byte_level(metadata, &mut optional, &tokens)?,
        "llama" => sentence_piece(metadata, &mut optional, &tokens)?,
        other => {
            return Err(Error::Unsupported {
                what: "tokenizer".into(),
                got: other.into(),
                supported: "gpt2 (byte-level BPE), llama (SentencePiece BPE)".into(),
            });
        }
    };
    let generation = GenerationDefaults {
        bos: tokens.bos,
        end: tokens.ends.clone(),
        pad: optional.id("tokenizer.ggml.padding_token_id", tokens.texts.len()),
        ..GenerationDefaults::default()
    };
    let mut settings = Map::new();
    generation.write_into(&mut settings);
    Ok(TextAssets {
        tokenizer: serde_json::to_string_pretty(&tokenizer).expect("JSON made here"),
        chat_template: templates::default(&mut optional),
        named_templates: templates::named(&mut optional),
        generation_config: as_file(&settings),
        warnings: optional.warnings,
    })
}

/// The vocabulary: texts by id, their types, and what begins and ends a text.
struct Tokens {
    texts: Vec<String>,
    types: Vec<u32>,
    bos: Option<u32>,
    ends: Vec<u32>,
}

/// What SentencePiece vocabularies begin texts with, where the file does not say.
const SENTENCE_PIECE_BOS: u32 = 1;
/// What SentencePiece vocabularies end texts with, where the file does not say.
const SENTENCE_PIECE_EOS: u32 = 2;

impl Tokens {
    fn read(metadata: &Metadata, optional: &mut Optional<'_>) -> Result<Tokens> {
        let key = "tokenizer.ggml.tokens";
        let texts = metadata.texts(key)?.filter(|texts| !texts.is_empty());
        let texts = texts.ok_or_else(|| metadata.missing(key, "the vocabulary"))?;
        // An empty text would match everywhere; llama.cpp gives such tokens a name too.
        let named =
            |(id, text): (usize, &&str)| if text.is_empty() { format!("[EMPTY_{id}]") } else { text.to_string() };
        let texts: Vec<String> = texts.iter().enumerate().map(named).collect();
        let types = control::types(optional, &texts);
        let mut id = |name: &str| optional.id(&format!("tokenizer.ggml.{name}_token_id"), texts.len());
        let (mut bos, mut eos, eot, eom) = (id("bos"), id("eos"), id("eot"), id("eom"));
        if metadata.text("tokenizer.ggml.model")? == Some("llama") {
            let there = |id: u32| Some(id).filter(|id| (*id as usize) < texts.len());
            bos = bos.or(there(SENTENCE_PIECE_BOS));
            eos = eos.or(there(SENTENCE_PIECE_EOS));
        }
        let mut ends = Vec::new();
        for id in [eos, eot, eom].into_iter().flatten().chain(control::text_ends(&texts, &types)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        warn_of_twins(optional, &texts);
        Ok(Tokens { texts, types, bos, ends })
    }

    fn vocabulary(&self) -> Map<String, Value> {
        self.texts.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect()
    }

    fn added(&self, pieces_without_prefix: bool) -> Vec<Value> {
        added::tokens(&self.texts, &self.types, pieces_without_prefix)
    }
}

/// Of tokens with one text only the last is ever made, and the others have no text.
fn warn_of_twins(optional: &mut Optional<'_>, texts: &[String]) {
    let mut ids = HashMap::with_capacity(texts.len());
    let twins = texts.iter().zip(0u32..).filter_map(|(text, id)| Some((text, ids.insert(text, id)?, id)));
    let twins: Vec<(&String, u32, u32)> = twins.collect();
    if let Some((text, first, second)) = twins.first() {
        let (count, text) = (twins.len(), shortened(text));
        optional.warn(format_args!(
            "tokenizer.ggml.tokens: {count} of {} tokens have the text of an earlier one, `{text}` with ids {first} \
             and {second} first; the earlier ones are never made",
            texts.len()
        ));
    }
}

fn byte_level(metadata: &Metadata, optional: &mut Optional<'_>, tokens: &Tokens) -> Result<Value> {
    let splitting = pretokenizer::splitting(pretokenizer::name(optional, &tokens.texts))?;
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": splitting.ignore_merges, "vocab": tokens.vocabulary(),
        "merges": merges(metadata, optional, tokens)?,
    });
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens.added(false),
        "normalizer": splitting.normalizer, "pre_tokenizer": splitting.pre_tokenizer,
        "post_processor": post_processor(optional, tokens, splitting.add_bos), "decoder": decoder, "model": model,
    }))
}

/// The merges as pairs. Those that make no token of tokens could never be followed; llama.cpp passes over them too.
fn merges(metadata: &Metadata, optional: &mut Optional<'_>, tokens: &Tokens) -> Result<Vec<Value>> {
    let key = "tokenizer.ggml.merges";
    let merges = metadata.texts(key)?.ok_or_else(|| metadata.missing(key, "the merges"))?;
    let known: HashSet<&str> = tokens.texts.iter().map(String::as_str).collect();
    let (mut pairs, mut unknown) = (Vec::with_capacity(merges.len()), Vec::new());
    for merge in &merges {
        // A part may begin with a space of its own, so the one between the parts is not the first character.
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let (left, right) = merge.split_at(at.unwrap_or(merge.len()));
        let right = right.strip_prefix(' ').unwrap_or(right);
        if [left, right, &format!("{left}{right}")].into_iter().all(|token| known.contains(token)) {
            pairs.push(json!([left, right]));
        } else {
            unknown.push(*merge);
        }
    }
    if let Some(first) = unknown.first() {
        let (count, all, first) = (unknown.len(), merges.len(), shortened(first));
        optional.warn(format_args!(
            "{key}: {count} of {all} name tokens that are not there, `{first}` first; they count as absent"
        ));
    }
    Ok(pairs)
}

fn sentence_piece(metadata: &Metadata, optional: &mut Optional<'_>, tokens: &Tokens) -> Result<Value> {
    let pieces = pieces(metadata, optional, tokens)?;
    let unknown = optional.id("tokenizer.ggml.unknown_token_id", tokens.texts.len()).unwrap_or(0);
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": tokens.texts.get(unknown as usize),
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
        "ignore_merges": false, "vocab": tokens.vocabulary(), "merges": sentencepiece::merges(&pieces),
    });
    let prefix = optional.truth("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens.added(!prefix),
        "normalizer": sentencepiece::normalizer(prefix), "pre_tokenizer": null,
        "post_processor": post_processor(optional, tokens, true),
        "decoder": sentencepiece::decoder(prefix), "model": model,
    }))
}

/// The pieces of text with their ids and scores; one whose score is no number is the last to be made.
fn pieces<'a>(
    metadata: &Metadata,
    optional: &mut Optional<'_>,
    tokens: &'a Tokens,
) -> Result<Vec<(&'a str, u32, f32)>> {
    let key = "tokenizer.ggml.scores";
    let mut scores = metadata.numbers(key)?.ok_or_else(|| metadata.missing(key, "the pieces' scores"))?;
    if scores.len() != tokens.texts.len() {
        let expected = format!("{} values, one for each token", tokens.texts.len());
        return Err(Error::damaged(metadata.path(), key, expected, scores.len()));
    }
    let no_numbers = scores.iter().filter(|score| score.is_nan()).count();
    if no_numbers > 0 {
        scores.iter_mut().filter(|score| score.is_nan()).for_each(|score| *score = f32::NEG_INFINITY);
        optional.warn(format_args!("{key}: {no_numbers} of {} are no numbers; they count as the lowest", scores.len()));
    }
    let plain = |kind: u32| !(token_type::UNKNOWN..=token_type::BYTE).contains(&kind);
    let pieces = tokens.texts.iter().zip(&tokens.types).zip(scores).zip(0..);
    let pieces = pieces.filter(|(((_, kind), _), _)| plain(**kind));
    Ok(pieces.map(|(((text, _), score), id)| (text.as_str(), id, score)).collect())
}

/// Puts BOS before texts where the file says so, or says nothing and `usual` is true; null where nothing is put there.
fn post_processor(optional: &mut Optional<'_>, tokens: &Tokens, usual: bool) -> Value {
    let stated = optional.truth("tokenizer.ggml.add_bos_token");
    if optional.truth("tokenizer.ggml.add_eos_token") == Some(true) {
        optional
            .warn("tokenizer.ggml.add_eos_token is not followed: a prompt that is ended leaves nothing to go on from");
    }
    let text = tokens.bos.and_then(|id| tokens.texts.get(id as usize));
    let (true, Some(text)) = (stated.unwrap_or(usual), text) else {
        if stated == Some(true) {
            optional.warn("tokenizer.ggml.add_bos_token is true, but no token begins texts; it counts as false");
        }
        return Value::Null;
    };
    let special = |kind: u32| json!({"SpecialToken": {"id": text, "type_id": kind}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": {text: {"id": text, "ids": [tokens.bos], "tokens": [text]}},
    })
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
