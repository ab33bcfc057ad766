//! Cuts rows of weights into slices, on all cores.

use half::f16;
use rayon::prelude::*;

use super::compensate::ErrorMetric;
use super::ranges::{self, GROUP, UnfitWeight};
use super::refit::refit;
use crate::format::codes::{self, GivenRanges, Range, RangeForm, WEIGHTS_PER_WORD, pair_of};
use crate::precision::SLICES;

/// Rows whose weights are compensated at a time by one thread.
const ROWS_AT_ONCE: usize = 8;

/// Rows in slices, as they lie in the files. The buffers are kept from block to block.
#[derive(Debug, Default)]
pub struct SlicedRows {
    /// One word of each slice for every 16 weights: [SLICES][rows * input / 16].
    pub slices: [Vec<u32>; SLICES],
    /// Where ranges are pairs, `lo` and `step` of each group: [rows * input / G * 2].
    pub pairs: Vec<f16>,
    /// Where ranges are words, those of each depth: [SLICES][rows * input / 32].
    pub words: [Vec<u16>; SLICES],
}

impl SlicedRows {
    /// Replaces the contents by the slices of `weights`, [rows, input], in ranges that are chosen by the weights, and
    /// where they are words also by what each number of the input counts, `[input]`, if that is known; panics where the
    /// groups do not divide `input`.
    pub fn cut(
        &mut self,
        weights: &[f32],
        input: usize,
        form: RangeForm,
        counts: Option<&[f32]>,
    ) -> Result<(), UnfitWeight> {
        let group = form.group() as usize;
        let groups = weights.len() / group;
        self.clear();
        match form {
            RangeForm::Pairs { .. } => {
                self.pairs.resize(groups * 2, f16::ZERO);
                let groups = weights.par_chunks_exact(group).zip(self.pairs.par_chunks_exact_mut(2));
                groups.enumerate().try_for_each(|(at, (weights, pair))| {
                    pair.copy_from_slice(
                        &pair_of(weights).ok_or_else(|| UnfitWeight::of(at * group / input, weights))?,
                    );
                    Ok(())
                })?;
            }
            RangeForm::Words => {
                let chosen = ranges::choose_all(weights, input, counts)?;
                for (slice, words) in self.words.iter_mut().enumerate() {
                    words.extend(chosen.iter().map(|words| words[slice]));
                }
            }
        }
        self.encode(weights, input, group);
        Ok(())
    }

    /// As [`cut`](SlicedRows::cut), in the ranges given: a weight outside its range takes the code at the range's end.
    pub fn cut_in(&mut self, weights: &[f32], input: usize, given: GivenRanges<'_>) -> Result<(), UnfitWeight> {
        let rows = weights.par_chunks_exact(input).enumerate();
        rows.try_for_each(|(row, weights)| {
            if weights.iter().all(|weight| weight.is_finite()) { Ok(()) } else { Err(UnfitWeight::of(row, weights)) }
        })?;
        self.clear();
        let group = match given {
            GivenRanges::Pairs(pairs) => {
                self.pairs.extend_from_slice(pairs);
                weights.len() / (pairs.len() / 2)
            }
            GivenRanges::Words([first, second, finest]) => {
                self.words = [first.to_vec(), second.to_vec(), third_of(weights, finest), finest.to_vec()];
                GROUP
            }
        };
        self.encode(weights, input, group);
        Ok(())
    }

    /// Makes the codes of depth 4 compensate for each other's errors, as the metric of these weights' columns counts
    /// them, where `weights` were just cut. The upper four bits of each code stay. Where ranges are words, those of the
    /// lower depths are then fitted to the products; of ranges that were given, that of depth 3 alone.
    pub fn compensate(&mut self, weights: &[f32], metric: &ErrorMetric, form: RangeForm, are_given: bool) {
        let (width, group) = (metric.width(), form.group() as usize);
        let mut all_codes = self.codes();
        let part = ROWS_AT_ONCE * width;
        let (pairs, finest) = (&self.pairs, &self.words[SLICES - 1]);
        let parts = weights.par_chunks(part).zip(all_codes.par_chunks_mut(part)).enumerate();
        parts.for_each(|(at, (weights, codes))| {
            let range = |of_part: usize| range_of(pairs, finest, (at * part + of_part * GROUP) / group);
            metric.blocks().iter().for_each(|block| block.round(weights, codes, width, &range));
        });
        for (word, sixteen) in all_codes.as_chunks().0.iter().enumerate() {
            let packed = codes::pack(sixteen);
            self.slices.iter_mut().zip(packed).for_each(|(slice, packed)| slice[word] = packed);
        }
        if form == RangeForm::Words {
            for slice in (0..SLICES - 1).filter(|slice| !(are_given && GivenRanges::SLICES.contains(slice))) {
                let parts = weights.par_chunks(part).zip(all_codes.par_chunks(part));
                let parts = parts.zip(self.words[slice].par_chunks_mut(part / GROUP));
                parts.for_each(|((weights, codes), words)| {
                    metric.blocks().iter().for_each(|block| refit(block, weights, codes, width, slice + 1, words));
                });
            }
        }
    }

    /// The squared error of these rows, [rows, input], of which `weights` were cut, as so many slices have them. Each
    /// number of the input counts as said.
    pub fn squared_error(&self, weights: &[f32], input: usize, form: RangeForm, counts: &[f32], slices: usize) -> f64 {
        let group = form.group() as usize;
        let row_words = input / WEIGHTS_PER_WORD;
        let of_row = |(row, weights): (usize, &[f32])| -> f64 {
            let sixteens = weights.as_chunks::<WEIGHTS_PER_WORD>().0.iter().zip(counts.as_chunks().0);
            let of_word = |(word, (weights, counts)): (usize, (&[f32; WEIGHTS_PER_WORD], &[f32; WEIGHTS_PER_WORD]))| {
                let at = row * row_words + word;
                let range = self.range(at * WEIGHTS_PER_WORD / group, slices);
                let codes = codes::unpack(&self.slices.each_ref().map(|slice| slice[at]));
                let numbers = codes.iter().zip(weights.iter().zip(counts));
                numbers
                    .map(|(code, (weight, count))| count * (range.decode(*code, slices) - weight).powi(2))
                    .sum::<f32>()
            };
            sixteens.enumerate().map(|sixteen| f64::from(of_word(sixteen))).sum()
        };
        // Summed up in the order of rows, so that it is the same each time.
        weights.par_chunks_exact(input).enumerate().map(of_row).collect::<Vec<_>>().iter().sum()
    }

    /// The codes of all weights.
    fn codes(&self) -> Vec<u8> {
        let words = 0..self.slices[0].len();
        words.flat_map(|word| codes::unpack(&self.slices.each_ref().map(|slice| slice[word]))).collect()
    }

    /// The range of a group at a depth of so many slices.
    fn range(&self, group: usize, slices: usize) -> Range {
        range_of(&self.pairs, &self.words[slices - 1], group)
    }

    fn clear(&mut self) {
        self.pairs.clear();
        self.words.iter_mut().for_each(Vec::clear);
    }

    /// Replaces the slices by those of `weights` in the ranges of depth 4.
    fn encode(&mut self, weights: &[f32], input: usize, group: usize) {
        assert!(input.is_multiple_of(group) && group.is_multiple_of(WEIGHTS_PER_WORD), "groups of {group} in {input}");
        let words = weights.len() / WEIGHTS_PER_WORD;
        self.slices.iter_mut().for_each(|slice| slice.resize(words, 0));
        let row_words = input / WEIGHTS_PER_WORD;
        let [s0, s1, s2, s3] = self.slices.each_mut().map(|slice| slice.par_chunks_exact_mut(row_words));
        let rows = weights.par_chunks_exact(input).zip(s0.zip(s1).zip(s2.zip(s3)));
        let (pairs, finest) = (&self.pairs, &self.words[SLICES - 1]);
        rows.enumerate().for_each(|(row, (weights, ((s0, s1), (s2, s3))))| {
            let first = row * input / group;
            let range = |at: usize| range_of(pairs, finest, first + at);
            encode_row(weights, group, &range, [s0, s1, s2, s3]);
        });
    }
}

/// Rows in codes, and the ranges of their groups in words.
#[derive(Debug, Clone, PartialEq)]
pub struct RowCodes {
    /// Of eight bits, one for each weight.
    pub codes: Vec<u8>,
    /// Those of each depth: [SLICES][rows * input / 32].
    pub words: [Vec<u16>; SLICES],
}

impl RowCodes {
    /// What `SlicedRows` makes of `weights`, [rows, input], by what each number of the input counts, `[input]`, and
    /// by how the errors of weights add up, where these are known. Codes and the range of depth 3 are those that follow
    /// from the other ranges where these are given.
    pub fn cut(
        weights: &[f32],
        input: usize,
        counts: Option<&[f32]>,
        metric: Option<&ErrorMetric>,
    ) -> Result<RowCodes, UnfitWeight> {
        let mut sliced = SlicedRows::default();
        sliced.cut(weights, input, RangeForm::Words, counts)?;
        sliced.words[2] = third_of(weights, &sliced.words[3]);
        if let Some(metric) = metric {
            sliced.compensate(weights, metric, RangeForm::Words, false);
        }
        Ok(RowCodes { codes: sliced.codes(), words: sliced.words })
    }
}

/// The words of depth 3 that go with given ones of depth 4.
fn third_of(weights: &[f32], finest: &[u16]) -> Vec<u16> {
    let groups = weights.par_chunks_exact(GROUP).zip(finest);
    groups.map(|(weights, finest)| ranges::fitted_to(as_group(weights), *finest, 3)).collect()
}

/// The range of a group: a pair where there are pairs, else a word.
fn range_of(pairs: &[f16], words: &[u16], group: usize) -> Range {
    match pairs.get(2 * group..2 * group + 2) {
        Some(pair) => Range::of_pair([pair[0], pair[1]]),
        None => Range::of_word(words[group]),
    }
}

fn as_group(weights: &[f32]) -> &[f32; GROUP] {
    weights.try_into().expect("chunks of a group")
}

fn encode_row(weights: &[f32], group: usize, range: &dyn Fn(usize) -> Range, slices: [&mut [u32]; SLICES]) {
    let group_words = group / WEIGHTS_PER_WORD;
    for (at, weights) in weights.chunks_exact(group).enumerate() {
        let range = range(at);
        let (sixteens, _) = weights.as_chunks::<WEIGHTS_PER_WORD>();
        for (word, sixteen) in sixteens.iter().enumerate() {
            let packed = codes::pack(&sixteen.map(|weight| range.encode(weight)));
            for slice in 0..SLICES {
                slices[slice][at * group_words + word] = packed[slice];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: RangeForm = RangeForm::Pairs { group: 64 };

    #[test]
    fn every_weight_comes_back_within_half_a_bin() {
        let (rows, input) = (5, 192);
        let weights: Vec<f32> = (0..rows * input).map(|i| ((i * 7919) % 1009) as f32 / 505.0 - 1.0).collect();
        for form in [PAIRS, RangeForm::Words] {
            let mut sliced = SlicedRows::default();
            sliced.cut(&weights, input, form, None).unwrap();
            for (at, weight) in weights.iter().enumerate() {
                let group = at / form.group() as usize;
                let range = match form {
                    RangeForm::Pairs { .. } => Range::of_pair([sliced.pairs[2 * group], sliced.pairs[2 * group + 1]]),
                    RangeForm::Words => Range::of_word(sliced.words[3][group]),
                };
                let words = sliced.slices.each_ref().map(|slice| slice[at / WEIGHTS_PER_WORD]);
                let decoded = range.decode(codes::unpack(&words)[at % WEIGHTS_PER_WORD], SLICES);
                let (bin, _) = range.bin(SLICES);
                // Half a bin, f16's rounding of the range's ends, and f32's of values up to 1.
                let ends = (range.lo.abs() + 4.0 * range.step) * 2.0f32.powi(-11);
                assert!((decoded - weight).abs() <= bin / 2.0 + ends + 1e-6, "weight {at} in {form:?}");
            }
        }
    }

    #[test]
    fn the_row_and_the_weight_that_do_not_fit_are_named() {
        for (form, most) in [(PAIRS, -1e5), (RangeForm::Words, -1e3)] {
            let mut weights = vec![0.5; 4 * 64];
            weights[2 * 64 + 3] = f32::NAN;
            let fault = SlicedRows::default().cut(&weights, 64, form, None).unwrap_err();
            assert!(fault.row == 2 && fault.weight.is_nan());

            weights[2 * 64 + 3] = most;
            assert_eq!(SlicedRows::default().cut(&weights, 64, form, None), Err(UnfitWeight { row: 2, weight: most }));
        }
    }

    #[test]
    fn weights_outside_a_given_range_take_the_codes_at_its_ends() {
        let (lo, step) = (f16::from_f32(-0.5), f16::from_f32(0.25));
        let word = Range { lo: -0.5, step: 0.25 }.to_word();
        let (other, finest) = ([word + 1, word + 3], [word; 2]);
        let mut weights = vec![0.0; 64];
        weights[..3].copy_from_slice(&[-9.0, 9.0, 0.125]);
        let mut sliced = SlicedRows::default();
        for given in [GivenRanges::Pairs(&[lo, step]), GivenRanges::Words([&other, &finest, &finest])] {
            sliced.cut_in(&weights, 64, given).unwrap();
            let codes = codes::unpack(&sliced.slices.each_ref().map(|slice| slice[0]));
            assert_eq!(codes[..4], [0, 255, 160, 128]);
        }
        assert!(sliced.pairs.is_empty() && sliced.words[0] == other && sliced.words[3] == finest);

        weights[5] = f32::INFINITY;
        let fault = sliced.cut_in(&weights, 64, GivenRanges::Pairs(&[lo, step]));
        assert_eq!(fault, Err(UnfitWeight { row: 0, weight: f32::INFINITY }));
    }
}
