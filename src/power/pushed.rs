//! A power state that the application tells, by events of its own, as they happen.

use std::sync::{Arc, Mutex, PoisonError};

use super::{PowerSource, PowerState, Reading};
use crate::error::{Error, Result};

/// A power state that the application pushes. Clones share it, on any threads.
///
/// It is for applications whose platform sends events: a push takes effect at the next token of each session that
/// follows it ([`PowerFollower::pushed`](super::PowerFollower::pushed)). No thread is started and nothing is polled.
#[derive(Debug, Clone)]
pub struct PushedPower(Arc<Mutex<PowerState>>);

impl PushedPower {
    /// The state until another one is pushed. Fails as [`PushedPower::push`] does.
    pub fn new(state: PowerState) -> Result<PushedPower> {
        check(&state)?;
        Ok(PushedPower(Arc::new(Mutex::new(state))))
    }

    /// Takes the place of the state before.
    ///
    /// Fails where the charge or the memory pressure is not in 0 to 100; the state before then stands.
    pub fn push(&self, state: PowerState) -> Result<()> {
        check(&state)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    /// The state that was pushed last.
    pub fn state(&self) -> PowerState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PowerSource for PushedPower {
    fn read(&mut self) -> Result<Reading> {
        Ok(Reading { state: self.state(), signals: Vec::new(), follows: true })
    }
}

fn check(state: &PowerState) -> Result<()> {
    let percent = |name: &str, number: f32| match (0.0..=100.0).contains(&number) {
        true => Ok(()),
        false => Err(Error::argument(name, "0 to 100", number)),
    };
    if let super::Supply::Battery { percent: Some(charge) } = state.supply {
        percent("charge of the battery", charge)?;
    }
    percent("memory pressure", state.memory_pressure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::{Policy, PowerFollower, Supply, Thermal};

    #[test]
    fn what_another_thread_pushes_counts_at_the_next_question() {
        let pushed = PushedPower::new(PowerState::AC).unwrap();
        let mut follower = PowerFollower::pushed(Policy::default(), &pushed, true).unwrap();
        assert_eq!((follower.plan().unwrap().bits(), follower.poll()), (8.0, None));
        let events = pushed.clone();
        let battery = PowerState { supply: Supply::Battery { percent: Some(15.0) }, ..PowerState::AC };
        std::thread::spawn(move || events.push(battery)).join().unwrap().unwrap();
        let change = follower.poll().expect("bits fall at once");
        assert_eq!((change.was, change.decision.bits, change.decision.reason.as_str()), (8.0, 3.3, "battery 15%"));
        // A state that is no worse changes nothing, and one that is better waits for the policy's dwell.
        pushed.push(battery).unwrap();
        assert_eq!(follower.poll(), None);
        pushed.push(PowerState::AC).unwrap();
        assert_eq!((follower.poll(), follower.take_fault()), (None, None));
        pushed.push(PowerState { thermal: Thermal::Critical, ..PowerState::AC }).unwrap();
        assert!(follower.poll().is_some_and(|change| change.decision.bits < 3.3));
    }

    #[test]
    fn a_follower_without_dwell_rises_with_the_push() {
        let pushed = PushedPower::new(PowerState { saver: true, ..PowerState::AC }).unwrap();
        let policy = Policy { dwell_s: 0.0, ..Policy::default() };
        let mut follower = PowerFollower::pushed(policy, &pushed, true).unwrap();
        let saving = follower.plan().unwrap().bits();
        pushed.push(PowerState::AC).unwrap();
        assert!(follower.poll().is_some_and(|change| change.was == saving && change.decision.bits == 8.0));
    }

    #[test]
    fn a_state_of_impossible_numbers_is_refused_and_the_one_before_stands() {
        let charge = |percent| PowerState { supply: Supply::Battery { percent: Some(percent) }, ..PowerState::AC };
        let pushed = PushedPower::new(charge(70.0)).unwrap();
        for number in [-1.0, 101.0, f32::NAN, f32::INFINITY] {
            let error = pushed.push(charge(number)).unwrap_err().to_string();
            assert_eq!(error, format!("charge of the battery: expected 0 to 100, got {number}"));
            let pressed = PowerState { memory_pressure: number, ..PowerState::AC };
            assert!(pushed.push(pressed).is_err() && PushedPower::new(pressed).is_err());
        }
        assert_eq!(pushed.state(), charge(70.0));
        // As any other source, it can be read by a watcher.
        assert!(pushed.clone().read().unwrap().follows);
    }
}
