//! Signals that ask for a stop. One that is ignored when the program starts, as HUP is under `nohup`, stays ignored.

use std::io;

/// Who asks for a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// TERM or HUP.
    #[cfg_attr(windows, expect(dead_code, reason = "all events of the console count as Ctrl-C"))]
    Terminate,
}

/// Calls `heard` from now on, on a thread of its own, so that it may do what a signal's handler must not.
#[cfg(unix)]
pub fn listen(mut heard: impl FnMut(StopSignal) + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::SIGINT;

    let ignored = ignored();
    let mut signals = signal_hook::iterator::Signals::new(STOPPING.iter().filter(|signal| !ignored.contains(signal)))?;
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

#[cfg(unix)]
const STOPPING: [i32; 3] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];

/// Those of [`STOPPING`] that are ignored, as long as nothing listens; none where that cannot be told.
#[cfg(target_os = "linux")]
fn ignored() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    STOPPING.into_iter().filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}

/// Those of [`STOPPING`] that are ignored, as long as nothing listens; none where that cannot be told. A shell tells it
/// where there is no `/proc`: a child ignores the same signals, and POSIX has no shell catch one that it began with
/// ignored.
#[cfg(all(unix, any(test, not(target_os = "linux"))))]
fn ignored_by_shell() -> Vec<i32> {
    ignored_where("exec /bin/sh -c \"$0\"")
}

/// The same of a shell that `begin` makes of the one that runs it.
#[cfg(all(unix, any(test, not(target_os = "linux"))))]
fn ignored_where(begin: &str) -> Vec<i32> {
    const CATCH: &str = "n=0; trap 'n=$((n|1))' INT; trap 'n=$((n|2))' TERM; trap 'n=$((n|4))' HUP; \
        kill -INT $$; kill -TERM $$; kill -HUP $$; exit $n";
    let null = std::process::Stdio::null;
    let shell = std::process::Command::new("/bin/sh").args(["-c", begin, CATCH]).stdin(null()).stderr(null()).status();
    match shell.ok().and_then(|status| status.code()) {
        Some(caught @ 0..8) => (0..).zip(STOPPING).filter(|(bit, _)| caught >> bit & 1 == 0).map(|(_, s)| s).collect(),
        _ => Vec::new(),
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn ignored() -> Vec<i32> {
    ignored_by_shell()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_shell_tells_what_the_system_tells() {
        // Tests may themselves run where a signal is ignored; what is caught is told right either way.
        assert_eq!(ignored_by_shell(), ignored());
        let and_hup = ignored_where("trap '' HUP; exec /bin/sh -c \"$0\"");
        assert!(and_hup.contains(&signal_hook::consts::SIGHUP), "{and_hup:?}");
        assert!(!and_hup.contains(&signal_hook::consts::SIGTERM), "{and_hup:?}");
    }
}
