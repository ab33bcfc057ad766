//! The products of one token or few on the processor: those of [`project`](crate::kernels::project), with the packed
//! products of [`rows`](super::rows).

use rayon::prelude::*;

use super::pairs::{InputChunk, packed};
use super::products::{TokenProduct, multiply_each};
use super::rows::{DeepRows, Instructions, Keep, multiply};
use crate::kernels::project::{self, ProjectionInput, ProjectionParams};
use crate::recording::Arguments;

/// Rows of a thread's share are a whole number of these.
const SHARE_ROWS: usize = 16;
/// Shares for each thread: enough that a slow thread leaves some to the others.
const SHARES: usize = 4;

pub fn qkv(args: &mut Arguments<'_>) {
    project::qkv::compute(args, products);
}

pub fn residual(args: &mut Arguments<'_>) {
    project::residual::compute(args, products);
}

pub fn gate(args: &mut Arguments<'_>) {
    project::gate::compute(args, products);
}

pub fn logits(args: &mut Arguments<'_>) {
    project::logits::compute(args, products);
}

/// Packs the inputs of several tokens as [`of_each`] takes them.
pub fn pack(args: &mut Arguments<'_>) {
    project::pack::compute(args, |x, norm, eps, words| {
        let (numbers, factor) = project::weighted(x, norm, eps);
        let chunks = packed(&numbers, Instructions::best().pair_form());
        let (words, rest) = words.as_chunks_mut();
        words.iter_mut().zip(&chunks).for_each(|(words, chunk)| chunk.write(words));
        rest[0] = factor.to_bits();
    });
}

/// The products of the bound rows with each token, [T, rows], as deep as the tokens are.
fn products(args: &Arguments<'_>, p: &ProjectionParams, depths: &[u32]) -> Vec<f32> {
    if project::tokens_of(args) == 1 { of_one(args, p, depths[0]) } else { of_each(args, p, depths) }
}

/// The products of one token, which packs its input itself.
fn of_one(args: &Arguments<'_>, p: &ProjectionParams, slices: u32) -> Vec<f32> {
    let ProjectionInput { rows, numbers, factor } = ProjectionInput::of(args, p);
    let instructions = Instructions::best();
    let input = packed(&numbers, instructions.pair_form());
    let weight = DeepRows::of(&rows, slices as usize);
    let mut products = vec![0f32; p.rows as usize];
    let (share, watch) = (share_rows(products.len()), args.watch);
    products.par_chunks_mut(share).enumerate().for_each(|(at, products)| {
        if watch.stops() {
            return;
        }
        let first = at * share;
        multiply(instructions, &weight, first..first + products.len(), &[&input], &mut [&mut *products], Keep::Nothing);
        products.iter_mut().for_each(|product| *product *= factor);
    });
    products
}

/// The products of several tokens, whose inputs [`pack`] packed. The threads' shares are those of one token, so that
/// each token comes out as it does alone.
fn of_each(args: &Arguments<'_>, p: &ProjectionParams, depths: &[u32]) -> Vec<f32> {
    let (rows, inputs) = project::packed_inputs(args, p);
    let mut products = vec![0f32; project::tokens_of(args) * p.rows as usize];
    let outputs = products.chunks_exact_mut(p.rows as usize);
    let token = |((words, depth), output): ((&[u32], &u32), _)| {
        let (chunks, rest) = words.as_chunks();
        let input = chunks.iter().map(InputChunk::read).collect();
        TokenProduct { depth: *depth as usize, input, factor: f32::from_bits(rest[0]), output }
    };
    multiply_each(&rows, inputs.zip(depths).zip(outputs).map(token).collect(), Keep::Nothing, args.watch);
    products
}

/// Rows of a thread's share of so many.
pub(super) fn share_rows(rows: usize) -> usize {
    rows.div_ceil(SHARES * rayon::current_num_threads()).next_multiple_of(SHARE_ROWS)
}
