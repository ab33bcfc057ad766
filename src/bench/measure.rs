//! Tokens a second and joules a token, of prompts and of generation.

use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

use super::energy::EnergyMeter;
use super::profile::Profile;
use super::stats::Stats;
use crate::engine::DeviceKind;
use crate::error::Result;
use crate::model::{BitsRead, Model, Sequence, Step, TokenDepths};
use crate::precision::PrecisionPlan;
use crate::sampling::SamplerSettings;

/// Tokens generated before the first measurement where no clock has to rise, for caches.
const WARM_UP_TOKENS: u32 = 16;
/// How long a GPU is kept busy before the measurements of a test, as its clock takes most of that to rise.
const WARM_UP: Duration = Duration::from_secs(1);
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
    /// Energy for each token in joules, and what told it, its kind first; where the meter tells it.
    pub energy: Option<(f64, String)>,
}

impl Measured {
    /// Of the rates of all repetitions, what they read and the joules that they took.
    fn of(rates: &[f64], read: BitsRead, joules: Option<f64>, meter: &EnergyMeter) -> Measured {
        let per_token = joules.map(|joules| joules / read.tokens() as f64);
        let energy = per_token.zip(meter.source().map(str::to_string));
        Measured { tokens_per_second: Stats::of(rates), read, energy }
    }
}

impl Test {
    /// Tokens that are in the context when one of the test's runs, on average over them, itself included.
    pub fn mean_context(&self) -> f64 {
        f64::from(self.depth) + f64::from(self.tokens + 1) / 2.0
    }

    /// Runs `ids` behind the context: all of a prompt, or the first of them and what is drawn after it.
    fn run(&self, sequence: &mut Sequence, ids: &[u32]) -> Result<Vec<TokenDepths>> {
        sequence.truncate(self.depth as usize);
        match self.kind {
            TestKind::Prompt => Ok(vec![step(sequence, ids)?]),
            TestKind::Generation => generate(sequence, ids).map_err(|e| e.within(BENCH)),
        }
    }

    /// Tokens of a run that is not counted: on a GPU all, so that nothing the test needs is first needed when it is
    /// measured, as the pipelines of long contexts are.
    fn warm_up_tokens(&self, model: &Model) -> u32 {
        match self.kind {
            TestKind::Generation if !has_clock(model) => self.tokens.min(WARM_UP_TOKENS),
            _ => self.tokens,
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

/// A sequence of `depth` random tokens under a plan.
pub fn filled(model: &Model, plan: &PrecisionPlan, depth: u32) -> Result<Sequence> {
    let mut sequence = model.sequence(plan)?;
    let ids = random_ids(model, &mut ChaCha12Rng::seed_from_u64(0), depth);
    if !ids.is_empty() {
        step(&mut sequence, &ids)?;
    }
    Ok(sequence)
}

/// Measures behind the tokens of a sequence that was [`filled`] for the test, after a warm-up that is not counted, with
/// the energy that `meter` tells meanwhile.
///
/// Fails where the test leaves the model's context, and where the device fails or computes what is no number.
pub fn measure(sequence: &mut Sequence, test: &Test, repetitions: u32, meter: &mut EnergyMeter) -> Result<Measured> {
    let model = &sequence.model().clone();
    let random = &mut ChaCha12Rng::seed_from_u64(1);
    sequence.set_sampler(SamplerSettings { seed: Some(1), ..SamplerSettings::default() })?;
    let ids = random_ids(model, random, test.warm_up_tokens(model));
    sequence.truncate(test.depth as usize);
    step(sequence, &ids)?;
    warm_up(model, &mut || test.run(sequence, &ids))?;
    repeated(model, repetitions, meter, &mut || {
        let ids = random_ids(model, random, test.tokens);
        let start = Instant::now();
        let steps = test.run(sequence, &ids)?;
        Ok((f64::from(test.tokens) / start.elapsed().as_secs_f64(), steps))
    })
}

/// Measures generation by several sequences beside each other, each of which was [`filled`] for the test: tokens a
/// second of all of them, which have one token each in every step. A warm-up before is not counted.
///
/// Fails as [`measure`] does. Panics where there is no sequence.
pub fn measure_together(
    sequences: &mut [Sequence],
    test: &Test,
    repetitions: u32,
    meter: &mut EnergyMeter,
) -> Result<Measured> {
    let model = sequences[0].model().clone();
    let random = &mut ChaCha12Rng::seed_from_u64(1);
    for (seed, sequence) in (1..).zip(sequences.iter_mut()) {
        sequence.set_sampler(SamplerSettings { seed: Some(seed), ..SamplerSettings::default() })?;
    }
    let mut run = |tokens: u32| -> Result<Vec<TokenDepths>> {
        sequences.iter_mut().for_each(|sequence| sequence.truncate(test.depth as usize));
        let mut ids = random_ids(&model, random, sequences.len() as u32);
        let mut depths = Vec::new();
        for _ in 0..tokens {
            let mut step = Step::new();
            sequences.iter_mut().zip(&ids).for_each(|(sequence, id)| step.add(sequence, &[*id]));
            let sampled = step.run().into_iter().collect::<Result<Vec<_>>>().map_err(|e| e.within(BENCH))?;
            ids = sampled.iter().map(|sampled| sampled.id).collect();
            depths.extend(sampled.into_iter().map(|sampled| sampled.depths));
        }
        Ok(depths)
    };
    warm_up(&model, &mut || run(test.warm_up_tokens(&model)))?;
    repeated(&model, repetitions, meter, &mut || {
        let start = Instant::now();
        let steps = run(test.tokens)?;
        Ok((steps.len() as f64 / start.elapsed().as_secs_f64(), steps))
    })
}

/// Whether a model runs on a GPU, whose clock falls while it has nothing to do.
fn has_clock(model: &Model) -> bool {
    !matches!(model.device().kind, DeviceKind::SoftwareRenderer | DeviceKind::Processor)
}

/// Runs a test once, and on a GPU for as long as its clock needs to rise.
fn warm_up(model: &Model, run: &mut dyn FnMut() -> Result<Vec<TokenDepths>>) -> Result<()> {
    let start = Instant::now();
    run()?;
    while has_clock(model) && start.elapsed() < WARM_UP {
        run()?;
    }
    Ok(())
}

/// Runs a test again and again, with the energy that `meter` tells meanwhile. A run returns its tokens a second, and
/// what was read for each.
fn repeated(
    model: &Model,
    repetitions: u32,
    meter: &mut EnergyMeter,
    run: &mut dyn FnMut() -> Result<(f64, Vec<TokenDepths>)>,
) -> Result<Measured> {
    let (mut rates, mut read) = (Vec::new(), BitsRead::new(model.shape()));
    let (done, joules) = meter.around(|| -> Result<()> {
        for _ in 0..repetitions {
            let (rate, steps) = run()?;
            rates.push(rate);
            steps.iter().for_each(|depths| read.add(depths));
        }
        Ok(())
    });
    done?;
    Ok(Measured::of(&rates, read, joules, meter))
}

/// Times every kernel of a step of the test, under the plan that is set: of the prompt's first step, or of one token.
pub fn profile(sequence: &mut Sequence, test: &Test, repetitions: u32) -> Result<Profile> {
    let (tokens, samples) = match test.kind {
        TestKind::Prompt => (test.tokens.min(sequence.model().step_tokens()), false),
        TestKind::Generation => (1, true),
    };
    let ids = random_ids(sequence.model(), &mut ChaCha12Rng::seed_from_u64(2), tokens);
    sequence.truncate(test.depth as usize);
    let mut profile = || sequence.profile(&ids, samples).map_err(|e| e.within(BENCH));
    profile()?;
    let runs = (0..repetitions).map(|_| profile()).collect::<Result<Vec<_>>>()?;
    Ok(Profile::of(&runs))
}

/// Generates as many tokens as there are `ids`, as a session does: drawn on the device, with the next step begun before
/// a token is read where that pays. What was read for each of them.
fn generate(sequence: &mut Sequence, ids: &[u32]) -> Result<Vec<TokenDepths>> {
    let mut depths = Vec::with_capacity(ids.len());
    let mut running = sequence.begin(&ids[..1])?;
    let overlaps = sequence.model().overlaps();
    for _ in 1..ids.len() {
        let ahead = overlaps.then(|| sequence.begin_after(&running)).transpose()?;
        let sampled = sequence.finish(running)?;
        depths.push(sampled.depths);
        running = match ahead {
            Some(ahead) => ahead,
            None => sequence.begin(&[sampled.id])?,
        };
    }
    depths.push(sequence.finish(running)?.depths);
    Ok(depths)
}

/// Runs tokens at once.
pub(super) fn step(sequence: &mut Sequence, ids: &[u32]) -> Result<TokenDepths> {
    Ok(sequence.next_logits(ids).map_err(|e| e.within(BENCH))?.depths)
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
