//! The choice of a token from its logits and a random number: what the sampler and the kernels' references both do.
//!
//! The steps and their order are llama.cpp's: repetition penalty (Keskar et al., arXiv 1909.05858), top-k, top-p
//! (Holtzman et al., arXiv 1904.09751), min-p (arXiv 2407.01082), temperature, draw. Top-p and min-p see the
//! probabilities before the temperature.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::error::{Error, Result};

/// Repetition penalties that can be followed. What is used lies between 0.8 and 2, and beyond this range logits would
/// leave that of 32-bit floats, which looks like a model that computes no numbers.
pub const REPEAT_PENALTY: RangeInclusive<f32> = 0.01..=100.0;
/// What is expected of one, for messages.
pub const REPEAT_PENALTY_EXPECTED: &str = "a number from 0.01 to 100";

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
    /// Divisor of the positive logits, and factor of the negative ones, of tokens seen lately: 0.01 to 100, and 1 for
    /// none.
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
    /// Fails with the first setting that no draw could follow.
    pub fn check(&self) -> Result<()> {
        let fault = |setting: &str, expected: &str, got: f32| Err(Error::argument(setting, expected, got));
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return fault("temperature", "a number of 0 or more", self.temperature);
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return fault("top-p", "a number from 0 to 1", self.top_p);
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return fault("min-p", "a number from 0 to 1", self.min_p);
        }
        if !REPEAT_PENALTY.contains(&self.repeat_penalty) {
            return fault("repeat penalty", REPEAT_PENALTY_EXPECTED, self.repeat_penalty);
        }
        Ok(())
    }
}

/// What is added to the logits of some tokens before one is chosen; minus infinity forbids a token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogitBias(BTreeMap<u32, f32>);

impl LogitBias {
    /// The bias of these tokens by their ids; of one that is there twice, the last counts. Fails with the first token
    /// whose bias is neither a finite number nor minus infinity.
    pub fn new(entries: impl IntoIterator<Item = (u32, f32)>) -> Result<LogitBias> {
        let bias: BTreeMap<u32, f32> = entries.into_iter().collect();
        match bias.iter().find(|(_, value)| !(value.is_finite() || **value == f32::NEG_INFINITY)) {
            None => Ok(LogitBias(bias)),
            Some((id, value)) => {
                let expected = "a finite number, or -inf to forbid the token";
                Err(Error::argument(format!("logit bias `{id}`"), expected, value))
            }
        }
    }

    /// Whether nothing is added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tokens that there is a bias of.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.keys().copied()
    }

    /// The tokens that are not forbidden, with what is added to their logits.
    pub fn added(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.0.iter().map(|(id, value)| (*id, *value)).filter(|(_, value)| value.is_finite())
    }

    /// The tokens that are forbidden.
    pub fn forbidden(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().filter(|(_, value)| !value.is_finite()).map(|(id, _)| *id)
    }
}

/// The `count` likeliest tokens by their logits, likeliest first, each with the natural logarithm of its probability
/// among all V tokens; and that of the token `chosen`, where it is one of them. Of equally likely tokens the lower id
/// comes first.
pub fn log_probabilities(logits: &[f32], chosen: u32, count: usize) -> (Option<f32>, Vec<(u32, f32)>) {
    let mut candidates: Vec<Candidate> =
        (0..).zip(logits).map(|(id, logit)| Candidate { id, logit: finite(*logit) }).collect();
    let Some(best) = candidates.iter().min_by(|a, b| likelier(a, b)).copied() else { return (None, Vec::new()) };
    let sum: f64 = candidates.iter().map(|c| part(c, best.logit, 1.0)).sum();
    let all = f64::from(best.logit) + sum.ln();
    let log = |logit: f32| (f64::from(logit) - all) as f32;
    let of_chosen = candidates.get(chosen as usize).map(|c| log(c.logit));
    if count < candidates.len() {
        if count > 0 {
            candidates.select_nth_unstable_by(count - 1, likelier);
        }
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(likelier);
    (of_chosen, candidates.into_iter().map(|c| (c.id, log(c.logit))).collect())
}

/// All that one choice depends on, beside the logits and the tokens before it; the struct `Choice` of
/// `shaders/shared/sampling.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Choice {
    /// [`SamplerSettings::temperature`].
    pub temperature: f32,
    /// [`SamplerSettings::top_k`].
    pub top_k: u32,
    /// [`SamplerSettings::top_p`].
    pub top_p: f32,
    /// Logarithm of [`SamplerSettings::min_p`].
    pub min_p_ln: f32,
    /// [`SamplerSettings::repeat_penalty`].
    pub repeat_penalty: f32,
    /// [`SamplerSettings::repeat_last_n`].
    pub repeat_last_n: u32,
    /// The random number's first 32 bits after the point.
    pub draw_high: u32,
    /// The 21 bits after these.
    pub draw_low: u32,
}

/// Bits of a random number's [`Choice::draw_low`].
const LOW_BITS: u32 = 21;

impl Choice {
    /// The choice by these settings with the random number `draw` / 2^53, below 1.
    pub fn new(settings: &SamplerSettings, draw: u64) -> Choice {
        assert!(draw >> 53 == 0, "a random number is below 1");
        Choice {
            // So that hardware without numbers below the normal ones divides by no zero.
            temperature: match settings.temperature {
                0.0 => 0.0,
                temperature => temperature.max(f32::MIN_POSITIVE),
            },
            top_k: u32::try_from(settings.top_k).unwrap_or(0),
            top_p: settings.top_p,
            min_p_ln: settings.min_p.ln(),
            repeat_penalty: settings.repeat_penalty,
            repeat_last_n: u32::try_from(settings.repeat_last_n).unwrap_or(u32::MAX),
            draw_high: (draw >> LOW_BITS) as u32,
            draw_low: (draw & ((1 << LOW_BITS) - 1)) as u32,
        }
    }

    /// The random number, in [0, 1).
    pub fn uniform(&self) -> f64 {
        let draw = u64::from(self.draw_high) << LOW_BITS | u64::from(self.draw_low);
        draw as f64 * (0.5f64).powi(53)
    }
}

/// A logit that sums and comparisons can work with: no number is never drawn, infinity is very likely.
pub fn finite(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }
}

/// Makes tokens of the last [`Choice::repeat_last_n`] of `history` less likely, each once however often it was seen.
/// Logits are [`finite`] before and after; tokens without one are let pass.
pub fn penalize(choice: &Choice, history: &[u32], logits: &mut [f32]) {
    let penalty = choice.repeat_penalty;
    if penalty == 1.0 {
        return;
    }
    let mut seen = history[history.len().saturating_sub(choice.repeat_last_n as usize)..].to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = finite(if *logit > 0.0 { *logit / penalty } else { *logit * penalty });
        }
    }
}

/// The token chosen of these logits, [`finite`] and penalized, one for each of the V tokens: token 0 where all are
/// minus infinity. Panics where there are none.
pub fn choose(choice: &Choice, logits: &[f32]) -> u32 {
    let k = match (choice.temperature, choice.top_k as usize) {
        (0.0, _) => 1,
        (_, k) if k < logits.len() => k,
        _ => 0,
    };
    let mut candidates = if k > 0 { likely(logits, k) } else { no_less_likely(logits, f32::NEG_INFINITY) };
    let best = *candidates.iter().min_by(|a, b| likelier(a, b)).expect("a model has at least one token");
    if choice.temperature == 0.0 || best.logit == f32::NEG_INFINITY {
        return best.id;
    }
    if k > 0 {
        keep_top_k(&mut candidates, k);
    }
    keep_nucleus(&mut candidates, choice.top_p, best.logit);
    candidates.retain(|candidate| candidate.logit >= best.logit + choice.min_p_ln);
    draw(&candidates, best.logit, choice.temperature, choice.uniform())
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Likelier tokens first; of equally likely ones the lower id, so that the order is one and the same everywhere.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Probability of a candidate as a part of the likeliest one's.
fn part(candidate: &Candidate, best: f32, temperature: f32) -> f64 {
    ((f64::from(candidate.logit) - f64::from(best)) / f64::from(temperature)).exp()
}

/// The largest of some logits that are [`finite`].
#[inline(always)]
pub fn largest(logits: &[f32]) -> f32 {
    // As many at a time as vectors have, of which the compiler makes some.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (sixteens, rest) = logits.as_chunks::<16>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    for sixteen in sixteens {
        lanes.iter_mut().zip(sixteen).for_each(|(lane, logit)| *lane = larger(*lane, *logit));
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

/// The tokens that are at least as likely as one of this logit, in the order of their ids.
fn no_less_likely(logits: &[f32], least: f32) -> Vec<Candidate> {
    let all = (0..).zip(logits).map(|(id, logit)| Candidate { id, logit: *logit });
    all.filter(|candidate| candidate.logit >= least).collect()
}

/// The `k` likeliest tokens among few others, in the order of their ids: those that are at least as likely as the
/// likeliest ones of k blocks.
fn likely(logits: &[f32], k: usize) -> Vec<Candidate> {
    // Few blocks, and more than k of them where there are as many tokens.
    let block = (logits.len() / (4 * k)).clamp(1, 128);
    let peaks: Vec<f32> = logits.chunks(block).map(largest).collect();
    let least = *peaks.clone().select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
    let blocks = logits.chunks(block).zip(peaks).zip((0..).step_by(block)).filter(|((_, peak), _)| *peak >= least);
    let of_block = |((logits, _), first): ((&[f32], f32), u32)| {
        no_less_likely(logits, least)
            .into_iter()
            .map(move |candidate| Candidate { id: first + candidate.id, ..candidate })
    };
    blocks.flat_map(of_block).collect()
}

/// Keeps the k likeliest candidates, likeliest first.
fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, likelier);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(likelier);
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
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_probabilities_sum_to_one_and_come_likeliest_first() {
        let logits = [1.0, f32::NEG_INFINITY, 3.0, 3.0, f32::NAN, -2.0];
        let (chosen, top) = log_probabilities(&logits, 5, 3);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<u32>>(), [2, 3, 0]);
        let (_, all) = log_probabilities(&logits, 0, 100);
        let sum: f64 = all.iter().map(|(_, log)| f64::from(*log).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert_eq!(all.len(), logits.len());
        // e^-2 of 2 e^3 + e + e^-2.
        let expected = (-2.0 - (2.0 * 3f64.exp() + 1f64.exp() + (-2f64).exp()).ln()) as f32;
        assert!((chosen.unwrap() - expected).abs() < 1e-5);
        assert_eq!(log_probabilities(&logits, 6, 0), (None, Vec::new()));
        assert_eq!(log_probabilities(&[], 0, 2), (None, Vec::new()));
    }

    #[test]
    fn the_likeliest_tokens_are_found_among_few_others() {
        let draws = |at: u32| f64::from(at.wrapping_mul(2_654_435_769)) / f64::from(u32::MAX);
        let peaked: Vec<f32> = (0..3001).map(|at| (15.0 * draws(at).powi(8)) as f32).collect();
        let tied: Vec<f32> = (0..3001).map(|at| (4.0 * draws(at)).floor() as f32 - 2.0).collect();
        let mut none = vec![f32::NEG_INFINITY; 3001];
        (none[7], none[2900], none[12], none[13]) = (1.0, 1.0, -0.0, 0.0);
        for logits in [&peaked, &tied, &none] {
            for k in [1, 2, 40, 800, 3000] {
                let mut expected: Vec<Candidate> =
                    (0..).zip(logits).map(|(id, logit)| Candidate { id, logit: *logit }).collect();
                expected.sort_by(likelier);
                let mut found = likely(logits, k);
                assert!(found.is_sorted_by_key(|candidate| candidate.id));
                keep_top_k(&mut found, k);
                let ids = |candidates: &[Candidate]| candidates.iter().map(|c| c.id).collect::<Vec<u32>>();
                assert_eq!(ids(&found), ids(&expected[..k]));
            }
        }
        assert!(likely(&peaked, 40).len() < 300, "{}", likely(&peaked, 40).len());
    }

    #[test]
    fn a_bias_is_a_number_or_forbids() {
        let bias = LogitBias::new([(3, 1.5), (4, f32::NEG_INFINITY), (3, -2.0)]).unwrap();
        assert_eq!(bias.added().collect::<Vec<_>>(), [(3, -2.0)]);
        assert_eq!(bias.forbidden().collect::<Vec<_>>(), [4]);
        for value in [f32::NAN, f32::INFINITY] {
            let error = LogitBias::new([(7, value)]).unwrap_err().to_string();
            assert!(error.contains("logit bias `7`"), "{error}");
        }
    }
}
