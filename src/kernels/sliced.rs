//! Weights in slices, as kernels bind them and as references read them.

use std::ops::Range;

use half::f16;
use multiversion::multiversion;

use crate::engine::Traits;
use crate::format::codes::{WEIGHTS_PER_WORD, unpack};
use crate::precision::SLICES;
use crate::recording::{Arguments, Buffer, Span};

/// Weights that the shaders take at once: one `vec4<u32>` of each slice.
pub const CHUNK: u32 = 64;
/// A range of rows is a multiple of so many, so that it begins where a binding may.
const RANGE_ROWS: u32 = 64;

/// A weight [rows, input] in slices, on an engine.
#[derive(Debug, Clone, Copy)]
pub struct SlicedWeight {
    /// Slice buffers, [rows, input / 16] u32 each; a slice that is not there is the base again, and is not read.
    pub slices: [Buffer; SLICES],
    /// (lo, step) of each group, [rows, input / group] pairs of f16.
    pub scales: Buffer,
    /// Output dimension.
    pub rows: u32,
    /// Input dimension, a multiple of the group.
    pub input: u32,
    /// G
    pub group: u32,
}

impl SlicedWeight {
    /// Chunks of a row.
    pub fn chunks(&self) -> u32 {
        self.input / CHUNK
    }

    /// Chunks of a group.
    pub fn group_chunks(&self) -> u32 {
        self.group / CHUNK
    }

    /// The rows in ranges, each of which fits a binding of the device in every buffer.
    pub fn row_ranges(&self, traits: Traits) -> Vec<Range<u32>> {
        let row_bytes = u64::from((self.input / 4).max(self.input / self.group * 4));
        let most = (traits.binding_bytes / row_bytes).min(u64::from(self.rows)) as u32;
        let step = if most < self.rows { (most / RANGE_ROWS).max(1) * RANGE_ROWS } else { self.rows };
        (0..self.rows).step_by(step as usize).map(|first| first..(first + step).min(self.rows)).collect()
    }

    /// Bindings 0 to 4 of a kernel that reads the rows.
    pub fn bindings(&self, rows: &Range<u32>) -> Vec<Span> {
        let span = |buffer: Buffer, row_bytes: u32| {
            let row_bytes = u64::from(row_bytes);
            buffer.span(u64::from(rows.start) * row_bytes, rows.len() as u64 * row_bytes)
        };
        let slices = self.slices.iter().map(|slice| span(*slice, self.input / 4));
        slices.chain([span(self.scales, self.input / self.group * 4)]).collect()
    }
}

/// The rows of a weight as bindings 0 to 4 hold them.
pub(crate) struct Rows<'a> {
    slices: [&'a [u32]; SLICES],
    scales: &'a [[f16; 2]],
    input: usize,
    group: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn bound(args: &Arguments<'a>, input: usize, group: usize) -> Rows<'a> {
        Rows { slices: std::array::from_fn(|e| args.read(e)), scales: args.read(4), input, group }
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

    /// The width of the bins that the row's weights in a chunk have at `depth`, and the middle of the lowest one.
    pub(crate) fn bin(&self, row: usize, chunk: usize, depth: usize) -> (f32, f32) {
        let group = row * (self.input / self.group) + chunk * CHUNK as usize / self.group;
        let [lo, step] = self.scales[group].map(f16::to_f32);
        let bin = step / (1u32 << (2 * depth - 2)) as f32;
        (bin, lo + 0.5 * bin)
    }

    /// Writes the row's weights at `depth` to `out`, [input].
    pub(crate) fn dequantize(&self, row: usize, depth: usize, out: &mut [f32]) {
        let words = self.group / WEIGHTS_PER_WORD;
        let groups = self.input / self.group;
        for (g, out) in out.chunks_exact_mut(self.group).enumerate() {
            let at = row * groups + g;
            let [lo, step] = self.scales[at].map(f16::to_f32);
            let finest = step / 64.0;
            let middle = lo + finest * 0.5 * (1u32 << (8 - 2 * depth)) as f32;
            let slices = self.slices.map(|slice| &slice[at * words..][..words]);
            dequantize_group(slices, depth, finest, middle, out);
        }
    }
}

/// weight = code8 * finest + middle, with the bits below `depth` zero in code8.
#[multiversion(targets = "simd")]
fn dequantize_group(slices: [&[u32]; SLICES], depth: usize, finest: f32, middle: f32, out: &mut [f32]) {
    const PAIRS: u32 = 0x0303_0303;
    for (w, out) in out.chunks_exact_mut(WEIGHTS_PER_WORD).enumerate() {
        let word: [u32; SLICES] = std::array::from_fn(|e| if e < depth { slices[e][w] } else { 0 });
        for (i, out) in out.chunks_exact_mut(4).enumerate() {
            let pairs = word.map(|word| word >> (2 * i) & PAIRS);
            let codes = pairs[0] << 6 | pairs[1] << 4 | pairs[2] << 2 | pairs[3];
            for (out, code) in out.iter_mut().zip(codes.to_le_bytes()) {
                *out = f32::from(code) * finest + middle;
            }
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
