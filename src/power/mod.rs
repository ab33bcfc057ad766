//! From the power mode to the precision that a session reads.

use crate::precision::PrecisionPlan;

/// How much energy the user is willing to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PowerMode {
    /// 4 bits
    Low,
    /// 6 bits
    Balanced,
    /// 8 bits
    High,
}

impl PowerMode {
    /// The plan of the mode, for a model that `has_routers` or not.
    pub fn plan(self, has_routers: bool) -> PrecisionPlan {
        let (bits, name) = match self {
            PowerMode::Low => (4.0, "low"),
            PowerMode::Balanced => (6.0, "balanced"),
            PowerMode::High => (8.0, "high"),
        };
        PrecisionPlan::for_bits(bits, has_routers, format!("power mode {name}")).expect("whole slices")
    }
}
