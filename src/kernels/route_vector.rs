//! What [`route`](super::route) does, on processor cores with vectors of eight.

use super::bindings;
use super::route::{Params, route};
use crate::engine::Traits;
use crate::recording::Kernel;

/// `shaders/route_vector.wgsl`; bindings as [`route`](super::route::KERNEL) has them.
pub static KERNEL: Kernel = Kernel {
    name: "route_vector",
    wgsl: include_str!("../../shaders/route_vector.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<8>(6),
    reference: route,
};

/// Invocations of a subgroup.
const LANES: u32 = 8;
/// Numbers that a subgroup loads at a time.
const NUMBERS: u32 = 4 * LANES;

/// Whether the device computes as the kernel was made for, and rows of `dim` numbers are whole loads.
pub(super) fn suits(traits: Traits, dim: u32) -> bool {
    traits.software && traits.subgroup == LANES && dim.is_multiple_of(NUMBERS)
}
