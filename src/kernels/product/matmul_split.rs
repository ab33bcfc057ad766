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
/// Tokens of a product at most for which this may be the faster way.
const TOKENS_MAX: u32 = 256;
/// Bytes of a workgroup's memory: for each subgroup 32 rows of a chunk with gaps, and a matrix of sums.
pub const WORKGROUP_BYTES: u32 = WORKGROUP / 32 * ((32 * 18 + 2) * 8 + 256 * 4);
/// Tokens of a matrix, and invocations of a workgroup.
const MATRIX: u32 = 16;
const WORKGROUP: u32 = 256;
/// Subgroups that share rows at most: all of a workgroup.
const MOST_SPLITS: u32 = 8;

/// Whether the product takes tokens in tiles of so many this way: always in tiles smaller than the largest, which no
/// other way has, and in the largest where this way is faster.
pub fn suits(traits: Traits, rows: u32, tokens: u32, tile: u32) -> bool {
    tile < LARGEST_TILE || (tile == LARGEST_TILE && is_faster(traits, rows, tokens))
}

/// Tokens of a tile for a product of so many rows and tokens, which [`matmul_matrix`](super::matmul_matrix) would take
/// in tiles of `other`: as many as there, where that is faster.
pub fn tile_tokens(traits: Traits, rows: u32, tokens: u32, other: u32) -> u32 {
    if is_faster(traits, rows, tokens) { tokens.next_power_of_two().clamp(MATRIX, LARGEST_TILE) } else { other }
}

/// Whether this is faster than [`matmul_matrix`](super::matmul_matrix): for half a tile of tokens, and for more of them
/// where the rows leave no more workgroups of that than the device has processors.
fn is_faster(traits: Traits, rows: u32, tokens: u32) -> bool {
    let tiles = |count: u32| u64::from(count.div_ceil(LARGEST_TILE));
    let leaves_idle = || tiles(rows) * tiles(tokens) <= u64::from(traits.row_workgroups());
    tokens <= LARGEST_TILE / 2 || (tokens <= TOKENS_MAX && leaves_idle())
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

#[cfg(test)]
mod tests {
    use super::super::tile_tokens;
    use super::*;

    #[test]
    fn neighbours_are_split_where_rows_and_tokens_would_leave_processors_idle() {
        for (rows, tokens, tile, split) in [
            (12_288, 16, 16, true),
            (12_288, 32, 32, true),
            (12_288, 33, 64, false),
            (12_288, 65, 64, false),
            (32_000, 64, 64, false),
            (8192, 64, 64, true),
            (8193, 64, 64, false),
            (4096, 33, 64, true),
            (22_016, 128, 128, false),
            (4096, 128, 64, true),
            (4096, 129, 64, false),
            (2048, 256, 64, true),
            (576, 257, 64, false),
        ] {
            let traits = Traits { cooperative_matrix: true, ..Traits::LARGE_GPU };
            let found = tile_tokens(traits, rows, tokens);
            assert_eq!((found, suits(traits, rows, tokens, found)), (tile, split), "{rows} rows, {tokens} tokens");
        }
    }
}
