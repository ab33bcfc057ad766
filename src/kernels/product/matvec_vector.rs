//! Product of a sliced weight with few tokens, each on its own, on processor cores with vectors of eight.

use super::problem::{BINDINGS, Params, Product, ProductLaunch, compute_tokens, record as record_product};
use crate::engine::Traits;
use crate::recording::{Kernel, Recording, Span};

/// `shaders/matvec_vector.wgsl`; bindings: those of a weight, x, depths, y.
pub static KERNEL: Kernel = Kernel {
    name: "matvec_vector",
    wgsl: include_str!("../../../shaders/matvec_vector.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: compute_tokens,
};

/// Invocations of a subgroup, which is a workgroup.
const LANES: u32 = 8;
/// Rows that an invocation works on.
const ROWS: u32 = 4;

/// Whether the device computes as the kernel was made for.
pub fn suits(traits: Traits) -> bool {
    traits.software && traits.subgroup == LANES
}

/// Records the product with each token read at its depth in `depths`, `[T]` u32 in 1..=4, by one
/// dispatch for each range of rows that fits a binding.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, depths: Span) {
    let launch = ProductLaunch {
        kernel: &KERNEL,
        constants: Vec::new(),
        rows: ROWS * LANES,
        depths,
        columns: product.tokens,
        columns_first: false,
    };
    record_product(recording, traits, product, &launch);
}
