//! From the power mode to the precision that a session reads.

use crate::precision::{Depth, PrecisionPlan};

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
    /// The plan of the mode.
    pub fn plan(self) -> PrecisionPlan {
        let (depth, name) = match self {
            PowerMode::Low => (Depth::ALL[1], "low"),
            PowerMode::Balanced => (Depth::ALL[2], "balanced"),
            PowerMode::High => (Depth::ALL[3], "high"),
        };
        PrecisionPlan { depth, reason: format!("power mode {name}") }
    }
}
