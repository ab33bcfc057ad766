//! Small vocabularies of both kinds, and the ids that they give to texts.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::Tokenizer;

use super::super::metadata::Value as Gguf;
use super::*;
use crate::text::{TextFiles, TextModel};

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
    Tokenizer::from_bytes(read(metadata).unwrap().tokenizer).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, true).unwrap().get_ids().to_vec()
}

fn generation(metadata: &Metadata) -> Value {
    serde_json::from_str(&read(metadata).unwrap().generation_config).unwrap()
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

/// What is said of a file; with the text side that a run makes of it.
fn warnings(metadata: &Metadata) -> (Vec<String>, TextModel) {
    let assets = read(metadata).unwrap();
    assert!(assets.warnings.iter().all(|warning| warning.contains("x.gguf")), "{:?}", assets.warnings);
    let files = TextFiles {
        folder: Path::new("x.gguf"),
        tokenizer: &assets.tokenizer,
        template: None,
        templates: None,
        generation: Some(&assets.generation_config),
    };
    (assets.warnings, TextModel::from_files(&files, 64).unwrap())
}

/// The one warning of a file.
fn warning(metadata: &Metadata) -> String {
    let (warnings, _) = warnings(metadata);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings.concat()
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
    assert_eq!(generation(&sentence_piece_pairs(&[])), json!({"bos_token_id": 1, "eos_token_id": [2]}));

    let tokens = ("ggml.tokens", texts(&["<|eos|>", "a", "b", "ab", "aba", "Ġ", "<|eot_id|>"]));
    let ends = |changes: &[(&'static str, Gguf)]| warnings(&byte_level_pairs(changes)).1.defaults().end.clone();
    assert_eq!(ends(std::slice::from_ref(&tokens)), [0, 6], "by its name");
    assert_eq!(ends(&[tokens, ("ggml.eot_token_id", Gguf::Unsigned(3))]), [0, 3, 6], "besides the one that is named");
}

#[test]
fn special_ids_that_are_nobody_s_are_warned_about_and_count_as_absent() {
    let keys = ["bos", "eos", "eot", "eom", "padding"].map(|name| format!("ggml.{name}_token_id"));
    for key in keys {
        let key: &'static str = key.leak();
        let values = [
            Gguf::Unsigned(u32::MAX.into()),
            Gguf::Unsigned(u64::MAX),
            Gguf::Unsigned(7),
            Gguf::Signed(-1),
            Gguf::Float(0.5),
            Gguf::Float(f64::NAN),
            Gguf::Text("0".into()),
            Gguf::Bool(true),
            Gguf::List(vec![Gguf::Unsigned(0)]),
        ];
        for value in values {
            let metadata = byte_level_pairs(&[(key, value.clone())]);
            let warning = warning(&metadata);
            assert!(warning.contains(key) && warning.contains("one of 7 tokens"), "{value:?}: {warning}");
            assert_eq!(generation(&metadata).get(key.trim_start_matches("ggml.")), None);
        }
    }
    let float = byte_level_pairs(&[("ggml.eos_token_id", Gguf::Float(3.0))]);
    assert_eq!(generation(&float), json!({"bos_token_id": 0, "eos_token_id": [3]}));
}

#[test]
fn whether_texts_are_begun_is_read_as_far_as_it_can_be() {
    for (value, begun) in [(Gguf::Unsigned(0), false), (Gguf::Unsigned(1), true), (Gguf::Bool(true), true)] {
        let (said, text) = warnings(&byte_level_pairs(&[("ggml.add_bos_token", value.clone())]));
        assert_eq!((said.len(), text.encode("a", true).unwrap().len()), (0, 1 + usize::from(begun)), "{value:?}");
    }
    for value in [Gguf::Unsigned(2), Gguf::Text("yes".into())] {
        let metadata = byte_level_pairs(&[("ggml.add_bos_token", value)]);
        assert!(warning(&metadata).contains("add_bos_token"));
        assert_eq!(ids(&tokenizer(&metadata), "a"), [1]);
    }
    let nobody = byte_level_pairs(&[("ggml.add_bos_token", Gguf::Bool(true)), ("ggml.bos_token_id", Gguf::Signed(-1))]);
    let (said, text) = warnings(&nobody);
    assert!(said.iter().any(|warning| warning.contains("no token begins texts")), "{said:?}");
    assert_eq!(text.encode("a", true).unwrap(), [1]);
    let ended = byte_level_pairs(&[("ggml.add_eos_token", Gguf::Bool(true))]);
    assert!(warning(&ended).contains("add_eos_token is not followed"));
    assert_eq!(ids(&tokenizer(&ended), "a"), [1]);
}

#[test]
fn merges_of_tokens_that_are_not_there_are_passed_over() {
    let metadata = byte_level_pairs(&[("ggml.merges", texts(&["a c", "a b", "b a", "ab", "", " "]))]);
    let warning = warning(&metadata);
    assert!(warning.contains("5 of 6") && warning.contains("`a c`"), "{warning}");
    assert_eq!(ids(&tokenizer(&metadata), "aba"), [3, 1]);
}

#[test]
fn tokens_with_the_text_of_another_are_warned_about() {
    let tokens = texts(&["<|end|>", "a", "b", "ab", "ab", "Ġ", "<tool>"]);
    let (said, text) = warnings(&byte_level_pairs(&[("ggml.tokens", tokens)]));
    assert!(said.concat().contains("1 of 7") && said.concat().contains("`ab` with ids 3 and 4"), "{said:?}");
    assert_eq!((text.encode("ab", false).unwrap(), text.decode(&[3, 4])), (vec![4], "ab".into()));
}

#[test]
fn a_text_s_end_ends_a_turn_too_where_it_is_a_control_token() {
    let tokens = ("ggml.tokens", texts(&["<|im_end|>", "a", "b", "ab", "</s>", "Ġ", "<|endoftext|>"]));
    let ends = |kinds: &[i64]| {
        let (_, text) = warnings(&byte_level_pairs(&[tokens.clone(), ("ggml.token_type", numbers(kinds))]));
        text.defaults().end.clone()
    };
    assert_eq!(ends(&[3, 1, 1, 1, 3, 1, 3]), [0, 4, 6]);
    assert_eq!(ends(&[3, 1, 1, 1, 1, 1, 3]), [0, 6], "a piece of text that looks like the end of one");
}

#[test]
fn beginnings_of_turns_are_control_tokens_whatever_the_file_calls_them() {
    let tokens = ("ggml.tokens", texts(&["<end_of_turn>", "a", "b", "ab", "<think>", "Ġ", "<start_of_turn>"]));
    let types = ("ggml.token_type", numbers(&[3, 1, 1, 1, 4, 1, 4]));
    let (said, text) = warnings(&byte_level_pairs(&[tokens, types]));
    assert!(said.concat().contains("`<start_of_turn>` counts as a control token"), "{said:?}");
    assert_eq!(text.decode(&text.encode("a<think><start_of_turn>b", false).unwrap()), "a<think>b");
}

#[test]
fn a_splitting_that_is_not_named_is_warned_about() {
    let without = |tokens: &[&str]| {
        let types = vec![1; tokens.len()];
        let changes = [("ggml.pre", Gguf::Text(String::new())), ("ggml.tokens", texts(tokens))];
        byte_level_pairs(&[&changes[..], &[("ggml.token_type", numbers(&types))]].concat())
    };
    let pre_tokenizer = |metadata| serde_json::from_str::<Value>(&read(metadata).unwrap().tokenizer).unwrap();
    let plain = without(&["<|end|>x", "a", "b", "ab"]);
    assert!(warning(&plain).contains("`default`"));
    let default = pretokenizer::splitting("default").unwrap();
    assert_eq!(pre_tokenizer(&plain)["pre_tokenizer"], default.pre_tokenizer);

    let llama3 =
        without(&["a", "b", "ab", "<|begin_of_text|>", "<|end_of_text|>x", "<|end_of_text|>", "<|start_header_id|>"]);
    let (said, _) = warnings(&llama3);
    assert!(said.iter().any(|warning| warning.contains("llama-bpe")), "{said:?}");
    let made = pre_tokenizer(&llama3);
    assert_eq!(made["pre_tokenizer"], pretokenizer::splitting("llama-bpe").unwrap().pre_tokenizer);
    assert_eq!(made["model"]["ignore_merges"], true);
}

#[test]
fn without_types_control_tokens_are_known_by_their_names() {
    let tokens = ("ggml.tokens", texts(&["<|end|>", "a", "b", "ab", "<|im_start|>", "Ġ", "<tool>"]));
    for types in [Gguf::Bool(true), numbers(&[1]), texts(&["a"; 7])] {
        let metadata = byte_level_pairs(&[tokens.clone(), ("ggml.token_type", types)]);
        let (said, text) = warnings(&metadata);
        assert!(said.iter().any(|warning| warning.contains("`<|end|>`, `<|im_start|>` count")), "{said:?}");
        assert_eq!(text.encode("a<|im_start|>b", false).unwrap(), [1, 4, 2]);
        assert_eq!((text.decode(&[1, 4, 0, 2]), text.is_end(0)), ("ab".into(), true));
    }
    // The beginning and the end of a turn that are called pieces of text.
    let ordinary = byte_level_pairs(&[tokens, ("ggml.token_type", numbers(&[1; 7]))]);
    assert!(warning(&ordinary).contains("`<|end|>`, `<|im_start|>` count as control tokens"));
    assert_eq!(ids(&tokenizer(&ordinary), "a<|end|>"), [1, 0]);

    let bytes = sentence_piece_pairs(&[("ggml.token_type", Gguf::Bool(true))]);
    let text = warnings(&bytes).1;
    assert_eq!(text.encode("b é</s>", true).unwrap(), [1, 7, 9, 7, 3, 4, 2]);
}

#[test]
fn scores_that_are_no_numbers_are_the_lowest() {
    let scores = [0.0, 0.0, 0.0, 0.0, 0.0, f64::NAN, -2.0, -3.0, -4.0, -5.0];
    let scores = ("ggml.scores", Gguf::List(scores.map(Gguf::Float).to_vec()));
    let metadata = sentence_piece_pairs(&[scores]);
    assert!(warning(&metadata).contains("1 of 10"));
    assert_eq!(ids(&tokenizer(&metadata), "ab"), [1, 7, 6], "the best score is that of ab");
}

#[test]
fn a_file_with_more_tokens_than_rows_is_read_and_told() {
    let assets = read(&byte_level_pairs(&[])).unwrap();
    let (tokenizer, generation) = (&assets.tokenizer, Some(assets.generation_config.as_str()));
    let text = TextModel::from_files(
        &TextFiles { folder: Path::new("m"), tokenizer, template: None, templates: None, generation },
        6,
    );
    let text = text.unwrap();
    assert!(text.warnings().concat().contains("`<tool>` with id 6"), "{:?}", text.warnings());
    assert!(text.encode("<tool>", false).unwrap_err().to_string().contains("`<tool>`"));
    assert_eq!(text.encode("ab", false).unwrap(), [3]);
}

#[test]
fn faults_of_the_vocabulary_name_the_key() {
    for (change, named) in [
        (("ggml.model", Gguf::Text("rwkv".into())), "tokenizer `rwkv`"),
        (("ggml.pre", Gguf::Text("klingon".into())), "pre-tokenizer `klingon`"),
        (("ggml.merges", numbers(&[1])), "tokenizer.ggml.merges"),
        (("ggml.tokens", numbers(&[1])), "tokenizer.ggml.tokens"),
        (("ggml.tokens", texts(&[])), "tokenizer.ggml.tokens"),
    ] {
        let fault = read(&byte_level_pairs(&[change])).unwrap_err().to_string();
        assert!(fault.contains(named), "{fault}");
    }
    let fault = read(&sentence_piece_pairs(&[("ggml.scores", numbers(&[1]))])).unwrap_err().to_string();
    assert!(fault.contains("tokenizer.ggml.scores") && fault.contains("10 values"), "{fault}");
}
