//! Ranges of least error in what a product computes, for codes that are there already.
//!
//! Two numbers of a group's range can make up for errors of other groups of the row. So the groups of a row are taken
//! one after the other, and each gets the range that is best with those that the others have.

use multiversion::multiversion;

use super::compensate::{MetricBlock, products};
use super::ranges::{GROUP, STEPS_BESIDE};
use crate::format::codes::{Range, V_BITS, Z_MAX};

/// How far the codes of a group must differ, relative to their size, for there to be a best width of bins.
const LEAST_SPREAD: f32 = 1e-4;

/// Replaces the ranges of a block's columns at a depth of so many slices, in rows of weights, [rows, width], by better
/// ones; `words` has one of each 32 weights.
pub fn refit(block: &MetricBlock, weights: &[f32], codes: &[u8], width: usize, slices: usize, words: &mut [u16]) {
    let (rows, n) = (weights.len() / width, block.n);
    let mut errors = Vec::with_capacity(rows * n);
    for row in 0..rows {
        let first = row * width + block.first;
        let error = |at: usize| Range::of_word(words[at / GROUP]).decode(codes[at], slices) - weights[at];
        errors.extend((first..first + n).map(error));
    }
    let mut pulls = Vec::new();
    for group in (0..n).step_by(GROUP) {
        products(&errors, &block.metric, (n, group, 0), &mut pulls);
        let metric: [[f32; GROUP]; GROUP] = std::array::from_fn(|i| {
            let row = &block.metric[(group + i) * n + group..];
            *row.first_chunk().expect("groups divide a block")
        });
        let ones = metric.iter().flatten().sum();
        for (row, pulls) in pulls.as_chunks::<GROUP>().0.iter().enumerate() {
            let at = row * width + block.first + group;
            let errors = errors[row * n + group..].first_chunk_mut().expect("groups divide a block");
            let weights = weights[at..].first_chunk().expect("groups divide a row");
            let codes = std::array::from_fn(|i| f32::from(codes[at + i] >> (8 - 2 * slices)));
            let word = &mut words[at / GROUP];
            *word = best(&GroupFit::new((&metric, ones), weights, &codes, (errors, pulls)), *word, slices);
            let (bin, middle) = Range::of_word(*word).bin(slices);
            *errors = std::array::from_fn(|i| codes[i] * bin + middle - weights[i]);
        }
    }
}

/// The error of a row as it depends on the range of one of its groups: a sum over codes c and ones.
struct GroupFit {
    /// c^T H c, c^T H 1 and 1^T H 1
    codes: f32,
    both: f32,
    ones: f32,
    /// c^T and 1^T times what H of the best numbers would be.
    codes_goal: f32,
    ones_goal: f32,
}

impl GroupFit {
    /// That of a group with these weights, codes and errors, of whose row `pulls` is H times all errors.
    fn new(
        (metric, ones): (&[[f32; GROUP]; GROUP], f32),
        weights: &[f32; GROUP],
        codes: &[f32; GROUP],
        (errors, pulls): (&[f32; GROUP], &[f32; GROUP]),
    ) -> GroupFit {
        let dot = |a: &[f32; GROUP], b: &[f32; GROUP]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let of_codes = times(metric, codes);
        let numbers = times(metric, &std::array::from_fn(|i| weights[i] + errors[i]));
        let goal: [f32; GROUP] = std::array::from_fn(|i| numbers[i] - pulls[i]);
        GroupFit {
            codes: dot(codes, &of_codes),
            both: of_codes.iter().sum(),
            ones,
            codes_goal: dot(codes, &goal),
            ones_goal: goal.iter().sum(),
        }
    }

    /// The row's error with bins of such a width and such a middle of the lowest, up to a constant.
    fn error(&self, (bin, middle): (f32, f32)) -> f32 {
        bin * (bin * self.codes + 2.0 * middle * self.both - 2.0 * self.codes_goal)
            + middle * (middle * self.ones - 2.0 * self.ones_goal)
    }

    /// The best width of a bin; `None` where the codes hardly differ.
    fn bin(&self) -> Option<f32> {
        let spread = self.codes * self.ones - self.both * self.both;
        let bin = (self.codes_goal * self.ones - self.ones_goal * self.both) / spread;
        (spread > LEAST_SPREAD * self.codes * self.ones).then_some(bin)
    }
}

/// The best of some words about the best range, and the one that there is.
fn best(fit: &GroupFit, now: u16, slices: usize) -> u16 {
    let bins = (1u32 << (2 * (slices - 1))) as f32;
    let step = fit.bin().map_or(Range::of_word(now).step, |bin| bin * bins);
    let nearest = i32::from(Range { lo: 0.0, step }.to_word());
    let words = (-STEPS_BESIDE..=STEPS_BESIDE).map(|beside| {
        let v = (nearest + beside).clamp(i32::from(*V_BITS.start()), i32::from(*V_BITS.end())) as u16;
        let step = Range::of_word(v).step;
        let middle = (fit.ones_goal - step / bins * fit.both) / fit.ones;
        let z = ((middle / step - 0.5 / bins) * -32.0).round().clamp(0.0, f32::from(Z_MAX)) as u16;
        z << 9 | v
    });
    let error = |word: &u16| fit.error(Range::of_word(*word).bin(slices));
    std::iter::once(now).chain(words).min_by(|a, b| error(a).total_cmp(&error(b))).expect("one is there")
}

/// The product of a symmetric matrix with a column.
#[multiversion(targets = "simd")]
fn times(matrix: &[[f32; GROUP]; GROUP], column: &[f32; GROUP]) -> [f32; GROUP] {
    let mut out = [0f32; GROUP];
    for (row, x) in matrix.iter().zip(column) {
        out.iter_mut().zip(row).for_each(|(out, number)| *out += number * x);
    }
    out
}
