//! How much of a recording goes into one submit, so that none holds up a slow device that draws a screen too, and a
//! stop is heeded soon.

use std::time::{Duration, Instant};

/// The time that a submit may take.
pub(super) const SUBMIT: Duration = Duration::from_millis(50);
/// The same on a device whose queue draws an application's frames too: half of one at 60 frames a second.
pub(super) const SUBMIT_BESIDE_FRAMES: Duration = Duration::from_millis(8);
/// A wait that is shorter than this found the device done already.
const AT_ONCE: Duration = Duration::from_micros(100);
/// How many times as long a submit may be as the longest that was timed.
const GROWTH: usize = 8;

/// The time that a command of a recording takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SubmitPace {
    step: Duration,
}

impl SubmitPace {
    /// Steps of one submit that may take `most`.
    pub fn steps(self, most: Duration) -> usize {
        let fit = most.as_nanos() / self.step.as_nanos().max(1);
        usize::try_from(fit).unwrap_or(usize::MAX).max(1)
    }
}

/// Time that the device spent on some steps: the least and the most that it can have been.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    steps: usize,
    least: Duration,
    most: Duration,
}

impl Spent {
    /// Both together.
    pub fn and(self, other: Spent) -> Spent {
        let (least, most) = (self.least + other.least, self.most + other.most);
        Spent { steps: self.steps + other.steps, least, most }
    }

    /// The pace by it: as before where that is possible, else the nearest that is.
    pub fn pace(self, before: Option<SubmitPace>) -> SubmitPace {
        let [least, most] = [self.least, self.most].map(|time| time / self.steps.max(1) as u32);
        SubmitPace { step: before.map_or(most, |pace| pace.step.clamp(least, most)) }
    }
}

/// When the device was done with the submit that was waited for last. The host learns that only by a wait, so it may
/// have been any time between two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    earliest: Instant,
    latest: Instant,
}

impl Clock {
    /// A device that has nothing to do.
    pub fn new(now: Instant) -> Clock {
        Clock { earliest: now, latest: now }
    }

    /// The time for steps that were submitted at `submitted`, by a wait for them from `wait` to `now`. What the device
    /// did before is not counted, nor what the host did between.
    pub fn time(&mut self, steps: usize, submitted: Instant, wait: Instant, now: Instant) -> Spent {
        let (begin, late_begin) = (self.earliest.max(submitted), self.latest.max(submitted));
        let at_once = now.saturating_duration_since(wait) < AT_ONCE;
        let done = if at_once { begin } else { now };
        (self.earliest, self.latest) = (done, now);
        let (least, most) = (done.saturating_duration_since(late_begin), now.saturating_duration_since(begin));
        Spent { steps, least, most }
    }
}

/// How long the submits of one run are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The time that a submit may take.
    most_submit: Duration,
    /// The pace of the recording's last run, if it has run.
    known: Option<SubmitPace>,
    /// Steps that may go into a submit while nothing is known.
    most: usize,
    /// The time of this run so far.
    spent: Spent,
}

impl Plan {
    /// A plan for a recording of this pace, whose submits may take `most_submit`. One that has not run begins with
    /// `first` steps and goes on with more by what these took.
    pub fn new(most_submit: Duration, known: Option<SubmitPace>, first: usize) -> Plan {
        Plan { most_submit, known, most: first, spent: Spent::default() }
    }

    /// Steps of the next submit.
    pub fn steps(&self) -> usize {
        match self.known {
            Some(pace) => pace.steps(self.most_submit),
            None if self.spent.steps == 0 => self.most,
            None => self.spent.pace(None).steps(self.most_submit).min(self.most),
        }
    }

    /// Notes what a submit took.
    pub fn note(&mut self, spent: Spent) {
        self.most = self.most.max(spent.steps.saturating_mul(GROWTH));
        self.spent = self.spent.and(spent);
    }

    /// The recording's pace by this run.
    pub fn pace(&self) -> SubmitPace {
        self.spent.pace(self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn spent(steps: usize, time: Duration) -> Spent {
        Spent { steps, least: time, most: time }
    }

    #[test]
    fn submits_are_as_long_as_they_may_be() {
        let steps = |steps, time| spent(steps, time).pace(None).steps(SUBMIT);
        assert_eq!(steps(400, 8 * MS), 2500);
        assert_eq!(steps(400, 1000 * MS), 20);
        assert_eq!(steps(400, 100_000 * MS), 1);
        assert_eq!(steps(0, Duration::ZERO), 50_000_000);
        assert_eq!(spent(400, 8 * MS).pace(None).steps(SUBMIT_BESIDE_FRAMES), 400);
    }

    #[test]
    fn a_recording_that_has_not_run_begins_small_and_grows_by_what_it_takes() {
        let mut slow = Plan::new(SUBMIT, None, 1);
        assert_eq!(slow.steps(), 1);
        slow.note(spent(1, 20 * MS));
        assert_eq!(slow.steps(), 2);
        slow.note(spent(2, 1000 * MS));
        assert_eq!(slow.steps(), 1);
        let mut fast = Plan::new(SUBMIT, None, 8);
        fast.note(spent(8, MS / 10));
        assert_eq!(fast.steps(), 64, "no more than {GROWTH} times as many as were timed");
        fast.note(spent(64, MS));
        assert_eq!(fast.steps(), 512);
        assert_eq!(Plan::new(SUBMIT, Some(fast.pace()), 8).steps(), fast.pace().steps(SUBMIT));
        assert!(fast.pace().steps(SUBMIT) > 3000);
    }

    #[test]
    fn a_caller_that_takes_its_time_between_two_steps_does_not_slow_the_pace() {
        let begin = Instant::now();
        let mut clock = Clock::new(begin);
        let at = |ms: u32| begin + ms * MS;
        // A step of 10 ms, and the one after it, begun ahead; the caller holds the first for three seconds.
        let first = clock.time(400, at(0), at(0), at(10));
        assert_eq!(first, spent(400, 10 * MS));
        let ahead = clock.time(400, at(1), at(3010), at(3010));
        assert_eq!((ahead.least, ahead.most), (Duration::ZERO, 3000 * MS));
        assert_eq!(ahead.pace(Some(first.pace(None))), first.pace(None), "which says nothing against it");
        // The next one began at an unknown time, and was waited for.
        let next = clock.time(400, at(2), at(3010), at(3012));
        assert_eq!((next.least, next.most), (2 * MS, 3002 * MS));
        assert_eq!(next.pace(Some(first.pace(None))), first.pace(None));
    }

    #[test]
    fn a_slow_run_is_forgotten_after_a_fast_one() {
        let slow = spent(100, 1000 * MS).pace(None);
        assert_eq!(slow.steps(SUBMIT), 5);
        assert_eq!(spent(100, 10 * MS).pace(Some(slow)).steps(SUBMIT), 500);
        assert_eq!(spent(100, 1000 * MS).pace(Some(spent(100, 10 * MS).pace(None))), slow);
    }
}
