//! From the device's power state to the precision that a session reads.
//!
//! A [`PowerSource`] reads the state; the [`Policy`] turns a state into bits, as a pure function over a table; the
//! [`Governor`] adds what needs memory, so that a state on an edge does not flap. None of them changes a session: what
//! comes out is a [`PrecisionPlan`], and who holds the session hands it on.

mod battery;
#[cfg(feature = "cli")]
mod config;
mod fields;
mod follower;
mod governor;
#[cfg(target_os = "macos")]
mod macos;
mod policy;
mod pushed;
mod simulated;
mod state;
mod sysfs;
mod watch;
#[cfg(windows)]
mod windows;

use crate::error::{Error, Result, one_of};
use crate::precision::PrecisionPlan;

pub use battery::discharge_watts;
#[cfg(feature = "cli")]
pub use config::PowerConfig;
pub use follower::{PowerFollower, READ_EVERY};
pub use governor::{Change, Governor};
pub use policy::{Decision, Held, Policy, Rule, Rung};
pub use pushed::PushedPower;
pub use simulated::{At, Trace, TraceStep};
pub use state::{PowerSource, PowerState, Reading, Signal, Supply, Thermal};
pub use sysfs::SysfsSource;
pub use watch::Watcher;

/// How much energy the user is willing to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerMode {
    /// As battery, charger, energy saver, heat and memory allow.
    Auto,
    /// 4 bits.
    Low,
    /// 6 bits.
    Balanced,
    /// 8 bits.
    High,
}

impl PowerMode {
    /// Every mode.
    pub const ALL: [PowerMode; 4] = [PowerMode::Auto, PowerMode::Low, PowerMode::Balanced, PowerMode::High];

    /// The mode's name.
    pub fn name(self) -> &'static str {
        match self {
            PowerMode::Auto => "auto",
            PowerMode::Low => "low",
            PowerMode::Balanced => "balanced",
            PowerMode::High => "high",
        }
    }

    /// Bits that the mode asks for; for [`PowerMode::Auto`] those that its table begins with, on AC.
    pub fn bits(self) -> f32 {
        match self {
            PowerMode::Low => 4.0,
            PowerMode::Balanced => 6.0,
            PowerMode::Auto | PowerMode::High => 8.0,
        }
    }

    /// The plan of the mode, for a model that `has_routers` or not. For [`PowerMode::Auto`] it is the plan to begin
    /// with where nothing is known of the power state; a [`Governor`] has the others.
    pub fn plan(self, has_routers: bool) -> PrecisionPlan {
        let reason = format!("power mode {}", self.name());
        PrecisionPlan::for_bits(self.bits(), has_routers, reason).expect("whole slices")
    }
}

impl std::fmt::Display for PowerMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for PowerMode {
    type Err = Error;

    /// The mode with this name. Fails with [`Error::InvalidArgument`] where there is none.
    fn from_str(name: &str) -> Result<PowerMode> {
        one_of("power mode", &PowerMode::ALL, name)
    }
}

/// The source of this operating system's power state. Where there is none, every reading is of a machine on AC of which
/// nothing more is known.
pub fn system_source() -> Box<dyn PowerSource> {
    #[cfg(target_os = "macos")]
    return Box::new(macos::MacosSource);
    #[cfg(windows)]
    return Box::new(windows::WindowsSource);
    // Elsewhere the files are not there, which reads as a desktop.
    #[cfg(not(any(target_os = "macos", windows)))]
    return Box::new(SysfsSource::new("/"));
}
