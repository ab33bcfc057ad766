//! Tokenizers, special tokens and recommendations as people's files have them, from the source to the answer.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::gguf::{GgufType, GgufValue};
use crate::common::{END_OF_TURN, TinyModel, tiny_shape};
use assert_cmd::Command;
use edge_run::internals::cpu;
use edge_run::internals::format::ModelFolder;
use edge_run::internals::model::Model;
use edge_run::internals::session::{Next, StopReason, Summary};
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{PrecisionPlan, Session};
use safetensors::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A model that says `answer` again and again, whatever the prompt: each token follows from the one before it alone.
fn saying(answer: &[u32]) -> TinyModel {
    let mut model = TinyModel::new(tiny_shape(false), 3);
    let dims = model.shape.model_dim as usize;
    for (name, (_, weights)) in &mut model.tensors {
        if ["o_proj", "down_proj", "embed_tokens", "lm_head"].iter().any(|part| name.contains(part)) {
            weights.fill(0.0);
        }
    }
    // Every token points in the first direction, those of the answer each in its own.
    let embed = &mut model.tensors.get_mut("model.embed_tokens.weight").unwrap().1;
    embed.chunks_exact_mut(dims).for_each(|row| row[0] = 1.0);
    for (place, id) in answer.iter().enumerate() {
        embed[*id as usize * dims..][..dims].fill(0.0);
        embed[*id as usize * dims + 1 + place] = 1.0;
    }
    let head = &mut model.tensors.get_mut("lm_head.weight").unwrap().1;
    for (place, id) in answer.iter().enumerate() {
        head[*id as usize * dims + place] = 4.0;
    }
    head[answer[0] as usize * dims + answer.len()] = 4.0;
    model
}

/// A folder for a source and its model.
struct Work {
    home: TempDir,
}

impl Work {
    /// With the source `model`, and further files or others in place of its own.
    fn new(model: &TinyModel, files: &[(&str, String)]) -> Work {
        let work = Work { home: tempfile::tempdir().unwrap() };
        model.write_hf(&work.path("source"), Dtype::F32, 1);
        files.iter().for_each(|(name, text)| fs::write(work.path("source").join(name), text).unwrap());
        work
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The program in this folder.
    fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
        for home in ["HOME", "XDG_CONFIG_HOME", "APPDATA", "XDG_CACHE_HOME"] {
            command.env(home, self.home.path());
        }
        command.current_dir(self.home.path()).args(words);
        command
    }

    /// Makes the model of the source; what is said meanwhile.
    fn quantize(&self, source: &str) -> String {
        let done = self.program(&["quantize", source, "-o", "model", "--force"]).assert().success();
        String::from_utf8(done.get_output().stderr.clone()).unwrap()
    }

    /// An answer of the model: its text, and what is said meanwhile.
    fn run(&self, words: &[&str]) -> (String, String) {
        let usual = ["--device", "cpu", "-m", "model", "--bits", "8", "-n", "8", "-p"];
        let done = self.program(&[&usual, words].concat()).assert().success();
        let output = done.get_output();
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap()).into()
    }

    fn generation(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("model/generation_config.json")).unwrap()).unwrap()
    }

    /// The warnings of a fault of the source's GGUF file with these keys, after which it must run.
    fn gguf(&self, model: &TinyModel, changes: &[(&str, GgufValue)]) -> String {
        model.write_gguf_with(&self.path("source.gguf"), GgufType::F32, changes);
        let said = self.quantize("source.gguf");
        self.run(&["hi"]);
        said
    }
}

/// The source's tokenizer with another added token.
fn with_token(work: &Work, id: u32, content: &str) -> String {
    let text = fs::read(work.path("source/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&text).unwrap();
    let token = json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    tokenizer.to_string()
}

/// The token of the first byte of a euro sign, by which alone no character is complete.
fn half_a_character() -> u32 {
    let work = Work::new(&TinyModel::new(tiny_shape(true), 1), &[]);
    work.quantize("source");
    let text = TextModel::open(&ModelFolder::open(&work.path("model")).unwrap()).unwrap();
    text.encode("€", false).unwrap()[0]
}

#[test]
fn answers_end_where_only_the_tokenizer_s_configuration_names_the_end() {
    let model = saying(&[END_OF_TURN]);
    let tokenizer = json!({"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|endoftext|>"}).to_string();
    for (config, generation) in
        [(json!({"eos_token_id": 0}), "{}"), (json!({}), "null"), (json!({}), "{\"eos_token_id\": 0}")]
    {
        let work = Work::new(&model, &[("tokenizer_config.json", tokenizer.clone())]);
        fs::write(work.path("source/generation_config.json"), generation).unwrap();
        let mut all: Value = serde_json::from_slice(&fs::read(work.path("source/config.json")).unwrap()).unwrap();
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        fs::write(work.path("source/config.json"), all.to_string()).unwrap();
        work.quantize("source");
        let (text, said) = work.run(&["hi"]);
        assert_eq!(text, "");
        assert!(said.contains(" 0 generated") && said.contains("end of turn"), "{said}");
        assert_eq!(work.generation()["bos_token"], "<|endoftext|>");
        assert_eq!(work.generation()["eos_token"], "<|im_end|>");
    }
}

#[test]
fn answers_of_a_gguf_file_end_at_turn_ends_that_it_does_not_name() {
    let work = Work { home: tempfile::tempdir().unwrap() };
    work.gguf(&saying(&[END_OF_TURN]), &[("tokenizer.ggml.eos_token_id", GgufValue::U32(0))]);
    let (_, said) = work.run(&["hi"]);
    assert!(said.contains(" 0 generated") && said.contains("end of turn"), "{said}");
    assert_eq!(work.generation()["eos_token_id"], json!([0, END_OF_TURN]));
}

#[test]
fn half_a_character_at_the_end_of_a_turn_is_shown() {
    let half = half_a_character();
    let work = Work::new(&saying(&[half, END_OF_TURN]), &[]);
    work.quantize("source");
    let (text, said) = work.run(&["hi"]);
    assert_eq!(text, "\u{fffd}\n");
    assert!(said.contains(" 1 generated") && said.contains("end of turn"), "{said}");
    let (lines, _) = work.run(&["hi", "--json"]);
    let summary: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(summary["text_left"], "\u{fffd}");
}

#[test]
fn text_held_back_is_handed_out_at_every_end() {
    let half = half_a_character();
    let work = Work::new(&saying(&[half, END_OF_TURN]), &[]);
    work.quantize("source");
    let folder = ModelFolder::open(&work.path("model")).unwrap();
    let answer = |most: Option<usize>, next: Next| -> (String, Summary) {
        let model = Model::load(&folder, cpu::open(), 32, &mut |_, _| ()).unwrap();
        let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
        let plan = PrecisionPlan::for_bits(8.0, false, "test").unwrap();
        let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), greedy, plan).unwrap();
        let mut text = String::new();
        let summary = session.generate(&[70], most, &mut |token| {
            text += &token.text;
            Ok(next.clone())
        });
        (text, summary.unwrap())
    };
    for (most, next, stop) in [
        (None, Next::Go, StopReason::EndOfTurn),
        (None, Next::Stop, StopReason::Stopped),
        (Some(1), Next::Go, StopReason::Length),
    ] {
        let (text, summary) = answer(most, next);
        assert_eq!(summary.stop, stop);
        assert_eq!(text + &summary.text_left, "\u{fffd}", "{stop:?}");
    }
}

#[test]
fn a_padding_past_the_vocabulary_does_no_harm_until_a_prompt_has_it() {
    let model = TinyModel::new(tiny_shape(true), 5);
    let work = Work::new(&model, &[]);
    let vocab = model.shape.vocab;
    fs::write(work.path("source/tokenizer.json"), with_token(&work, vocab, "[PAD]")).unwrap();
    let said = work.quantize("source");
    assert!(said.contains("warning: ") && said.contains(&format!("`[PAD]` with id {vocab}")), "{said}");
    let said = work.program(&["verify", "model"]).assert().success();
    assert!(String::from_utf8_lossy(&said.get_output().stderr).contains("`[PAD]`"));
    work.run(&["hello"]);
    let words = ["--device", "cpu", "-m", "model", "--raw", "-p", "hello [PAD]"];
    let refused = work.program(&words).assert().code(4);
    let said = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    let expected = format!("token `[PAD]` of this text: expected an id below {vocab}");
    assert!(said.contains(&expected) && said.contains(&format!("got {vocab}")), "{said}");
    // A text that has a name is named.
    fs::write(work.path("notes.txt"), "what was said then [PAD] ".repeat(40)).unwrap();
    let quantize = ["quantize", "source", "-o", "other", "--importance", "notes.txt"];
    let eval = ["eval", "--device", "cpu", "-m", "model", "--text", "notes.txt", "--window", "16"];
    for (words, flag) in [(&quantize[..], "--importance"), (&eval, "--text")] {
        let refused = work.program(words).assert().code(4);
        let said = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
        let expected = format!("token `[PAD]` of {flag} `notes.txt`: expected an id below {vocab}");
        assert!(said.contains(&expected), "{said}");
    }
    assert!(!work.path("other").exists());
    fs::write(work.path("notes.txt"), "too little").unwrap();
    let refused = work.program(&quantize).assert().code(2);
    let said = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(said.contains("--importance `notes.txt`: expected 64 tokens or more, got "), "{said}");
}

#[test]
fn a_tokenizer_that_no_run_takes_is_refused_before_the_weights_are_read() {
    let model = TinyModel::new(tiny_shape(true), 5);
    let broken = with_token(&Work::new(&model, &[]), 1, "x").replace("[\"t\",\"h\"]", "[\"t\",\"zz\"]");
    let work = Work::new(&model, &[("tokenizer.json", broken.clone())]);
    let refused = work.program(&["quantize", "source", "-o", "model"]).assert().code(4);
    let said = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(said.contains("tokenizer.json") && said.contains("`zz`") && !said.contains("will take"), "{said}");
    assert!(!work.path("model").exists());

    // A folder of before that has such a tokenizer, its hash and all: verify says what a run would.
    let work = Work::new(&model, &[]);
    work.quantize("source");
    replace(&work.path("model"), "tokenizer.json", &broken);
    let verified = work.program(&["verify", "model"]).assert().code(4);
    let run = work.program(&["--device", "cpu", "-m", "model", "-p", "hi"]).assert().code(4);
    assert_eq!(verified.get_output().stderr, run.get_output().stderr);
}

/// Replaces a file of a model folder, and what the manifest says of it.
fn replace(model: &Path, name: &str, text: &str) {
    fs::write(model.join(name), text).unwrap();
    let file = model.join("edge-run.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let hash: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    manifest["files"][name]["bytes"] = text.len().into();
    manifest["files"][name]["sha256"] = hash.into();
    fs::write(file, manifest.to_string()).unwrap();
}

#[test]
fn recommendations_that_cannot_be_followed_are_told_and_the_others_followed() {
    let generation = r#"{"eos_token_id": 2, "top_k": -1, "top_p": "much", "temperature": NaN, "min_p": 0.25}"#;
    let work = Work::new(&TinyModel::new(tiny_shape(true), 5), &[("generation_config.json", generation.into())]);
    let said = work.quantize("source");
    for word in ["top_k is -1", "top_p: expected", "temperature: expected"] {
        assert!(said.contains("warning: ") && said.contains(word), "{word}: {said}");
    }
    assert_eq!(work.generation(), json!({"eos_token_id": [2], "top_k": 0, "min_p": 0.25}));
    assert!(!work.run(&["hello"]).1.contains("warning"), "they were told once");

    // A folder of before has them still.
    replace(&work.path("model"), "generation_config.json", generation);
    assert!(work.run(&["hello"]).1.contains("warning: "));
    replace(&work.path("model"), "generation_config.json", "<html>");
    assert!(work.run(&["hello"]).1.contains("generation_config.json"));
}

#[test]
fn a_model_that_is_not_to_be_sampled_from_is_not() {
    let generation = r#"{"eos_token_id": [], "do_sample": false, "temperature": 5.0}"#;
    let work = Work::new(&TinyModel::new(tiny_shape(true), 5), &[("generation_config.json", generation.into())]);
    work.quantize("source");
    let answers: Vec<String> = ["1", "2", "3"].map(|seed| work.run(&["hello", "-s", seed]).0).into();
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
    assert_eq!(work.run(&["hello", "--temp", "0"]).0, answers[0]);
    assert_ne!(work.run(&["hello", "-s", "1", "--temp", "5"]).0, answers[0], "a flag stands above it");
}

#[test]
fn metadata_of_gguf_that_nothing_needs_do_not_refuse_the_file() {
    let work = Work { home: tempfile::tempdir().unwrap() };
    let model = TinyModel::new(tiny_shape(true), 5);
    let list = GgufValue::Array(vec![GgufValue::String("a".into())]);
    for (key, value) in [
        ("tokenizer.ggml.padding_token_id", GgufValue::U32(u32::MAX)),
        ("tokenizer.ggml.padding_token_id", GgufValue::I32(-1)),
        ("tokenizer.ggml.eos_token_id", GgufValue::U64(u64::MAX)),
        ("tokenizer.ggml.eot_token_id", GgufValue::U32(99_999)),
        ("tokenizer.ggml.bos_token_id", GgufValue::F32(f32::NAN)),
        ("tokenizer.ggml.add_bos_token", GgufValue::U8(7)),
        ("tokenizer.chat_template", list.clone()),
        ("general.name", list.clone()),
        ("general.license", list),
    ] {
        let said = work.gguf(&model, &[(key, value.clone())]);
        assert!(said.contains("warning: ") && said.contains(key), "{key} {value:?}: {said}");
    }
    let said = work.gguf(&model, &[("tokenizer.ggml.add_bos_token", GgufValue::U8(0))]);
    assert!(!said.contains("warning"), "{said}");
}
