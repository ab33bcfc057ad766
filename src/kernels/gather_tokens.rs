//! Tokens in tiles of one depth: the order in which a product over many tokens takes them.
//!
//! An entry of an order is a token with its depth above it ([`entry`]), or [`PADDING`]. The depth is in the entry so
//! that a product needs one binding for both: the slices, ranges, input and output are seven of the eight there are.

use std::ops::Range;

use super::matmul_sliced::TILE_TOKENS;
use super::{WORKGROUP, params};
use crate::precision::SLICES;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// T
    tokens: u32,
    /// Entries of the order.
    entries: u32,
}

/// `shaders/gather_tokens.wgsl`; bindings: depths `[T]` u32, order `[entries]` u32.
pub static KERNEL: Kernel = Kernel {
    name: "gather_tokens",
    wgsl: include_str!("../../shaders/gather_tokens.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Write],
    reference: gather_tokens,
};

/// Tokens that can be gathered at most.
pub const TOKENS: u32 = 256;
/// An entry that no token has.
pub const PADDING: u32 = u32::MAX;

const DEPTH_SHIFT: u32 = 16;

/// The entry of a token.
pub fn entry(token: u32, depth: u32) -> u32 {
    depth << DEPTH_SHIFT | token
}

/// (token, depth) of an entry; those of [`PADDING`] are more than there are.
pub(super) fn parts(entry: u32) -> (u32, u32) {
    (entry & ((1 << DEPTH_SHIFT) - 1), entry >> DEPTH_SHIFT)
}

/// The order of tokens that all have one depth.
pub fn uniform(tokens: Range<u32>, depth: u32) -> Vec<u32> {
    tokens.map(|token| entry(token, depth)).collect()
}

/// Entries that an order of `tokens` tokens has room for, whatever their depths: every depth may leave a tile unfilled.
pub fn entries(tokens: u32) -> u32 {
    let slack = SLICES as u32 * (TILE_TOKENS - 1);
    (tokens + slack) / TILE_TOKENS * TILE_TOKENS
}

/// Records the order of `tokens` tokens of the depths in `depths`, `[T]` u32 in 1..=4, into `order`, `[entries(T)]`.
/// Panics beyond [`TOKENS`].
pub fn record(recording: &mut Recording, tokens: u32, depths: Span, order: Span) {
    assert!(tokens <= TOKENS, "{tokens} tokens are gathered at once");
    let params = Params { tokens, entries: entries(tokens) };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP), ("TILE", TILE_TOKENS)],
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
        at = at.next_multiple_of(TILE_TOKENS as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_room_for_any_depths() {
        // The most tiles come of three depths with one token each and one depth with the rest.
        for tokens in 4..=TOKENS {
            let tiles = |tokens: u32| tokens.div_ceil(TILE_TOKENS);
            assert!(entries(tokens) >= (3 * tiles(1) + tiles(tokens - 3)) * TILE_TOKENS, "{tokens}");
        }
        // The shader's constant.
        assert!(entries(TOKENS) <= 288);
    }

    #[test]
    fn padding_is_no_token() {
        assert_eq!(parts(entry(255, 4)), (255, 4));
        assert!(parts(PADDING).0 >= TOKENS);
    }
}
