//! What recordings may be told of a device, where a test chooses it.

use edge_run::internals::engine::{Activations, Traits, USUAL_PROCESSORS};

/// A device of processor cores with vectors of eight.
pub const PROCESSORS: Traits = Traits {
    software: true,
    packed_dot: false,
    activations: Activations::Auto,
    workgroup_invocations: 256,
    workgroup_bytes: 1 << 14,
    subgroup: 8,
    cooperative_matrix: false,
    processors: USUAL_PROCESSORS,
    binding_bytes: 1 << 27,
    buffer_bytes: 1 << 31,
    loop_rounds: u32::MAX,
};
