//! Small vocabularies, and what is made of odd ones.

use serde_json::{Value, json};

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

/// A vocabulary of `a` and `b`, and added tokens from id 2 on, whose text and whether they are special is given.
fn tokenizer(added: &[(&str, bool)]) -> String {
    let added = added.iter().zip(2..).map(|((content, special), id)| {
        json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    });
    let added: Vec<Value> = added.collect();
    json!({"added_tokens": added, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}).to_string()
}

fn model(tokenizer: &str, generation: Option<&str>, vocab: u32) -> Result<TextModel> {
    let files = TextFiles { folder: Path::new("model"), tokenizer, template: None, templates: None, generation };
    TextModel::from_files(&files, vocab)
}

#[test]
fn a_token_past_the_vocabulary_is_an_error_only_where_a_text_has_it() {
    let text = model(&tokenizer(&[("<s>", true), ("[PAD]", true)]), None, 3).unwrap();
    assert_eq!(text.warnings().len(), 1);
    for word in ["model/tokenizer.json", "`[PAD]` with id 3", "vocabulary of 3"] {
        assert!(text.warnings()[0].contains(word), "{word}: {}", text.warnings()[0]);
    }
    assert_eq!(text.encode("a<s>b", false).unwrap(), [0, 2, 1]);
    let error = text.encode("a[PAD]", false).unwrap_err();
    assert!(matches!(&error, Error::Damaged { got, .. } if got == "3"), "{error}");
    assert!(error.to_string().contains("`[PAD]`") && error.to_string().contains("below 3"), "{error}");
    assert!(model(&tokenizer(&[("[PAD]", true)]), None, 3).unwrap().warnings().is_empty());
    let text = model(&tokenizer(&[("[PAD]", true)]), None, 1).unwrap();
    assert!(text.warnings().concat().contains("2 tokens are past"), "{:?}", text.warnings());
}

#[test]
fn special_ids_past_the_vocabulary_are_warned_about_and_dropped() {
    let generation = r#"{"eos_token_id": [1, 128009], "bos_token_id": 3, "pad_token_id": 3}"#;
    let text = model(&tokenizer(&[("<s>", true)]), Some(generation), 3).unwrap();
    let defaults = text.defaults();
    assert_eq!((defaults.bos, &defaults.end[..], defaults.pad), (None, &[1][..], None));
    assert_eq!(text.warnings().len(), 3, "{:?}", text.warnings());
    assert!(text.warnings().iter().any(|w| w.contains("eos_token_id") && w.contains("128009")));
}

#[test]
fn turn_ends_that_no_file_names_are_known_by_their_text() {
    let tokens = tokenizer(&[("<s>", true), ("<|im_end|>", true), ("<|endoftext|>", true)]);
    let ends = |generation| model(&tokens, generation, 5).unwrap().defaults().end.clone();
    assert_eq!(ends(Some(r#"{"eos_token_id": 2}"#)), [2, 3]);
    assert_eq!(ends(Some("{}")), [3]);
    assert_eq!(ends(None), [3]);
    assert_eq!(ends(Some(r#"{"eos_token_id": 99}"#)), [3]);
    assert_eq!(ends(Some(r#"{"eos_token_id": []}"#)), [0; 0], "someone says that nothing ends");
    // Tokens of the vocabulary that are not added ones are text.
    let ordinary =
        tokens.replace(r#""a":0"#, r#""<|im_end|>":0"#).replace(r#""content":"<|im_end|>""#, r#""content":"x""#);
    assert!(!model(&ordinary, None, 5).unwrap().is_end(0));
    assert_eq!(model(&tokens, None, 3).unwrap().defaults().end, [0; 0], "past the vocabulary");
}

#[test]
fn templates_get_the_stated_texts_of_bos_and_eos_before_those_of_the_ids() {
    let tokens = tokenizer(&[("<s>", true), ("</s>", true)]);
    let generation = r#"{"bos_token_id": 2, "eos_token_id": [1, 3], "eos_token": "</s>"}"#;
    let text = model(&tokens, Some(generation), 4).unwrap();
    assert_eq!((text.bos_text(), text.eos_text()), ("<s>".into(), "</s>".into()));
    let text = model(&tokens, Some(r#"{"eos_token_id": [1, 3], "bos_token": "<s>"}"#), 4).unwrap();
    assert_eq!((text.bos_text(), text.eos_text()), ("<s>".into(), "b".into()));
}

#[test]
fn a_decoder_that_fails_loses_no_text() {
    // Takes more off the end than there is.
    let mut value: Value = serde_json::from_str(&tokenizer(&[])).unwrap();
    value["decoder"] = json!({"type": "Strip", "content": "b", "start": 1, "stop": 9});
    let text = model(&value.to_string(), None, 2).unwrap();
    assert_eq!([text.decode(&[0]), text.decode(&[1, 0, 1]), text.decode(&[])], ["a", "a", ""]);
    // Fails on no tokens.
    value["decoder"] = json!({"type": "BPEDecoder", "suffix": "</w>"});
    let text = model(&value.to_string(), None, 2).unwrap();
    assert_eq!([text.decode(&[0, 1]), text.decode(&[]), text.decode(&[7])], ["ab", "", ""]);
}

#[test]
fn a_damaged_generation_config_is_a_warning() {
    let text = model(&tokenizer(&[("</s>", true)]), Some("<html>"), 3).unwrap();
    assert_eq!((&text.defaults().end[..], text.warnings().len()), (&[2][..], 1));
    assert!(text.warnings()[0].contains("generation_config.json"), "{}", text.warnings()[0]);
}

#[test]
fn a_file_that_is_no_tokenizer_is_named() {
    for tokenizer in ["{}", "[]", "", "<html>", "null"] {
        let error = model(tokenizer, None, 3).unwrap_err();
        assert!(matches!(&error, Error::Damaged { file, .. } if file.ends_with(TOKENIZER_FILE)), "{error}");
    }
}
