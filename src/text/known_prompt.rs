//! A prompt whose tokens are known, so that a longer one that begins like it is not tokenized from its beginning.
//!
//! A tokenizer looks for the tokens that stand as written before it does anything else, and makes tokens of each piece
//! between them by itself. So what follows such a token does not depend on what comes before it.

use std::collections::HashSet;

use super::plain_text::PlainText;

/// A prompt and its tokens.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownPrompt {
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
}

impl KnownPrompt {
    /// How much of `text` has tokens that are known, in bytes, and how many tokens these are: up to the last token that
    /// stands as written in what both texts begin with. Nothing where it can't be told which of the tokens that is.
    pub(super) fn beginning_of(&self, text: &str, plain: &PlainText<'_>) -> (usize, usize) {
        let shared = self.text.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        if shared == 0 {
            return (0, 0);
        }
        let written: HashSet<u32> = plain.ids_as_written().collect();
        let found = plain.find_as_written(&self.text);
        // A model may make the same tokens of other text, and then there are more of them.
        let places = || self.ids.iter().enumerate().filter(|(_, id)| written.contains(id));
        if !places().map(|(_, id)| id).eq(found.iter().map(|token| &token.id)) {
            return (0, 0);
        }
        // Whatever the texts go on with, no longer token begins where such a one does.
        let is_common = |start: usize| start + plain.longest_as_written() <= shared;
        let common = found.iter().zip(places()).filter(|(token, _)| token.stands_alone && is_common(token.start));
        common.last().map_or((0, 0), |(token, (place, _))| (token.start, place))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plain_text::test_tokenizers;
    use super::*;

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
            let (bytes, count) = known.beginning_of("<s>aaa<|end|>bbb<s>ccc", &plain);
            assert_eq!((bytes, known.ids[count]), (6, tokenizer.token_to_id("<|end|>").unwrap()), "{name}");
            assert_eq!(known.beginning_of("<s>ab", &plain), (0, 0), "{name}");
            assert_eq!(KnownPrompt::default().beginning_of("<s>ab", &plain), (0, 0), "{name}");
        }
        assert!(tried > 3, "{tried}");
    }
}
