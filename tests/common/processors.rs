//! What recordings may be told of a device, where a test chooses it.

use edge_run::engine::{Activations, Traits};

/// A device of processor cores with vectors of eight.
pub const PROCESSORS: Traits = Traits {
    software: true,
    packed_dot: false,
    activations: Activations::Auto,
    workgroup_invocations: 256,
    workgroup_bytes: 1 << 14,
    subgroup: 8,
    cooperative_matrix: false,
    binding_bytes: 1 << 27,
};
