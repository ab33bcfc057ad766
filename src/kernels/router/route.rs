//! Routing on GPUs, and on processor cores of other vectors than eight.

use super::problem::{BINDINGS, Params, route};
use crate::recording::Kernel;

/// `shaders/route.wgsl`; the bindings are those of [`RouteInputs`](super::RouteInputs).
pub static KERNEL: Kernel = Kernel {
    name: "route",
    wgsl: include_str!("../../../shaders/route.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: route,
};
