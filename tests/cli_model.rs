//! The command line from outside, on a tiny random model and the CPU engine: what goes where, and how it ends.

mod common;
#[path = "common/pack.rs"]
mod pack;
#[path = "common/routed.rs"]
mod routed;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

/// A quantized tiny model in a folder that goes away with it.
struct Tiny {
    home: TempDir,
    model: PathBuf,
}

impl Tiny {
    fn new() -> Tiny {
        Tiny::of(&common::TinyModel::new(common::tiny_shape(true), 7), None)
    }

    /// A model whose answer is longer than any pipe, and has no end of turn: it cannot end before someone reads it.
    #[cfg(unix)]
    fn endless() -> Tiny {
        let shape = edge_run::internals::shape::LlamaShape { max_context: 8192, ..common::tiny_shape(true) };
        Tiny::of(&common::TinyModel::new(shape, 7), Some(r#"{"bos_token_id": 1, "eos_token_id": []}"#))
    }

    fn of(model: &common::TinyModel, generation: Option<&str>) -> Tiny {
        let home = tempfile::tempdir().unwrap();
        let (source, folder) = (home.path().join("source"), home.path().join("model"));
        model.write_hf(&source, Dtype::F32, 1);
        if let Some(generation) = generation {
            std::fs::write(source.join("generation_config.json"), generation).unwrap();
        }
        common::quantize_tiny(&source, &folder).unwrap();
        Tiny { home, model: folder }
    }

    /// The program on this model and the CPU engine.
    fn run(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
        // Neither the configuration of this machine's user nor its battery counts.
        command.env("XDG_CONFIG_HOME", self.home.path()).env("APPDATA", self.home.path());
        command.env("XDG_CACHE_HOME", self.home.path());
        command.args(["--device", "cpu", "--power-mode", "high", "-m"]).arg(&self.model);
        command
    }

    /// The program with a command that takes its options after its name.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
        command.args(words).current_dir(self.home.path());
        command
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.home.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_has_the_text_of_the_text_output_and_a_summary() {
    let tiny = Tiny::new();
    let args = ["-n", "12", "-s", "3", "--temp", "1.5", "--bits", "4", "hello"];
    let text = stdout(tiny.run().args(args));
    let all = lines(&stdout(tiny.run().arg("--json").args(args)));
    let (summary, tokens) = all.split_last().unwrap();
    assert!(tokens.iter().all(|token| token["type"] == "token" && token["bits"] == 4.0));
    let joined: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(text.trim_end_matches('\n'), joined.trim_end_matches('\n'));
    assert_eq!((&summary["type"], &summary["bits"], &summary["seed"]), (&"summary".into(), &4.0.into(), &3.into()));
    assert_eq!(summary["generated_tokens"], tokens.len());
    assert_eq!(summary["device"]["backend"], "CPU");
}

#[test]
fn an_answer_has_the_form_that_is_asked_for_and_says_so() {
    let tiny = Tiny::new();
    let schema = tiny.write(
        "schema.json",
        r#"{"type": "object", "properties": {"the": {"enum": ["in", "thin"]}},
        "required": ["the"], "additionalProperties": false}"#,
    );
    let args = ["-s", "3", "--temp", "1.5", "--bits", "4", "--json", "--logprobs", "2"];
    let all = lines(&stdout(tiny.run().args(args).arg("--json-schema").arg(&schema).arg("hello")));
    let (summary, tokens) = all.split_last().unwrap();
    let said: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert!([r#"{"the": "in"}"#, r#"{"the": "thin"}"#].contains(&said.as_str()), "{said}");
    assert_eq!(summary["stop"], "complete");
    // What is forced is not chosen, and so has no probability.
    for token in tokens {
        let is_forced = token["bits"] == 0.0;
        assert_eq!((token["logprob"].is_null(), token["top_logprobs"].is_null()), (is_forced, is_forced), "{token}");
    }
    assert!(tokens.iter().any(|token| token["top_logprobs"].as_array().is_some_and(|top| top.len() == 2)));
    let forced = tokens.iter().filter(|token| token["bits"] == 0.0).count();
    assert!(forced > 0 && summary["forced_tokens"] == forced, "{summary}");

    let grammar = tiny.write("cut.lark", "start: /[a-f]{40}/\n");
    let cut = tiny.run().args(["-n", "5", "-s", "3", "--bits", "4", "--grammar"]).arg(&grammar).arg("hello").assert();
    let errors = String::from_utf8(cut.success().get_output().stderr.clone()).unwrap();
    assert!(errors.ends_with("length reached]\n"), "{errors}");
    let broken = tiny.write("broken.lark", "start: nothing\n");
    let refused = tiny.run().arg("--grammar").arg(&broken).arg("hello").assert().code(2);
    let errors = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(errors.starts_with("error: --grammar `") && errors.contains("nothing"), "{errors}");
}

#[test]
fn any_number_of_bits_needs_routers_and_what_was_read_is_told() {
    let tiny = Tiny::new();
    let args = ["-n", "6", "--temp", "0", "--bits", "4.5", "hello"];
    let output = tiny.run().args(args).assert().code(2).stdout("");
    let errors = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert_eq!(errors, "error: --bits: expected 2, 4, 6 or 8 for a model without routers, got 4.5\n");

    routed::add_routers(&tiny.model, 5);
    let all = lines(&stdout(tiny.run().arg("--json").args(args)));
    let (summary, tokens) = all.split_last().unwrap();
    let bits: Vec<f64> = tokens.iter().map(|token| token["bits"].as_f64().unwrap()).collect();
    assert!(bits.iter().all(|bits| (2.0..=8.0).contains(bits)) && bits.iter().any(|b| *b != bits[0]), "{bits:?}");
    let sites: Vec<&String> = summary["bits_by_site"].as_object().unwrap().keys().collect();
    assert_eq!((summary["plan"].as_str(), sites.len()), (Some("--bits 4.5"), 4));
    assert!((2.0..8.0).contains(&summary["bits"].as_f64().unwrap()), "{summary}");
    let words = tiny.run().arg("-v").args(args).assert().success();
    let words = String::from_utf8(words.get_output().stderr.clone()).unwrap();
    let of = |field: &str| summary[field].as_f64().unwrap();
    let told = format!("{:.2} bits of each weight and 8.00 for the prompt", of("answer_bits"));
    assert!(words.contains(&told) && words.contains("gate_up "), "{words}");
    assert!(words.contains("4.5 bits of each weight, up to 8 for the prompt, at most "), "{words}");
    assert!(of("prompt_bits") == 8.0 && of("answer_bits") < of("bits"), "{summary}");

    // A flag, or the configuration where there is none, has the routers read the prompt too.
    let config = tiny.write("edge-run.toml", "[power]\nprompt_bits = \"plan\"\n");
    let prompt_bits = |words: &[&str]| {
        let all = lines(&stdout(tiny.run().arg("--json").arg("--config").arg(&config).args(words).args(args)));
        all.last().unwrap()["prompt_bits"].as_f64().unwrap()
    };
    assert_eq!(prompt_bits(&["--prompt-bits", "deepest"]), 8.0);
    assert!(prompt_bits(&[]) < 8.0);
    assert_eq!(prompt_bits(&["--prompt-bits", "plan"]), prompt_bits(&[]));
}

#[test]
fn prompts_from_all_sources_are_one_prompt() {
    let tiny = Tiny::new();
    let file = tiny.write("prompt.txt", "hello there\n");
    let args = ["-n", "8", "--temp", "0"];
    let expected = stdout(tiny.run().args(args).arg("hello there"));
    assert_eq!(stdout(tiny.run().args(args).args(["-p", "hello there"])), expected);
    assert_eq!(stdout(tiny.run().args(args).arg("-f").arg(file)), expected);
    assert_eq!(stdout(tiny.run().args(args).write_stdin("hello there\n")), expected);
    for dash in [&["-"][..], &["-p", "-"], &["-f", "-"]] {
        assert_eq!(stdout(tiny.run().args(args).args(dash).write_stdin("hello there\n")), expected, "{dash:?}");
    }
}

/// A text in each encoding that files come in: UTF-8 and UTF-16 in both orders, with marks.
fn encodings(text: &str) -> [(&'static str, Vec<u8>); 4] {
    let utf16 = |bytes: fn(u16) -> [u8; 2]| [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(bytes).collect();
    [
        ("utf8", text.as_bytes().to_vec()),
        ("utf8-mark", format!("\u{feff}{text}").into_bytes()),
        ("utf16-little", utf16(u16::to_le_bytes)),
        ("utf16-big", utf16(u16::to_be_bytes)),
    ]
}

#[test]
fn an_encoding_makes_no_other_prompt() {
    let tiny = Tiny::new();
    let summary = |command: &mut Command| {
        let all = lines(&stdout(command.args(["-n", "8", "--temp", "0", "--json"])));
        let ids: Vec<Value> = all.iter().map(|line| line["id"].clone()).collect();
        (ids, all.last().unwrap()["prompt_tokens"].clone())
    };
    let expected = summary(tiny.run().arg("grüße 👩"));
    for (name, bytes) in encodings("grüße 👩\r\n") {
        let file = tiny.home.path().join(name);
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(summary(tiny.run().arg("-f").arg(&file)), expected, "{name}");
        assert_eq!(summary(tiny.run().write_stdin(bytes)), expected, "{name}");
    }
}

#[test]
fn an_encoding_makes_no_other_text_to_measure() {
    let tiny = Tiny::new();
    let figures = |args: &[&str], input: &[u8]| {
        let mut report = lines(&stdout(eval(&tiny, args).arg("--json").write_stdin(input))).remove(0);
        report.as_object_mut().unwrap().remove("seconds");
        report
    };
    let task = r#"{"context": "the thin", "continuation": " grüße"}"#.to_string() + "\r\n";
    let text = "the thin thing in the grüße ".repeat(20);
    for (flag, content) in [("--text", &text), ("--task", &task)] {
        let window = if flag == "--text" { &["--window", "32"][..] } else { &[] };
        let mut expected = None;
        for (name, bytes) in encodings(content) {
            std::fs::write(tiny.home.path().join(name), &bytes).unwrap();
            let of_file = figures(&[&[flag, name], window].concat(), b"");
            let expected = expected.get_or_insert(of_file.clone());
            assert_eq!(&of_file, expected, "{flag} {name}");
            assert_eq!(&figures(&[&[flag, "-"], window].concat(), &bytes), expected, "{flag} {name}");
        }
    }
}

#[test]
fn numbers_mean_what_they_mean_to_llama_cpp() {
    let tiny = Tiny::new();
    let answer = |args: &[&str]| {
        let all = lines(&stdout(tiny.run().args(["-s", "3", "--json", "-p", "the"]).args(args)));
        let ids: Vec<Value> = all.iter().map(|line| line["id"].clone()).collect();
        (ids, all.last().unwrap()["context"].clone())
    };
    let hot = |k| answer(&["--temp", "3", "--min-p", "0", "--top-p", "1", "-n", "12", "--top-k", k]);
    assert_eq!(hot("-1"), hot("0"));
    assert_ne!(hot("-1"), hot("2"));
    assert_eq!(answer(&["--temp", "-1", "-n", "8"]), answer(&["--temp", "0", "-n", "8"]));
    assert_ne!(answer(&["--temp", "-1", "-n", "8"]), answer(&["--temp", "3", "-n", "8"]));
    assert_eq!(answer(&["-c", "-1", "-n", "1"]).1, 256);
    assert_eq!(answer(&["-c", "64", "-n", "-2"]), answer(&["-c", "64", "-n", "-1"]));
}

#[test]
fn neither_a_home_nor_a_cache_that_can_be_written_is_needed() {
    let tiny = Tiny::new();
    let file = tiny.write("file", "not a folder");
    let args = ["--device", "cpu", "--power-mode", "high", "-m", "model", "-n", "4", "--temp", "0", "hello"];
    let expected = stdout(tiny.command(&args).env("HOME", tiny.home.path()));
    for home in ["some/where", file.to_str().unwrap(), "/nonexistent"] {
        let mut command = tiny.command(&args);
        for name in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA", "USERPROFILE"] {
            command.env_remove(name);
        }
        let output = command.env("HOME", home).assert().success().get_output().clone();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{home}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.starts_with('[') && errors.lines().count() == 1, "{home}: {errors}");
    }
    assert!(!tiny.home.path().join("some").exists());
}

#[test]
fn the_default_device_runs_and_is_told_from_a_gpu() {
    let tiny = Tiny::new();
    let devices = lines(&stdout(&mut tiny.command(&["devices", "--json"])));
    let default = devices.iter().find(|device| device["default"] == true).unwrap();
    let mut command = tiny.command(&["-m", "model", "-n", "1", "--json", "hello"]);
    let output = command.env("XDG_CACHE_HOME", tiny.home.path()).assert().success().get_output().clone();
    let all = lines(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(all.last().unwrap()["device"]["name"], default["name"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    let told = errors.lines().find(|line| line.starts_with("note: there is no"));
    assert_eq!(told.is_some(), default["backend"] == "CPU", "{errors}");
    let software = devices.iter().any(|device| device["kind"] == "software_renderer");
    assert!(told.is_none_or(|told| told.contains("--device gpu") == software), "{errors}");
}

#[test]
fn the_name_that_a_file_gives_is_shown_and_not_obeyed() {
    let tiny = Tiny::new();
    let name = "tiny\u{1b}]0;owned\u{7}\nlicence         \u{9b}31mfree";
    let shown = "tiny\\x1b]0;owned\\x07\\nlicence         \\u{9b}31mfree";
    let gguf = tiny.home.path().join("named.gguf");
    let metadata = [("general.name", common::gguf::GgufValue::String(name.into()))];
    let model = common::TinyModel::new(common::tiny_shape(true), 7);
    model.write_gguf_with(&gguf, common::gguf::GgufType::F32, &metadata);
    let is_quiet = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n');
    let mut told = Vec::new();
    for args in [
        &["quantize", "named.gguf", "-o", "named"][..],
        &["inspect", "named"],
        &["-m", "named", "--device", "cpu", "-v", "-n", "0", "hello"],
        &["bench", "-m", "named", "--device", "cpu", "-p", "1", "-n", "0", "-r", "1"],
    ] {
        let output = tiny.command(args).assert().success().get_output().clone();
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap();
            assert!(is_quiet(&text), "{args:?}: {text:?}");
            told.extend(text.contains(shown).then_some(args[0]));
        }
    }
    assert_eq!(told, ["quantize", "inspect", "-m", "bench"]);
    // A name of nothing is none.
    model.write_gguf_with(
        &gguf,
        common::gguf::GgufType::F32,
        &[("general.name", common::gguf::GgufValue::String(String::new()))],
    );
    let output = tiny.command(&["quantize", "named.gguf", "-o", "unnamed"]).assert().success().get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.starts_with("named") && errors.contains(": will take "), "{errors}");
    // Who reads JSON gets the name as it is.
    let json: Value = serde_json::from_str(&stdout(&mut tiny.command(&["inspect", "named", "--json"]))).unwrap();
    assert_eq!(json["source"]["name"], name);
}

#[test]
fn a_prompt_that_does_not_fit_is_told_before_anything_is_written() {
    let output = Tiny::new().run().args(["-c", "8", "a prompt of more than eight tokens"]).assert().code(6).stdout("");
    let errors = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(errors.starts_with("error: the prompt has ") && errors.contains("the context holds 8"), "{errors}");
}

#[test]
fn values_that_the_model_sets_bounds_to_are_checked() {
    let tiny = Tiny::new();
    for (args, word) in [
        (["-c", "257"], "at most 256"),
        (["--temp", "nan"], "--temp"),
        (["--top-p", "1.5"], "--top-p"),
        (["--repeat-penalty", "1e-40"], "--repeat-penalty: expected a number from 0.01 to 100"),
    ] {
        let output = tiny.run().args(args).arg("hello").assert().code(2).stdout("");
        let errors = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(errors.starts_with("error: ") && errors.contains(word), "{errors}");
    }
}

#[test]
fn a_device_that_is_not_there_is_told_with_what_there_is() {
    let tiny = Tiny::new();
    let mut command = tiny.command(&["--device", "abacus", "-m", "model", "hello"]);
    let output = command.assert().code(7).stdout("");
    let errors = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    // A driver may have said something before.
    let last = errors.lines().last().unwrap();
    assert!(last.starts_with("error: no device `abacus`; ") && last.contains("cpu ("), "{errors}");
}

#[test]
fn eval_reports_each_number_of_bits_in_a_line() {
    let tiny = Tiny::new();
    let text = tiny.write("text.txt", &"the thin thing in the inn ".repeat(40));
    let args =
        ["eval", "-m", "model", "--device", "cpu", "--window", "32", "--windows", "2", "--bits", "2,8", "--json"];
    let reports = lines(&stdout(tiny.command(&args).arg("--text").arg(&text)));
    assert_eq!(reports.iter().map(|r| r["bits"].as_f64().unwrap()).collect::<Vec<_>>(), [2.0, 8.0]);
    assert!(reports.iter().all(|r| r["tokens"] == 62 && r["perplexity"].as_f64().unwrap() > 1.0), "{reports:?}");
    // Without a window named, it is what the model was trained for, as that is less than 1024.
    let args = ["eval", "-m", "model", "--device", "cpu", "--json", "--text"];
    let report = &lines(&stdout(tiny.command(&args).arg(&text)))[0];
    assert_eq!((&report["window"], &report["windows"]), (&256.into(), &2.into()), "{report}");
    // The tokens of prompts are not scored, and their bits are told apart.
    routed::add_routers(&tiny.model, 5);
    let args = ["--window", "32", "--windows", "2", "--bits", "4.5", "--answer-from", "20", "--text", "text.txt"];
    let report = &lines(&stdout(eval(&tiny, &args).arg("--json")))[0];
    assert_eq!((&report["tokens"], &report["answer_from"]), (&24.into(), &20.into()), "{report}");
    assert!(report["prompt_bits"] == 8.0 && report["bits"].as_f64().unwrap() < 7.0, "{report}");
    assert!(stdout(&mut eval(&tiny, &args)).lines().next().unwrap().ends_with(" prompt"));
    let plan = &lines(&stdout(eval(&tiny, &args).args(["--prompt-bits", "plan", "--json"])))[0];
    assert!(plan["prompt_bits"].as_f64().unwrap() < 7.0 && plan["perplexity"] != report["perplexity"], "{plan}");
    eval(&tiny, &["--text", "text.txt", "--prompt-bits", "plan"]).assert().code(2);
    tiny.command(&["eval", "-m", "model", "--window", "257", "--text"]).arg(&text).assert().code(2);
    tiny.command(&["eval", "-m", "model", "--window", "32", "--windows", "999", "--text"]).arg(&text).assert().code(2);
}

/// `eval` on the tiny model and the CPU engine.
fn eval(tiny: &Tiny, args: &[&str]) -> Command {
    let mut command = tiny.command(&["eval", "-m", "model", "--device", "cpu"]);
    command.args(args);
    command
}

#[test]
fn eval_plots_every_uniform_depth_of_a_model_without_routers() {
    let tiny = Tiny::new();
    tiny.write("text.txt", &"the thin thing in the inn ".repeat(40));
    let args =
        ["--text", "text.txt", "--window", "32", "--windows", "2", "--bits", "8", "--plot", "plot.svg", "--detail"];
    let reports = lines(&stdout(eval(&tiny, &args).arg("--json")));
    let column = |name: &str| reports.iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("bits"), [8.0, 2.0, 4.0, 6.0]);
    assert_eq!(column("bits_asked"), column("bits"));
    assert!(column("depths").iter().all(|depths| depths == "uniform"));
    assert!(column("type").iter().all(|name| name == "eval") && column("seed").iter().all(Value::is_null));
    for report in &reports {
        let (bits, detail) = (&report["bits"], &report["detail"]);
        assert_eq!(detail["layers"].as_array().unwrap().len(), 2);
        for site in ["qkv", "o", "gate_up", "down", "all"] {
            assert_eq!((&detail["layers"][1][site], &detail["all"][site]), (bits, bits));
        }
    }
    let svg = std::fs::read_to_string(tiny.home.path().join("plot.svg")).unwrap();
    let drawing = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<&str> = drawing.descendants().filter_map(|node| node.text()).map(str::trim).collect();
    assert!(texts.contains(&"uniform depth") && !texts.contains(&"routed"), "{texts:?}");
    assert_eq!(drawing.descendants().filter(|node| node.has_tag_name("circle")).count(), 4);
    let table = stdout(&mut eval(&tiny, &args));
    assert_eq!(table.lines().filter(|line| line.starts_with("uniform ")).count(), 4, "{table}");
    assert_eq!(table.lines().filter(|line| line.contains("gate_up")).count(), 4, "{table}");
    eval(&tiny, &["--text", "text.txt", "--window", "32", "--plot", "nowhere/plot.svg"]).assert().code(1).stdout("");
}

#[test]
fn eval_tells_how_often_fewer_bits_choose_alike() {
    let tiny = Tiny::new();
    tiny.write("text.txt", &"the thin thing in the inn ".repeat(40));
    routed::add_routers(&tiny.model, 5);
    let args = ["--text", "text.txt", "--agreement", "--window", "16", "--windows", "3", "--bits", "4.5"];
    let reports = lines(&stdout(eval(&tiny, &args).arg("--json")));
    let column = |name: &str| reports.iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("bits_asked"), [4.5, 2.0, 4.0, 6.0, 8.0]);
    assert_eq!(column("depths"), ["routed", "uniform", "uniform", "uniform", "uniform"]);
    assert!(reports.iter().all(|r| r["type"] == "agreement" && r["tokens"] == 48), "{reports:?}");
    assert!((0.0..1.0).contains(&reports[1]["agreement"].as_f64().unwrap()), "{reports:?}");
    assert_eq!((&reports[4]["agreement"], &reports[4]["drafts"][2]["accepted"]), (&1.0.into(), &8.0.into()));
    let table = stdout(&mut eval(&tiny, &args));
    assert!(table.lines().count() == 6 && table.lines().last().unwrap().contains(" 100.00% "), "{table}");
    for other in [&["--plot", "p.svg"][..], &["--answer-from", "4"]] {
        eval(&tiny, &args).args(other).assert().code(2);
    }
    eval(&tiny, &["--kl", "r", "--agreement"]).assert().code(2);
}

#[test]
fn eval_scores_both_kinds_of_tasks() {
    let tiny = Tiny::new();
    let line = r#"{"context": "the thin", "continuation": " inn"}"#;
    tiny.write("lambada.jsonl", &[line; 3].join("\n"));
    let args = ["--task", "lambada.jsonl", "--bits", "4,8", "--limit", "2"];
    let reports = lines(&stdout(eval(&tiny, &args).arg("--json")));
    for (report, bits) in reports.iter().zip([4.0, 8.0]) {
        assert_eq!((&report["type"], &report["depths"]), (&"task".into(), &"uniform".into()));
        assert_eq!(
            (&report["examples"], &report["bits"], &report["bits_asked"]),
            (&2.into(), &bits.into(), &bits.into())
        );
        let perplexity = report["mean_nll"].as_f64().unwrap().exp();
        assert!((report["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-9);
        // The same example twice: the share is 0 or 1, and so without a spread.
        assert_eq!(report["acc_stderr"], 0.0);
        assert_eq!(report["device"]["backend"], "CPU");
    }
    let table = stdout(&mut eval(&tiny, &args));
    assert!(table.starts_with("depths ") && table.lines().count() == 3 && table.contains("mean nll"), "{table}");
    tiny.write("choice.jsonl", r#"{"query": "the", "choices": ["inn", "thing"], "gold": 0}"#);
    let report = &lines(&stdout(&mut eval(&tiny, &["--task", "choice.jsonl", "--json"])))[0];
    let (acc, norm) = (report["acc"].as_f64().unwrap(), report["acc_norm"].as_f64().unwrap());
    assert!([0.0, 1.0].contains(&acc) && [0.0, 1.0].contains(&norm), "{report}");
    assert!(report["acc_stderr"].is_null() && report["acc_norm_stderr"].is_null() && report.get("mean_nll").is_none());
}

#[test]
fn eval_tells_what_it_cannot_do_by_flag_or_line() {
    let tiny = Tiny::new();
    tiny.write("text.txt", &"the thin thing in the inn ".repeat(40));
    tiny.write("empty.txt", "\u{feff}");
    tiny.write("short.txt", "short");
    tiny.write("mixed.jsonl", "{\"context\": \"a\", \"continuation\": \"b\"}\n{\"query\": \"a\"}\n");
    for (args, code, words) in [
        (&["--text", "text.txt", "--window", "32", "--bits", "3.5"][..], 2, "--bits: expected 2, 4, 6 or 8, because"),
        (
            &["--text", "text.txt", "--window", "32", "--shuffle-gates"],
            2,
            "--shuffle-gates: expected a model with routers",
        ),
        (
            &["--text", "text.txt", "--shuffle-gates", "--ubatch-size", "1"],
            2,
            "--shuffle-gates: expected an --ubatch-size of 2 or more",
        ),
        (&["--text", "empty.txt"], 2, "--text: expected some text, got none"),
        (
            &["--text", "short.txt"],
            2,
            "--text: expected a window of 256 tokens or more (--window makes it shorter), got 5",
        ),
        (&["--task", "mixed.jsonl"], 4, "mixed.jsonl` is damaged: line 2, field `query`"),
        (&["--task", "nowhere.jsonl"], 1, "cannot read `nowhere.jsonl`"),
    ] {
        let output = eval(&tiny, args).assert().code(code).stdout("");
        let errors = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(errors.starts_with("error: ") && errors.contains(words), "{errors}");
    }
}

#[test]
fn a_flipped_byte_is_found_by_verify() {
    let tiny = Tiny::new();
    assert!(stdout(&mut tiny.command(&["verify", "model"])).contains("is sound"));
    let file = tiny.model.join("slice-2.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = tiny.command(&["verify", "model"]).assert().code(4).stdout("");
    let errors = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(errors.contains("slice-2.safetensors` is damaged: SHA-256"), "{errors}");
}

#[test]
fn quantize_leaves_a_model_alone_that_is_there_already() {
    let tiny = Tiny::new();
    tiny.command(&["quantize", "source", "-o", "model"]).assert().code(2).stdout("");
    tiny.command(&["quantize", "source", "-o", "model", "--force"]).assert().success().stdout("");
    tiny.command(&["quantize", "source", "-o", "other", "--group-size", "0"]).assert().code(2);
    assert!(!tiny.home.path().join("other").exists());
}

#[test]
fn inspect_shows_the_same_in_words_and_in_json() {
    let tiny = Tiny::new();
    let json: Value = serde_json::from_str(&stdout(&mut tiny.command(&["inspect", "model", "--json"]))).unwrap();
    let words = stdout(&mut tiny.command(&["inspect", "model"]));
    assert_eq!((&json["architecture"], &json["shape"]["model_dim"]), (&"llama".into(), &64.into()));
    assert!(words.contains("architecture      llama") && words.contains("model 64"), "{words}");

    // The manifest's own word is `llama` for every family, and `--json` told that one.
    let path = tiny.model.join("edge-run.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.replacen("\"source\": {", "\"source\": {\"family\": \"qwen3\",", 1)).unwrap();
    let json: Value = serde_json::from_str(&stdout(&mut tiny.command(&["inspect", "model", "--json"]))).unwrap();
    let words = stdout(&mut tiny.command(&["inspect", "model"]));
    assert_eq!((&json["architecture"], &json["source"]["family"]), (&"qwen3".into(), &"qwen3".into()));
    assert!(words.contains("architecture      qwen3"), "{words}");
}

#[test]
fn a_calibration_pack_brings_routers_or_is_refused() {
    let tiny = Tiny::new();
    let path = tiny.home.path().join("pack.safetensors");
    pack::TestPack::of(&tiny.home.path().join("source"), &tiny.model, 7).write(&path).unwrap();
    let quantize = |source: &str, pack: &str| {
        tiny.command(&["quantize", source, "-o", "new", "--calibration", pack]).assert().stdout("")
    };
    quantize("source", "pack.safetensors").success();
    tiny.command(&["verify", "new"]).assert().success();
    let words = stdout(&mut tiny.command(&["inspect", "new"]));
    assert!(words.contains("ranges            calibrated") && words.contains("routers           8, "), "{words}");
    assert!(words.contains("; 2 to 8 bits on average, 4 rows"), "{words}");
    let json: Value = serde_json::from_str(&stdout(&mut tiny.command(&["inspect", "new", "--json"]))).unwrap();
    assert_eq!((&json["routing"]["routers"], &json["calibration"]["recipe"]["steps"]), (&8.into(), &7.into()));
    let json: Value = serde_json::from_str(&stdout(&mut tiny.command(&["inspect", "model", "--json"]))).unwrap();
    assert!(json["routing"].is_null() && json["calibration"].is_null());

    std::fs::remove_dir_all(tiny.home.path().join("new")).unwrap();
    common::tiny_hf_folder(&tiny.home.path().join("other"), 8, true);
    tiny.write("notes.txt", "Not a pack.");
    for (source, pack, code, words) in [
        (
            "other",
            "pack.safetensors",
            2,
            "--calibration `pack.safetensors`: expected a pack for the weights of `other`",
        ),
        ("source", "notes.txt", 4, "`notes.txt` is damaged: header"),
        ("source", "nowhere", 1, "cannot read `nowhere`"),
    ] {
        let output = quantize(source, pack).code(code).get_output().stderr.clone();
        let errors = String::from_utf8(output).unwrap();
        assert!(errors.lines().last().unwrap().contains(words), "{words}: {errors}");
        assert!(!tiny.home.path().join("new").exists());
    }
}

/// Starts an endless answer, interferes after its first bytes, and gives the exit code and standard error.
#[cfg(unix)]
fn interrupted(model: &Path, interfere: impl FnOnce(u32, std::process::ChildStdout)) -> (Option<i32>, String) {
    use std::io::Read;
    use std::process::{Command, Stdio};

    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
    command
        .args(["--device", "cpu", "--power-mode", "high", "--json", "--temp", "0", "-c", "0", "-p", "the", "-m"])
        .arg(model);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut [0; 8]).unwrap();
    interfere(child.id(), reader);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_the_answer_quietly() {
    let (code, errors) = interrupted(&Tiny::endless().model, |_, reader| drop(reader));
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_answer_with_its_summary() {
    use std::io::Read;

    let tiny = Tiny::endless();
    let (code, errors) = interrupted(&tiny.model, |process, mut reader| {
        let killed = std::process::Command::new("kill").args(["-INT", &process.to_string()]).status().unwrap();
        assert!(killed.success());
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let summary: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
        assert_eq!((&summary["type"], &summary["stop"]), (&"summary".into(), &"stopped".into()));
    });
    assert_eq!(code, Some(130));
    assert!(errors.contains("stopped]"), "{errors}");
}

#[test]
fn a_model_is_exported_and_what_came_of_it_is_told() {
    let tiny = Tiny::new();
    for (to, out, architecture) in [("gguf", "out.gguf", "llama"), ("safetensors", "out", "LlamaForCausalLM")] {
        let words = ["export", "model", out, "--bits", "4", "--to", to];
        let told = tiny.command(&words).arg("--json").assert().success();
        let report: Value = serde_json::from_slice(&told.get_output().stdout).unwrap();
        assert_eq!(report["architecture"], architecture);
        assert!(report["deviations"]["layers"]["largest"].as_f64().unwrap() > 0.0, "{report}");
        assert!(tiny.home.path().join(out).exists());
        let again = tiny.command(&words).assert().failure();
        let error = String::from_utf8_lossy(&again.get_output().stderr).into_owned();
        assert!(error.contains("--force replaces it"), "{error}");
        tiny.command(&words).arg("--force").assert().success();
        // What was made is a source again.
        tiny.command(&["quantize", out, "-o", &format!("again {to}")]).assert().success();
    }
    let odd = tiny.command(&["export", "model", "x", "--bits", "3", "--to", "gguf"]).assert().code(2);
    assert!(String::from_utf8_lossy(&odd.get_output().stderr).contains("2, 4, 6 or 8"));
    let narrow = ["export", "model", "x.gguf", "--bits", "8", "--to", "gguf", "--type", "q4_1"];
    let narrow = tiny.command(&narrow).assert().failure();
    assert!(String::from_utf8_lossy(&narrow.get_output().stderr).contains("--type: expected one that holds 8 bits"));

    // Any name was written without a word.
    let named = |name: &str| {
        let words = ["export", "model", "y.gguf", "--bits", "8", "--to", "gguf", "--force", "--pre-tokenizer", name];
        let output = tiny.command(&words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, errors) = named("klingon");
    assert!(code == Some(0) && errors.contains("warning: `klingon` is written as it stands"), "{errors}");
    let (code, errors) = named("");
    assert!(code == Some(2) && errors.contains("--pre-tokenizer: expected a name"), "{errors}");
    // In a folder it was not written at all.
    let words = ["export", "model", "y", "--bits", "8", "--to", "safetensors", "--pre-tokenizer", "qwen2"];
    let output = tiny.command(&words).assert().code(2);
    let errors = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(errors.contains("--pre-tokenizer: expected none with safetensors, "), "{errors}");
    assert!(!tiny.home.path().join("y").exists());
}

/// All of these were read until the memory was full.
#[cfg(unix)]
#[test]
fn a_file_without_end_is_refused_with_its_name() {
    let tiny = Tiny::new();
    let zero = "/dev/zero";
    for (args, code, words) in [
        (
            &["--config", zero, "hello"][..],
            4,
            "`/dev/zero` is damaged: length: expected at most 1048576 bytes, got more",
        ),
        (
            &["--power-sim", zero, "hello"],
            4,
            "`/dev/zero` is damaged: length: expected at most 67108864 bytes, got more",
        ),
        (&["-f", zero], 2, "--file `/dev/zero`: expected at most 16 MiB of text, got more"),
        (&["--grammar", zero, "hello"], 2, "--grammar `/dev/zero`: expected at most 16 MiB of text, got more"),
        (&["--json-schema", zero, "hello"], 2, "--json-schema `/dev/zero`: expected at most 16 MiB of text, got more"),
    ] {
        let refused = tiny.run().args(args).assert().code(code);
        let errors = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
        assert!(errors.contains(words), "{args:?}: {errors}");
    }
    let input = std::fs::File::open(zero).unwrap();
    let chat = std::process::Command::new(env!("CARGO_BIN_EXE_edge-run"))
        .args(["chat", "--device", "cpu", "-m"])
        .arg(&tiny.model)
        .env("XDG_CONFIG_HOME", tiny.home.path())
        .stdin(input)
        .output()
        .unwrap();
    let errors = String::from_utf8(chat.stderr).unwrap();
    assert!(errors.contains("standard input: expected lines of at most 16 MiB, got a longer one"), "{errors}");
    let long = tiny.home.path().join("long.jinja");
    std::fs::File::create(&long).unwrap().set_len(2 << 20).unwrap();
    let refused = tiny.run().arg("--chat-template").arg(&long).arg("hello").assert().code(4);
    let errors = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(errors.contains("long.jinja` is damaged: length: expected at most 1048576 bytes, got more"), "{errors}");
}
