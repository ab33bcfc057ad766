//! Small vocabularies of both kinds, and the ids that they give to texts.

use std::collections::HashMap;
use std::path::Path;

use super::super::metadata::Value as Gguf;
use super::*;

fn texts(texts: &[&str]) -> Gguf {
    Gguf::List(texts.iter().map(|text| Gguf::Text(text.to_string())).collect())
}

fn numbers(numbers: &[i64]) -> Gguf {
    Gguf::List(numbers.iter().map(|number| Gguf::Signed(*number)).collect())
}

fn metadata(pairs: &[(&str, Gguf)]) -> Metadata {
    let pairs = pairs.iter().map(|(key, value)| (format!("tokenizer.{key}"), value.clone()));
    Metadata::new(Path::new("x.gguf"), pairs.collect::<HashMap<_, _>>())
}

/// A byte-level vocabulary, with changes that go before or replace what is there.
fn byte_level_pairs(changes: &[(&'static str, Gguf)]) -> Metadata {
    let usual = [
        ("ggml.model", Gguf::Text("gpt2".into())),
        ("ggml.pre", Gguf::Text("gpt-2".into())),
        ("ggml.tokens", texts(&["<|end|>", "a", "b", "ab", "aba", "Ġ", "<tool>"])),
        ("ggml.token_type", numbers(&[3, 1, 1, 1, 1, 1, 4])),
        ("ggml.merges", texts(&["a b"])),
        ("ggml.bos_token_id", Gguf::Unsigned(0)),
        ("ggml.eos_token_id", Gguf::Unsigned(0)),
    ];
    metadata(&[&usual, changes].concat())
}

/// A SentencePiece vocabulary with two of the bytes, likewise.
fn sentence_piece_pairs(changes: &[(&'static str, Gguf)]) -> Metadata {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁a", "ab", "▁", "a", "b"];
    let usual = [
        ("ggml.model", Gguf::Text("llama".into())),
        ("ggml.tokens", texts(&tokens)),
        ("ggml.token_type", numbers(&[2, 3, 3, 6, 6, 1, 1, 1, 1, 1])),
        ("ggml.scores", numbers(&[0, 0, 0, 0, 0, -1, -2, -3, -4, -5])),
    ];
    metadata(&[&usual, changes].concat())
}

fn tokenizer(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_bytes(read(metadata, 64).unwrap().tokenizer).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, true).unwrap().get_ids().to_vec()
}

fn generation(metadata: &Metadata) -> Value {
    serde_json::from_str(&read(metadata, 64).unwrap().generation_config).unwrap()
}

#[test]
fn byte_level_tokens_are_special_added_or_ordinary_by_their_type() {
    let tokenizer = tokenizer(&byte_level_pairs(&[]));
    assert_eq!(ids(&tokenizer, "ab<|end|>a<tool> b"), [3, 0, 1, 6, 5, 2]);
    assert_eq!(tokenizer.decode(&[3, 0, 6, 5, 2], true).unwrap(), "ab<tool> b");
}

#[test]
fn merges_are_ignored_and_a_text_begun_where_the_splitting_says_so() {
    let plain = tokenizer(&byte_level_pairs(&[]));
    assert_eq!(ids(&plain, "aba"), [3, 1]);
    let llama3 = ("ggml.pre", Gguf::Text("llama-bpe".into()));
    assert_eq!(ids(&tokenizer(&byte_level_pairs(std::slice::from_ref(&llama3))), "aba"), [0, 4]);
    let without = ("ggml.add_bos_token", Gguf::Bool(false));
    assert_eq!(ids(&tokenizer(&byte_level_pairs(&[llama3, without])), "aba"), [4]);
    let with = ("ggml.add_bos_token", Gguf::Bool(true));
    assert_eq!(ids(&tokenizer(&byte_level_pairs(&[with])), "aba"), [0, 3, 1]);
}

#[test]
fn sentence_pieces_begin_with_a_space_and_fall_back_to_bytes() {
    let usual = tokenizer(&sentence_piece_pairs(&[]));
    assert_eq!(ids(&usual, "ab"), [1, 5, 9], "the best score is that of ▁a");
    assert_eq!(ids(&usual, "b é"), [1, 7, 9, 7, 3, 4]);
    assert_eq!(usual.decode(&[1, 7, 9, 7, 3, 4], true).unwrap(), "b é");

    let others = ("ggml.scores", numbers(&[0, 0, 0, 0, 0, -2, -1, -3, -4, -5]));
    assert_eq!(ids(&tokenizer(&sentence_piece_pairs(&[others])), "ab"), [1, 7, 6], "the best score is that of ab");

    let bare = tokenizer(&sentence_piece_pairs(&[
        ("ggml.add_space_prefix", Gguf::Bool(false)),
        ("ggml.add_bos_token", Gguf::Bool(false)),
    ]));
    assert_eq!(ids(&bare, "ab ab"), [6, 5, 9]);
    assert_eq!(bare.decode(&[7, 6], true).unwrap(), " ab");
}

#[test]
fn turns_end_with_every_token_that_is_named_for_it() {
    assert_eq!(generation(&byte_level_pairs(&[])), json!({"bos_token_id": 0, "eos_token_id": [0]}));
    let named = byte_level_pairs(&[
        ("ggml.eot_token_id", Gguf::Unsigned(3)),
        ("ggml.eom_token_id", Gguf::Unsigned(0)),
        ("ggml.padding_token_id", Gguf::Unsigned(4)),
    ]);
    assert_eq!(generation(&named), json!({"bos_token_id": 0, "eos_token_id": [0, 3], "pad_token_id": 4}));
    let unnamed = byte_level_pairs(&[("ggml.tokens", texts(&["<|end|>", "a", "b", "ab", "aba", "Ġ", "<|eot_id|>"]))]);
    assert_eq!(generation(&unnamed), json!({"bos_token_id": 0, "eos_token_id": [0, 6]}));
    assert_eq!(generation(&sentence_piece_pairs(&[])), json!({"bos_token_id": 1, "eos_token_id": [2]}));
}

#[test]
fn faults_of_the_vocabulary_name_the_key() {
    for (change, named) in [
        (("ggml.model", Gguf::Text("rwkv".into())), "tokenizer `rwkv`"),
        (("ggml.pre", Gguf::Text("klingon".into())), "pre-tokenizer `klingon`"),
        (("ggml.token_type", numbers(&[1])), "tokenizer.ggml.token_type"),
        (("ggml.eos_token_id", Gguf::Unsigned(7)), "tokenizer.ggml.eos_token_id"),
        (("ggml.merges", texts(&["a c"])), "sound vocabulary"),
        (("ggml.tokens", numbers(&[1])), "tokenizer.ggml.tokens"),
    ] {
        let fault = read(&byte_level_pairs(&[change]), 64).unwrap_err().to_string();
        assert!(fault.contains(named), "{fault}");
    }
    let fault = read(&byte_level_pairs(&[]), 6).unwrap_err().to_string();
    assert!(fault.contains("at most 6 tokens"), "{fault}");
}
