//! How text is split before byte-level BPE, for each name that GGUF files give to a way of splitting.
//!
//! The expressions are those of the tokenizer.json that each name stands for, except `default`, which is what llama.cpp
//! does with files of that name (`llm_tokenizer_bpe` in its src/llama-vocab.cpp). llama.cpp normalizes no text; a
//! tokenizer.json may, and what it does is done here too.

use serde_json::{Value, json};

use super::optional::Optional;
use crate::error::{Error, Result};

/// What a name stands for, in the terms of tokenizer.json.
#[derive(Debug, Clone, PartialEq)]
pub struct Splitting {
    /// What is done to the text first.
    pub normalizer: Value,
    /// How it is then split.
    pub pre_tokenizer: Value,
    /// Whether a piece that is a token is one, whatever the merges make of it.
    pub ignore_merges: bool,
    /// Whether texts begin with the token that begins texts, where the file does not say.
    pub add_bos: bool,
}

const DIGITS: [&str; 6] = ["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"];
const GPT2: [&str; 3] = ["gpt-2", "phi-2", "granite-docling"];
/// As [`GPT2`], of composed characters.
const NEOX: [&str; 1] = ["olmo"];
const LLAMA3: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];
/// As [`LLAMA3`], by its merges alone.
const CL100K: [&str; 2] = ["smaug-bpe", "dbrx"];
const O200K: [&str; 1] = ["gpt-4o"];
const QWEN2: [&str; 2] = ["qwen2", "deepseek-r1-qwen"];
const TEKKEN: [&str; 1] = ["tekken"];
const DEFAULT: [&str; 1] = ["default"];

const GPT2_EXPRESSION: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3_EXPRESSION: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_EXPRESSION: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN_EXPRESSION: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K_EXPRESSION: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokens that only vocabularies of Llama 3 have together.
const LLAMA3_TOKENS: [&str; 3] = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"];

/// The name of the splitting: the value of `tokenizer.ggml.pre`, or what the vocabulary tells in files that are older
/// than the key, with a warning.
pub fn name<'a>(optional: &mut Optional<'a>, tokens: &[String]) -> &'a str {
    const KEY: &str = "tokenizer.ggml.pre";
    if let Some(name) = optional.text(KEY).filter(|name| !name.is_empty()) {
        return name;
    }
    if LLAMA3_TOKENS.iter().all(|known| tokens.iter().any(|token| token == known)) {
        optional
            .warn(format_args!("there is no {KEY}: by its tokens the vocabulary is Llama 3's, so it is `llama-bpe`"));
        return LLAMA3[0];
    }
    optional.warn(format_args!(
        "there is no {KEY}, so text is split in the way of `default`: answers may be worse than the model's best"
    ));
    DEFAULT[0]
}

/// What `name`, the value of `tokenizer.ggml.pre`, stands for.
pub fn splitting(name: &str) -> Result<Splitting> {
    let is = |names: &[&str]| names.contains(&name);
    let plain =
        |pre_tokenizer| Splitting { normalizer: Value::Null, pre_tokenizer, ignore_merges: false, add_bos: false };
    let own = |expression| plain(sequence(&[split(expression), byte_level(false)]));
    let composed = || json!({"type": "NFC"});
    Ok(if is(&DIGITS) {
        plain(sequence(&[json!({"type": "Digits", "individual_digits": true}), byte_level(true)]))
    } else if is(&GPT2) {
        plain(byte_level(true))
    } else if is(&NEOX) {
        Splitting { normalizer: composed(), ..plain(byte_level(true)) }
    } else if is(&LLAMA3) {
        Splitting { ignore_merges: true, add_bos: true, ..own(LLAMA3_EXPRESSION) }
    } else if is(&CL100K) {
        own(LLAMA3_EXPRESSION)
    } else if is(&O200K) {
        own(O200K_EXPRESSION)
    } else if is(&QWEN2) {
        Splitting { normalizer: composed(), ..own(QWEN2_EXPRESSION) }
    } else if is(&TEKKEN) {
        Splitting { ignore_merges: true, add_bos: true, ..own(TEKKEN_EXPRESSION) }
    } else if is(&DEFAULT) {
        let expressions = [r"[\p{P}\$\+<=>\^~\|]+", GPT2_EXPRESSION, r"\p{N}+", "[0-9][0-9][0-9]"];
        let splits: Vec<Value> = expressions.into_iter().map(split).chain([byte_level(false)]).collect();
        plain(sequence(&splits))
    } else {
        let known = [&DIGITS[..], &GPT2, &NEOX, &LLAMA3, &CL100K, &O200K, &QWEN2, &TEKKEN, &DEFAULT].concat();
        return Err(Error::Unsupported {
            what: "pre-tokenizer".into(),
            got: name.into(),
            supported: format!("{}; a Hugging Face folder brings its own", known.join(", ")),
        });
    })
}

fn sequence(steps: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn split(expression: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper};

    use super::*;

    /// The pieces of `text`, as written.
    fn pieces(name: &str, text: &str) -> Vec<String> {
        let splitting: PreTokenizerWrapper = serde_json::from_value(splitting(name).unwrap().pre_tokenizer).unwrap();
        let mut pieces = PreTokenizedString::from(text);
        splitting.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(_, (start, end), _)| text[start..end].to_string()).collect()
    }

    #[test]
    fn names_split_text_each_in_its_own_way() {
        let text = "Hello'VE world 1234\n\n  fooBar!? ";
        let split = |name| pieces(name, text).join("|");
        assert_eq!(split("gpt-2"), "Hello|'|VE| world| 1234|\n\n | foo|Bar|!?| ".replace("foo|Bar", "fooBar"));
        assert_eq!(split("smollm"), "Hello|'|VE| world| |1|2|3|4|\n\n | fooBar|!?| ");
        assert_eq!(split("llama-bpe"), "Hello|'VE| world| |123|4|\n\n| | fooBar|!?| ");
        assert_eq!(split("smaug-bpe"), split("llama-bpe"));
        assert_eq!(split("dbrx"), split("llama-bpe"));
        assert_eq!(split("gpt-4o"), "Hello'VE| world| |123|4|\n\n| | foo|Bar|!?| ");
        assert_eq!(split("granite-docling"), split("gpt-2"));
        assert_eq!(split("olmo"), split("gpt-2"));
        assert_eq!(split("qwen2"), "Hello|'VE| world| |1|2|3|4|\n\n| | fooBar|!?| ");
        assert_eq!(split("tekken"), "Hello|'VE| world| |1|2|3|4|\n\n| | foo|Bar|!?| ");
        assert_eq!(split("default"), "Hello|'|VE| world| |123|4|\n\n | fooBar|!?| ");
    }

    #[test]
    fn a_name_that_is_not_known_is_refused_with_the_list() {
        let fault = splitting("viking").unwrap_err().to_string();
        assert!(fault.contains("`viking`") && fault.contains("smollm") && fault.contains("tekken"), "{fault}");
    }
}
