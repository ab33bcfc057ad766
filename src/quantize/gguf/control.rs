//! Which tokens of a GGUF file are control tokens, where its `token_type` does not say it, or says it wrongly.

use super::optional::Optional;
use crate::error::shortened;
use crate::text::{is_text_end, is_turn_end};

/// What `tokenizer.ggml.token_type` says of a token; other numbers are ordinary tokens.
pub mod token_type {
    /// A piece of text.
    pub const NORMAL: u32 = 1;
    /// Stands for what the vocabulary lacks.
    pub const UNKNOWN: u32 = 2;
    /// Never made from plain text, never shown.
    pub const CONTROL: u32 = 3;
    /// Found in text before anything else is.
    pub const USER_DEFINED: u32 = 4;
    /// One byte, written `<0xAB>`.
    pub const BYTE: u32 = 6;
}

/// Control tokens whose names have no form of their own.
const CONTROL_NAMES: [&str; 29] = [
    "<s>",
    "</s>",
    "<pad>",
    "<bos>",
    "<eos>",
    "<mask>",
    "<cls>",
    "<sep>",
    "[PAD]",
    "[BOS]",
    "[EOS]",
    "[MASK]",
    "[CLS]",
    "[SEP]",
    "[INST]",
    "[/INST]",
    "<start_of_turn>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<PRE>",
    "<SUF>",
    "<MID>",
    "<EOD>",
];
/// Control tokens that begin a turn, which vocabularies that hold them for text all the same have for nothing else.
const TURN_BEGINS: [&str; 4] = ["<start_of_turn>", "<|im_start|>", "<|start_header_id|>", "<|start_of_role|>"];
/// Tokens that stand for what the vocabulary lacks.
const UNKNOWN_NAMES: [&str; 2] = ["<unk>", "[UNK]"];
/// What control tokens begin and end with in vocabularies that have many.
const CONTROL_FORMS: [(&str, &str); 2] = [("<|", "|>"), ("<\u{ff5c}", "\u{ff5c}>")];

/// The types of the tokens with these `texts`: as the file says, and by their names where it does not.
pub fn types(optional: &mut Optional<'_>, texts: &[String]) -> Vec<u32> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let stated = optional.numbers(KEY, texts.len());
    let named: Vec<u32> = texts.iter().map(|text| by_name(text)).collect();
    let Some(stated) = stated else {
        let control: Vec<&String> = pick(texts, |id| matches!(named[id], token_type::UNKNOWN | token_type::CONTROL));
        optional.warn(format_args!("there is no {KEY}: {} by their names", list(&control, "counts", "count")));
        return named;
    };
    let mut types: Vec<u32> = stated.into_iter().map(|kind| kind as u32).collect();
    let text =
        |kind: u32| kind == token_type::USER_DEFINED || !(token_type::UNKNOWN..=token_type::BYTE).contains(&kind);
    let of_turns = |text: &str| is_turn_end(text) || TURN_BEGINS.contains(&text);
    let wrong = |id: usize| text(types[id]) && of_turns(&texts[id]) && named[id] == token_type::CONTROL;
    let ids: Vec<usize> = (0..texts.len()).filter(|id| wrong(*id)).collect();
    if !ids.is_empty() {
        let ends: Vec<&String> = ids.iter().map(|id| &texts[*id]).collect();
        optional.warn(format_args!("{KEY} calls them text, but {} all the same", list(&ends, "counts", "count")));
        ids.into_iter().for_each(|id| types[id] = token_type::CONTROL);
    }
    types
}

/// The control tokens that end a text by their names. A file states one end of a generation, and models that take turns
/// have both: the end of a turn and the end of a text.
pub fn text_ends(texts: &[String], types: &[u32]) -> impl Iterator<Item = u32> {
    let tokens = texts.iter().zip(types).zip(0..);
    tokens.filter(|((text, kind), _)| **kind == token_type::CONTROL && is_text_end(text)).map(|(_, id)| id)
}

fn by_name(text: &str) -> u32 {
    let formed = |(begin, end): &(&str, &str)| {
        let within = text.strip_prefix(begin).and_then(|text| text.strip_suffix(end));
        within.is_some_and(|within| !within.is_empty() && !within.contains(char::is_whitespace))
    };
    let byte = text.strip_prefix("<0x").and_then(|text| text.strip_suffix('>'));
    if byte.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
        token_type::BYTE
    } else if UNKNOWN_NAMES.contains(&text) {
        token_type::UNKNOWN
    } else if CONTROL_NAMES.contains(&text) || is_turn_end(text) || CONTROL_FORMS.iter().any(formed) {
        token_type::CONTROL
    } else {
        token_type::NORMAL
    }
}

fn pick(texts: &[String], which: impl Fn(usize) -> bool) -> Vec<&String> {
    texts.iter().enumerate().filter(|(id, _)| which(*id)).map(|(_, text)| text).collect()
}

/// How many tokens count as control tokens, with a few of them.
fn list(tokens: &[&String], one: &str, many: &str) -> String {
    let few: Vec<String> = tokens.iter().take(3).map(|text| format!("`{}`", shortened(text))).collect();
    let few = few.join(", ");
    match tokens.len() {
        0 => format!("no token {one} as a control token"),
        1 => format!("{few} {one} as a control token"),
        2 | 3 => format!("{few} {many} as control tokens"),
        count => format!("{few} and {} others {many} as control tokens", count - 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_are_known_by_their_names() {
        use token_type::*;
        for (text, kind) in [
            ("<|im_start|>", CONTROL),
            ("<|reserved_special_token_7|>", CONTROL),
            ("<\u{ff5c}User\u{ff5c}>", CONTROL),
            ("<end_of_turn>", CONTROL),
            ("</s>", CONTROL),
            ("<unk>", UNKNOWN),
            ("<0xAB>", BYTE),
            ("<0xA>", NORMAL),
            ("<|", NORMAL),
            ("<||>", NORMAL),
            ("<|>", NORMAL),
            ("<| a|>", NORMAL),
            ("<div>", NORMAL),
            ("", NORMAL),
        ] {
            assert_eq!(by_name(text), kind, "{text}");
        }
    }
}
