//! A sequence of tokens on a model: its part of the cache, its plan, and the draws of its tokens.

mod guesses;
mod kept_cells;
mod untold;

use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom;

use super::choosing::Choosing;
use super::executor::{StepKind, TokenRows};
use super::ring::RingHistory;
use super::step::{NextLogits, PendingStep, Phase, SampledToken};
use super::{Model, TokenDepths};
use crate::cancel::CancelToken;
use crate::engine::KernelTime;
use crate::error::{Error, Result};
use crate::kernels::step_rows::StepRow;
use crate::precision::{Precision, PrecisionPlan, PromptBits};
use crate::sampling::SamplerSettings;
use crate::text::{DrawPosition, Sampler, same_numbers};

pub(crate) use guesses::CheckedToken;
pub(crate) use untold::AsideTokens;

/// A sequence of tokens on a [`Model`]: its cells of the cache, its precision plan, and the random numbers that its
/// tokens are drawn with.
///
/// Any number of sequences, up to [`Model::sequences`], are open on one model at one time, on any threads. What one of
/// them does changes nothing that another one computes from the same slices. Dropping a sequence frees its cells.
pub struct Sequence {
    pub(super) model: Model,
    pub(super) slot: u32,
    /// The tokens that have run.
    tokens: Vec<u32>,
    /// The token that the last step sampled, where it has not run yet.
    pub(super) sampled: Option<u32>,
    plan: PrecisionPlan,
    prompt_bits: PromptBits,
    pub(super) sampler: Sampler,
    /// Where the random numbers are after the steps that are finished.
    pub(super) rng_after: DrawPosition,
    /// Where gates are shuffled.
    shuffle: Option<ChaCha12Rng>,
    /// What the layers with a window have of it.
    ring_history: RingHistory,
    pub(super) cancel: CancelToken,
    /// What is asked of the choice beside the sampler's settings.
    pub(super) choosing: Choosing,
}

impl Sequence {
    pub(super) fn open(model: &Model, plan: &PrecisionPlan) -> Result<Sequence> {
        let sampler = Sampler::new(SamplerSettings::default())?;
        let slot = model.executor().open(plan)?;
        let (model, cancel) = (model.clone(), model.cancel_token().child());
        let (tokens, plan, prompt_bits) = (Vec::new(), plan.clone(), PromptBits::Plan);
        let (rng_after, shuffle, sampled) = (DrawPosition::default(), None, None);
        let ring_history = RingHistory::new(model.ring());
        Ok(Sequence {
            model,
            slot,
            tokens,
            sampled,
            plan,
            prompt_bits,
            sampler,
            rng_after,
            shuffle,
            ring_history,
            cancel,
            choosing: Choosing::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokens that have run.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The token that was sampled last, where it has not run yet.
    pub fn sampled(&self) -> Option<u32> {
        self.sampled
    }

    /// What is read of the weights.
    pub fn plan(&self) -> &PrecisionPlan {
        &self.plan
    }

    /// Sets what is read of the weights from the next step on; the cache stays as it is.
    ///
    /// Fails where the plan is routed and the model has no routers; the plan before then stands.
    pub fn set_plan(&mut self, plan: &PrecisionPlan) -> Result<()> {
        self.model.executor().set_plan(self.slot, plan)?;
        self.plan = plan.clone();
        Ok(())
    }

    /// Sets what is read for the tokens of a prompt from the next step on, whatever the plan then is; at first what the
    /// plan says. A prompt is all tokens that run but for the one that the sequence itself sampled last.
    pub fn set_prompt_bits(&mut self, bits: PromptBits) {
        self.prompt_bits = bits;
    }

    /// What is read for the tokens of a prompt.
    pub fn prompt_bits(&self) -> PromptBits {
        self.prompt_bits
    }

    /// Sets how tokens are sampled from the next step on, with random numbers from their beginning. Fails where a
    /// setting is out of its range.
    pub fn set_sampler(&mut self, settings: SamplerSettings) -> Result<()> {
        self.sampler = Sampler::new(settings)?;
        self.rng_after = DrawPosition::default();
        Ok(())
    }

    /// The seed of the draws, to repeat them.
    pub fn seed(&self) -> u32 {
        self.sampler.seed()
    }

    /// What stops this sequence's work: another thread that holds a clone may ask for a stop at any time. Steps that
    /// are under way or begun while a stop is asked for fail with [`Error::Stopped`]; the tokens that had run stand. It
    /// is a child of [`Model::cancel_token`], which stops all sequences.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Waits for slices as [`Model::settle`] does, unless this sequence's token asks for a stop.
    pub fn settle(&self, patience: Option<std::time::Duration>) -> Result<()> {
        self.model.settle_unless(&self.cancel, patience)
    }

    /// Forgets all tokens but the first `length`, the one that was sampled last among them. Nothing happens where there
    /// are no more. Panics later where a step is under way that was begun after tokens which are forgotten.
    ///
    /// Layers with a window keep a sequence's last positions only. Where these are not enough, the tokens that are left
    /// are computed again before the next ones run, all of them as a prompt, by the plan that is set then.
    pub fn truncate(&mut self, length: usize) {
        if length <= self.tokens.len() {
            self.tokens.truncate(length);
            self.sampled = None;
            if length == 0 {
                self.ring_history.recover();
            }
        }
    }

    /// Forgets all tokens, and takes the random numbers of a seed that was given from their beginning again. Without
    /// one they go on.
    pub fn reset(&mut self) {
        self.truncate(0);
        if self.sampler.is_repeatable() {
            self.sampler.rewind(DrawPosition::default());
            self.rng_after = DrawPosition::default();
        }
    }

    /// A second sequence with the same tokens, plan and random numbers to come, whose keys and values are copied on the
    /// device. Steps that are under way are not in it. It has a cancel token of its own.
    ///
    /// Fails where no more sequences may be open, and where the device fails.
    pub fn fork(&self) -> Result<Sequence> {
        let mut fork = Sequence::open(&self.model, &self.plan)?;
        self.model.executor().copy(self.slot, fork.slot, self.tokens.len() as u32, &self.cancel)?;
        fork.tokens.clone_from(&self.tokens);
        (fork.sampled, fork.prompt_bits) = (self.sampled, self.prompt_bits);
        fork.sampler = self.sampler.clone();
        fork.sampler.rewind(self.rng_after);
        fork.rng_after = self.rng_after;
        fork.shuffle = self.shuffle.as_ref().map(same_numbers);
        fork.ring_history = self.ring_history;
        fork.choosing = self.choosing.clone();
        Ok(fork)
    }

    /// With a seed, every step gives the depths that its routers choose to its tokens in a random order: one
    /// permutation a step, the same at all sites. Without one, each token keeps its own, as at first.
    ///
    /// What a token then reads says nothing about it, at the same cost: a control for what routing is worth.
    pub fn shuffle_gates(&mut self, seed: Option<u64>) {
        self.shuffle = seed.map(ChaCha12Rng::seed_from_u64);
    }

    /// Runs tokens after those that have run, and fills the cache with them.
    ///
    /// Fails where there is none, where one is not in the vocabulary, where they leave the context, and where the
    /// device fails; the sequence is then as it was.
    pub fn fill(&mut self, ids: &[u32]) -> Result<TokenDepths> {
        self.check(ids)?;
        self.restore_window()?;
        let depths = self.run_steps(ids, self.tokens.len(), self.phase_of(ids))?;
        self.advance(ids);
        Ok(TokenDepths::concat(&depths))
    }

    /// Runs tokens after those that have run, and returns the logits of what follows. Fails as [`Sequence::fill`] does.
    pub fn next_logits(&mut self, ids: &[u32]) -> Result<NextLogits> {
        let (mut depths, rows) = self.run_but_last_step(ids)?;
        let (logits, read) = self.model.executor().run(StepKind::NextLogits, rows, &self.cancel)?;
        depths.push(read);
        self.advance(ids);
        Ok(NextLogits { logits: logits.unwrap_or_default(), depths: TokenDepths::concat(&depths) })
    }

    /// Begins to run tokens after those that have run, and to sample the token that follows. At most the last
    /// [`Model::step_tokens`] of them still run when it returns. The tokens count as run once [`Sequence::finish`]
    /// returns.
    ///
    /// Fails as [`Sequence::fill`] does; the random number is then not taken.
    pub fn begin(&mut self, ids: &[u32]) -> Result<PendingStep> {
        let (depths, rows) = self.run_but_last_step(ids)?;
        self.submit(rows, ids.to_vec(), depths, self.tokens.len() + ids.len())
    }

    /// Begins to run the token that `step` samples, which need not be over, and to sample the one that follows. `step`
    /// is to be finished first.
    ///
    /// Fails where the context is full, where hundreds of steps after `step` were begun and given up, and where the
    /// device fails.
    pub fn begin_after(&mut self, step: &PendingStep) -> Result<PendingStep> {
        let rows = self.rows_after(step)?;
        self.submit(rows, Vec::new(), Vec::new(), step.end + 1)
    }

    /// What the kernels read of the token that `step` samples.
    pub(super) fn rows_after(&mut self, step: &PendingStep) -> Result<TokenRows> {
        // Any token of the vocabulary will do for the check. A step that could not sample leaves none, which this one
        // embeds as nothing in particular; finishing the step before tells of it.
        self.check_fits(step.end, 1)?;
        self.ring_history.check_window(step.end)?;
        Ok(self.rows(&[StepRow::SAMPLED], step.end, Phase::Answer))
    }

    /// Waits for a step of this sequence, whose tokens then have run. Panics where it is another sequence's, or not the
    /// first of those under way.
    ///
    /// Fails where no logit is a finite number, where it was stopped, and where the device fails; the sequence is then
    /// as it was before the step, its random numbers included, and what was begun after it does not count.
    pub fn finish(&mut self, step: PendingStep) -> Result<SampledToken> {
        let rng_before = step.rng_before;
        let found = self.wait(step);
        if found.is_err() {
            self.sampler.rewind(rng_before);
        }
        found
    }

    /// Drops a step whose token is not wanted, and takes back its random number and those of the steps begun after it.
    pub fn discard(&mut self, step: PendingStep) {
        self.sampler.rewind(step.rng_before);
    }

    /// Runs a step as [`Sequence::next_logits`] does, or as [`Sequence::begin`] where it `samples`, and tells when each
    /// kernel ran. The tokens do not count as run.
    ///
    /// Fails as these do, and where the device cannot tell; panics where it would take several steps.
    pub fn profile(&mut self, ids: &[u32], samples: bool) -> Result<Vec<KernelTime>> {
        self.check(ids)?;
        self.restore_window()?;
        let kind = if samples { StepKind::NextToken } else { StepKind::NextLogits };
        let rows = self.rows(ids, self.tokens.len(), self.phase_of(ids));
        let choice = self.sampler.choice();
        self.model.executor().profile(kind, rows, &choice, &self.cancel)
    }

    /// Fails where the tokens cannot run after those that have.
    pub(super) fn check(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.model.shape().vocab;
        if ids.is_empty() {
            return Err(Error::argument("tokens", "at least one", 0));
        }
        if let Some(id) = ids.iter().find(|id| **id >= vocab) {
            return Err(Error::argument("token id", format!("below {vocab}"), id));
        }
        self.check_fits(self.tokens.len(), ids.len())
    }

    fn check_fits(&self, before: usize, more: usize) -> Result<()> {
        let (tokens, context) = (before + more, self.model.context() as usize);
        if tokens > context {
            return Err(Error::PromptTooLong { tokens, context, trained: self.model.shape().max_context as usize });
        }
        Ok(())
    }

    /// Runs all steps of these tokens but the last one: what they read, and the rows of the last one. The tokens do not
    /// count as run yet, so that nothing is to be undone where a step fails.
    pub(super) fn run_but_last_step(&mut self, ids: &[u32]) -> Result<(Vec<TokenDepths>, TokenRows)> {
        self.check(ids)?;
        let step = self.model.step_tokens() as usize;
        let (first, last) = ids.split_at((ids.len() - 1) / step * step);
        self.restore_window()?;
        let phase = self.phase_of(ids);
        let depths = self.run_steps(first, self.tokens.len(), phase)?;
        let rows = self.rows(last, self.tokens.len() + first.len(), phase);
        Ok((depths, rows))
    }

    /// Makes sure that the layers have what the next token looks at. Where those with a window lost a part of it, or
    /// the tokens came from elsewhere, all tokens are computed again, as keys and values depend on those of all layers
    /// before; what that reads of the weights is not told.
    pub(super) fn restore_window(&mut self) -> Result<()> {
        if self.ring_history.has_window(self.tokens.len()) {
            return Ok(());
        }
        self.ring_history.lose();
        let tokens = std::mem::take(&mut self.tokens);
        let found = self.run_steps(&tokens, 0, Phase::Prompt);
        self.tokens = tokens;
        found?;
        self.ring_history.recover();
        Ok(())
    }

    /// Runs tokens from `position` on in steps that read back no more than their depths; they do not count as run yet.
    /// Between two steps, other sequences have their turn.
    fn run_steps(&mut self, ids: &[u32], mut position: usize, phase: Phase) -> Result<Vec<TokenDepths>> {
        let step = self.model.step_tokens() as usize;
        let mut depths = Vec::new();
        for ids in ids.chunks(step) {
            let rows = self.rows(ids, position, phase);
            depths.push(self.model.executor().run(StepKind::Fill, rows, &self.cancel)?.1);
            position += ids.len();
        }
        Ok(depths)
    }

    /// Counts tokens as run.
    pub(super) fn advance(&mut self, ids: &[u32]) {
        self.tokens.extend_from_slice(ids);
        self.sampled = None;
    }

    /// Whether tokens that run next are a prompt, or an answer's.
    pub(super) fn phase_of(&self, ids: &[u32]) -> Phase {
        if self.sampled.is_some_and(|sampled| ids == [sampled]) { Phase::Answer } else { Phase::Prompt }
    }

    /// Whether routers choose what tokens read.
    pub(super) fn is_routed(&self, phase: Phase) -> bool {
        let deepest = phase == Phase::Prompt && self.prompt_bits == PromptBits::Deepest;
        !deepest && matches!(self.plan.precision, Precision::Routed(_))
    }

    /// What the kernels read of a step of these tokens, from `position` on.
    pub(super) fn rows(&mut self, ids: &[u32], position: usize, phase: Phase) -> TokenRows {
        self.ring_history.write(position, ids.len());
        let routed = self.is_routed(phase);
        let mut depth_rows: Vec<u32> = (0..ids.len() as u32).collect();
        if let (true, Some(random)) = (routed, &mut self.shuffle) {
            depth_rows.shuffle(random);
        }
        let (slot, first_cell) = (self.slot, self.slot * self.model.context());
        let row = |(at, token): (usize, &u32)| StepRow {
            token: *token,
            position: (position + at) as u32,
            first_cell,
            slot,
            depth_row: depth_rows[at],
            // What follows from the slot and its plan is filled in when the step is submitted.
            first_control: 0,
            embed_depth: 0,
        };
        TokenRows { rows: ids.iter().enumerate().map(row).collect(), routed }
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.model.executor().close(self.slot);
    }
}
