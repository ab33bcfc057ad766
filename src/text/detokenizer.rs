//! From token ids to text, one token at a time, each character as soon as all its bytes are there.

use super::TextModel;

/// What a decoder writes for bytes that are not, or not yet, a character.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Tokens that may wait for the rest of a character. A character has at most four bytes, so more than four wait only
/// where tokens straddle characters again and again.
const MAX_PENDING: usize = 16;

/// Tokens kept of those waiting when there are too many: one token for each byte of a character.
const KEPT_PENDING: usize = 4;

/// Tokens of a prompt that are enough surroundings for the first generated token.
const PROMPT_CONTEXT: usize = 8;

/// Turns tokens into text as they come.
///
/// What a token adds to a text may depend on those before it (SentencePiece drops the first space of a text, a
/// character may be spread over several tokens), so the text of a short window of tokens is compared with what of it
/// was handed out before. The window is bounded, and with it the work for a token.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// Tokens whose text is out, then those whose text is not out yet, or not all of it.
    window: Vec<u32>,
    /// How many of the window's tokens are of the first sort.
    context: usize,
    /// The window's text as far as it is out.
    sent: String,
}

impl Detokenizer {
    /// Begins a new text.
    pub fn new() -> Detokenizer {
        Detokenizer::default()
    }

    /// Goes on after the text of `prompt`, whose last token decides on the first one's leading space.
    pub fn continuing(text: &TextModel, prompt: &[u32]) -> Detokenizer {
        let last = prompt.len().saturating_sub(PROMPT_CONTEXT);
        let window: Vec<u32> = prompt[last..].iter().copied().filter(|id| !text.is_special(*id)).collect();
        Detokenizer { context: window.len(), sent: text.decode(&window), window }
    }

    /// The text that became complete with the token; empty for special tokens, for ids outside the vocabulary and in
    /// the middle of a character.
    pub fn push(&mut self, text: &TextModel, id: u32) -> String {
        if text.is_special(id) {
            return String::new();
        }
        self.window.push(id);
        let full = text.decode(&self.window);
        let fresh = match full.strip_prefix(&self.sent) {
            Some(fresh) => fresh.to_string(),
            // Decoders of single bytes judge a whole run of them at once: what was a character is none while the next
            // one is incomplete.
            None if self.pending() <= KEPT_PENDING && self.sent.starts_with(full.trim_end_matches(REPLACEMENT)) => {
                return String::new();
            }
            // The run will never be sound again. What is out cannot be taken back, so the rest is read by itself.
            None => {
                self.window.drain(..self.context);
                self.context = 0;
                self.sent.clear();
                text.decode(&self.window)
            }
        };
        self.hand_out(text, fresh)
    }

    /// The text still held back when no token follows: replacement characters for bytes that are no character.
    pub fn finish(&mut self, text: &TextModel) -> String {
        let state = std::mem::take(self);
        let full = text.decode(&state.window);
        match full.strip_prefix(&state.sent) {
            Some(held) => held.to_string(),
            None => text.decode(&state.window[state.context..]),
        }
    }

    /// Tokens whose text is not all out.
    fn pending(&self) -> usize {
        self.window.len() - self.context
    }

    /// The part of the window's `fresh` text that no later token can change.
    fn hand_out(&mut self, text: &TextModel, fresh: String) -> String {
        let ready = fresh.trim_end_matches(REPLACEMENT).len();
        if ready == fresh.len() {
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.sent = text.decode(&self.window);
            return fresh;
        }
        let mut out = fresh[..ready].to_string();
        self.sent.push_str(&out);
        if self.pending() >= MAX_PENDING {
            let held = fresh[ready..].chars().count();
            self.window.drain(..self.window.len() - KEPT_PENDING);
            self.context = 0;
            let kept = text.decode(&self.window);
            self.sent = kept.trim_end_matches(REPLACEMENT).to_string();
            let still_held = kept[self.sent.len()..].chars().count();
            out.extend(std::iter::repeat_n(REPLACEMENT, held.saturating_sub(still_held)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::text::tokenizer::test_models::{byte_level, sentence_piece};

    /// Pushes all ids; what came out with each, and at the end.
    fn stream(text: &TextModel, ids: impl IntoIterator<Item = u32>) -> (Vec<String>, String) {
        let mut state = Detokenizer::new();
        let pieces = ids.into_iter().map(|id| state.push(text, id)).collect();
        (pieces, state.finish(text))
    }

    fn valid_prefix(bytes: &[u8]) -> &str {
        match std::str::from_utf8(bytes) {
            Ok(all) => all,
            Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap(),
        }
    }

    #[test]
    fn a_character_comes_with_its_last_byte() {
        let text = byte_level(&["a".as_bytes(), &[0xe2], &[0x82, 0xac, 0xe2], &[0x82], &[0xac]]);
        let (pieces, rest) = stream(&text, 0..5);
        assert_eq!(pieces, ["a", "", "€", "", "€"]);
        assert_eq!(rest, "");
    }

    #[test]
    fn special_and_unknown_tokens_have_no_text() {
        let text = byte_level(&["a".as_bytes(), "b".as_bytes()]);
        let special = text.special_for_test();
        let (pieces, _) = stream(&text, [0, special, 1, 4_000_000_000]);
        assert_eq!(pieces, ["a", "", "b", ""]);
    }

    #[test]
    fn bytes_that_are_no_character_come_out_once_each() {
        let text = byte_level(&[&[0xff], "a".as_bytes()]);
        for n in [1, 3, MAX_PENDING, MAX_PENDING + 1, 5 * MAX_PENDING + 3] {
            let (pieces, rest) = stream(&text, std::iter::repeat_n(0, n));
            let all = pieces.concat() + &rest;
            assert_eq!(all, REPLACEMENT.to_string().repeat(n), "{n} bytes");
            let (pieces, rest) = stream(&text, std::iter::repeat_n(0, n).chain([1]));
            assert_eq!((pieces.concat(), rest.as_str()), (REPLACEMENT.to_string().repeat(n) + "a", ""), "{n} and a");
        }
    }

    #[test]
    fn the_first_space_depends_on_the_prompt() {
        let text = sentence_piece(&["▁Paris", "▁is", "▁"]);
        assert_eq!(stream(&text, [0, 1]).0, ["Paris", " is"]);
        let mut after = Detokenizer::continuing(&text, &[1]);
        assert_eq!([after.push(&text, 0), after.push(&text, 1)], [" Paris", " is"]);
    }

    #[test]
    fn an_unsound_byte_run_does_not_stop_the_text() {
        let text = sentence_piece(&["<0xE2>", "<0x82>", "<0xAC>", "▁a"]);
        let (pieces, rest) = stream(&text, [0, 1, 2, 0, 3, 0, 1, 2, 3]);
        assert_eq!(pieces.concat() + &rest, "€\u{fffd} a€ a");
    }

    proptest! {
        #[test]
        fn byte_level_text_is_never_late(
            words in prop::collection::vec("\\PC{0,6}", 1..12),
            cuts in prop::collection::vec(1usize..4, 100),
        ) {
            let whole = words.concat().replace(REPLACEMENT, "");
            let (mut rest, mut pieces) = (whole.as_bytes(), Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let distinct: std::collections::BTreeSet<&[u8]> = pieces.iter().copied().collect();
            let distinct: Vec<&[u8]> = distinct.into_iter().collect();
            let text = byte_level(&distinct);
            let (mut state, mut seen, mut out) = (Detokenizer::new(), Vec::new(), String::new());
            for piece in pieces {
                seen.extend_from_slice(piece);
                let id = distinct.iter().position(|p| *p == piece).unwrap();
                out += &state.push(&text, id as u32);
                prop_assert_eq!(&out, valid_prefix(&seen));
                prop_assert!(state.window.len() <= 2 * MAX_PENDING);
            }
            prop_assert_eq!(state.finish(&text), "");
        }

        #[test]
        fn sentence_piece_text_equals_decoding_at_once(picks in prop::collection::vec(0usize..6, 1..60)) {
            let vocabulary: Vec<String> = ["▁a", "b", "▁", "▁▁c", "é"].map(String::from).into_iter()
                .chain((0..=255).map(|b: u8| format!("<0x{b:02X}>"))).collect();
            let names: Vec<&str> = vocabulary.iter().map(String::as_str).collect();
            let text = sentence_piece(&names);
            let ids: Vec<u32> = picks.iter().flat_map(|pick| match pick {
                5 => "€".bytes().map(|b| 5 + u32::from(b)).collect(),
                word => vec![*word as u32],
            }).collect();
            let (pieces, rest) = stream(&text, ids.iter().copied());
            prop_assert_eq!(pieces.concat() + &rest, text.decode(&ids), "{}", json!(ids));
        }
    }
}
