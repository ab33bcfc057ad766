//! A site's weights as codes, which training leaves as they are, and the ranges that the codes are read in.

use std::ops::Range as Rows;
use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::shelf::{ShelfReader, ShelfWriter, Shelved};
use super::student::SiteParams;
use crate::error::Result;
use crate::format::codes::Range;
use crate::precision::SLICES;
use crate::quantize::RowCodes;
use crate::quantize::ranges::GROUP;

/// Depths whose ranges are trained: the first so many. Those below them are read as they were chosen, so that no
/// training can take from eight bits.
pub const TRAINED: usize = 2;
/// Elements of a site's slices that are made or differentiated at once, which takes some ten tensors of so many.
pub const SLICES_AT_ONCE: usize = 1 << 24;
/// Rows at once are a multiple of this, where they are not all.
const ROWS_TOGETHER: usize = 32;
/// Codes in an integer.
const CODES_IN_INTEGER: usize = 4;

/// The codes of a site, and the ranges that training starts from.
#[derive(Clone)]
pub struct CodedSite {
    /// Of eight bits, [rows, input / 4]: byte `b` of a row's integer `i` is the code of its weight `b * input / 4 + i`.
    codes: Tensor<2, Int>,
    /// By slices.
    ranges: [RangeTensors; SLICES],
    /// The same as words, [rows * input / GROUP] each.
    words: Arc<[Vec<u16>; SLICES]>,
    /// Rows that are cut and differentiated at once.
    rows_at_once: usize,
}

/// The ranges of all groups at one depth.
#[derive(Clone)]
struct RangeTensors {
    /// Lower ends, [rows, groups].
    lo: Tensor<2>,
    /// Widths of the bins at this depth, [rows, groups].
    bin: Tensor<2>,
}

impl CodedSite {
    /// That of rows of so many weights.
    pub fn new(rows: RowCodes, input: usize, device: &Device) -> CodedSite {
        let integers: Vec<i32> = rows.codes.par_chunks(input).flat_map_iter(integers_of).collect();
        let dims = [rows.codes.len() / input, input / CODES_IN_INTEGER];
        CodedSite::of(Tensor::from_data(TensorData::new(integers, dims), (device, DType::I32)), rows.words)
    }

    fn of(codes: Tensor<2, Int>, words: [Vec<u16>; SLICES]) -> CodedSite {
        let (device, [rows, integers]) = (codes.device(), codes.dims());
        let input = integers * CODES_IN_INTEGER;
        let ranges = std::array::from_fn(|slice| {
            let numbers = |number: fn(Range, usize) -> f32| {
                let numbers: Vec<f32> =
                    words[slice].par_iter().map(|word| number(Range::of_word(*word), slice + 1)).collect();
                Tensor::<2>::from_data(TensorData::new(numbers, [rows, input / GROUP]), &device)
            };
            RangeTensors { lo: numbers(|range, _| range.lo), bin: numbers(|range, slices| range.bin(slices).0) }
        });
        CodedSite { codes, ranges, words: Arc::new(words), rows_at_once: rows_at_once(rows, input) }
    }

    /// The same that cuts and differentiates so many rows at once.
    #[cfg(test)]
    pub fn with_rows_at_once(self, rows: usize) -> CodedSite {
        CodedSite { rows_at_once: rows, ..self }
    }

    /// Rows, and groups of a row.
    pub fn dims(&self) -> [usize; 2] {
        self.ranges[0].lo.dims()
    }

    /// The words of the ranges of depth 4, [rows * groups].
    pub fn finest(&self) -> &[u16] {
        &self.words[SLICES - 1]
    }

    /// The rows in parts, each of which is cut and differentiated at once.
    pub fn parts(&self) -> impl Iterator<Item = Rows<usize>> {
        let (rows, step) = (self.dims()[0], self.rows_at_once);
        (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
    }

    /// Rows of the weight as they are read at each depth: W1 to W4, [rows, input] each.
    pub fn weights(&self, params: &SiteParams, rows: Rows<usize>) -> [Tensor<2>; SLICES] {
        let [_, groups] = self.dims();
        let codes = self.codes(rows.clone());
        std::array::from_fn(|slice| {
            let (lo, bin) = self.range(params, slice, rows.clone());
            let read = places(&codes, slice) * bin.unsqueeze_dim::<3>(2) + lo.unsqueeze_dim::<3>(2);
            read.reshape([rows.len(), groups * GROUP])
        })
    }

    /// Rows of the weight as its base and the corrections of its residual slices, side by side:
    /// [W1, W2 - W1, W3 - W2, W4 - W3], [rows, SLICES * input].
    pub fn slices(&self, params: &SiteParams, rows: Rows<usize>) -> Tensor<2> {
        let weights = self.weights(params, rows);
        let corrections = (1..SLICES).map(|at| weights[at].clone() - weights[at - 1].clone());
        Tensor::cat([weights[0].clone()].into_iter().chain(corrections).collect(), 1)
    }

    /// The gradients of these rows' trained ranges, in the order of [`SiteParams::tensors`], by that of
    /// [`CodedSite::slices`]; [rows, groups] each.
    pub fn gradients(&self, slices: Tensor<2>, rows: Rows<usize>) -> [Tensor<2>; 2 * TRAINED] {
        let [_, groups] = self.dims();
        let codes = self.codes(rows.clone());
        let of_slice = |at: usize| slices.clone().narrow(1, at * groups * GROUP, groups * GROUP);
        let of_depth = |slice: usize| {
            let read = (of_slice(slice) - of_slice(slice + 1)).reshape([rows.len(), groups, GROUP]);
            let bin = part(&self.ranges[slice].bin, rows.clone());
            let sum = |x: Tensor<3>| x.sum_dim(2).squeeze_dim::<2>(2) * bin.clone();
            [sum(read.clone()), sum(read * places(&codes, slice))]
        };
        let [first, second] = std::array::from_fn(of_depth);
        let ([shift_1, stretch_1], [shift_2, stretch_2]) = (first, second);
        [shift_1, stretch_1, shift_2, stretch_2]
    }

    /// The trained ranges as words, by depth, [rows * groups].
    pub fn words(&self, params: &SiteParams) -> [Vec<u16>; TRAINED] {
        std::array::from_fn(|slice| {
            let (lo, bin) = self.range(params, slice, 0..self.dims()[0]);
            let numbers = |tensor: Tensor<2>| -> Vec<f32> { tensor.try_to_vec_as().expect("the device answers") };
            let steps = (1u32 << (2 * slice)) as f32;
            let pairs = numbers(lo).into_iter().zip(numbers(bin));
            pairs.map(|(lo, bin)| Range { lo, step: bin * steps }.to_word()).collect()
        })
    }

    /// The parameters whose ranges are exactly those of words.
    pub fn params_of(&self, words: &[Vec<u16>; TRAINED], params: SiteParams) -> SiteParams {
        let device = params.w1.device();
        let trained = std::array::from_fn::<_, TRAINED, _>(|slice| {
            let RangeTensors { lo, bin } = &self.ranges[slice];
            let numbers = |number: fn(Range, usize) -> f32| {
                let numbers: Vec<f32> =
                    words[slice].iter().map(|word| number(Range::of_word(*word), slice + 1)).collect();
                Tensor::<2>::from_data(TensorData::new(numbers, self.dims()), &device)
            };
            let shift = (numbers(|range, _| range.lo) - lo.clone()) / bin.clone();
            let stretch = numbers(|range, slices| range.bin(slices).0) / bin.clone() - 1.0;
            [shift, stretch]
        });
        let [[shift_1, stretch_1], [shift_2, stretch_2]] = trained;
        SiteParams { shift_1, stretch_1, shift_2, stretch_2, ..params }
    }

    /// Lower ends and widths of the bins of these rows at a depth, [rows, groups].
    fn range(&self, params: &SiteParams, slice: usize, rows: Rows<usize>) -> (Tensor<2>, Tensor<2>) {
        let RangeTensors { lo, bin } = &self.ranges[slice];
        let [lo, bin] = [lo, bin].map(|x| part(x, rows.clone()));
        match params.trained(slice) {
            None => (lo, bin),
            Some(trained) => {
                let (shift, stretch) = (part(trained.0, rows.clone()), part(trained.1, rows));
                (lo + bin.clone() * shift, bin * stretch.add_scalar(1.0))
            }
        }
    }

    /// The codes of these rows as numbers, [rows, groups, GROUP].
    fn codes(&self, rows: Rows<usize>) -> Tensor<3> {
        let [_, groups] = self.dims();
        let integers = part(&self.codes, rows.clone());
        let bytes = (0..CODES_IN_INTEGER).map(|byte| {
            let moved = integers.clone().bitwise_right_shift_scalar(8 * byte as i32);
            moved.bitwise_and_scalar(0xff).float()
        });
        Tensor::cat(bytes.collect(), 1).reshape([rows.len(), groups, GROUP])
    }
}

impl Shelved for CodedSite {
    fn store(&self, to: &mut ShelfWriter<'_>) -> Result<()> {
        to.integers(&self.codes)?;
        self.words.iter().try_for_each(|words| to.data(&TensorData::new(words.clone(), [words.len()])))
    }

    fn restore(from: &mut ShelfReader<'_>) -> Result<CodedSite> {
        let codes = from.integers()?;
        let mut words: [Vec<u16>; SLICES] = Default::default();
        for words in &mut words {
            *words = from.data()?.try_into_vec().expect("words were stored");
        }
        Ok(CodedSite::of(codes, words))
    }
}

/// The rows whose slices are at most [`SLICES_AT_ONCE`] elements.
fn rows_at_once(rows: usize, input: usize) -> usize {
    let most = SLICES_AT_ONCE / (SLICES * input);
    if rows <= most { rows } else { (most / ROWS_TOGETHER * ROWS_TOGETHER).max(1) }
}

/// A row of codes, four in an integer.
fn integers_of(row: &[u8]) -> impl Iterator<Item = i32> {
    let quarter = row.len() / CODES_IN_INTEGER;
    (0..quarter).map(move |at| i32::from_le_bytes(std::array::from_fn(|byte| row[byte * quarter + at])))
}

/// Some rows, or all.
fn part<K: burn::tensor::kind::Basic>(x: &Tensor<2, K>, rows: Rows<usize>) -> Tensor<2, K> {
    if rows.len() == x.dims()[0] { x.clone() } else { x.clone().narrow(0, rows.start, rows.len()) }
}

/// Where in its range each weight is read at a depth, in bins from the lower end: code + 1/2, [rows, groups, GROUP].
fn places(codes: &Tensor<3>, slice: usize) -> Tensor<3> {
    codes.clone().mul_scalar(0.25f32.powi((SLICES - 1 - slice) as i32)).floor().add_scalar(0.5)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    use super::*;
    use crate::calibrate::cpu;

    fn site() -> (CodedSite, SiteParams) {
        let weights: Vec<f32> = (0..4 * 128).map(|i| ((i * 7919) % 1009) as f32 / 5050.0 - 0.1).collect();
        let site = CodedSite::new(RowCodes::cut(&weights, 128, None, None).unwrap(), 128, &cpu());
        let params = SiteParams::new(site.dims(), 64, &cpu(), &mut ChaCha8Rng::seed_from_u64(1));
        (site, params)
    }

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.try_to_vec_as().unwrap()
    }

    /// A sum over the slices with odd weights, whose gradient these are.
    fn loss(slices: Tensor<2>) -> (f32, Tensor<2>) {
        let [rows, width] = slices.dims();
        let weights: Vec<f32> = (0..rows * width).map(|i| ((i * 31) % 17) as f32 - 8.0).collect();
        let weights = Tensor::<2>::from_data(TensorData::new(weights, [rows, width]), &slices.device());
        ((slices * weights.clone()).sum().into_scalar(), weights)
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (site, params) = site();
        let (before, weights) = loss(site.slices(&params, 0..4));
        let gradients = site.gradients(weights, 0..4);
        for at in 0..2 * TRAINED {
            for number in [0, 5, 15] {
                let mut moved: [Tensor<2>; 8] = params.tensors().map(Clone::clone);
                let mut numbers = values(moved[at].clone());
                numbers[number] += 0.25;
                moved[at] = Tensor::from_data(TensorData::new(numbers, site.dims()), &cpu());
                let (after, _) = loss(site.slices(&SiteParams::from_tensors(moved), 0..4));
                // The slices are linear in each of the tensors.
                let (found, expected) = (values(gradients[at].clone())[number], (after - before) / 0.25);
                assert!((found - expected).abs() < 0.01 * expected.abs() + 0.02, "{at} {number}: {found}, {expected}");
            }
        }
    }

    #[test]
    fn words_become_the_parameters_that_read_the_same() {
        let (site, params) = site();
        let moved = SiteParams {
            shift_1: params.shift_1.clone().add_scalar(0.3),
            stretch_2: params.stretch_2.clone().add_scalar(0.1),
            ..params
        };
        let words = site.words(&moved);
        let rounded = site.params_of(&words, moved);
        assert_eq!(site.words(&rounded), words);
    }

    #[test]
    fn slices_add_up_to_the_weights_at_each_depth() {
        let weights: Vec<f32> = (0..4 * 128).map(|i| ((i * 7919) % 1009) as f32 / 5050.0 - 0.1).collect();
        let (site, params) = site();
        let slices = values(site.slices(&params, 0..4));
        for (row, weights) in weights.chunks(128).enumerate() {
            for (at, weight) in weights.iter().enumerate() {
                let mut read = 0.0;
                for slice in 0..SLICES {
                    read += slices[(row * SLICES + slice) * 128 + at];
                    let bin = Range::of_word(site.words[slice][row * 4 + at / GROUP]).bin(slice + 1).0;
                    // Of a lower depth, no range needs to hold the group wholly.
                    assert!((read - weight).abs() <= 1.5 * bin, "{row} {at} {slice}: {read}, {weight}");
                }
            }
        }
    }

    #[test]
    fn parts_of_the_rows_are_those_of_all() {
        let (site, params) = site();
        let whole = values(site.slices(&params, 0..4));
        let (_, weights) = loss(site.slices(&params, 0..4));
        let gradients = site.gradients(weights.clone(), 0..4).map(values);
        let site = site.with_rows_at_once(3);
        let parts: Vec<_> = site.parts().collect();
        assert_eq!(parts, [0..3, 3..4]);
        let slices = parts.iter().flat_map(|rows| values(site.slices(&params, rows.clone())));
        assert_eq!(slices.collect::<Vec<f32>>(), whole);
        for (at, whole) in gradients.iter().enumerate() {
            let of_rows = |rows: &Rows<usize>| site.gradients(part(&weights, rows.clone()), rows.clone())[at].clone();
            assert_eq!(parts.iter().flat_map(|rows| values(of_rows(rows))).collect::<Vec<f32>>(), *whole);
        }
    }

    #[test]
    fn rows_at_once_are_bounded_and_all_come() {
        // The sites of the default model, and of one of 8B.
        for (rows, input) in [(3072, 576), (28672, 4096), (4096, 14336), (6144, 4096)] {
            let at_once = rows_at_once(rows, input);
            assert!(at_once * SLICES * input <= SLICES_AT_ONCE && at_once > 0, "{rows} {input}: {at_once}");
            assert!(at_once == rows || at_once.is_multiple_of(ROWS_TOGETHER), "{rows} {input}: {at_once}");
        }
    }
}
