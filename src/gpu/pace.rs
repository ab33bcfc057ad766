//! How much of a recording goes into one submit, so that none holds up a slow device that draws a screen too.

use std::time::Duration;

/// What a submit may take.
const SUBMIT: Duration = Duration::from_millis(50);
/// What a step of a recording is taken to need before any was timed.
const STEP: Duration = Duration::from_millis(1);
/// Steps of a submit at least.
const LEAST: usize = 8;

/// What a step of a recording takes; slower ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pace {
    step: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { step: STEP }
    }
}

impl Pace {
    /// The pace by a run of so many steps.
    pub fn of(steps: usize, took: Duration) -> Pace {
        Pace { step: took / steps.max(1) as u32 }
    }

    /// Steps of one submit.
    pub fn steps(self) -> usize {
        let fit = SUBMIT.as_nanos() / self.step.as_nanos().max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submits_are_as_long_as_they_may_be() {
        assert_eq!(Pace::default().steps(), 50);
        assert_eq!(Pace::of(400, Duration::from_millis(8)).steps(), 2500);
        assert_eq!(Pace::of(400, Duration::from_secs(1)).steps(), 20);
        assert_eq!(Pace::of(400, Duration::from_secs(100)).steps(), LEAST);
        assert_eq!(Pace::of(0, Duration::ZERO).steps(), 50_000_000);
        assert!(Pace::of(400, Duration::from_secs(1)) > Pace::of(400, Duration::from_millis(8)));
    }
}
