//! `edge-run chat` from outside: lines from a pipe, and a person at a terminal, whom tmux plays.
#![cfg(unix)]

mod common;
#[path = "common/routed.rs"]
mod routed;

use std::io::{BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use edge_run::internals::shape::LlamaShape;
use safetensors::Dtype;
use tempfile::TempDir;

/// Tokens of a context whose answer is longer than any pipe and takes longer than anybody waits.
const CONTEXT: u32 = 1 << 16;
/// What a step may take on the slowest machine that tests run on.
const SOON: Duration = Duration::from_secs(60);

/// A folder with a tiny model that has routers, whose answers have no end.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let (source, model) = (home.path().join("source"), home.path().join("model"));
    let shape = LlamaShape { max_context: CONTEXT, ..common::tiny_shape(true) };
    common::TinyModel::new(shape, 7).write_hf(&source, Dtype::F32, 1);
    std::fs::write(source.join("generation_config.json"), r#"{"bos_token_id": 1, "eos_token_id": []}"#).unwrap();
    common::quantize_tiny(&source, &model).unwrap();
    routed::add_routers(&model, 5);
    home
}

/// The program in a conversation, with nothing of this machine's user.
fn chat(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
    for variable in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
        command.env(variable, home);
    }
    command.current_dir(home).args(["chat", "--device", "cpu", "--power-mode", "high", "--temp", "0", "-m", "model"]);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program's output after these lines.
fn told(home: &Path, words: &[&str], lines: &str) -> (Output, String) {
    let mut child = chat(home, words).spawn().unwrap();
    // A program that ends early reads no more.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, errors)
}

#[test]
fn every_line_of_a_pipe_is_answered_and_the_end_of_the_lines_is_the_end() {
    let home = home();
    let (output, errors) =
        told(home.path(), &["-n", "4", "-v"], "Hi\n\nAnd now \\\nwhat\n\"\"\"\na\n\nb\n\"\"\"\n/bits 3\nBye");
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors.matches("4 generated").count(), 4, "{errors}");
    assert!(errors.contains("plan: 3 bits of each weight") && !errors.contains("error"), "{errors}");
    assert!(!output.stdout.is_empty());
    // The turns follow one another: the second prompt does not have the first one again.
    let prompts: Vec<usize> =
        errors.lines().filter_map(|line| line[1..].split(" prompt tokens").next()?.parse().ok()).collect();
    assert_eq!(prompts.len(), 4, "{errors}");
    assert!(prompts[3] < prompts[0] + prompts[1], "{prompts:?}");
    // A script is told of what cannot be, and a command that there is none of costs nothing.
    let (output, errors) = told(home.path(), &["-n", "4"], "/bots 3\n/bits 9\nHi\n");
    assert!(
        output.status.success() && errors.contains("no command /bots") && errors.contains("from 2 to 8"),
        "{errors}"
    );
    let (output, errors) = told(home.path(), &["-n", "4", "-c", "20"], "This is longer than the context is.\nHi\n");
    assert_eq!(output.status.code(), Some(6), "{errors}");
}

#[test]
fn a_reader_who_goes_away_ends_the_conversation_without_a_word() {
    let home = home();
    let mut child = chat(home.path(), &["-c", "0"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Hi\n").unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    drop(stdout);
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < SOON, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_full_context_forgets_the_oldest_turns_and_goes_on() {
    let home = home();
    let lines = "What about this?\n".repeat(12);
    let (output, errors) = told(home.path(), &["-n", "6", "-c", "160", "--system", "Be terse."], &(lines + "/stats\n"));
    assert!(output.status.success(), "{errors}");
    assert!(errors.matches("oldest messages are forgotten").count() > 1, "{errors}");
    let stats = errors.lines().find(|line| line.starts_with("context: ")).unwrap();
    let messages: usize = stats.split(' ').nth(5).unwrap().parse().unwrap();
    assert!(messages % 2 == 1 && messages < 13, "the system's message and whole turns: {stats}");
}

#[test]
fn weights_that_nobody_asks_for_leave_and_come_back_and_both_is_told() {
    let home = home();
    let mut child = chat(home.path(), &["-n", "4", "--keep-alive", "0.2s"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let begin = Instant::now();
    // Asks until the weights are told to be as they are waited for.
    let mut until = |ask: &str, is_so: fn(&str) -> bool| loop {
        stdin.write_all(ask.as_bytes()).unwrap();
        let told = errors.find(|line| line.as_ref().unwrap().starts_with("weights: ")).unwrap().unwrap();
        assert!(begin.elapsed() < SOON && told.ends_with(" of memory now"), "{told}");
        if is_so(&told) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    until("Hi\n/stats\n", |told| told.contains("in memory; left"));
    until("/stats\n", |told| told.contains("the weights left the memory while nobody asked; left"));
    until("And now?\n/stats\n", |told| told.contains("in memory; left") && !told.contains("came back 0 times"));
    drop(stdin);
    assert!(child.wait().unwrap().success());

    let (output, errors) = told(home.path(), &["--keep-alive", "0"], "Hi\n");
    assert!(output.status.code() == Some(2) && errors.contains("--keep-alive"), "{errors}");
    assert!(errors.contains("expected a time of more than 0"), "{errors}");
    // Without the option nothing leaves, and nothing is told of it.
    let (output, errors) = told(home.path(), &["-n", "4"], "Hi\n/stats\n");
    assert!(output.status.success() && !errors.contains("weights:"), "{errors}");
}

#[test]
fn a_saved_conversation_is_gone_on_with() {
    let home = home();
    for save in ["/save", "/save --keys"] {
        let (output, errors) = told(home.path(), &["-n", "4"], &format!("Hi\n{save} it\nAnd?\n"));
        assert!(output.status.success() && errors.contains("saved 2 messages to `it`"), "{errors}");
        let (output, errors) =
            told(home.path(), &["-n", "4", "--load", "it"], "/stats\nAnd?\n/stats\n/retry\n/stats\n");
        assert!(output.status.success() && errors.contains("loaded 2 messages"), "{errors}");
        assert_eq!(errors.contains("computed again"), save == "/save", "{errors}");
        let stats: Vec<&str> = errors.lines().filter(|line| line.ends_with(" messages")).collect();
        assert!(
            stats[0].ends_with("2 messages") && stats[1..].iter().all(|line| line.ends_with("4 messages")),
            "{errors}"
        );
    }
    std::fs::write(home.path().join("it"), "notes").unwrap();
    let (output, errors) = told(home.path(), &[], "/load it\n");
    assert_eq!(output.status.code(), Some(4), "{errors}");
}

/// As a single prompt tells it.
#[test]
fn a_budget_without_room_for_the_bits_is_told_once_before_the_first_answer() {
    let home = home();
    let answered = |bytes: u64, words: &[&str], lines: &str| {
        let budget = format!("{bytes}b");
        let all = [&["-n", "2", "-v", "-c", "64", "--ubatch-size", "8", "--memory-budget", &budget], words].concat();
        let (output, errors) = told(home.path(), &all, lines);
        (output.status.success(), errors)
    };
    // The smallest budget that holds the base, to within less than what one slice of all parts takes.
    let slice_bytes = std::fs::metadata(home.path().join("model/slice-1.safetensors")).unwrap().len();
    let (mut refused, mut held) = (0, 1 << 30);
    while held - refused > slice_bytes / 4 {
        let middle = refused.midpoint(held);
        if answered(middle, &[], "").0 { held = middle } else { refused = middle }
    }
    let notice = "the memory budget left room for 2.00 of the 8 bits; a smaller context (`-c`)";
    let (ended_well, errors) = answered(held, &[], "Hi\nAnd?\n/retry\n");
    assert!(ended_well && errors.matches("memory budget").count() == 1, "{errors}");
    let (before, after) = errors.split_once(notice).unwrap_or_else(|| panic!("{errors}"));
    assert!(!before.contains(" generated") && after.matches("2 generated").count() == 3, "{errors}");
    // It is told when more bits are asked for than there is room for, and not while slices that fit are on their way.
    let (_, errors) = answered(held, &["--bits", "2"], "Hi\n/bits 8\nAnd?\n");
    assert!(errors.split_once(notice).is_some_and(|(before, _)| before.contains("2 generated")), "{errors}");
    let (ended_well, errors) = answered(1 << 30, &["--progressive"], "Hi\n");
    assert!(ended_well && !errors.contains("memory budget"), "{errors}");
}

/// The error named a file in a hidden folder.
#[test]
fn a_conversation_that_cannot_be_saved_is_told_with_the_file_that_was_typed() {
    let home = home();
    let limited = |block: &str, lines: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -f {block}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_edge-run")]);
        command.args(["chat", "--device", "cpu", "--temp", "0", "-m", "model", "-n", "4"]);
        command.current_dir(home.path()).env("XDG_CONFIG_HOME", home.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (block, file) in [("0", "it"), ("unlimited", "model/edge-run.json/it")] {
        let (code, errors) = limited(block, &format!("Hi\n/save --keys {file}\n"));
        let error = format!("error: cannot write `{file}`: ");
        assert!(code == Some(1) && errors.contains(&error) && !errors.contains("partial"), "{errors}");
    }
}

/// It is more likely mistyped than meant.
#[test]
fn a_conversation_is_not_saved_in_a_folder_that_is_not_there() {
    let home = home();
    for save in ["/save", "/save --keys"] {
        let (output, errors) = told(home.path(), &["-n", "4"], &format!("Hi\n{save} a/b/it\n"));
        let error = "error: cannot write `a/b/it`: the folder `a/b` is not there";
        assert!(output.status.code() == Some(1) && errors.contains(error), "{errors}");
        assert!(!home.path().join("a").exists());
    }
    std::fs::create_dir_all(home.path().join("a/b")).unwrap();
    let (output, errors) = told(home.path(), &["-n", "4"], "Hi\n/save a/b/it\n");
    assert!(output.status.success() && errors.contains("saved 2 messages to `a/b/it`"), "{errors}");
}

/// This ended the conversation.
#[test]
fn nothing_to_ask_again_is_told_and_the_lines_go_on() {
    let home = home();
    let (output, errors) = told(home.path(), &["-n", "4", "-v"], "/retry\nHi\n");
    assert!(output.status.success() && errors.contains("/retry: nothing was asked yet"), "{errors}");
    assert!(errors.contains("4 generated"), "{errors}");
}

/// A person at a terminal.
struct Person {
    socket: String,
}

impl Person {
    /// Starts the program in a terminal, from a shell that Ctrl-C does not end; none where this machine has no tmux, which is told.
    fn sits_down(home: &Path, name: &str) -> Option<Person> {
        if Command::new("tmux").arg("-V").output().is_err() {
            // The test harness hides what `eprintln!` prints.
            let mut stderr = std::io::stderr();
            writeln!(stderr, "skipped: there is no tmux").unwrap();
            return None;
        }
        let person = Person { socket: format!("edge-run-{name}-{}", std::process::id()) };
        let program = env!("CARGO_BIN_EXE_edge-run");
        let script = format!(
            "trap : INT; {program} chat --device cpu --power-mode high --temp 0 -m model -c 0; echo ended with $?; \
             stty -a | grep -o -- '-*icanon'; sleep 1000"
        );
        let variables =
            ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"].map(|v| format!("{v}={}", home.display()));
        let mut words =
            vec!["-f", "/dev/null", "new-session", "-d", "-x", "90", "-y", "24", "-c", home.to_str().unwrap()];
        variables.iter().for_each(|variable| words.extend(["-e", variable]));
        words.extend(["sh", "-c", &script]);
        person.tmux(&words);
        Some(person)
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types keys, as tmux names them.
    fn types(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// All that is and was on the screen.
    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
    }

    /// Waits until the screen is as it should be, and gives it.
    fn sees(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let screen = self.screen();
            if is(&screen) {
                return screen;
            }
            assert!(begin.elapsed() < SOON, "{what} does not come:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the prompt with this on its line, after what is typed or recalled.
    fn sees_line(&self, line: &str) -> String {
        self.sees(line, |screen| {
            screen.trim_end().lines().last().is_some_and(|last| last.trim_end() == line.trim_end())
        })
    }

    /// Waits for these words.
    fn sees_words(&self, words: &str) -> String {
        self.sees(words, |screen| screen.contains(words))
    }

    /// Clears the screen, for what is waited for next.
    fn clears_screen(&self) {
        self.types(&["C-l"]);
        self.sees("a clear screen", |screen| {
            self.tmux(&["clear-history"]);
            screen.trim().lines().count() <= 1
        });
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

#[test]
fn a_person_stops_answers_and_lines_and_recalls_what_was_typed() {
    let home = home();
    let Some(person) = Person::sits_down(home.path(), "talks") else { return };
    person.sees_words("/help lists the commands");
    person.sees_line(">");
    // Ctrl-C ends an answer that has begun, again and again, and the conversation goes on.
    for question in ["one", "two"] {
        person.types(&[question, "Enter"]);
        let asked = format!("> {question}\n");
        person.sees("an answer", |screen| screen.split(&asked).nth(1).is_some_and(|answer| !answer.trim().is_empty()));
        person.tmux(&["resize-window", "-x", "60", "-y", "20"]);
        person.types(&["C-c"]);
        person.sees_words("[stopped]");
        person.sees_line(">");
        person.clears_screen();
    }
    // At the prompt it clears the line.
    person.types(&["not", "Space", "said"]);
    person.sees_line("> not said");
    person.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    person.types(&["C-c"]);
    person.sees_line(">");
    person.types(&["begun\\", "Enter"]);
    person.sees_line("|");
    person.types(&["C-c"]);
    person.sees_line(">");
    person.types(&["Up"]);
    person.sees_line("> two");
    person.types(&["Up"]);
    person.sees_line("> one");
    person.types(&["C-c"]);
    person.sees_line(">");
    person.types(&["/stats", "Enter"]);
    person.sees_words("65536 tokens, 4 messages");
    // Another precision in the middle of the conversation.
    person.types(&["/bits", "Space", "3", "Enter"]);
    person.sees_words("plan: 3 bits of each weight");
    person.types(&["/bots", "Enter"]);
    person.sees_words("no command /bots");
    person.clears_screen();
    person.types(&["three", "Enter"]);
    person.sees("an answer", |screen| screen.split("> three\n").nth(1).is_some_and(|answer| !answer.trim().is_empty()));
    person.types(&["C-c"]);
    person.sees_words("[stopped]");
    person.sees_line(">");
    person.types(&["C-d"]);
    let screen = person.sees_words("ended with 0");
    assert!(!screen.contains("panicked"), "{screen}");
    drop(person);

    // The next conversation has the history, which is this user's alone.
    let history = home.path().join("edge-run/history");
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o077, 0);
    let person = Person::sits_down(home.path(), "returns").unwrap();
    person.sees_words("/help lists the commands");
    person.sees_line(">");
    person.types(&["Up"]);
    person.sees_line("> three");
    // A signal at the prompt ends the program, and leaves a terminal that shows what is typed.
    let pid =
        Command::new("pgrep").args(["-f", &format!("^{} chat", env!("CARGO_BIN_EXE_edge-run"))]).output().unwrap();
    let pids = String::from_utf8(pid.stdout).unwrap();
    let ours = pids.lines().find(|pid| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == home.path().canonicalize().unwrap())
    });
    assert!(ours.is_some() || !cfg!(target_os = "linux"), "{pids}");
    if let Some(pid) = ours {
        assert!(Command::new("kill").args(["-TERM", pid]).status().unwrap().success());
        let screen = person.sees_words("icanon");
        assert!(screen.contains("ended with 130") && !screen.contains("-icanon"), "{screen}");
    }
}

#[test]
fn lines_that_come_at_once_are_each_answered() {
    let home = home();
    let Some(person) = Person::sits_down(home.path(), "sends") else { return };
    person.sees_words("/help lists the commands");
    person.sees_line(">");
    // Without the marks of a paste, as a program sends them. Carriage returns part the lines.
    person.tmux(&["set-buffer", "/bits 3\n/bots\n/bits 5\nnot sent"]);
    person.tmux(&["paste-buffer"]);
    let screen = person.sees_line("> not sent");
    for words in ["plan: 3 bits", "no command /bots", "plan: 5 bits"] {
        assert!(screen.contains(words), "{words}:\n{screen}");
    }
}
