//! The unquantized model's logits in a reference, and how far a tiny model is from them on every engine.

use std::ops::ControlFlow;
use std::path::Path;

use crate::common;
use crate::eval::{BOS, put_bos_before_texts};
use crate::gpu;
use crate::logits::logits_at;
use assert_cmd::Command;
use edge_run::internals::cpu;
use edge_run::internals::engine::Engine;
use edge_run::internals::eval::{KlReport, check_reference, fidelity};
use edge_run::internals::format::{ModelFolder, Reference, UNITS};
use edge_run::internals::gpu as gpus;
use edge_run::internals::model::Model;
use edge_run::internals::quantize::{open, source_text};
use edge_run::internals::text::TextModel;
use edge_run::internals::unquantized::{self, ReferenceOptions, ReferencePlan, ReferenceWindows};
use edge_run::{Error, PrecisionPlan, Result};
use serde_json::Value;
use tempfile::TempDir;

const TEXTS: [(&str, &str); 2] =
    [("inn", "the thin thing in the inn is thin, and a stool stands by the door"), ("code", "for i in 0..9 { in(i) }")];
/// The order of sums in f32, over hundreds of products of numbers near 1.
const SUMS_DIFFER: f32 = 1e-4;

/// A folder with the source of a tiny model, its quantized model, and texts.
fn home(seed: u64) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    common::tiny_hf_folder(&home.path().join("source"), seed, true);
    common::quantize_tiny(&home.path().join("source"), &home.path().join("model")).unwrap();
    for (name, text) in TEXTS {
        std::fs::write(home.path().join(name).with_extension("txt"), text).unwrap();
    }
    home
}

/// Makes the reference `r` of the folder's source, over windows of 12 tokens.
fn make(home: &Path, top: Option<u32>, on_progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<Reference> {
    let mut source = open(&home.join("source"))?;
    let text = source_text(source.as_ref())?;
    let windows = |(name, content)| ReferenceWindows::new(name, &text.encode(content, false)?, 12, None);
    let texts = TEXTS.into_iter().map(windows).collect::<Result<Vec<_>>>()?;
    let options = ReferenceOptions { out: home.join("r"), top, replace: false };
    ReferencePlan::new(source.as_ref(), &text, texts, options)?.write(source.as_mut(), on_progress)?;
    Reference::open(&home.join("r"))
}

fn whole(home: &Path, top: Option<u32>) -> Reference {
    make(home, top, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn model(home: &Path, engine: Box<dyn Engine>) -> Model {
    let folder = ModelFolder::open(&home.join("model")).unwrap();
    Model::load(&folder, engine, 32, &mut |_, _| ()).unwrap()
}

fn measure(model: &Model, reference: &Reference, bits: f32) -> KlReport {
    let plan = PrecisionPlan::for_bits(bits, false, "test").unwrap();
    let mut sequence = model.sequence(&plan).unwrap();
    fidelity(&mut sequence, reference, &mut |_, _, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_reference_has_the_logits_of_each_window_by_itself() {
    let home = home(3);
    let mut seen = Vec::new();
    let reference = make(home.path(), None, &mut |done, total| {
        seen.push((done, total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen.is_sorted() && seen.last().is_some_and(|(done, total)| done == total), "{seen:?}");
    let mut source = open(&home.path().join("source")).unwrap();
    let mut first = 0;
    assert!(
        reference.info().texts.iter().all(|text| !text.windows.is_empty()) && reference.info().windows().count() > 2
    );
    for length in reference.info().windows() {
        let ids = &reference.tokens()[first..first + length];
        let expected = unquantized::logits(source.as_mut(), ids, 32).unwrap();
        for (at, logits) in expected.iter().enumerate() {
            let row = reference.row(first + at).unwrap();
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            for (code, logit) in row.codes.iter().zip(logits) {
                // Half a unit, a whole one beside the largest.
                assert!((f32::from(*code) / UNITS - (largest - logit)).abs() < 1.0 / UNITS + SUMS_DIFFER);
            }
            let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
            let nll = ids.get(at + 1).map_or(0.0, |next| largest - logits[*next as usize] + sum.ln());
            assert!((reference.nll()[first + at] - nll).abs() < SUMS_DIFFER);
        }
        first += length;
    }
}

#[test]
fn a_model_leaves_the_unquantized_one_as_its_bits_fall() {
    let home = home(3);
    let reference = whole(home.path(), None);
    let on = |engine: Box<dyn Engine>| {
        let model = model(home.path(), engine);
        [8.0, 6.0, 4.0, 2.0].map(|bits| measure(&model, &reference, bits))
    };
    let reports = on(cpu::open_with(edge_run::internals::engine::Activations::F32));
    let kl = reports.each_ref().map(|report| report.all.kl_mean);
    assert!(kl[0] < 0.01 && kl.is_sorted() && kl[3] > 50.0 * kl[0], "{kl:?}");
    assert!(reports[0].all.same_top > 0.9 && reports[3].all.same_top < reports[0].all.same_top, "{reports:?}");
    let eight = &reports[0];
    assert_eq!((eight.bits, eight.bits_with_ranges), (8.0, 8.5));
    assert!((eight.all.perplexity / eight.all.reference_perplexity - 1.0).abs() < 0.1, "{eight:?}");
    let texts: f64 = eight.texts.iter().map(|text| text.figures.kl_mean * text.figures.tokens as f64).sum();
    assert!((texts / eight.all.tokens as f64 - eight.all.kl_mean).abs() < 1e-12);
    // The largest logits alone tell the most of it, and no more than all.
    std::fs::remove_file(home.path().join("r")).unwrap();
    let some = measure(
        &model(home.path(), cpu::open_with(edge_run::internals::engine::Activations::F32)),
        &whole(home.path(), Some(64)),
        2.0,
    );
    assert!(some.all.kl_mean < kl[3] && some.all.kl_mean > 0.5 * kl[3], "{some:?} for {kl:?}");
    assert_eq!(some.all.same_top, reports[3].all.same_top);
    if gpu::gpu().is_some() {
        let there = on(gpus::open(0, gpu::options()).unwrap());
        for (gpu, cpu) in there.iter().zip(&reports) {
            let differ = (gpu.all.kl_mean - cpu.all.kl_mean).abs() / cpu.all.kl_mean;
            assert!(differ < 0.05, "{gpu:?} for {cpu:?}");
        }
    }
}

#[test]
fn all_logits_are_those_after_each_token_in_steps_of_any_length() {
    let home = home(4);
    let model = model(home.path(), cpu::open_with(edge_run::internals::engine::Activations::F32));
    let mut sequence = model.sequence(&PrecisionPlan::for_bits(4.0, false, "test").unwrap()).unwrap();
    let ids = [5, 80, 33, 120, 7, 66, 91];
    let expected: Vec<Vec<f32>> = (0..ids.len()).map(|at| logits_at(&mut sequence, &ids[..=at], 0).logits).collect();
    for step in [7, 3, 1] {
        model.set_step_tokens(step).unwrap();
        let mut found = Vec::new();
        let depths = sequence.all_logits(&ids, &mut |first, logits| {
            assert_eq!(first * common::VOCAB as usize, found.len());
            found.extend_from_slice(logits);
            Ok(())
        });
        assert_eq!((depths.unwrap().tokens(), sequence.tokens()), (ids.len(), &ids[..]));
        let expected = expected.concat();
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < SUMS_DIFFER * b.abs().max(1.0)), "{step}");
    }
    let failed = sequence.all_logits(&ids, &mut |_, _| Err(Error::Stopped("this"))).unwrap_err();
    assert!(matches!(failed, Error::Stopped("this")) && sequence.tokens().is_empty());
}

#[test]
fn a_stopped_run_leaves_nothing() {
    let home = home(3);
    let before = std::fs::read_dir(home.path()).unwrap().count();
    for stop_at in [1, 10] {
        let mut looks = 0;
        let stopped = make(home.path(), None, &mut |_, _| {
            looks += 1;
            if looks == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(Error::Stopped(_))), "{stopped:?}");
        assert_eq!((looks, std::fs::read_dir(home.path()).unwrap().count()), (stop_at, before));
    }
}

#[test]
fn what_came_to_lie_at_the_place_meanwhile_is_not_replaced() {
    let home = home(3);
    let place = home.path().join("r");
    let fault = make(home.path(), None, &mut |_, _| {
        std::fs::write(&place, "notes").unwrap();
        ControlFlow::Continue(())
    });
    assert!(fault.unwrap_err().to_string().contains("was not to be replaced"));
    assert_eq!(std::fs::read_to_string(&place).unwrap(), "notes");
}

#[cfg(unix)]
#[test]
fn a_limit_of_a_file_s_size_is_an_error_that_leaves_nothing() {
    let home = home(3);
    let before = std::fs::read_dir(home.path()).unwrap().count();
    let words = format!("ulimit -f 1; exec {} logits source --text inn.txt -o r", env!("CARGO_BIN_EXE_edge-run"));
    let mut command = Command::new("sh");
    command.current_dir(home.path()).env("XDG_CONFIG_HOME", home.path()).args(["-c", &words]);
    let message = String::from_utf8(command.assert().code(1).get_output().stderr.clone()).unwrap();
    assert!(message.contains("error: cannot"), "{message}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), before);
}

#[test]
fn the_reference_of_another_model_is_refused_by_file_and_field() {
    let home = home(3);
    let reference = whole(home.path(), None);
    let folder = ModelFolder::open(&home.path().join("model")).unwrap();
    let text = TextModel::open(&folder).unwrap();
    assert!(check_reference(&reference, folder.shape(), &text).is_ok());
    let mut shape = folder.shape().clone();
    shape.vocab += 1;
    let refused = check_reference(&reference, &shape, &text).unwrap_err().to_string();
    let file = home.path().join("r").display().to_string();
    assert_eq!(
        refused,
        format!(
            "reference `{file}`: shape.vocab: expected {}, which this model has, got {}",
            shape.vocab,
            common::VOCAB
        )
    );
    shape = folder.shape().clone();
    shape.max_context = 11;
    let refused = check_reference(&reference, &shape, &text).unwrap_err().to_string();
    assert!(refused.contains("texts.windows: expected at most 11 tokens"), "{refused}");
    // Two tokens change places.
    let tokenizer = home.path().join("source/tokenizer.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&tokenizer).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let (d, s) = (vocab["d"].clone(), vocab["s"].clone());
    vocab.insert("d".into(), s);
    vocab.insert("s".into(), d);
    std::fs::write(&tokenizer, json.to_string()).unwrap();
    let source = open(&home.path().join("source")).unwrap();
    let other = source_text(source.as_ref()).unwrap();
    let refused = check_reference(&reference, folder.shape(), &other).unwrap_err().to_string();
    assert!(refused.contains("`: tokens_sha256: expected the tokens that this model's tokenizer has"), "{refused}");
}

fn program(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
    command.current_dir(home).env("XDG_CONFIG_HOME", home).env("XDG_CACHE_HOME", home).args(words);
    command
}

fn errors(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).stdout("").get_output().stderr.clone()).unwrap()
}

fn output(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

#[test]
fn the_program_makes_a_reference_and_measures_against_it() {
    let home = home(3);
    let make = ["logits", "source", "--text", "inn.txt", "code.txt", "-o", "r", "--window", "12", "--windows", "1"];
    let told = errors(&mut program(home.path(), &make), 0);
    assert!(told.contains("`r`: 24 tokens in 2 windows, perplexity inn ") && told.contains(", code "), "{told}");
    assert!(errors(&mut program(home.path(), &make), 2).contains("got a file: --force replaces it"));
    let hasty = ["logits", "source", "--text", "nowhere.txt", "-o", "r"];
    assert!(errors(&mut program(home.path(), &hasty), 2).contains("got a file: --force"), "before any text is read");
    program(home.path(), &[&make[..], &["--force", "--top", "50"]].concat()).assert().success();
    let measure = ["eval", "-m", "model", "--device", "cpu", "--kl", "r", "--bits", "2,8", "--plot", "p.svg"];
    let table = output(&mut program(home.path(), &measure));
    assert_eq!(table.lines().count(), 1 + 3 * 4, "{table}");
    assert!(table.lines().nth(1).unwrap().starts_with("uniform      2  2.000   2.500 inn "), "{table}");
    let svg = std::fs::read_to_string(home.path().join("p.svg")).unwrap();
    assert!(svg.contains("KL divergence in nats a token (logarithmic)") && svg.contains("perplexity (logarithmic)"));
    let json = output(&mut program(home.path(), &[&measure[..9], &["--json"]].concat()));
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kl = |line: &Value| line["kl_mean"].as_f64().unwrap();
    assert!(lines.len() == 2 && kl(&lines[0]) > kl(&lines[1]), "{json}");
    assert_eq!((&lines[1]["type"], &lines[1]["texts"][1]["text"]), (&"kl".into(), &"code".into()));
    for field in ["kl_median", "kl_p99", "same_top", "perplexity", "reference_perplexity", "bits_with_ranges"] {
        assert!(
            lines[0][field].is_number() && (field == "bits_with_ranges" || lines[0]["texts"][0][field].is_number())
        );
    }
}

#[test]
fn windows_begin_with_the_bos_that_the_tokenizer_puts_before_texts() {
    let home = home(3);
    let (source, model) = (home.path().join("source"), home.path().join("behind-bos"));
    let logits = |to| ["logits", "source", "--text", "inn.txt", "-o", to, "--window", "12", "--windows", "2"];
    program(home.path(), &logits("without")).assert().success();
    let tokenizer = source.join("tokenizer.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&tokenizer).unwrap()).unwrap();
    put_bos_before_texts(&mut json);
    std::fs::write(&tokenizer, json.to_string()).unwrap();
    common::quantize_tiny(&source, &model).unwrap();
    program(home.path(), &logits("r")).assert().success();
    let reference = Reference::open(&home.path().join("r")).unwrap();
    let text = TextModel::open(&ModelFolder::open(&model).unwrap()).unwrap();
    let ids = text.encode(TEXTS[0].1, false).unwrap();
    assert_eq!(reference.tokens(), [&[BOS], &ids[..11], &[BOS], &ids[11..22]].concat());
    let perplexity = |model: &str, words: &[&str]| {
        let measure = ["eval", "-m", model, "--device", "cpu", "--json"];
        let row: Value = serde_json::from_str(&output(&mut program(home.path(), &[&measure, words].concat()))).unwrap();
        row["perplexity"].as_f64().unwrap()
    };
    let of_text = ["--text", "inn.txt", "--window", "12", "--windows", "2"];
    let (behind_bos, bare) = (perplexity("behind-bos", &of_text), perplexity("model", &of_text));
    let of_reference = perplexity("behind-bos", &["--kl", "r"]);
    assert!((behind_bos / of_reference - 1.0).abs() < f64::from(SUMS_DIFFER), "{behind_bos} and {of_reference}");
    assert!((behind_bos / bare - 1.0).abs() > 10.0 * f64::from(SUMS_DIFFER), "{behind_bos} and {bare}");

    // A reference of other windows is one of another model.
    let old =
        program(home.path(), &["eval", "-m", "behind-bos", "--device", "cpu", "--kl", "without"]).assert().failure();
    let message = String::from_utf8(old.get_output().stderr.clone()).unwrap();
    assert!(message.contains("reference `without`: tokens") && message.contains("puts before every text"), "{message}");
}

#[test]
fn the_program_says_what_is_wrong_with_a_text_or_a_reference() {
    let home = home(3);
    std::fs::write(home.path().join("short.txt"), "t").unwrap();
    let logits = |words: &[&str], code| {
        errors(&mut program(home.path(), &[&["logits", "source", "-o", "r"], words].concat()), code)
    };
    assert!(logits(&["--text", "short.txt"], 2).contains("--text `short`: expected two tokens or more, got 1"));
    assert!(logits(&["--text", "inn.txt", "--window", "257"], 0).contains("1 windows"), "one shorter window");
    std::fs::remove_file(home.path().join("r")).unwrap();
    let many = logits(&["--text", "inn.txt", "--window", "8", "--windows", "9"], 2);
    assert!(many.contains("--windows: expected at most 6, which `inn` has of 8 tokens, got 9"), "{many}");
    assert!(logits(&["--text", "inn.txt", "--top", "999"], 2).contains("--top: expected 1 to 263, the size of the"));
    assert!(!home.path().join("r").exists());
    let eval = |words: &[&str], code| {
        let args = ["eval", "-m", "model", "--device", "cpu", "--kl"];
        errors(&mut program(home.path(), &[&args[..], words].concat()), code)
    };
    for words in
        [&["r", "--text", "inn.txt"][..], &["r", "--task", "t"], &["r", "--window", "9"], &["r", "--limit", "9"]]
    {
        assert!(eval(words, 2).contains("cannot be used with"), "{words:?}");
    }
    assert!(eval(&["inn.txt"], 4).contains("inn.txt` is damaged"));
    assert!(eval(&["model/base.safetensors"], 4).contains("expected the facts of a reference, got none"));
}
