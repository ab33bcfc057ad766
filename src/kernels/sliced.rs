//! Weights in slices, as kernels bind them and as references read them.

use std::ops::Range;

use half::f16;
use multiversion::multiversion;

use crate::engine::Traits;
use crate::format::codes::{self, RangeForm, WEIGHTS_PER_WORD, unpack};
use crate::precision::SLICES;
use crate::recording::{Arguments, Buffer, Span};

/// Weights that the shaders take at once: one `vec4<u32>` of each slice.
pub const CHUNK: u32 = 64;
/// Weights of half a chunk, which have a range of their own where ranges are words.
pub(crate) const HALF_CHUNK: usize = CHUNK as usize / 2;
/// The shaders' constant for the form of the ranges.
const WORD_RANGES: &str = "WORD_RANGES";
/// A range of rows is a multiple of so many, so that it begins where a binding may.
const RANGE_ROWS: u32 = 64;

/// A weight [rows, input] in slices, on an engine.
#[derive(Debug, Clone, Copy)]
pub struct SlicedWeight {
    /// Slice buffers, [rows, input / 16] u32 each; a slice that is not there is the base again, which only a trial of
    /// activations reads in its place.
    pub slices: [Buffer; SLICES],
    /// Ranges by depth. Pairs are the same buffer four times, [rows, input / group] pairs of f16. Words
    /// are [rows, input / 32] u16 of each depth, and the base's again for a slice that is not there.
    pub ranges: [Buffer; SLICES],
    /// Output dimension.
    pub rows: u32,
    /// Input dimension, a multiple of the group and of 64.
    pub input: u32,
    /// How ranges are stored.
    pub form: RangeForm,
}

/// Bindings of a weight: slices 0 to 3, and the ranges of depths 1 to 4.
pub const WEIGHT_BINDINGS: usize = 2 * SLICES;

impl SlicedWeight {
    /// Chunks of a row.
    pub fn chunks(&self) -> u32 {
        self.input / CHUNK
    }

    /// Chunks that four bytes of ranges are for: those of a group, or the one of two words.
    pub fn group_chunks(&self) -> u32 {
        4 / self.form.bytes() * self.form.group() / CHUNK
    }

    /// The constant by which shaders and references know the form of the ranges.
    pub fn form_constant(&self) -> (&'static str, u32) {
        (WORD_RANGES, u32::from(self.form == RangeForm::Words))
    }

    /// Bytes of a row's ranges at a depth.
    fn range_row_bytes(&self) -> u32 {
        self.input / self.form.group() * self.form.bytes()
    }

    /// The rows in ranges, each of which fits a binding of the device in every buffer.
    pub fn row_ranges(&self, traits: Traits) -> Vec<Range<u32>> {
        let row_bytes = u64::from((self.input / 4).max(self.range_row_bytes()));
        let most = (traits.binding_bytes / row_bytes).min(u64::from(self.rows)) as u32;
        let step = if most < self.rows { (most / RANGE_ROWS).max(1) * RANGE_ROWS } else { self.rows };
        (0..self.rows).step_by(step as usize).map(|first| first..(first + step).min(self.rows)).collect()
    }

    /// Bindings 0 to 7 of a kernel that reads the rows.
    pub fn bindings(&self, rows: &Range<u32>) -> Vec<Span> {
        let span = |buffer: Buffer, row_bytes: u32| {
            let row_bytes = u64::from(row_bytes);
            buffer.span(u64::from(rows.start) * row_bytes, rows.len() as u64 * row_bytes)
        };
        let slices = self.slices.iter().map(|slice| span(*slice, self.input / 4));
        slices.chain(self.ranges.iter().map(|ranges| span(*ranges, self.range_row_bytes()))).collect()
    }
}

/// The rows of a weight as bindings 0 to 7 hold them.
pub(crate) struct Rows<'a> {
    /// Slices 0 to 3, [rows, input / 16].
    pub slices: [&'a [u32]; SLICES],
    /// Ranges by depth, two halves of four bytes: (lo, step) of a group, or the words of a chunk's halves.
    pub ranges: [&'a [[u16; 2]]; SLICES],
    /// Numbers in a row.
    pub input: usize,
    /// How ranges are stored.
    pub form: RangeForm,
}

/// What codes stand for at a depth: weight = code * bin + middle.
type Bin = (f32, f32);

impl<'a> Rows<'a> {
    /// The rows that a dispatch has bound, where four bytes of ranges are for so many chunks.
    pub(crate) fn bound(args: &Arguments<'a>, input: usize, group_chunks: u32) -> Rows<'a> {
        let form = match args.constant(WORD_RANGES) {
            0 => RangeForm::Pairs { group: group_chunks * CHUNK },
            _ => RangeForm::Words,
        };
        let slices = std::array::from_fn(|e| args.read(e));
        Rows { slices, ranges: std::array::from_fn(|e| args.read(SLICES + e)), input, form }
    }

    /// The codes of the row's weights in a chunk, at `depth`.
    pub(crate) fn codes(&self, row: usize, chunk: usize, depth: usize) -> [u8; CHUNK as usize] {
        let words = CHUNK as usize / WEIGHTS_PER_WORD;
        let first = (row * self.input / CHUNK as usize + chunk) * words;
        let mut codes = [0; CHUNK as usize];
        for (word, codes) in codes.chunks_exact_mut(WEIGHTS_PER_WORD).enumerate() {
            let slices = self.slices.map(|slice| slice[first + word]);
            codes.copy_from_slice(&unpack(&slices[..depth]));
        }
        codes
    }

    /// The range that group `at` has at `depth`, counted over all rows.
    fn range(&self, at: usize, depth: usize) -> codes::Range {
        let ranges = self.ranges[depth - 1];
        match self.form {
            RangeForm::Pairs { .. } => codes::Range::of_pair(ranges[at].map(f16::from_bits)),
            RangeForm::Words => codes::Range::of_word(ranges[at / 2][at % 2]),
        }
    }

    /// The width of the bins that the row's weights have at `depth` in each half of a chunk, and the middle of the
    /// lowest one.
    pub(crate) fn bins(&self, row: usize, chunk: usize, depth: usize) -> [Bin; 2] {
        let first = row * self.input + chunk * CHUNK as usize;
        [first, first + HALF_CHUNK].map(|weight| self.range(weight / self.form.group() as usize, depth).bin(depth))
    }

    /// Writes the row's weights at `depth` to `out`, [input].
    pub(crate) fn dequantize(&self, row: usize, depth: usize, out: &mut [f32]) {
        let group = self.form.group() as usize;
        let groups = self.input / group;
        let bins: Vec<Bin> = (row * groups..(row + 1) * groups)
            .map(|at| {
                let range = self.range(at, depth);
                (range.step / 64.0, range.bin(depth).1)
            })
            .collect();
        let words = self.input / WEIGHTS_PER_WORD;
        let slices = self.slices.map(|slice| &slice[row * words..][..words]);
        dequantize_row(slices, depth, &bins, out);
    }
}

/// The groups of a row, with (finest, middle) of each.
#[multiversion(targets = "simd")]
fn dequantize_row(slices: [&[u32]; SLICES], depth: usize, bins: &[Bin], out: &mut [f32]) {
    match depth {
        1 => dequantize_at::<1>(slices, bins, out),
        2 => dequantize_at::<2>(slices, bins, out),
        3 => dequantize_at::<3>(slices, bins, out),
        _ => dequantize_at::<4>(slices, bins, out),
    }
}

/// weight = code8 * finest + middle, with the bits below the depth zero in code8.
#[inline(always)]
fn dequantize_at<const DEPTH: usize>(slices: [&[u32]; SLICES], bins: &[Bin], out: &mut [f32]) {
    const PAIRS: u32 = 0x0303_0303;
    let words = out.len() / bins.len() / WEIGHTS_PER_WORD;
    let (sixteens, _) = out.as_chunks_mut::<WEIGHTS_PER_WORD>();
    for (g, (out, (finest, middle))) in sixteens.chunks_exact_mut(words).zip(bins).enumerate() {
        // As long as the group, so that the loop over them needs no checks.
        let slices = slices.map(|slice| &slice[g * words..][..words]);
        for (w, out) in out.iter_mut().enumerate() {
            let mut codes = [0u8; WEIGHTS_PER_WORD];
            for i in 0..4 {
                let pairs = (0..DEPTH).map(|e| (slices[e][w] >> (2 * i) & PAIRS) << (6 - 2 * e));
                let four = pairs.fold(0, |all, pairs| all | pairs);
                codes[4 * i..4 * i + 4].copy_from_slice(&four.to_le_bytes());
            }
            *out = codes.map(|code| f32::from(code) * finest + middle);
        }
    }
}

/// The inner product, in sixteen sums that stand for the lanes of a vector.
#[multiversion(targets = "simd")]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}
