//! What callers hold in place of models and sessions: numbers in the form of pointers, looked up and never followed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use edge_run::LanguageModel;

use crate::session::SessionEntry;
use crate::status::{Failure, Outcome, Status};

/// A model that is open. Any thread may use it, and several at a time.
pub struct ModelHandle(());

/// A conversation on a model. Any thread may use it. A call that finds it in use by another one returns
/// EDGE_RUN_STATUS_BUSY; which calls these are is said there.
pub struct SessionHandle(());

/// What stands behind a [`ModelHandle`].
pub(crate) struct ModelEntry {
    pub model: LanguageModel,
    guard: Guard,
}

impl ModelEntry {
    pub fn new(model: LanguageModel) -> ModelEntry {
        ModelEntry { model, guard: Guard::default() }
    }

    /// Calls the library, as [`Guard::call`] does.
    pub fn guarded<T>(&self, call: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        self.guard.call(call)
    }
}

/// Whether something panicked in the middle of its work, after which nobody knows what it is like.
#[derive(Default)]
struct Guard {
    poisoned: AtomicBool,
}

impl Guard {
    /// Makes a call, unless one before panicked. A panic becomes a failure.
    fn call<T>(&self, call: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Failure::poisoned());
        }
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            self.poisoned.store(true, Ordering::Release);
            Err(Failure::panicked(&*panic))
        })
    }
}

/// The entries of one kind of handle, by number.
pub(crate) struct Registry<T>(LazyLock<Mutex<BTreeMap<usize, Arc<T>>>>);

/// The models that are open.
pub(crate) static MODELS: Registry<ModelEntry> = Registry::new();
/// The sessions that are open.
pub(crate) static SESSIONS: Registry<SessionEntry> = Registry::new();

/// The next handle of any kind: no number is given twice, so that a handle that was freed never means another thing.
static NEXT: AtomicUsize = AtomicUsize::new(1);

impl<T> Registry<T> {
    const fn new() -> Registry<T> {
        Registry(LazyLock::new(Mutex::default))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a handle for an entry.
    pub fn add<H>(&self, entry: T) -> *mut H {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.entries().insert(number, Arc::new(entry));
        std::ptr::without_provenance_mut(number)
    }

    /// The entry of a handle.
    pub fn get<H>(&self, handle: *const H, what: &str) -> Outcome<Arc<T>> {
        if handle.is_null() {
            return Err(Failure::null(what));
        }
        let entry = self.entries().get(&handle.addr()).cloned();
        entry.ok_or_else(|| {
            Failure::new(Status::InvalidHandle, format!("{what} is no open one: it was freed, or never made"))
        })
    }

    /// Forgets a handle; what it stood for, which ends with its last use.
    pub fn remove<H>(&self, handle: *const H) -> Option<Arc<T>> {
        self.entries().remove(&handle.addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::entry;

    #[test]
    fn after_a_panic_every_call_is_refused() {
        let guard = Guard::default();
        let call = |panics: bool| {
            entry(|| {
                guard.call(|| {
                    assert!(!panics, "as the test wants it");
                    Ok(())
                })
            })
        };
        assert_eq!(call(false), Status::Ok);
        assert_eq!(entry(|| guard.call(|| Err(Failure::null("it")))), Status::NullPointer);
        assert_eq!(call(false), Status::Ok, "a failure is no panic");
        assert_eq!([call(true), call(false), call(false)], [Status::Poisoned; 3]);
        // The failure comes to the caller within, so that a listener can be told of it.
        let failure = Guard::default().call(|| -> Outcome { panic!("{} is odd", 7) }).unwrap_err();
        assert_eq!(failure.message, "the library failed within itself: 7 is odd");
    }

    #[test]
    fn a_handle_that_was_freed_is_an_error_and_no_other_one() {
        static NUMBERS: Registry<u32> = Registry::new();
        let first: *mut ModelHandle = NUMBERS.add(7);
        assert_eq!(*NUMBERS.get(first, "number").unwrap(), 7);
        assert_eq!(NUMBERS.remove(first).as_deref(), Some(&7));
        let second: *mut ModelHandle = NUMBERS.add(8);
        assert_ne!(first, second);
        assert_eq!(NUMBERS.get(first, "number").unwrap_err().status, Status::InvalidHandle);
        assert_eq!(NUMBERS.get::<ModelHandle>(std::ptr::null(), "number").unwrap_err().status, Status::NullPointer);
        assert!(NUMBERS.remove(first).is_none() && NUMBERS.remove::<ModelHandle>(std::ptr::null()).is_none());
    }
}
