//! Ranges that a calibration pack gives, beside those that the weights alone would have.
//!
//! The range of depth 4 is chosen from those around the weights, and no training moves it. So one that lies far from
//! them was spoilt after the pack was written. The ranges of lower depths fit products in which weights make up for
//! each other, and training moves them. So these are only held to numbers of the size that the weights have.

use rayon::prelude::*;

use super::ranges::{self, GROUP};
use crate::format::codes::{GivenRanges, Range, V_BITS, pair_of};
use crate::precision::SLICES;

/// How many times as wide, or as narrow, a bin may be, and by how many bins of the weights' own range it may be moved.
const FARTHEST: f32 = 32.0;
/// How many times as large as the largest weight what a lower depth's range holds may be.
const LARGEST: f32 = 4.0;

/// A range that is not of the weights it is given for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StrayRange {
    /// The slice with which it lies.
    pub slice: usize,
    /// Row of the weights.
    pub row: usize,
    /// Group of the row.
    pub group: usize,
    /// The range given.
    pub given: Range,
    /// That of the weights alone.
    pub own: Range,
}

/// The first group of `weights`, [rows, input], all of them finite, whose given range is none of these weights.
pub fn first_stray(weights: &[f32], input: usize, given: GivenRanges<'_>) -> Option<StrayRange> {
    let groups = match given {
        GivenRanges::Pairs(pairs) => pairs.len() / 2,
        GivenRanges::Words(words) => words[0].len(),
    };
    let (size, in_row) = (weights.len() / groups, groups * input / weights.len());
    let largest = weights.par_iter().map(|weight| weight.abs()).reduce(|| 0.0, f32::max);
    let stray = |at: usize, weights: &[f32]| match given {
        GivenRanges::Pairs(pairs) => of_pair(weights, Range::of_pair([pairs[2 * at], pairs[2 * at + 1]])),
        GivenRanges::Words(words) => of_words(weights, largest, words.map(|words| words[at])),
    };
    let strays = weights.par_chunks_exact(size).enumerate().map(|(at, weights)| {
        let (slice, given, own) = stray(at, weights)?;
        Some(StrayRange { slice, row: at / in_row, group: at % in_row, given, own })
    });
    strays.find_first(Option::is_some).flatten()
}

/// The slice, the range given and that of the weights, where they are far apart.
fn of_pair(weights: &[f32], given: Range) -> Option<(usize, Range, Range)> {
    let own = Range::of_pair(pair_of(weights)?);
    is_far(given, own, own.step).then_some((0, given, own))
}

/// The same of words, in the order of [`GivenRanges::SLICES`], among weights of which the largest is so large.
fn of_words(weights: &[f32], largest: f32, words: [u16; 3]) -> Option<(usize, Range, Range)> {
    let [_, _, finest] = words;
    let (given, own) = (Range::of_word(finest), around(weights));
    if is_far(given, own, own.step) {
        return Some((SLICES - 1, given, own));
    }
    let weights: &[f32; GROUP] = weights.try_into().expect("chunks of a group");
    let mut lower = GivenRanges::SLICES.into_iter().zip(words).filter(|(slice, _)| slice + 1 < SLICES);
    lower.find_map(|(slice, word)| {
        let given = Range::of_word(word);
        let own = || Range::of_word(ranges::fitted_to(weights, finest, slice + 1));
        let reach = given.lo.abs().max((given.lo + 4.0 * given.step).abs());
        // The narrowest range is no fault of weights that are all zero.
        (reach > LARGEST * largest && reach > LARGEST * own().step).then(|| (slice, given, own()))
    })
}

/// The narrowest range that holds the weights and 0, as those of words do.
fn around(weights: &[f32]) -> Range {
    let (lo, hi) = weights.iter().fold((0f32, 0f32), |(lo, hi), weight| (lo.min(*weight), hi.max(*weight)));
    Range { lo, step: ((hi - lo) / 4.0).max(Range::of_word(*V_BITS.start()).step) }
}

fn is_far(given: Range, own: Range, bin: f32) -> bool {
    let wider = given.step / own.step;
    !(FARTHEST.recip()..=FARTHEST).contains(&wider) || (given.lo - own.lo).abs() > FARTHEST * bin
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::format::codes::RangeForm;
    use crate::quantize::compensate::ErrorMetric;
    use crate::quantize::moments::InputMoments;
    use crate::quantize::slices::{RowCodes, SlicedRows};

    const INPUT: usize = 128;

    /// Rows of groups of many sizes, some of them all zeros, all alike or of one sign.
    fn weights() -> Vec<f32> {
        let scale = |at: usize| [1.0, 1e-6, 0.0, 3e-3, 20.0][at / 64 % 5];
        let mut weights: Vec<f32> =
            (0..10 * INPUT).map(|at| scale(at) * (((at * 7919) % 1009) as f32 / 505.0 - 1.0)).collect();
        weights[..32].fill(0.25);
        weights[64..96].iter_mut().for_each(|weight| *weight = -0.1 - weight.abs());
        weights
    }

    #[test]
    fn ranges_of_the_weights_are_none_of_a_pack_that_was_spoilt() {
        let weights = weights();
        let mut sliced = SlicedRows::default();
        sliced.cut(&weights, INPUT, RangeForm::Pairs { group: 64 }, None).unwrap();
        assert_eq!(first_stray(&weights, INPUT, GivenRanges::Pairs(&sliced.pairs)), None);
        sliced.cut(&weights, INPUT, RangeForm::Words, None).unwrap();
        let [first, second, _, finest] = &sliced.words;
        assert_eq!(first_stray(&weights, INPUT, GivenRanges::Words([first, second, finest])), None);
        // As far as training goes.
        let moved = |word: &u16| {
            let range = Range::of_word(*word);
            Range { lo: range.lo - 2.0 * range.step, step: 2.0 * range.step }.to_word()
        };
        let moved: Vec<u16> = first.iter().map(moved).collect();
        assert_eq!(first_stray(&weights, INPUT, GivenRanges::Words([&moved, second, finest])), None);
    }

    /// What training starts from: ranges by inputs of which some are a thousand times as large as others.
    #[test]
    fn ranges_by_importance_are_none_of_a_pack_that_was_spoilt() {
        let rows = 4000;
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 24) as f32 * 2.0 - 1.0
        };
        let weights: Vec<f32> = (0..rows * INPUT).map(|_| random() * random() * random()).collect();
        let sizes: Vec<f32> = (0..INPUT).map(|_| (3.5 * random()).exp()).collect();
        let inputs: Vec<f32> = (0..512 * INPUT).map(|at| sizes[at % INPUT] * random()).collect();
        let mut moments = InputMoments::new(INPUT);
        moments.add(&inputs);
        let counts: Vec<f32> = sizes.iter().map(|size| size * size + 0.01).collect();
        for metric in [None, Some(ErrorMetric::new(&moments))] {
            let RowCodes { words, .. } = RowCodes::cut(&weights, INPUT, Some(&counts), metric.as_ref()).unwrap();
            let [first, second, _, finest] = &words;
            assert_eq!(first_stray(&weights, INPUT, GivenRanges::Words([first, second, finest])), None);
        }
    }

    #[test]
    fn a_range_far_from_that_of_the_weights_is_found_in_every_tensor() {
        let weights = weights();
        let mut sliced = SlicedRows::default();
        sliced.cut(&weights, INPUT, RangeForm::Words, None).unwrap();
        let given = [0, 1, 3].map(|slice| sliced.words[slice].clone());
        // Row 2 of four groups.
        let at = 2 * 4 + 2;
        let own = given.each_ref().map(|words| Range::of_word(words[at]).step);
        for (tensor, slice) in GivenRanges::SLICES.into_iter().enumerate() {
            let steps = [31.0, own[tensor] * 40.0, own[tensor] / 40.0];
            for step in &steps[..if slice + 1 == SLICES { 3 } else { 1 }] {
                let mut spoilt = given.clone();
                spoilt[tensor][at] = Range { lo: -step, step: *step }.to_word();
                let [first, second, finest] = &spoilt;
                let stray = first_stray(&weights, INPUT, GivenRanges::Words([first, second, finest])).unwrap();
                assert_eq!((stray.slice, stray.row, stray.group), (slice, 2, 2), "{step}: {stray:?}");
            }
        }
        sliced.cut(&weights, INPUT, RangeForm::Pairs { group: 64 }, None).unwrap();
        for [lo, step] in [[30.0, 0.5], [-1.0, 60.0], [-1.0, 1e-4]] {
            let mut pairs = sliced.pairs.clone();
            pairs[2 * 10..][..2].copy_from_slice(&[lo, step].map(f16::from_f32));
            let stray = first_stray(&weights, INPUT, GivenRanges::Pairs(&pairs)).unwrap();
            assert_eq!((stray.slice, stray.row, stray.group), (0, 5, 0), "{stray:?}");
        }
    }
}
