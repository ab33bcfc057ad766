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
pub struct TokenProduct<'a> {
    /// Slices that are read.
    pub depth: usize,
    /// In the form of [`Instructions::best`].
    pub input: Vec<InputChunk>,
    /// What the products are multiplied with.
    pub factor: f32,
    /// A number for each row.
    pub output: &'a mut [f32],
}

/// The product of the tokens in `work`, each with its depth.
fn compute(args: &mut Arguments<'_>, work: Vec<(usize, usize)>) {
    let p: ProductParams = args.params();
    let (row_count, input) = (p.rows as usize, (p.chunks * CHUNK) as usize);
    let rows = Rows::bound(args, input, p.group_chunks);
    let (x, y, watch): (&[f32], &mut [f32], _) = (args.read(X), args.write(Y), args.watch);
    let form = Instructions::best().pair_form();
    let keep = if p.accumulate == 1 { Keep::Sum } else { Keep::Nothing };

    let mut outputs: Vec<Option<&mut [f32]>> = y.chunks_exact_mut(p.y_rows as usize).map(Some).collect();
    let tokens: Vec<(&[f32], usize, &mut [f32])> = work
        .into_iter()
        .filter_map(|(token, depth)| {
            let output = &mut outputs[token].take()?[p.first_row as usize..][..row_count];
            Some((&x[token * input..][..input], depth, output))
        })
        .collect();
    let packed = |(x, depth, output)| TokenProduct { depth, input: packed(x, form), factor: 1.0, output };
    multiply_each(&rows, tokens.into_par_iter().map(packed).collect(), keep, watch);
}

/// The products of rows with each token.
pub fn multiply_each(rows: &Rows<'_>, mut jobs: Vec<TokenProduct<'_>>, keep: Keep, watch: &Watch) {
    let weights: [DeepRows<'_>; SLICES] = std::array::from_fn(|e| DeepRows::of(rows, e + 1));
    jobs.sort_by_key(|job| job.depth);
    let few = jobs.len() <= INPUTS_MAX;
    let mut tiles: Vec<&mut [TokenProduct<'_>]> =
        jobs.chunk_by_mut(|a, b| a.depth == b.depth).flat_map(|jobs| jobs.chunks_mut(INPUTS_MAX)).collect();
    if !few && tiles.len() >= 2 * rayon::current_num_threads() {
        // A thread has all rows of some tokens.
        tiles.par_iter_mut().for_each(|jobs| {
            if !watch.stops() {
                let (tile, mut outputs) = Tile::of(&weights, jobs);
                tile.multiply(0, &mut outputs, keep);
            }
        });
    } else {
        share_out(&weights, tiles, keep, watch);
    }
}

/// Tokens of one depth, up to [`INPUTS_MAX`].
struct Tile<'a> {
    weight: &'a DeepRows<'a>,
    inputs: Vec<&'a [InputChunk]>,
    factors: Vec<f32>,
}

impl<'a> Tile<'a> {
    /// The tokens, and their outputs.
    fn of<'o>(weights: &'a [DeepRows<'a>; SLICES], jobs: &'a mut [TokenProduct<'o>]) -> (Tile<'a>, Vec<&'a mut [f32]>) {
        let weight = &weights[jobs[0].depth - 1];
        let (mut inputs, mut factors, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        for TokenProduct { input, factor, output, .. } in jobs {
            inputs.push(&input[..]);
            factors.push(*factor);
            outputs.push(&mut **output);
        }
        (Tile { weight, inputs, factors }, outputs)
    }

    /// The products of as many rows as the outputs have numbers, from row `first` on.
    fn multiply(&self, first: usize, outputs: &mut [&mut [f32]], keep: Keep) {
        let rows = first..first + outputs[0].len();
        multiply(Instructions::best(), self.weight, rows, &self.inputs, outputs, keep);
        for (output, factor) in outputs.iter_mut().zip(&self.factors).filter(|(_, factor)| **factor != 1.0) {
            output.iter_mut().for_each(|product| *product *= factor);
        }
    }
}

/// The products of a few tokens, whose rows the threads share. A thread has all tokens of its rows, so that what these
/// read in common comes from its cache.
fn share_out(weights: &[DeepRows<'_>; SLICES], tiles: Vec<&mut [TokenProduct<'_>]>, keep: Keep, watch: &Watch) {
    let (tiles, outputs): (Vec<Tile<'_>>, Vec<Vec<&mut [f32]>>) =
        tiles.into_iter().map(|jobs| Tile::of(weights, jobs)).unzip();
    let Some(share) = outputs.first().map(|outputs| share_rows(outputs[0].len())) else { return };
    // Of each share the outputs of all tokens, tile by tile.
    let mut shares: Vec<Vec<&mut [f32]>> = Vec::new();
    for output in outputs.into_iter().flatten() {
        for (at, part) in output.chunks_mut(share).enumerate() {
            match shares.get_mut(at) {
                Some(parts) => parts.push(part),
                None => shares.push(vec![part]),
            }
        }
    }
    shares.par_iter_mut().enumerate().for_each(|(at, outputs)| {
        let mut outputs = &mut outputs[..];
        for tile in &tiles {
            if watch.stops() {
                return;
            }
            let (own, others) = outputs.split_at_mut(tile.inputs.len());
            tile.multiply(at * share, own, keep);
            outputs = others;
        }
    });
}
