//! How fast a model runs on a device, and what it reads and what energy it takes to do so.
//!
//! What is timed are tokens as a caller sees them, with all waits; the tokens themselves are random, because their time
//! does not depend on what they are.

mod bytes;
mod copy;
mod energy;
mod measure;
mod profile;
mod stats;
mod synthetic;
mod thresholds;

pub use bytes::bytes_per_token;
pub use copy::copy_bandwidth;
pub use energy::EnergyMeter;
pub use measure::{Measured, Test, TestKind, filled, measure, measure_together, profile};
pub use profile::{KernelShare, Profile};
pub use stats::Stats;
pub use synthetic::Synthetic;
pub use thresholds::find_thresholds;
