//! Power from outside: `edge-run power` on simulated states, and answers whose bits follow a trace, on a tiny random
//! model and the CPU engine.

mod common;
#[path = "common/default_model.rs"]
mod default_model;
#[path = "common/routed.rs"]
mod routed;

use std::path::PathBuf;

use assert_cmd::Command;
use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a trace, in which the program finds no configuration but what a test puts there.
struct Home(TempDir);

/// The trace of the documentation: unplugged, plugged in, too hot.
const TRACE: &str = r#"{"token": 0, "source": "ac"}
{"token": 20, "source": "battery", "percent": 15}
{"token": 60, "source": "ac"}
{"token": 90, "thermal": "critical"}
"#;

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        home.write("trace.jsonl", TRACE);
        home
    }

    /// With a tiny model that has routers or not, and no end of turn.
    fn with_model(has_routers: bool) -> Home {
        let home = Home::new();
        let (source, model) = (home.0.path().join("source"), home.0.path().join("model"));
        common::TinyModel::new(common::tiny_shape(true), 7).write_hf(&source, Dtype::F32, 1);
        std::fs::write(source.join("generation_config.json"), r#"{"bos_token_id": 1, "eos_token_id": []}"#).unwrap();
        common::quantize_tiny(&source, &model).unwrap();
        if has_routers {
            routed::add_routers(&model, 5);
        }
        home
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    fn run(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
        command.args(words).current_dir(self.0.path());
        for name in ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "USERPROFILE"] {
            command.env(name, self.0.path());
        }
        for name in ["NO_COLOR", "COLORTERM", "WT_SESSION"] {
            command.env_remove(name);
        }
        command
    }

    /// An answer of `tokens` tokens under a trace, drawn with a seed.
    fn answer(&self, words: &[&str]) -> Command {
        let mut command = self.run(&["-m", "model", "--device", "cpu", "--temp", "1", "-s", "7"]);
        command.args(words).arg("hello");
        command
    }
}

fn output(command: &mut Command) -> (String, String) {
    let output = command.assert().success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_type<'a>(all: &'a [Value], name: &str) -> Vec<&'a Value> {
    all.iter().filter(|line| line["type"] == name).collect()
}

fn failure(command: &mut Command, code: i32, words: &str) {
    let output = command.assert().code(code).stdout("").get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.starts_with("error: ") && errors.contains(words), "{words}: {errors}");
}

#[test]
fn power_shows_each_step_of_a_trace_with_its_decision() {
    let home = Home::new();
    let reports = lines(&output(&mut home.run(&["power", "--json", "--power-sim", "trace.jsonl"])).0);
    let column = |of: &dyn Fn(&Value) -> Value| reports.iter().map(of).collect::<Vec<_>>();
    assert_eq!(column(&|r| r["token"].clone()), [0, 20, 60, 90]);
    assert_eq!(
        column(&|r| r["decision"]["bits"].as_f64().map(|b| (b * 10.0).round()).into()),
        [80.0, 33.0, 80.0, 30.0]
    );
    assert_eq!(column(&|r| r["decision"]["rule"].clone()), ["ac", "battery", "ac", "thermal_critical"]);
    assert_eq!(column(&|r| r["bits_without_routers"].clone()), [8.0, 4.0, 8.0, 4.0]);
    assert_eq!((&reports[1]["state"]["source"], &reports[1]["state"]["percent"]), (&"battery".into(), &15.0.into()));
    assert_eq!(reports[1]["signals"][0]["from"], "trace.jsonl, token 20");
    assert_eq!(reports[3]["decision"]["reason"], "AC, thermal critical");

    let words = output(&mut home.run(&["power", "--power-sim", "trace.jsonl"])).0;
    assert_eq!(words.lines().nth(1).unwrap(), "token 20: 3.3 bits (4.0 without routers): battery 15%");
    // A flag decides whatever the state is.
    let fixed = output(&mut home.run(&["power", "--power-sim", "trace.jsonl", "--power-mode", "balanced"])).0;
    assert!(fixed.lines().all(|line| line.ends_with(" 6.0 bits: power mode balanced")), "{fixed}");
}

#[test]
fn over_time_bits_rise_after_the_dwell() {
    let home = Home::new();
    let trace =
        "{\"time_s\": 0, \"saver\": true}\n{\"time_s\": 30}\n{\"time_s\": 35, \"saver\": true}\n{\"time_s\": 50}\n";
    home.write("trace.jsonl", trace);
    let words = output(&mut home.run(&["power", "--power-sim", "trace.jsonl", "--max-bits", "6"])).0;
    let expected = "0 s: 3.3 bits (4.0 without routers): AC, saver on\n\
                    30 s: 3.3 bits (4.0 without routers): AC, saver on\n\
                    35 s: 3.3 bits (4.0 without routers): AC, saver on\n\
                    50 s: 3.3 bits (4.0 without routers): AC, saver on\n\
                    60 s: 6.0 bits: AC, at most 6 bits\n";
    assert_eq!(words, expected);
}

#[test]
fn power_shows_this_machine_with_where_it_was_read() {
    let home = Home::new();
    let reports = lines(&output(&mut home.run(&["power", "--json"])).0);
    let [report] = &reports[..] else { panic!("{reports:?}") };
    let signals = report["signals"].as_array().unwrap();
    assert!(!signals.is_empty() && signals.iter().all(|s| !s["from"].as_str().unwrap().is_empty()), "{report}");
    assert!((2.0..=8.0).contains(&report["decision"]["bits"].as_f64().unwrap()), "{report}");
    let words = output(&mut home.run(&["power"])).0;
    assert!(words.starts_with("supply ") && words.lines().last().unwrap().starts_with("decision "), "{words}");
}

#[test]
fn a_configuration_counts_where_it_lies_or_is_named() {
    let home = Home::new();
    let bits = |words: &[&str]| {
        let words = [&["power", "--json", "--power-sim", "trace.jsonl"], words].concat();
        lines(&output(&mut home.run(&words)).0)[0]["decision"]["bits"].clone()
    };
    assert_eq!(bits(&[]), 8.0);
    let named = home.write("named.toml", "[power.bits]\nac = 5\n");
    assert_eq!(bits(&["--config", named.to_str().unwrap()]), 5.0);
    let place = output(&mut home.run(&["paths", "config"])).0;
    assert!(PathBuf::from(place.trim_end()).starts_with(home.0.path()), "{place}");
    home.write(place.trim_end(), "[power]\nmax_bits = 7\n");
    assert_eq!(bits(&[]), 7.0);
    assert_eq!(bits(&["--max-bits", "6"]), 6.0);
    assert_eq!(bits(&["--config", named.to_str().unwrap()]), 5.0);
}

#[test]
fn an_encoding_makes_no_other_trace_and_no_other_configuration() {
    let home = Home::new();
    let write = |name: &str, text: &str, bytes: fn(u16) -> [u8; 2]| {
        let bytes: Vec<u8> = [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(bytes).collect();
        std::fs::write(home.0.path().join(name), bytes).unwrap();
    };
    let config = "[power.bits]\r\nac = 5\r\n";
    home.write("config", config);
    home.write("trace-mark", &format!("\u{feff}{TRACE}"));
    home.write("config-mark", &format!("\u{feff}{config}"));
    write("trace-little", &TRACE.replace('\n', "\r\n"), u16::to_le_bytes);
    write("trace-big", TRACE, u16::to_be_bytes);
    write("config-little", config, u16::to_le_bytes);
    let of = |trace: &str, config: &str| {
        let words = output(&mut home.run(&["power", "--power-sim", trace, "--config", config])).0;
        words.replace(trace, "trace")
    };
    let expected = of("trace.jsonl", "config");
    assert!(expected.contains("token 20: 3.3 bits") && expected.contains("token 0: 5.0 bits"), "{expected}");
    for (trace, config) in [("trace-mark", "config-mark"), ("trace-little", "config-little"), ("trace-big", "config")] {
        assert_eq!(of(trace, config), expected, "{trace} {config}");
    }
    std::fs::write(home.0.path().join("bad"), b"{\"token\": 0}\n\xff").unwrap();
    let wrong = "bad` is damaged: the file: expected text in UTF-8, or in UTF-16 with a byte order mark, \
                 got a byte that is not UTF-8 at byte 13";
    failure(&mut home.run(&["power", "--power-sim", "bad"]), 4, wrong);
    failure(&mut home.run(&["power", "--config", "bad"]), 4, wrong);
}

#[test]
fn what_cannot_be_followed_is_named_by_file_and_place() {
    let home = Home::new();
    home.write("bad.jsonl", "{\"token\": 0}\n{\"token\": 5, \"percent\": 101}\n");
    home.write("bad.toml", "[power.bits]\nsaver = 9\n");
    let wrong = "bad.jsonl` is damaged: line 2, field `percent`: expected 0 to 100, got 101";
    failure(&mut home.run(&["power", "--power-sim", "bad.jsonl"]), 4, wrong);
    let wrong = "bad.toml` is damaged: table [power.bits], field `saver`: expected 2 to 8, got 9";
    failure(&mut home.run(&["power", "--config", "bad.toml"]), 4, wrong);
    failure(&mut home.run(&["power", "--config", "nowhere.toml"]), 1, "cannot read `nowhere.toml`");
    failure(&mut home.run(&["power", "--power-sim", "nowhere.jsonl"]), 1, "cannot read `nowhere.jsonl`");
    failure(&mut home.run(&["power", "--min-bits", "6", "--max-bits", "5"]), 2, "the fewest not above the most");
}

#[test]
fn bits_follow_a_trace_and_the_text_goes_on() {
    for (has_routers, low, critical) in [(true, 3.3, 3.0), (false, 4.0, 4.0)] {
        let home = Home::with_model(has_routers);
        let args = ["-n", "120", "--json", "--power-sim", "trace.jsonl"];
        let (text, errors) = output(&mut home.answer(&args));
        let all = lines(&text);
        let bits: Vec<f64> = of_type(&all, "token").iter().map(|token| token["bits"].as_f64().unwrap()).collect();
        assert_eq!(bits.len(), 120);
        // Routers average over tokens, so single tokens are held to less than all slices.
        let followed = |range: std::ops::Range<usize>, asked: f64| {
            let read = &bits[range];
            if asked == 8.0 || !has_routers { read.iter().all(|b| *b == asked) } else { read.iter().all(|b| *b < 8.0) }
        };
        // Slices land over some tokens.
        assert!(bits[60..70].is_sorted(), "{bits:?}");
        for (range, asked) in [(0..20, 8.0), (20..60, low), (70..90, 8.0), (90..120, critical)] {
            assert!(followed(range.clone(), asked), "{has_routers} {range:?} {asked}: {bits:?}");
        }
        let plans: Vec<(u64, f32)> = of_type(&all, "plan")
            .iter()
            .map(|plan| (plan["token"].as_u64().unwrap(), plan["bits"].as_f64().unwrap() as f32))
            .collect();
        assert_eq!(plans, [(20, low as f32), (60, 8.0), (90, critical as f32)]);
        let told: Vec<&str> = errors.lines().filter(|line| line.starts_with("power: ")).collect();
        assert_eq!(told[0], format!("power: battery 15% -> {low:?} bits (was 8.0)"));
        assert_eq!(told.len(), 3, "{errors}");
        let summary = all.last().unwrap();
        assert_eq!((&summary["plan_changes"], &summary["plan"]), (&3.into(), &"AC, thermal critical".into()));

        // The same seed and the same trace write the same text; without the trace, or with it elsewhere, another.
        let plain = ["-n", "120", "--power-sim", "trace.jsonl"];
        let once = output(&mut home.answer(&plain)).0;
        assert_eq!(output(&mut home.answer(&plain)).0, once);
        let joined: String = of_type(&all, "token").iter().map(|token| token["text"].as_str().unwrap()).collect();
        assert_eq!(joined.trim_end_matches('\n'), once.trim_end_matches('\n'));
        assert_ne!(output(&mut home.answer(&["-n", "120", "--bits", "8"])).0, once);
    }
}

#[test]
fn the_default_model_follows_the_trace() {
    let folder = match default_model::default_model() {
        Ok(_) if cfg!(debug_assertions) => {
            return default_model::skipped("a hundred tokens of the default model take optimized code");
        }
        Ok(folder) => folder,
        Err(reason) => return default_model::skipped(&reason),
    };
    let routed = folder.thresholds().is_some();
    let home = Home::new();
    let model = folder.dir().to_str().unwrap();
    let args = ["-m", model, "--device", "cpu", "--raw", "--temp", "0.8", "-s", "3", "-n", "96", "--json"];
    // Steps of guesses would take memory of their own. Without the ends of a turn, no rounding makes the answer shorter.
    let args = [&args[..], &["--prompt-lookup", "off", "--logit-bias", "0=-inf", "--logit-bias", "2=-inf"]].concat();
    let answer = |words: &[&str]| {
        let words = [&args[..], words, &["Once upon a time, there was a lighthouse"]].concat();
        lines(&output(&mut home.run(&words)).0)
    };
    let all = answer(&["--power-sim", "trace.jsonl"]);
    let tokens = of_type(&all, "token");
    let bits: Vec<f64> = tokens.iter().map(|token| token["bits"].as_f64().unwrap()).collect();
    assert_eq!(bits.len(), 96);
    // Slices land over some tokens, four layers a token.
    assert!(bits[60..72].is_sorted(), "{bits:?}");
    assert!(bits[..20].iter().chain(&bits[72..90]).all(|bits| *bits == 8.0), "{bits:?}");
    let memory = |at: usize| tokens[at]["device_bytes"].as_u64().unwrap();
    let resident = |at: usize| tokens[at]["resident_bytes"].as_u64().unwrap();
    let freed = resident(19) - resident(59);
    // Steps that routers choose for have a little other work space.
    let fell = memory(19) - memory(59);
    assert!(
        freed > 0 && fell.abs_diff(freed) < 64 << 10,
        "memory falls by the slices that were freed: {fell}, {freed}"
    );
    assert_eq!((memory(89), resident(89)), (memory(19), resident(19)));
    let slices = &all.last().unwrap()["slices"];
    assert_eq!(slices["read_bytes"], slices["loaded_bytes"]);
    assert_eq!(slices["loaded_bytes"].as_u64().unwrap(), resident(19) + freed);
    // Of single tokens routers read more or less than on average, but never nearly all.
    let low = if routed { 2.0..6.0 } else { 4.0..4.1 };
    assert!(bits[20..60].iter().chain(&bits[90..]).all(|bits| low.contains(bits)), "{bits:?}");
    let mean = bits[20..60].iter().sum::<f64>() / 40.0;
    assert!(!routed || (2.5..4.2).contains(&mean), "{mean}");
    let ids = |all: &[Value]| of_type(all, "token").iter().map(|token| token["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&answer(&["--power-sim", "trace.jsonl"])), ids(&all));
    let steady = ids(&answer(&["--bits", "8"]));
    assert_eq!(steady[..20], ids(&all)[..20]);
}

#[test]
fn up_to_the_change_a_trace_changes_nothing_and_limits_hold_it() {
    let home = Home::with_model(false);
    let ids = |words: &[&str]| {
        let all = lines(&output(home.answer(&["-n", "40", "--json"]).args(words)).0);
        of_type(&all, "token").iter().map(|token| token["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let (steady, traced) = (ids(&["--bits", "8"]), ids(&["--power-sim", "trace.jsonl"]));
    assert_eq!(steady[..20], traced[..20]);
    assert_ne!(steady, traced);
    // Where the limit leaves no room, the trace changes nothing at all.
    assert_eq!(ids(&["--power-sim", "trace.jsonl", "--min-bits", "8"]), steady);
}

#[test]
fn bits_are_shown_by_marks_or_by_colours() {
    let home = Home::with_model(false);
    let args = ["-n", "40", "--power-sim", "trace.jsonl"];
    let plain = output(&mut home.answer(&args)).0;
    let (marked, errors) = output(home.answer(&args).arg("--show-bits").env("NO_COLOR", "1"));
    assert!(errors.contains("bits: the small digit after each token") && !marked.contains('\x1b'), "{errors}");
    assert!(marked.contains('⁸') && marked.contains('⁴'), "{marked}");
    assert_eq!(marked.replace(['⁸', '⁴'], "").trim_end(), plain.trim_end());

    let coloured = |variables: &[(&str, &str)]| {
        let mut command = home.answer(&args);
        command.args(["--show-bits", "--color", "always"]).envs(variables.iter().copied());
        output(&mut command)
    };
    let (text, errors) = coloured(&[("COLORTERM", "truecolor")]);
    assert!(text.contains("\x1b[38;2;60;120;220m") && text.contains("\x1b[0m"), "{text:?}");
    assert!(errors.contains("bits: \x1b[38;2;230;97;1m2\x1b[0m"), "{errors:?}");
    assert!(coloured(&[]).0.contains("\x1b[38;5;33m"));
    home.answer(&["--show-bits", "--json"]).assert().code(2);
}
