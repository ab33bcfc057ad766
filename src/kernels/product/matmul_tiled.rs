//! Product of a sliced weight with many tokens at once through workgroup memory, for GPUs.

use super::matmul_sliced::by_order;
use super::problem::{BINDINGS, Params, Product, ProductLaunch, Tiles, record as record_product};
use crate::engine::Traits;
use crate::recording::{Kernel, Recording};

/// `shaders/matmul_tiled.wgsl`; bindings: those of a weight, x, order, y.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_tiled",
    wgsl: include_str!("../../../shaders/matmul_tiled.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: by_order,
};

/// Tokens of a workgroup: those of a tile, which has one depth. The shader's constant.
pub const TILE_TOKENS: u32 = 64;
/// Rows of a workgroup; the shader's constant.
pub(super) const TILE_ROWS: u32 = 64;

/// Records the product as [`matmul_sliced`](super::matmul_sliced) does, with larger tiles.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, tiles: Tiles) {
    let columns = (tiles.order.bytes / 4) as u32 / TILE_TOKENS;
    let launch = ProductLaunch {
        kernel: &KERNEL,
        constants: vec![],
        rows: TILE_ROWS,
        depths: tiles.order,
        columns,
        columns_first: true,
    };
    record_product(recording, traits, product, &launch);
}
