//! Signals that ask the program to stop, from outside, while it works for long.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edge_run::internals::shape::LlamaShape;
use safetensors::Dtype;

const CONTEXT: u32 = 1 << 16;
/// What a stop may take on the slowest machine that tests run on; the work that is stopped takes many minutes.
const SOON: Duration = Duration::from_secs(60);

/// The words of a run that reads a prompt for many minutes.
const LONG_PROMPT: [&str; 12] =
    ["--device", "cpu", "--power-mode", "high", "-c", "0", "-v", "--raw", "-f", "long.txt", "-m", "model"];

/// A folder with a model whose context holds a prompt for many minutes, and such a prompt.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let shape = LlamaShape { max_context: CONTEXT, layers: 8, ..common::tiny_shape(true) };
    common::TinyModel::new(shape, 7).write_hf(&home.path().join("source"), Dtype::F32, 1);
    common::quantize_tiny(&home.path().join("source"), &home.path().join("model")).unwrap();
    std::fs::write(home.path().join("long.txt"), "x".repeat(CONTEXT as usize - 100)).unwrap();
    home
}

fn start(home: &Path, words: &[&str]) -> Child {
    start_by(Command::new(env!("CARGO_BIN_EXE_edge-run")), home, words)
}

fn start_by(mut command: Command, home: &Path, words: &[&str]) -> Child {
    command.current_dir(home).env("XDG_CONFIG_HOME", home).env("XDG_CACHE_HOME", home).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn hangup_is_ignored() -> bool {
    Command::new("/bin/sh").args(["-c", "trap 'exit 1' HUP; kill -HUP $$"]).status().unwrap().success()
}

/// The exit code, where the program ends soon.
fn ends_soon(child: &mut Child) -> std::process::ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begin.elapsed() > SOON {
            child.kill().unwrap();
            panic!("it went on for {SOON:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the last of what is told before the prompt, and until the prompt is being read.
fn wait_for_the_prompt(errors: &mut impl BufRead) {
    let mut line = String::new();
    while !line.starts_with("seed:") {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0, "it goes on");
    }
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn every_signal_that_asks_for_it_ends_a_long_prompt() {
    let home = home();
    for signal in ["-INT", "-TERM", "-HUP"] {
        // Under `nohup`, tests and the program ignore it.
        if signal == "-HUP" && hangup_is_ignored() {
            continue;
        }
        let mut child = start(home.path(), &LONG_PROMPT);
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        wait_for_the_prompt(&mut errors);
        send(&child, signal);
        assert_eq!(ends_soon(&mut child).code(), Some(130), "{signal}");
        let mut rest = String::new();
        errors.read_to_string(&mut rest).unwrap();
        // On a slow machine its slices may still be loading.
        let ends = ["the prompt", "loading"].map(|what| format!("stopping\nerror: stopped before {what} was done\n"));
        assert!(ends.contains(&rest), "{signal}: {rest}");
    }
}

#[test]
fn a_hangup_that_was_ignored_at_the_start_stays_ignored() {
    let home = home();
    let mut shell = Command::new("/bin/sh");
    // As `nohup` does. A shell that puts a command in the background has it ignore INT too, which the program does not.
    shell.args(["-c", r#"trap "" HUP INT; exec "$0" "$@""#, env!("CARGO_BIN_EXE_edge-run")]);
    let mut child = start_by(shell, home.path(), &LONG_PROMPT);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    wait_for_the_prompt(&mut errors);
    for _ in 0..2 {
        send(&child, "-HUP");
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none(), "it ended");
    }
    send(&child, "-INT");
    assert_eq!(ends_soon(&mut child).code(), Some(130));
}

#[test]
fn a_signal_ends_eval_within_its_window() {
    let home = home();
    let window = (CONTEXT - 200).to_string();
    let mut child =
        start(home.path(), &["eval", "--device", "cpu", "--text", "long.txt", "--window", &window, "-m", "model"]);
    // Before or after its handler is there, and loading or measuring: it ends.
    std::thread::sleep(Duration::from_secs(1));
    send(&child, "-TERM");
    let status = ends_soon(&mut child);
    use std::os::unix::process::ExitStatusExt;
    assert!(status.code() == Some(130) || status.signal() == Some(15), "{status:?}");
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "", "no figure of a window that was not done");
}

#[test]
fn a_signal_while_the_prompt_is_awaited_ends_the_program_at_once() {
    let home = home();
    // Standard input stays open and silent.
    let mut child = start(home.path(), &["--device", "cpu", "--power-mode", "high", "-m", "model"]);
    std::thread::sleep(Duration::from_millis(300));
    send(&child, "-TERM");
    assert!(!ends_soon(&mut child).success());
}
