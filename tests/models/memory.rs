//! What a model takes on a device, whatever it was asked before, and what becomes of a device that has no room.

use std::path::Path;

use crate::common;
use crate::gpu;
use crate::logits::logits_at;
use crate::refusing;
use edge_run::internals::bench::Synthetic;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{CacheOptions, Model};
use edge_run::internals::residency::{Pace, RING_BYTES};
use edge_run::{Error, LogitBias, PrecisionPlan};

const CONTEXT: u32 = 512;

/// The GPU as it is, and with its kernels launched as on hardware.
fn gpus() -> Vec<Box<dyn Engine>> {
    let open = |as_hardware| {
        let options = GpuOptions { as_hardware, activations: Activations::F32, ..GpuOptions::default() };
        edge_run::internals::gpu::open(0, options).unwrap()
    };
    gpu::gpu().map(|_| [false, true].map(open).into()).unwrap_or_default()
}

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| 3 + (i * i * 7 + i * 13) % 250).collect()
}

fn plan(bits: f32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits, false, "test").unwrap()
}

/// A tiny model with a feed-forward that takes work space: it is as wide as that of a larger model, and its matrices are
/// as small as work space lets them.
fn folder(dir: &Path) -> ModelFolder {
    let shape = edge_run::internals::shape::LlamaShape {
        layers: 1,
        ffn_dim: 1024,
        max_context: CONTEXT,
        ..common::tiny_shape(false)
    };
    common::TinyModel::new(shape, 5).write_hf(&dir.join("source"), safetensors::Dtype::F32, 1);
    common::quantize_tiny(&dir.join("source"), &dir.join("model")).unwrap();
    ModelFolder::open(&dir.join("model")).unwrap()
}

/// A hundred lengths from 17 to `most`, in no order.
fn lengths(most: u32) -> impl Iterator<Item = u32> {
    (0..100).map(move |i| 17 + i * 61 % (most - 16))
}

/// Prompts of each length took buffers of its own, which stayed.
#[test]
fn prompts_of_many_lengths_take_no_more_than_the_longest() {
    for (engine, few) in gpus().into_iter().zip([1, 5]) {
        let source = Synthetic::parse("64x1024x1x4x2x300", 3).unwrap();
        let model = Model::load(&source, engine, CONTEXT, &mut |_, _| ()).unwrap();
        let mut sequence = model.sequence(&plan(2.0)).unwrap();
        // Longer than the longest prompt, so that each is one step; recordings of whole steps stay.
        model.set_step_tokens(512).unwrap();
        logits_at(&mut sequence, &ids(1), 0);
        let loaded = model.allocated_bytes();
        let most = 300;
        logits_at(&mut sequence, &ids(most), 0);
        let work_space = model.allocated_bytes() - loaded;
        assert!(work_space > 4 << 20, "a prompt takes work space: {work_space}");
        let mut seen = std::collections::HashSet::new();
        for tokens in lengths(most).step_by(few) {
            seen.insert(tokens);
            logits_at(&mut sequence, &ids(tokens), 0);
            let bytes = model.allocated_bytes();
            assert!(bytes <= loaded + work_space * 5 / 4, "{tokens} tokens: {bytes} of {loaded} + {work_space}");
        }
        assert!(seen.len() * few > 90, "{} lengths", seen.len());
        // Work space of a prompt is let go of when shorter ones come.
        for tokens in [20, 1] {
            logits_at(&mut sequence, &ids(tokens), 0);
        }
        assert!(model.allocated_bytes() < loaded + work_space / 2);
    }
}

/// The budget was reckoned with the work space of one length of prompts.
#[test]
fn a_budget_holds_at_every_token_after_prompts_of_many_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let load = |engine, budget| Model::load_base(&folder, engine, CONTEXT, Some(budget), &mut |_, _| ());
    // Every length on the software renderer, and every ninth where that takes longer.
    let engines = || gpus().into_iter().zip([1, 9]).chain([(cpu::open(), 9)]);
    for ((engine, few), (probe, _)) in engines().zip(engines()) {
        let budget = asked_for(load(probe, 1 << 16).err().expect("too little"));
        let model = load(engine, budget).unwrap();
        let mut sequence = model.sequence(&plan(8.0)).unwrap();
        for tokens in lengths(CONTEXT - 20).step_by(few) {
            for ids in [ids(tokens), ids(1), ids(1)] {
                sequence.truncate(0);
                let step = sequence.begin(&ids).unwrap();
                model.advance(Pace::Units(1)).unwrap();
                assert!(model.allocated_bytes() <= budget, "under way, {tokens} tokens");
                sequence.finish(step).unwrap();
                let bytes = model.allocated_bytes();
                assert!(bytes <= budget, "{tokens} tokens: {bytes} of {budget}");
            }
        }
    }
}

/// The MiB that an error of a budget asks for.
fn asked_for(error: Error) -> u64 {
    let message = error.to_string();
    let least = message.strip_prefix("memory budget: expected at least ").and_then(|rest| rest.split_once(" MiB"));
    least.unwrap_or_else(|| panic!("{message}")).0.parse::<u64>().unwrap() << 20
}

/// As much again was set aside for each kind of step, and always for steps of 512 tokens.
#[test]
fn on_the_processor_a_budget_sets_aside_what_a_step_takes_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let taken = [None, Some(16)].map(|step_tokens| {
        let options = CacheOptions { step_tokens, ..CacheOptions::from(CONTEXT) };
        let load = |budget| Model::load_base(&folder, cpu::open(), options, budget, &mut |_, _| ()).unwrap();
        let run = |model: &Model| {
            let mut sequence = model.sequence(&plan(8.0)).unwrap();
            model.settle(None).unwrap();
            for tokens in [model.step_tokens(), 1] {
                sequence.fill(&ids(tokens)).unwrap();
                sequence.truncate(0);
                let step = sequence.begin(&ids(tokens)).unwrap();
                sequence.finish(step).unwrap();
                sequence.truncate(0);
            }
            (model.allocated_bytes(), model.slices().unwrap().resident_bytes)
        };
        let (taken, slices) = run(&load(None));
        // Beside it are chunks on their way and the logits of a few tokens.
        let budget = taken + RING_BYTES.min(slices) + (128 << 10);
        let (bounded, read) = run(&load(Some(budget)));
        assert!(bounded <= budget && read == slices, "{step_tokens:?}: {bounded} of {budget}, {read} of {slices}");
        let refused = load(Some(budget)).set_step_tokens(step_tokens.unwrap_or(512) + 1).unwrap_err().to_string();
        assert!(refused.contains("with a memory budget"), "{refused}");
        taken
    });
    assert!(taken[0] > taken[1] + (4 << 20), "{taken:?}");
}

/// Logits that are kept for a choice under a bias were not counted, nor were their steps, of which each sequence had its
/// own.
#[test]
fn a_budget_holds_where_logits_are_kept_for_several_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let options = || CacheOptions { sequences: 3, ..CacheOptions::from(CONTEXT) };
    let load = |engine, budget| Model::load_base(&folder, engine, options(), Some(budget), &mut |_, _| ());
    let biased = |model: &Model| {
        let mut sequence = model.sequence(&plan(8.0)).unwrap();
        sequence.set_logit_bias(LogitBias::new([(70, 3.0)]).unwrap()).unwrap();
        sequence
    };
    // The least budgets are asked for by engines of their own, the processor's too, which has no pool.
    let engines = || -> Vec<Box<dyn Engine>> { gpus().into_iter().chain([cpu::open()]).collect() };
    for at in 0..engines().len() {
        let engine = || engines().swap_remove(at);
        let base = asked_for(load(engine(), 1 << 16).err().expect("too little"));
        let is_processor = at + 1 == engines().len();
        // On the processor these take less than the rest of the MiB that is asked for.
        let more = |budget: u64, begun: edge_run::Result<_>| match begun.err() {
            Some(refused) => asked_for(refused),
            None => {
                assert!(is_processor, "{budget} is too little");
                budget
            }
        };
        let for_bias = more(base, biased(&load(engine(), base).unwrap()).begin(&ids(3)));
        let mut sequence = biased(&load(engine(), for_bias).unwrap());
        let step = sequence.begin(&ids(3)).unwrap_or_else(|error| panic!("{at}: {base}, {for_bias}: {error}"));
        sequence.finish(step).unwrap();
        // Log-probabilities read logits back, which is another step.
        sequence.read_logits(true);
        let budget = more(for_bias, sequence.begin(&ids(1)));
        assert!(is_processor || (base < for_bias && for_bias < budget), "{base}, {for_bias}, {budget}");
        let model = load(engine(), budget).unwrap();
        let mut sequences = [biased(&model), biased(&model), biased(&model)];
        model.settle(None).unwrap();
        let few = if at == 0 { 5 } else { 17 };
        for (turn, tokens) in lengths(CONTEXT - 20).step_by(few).enumerate() {
            for sequence in &mut sequences {
                sequence.read_logits(turn > 2);
                for ids in [ids(tokens), ids(1), ids(1)] {
                    sequence.truncate(0);
                    let step = sequence.begin(&ids).unwrap();
                    model.advance(Pace::Units(1)).unwrap();
                    assert!(model.allocated_bytes() <= budget, "under way, {tokens} tokens");
                    sequence.finish(step).unwrap();
                    let bytes = model.allocated_bytes();
                    assert!(bytes <= budget, "{tokens} tokens: {bytes} of {budget}");
                }
            }
        }
    }
}

/// Where one of them could not be had, those before it stayed.
#[test]
fn buffers_for_kept_logits_that_cannot_all_be_had_leave_nothing_behind() {
    let source = Synthetic::parse("256x1024x1x4x2x300", 3).unwrap();
    for engine in gpus().into_iter().chain([cpu::open()]) {
        let (engine, refuses) = refusing::refusing(engine);
        let model = Model::load(&source, engine, CONTEXT, &mut |_, _| ()).unwrap();
        let mut sequence = model.sequence(&plan(2.0)).unwrap();
        sequence.set_logit_bias(LogitBias::new([(70, 3.0)]).unwrap()).unwrap();
        let before = model.allocated_bytes();
        for buffers in 0..4 {
            refuses.set_after(buffers);
            let error = sequence.begin(&ids(1)).err().expect("no room");
            assert!(error.to_string().contains("no room"), "{error}");
            assert_eq!(model.allocated_bytes(), before, "after {buffers}");
        }
        refuses.set(false);
        let step = sequence.begin(&ids(1)).unwrap();
        sequence.finish(step).unwrap();
    }
}

/// A buffer that cannot be had ended the process.
#[test]
fn a_buffer_that_cannot_be_had_is_an_error_of_the_device() {
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap());
    for mut engine in [cpu::open()].into_iter().chain(gpu) {
        let before = engine.allocated_bytes();
        for bytes in [1 << 60, u64::MAX - 3, u64::MAX] {
            let error = engine.create("keys", bytes).unwrap_err();
            assert!(matches!(&error, Error::Device { message, .. } if message.contains("keys")), "{error}");
            let mut recording = edge_run::internals::recording::Recording::new();
            recording.transient(bytes);
            let error = engine.prepare(recording).err().expect("no such transient");
            assert!(matches!(error, Error::Device { .. }), "{error}");
        }
        assert_eq!(engine.allocated_bytes(), before);
        engine.create("small", 64).expect("what is small fits all the same");
    }
}

/// As where memory is short and the system promises none that it does not have.
#[cfg(unix)]
#[test]
fn a_context_that_memory_does_not_hold_ends_the_program_with_the_code_of_the_device() {
    let home = tempfile::tempdir().unwrap();
    let shape = edge_run::internals::shape::LlamaShape { max_context: 1 << 24, ..common::tiny_shape(true) };
    common::TinyModel::new(shape, 7).write_hf(&home.path().join("source"), safetensors::Dtype::F32, 1);
    let model = home.path().join("model");
    common::quantize_tiny(&home.path().join("source"), &model).unwrap();
    let run = |context: &str| {
        let mut command = assert_cmd::Command::new("sh");
        command.env("XDG_CONFIG_HOME", home.path()).env("XDG_CACHE_HOME", home.path());
        let limited = "ulimit -v 2000000 && exec \"$@\"";
        command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_edge-run"), "--device", "cpu", "--power-mode", "high"]);
        command.arg("-m").arg(&model).args(["-n", "2", "-c", context, "-p", "hi"]).output().unwrap()
    };
    // Four buffers of a GiB, where all together may be less than two.
    let output = run("0");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{words}");
    assert!(words.contains("has no room for a context of 16777216 tokens") && words.contains("(-c sets"), "{words}");
    assert_eq!(run("256").status.code(), Some(0), "a small context fits");
}
