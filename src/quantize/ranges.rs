//! Chooses the ranges of a group from its weights, and from how much each of them counts.
//!
//! A weight counts as the mean square of the input that it is multiplied with, where that is known, and like any other
//! where it is not: then the squared errors below are those of what the product computes, inputs taken as independent.
//!
//! The range of depth 4 must hold the group. Among the words that do, the one is taken whose codes come nearest to the
//! weights at depths 2, 3 and 4 together, where each depth counts as the square of its bins. So a group that lies on a
//! grid of sixteen numbers, as those of four-bit GGUF files do, takes the grid's own bins, and four bits read it as it
//! is. The ranges of the other depths are then those of least squared error for the codes that there are.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::format::codes::{Range, V_BITS, WORD_GROUP, Z_MAX};
use crate::precision::SLICES;

/// What groups must be to have ranges, for messages.
pub const EXPECTED: &str = "finite weights, groups of 32 no wider than 126";
/// Weights of a group.
pub const GROUP: usize = WORD_GROUP as usize;
/// The widest range that is tried holds the group's this many times: a grid of sixteen numbers needs 16 / 15.
const WIDEST: f32 = 16.0 / 15.0 + 0.02;
/// Steps beside the best one that are tried for a lower depth.
pub const STEPS_BESIDE: i32 = 3;

/// What each weight of a group counts where nothing is known of its inputs.
const ALIKE: [f32; GROUP] = [1.0; GROUP];

/// The ranges of a group, a word for each depth, with what its weights count; `None` where a weight is not finite or no
/// word holds the group.
fn choose(weights: &[f32; GROUP], counts: &[f32; GROUP]) -> Option<[u16; SLICES]> {
    let finest = finest(weights)?;
    let codes = encode(weights, finest);
    let fitted = |slice: usize| fitted(weights, &codes, counts, slice + 1);
    Some(std::array::from_fn(|slice| if slice + 1 == SLICES { finest } else { fitted(slice) }))
}

/// A group that no range holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnfitWeight {
    /// Row of the weights.
    pub row: usize,
    /// The weight that is not finite, or the one farthest from zero.
    pub weight: f32,
}

impl UnfitWeight {
    /// That of a group, or a row.
    pub fn of(row: usize, weights: &[f32]) -> UnfitWeight {
        let farthest = |a: &f32, b: &f32| a.abs().total_cmp(&b.abs());
        let not_finite = weights.iter().find(|weight| !weight.is_finite());
        let weight = *not_finite.or_else(|| weights.iter().max_by(|a, b| farthest(a, b))).expect("a group has weights");
        UnfitWeight { row, weight }
    }
}

/// The ranges of all groups of `weights`, [rows, input], by what each number of the input counts, `[input]`, where that
/// is known; panics where groups do not divide them.
pub fn choose_all(weights: &[f32], input: usize, counts: Option<&[f32]>) -> Result<Vec<[u16; SLICES]>, UnfitWeight> {
    let (groups, rest) = weights.as_chunks::<GROUP>();
    assert!(rest.is_empty() && input.is_multiple_of(GROUP), "{} weights in groups of {GROUP}", weights.len());
    let counts = counts.map(|counts| {
        assert_eq!(counts.len(), input, "one count for each number of the input");
        counts.as_chunks::<GROUP>().0
    });
    let chosen = groups.par_iter().enumerate().map(|(at, group)| {
        let counts = counts.map_or(&ALIKE, |counts| &counts[at % counts.len()]);
        choose(group, counts).ok_or_else(|| UnfitWeight::of(at * GROUP / input, group))
    });
    chosen.collect()
}

/// The ranges of a group whose codes are made by `finest`, for the depth of so many slices.
pub fn fitted_to(weights: &[f32; GROUP], finest: u16, slices: usize) -> u16 {
    fitted(weights, &encode(weights, finest), &ALIKE, slices)
}

/// The codes of a group in the range of depth 4.
pub fn encode(weights: &[f32; GROUP], finest: u16) -> [u8; GROUP] {
    let range = Range::of_word(finest);
    weights.map(|weight| range.encode(weight))
}

/// The range of depth 4.
fn finest(weights: &[f32; GROUP]) -> Option<u16> {
    if !weights.iter().all(|weight| weight.is_finite()) {
        return None;
    }
    let (min, max) = weights.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), w| (a.min(*w), b.max(*w)));
    let least = Range { lo: 0.0, step: (max - min) / 4.0 }.to_word().saturating_sub(1).max(*V_BITS.start());
    let (mut best, mut narrowest): (Option<(f32, u16)>, Option<f32>) = (None, None);
    for v in least..=*V_BITS.end() {
        let step = Range::of_word(v).step;
        // The z of the ranges that hold the smallest and the largest weight.
        let first = (-32.0 * min / step).ceil().max(0.0);
        let last = (32.0 * (4.0 - max / step)).floor().min(f32::from(Z_MAX));
        if first > last {
            continue;
        }
        if step > *narrowest.get_or_insert(step) * WIDEST {
            break;
        }
        for z in first as u16..=last as u16 {
            let word = z << 9 | v;
            let error = error(weights, word);
            if best.is_none_or(|(least, _)| error < least) {
                best = Some((error, word));
            }
        }
    }
    best.map(|(_, word)| word)
}

/// The squared error at depths 2, 3 and 4, each in the square of its bins, with the best range for the first two.
#[multiversion(targets = "simd")]
fn error(weights: &[f32; GROUP], finest: u16) -> f32 {
    let range = Range::of_word(finest);
    let codes = encode(weights, finest);
    let lower: f32 = [2, 3]
        .map(|slices| Moments::of(weights, &codes, &ALIKE, slices).least_error() * weight_of(slices))
        .iter()
        .sum();
    let errors = weights.iter().zip(&codes).map(|(weight, code)| (range.decode(*code, SLICES) - weight).powi(2));
    lower + errors.sum::<f32>() * weight_of(SLICES)
}

fn weight_of(slices: usize) -> f32 {
    (1 << (4 * (slices - 1))) as f32
}

/// The range of least squared error for the codes at a depth of so many slices.
fn fitted(weights: &[f32; GROUP], codes: &[u8; GROUP], counts: &[f32; GROUP], slices: usize) -> u16 {
    let moments = Moments::of(weights, codes, counts, slices);
    let bins = (1u32 << (2 * (slices - 1))) as f32;
    // For codes that are all equal there is no best width, and this one needs no `lo` above 0.
    let of_equal = || moments.weight.abs() / (moments.code + 0.5);
    let step = moments.slope().unwrap_or_else(of_equal) * bins;
    let nearest = Range { lo: 0.0, step }.to_word();
    let words = (-STEPS_BESIDE..=STEPS_BESIDE).map(|beside| {
        let v = (i32::from(nearest) + beside).clamp(i32::from(*V_BITS.start()), i32::from(*V_BITS.end())) as u16;
        let step = Range::of_word(v).step;
        Range { lo: moments.weight - step / bins * (moments.code + 0.5), step }.to_word()
    });
    let error = |word: &u16| moments.error(Range::of_word(*word).bin(slices));
    words.min_by(|a, b| error(a).total_cmp(&error(b))).expect("some are tried")
}

/// Sums over the weights of a group and their codes at one depth, each weight as often as it counts.
struct Moments {
    /// The sum of what they count.
    count: f32,
    /// Mean weight.
    weight: f32,
    /// Mean code.
    code: f32,
    /// Sum of the squared distances of the weights from their mean, of those of the codes, and of their products.
    weights: f32,
    codes: f32,
    both: f32,
}

impl Moments {
    fn of(weights: &[f32; GROUP], codes: &[u8; GROUP], counts: &[f32; GROUP], slices: usize) -> Moments {
        let codes = codes.map(|code| f32::from(code >> (8 - 2 * slices)));
        let dot = |a: &[f32; GROUP], b: &[f32; GROUP]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let count = counts.iter().sum::<f32>();
        let (weight, code) = (dot(weights, counts) / count, dot(&codes, counts) / count);
        let (weights, codes) = (weights.map(|w| w - weight), codes.map(|c| c - code));
        let counted = |numbers: &[f32; GROUP]| std::array::from_fn(|at| numbers[at] * counts[at]);
        let (counted_weights, counted_codes) = (counted(&weights), counted(&codes));
        Moments {
            count,
            weight,
            code,
            weights: dot(&weights, &counted_weights),
            codes: dot(&codes, &counted_codes),
            both: dot(&weights, &counted_codes),
        }
    }

    /// The best width of a bin; `None` where all codes are equal.
    fn slope(&self) -> Option<f32> {
        (self.codes > 0.0).then(|| self.both / self.codes)
    }

    /// The squared error of the best range.
    fn least_error(&self) -> f32 {
        (self.weights - self.slope().map_or(0.0, |slope| slope * self.both)).max(0.0)
    }

    /// The squared error with bins of such a width and such a middle of the lowest.
    fn error(&self, (bin, middle): (f32, f32)) -> f32 {
        let off = self.code * bin + middle - self.weight;
        self.weights - 2.0 * bin * self.both + bin * bin * self.codes + self.count * off * off
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn squared_error(weights: &[f32; GROUP], words: &[u16; SLICES], slices: usize) -> f32 {
        let codes = encode(weights, words[3]);
        let range = Range::of_word(words[slices - 1]);
        weights.iter().zip(codes).map(|(w, code)| (range.decode(code, slices) - w).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn all_weights_are_within_a_finest_bin_and_no_depth_is_worse_than_in_the_codes_range(
            weights: [f32; GROUP], scale in 1e-3f32..30.0,
        ) {
            let weights = weights.map(|w| (w % 1.0) * scale);
            let words = choose(&weights, &ALIKE).unwrap();
            let (bin, _) = Range::of_word(words[3]).bin(SLICES);
            let codes = encode(&weights, words[3]);
            for (w, code) in weights.iter().zip(codes) {
                prop_assert!((Range::of_word(words[3]).decode(code, SLICES) - w).abs() <= 0.5001 * bin);
            }
            for slices in 1..SLICES {
                let own = squared_error(&weights, &words, slices);
                let shared = squared_error(&weights, &[words[3]; SLICES], slices);
                prop_assert!(own <= shared * 1.05 + 1e-9, "depth {slices}: {own} with its own range, {shared} without");
            }
        }

        #[test]
        fn a_grid_of_sixteen_is_read_by_two_slices(zero in 2.0f32..13.0, width in 0.01f32..0.1, seed: u32) {
            let random = |at: usize| (seed as usize).wrapping_mul(at * 2_654_435_761) >> 7 & 15;
            let level = |at: usize| match at {
                0 => 0,
                1 => 15,
                _ => random(at),
            };
            let weights = std::array::from_fn(|at| width * (level(at) as f32 - zero));
            let words = choose(&weights, &ALIKE).unwrap();
            let spread = GROUP as f32 * width * width / 12.0;
            // A third of the error of weights that lie anywhere, and mostly much less.
            let error = squared_error(&weights, &words, 2);
            prop_assert!(error < spread / 3.0, "{} of the error of others", error / spread);
        }
    }

    #[test]
    fn odd_groups_have_ranges_and_impossible_ones_have_none() {
        for weight in [0.0, 0.25, -0.25, 90.0, -90.0, 1e-7] {
            let words = choose(&[weight; GROUP], &ALIKE).unwrap();
            for slices in 1..=SLICES {
                let error = (squared_error(&[weight; GROUP], &words, slices) / GROUP as f32).sqrt();
                assert!(error <= 0.02 * weight.abs() + 2e-3, "{weight} at depth {slices}: {error}");
            }
        }
        let mut weights = [0.5; GROUP];
        weights[3] = f32::NAN;
        assert_eq!(choose(&weights, &ALIKE), None);
        weights[3] = 200.0;
        assert_eq!(choose(&weights, &ALIKE), None);
    }
}
