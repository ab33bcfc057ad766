//! Routing as in [`route`](super::route), on processor cores with vectors of eight.

use super::problem::{BINDINGS, Params, route};
use crate::engine::Traits;
use crate::recording::Kernel;

/// `shaders/route_vector.wgsl`; the bindings are those of [`RouteInputs`](super::RouteInputs).
pub static KERNEL: Kernel = Kernel {
    name: "route_vector",
    wgsl: include_str!("../../../shaders/route_vector.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: route,
};

/// Invocations of a subgroup.
const LANES: u32 = 8;
/// RouterNumbers that a subgroup loads at a time.
const NUMBERS: u32 = 4 * LANES;

/// Whether the device computes as the kernel was made for, and rows of `dim` numbers are whole loads.
pub(super) fn suits(traits: Traits, dim: u32) -> bool {
    traits.software && traits.subgroup == LANES && dim.is_multiple_of(NUMBERS)
}
