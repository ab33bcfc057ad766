//! Models whose numbers leave their range: no text is made of what is no number, on any engine, and one is told where.

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use std::ops::ControlFlow;
use std::path::Path;

use assert_cmd::Command;
use edge_run::engine::{Activations, Engine};
use edge_run::eval::perplexity;
use edge_run::format::ModelFolder;
use edge_run::gpu::GpuOptions;
use edge_run::model::CacheOptions;
use edge_run::session::Next;
use edge_run::shape::LlamaShape;
use edge_run::text::{SamplerSettings, TextModel};
use edge_run::{CacheType, Error, Model, PrecisionPlan, Session, cpu};

const CONTEXT: u32 = 64;
const PROMPT: [u32; 5] = [70, 80, 90, 100, 110];

/// What is made too large: the keys or the values of layer 1, beyond f16, or what its feed-forward adds, beyond f32.
const OVERFLOWS: [&str; 3] = ["self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"];

/// A model in which `part` of layer 1 leaves its range, if any does.
fn model(dir: &Path, part: Option<&str>) -> ModelFolder {
    let shape = LlamaShape { head_dim: 32, ..common::tiny_shape(true) };
    let mut model = common::TinyModel::new(shape, 11);
    let mut multiply = |name: &str, by: f32| {
        let (_, weights) = model.tensors.get_mut(&format!("model.layers.1.{name}.weight")).unwrap();
        weights.iter_mut().for_each(|weight| *weight *= by);
    };
    match part {
        Some("mlp.down_proj") => {
            multiply("post_attention_layernorm", 1e18);
            multiply("mlp.down_proj", 1e4);
        }
        Some(part) => multiply(part, 2e5),
        None => (),
    }
    model.write_hf(&dir.join("source"), safetensors::Dtype::F32, 1);
    common::quantize_tiny(&dir.join("source"), &dir.join("model")).unwrap();
    ModelFolder::open(&dir.join("model")).unwrap()
}

/// Opens a device in one of the ways in which a model runs on it.
type Open = Box<dyn Fn() -> Box<dyn Engine>>;

fn ways() -> Vec<(&'static str, Open)> {
    let mut ways: Vec<(&'static str, Open)> = vec![("cpu", Box::new(cpu::open))];
    ways.push(("cpu in int8", Box::new(|| cpu::open_with(Activations::Int8))));
    if gpu::gpu().is_some() {
        for (name, as_hardware, activations) in [
            ("as processors", false, Activations::F32),
            ("as a GPU", true, Activations::F32),
            ("in int8", true, Activations::Int8),
        ] {
            let options = GpuOptions { as_hardware, activations, ..GpuOptions::default() };
            ways.push((name, Box::new(move || edge_run::gpu::open(0, options).unwrap())));
        }
    }
    ways
}

fn plan() -> PrecisionPlan {
    PrecisionPlan::for_bits(8.0, false, "test").unwrap()
}

fn session(folder: &ModelFolder, engine: Box<dyn Engine>, cache_type: CacheType, step_tokens: u32) -> Session {
    let cache = CacheOptions { context: CONTEXT, cache_type };
    let mut model = Model::load(folder, engine, cache, &mut |_, _| ()).unwrap();
    model.set_step_tokens(step_tokens).unwrap();
    let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
    Session::new(model, TextModel::open(folder).unwrap(), greedy, plan()).unwrap()
}

/// The ids of an answer, and its error, if it is one.
fn answer(session: &mut Session) -> (Vec<u32>, Option<Error>) {
    let mut ids = Vec::new();
    let answered = session.generate(&PROMPT, Some(6), &mut |token| {
        ids.push(token.id);
        Ok(Next::Go)
    });
    (ids, answered.err())
}

#[test]
fn numbers_that_are_none_end_the_answer_and_are_not_taken_for_token_0() {
    for part in OVERFLOWS {
        let dir = tempfile::tempdir().unwrap();
        let folder = model(dir.path(), Some(part));
        for (name, open) in ways() {
            for (cache_type, step_tokens) in
                [(CacheType::F16, 512), (CacheType::F16, 1), (CacheType::Q8, 512), (CacheType::Q8, 1)]
            {
                let mut session = session(&folder, open(), cache_type, step_tokens);
                session.run_ahead(step_tokens == 1);
                let (ids, error) = answer(&mut session);
                let error = error.unwrap_or_else(|| panic!("{part} {name} {cache_type} {step_tokens}: {ids:?}"));
                assert!(ids.is_empty() && matches!(error, Error::NoNumbers { token: 5, .. }), "{part} {name}: {error}");
                let again = answer(&mut session).1;
                assert!(matches!(again, Some(Error::NoNumbers { token: 5, .. })), "nothing counts: {again:?}");
            }
        }
    }
}

#[test]
fn a_sound_model_of_the_same_kind_answers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = model(dir.path(), None);
    for (name, open) in ways() {
        for cache_type in [CacheType::F16, CacheType::Q8] {
            let (ids, error) = answer(&mut session(&folder, open(), cache_type, 512));
            assert!(!ids.is_empty() && error.is_none(), "{name}, {cache_type}: {error:?}");
        }
    }
}

#[test]
fn a_perplexity_that_is_no_number_is_an_error() {
    for part in OVERFLOWS {
        let dir = tempfile::tempdir().unwrap();
        let folder = model(dir.path(), Some(part));
        for (name, open) in ways() {
            let mut model = Model::load(&folder, open(), CONTEXT, &mut |_, _| ()).unwrap();
            let measured = perplexity(&mut model, &PROMPT, 5, None, &plan(), &mut |_, _, _| ControlFlow::Continue(()));
            assert!(matches!(measured, Err(Error::NoNumbers { token: 1, .. })), "{part}, {name}: {measured:?}");
        }
    }
}

#[test]
fn the_program_says_so_and_what_to_try() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path(), Some("self_attn.k_proj"));
    let program = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
        command.current_dir(dir.path()).env("XDG_CONFIG_HOME", dir.path()).env("XDG_CACHE_HOME", dir.path());
        command.args(words).args(["--device", "cpu", "-m", "model"]);
        let output = command.assert().code(8).stdout("").get_output().stderr.clone();
        String::from_utf8(output).unwrap()
    };
    std::fs::write(dir.path().join("text.txt"), "the in the in ".repeat(20)).unwrap();
    let generate = program(&["--power-mode", "high", "--raw", "-p", "the"]);
    let eval = program(&["eval", "--text", "text.txt", "--window", "16"]);
    for errors in [generate, eval] {
        assert!(errors.contains("processor: the model computed no numbers for what follows token 1 of"), "{errors}");
        for flag in ["edge-run verify", "--device cpu", "--no-cooperative-matrix", "--activations f32", "--cache-type"]
        {
            assert!(errors.contains(flag), "{flag}: {errors}");
        }
    }
}
