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
    /// Replaces the contents by the slices of `weights`, [rows, input], in groups of `group`; panics where `group` does
    /// not divide `input`.
    pub fn cut(&mut self, weights: &[f32], input: usize, group: usize) -> Result<(), UnfitWeight> {
        assert!(input.is_multiple_of(group) && group.is_multiple_of(WEIGHTS_PER_WORD), "groups of {group} in {input}");
        let words = weights.len() / WEIGHTS_PER_WORD;
        self.slices.iter_mut().for_each(|slice| slice.resize(words, 0));
        self.scales.resize(weights.len() / group * 2, f16::ZERO);

        let row_words = input / WEIGHTS_PER_WORD;
        let [s0, s1, s2, s3] = self.slices.each_mut().map(|slice| slice.par_chunks_exact_mut(row_words));
        let scales = self.scales.par_chunks_exact_mut(input / group * 2);
        let rows = weights.par_chunks_exact(input).zip(scales).zip(s0.zip(s1).zip(s2.zip(s3)));
        rows.enumerate().try_for_each(|(row, ((weights, scales), ((s0, s1), (s2, s3))))| {
            cut_row(weights, group, scales, [s0, s1, s2, s3]).map_err(|weight| UnfitWeight { row, weight })
        })
    }
}

/// One row; the error is the weight that does not fit.
fn cut_row(weights: &[f32], group: usize, scales: &mut [f16], slices: [&mut [u32]; SLICES]) -> Result<(), f32> {
    let group_words = group / WEIGHTS_PER_WORD;
    for (at, (weights, scale)) in weights.chunks_exact(group).zip(scales.chunks_exact_mut(2)).enumerate() {
        let range = Range::of(weights).ok_or_else(|| unfit(weights))?;
        scale.copy_from_slice(&[range.lo, range.step]);
        let (sixteens, _) = weights.as_chunks::<WEIGHTS_PER_WORD>();
        for (word, sixteen) in sixteens.iter().enumerate() {
            let packed = codes::pack(&sixteen.map(|weight| range.encode(weight)));
            for slice in 0..SLICES {
                slices[slice][at * group_words + word] = packed[slice];
            }
        }
    }
    Ok(())
}

fn unfit(weights: &[f32]) -> f32 {
    let farthest = |a: &f32, b: &f32| a.abs().total_cmp(&b.abs());
    let not_finite = weights.iter().find(|weight| !weight.is_finite());
    *not_finite.or_else(|| weights.iter().max_by(|a, b| farthest(a, b))).expect("a group has weights")
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
            let range = Range { lo: sliced.scales[scale], step: sliced.scales[scale + 1] };
            let words = sliced.slices.each_ref().map(|slice| slice[at / WEIGHTS_PER_WORD]);
            for depth in 1..=SLICES {
                let code = codes::unpack(&words[..depth])[at % WEIGHTS_PER_WORD];
                let decoded = range.decode(code << (8 - 2 * depth), depth);
                let bin = range.step.to_f32() / (1 << (2 * (depth - 1))) as f32;
                // Half a bin, f16's rounding of the range's ends, and f32's of values up to 1.
                let ends = (range.lo.to_f32().abs() + 4.0 * range.step.to_f32()) * 2.0f32.powi(-11);
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
}
