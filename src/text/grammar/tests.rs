//! Grammars over small vocabularies: what masks allow, where answers end, and what is refused.

use super::*;
use crate::constraint::{TokenConstraint, TokenMask};
use crate::text::tokenizer::test_models::{byte_level, sentence_piece};

/// The text of the tokens that the mask allows, and whether it allows the end of the turn.
fn allowed(text: &TextModel, constraint: &mut GrammarConstraint) -> (Vec<String>, bool) {
    let mut mask = TokenMask::none(text.vocab());
    constraint.fill(&mut mask).unwrap();
    let ids = (0..text.vocab()).filter(|id| mask.allows(*id) && !text.is_end(*id));
    (ids.map(|id| text.token_text(id)).collect(), mask.allows(text.special_for_test()))
}

fn accept(text: &TextModel, constraint: &mut GrammarConstraint, token: &str) {
    let id = (0..text.vocab()).find(|id| text.token_text(*id) == token).unwrap();
    constraint.accept(id).unwrap();
}

#[test]
fn masks_allow_what_the_grammar_goes_on_with() {
    let byte: &[&[u8]] = &[b"y", b"e", b"s", b"n", b"o", b"yes", b" yes", b"x", b"ye"];
    let piece = ["y", "e", "s", "n", "o", "yes", "\u{2581}yes", "x", "ye"];
    for text in [byte_level(byte), sentence_piece(&piece)] {
        let mut constraint = text.constraint(&Grammar::lark(r#"start: "yes" | "no" "o"?"#).unwrap()).unwrap();
        for _ in 0..2 {
            constraint.begin().unwrap();
            assert_eq!(allowed(&text, &mut constraint), (["y", "n", "yes", "ye"].map(String::from).to_vec(), false));
            accept(&text, &mut constraint, "n");
            accept(&text, &mut constraint, "o");
            assert!(!constraint.is_complete());
            assert_eq!(allowed(&text, &mut constraint), (vec!["o".to_string()], true));
            accept(&text, &mut constraint, "o");
            assert!(constraint.is_complete());
        }
        constraint.begin().unwrap();
        assert!(constraint.accept(7).is_err(), "x begins no answer");
    }
}

#[test]
fn a_character_of_several_tokens_is_followed_byte_by_byte() {
    let text = byte_level(&[b"\xc3", b"\xa9", b"\xa8", "é".as_bytes()]);
    let mut constraint = text.constraint(&Grammar::regex("é").unwrap()).unwrap();
    constraint.accept(0).unwrap();
    let mut mask = TokenMask::none(text.vocab());
    constraint.fill(&mut mask).unwrap();
    assert_eq!([0, 1, 2, 3].map(|id| mask.allows(id)), [false, true, false, false]);
    let pieces = sentence_piece(&["<0xC3>", "<0xA9>", "é"]);
    let mut constraint = pieces.constraint(&Grammar::regex("é").unwrap()).unwrap();
    let mut mask = TokenMask::none(pieces.vocab());
    constraint.fill(&mut mask).unwrap();
    assert_eq!([0, 1, 2].map(|id| mask.allows(id)), [true, false, true]);
}

#[test]
fn what_cannot_be_followed_is_refused_with_its_field() {
    let schemas = [
        ("{", "JSON schema: expected a text in JSON"),
        (r#"{"type": "object", "properties": {"a": {"type": "strin"}}}"#, "strin"),
        (r#"{"type": "number", "multipleOf": "x"}"#, "multipleOf"),
        (r#"{"type": "object", "unevaluatedProperties": false}"#, "unevaluatedProperties"),
    ];
    for (schema, expected) in schemas {
        let error = Grammar::json_schema(schema).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (error, expected) in [
        (Grammar::regex("(").unwrap_err(), "regular expression"),
        (Grammar::lark("start: missing").unwrap_err(), "missing"),
        (Grammar::lark("").unwrap_err(), "grammar"),
    ] {
        assert!(error.to_string().contains(expected), "{error}");
    }
    for schema in ["true", "{}", r#"{"enum": [1, 2]}"#, r#"{"type": "string", "x-guidance": {"lenient": true}}"#] {
        Grammar::json_schema(schema).unwrap();
    }
    Grammar::json().unwrap();
}
