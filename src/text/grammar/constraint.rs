//! Answers that follow a grammar, token by token.

use llguidance::Matcher;

use super::vocabulary::in_words;
use crate::constraint::{TokenConstraint, TokenMask};
use crate::error::{Error, Result};

/// Makes answers follow a [`Grammar`](super::Grammar): an answer is always the beginning of a text that the grammar
/// describes, and ends where such a text is complete.
pub struct GrammarConstraint {
    /// What errors call the grammar.
    name: &'static str,
    /// The grammar at its beginning.
    start: Matcher,
    /// The grammar after what was accepted.
    now: Matcher,
    vocab: u32,
    /// The tokens that end a turn.
    ends: Vec<u32>,
}

impl std::fmt::Debug for GrammarConstraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarConstraint").field("is_complete", &self.is_complete()).finish_non_exhaustive()
    }
}

impl GrammarConstraint {
    pub(super) fn new(name: &'static str, start: Matcher, vocab: u32, ends: &[u32]) -> GrammarConstraint {
        GrammarConstraint { name, now: start.clone(), start, vocab, ends: ends.to_vec() }
    }

    fn fault(&self, fault: String) -> Error {
        Error::grammar(self.name, "", fault)
    }
}

impl TokenConstraint for GrammarConstraint {
    fn begin(&mut self) -> Result<()> {
        self.now = self.start.clone();
        Ok(())
    }

    fn fill(&mut self, mask: &mut TokenMask) -> Result<()> {
        let allowed = in_words(self.now.compute_mask_or_eos()).map_err(|fault| self.fault(fault))?;
        mask.allow_words(allowed.as_slice());
        // The token after the model's own stands for the end of the answer.
        if allowed.is_allowed(self.vocab) {
            self.ends.iter().for_each(|id| mask.allow(*id));
        }
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<()> {
        in_words(self.now.consume_token(id)).map_err(|fault| self.fault(fault))
    }

    fn take_forced(&mut self, most: usize) -> Vec<u32> {
        if most == 0 {
            return Vec::new();
        }
        let mut forced = self.now.compute_ff_tokens();
        // The token that stands for the end of the answer is none of the model's.
        let known = forced.iter().position(|id| *id >= self.vocab || self.ends.contains(id)).unwrap_or(forced.len());
        forced.truncate(known.min(most));
        match self.now.consume_tokens(&forced) {
            Ok(()) => forced,
            Err(_) => Vec::new(),
        }
    }

    fn is_complete(&self) -> bool {
        self.now.is_stopped()
    }
}
