//! A tiny model with its kernels launched as on a GPU, on a software renderer too, against the CPU.

use crate::common;
use crate::gpu;
use crate::logits::logits_at;
use crate::routed;
use edge_run::PrecisionPlan;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::Model;
use edge_run::internals::model::Sequence;

/// Long enough for attention in splits.
const CONTEXT: u32 = 700;
/// As in tests/models/routing.rs.
const ENGINES_DIFFER: f32 = 0.02;

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| 3 + (i * i * 7 + i * 13) % 250).collect()
}

/// A sequence on the CPU, and one on the GPU with its kernels launched as on a GPU.
fn sequences(plan: &PrecisionPlan) -> Option<[Sequence; 2]> {
    drop(gpu::gpu()?);
    let dir = tempfile::tempdir().unwrap();
    let shape = edge_run::internals::shape::LlamaShape { max_context: CONTEXT, ..common::tiny_shape(true) };
    common::TinyModel::new(shape, 11).write_hf(&dir.path().join("source"), safetensors::Dtype::F32, 1);
    let model = dir.path().join("model");
    common::quantize_tiny(&dir.path().join("source"), &model).unwrap();
    routed::add_routers(&model, 5);
    let folder = ModelFolder::open(&model).unwrap();
    let options =
        GpuOptions { checks: true, cooperative_matrix: false, as_hardware: true, activations: Activations::F32 };
    let gpu = edge_run::internals::gpu::open(0, options).unwrap();
    assert!(!gpu.traits().software);
    let open = |engine: Box<dyn Engine>| {
        let model = Model::load(&folder, engine, CONTEXT, &mut |_, _| ()).unwrap();
        model.sequence(plan).unwrap()
    };
    Some([open(cpu::open()), open(gpu)])
}

fn assert_alike(what: &str, numbers: [Vec<f32>; 2]) {
    assert_eq!(numbers[0].len(), numbers[1].len());
    for (at, (a, b)) in numbers[0].iter().zip(&numbers[1]).enumerate() {
        assert!((a - b).abs() < ENGINES_DIFFER, "{what}, {at}: {a} and {b}");
    }
}

#[test]
fn prompts_and_tokens_at_any_position_are_those_of_the_cpu() {
    let plan = |bits| PrecisionPlan::for_bits(bits, false, "test").unwrap();
    let Some(mut sequences) = sequences(&plan(2.0)) else { return };
    for bits in [2.0, 4.0, 8.0] {
        sequences.iter_mut().for_each(|sequence| sequence.set_plan(&plan(bits)).unwrap());
        // Lengths about the edges of tiles and steps; positions on both sides of where splits begin.
        for (tokens, position) in [(1, 0), (17, 1), (64, 18), (65, 82), (300, 147), (64, 447), (1, 511), (1, 512)] {
            let logits = sequences.each_mut().map(|sequence| logits_at(sequence, &ids(tokens), position).logits);
            assert_alike(&format!("{bits} bits, {tokens} at {position}"), logits);
        }
        let logits = sequences.each_mut().map(|sequence| logits_at(sequence, &[9], 513).logits);
        assert_alike(&format!("{bits} bits, at 513"), logits.clone());
        let other = logits_at(&mut sequences[1], &[8], 513).logits;
        assert!(other.iter().zip(&logits[0]).any(|(a, b)| (a - b).abs() > ENGINES_DIFFER), "another token is noticed");
    }
}

#[test]
fn a_step_longer_than_usual_is_that_of_the_cpu() {
    let plan = PrecisionPlan::for_bits(6.0, false, "test").unwrap();
    let Some(mut sequences) = sequences(&plan) else { return };
    let logits = sequences.each_mut().map(|sequence| {
        sequence.model().set_step_tokens(CONTEXT).unwrap();
        logits_at(sequence, &ids(CONTEXT - 9), 0).logits
    });
    assert_alike("a long step", logits.clone());
    let other = logits_at(&mut sequences[1], &ids(CONTEXT - 10), 0).logits;
    assert!(other.iter().zip(&logits[0]).any(|(a, b)| (a - b).abs() > ENGINES_DIFFER), "another prompt is noticed");
}

#[test]
fn routed_prompts_are_those_of_the_cpu_while_depths_agree() {
    let plan = PrecisionPlan::for_bits(4.5, true, "test").unwrap();
    let Some(mut sequences) = sequences(&plan) else { return };
    let scores = sequences.each_mut().map(|sequence| sequence.token_nll(&ids(200)).unwrap());
    let layers = sequences[0].model().shape().layers as usize;
    let places: Vec<_> =
        (0..layers).flat_map(|layer| edge_run::internals::shape::Site::ALL.map(|site| (layer, site))).collect();
    let differs = |token: &usize| {
        places.iter().any(|(l, s)| scores[0].depths.at(*l, *s)[*token] != scores[1].depths.at(*l, *s)[*token])
    };
    let alike = (0..scores[0].depths.tokens()).find(differs).unwrap_or(scores[0].depths.tokens());
    assert!(alike > 50, "only {alike} tokens alike");
    assert_alike("nll", scores.map(|scores| scores.nll[..alike].to_vec()));
}
