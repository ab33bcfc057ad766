//! Models whose numbers leave the range of their types: generation and evaluation stop and say so.

use std::ops::ControlFlow;

use crate::common::{TinyModel, quantize_tiny, tiny_shape};
use crate::gpu;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::eval::perplexity;
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::CacheOptions;
use edge_run::internals::model::Model;
use edge_run::internals::session::Next;
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{CacheType, Depth, Error, PrecisionPlan, Session};
use safetensors::Dtype;

/// A weight by whose size a model is spoilt.
const SPOILT: [(&str, f32); 3] = [
    // The logits leave f32.
    ("model.norm.weight", 1.5e38),
    // The values of the second layer leave the f16 of the cache.
    ("model.layers.1.input_layernorm.weight", 1e30),
    // The hidden units of the second layer leave f32.
    ("model.layers.1.post_attention_layernorm.weight", 1.5e38),
];

/// The folder of a tiny model with one weight multiplied by `factor`.
fn spoilt(name: &str, factor: f32) -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut model = TinyModel::new(tiny_shape(true), 5);
    model.tensors.get_mut(name).expect("a tensor of this name").1.iter_mut().for_each(|weight| *weight *= factor);
    model.write_hf(&dir.path().join("source"), Dtype::F32, 1);
    quantize_tiny(&dir.path().join("source"), &dir.path().join("model")).expect("finite weights");
    let folder = ModelFolder::open(&dir.path().join("model")).expect("a sound folder");
    (dir, folder)
}

/// The CPU engine, and where there is a GPU that with both kinds of activations.
fn engines() -> Vec<(Activations, Box<dyn Engine>)> {
    let mut engines = vec![(Activations::F32, cpu::open())];
    for activations in [Activations::F32, Activations::Int8] {
        let options = GpuOptions { as_hardware: true, activations, ..GpuOptions::default() };
        if let Some(engine) = open_gpu(options) {
            engines.push((activations, engine));
        }
    }
    engines
}

/// The first adapter, where there is one; the suites' own `gpu` says so where there is none.
fn open_gpu(options: GpuOptions) -> Option<Box<dyn Engine>> {
    gpu::gpu().map(|_| edge_run::internals::gpu::open(0, options).expect("the first adapter opens"))
}

fn plan() -> PrecisionPlan {
    PrecisionPlan::uniform(Depth::FULL, "test")
}

fn load(folder: &ModelFolder, engine: Box<dyn Engine>, cache_type: CacheType) -> Model {
    let cache = CacheOptions { cache_type, ..CacheOptions::from(64) };
    Model::load(folder, engine, cache, &mut |_, _| ()).expect("a sound model")
}

/// The tokens generated, and what stopped it.
fn generate(folder: &ModelFolder, model: Model) -> (usize, Result<(), Error>) {
    let text = TextModel::open(folder).expect("a sound text side");
    let settings = SamplerSettings { seed: Some(1), ..SamplerSettings::default() };
    let mut session = Session::new(&model, text, settings, plan()).expect("sound settings");
    let mut tokens = 0;
    let done = session.generate(&[5, 9, 200], Some(8), &mut |_| {
        tokens += 1;
        Ok(Next::Go)
    });
    (tokens, done.map(drop))
}

#[test]
fn generation_stops_where_no_logit_is_a_number() {
    for (name, factor) in SPOILT {
        let (_dir, folder) = spoilt(name, factor);
        for (activations, engine) in engines() {
            let device = engine.info().name.clone();
            let (tokens, done) = generate(&folder, load(&folder, engine, CacheType::F16));
            let told = matches!(&done, Err(Error::NoNumbers { tokens: 3, device: told }) if *told == device);
            assert!(told && tokens == 0, "{name} on {device} with {activations:?}: {tokens} tokens, {done:?}");
        }
    }
    let (_dir, folder) = spoilt("model.norm.weight", 1.0);
    for (activations, engine) in engines() {
        let (tokens, done) = generate(&folder, load(&folder, engine, CacheType::F16));
        assert!(tokens > 0 && done.is_ok(), "a sound model with {activations:?}: {done:?}");
    }
}

#[test]
fn perplexity_is_refused_where_a_logit_is_no_number() {
    let ids: Vec<u32> = (0..48).map(|at| at * 5 % 250).collect();
    for (name, factor) in SPOILT {
        let (_dir, folder) = spoilt(name, factor);
        for (activations, engine) in engines() {
            let model = load(&folder, engine, CacheType::F16);
            let mut sequence = model.sequence(&plan()).expect("a uniform plan");
            let report = perplexity(&mut sequence, &ids, 16, None, &mut |_, _, _| ControlFlow::Continue(()));
            let told = matches!(report, Err(Error::NoNumbers { tokens: 1, .. }));
            assert!(told, "{name} with {activations:?}: {report:?}");
        }
    }
}
