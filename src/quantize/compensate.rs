//! Codes that make up for each other's errors: what a weight is off by is taken from the weights rounded after it.
//!
//! A product is off by `e x`, where `e` are the errors of a row's weights. Over many inputs its mean square is
//! `e^T H e`, with H the mean of `x x^T`. With `H = L L^T` that is the sum of squares of `L^T e`, and its number i has
//! the errors of weight i and of later ones alone. So weights are rounded from the last one to the first, each to the
//! number that makes its term least with the errors that there are. That is GPTQ's rounding (Frantar et al., arXiv
//! 2210.17323), in the form that needs no inverse.
//!
//! A code keeps its upper four bits. So depths 1 and 2 read the same codes as with nearest rounding, a pack's ranges of
//! these depths stay the right ones, and weights on a grid of sixteen numbers stay on it.

use multiversion::multiversion;
use rayon::prelude::*;

use super::moments::{InputMoments, LARGEST_BLOCK, MomentBlock};
use super::ranges::GROUP;
use super::tile::{LANES, tile_products};
use crate::format::codes::Range;
use crate::precision::SLICES;

/// What is added to the diagonal of H, as a share of its mean.
const DAMPING: f64 = 0.01;
/// With so many inputs for each number of a block, what two of its numbers have in common counts half.
const FEW: u64 = 4;
/// Rows of a matrix that are multiplied at a time.
const TILE_ROWS: usize = 4;
/// Codes that share their upper four bits.
const SAME_UPPER: i32 = 16;

/// How the errors of a matrix's weights add up in its products.
pub struct ErrorMetric {
    width: usize,
    blocks: Vec<MetricBlock>,
}

/// The metric of neighbouring columns.
pub struct MetricBlock {
    /// The first of them.
    pub first: usize,
    /// How many there are.
    pub n: usize,
    /// H, [n, n].
    pub metric: Vec<f32>,
    /// In row i and a later column j, by how much an error of j moves what i should be: [n, n].
    pulls: Vec<f32>,
}

impl ErrorMetric {
    /// That of these inputs.
    pub fn new(moments: &InputMoments) -> ErrorMetric {
        let blocks = moments.blocks().par_iter().map(|block| MetricBlock::new(block, moments.inputs()));
        ErrorMetric { width: moments.width(), blocks: blocks.collect() }
    }

    /// Bytes of memory at most that one of so many columns takes, while it is made by so many threads.
    pub fn bytes(width: u32, threads: u64) -> u64 {
        let block = u64::from(width).min(LARGEST_BLOCK as u64);
        // Two matrices of f32 for each block, and two of f64 for one that is being made.
        u64::from(width) * block * 8 + threads * block * block * 16
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The metric of all columns, block by block.
    pub fn blocks(&self) -> &[MetricBlock] {
        &self.blocks
    }
}

impl MetricBlock {
    fn new(moments: &MomentBlock, inputs: u64) -> MetricBlock {
        let n = moments.n;
        let metric = metric(moments, inputs);
        let factor = cholesky(&metric, n);
        let mut pulls = vec![0f32; n * n];
        for (i, row) in pulls.chunks_exact_mut(n).enumerate() {
            let diagonal = factor[i * n + i];
            row.iter_mut().enumerate().skip(i + 1).for_each(|(j, pull)| *pull = (factor[j * n + i] / diagonal) as f32);
        }
        MetricBlock { first: moments.first, n, metric: metric.iter().map(|x| *x as f32).collect(), pulls }
    }

    /// Replaces the codes of these columns in rows of weights, [rows, width], where `finest` has the range of depth 4
    /// of each 32 weights.
    pub fn round(&self, weights: &[f32], codes: &mut [u8], width: usize, finest: &dyn Fn(usize) -> Range) {
        let (rows, n) = (weights.len() / width, self.n);
        let (mut errors, mut moved) = (vec![0f32; rows * n], Vec::new());
        for group in (0..n).step_by(GROUP).rev() {
            products(&errors, &self.pulls, (n, group, group + GROUP), &mut moved);
            let pulls_within: [[f32; GROUP]; GROUP] =
                std::array::from_fn(|j| std::array::from_fn(|i| self.pulls[(group + i) * n + group + j]));
            for (row, moved) in moved.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                let at = row * width + self.first + group;
                let errors = &mut errors[row * n + group..][..GROUP];
                round_group(
                    &weights[at..][..GROUP],
                    &mut codes[at..][..GROUP],
                    errors,
                    (finest(at / GROUP), moved),
                    &pulls_within,
                );
            }
        }
    }
}

/// H with a mean of 1 on its diagonal. What two numbers have in common counts the less, the fewer inputs there were: of
/// few, most of it is chance.
fn metric(moments: &MomentBlock, inputs: u64) -> Vec<f64> {
    let n = moments.n;
    let mean = (0..n).map(|i| f64::from(moments.sum(i, i))).sum::<f64>() / n as f64;
    let of_mean = |sum: f32| if mean > 0.0 { f64::from(sum) / mean } else { 0.0 };
    let common = inputs as f64 / (inputs + FEW * n as u64) as f64;
    let mut metric = vec![0f64; n * n];
    for i in 0..n {
        metric[i * n + i] = of_mean(moments.sum(i, i)) + DAMPING;
        for j in i + 1..n {
            let both = common * of_mean(moments.sum(i, j));
            (metric[i * n + j], metric[j * n + i]) = (both, both);
        }
    }
    metric
}

/// L with `L L^T` the matrix, which is [n, n] and positive definite; what is right of L's diagonal means nothing.
fn cholesky(matrix: &[f64], n: usize) -> Vec<f64> {
    let mut factor = matrix.to_vec();
    for j in 0..n {
        let (row, below) = factor[j * n..].split_at_mut(n);
        let diagonal = (row[j] - dot(&row[..j], &row[..j])).max(f64::MIN_POSITIVE).sqrt();
        row[j] = diagonal;
        let row = &row[..j];
        eliminate(below, n, row, diagonal);
    }
    factor
}

/// Completes column j of the rows below row j, of which `row` has the numbers before the diagonal.
#[multiversion(targets = "simd")]
fn eliminate(below: &mut [f64], n: usize, row: &[f64], diagonal: f64) {
    let j = row.len();
    below.chunks_exact_mut(n).for_each(|other| other[j] = (other[j] - dot(&other[..j], row)) / diagonal);
}

#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f64; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// Replaces `out` by the products of each row of `rows`, [rows, n], with 32 rows of `matrix`, [n, n], from one on, both
/// from a column on: [rows, 32].
#[multiversion(targets = "simd")]
pub fn products(rows: &[f32], matrix: &[f32], (n, first, column): (usize, usize, usize), out: &mut Vec<f32>) {
    out.resize(rows.len() / n * GROUP, 0.0);
    for (row, out) in rows.chunks_exact(n).zip(out.as_chunks_mut::<GROUP>().0) {
        for tile in (0..GROUP).step_by(TILE_ROWS) {
            let of_matrix = |r: usize| &matrix[(first + tile + r) * n + column..(first + tile + r + 1) * n];
            let sums = tile_products::<TILE_ROWS>(&row[column..], std::array::from_fn(of_matrix));
            #[allow(
                clippy::manual_memcpy,
                reason = "a copy of all sums has them live in memory, and that takes three times as long"
            )]
            for r in 0..TILE_ROWS {
                out[tile + r] = sums[r];
            }
        }
    }
}

/// Rounds 32 weights, of which later ones have moved what they should be by `moved`, from the last to the first.
#[multiversion(targets = "simd")]
fn round_group(
    weights: &[f32],
    codes: &mut [u8],
    errors: &mut [f32],
    (range, moved): (Range, &mut [f32; GROUP]),
    pulls: &[[f32; GROUP]; GROUP],
) {
    let (bin, middle) = range.bin(SLICES);
    for i in (0..GROUP).rev() {
        let lowest = i32::from(codes[i]) / SAME_UPPER * SAME_UPPER;
        let nearest = ((weights[i] - moved[i] - middle) / bin).round() as i32;
        let code = nearest.clamp(lowest, lowest + SAME_UPPER - 1);
        codes[i] = code as u8;
        errors[i] = code as f32 * bin + middle - weights[i];
        moved.iter_mut().zip(&pulls[i]).for_each(|(moved, pull)| *moved += errors[i] * pull);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::codes::{self, GivenRanges, RangeForm, WEIGHTS_PER_WORD};
    use crate::quantize::slices::SlicedRows;
    use proptest::prelude::*;

    /// Two blocks of whole groups of 64.
    const WIDTH: usize = 896;
    const ROWS: usize = 11;
    const INPUTS: usize = 2048;
    /// How much larger the error at 6 bits may be where its range is that of 8 bits: of 41 draws the mean was 0.97, and
    /// the largest 1.02.
    const HALF_OF_THE_LOWER_BITS: f64 = 1.1;

    /// Numbers from -1 to 1.
    fn noise(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Of inputs that are mostly sums of a few patterns.
    fn moments(seed: u32) -> InputMoments {
        let (patterns, mut inputs) = (noise(seed, 4 * WIDTH), noise(seed ^ 7919, INPUTS * WIDTH));
        for (x, shares) in inputs.chunks_exact_mut(WIDTH).zip(noise(seed ^ 104_729, 4 * INPUTS).chunks_exact(4)) {
            for (pattern, share) in patterns.chunks_exact(WIDTH).zip(shares) {
                x.iter_mut().zip(pattern).for_each(|(x, number)| *x += 6.0 * share * number);
            }
        }
        let mut moments = InputMoments::new(WIDTH);
        moments.add(&inputs);
        moments
    }

    fn codes_of(sliced: &SlicedRows) -> Vec<u8> {
        let words = 0..ROWS * WIDTH / WEIGHTS_PER_WORD;
        words.flat_map(|at| codes::unpack(&sliced.slices.each_ref().map(|slice| slice[at]))).collect()
    }

    /// The error of what the metric stands for, of rows that were read at a depth of so many slices.
    fn error(metric: &ErrorMetric, weights: &[f32], sliced: &SlicedRows, form: RangeForm, slices: usize) -> f64 {
        let (codes, group) = (codes_of(sliced), form.group() as usize);
        let range = |at: usize| match form {
            RangeForm::Words => Range::of_word(sliced.words[slices - 1][at / group]),
            RangeForm::Pairs { .. } => Range::of_pair([0, 1].map(|end| sliced.pairs[at / group * 2 + end])),
        };
        let errors = (0..weights.len()).map(|at| range(at).decode(codes[at], slices) - weights[at]);
        let errors: Vec<f32> = errors.collect();
        let of_block = |row: &[f32], block: &MetricBlock| -> f64 {
            let row = &row[block.first..][..block.n];
            let products = block.metric.chunks_exact(block.n).map(|metric| metric.iter().zip(row).map(|(a, b)| a * b));
            products.zip(row).map(|(product, error)| f64::from(product.sum::<f32>() * error)).sum()
        };
        errors
            .chunks_exact(WIDTH)
            .map(|row| metric.blocks().iter().map(|block| of_block(row, block)).sum::<f64>())
            .sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]

        #[test]
        fn products_come_nearer_at_every_depth_and_codes_keep_their_upper_bits(seed: u32) {
            let weights = noise(seed, ROWS * WIDTH);
            let metric = ErrorMetric::new(&moments(seed));
            for form in [RangeForm::Words, RangeForm::Pairs { group: 64 }] {
                let mut nearest = SlicedRows::default();
                nearest.cut(&weights, WIDTH, form, None).unwrap();
                let mut compensated = SlicedRows::default();
                compensated.cut(&weights, WIDTH, form, None).unwrap();
                compensated.compensate(&weights, &metric, form, false);
                prop_assert_eq!(&nearest.slices[..2], &compensated.slices[..2]);
                prop_assert_eq!(&nearest.words[3], &compensated.words[3]);
                prop_assert_eq!(&nearest.pairs, &compensated.pairs);
                let errors = |slices| [&nearest, &compensated].map(|rows| error(&metric, &weights, rows, form, slices));
                let [plain, by_metric] = errors(4);
                prop_assert!(by_metric < 0.8 * plain, "{by_metric} for {plain} in {form:?}");
                // Where one range serves all depths, the first two read what they would have read. Of the lower four
                // bits, which make up for errors together, the third reads two.
                let (depths, most) = match form {
                    RangeForm::Words => (1..4, 1.0),
                    RangeForm::Pairs { .. } => (3..4, HALF_OF_THE_LOWER_BITS),
                };
                for slices in depths {
                    let [plain, by_metric] = errors(slices);
                    prop_assert!(by_metric < most * plain, "depth {slices}: {by_metric} for {plain} in {form:?}");
                }
            }
        }
    }

    #[test]
    fn ranges_that_were_given_stay_and_so_does_a_grid_of_sixteen() {
        let finest = Range { lo: -1.0, step: 0.5 }.to_word();
        let range = Range::of_word(finest);
        let grid: Vec<f32> = noise(5, ROWS * WIDTH).iter().map(|x| range.decode(range.encode(*x), 2)).collect();
        let words = vec![finest; grid.len() / GROUP];
        let mut sliced = SlicedRows::default();
        sliced.cut_in(&grid, WIDTH, GivenRanges::Words([&words, &words, &words])).unwrap();
        sliced.compensate(&grid, &ErrorMetric::new(&moments(5)), RangeForm::Words, true);
        assert!([0, 1, 3].iter().all(|slice| sliced.words[*slice] == words));
        for (weight, code) in grid.iter().zip(codes_of(&sliced)) {
            assert!((range.decode(code, 2) - weight).abs() < 1e-6, "{weight}");
        }
    }

    #[test]
    fn threads_change_nothing() {
        let weights = noise(3, ROWS * WIDTH);
        let [one, three] = [1, 3].map(|threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let mut sliced = SlicedRows::default();
                sliced.cut(&weights, WIDTH, RangeForm::Words, None).unwrap();
                sliced.compensate(&weights, &ErrorMetric::new(&moments(3)), RangeForm::Words, false);
                (sliced.slices, sliced.words)
            })
        });
        assert!(one == three);
    }

    #[test]
    fn inputs_that_were_never_there_leave_nearest_codes() {
        let weights = noise(7, ROWS * WIDTH);
        let mut sliced = SlicedRows::default();
        sliced.cut(&weights, WIDTH, RangeForm::Words, None).unwrap();
        let nearest = codes_of(&sliced);
        sliced.compensate(&weights, &ErrorMetric::new(&InputMoments::new(WIDTH)), RangeForm::Words, false);
        assert_eq!(codes_of(&sliced), nearest);
    }
}
