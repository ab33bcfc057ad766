//! Keys and values in few bits on the processor: the attention of a token over their codes, and their conversion to and
//! from f16.
//!
//! The codes of a block of positions become f32 as f16 would, and stay under the Hadamard transform: it is the query
//! that is transformed, and the sum of values that is transformed back.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

use super::attention::{BLOCK, CachedAttention, CachedNumbers};
use super::halves::f32_of_half;
use crate::kernels::attention::{ScoreRules, quantized};
use crate::kernels::cache::layout::{GROUP, Layout, QuantizedRow, hadamard};
use crate::kernels::cache::{dequantize, quantize};
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::Arguments;

/// Numbers of a group of four bits that share their codes' bytes with the others.
const HALF_GROUP: usize = GROUP / 2;

/// The attention of a token, which is not in partials.
pub fn attention(args: &mut Arguments<'_>) {
    if args.workgroups[1] > 1 {
        return (quantized::KERNEL.reference)(args);
    }
    let p: quantized::Params = args.params();
    let (layout, cells) = (Layout::in_arguments(args), Cells::in_arguments(args, p.cells));
    let [heads, kv_heads, dim] = [p.heads, p.kv_heads, layout.head_dim].map(|n| n as usize);
    let (rules, row) = (ScoreRules::in_arguments(args), args.read::<StepRow>(1)[0]);
    let mut q = args.read::<f32>(0)[..heads * dim].to_vec();
    let (keys, values): (&[f16], &[f16]) = (args.read(2), args.read(3));
    let (rows, watch): (&mut [u32], _) = (args.write(4), args.watch);
    let y: &mut [f32] = &mut args.write(5)[..heads * dim];

    let spoilt = quantized::write_own(layout, (kv_heads, cells), row, [keys, values], rows);
    hadamard(&mut q);
    let numbers = CodedNumbers { rows, layout, cells };
    let attention = CachedAttention { numbers, ring: cells.ring, rules, heads, kv_heads, dim };
    attention.of_each(&q, &[row], y, watch);
    hadamard(y);
    for (y, _) in y.chunks_exact_mut(heads / kv_heads * dim).zip(spoilt).filter(|(_, spoilt)| *spoilt) {
        y.fill(f32::NAN);
    }
}

/// The conversion of the earlier positions to f16.
pub fn to_f16(args: &mut Arguments<'_>) {
    let p: dequantize::Params = args.params();
    let (layout, cells) = (Layout::in_arguments(args), Cells::in_arguments(args, p.cells));
    let (row, rows) = (args.read::<StepRow>(0)[0], args.read::<u32>(1));
    let (keys, values): (&mut [f16], &mut [f16]) = (args.write(2), args.write(3));
    let (dim, words, watch) = (layout.head_dim as usize, layout.row_words(), args.watch);
    let visible = row.visible(dequantize::window(args));
    for kv_head in 0..p.kv_heads as usize {
        for cells in cells.stretches(row, visible.start..visible.end - 1) {
            let first = kv_head * p.cells as usize + cells.start;
            let rows = rows[first * words..][..cells.len() * words].par_chunks(BLOCK * words);
            let [keys, values] =
                [&mut *keys, &mut *values].map(|to| to[first * dim..][..cells.len() * dim].par_chunks_mut(BLOCK * dim));
            let scratch = || [(); 2].map(|()| vec![0f32; BLOCK * dim]);
            rows.zip(keys.zip(values)).for_each_init(scratch, |[key, value], (rows, (keys, values))| {
                if watch.stops() {
                    return;
                }
                decode(rows, layout, &mut key[..keys.len()], &mut value[..values.len()]);
                for (numbers, to) in [(key, keys), (value, values)] {
                    let numbers = &mut numbers[..to.len()];
                    transform(numbers);
                    to.convert_from_f32_slice(numbers);
                }
            });
        }
    }
}

/// The codes of a step's tokens, a thread for each head.
pub fn from_f16(args: &mut Arguments<'_>) {
    let p: quantize::Params = args.params();
    let (layout, cells) = (Layout::in_arguments(args), Cells::in_arguments(args, p.cells));
    let step_rows = &args.read::<StepRow>(0)[..p.tokens as usize];
    let (keys, values): (&[f16], &[f16]) = (args.read(1), args.read(2));
    let (rows, watch): (&mut [u32], _) = (args.write(3), args.watch);
    let (dim, words, count) = (layout.head_dim as usize, layout.row_words(), p.cells as usize);
    let from = keys.par_chunks_exact(count * dim).zip(values.par_chunks_exact(count * dim));
    rows.par_chunks_exact_mut(count * words).zip(from).take(p.kv_heads as usize).for_each(|(rows, (keys, values))| {
        for row in step_rows {
            if watch.stops() {
                return;
            }
            let cell = cells.cell(*row, row.position as usize);
            layout.write(&mut rows[cell * words..], &keys[cell * dim..][..dim], &values[cell * dim..][..dim]);
        }
    });
}

/// Keys and values in few bits, [K, C, words of a row].
struct CodedNumbers<'a> {
    rows: &'a [u32],
    layout: Layout,
    cells: Cells,
}

impl CachedNumbers for CodedNumbers<'_> {
    fn widen(&self, kv_head: usize, row: StepRow, positions: Range<usize>, keys: &mut [f32], values: &mut [f32]) {
        let (head, mut at) = (kv_head * self.cells.count as usize, 0);
        let (words, dim) = (self.layout.row_words(), self.layout.head_dim as usize);
        for cells in self.cells.stretches(row, positions) {
            let rows = &self.rows[(head + cells.start) * words..(head + cells.end) * words];
            let to = at..at + cells.len() * dim;
            decode(rows, self.layout, &mut keys[to.clone()], &mut values[to.clone()]);
            at = to.end;
        }
    }
}

/// Makes f32 of rows of codes: [rows, A] keys and [rows, A] values, both under the Hadamard transform.
#[multiversion(targets = "simd")]
fn decode(rows: &[u32], layout: Layout, keys: &mut [f32], values: &mut [f32]) {
    let (words, dim) = (layout.row_words(), layout.head_dim as usize);
    let to = keys.chunks_exact_mut(dim).zip(values.chunks_exact_mut(dim));
    for (row, (key, value)) in rows.chunks_exact(words).zip(to) {
        let row = layout.row(row);
        decode_part(&row, layout.key_bits, false, key);
        decode_part(&row, layout.value_bits, true, value);
    }
}

/// Makes f32 of a row's key, or of its value.
#[inline(always)]
fn decode_part(row: &QuantizedRow<'_>, bits: u32, of_value: bool, to: &mut [f32]) {
    let codes: &[u8] = bytemuck::cast_slice(row.codes[usize::from(of_value)]);
    let shift = if of_value { 16 } else { 0 };
    let groups =
        to.as_chunks_mut::<GROUP>().0.iter_mut().zip(row.scales.iter().map(|pair| f32_of_half((pair >> shift) as u16)));
    if bits == 8 {
        // A code is from 0 to 255 and stands for what it is above 127.5. Those of keys are stored as int8s, less 128.
        let flip = if of_value { 0x80 } else { 0 };
        for ((to, scale), codes) in groups.zip(codes.as_chunks::<GROUP>().0) {
            for (to, code) in to.iter_mut().zip(codes) {
                *to = (f32::from((code ^ flip) as i8) + 0.5) * scale;
            }
        }
    } else {
        for ((to, scale), codes) in groups.zip(codes.as_chunks::<HALF_GROUP>().0) {
            let (low, high) = to.split_at_mut(HALF_GROUP);
            for ((low, high), codes) in low.iter_mut().zip(high).zip(codes) {
                *low = (f32::from(codes & 0xf) - 7.5) * scale;
                *high = (f32::from(codes >> 4) - 7.5) * scale;
            }
        }
    }
}

/// Numbers of a row of a group that a vector has.
const LANES: usize = 8;
/// The Hadamard matrix of so many dimensions, over sqrt(32).
const MATRIX: [[f32; LANES]; LANES] = matrix();

const fn matrix() -> [[f32; LANES]; LANES] {
    /// 1 / sqrt(32)
    const UNIT: f32 = std::f32::consts::FRAC_1_SQRT_2 / 4.0;
    let (mut matrix, mut at) = ([[UNIT; LANES]; LANES], 0);
    while at < LANES * LANES {
        let (row, column) = (at / LANES, at % LANES);
        if (row & column).count_ones() % 2 == 1 {
            matrix[row][column] = -UNIT;
        }
        at += 1;
    }
    matrix
}

/// As [`hadamard`], in vectors: sums and differences of a group's four rows of eight, and the product of each row with
/// the matrix of eight dimensions.
#[multiversion(targets = "simd")]
fn transform(numbers: &mut [f32]) {
    for group in numbers.as_chunks_mut::<GROUP>().0 {
        let [a, b, c, d]: [[f32; LANES]; GROUP / LANES] = bytemuck::cast(*group);
        let mut rows = [[0f32; LANES]; GROUP / LANES];
        for lane in 0..LANES {
            let [first, second] = [[a[lane] + b[lane], a[lane] - b[lane]], [c[lane] + d[lane], c[lane] - d[lane]]];
            rows[0][lane] = first[0] + second[0];
            rows[1][lane] = first[1] + second[1];
            rows[2][lane] = first[0] - second[0];
            rows[3][lane] = first[1] - second[1];
        }
        for (to, row) in group.as_chunks_mut::<LANES>().0.iter_mut().zip(&rows) {
            let mut sums = [0f32; LANES];
            for (number, signs) in row.iter().zip(&MATRIX) {
                for (sum, sign) in sums.iter_mut().zip(signs) {
                    *sum += number * sign;
                }
            }
            *to = sums;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transform_is_the_references() {
        let numbers: Vec<f32> = (0..96).map(|at| ((at * 37 % 101) as f32 - 50.0) * 0.137).collect();
        let (mut found, mut expected) = (numbers.clone(), numbers);
        transform(&mut found);
        hadamard(&mut expected);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
        }
    }
}
