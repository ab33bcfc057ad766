//! How likely a model finds a text, token by token.

use super::{Sequence, TokenDepths, limits};
use crate::error::{Error, Result};
use crate::kernels::sample::token_nll;

/// What [`Sequence::token_nll`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Negative log-likelihood, in nats, of each token but the first.
    pub nll: Vec<f32>,
    /// Whether no token of the vocabulary was likelier than each of these.
    pub top: Vec<bool>,
    /// What was read for each token run, which is each but the last.
    pub depths: TokenDepths,
}

impl Sequence {
    /// Scores each token but the first, given those before it. Other tokens of the sequence are forgotten first; then
    /// it has run all of these but the last.
    ///
    /// Fails where there are fewer than two tokens, as [`Sequence::fill`] does, and where a logit is no finite number;
    /// the sequence is empty then.
    pub fn token_nll(&mut self, ids: &[u32]) -> Result<Scores> {
        self.truncate(0);
        if ids.len() < 2 {
            return Err(Error::argument("tokens", "two or more, of which the second is scored", ids.len()));
        }
        self.check(ids)?;
        limits::check_scores(self.model().shape(), self.model().device(), self.model().traits())?;
        let scores = self.score(ids)?;
        self.advance(&ids[..ids.len() - 1]);
        Ok(scores)
    }

    /// Scores tokens from position 0 on, which do not count as run yet.
    fn score(&mut self, ids: &[u32]) -> Result<Scores> {
        let (mut nll, mut top) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        let mut depths = Vec::new();
        let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let step = self.model().step_tokens() as usize;
        for (ids, targets) in inputs.chunks(step).zip(targets.chunks(step)) {
            let rows = self.rows(ids, nll.len());
            let (scores, read) = self.model().executor().score(rows, targets, self.cancel_token())?;
            for score in scores.unwrap_or_default().chunks_exact(token_nll::WIDTH as usize) {
                if score[1] == token_nll::NO_NUMBERS || !score[0].is_finite() {
                    return Err(self.model().no_numbers(nll.len() + 1));
                }
                nll.push(score[0]);
                top.push(score[1] == token_nll::LIKELIEST);
            }
            depths.push(read);
        }
        Ok(Scores { nll, top, depths: TokenDepths::concat(&depths) })
    }
}
