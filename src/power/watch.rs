//! Readings taken every few seconds on a thread of their own, so that who generates never waits for the system.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{PowerSource, PowerState, Reading, Supply};
use crate::error::{Error, Result};

/// Readings that may fail one after the other before the last good one no longer counts.
const PATIENCE: u32 = 3;

/// How long the end of a watcher waits for the reading under way.
const GOODBYE: Duration = Duration::from_millis(500);

/// A source that is read again and again, until this is dropped.
pub struct Watcher {
    every: Duration,
    latest: Arc<Mutex<Latest>>,
    /// Dropped first, which ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The last reading, and what became of those after it.
struct Latest {
    reading: Reading,
    /// When the source answered last, with a reading or a failure.
    answered: Instant,
    /// Readings that failed since.
    failed: u32,
    /// Why the first of them did, until it is asked for.
    fault: Option<String>,
    /// Whether the source did not answer, and that was told.
    silent: bool,
}

impl Watcher {
    /// Begins after `first`, a reading of the same source, and reads it again `every` so often.
    ///
    /// A reading that fails leaves the one before in its place. Where three fail one after the other, or the source
    /// does not answer for as long as ten readings take, and ten seconds at least, the state is unknown: a device that
    /// has a battery or a saver counts as on battery with an unknown charge, and any other as on AC. A later reading
    /// that succeeds counts again.
    pub fn start(mut source: Box<dyn PowerSource>, first: Reading, every: Duration) -> Result<Watcher> {
        let first = Latest { reading: first, answered: Instant::now(), failed: 0, fault: None, silent: false };
        let latest = Arc::new(Mutex::new(first));
        let (stop, stopped) = channel::<()>();
        let shared = Arc::clone(&latest);
        let poll = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let read = catch_unwind(AssertUnwindSafe(|| source.read()));
                let panicked = read.is_err();
                let read = read
                    .map_or_else(|_| Err("its source panicked".to_string()), |read| read.map_err(|e| e.to_string()));
                lock(&shared).take(read);
                if panicked {
                    lock(&shared).failed = PATIENCE;
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("power".into()).spawn(poll);
        let thread = thread.map_err(Error::io("start", "the thread that reads the power state"))?;
        Ok(Watcher { every, latest, stop: Some(stop), thread: Some(thread) })
    }

    /// The reading taken last, or one of an unknown state where that is too old to count.
    pub fn latest(&self) -> Reading {
        let latest = lock(&self.latest);
        if latest.failed >= PATIENCE || self.is_silent(&latest) {
            unknown(&latest.reading)
        } else {
            latest.reading.clone()
        }
    }

    /// Why the state cannot be read, in words: once for readings that fail one after the other, and once for a source
    /// that does not answer.
    pub fn take_fault(&self) -> Option<String> {
        let mut latest = lock(&self.latest);
        if self.is_silent(&latest) && !std::mem::replace(&mut latest.silent, true) {
            return Some(format!("no answer for {:.0} s", latest.answered.elapsed().as_secs_f32()));
        }
        latest.fault.take()
    }

    /// Whether the source does not answer, though its thread goes on.
    fn is_silent(&self, latest: &Latest) -> bool {
        latest.failed < PATIENCE
            && latest.answered.elapsed() > self.every.saturating_mul(10).max(Duration::from_secs(10))
    }
}

impl Latest {
    fn take(&mut self, read: std::result::Result<Reading, String>) {
        (self.answered, self.silent) = (Instant::now(), false);
        match read {
            Ok(reading) => (self.reading, self.failed, self.fault) = (reading, 0, None),
            Err(fault) => {
                if self.failed == 0 {
                    self.fault = Some(fault);
                }
                self.failed += 1;
            }
        }
    }
}

fn lock(latest: &Mutex<Latest>) -> MutexGuard<'_, Latest> {
    latest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of a device when its state is not, after the reading `last`.
fn unknown(last: &Reading) -> Reading {
    let supply = if last.follows { Supply::Battery { percent: None } } else { Supply::Ac };
    Reading { state: PowerState { supply, ..PowerState::AC }, signals: Vec::new(), follows: last.follows }
}

impl Watcher {
    /// Ends it as a drop does, but on a thread of its own, so that nobody waits for the reading under way.
    pub fn dismiss(self) {
        // Where there is no thread to be had, the watcher is dropped with what was to run there.
        let _ = std::thread::Builder::new().name("power end".into()).spawn(move || drop(self));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop = None;
        let begin = Instant::now();
        // A source that does not answer must not hold up the end of the program.
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && begin.elapsed() < GOODBYE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Hands out readings that come through a channel: a pressure, a failure for none, and a panic for NaN.
    struct Scripted(Receiver<Option<f32>>, SyncSender<()>);

    impl PowerSource for Scripted {
        fn read(&mut self) -> Result<Reading> {
            // The reading before is in its place now.
            let _ = self.1.send(());
            let pressure = self.0.recv().ok().flatten();
            assert!(pressure.is_none_or(|pressure| !pressure.is_nan()), "the script says so");
            pressure.map(reading).ok_or_else(|| Error::argument("script", "a reading", "none"))
        }
    }

    fn reading(memory_pressure: f32) -> Reading {
        Reading { state: PowerState { memory_pressure, ..PowerState::AC }, signals: vec![], follows: true }
    }

    /// A watcher after a first reading of no pressure; what goes into its script, and what says that it waits for more.
    fn watcher() -> (Watcher, Sender<Option<f32>>, Receiver<()>) {
        let (script, readings) = channel();
        let (told, waits) = sync_channel(0);
        let source = Box::new(Scripted(readings, told));
        (Watcher::start(source, reading(0.0), Duration::from_millis(1)).unwrap(), script, waits)
    }

    #[test]
    fn the_latest_reading_is_handed_out_and_the_thread_ends_with_its_watcher() {
        let (watcher, script, waits) = watcher();
        for pressure in [1.0, 2.0] {
            waits.recv().unwrap();
            script.send(Some(pressure)).unwrap();
        }
        waits.recv().unwrap();
        assert_eq!((watcher.latest(), watcher.take_fault()), (reading(2.0), None));
        drop(waits);
        drop(script);
        drop(watcher);
    }

    #[test]
    fn a_watcher_that_is_dismissed_ends_with_the_reading_under_way() {
        let (watcher, script, waits) = watcher();
        waits.recv().unwrap();
        // The source answers only now, to nobody, and is then dropped with its end of the channel.
        watcher.dismiss();
        script.send(Some(1.0)).unwrap();
        while script.send(Some(2.0)).is_ok() {
            let _ = waits.try_recv();
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reading_that_fails_is_told_once_and_an_old_one_does_not_count_for_ever() {
        let (watcher, script, waits) = watcher();
        waits.recv().unwrap();
        for (read, expected, told) in [
            (Some(2.0), reading(2.0), false),
            // Once may be chance.
            (None, reading(2.0), true),
            (None, reading(2.0), false),
            (None, unknown(&reading(2.0)), false),
            (None, unknown(&reading(2.0)), false),
            (Some(3.0), reading(3.0), false),
            (None, reading(3.0), true),
        ] {
            script.send(read).unwrap();
            waits.recv().unwrap();
            assert_eq!(watcher.latest(), expected, "{read:?}");
            let fault = watcher.take_fault();
            assert_eq!(fault.is_some_and(|fault| fault.contains("expected a reading")), told, "{read:?}");
        }
        assert_eq!(unknown(&reading(2.0)).state.supply, Supply::Battery { percent: None });
        let desktop = Reading { follows: false, ..reading(2.0) };
        assert_eq!(unknown(&desktop).state, PowerState::AC);
    }

    #[test]
    fn a_source_that_panics_is_told_and_its_last_reading_no_longer_counts() {
        let (watcher, script, waits) = watcher();
        waits.recv().unwrap();
        script.send(Some(f32::NAN)).unwrap();
        while watcher.latest() == reading(0.0) {
            std::thread::yield_now();
        }
        assert_eq!(
            (watcher.latest(), watcher.take_fault()),
            (unknown(&reading(0.0)), Some("its source panicked".into()))
        );
        assert_eq!(watcher.take_fault(), None);
    }

    #[test]
    fn a_source_that_does_not_answer_is_told_once() {
        let (watcher, script, waits) = watcher();
        waits.recv().unwrap();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60));
        // Where the clock began less than a minute ago there is no such time.
        let Some(long_ago) = long_ago else { return };
        lock(&watcher.latest).answered = long_ago;
        assert_eq!(watcher.latest(), unknown(&reading(0.0)));
        assert_eq!(watcher.take_fault().as_deref(), Some("no answer for 60 s"));
        assert_eq!(watcher.take_fault(), None);
        // Its watcher ends all the same.
        let (hung, _script, begun) = self::watcher();
        begun.recv().unwrap();
        drop(hung);
        script.send(Some(4.0)).unwrap();
        waits.recv().unwrap();
        assert_eq!((watcher.latest(), watcher.take_fault()), (reading(4.0), None));
    }
}
