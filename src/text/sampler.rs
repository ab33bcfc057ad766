//! The choice of the next token from its logits.
//!
//! The steps and their order are llama.cpp's: repetition penalty (Keskar et al., arXiv 1909.05858), top-k, top-p
//! (Holtzman et al., arXiv 1904.09751), min-p (arXiv 2407.01082), temperature, draw. Top-p and min-p see the
//! probabilities before the temperature.

use std::cmp::Ordering;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;

use crate::error::{Error, Result};

/// How the next token is chosen. The defaults are llama.cpp's.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerSettings {
    /// Divisor of the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Likeliest tokens that stay in the draw; 0 for all.
    pub top_k: usize,
    /// The likeliest tokens stay that together have this probability; 1 for all.
    pub top_p: f32,
    /// Tokens stay that have at least this part of the likeliest one's probability; 0 for all.
    pub min_p: f32,
    /// Divisor of the positive logits, and factor of the negative ones, of tokens seen lately; 1 for none.
    pub repeat_penalty: f32,
    /// Tokens that count as seen lately.
    pub repeat_last_n: usize,
    /// Makes the draws repeatable; a random seed where there is none.
    pub seed: Option<u32>,
}

impl Default for SamplerSettings {
    fn default() -> SamplerSettings {
        SamplerSettings {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: None,
        }
    }
}

impl SamplerSettings {
    /// The first setting that no draw could follow, named as its flag.
    pub fn check(&self) -> Result<()> {
        let fault = |flag: &str, expected: &str, got: f32| Err(Error::argument(flag, expected, got));
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return fault("--temp", "a number of 0 or more", self.temperature);
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return fault("--top-p", "a number from 0 to 1", self.top_p);
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return fault("--min-p", "a number from 0 to 1", self.min_p);
        }
        if !(self.repeat_penalty.is_finite() && self.repeat_penalty > 0.0) {
            return fault("--repeat-penalty", "a number above 0", self.repeat_penalty);
        }
        Ok(())
    }
}

/// Draws tokens, repeatably for a seed.
///
/// The random numbers are the bits of ChaCha with 12 rounds, keyed with the seed; ChaCha is a published cipher, so a
/// seed draws the same tokens with every version of every library.
#[derive(Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    seed: u32,
    random: ChaCha12Rng,
    candidates: Vec<Candidate>,
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    pub fn new(settings: SamplerSettings) -> Result<Sampler> {
        settings.check()?;
        let seed = settings.seed.unwrap_or_else(rand::random);
        let mut key = [0; 32];
        key[..4].copy_from_slice(&seed.to_le_bytes());
        Ok(Sampler { settings, seed, random: ChaCha12Rng::from_seed(key), candidates: Vec::new() })
    }

    /// The seed in use, to repeat a run that was given none.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// The next token from its logits, one for each of the V tokens, after the tokens of `history`. Logits that are not
    /// a number are never drawn; where none is one, the answer is token 0. Panics where there are no logits.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        assert!(!logits.is_empty(), "a model has at least one token");
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits).map(|(id, logit)| Candidate { id, logit: finite(*logit) }));
        self.penalize(history);
        let best = *self.candidates.iter().min_by(|a, b| likelier(a, b)).expect("there is a candidate");
        if self.settings.temperature == 0.0 || best.logit == f32::NEG_INFINITY {
            return best.id;
        }
        keep_top_k(&mut self.candidates, self.settings.top_k);
        keep_nucleus(&mut self.candidates, self.settings.top_p, best.logit);
        keep_min_p(&mut self.candidates, self.settings.min_p, best.logit);
        let at = self.uniform();
        draw(&self.candidates, best.logit, self.settings.temperature, at)
    }

    /// Makes tokens of the last [`SamplerSettings::repeat_last_n`] less likely, each once however often it was seen.
    fn penalize(&mut self, history: &[u32]) {
        let penalty = self.settings.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen = history[history.len().saturating_sub(self.settings.repeat_last_n)..].to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(candidate) = self.candidates.get_mut(id as usize) {
                let logit = candidate.logit;
                candidate.logit = finite(if logit > 0.0 { logit / penalty } else { logit * penalty });
            }
        }
    }

    /// The next random number, in [0, 1), all multiples of 2^-53 alike.
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 * (0.5f64).powi(53)
    }
}

/// A logit that sums and comparisons can work with: no number is never drawn, infinity is very likely.
fn finite(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }
}

/// Likelier tokens first; of equally likely ones the lower id, so that the order is one and the same everywhere.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Probability of a candidate as a part of the likeliest one's.
fn part(candidate: &Candidate, best: f32, temperature: f32) -> f64 {
    ((f64::from(candidate.logit) - f64::from(best)) / f64::from(temperature)).exp()
}

fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, likelier);
        candidates.truncate(k);
        candidates.sort_unstable_by(likelier);
    }
}

/// Keeps the likeliest candidates that together reach `p`. A nucleus is small as a rule, so the candidates are sorted
/// in growing pieces, and only as far as it reaches.
fn keep_nucleus(candidates: &mut Vec<Candidate>, p: f32, best: f32) {
    if p >= 1.0 {
        return;
    }
    let enough = f64::from(p) * candidates.iter().map(|c| part(c, best, 1.0)).sum::<f64>();
    let (mut from, mut piece, mut mass) = (0, 256, 0.0);
    while from < candidates.len() {
        let to = candidates.len().min(from + piece);
        if to < candidates.len() {
            candidates[from..].select_nth_unstable_by(to - from - 1, likelier);
        }
        candidates[from..to].sort_unstable_by(likelier);
        for at in from..to {
            mass += part(&candidates[at], best, 1.0);
            if mass >= enough {
                candidates.truncate(at + 1);
                return;
            }
        }
        (from, piece) = (to, piece * 4);
    }
}

fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32, best: f32) {
    if min_p > 0.0 {
        let least = best + min_p.ln();
        candidates.retain(|c| c.logit >= least);
    }
}

/// The candidate at `at` of the line on which each has a stretch as long as its probability; `at` in [0, 1).
fn draw(candidates: &[Candidate], best: f32, temperature: f32, at: f64) -> u32 {
    let weights = || candidates.iter().map(|c| (c.id, part(c, best, temperature)));
    let mut left = at * weights().map(|(_, weight)| weight).sum::<f64>();
    let mut chosen = candidates[0].id;
    for (id, weight) in weights().filter(|(_, weight)| *weight > 0.0) {
        chosen = id;
        if left < weight {
            break;
        }
        left -= weight;
    }
    chosen
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
