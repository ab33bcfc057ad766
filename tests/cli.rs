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
        .env_remove("HF_HOME")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
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
    for command in
        ["chat", "quantize", "inspect", "verify", "devices", "eval", "bench", "power", "paths", "pull", "list", "rm"]
    {
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
        (&["-n", "4294967296", "Hi"], "4294967296"),
        (&["--top-k", "some", "Hi"], "'some' for '--top-k <K>'"),
        (&["-c", "4294967296", "Hi"], "the number is too large"),
        (&["--temp", "warm", "Hi"], "'warm' for '--temp <T>'"),
        (&["--raw", "--system", "Be brief.", "Hi"], "cannot be used with"),
        (&["--raw", "--chat-template", "x", "Hi"], "cannot be used with"),
        (&["quantize", "x"], "--output <DIR>"),
        (&["eval"], "<--text <FILE>|--kl <REFERENCE>|--task <FILE.jsonl>>"),
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
    // The bytes, and what is wrong with them: after a mark, offsets still are those of the file.
    for (bytes, words) in [
        (&b"ab\xff"[..], "a byte that is not UTF-8 at byte 2"),
        (b"\xef\xbb\xbfab\xff", "a byte that is not UTF-8 at byte 5"),
        (b"\xff\xfea\0b", "half a unit of UTF-16 at byte 4"),
        (b"\xfe\xff\xd8\0\0a", "half a surrogate pair of UTF-16 at byte 2"),
        (b"h\0i\0", "at byte 1"),
        (b"\xff\xfe\0\0h\0\0\0", "the byte order mark of UTF-32"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let named = ["--file `", "prompt.txt`: expected text in UTF-8", words];
        assert_failure(edge_run(home.path()).arg("-f").arg(&file).assert(), 2, &named);
        let named = ["standard input: expected text in UTF-8", words];
        assert_failure(edge_run(home.path()).write_stdin(bytes).assert(), 2, &named);
        assert_failure(edge_run(home.path()).arg("-").write_stdin(bytes).assert(), 2, &named);
    }
    assert_failure(edge_run(home.path()).arg("-f").arg(home.path()).assert(), 1, &["cannot read `", "directory"]);
}

#[test]
fn a_prompt_of_a_mark_alone_is_none() {
    let home = tempfile::tempdir().unwrap();
    for bytes in [&b""[..], b"\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff\0\r\0\n"] {
        let none = ["the prompt: expected some text, got none"];
        for args in [&[][..], &["-"], &["-f", "-"], &["-p", "-"]] {
            assert_failure(edge_run(home.path()).args(args).write_stdin(bytes).assert(), 2, &none);
        }
    }
}

#[test]
fn a_name_with_control_characters_makes_no_line_of_its_own() {
    let name = "no\x1b]0;x\x07\nerror: \u{9b}2J\u{202e}where";
    let shown = "no\\x1b]0;x\\x07\\nerror: \\u{9b}2J\\u{202e}where";
    for (args, code) in [
        (&["-m", name, "Hi"][..], 3),
        (&["inspect", name], 3),
        (&["verify", name], 3),
        (&["quantize", name, "-o", "x"], 1),
        (&["-f", name], 1),
        (&["eval", "--text", name], 1),
        (&["power", "--power-sim", name], 1),
    ] {
        assert_failure(run(args), code, &[shown]);
    }
    // Sequences that begin with ESC clap leaves out by itself.
    run(&["--no\x1b[2J\u{9b}2J\u{202e}"])
        .code(2)
        .stdout("")
        .stderr(predicate::str::contains("'--no\\u{9b}2J\\u{202e}'"));
}

#[cfg(unix)]
#[test]
fn without_a_home_folder_only_the_default_model_is_missing() {
    let home = tempfile::tempdir().unwrap();
    // A home by a relative path is another one in every folder, which is as none.
    let homeless = |args: &[&str]| {
        let mut command = edge_run(home.path());
        for kind in ["DATA", "CONFIG", "CACHE", "STATE"] {
            command.env_remove(format!("XDG_{kind}_HOME"));
        }
        command.env("HOME", "some/where").current_dir(home.path()).args(args).assert()
    };
    assert_failure(homeless(&["Hi"]), 3, &["SmolLM2-135M-Instruct", "no home folder", "HOME", "-m DIR"]);
    assert_failure(homeless(&["-m", "nowhere", "Hi"]), 3, &["no model at `nowhere`"]);
    assert_failure(homeless(&["paths", "models"]), 1, &["the home folder", "HOME", "XDG_DATA_HOME"]);
    homeless(&["power"]).success();
    homeless(&["devices"]).success();
    let all = String::from_utf8(homeless(&["paths"]).success().get_output().stdout.clone()).unwrap();
    assert!(all.lines().count() == 7 && all.lines().all(|line| line.ends_with("none, without a home folder")), "{all}");
    assert!(!home.path().join("some").exists());

    // What a variable names is known without a home.
    let mut command = edge_run(home.path());
    command.env("HOME", "some/where").env("XDG_DATA_HOME", "other").args(["paths", "pipelines"]);
    command.assert().success().stdout(format!("{}/edge-run/pipelines\n", home.path().display()));
}

#[test]
fn one_device_is_the_default() {
    let home = tempfile::tempdir().unwrap();
    let output = edge_run(home.path()).args(["devices", "--json"]).assert().success().get_output().stdout.clone();
    let output = String::from_utf8(output).unwrap();
    let devices: Vec<serde_json::Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let default: Vec<_> = devices.iter().filter(|device| device["default"] == true).collect();
    assert_eq!(default.len(), 1, "{devices:?}");
    // The processor where there is no GPU but in software.
    let is_gpu =
        |device: &&serde_json::Value| !["software_renderer", "processor"].iter().any(|kind| device["kind"] == *kind);
    assert_eq!(default[0]["kind"] == "processor", devices.iter().filter(is_gpu).count() == 0, "{devices:?}");
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

/// They began like an option, and were taken for one that is not there.
#[test]
fn a_negative_number_is_refused_by_the_flag_that_it_follows() {
    for (flag, value) in
        [("--bits", "-3"), ("--min-bits", "-4"), ("--memory-budget", "-5MiB"), ("--memory-budget", "40")]
    {
        let output = run(&[flag, value, "Hi"]).code(2).get_output().stderr.clone();
        let words = String::from_utf8(output).unwrap();
        assert!(words.contains(&format!("invalid value '{value}' for '{flag} ")), "{words}");
    }
}

#[test]
fn a_prompt_without_quotes_and_a_misspelt_command_get_advice() {
    for args in [&["Why", "is", "the", "sky", "blue"][..], &["verfy", "SmolLM2-135M-Instruct"]] {
        let output = run(args).code(2).get_output().stderr.clone();
        let words = String::from_utf8(output).unwrap();
        assert!(words.ends_with("A prompt of several words is put in quotes. `edge-run --help` has all commands.\n"));
    }
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
    // A file of noise is none.
    let noise = home.path().join("noise");
    std::fs::write(&noise, [0x9c, 0x11, 0xe7, 0x02, 0x55, 0x00, 0xfe]).unwrap();
    let words = ["noise`: this is neither a model folder nor a source that `edge-run quantize` reads", "a GGUF file"];
    assert_failure(edge_run(home.path()).arg("-m").arg(&noise).arg("Hi").assert(), 3, &words);
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
    assert_failure(assert, 5, &["notes.txt`: content `neither GGUF nor safetensors` is not supported", "GGUF"]);
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

/// The default model stayed as older code had made it, as long as the pack was the same.
#[cfg(target_os = "linux")]
#[test]
fn the_default_model_is_made_again_by_other_code_and_kept_by_the_same() {
    use std::os::unix::fs::PermissionsExt;

    // A program that does nothing but what the script looks at, and a source of the right length.
    const LENGTH: u64 = 98_362_432;
    const OF_ZEROS: &str = "47d877b6abe18d06cbadfb3c7852b24665ba2eb044d3d3ef5a562224429ca4c5";
    const OF_THE_SOURCE: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    let home = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = |name: &str, text: String| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let pack = root.join("assets/SmolLM2-135M-Instruct.pack.safetensors");
    let edge_run = program(
        "edge-run-stub",
        format!(
            "#!/bin/sh\n[ $1 = quantize ] || exit 0\necho made >>{0}/made\nmkdir -p $4\n\
             echo \"\\\"pack_sha256\\\": \\\"$(sha256sum <{1} | cut -d' ' -f1)\\\"\" >$4/edge-run.json\n",
            home.path().display(),
            pack.display()
        ),
    );
    program("sha256sum", format!("#!/bin/sh\nPATH=/usr/bin:/bin sha256sum | sed s/{OF_ZEROS}/{OF_THE_SOURCE}/\n"));
    let cache = home.path().join("edge-run");
    std::fs::create_dir(&cache).unwrap();
    let source = std::fs::File::create(cache.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    source.set_len(LENGTH).unwrap();
    let fetch = || {
        let path = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
        let fetched = std::process::Command::new(root.join("scripts/fetch-default-model"))
            .arg(home.path().join("model"))
            .envs([("PATH", path.as_str()), ("XDG_CACHE_HOME", home.path().to_str().unwrap())])
            .env("EDGE_RUN_BIN", &edge_run)
            .output()
            .unwrap();
        let words = String::from_utf8(fetched.stderr).unwrap();
        assert!(fetched.status.success(), "{words}");
        assert_eq!(String::from_utf8(fetched.stdout).unwrap().trim_end(), home.path().join("model").to_str().unwrap());
        (std::fs::read_to_string(home.path().join("made")).unwrap().lines().count(), words)
    };
    assert_eq!(fetch().0, 1);
    let (made, words) = fetch();
    assert!(made == 1 && words.contains("already there, and sound"), "{words}");
    let note = cache.join("default-model.made");
    let noted = std::fs::read_to_string(&note).unwrap();
    std::fs::write(&note, noted.trim_end().to_string() + "0\n").unwrap();
    let (made, words) = fetch();
    assert!(made == 2 && words.contains("made by other code than this tree's"), "{words}");
    assert_eq!(fetch().0, 2);
}
