//! The products with AVX2: two rows in a register, and products of int16s, as its products of int8s cut what is too
//! large.

use std::arch::x86_64::*;

use super::{INPUTS_MAX, RowBlock, TILE_ROWS, for_each_group, plain};
use crate::cpu::pairs::{InputChunk, PairForm};
use crate::format::codes::RangeForm;

/// Whether this processor has all that is used here.
pub fn is_there() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma")
}

/// The products of a block's rows, of inputs as int16s.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn multiply(block: &RowBlock<'_>, inputs: &[&[InputChunk]], outputs: &mut [&mut [f32]]) {
    if block.rows.len() < TILE_ROWS {
        return plain::multiply_in(block, PairForm::Halves, inputs, outputs);
    }
    for_each_group!(tiles, block, inputs, outputs);
}

/// The products of all tiles with INPUTS inputs.
#[target_feature(enable = "avx2,f16c,fma")]
fn tiles<const DEPTH: usize, const INPUTS: usize>(
    block: &RowBlock<'_>,
    inputs: &[&[InputChunk]],
    outputs: &mut [&mut [f32]],
) {
    let inputs: [&[InputChunk]; INPUTS] = std::array::from_fn(|t| inputs[t]);
    for first in block.tiles() {
        let (mut products, mut lower) = ([[0.0; TILE_ROWS]; INPUTS], [[0.0; 2]; INPUTS]);
        two_rows::<DEPTH, INPUTS>(block, first, inputs, &mut lower);
        for t in 0..INPUTS {
            products[t][..2].copy_from_slice(&lower[t]);
        }
        two_rows::<DEPTH, INPUTS>(block, first + 2, inputs, &mut lower);
        for t in 0..INPUTS {
            products[t][2..].copy_from_slice(&lower[t]);
        }
        for (products, output) in products.into_iter().zip(outputs.iter_mut()) {
            block.put(first, products, output);
        }
    }
}

/// The products of two rows, each in its half of the registers.
#[inline]
#[target_feature(enable = "avx2,f16c,fma")]
fn two_rows<const DEPTH: usize, const INPUTS: usize>(
    block: &RowBlock<'_>,
    first: usize,
    inputs: [&[InputChunk]; INPUTS],
    products: &mut [[f32; 2]; INPUTS],
) {
    let weight = block.weight;
    let (chunks, group_chunks, groups) = (weight.chunks, weight.group_chunks, weight.groups());
    let slices: [&[[u32; 4]]; DEPTH] = std::array::from_fn(|e| weight.words(e, first, 2));
    let ranges = weight.ranges(first, 2);
    let inputs = inputs.map(|input| &input[..chunks]);
    let mut sums = [_mm256_setzero_ps(); INPUTS];
    for chunk in 0..chunks {
        let mut words = [_mm256_setzero_si256(); DEPTH];
        for e in 0..DEPTH {
            words[e] = pair(slices[e][chunk], slices[e][chunks + chunk]);
        }
        let planes = planes::<DEPTH>(words);
        let group = if group_chunks == 1 { chunk } else { chunk / group_chunks };
        let bins = bins::<DEPTH>(weight.form, [ranges[group], ranges[groups + group]]);
        for t in 0..INPUTS {
            let input = &inputs[t][chunk];
            // Words 0 and 1 are the first half's, and 2 and 3 the second's.
            let mut halves = [_mm256_setzero_si256(); 2];
            for (plane, numbers) in planes.into_iter().zip(input.halves()) {
                let numbers: [[i16; 8]; 2] = bytemuck::cast(*numbers);
                let zero = _mm256_setzero_si256();
                let codes = [_mm256_unpacklo_epi8(plane, zero), _mm256_unpackhi_epi8(plane, zero)];
                for half in 0..2 {
                    let numbers = _mm256_broadcastsi128_si256(bytemuck::cast::<[i16; 8], __m128i>(numbers[half]));
                    halves[half] = _mm256_add_epi32(halves[half], _mm256_madd_epi16(codes[half], numbers));
                }
            }
            for half in 0..2 {
                let (bin, middle) = bins[half];
                let whole = _mm256_cvtepi32_ps(halves[half]);
                sums[t] = _mm256_fmadd_ps(whole, _mm256_mul_ps(bin, _mm256_set1_ps(input.unit)), sums[t]);
                // The sum counts once: in the first of a row's lanes.
                let sum = _mm256_setr_ps(input.sums[2 * half], 0.0, 0.0, 0.0, input.sums[2 * half], 0.0, 0.0, 0.0);
                sums[t] = _mm256_fmadd_ps(middle, sum, sums[t]);
            }
        }
    }
    for t in 0..INPUTS {
        products[t] = sum_lanes(sums[t]);
    }
}

/// The words of a chunk of two rows.
#[inline]
#[target_feature(enable = "avx2")]
fn pair(first: [u32; 4], second: [u32; 4]) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(bytemuck::cast(first)), bytemuck::cast(second))
}

/// The codes of each plane, of a word of each slice in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn planes<const DEPTH: usize>(words: [__m256i; DEPTH]) -> [__m256i; 4] {
    let mut planes = [_mm256_setzero_si256(); 4];
    for (i, plane) in planes.iter_mut().enumerate() {
        for (e, words) in words.into_iter().enumerate() {
            // From bit 2 i of each byte to where the slice stands in a code.
            let right = 2 * i as i32 - 2 * (DEPTH - 1 - e) as i32;
            let moved = if right >= 0 {
                _mm256_srlv_epi32(words, _mm256_set1_epi32(right))
            } else {
                _mm256_sllv_epi32(words, _mm256_set1_epi32(-right))
            };
            let mask = _mm256_set1_epi8((3u8 << (2 * (DEPTH - 1 - e))) as i8);
            *plane = _mm256_or_si256(*plane, _mm256_and_si256(moved, mask));
        }
    }
    planes
}

/// The width of the bins of a chunk's halves, and the middle of the lowest one, each row's in its half of the register.
#[inline]
#[target_feature(enable = "avx2,f16c,fma")]
fn bins<const DEPTH: usize>(form: RangeForm, rows: [[u16; 2]; 2]) -> [(__m256, __m256); 2] {
    let finer = (1u32 << (2 * (DEPTH - 1))) as f32;
    let of_rows = |first: f32, second: f32| {
        _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_set1_ps(first)), _mm_set1_ps(second))
    };
    let four: __m128i = bytemuck::cast([rows[0], rows[1], [0; 2], [0; 2]]);
    if form != RangeForm::Words {
        let [lo_a, step_a, lo_b, step_b]: [f32; 4] = bytemuck::cast(_mm_cvtph_ps(four));
        let bin = _mm256_mul_ps(of_rows(step_a, step_b), _mm256_set1_ps(1.0 / finer));
        return [(bin, _mm256_fmadd_ps(bin, _mm256_set1_ps(0.5), of_rows(lo_a, lo_b))); 2];
    }
    // As `Range::of_word` has it: step = 16 v, and lo = -z / 32 * step.
    let v = _mm_cvtph_ps(_mm_slli_epi16::<5>(_mm_and_si128(four, _mm_set1_epi16(0x1ff))));
    let z = _mm_cvtepi32_ps(_mm_cvtepu16_epi32(_mm_srli_epi16::<9>(four)));
    let bin = _mm_mul_ps(v, _mm_set1_ps(16.0 / finer));
    let middle = _mm_mul_ps(bin, _mm_fnmadd_ps(z, _mm_set1_ps(finer / 32.0), _mm_set1_ps(0.5)));
    let (bin, middle): ([f32; 4], [f32; 4]) = (bytemuck::cast(bin), bytemuck::cast(middle));
    [0, 1].map(|half| (of_rows(bin[half], bin[2 + half]), of_rows(middle[half], middle[2 + half])))
}

/// The sum of the four lanes of each row.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_lanes(lanes: __m256) -> [f32; 2] {
    let twos = _mm256_add_ps(lanes, _mm256_permute_ps::<0b10_11_00_01>(lanes));
    let fours = _mm256_add_ps(twos, _mm256_permute_ps::<0b01_00_11_10>(twos));
    let all: [f32; 8] = bytemuck::cast(fours);
    [all[0], all[4]]
}
