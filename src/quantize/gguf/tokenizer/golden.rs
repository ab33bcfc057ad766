//! Odd texts by tiny vocabularies: ids and texts as `tests/golden/tokenizers/make.py` has them from other tokenizers.

use std::collections::HashMap;
use std::path::Path;

use super::super::metadata::Value as Gguf;
use super::*;
use crate::text::{Detokenizer, TextFiles, TextModel};

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers/tokenizers.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A value of JSON as GGUF has it.
fn gguf(value: &Value) -> Gguf {
    match value {
        Value::Bool(truth) => Gguf::Bool(*truth),
        Value::Number(number) => number.as_u64().map_or_else(|| Gguf::Float(number.as_f64().unwrap()), Gguf::Unsigned),
        Value::String(text) => Gguf::Text(text.clone()),
        Value::Array(values) => Gguf::List(values.iter().map(gguf).collect()),
        other => panic!("GGUF has nothing for {other}"),
    }
}

/// The text side of a file that has `pairs` under `tokenizer.ggml.`.
fn text_model(pairs: &[(&str, &Value)]) -> TextModel {
    let pairs = pairs.iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), gguf(value)));
    let metadata = Metadata::new(Path::new("x.gguf"), pairs.collect::<HashMap<_, _>>());
    let assets = read(&metadata).unwrap();
    assert!(assets.warnings.is_empty(), "{:?}", assets.warnings);
    let files = TextFiles {
        folder: Path::new("x.gguf"),
        tokenizer: &assets.tokenizer,
        template: None,
        templates: None,
        generation: Some(&assets.generation_config),
    };
    let vocab = metadata.texts("tokenizer.ggml.tokens").unwrap().unwrap().len() as u32;
    TextModel::from_files(&files, vocab).unwrap()
}

fn texts(golden: &Value) -> Vec<&str> {
    golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// Compares ids, what they become again at once, and what they become one by one.
fn compare(name: &str, text: &TextModel, texts: &[&str], case: &Value) {
    let (ids, back) = (case["ids"].as_array().unwrap(), case["texts"].as_array().unwrap());
    assert!(texts.len() > 40 && ids.len() == texts.len() && back.len() == texts.len());
    for ((before, ids), back) in texts.iter().zip(ids).zip(back) {
        let expected: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
        let ids = text.encode(before, false).unwrap();
        assert_eq!(ids, expected, "{name}: {before:?}");
        let back = back.as_str().unwrap_or(before);
        assert_eq!(text.decode(&ids), back, "{name}: {before:?}");
        let mut state = Detokenizer::new();
        let streamed: String = ids.iter().map(|id| state.push(text, *id)).collect();
        assert_eq!(streamed + &state.finish(text), back, "{name}: {before:?}, token by token");
    }
}

#[test]
fn every_splitting_gives_the_ids_of_the_tokenizer_that_it_stands_for() {
    let golden = golden();
    let (texts, shared) = (texts(&golden), &golden["byte_level"]);
    let (model, id) = (json!("gpt2"), |token: &str| {
        json!(shared["tokens"].as_array().unwrap().iter().position(|text| text == token).unwrap())
    });
    for case in shared["cases"].as_array().unwrap() {
        let pairs = [
            ("model", &model),
            ("pre", &case["pre"]),
            ("tokens", &shared["tokens"]),
            ("token_type", &shared["token_type"]),
            ("merges", &shared["merges"]),
            ("bos_token_id", &id("<|endoftext|>")),
            ("eos_token_id", &id("<|im_end|>")),
        ];
        let text = text_model(&pairs);
        let name = case["pre"].as_str().unwrap();
        compare(name, &text, &texts, case);
        let begun = text.encode("", true).unwrap().len();
        assert_eq!(begun == 1, case["bos"].as_bool().unwrap(), "{name} begins a text with {begun} tokens");
    }
}

#[test]
fn sentence_pieces_are_those_of_the_tokenizers_of_gemma_llama_2_and_phi_3() {
    let golden = golden();
    let texts = texts(&golden);
    for case in golden["sentence_piece"].as_array().unwrap() {
        let model = json!("llama");
        let pairs = [
            ("model", &model),
            ("add_space_prefix", &case["add_space_prefix"]),
            ("tokens", &case["tokens"]),
            ("token_type", &case["token_type"]),
            ("scores", &case["scores"]),
        ];
        let text = text_model(&pairs);
        let name = case["name"].as_str().unwrap();
        compare(name, &text, &texts, case);
        assert_eq!(text.encode("", true).unwrap(), [SENTENCE_PIECE_BOS], "{name}");
    }
}

#[test]
fn another_splitting_gives_other_ids() {
    let golden = golden();
    let mut distinct: Vec<&Value> = Vec::new();
    for case in golden["byte_level"]["cases"].as_array().unwrap() {
        if !distinct.contains(&&case["ids"]) {
            distinct.push(&case["ids"]);
        }
    }
    // Two names are aliases of `gpt-2` and `smaug-bpe`, and `refact` and `deepseek-r1-qwen` of two others.
    assert_eq!(distinct.len(), 8);
}
