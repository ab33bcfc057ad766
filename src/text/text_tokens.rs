//! The tokens of a long text, as a model is measured and trained on them.

use crate::error::{Error, Result};

/// The tokens of a text, to be cut into windows that begin as texts do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTokens {
    before: Vec<u32>,
    ids: Vec<u32>,
}

impl TextTokens {
    /// Of all tokens of a text, and which of them its tokenizer adds to every text: those have a 1 in `added`. What the
    /// text spells out itself of those before it counts once.
    pub(super) fn new(all: &[u32], added: &[u32]) -> TextTokens {
        let own = |(id, added): (&u32, &u32)| (*added == 0).then_some(*id);
        let before = &all[..added.iter().take_while(|added| **added == 1).count()];
        let mut ids: Vec<u32> = all.iter().zip(added).filter_map(own).collect();
        if ids.starts_with(before) {
            ids.drain(..before.len());
        }
        TextTokens { before: before.to_vec(), ids }
    }

    /// What the tokenizer puts before every text, such as a BOS.
    pub fn before(&self) -> &[u32] {
        &self.before
    }

    /// The text's own tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The same of the text's first tokens, `most` at most.
    pub fn first(mut self, most: usize) -> TextTokens {
        self.ids.truncate(most);
        self
    }

    /// Windows of `window` tokens, of which the last may be shorter. Each is a part of the text behind the tokens that
    /// come before every text, because some models compute nothing sensible without them. Fails where a window has no
    /// room for these and one more.
    pub fn windows(&self, window: usize) -> Result<impl Iterator<Item = Vec<u32>>> {
        let room = window.saturating_sub(self.before.len());
        if room == 0 {
            let before = self.before.len();
            let expected = format!("more tokens than the {before} that this tokenizer puts before every text");
            return Err(Error::argument("window", expected, window));
        }
        Ok(self.ids.chunks(room).map(|part| [&self.before, part].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(text: &TextTokens, window: usize) -> Vec<Vec<u32>> {
        text.windows(window).unwrap().collect()
    }

    #[test]
    fn each_window_begins_as_a_text_does() {
        let text = TextTokens::new(&[1, 5, 6, 7, 8, 9, 2], &[1, 0, 0, 0, 0, 0, 1]);
        assert_eq!((text.before(), text.ids()), (&[1][..], &[5, 6, 7, 8, 9][..]));
        assert_eq!(windows(&text, 3), [vec![1, 5, 6], vec![1, 7, 8], vec![1, 9]]);
        assert_eq!(windows(&text, 64), [vec![1, 5, 6, 7, 8, 9]]);
        assert_eq!(windows(&TextTokens::new(&[1, 1, 5, 6], &[1, 0, 0, 0]), 8), [vec![1, 5, 6]]);
        let plain = TextTokens::new(&[5, 6, 7], &[0; 3]);
        assert_eq!((plain.before(), windows(&plain, 2)), (&[][..], vec![vec![5, 6], vec![7]]));
    }

    #[test]
    fn a_window_without_room_for_a_token_is_refused() {
        let text = TextTokens::new(&[1, 4, 5], &[1, 1, 0]);
        assert_eq!(windows(&text, 3), [vec![1, 4, 5]]);
        for window in [0, 2] {
            let message = text.windows(window).err().unwrap().to_string();
            assert!(message.contains("than the 2 that"), "{message}");
        }
    }
}
