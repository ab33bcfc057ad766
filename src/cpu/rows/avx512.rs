//! The products with AVX-512 and its products of int8s: 256 weights in a register of each plane.

use std::arch::x86_64::*;

use super::{INPUTS_MAX, RowBlock, TILE_ROWS, for_each_group, plain, unrolled};
use crate::cpu::pairs::{InputChunk, PairForm};
use crate::format::codes::RangeForm;

/// Whether this processor has all that is used here.
pub fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}

/// The products of a block's rows, of inputs as pairs of int8s.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn multiply(block: &RowBlock<'_>, inputs: &[&[InputChunk]], outputs: &mut [&mut [f32]]) {
    if block.rows.len() < TILE_ROWS {
        return plain::multiply_in(block, PairForm::Bytes, inputs, outputs);
    }
    for_each_group!(tiles, block, inputs, outputs);
}

/// The products of all tiles with INPUTS inputs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
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

/// The products of four rows. A register's lane 4 r + w has word w of row r.
#[allow(clippy::needless_range_loop, reason = "the chunk is that of every slice and input")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
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
    let ranges = Ranges { all: weight.ranges(first, TILE_ROWS), groups: weight.groups(), form: weight.form };
    let mut sums = [_mm512_setzero_ps(); INPUTS];
    for chunk in 0..chunks {
        let mut words = [_mm512_setzero_si512(); DEPTH];
        for e in 0..DEPTH {
            words[e] = four_rows(slices[e], chunk, chunks);
        }
        let planes = planes::<DEPTH>(words);
        let (bins, middles) = ranges.bins::<DEPTH>(if group_chunks == 1 { chunk } else { chunk / group_chunks });
        unrolled!(t in INPUTS => sums[t] = add_chunk(sums[t], &inputs[t][chunk], planes, bins, middles));
    }
    let mut products = [[0.0; TILE_ROWS]; INPUTS];
    unrolled!(t in INPUTS => products[t] = sum_words(sums[t]));
    products
}

/// The sum with what a chunk comes to.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
fn add_chunk(sum: __m512, input: &InputChunk, planes: [__m512i; 4], bins: __m512, middles: __m512) -> __m512 {
    let [high, low] = input.bytes();
    let (mut highs, mut lows) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for i in 0..4 {
        highs = _mm512_dpbusd_epi32(highs, planes[i], to_all_rows(high[i]));
        lows = _mm512_dpbusd_epi32(lows, planes[i], to_all_rows(low[i]));
    }
    let whole = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(highs), lows));
    let sum = _mm512_fmadd_ps(whole, _mm512_mul_ps(bins, _mm512_set1_ps(input.unit)), sum);
    let halves = _mm512_broadcast_f32x4(bytemuck::cast::<[f32; 4], __m128>(input.sums));
    _mm512_fmadd_ps(middles, halves, sum)
}

/// A chunk's words of four rows that lie one after the other, `row` chunks each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn four_rows(words: &[[u32; 4]], chunk: usize, row: usize) -> __m512i {
    let [a, b, c, d]: [__m128i; 4] =
        bytemuck::cast([words[chunk], words[row + chunk], words[2 * row + chunk], words[3 * row + chunk]]);
    let first = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let second = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

/// Sixteen int8s for each of the rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_all_rows(plane: [i8; 16]) -> __m512i {
    _mm512_broadcast_i32x4(bytemuck::cast::<[i8; 16], __m128i>(plane))
}

/// The codes of each plane, of a word of each slice in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn planes<const DEPTH: usize>(words: [__m512i; DEPTH]) -> [__m512i; 4] {
    let mut planes = [_mm512_setzero_si512(); 4];
    for (i, plane) in planes.iter_mut().enumerate() {
        let mut codes = _mm512_setzero_si512();
        for (e, words) in words.into_iter().enumerate() {
            // From bit 2 i of each byte to where the slice stands in a code.
            let right = 2 * i as i32 - 2 * (DEPTH - 1 - e) as i32;
            let moved = if right >= 0 {
                _mm512_srlv_epi32(words, _mm512_set1_epi32(right))
            } else {
                _mm512_sllv_epi32(words, _mm512_set1_epi32(-right))
            };
            // Bits of the mask from `moved`, the others from `codes`.
            let mask = _mm512_set1_epi8((3u8 << (2 * (DEPTH - 1 - e))) as i8);
            codes = match e {
                0 => _mm512_and_si512(moved, mask),
                _ => _mm512_ternarylogic_epi32::<0xca>(mask, moved, codes),
            };
        }
        *plane = codes;
    }
    planes
}

/// The ranges of four rows at a depth.
struct Ranges<'a> {
    /// [4, groups]
    all: &'a [[u16; 2]],
    /// Ranges of a row.
    groups: usize,
    form: RangeForm,
}

impl Ranges<'_> {
    /// The widths of the bins of group `at`, and the middles of the lowest ones, in every lane those of its weights.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c,fma")]
    fn bins<const DEPTH: usize>(&self, at: usize) -> (__m512, __m512) {
        let (all, row) = (self.all, self.groups);
        let four = [all[at], all[row + at], all[2 * row + at], all[3 * row + at]];
        let eight: __m128i = bytemuck::cast(four);
        let finer = (1u32 << (2 * (DEPTH - 1))) as f32;
        if self.form != RangeForm::Words {
            let pairs = _mm512_castps256_ps512(_mm256_cvtph_ps(eight));
            let lo = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6), pairs);
            let step = _mm512_permutexvar_ps(_mm512_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7), pairs);
            let bins = _mm512_mul_ps(step, _mm512_set1_ps(1.0 / finer));
            return (bins, _mm512_fmadd_ps(bins, _mm512_set1_ps(0.5), lo));
        }
        // As `Range::of_word` has it: step = 16 v, and lo = -z / 32 * step.
        let v = _mm256_cvtph_ps(_mm_slli_epi16::<5>(_mm_and_si128(eight, _mm_set1_epi16(0x1ff))));
        let z = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm_srli_epi16::<9>(eight)));
        let bins = _mm256_mul_ps(v, _mm256_set1_ps(16.0 / finer));
        let below = _mm256_fnmadd_ps(z, _mm256_set1_ps(finer / 32.0), _mm256_set1_ps(0.5));
        let middles = _mm256_mul_ps(bins, below);
        let halves = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        let bins = _mm512_permutexvar_ps(halves, _mm512_castps256_ps512(bins));
        (bins, _mm512_permutexvar_ps(halves, _mm512_castps256_ps512(middles)))
    }
}

/// The sum of each row's four lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_words(lanes: __m512) -> [f32; TILE_ROWS] {
    let twos = _mm512_add_ps(lanes, _mm512_permute_ps::<0b10_11_00_01>(lanes));
    let fours = _mm512_add_ps(twos, _mm512_permute_ps::<0b01_00_11_10>(twos));
    let firsts = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), fours);
    bytemuck::cast(_mm512_castps512_ps128(firsts))
}
