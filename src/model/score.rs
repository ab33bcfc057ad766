//! How likely a model finds a text, token by token.

use super::{Kind, Model, TokenDepths, limits};
use crate::error::Result;
use crate::kernels::sample::token_nll;

/// What [`Model::token_nll`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Negative log-likelihood, in nats, of each token but the first.
    pub nll: Vec<f32>,
    /// Whether no token of the vocabulary was likelier than each of these.
    pub top: Vec<bool>,
    /// What was read for each token run, which is each but the last.
    pub depths: TokenDepths,
}

impl Model {
    /// Runs tokens from position 0 on and scores each token but the first, given those before it.
    ///
    /// Fails and panics as [`Model::next_logits`] does, fails where a logit is no finite number, and panics with a
    /// single token, which has nothing to score.
    pub fn token_nll(&mut self, ids: &[u32]) -> Result<Scores> {
        self.check(ids, 0)?;
        assert!(ids.len() > 1, "a score has a token before it");
        limits::check_scores(&self.shape, self.device(), self.engine.traits())?;
        let (mut nll, mut top) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        let mut depths = Vec::new();
        let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let step = self.step_tokens as usize;
        let steps = inputs.chunks(step).zip(targets.chunks(step));
        for (at, (ids, targets)) in steps.enumerate() {
            let position = (at * step) as u32;
            self.inputs.write_tokens(self.engine.as_mut(), ids, position);
            self.inputs.write_targets(self.engine.as_mut(), targets);
            let (scores, read) = self.run(Kind::Score, ids.len() as u32, position)?;
            for score in scores.unwrap_or_default().chunks_exact(token_nll::WIDTH as usize) {
                if score[1] == token_nll::NO_NUMBERS || !score[0].is_finite() {
                    return Err(self.no_numbers(nll.len() + 1));
                }
                nll.push(score[0]);
                top.push(score[1] == token_nll::LIKELIEST);
            }
            depths.push(read);
        }
        Ok(Scores { nll, top, depths: TokenDepths::concat(&depths) })
    }
}
