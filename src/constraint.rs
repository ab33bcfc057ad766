//! Which tokens an answer may go on with: the mask of a choice, and the interface of what makes one.

use crate::error::Result;

/// A bit for each of the V tokens of a vocabulary: whether the token may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    vocab: u32,
}

impl TokenMask {
    /// A mask that allows no token of V = `vocab`.
    pub fn none(vocab: u32) -> TokenMask {
        TokenMask { words: vec![0; TokenMask::words_of(vocab)], vocab }
    }

    /// A mask that allows every token of V = `vocab`.
    pub fn all(vocab: u32) -> TokenMask {
        let mut mask = TokenMask { words: vec![u32::MAX; TokenMask::words_of(vocab)], vocab };
        mask.clear_unused_bits();
        mask
    }

    /// Words of 32 bits that a mask of V = `vocab` has.
    pub fn words_of(vocab: u32) -> usize {
        vocab.div_ceil(32) as usize
    }

    /// V
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Allows a token. A token that is not in the vocabulary is let pass.
    pub fn allow(&mut self, id: u32) {
        if id < self.vocab {
            self.words[(id / 32) as usize] |= 1 << (id % 32);
        }
    }

    /// Forbids a token. A token that is not in the vocabulary is let pass.
    pub fn forbid(&mut self, id: u32) {
        if id < self.vocab {
            self.words[(id / 32) as usize] &= !(1 << (id % 32));
        }
    }

    /// Whether a token may be chosen; never one that is not in the vocabulary.
    pub fn allows(&self, id: u32) -> bool {
        id < self.vocab && self.words[(id / 32) as usize] >> (id % 32) & 1 == 1
    }

    /// Forbids every token.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Whether no token may be chosen.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The bits, [ceil(V / 32)]: that of a token is bit `id % 32` of word `id / 32`.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Allows the tokens whose bits are set in `words`, laid out as [`TokenMask::words`]; words that are missing count
    /// as zero, and bits beyond the vocabulary are let pass.
    pub fn allow_words(&mut self, words: &[u32]) {
        self.words.iter_mut().zip(words).for_each(|(word, more)| *word |= more);
        self.clear_unused_bits();
    }

    fn clear_unused_bits(&mut self) {
        let used = self.vocab % 32;
        if let (1.., Some(last)) = (used, self.words.last_mut()) {
            *last &= (1 << used) - 1;
        }
    }
}

/// What decides, before each token of an answer, which tokens may be chosen: a grammar, or an application's own rule.
///
/// ```
/// use edge_run::{Result, TokenConstraint, TokenMask};
///
/// /// An answer of three tokens, each of them one of two.
/// struct ThreeOfTwo {
///     choices: [u32; 2],
///     accepted: usize,
/// }
///
/// impl TokenConstraint for ThreeOfTwo {
///     fn begin(&mut self) -> Result<()> {
///         self.accepted = 0;
///         Ok(())
///     }
///
///     fn fill(&mut self, mask: &mut TokenMask) -> Result<()> {
///         self.choices.iter().for_each(|id| mask.allow(*id));
///         Ok(())
///     }
///
///     fn accept(&mut self, _: u32) -> Result<()> {
///         self.accepted += 1;
///         Ok(())
///     }
///
///     fn is_complete(&self) -> bool {
///         self.accepted == 3
///     }
/// }
///
/// let mut constraint = ThreeOfTwo { choices: [4, 7], accepted: 0 };
/// let mut mask = TokenMask::none(10);
/// constraint.fill(&mut mask).unwrap();
/// assert!(mask.allows(7) && !mask.allows(5));
/// ```
pub trait TokenConstraint: Send {
    /// Begins a new answer. Where this fails, so does the answer.
    fn begin(&mut self) -> Result<()>;

    /// Allows in `mask`, which allows nothing at first, the tokens that may come next, those that end the turn among
    /// them. This runs while the device computes the logits that the token is chosen from; it is called again for the
    /// same token where a step failed. Where this fails, or allows no token, so does the answer.
    fn fill(&mut self, mask: &mut TokenMask) -> Result<()>;

    /// Takes the token that was chosen; one that ends the turn is not told.
    fn accept(&mut self, id: u32) -> Result<()>;

    /// Takes the tokens that must come next as nothing else can, at most `most` of them, as if each had been chosen;
    /// none where that is not known. They run together, as a prompt does, which is faster than to choose one after the
    /// other. What fails here is told when a mask is asked for. Under a bias that forbids tokens this is not called.
    fn take_forced(&mut self, most: usize) -> Vec<u32> {
        let _ = most;
        Vec::new()
    }

    /// Whether the answer is complete, so that nothing can follow what was accepted: it then ends.
    fn is_complete(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_hold_their_vocabulary_and_no_more() {
        for vocab in [1, 31, 32, 33, 263] {
            let mut mask = TokenMask::all(vocab);
            assert!((0..vocab).all(|id| mask.allows(id)) && !mask.allows(vocab));
            let bits: u32 = mask.words().iter().map(|word| word.count_ones()).sum();
            assert_eq!(bits, vocab);
            mask.forbid(vocab - 1);
            assert!(!mask.allows(vocab - 1));
            mask.clear();
            assert!(mask.is_empty());
            mask.allow(vocab);
            assert!(mask.is_empty());
            mask.allow_words(&[u32::MAX; 20]);
            assert_eq!(mask, TokenMask::all(vocab));
        }
    }
}
