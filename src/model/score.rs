//! How likely a model finds a text, token by token.

use super::executor::StepKind;
use super::forward::logit_tokens;
use super::step::Phase;
use super::{Sequence, TokenDepths, limits};
use crate::error::{Error, Result};
use crate::kernels::sample::token_nll;

/// What [`Sequence::token_nll`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Negative log-likelihood, in nats, of each token that was scored.
    pub nll: Vec<f32>,
    /// Whether no token of the vocabulary was likelier than each of these.
    pub top: Vec<bool>,
    /// What was read for each of the tokens that run.
    pub depths: TokenDepths,
}

/// What [`Sequence::answer_nll`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerScores {
    /// What was read for each token of the prompt.
    pub prompt_depths: TokenDepths,
    /// The scores of the answer's tokens, and what was read for each of them that was run.
    pub answer: Scores,
}

impl Sequence {
    /// Scores each token but the first, given those before it, all of them read as the plan says. Other tokens of the
    /// sequence are forgotten first; then it has run all of these but the last.
    ///
    /// Fails where there are fewer than two tokens, as [`Sequence::fill`] does, and where a logit is no finite number;
    /// the sequence is empty then.
    pub fn token_nll(&mut self, ids: &[u32]) -> Result<Scores> {
        self.truncate(0);
        if ids.len() < 2 {
            return Err(Error::argument("tokens", "two or more, of which the second is scored", ids.len()));
        }
        self.check_scored(ids)?;
        let scores = self.score(ids, 0, Phase::Answer)?;
        self.advance(&ids[..ids.len() - 1]);
        Ok(scores)
    }

    /// Hands the logits after each of the tokens, [n, V], to `on_logits`, with the number of the first one. They come
    /// in parts, as many at a time as fit in 128 MiB, or one. Other tokens of the sequence are forgotten first; then it
    /// has run these, all of them read as the plan says. What was read for each is returned.
    ///
    /// Fails as [`Sequence::fill`] does, as `on_logits` does, and where the largest logit is no finite number; the
    /// sequence is empty then.
    pub fn all_logits(
        &mut self,
        ids: &[u32],
        on_logits: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<TokenDepths> {
        self.truncate(0);
        self.check_scored(ids)?;
        let (shape, traits) = (self.model().shape().clone(), self.model().traits());
        let step = logit_tokens(&shape, traits, self.model().step_tokens()) as usize;
        let (mut depths, mut first) = (Vec::new(), 0);
        for part in ids.chunks(step) {
            let rows = self.rows(part, first, Phase::Answer);
            let (logits, read) = self.model().executor().run(StepKind::AllLogits, rows, self.cancel_token())?;
            let logits = logits.unwrap_or_default();
            if let Some(at) = logits.chunks_exact(shape.vocab as usize).position(|row| !has_largest(row)) {
                return Err(self.model().no_numbers(first + at + 1));
            }
            on_logits(first, &logits)?;
            depths.push(read);
            first += part.len();
        }
        self.advance(ids);
        Ok(TokenDepths::concat(&depths))
    }

    /// Scores the tokens from number `prompt` on as an answer to those before, which are read as
    /// [`Sequence::prompt_bits`] says. As in an answer, the prompt's last token yields what the first score is of. Else
    /// as [`Sequence::token_nll`].
    ///
    /// Fails as that does, and where `prompt` does not leave two tokens or more or is 0.
    pub fn answer_nll(&mut self, ids: &[u32], prompt: usize) -> Result<AnswerScores> {
        self.truncate(0);
        let most = ids.len().saturating_sub(2);
        if !(1..=most).contains(&prompt) {
            return Err(Error::argument("tokens of the prompt", format!("1 to {most}"), prompt));
        }
        self.check_scored(ids)?;
        let Scores { nll, top, depths } = self.score(&ids[..=prompt], 0, Phase::Prompt)?;
        let mut answer = self.score(&ids[prompt..], prompt, Phase::Answer)?;
        answer.nll.insert(0, nll[prompt - 1]);
        answer.top.insert(0, top[prompt - 1]);
        self.advance(&ids[..ids.len() - 1]);
        Ok(AnswerScores { prompt_depths: depths, answer })
    }

    /// Fails where these tokens cannot be scored in an empty sequence.
    fn check_scored(&self, ids: &[u32]) -> Result<()> {
        self.check(ids)?;
        limits::check_scores(self.model().shape(), self.model().device(), self.model().traits())
    }

    /// Scores tokens from the one behind `position` on, which do not count as run yet.
    fn score(&mut self, ids: &[u32], position: usize, phase: Phase) -> Result<Scores> {
        let (mut nll, mut top) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        let mut depths = Vec::new();
        let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let step = self.model().step_tokens() as usize;
        for (ids, targets) in inputs.chunks(step).zip(targets.chunks(step)) {
            let rows = self.rows(ids, position + nll.len(), phase);
            let (scores, read) = self.model().executor().score(rows, targets, self.cancel_token())?;
            for score in scores.unwrap_or_default().chunks_exact(token_nll::WIDTH as usize) {
                if score[1] == token_nll::NO_NUMBERS || !score[0].is_finite() {
                    return Err(self.model().no_numbers(position + nll.len() + 1));
                }
                nll.push(score[0]);
                top.push(score[1] == token_nll::LIKELIEST);
            }
            depths.push(read);
        }
        Ok(Scores { nll, top, depths: TokenDepths::concat(&depths) })
    }
}

/// Whether the logits are numbers, the largest of which is finite.
fn has_largest(logits: &[f32]) -> bool {
    let (mut largest, mut numbers) = (f32::NEG_INFINITY, true);
    for logit in logits {
        largest = largest.max(*logit);
        numbers &= !logit.is_nan();
    }
    numbers && largest.is_finite()
}
