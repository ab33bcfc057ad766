//! Seeded choices of tokens: the random numbers, and the choice on the host.

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;

use crate::error::Result;
use crate::sampling::{self, Choice, SamplerSettings};

/// Draws tokens, repeatably for a seed.
///
/// The random numbers are the bits of ChaCha with 12 rounds, keyed with the seed; ChaCha is a published cipher, so a
/// seed draws the same tokens with every version of every library.
#[derive(Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    seed: u32,
    random: ChaCha12Rng,
    logits: Vec<f32>,
}

/// A place in a sampler's random numbers, to return to; their beginning by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DrawPosition(u128);

impl Clone for Sampler {
    /// A sampler that will take the same random numbers.
    fn clone(&self) -> Sampler {
        let random = same_numbers(&self.random);
        Sampler { settings: self.settings.clone(), seed: self.seed, random, logits: Vec::new() }
    }
}

/// A generator that will make the same numbers.
pub fn same_numbers(random: &ChaCha12Rng) -> ChaCha12Rng {
    let mut same = ChaCha12Rng::from_seed(random.get_seed());
    same.set_word_pos(random.get_word_pos());
    same
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    pub fn new(settings: SamplerSettings) -> Result<Sampler> {
        settings.check()?;
        let seed = settings.seed.unwrap_or_else(rand::random);
        let mut key = [0; 32];
        key[..4].copy_from_slice(&seed.to_le_bytes());
        Ok(Sampler { settings, seed, random: ChaCha12Rng::from_seed(key), logits: Vec::new() })
    }

    /// The seed in use, to repeat a run that was given none.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// Whether the seed was given.
    pub fn is_repeatable(&self) -> bool {
        self.settings.seed.is_some()
    }

    /// The next choice, whoever makes it; takes a random number unless the likeliest token is chosen.
    pub fn choice(&mut self) -> Choice {
        let draw = if self.settings.temperature == 0.0 { 0 } else { self.random.next_u64() >> 11 };
        Choice::new(&self.settings, draw)
    }

    /// Where the random numbers are.
    pub fn position(&self) -> DrawPosition {
        DrawPosition(self.random.get_word_pos())
    }

    /// How many words of the random numbers were taken before a position; none where there are too many to tell.
    pub fn words(position: DrawPosition) -> Option<u64> {
        u64::try_from(position.0).ok()
    }

    /// Goes to the place in the random numbers before which so many words were taken.
    pub fn seek(&mut self, words: u64) -> DrawPosition {
        self.random.set_word_pos(u128::from(words));
        self.position()
    }

    /// Returns the random numbers that were taken since `position`, so that they are taken again. Where they were
    /// returned before, nothing happens.
    pub fn rewind(&mut self, position: DrawPosition) {
        if position < self.position() {
            self.random.set_word_pos(position.0);
        }
    }

    /// The next token from its logits, one for each of the V tokens, after the tokens of `history`. Logits that are not
    /// a number are never drawn; where none is one, the answer is token 0. Panics where there are no logits.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let choice = self.choice();
        self.logits.clear();
        self.logits.extend(logits.iter().map(|logit| sampling::finite(*logit)));
        sampling::penalize(&choice, history, &mut self.logits);
        sampling::choose(&choice, &self.logits)
    }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
