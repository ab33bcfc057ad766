//! Products of sliced weights with activations, by the kernel that is best for a device and a number of tokens.

pub mod gather_inputs;
pub mod gather_tokens;
pub mod matmul_matrix;
pub mod matmul_sliced;
pub mod matmul_split;
pub mod matmul_tiled;
pub mod matvec_sliced;
pub mod matvec_vector;
mod problem;

pub use problem::{Output, Product, ProductDepths, Tiles};
pub(crate) use problem::{Params as ProductParams, X, Y, work_of_tokens};

use crate::engine::Traits;
use crate::recording::{Buffer, Recording};

/// Tokens up to which a product is one product a token.
const MATVEC_TOKENS: u32 = 4;
/// The same on GPUs without cooperative matrices, whose tiles are larger.
const MATVEC_TOKENS_TILED: u32 = 16;

/// Room for `tokens` inputs of up to `input` numbers as f16 in tiles, whatever the depths; none where the products do
/// not take them so.
pub fn x_f16(recording: &mut Recording, traits: Traits, tokens: u32, input: u32) -> Option<Buffer> {
    let entries = u64::from(gather_tokens::entries(largest_tile(traits), tokens));
    (!traits.software && traits.cooperative_matrix).then(|| recording.transient(entries * u64::from(input) * 2))
}

/// Bytes of a workgroup's memory that the kernels by cooperative matrices need.
pub const MATRIX_WORKGROUP_BYTES: u32 = if matmul_matrix::WORKGROUP_BYTES > matmul_split::WORKGROUP_BYTES {
    matmul_matrix::WORKGROUP_BYTES
} else {
    matmul_split::WORKGROUP_BYTES
};

/// Whether a product of so many tokens is worth gathering them in tiles.
pub fn in_tiles(traits: Traits, tokens: u32) -> bool {
    tokens > if traits.software || traits.cooperative_matrix { MATVEC_TOKENS } else { MATVEC_TOKENS_TILED }
}

/// Tokens of a tile of one depth, for a product in tiles of so many rows and tokens.
pub fn tile_tokens(traits: Traits, rows: u32, tokens: u32) -> u32 {
    match (traits.software, traits.cooperative_matrix) {
        (true, _) => matmul_sliced::TILE_TOKENS,
        (false, true) => {
            matmul_split::tile_tokens(traits, rows, tokens, matmul_matrix::tile_tokens(traits, rows, tokens))
        }
        (false, false) => matmul_tiled::TILE_TOKENS,
    }
}

/// Tokens of the largest tile of any product, a multiple of those of the others.
pub fn largest_tile(traits: Traits) -> u32 {
    tile_tokens(traits, u32::MAX, gather_tokens::TOKENS)
}

impl Product<'_> {
    /// Records the product at these depths.
    pub fn record(&self, recording: &mut Recording, traits: Traits, depths: ProductDepths) {
        match depths {
            ProductDepths::ByToken(depths) if matvec_vector::suits(traits) => {
                matvec_vector::record(recording, traits, self, depths)
            }
            ProductDepths::ByToken(depths) => matvec_sliced::record(recording, traits, self, depths),
            ProductDepths::ByTile(tiles) if traits.software => matmul_sliced::record(recording, traits, self, tiles),
            ProductDepths::ByTile(tiles) if !traits.cooperative_matrix => {
                matmul_tiled::record(recording, traits, self, tiles);
            }
            ProductDepths::ByTile(tiles) if matmul_split::suits(traits, self.weight.rows, self.tokens, tiles.tile) => {
                matmul_split::record(recording, traits, self, tiles);
            }
            ProductDepths::ByTile(tiles) => matmul_matrix::record(recording, traits, self, tiles),
        }
    }
}
