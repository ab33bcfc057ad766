//! The C interface of edge-run: models and conversations for applications that are not written in Rust.
//!
//! Every function of the interface does four things: it checks what it was given, it calls the library, it turns a
//! failure into a [`Status`] and a text, and it lets no panic out. What a caller holds are numbers in the form of
//! pointers, which are looked up and never followed; so a handle that was freed is an error and no fault.
//!
//! Structs grow at their end. Each begins with its size as the caller knows it, and what the caller does not know is
//! zero, which stands for the usual.

mod chat;
mod handles;
mod input;
mod open;
mod power;
mod session;
mod stats;
mod status;

use std::ffi::{c_char, c_int};

pub use chat::*;
pub use handles::{ModelHandle, SessionHandle};
pub use open::*;
pub use power::*;
pub use session::*;
pub use stats::*;
pub use status::{Status, edge_run_last_error, edge_run_status_name};

/// The version of the binary interface. It rises when a program that was compiled against an older header could not
/// run with this library. Functions, constants, and fields at the end of structs come without a new version.
pub const EDGE_RUN_ABI_VERSION: c_int = 1;

/// The version of the binary interface that this library has, to be compared with EDGE_RUN_ABI_VERSION of the header.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_abi_version() -> c_int {
    EDGE_RUN_ABI_VERSION
}

/// The version of edge-run, such as "0.1.0": NUL-terminated, there for ever.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_version() -> *const c_char {
    const VERSION: &std::ffi::CStr =
        match std::ffi::CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL"),
        };
    VERSION.as_ptr()
}
