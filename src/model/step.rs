//! Steps: one of several sequences, what comes of one, and which part of a conversation it is.

use super::{Sequence, TokenDepths, together};
use crate::error::Result;
use crate::kernels::step_rows::StepRow;
use crate::recording::Ticket;
use crate::text::DrawPosition;

/// A step under way that samples a token. One that is dropped runs all the same, and nobody is told what it sampled;
/// [`Sequence::discard`] also takes its random number back.
pub struct PendingStep {
    /// The run that samples.
    pub(super) ticket: Ticket,
    /// The run before it that computes the logits, where that is a run of its own.
    pub(super) logits: Option<Ticket>,
    pub(super) slot: u32,
    /// The tokens that it runs; none where it runs the one that the step before it samples.
    pub(super) ids: Vec<u32>,
    /// Tokens of its last part.
    pub(super) last: u32,
    /// Its sequence's tokens when it is done.
    pub(super) end: usize,
    /// What its parts before the last one read.
    pub(super) depths: Vec<TokenDepths>,
    /// Where the random numbers are before it and after it.
    pub(super) rng_before: DrawPosition,
    pub(super) rng_after: DrawPosition,
}

/// A step under way that computes logits, from which [`Sequence::sample`] is to choose. One that is dropped runs all
/// the same, and nothing is chosen.
pub struct PendingLogits {
    pub(super) ticket: Ticket,
    /// What the kernels read of the last token.
    pub(super) row: StepRow,
    /// As in a [`PendingStep`].
    pub(super) ids: Vec<u32>,
    pub(super) last: u32,
    pub(super) end: usize,
    pub(super) depths: Vec<TokenDepths>,
}

/// What a [`PendingStep`] sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// The token that follows.
    pub id: u32,
    /// The logits that it was chosen from, `[V]`, as the model computed them, where [`Sequence::read_logits`] asks for
    /// them.
    pub logits: Option<Vec<f32>>,
    /// What was read for each token run.
    pub depths: TokenDepths,
}

/// What [`Sequence::next_logits`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct NextLogits {
    /// Logits of what follows the last token, `[V]`.
    pub logits: Vec<f32>,
    /// What was read for each token run.
    pub depths: TokenDepths,
}

/// Which part of a conversation the tokens of a step are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// What the model is given.
    Prompt,
    /// What it has sampled.
    Answer,
}

/// Tokens of any number of sequences that run together: all are handed to the device before any is waited for, so that
/// it does not wait for the host between them.
///
/// Where products of single tokens are of int8s, sequences with one token each share a run, eight at most, which reads
/// the weights once, on the processor and on GPUs whose workgroups have more than 16 KiB of memory (`together.rs`).
/// Company changes no bit of what a sequence computes.
#[derive(Default)]
pub struct Step<'a> {
    parts: Vec<(&'a mut Sequence, Vec<u32>)>,
}

impl<'a> Step<'a> {
    /// A step of nothing.
    pub fn new() -> Step<'a> {
        Step::default()
    }

    /// Adds tokens of a sequence, which run after those that have run; the token that follows them is sampled.
    pub fn add(&mut self, sequence: &'a mut Sequence, ids: &[u32]) {
        self.parts.push((sequence, ids.to_vec()));
    }

    /// Runs the step: what each sequence sampled, in the order in which they were added. Each fails by itself, as
    /// [`Sequence::begin`] and [`Sequence::finish`] do, and is then as it was.
    pub fn run(self) -> Vec<Result<SampledToken>> {
        together::run(self.parts)
    }
}
