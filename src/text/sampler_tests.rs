//! Tests of the sampler: what may be drawn, how often, and that a seed says it all.

use proptest::prelude::*;

use super::*;
use crate::error::Error;

/// Nothing is left out and nothing bent: the softmax itself.
fn plain(seed: u32) -> SamplerSettings {
    SamplerSettings { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: Some(seed), ..Default::default() }
}

fn sampler(settings: SamplerSettings) -> Sampler {
    Sampler::new(settings).unwrap()
}

/// Softmax by its definition.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let parts: Vec<f64> = logits.iter().map(|l| f64::from(l - max).exp()).collect();
    let total: f64 = parts.iter().sum();
    parts.into_iter().map(|p| p / total).collect()
}

/// How often each token comes in `draws` draws.
fn counts(sampler: &mut Sampler, logits: &[f32], history: &[u32], draws: usize) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    (0..draws).for_each(|_| counts[sampler.sample(logits, history) as usize] += 1);
    counts
}

#[test]
fn temperature_zero_takes_the_likeliest_and_the_lower_id_of_two() {
    let mut greedy = sampler(SamplerSettings { temperature: 0.0, ..Default::default() });
    assert_eq!(greedy.sample(&[0.5, 3.0, -1.0, 3.0], &[]), 1);
}

#[test]
fn a_seed_repeats_its_draws_and_another_does_not() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 500.0).collect();
    let draws = |seed| {
        let mut s = sampler(plain(seed));
        (0..50).map(|_| s.sample(&logits, &[])).collect::<Vec<u32>>()
    };
    assert_eq!(draws(7), draws(7));
    assert_ne!(draws(7), draws(8));
    let mut unseeded = sampler(SamplerSettings { seed: None, ..plain(0) });
    let mut again = sampler(plain(unseeded.seed()));
    assert_eq!(unseeded.sample(&logits, &[]), again.sample(&logits, &[]));
}

#[test]
fn the_random_numbers_are_chacha12_whatever_the_library() {
    // First 16 bytes of ChaCha12's key stream for an all-zero key and nonce (draft-strombergson-chacha-test-vectors-01,
    // TC1, 256-bit key, 12 rounds).
    let words = [
        u64::from_le_bytes([0x9b, 0xf4, 0x9a, 0x6a, 0x07, 0x55, 0xf9, 0x53]),
        u64::from_le_bytes([0x81, 0x1f, 0xce, 0x12, 0x5f, 0x26, 0x83, 0xd5]),
    ];
    let mut s = sampler(plain(0));
    for word in words {
        assert_eq!(s.choice().uniform(), (word >> 11) as f64 / (1u64 << 53) as f64);
    }
}

#[test]
fn a_rewound_sampler_draws_again() {
    let mut s = sampler(plain(9));
    s.choice();
    let before = s.position();
    let drawn = [s.choice(), s.choice(), s.choice()];
    assert_ne!(drawn[0], drawn[1]);
    s.rewind(before);
    assert_eq!([s.choice(), s.choice(), s.choice()], drawn);
    let mut greedy = sampler(SamplerSettings { temperature: 0.0, ..plain(9) });
    let start = greedy.position();
    greedy.choice();
    assert_eq!(greedy.position(), start, "the likeliest token takes no random number");
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [2.0f32, 1.0, 0.0, -1.0, 1.5, -0.5, 0.25, 1.0];
    let draws = 40_000;
    let seen = counts(&mut sampler(plain(1)), &logits, &[], draws);
    let chi_square: f64 = softmax(&logits)
        .iter()
        .zip(&seen)
        .map(|(p, n)| (*n as f64 - p * draws as f64).powi(2) / (p * draws as f64))
        .sum();
    // The 99.9th percentile of chi-square with 7 degrees of freedom; the seed is fixed, so this never flickers.
    assert!(chi_square < 24.32, "{chi_square}: {seen:?}");
}

#[test]
fn temperature_sharpens_and_flattens() {
    let logits = [1.0f32, 0.0];
    let share = |temperature| {
        let settings = SamplerSettings { temperature, ..plain(3) };
        counts(&mut sampler(settings), &logits, &[], 20_000)[0] as f64 / 20_000.0
    };
    for temperature in [0.5f32, 1.0, 2.0] {
        let expected = 1.0 / (1.0 + (-1.0 / f64::from(temperature)).exp());
        // Four standard deviations of a share of 20,000 draws are at most 0.0142.
        assert!((share(temperature) - expected).abs() < 0.0142, "at {temperature}");
    }
    assert_eq!(share(1e-30), 1.0);
}

#[test]
fn a_penalized_token_gets_rarer_in_both_signs_and_only_lately() {
    for logits in [[1.0f32, 0.8, 0.6], [-1.0, -1.2, -1.4]] {
        let settings = SamplerSettings { repeat_penalty: 1.5, repeat_last_n: 2, ..plain(5) };
        let before = counts(&mut sampler(settings.clone()), &logits, &[], 20_000)[0];
        let after = counts(&mut sampler(settings.clone()), &logits, &[0, 0], 20_000)[0];
        let forgotten = counts(&mut sampler(settings), &logits, &[0, 9, 9], 20_000)[0];
        assert!(after + 1000 < before, "{after} against {before}");
        assert_eq!(before, forgotten);
    }
}

#[test]
fn min_p_is_measured_before_the_temperature() {
    // Probabilities relative to the likeliest: 1, 0.37, 0.05; a temperature of 5 would lift the last to 0.55.
    let settings = SamplerSettings { min_p: 0.1, temperature: 5.0, ..plain(2) };
    let seen = counts(&mut sampler(settings), &[3.0, 2.0, 0.0], &[], 5_000);
    assert!(seen[1] > 0 && seen[2] == 0, "{seen:?}");
}

#[test]
fn numbers_that_are_none_are_never_drawn() {
    let nan = f32::NAN;
    for temperature in [0.0, 0.8] {
        let mut s = sampler(SamplerSettings { temperature, seed: Some(1), ..Default::default() });
        assert_eq!(s.sample(&[nan, f32::NEG_INFINITY, -3.0, nan], &[]), 2);
        assert_eq!(s.sample(&[0.0, f32::INFINITY, 3.0], &[]), 1);
        assert_eq!(s.sample(&[nan, nan], &[]), 0);
        assert_eq!(s.sample(&[f32::NEG_INFINITY; 3], &[7, u32::MAX]), 0);
    }
}

#[test]
fn settings_that_no_draw_could_follow_are_refused_by_name() {
    let default = SamplerSettings::default;
    for (settings, named) in [
        (SamplerSettings { temperature: -0.1, ..default() }, "temperature"),
        (SamplerSettings { temperature: f32::NAN, ..default() }, "temperature"),
        (SamplerSettings { top_p: 1.1, ..default() }, "top-p"),
        (SamplerSettings { min_p: -0.5, ..default() }, "min-p"),
        (SamplerSettings { repeat_penalty: 0.0, ..default() }, "repeat penalty"),
        // Logits became infinite, and the model was blamed for it.
        (SamplerSettings { repeat_penalty: 1e-40, ..default() }, "repeat penalty"),
        (SamplerSettings { repeat_penalty: 1e30, ..default() }, "repeat penalty"),
        (SamplerSettings { repeat_penalty: f32::NAN, ..default() }, "repeat penalty"),
    ] {
        assert!(matches!(Sampler::new(settings), Err(Error::InvalidArgument { name, .. }) if name == named));
    }
}

proptest! {
    #[test]
    fn the_choice_is_always_within_what_is_kept(
        logits in prop::collection::vec(-20.0f32..20.0, 1..2000),
        (top_k, top_p, min_p) in (0usize..50, 0.0f32..=1.0, 0.0f32..0.5),
        (temperature, seed) in (0.01f32..3.0, any::<u32>()),
    ) {
        let settings = SamplerSettings { temperature, top_k, top_p, min_p, ..plain(seed) };
        let id = sampler(settings).sample(&logits, &[]) as usize;
        // By definition, with a full sort: those before it in the order, and their share among the top k.
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        if top_k > 0 {
            order.truncate(top_k);
        }
        let sorted: Vec<f32> = order.iter().map(|i| logits[*i]).collect();
        let probabilities = softmax(&sorted);
        let rank = order.iter().position(|i| *i == id);
        prop_assert!(rank.is_some(), "outside the top k");
        let rank = rank.unwrap();
        let before: f64 = probabilities[..rank].iter().sum();
        // The sum has at most 2000 terms of f64; its rounding stays below this by far.
        prop_assert!(rank == 0 || before < f64::from(top_p) + 1e-9, "outside the nucleus: {before}");
        prop_assert!(probabilities[rank] >= probabilities[0] * f64::from(min_p) * (1.0 - 1e-5), "below min-p");
    }
}
