//! Product of a sliced weight with few tokens, each on its own.

use super::problem::{BINDINGS, Params, Product, ProductLaunch, compute_tokens, record as record_product};
use crate::engine::Traits;
use crate::kernels::declare::WORKGROUP;
use crate::recording::{Kernel, Recording, Span};

/// `shaders/matvec_sliced.wgsl`; bindings: those of a weight, x, depths, y.
pub static KERNEL: Kernel = Kernel {
    name: "matvec_sliced",
    wgsl: include_str!("../../../shaders/matvec_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: compute_tokens,
};

/// Rows that a team of invocations works on together.
const TEAM_ROWS: u32 = 4;

/// Records the product with each token read at its depth in `depths`, `[T]` u32 in 1..=4, by one
/// dispatch for each range of rows that fits a binding.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, depths: Span) {
    // On processor cores lanes of a vector are best spent on rows.
    let lanes = if traits.software { 1 } else { 32 };
    let workgroup = if traits.software { 8 } else { WORKGROUP };
    let constants = vec![("WORKGROUP", workgroup), ("LANES", lanes)];
    let launch = ProductLaunch {
        kernel: &KERNEL,
        constants,
        rows: TEAM_ROWS * workgroup / lanes,
        depths,
        columns: product.tokens,
        columns_first: false,
    };
    record_product(recording, traits, product, &launch);
}
