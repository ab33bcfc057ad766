//! Signals that ask for a stop. HUP that is ignored when the program starts, as under `nohup`, stays ignored.

use std::io;
#[cfg(unix)]
use std::sync::Arc;

/// Who asks for a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// TERM or HUP.
    #[cfg_attr(windows, expect(dead_code, reason = "all events of the console count as Ctrl-C"))]
    Terminate,
}

/// Calls `heard` from now on, on a thread of its own, so that it may do what a signal's handler must not. From then on,
/// writing past the system's limit of a file's size fails, and does not end the program.
#[cfg(unix)]
pub fn listen(mut heard: impl FnMut(StopSignal) + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

    // A handler that does nothing: the write fails then.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let hangup = (!hangup_is_ignored()).then_some(SIGHUP);
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))?;
    let hear = move || {
        for signal in signals.forever() {
            heard(if signal == SIGINT { StopSignal::Interrupt } else { StopSignal::Terminate });
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(hear).map(drop)
}

/// Calls `heard` from now on, on a thread of its own. All events of the console count as Ctrl-C.
#[cfg(windows)]
pub fn listen(mut heard: impl FnMut(StopSignal) + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(move || heard(StopSignal::Interrupt)).map_err(io::Error::other)
}

/// Whether HUP is ignored, as long as nothing listens; no where that cannot be told.
#[cfg(target_os = "linux")]
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal_hook::consts::SIGHUP - 1) & 1 == 1
}

#[cfg(all(unix, not(target_os = "linux")))]
fn hangup_is_ignored() -> bool {
    is_ignored_by_shell("")
}

/// The same where there is no `/proc`. A child ignores the same signals, and POSIX has no shell catch one that it began
/// with ignored. The shell that tells it is started by one that does `first`.
#[cfg(all(unix, any(test, not(target_os = "linux"))))]
fn is_ignored_by_shell(first: &str) -> bool {
    const TELL: &str = "trap 'exit 1' HUP; kill -HUP $$; exit 0";
    let begin = format!("{first}\nexec /bin/sh -c \"$0\"");
    let null = std::process::Stdio::null;
    let shell = std::process::Command::new("/bin/sh").args(["-c", &begin, TELL]).stdin(null()).stderr(null()).status();
    shell.is_ok_and(|status| status.success())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_shell_tells_what_the_system_tells() {
        // Tests may themselves run where it is ignored; that is told right either way.
        assert_eq!(is_ignored_by_shell(""), hangup_is_ignored());
        assert!(is_ignored_by_shell("trap '' HUP"));
    }
}
