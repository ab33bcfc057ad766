//! Product of a sliced weight with many tokens at once, taken in an order whose tiles have one depth each.

use super::WORKGROUP;
use super::gather_tokens::parts;
use super::product::{BINDINGS, Launch, Params, Product, compute, record as record_product};
use crate::engine::Traits;
use crate::recording::{Arguments, Kernel, Recording, Span};

/// `shaders/matmul_sliced.wgsl`; bindings: slices 0 to 3, scales, x, order, y.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_sliced",
    wgsl: include_str!("../../shaders/matmul_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: matmul_sliced,
};

/// Tokens of an invocation: those of a tile, which has one depth.
pub const TILE_TOKENS: u32 = 8;
/// Rows of an invocation.
const TILE_ROWS: u32 = 4;

/// Records the product with the tokens in `order`, whole tiles of u32 [entries](super::gather_tokens::entry): each tile
/// has one depth and is filled from the front. In parts where the weight is longer than a binding may be.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, order: Span) {
    let constants = vec![("WORKGROUP", WORKGROUP)];
    let columns = (order.bytes / 4) as u32 / TILE_TOKENS;
    let launch = Launch { kernel: &KERNEL, constants, rows: TILE_ROWS * WORKGROUP, depths: order, columns };
    record_product(recording, traits, product, &launch);
}

fn matmul_sliced(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let order: &[u32] = args.read(6);
    let mut work = Vec::with_capacity(p.tokens as usize);
    for tile in order.chunks_exact(TILE_TOKENS as usize) {
        let (_, depth) = parts(tile[0]);
        let tokens = tile.iter().map(|entry| parts(*entry).0).filter(|token| *token < p.tokens);
        work.extend(tokens.map(|token| (token as usize, depth as usize)));
    }
    compute(args, &work);
}
