//! Folders as people have them: what is taken of which file, and what is said of values that cannot be followed.

use serde_json::json;

use super::*;

/// A folder of these files, with a tokenizer and an empty config.json where none is given.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let special = |(content, id)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let added = ["<|endoftext|>", "<|im_start|>", "<|done|>", "</s>"].into_iter().zip(2..).map(special);
    let tokenizer = json!({"added_tokens": added.collect::<Vec<_>>(),
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}});
    std::fs::write(dir.path().join(TOKENIZER_FILE), tokenizer.to_string()).unwrap();
    std::fs::write(dir.path().join(CONFIG_FILE), "{}").unwrap();
    files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
    dir
}

/// The settings that a folder of these files gives, and the warnings.
fn settings(files: &[(&str, &str)]) -> (Value, Vec<String>) {
    let assets = read(folder(files).path()).unwrap();
    (serde_json::from_str(&assets.generation_config).unwrap(), assets.warnings)
}

#[test]
fn special_ids_of_config_json_fill_the_gaps_of_generation_config_json() {
    let config = r#"{"bos_token_id": 3, "eos_token_id": 2, "pad_token_id": null, "hidden_size": 64}"#;
    let both = [(CONFIG_FILE, config), (GENERATION_FILE, r#"{"eos_token_id": [2, 4], "top_p": 0.9}"#)];
    let expected = json!({"eos_token_id": [2, 4], "top_p": 0.9, "bos_token_id": 3});
    assert_eq!(settings(&both), (expected, vec![]));
    assert_eq!(settings(&both[..1]), (json!({"bos_token_id": 3, "eos_token_id": [2]}), vec![]));
}

#[test]
fn a_turn_ends_with_each_token_that_any_file_names() {
    let text = r#"{"eos_token": "<|done|>", "bos_token": "<|im_start|>"}"#;
    let object = r#"{"eos_token": {"content": "<|done|>", "lstrip": false}, "bos_token": {"content": "<|im_start|>"}}"#;
    for config in [text, object] {
        let file = (TOKENIZER_CONFIG_FILE, config);
        let alone =
            json!({"bos_token_id": 3, "eos_token_id": [4], "bos_token": "<|im_start|>", "eos_token": "<|done|>"});
        assert_eq!(settings(&[file]), (alone.clone(), vec![]));
        assert_eq!(settings(&[(SPECIAL_TOKENS_FILE, config)]), (alone, vec![]), "where older folders have it");
        let (stale, said) = settings(&[file, (CONFIG_FILE, r#"{"eos_token_id": 2}"#)]);
        assert_eq!((&stale["eos_token_id"], said.len()), (&json!([4, 2]), 0));
        let (both, _) = settings(&[file, (GENERATION_FILE, r#"{"eos_token_id": 5, "bos_token_id": 2}"#)]);
        assert_eq!((&both["eos_token_id"], &both["bos_token_id"]), (&json!([5, 4]), &json!(2)));
    }
}

#[test]
fn a_piece_of_text_that_only_config_json_names_ends_a_turn_only_where_nothing_else_does() {
    let stale = (CONFIG_FILE, r#"{"eos_token_id": 1}"#);
    let (other, said) = settings(&[stale, (TOKENIZER_CONFIG_FILE, r#"{"eos_token": "<|done|>"}"#)]);
    assert_eq!(other["eos_token_id"], json!([4]));
    assert!(said.len() == 1 && said[0].contains("config.json") && said[0].contains("got 1"), "{said:?}");
    assert_eq!(settings(&[stale]).0["eos_token_id"], json!([1]));
}

#[test]
fn what_cannot_be_followed_is_told_once_and_left_out() {
    let generation = r#"{"top_k": 2.5, "temperature": NaN, "eos_token_id": "</s>", "pad_token_id": -1, "top_p": 0.5}"#;
    let (settings, said) = settings(&[(GENERATION_FILE, generation), (CONFIG_FILE, r#"{"eos_token_id": 5}"#)]);
    assert_eq!(settings, json!({"top_p": 0.5, "eos_token_id": [5]}));
    for (word, warning) in ["eos_token_id", "temperature", "pad_token_id", "top_k"].iter().zip(&said) {
        assert!(warning.contains(word), "{word}: {said:?}");
    }
    assert_eq!(said.len(), 4);
}

#[test]
fn a_generation_config_that_is_no_json_counts_as_absent() {
    let files = [(GENERATION_FILE, "<html>"), (CONFIG_FILE, r#"{"eos_token_id": 5}"#)];
    let (settings, said) = settings(&files);
    assert_eq!(settings, json!({"eos_token_id": [5]}));
    assert!(said.len() == 1 && said[0].contains("generation_config.json"), "{said:?}");
}

#[test]
fn a_special_token_that_the_tokenizer_lacks_is_a_warning() {
    let (settings, said) = settings(&[(TOKENIZER_CONFIG_FILE, r#"{"eos_token": "<|no|>", "bos_token": 3}"#)]);
    assert_eq!(settings, json!({"eos_token": "<|no|>"}));
    assert!(said.iter().any(|w| w.contains("<|no|>")) && said.iter().any(|w| w.contains("bos_token")), "{said:?}");
}

#[test]
fn a_tokenizer_that_does_otherwise_than_its_configuration_says_is_told() {
    let said = |config: &str| settings(&[(TOKENIZER_CONFIG_FILE, config)]).1;
    assert_eq!(said(r#"{"add_bos_token": false, "add_eos_token": null}"#), [""; 0]);
    let warning = said(r#"{"add_bos_token": true, "add_eos_token": false}"#).concat();
    assert!(warning.contains("add_bos_token") && warning.contains("puts no token before a text"), "{warning}");
    assert!(!warning.contains("add_eos_token"), "{warning}");
}

#[test]
fn byte_order_marks_are_no_part_of_the_files() {
    let marked = |text: &str| format!("\u{feff}{text}");
    let plain = folder(&[]);
    let tokenizer = std::fs::read_to_string(plain.path().join(TOKENIZER_FILE)).unwrap();
    let files = [
        (TOKENIZER_FILE, marked(&tokenizer)),
        (GENERATION_FILE, marked(r#"{"top_k": 7}"#)),
        (TOKENIZER_CONFIG_FILE, marked(r#"{"eos_token": "</s>", "chat_template": "x"}"#)),
        (CONFIG_FILE, marked(r#"{"bos_token_id": 3}"#)),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let assets = read(folder(&files).path()).unwrap();
    assert_eq!((assets.tokenizer, assets.chat_template.as_deref(), assets.warnings.len()), (tokenizer, Some("x"), 0));
    let settings: Value = serde_json::from_str(&assets.generation_config).unwrap();
    assert_eq!(settings, json!({"top_k": 7, "bos_token_id": 3, "eos_token_id": [5], "eos_token": "</s>"}));
}

#[test]
fn other_encodings_and_tokenizers_that_are_none_are_named() {
    for (name, bytes, word) in [
        (TOKENIZER_FILE, &b"version https://git-lfs"[..], "tokenizer.json"),
        (TOKENIZER_FILE, b"{}", "tokenizer.json"),
        (TOKENIZER_CONFIG_FILE, b"{\"a\": \xff}", "tokenizer_config.json"),
        (TOKENIZER_CONFIG_FILE, b"{", "tokenizer_config.json"),
        (TOKENIZER_CONFIG_FILE, br#"{"eos_token": "a", "eos_token": "b"}"#, "the key `eos_token` twice"),
    ] {
        let dir = folder(&[]);
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let fault = read(dir.path()).unwrap_err();
        assert!(matches!(fault, Error::Damaged { .. }) && fault.to_string().contains(word), "{fault}");
    }
}

#[test]
fn the_licence_is_the_model_card_s() {
    let card = |text| licence(folder(&[("README.md", text)]).path());
    assert_eq!(card("---\ntags:\n- x\nlicense: apache-2.0\n---\n# Model").as_deref(), Some("apache-2.0"));
    assert_eq!(card("# Model\nlicense: none of this counts"), None);
    assert_eq!(card("---\ntags: []\n---\nlicense: too late"), None);
}
