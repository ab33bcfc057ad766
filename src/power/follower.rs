//! The precision that a device's power state calls for, from moment to moment.

use std::time::{Duration, Instant};

use super::{
    Change, Decision, Governor, Policy, PowerSource, PowerState, PushedPower, Reading, Watcher, system_source,
};
use crate::error::Result;
use crate::precision::PrecisionPlan;

/// Time between two readings of the power state.
pub const READ_EVERY: Duration = Duration::from_secs(3);

/// Turns the readings of a [`PowerSource`] into plans. The source is read on a thread of its own, which ends with this;
/// asking for a plan asks no operating system. A state that the application pushes needs no thread.
pub struct PowerFollower {
    governor: Governor,
    readings: Readings,
    begin: Instant,
    has_routers: bool,
}

/// Where the last state is.
enum Readings {
    Watched(Watcher),
    Pushed(PushedPower),
}

impl Readings {
    fn latest(&self) -> PowerState {
        match self {
            Readings::Watched(watcher) => watcher.latest().state,
            Readings::Pushed(pushed) => pushed.state(),
        }
    }
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
        let readings = Readings::Watched(Watcher::start(source, first, READ_EVERY)?);
        Ok(PowerFollower { governor, readings, begin: Instant::now(), has_routers })
    }

    /// Follows the state that the application pushes, by a policy: each push counts from the next
    /// [`PowerFollower::poll`] on, which a session does before every token.
    ///
    /// Fails where the policy contradicts itself.
    pub fn pushed(policy: Policy, pushed: &PushedPower, has_routers: bool) -> Result<PowerFollower> {
        let governor = Governor::new(policy, has_routers, &pushed.state())?;
        let readings = Readings::Pushed(pushed.clone());
        Ok(PowerFollower { governor, readings, begin: Instant::now(), has_routers })
    }

    /// Ends it without waiting for the source, which a drop does for up to half a second where a reading is under way.
    pub fn dismiss(self) {
        if let Readings::Watched(watcher) = self.readings {
            watcher.dismiss();
        }
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
        self.governor.observe(&self.readings.latest(), self.begin.elapsed())
    }

    /// Why the state cannot be read, in words, once for each time that readings begin to fail.
    pub fn take_fault(&self) -> Option<String> {
        match &self.readings {
            Readings::Watched(watcher) => watcher.take_fault(),
            Readings::Pushed(_) => None,
        }
    }
}
