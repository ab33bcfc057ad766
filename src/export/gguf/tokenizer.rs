//! The tokenizer's metadata of a GGUF file.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::file::MetadataWriter;
use super::pretokenizer;
use crate::error::{Error, Result, shortened};
use crate::export::family::unsupported;
use crate::export::text::TextSide;
use crate::format::TOKENIZER_FILE;
use crate::quantize::gguf::token_type;

/// What a row of the embedding is that no token has.
const UNUSED: u32 = 5;
/// What is said of a pre-tokenizer's name beside a tokenizer that has no use for it.
const UNUSED_NAME: &str = "no pre-tokenizer's name is needed: this tokenizer does not split text before its merges";
/// The score of a piece that no merge makes.
const NO_SCORE: f32 = -1e9;

/// Writes the tokenizer of a model of `vocab` rows. `pre_tokenizer` is the name of the splitting, for a tokenizer whose
/// own has none. Fails where llama.cpp has no such tokenizer.
pub fn write(
    (vocab, dir): (u32, &Path),
    text: &TextSide,
    pre_tokenizer: Option<&str>,
    metadata: &mut MetadataWriter,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let file = dir.join(TOKENIZER_FILE);
    let kind = text.model("type").and_then(Value::as_str).unwrap_or("BPE");
    if kind != "BPE" || !text.model("vocab").is_some_and(Value::is_object) {
        return Err(unsupported("tokenizer", kind, "BPE"));
    }
    let merges = merges(text.model("merges"));
    let tokens = RowTokens::of(text, vocab).map_err(|(id, token)| {
        Error::damaged(&file, "vocabulary", format!("ids below {vocab}"), format!("{id} of `{token}`"))
    })?;
    if text.model("byte_fallback").and_then(Value::as_bool) == Some(true) {
        warnings.extend(pre_tokenizer.map(|_| UNUSED_NAME.to_string()));
        metadata.text("tokenizer.ggml.model", "llama");
        metadata.text("tokenizer.ggml.pre", "default");
        metadata.f32s("tokenizer.ggml.scores", &scores(&tokens.texts, &merges));
        metadata.truth("tokenizer.ggml.add_space_prefix", adds_space(text));
        metadata.truth("tokenizer.ggml.remove_extra_whitespaces", false);
    } else {
        metadata.text("tokenizer.ggml.model", "gpt2");
        metadata.text("tokenizer.ggml.pre", &splitting(text, pre_tokenizer, warnings)?);
        let merges: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        metadata.texts("tokenizer.ggml.merges", &merges);
    }
    metadata.texts("tokenizer.ggml.tokens", &tokens.texts);
    metadata.i32s("tokenizer.ggml.token_type", &tokens.types.iter().map(|kind| *kind as i32).collect::<Vec<_>>());
    special(text, metadata);
    templates(text, metadata);
    Ok(())
}

/// The vocabulary by id, with a name for every row that no token has.
struct RowTokens {
    texts: Vec<String>,
    types: Vec<u32>,
}

impl RowTokens {
    /// The tokens of the text side; fails with a token whose id is no row.
    fn of(text: &TextSide, rows: u32) -> std::result::Result<RowTokens, (u64, String)> {
        let unknown = text.model("unk_token").and_then(Value::as_str);
        let mut texts: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; rows as usize];
        let fallback = text.model("byte_fallback").and_then(Value::as_bool) == Some(true);
        let vocabulary = text.model("vocab").and_then(Value::as_object).into_iter().flatten();
        let own = vocabulary.filter_map(|(token, id)| Some((id.as_u64()?, token.as_str())));
        for (id, token) in own {
            let at = usize::try_from(id).ok().filter(|at| *at < texts.len()).ok_or((id, token.to_string()))?;
            texts[at] = token.to_string();
            types[at] = match token {
                _ if Some(token) == unknown => token_type::UNKNOWN,
                _ if fallback && is_byte(token) => token_type::BYTE,
                _ => token_type::NORMAL,
            };
        }
        for (id, (token, special)) in &text.added {
            let at = Some(*id as usize).filter(|at| *at < texts.len()).ok_or((u64::from(*id), token.clone()))?;
            texts[at] = token.clone();
            if types[at] != token_type::UNKNOWN {
                types[at] = if *special { token_type::CONTROL } else { token_type::USER_DEFINED };
            }
        }
        Ok(RowTokens { texts, types })
    }
}

/// Whether it stands for one byte: `<0xAB>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|token| token.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The merges, best first.
fn merges(merges: Option<&Value>) -> Vec<(String, String)> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_string(), right.to_string())),
        _ => Some((merge.get(0)?.as_str()?.to_string(), merge.get(1)?.as_str()?.to_string())),
    };
    merges.and_then(Value::as_array).into_iter().flatten().filter_map(pair).collect()
}

/// Scores of the pieces: the sooner a merge makes one, the higher, as SentencePiece orders its merges by score.
fn scores(texts: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    texts.iter().map(|text| ranks.get(text).map_or(NO_SCORE, |rank| -(*rank as f32))).collect()
}

/// Whether a text begins with a space of its own.
fn adds_space(text: &TextSide) -> bool {
    let of = |field: &str| text.tokenizer.get(field).map(Value::to_string).unwrap_or_default();
    let metaspace = text.tokenizer.get("pre_tokenizer");
    let scheme = metaspace.and_then(|step| step.get("prepend_scheme")).and_then(Value::as_str);
    of("normalizer").contains("\"Prepend\"") || scheme.is_some_and(|scheme| scheme != "never")
}

/// The name of the splitting.
fn splitting(text: &TextSide, asked: Option<&str>, warnings: &mut Vec<String>) -> Result<String> {
    if let Some(asked) = asked {
        if asked.trim() != asked || asked.is_empty() {
            return Err(Error::argument("pre-tokenizer", "a name, without spaces around it", format!("`{asked}`")));
        }
        warnings.extend(pretokenizer::doubt(asked, &text.tokenizer));
        return Ok(asked.to_string());
    }
    let Some((name, same)) = pretokenizer::name(&text.tokenizer) else {
        let got = text.tokenizer.get("pre_tokenizer").map_or("none".into(), |step| shortened(&step.to_string()));
        let expected = "a name by hand, as llama.cpp has none that is known for how this tokenizer splits text";
        return Err(Error::argument("pre-tokenizer", expected, got));
    };
    if !same {
        warnings.push(format!(
            "the tokenizer splits text as llama.cpp's `{name}`, but differs in whether a piece that is a token is \
             taken before the merges: a few words may become other tokens there"
        ));
    }
    Ok(name.to_string())
}

/// The ids of special tokens.
fn special(text: &TextSide, metadata: &mut MetadataWriter) {
    let generation = &text.generation;
    let prefix = text.prefix();
    let mut id = |name: &str, id: Option<u32>| {
        if let Some(id) = id {
            metadata.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    };
    id("bos", prefix.or(generation.bos));
    for (name, end) in ["eos", "eot", "eom"].into_iter().zip(&generation.end) {
        id(name, Some(*end));
    }
    id("padding", generation.pad);
    let unknown = text.model("unk_token").and_then(Value::as_str);
    let unknown = unknown.and_then(|token| text.model("vocab")?.get(token)?.as_u64());
    id("unknown", unknown.and_then(|id| u32::try_from(id).ok()));
    metadata.truth("tokenizer.ggml.add_bos_token", prefix.is_some());
    metadata.truth("tokenizer.ggml.add_eos_token", false);
}

fn templates(text: &TextSide, metadata: &mut MetadataWriter) {
    if let Some(template) = &text.assets.chat_template {
        metadata.text("tokenizer.chat_template", template);
    }
    let named = &text.assets.named_templates;
    if !named.is_empty() {
        let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        metadata.texts("tokenizer.chat_templates", &names);
        for (name, template) in named {
            metadata.text(&format!("tokenizer.chat_template.{name}"), template);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pieces_that_are_made_first_have_the_highest_scores() {
        let texts = ["<unk>", "a", "b", "ab", "abb"].map(String::from);
        let of = |merges: Value| scores(&texts, &super::merges(Some(&merges)));
        let expected = [NO_SCORE, NO_SCORE, NO_SCORE, 0.0, -1.0];
        assert_eq!(of(json!(["a b", "ab b", "a bb"])), expected);
        // Pairs as files of today have them; the first way to make a piece counts.
        assert_eq!(of(json!([["a", "b"], ["ab", "b"], ["a", "b"]])), expected);
        assert_eq!(of(Value::Null), [NO_SCORE; 5]);
    }

    #[test]
    fn bytes_are_told_by_their_form() {
        assert!(is_byte("<0x0A>") && is_byte("<0xff>"));
        assert!(!["<0x0>", "<0x0G>", "0x0A", "<0x0A"].into_iter().any(is_byte));
    }
}
