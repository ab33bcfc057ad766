//! A prompt whose tokens are known, so that a longer one that begins like it is not tokenized from its beginning.
//!
//! A tokenizer looks for the tokens that stand as written before it does anything else, and makes tokens of each piece
//! between them by itself. So what follows such a token does not depend on what comes before it.

use super::TextModel;
use super::plain_text::{PlainText, WrittenToken};

/// Tokens before an answer that are enough surroundings for its text.
const CONTEXT_TOKENS: usize = 8;

/// A prompt and its tokens.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownPrompt {
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
}

impl KnownPrompt {
    /// Adds what was answered after the tokens `before` and the token `end` that ends a turn, where the prompt has the
    /// last ones of these. Nothing is added where `end` does not stand as written.
    pub(crate) fn add_answer(&mut self, before: &[u32], answer: &[u32], end: u32, text: &TextModel) {
        let plain = text.plain_text();
        let context = &before[before.len().saturating_sub(CONTEXT_TOKENS)..];
        if answer.is_empty() || !self.ids.ends_with(context) || !plain.is_as_written(end) {
            return;
        }
        let both = text.decode(&[context, answer].concat());
        let said = both.strip_prefix(&text.decode(context));
        if let (Some(said), Some(end)) = (said, text.token(end)) {
            let whole = [&self.text, said, &end].concat();
            let (bytes, count) = self.beginning_of(&whole, plain);
            if let Ok(ids) = text.encode(&whole[bytes..], false) {
                *self = KnownPrompt { ids: [&self.ids[..count], &ids].concat(), text: whole };
            }
        }
    }

    /// How much of `text` has tokens that are known, in bytes, and how many tokens these are: up to the last token that
    /// stands as written in what both texts begin with. Nothing where it can't be told which of the tokens that is.
    pub(super) fn beginning_of(&self, text: &str, plain: &PlainText) -> (usize, usize) {
        let shared = shared_bytes(self.text.as_bytes(), text.as_bytes());
        if shared == 0 {
            return (0, 0);
        }
        let found = plain.find_as_written(&self.text);
        // A model may make the same tokens of other text, and then there are more of them.
        let places = || self.ids.iter().enumerate().filter(|(_, id)| plain.is_as_written(**id));
        if !places().map(|(_, id)| id).eq(found.iter().map(|token| &token.id)) {
            return (0, 0);
        }
        // What is found in both texts within what they share has the same pieces before it.
        let others = plain.find_as_written(text);
        let both = found.iter().zip(&others).zip(places());
        let is_same = |token: &WrittenToken, other: &WrittenToken| token == other && token.end <= shared;
        let common = both.take_while(|((token, other), _)| is_same(token, other));
        let common = common.filter(|((token, _), _)| token.stands_alone);
        common.last().map_or((0, 0), |((token, _), (place, _))| (token.start, place))
    }
}

/// How many bytes both begin with. What is long is compared in pieces, as the processor does that at once.
fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    const PIECE: usize = 64;
    let pieces = a.chunks_exact(PIECE).zip(b.chunks_exact(PIECE)).take_while(|(a, b)| a == b).count();
    let same = pieces * PIECE;
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plain_text::test_tokenizers;
    use super::super::test_models::byte_level;
    use super::*;

    #[test]
    fn an_answer_is_known_as_the_tokenizer_cuts_it() {
        let text = byte_level(&["a", "b", "ab", "\n"].map(str::as_bytes));
        let end = text.special_for_test();
        let prompt = || KnownPrompt { text: "a<|end|>b".into(), ids: vec![0, end, 1] };
        let is_whole = |known: &KnownPrompt| known.ids == text.encode(&known.text, false).unwrap();
        let mut known = prompt();
        known.add_answer(&[0, end, 1], &[0, 1], end, &text);
        assert_eq!(known.text, "a<|end|>bab<|end|>");
        assert!(is_whole(&known));
        let beginning = |after: &str| known.beginning_of(after, text.plain_text());
        assert_eq!(beginning("a<|end|>bab<|end|>\na"), (11, known.ids.len() - 1));
        assert_eq!(beginning("a<|end|>baa<|end|>\na"), (1, 1), "another answer");
        // A special token in the middle has no text.
        let mut other = prompt();
        other.add_answer(&[0, end, 1], &[0, end, 0], end, &text);
        assert!(other.text == "a<|end|>baa<|end|>" && is_whole(&other));
        // The answer is to another prompt, is none, or ends with a token that is text.
        for (before, answer, last) in [(&[1, 1][..], &[0][..], end), (&[0, end, 1], &[], end), (&[], &[0], 0)] {
            let mut other = prompt();
            other.add_answer(before, answer, last, &text);
            assert_eq!(other.text, prompt().text);
        }
    }

    /// Texts of words, spaces and tokens of every kind.
    fn text() -> impl Strategy<Value = String> {
        let pieces =
            ["<s>", "</s>", "<|end|>", "[L]", "[R]", "<Ö>", "<tool>", "<w>", "<", "end", " ", "  ", "\n", "ö", "a"];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_text_that_begins_like_another_has_the_tokens_of_the_whole(
            beginning in text(), one in text(), other in text(),
        ) {
            for (name, tokenizer) in test_tokenizers() {
                let plain = PlainText::new(&tokenizer, |_| false);
                let ids = |text: &str| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
                let (before, after) = (format!("{beginning}{one}"), format!("{beginning}{other}"));
                let known = KnownPrompt { ids: ids(&before), text: before };
                let (bytes, count) = known.beginning_of(&after, &plain);
                let joined = [&known.ids[..count], &ids(&after[bytes..])].concat();
                prop_assert_eq!(joined, ids(&after), "{}: {:?} after {:?}, {}", name, &after, &known.text, bytes);
            }
        }
    }

    #[test]
    fn a_conversation_is_known_up_to_its_last_token_that_stands_as_written() {
        let mut tried = 0;
        for (name, tokenizer) in test_tokenizers() {
            let plain = PlainText::new(&tokenizer, |_| false);
            // Others look for these tokens in the normalized text.
            if plain.find_as_written("<s>").is_empty() {
                continue;
            }
            tried += 1;
            let text = "<s>aaa<|end|>bbb".to_string();
            let known = KnownPrompt { ids: tokenizer.encode_fast(&*text, false).unwrap().get_ids().to_vec(), text };
            // Both texts go on alike after this token, so that nothing else can begin where it does.
            let (bytes, count) = known.beginning_of("<s>aaa<|end|>", &plain);
            assert_eq!((bytes, known.ids[count]), (6, tokenizer.token_to_id("<|end|>").unwrap()), "{name}");
            let (bytes, count) = known.beginning_of("<s>aaa<|end|>bbb<s>ccc", &plain);
            assert_eq!((bytes, known.ids[count]), (6, tokenizer.token_to_id("<|end|>").unwrap()), "{name}");
            assert_eq!(known.beginning_of("<s>aaa<|end", &plain), (0, 0), "{name}");
            assert_eq!(KnownPrompt::default().beginning_of("<s>ab", &plain), (0, 0), "{name}");
        }
        assert!(tried > 3, "{tried}");
    }
}
