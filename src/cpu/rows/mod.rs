//! Products of rows of a sliced weight with up to eight inputs, by the instructions that the processor has.
//!
//! The codes stay as they lie in their slices until they are in registers. Four rows are taken together, chunk by
//! chunk: a register has the four words of the same chunk of each row, so that no row's length leaves lanes idle. A
//! slice's words are shifted and masked to the codes of a plane, the slices' codes are put together, and whole numbers
//! are multiplied and added exactly. After a chunk the range of each half makes a f32 of them. Deeper slices than the
//! depth are not touched.
//!
//! What a row comes to does not depend on how many inputs there are, nor on the rows that are computed with it, where
//! these are four at least.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::pairs::{InputChunk, PairForm};
use crate::format::codes::RangeForm;
use crate::kernels::sliced::{CHUNK, Rows};
use crate::precision::SLICES;

/// Rows that are taken together.
const TILE_ROWS: usize = 4;
/// Inputs that rows are multiplied with at once, at most.
pub const INPUTS_MAX: usize = 8;

/// The instructions that products are made of. Only those that this processor was found to have can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instructions(InstructionSet);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InstructionSet {
    /// AVX-512 with its products of int8s (VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, with products of int16s.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON with its dot products of int8s.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Those that the compiler finds for plain loops.
    Plain,
}

impl Instructions {
    /// The fastest that this processor has.
    pub fn best() -> Instructions {
        *Instructions::available().last().expect("plain loops run anywhere")
    }

    /// All that this processor has, the slowest first.
    pub fn available() -> Vec<Instructions> {
        let mut all = vec![InstructionSet::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx2::is_there().then_some(InstructionSet::Avx2));
            all.extend(avx512::is_there().then_some(InstructionSet::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(neon::is_there().then_some(InstructionSet::Neon));
        all.into_iter().map(Instructions).collect()
    }

    /// How these take their inputs.
    pub fn pair_form(self) -> PairForm {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => PairForm::Bytes,
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => PairForm::Bytes,
            _ => PairForm::Halves,
        }
    }
}

/// A weight's rows at a depth.
#[derive(Clone, Copy)]
pub struct DeepRows<'a> {
    /// The words of each slice, four for a chunk: [rows, chunks].
    slices: [&'a [[u32; 4]]; SLICES],
    /// The ranges of the depth, one for so many chunks: [rows, chunks / group_chunks].
    ranges: &'a [[u16; 2]],
    group_chunks: usize,
    form: RangeForm,
    depth: usize,
    /// Chunks of a row.
    chunks: usize,
}

impl<'a> DeepRows<'a> {
    /// The rows that a kernel has bound, at a depth of 1 to 4.
    pub fn of(rows: &Rows<'a>, depth: usize) -> DeepRows<'a> {
        let group_chunks = match rows.form {
            RangeForm::Pairs { group } => (group / CHUNK) as usize,
            RangeForm::Words => 1,
        };
        let slices = rows.slices.map(bytemuck::cast_slice);
        let (ranges, form) = (rows.ranges[depth - 1], rows.form);
        DeepRows { slices, ranges, group_chunks, form, depth, chunks: rows.input / CHUNK as usize }
    }

    /// The words of `count` rows from row `first` on in a slice, and their ranges.
    #[inline(always)]
    fn words(&self, slice: usize, first: usize, count: usize) -> &'a [[u32; 4]] {
        &self.slices[slice][first * self.chunks..][..count * self.chunks]
    }

    /// The ranges of `count` rows from row `first` on.
    #[inline(always)]
    fn ranges(&self, first: usize, count: usize) -> &'a [[u16; 2]] {
        let groups = self.groups();
        &self.ranges[first * groups..][..count * groups]
    }

    /// Ranges of a row.
    #[inline(always)]
    fn groups(&self) -> usize {
        self.chunks / self.group_chunks
    }
}

/// What becomes of what was in the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is overwritten.
    Nothing,
    /// It is added to.
    Sum,
}

/// Writes the products of these rows with each input, or adds them: an output for each input, with a number for each of
/// the rows. The inputs, [`INPUTS_MAX`] at most, have a chunk for each of the rows', in the instructions' form.
pub fn multiply(
    instructions: Instructions,
    weight: &DeepRows<'_>,
    rows: Range<usize>,
    inputs: &[&[InputChunk]],
    outputs: &mut [&mut [f32]],
    keep: Keep,
) {
    assert!(inputs.iter().all(|input| input.len() == weight.chunks), "an input is as long as a row");
    assert!(outputs.iter().all(|output| output.len() == rows.len()), "an output has a number for each row");
    assert_eq!(inputs.len(), outputs.len());
    let block = RowBlock { weight, rows, keep };
    match instructions.0 {
        // SAFETY: `Instructions` are only made by `available`, of what it finds on this processor.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code, reason = "the compiler cannot know what processor runs this")]
        InstructionSet::Avx512 => unsafe { avx512::multiply(&block, inputs, outputs) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code, reason = "the compiler cannot know what processor runs this")]
        InstructionSet::Avx2 => unsafe { avx2::multiply(&block, inputs, outputs) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        #[allow(unsafe_code, reason = "the compiler cannot know what processor runs this")]
        InstructionSet::Neon => unsafe { neon::multiply(&block, inputs, outputs) },
        InstructionSet::Plain => plain::multiply(&block, inputs, outputs),
    }
}

/// What [`multiply`] hands to the instructions.
struct RowBlock<'a> {
    weight: &'a DeepRows<'a>,
    rows: Range<usize>,
    keep: Keep,
}

impl RowBlock<'_> {
    /// The first rows of tiles of four that cover the rows, where there are four: the last tile may have rows of the
    /// one before it.
    #[inline(always)]
    fn tiles(&self) -> impl Iterator<Item = usize> + use<> {
        let Range { start, end } = self.rows;
        (start..end).step_by(TILE_ROWS).map(move |first| first.min(end - TILE_ROWS))
    }

    /// Puts the products of the tile that begins with row `first` into an output. Rows that an earlier tile had are
    /// left as they are.
    #[inline(always)]
    fn put(&self, first: usize, products: [f32; TILE_ROWS], output: &mut [f32]) {
        let at = first - self.rows.start;
        let done = (TILE_ROWS - at % TILE_ROWS) % TILE_ROWS;
        let output = &mut output[at + done..][..TILE_ROWS - done];
        for (output, product) in output.iter_mut().zip(&products[done..]) {
            *output = if self.keep == Keep::Sum { *output + product } else { *product };
        }
    }
}

/// Calls a function with the depth and the number of inputs as constants, for inputs in groups of 8, 4, 2 and 1.
macro_rules! for_each_group {
    ($function:ident, $block:expr, $inputs:expr, $outputs:expr) => {{
        let (mut inputs, mut outputs): (&[&[InputChunk]], &mut [&mut [f32]]) = ($inputs, $outputs);
        while !inputs.is_empty() {
            let count = 1 << inputs.len().ilog2().min(INPUTS_MAX.ilog2());
            let (group, outs);
            (group, inputs) = inputs.split_at(count);
            (outs, outputs) = std::mem::take(&mut outputs).split_at_mut(count);
            match ($block.weight.depth, count) {
                (1, 1) => $function::<1, 1>($block, group, outs),
                (1, 2) => $function::<1, 2>($block, group, outs),
                (1, 4) => $function::<1, 4>($block, group, outs),
                (1, _) => $function::<1, 8>($block, group, outs),
                (2, 1) => $function::<2, 1>($block, group, outs),
                (2, 2) => $function::<2, 2>($block, group, outs),
                (2, 4) => $function::<2, 4>($block, group, outs),
                (2, _) => $function::<2, 8>($block, group, outs),
                (3, 1) => $function::<3, 1>($block, group, outs),
                (3, 2) => $function::<3, 2>($block, group, outs),
                (3, 4) => $function::<3, 4>($block, group, outs),
                (3, _) => $function::<3, 8>($block, group, outs),
                (_, 1) => $function::<4, 1>($block, group, outs),
                (_, 2) => $function::<4, 2>($block, group, outs),
                (_, 4) => $function::<4, 4>($block, group, outs),
                (_, _) => $function::<4, 8>($block, group, outs),
            }
        }
    }};
}
use for_each_group;

/// Writes a statement out for each index below a constant of at most eight, so that arrays that it indexes are in
/// registers.
macro_rules! unrolled {
    ($t:ident in $count:ident => $statement:expr) => {
        unrolled!(@ $t, $count, $statement, 0, 1, 2, 3, 4, 5, 6, 7)
    };
    (@ $t:ident, $count:ident, $statement:expr, $($index:literal),*) => {
        $(if $index < $count {
            // As it is below, the rest is the index.
            let $t = $index % $count;
            $statement;
        })*
    };
}
use unrolled;
