//! Product of a sliced weight with many tokens at once, taken in an order whose tiles have one depth each.

use super::gather_tokens::token_and_depth;
use super::problem::{BINDINGS, DEPTHS, Params, Product, ProductLaunch, Tiles, X, compute, record as record_product};
use crate::engine::Traits;
use crate::kernels::declare::WORKGROUP;
use crate::recording::{Arguments, Kernel, Recording};

/// `shaders/matmul_sliced.wgsl`; bindings: those of a weight, x, order, y.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_sliced",
    wgsl: include_str!("../../../shaders/matmul_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: by_order,
};

/// Tokens of an invocation: those of a tile, which has one depth.
pub const TILE_TOKENS: u32 = 8;
/// Rows of an invocation.
const TILE_ROWS: u32 = 4;

/// Records the product with the tokens in their tiles, by one dispatch for each range of rows that fits a binding.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, tiles: Tiles) {
    let constants = vec![("WORKGROUP", WORKGROUP)];
    let columns = (tiles.order.bytes / 4) as u32 / TILE_TOKENS;
    let launch = ProductLaunch {
        kernel: &KERNEL,
        constants,
        rows: TILE_ROWS * WORKGROUP,
        depths: tiles.order,
        columns,
        columns_first: false,
    };
    record_product(recording, traits, product, &launch);
}

/// The product of the tokens in the order that binding 9 holds, each at the depth of its entry.
pub(super) fn by_order(args: &mut Arguments<'_>) {
    compute(args, args.read(X), &work_in_order(args));
}

/// The tokens in the order that binding 9 holds, each with the depth of its entry.
pub(crate) fn work_in_order(args: &Arguments<'_>) -> Vec<(usize, usize)> {
    let tokens = args.params::<Params>().tokens;
    let work = args.read(DEPTHS).iter().map(|entry| token_and_depth(*entry)).filter(|(token, _)| *token < tokens);
    work.map(|(token, depth)| (token as usize, depth as usize)).collect()
}
