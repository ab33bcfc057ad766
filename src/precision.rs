//! How many bits of each weight are read: slice depths, bits, and the plan that a session follows.

use crate::error::{Error, Result};

/// Slices that every weight is cut into; slice 0 is the base.
pub const SLICES: usize = 4;
/// Bits that one slice holds of each weight.
pub const SLICE_BITS: u32 = 2;

/// Slices read of a weight, `1..=SLICES`: depth `d` reads its `2d` most significant bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Depth(u8);

impl Depth {
    /// Every slice.
    pub const FULL: Depth = Depth(SLICES as u8);
    /// Every depth there is, shallowest first.
    pub const ALL: [Depth; SLICES] = [Depth(1), Depth(2), Depth(3), Depth(4)];

    /// `slices` as a depth, if it lies in `1..=SLICES`.
    pub fn new(slices: usize) -> Option<Depth> {
        (1..=SLICES).contains(&slices).then_some(Depth(slices as u8))
    }

    /// Slices read.
    pub fn slices(self) -> usize {
        usize::from(self.0)
    }

    /// Bits read of each weight.
    pub fn bits(self) -> u32 {
        u32::from(self.0) * SLICE_BITS
    }
}

/// What a session reads of the weights, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionPlan {
    /// Depth of every token at every site.
    pub depth: Depth,
    /// The decision in words, for people.
    pub reason: String,
}

impl PrecisionPlan {
    /// The plan that reads `bits` of every weight; `bits` must be a whole number of slices.
    pub fn uniform(bits: u32, reason: impl Into<String>) -> Result<PrecisionPlan> {
        let depth = (bits.is_multiple_of(SLICE_BITS))
            .then(|| Depth::new((bits / SLICE_BITS) as usize))
            .flatten()
            .ok_or_else(|| Error::argument("bits", "2, 4, 6 or 8", bits))?;
        Ok(PrecisionPlan { depth, reason: reason.into() })
    }

    /// Average bits that the plan asks for.
    pub fn bits(&self) -> f32 {
        self.depth.bits() as f32
    }
}
