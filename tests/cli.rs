//! The command line from outside: its help, and every failure that needs neither a model nor a device, each with its
//! sentence and its exit code.

use std::path::Path;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use predicates::prelude::*;

/// The program, in a home of its own, so that no model of this machine's user is found.
fn edge_run(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
    command
        .env_remove("COLUMNS")
        .env("HOME", home)
        .env("XDG_DATA_HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env("XDG_CACHE_HOME", home)
        .env("APPDATA", home)
        .env("USERPROFILE", home);
    command
}

/// Runs the program with nothing on standard input.
fn run(args: &[&str]) -> Assert {
    let home = tempfile::tempdir().unwrap();
    edge_run(home.path()).args(args).assert()
}

/// The run must fail with `code` and one line that starts with `error: ` and holds all of `words`, and print nothing.
fn assert_failure(assert: Assert, code: i32, words: &[&str]) {
    let output = assert.code(code).stdout("").get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.starts_with("error: ") && !errors.contains("panicked"), "{errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    for word in words {
        assert!(errors.contains(word), "`{word}` is not in: {errors}");
    }
}

fn help(args: &[&str]) -> String {
    String::from_utf8(run(args).success().stderr("").get_output().stdout.clone()).unwrap()
}

#[test]
fn help_of_the_main_command() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn help_of_each_command() {
    for command in ["quantize", "inspect", "verify", "devices", "eval", "bench", "power", "paths"] {
        insta::assert_snapshot!(format!("help_{command}"), help(&[command, "--help"]));
    }
}

#[test]
fn the_version_is_printed() {
    run(&["--version"]).success().stdout(format!("edge-run {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn words_that_mean_nothing_are_usage_errors() {
    for (args, words) in [
        (&["--bits", "9", "Hi"][..], "expected numbers from 2 to 8"),
        (&["--bits", "few", "Hi"], "'few' for '--bits <BITS>'"),
        (&["--power-mode", "turbo", "Hi"], "[possible values: auto, low, balanced, high]"),
        (&["--nonsense", "Hi"], "--nonsense"),
        (&["-n", "many", "Hi"], "'many' for '--n-predict <N>'"),
        (&["-n", "-2", "Hi"], "-2"),
        (&["--temp", "warm", "Hi"], "'warm' for '--temp <T>'"),
        (&["--raw", "--system", "Be brief.", "Hi"], "cannot be used with"),
        (&["--raw", "--chat-template", "x", "Hi"], "cannot be used with"),
        (&["quantize", "x"], "--output <DIR>"),
        (&["eval"], "<--text <FILE>|--task <FILE.jsonl>>"),
        (&["eval", "--text", "x", "--task", "y"], "cannot be used with"),
        (&["eval", "--text", "x", "--window", "1"], "--window"),
        (&["eval", "--text", "x", "--bits", "2,9"], "numbers from 2 to 8"),
        (&["eval", "--text", "x", "--bits", "-4,8"], "'--bits <BITS>'"),
        (&["Hi", "there"], "'there'"),
    ] {
        run(args)
            .code(2)
            .stdout("")
            .stderr(predicate::str::starts_with("error: ").and(predicate::str::contains(words)));
    }
}

#[test]
fn a_prompt_from_two_places_is_a_usage_error() {
    assert_failure(run(&["Hi", "-p", "there"]), 2, &["the prompt", "one source", "the prompt itself and --prompt"]);
    assert_failure(run(&["-p", "Hi", "-f", "there"]), 2, &["--prompt and --file"]);
}

#[test]
fn no_prompt_is_a_usage_error() {
    for args in [&[][..], &[""], &["-p", ""]] {
        assert_failure(run(args), 2, &["the prompt: expected some text"]);
    }
}

#[test]
fn a_command_after_options_is_told_from_a_prompt() {
    assert_failure(run(&["-v", "devices"]), 2, &["`devices`", "-p devices"]);
}

#[test]
fn a_prompt_that_is_not_text_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("prompt.txt");
    assert_failure(edge_run(home.path()).arg("-f").arg(&file).assert(), 1, &["cannot read `", "prompt.txt`"]);
    std::fs::write(&file, [0xff]).unwrap();
    assert_failure(edge_run(home.path()).arg("-f").arg(&file).assert(), 2, &["--file `", "UTF-8"]);
    assert_failure(edge_run(home.path()).write_stdin(vec![0xff]).assert(), 2, &["standard input", "UTF-8"]);
}

#[test]
fn the_default_model_is_missing() {
    let words = ["there is no model at `", "SmolLM2-135M-Instruct", "scripts/fetch-default-model", "-m DIR"];
    assert_failure(run(&["Hi"]), 3, &words);
    let home = tempfile::tempdir().unwrap();
    // From here on the prompt comes from standard input, its line break left out.
    assert_failure(edge_run(home.path()).write_stdin("Hi\n").assert(), 3, &words);
    let text = home.path().join("text");
    std::fs::write(&text, "Some text.").unwrap();
    assert_failure(edge_run(home.path()).args(["eval", "--text"]).arg(&text).assert(), 3, &words);
}

#[test]
fn a_model_that_is_named_is_missing() {
    let words = ["there is no model at `nowhere`", "edge-run quantize"];
    for args in [&["-m", "nowhere", "Hi"][..], &["inspect", "nowhere"], &["verify", "nowhere"]] {
        assert_failure(run(args), 3, &words);
    }
}

#[test]
fn a_source_is_not_a_model() {
    let home = tempfile::tempdir().unwrap();
    let gguf = home.path().join("model.gguf");
    std::fs::write(&gguf, "GGUF").unwrap();
    let words = ["this is a source", "edge-run quantize", "model.gguf"];
    assert_failure(edge_run(home.path()).arg("-m").arg(&gguf).arg("Hi").assert(), 3, &words);
}

#[test]
fn a_damaged_manifest_is_named() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("edge-run.json"), "{").unwrap();
    for command in ["inspect", "verify"] {
        assert_failure(edge_run(home.path()).arg(command).arg(home.path()).assert(), 4, &["edge-run.json` is damaged"]);
    }
}

#[test]
fn a_folder_of_another_version_is_not_supported() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("edge-run.json"), r#"{"format_version": 99}"#).unwrap();
    let words = ["`99` is not supported", "supported: 1"];
    assert_failure(edge_run(home.path()).arg("inspect").arg(home.path()).assert(), 5, &words);
}

#[test]
fn a_text_to_measure_is_missing() {
    assert_failure(run(&["eval", "--text", "nowhere.txt"]), 1, &["cannot read `nowhere.txt`"]);
}

#[test]
fn a_source_to_quantize_is_missing_or_none() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    assert_failure(run(&["quantize", "nowhere", "-o", out.to_str().unwrap()]), 1, &["cannot read `nowhere`"]);
    let text = home.path().join("notes.txt");
    std::fs::write(&text, "Not a model.").unwrap();
    let assert = edge_run(home.path()).arg("quantize").arg(&text).arg("-o").arg(&out).assert();
    assert_failure(assert, 5, &["notes.txt` is not supported", "GGUF"]);
    assert!(!out.exists());
}

#[test]
fn paths_are_printed_for_scripts() {
    let home = tempfile::tempdir().unwrap();
    let output = edge_run(home.path()).args(["paths", "default-model"]).assert().success().get_output().stdout.clone();
    let path = String::from_utf8(output).unwrap();
    let ending = Path::new("edge-run").join("models").join("SmolLM2-135M-Instruct");
    assert!(path.ends_with('\n') && Path::new(path.trim_end()).ends_with(ending), "{path}");
    assert!(Path::new(path.trim_end()).starts_with(home.path()), "{path}");
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    use std::process::{Command, Stdio};

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
    let child = command.arg("paths").stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
