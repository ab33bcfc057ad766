//! The products with NEON and its dot products of int8s: a register has the sixteen codes that a plane of a chunk has
//! of one row.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{INPUTS_MAX, RowBlock, TILE_ROWS, for_each_group, plain, unrolled};
use crate::cpu::pairs::{InputChunk, PairForm};
use crate::format::codes::RangeForm;

/// Whether this processor has all that is used here.
pub fn is_there() -> bool {
    is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")
}

/// The products of a block's rows, of inputs as pairs of int8s.
#[target_feature(enable = "neon,dotprod")]
pub fn multiply(block: &RowBlock<'_>, inputs: &[&[InputChunk]], outputs: &mut [&mut [f32]]) {
    if block.rows.len() < TILE_ROWS {
        return plain::multiply_in(block, PairForm::Bytes, inputs, outputs);
    }
    for_each_group!(tiles, block, inputs, outputs);
}

/// The products of all tiles with INPUTS inputs.
#[target_feature(enable = "neon,dotprod")]
fn tiles<const DEPTH: usize, const INPUTS: usize>(
    block: &RowBlock<'_>,
    inputs: &[&[InputChunk]],
    outputs: &mut [&mut [f32]],
) {
    let inputs: [&[InputChunk]; INPUTS] = inputs.try_into().expect("a group of as many inputs");
    for first in block.tiles() {
        let products = tile::<DEPTH, INPUTS>(block, first, inputs);
        for (products, output) in products.into_iter().zip(outputs.iter_mut()) {
            block.put(first, products, output);
        }
    }
}

/// The products of four rows. Lane w of a row's sum is of word w of each chunk.
#[allow(clippy::needless_range_loop, reason = "the chunk is that of every slice and input")]
#[target_feature(enable = "neon,dotprod")]
fn tile<const DEPTH: usize, const INPUTS: usize>(
    block: &RowBlock<'_>,
    first: usize,
    inputs: [&[InputChunk]; INPUTS],
) -> [[f32; TILE_ROWS]; INPUTS] {
    let weight = block.weight;
    let (chunks, group_chunks) = (weight.chunks, weight.group_chunks);
    let mut slices: [&[[u32; 4]]; DEPTH] = [&[]; DEPTH];
    for (e, slice) in slices.iter_mut().enumerate() {
        *slice = weight.words(e, first, TILE_ROWS);
    }
    let ranges = TileRanges { all: weight.ranges(first, TILE_ROWS), groups: weight.groups(), form: weight.form };
    let mut sums = [[vdupq_n_f32(0.0); TILE_ROWS]; INPUTS];
    for chunk in 0..chunks {
        let mut rows = ranges.rows::<DEPTH>(if group_chunks == 1 { chunk } else { chunk / group_chunks });
        for r in 0..TILE_ROWS {
            let mut words = [vdupq_n_u8(0); DEPTH];
            for e in 0..DEPTH {
                words[e] = bytemuck::cast(slices[e][r * chunks + chunk]);
            }
            rows[r].planes = planes::<DEPTH>(words);
        }
        unrolled!(t in INPUTS => for r in 0..TILE_ROWS {
            sums[t][r] = add_chunk(sums[t][r], &inputs[t][chunk], &rows[r]);
        });
    }
    let mut products = [[0.0; TILE_ROWS]; INPUTS];
    for (products, sums) in products.iter_mut().zip(sums) {
        for (product, lanes) in products.iter_mut().zip(sums) {
            *product = vaddvq_f32(lanes);
        }
    }
    products
}

/// What a chunk has of a row.
#[derive(Clone, Copy)]
struct RowChunk {
    /// The codes of each plane, less 128 where they have eight bits.
    planes: [int8x16_t; 4],
    /// In every lane the width of the bins of its weights.
    bins: float32x4_t,
    /// The middles of the bins with the code 0.
    middles: float32x4_t,
}

/// A row's sum with what a chunk comes to.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_chunk(sum: float32x4_t, input: &InputChunk, row: &RowChunk) -> float32x4_t {
    let [high, low] = input.bytes();
    let (mut highs, mut lows) = (vdupq_n_s32(0), vdupq_n_s32(0));
    for i in 0..4 {
        highs = add_products(highs, row.planes[i], bytemuck::cast(high[i]));
        lows = add_products(lows, row.planes[i], bytemuck::cast(low[i]));
    }
    let whole = vcvtq_f32_s32(vaddq_s32(vshlq_n_s32::<8>(highs), lows));
    let sum = vfmaq_f32(sum, whole, vmulq_n_f32(row.bins, input.unit));
    vfmaq_f32(sum, row.middles, bytemuck::cast(input.sums))
}

/// Adds the products of four int8s to each lane. The standard library's `vdotq_s32` is not stable yet.
#[allow(unsafe_code, reason = "an instruction that has no stable function")]
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_products(sums: int32x4_t, codes: int8x16_t, numbers: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the instruction touches these registers only, and a caller's processor has it, as this function's has.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {codes:v}.16b, {numbers:v}.16b",
            sums = inout(vreg) sums,
            codes = in(vreg) codes,
            numbers = in(vreg) numbers,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The codes of each plane of a row's words, one register for each slice.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn planes<const DEPTH: usize>(mut words: [uint8x16_t; DEPTH]) -> [int8x16_t; 4] {
    if DEPTH == 4 {
        // Codes of eight bits are no int8s: without their highest bit's sense, they are less by 128.
        words[0] = veorq_u8(words[0], vdupq_n_u8(0b1010_1010));
    }
    let mut planes = [vdupq_n_s8(0); 4];
    for (i, plane) in planes.iter_mut().enumerate() {
        let mut codes = vdupq_n_u8(0);
        for (e, words) in words.into_iter().enumerate() {
            // From bit 2 i of each byte to where the slice stands in a code.
            let left = 2 * (DEPTH - 1 - e) as i8 - 2 * i as i8;
            let moved = vshlq_u8(words, vdupq_n_s8(left));
            // Bits of the mask from `moved`, the others from `codes`.
            let mask = vdupq_n_u8(3 << (2 * (DEPTH - 1 - e)));
            codes = if e == 0 { vandq_u8(moved, mask) } else { vbslq_u8(mask, moved, codes) };
        }
        *plane = vreinterpretq_s8_u8(codes);
    }
    planes
}

/// The ranges of four rows at a depth.
struct TileRanges<'a> {
    /// [4, groups]
    all: &'a [[u16; 2]],
    /// Ranges of a row.
    groups: usize,
    form: RangeForm,
}

impl TileRanges<'_> {
    /// The rows' bins in group `at`, and no codes.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn rows<const DEPTH: usize>(&self, at: usize) -> [RowChunk; TILE_ROWS] {
        let (all, row) = (self.all, self.groups);
        let eight: uint16x8_t = bytemuck::cast([all[at], all[row + at], all[2 * row + at], all[3 * row + at]]);
        let finer = (1u32 << (2 * (DEPTH - 1))) as f32;
        // The middle of a bin, and what the codes are less by.
        let above = if DEPTH == 4 { 128.5 } else { 0.5 };
        let no_codes = [vdupq_n_s8(0); 4];
        let of_row = |bins, middles| RowChunk { planes: no_codes, bins, middles };
        if self.form != RangeForm::Words {
            let [first, second] = floats(eight);
            let of_pair = |lo, step| {
                let bins = vmulq_n_f32(step, 1.0 / finer);
                of_row(bins, vfmaq_n_f32(lo, bins, above))
            };
            return [
                of_pair(vdupq_laneq_f32::<0>(first), vdupq_laneq_f32::<1>(first)),
                of_pair(vdupq_laneq_f32::<2>(first), vdupq_laneq_f32::<3>(first)),
                of_pair(vdupq_laneq_f32::<0>(second), vdupq_laneq_f32::<1>(second)),
                of_pair(vdupq_laneq_f32::<2>(second), vdupq_laneq_f32::<3>(second)),
            ];
        }
        // As `Range::of_word` has it: step = 16 v, and lo = -z / 32 * step.
        let v = floats(vshlq_n_u16::<5>(vandq_u16(eight, vdupq_n_u16(0x1ff))));
        let z = vshrq_n_u16::<9>(eight);
        let z = [vcvtq_f32_u32(vmovl_u16(vget_low_u16(z))), vcvtq_f32_u32(vmovl_high_u16(z))];
        let of_words = |v, z| {
            let bins = vmulq_n_f32(v, 16.0 / finer);
            (bins, vmulq_f32(bins, vfmaq_n_f32(vdupq_n_f32(above), z, finer / -32.0)))
        };
        let [(bins_a, middles_a), (bins_b, middles_b)] = [of_words(v[0], z[0]), of_words(v[1], z[1])];
        [
            of_row(vzip1q_f32(bins_a, bins_a), vzip1q_f32(middles_a, middles_a)),
            of_row(vzip2q_f32(bins_a, bins_a), vzip2q_f32(middles_a, middles_a)),
            of_row(vzip1q_f32(bins_b, bins_b), vzip1q_f32(middles_b, middles_b)),
            of_row(vzip2q_f32(bins_b, bins_b), vzip2q_f32(middles_b, middles_b)),
        ]
    }
}

/// Eight f16 as f32.
#[inline]
#[target_feature(enable = "neon")]
fn floats(halves: uint16x8_t) -> [float32x4_t; 2] {
    let [first, second] = [vget_low_u16(halves), vget_high_u16(halves)];
    [vcvt_f32_f16(vreinterpret_f16_u16(first)), vcvt_f32_f16(vreinterpret_f16_u16(second))]
}
