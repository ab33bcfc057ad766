//! How many bits of each weight are read: slice depths, bits, and the plan that a session follows.

use crate::error::{Error, Result};

/// Slices that every weight is cut into; slice 0 is the base.
pub const SLICES: usize = 4;
/// Bits that one slice holds of each weight.
pub const SLICE_BITS: u32 = 2;
/// Fewest and most bits that can be read of a weight.
pub const BITS: std::ops::RangeInclusive<f32> = 2.0..=8.0;

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

    /// The depth that reads exactly `bits`, if there is one.
    pub fn of_bits(bits: f32) -> Option<Depth> {
        Depth::ALL.into_iter().find(|depth| depth.bits() as f32 == bits)
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

/// How the depth of a token at a site comes about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Precision {
    /// Every token at every site reads the same slices.
    Uniform(Depth),
    /// The model's routers choose, so that this many bits are read on average.
    Routed(f32),
}

impl Precision {
    /// Average bits asked for.
    pub fn bits(self) -> f32 {
        match self {
            Precision::Uniform(depth) => depth.bits() as f32,
            Precision::Routed(bits) => bits,
        }
    }
}

/// What a session reads of the weights, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionPlan {
    /// How depths come about.
    pub precision: Precision,
    /// The decision in words, for people.
    pub reason: String,
}

impl PrecisionPlan {
    /// The plan that reads `depth` of every token at every site.
    pub fn uniform(depth: Depth, reason: impl Into<String>) -> PrecisionPlan {
        PrecisionPlan { precision: Precision::Uniform(depth), reason: reason.into() }
    }

    /// The plan that reads `bits` of each weight on average, by the routers of a model that `has_routers`.
    ///
    /// Fails where `bits` is not in 2 to 8, and without routers where it is not a whole number of slices.
    pub fn for_bits(bits: f32, has_routers: bool, reason: impl Into<String>) -> Result<PrecisionPlan> {
        let whole = Depth::of_bits(bits);
        let precision = match whole {
            // Nothing is left to choose at the ends.
            Some(depth) if !has_routers || depth == Depth::ALL[0] || depth == Depth::FULL => Precision::Uniform(depth),
            _ if !BITS.contains(&bits) => return Err(Error::argument("bits", "2 to 8", bits)),
            None if !has_routers => {
                return Err(Error::argument("bits", "2, 4, 6 or 8 for a model without routers", bits));
            }
            _ => Precision::Routed(bits),
        };
        Ok(PrecisionPlan { precision, reason: reason.into() })
    }

    /// Average bits that the plan asks for.
    pub fn bits(&self) -> f32 {
        self.precision.bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_serve_any_bits_between_the_ends() {
        let of = |bits, has_routers| PrecisionPlan::for_bits(bits, has_routers, "test").map(|plan| plan.precision);
        assert_eq!(of(3.5, true).unwrap(), Precision::Routed(3.5));
        assert_eq!(of(4.0, true).unwrap(), Precision::Routed(4.0));
        assert_eq!(of(4.0, false).unwrap(), Precision::Uniform(Depth::ALL[1]));
        for (bits, depth) in [(2.0, Depth::ALL[0]), (8.0, Depth::FULL)] {
            assert_eq!(of(bits, true).unwrap(), Precision::Uniform(depth));
        }
        for (bits, has_routers) in [(3.5, false), (1.9, true), (8.1, true), (f32::NAN, true), (5.0, false)] {
            assert!(of(bits, has_routers).is_err(), "{bits} {has_routers}");
        }
    }
}
