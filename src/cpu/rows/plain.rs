//! The products in plain loops, which the compiler turns into the instructions of the processor that it knows: for
//! processors without a file of their own, and for fewer than four rows.

use multiversion::multiversion;

use super::{Keep, RowBlock};
use crate::cpu::pairs::{InputChunk, PairForm};
use crate::format::codes::{Range, RangeForm};
use crate::kernels::sliced::CHUNK;
use half::f16;

const NUMBERS: usize = CHUNK as usize;

/// The products of a block's rows, of inputs as int16s.
pub fn multiply(block: &RowBlock<'_>, inputs: &[&[InputChunk]], outputs: &mut [&mut [f32]]) {
    multiply_in(block, PairForm::Halves, inputs, outputs);
}

/// The products of a block's rows, of inputs in a form.
pub(super) fn multiply_in(block: &RowBlock<'_>, form: PairForm, inputs: &[&[InputChunk]], outputs: &mut [&mut [f32]]) {
    for (at, row) in block.rows.clone().enumerate() {
        for (input, output) in inputs.iter().zip(outputs.iter_mut()) {
            let product = multiply_row(block, row, form, input);
            output[at] = if block.keep == Keep::Sum { output[at] + product } else { product };
        }
    }
}

#[multiversion(targets = "simd")]
fn multiply_row(block: &RowBlock<'_>, row: usize, form: PairForm, input: &[InputChunk]) -> f32 {
    let weight = block.weight;
    let ranges = weight.ranges(row, 1);
    let mut sum = 0.0;
    for (at, chunk) in input.iter().enumerate() {
        let mut codes = [0u8; NUMBERS];
        for slice in 0..weight.depth {
            add_slice(&weight.words(slice, row, 1)[at], &mut codes);
        }
        let numbers = in_order(chunk, form);
        let halves = [0, NUMBERS / 2].map(|first| {
            let pairs = codes[first..][..NUMBERS / 2].iter().zip(&numbers[first..][..NUMBERS / 2]);
            pairs.map(|(code, number)| i32::from(*code) * i32::from(*number)).sum::<i32>()
        });
        let pair = ranges[at / weight.group_chunks];
        for (half, whole) in halves.into_iter().enumerate() {
            let range = match weight.form {
                RangeForm::Pairs { .. } => Range::of_pair(pair.map(f16::from_bits)),
                RangeForm::Words => Range::of_word(pair[half]),
            };
            let (bin, middle) = range.bin(weight.depth);
            sum += whole as f32 * (bin * chunk.unit) + middle * chunk.sums[2 * half];
        }
    }
    sum
}

/// Appends the two bits that a slice has of each weight of a chunk to the codes, which are in the planes' order.
#[inline(always)]
fn add_slice(words: &[u32; 4], codes: &mut [u8; NUMBERS]) {
    for (w, word) in words.iter().enumerate() {
        for (b, byte) in word.to_le_bytes().into_iter().enumerate() {
            for i in 0..4 {
                let code = &mut codes[16 * w + 4 * b + i];
                *code = *code << 2 | (byte >> (2 * i) & 3);
            }
        }
    }
}

/// The whole numbers of a chunk in the order of [`add_slice`]'s codes: by word, byte and plane.
#[inline(always)]
fn in_order(chunk: &InputChunk, form: PairForm) -> [i16; NUMBERS] {
    std::array::from_fn(|at| {
        let (entry, plane) = (at / 4, at % 4);
        match form {
            PairForm::Halves => chunk.halves()[plane][entry],
            PairForm::Bytes => {
                let [high, low] = chunk.bytes();
                i16::from(high[plane][entry]) * 256 + i16::from(low[plane][entry])
            }
        }
    })
}
