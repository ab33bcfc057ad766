//! Readings taken every few seconds on a thread of their own, so that who generates never waits for the system.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{PowerSource, Reading};
use crate::error::{Error, Result};

/// A source that is read again and again, until this is dropped.
pub struct Watcher {
    latest: Arc<Mutex<Reading>>,
    /// Dropped first, which ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins after `first`, a reading of the same source, and reads it again `every` so often. A reading that fails
    /// leaves the one before in its place.
    pub fn start(mut source: Box<dyn PowerSource>, first: Reading, every: Duration) -> Result<Watcher> {
        let latest = Arc::new(Mutex::new(first));
        let (stop, stopped) = channel::<()>();
        let shared = Arc::clone(&latest);
        let poll = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if let Ok(reading) = source.read() {
                    *shared.lock().unwrap_or_else(PoisonError::into_inner) = reading;
                }
            }
        };
        let thread = std::thread::Builder::new().name("power".into()).spawn(poll);
        let thread = thread.map_err(Error::io("start", "the thread that reads the power state"))?;
        Ok(Watcher { latest, stop: Some(stop), thread: Some(thread) })
    }

    /// The reading taken last.
    pub fn latest(&self) -> Reading {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A source that panicked has said so already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;
    use crate::power::PowerState;

    /// Hands out readings that come through a channel, and fails once that is closed.
    struct Scripted(Receiver<f32>, SyncSender<()>);

    impl PowerSource for Scripted {
        fn read(&mut self) -> Result<Reading> {
            // The reading before is in its place now.
            let _ = self.1.send(());
            let memory_pressure = self.0.recv().map_err(|_| Error::argument("script", "a reading", "none"))?;
            Ok(reading(memory_pressure))
        }
    }

    fn reading(memory_pressure: f32) -> Reading {
        Reading { state: PowerState { memory_pressure, ..PowerState::AC }, signals: vec![], follows: false }
    }

    #[test]
    fn the_latest_reading_is_handed_out_and_the_thread_ends_with_its_watcher() {
        let (script, readings) = channel();
        let (told, begun) = sync_channel(0);
        let source = Box::new(Scripted(readings, told));
        let watcher = Watcher::start(source, reading(0.0), Duration::from_millis(1)).unwrap();
        for pressure in [1.0, 2.0] {
            begun.recv().unwrap();
            script.send(pressure).unwrap();
        }
        begun.recv().unwrap();
        assert_eq!(watcher.latest(), reading(2.0));
        drop(script);
        // A failed reading leaves the last one.
        begun.recv().unwrap();
        assert_eq!(watcher.latest(), reading(2.0));
        drop(begun);
        drop(watcher);
    }
}
