//! The precision that a device's power state calls for, from moment to moment.

use std::time::{Duration, Instant};

use super::{Change, Decision, Governor, Policy, PowerSource, Reading, Watcher, system_source};
use crate::error::Result;
use crate::precision::PrecisionPlan;

/// Time between two readings of the power state.
pub const READ_EVERY: Duration = Duration::from_secs(3);

/// Turns the readings of a [`PowerSource`] into plans. The source is read on a thread of its own, which ends with this;
/// asking for a plan asks no operating system.
pub struct PowerFollower {
    governor: Governor,
    watcher: Watcher,
    begin: Instant,
    has_routers: bool,
}

impl PowerFollower {
    /// Follows this device's power state by the usual policy, for a model that `has_routers` or not.
    ///
    /// Fails where the state cannot be read, and where no thread can be started.
    pub fn system(has_routers: bool) -> Result<PowerFollower> {
        PowerFollower::start(Policy::default(), system_source(), has_routers)
    }

    /// Follows a source by a policy, for a model that `has_routers` or not.
    ///
    /// Fails where the policy contradicts itself, where the source cannot be read, and where no thread can be started.
    pub fn start(policy: Policy, mut source: Box<dyn PowerSource>, has_routers: bool) -> Result<PowerFollower> {
        let first = source.read()?;
        PowerFollower::after(first, policy, source, has_routers)
    }

    /// Follows a source as [`PowerFollower::start`] does, after its reading `first`.
    ///
    /// Fails where the policy contradicts itself, and where no thread can be started.
    pub fn after(
        first: Reading,
        policy: Policy,
        source: Box<dyn PowerSource>,
        has_routers: bool,
    ) -> Result<PowerFollower> {
        let governor = Governor::new(policy, has_routers, &first.state)?;
        let watcher = Watcher::start(source, first, READ_EVERY)?;
        Ok(PowerFollower { governor, watcher, begin: Instant::now(), has_routers })
    }

    /// The decision in force.
    pub fn decision(&self) -> &Decision {
        self.governor.decision()
    }

    /// The plan in force. Fails where the policy allows no bits that the model can follow.
    pub fn plan(&self) -> Result<PrecisionPlan> {
        self.decision().plan(self.has_routers)
    }

    /// Takes the last reading into account; the change, where the bits change.
    pub fn poll(&mut self) -> Option<Change> {
        self.governor.observe(&self.watcher.latest().state, self.begin.elapsed())
    }

    /// Why the state cannot be read, in words, once for each time that readings begin to fail.
    pub fn take_fault(&self) -> Option<String> {
        self.watcher.take_fault()
    }
}
