//! The tokens that are looked for in a text before it is split, in the terms of tokenizer.json.

use serde_json::{Value, json};

use super::control::token_type;

/// A vocabulary whose added tokens take the white space beside them. GGUF has no place for that, so it is known by two
/// tokens that it alone has together.
struct Stripping {
    known_by: [&'static str; 2],
    /// The added tokens that take nothing.
    but: &'static [&'static str],
    /// Whether the others take what is before them too, and not only what follows.
    left: bool,
}

const STRIPPING: [Stripping; 2] = [
    // Phi-3 and Phi-3.5
    Stripping { known_by: ["<|placeholder1|>", "<|assistant|>"], but: &["<unk>", "<s>", "<|endoftext|>"], left: false },
    // Phi-4
    Stripping { known_by: ["<|dummy_0|>", "<|im_sep|>"], but: &[], left: true },
];

/// Added tokens, by their `texts` and `types` in the order of their ids. In a vocabulary of `pieces` that begins texts
/// with no space, a token of spaces is found where the text has what stands for a space, as SentencePiece does.
pub fn tokens(texts: &[String], types: &[u32], pieces: bool) -> Vec<Value> {
    let has = |text: &str| texts.iter().any(|other| other == text);
    let stripping = STRIPPING.iter().find(|stripping| stripping.known_by.into_iter().all(has));
    let kinds = texts.iter().zip(types).enumerate();
    kinds
        .filter_map(|(id, (text, kind))| {
            let special = match *kind {
                token_type::UNKNOWN | token_type::CONTROL => true,
                token_type::USER_DEFINED => false,
                _ => return None,
            };
            let takes = stripping.filter(|stripping| !stripping.but.contains(&text.as_str()));
            Some(json!({
                "id": id, "content": text, "single_word": false,
                "lstrip": takes.is_some_and(|takes| takes.left), "rstrip": takes.is_some(),
                "normalized": pieces && !special && text.contains(' '), "special": special,
            }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each added token its text and whether it takes the space before and after it.
    fn strips(texts: &[&str]) -> Vec<(String, bool, bool)> {
        let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
        let takes = |token: &Value, side: &str| token[side].as_bool().unwrap();
        let text = |token: &Value| token["content"].as_str().unwrap().to_string();
        let tokens = tokens(&texts, &vec![token_type::CONTROL; texts.len()], true);
        tokens.iter().map(|token| (text(token), takes(token, "lstrip"), takes(token, "rstrip"))).collect()
    }

    #[test]
    fn added_tokens_take_the_space_beside_them_where_the_vocabulary_is_known_for_it() {
        let of = |text: &str, left, right| (text.to_string(), left, right);
        let phi3 = ["<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>"];
        let expected = [false, true, false, true, true, true];
        let expected: Vec<_> = phi3.iter().zip(expected).map(|(text, right)| of(text, false, right)).collect();
        assert_eq!(strips(&phi3), expected);
        let phi4 = ["<|dummy_0|>", "<|im_sep|>", "<|im_end|>"];
        assert_eq!(strips(&phi4), phi4.map(|text| of(text, true, true)));
        let others = ["<|im_sep|>", "<|assistant|>", "<|end|>"];
        assert_eq!(strips(&others), others.map(|text| of(text, false, false)));
    }

    #[test]
    fn tokens_of_spaces_are_found_in_the_normalized_text_of_pieces() {
        let texts = ["  ".to_string(), "\n\n".to_string(), "< >".to_string()];
        let types = [token_type::USER_DEFINED, token_type::USER_DEFINED, token_type::CONTROL];
        let normalized =
            |pieces| tokens(&texts, &types, pieces).iter().map(|token| token["normalized"] == true).collect();
        assert_eq!((normalized(true), normalized(false)), (vec![true, false, false], vec![false; 3]));
    }
}
