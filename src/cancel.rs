//! A request to stop, which any thread may make and long work looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// A request to stop. Clones share it: one thread sets it, and the work that holds a clone ends soon after with
/// [`Error::Stopped`]. It stays set until [`CancelToken::reset`].
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<StopRequest>);

#[derive(Debug, Default)]
struct StopRequest {
    made: AtomicBool,
    /// The request that stops this token's work too.
    parent: Option<CancelToken>,
}

impl CancelToken {
    /// A request that nobody has made yet.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// A token for a part of this token's work. A request on this token stops that part too; a request on the part's
    /// token stops the part alone.
    pub fn child(&self) -> CancelToken {
        CancelToken(Arc::new(StopRequest { made: AtomicBool::new(false), parent: Some(self.clone()) }))
    }

    /// Asks for a stop.
    pub fn cancel(&self) {
        self.0.made.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for, of this token or of the one it is a child of.
    pub fn is_cancelled(&self) -> bool {
        self.0.made.load(Ordering::Relaxed) || self.0.parent.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    /// Takes this token's own request back, so that work may begin again. Work that has seen the request still ends.
    pub fn reset(&self) {
        self.0.made.store(false, Ordering::Relaxed);
    }

    /// Fails where a stop was asked for; `what` is the work that is not done.
    pub fn check(&self, what: &'static str) -> Result<()> {
        if self.is_cancelled() { Err(Error::Stopped(what)) } else { Ok(()) }
    }
}

/// Looks at a request for one piece of work, on any number of threads, and remembers whether any of them saw it: a
/// request that is taken back in the middle must not pass a piece of work with holes for a whole one.
#[derive(Debug, Default)]
pub struct Watch {
    token: CancelToken,
    seen: AtomicBool,
}

impl Watch {
    /// Looks at `token`.
    pub fn new(token: &CancelToken) -> Watch {
        Watch { token: token.clone(), seen: AtomicBool::new(false) }
    }

    /// Whether the work is to be left undone. A thread that is told so may leave its results unwritten.
    pub fn stops(&self) -> bool {
        let stops = self.token.is_cancelled();
        if stops {
            self.seen.store(true, Ordering::Relaxed);
        }
        stops
    }

    /// Whether any thread was told to stop, so that the work has holes.
    pub fn was_seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_every_clone_on_every_thread_and_can_be_taken_back() {
        fn shared<T: Send + Sync + Clone>(_: &T) {}
        let token = CancelToken::new();
        shared(&token);
        let other = token.clone();
        assert!(!token.is_cancelled() && token.check("work").is_ok());
        std::thread::spawn(move || other.cancel()).join().unwrap();
        assert!(token.is_cancelled());
        assert_eq!(token.check("work").unwrap_err().to_string(), "stopped before work was done");
        token.reset();
        assert!(!token.is_cancelled() && token.check("work").is_ok());
    }

    #[test]
    fn a_request_stops_the_parts_and_not_the_whole() {
        let whole = CancelToken::new();
        let (part, other) = (whole.child(), whole.child());
        part.cancel();
        assert_eq!([&whole, &part, &other].map(CancelToken::is_cancelled), [false, true, false]);
        part.reset();
        whole.cancel();
        assert_eq!([&whole, &part, &other].map(CancelToken::is_cancelled), [true; 3]);
        part.reset();
        assert!(part.is_cancelled(), "a part cannot take back what was asked of the whole");
    }

    #[test]
    fn a_request_taken_back_in_the_middle_is_remembered_by_who_saw_it() {
        let token = CancelToken::new();
        let (seeing, blind) = (Watch::new(&token), Watch::new(&token));
        token.cancel();
        assert!(seeing.stops() && seeing.was_seen());
        token.reset();
        assert!(!seeing.stops() && seeing.was_seen());
        assert!(!blind.stops() && !blind.was_seen());
    }
}
