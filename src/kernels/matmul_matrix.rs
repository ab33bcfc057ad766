//! Product of a sliced weight with many tokens at once by cooperative matrices, for GPUs that have them.

use super::matmul_sliced::by_order;
use super::matmul_tiled::{TILE_ROWS, TILE_TOKENS};
use super::product::{BINDINGS, Launch, Params, Product, record as record_product};
use crate::engine::Traits;
use crate::recording::{Kernel, Recording, Span};

/// `shaders/matmul_matrix.wgsl`; bindings: slices 0 to 3, scales, x, order, y. Weights and x are rounded to f16.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_matrix",
    wgsl: include_str!("../../shaders/matmul_matrix.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: by_order,
};

/// Records the product as [`matmul_tiled`](super::matmul_tiled) does, in tiles of the same size.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, order: Span) {
    let columns = (order.bytes / 4) as u32 / TILE_TOKENS;
    let launch =
        Launch { kernel: &KERNEL, constants: vec![], rows: TILE_ROWS, depths: order, columns, columns_first: true };
    record_product(recording, traits, product, &launch);
}
