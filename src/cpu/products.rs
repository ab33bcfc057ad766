//! The products of several tokens on the processor, by the packed products of [`rows`](super::rows): the weights are
//! unpacked once for up to eight tokens of one depth.

use rayon::prelude::*;

use super::pairs::{InputChunk, packed};
use super::projections::share_rows;
use super::rows::{DeepRows, INPUTS_MAX, Instructions, Keep, multiply};
use crate::cancel::Watch;
use crate::kernels::product::matmul_sliced::work_in_order;
use crate::kernels::product::{ProductParams, X, Y, work_of_tokens};
use crate::kernels::sliced::{CHUNK, Rows};
use crate::precision::SLICES;
use crate::recording::Arguments;

/// Depths by token.
pub fn by_token(args: &mut Arguments<'_>) {
    let work = work_of_tokens(args);
    compute(args, work);
}

/// Depths by the order of the tokens.
pub fn by_order(args: &mut Arguments<'_>) {
    let work = work_in_order(args);
    compute(args, work);
}

/// A token with its input and its row of the output.
struct TokenProduct<'a> {
    token: usize,
    depth: usize,
    input: Vec<InputChunk>,
    output: &'a mut [f32],
}

/// The product of the tokens in `work`, each with its depth.
fn compute(args: &mut Arguments<'_>, work: Vec<(usize, usize)>) {
    let p: ProductParams = args.params();
    let (row_count, input) = (p.rows as usize, (p.chunks * CHUNK) as usize);
    let rows = Rows::bound(args, input, p.group_chunks);
    let (x, y, watch): (&[f32], &mut [f32], _) = (args.read(X), args.write(Y), args.watch);
    let instructions = Instructions::best();
    let weights: [DeepRows<'_>; SLICES] = std::array::from_fn(|e| DeepRows::of(&rows, e + 1));
    let keep = if p.accumulate == 1 { Keep::Sum } else { Keep::Nothing };

    let mut outputs: Vec<Option<&mut [f32]>> = y.chunks_exact_mut(p.y_rows as usize).map(Some).collect();
    let mut jobs: Vec<TokenProduct<'_>> = work
        .into_iter()
        .filter_map(|(token, depth)| {
            let output = &mut outputs[token].take()?[p.first_row as usize..][..row_count];
            Some(TokenProduct { token, depth, input: Vec::new(), output })
        })
        .collect();
    let pack =
        |job: &mut TokenProduct<'_>| job.input = packed(&x[job.token * input..][..input], instructions.pair_form());
    jobs.par_iter_mut().for_each(pack);
    jobs.sort_by_key(|job| job.depth);
    let mut tiles: Vec<&mut [TokenProduct<'_>]> =
        jobs.chunk_by_mut(|a, b| a.depth == b.depth).flat_map(|jobs| jobs.chunks_mut(INPUTS_MAX)).collect();
    if tiles.len() >= 2 * rayon::current_num_threads() {
        // A thread has all rows of some tokens.
        tiles.par_iter_mut().for_each(|jobs| {
            if watch.stops() {
                return;
            }
            let weight = &weights[jobs[0].depth - 1];
            let (inputs, mut outputs): (Vec<&[InputChunk]>, Vec<&mut [f32]>) =
                jobs.iter_mut().map(|job| (&job.input[..], &mut *job.output)).unzip();
            multiply(instructions, weight, 0..row_count, &inputs, &mut outputs, keep);
        });
    } else {
        tiles.into_iter().for_each(|jobs| share_out(instructions, &weights[jobs[0].depth - 1], jobs, keep, watch));
    }
}

/// The product of a few tokens of one depth, whose rows the threads share.
fn share_out(
    instructions: Instructions,
    weight: &DeepRows<'_>,
    jobs: &mut [TokenProduct<'_>],
    keep: Keep,
    watch: &Watch,
) {
    let share = share_rows(jobs[0].output.len());
    let (inputs, outputs): (Vec<&[InputChunk]>, Vec<&mut [f32]>) =
        jobs.iter_mut().map(|job| (&job.input[..], &mut *job.output)).unzip();
    let mut shares: Vec<Vec<&mut [f32]>> = Vec::new();
    for output in outputs {
        for (at, part) in output.chunks_mut(share).enumerate() {
            match shares.get_mut(at) {
                Some(parts) => parts.push(part),
                None => shares.push(vec![part]),
            }
        }
    }
    shares.par_iter_mut().enumerate().for_each(|(at, outputs)| {
        if watch.stops() {
            return;
        }
        let first = at * share;
        multiply(instructions, weight, first..first + outputs[0].len(), &inputs, outputs, keep);
    });
}
