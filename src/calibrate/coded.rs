//! A site's weights as codes, which training leaves as they are, and the ranges that the codes are read in.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use super::student::SiteParams;
use crate::format::codes::Range;
use crate::precision::SLICES;
use crate::quantize::ranges::{self, GROUP, UnfitWeight};

/// Depths whose ranges are trained: the first so many. Those below them are read as the weights alone have it, so that
/// no training can take from eight bits.
pub const TRAINED: usize = 2;

/// The codes of a site, and the ranges that its weights alone give.
pub struct CodedSite {
    /// Of eight bits, [rows, input].
    codes: Tensor<2>,
    /// By slices.
    ranges: [RangeTensors; SLICES],
    /// The range of depth 4 of each group, [rows * input / GROUP].
    pub finest: Vec<u16>,
}

/// The ranges of all groups at one depth.
struct RangeTensors {
    /// Lower ends, [rows, groups].
    lo: Tensor<2>,
    /// Widths of the bins at this depth, [rows, groups].
    bin: Tensor<2>,
}

impl CodedSite {
    /// The codes of `weights`, [rows, input].
    pub fn new(weights: &[f32], input: usize, dtype: DType, device: &Device) -> Result<CodedSite, UnfitWeight> {
        let (groups, _) = weights.as_chunks::<GROUP>();
        let words = ranges::choose_all(weights, input, None)?;
        let codes = groups.par_iter().zip(&words).flat_map_iter(|(group, words)| ranges::encode(group, words[3]));
        let codes: Vec<f32> = codes.map(f32::from).collect();
        let dims = [weights.len() / input, input / GROUP];
        let tensor = |values: Vec<f32>, dims: [usize; 2]| Tensor::<2>::from_data(TensorData::new(values, dims), device);
        let ranges = std::array::from_fn(|slice| {
            let numbers = |number: fn(Range, usize) -> f32| {
                tensor(words.iter().map(|words| number(Range::of_word(words[slice]), slice + 1)).collect(), dims)
            };
            RangeTensors { lo: numbers(|range, _| range.lo), bin: numbers(|range, slices| range.bin(slices).0) }
        });
        Ok(CodedSite {
            codes: tensor(codes, [dims[0], input]).cast(dtype),
            ranges,
            finest: words.iter().map(|words| words[SLICES - 1]).collect(),
        })
    }

    /// Rows, and groups of a row.
    pub fn dims(&self) -> [usize; 2] {
        self.ranges[0].lo.dims()
    }

    /// The weight [rows, input] as its base and the corrections of its residual slices, side by side:
    /// [W1, W2 - W1, W3 - W2, W4 - W3], [rows, SLICES * input].
    pub fn slices(&self, params: &SiteParams) -> Tensor<2> {
        let [rows, groups] = self.dims();
        let reads: [Tensor<3>; SLICES] = std::array::from_fn(|slice| {
            let (lo, bin) = self.range(params, slice);
            self.places(slice) * bin.unsqueeze_dim::<3>(2) + lo.unsqueeze_dim::<3>(2)
        });
        let corrections = (1..SLICES).map(|at| reads[at].clone() - reads[at - 1].clone());
        let parts = [reads[0].clone()].into_iter().chain(corrections);
        Tensor::cat(parts.map(|part| part.reshape([rows, groups * GROUP])).collect(), 1)
    }

    /// The gradients of the trained ranges, in the order of [`SiteParams::tensors`], by that of [`CodedSite::slices`].
    pub fn gradients(&self, slices: Tensor<2>) -> [Tensor<2>; 2 * TRAINED] {
        let [rows, groups] = self.dims();
        let part = |at: usize| slices.clone().narrow(1, at * groups * GROUP, groups * GROUP);
        let of_depth = |slice: usize| {
            let read = (part(slice) - part(slice + 1)).reshape([rows, groups, GROUP]);
            let bin = &self.ranges[slice].bin;
            let sum = |x: Tensor<3>| x.sum_dim(2).squeeze_dim::<2>(2) * bin.clone();
            [sum(read.clone()), sum(read * self.places(slice))]
        };
        let [first, second] = std::array::from_fn(of_depth);
        let ([shift_1, stretch_1], [shift_2, stretch_2]) = (first, second);
        [shift_1, stretch_1, shift_2, stretch_2]
    }

    /// The trained ranges as words, by depth, [rows * groups].
    pub fn words(&self, params: &SiteParams) -> [Vec<u16>; TRAINED] {
        std::array::from_fn(|slice| {
            let (lo, bin) = self.range(params, slice);
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

    /// Lower ends and widths of the bins at a depth, [rows, groups].
    fn range(&self, params: &SiteParams, slice: usize) -> (Tensor<2>, Tensor<2>) {
        let RangeTensors { lo, bin } = &self.ranges[slice];
        match params.trained(slice) {
            None => (lo.clone(), bin.clone()),
            Some((shift, stretch)) => {
                (lo.clone() + bin.clone() * shift.clone(), bin.clone() * stretch.clone().add_scalar(1.0))
            }
        }
    }

    /// Where in its range each weight is read, in bins from the lower end: code + 1/2, [rows, groups, GROUP].
    fn places(&self, slice: usize) -> Tensor<3> {
        let [rows, groups] = self.dims();
        let codes = self.codes.clone().cast(DType::F32).reshape([rows, groups, GROUP]);
        codes.mul_scalar(0.25f32.powi((SLICES - 1 - slice) as i32)).floor().add_scalar(0.5)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    use super::*;
    use crate::calibrate::cpu;

    fn site() -> (CodedSite, SiteParams) {
        let weights: Vec<f32> = (0..4 * 128).map(|i| ((i * 7919) % 1009) as f32 / 5050.0 - 0.1).collect();
        let site = CodedSite::new(&weights, 128, DType::F32, &cpu()).ok().unwrap();
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
        let (before, weights) = loss(site.slices(&params));
        let gradients = site.gradients(weights);
        for at in 0..2 * TRAINED {
            for number in [0, 5, 15] {
                let mut moved: [Tensor<2>; 8] = params.tensors().map(Clone::clone);
                let mut numbers = values(moved[at].clone());
                numbers[number] += 0.25;
                moved[at] = Tensor::from_data(TensorData::new(numbers, site.dims()), &cpu());
                let (after, _) = loss(site.slices(&SiteParams::from_tensors(moved)));
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
}
