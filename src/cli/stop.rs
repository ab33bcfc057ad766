//! Ctrl-C: asks the work to stop at its next pause, and a second time ends the program at once.

use std::ops::ControlFlow;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit::Exit;
use super::output::note;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on, to Ctrl-C and to termination. Before, the operating system ends the program, which has nothing
/// to tidy up.
pub fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let watching = ctrlc::set_handler(|| {
            if ASKED.swap(true, Ordering::Relaxed) {
                std::process::exit(i32::from(Exit::Stopped.code()));
            }
        });
        // Without a handler, Ctrl-C ends the program as it ends any other.
        if let Err(error) = watching {
            note(format_args!("note: Ctrl-C will not be tidy: {error}"));
        }
    });
}

/// Whether a stop was asked for.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// What a callback answers: go on, or break off where a stop was asked for.
pub fn flow() -> ControlFlow<()> {
    if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
