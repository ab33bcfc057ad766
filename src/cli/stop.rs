//! Ctrl-C, TERM and HUP: the first asks the work to stop at its next pause, the second ends the program at once. In a
//! conversation that somebody types, Ctrl-C stops an answer and not the program.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Once};

use super::exit::Exit;
use super::output::note;
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
        // The handler runs on a thread of its own, so that it may do what a signal's handler must not.
        let watching = ctrlc::set_handler(|| match TYPED.load(Ordering::SeqCst) {
            // At the prompt the line editor takes Ctrl-C.
            true if WAITING.load(Ordering::SeqCst) => (),
            true => TOKEN.cancel(),
            false if TOKEN.is_cancelled() || WAITING.load(Ordering::SeqCst) => exit(),
            false => {
                TOKEN.cancel();
                note("stopping");
            }
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

/// From now on somebody types a conversation: Ctrl-C ends an answer, and TERM and HUP the program.
pub fn watch_typed() {
    TYPED.store(true, Ordering::SeqCst);
    #[cfg(unix)]
    if let Err(error) = leave_by_signal() {
        note(format_args!("note: TERM and HUP will not be heeded: {error}"));
    }
}

/// Ends the program at TERM or HUP: at the prompt at once, in an answer after it. The terminal is left as it is now.
#[cfg(unix)]
fn leave_by_signal() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGTERM};

    let terminal = rustix::termios::tcgetattr(std::io::stdin()).ok();
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            let twice = LEAVING.swap(true, Ordering::SeqCst);
            TOKEN.cancel();
            if twice || WAITING.load(Ordering::SeqCst) {
                if let Some(terminal) = &terminal {
                    let now = rustix::termios::OptionalActions::Now;
                    // Where there is no terminal any more, none is left in a wrong state.
                    let _ = rustix::termios::tcsetattr(std::io::stdin(), now, terminal);
                }
                exit();
            }
        }
    })?;
    Ok(())
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
