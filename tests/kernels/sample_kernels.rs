//! The kernels that choose a token, on both engines and against the sampler, with controls that must fail.

use crate::gpu;
use crate::near_choices::explained;
use bytemuck::Zeroable;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::kernels::sample::constrain_logits::{self, ConstrainInputs};
use edge_run::internals::kernels::sample::peaks::{self, LEADERS, Leader, Peak, SampleInputs, block, blocks};
use edge_run::internals::kernels::sample::token::{self, Sampled};
use edge_run::internals::kernels::step_rows::StepRow;
use edge_run::internals::recording::{Buffer, Prepared, Recording};
use edge_run::internals::sampling::{Choice, SamplerSettings};
use edge_run::internals::text::Sampler;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CONTEXT: u32 = 100;
/// The cells before those of the sequence.
const FIRST_CELL: u32 = 13;
/// The step's tokens; the last of them counts.
const TOKENS: u32 = 3;
/// The vocabularies of SmolLM2 and of Llama 3, and one that is larger than Gemma's and has an odd number of tokens.
const LARGE: [u32; 3] = [49_152, 128_256, 262_145];

/// A choice made ready on an engine, for any logits of V.
struct Chooser<'a> {
    engine: &'a mut dyn Engine,
    prepared: Prepared,
    logits: Buffer,
    cell_tokens: Buffer,
    choice: Buffer,
    step_rows: Buffer,
}

/// What is read back of a choice.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    id: u32,
    /// Whether the likeliest token's logit is a finite number.
    is_sound: bool,
    /// Finite and penalized.
    logits: Vec<f32>,
    peaks: Vec<Peak>,
    leaders: Vec<Leader>,
}

impl Chooser<'_> {
    fn new(engine: &mut dyn Engine, vocab: u32) -> Chooser<'_> {
        let mut create = |words: u32| engine.create("test", u64::from(words) * 4).expect("room for a test buffer");
        let (logits, cell_tokens, choice) = (create(vocab), create(FIRST_CELL + CONTEXT), create(8));
        let words = StepRow::BYTES as u32 / 4;
        let (step_rows, sampled, peaks) = (create(TOKENS * words), create(4), create(blocks(vocab) * 3));
        let leaders = create(blocks(vocab) * LEADERS as u32 * 2);
        let mut recording = Recording::new();
        let inputs = SampleInputs {
            choices: choice.all(),
            step_rows: step_rows.all(),
            cell_tokens: cell_tokens.all(),
            logits: logits.all(),
        };
        token::record(&mut recording, inputs, sampled.all());
        // Once more for the peaks: what is finite and penalized is so only once, so this one has no penalty.
        let plain = create(8);
        let inputs = SampleInputs { choices: plain.all(), ..inputs };
        peaks::record(&mut recording, inputs, peaks.all(), leaders.all());
        [sampled, logits, peaks, leaders].into_iter().map(Buffer::all).for_each(|span| recording.read_back(span));
        let no_penalty = Choice::new(&SamplerSettings::default(), 0);
        engine.write(plain.all(), bytemuck::bytes_of(&no_penalty));
        let prepared = engine.prepare(recording).expect("the recording can be prepared");
        Chooser { engine, prepared, logits, cell_tokens, choice, step_rows }
    }

    /// The choice after the tokens of `history`, the last of which is the step's last.
    fn choose(&mut self, choice: &Choice, logits: &[f32], history: &[u32]) -> Found {
        let last = history.len() as u32 - 1;
        // Behind the cells of another sequence.
        let mut cells = vec![8; FIRST_CELL as usize];
        cells.extend(history);
        cells.resize((FIRST_CELL + CONTEXT) as usize, 7);
        self.engine.write(self.logits.all(), bytemuck::cast_slice(logits));
        self.engine.write(self.cell_tokens.all(), bytemuck::cast_slice(&cells));
        self.engine.write(self.choice.all(), bytemuck::bytes_of(choice));
        let row = |position| StepRow { position, first_cell: FIRST_CELL, slot: 1, ..StepRow::zeroed() };
        self.engine.write(self.step_rows.all(), bytemuck::cast_slice(&[0, 0, last].map(row)));
        let read = self.engine.run(&mut self.prepared).expect("the recording runs");
        let sampled = bytemuck::pod_collect_to_vec::<u8, Sampled>(&read[0])[1];
        Found {
            id: sampled.id,
            is_sound: sampled.is_sound(),
            logits: bytemuck::pod_collect_to_vec(&read[1]),
            peaks: bytemuck::pod_collect_to_vec(&read[2]),
            leaders: bytemuck::pod_collect_to_vec(&read[3]),
        }
    }
}

/// Logits like those of a model: most far below the few that matter.
fn logits(rng: &mut StdRng, vocab: u32, shape: Shape) -> Vec<f32> {
    let mut one = || match shape {
        Shape::Peaked | Shape::Crowded | Shape::CrowdedTies => {
            let draw: f32 = rng.random_range(0.0..1.0);
            15.0 * draw.powi(8) - 3.0
        }
        Shape::Flat => rng.random_range(-0.5..0.5),
        Shape::Ties => rng.random_range(-3i32..3) as f32,
        Shape::Equal => 1.5,
        Shape::Odd => match rng.random_range(0..8) {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            2 => -f32::NAN,
            3 => f32::MIN,
            4 => -0.0,
            5 => 0.0,
            _ => rng.random_range(-3.0..3.0),
        },
        Shape::Infinite => *[f32::INFINITY, f32::MAX, 1.0, f32::NAN].get(rng.random_range(0..40)).unwrap_or(&-2.0),
        Shape::None => [f32::NAN, f32::NEG_INFINITY][rng.random_range(0..2)],
        Shape::Masked => *[2.0, 1.5, 1.5].get(rng.random_range(0..200)).unwrap_or(&f32::NEG_INFINITY),
    };
    let mut logits: Vec<f32> = (0..vocab).map(|_| one()).collect();
    if let Shape::Crowded | Shape::CrowdedTies = shape {
        let crowd = rng.random_range(1..300.min(vocab as usize + 1));
        let first = rng.random_range(0..=vocab as usize - crowd);
        for logit in &mut logits[first..first + crowd] {
            *logit = if shape == Shape::CrowdedTies { 13.0 } else { rng.random_range(11.0..13.0) };
        }
    }
    logits
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Peaked,
    Flat,
    Ties,
    Equal,
    Odd,
    Infinite,
    None,
    /// Few tokens may be chosen.
    Masked,
    /// Up to hundreds of the likeliest tokens are neighbours.
    Crowded,
    /// The same, and these are equally likely.
    CrowdedTies,
}

const SHAPES: [Shape; 10] = [
    Shape::Peaked,
    Shape::Flat,
    Shape::Ties,
    Shape::Equal,
    Shape::Odd,
    Shape::Infinite,
    Shape::None,
    Shape::Masked,
    Shape::Crowded,
    Shape::CrowdedTies,
];

fn settings() -> impl Strategy<Value = SamplerSettings> {
    let temperature = prop_oneof![Just(0.0f32), Just(0.8), Just(1.0), Just(1e-30), Just(1e-40), 0.01f32..5.0];
    let top_k = prop_oneof![Just(0usize), Just(1), Just(40), 2usize..200, 200usize..6000, Just(usize::MAX)];
    let top_p = prop_oneof![Just(1.0f32), Just(0.95), Just(0.0), 0.0f32..1.0, Just(0.9999)];
    let min_p = prop_oneof![Just(0.0f32), Just(0.05), Just(1.0), 0.0f32..1.0];
    let penalty = prop_oneof![Just(1.0f32), Just(2.0), 0.5f32..3.0];
    let last = prop_oneof![Just(64usize), Just(0), Just(usize::MAX), 1usize..120];
    (temperature, top_k, top_p, min_p, penalty, last).prop_map(
        |(temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n)| SamplerSettings {
            temperature,
            top_k,
            top_p,
            min_p,
            repeat_penalty,
            repeat_last_n,
            seed: Some(1),
        },
    )
}

/// Compares the GPU's choices with the reference's over `rounds` random numbers; how many differed within rounding.
fn check(seed: u64, vocab: u32, shape: Shape, settings: &SamplerSettings, rounds: usize) -> Result<usize, String> {
    let Some(mut gpu) = gpu::gpu() else { return Ok(0) };
    let mut cpu = cpu::open_reference(Activations::F32);
    let (mut gpu, mut cpu) = (Chooser::new(gpu.as_mut(), vocab), Chooser::new(cpu.as_mut(), vocab));
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut near = 0;
    for _ in 0..rounds {
        let logits = logits(rng, vocab, shape);
        let seen = rng.random_range(1..=CONTEXT);
        let history: Vec<u32> = (0..seen).map(|_| rng.random_range(0..vocab.min(300))).collect();
        let choice = Choice::new(settings, rng.random::<u64>() >> 11);
        let (got, reference) = (gpu.choose(&choice, &logits, &history), cpu.choose(&choice, &logits, &history));
        // A division may be a few units off in the last place.
        let far = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && (a - b).abs() > 4.0 * f32::EPSILON * b.abs();
        if let Some(at) = got.logits.iter().zip(&reference.logits).position(far) {
            return Err(format!("logit {at}: {} instead of {}", got.logits[at], reference.logits[at]));
        }
        for (at, (a, b)) in got.peaks.iter().zip(&reference.peaks).enumerate() {
            let same = settings.repeat_penalty != 1.0 || a.key == b.key;
            if !same || (a.mass - b.mass).abs() > 1e-5 * b.mass {
                return Err(format!("peak {at}: {a:?} instead of {b:?}"));
            }
        }
        if settings.repeat_penalty == 1.0 && got.leaders != reference.leaders {
            let at = got.leaders.iter().zip(&reference.leaders).position(|(a, b)| a != b).expect("one differs");
            return Err(format!("leader {at}: {:?} instead of {:?}", got.leaders[at], reference.leaders[at]));
        }
        if got.id != reference.id {
            near += 1;
            // Of the very logits that the GPU chose from.
            if !explained(&choice, &got.logits, got.id) {
                return Err(format!("token {} instead of {} by {choice:?}", got.id, reference.id));
            }
        }
    }
    Ok(near)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_choice_is_its_reference(
        (seed, vocab, shape) in (any::<u64>(), 1u32..9000, 0..SHAPES.len()),
        settings in settings(),
    ) {
        check(seed, vocab, SHAPES[shape], &settings, 4).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn a_rounding_error_moves_a_choice_no_farther_than_it_moves_cut_and_draw() {
    // Top-p cuts among thousands of tokens that it gives nearly nothing each, and that the draw gives much.
    let settings = SamplerSettings {
        temperature: 4.792054,
        top_k: 0,
        top_p: 0.9999,
        min_p: 0.0,
        repeat_penalty: 1.4113239,
        ..SamplerSettings::default()
    };
    check(1077853155163201463, 3496, Shape::Peaked, &settings, 4).unwrap();

    let logits = [3.0f32, 2.5, 2.0, -9.0];
    for top_p in [1.0, 0.9999] {
        let plain = SamplerSettings { temperature: 1.0, repeat_penalty: 1.0, top_p, ..settings.clone() };
        let explained_at = |uniform: f64| {
            let choice = Choice::new(&plain, (uniform * 2f64.powi(53)) as u64);
            [0, 1, 2, 3].map(|id| explained(&choice, &logits, id))
        };
        // Probabilities are 0.5065, 0.3072 and 0.1863.
        assert_eq!(explained_at(0.3), [true, false, false, false]);
        assert_eq!(explained_at(0.7), [false, true, false, false]);
        let end = 1.0 / (1.0 + (-0.5f64).exp() + (-1f64).exp());
        assert_eq!(explained_at(end), [true, true, false, false]);
    }
}

#[test]
fn large_vocabularies_are_drawn_from_by_every_way() {
    let default = SamplerSettings::default();
    let ways = [
        default.clone(),
        SamplerSettings { temperature: 0.0, ..default.clone() },
        SamplerSettings { top_k: 0, top_p: 1.0, min_p: 0.0, ..default.clone() },
        SamplerSettings { top_k: 0, top_p: 1.0, ..default.clone() },
        SamplerSettings { top_k: 0, min_p: 0.0, ..default.clone() },
        SamplerSettings { top_k: 5000, min_p: 0.0, temperature: 3.0, repeat_penalty: 1.3, ..default.clone() },
        SamplerSettings { top_k: 1024, top_p: 1.0, min_p: 0.0, temperature: 3.0, ..default },
    ];
    for vocab in LARGE {
        for shape in [Shape::Peaked, Shape::Ties] {
            for settings in &ways {
                check(3, vocab, shape, settings, 3).unwrap_or_else(|e| panic!("{vocab} {shape:?} {settings:?}: {e}"));
            }
        }
    }
}

/// Rounds that a test makes of each case, so that cases of 262144 tokens end in time.
fn rounds(vocab: u32) -> usize {
    if vocab < 10_000 { 8 } else { 2 }
}

#[test]
fn the_likeliest_tokens_are_found_wherever_they_are() {
    let default = SamplerSettings { temperature: 2.0, top_p: 1.0, min_p: 0.0, ..SamplerSettings::default() };
    let shapes =
        [Shape::Peaked, Shape::Ties, Shape::Odd, Shape::Infinite, Shape::Masked, Shape::Crowded, Shape::CrowdedTies];
    for vocab in [1, 200, 4_000, 49_152, 262_144] {
        for (shape, top_k) in shapes.iter().flat_map(|shape| [1, 40, 64, 200, 1000].map(|k| (*shape, k))) {
            let of_k = SamplerSettings { top_k, ..default.clone() };
            let of_p = SamplerSettings { top_p: 0.95, min_p: 0.05, ..of_k.clone() };
            for (seed, settings) in [(31, of_k), (32, of_p)] {
                check(seed, vocab, shape, &settings, rounds(vocab))
                    .unwrap_or_else(|e| panic!("{vocab} {shape:?} {settings:?}: {e}"));
            }
        }
    }
}

#[test]
fn a_block_may_have_more_of_the_likeliest_tokens_than_leaders() {
    let Some(mut gpu) = gpu::gpu() else { return };
    let (vocab, k) = (49_152, 24);
    let mut chooser = Chooser::new(gpu.as_mut(), vocab);
    // Within a block, over the border of two, in the last one, and as far apart as they can be.
    let (width, last) = (block(vocab), vocab - k);
    let places: [fn(u32, u32, u32) -> u32; 4] = [
        |at, width, _| 3 * width + 70 + at,
        |at, width, _| 5 * width - 9 + at,
        |at, _, last| last + at,
        |at, width, _| at * 2 * width + 5,
    ];
    let settings =
        SamplerSettings { temperature: 1.0, top_k: k as usize, top_p: 1.0, min_p: 0.0, ..Default::default() };
    for (case, place) in places.iter().enumerate() {
        for tie in [false, true] {
            // Less likely ones with greater ids, and after them one that is not to be drawn.
            let logit = |at: u32| if tie { 4.0 } else { 4.0 - at as f32 / 64.0 };
            let mut logits = vec![0.0; vocab as usize];
            (0..k).for_each(|at| logits[place(at, width, last) as usize] = logit(at));
            let weights: Vec<f64> = (0..k).map(|at| f64::from(logit(at)).exp()).collect();
            let whole: f64 = weights.iter().sum();
            let mut before = 0.0;
            for (at, weight) in (0..k).zip(weights) {
                let draw = (before + weight / 2.0) / whole;
                let choice = Choice::new(&settings, (draw * 2f64.powi(53)) as u64);
                let id = chooser.choose(&choice, &logits, &[3]).id;
                assert_eq!(id, place(at, width, last), "token {at} of case {case}, ties: {tie}");
                before += weight;
            }
        }
    }
}

#[test]
fn hundreds_of_draws_are_the_samplers() {
    let Some(mut gpu) = gpu::gpu() else { return };
    let vocab = 1000;
    let rng = &mut StdRng::seed_from_u64(5);
    let settings = SamplerSettings { seed: Some(11), temperature: 1.5, repeat_penalty: 1.2, ..Default::default() };
    let wide = SamplerSettings { top_k: 0, top_p: 1.0, min_p: 0.0, ..settings.clone() };
    for settings in [settings.clone(), wide] {
        for engine in [gpu.as_mut(), cpu::open().as_mut()] {
            let mut chooser = Chooser::new(engine, vocab);
            let mut sampler = Sampler::new(settings.clone()).unwrap();
            let mut other = Sampler::new(SamplerSettings { seed: Some(12), ..settings.clone() }).unwrap();
            let mut host = Sampler::new(settings.clone()).unwrap();
            let (mut same, mut control) = (0, 0);
            for _ in 0..400 {
                let logits = logits(rng, vocab, Shape::Peaked);
                let history: Vec<u32> = (0..50).map(|_| rng.random_range(0..vocab)).collect();
                let expected = host.sample(&logits, &history);
                same += usize::from(chooser.choose(&sampler.choice(), &logits, &history).id == expected);
                control += usize::from(chooser.choose(&other.choice(), &logits, &history).id == expected);
            }
            // A draw within a rounding error of where a token ends is one in ten thousand.
            assert!(same >= 398, "{same} of 400");
            assert!(control < 300, "{control} of 400 with another seed");
        }
    }
}

#[test]
fn another_setting_history_or_number_is_noticed() {
    let Some(mut gpu) = gpu::gpu() else { return };
    let mut chooser = Chooser::new(gpu.as_mut(), 4);
    let logits = [3.0f32, 2.5, 2.0, -9.0];
    let plain = SamplerSettings { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Default::default() };
    let mut at = |settings: &SamplerSettings, uniform: f64, history: &[u32]| {
        chooser.choose(&Choice::new(settings, (uniform * 2f64.powi(53)) as u64), &logits, history).id
    };
    // Probabilities about 0.51, 0.31, 0.19.
    assert_eq!([0.0, 0.5, 0.52, 0.8, 0.82, 0.99].map(|u| at(&plain, u, &[3])), [0, 0, 1, 1, 2, 2]);
    assert_eq!(at(&SamplerSettings { top_k: 1, ..plain.clone() }, 0.99, &[3]), 0);
    assert_eq!(at(&SamplerSettings { top_k: 2, ..plain.clone() }, 0.99, &[3]), 1);
    assert_eq!(at(&SamplerSettings { top_p: 0.6, ..plain.clone() }, 0.99, &[3]), 1);
    assert_eq!(at(&SamplerSettings { top_p: 0.0, ..plain.clone() }, 0.99, &[3]), 0);
    assert_eq!(at(&SamplerSettings { min_p: 0.5, ..plain.clone() }, 0.99, &[3]), 1);
    assert_eq!(at(&SamplerSettings { temperature: 0.1, ..plain.clone() }, 0.98, &[3]), 0);
    let penalty = SamplerSettings { repeat_penalty: 3.0, temperature: 0.0, repeat_last_n: 2, ..plain };
    assert_eq!(at(&penalty, 0.0, &[0, 3, 3]), 0);
    assert_eq!(at(&penalty, 0.0, &[3, 0, 3]), 1);
    assert_eq!(at(&penalty, 0.0, &[3, 0, 1]), 2);
}

/// What follows each of the last tokens of a step, by one run: a choice for each, and logits of V for each. The tokens
/// are of sequences of their own, which have 50 cells each.
fn choose_at_once(engine: &mut dyn Engine, choices: &[Choice], logits: &[f32], first: usize) -> Vec<Sampled> {
    let cell_tokens: Vec<u32> = (0..TOKENS * 50).map(|cell| cell * 7 % 300).collect();
    let row = |slot: u32| StepRow {
        position: 20 + 9 * slot,
        first_cell: 50 * slot,
        slot: slot % TOKENS,
        ..StepRow::zeroed()
    };
    // A token before them that nothing follows.
    let step_rows: Vec<StepRow> =
        std::iter::once(TOKENS).chain(first as u32..).map(row).take(choices.len() + 1).collect();
    let mut recording = Recording::new();
    let mut filled = |bytes: &[u8]| {
        let buffer = engine.create("test", bytes.len() as u64).expect("room for a test buffer");
        engine.write(buffer.all(), bytes);
        buffer.all()
    };
    let inputs = SampleInputs {
        choices: filled(bytemuck::cast_slice(choices)),
        step_rows: filled(bytemuck::cast_slice(&step_rows)),
        cell_tokens: filled(bytemuck::cast_slice(&cell_tokens)),
        logits: filled(bytemuck::cast_slice(logits)),
    };
    let sampled = filled(&[0; 8 * TOKENS as usize]);
    token::record(&mut recording, inputs, sampled);
    recording.read_back(sampled);
    let mut prepared = engine.prepare(recording).expect("the recording can be prepared");
    let read = engine.run(&mut prepared).expect("the recording runs");
    bytemuck::pod_collect_to_vec::<u8, Sampled>(&read[0])[first..first + choices.len()].to_vec()
}

#[test]
fn several_choices_in_one_run_are_those_of_each_alone() {
    let Some(mut gpu) = gpu::gpu() else { return };
    let rng = &mut StdRng::seed_from_u64(17);
    let (default, vocab) = (SamplerSettings { repeat_penalty: 1.3, ..SamplerSettings::default() }, 9001);
    let ways = [
        default.clone(),
        SamplerSettings { top_k: 0, top_p: 1.0, temperature: 2.0, ..default.clone() },
        SamplerSettings { top_k: 0, top_p: 0.999, min_p: 0.0, temperature: 1.5, ..default },
    ];
    for engine in [gpu.as_mut(), cpu::open().as_mut()] {
        let mut differ = 0;
        for round in 0..20 {
            let shape = [Shape::Peaked, Shape::Crowded][round % 2];
            let choices = ways.each_ref().map(|way| Choice::new(way, rng.random::<u64>() >> 11));
            let all: Vec<f32> = (0..TOKENS).flat_map(|_| logits(rng, vocab, shape)).collect();
            let together = choose_at_once(engine, &choices, &all, 0);
            for (at, (own, found)) in all.chunks_exact(vocab as usize).zip(&together).enumerate() {
                let alone = choose_at_once(engine, &choices[at..=at], own, at);
                assert_eq!(alone, [*found], "choice {at} by {:?}", choices[at]);
                let other = choose_at_once(engine, &[choices[(at + 1) % 3]], own, at);
                differ += usize::from(other != alone);
            }
        }
        assert!(differ > 10, "{differ} of 60 are others by another choice");
    }
}

/// Logits under a random mask and bias, by an engine.
fn constrained(engine: &mut dyn Engine, allowed: &[u32], bias: &[f32], logits: &[f32]) -> Vec<u32> {
    let mut create = |words: usize| engine.create("test", words as u64 * 4).expect("room for a test buffer");
    let (mask, add, place) = (create(allowed.len()), create(bias.len()), create(logits.len()));
    let mut recording = Recording::new();
    let inputs = ConstrainInputs { allowed: mask.all(), bias: add.all(), logits: place.all() };
    constrain_logits::record(&mut recording, inputs);
    recording.read_back(place.all());
    engine.write(mask.all(), bytemuck::cast_slice(allowed));
    engine.write(add.all(), bytemuck::cast_slice(bias));
    engine.write(place.all(), bytemuck::cast_slice(logits));
    let mut prepared = engine.prepare(recording).expect("the recording can be prepared");
    bytemuck::pod_collect_to_vec(&engine.run(&mut prepared).expect("the recording runs")[0])
}

#[test]
fn constrained_logits_are_those_of_the_reference() {
    let Some(mut gpu) = gpu::gpu() else { return };
    for (seed, vocab) in [(1, 1), (2, 31), (3, 257), (4, 9001), (5, LARGE[1])] {
        println!("seed {seed}, vocabulary of {vocab}");
        let rng = &mut StdRng::seed_from_u64(seed);
        let allowed: Vec<u32> = (0..vocab.div_ceil(32)).map(|_| rng.random()).collect();
        let bias: Vec<f32> = (0..vocab).map(|_| [0.0, rng.random_range(-9.0..9.0)][rng.random_range(0..2)]).collect();
        let logits: Vec<f32> = (0..vocab).map(|_| rng.random_range(-30.0..30.0)).collect();
        let expected = constrained(cpu::open().as_mut(), &allowed, &bias, &logits);
        assert_eq!(constrained(gpu.as_mut(), &allowed, &bias, &logits), expected);
        for (v, bits) in (0..vocab as usize).zip(&expected) {
            let is_allowed = allowed[v / 32] >> (v % 32) & 1 == 1;
            let is_right = if is_allowed { logits[v] + bias[v] } else { f32::NEG_INFINITY };
            assert_eq!(f32::from_bits(*bits), is_right, "token {v}");
        }
        let others: Vec<u32> = allowed.iter().map(|word| !word).collect();
        assert_ne!(constrained(gpu.as_mut(), &others, &bias, &logits), expected);
    }
}
