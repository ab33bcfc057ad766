//! The product of a sliced weight with activations: what its kernels share.

use rayon::prelude::*;

use crate::engine::Traits;
use crate::kernels::declare::{bindings, params};
use crate::kernels::sliced::{CHUNK, Rows, SlicedWeight, WEIGHT_BINDINGS, dot};
use crate::precision::SLICES;
use crate::recording::{Access, Arguments, Buffer, Dispatch, Kernel, Recording, Span};

/// Whether a product is added to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Writes over it.
    Overwrite,
    /// Adds to it.
    Add,
}

/// The depth of each token: the slices of the weight that its product reads. The form decides the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductDepths {
    /// The depth of each token, `[T]` u32 in 1..=4: one product a token.
    ByToken(Span),
    /// The tokens in tiles of one depth.
    ByTile(Tiles),
}

/// A step's tokens in tiles of one depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// u32 [entries](super::gather_tokens::entry) of whole tiles, each filled from the front.
    pub order: Span,
    /// Tokens of a tile, as [`tile_tokens`](super::tile_tokens) says.
    pub tile: u32,
    /// Whether others than the last may be filled in part, as routers fill them.
    pub partial: bool,
    /// Room for the inputs in this order, as [`x_f16`](super::x_f16) makes it.
    pub x_f16: Option<Buffer>,
}

/// y[t, r] (+)= sum over k of W[r, k] * x[t, k], with W read at the depth of token t.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// W
    pub weight: &'a SlicedWeight,
    /// [T, input] f32
    pub x: Span,
    /// [T, rows] f32
    pub y: Span,
    /// T
    pub tokens: u32,
    /// Whether the product is added to y.
    pub output: Output,
}

params! {
    /// T
    tokens: u32,
    /// Rows of this dispatch.
    rows: u32,
    /// Chunks of 64 weights in a row.
    chunks: u32,
    /// Chunks of 64 weights in a quantization group.
    group_chunks: u32,
    /// Row of y that the first row belongs to.
    first_row: u32,
    /// Rows of y.
    y_rows: u32,
    /// 1: add to y; 0: overwrite it.
    accumulate: u32,
}

/// Bindings of the kernels: those of a [`SlicedWeight`], x, depths or order, y.
pub(super) const BINDINGS: &[Access] = &bindings::<{ WEIGHT_BINDINGS + 3 }>(Y);
/// Binding of x.
pub(crate) const X: usize = WEIGHT_BINDINGS;
/// Binding of the depths or the order.
pub(crate) const DEPTHS: usize = WEIGHT_BINDINGS + 1;
/// Binding of y.
pub(crate) const Y: usize = WEIGHT_BINDINGS + 2;

/// How a kernel is launched.
pub(super) struct ProductLaunch {
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, u32)>,
    /// Rows of one workgroup.
    pub rows: u32,
    /// Binding 9.
    pub depths: Span,
    /// Workgroups side by side over the tokens.
    pub columns: u32,
    /// Whether workgroups that follow each other take the same rows, for the cache: then x counts the columns.
    pub columns_first: bool,
}

/// Records the product, by one dispatch for each range of rows that fits a binding.
pub(super) fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, launch: &ProductLaunch) {
    let weight = product.weight;
    for rows in weight.row_ranges(traits) {
        let params = Params {
            tokens: product.tokens,
            rows: rows.len() as u32,
            chunks: weight.chunks(),
            group_chunks: weight.group_chunks(),
            first_row: rows.start,
            y_rows: weight.rows,
            accumulate: u32::from(product.output == Output::Add),
        };
        let mut bindings = weight.bindings(&rows);
        bindings.extend([product.x, launch.depths, product.y]);
        let row_tiles = params.rows.div_ceil(launch.rows);
        let (x, y) = if launch.columns_first { (launch.columns, row_tiles) } else { (row_tiles, launch.columns) };
        recording.dispatch(Dispatch {
            kernel: launch.kernel,
            constants: launch.constants.iter().copied().chain([weight.form_constant()]).collect(),
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            workgroups: [x, y, 1],
        });
    }
}

/// The product of each token, at its depth in binding 9: the reference of the kernels whose depths are by token.
pub(super) fn compute_tokens(args: &mut Arguments<'_>) {
    compute(args, args.read(X), &work_of_tokens(args));
}

/// The tokens of a dispatch whose depths are by token, each with its depth.
pub(crate) fn work_of_tokens(args: &Arguments<'_>) -> Vec<(usize, usize)> {
    let (p, depths): (Params, &[u32]) = (args.params(), args.read(DEPTHS));
    depths[..p.tokens as usize].iter().map(|depth| *depth as usize).enumerate().collect()
}

/// The product of x, [T, input], for the tokens in `work`, each with its depth, row by row: a row is dequantized once
/// for each depth that occurs. Tokens that are not in `work` leave their row of y as it was.
pub(super) fn compute(args: &mut Arguments<'_>, x: &[f32], work: &[(usize, usize)]) {
    let p: Params = args.params();
    let (row_count, input) = (p.rows as usize, (p.chunks * CHUNK) as usize);
    let rows = Rows::bound(args, input, p.group_chunks);
    let (y, watch): (&mut [f32], _) = (args.write(Y), args.watch);
    if work.is_empty() {
        return;
    }
    let mut by_row = vec![0f32; row_count * work.len()];
    let block = row_count.div_ceil(8 * rayon::current_num_threads()).max(1);
    by_row.par_chunks_mut(block * work.len()).enumerate().for_each(|(at, block_out)| {
        let mut weights = vec![0f32; input];
        for (r, out) in block_out.chunks_exact_mut(work.len()).enumerate() {
            if watch.stops() {
                return;
            }
            for depth in (1..=SLICES).filter(|depth| work.iter().any(|(_, d)| d == depth)) {
                rows.dequantize(at * block + r, depth, &mut weights);
                for (out, (t, _)) in out.iter_mut().zip(work).filter(|(_, (_, d))| *d == depth) {
                    *out = dot(&weights, &x[t * input..][..input]);
                }
            }
        }
    });
    for (at, (t, _)) in work.iter().enumerate() {
        let y = &mut y[t * p.y_rows as usize + p.first_row as usize..][..row_count];
        for (r, y) in y.iter_mut().enumerate() {
            let product = by_row[r * work.len() + at];
            *y = if p.accumulate == 1 { *y + product } else { product };
        }
    }
}
