//! Calls of tools in answers, whole and cut anywhere, and answers that only look like them.

use proptest::prelude::*;

use super::*;

const FORMATS: [ToolCallFormat; 4] =
    [ToolCallFormat::Hermes, ToolCallFormat::Llama3, ToolCallFormat::Mistral, ToolCallFormat::MistralNamed];

/// The parts of an answer that comes in these pieces, neighbouring texts as one.
fn parts(format: ToolCallFormat, pieces: &[&str]) -> Vec<AnswerPart> {
    let mut parser = ToolCallParser::new(format);
    let mut found: Vec<AnswerPart> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    found.extend(parser.finish());
    let mut joined: Vec<AnswerPart> = Vec::new();
    for part in found {
        match (joined.last_mut(), part) {
            (Some(AnswerPart::Text(before)), AnswerPart::Text(text)) => *before += &text,
            (_, part) => joined.push(part),
        }
    }
    joined
}

/// `text` for texts, `name(arguments)` for calls.
fn shown(format: ToolCallFormat, text: &str) -> Vec<String> {
    let show = |part| match part {
        AnswerPart::Text(text) => text,
        AnswerPart::Call(ToolCall { id, name, arguments }) => format!("{id}: {name}({arguments})"),
    };
    parts(format, &[text]).into_iter().map(show).collect()
}

#[test]
fn calls_of_hermes_stand_between_tags_and_text_around() {
    let text = "Well.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": [1, \"</b>\"]}}\n</tool_call>\n\
        <tool_call>{\"name\": \"b\"}</tool_call> ";
    let expected = ["Well.\n", r#"call00001: a({"x":[1,"</b>"]})"#, "call00002: b({})"];
    assert_eq!(shown(ToolCallFormat::Hermes, text), expected);
    // A turn may end before its last tag.
    assert_eq!(shown(ToolCallFormat::Hermes, r#"<tool_call>{"name": "a"}"#), ["call00001: a({})"]);
    for text in ["<tool_call>{\"name\": 1}</tool_call>!", "<tool_call>{\"name\"", "a <tool_cal", "{\"name\": \"a\"}"] {
        assert_eq!(shown(ToolCallFormat::Hermes, text), [text]);
    }
}

#[test]
fn calls_of_llama_are_the_whole_answer_or_follow_their_mark() {
    let call = r#"{"name": "a", "parameters": {"x": "}"}}"#;
    let expected = [r#"call00001: a({"x":"}"})"#];
    for text in [call.to_string(), format!("\n{call}"), format!("<|python_tag|>{call}"), format!("{call}\n")] {
        assert_eq!(shown(ToolCallFormat::Llama3, &text), expected, "{text}");
    }
    let two = format!("Sure. <|python_tag|>{call}; {call}");
    let expected = ["Sure. ", r#"call00001: a({"x":"}"})"#, r#"call00002: a({"x":"}"})"#];
    assert_eq!(shown(ToolCallFormat::Llama3, &two), expected);
    for text in [&format!("Sure. {call}"), r#"{"x": 1} is an object"#, "<|python_tag|>print(1)", "{"] {
        assert_eq!(shown(ToolCallFormat::Llama3, text), [text]);
    }
}

#[test]
fn calls_of_mistral_are_a_list_after_their_mark() {
    let list = r#"[ {"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": "{\"y\": 2}"}]"#;
    let expected = [r#"call00001: a({"x":1})"#, r#"call00002: b({"y":2})"#];
    for text in [list.to_string(), format!("[TOOL_CALLS]{list}"), format!(" [TOOL_CALLS] {list}\n")] {
        assert_eq!(shown(ToolCallFormat::Mistral, &text), expected, "{text}");
    }
    assert_eq!(shown(ToolCallFormat::Mistral, &format!("So: [TOOL_CALLS]{list}"))[0], "So: ");
    for text in ["[1] is a reference", "[TOOL_CALLS] none", "[TOOL_CALLS] []", "[{\"x\": 1}]", &format!("a {list}")] {
        assert_eq!(shown(ToolCallFormat::Mistral, text), [text]);
    }
}

#[test]
fn calls_of_later_mistrals_begin_with_their_names() {
    let expected = [r#"call00001: get-a_1({"x":"}"})"#, "call00002: b({})"];
    for text in [
        r#"[TOOL_CALLS]get-a_1[ARGS]{"x": "}"}[TOOL_CALLS]b[ARGS]{}"#,
        r#"[TOOL_CALLS]get-a_1[CALL_ID]a1B2c3D4e[ARGS]{"x": "}"}[TOOL_CALLS]b[CALL_ID]1[ARGS]{}"#,
        // Marks that are special tokens have no text.
        r#"get-a_1{"x": "}"}b{}"#,
        " get-a_1[ARGS] {\"x\": \"}\"}\nb{}\n",
    ] {
        assert_eq!(shown(ToolCallFormat::MistralNamed, text), expected, "{text}");
    }
    let said = r#"So: [TOOL_CALLS]b[ARGS]{"y": 1}"#;
    assert_eq!(shown(ToolCallFormat::MistralNamed, said), ["So: ", r#"call00001: b({"y":1})"#]);
    let long = "n".repeat(65) + "{}";
    let id = format!("[TOOL_CALLS]b[CALL_ID]{}[ARGS]{{}}", "1".repeat(65));
    assert_eq!(shown(ToolCallFormat::MistralNamed, &id), [id.as_str()]);
    for text in
        ["Hello", "Hello {name}", "Foo {} is an empty struct", "a b{}", "b{x}", "[TOOL_CALLS]none", "b[ARGS", &long]
    {
        assert_eq!(shown(ToolCallFormat::MistralNamed, text), [text]);
    }
}

#[test]
fn what_is_no_json_after_a_mark_ends_before_the_next_mark_however_it_is_cut() {
    let call = r#"{"name": "f", "parameters": {"a": 1}}"#;
    for between in [";", "\"", "x {", "]", "\u{a0}é"] {
        let text = format!("<|python_tag|>{between}<|python_tag|>{call}");
        let expected = [format!("<|python_tag|>{between}"), r#"call00001: f({"a":1})"#.to_string()];
        assert_eq!(shown(ToolCallFormat::Llama3, &text), expected);
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(parts(ToolCallFormat::Llama3, &characters), parts(ToolCallFormat::Llama3, &[&text]));
    }
    let text = r#"[TOOL_CALLS] none [TOOL_CALLS] [{"name": "f"}]"#;
    assert_eq!(shown(ToolCallFormat::Mistral, text), ["[TOOL_CALLS] none ", "call00001: f({})"]);
}

#[test]
fn the_format_is_told_by_the_template() {
    let of = ToolCallFormat::of_template;
    assert_eq!(of("{{ '<tool_call>\\n' }}"), Some(ToolCallFormat::Hermes));
    assert_eq!(of("{{ '[TOOL_CALLS] [' }}"), Some(ToolCallFormat::Mistral));
    assert_eq!(of("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}"), Some(ToolCallFormat::MistralNamed));
    assert_eq!(of("{{ '[TOOL_CALLS]' + name + '[CALL_ID]' + id + '[ARGS]' }}"), Some(ToolCallFormat::Mistral));
    assert_eq!(of("{% if m.role == 'ipython' %}"), Some(ToolCallFormat::Llama3));
    assert_eq!(of("{% for m in messages %}{{ m.content }}{% endfor %}"), None);
}

/// Text of pieces that calls are made of.
fn answers() -> impl Strategy<Value = Vec<String>> {
    let marks = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "<tool",
        "[TOOL",
        "[ARGS]",
        "[CALL_ID]",
        "name",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        ";",
        " ",
        "\n",
        ",",
        ":",
        "\"name\": \"f\"",
        "\"arguments\": {}",
        "{\"name\": \"f\", \"parameters\": {\"a\": 1}}",
        "[{\"name\": \"f\", \"arguments\": {}}]",
        "é",
    ]);
    let piece = prop_oneof![6 => marks.prop_map(str::to_string), 1 => ".{0,5}".prop_map(|text| text)];
    prop::collection::vec(piece, 0..14)
}

proptest! {
    #[test]
    fn any_text_is_parsed_alike_however_it_is_cut(pieces in answers()) {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let text = pieces.concat();
        for format in FORMATS {
            let whole = parts(format, &[&text]);
            prop_assert_eq!(&parts(format, &pieces), &whole);
            let characters: Vec<String> = text.chars().map(String::from).collect();
            let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
            prop_assert_eq!(&parts(format, &characters), &whole);
            let is_text = |part: &AnswerPart| matches!(part, AnswerPart::Text(_));
            if whole.iter().all(is_text) {
                let said = if text.is_empty() { Vec::new() } else { vec![AnswerPart::Text(text.clone())] };
                prop_assert_eq!(whole, said);
            }
        }
    }
}
