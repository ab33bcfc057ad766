//! Product of a sliced weight with few tokens, each on its own.

use super::WORKGROUP;
use super::product::{BINDINGS, Launch, Params, Product, record as record_product, reference};
use crate::engine::Traits;
use crate::recording::{Kernel, Recording};

/// `shaders/matvec_sliced.wgsl`; bindings: slices 0 to 3, scales, x, depths, y.
pub static KERNEL: Kernel = Kernel {
    name: "matvec_sliced",
    wgsl: include_str!("../../shaders/matvec_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference,
};

/// Rows that a team of invocations works on together.
const TEAM_ROWS: u32 = 4;

/// Records the product, in parts where the weight is longer than a binding may be.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>) {
    // On processor cores lanes of a vector are best spent on rows: they then share the loads of x.
    let lanes = if traits.software { 1 } else { 32 };
    let workgroup = if traits.software { 8 } else { WORKGROUP };
    let constants = vec![("WORKGROUP", workgroup), ("LANES", lanes)];
    let launch = Launch { kernel: &KERNEL, constants, tile: [TEAM_ROWS * workgroup / lanes, 1] };
    record_product(recording, traits, product, &launch);
}
