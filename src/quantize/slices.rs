//! Cuts rows of weights into slices, on all cores.

use half::f16;
use rayon::prelude::*;

use crate::format::codes::{self, Range, WEIGHTS_PER_WORD};
use crate::precision::SLICES;

/// Rows in slices, as they lie in the files. The buffers are kept from block to block.
#[derive(Debug, Default)]
pub struct SlicedRows {
    /// One word of each slice for every 16 weights: [SLICES][rows * input / 16].
    pub slices: [Vec<u32>; SLICES],
    /// `lo` and `step` of each group: [rows * input / G * 2].
    pub scales: Vec<f16>,
}

/// A group that no range of f16 holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnfitWeight {
    /// Row of the block.
    pub row: usize,
    /// The weight that is not finite, or the one farthest from zero.
    pub weight: f32,
}

impl SlicedRows {
    /// Replaces the contents by the slices of `weights`, [rows, input], in groups of `group`, each in the range of its
    /// smallest and its largest weight; panics where `group` does not divide `input`.
    pub fn cut(&mut self, weights: &[f32], input: usize, group: usize) -> Result<(), UnfitWeight> {
        self.scales.resize(weights.len() / group * 2, f16::ZERO);
        let groups = weights.par_chunks_exact(group).zip(self.scales.par_chunks_exact_mut(2));
        groups.enumerate().try_for_each(|(at, (weights, scale))| {
            let pair = codes::pair_of(weights).ok_or_else(|| unfit(at * group / input, weights))?;
            scale.copy_from_slice(&pair);
            Ok(())
        })?;
        self.encode(weights, input, group);
        Ok(())
    }

    /// As [`cut`](SlicedRows::cut), in the ranges given, [rows, input / group, 2]: a weight outside its range takes the
    /// code at the range's end.
    pub fn cut_in(&mut self, weights: &[f32], input: usize, group: usize, ranges: &[f16]) -> Result<(), UnfitWeight> {
        assert_eq!(ranges.len(), weights.len() / group * 2, "ranges of {} weights in groups of {group}", weights.len());
        let rows = weights.par_chunks_exact(input).enumerate();
        rows.try_for_each(|(row, weights)| {
            if weights.iter().all(|weight| weight.is_finite()) { Ok(()) } else { Err(unfit(row, weights)) }
        })?;
        self.scales.clear();
        self.scales.extend_from_slice(ranges);
        self.encode(weights, input, group);
        Ok(())
    }

    /// Replaces the slices by those of `weights` in the ranges of `scales`.
    fn encode(&mut self, weights: &[f32], input: usize, group: usize) {
        assert!(input.is_multiple_of(group) && group.is_multiple_of(WEIGHTS_PER_WORD), "groups of {group} in {input}");
        let words = weights.len() / WEIGHTS_PER_WORD;
        self.slices.iter_mut().for_each(|slice| slice.resize(words, 0));
        let row_words = input / WEIGHTS_PER_WORD;
        let [s0, s1, s2, s3] = self.slices.each_mut().map(|slice| slice.par_chunks_exact_mut(row_words));
        let scales = self.scales.par_chunks_exact(input / group * 2);
        let rows = weights.par_chunks_exact(input).zip(scales).zip(s0.zip(s1).zip(s2.zip(s3)));
        rows.for_each(|((weights, scales), ((s0, s1), (s2, s3)))| {
            encode_row(weights, group, scales, [s0, s1, s2, s3]);
        });
    }
}

fn encode_row(weights: &[f32], group: usize, scales: &[f16], slices: [&mut [u32]; SLICES]) {
    let group_words = group / WEIGHTS_PER_WORD;
    for (at, (weights, scale)) in weights.chunks_exact(group).zip(scales.chunks_exact(2)).enumerate() {
        let range = Range::of_pair([scale[0], scale[1]]);
        let (sixteens, _) = weights.as_chunks::<WEIGHTS_PER_WORD>();
        for (word, sixteen) in sixteens.iter().enumerate() {
            let packed = codes::pack(&sixteen.map(|weight| range.encode(weight)));
            for slice in 0..SLICES {
                slices[slice][at * group_words + word] = packed[slice];
            }
        }
    }
}

fn unfit(row: usize, weights: &[f32]) -> UnfitWeight {
    let farthest = |a: &f32, b: &f32| a.abs().total_cmp(&b.abs());
    let not_finite = weights.iter().find(|weight| !weight.is_finite());
    let weight = *not_finite.or_else(|| weights.iter().max_by(|a, b| farthest(a, b))).expect("a group has weights");
    UnfitWeight { row, weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_comes_back_within_half_a_bin() {
        let (rows, input, group) = (5, 192, 64);
        let weights: Vec<f32> = (0..rows * input).map(|i| ((i * 7919) % 1009) as f32 / 505.0 - 1.0).collect();
        let mut sliced = SlicedRows::default();
        sliced.cut(&weights, input, group).unwrap();

        for (at, weight) in weights.iter().enumerate() {
            let scale = at / group * 2;
            let range = Range::of_pair([sliced.scales[scale], sliced.scales[scale + 1]]);
            let words = sliced.slices.each_ref().map(|slice| slice[at / WEIGHTS_PER_WORD]);
            for depth in 1..=SLICES {
                let code = codes::unpack(&words[..depth])[at % WEIGHTS_PER_WORD];
                let decoded = range.decode(code << (8 - 2 * depth), depth);
                let bin = range.step / (1 << (2 * (depth - 1))) as f32;
                // Half a bin, f16's rounding of the range's ends, and f32's of values up to 1.
                let ends = (range.lo.abs() + 4.0 * range.step) * 2.0f32.powi(-11);
                assert!((decoded - weight).abs() <= bin / 2.0 + ends + 1e-6, "weight {at} at depth {depth}");
            }
        }
    }

    #[test]
    fn the_row_and_the_weight_that_do_not_fit_are_named() {
        let mut weights = vec![0.5; 4 * 64];
        weights[2 * 64 + 3] = f32::NAN;
        let fault = SlicedRows::default().cut(&weights, 64, 64).unwrap_err();
        assert!(fault.row == 2 && fault.weight.is_nan());

        weights[2 * 64 + 3] = -1e5;
        assert_eq!(SlicedRows::default().cut(&weights, 64, 64), Err(UnfitWeight { row: 2, weight: -1e5 }));
    }

    #[test]
    fn weights_outside_a_given_range_take_the_codes_at_its_ends() {
        let (lo, step) = (f16::from_f32(-0.5), f16::from_f32(0.25));
        let mut weights = vec![0.0; 64];
        weights[..3].copy_from_slice(&[-9.0, 9.0, 0.125]);
        let mut sliced = SlicedRows::default();
        sliced.cut_in(&weights, 64, 64, &[lo, step]).unwrap();
        assert_eq!(sliced.scales, [lo, step]);
        let codes = codes::unpack(&sliced.slices.each_ref().map(|slice| slice[0]));
        assert_eq!(codes[..4], [0, 255, 160, 128]);

        weights[5] = f32::INFINITY;
        let fault = sliced.cut_in(&weights, 64, 64, &[lo, step]);
        assert_eq!(fault, Err(UnfitWeight { row: 0, weight: f32::INFINITY }));
    }
}
