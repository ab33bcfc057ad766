//! How a sequence's next token is chosen: in the run that computes the logits, or in one of its own after it.
//!
//! A bias, a mask, and logits that are read back take two runs. The second one only changes the logits and samples, so
//! that the host may make the mask while the first one computes.

use std::sync::Arc;

use super::executor::TokenRows;
use super::kept_logits::KeptChoice;
use super::step::{PendingLogits, PendingStep, SampledToken};
use super::{Sequence, TokenDepths};
use crate::constraint::TokenMask;
use crate::error::{Error, Result};
use crate::kernels::sample::token::Sampled;
use crate::sampling::LogitBias;
use crate::text::DrawPosition;

/// What is asked of the choice beside the sampler's settings.
#[derive(Debug, Clone, Default)]
pub(super) struct Choosing {
    bias: Option<Arc<LogitBias>>,
    reads_logits: bool,
}

impl Sequence {
    /// Sets what is added to the logits of tokens from the next step on. Fails where a token is not in the vocabulary.
    pub fn set_logit_bias(&mut self, bias: LogitBias) -> Result<()> {
        let vocab = self.model.shape().vocab;
        if let Some(id) = bias.ids().find(|id| *id >= vocab) {
            return Err(Error::argument(format!("logit bias `{id}`"), format!("a token id below {vocab}"), id));
        }
        self.choosing.bias = (!bias.is_empty()).then(|| Arc::new(bias));
        Ok(())
    }

    /// Whether a bias forbids any token.
    pub fn forbids_tokens(&self) -> bool {
        self.choosing.bias.as_ref().is_some_and(|bias| bias.forbidden().next().is_some())
    }

    /// Whether the logits that each token is chosen from are read back, from the next step on; at first they are not.
    pub fn read_logits(&mut self, reads: bool) {
        self.choosing.reads_logits = reads;
    }

    /// Begins to run tokens after those that have run, up to the logits of the token that follows, which
    /// [`Sequence::sample`] chooses. Fails as [`Sequence::fill`] does.
    pub fn begin_logits(&mut self, ids: &[u32]) -> Result<PendingLogits> {
        let (depths, rows) = self.run_but_last_step(ids)?;
        self.submit_logits(rows, ids.to_vec(), depths, self.tokens().len() + ids.len())
    }

    /// Begins to run the token that `step` samples, which need not be over, up to the logits of the one that follows.
    /// `step` is to be finished first. Fails as [`Sequence::begin_after`] does.
    pub fn begin_logits_after(&mut self, step: &PendingStep) -> Result<PendingLogits> {
        let rows = self.rows_after(step)?;
        self.submit_logits(rows, Vec::new(), Vec::new(), step.end + 1)
    }

    /// Begins the choice of the token that follows, of those that `mask` allows, or of all where there is none. The
    /// logits must be this sequence's last ones. The tokens count as run once [`Sequence::finish`] returns.
    ///
    /// Fails where the mask is of another vocabulary, where it allows no token, and where the device fails; the random
    /// number is then not taken.
    pub fn sample(&mut self, logits: PendingLogits, mask: Option<&TokenMask>) -> Result<PendingStep> {
        let PendingLogits { ticket, row, ids, last, end, depths } = logits;
        assert_eq!(row.slot, self.slot, "a token is chosen by the sequence that began its step");
        let vocab = self.model.shape().vocab;
        if let Some(mask) = mask.filter(|mask| mask.vocab() != vocab) {
            return Err(Error::argument("mask", format!("a bit for each of {vocab} tokens"), mask.vocab()));
        }
        let mut allowed = mask.cloned().unwrap_or_else(|| TokenMask::all(vocab));
        if allowed.is_empty() {
            return Err(Error::argument("mask", "a token that may come next", "none"));
        }
        if let Some(bias) = &self.choosing.bias {
            bias.forbidden().for_each(|id| allowed.forbid(id));
        }
        if allowed.is_empty() {
            let expected = "a token that may come next and that it does not forbid";
            return Err(Error::argument("logit bias", expected, "none"));
        }
        let rng_before = self.sampler.position();
        let choice = self.sampler.choice();
        let chosen = KeptChoice { row, choice, allowed: &allowed, bias: self.choosing.bias.as_ref() };
        let begun = self.model.executor().sample_kept(&chosen, &self.cancel);
        let rng_after = self.sampler.position();
        match begun {
            Ok(choice) => {
                let (slot, logits) = (self.slot, Some(ticket));
                Ok(PendingStep { ticket: choice, logits, slot, ids, last, end, depths, rng_before, rng_after })
            }
            Err(error) => {
                self.sampler.rewind(rng_before);
                Err(error)
            }
        }
    }

    /// Begins a step that samples, in one run or in two.
    pub(super) fn submit(
        &mut self,
        tokens: TokenRows,
        ids: Vec<u32>,
        depths: Vec<TokenDepths>,
        end: usize,
    ) -> Result<PendingStep> {
        if !self.chooses_at_once() {
            let logits = self.submit_logits(tokens, ids, depths, end)?;
            return self.sample(logits, None);
        }
        let rng_before = self.sampler.position();
        let choice = self.sampler.choice();
        let (last, slot, rng_after) = (tokens.rows.len() as u32, self.slot, self.sampler.position());
        match self.model.executor().sample(tokens, &choice, &self.cancel) {
            Ok(ticket) => Ok(PendingStep { ticket, logits: None, slot, ids, last, end, depths, rng_before, rng_after }),
            Err(error) => {
                self.sampler.rewind(rng_before);
                Err(error)
            }
        }
    }

    fn submit_logits(
        &mut self,
        tokens: TokenRows,
        ids: Vec<u32>,
        depths: Vec<TokenDepths>,
        end: usize,
    ) -> Result<PendingLogits> {
        let last = tokens.rows.len() as u32;
        let row = tokens.rows[tokens.rows.len() - 1];
        let ticket = self.model.executor().keep_logits(tokens, self.choosing.reads_logits, &self.cancel)?;
        Ok(PendingLogits { ticket, row, ids, last, end, depths })
    }

    /// Waits for a step, whose tokens then have run.
    pub(super) fn wait(&mut self, step: PendingStep) -> Result<SampledToken> {
        let PendingStep { ticket, logits, slot, ids, last, end, mut depths, rng_after, .. } = step;
        assert_eq!(slot, self.slot, "a step is finished by the sequence that began it");
        let mut executor = self.model.executor();
        let (sampled, logits, read) = match logits {
            None => {
                let (sampled, read) = executor.finish(last, ticket, &self.cancel)?;
                (sampled.expect("the step reads back what it sampled"), None, read)
            }
            Some(before) => {
                let (logits, read) = executor.finish(last, before, &self.cancel)?;
                (executor.finish_choice(ticket, &self.cancel)?, logits, read)
            }
        };
        drop(executor);
        depths.push(read);
        let id = self.accept(&sampled, &ids, end, rng_after)?;
        let logits = logits.map(|bytes| bytemuck::pod_collect_to_vec(&bytes));
        Ok(SampledToken { id, logits, depths: TokenDepths::concat(&depths) })
    }

    /// Takes what a step sampled after `ids`, or after the token sampled before, of what it read back of all sequences.
    /// Fails where no logit was a finite number.
    pub(super) fn accept(&mut self, sampled: &[u8], ids: &[u32], end: usize, rng_after: DrawPosition) -> Result<u32> {
        let sampled: Vec<Sampled> = bytemuck::pod_collect_to_vec(sampled);
        let sampled = sampled[self.slot as usize];
        if !sampled.is_sound() {
            return Err(self.model.no_numbers(end));
        }
        let before: Vec<u32> = self.sampled.into_iter().collect();
        self.advance(if ids.is_empty() { &before } else { ids });
        assert_eq!(self.tokens().len(), end, "steps are finished in the order in which they were begun");
        (self.sampled, self.rng_after) = (Some(sampled.id), rng_after);
        Ok(sampled.id)
    }

    /// Whether the next token is chosen in the run that computes the logits, whatever the mask.
    pub(crate) fn chooses_at_once(&self) -> bool {
        self.choosing.bias.is_none() && !self.choosing.reads_logits
    }
}
