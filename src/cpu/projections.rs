//! The products of one token on the processor: those of [`project`](crate::kernels::project), with the packed products
//! of [`rows`](super::rows).

use rayon::prelude::*;

use super::pairs::packed;
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

/// The products of the bound rows, so many slices deep.
fn products(args: &Arguments<'_>, p: &ProjectionParams, slices: u32) -> Vec<f32> {
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

/// Rows of a thread's share of so many.
pub(super) fn share_rows(rows: usize) -> usize {
    rows.div_ceil(SHARES * rayon::current_num_threads()).next_multiple_of(SHARE_ROWS)
}
