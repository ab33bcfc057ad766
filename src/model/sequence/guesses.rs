//! Tokens that are guessed: they run together with those before them, and as many stand as would have been chosen.

use super::{AsideTokens, Sequence};
use crate::error::Result;
use crate::model::executor::StepKind;
use crate::model::step::Phase;
use crate::model::{SampledToken, TokenDepths};
use crate::text::DrawPosition;

/// A token that was chosen where another one had been guessed, or after the last guess.
pub(crate) struct CheckedToken {
    /// The token, with what was read for the one before it.
    pub sampled: SampledToken,
    /// Where the random numbers were before the choice.
    pub drawn: DrawPosition,
}

impl Sequence {
    /// Runs tokens after those that have run, and behind them guesses of what follows; the guesses must leave room in
    /// the context. Each token that follows is chosen from its logits as [`Sequence::begin`] would choose it, with a
    /// random number of its own, up to the first one that was guessed otherwise, and that one or the one after the last
    /// guess as well. So what is chosen does not depend on the guesses. All but the last token chosen have run then.
    ///
    /// Also returns what was read for all tokens that ran. Fails as [`Sequence::finish`] does; the sequence is then as
    /// it was.
    pub(crate) fn check_guesses(&mut self, ids: &[u32], guesses: &[u32]) -> Result<(Vec<CheckedToken>, TokenDepths)> {
        let all = [ids, guesses].concat();
        let rows = {
            self.check(&all)?;
            self.restore_window()?;
            self.rows(&all, self.tokens.len(), Phase::Answer)
        };
        let (logits, depths) = self.model.executor().run(StepKind::AllLogits, rows, &self.cancel)?;
        let (logits, vocab) = (logits.unwrap_or_default(), self.model.shape().vocab as usize);
        let before = (self.tokens.len(), self.sampler.position());
        self.tokens.extend(ids);
        let mut checked = Vec::new();
        for (at, logits) in logits.chunks_exact(vocab).skip(ids.len() - 1).enumerate() {
            let drawn = self.sampler.position();
            if !logits.iter().any(|logit| logit.is_finite()) {
                let error = self.model.no_numbers(self.tokens.len());
                self.tokens.truncate(before.0);
                self.sampler.rewind(before.1);
                return Err(error);
            }
            let id = self.sampler.sample(logits, &self.tokens);
            let depths = depths.of_token(ids.len() - 1 + at);
            checked.push(CheckedToken { sampled: SampledToken { id, logits: None, depths }, drawn });
            if guesses.get(at) != Some(&id) {
                break;
            }
            self.tokens.push(id);
        }
        self.sampled = checked.last().map(|last| last.sampled.id);
        self.rng_after = self.sampler.position();
        Ok((checked, depths))
    }

    /// Takes the last `count` tokens that [`Sequence::check_guesses`] chose out of sight, as if `last` had been sampled
    /// before them and nothing after it, until [`Sequence::put_back`].
    pub(crate) fn set_checked_aside(&mut self, count: usize, last: u32, drawn: DrawPosition) -> AsideTokens {
        let aside = self.set_aside(self.tokens.len() - count, drawn);
        self.sampled = Some(last);
        aside
    }

    /// Takes back the last `count` tokens that [`Sequence::check_guesses`] chose, as if `last` had been sampled before
    /// them and nothing after it. The random numbers are again where they were before them.
    pub(crate) fn take_back_checked(&mut self, count: usize, last: u32, drawn: DrawPosition) {
        self.take_back(self.tokens.len() - count, drawn);
        self.sampled = Some(last);
    }
}
