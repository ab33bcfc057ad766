//! Product of a sliced weight with so few tokens at once, by cooperative matrices, that the rows of a device's
//! workgroups would leave most of it idle: the neighbours are split among subgroups too.

use super::gather_inputs::{self, InputLayout};
use super::matmul_matrix::compute_entries;
use super::problem::{BINDINGS, Params, Product, ProductLaunch, Tiles, record as record_product};
use crate::engine::Traits;
use crate::recording::{Arguments, Kernel, Recording};

/// `shaders/matmul_split.wgsl`; bindings: those of a weight, x [entries, input] f16 in the order's order, order,
/// y. Weights are rounded to f16.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_split",
    wgsl: include_str!("../../../shaders/matmul_split.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: matmul_split,
};

/// Tokens of the largest tile.
const LARGEST_TILE: u32 = 64;
/// Tokens of a product at most for which this is the faster way, where its rows leave a device idle.
const TOKENS_MAX: u32 = 256;
/// Bytes of a workgroup's memory: for each subgroup 32 rows of a chunk with gaps, and a matrix of sums.
pub const WORKGROUP_BYTES: u32 = WORKGROUP / 32 * ((32 * 18 + 2) * 8 + 256 * 4);
/// Tokens of a matrix, and invocations of a workgroup.
const MATRIX: u32 = 16;
const WORKGROUP: u32 = 256;
/// Subgroups that share rows at most: all of a workgroup.
const MOST_SPLITS: u32 = 8;

/// Whether this is the faster way for so many tokens in such tiles.
pub fn suits(tokens: u32, tile: u32) -> bool {
    tile <= LARGEST_TILE && tokens <= TOKENS_MAX
}

/// Tokens of a tile for so many tokens, which [`matmul_matrix`](super::matmul_matrix) would take in tiles of `other`:
/// as many as there, where that is faster.
pub fn tile_tokens(tokens: u32, other: u32) -> u32 {
    let here = tokens.next_power_of_two().clamp(MATRIX, LARGEST_TILE);
    if tokens <= LARGEST_TILE || suits(tokens, other) { here } else { other }
}

/// Records the product as [`matmul_matrix`](super::matmul_matrix) does.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, tiles: Tiles) {
    let x = gather_inputs::in_tiles(recording, product, tiles, InputLayout::Blocks);
    let splits = splits(traits, product.weight.rows, product.tokens.div_ceil(tiles.tile));
    let launch = ProductLaunch {
        kernel: &KERNEL,
        constants: vec![("MATRICES", tiles.tile / MATRIX), ("SPLITS", splits)],
        rows: WORKGROUP / splits,
        depths: tiles.order,
        columns: (tiles.order.bytes / 4) as u32 / tiles.tile,
        columns_first: true,
    };
    record_product(recording, traits, &Product { x, ..*product }, &launch);
}

/// Subgroups that share rows: the fewest that leave two workgroups for each processor, or all.
fn splits(traits: Traits, rows: u32, columns: u32) -> u32 {
    let workgroups = |splits: u32| rows.div_ceil(WORKGROUP / splits) * columns;
    [1, 2, 4].into_iter().find(|splits| workgroups(*splits) >= 2 * traits.row_workgroups()).unwrap_or(MOST_SPLITS)
}

fn matmul_split(args: &mut Arguments<'_>) {
    compute_entries(args, InputLayout::Blocks);
}
