//! Tokens in tiles of one depth: the order in which a product over many tokens takes them.
//!
//! An entry of an order is a token with its depth above it ([`entry`]), or [`PADDING`]. The depth is in the entry so
//! that a product needs one binding for both: the slices, ranges, input and output are seven of the eight there are.

use std::ops::Range;

use crate::kernels::declare::{WORKGROUP, params};
use crate::precision::SLICES;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// T
    tokens: u32,
    /// Entries of the order.
    entries: u32,
    /// Entries of a tile.
    tile: u32,
}

/// `shaders/gather_tokens.wgsl`; bindings: depths `[T]` u32, order `[entries]` u32.
pub static KERNEL: Kernel = Kernel {
    name: "gather_tokens",
    wgsl: include_str!("../../../shaders/gather_tokens.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Write],
    reference: gather_tokens,
};

/// Tokens that can be gathered at most.
pub const TOKENS: u32 = 2048;
/// The longest tile.
const TILE_MAX: u32 = 128;
/// An entry that no token has.
pub const PADDING: u32 = u32::MAX;

const DEPTH_SHIFT: u32 = 16;

/// The entry of a token.
pub fn entry(token: u32, depth: u32) -> u32 {
    depth << DEPTH_SHIFT | token
}

/// (token, depth) of an entry; those of [`PADDING`] are more than there are.
pub(super) fn token_and_depth(entry: u32) -> (u32, u32) {
    (entry & ((1 << DEPTH_SHIFT) - 1), entry >> DEPTH_SHIFT)
}

/// The order of tokens that all have one depth.
pub fn uniform(tokens: Range<u32>, depth: u32) -> Vec<u32> {
    tokens.map(|token| entry(token, depth)).collect()
}

/// Entries that an order of `tokens` tokens in tiles of `tile` has room for, whatever their depths: every depth may
/// leave a tile unfilled.
pub fn entries(tile: u32, tokens: u32) -> u32 {
    let slack = SLICES as u32 * (tile - 1);
    (tokens + slack) / tile * tile
}

/// Records the order of `tokens` tokens of the depths in `depths`, `[T]` u32 in 1..=4, in tiles of `tile`, into
/// `order`, `[entries(tile, T)]`. Panics beyond [`TOKENS`].
pub fn record(recording: &mut Recording, tile: u32, tokens: u32, depths: Span, order: Span) {
    assert!(tokens <= TOKENS && tile <= TILE_MAX, "{tokens} tokens are gathered at once, in tiles of {tile}");
    let params = Params { tokens, entries: entries(tile, tokens), tile };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![depths, order],
        workgroups: [1, 1, 1],
    });
}

fn gather_tokens(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let depths: &[u32] = args.read(0);
    let order: &mut [u32] = args.write(1);
    let mut at = 0;
    order[..p.entries as usize].fill(PADDING);
    for depth in 1..=SLICES as u32 {
        for token in (0..p.tokens).filter(|token| depths[*token as usize] == depth) {
            order[at] = entry(token, depth);
            at += 1;
        }
        at = at.next_multiple_of(p.tile as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_room_for_any_depths() {
        // The most tiles come of three depths with one token each and one depth with the rest.
        for (tile, tokens) in
            [8, 16, 32, 64, TILE_MAX].into_iter().flat_map(|tile| (4..=TOKENS).map(move |t| (tile, t)))
        {
            let tiles = |tokens: u32| tokens.div_ceil(tile);
            assert!(entries(tile, tokens) >= (3 * tiles(1) + tiles(tokens - 3)) * tile, "{tile} {tokens}");
        }
        // The shader's constant.
        assert_eq!(entries(TILE_MAX, TOKENS), 2432);
    }

    #[test]
    fn padding_is_no_token() {
        assert_eq!(token_and_depth(entry(511, 4)), (511, 4));
        assert!(token_and_depth(PADDING).0 >= TOKENS);
    }
}
