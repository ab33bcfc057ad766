//! The tokens of a long text, as a model is measured and trained on them: in windows, each of which begins as texts do.

/// The tokens of a text, and those that the tokenizer puts before every text, as a BOS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTokens {
    before: Vec<u32>,
    ids: Vec<u32>,
}

impl TextTokens {
    /// Of a text that is encoded with what its tokenizer adds to it, and without.
    pub(super) fn new(with_added: &[u32], without: Vec<u32>) -> TextTokens {
        let before = (0..with_added.len()).find(|before| with_added[*before..].starts_with(&without));
        TextTokens { before: with_added[..before.unwrap_or(0)].to_vec(), ids: without }
    }

    /// Those before every text.
    pub fn before(&self) -> &[u32] {
        &self.before
    }

    /// The text's own.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Windows of so many tokens one after the other, of which the last may be shorter. Each is a part of the text
    /// behind the tokens that come before every text: some models compute nothing sensible without them. Where a window
    /// has no room for these and one more, they are left out.
    pub fn in_windows(&self, window: usize) -> Vec<u32> {
        let before = if self.before.len() < window { &self.before[..] } else { &[] };
        let parts = self.ids.chunks((window - before.len()).max(1));
        parts.flat_map(|part| before.iter().chain(part)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_begins_as_a_text_does() {
        let text = TextTokens::new(&[1, 5, 6, 7, 8, 9, 2], vec![5, 6, 7, 8, 9]);
        assert_eq!((text.before(), text.ids()), (&[1][..], &[5, 6, 7, 8, 9][..]));
        assert_eq!(text.in_windows(3), [1, 5, 6, 1, 7, 8, 1, 9]);
        assert_eq!(text.in_windows(64), [1, 5, 6, 7, 8, 9]);
        assert_eq!(text.in_windows(1), [5, 6, 7, 8, 9]);
        let plain = TextTokens::new(&[5, 6, 7], vec![5, 6, 7]);
        assert_eq!((plain.before(), plain.in_windows(2)), (&[][..], vec![5, 6, 7]));
    }
}
