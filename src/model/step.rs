//! A step of several sequences.

use super::{SampledToken, Sequence};
use crate::error::Result;

/// Tokens of any number of sequences that run together: all are handed to the device before any is waited for, so that
/// it does not wait for the host between them.
///
/// Each sequence's tokens are computed by the recording that would run them alone, so that company changes no bit of
/// what a sequence computes.
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
        let begin = |(sequence, ids): (&'a mut Sequence, Vec<u32>)| {
            let step = sequence.begin(&ids);
            (sequence, step)
        };
        let begun: Vec<_> = self.parts.into_iter().map(begin).collect();
        begun.into_iter().map(|(sequence, step)| step.and_then(|step| sequence.finish(step))).collect()
    }
}
