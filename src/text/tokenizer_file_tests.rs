//! Files that made the library panic, and files made of sound ones at random: an error, or a tokenizer that works.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::super::{TextFiles, TextModel};
use super::*;

/// What is encoded with each tokenizer.
const TEXTS: [&str; 6] =
    ["", " ", "ab a<|end|>  b\n\nab", "é€😀\u{301}", "   <s>   <|end|> ", "a\u{0}\u{fffd}<0xE2>##b"];

/// The tokenizer with another value for a part of it.
fn with(pointer: &str, value: Value) -> String {
    let mut tokenizer = sound(0);
    *tokenizer.pointer_mut(pointer).unwrap() = value;
    tokenizer.to_string()
}

fn token(id: u64, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": !special, "special": special})
}

/// Tokenizers that between them have every part that the library knows.
fn sound(which: usize) -> Value {
    let vocab = json!({"<unk>": 0, "a": 1, "b": 2, "ab": 3, "▁": 4, "▁a": 5, "Ġ": 6, "<0xE2>": 7, "##b": 8});
    let added = [token(0, "<unk>", true), token(9, "<|end|>", true), token(10, "<s>", false)];
    let models = [
        json!({"type": "BPE", "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": [["a", "b"], ["▁", "a"]]}),
        json!({"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 9, "vocab": vocab}),
        json!({"type": "Unigram", "unk_id": 0, "byte_fallback": true,
            "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5], ["▁", -3.0]]}),
        json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": vocab}),
    ];
    let normalizers = [
        Value::Null,
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "NFKC"},
            {"type": "StripAccents"}]}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true}),
        json!({"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": true, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {"type": "Nmt"},
            {"type": "Lowercase"}]}),
    ];
    let pre_tokenizers = [
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}),
        json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
            {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "FixedLength", "length": 5},
            {"type": "CharDelimiterSplit", "delimiter": "x"}]}),
        json!({"type": "Split", "pattern": {"Regex": "(?i:'s)| ?\\p{L}+|\\s+(?!\\S)"}, "behavior": "MergedWithPrevious",
            "invert": true}),
    ];
    let decoders = [
        json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
    ];
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [10], "tokens": ["<s>"]}}});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let processors = [
        template.clone(),
        json!({"type": "Sequence", "processors": [byte_level, template]}),
        json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true,
            "add_prefix_space": true}),
        json!({"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}),
    ];
    let pick = |list: &[Value; 4], shift: usize| list[(which / 4usize.pow(shift as u32)) % 4].clone();
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": pick(&normalizers, 0), "pre_tokenizer": pick(&pre_tokenizers, 1),
        "post_processor": pick(&processors, 2), "decoder": pick(&decoders, 3), "model": pick(&models, 4)})
}

/// What became of a tokenizer.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused,
    Used,
    /// The library panicked, and the text was refused.
    Panicked(String),
}

/// Reads a tokenizer and uses it.
fn outcome(tokenizer: &str) -> Outcome {
    let files = TextFiles { folder: Path::new("model"), tokenizer, template: None, templates: None, generation: None };
    let panicked = |fault: Error| Some(fault.to_string()).filter(|fault| fault.contains("its library fails on"));
    let text = match TextModel::from_files(&files, 12) {
        Ok(text) => text,
        Err(fault) => return panicked(fault).map_or(Outcome::Refused, Outcome::Panicked),
    };
    let mut outcome = Outcome::Used;
    for (sample, special) in TEXTS.into_iter().flat_map(|sample| [(sample, false), (sample, true)]) {
        match text.encode(sample, special) {
            Ok(ids) => drop((text.decode(&ids), ids.iter().map(|id| text.decode(&[*id])).collect::<Vec<_>>())),
            Err(fault) => outcome = panicked(fault).map_or(outcome, Outcome::Panicked),
        }
    }
    let _ = (text.decode(&[]), text.decode(&[7, 7, 9, 4_000_000_000]), text.decode(&[1, 8, 2]));
    outcome
}

#[test]
fn sound_tokenizers_are_read() {
    for which in 0..4usize.pow(5) {
        assert_eq!(outcome(&sound(which).to_string()), Outcome::Used, "{which}");
    }
}

#[test]
fn what_the_library_would_panic_about_is_refused_by_name() {
    let merges = |merges| with("/model/merges", merges);
    let prefixed = |merges| {
        let mut model = sound(0)["model"].clone();
        (model["continuing_subword_prefix"], model["merges"]) = (json!("##"), merges);
        with("/model", model)
    };
    let template = |pointer: &str, value| {
        let mut template = sound(0)["post_processor"].clone();
        *template.pointer_mut(pointer).unwrap() = value;
        with("/post_processor", json!({"type": "Sequence", "processors": [template]}))
    };
    let sequence_b = json!([{"Sequence": {"id": "B", "type_id": 0}}]);
    let map = json!({"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "////fw=="}]});
    let doubled = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let doubled = |step: &str| json!({"type": "Sequence", step: vec![doubled.clone(); 40]});
    for (tokenizer, named) in [
        (with("/normalizer", doubled("normalizers")), "normalizer: expected replacements"),
        (with("/decoder", doubled("decoders")), "decoder: expected replacements"),
        (merges(json!([["ab", "▁a"]])), "merge of `ab` and `▁a`"),
        (merges(json!([["a", "c"]])), "`c`, which is none"),
        (merges(json!(["ab ab"])), "merge of `ab` and `ab`"),
        (prefixed(json!([["a", "b"]])), "prefix"),
        (prefixed(json!([["a", "▁"]])), "prefix"),
        (with("/normalizer", map), "precompiled_charsmap"),
        (with("/normalizer", json!({"type": "Precompiled"})), "precompiled_charsmap"),
        (with("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})), "length of pieces"),
        (template("/special_tokens", json!({})), "`model/tokenizer.json` is damaged: post_processor"),
        (template("/special_tokens/<s>/ids", json!([1, 2])), "post_processor"),
        (template("/single", sequence_b), "post_processor"),
        (template("/single", json!([])), "the text once"),
        (template("/single", json!([{"SpecialToken": ["no", 0]}])), "post_processor"),
        (with("/post_processor", json!([[], [], {}])), "an object"),
        (with("/decoder", json!([" ", 0, 1])), "an object"),
        (with("/model", json!([])), "model"),
        (with("/model", json!({"type": "Unigram", "unk_id": 0, "vocab": [["a".repeat(100_000), 0.0]]})), "1024 bytes"),
    ] {
        let fault = read(Path::new("model/tokenizer.json"), &tokenizer, &mut Vec::new()).unwrap_err().to_string();
        assert!(fault.contains(named), "{named}: {fault}");
    }
}

#[test]
fn odd_tokenizers_that_can_be_used_are() {
    for tokenizer in [
        with("/decoder", json!({"type": "Strip", "content": " ", "start": 9, "stop": u32::MAX})),
        with("/decoder", json!({"type": "Strip", "content": "\u{301}", "start": 0, "stop": 2})),
        with("/model/vocab", json!({})).replace(r#"[["a","b"],["▁","a"]]"#, "[]"),
        with("/model/unk_token", json!("absent")),
        with("/added_tokens", json!([token(4_000_000_000, "<x>", true), token(0, "", true), token(0, "a", false)])),
        with("/truncation", json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9})),
        with(
            "/padding",
            json!({"strategy": {"Fixed": 1u64 << 60}, "direction": "Left", "pad_id": 0, "pad_type_id": 0,
            "pad_token": "x", "pad_to_multiple_of": 0}),
        ),
        with(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false}),
        ),
    ] {
        assert_eq!(outcome(&tokenizer), Outcome::Used, "{tokenizer}");
    }
    let refused = with("/model/merges", json!([])).replace("\"type\":\"BPE\"", "\"type\":\"XPE\"");
    assert_eq!(outcome(&refused), Outcome::Refused);
}

#[test]
fn added_tokens_whose_stated_ids_are_not_theirs_are_a_warning() {
    let moved = |tokens| {
        let mut warnings = Vec::new();
        read(Path::new("t.json"), &with("/added_tokens", tokens), &mut warnings).unwrap();
        warnings
    };
    assert_eq!(moved(json!([token(9, "<x>", true), token(10, "<y>", true)])), [""; 0]);
    let said = moved(json!([token(9, "<x>", true), token(20, "<y>", true), token(30, "<z>", true)]));
    assert!(said.len() == 1 && said[0].contains("`<y>` is stated to have id 20 and has 10"), "{said:?}");
    assert!(said[0].contains("with 1 others"), "{said:?}");
}

/// Values that take the place of others.
fn odd_value(random: &mut StdRng) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(u64::MAX),
        json!(1e308),
        json!(2.5),
        json!(""),
        json!("a"),
        json!(" "),
        json!("é"),
        json!("<|end|>"),
        json!([]),
        json!({}),
        json!([["a", "b"]]),
        json!("(((("),
        json!("(a*)*$"),
        json!("\\b"),
        json!("always"),
        json!("Isolated"),
        json!("Removed"),
        json!({"String": ""}),
        json!({"Regex": "^|$"}),
        json!({"Regex": "(?=a)|\\z"}),
        json!([{"type": "Fuse"}, {"type": "Metaspace"}]),
    ];
    odd[random.random_range(0..odd.len())].clone()
}

/// Changes a part of the value at random.
fn mutate(value: &mut Value, random: &mut StdRng) {
    let down = random.random_range(0..8) > 0;
    match value {
        Value::Object(fields) if down && !fields.is_empty() => {
            let key = fields.keys().nth(random.random_range(0..fields.len())).unwrap().clone();
            if random.random_range(0..12) == 0 {
                fields.shift_remove(&key);
            } else {
                mutate(&mut fields[&key], random);
            }
        }
        Value::Array(values) if down && !values.is_empty() => {
            let at = random.random_range(0..values.len());
            match random.random_range(0..12) {
                0 => drop(values.remove(at)),
                1 => values.push(values[at].clone()),
                _ => mutate(&mut values[at], random),
            }
        }
        other => *other = odd_value(random),
    }
}

#[test]
fn no_tokenizer_makes_the_program_panic() {
    let rounds: u64 = std::env::var("EDGE_RUN_TEST_ROUNDS").map_or(400, |rounds| rounds.parse().unwrap());
    let (mut used, mut panicked) = (0, 0);
    for seed in 0..rounds {
        let mut random = StdRng::seed_from_u64(seed);
        let mut tokenizer = sound(random.random_range(0..4usize.pow(5)));
        for _ in 0..random.random_range(1..5) {
            mutate(&mut tokenizer, &mut random);
        }
        match outcome(&tokenizer.to_string()) {
            Outcome::Refused => (),
            Outcome::Used => used += 1,
            Outcome::Panicked(fault) => {
                println!("seed {seed}: {fault}");
                panicked += 1;
            }
        }
    }
    assert!(used > rounds / 10, "only {used} of {rounds} could be used");
    // What is looked for before the library sees it leaves few.
    assert!(panicked <= rounds / 100, "the library panicked {panicked} times");
}

#[test]
fn a_panic_of_the_library_is_an_answer_and_others_stay_panics() {
    assert_eq!(unwinding(|| 1), Some(1));
    assert_eq!(unwinding(|| -> u32 { panic!("of the library") }), None);
    assert!(!QUIET.get());
    assert!(catch_unwind(|| panic!("of the test")).is_err());
}
