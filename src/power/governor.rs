//! The policy over time: bits fall at once, and rise when what speaks for more has lasted.

use std::time::Duration;

use super::{Decision, Policy, PowerState};
use crate::error::Result;

/// The decision in force, and what is needed to change it. Time is handed in, so that the same states at the same
/// times make the same decisions.
#[derive(Debug, Clone)]
pub struct Governor {
    policy: Policy,
    has_routers: bool,
    /// The decision in force.
    decision: Decision,
    /// The decision that the last state would make.
    wanted: Decision,
    /// Since when more bits are wanted than are in force.
    more_since: Option<Duration>,
}

/// A change of what is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Bits before.
    pub was: f32,
    /// The new decision.
    pub decision: Decision,
}

impl Governor {
    /// A governor that begins with the decision for `state`, for a model that `has_routers` or not.
    ///
    /// Fails where [`Policy::check`] does.
    pub fn new(policy: Policy, has_routers: bool, state: &PowerState) -> Result<Governor> {
        policy.check()?;
        let decision = policy.decide(state, has_routers, super::Held::default());
        Ok(Governor { policy, has_routers, wanted: decision.clone(), decision, more_since: None })
    }

    /// The decision in force.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// When the bits rise, if the state stays as it was taken last and they are to rise.
    pub fn rises_at(&self) -> Option<Duration> {
        self.more_since.map(|since| since + self.dwell())
    }

    fn dwell(&self) -> Duration {
        Duration::from_secs_f32(self.policy.dwell_s)
    }

    /// Takes the state at `now`, a time that never falls; the change, where the bits change, or how
    /// deep routers may read.
    pub fn observe(&mut self, state: &PowerState, now: Duration) -> Option<Change> {
        self.wanted = self.policy.decide(state, self.has_routers, self.wanted.held);
        let (was, depth_was) = (self.decision.bits, self.decision.depth_max);
        if self.wanted.bits > was {
            let since = *self.more_since.get_or_insert(now);
            if now < since + self.dwell() {
                return None;
            }
        }
        self.more_since = None;
        self.decision = self.wanted.clone();
        (self.decision.bits != was || self.decision.depth_max != depth_was)
            .then(|| Change { was, decision: self.decision.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::{Rung, Supply, Thermal};
    use crate::precision::Depth;

    fn battery(percent: f32) -> PowerState {
        PowerState { supply: Supply::Battery { percent: Some(percent) }, ..PowerState::AC }
    }

    /// The bits after each change, of a state a second.
    fn changes(policy: &Policy, states: impl IntoIterator<Item = PowerState>) -> Vec<f32> {
        let mut states = states.into_iter();
        let mut governor = Governor::new(policy.clone(), true, &states.next().unwrap()).unwrap();
        let observe =
            |(at, state)| governor.observe(&state, Duration::from_secs(at)).map(|change| change.decision.bits);
        (1..).zip(states).filter_map(observe).collect()
    }

    #[test]
    fn bits_fall_at_once_and_rise_after_the_dwell() {
        let mut governor = Governor::new(Policy::default(), true, &PowerState::AC).unwrap();
        let at = Duration::from_secs;
        let fall = governor.observe(&battery(15.0), at(1)).unwrap();
        assert_eq!((fall.was, fall.decision.bits, fall.decision.reason.as_str()), (8.0, 3.3, "battery 15%"));
        assert_eq!(governor.observe(&PowerState::AC, at(2)), None);
        assert_eq!(governor.observe(&PowerState::AC, at(11)), None);
        assert_eq!(governor.rises_at(), Some(at(12)));
        assert_eq!(governor.observe(&PowerState::AC, at(12)).unwrap().decision.bits, 8.0);
    }

    #[test]
    fn a_change_of_the_depth_alone_is_a_change() {
        let policy = Policy { ac: 3.3, ..Policy::default() };
        let mut governor = Governor::new(policy, true, &PowerState::AC).unwrap();
        assert_eq!(governor.decision().depth_max, Depth::FULL);
        let low = governor.observe(&battery(15.0), Duration::from_secs(1)).unwrap();
        assert_eq!((low.was, low.decision.bits, low.decision.depth_max), (3.3, 3.3, Depth::ALL[2]));
        assert_eq!(governor.observe(&battery(14.0), Duration::from_secs(2)), None);
    }

    #[test]
    fn a_pause_in_what_speaks_for_more_begins_the_dwell_anew() {
        let hot = PowerState { thermal: Thermal::Serious, ..PowerState::AC };
        let sawtooth = (0..200).map(|i| if i % 8 < 4 { hot } else { PowerState::AC });
        assert!(changes(&Policy::default(), sawtooth.clone()).is_empty());
        // Control: without a dwell it flaps.
        assert!(changes(&Policy { dwell_s: 0.0, ..Policy::default() }, sawtooth).len() > 40);
    }

    #[test]
    fn a_charge_around_the_foot_of_a_rung_does_not_flap() {
        let sawtooth = (0..200).map(|i| battery(50.0 + [1.0, 0.5, -0.5, -1.0, 0.5, 1.5][i % 6]));
        let no_dwell = Policy { dwell_s: 0.0, ..Policy::default() };
        assert_eq!(changes(&no_dwell, sawtooth.clone()), [4.5]);
        // Control: without a margin either it flaps.
        assert!(changes(&Policy { battery_margin: 0.0, ..no_dwell.clone() }, sawtooth).len() > 40);
        // Past the margin it rises.
        assert_eq!(changes(&no_dwell, [51.0, 49.0, 52.9, 53.0].map(battery)), [4.5, 6.0]);
        // A rise by more than one rung goes as far as the margin lets it.
        assert_eq!(changes(&no_dwell, [51.0, 10.0, 51.0, 54.0].map(battery)), [3.3, 4.5, 6.0]);
    }

    #[test]
    fn memory_around_its_threshold_does_not_flap() {
        let sawtooth = (0..200).map(|i| PowerState { memory_pressure: [11.0, 9.0][i % 2], ..PowerState::AC });
        let no_dwell = Policy { dwell_s: 0.0, ..Policy::default() };
        assert!(changes(&no_dwell, sawtooth.clone()).is_empty());
        assert!(changes(&Policy { memory_margin: 0.0, ..no_dwell.clone() }, sawtooth).len() > 40);
        let falling = [11.0, 6.0, 4.9].map(|memory_pressure| PowerState { memory_pressure, ..PowerState::AC });
        assert_eq!(changes(&no_dwell, falling), [8.0]);
    }

    #[test]
    fn a_policy_of_impossible_numbers_is_an_error_and_no_panic() {
        type Change = fn(&mut Policy, f32);
        let fields: [(&str, Change); 13] = [
            ("ac", |policy, number| policy.ac = number),
            ("saver", |policy, number| policy.saver = number),
            ("thermal_serious", |policy, number| policy.thermal_serious = number),
            ("thermal_critical", |policy, number| policy.thermal_critical = number),
            ("memory_pressure", |policy, number| policy.memory_pressure = number),
            ("min_bits", |policy, number| policy.min_bits = number),
            ("max_bits", |policy, number| policy.max_bits = number),
            ("memory_from", |policy, number| policy.memory_from = number),
            ("memory_margin", |policy, number| policy.memory_margin = number),
            ("battery_margin", |policy, number| policy.battery_margin = number),
            ("dwell_s", |policy, number| policy.dwell_s = number),
            ("battery[1].from", |policy, number| policy.battery[1].from = number),
            ("battery[2].bits", |policy, number| policy.battery[2].bits = number),
        ];
        for (field, change) in fields {
            for number in [-1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
                let mut policy = Policy::default();
                change(&mut policy, number);
                let error = Governor::new(policy, true, &PowerState::AC).unwrap_err().to_string();
                let named = format!("policy, field `{field}`: expected ");
                assert!(error.starts_with(&named) && error.ends_with(&format!("got {number}")), "{error}");
            }
        }
        for ladder in [vec![], vec![20.0, 50.0, 0.0], vec![50.0, 50.0, 0.0], vec![50.0, 20.0]] {
            let battery: Vec<_> = ladder.into_iter().map(|from| Rung { from, bits: 4.0 }).collect();
            let error = Policy { battery, ..Policy::default() }.check().unwrap_err().to_string();
            assert!(error.contains("`battery`: expected rungs from falling charges, the last from 0"), "{error}");
        }
        assert!(Policy { min_bits: 5.0, max_bits: 4.0, ..Policy::default() }.check().is_err());
        assert!(Policy { dwell_s: 1e9, ..Policy::default() }.check().is_ok());
    }

    #[test]
    fn a_reason_may_change_where_the_bits_do_not() {
        let mut governor = Governor::new(Policy::default(), true, &battery(18.0)).unwrap();
        assert_eq!(governor.observe(&battery(17.0), Duration::ZERO), None);
        assert_eq!(governor.decision().reason, "battery 17%");
    }
}
