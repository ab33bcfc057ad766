//! An application that embeds the library: built from an empty folder, without the command line.

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use common::{quantize_tiny, tiny_hf_folder};

/// Where this build's artifacts are, so that the application shares the crates that are compiled already.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder of the target folder").to_path_buf()
}

/// The folder of an application: the example's source, and a manifest that names this crate by its path.
fn application(dir: &Path) {
    let (root, example) = (Path::new(env!("CARGO_MANIFEST_DIR")), "examples/two_chats");
    let manifest = fs::read_to_string(root.join(example).join("Cargo.toml")).unwrap();
    assert!(manifest.contains("default-features = false"), "it is built without the command line");
    let by_path = manifest.replace("../..", root.to_str().expect("a path in UTF-8"));
    assert_ne!(by_path, manifest);
    // All of it without optimization, as it is there to build and to run, and not to be fast. The tests of the C
    // interface have dependencies that are compiled so too (scripts/test).
    let profile = "\n[profile.release.package.\"*\"]\nopt-level = 0\ncodegen-units = 1\n";
    fs::create_dir(dir.join("src")).unwrap();
    fs::write(dir.join("Cargo.toml"), by_path + profile).unwrap();
    fs::copy(root.join(example).join("src/main.rs"), dir.join("src/main.rs")).unwrap();
    fs::copy(root.join(example).join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
}

/// The crates that a Cargo.lock lists, each with its version.
fn locked(file: &Path) -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(file).unwrap();
    let value = |line: Option<&str>, key: &str| Some(line?.strip_prefix(key)?.trim_matches('"').to_string());
    let crates = text.split("[[package]]\n").skip(1).map(|entry| {
        let mut lines = entry.lines();
        value(lines.next(), "name = ").zip(value(lines.next(), "version = ")).expect("a name and a version")
    });
    crates.filter(|(name, _)| name != "two-chats").collect()
}

/// A build of the example left a Cargo.lock that git did not know.
#[test]
fn the_example_has_the_versions_of_the_library() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (example, library) = (locked(&root.join("examples/two_chats/Cargo.lock")), locked(&root.join("Cargo.lock")));
    let other: Vec<_> = example.difference(&library).collect();
    assert!(example.len() > 100 && other.is_empty(), "copy Cargo.lock into examples/two_chats and build it: {other:?}");
}

/// What is handed out says whose it is.
#[test]
fn the_licences_of_all_that_is_linked_in_are_written_down() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/licences.py");
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: python3 is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("python3").arg(script).arg("edge-run").arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(dir.path().join("THIRD-PARTY-LICENCES.txt")).unwrap();
    for (name, licence) in [("wgpu", "MIT OR Apache-2.0"), ("tokenizers", "Apache-2.0"), ("clap", "MIT OR Apache-2.0")]
    {
        let listed = text.lines().any(|line| line.starts_with(&format!("{name} ")) && line.ends_with(licence));
        assert!(listed && text.contains(&format!("\n{name} ")), "{name}");
    }
    assert!(text.contains("Permission is hereby granted, free of charge") && text.contains("Apache License"));
    assert!(text.contains("Crates whose packages have no licence text ("));
    // What is no part of the binary: what tests need, and what runs within the compiler.
    for absent in ["proptest", "clap_derive", "syn"] {
        assert!(!text.contains(&format!("\n{absent} ")), "{absent}");
    }
}

#[test]
fn an_application_builds_from_an_empty_folder_and_holds_two_conversations() {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    fs::create_dir(&app).unwrap();
    application(&app);
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(arguments).current_dir(&app).env("CARGO_TARGET_DIR", target_dir());
        let output = command.output().expect("cargo runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let crates = cargo(&["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none"]);
    for absent in ["clap", "indicatif", "ctrlc", "signal-hook", "rustyline", "plotters", "candle-core"] {
        assert!(!crates.lines().any(|line| line.starts_with(&format!("{absent} "))), "{absent} is compiled");
    }
    cargo(&["build", "--offline", "--locked", "--release"]);

    tiny_hf_folder(&dir.path().join("source"), 5, true);
    let model = dir.path().join("model");
    quantize_tiny(&dir.path().join("source"), &model).unwrap();
    let program = target_dir().join(format!("release/two-chats{}", env::consts::EXE_SUFFIX));
    let output = Command::new(program).arg(&model).arg("3").output().expect("the application runs");
    let (text, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{words}");
    let run: Vec<usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once(" tokens run, 3 generated]")?.0.parse().ok())
        .collect();
    assert_eq!(run.len(), 4, "two conversations of two turns: {text}");
    // The second turn runs what is new, not what was said before: all of it would be the first prompt and as much
    // again, some 70 tokens. How many are new depends on the bytes that were drawn.
    assert!(run[2] < run[0] + 30 && run[3] < run[1] + 30, "{text}");
}
