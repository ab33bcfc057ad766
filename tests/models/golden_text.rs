//! The text side of the default model against the reference's record: the rendered chat and every token id.

use crate::default_model::{default_model, record, skipped};
use edge_run::internals::text::{Detokenizer, Message, Role, TextModel};
use serde_json::Value;

/// Runs `test` with the record and the default model's text side, or says why this machine has no default model.
fn with_golden(test: impl FnOnce(&Value, &TextModel)) {
    let record = serde_json::from_slice(&record("golden.json")).expect("the record is JSON");
    match default_model() {
        Ok(folder) => test(&record, &TextModel::open(&folder).expect("the default model has a sound text side")),
        Err(reason) => skipped(&reason),
    }
}

fn entries<'a>(record: &'a Value, name: &str) -> &'a Vec<Value> {
    let entries = record[name].as_array().expect("the record has lists");
    assert!(!entries.is_empty(), "the record has no {name}");
    entries
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("the record has ids")
}

fn text_of(value: &Value) -> &str {
    value.as_str().expect("the record has texts")
}

#[test]
fn chats_are_rendered_and_tokenized_as_by_the_reference() {
    with_golden(|record, text| {
        for chat in entries(record, "chat") {
            let user = Message::new(Role::User, text_of(&chat["user"]));
            let encoded = text.encode_chat(std::slice::from_ref(&user)).unwrap();
            assert_eq!(encoded, Some(ids(&chat["prompt_ids"])));
            let rendered = text.render_chat(&[user]).unwrap().expect("the default model has a chat template");
            assert_eq!(rendered, text_of(&chat["prompt_text"]));
            assert_eq!(text.encode(&rendered, false).unwrap(), ids(&chat["prompt_ids"]));
        }
    });
}

#[test]
fn plain_prompts_are_tokenized_as_by_the_reference() {
    with_golden(|record, text| {
        for (list, field) in [("plain", "prompt_ids"), ("logit_prompts", "ids")] {
            for entry in entries(record, list) {
                assert_eq!(text.encode(text_of(&entry["prompt"]), true).unwrap(), ids(&entry[field]));
            }
        }
    });
}

#[test]
fn answers_are_the_reference_s_text_without_special_tokens() {
    with_golden(|record, text| {
        for (list, prompt) in [("plain", "prompt_ids"), ("chat", "prompt_ids")] {
            for entry in entries(record, list) {
                let mut detokenizer = Detokenizer::continuing(text, &ids(&entry[prompt]));
                let new = ids(&entry["new_ids"]);
                let streamed: String = new.iter().map(|id| detokenizer.push(text, *id)).collect();
                let expected = text_of(&entry["text"]).replace("<|im_end|>", "");
                assert_eq!(streamed + &detokenizer.finish(text), expected);
                let ends = new.iter().filter(|id| text.is_end(**id)).count();
                assert_eq!(ends, usize::from(text_of(&entry["text"]).ends_with("<|im_end|>")));
            }
        }
    });
}
