//! What a function of the interface returns, the text of the last failure, and the wall that no panic passes.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use edge_run::Error;

/// What became of a call. Numbers keep their meaning; more may come.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Ok = 0,
    /// The operating system refused a file or folder.
    Io = 1,
    /// There is no model in the folder.
    ModelMissing = 2,
    /// A file is not what its header or the manifest says.
    Damaged = 3,
    /// The model's chat template does not take the conversation.
    Template = 4,
    /// A sound file asks for something that this version does not do.
    Unsupported = 5,
    /// A value lies outside what can be done; the text names it.
    InvalidArgument = 6,
    /// The conversation does not fit in the context.
    PromptTooLong = 7,
    /// There is no such device.
    NoSuchDevice = 8,
    /// The device has no room for the context.
    NoRoom = 9,
    /// The device or its driver refused or failed.
    Device = 10,
    /// The model gives no numbers.
    NoNumbers = 11,
    /// A download failed.
    Download = 12,
    /// A stop was asked for before the work was done.
    Stopped = 13,
    /// A pointer is NULL that must not be.
    NullPointer = 100,
    /// A struct's size is none that this library knows, or fields that it does not know are not zero.
    WrongSize = 101,
    /// A text is not UTF-8.
    NotUtf8 = 102,
    /// The handle is none of this kind, or was freed.
    InvalidHandle = 103,
    /// The session is in use by another call. A session runs one chat at a time.
    Busy = 104,
    /// The library failed within itself. The model and its sessions answer with this from now on; free them.
    Poisoned = 105,
    /// Some other failure; the text tells which.
    Other = 106,
}

/// Every status.
///
/// cbindgen:ignore
const STATUSES: [Status; 21] = [
    Status::Ok,
    Status::Io,
    Status::ModelMissing,
    Status::Damaged,
    Status::Template,
    Status::Unsupported,
    Status::InvalidArgument,
    Status::PromptTooLong,
    Status::NoSuchDevice,
    Status::NoRoom,
    Status::Device,
    Status::NoNumbers,
    Status::Download,
    Status::Stopped,
    Status::NullPointer,
    Status::WrongSize,
    Status::NotUtf8,
    Status::InvalidHandle,
    Status::Busy,
    Status::Poisoned,
    Status::Other,
];

impl Status {
    fn name(self) -> &'static CStr {
        match self {
            Status::Ok => c"ok",
            Status::Io => c"io",
            Status::ModelMissing => c"model missing",
            Status::Damaged => c"damaged",
            Status::Template => c"template",
            Status::Unsupported => c"unsupported",
            Status::InvalidArgument => c"invalid argument",
            Status::PromptTooLong => c"prompt too long",
            Status::NoSuchDevice => c"no such device",
            Status::NoRoom => c"no room",
            Status::Device => c"device",
            Status::NoNumbers => c"no numbers",
            Status::Download => c"download",
            Status::Stopped => c"stopped",
            Status::NullPointer => c"null pointer",
            Status::WrongSize => c"wrong size",
            Status::NotUtf8 => c"not UTF-8",
            Status::InvalidHandle => c"invalid handle",
            Status::Busy => c"busy",
            Status::Poisoned => c"poisoned",
            Status::Other => c"other",
        }
    }
}

/// Why a call was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: Status,
    pub message: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(status: Status, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    pub fn null(what: &str) -> Failure {
        Failure::new(Status::NullPointer, format!("{what} is NULL"))
    }

    pub fn poisoned() -> Failure {
        let message = "the library failed within itself in an earlier call; free the model and its sessions";
        Failure::new(Status::Poisoned, message)
    }

    pub fn panicked(panic: &(dyn Any + Send)) -> Failure {
        Failure::new(Status::Poisoned, format!("the library failed within itself: {}", words(panic)))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match &error {
            Error::Io { .. } => Status::Io,
            Error::ModelMissing { .. } => Status::ModelMissing,
            Error::Damaged { .. } => Status::Damaged,
            Error::Template { .. } => Status::Template,
            Error::Unsupported { .. } => Status::Unsupported,
            Error::InvalidArgument { .. } | Error::Grammar { .. } => Status::InvalidArgument,
            Error::PromptTooLong { .. } => Status::PromptTooLong,
            Error::NoSuchDevice { .. } => Status::NoSuchDevice,
            Error::NoRoomForContext { .. } => Status::NoRoom,
            Error::Device { .. } => Status::Device,
            Error::NoNumbers { .. } => Status::NoNumbers,
            Error::Download { .. } => Status::Download,
            Error::Stopped(_) => Status::Stopped,
            _ => Status::Other,
        };
        Failure::new(status, error.to_string())
    }
}

thread_local! {
    /// The text of this thread's last failure.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// The body of a function of the interface: its failure becomes a status and a text, and so does a panic.
pub(crate) fn entry(body: impl FnOnce() -> Outcome) -> Status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::panicked(&*panic),
    };
    remember(&failure.message);
    failure.status
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

fn remember(message: &str) {
    // A NUL would end the text.
    let bytes: Vec<u8> = message.bytes().map(|byte| if byte == 0 { b' ' } else { byte }).collect();
    let text = CString::new(bytes).unwrap_or_default();
    // Of a thread that is ending nobody asks for a text.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

/// Why the last call on this thread failed that did: UTF-8, NUL-terminated, empty where none did. It is there until the
/// next call on this thread that fails, or the end of the thread. A call that succeeds leaves it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A status in a word or two, such as "busy"; "unknown" for a number that is none. NUL-terminated, there for ever.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_status_name(status: c_int) -> *const c_char {
    let known = STATUSES.into_iter().find(|known| *known as c_int == status);
    known.map_or(c"unknown", Status::name).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_error() -> String {
        // SAFETY: the text is NUL-terminated and there until this thread fails again.
        unsafe { CStr::from_ptr(edge_run_last_error()) }.to_str().unwrap().to_string()
    }

    #[test]
    fn a_panic_becomes_a_status_and_a_text() {
        assert_eq!(last_error(), "");
        assert_eq!(entry(|| panic!("{} is odd", 7)), Status::Poisoned);
        assert_eq!(last_error(), "the library failed within itself: 7 is odd");
        assert_eq!(entry(|| Err(Failure::new(Status::Busy, "a\0b"))), Status::Busy);
        assert_eq!(last_error(), "a b");
        assert_eq!(entry(|| Ok(())), Status::Ok);
        assert_eq!(last_error(), "a b", "what succeeds leaves it");
        std::thread::spawn(|| assert_eq!(last_error(), "", "another thread has its own")).join().unwrap();
    }

    #[test]
    fn every_status_has_a_name_of_its_own() {
        let name = |status| {
            // SAFETY: the name is there for ever and NUL-terminated.
            unsafe { CStr::from_ptr(edge_run_status_name(status)) }.to_str().unwrap().to_string()
        };
        let names: std::collections::BTreeSet<String> = STATUSES.iter().map(|status| name(*status as c_int)).collect();
        assert!(names.len() == STATUSES.len() && !names.contains("unknown"));
        assert_eq!([name(-1), name(99), name(c_int::MAX)], ["unknown"; 3].map(String::from));
    }
}
