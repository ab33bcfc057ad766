//! Tokens a second, of prompts and of generation.

use std::fmt;
use std::time::Instant;

use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

use super::profile::Profile;
use super::stats::Stats;
use crate::error::Result;
use crate::model::{BitsRead, Model, TokenDepths};
use crate::text::{Sampler, SamplerSettings};

/// Tokens generated before the first measurement, for caches and clocks.
const WARM_UP_TOKENS: u32 = 16;
/// What a measurement is called where it is stopped.
pub(super) const BENCH: &str = "bench";

/// How the tokens of a test come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestKind {
    /// All at once.
    Prompt,
    /// One after the other.
    Generation,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// How the tokens come.
    pub kind: TestKind,
    /// Tokens, 1 or more.
    pub tokens: u32,
    /// Tokens in the context before them.
    pub depth: u32,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Tokens a second, over the repetitions.
    pub tokens_per_second: Stats,
    /// What was read of the weights in all repetitions.
    pub read: BitsRead,
}

impl Test {
    /// Tokens that are in the context when one of the test's runs, on average over them, itself included.
    pub fn mean_context(&self) -> f64 {
        f64::from(self.depth) + f64::from(self.tokens + 1) / 2.0
    }

    /// Runs `ids` behind the context: all of a prompt, or the first of them and what is drawn after it.
    fn run(&self, model: &mut Model, ids: &[u32], sampler: &mut Sampler) -> Result<Vec<TokenDepths>> {
        match self.kind {
            TestKind::Prompt => Ok(vec![step(model, ids, self.depth)?]),
            TestKind::Generation => generate(model, ids, self.depth, sampler).map_err(|e| e.within(BENCH)),
        }
    }

    /// Tokens of a run that is not counted.
    fn warm_up_tokens(&self) -> u32 {
        match self.kind {
            TestKind::Prompt => self.tokens,
            TestKind::Generation => self.tokens.min(WARM_UP_TOKENS),
        }
    }
}

/// The test's name, as llama-bench writes it: `pp512`, `tg128 @ d4096`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            TestKind::Prompt => "pp",
            TestKind::Generation => "tg",
        };
        write!(f, "{kind}{}", self.tokens)?;
        if self.depth > 0 { write!(f, " @ d{}", self.depth) } else { Ok(()) }
    }
}

/// Puts `depth` random tokens into the context.
pub fn fill(model: &mut Model, depth: u32) -> Result<()> {
    let ids = random_ids(model, &mut ChaCha12Rng::seed_from_u64(0), depth);
    if ids.is_empty() { Ok(()) } else { step(model, &ids, 0).map(|_| ()) }
}

/// Measures under the plan that is set, after a warm-up that is not counted.
///
/// Fails where the test leaves the model's context, and where the device fails or computes what is no number.
pub fn measure(model: &mut Model, test: &Test, repetitions: u32) -> Result<Measured> {
    let random = &mut ChaCha12Rng::seed_from_u64(1);
    let sampler = &mut Sampler::new(SamplerSettings { seed: Some(1), ..SamplerSettings::default() })?;
    let ids = random_ids(model, random, test.warm_up_tokens());
    step(model, &ids, test.depth)?;
    test.run(model, &ids, sampler)?;
    let (mut rates, mut read) = (Vec::new(), BitsRead::new(model.shape()));
    for _ in 0..repetitions {
        let ids = random_ids(model, random, test.tokens);
        let start = Instant::now();
        let steps = test.run(model, &ids, sampler)?;
        rates.push(f64::from(test.tokens) / start.elapsed().as_secs_f64());
        steps.iter().for_each(|depths| read.add(depths));
    }
    Ok(Measured { tokens_per_second: Stats::of(&rates), read })
}

/// Times every kernel of a step of the test, under the plan that is set: of the prompt's first step, or of one token.
pub fn profile(model: &mut Model, test: &Test, repetitions: u32) -> Result<Profile> {
    let (tokens, choice) = match test.kind {
        TestKind::Prompt => (test.tokens.min(model.step_tokens()), None),
        TestKind::Generation => (1, Some(Sampler::new(SamplerSettings::default())?.choice())),
    };
    let ids = random_ids(model, &mut ChaCha12Rng::seed_from_u64(2), tokens);
    let mut profile = || model.profile(&ids, test.depth, choice.as_ref()).map_err(|e| e.within(BENCH));
    profile()?;
    let runs = (0..repetitions).map(|_| profile()).collect::<Result<Vec<_>>>()?;
    Ok(Profile::of(&runs))
}

/// Generates as many tokens as there are `ids`, as a session does: drawn on the device, with the next step begun before
/// a token is read where that pays. What was read for each of them.
fn generate(model: &mut Model, ids: &[u32], position: u32, sampler: &mut Sampler) -> Result<Vec<TokenDepths>> {
    let end = position + ids.len() as u32;
    let mut depths = Vec::with_capacity(ids.len());
    let mut running = model.begin_tokens(&ids[..1], position, &sampler.choice())?;
    for next in position + 1..end {
        let ahead = model.overlaps().then(|| model.begin_chosen(next, &sampler.choice())).transpose()?;
        let chosen = model.finish(running)?;
        depths.push(chosen.depths);
        running = match ahead {
            Some(ahead) => ahead,
            None => model.begin_tokens(&[chosen.id], next, &sampler.choice())?,
        };
    }
    depths.push(model.finish(running)?.depths);
    Ok(depths)
}

/// Runs tokens at once.
pub(super) fn step(model: &mut Model, ids: &[u32], position: u32) -> Result<TokenDepths> {
    Ok(model.next_logits(ids, position).map_err(|e| e.within(BENCH))?.depths)
}

pub(super) fn random_ids(model: &Model, random: &mut ChaCha12Rng, count: u32) -> Vec<u32> {
    let vocab = model.shape().vocab;
    (0..count).map(|_| random.random_range(0..vocab)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_as_elsewhere() {
        let test = |kind, tokens, depth| Test { kind, tokens, depth };
        assert_eq!(test(TestKind::Prompt, 512, 0).to_string(), "pp512");
        assert_eq!(test(TestKind::Generation, 128, 4096).to_string(), "tg128 @ d4096");
        // Tokens 1 and 2 behind 10: 11 and 12 in the context.
        assert_eq!(test(TestKind::Generation, 2, 10).mean_context(), 11.5);
    }
}
