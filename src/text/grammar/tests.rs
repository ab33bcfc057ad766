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

fn refused(schema: &str) -> String {
    Grammar::json_schema(schema).err().unwrap_or_else(|| panic!("{schema} is no fault")).to_string()
}

/// Errors said what was wrong and not where.
#[test]
fn an_error_about_a_schema_has_the_field_at_fault() {
    let places = [
        (
            r#"{"properties": {"a": {}, "b": {"properties": {"c": {"type": "strin"}}}}}"#,
            "/properties/b/properties/c/type",
        ),
        (r#"{"items": {"type": "string", "pattern": "(a"}}"#, "/items/pattern"),
        (
            r##"{"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"y": {}, "x": {"format": "f"}}}"##,
            "/$defs/x/format",
        ),
        (r##"{"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"y": {}}}"##, "/properties/a/$ref"),
        (
            r#"{"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "number", "multipleOf": "x"}]}"#,
            "/anyOf/2/multipleOf",
        ),
        (r#"{"anyOf": [{"type": "string", "pattern": "("}, {"type": "null"}]}"#, "/anyOf/0/pattern"),
        (r#"{"prefixItems": [{}, {"not": {}}], "items": false}"#, "/prefixItems/1/not"),
        (r#"{"properties": {"a/b~": {"minLength": -1}}}"#, "/properties/a~1b~0/minLength"),
        (r#"{"items": {"oneOf": [{"type": "object"}, {"type": "object"}]}}"#, "/items/oneOf"),
        (r#"{"properties": {"a": {"type": "x"}, "b": {"type": "x"}, "c": {"not": {}}}}"#, "/properties/b/type"),
        (r#"{"anyOf": [{"anyOf": [{"type": "x"}, {"type": "x"}]}, {"type": "x"}]}"#, "/anyOf/1/type"),
        (
            r#"{"anyOf": [{"type": "x"}, {"anyOf": [{"type": "x"}, {"items": {"type": "x"}}]}]}"#,
            "/anyOf/1/anyOf/1/items/type",
        ),
        // Two fields that do not go together, and a fault that is there twice.
        (r#"{"type": "array", "items": {"type": "array", "minItems": 3, "maxItems": 1}, "minItems": 1}"#, "/items"),
        (r#"{"allOf": [{"type": "strin"}, {"type": "strin"}]}"#, "/allOf/1/type"),
        (r#"{"x-guidance": {"nope": 1}}"#, "/x-guidance"),
    ];
    for (schema, place) in places {
        let error = refused(schema);
        assert!(error.starts_with(&format!("JSON schema: field `{place}`: expected one that")), "{schema}: {error}");
    }
    // A fault of all properties together is in none of them, and a large schema is not compiled again and again.
    let wide = |properties: usize| {
        let nulls: Vec<String> = (0..properties).map(|n| format!(r#""p{n}": {{"type": "null"}}"#)).collect();
        format!(r#"{{"properties": {{{}}}, "type": "object"}}"#, nulls.join(", "))
    };
    let error = refused(&wide(30_000));
    assert!(error.starts_with("JSON schema: field `/properties`: ") && error.ends_with("schema too large"), "{error}");
    let error = refused(&wide(9_000).replace(r#""p8000": {"type": "null"}"#, r#""p8000": {"type": "strin"}"#));
    assert!(error.starts_with("JSON schema: field `/properties/p8000/type`: "), "{error}");
    for whole in ["false", "[]"] {
        assert!(refused(whole).starts_with("JSON schema: expected one that can be followed, got "), "{whole}");
    }
}

/// Errors had the lines of a picture, which the program shows as one with `\n` in it, and all of what was given.
#[test]
fn an_error_about_a_grammar_is_one_line() {
    let error = refused(r#"{"pattern": "(a"}"#);
    assert!(error.ends_with("got regex parse error: (a; unclosed group"), "{error}");
    let twice = refused(r##"{"$ref": "#/$defs/t", "$defs": {"t": {"type": "integer", "minimum": 5, "maximum": 1}}}"##);
    assert!(twice.ends_with("got Unsatisfiable schema: minimum (5) is greater than maximum (1)"), "{twice}");
    let error = Grammar::lark("start: a\na: /(a/").unwrap_err().to_string();
    assert!(error.contains("got line 2, column 4: invalid regex") && error.ends_with("; unclosed group"), "{error}");
    let own = refused(&format!(r#"{{"multipleOf": "{}"}}"#, "é".repeat(100)));
    assert!(
        own.starts_with("JSON schema: field `/multipleOf`: ") && own.contains("grammar library: end byte"),
        "{own}"
    );
    assert!(!own.contains("backtrace") && !own.contains("panic_with_hook"), "{own}");
    let long = Grammar::lark(&format!("start: /({}/", "b".repeat(10_000))).unwrap_err().to_string();
    assert!(long.len() < 1000 && long.ends_with("; unclosed group"), "{long}");
    let b = "b".repeat(3_000);
    let long = refused(&format!(r#"{{"properties": {{"{b}": {{"type": "string", "pattern": "({b}"}}}}}}"#));
    assert!(long.starts_with("JSON schema: field `/properties/bbb") && long.contains("b…/pattern`: "), "{long}");
    assert!(long.len() < 1000 && long.ends_with("; unclosed group"), "{long}");
}

/// All were called `grammar`, which is another flag.
#[test]
fn an_error_in_an_answer_names_the_kind_of_grammar() {
    let text = byte_level(&[b"{", b"x"]);
    let grammars = [
        (Grammar::json_schema("{}"), "JSON schema: "),
        (Grammar::json(), "JSON object: "),
        (Grammar::regex("y"), "regular expression: "),
        (Grammar::lark(r#"start: "y""#), "grammar: "),
    ];
    for (grammar, name) in grammars {
        let error = text.constraint(&grammar.unwrap()).unwrap().accept(1).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }
}

/// These were refused when the model was loaded, in the library's own words.
#[test]
fn what_leads_nowhere_or_to_too_much_is_refused_when_it_is_read() {
    let nothing = "got nothing that may come next, as where a rule or a reference leads only to itself";
    let no_end = "got more than 50000 steps through its rules at one place, as where one has no end";
    for (schema, place, fault) in [
        (r##"{"$ref": "#"}"##, "/$ref", nothing),
        (r##"{"allOf": [{"$ref": "#"}]}"##, "/allOf/0/$ref", nothing),
        (
            r##"{"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "required": ["a"],
            "$defs": {"x": {"$ref": "#/$defs/x"}}}"##,
            "/$defs/x/$ref",
            nothing,
        ),
        (
            r##"{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}"##,
            "/properties/a/$ref",
            no_end,
        ),
    ] {
        assert_eq!(
            refused(schema),
            format!("JSON schema: field `{place}`: expected one that can be followed, {fault}")
        );
    }
    let of = |words: Vec<String>| format!("start: {}", words.join(" | "));
    let many = |count: u32| of((0..count).map(|n| format!("\"w{n}\"")).collect());
    for (grammar, fault) in [
        ("start: start", nothing),
        ("start: a\na: b\nb: a", nothing),
        ("start: \"a\" b\nb: b \"x\"", nothing),
        ("start: \"x\" start", no_end),
        (
            &many(5000),
            "got 5001 possibilities at one place, where 2000 are the most; a rule that comes back to itself at its end \
             should do so at its beginning",
        ),
        ("start: \"<\" start", no_end),
    ] {
        let error = Grammar::lark(grammar).unwrap_err().to_string();
        assert_eq!(error, format!("grammar: expected one that can be followed, {fault}"));
    }
    // What has an end is followed, however often it comes back to itself, and what has one way that leads on.
    for schema in [
        r##"{"type": "object", "properties": {"v": {"anyOf": [{"type": "array", "minItems": 1,
            "items": {"$ref": "#/$defs/x"}}, {"type": "null"}]}}, "required": ["v"],
            "$defs": {"x": {"$ref": "#/$defs/x"}}}"##,
        r##"{"anyOf": [{"$ref": "#"}, {"type": "null"}]}"##,
        r##"{"type": "array", "items": {"$ref": "#"}}"##,
        r##"{"type": "object", "properties": {"n": {"type": "integer"}, "next": {"$ref": "#"}}, "required": ["n"]}"##,
    ] {
        Grammar::json_schema(schema).unwrap();
    }
    for grammar in [
        "start: \"a\" b | \"c\"\nb: b \"x\"",
        "start: a | \"x\"\na: a",
        "start: \"\" | \"a\" start \"b\"",
        "start: x+\nx: \"\"",
        &many(1000),
    ] {
        Grammar::lark(grammar).unwrap();
    }
}

/// These were refused, as if a vocabulary of bytes were the model's.
#[test]
fn tokens_that_a_grammar_names_are_looked_for_in_the_model() {
    let text = byte_level(&[b"y", b"n"]);
    let mut constraint = text.constraint(&Grammar::lark("start: \"y\" <|end|> \"n\"").unwrap()).unwrap();
    accept(&text, &mut constraint, "y");
    let mut mask = TokenMask::none(text.vocab());
    constraint.fill(&mut mask).unwrap();
    assert!(mask.allows(text.special_for_test()) && !mask.allows(1));
    for (grammar, fault) in [
        ("start: <|none|>", "unknown special token: \"<|none|>\""),
        ("start: <[300]>", "Token range end too large: 300"),
    ] {
        let error = text.constraint(&Grammar::lark(grammar).unwrap()).unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
    }
    assert!(Grammar::lark("start: <|end|> missing").is_err());
}

/// The library goes down a rule for each that it refers to, which took more stack than a thread has.
#[test]
fn rules_that_refer_on_through_thousands_are_followed_and_take_nothing_down() {
    let rules: String = (0..2000).map(|n| format!("r{n}: \"a\" r{}\n", n + 1)).collect();
    let on_small_stack = |grammar: String| {
        let thread = std::thread::Builder::new().stack_size(512 << 10);
        let made = thread.spawn(move || Grammar::lark(&grammar).map(|_| ())).unwrap();
        made.join().unwrap()
    };
    on_small_stack(format!("start: r0\n{rules}r2000: \"b\"\n")).unwrap();
    let error = on_small_stack(format!("start: r0\n{rules}")).unwrap_err().to_string();
    assert!(error.contains("r2000"), "{error}");
}
