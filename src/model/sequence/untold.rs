//! Tokens of a sequence that have run before anybody was told of them: out of sight for a while, or taken back.

use super::Sequence;
use crate::text::DrawPosition;

/// What [`Sequence::set_aside`] took out of sight. Its keys and values are still in the cache.
pub(crate) struct AsideTokens {
    tokens: Vec<u32>,
    sampled: Option<u32>,
    rng_after: DrawPosition,
}

impl Sequence {
    /// Where the random numbers are after the steps that are finished.
    pub(crate) fn drawn(&self) -> DrawPosition {
        self.rng_after
    }

    /// Takes out of sight what ran after the first `length` tokens, and the random numbers that were drawn after
    /// `drawn`, until [`Sequence::put_back`]; nothing may run meanwhile.
    pub(crate) fn set_aside(&mut self, length: usize, drawn: DrawPosition) -> AsideTokens {
        let (tokens, sampled) = (self.tokens.split_off(length), self.sampled.take());
        AsideTokens { tokens, sampled, rng_after: std::mem::replace(&mut self.rng_after, drawn) }
    }

    /// Goes on as if nothing had been set aside.
    pub(crate) fn put_back(&mut self, aside: AsideTokens) {
        self.tokens.extend(aside.tokens);
        (self.sampled, self.rng_after) = (aside.sampled, aside.rng_after);
    }

    /// Forgets what ran after the first `length` tokens, and takes back the random numbers that were drawn after
    /// `drawn`, so that they are drawn again.
    pub(crate) fn take_back(&mut self, length: usize, drawn: DrawPosition) {
        self.truncate(length);
        self.sampler.rewind(drawn);
        self.rng_after = drawn;
    }
}
