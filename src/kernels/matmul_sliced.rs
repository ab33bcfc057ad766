//! Product of a sliced weight with many tokens at once.

use super::WORKGROUP;
use super::product::{BINDINGS, Launch, Params, Product, record as record_product, reference};
use crate::engine::Traits;
use crate::recording::{Kernel, Recording};

/// `shaders/matmul_sliced.wgsl`; bindings: slices 0 to 3, scales, x, depths, y.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_sliced",
    wgsl: include_str!("../../shaders/matmul_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference,
};

/// Rows and tokens of an invocation.
const TILE: [u32; 2] = [4, 8];

/// Records the product, in parts where the weight is longer than a binding may be.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>) {
    let constants = vec![("WORKGROUP", WORKGROUP)];
    let launch = Launch { kernel: &KERNEL, constants, tile: [TILE[0] * WORKGROUP, TILE[1]] };
    record_product(recording, traits, product, &launch);
}
