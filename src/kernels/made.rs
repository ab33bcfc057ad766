//! What makes a site's input: a kernel of its own, or the router that reads it first, which saves a launch.

use super::{rms_norm, silu_mul};
use crate::recording::{Buffer, Recording, Span};

/// What makes a site's input, [T, input] f32.
#[derive(Debug, Clone, Copy)]
pub enum Made {
    /// It is there.
    Before,
    /// The norm of the rows of `from`.
    Norm {
        /// [T, input] f32
        from: Span,
        /// `[input]` f32
        weight: Buffer,
        /// Added to the mean square.
        eps: f32,
    },
    /// silu(gate) * up of the rows of `from`, whose halves they are.
    Gated {
        /// [T, 2 input] f32
        from: Span,
    },
}

impl Made {
    /// Records it by a kernel of its own: `x` of `tokens` tokens.
    pub fn record(self, recording: &mut Recording, tokens: u32, x: Span) {
        match self {
            Made::Before => (),
            Made::Norm { from, weight, eps } => rms_norm::record(recording, tokens, eps, from, weight, x),
            Made::Gated { from } => silu_mul::record(recording, tokens, (x.bytes / 4) as u32 / tokens, from, x),
        }
    }

    /// What a kernel that makes it binds for it: what it is made from, and the norm's weight; something that is not
    /// looked at where there is none.
    pub(super) fn bindings(self, unused: Span) -> [Span; 2] {
        match self {
            Made::Before => [unused; 2],
            Made::Norm { from, weight, .. } => [from, weight.all()],
            Made::Gated { from } => [from, unused],
        }
    }

    /// The shaders' constant.
    pub(super) fn constant(self) -> u32 {
        match self {
            Made::Before => BEFORE,
            Made::Norm { .. } => NORM,
            Made::Gated { .. } => GATED,
        }
    }

    /// What the norm adds to the mean square.
    pub(super) fn eps(self) -> f32 {
        if let Made::Norm { eps, .. } = self { eps } else { 0.0 }
    }
}

const BEFORE: u32 = 0;
const NORM: u32 = 1;
const GATED: u32 = 2;

/// The rows of x, as a kernel makes them that is told `made`.
pub(super) fn make(made: u32, [from, weight]: [&[f32]; 2], eps: f32, input: usize, x: &mut [f32]) {
    match made {
        NORM => rms_norm::normalize(from, weight, eps, x),
        GATED => silu_mul::gate(from, input, x),
        _ => (),
    }
}
