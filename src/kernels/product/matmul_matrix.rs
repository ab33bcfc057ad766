//! Product of a sliced weight with many tokens at once by cooperative matrices, for GPUs that have them.

use half::f16;

use super::gather_inputs::{self, InputLayout};
use super::gather_tokens::token_and_depth;
use super::problem::{BINDINGS, DEPTHS, Params, Product, ProductLaunch, Tiles, X, compute, record as record_product};
use crate::engine::Traits;
use crate::kernels::sliced::CHUNK;
use crate::recording::{Arguments, Kernel, Recording};

/// `shaders/matmul_matrix.wgsl`; bindings: those of a weight, x [entries, input] f16 in the order's order, order,
/// y. Weights are rounded to f16.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_matrix",
    wgsl: include_str!("../../../shaders/matmul_matrix.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: matmul_matrix,
};

/// Tokens of a tile, and rows of a workgroup.
const SMALL_TILE: u32 = 64;
/// The same where it leaves enough of them.
const LARGE_TILE: u32 = 128;
/// Bytes of a workgroup's memory with large tiles: rows and tokens of a chunk with gaps, and a matrix of sums for each
/// of eight subgroups.
pub const WORKGROUP_BYTES: u32 = 2 * LARGE_TILE * 18 * 8 + 8 * 256 * 4;

/// Tokens of a tile for a product of so many rows and tokens.
pub fn tile_tokens(traits: Traits, rows: u32, tokens: u32) -> u32 {
    let workgroups = u64::from(rows.div_ceil(LARGE_TILE)) * u64::from(tokens.div_ceil(LARGE_TILE));
    let enough = workgroups >= u64::from(traits.row_workgroups());
    if enough && tokens > SMALL_TILE { LARGE_TILE } else { SMALL_TILE }
}

/// Records the product as [`matmul_sliced`](super::matmul_sliced) does, after its inputs in the order. Panics without
/// room for them.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, tiles: Tiles) {
    let x = gather_inputs::in_tiles(recording, product, tiles, InputLayout::Rows);
    let launch = ProductLaunch {
        kernel: &KERNEL,
        constants: vec![
            ("MATRICES", tiles.tile / 32),
            ("PARTIAL", u32::from(tiles.partial && tiles.tile == LARGE_TILE)),
        ],
        rows: tiles.tile,
        depths: tiles.order,
        columns: (tiles.order.bytes / 4) as u32 / tiles.tile,
        columns_first: true,
    };
    record_product(recording, traits, &Product { x, ..*product }, &launch);
}

fn matmul_matrix(args: &mut Arguments<'_>) {
    compute_entries(args, InputLayout::Rows);
}

/// The product of the tokens in an order, whose inputs are f16: the reference of the kernels by matrices.
pub(super) fn compute_entries(args: &mut Arguments<'_>, layout: InputLayout) {
    let p: Params = args.params();
    let input = (p.chunks * CHUNK) as usize;
    let mut x = vec![0f32; p.tokens as usize * input];
    let mut work = Vec::new();
    let x_f16: &[f16] = args.read(X);
    for (at, entry) in args.read(DEPTHS).iter().enumerate() {
        let (token, depth) = token_and_depth(*entry);
        if token < p.tokens {
            let x = &mut x[token as usize * input..][..input];
            x.iter_mut().zip(layout.places(at, input)).for_each(|(x, from)| *x = x_f16[from].to_f32());
            work.push((token as usize, depth as usize));
        }
    }
    compute(args, &x, &work);
}
