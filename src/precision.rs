//! How many bits of each weight are read: slice depths, bits, and the plan that a session follows.

use crate::error::{Error, Result, one_of};

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

    /// The shallowest depth that reads not less than `bits`, [`Depth::FULL`] where none does.
    pub fn holding(bits: f32) -> Depth {
        Depth::ALL.into_iter().find(|depth| depth.bits() as f32 >= bits).unwrap_or(Depth::FULL)
    }

    /// One slice more, where there is one.
    pub fn deeper(self) -> Depth {
        Depth::new(self.slices() + 1).unwrap_or(Depth::FULL)
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

/// How keys and values of earlier tokens are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheType {
    /// As f16.
    #[default]
    F16,
    /// Codes of eight bits, with a scale for 32 of them: half the memory of f16, and as good.
    Q8,
    /// Codes of eight bits for keys, on which more depends, and of four for values.
    Q6,
    /// Codes of four bits, with a scale for 32 of them: little more than a quarter of the memory.
    Q4,
}

impl std::fmt::Display for CacheType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for CacheType {
    type Err = Error;

    /// The type with this name. Fails with [`Error::InvalidArgument`] where there is none.
    fn from_str(name: &str) -> Result<CacheType> {
        one_of("cache type", &CacheType::ALL, name)
    }
}

impl CacheType {
    /// Every type, from the largest to the smallest.
    pub const ALL: [CacheType; 4] = [CacheType::F16, CacheType::Q8, CacheType::Q6, CacheType::Q4];

    /// The type's name.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F16 => "f16",
            CacheType::Q8 => "q8",
            CacheType::Q6 => "q6",
            CacheType::Q4 => "q4",
        }
    }

    /// Bits of the codes of keys and of values; none for f16.
    pub fn code_bits(self) -> Option<[u32; 2]> {
        match self {
            CacheType::F16 => None,
            CacheType::Q8 => Some([8, 8]),
            CacheType::Q6 => Some([8, 4]),
            CacheType::Q4 => Some([4, 4]),
        }
    }
}

/// What is read of the weights for the tokens of a prompt, under a plan by which routers choose.
///
/// The tokens of a prompt run together and share what they read. So many bits cost little there, and the answer depends
/// on what is kept of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PromptBits {
    /// Every slice that the plan allows and that is there, for every token; no router is run.
    #[default]
    Deepest,
    /// What the plan's routers choose, as for the tokens of an answer.
    Plan,
}

impl std::fmt::Display for PromptBits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl PromptBits {
    /// Both settings.
    pub const ALL: [PromptBits; 2] = [PromptBits::Deepest, PromptBits::Plan];

    /// The setting's name.
    pub fn name(self) -> &'static str {
        match self {
            PromptBits::Deepest => "deepest",
            PromptBits::Plan => "plan",
        }
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
    /// The most slices that may be read at any site, and so what is to be resident.
    pub depth_max: Depth,
    /// The decision in words, for people.
    pub reason: String,
}

impl PrecisionPlan {
    /// The plan that reads `depth` of every token at every site.
    pub fn uniform(depth: Depth, reason: impl Into<String>) -> PrecisionPlan {
        PrecisionPlan { precision: Precision::Uniform(depth), depth_max: depth, reason: reason.into() }
    }

    /// The plan by which routers read `bits` on average, in 2 to 8, whatever the number; any slice may be read.
    pub fn routed(bits: f32, reason: impl Into<String>) -> PrecisionPlan {
        PrecisionPlan { precision: Precision::Routed(bits), depth_max: Depth::FULL, reason: reason.into() }
    }

    /// The plan with no more than `most` slices read at any site: routers that ask for more get these, and read fewer
    /// bits than the plan asks for.
    pub fn at_most(mut self, most: Depth) -> PrecisionPlan {
        self.depth_max = self.depth_max.min(most);
        if let Precision::Uniform(depth) = self.precision {
            self.precision = Precision::Uniform(depth.min(most));
        }
        self
    }

    /// The most slices that are read at any site.
    pub fn deepest(&self) -> Depth {
        match self.precision {
            Precision::Uniform(depth) => depth.min(self.depth_max),
            Precision::Routed(_) => self.depth_max,
        }
    }

    /// Slices read of the embedding and the head, where slices come and go: one more than at the sites, because a
    /// token's choice suffers most from them. Of a routed plan, those that hold its average count.
    pub fn outer_depth(&self) -> Depth {
        match self.precision {
            Precision::Uniform(_) => self.deepest().deeper(),
            Precision::Routed(bits) => Depth::holding(bits).min(self.depth_max).deeper(),
        }
    }

    /// The plan that reads `bits` of each weight on average, by the routers of a model that `has_routers`.
    ///
    /// Fails where `bits` is not in 2 to 8, and without routers where it is not a whole number of slices.
    pub fn for_bits(bits: f32, has_routers: bool, reason: impl Into<String>) -> Result<PrecisionPlan> {
        let whole = Depth::of_bits(bits);
        match whole {
            // Nothing is left to choose at the ends.
            Some(depth) if !has_routers || depth == Depth::ALL[0] || depth == Depth::FULL => {
                Ok(PrecisionPlan::uniform(depth, reason))
            }
            _ if !BITS.contains(&bits) => Err(Error::argument("bits", "2 to 8", bits)),
            None if !has_routers => Err(Error::argument("bits", "2, 4, 6 or 8 for a model without routers", bits)),
            _ => Ok(PrecisionPlan::routed(bits, reason)),
        }
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
    fn a_plan_that_is_cut_reads_no_deeper() {
        let depth = |slices| Depth::new(slices).unwrap();
        assert_eq!([2.0, 3.3, 4.0, 4.1, 8.0].map(Depth::holding), [1, 2, 2, 3, 4].map(depth));
        let cut = PrecisionPlan::for_bits(3.3, true, "test").unwrap().at_most(depth(2));
        assert_eq!((cut.precision, cut.depth_max, cut.outer_depth()), (Precision::Routed(3.3), depth(2), depth(3)));
        let outer = |bits| PrecisionPlan::for_bits(bits, true, "test").unwrap().outer_depth().bits();
        assert_eq!([2.0, 2.6, 3.25, 4.0, 4.5, 6.5, 8.0].map(outer), [4, 6, 6, 6, 8, 8, 8]);
        let cut = PrecisionPlan::for_bits(8.0, true, "test").unwrap().at_most(depth(3));
        assert_eq!((cut.precision, cut.depth_max), (Precision::Uniform(depth(3)), depth(3)));
        assert_eq!(PrecisionPlan::uniform(Depth::FULL, "test").outer_depth(), Depth::FULL);
    }

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
