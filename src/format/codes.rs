//! The number format: a weight as four 2-bit slices, and the ranges that say what its codes mean.
//!
//! For a group of consecutive weights of one row, in a range `lo`, `step`:
//!
//! ```text
//! code8 = clamp(floor((w - lo) / (step / 64)), 0, 255)
//! depth d in 1..=4 reads the 2d high bits:  code_d = code8 >> (8 - 2d)
//! w_d = lo + (code_d + 1/2) * step / 4^(d-1)                the middle of the bin
//! ```
//!
//! so a lower depth is plain truncation of a higher one. Ranges are stored in one of two [forms](RangeForm):
//!
//! - [`RangeForm::Words`]: groups of 32, and a range of its own for each depth, in sixteen bits. The range of depth 4
//!   makes the codes. Those of the other depths only say what is read, so that each of them can be the best for its
//!   depth without harm to another one. A product at one depth reads one range.
//! - [`RangeForm::Pairs`]: larger groups, and `lo` and `step` in f16, which serve every depth.
//!
//! A word has v in its low nine bits, which are the exponent's low four bits and the first five of the mantissa of an
//! f16, and z in its high seven:
//!
//! ```text
//! v = the f16 whose bits are (word & 0x1ff) << 5            6.1e-5 to 1.97, to within a 64th
//! step = 16 v
//! lo = -z / 32 * step                                       so that 0 lies in the range, or at its end
//! ```
//!
//! A slice packs 16 weights into a u32: weight `4i + b` of the sixteen sits at bit `8b + 2i`, so that
//! `(word >> 2i) & 0x03030303` yields four neighbours as the bytes of one word.

use half::f16;

/// Weights packed into one u32 of a slice.
pub const WEIGHTS_PER_WORD: usize = 16;
/// Weights of a group whose ranges are words.
pub const WORD_GROUP: u32 = 32;
/// `step / UNIT` is the width of the finest bin.
const UNIT: f32 = 64.0;
/// Bins between the outermost weights and the ends of the range. Half a bin would read both exactly; three eighths
/// still keep them inside when `lo` and `step` are rounded to f16, which moves an end by up to an eighth, and read the
/// rest of the group a little finer.
const END_BINS: f32 = 0.375;
/// The narrowest finest bin, for groups of equal weights: its step is still a normal f16.
const BIN_MIN: f32 = 1e-6;

/// How the ranges of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeForm {
    /// (lo, step) in f16 for each group of so many weights, a multiple of 64; they serve all depths.
    Pairs {
        /// G
        group: u32,
    },
    /// A word of sixteen bits for each [`WORD_GROUP`] weights, of each depth its own.
    Words,
}

impl RangeForm {
    /// The form of ranges of groups of so many weights.
    pub fn of_group(group: u32) -> RangeForm {
        if group == WORD_GROUP { RangeForm::Words } else { RangeForm::Pairs { group } }
    }

    /// G
    pub fn group(self) -> u32 {
        match self {
            RangeForm::Pairs { group } => group,
            RangeForm::Words => WORD_GROUP,
        }
    }

    /// Bytes of a range.
    pub fn bytes(self) -> u32 {
        match self {
            RangeForm::Pairs { .. } => 4,
            RangeForm::Words => 2,
        }
    }
}

/// Range of one group: codes 0 to 255 cover `[lo, lo + 4 * step)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Lower end of the range.
    pub lo: f32,
    /// Width of one bin of the base slice.
    pub step: f32,
}

impl Range {
    /// The range that a pair of f16 stands for.
    pub fn of_pair([lo, step]: [f16; 2]) -> Range {
        Range { lo: lo.to_f32(), step: step.to_f32() }
    }

    /// The range that a word stands for.
    pub fn of_word(word: u16) -> Range {
        let step = 16.0 * f16::from_bits((word & 0x1ff) << 5).to_f32();
        Range { lo: f32::from(word >> 9) * step / -32.0, step }
    }

    /// The eight-bit code of a weight.
    pub fn encode(self, weight: f32) -> u8 {
        let bin = self.step / UNIT;
        ((weight - self.lo) / bin).floor().clamp(0.0, 255.0) as u8
    }

    /// The weight that the first `slices` slices of `code8` stand for.
    pub fn decode(self, code8: u8, slices: usize) -> f32 {
        let (bin, middle) = self.bin(slices);
        f32::from(code8 >> (8 - 2 * slices)) * bin + middle
    }

    /// The width of the bins at a depth of so many slices, and the middle of the lowest one.
    pub fn bin(self, slices: usize) -> (f32, f32) {
        let bin = self.step / (1u32 << (2 * (slices - 1))) as f32;
        (bin, self.lo + 0.5 * bin)
    }
}

/// The pair of f16 with the smallest and the largest weight three eighths of a finest bin inside its range's ends;
/// `None` where a weight is not finite or the range leaves f16's.
pub fn pair_of(weights: &[f32]) -> Option<[f16; 2]> {
    if !weights.iter().all(|w| w.is_finite()) {
        return None;
    }
    let (min, max) = weights.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), w| (a.min(*w), b.max(*w)));
    let bin = |lo: f32, bins: f32| ((max - lo) / bins).max(BIN_MIN);
    let holds = |[lo, step]: [f16; 2]| lo.to_f32() <= min && max < lo.to_f32() + 4.0 * step.to_f32();
    let finest = bin(min, 256.0 - 2.0 * END_BINS);
    let mut pair = [f16::from_f32(min - END_BINS * finest), f16::from_f32(finest * UNIT)];
    if !holds(pair) {
        // Narrow, and far from zero: f16 has moved the lower end by more than END_BINS.
        let lo = next_down(pair[0]);
        pair = [lo, f16::from_f32(bin(lo.to_f32(), 256.0 - END_BINS) * UNIT)];
    }
    pair.iter().all(|number| number.is_finite()).then_some(pair)
}

/// Packs the codes of 16 weights into one word of each slice, most significant slice first.
pub fn pack(codes: &[u8; WEIGHTS_PER_WORD]) -> [u32; 4] {
    let mut words = [0u32; 4];
    for (at, code) in codes.iter().enumerate() {
        let bit = 8 * (at % 4) + 2 * (at / 4);
        for (slice, word) in words.iter_mut().enumerate() {
            *word |= u32::from(code >> (6 - 2 * slice) & 3) << bit;
        }
    }
    words
}

/// The codes of 16 weights at the depth of `words`, which holds one word of each slice read.
pub fn unpack(words: &[u32]) -> [u8; WEIGHTS_PER_WORD] {
    std::array::from_fn(|at| {
        let bit = 8 * (at % 4) + 2 * (at / 4);
        words.iter().fold(0, |code, word| code << 2 | (word >> bit & 3) as u8)
    })
}

/// The next smaller f16; half has no such function.
fn next_down(value: f16) -> f16 {
    match value.to_bits() {
        0 | 0x8000 => f16::from_bits(0x8001),
        bits if bits & 0x8000 == 0 => f16::from_bits(bits - 1),
        bits => f16::from_bits(bits + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_deeper_read_halves_the_error_twice(weights in prop::collection::vec(-3.0f32..3.0, 64)) {
            let range = Range::of_pair(pair_of(&weights).unwrap());
            for w in weights {
                for slices in 1..=4 {
                    let bin = range.step / (1 << (2 * (slices - 1))) as f32;
                    let error = (range.decode(range.encode(w), slices) - w).abs();
                    // Half a bin, and f32's rounding of a value up to 15.
                    prop_assert!(error <= bin * 0.5 + 4e-6, "w {w} slices {slices}: error {error}, bin {bin}");
                }
            }
        }

        #[test]
        fn packing_is_undone_by_unpacking(codes: [u8; 16]) {
            let words = pack(&codes);
            for slices in 1..=4 {
                prop_assert_eq!(unpack(&words[..slices]), codes.map(|c| c >> (8 - 2 * slices)));
            }
        }
    }

    #[test]
    fn four_neighbours_are_the_bytes_of_one_masked_word() {
        let codes: [u8; 16] = std::array::from_fn(|i| (i as u8 * 7) << 2);
        let base = pack(&codes)[0];
        for i in 0..4 {
            let bytes = (base >> (2 * i) & 0x0303_0303).to_le_bytes();
            assert_eq!(bytes, std::array::from_fn(|b| codes[4 * i + b] >> 6));
        }
    }

    #[test]
    fn narrow_groups_far_from_zero_stay_inside_their_range() {
        let far: Vec<f32> = (0..64).map(|i| 10.003 + 1e-3 * i as f32).collect();
        let range = Range::of_pair(pair_of(&far).unwrap());
        let bin = range.step / 64.0;
        for w in &far {
            assert!((range.decode(range.encode(*w), 4) - w).abs() <= 0.5 * bin + 1e-5, "{w}");
        }
    }

    #[test]
    fn a_constant_group_and_one_that_is_not_finite() {
        let range = Range::of_pair(pair_of(&[0.25; 64]).unwrap());
        assert!((range.decode(range.encode(0.25), 4) - 0.25).abs() < 1e-6);
        assert_eq!(pair_of(&[0.0, f32::NAN]), None);
        assert_eq!(pair_of(&[1e6, 0.0]), None);
        assert_eq!(pair_of(&[f32::INFINITY, 0.0]), None);
    }
}
