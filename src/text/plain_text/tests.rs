//! Ids beside those of the tokenizers themselves, of several kinds.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SPECIAL: [&str; 6] = ["<s>", "</s>", "<|end|>", "[L]", "[R]", "<Ö>"];

/// An added token; `[L]` takes the space on its left, `[R]` that on its right, `<w>` is a word of its own.
fn added(id: usize, content: &str, special: bool, normalized: bool) -> Value {
    json!({"id": id, "content": content, "special": special, "normalized": normalized,
        "single_word": content == "<w>", "lstrip": content == "[L]", "rstrip": content == "[R]"})
}

/// A tokenizer of single characters with the special tokens, and `<tool>` and `<w>`, which are not special.
fn tokenizer(normalizer: Value, pre_tokenizer: Value, normalized: bool) -> Arc<Tokenizer> {
    let characters: Vec<String> =
        ('!'..='~').chain(['▁', 'Ġ', 'Ċ', 'Ã', 'ĸ', 'ö', 'Ö', ' ', '\n']).map(String::from).collect();
    let mut vocabulary: serde_json::Map<String, Value> =
        characters.iter().enumerate().map(|(id, text)| (text.clone(), json!(id))).collect();
    for merged in ["en", "end", "▁e", "s>"] {
        vocabulary.insert(merged.into(), json!(vocabulary.len()));
    }
    let first = vocabulary.len();
    let mut tokens: Vec<Value> =
        SPECIAL.iter().enumerate().map(|(i, text)| added(first + i, text, true, normalized)).collect();
    tokens.push(added(first + 6, "<tool>", false, !normalized));
    tokens.push(added(first + 7, "<w>", false, normalized));
    tokens.push(added(first + 8, "  ", false, !normalized));
    let tokenizer = json!({
        "version": "1.0", "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["e", "n"], ["en", "d"], ["▁", "e"], ["s", ">"]]},
    });
    Arc::new(Tokenizer::from_bytes(tokenizer.to_string()).unwrap())
}

/// Tokenizers in the ways of GPT-2, LLaMA-2 (old and new), Gemma, Qwen, Mistral's Tekken and others.
pub(crate) fn tokenizers() -> Vec<(&'static str, Arc<Tokenizer>)> {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let sentence_piece = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let metaspace = |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let at_spaces =
        json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let split = |expression: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes]})
    };
    let (qwen, tekken) = (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+", r"\p{Lu}*\p{Ll}+|\s+|[^\s\p{L}]+");
    vec![
        ("Gemma", tokenizer(spaces, at_spaces, false)),
        ("Qwen", tokenizer(json!({"type": "NFC"}), split(qwen), false)),
        ("Tekken", tokenizer(Value::Null, split(tekken), false)),
        ("byte level", tokenizer(Value::Null, byte_level.clone(), false)),
        ("byte level, normalized tokens", tokenizer(Value::Null, byte_level, true)),
        ("SentencePiece", tokenizer(sentence_piece.clone(), Value::Null, false)),
        ("SentencePiece, normalized tokens", tokenizer(sentence_piece, Value::Null, true)),
        ("Metaspace first", tokenizer(Value::Null, metaspace("first"), false)),
        ("Metaspace always", tokenizer(Value::Null, metaspace("always"), false)),
        ("lower case", tokenizer(json!({"type": "Lowercase"}), Value::Null, true)),
        ("words", tokenizer(Value::Null, json!({"type": "Whitespace"}), false)),
    ]
}

fn controls(plain: &PlainText, ids: &[u32]) -> usize {
    ids.iter().filter(|id| plain.control.contains_key(id)).count()
}

fn plain(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

/// Text of ordinary characters and of all kinds of tokens, whole and in pieces.
fn texts() -> impl Strategy<Value = String> {
    let pieces = [
        "a", "end", " ", "  ", "\n", "<", ">", "|", "<|", "|>", "<s", "s>", "/", "é", "ö", "o\u{308}", "▁", "²",
        "<tool>", "<w>", "w", "<S>", "<|END|>",
    ];
    let pieces: Vec<&str> = pieces.into_iter().chain(SPECIAL).collect();
    prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn without_marks_ids_are_those_of_the_tokenizer(text in texts()) {
        for (name, tokenizer) in tokenizers() {
            let got = PlainText::new(&tokenizer, |_| false).encode(&text, &[]).unwrap();
            prop_assert_eq!(got, plain(&tokenizer, &text), "{}: {:?}", name, text);
        }
    }

    #[test]
    fn with_marks_no_control_token_is_left_and_nothing_else_changes(text in texts()) {
        for (name, tokenizer) in tokenizers() {
            let known = PlainText::new(&tokenizer, |_| false);
            let marks = known.marks(&text);
            let got = known.encode(&text, &marks).unwrap();
            prop_assert_eq!(controls(&known, &got), 0, "{}: {:?}, {:?}", name, text, marks);
            let before = plain(&tokenizer, &text);
            if controls(&known, &before) == 0 {
                prop_assert_eq!(got, before, "{}: {:?}", name, text);
            }
        }
    }

    #[test]
    fn marks_in_one_part_leave_the_tokens_of_the_others(text in texts()) {
        for (name, tokenizer) in tokenizers() {
            let known = PlainText::new(&tokenizer, |_| false);
            let (before, after) = ("x <|end|>\n", "\n<|end|>x");
            let marks: Vec<usize> = known.marks(&text).iter().map(|mark| mark + before.len()).collect();
            let got = known.encode(&format!("{before}{text}{after}"), &marks).unwrap();
            let own = controls(&known, &plain(&tokenizer, &format!("{before}a{after}")));
            prop_assert_eq!(controls(&known, &got), own, "{}: {:?}", name, text);
        }
    }
}

#[test]
fn marks_in_every_token_keep_it_text_in_every_tokenizer() {
    for (name, tokenizer) in tokenizers() {
        let known = PlainText::new(&tokenizer, |_| false);
        let text = "a</s> <s><|end|>";
        assert!(name == "words" || controls(&known, &plain(&tokenizer, text)) > 0, "{name}");
        let got = known.encode(text, &known.marks(text)).unwrap();
        assert_eq!(controls(&known, &got), 0, "{name}");
    }
}

#[test]
fn a_model_that_makes_control_tokens_of_words_is_kept_from_it() {
    let tokenizer = json!({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [added(0, "[E]", true, false)],
        "model": {"type": "WordLevel", "vocab": {"[E]": 0, "a": 1, "?": 2}, "unk_token": "?"}});
    let tokenizer = Arc::new(Tokenizer::from_bytes(tokenizer.to_string()).unwrap());
    let known = PlainText::new(&tokenizer, |_| false);
    assert_eq!(known.encode("a [E] a", &known.marks("a [E] a")).unwrap(), [1, 2, 2, 1]);
    assert_eq!(known.encode("a [E] a", &[]).unwrap(), [1, 0, 1]);
}
