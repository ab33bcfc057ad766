//! Ctrl-C, TERM and HUP: the first asks the work to stop at its next pause, the second ends the program at once.

use std::ops::ControlFlow;
use std::sync::{LazyLock, Once};

use super::exit::Exit;
use super::output::note;
use edge_run::internals::cancel::CancelToken;

static TOKEN: LazyLock<CancelToken> = LazyLock::new(CancelToken::new);

/// Listens from now on. Before, the operating system ends the program, which has nothing to tidy up: that is right as
/// long as nothing but the command line, the prompt and headers of files are read.
pub fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        // The handler runs on a thread of its own, so that it may do what a signal's handler must not.
        let watching = ctrlc::set_handler(|| {
            if TOKEN.is_cancelled() {
                std::process::exit(i32::from(Exit::Stopped.code()));
            }
            TOKEN.cancel();
            note("stopping");
        });
        // Without a handler, Ctrl-C ends the program as it ends any other.
        if let Err(error) = watching {
            note(format_args!("note: Ctrl-C will not be tidy: {error}"));
        }
    });
}

/// What a signal sets, for engines.
pub fn token() -> CancelToken {
    TOKEN.clone()
}

/// Whether a stop was asked for.
pub fn asked() -> bool {
    TOKEN.is_cancelled()
}

/// What a callback answers: go on, or break off where a stop was asked for.
pub fn flow() -> ControlFlow<()> {
    if asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
