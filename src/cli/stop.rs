//! Ctrl-C, TERM and HUP: the first asks the work to stop at its next pause, the second ends the program at once. In a
//! conversation that somebody types, Ctrl-C stops an answer and not the program.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Once};

use super::exit::Exit;
use super::output::note;
use super::signals::{self, StopSignal};
use edge_run::internals::cancel::CancelToken;

static TOKEN: LazyLock<CancelToken> = LazyLock::new(CancelToken::new);
/// Whether somebody types a conversation.
static TYPED: AtomicBool = AtomicBool::new(false);
/// Whether the next line of a conversation is awaited, so that there is nothing to stop.
static WAITING: AtomicBool = AtomicBool::new(false);
/// Whether the program is to end, after the answer that goes on.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// Listens from now on. Before, the operating system ends the program, which has nothing to tidy up: that is right as
/// long as nothing but the command line, the prompt and headers of files are read.
pub fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let heard = |signal| match (TYPED.load(Ordering::SeqCst), signal) {
            (true, StopSignal::Interrupt) => stop_answer(),
            (true, StopSignal::Terminate) => leave(),
            (false, _) => stop_work(),
        };
        // Without a handler, a signal ends the program as it ends any other.
        if let Err(error) = signals::listen(heard) {
            note(format_args!("note: Ctrl-C will not be tidy: {error}"));
        }
    });
}

/// Stops all work, and at the second time, or where nothing is to be stopped, ends the program.
fn stop_work() {
    if TOKEN.is_cancelled() || WAITING.load(Ordering::SeqCst) {
        exit();
    }
    TOKEN.cancel();
    note("stopping");
}

/// Stops the answer of a conversation. At the prompt the line editor takes Ctrl-C.
fn stop_answer() {
    if !WAITING.load(Ordering::SeqCst) {
        TOKEN.cancel();
    }
}

/// Ends a conversation: at the prompt at once, in an answer after it, and at the second time at once.
fn leave() {
    let twice = LEAVING.swap(true, Ordering::SeqCst);
    TOKEN.cancel();
    if twice || WAITING.load(Ordering::SeqCst) {
        restore_terminal();
        exit();
    }
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

/// From now on somebody types a conversation: Ctrl-C ends an answer, and TERM and HUP the program, which leaves the
/// terminal as it is now.
pub fn watch_typed() {
    #[cfg(unix)]
    if let Ok(terminal) = rustix::termios::tcgetattr(std::io::stdin()) {
        // Set once: a program holds one conversation.
        let _ = TERMINAL.set(terminal);
    }
    TYPED.store(true, Ordering::SeqCst);
}

/// The terminal as it was when the conversation began, where there is one.
#[cfg(unix)]
static TERMINAL: std::sync::OnceLock<rustix::termios::Termios> = std::sync::OnceLock::new();

fn restore_terminal() {
    #[cfg(unix)]
    if let Some(terminal) = TERMINAL.get() {
        // Where there is no terminal any more, none is left in a wrong state.
        let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, terminal);
    }
}

/// Whether the program is to end.
pub fn leaving() -> bool {
    LEAVING.load(Ordering::SeqCst)
}

/// Takes back what was asked of the answer that is over.
pub fn reset() {
    TOKEN.reset();
}

/// The next line of a conversation is awaited until this is dropped.
pub struct Waiting(());

/// From now on the next line is awaited; where the program is to end, it does.
pub fn waiting() -> Waiting {
    WAITING.store(true, Ordering::SeqCst);
    if leaving() {
        exit();
    }
    Waiting(())
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.store(false, Ordering::SeqCst);
    }
}

fn exit() -> ! {
    std::process::exit(i32::from(Exit::Stopped.code()))
}
