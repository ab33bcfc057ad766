//! Contexts that a device cannot do: they are refused before weights are read, and those that are taken come out right.

use crate::common;
use crate::gpu;
use bytemuck::Zeroable;
use edge_run::internals::bench::Synthetic;
use edge_run::internals::cpu;
use edge_run::internals::engine::Engine;
use edge_run::internals::format::layout::TensorSpec;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::kernels::attention::{self, Attention, AttentionBuffers, ContextClass, ScoreRules};
use edge_run::internals::kernels::step_rows::{Cells, StepRow};
use edge_run::internals::model::Model;
use edge_run::internals::model::WeightSource;
use edge_run::internals::recording::{Buffer, Recording, Span};
use edge_run::internals::routing::Thresholds;
use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};
use edge_run::{Error, Result};
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn own_gpu() -> Option<Box<dyn Engine>> {
    gpu::gpu().map(|_| edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap())
}

fn one_head(context: u32) -> LlamaShape {
    LlamaShape {
        layers: 1,
        model_dim: 64,
        ffn_dim: 64,
        heads: 1,
        kv_heads: 1,
        head_dim: 64,
        vocab: 300,
        max_context: context,
        norm_eps: 1e-5,
        tied_head: true,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
    }
}

/// Attention of a token at the last position of a context: the same keys and values on every engine.
fn last_of(engine: &mut dyn Engine, context: u32) -> Vec<f32> {
    let shape = one_head(context);
    let mut rng = StdRng::seed_from_u64(11);
    let mut numbers =
        |count: u32| -> Vec<f16> { (0..count).map(|_| f16::from_f32(rng.random_range(-1.0f32..1.0))).collect() };
    let filled = |engine: &mut dyn Engine, bytes: &[u8]| {
        let buffer = engine.create("test", bytes.len() as u64).unwrap();
        engine.write(buffer.all(), bytes);
        buffer.all()
    };
    let q: Vec<f32> = numbers(64).into_iter().map(f16::to_f32).collect();
    let [keys, values] = [numbers(context * 64), numbers(context * 64)];
    let mut recording = Recording::new();
    let y = recording.transient(64 * 4);
    let buffers = AttentionBuffers {
        q: filled(engine, bytemuck::cast_slice(&q)),
        step_rows: filled(engine, bytemuck::bytes_of(&StepRow { position: context - 1, ..StepRow::zeroed() })),
        keys: filled(engine, bytemuck::cast_slice(&keys)),
        values: filled(engine, bytemuck::cast_slice(&values)),
        y: y.all(),
    };
    let problem = Attention {
        shape: &shape,
        as_alone: false,
        tokens: 1,
        cells: Cells::of_all_positions(context),
        scores: ScoreRules::default(),
        context,
        class: ContextClass::Short,
        quantized_kv: None,
        buffers,
    };
    assert!(attention::record(&mut recording, engine.traits(), &problem).is_none());
    recording.read_back(y.all());
    let mut prepared = engine.prepare(recording).unwrap();
    bytemuck::pod_collect_to_vec(&engine.run(&mut prepared).unwrap()[0])
}

/// How far the GPU is from the processor, relative to the numbers' size: means of thousands are small.
fn distance(gpu: &mut dyn Engine, context: u32) -> f32 {
    let [got, expected] = [last_of(gpu, context), last_of(cpu::open().as_mut(), context)];
    let size = expected.iter().fold(0f32, |size, number| size.max(number.abs()));
    got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

/// Mesa's llvmpipe ends loops early, and says nothing.
#[test]
fn the_longest_context_that_is_taken_is_attended_to_the_end() {
    let Some(mut gpu) = own_gpu() else { return };
    let most = attention::most_positions(gpu.traits(), &one_head(1 << 24));
    let is_llvmpipe = gpu.info().name.contains("llvmpipe");
    assert_eq!(most < u32::MAX, is_llvmpipe, "the limit is of one driver");
    if is_llvmpipe {
        assert!(most > 30_000, "{most}");
        let (within, beyond) = (distance(gpu.as_mut(), most), distance(gpu.as_mut(), most * 2));
        assert!(within < 1e-3, "{within} at {most}");
        assert!(beyond > 0.1, "this driver attends to the end now, so that the limit can go: {beyond}");
    }
}

/// A model whose weights must not be looked at.
struct Untouched(Synthetic);

impl WeightSource for Untouched {
    fn shape(&self) -> &LlamaShape {
        self.0.shape()
    }

    fn group_size(&self) -> u32 {
        self.0.group_size()
    }

    fn thresholds(&self) -> Option<&Thresholds> {
        self.0.thresholds()
    }

    fn load(&self, _: &mut dyn Engine, _: usize, spec: &TensorSpec) -> Result<Buffer> {
        panic!("{} is read", spec.name);
    }

    fn write_vector(&self, _: &mut dyn Engine, spec: &TensorSpec, _: Span) -> Result<()> {
        panic!("{} is read", spec.name);
    }
}

/// Gigabytes were read before a context was refused, in the driver's words.
#[test]
fn a_context_that_a_binding_does_not_hold_is_refused_before_weights_are_read() {
    let Some(gpu) = own_gpu() else { return };
    let traits = gpu.traits();
    // A token's keys so long that as many as a model can have leave any binding.
    let source = Untouched(Synthetic::parse("16384x16384x1x64x64x300", 1).unwrap());
    let context = source.shape().max_context;
    if u64::from(context) * 16384 * 2 <= traits.binding_bytes {
        return;
    }
    let error = Model::load(&source, gpu, context, &mut |_, _| ()).err().expect("no such binding");
    let Error::InvalidArgument { name, expected, got } = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), got.as_str()), ("context", "131072"));
    let most: u32 = expected.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!((1..context).contains(&most), "{error}");
    // What is named as the longest is taken.
    let source = Synthetic::parse("64x64x1x1x1x300", 1).unwrap();
    let gpu = own_gpu().unwrap();
    let most = attention::most_positions(gpu.traits(), source.shape()).min(context);
    assert_eq!(Model::load(&source, gpu, most, &mut |_, _| ()).unwrap().context(), most);
    let longer = Model::load(&source, own_gpu().unwrap(), most + 1, &mut |_, _| ());
    assert!(longer.is_err());
}

/// The driver's words named no flag.
#[test]
fn the_command_line_calls_the_context_by_its_flag_and_names_the_longest_that_works() {
    let Some(gpu) = own_gpu() else { return };
    if !gpu.info().name.contains("llvmpipe") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let shape = LlamaShape { max_context: 1 << 20, ..common::tiny_shape(true) };
    common::TinyModel::new(shape, 7).write_hf(&home.path().join("source"), safetensors::Dtype::F32, 1);
    let model = home.path().join("model");
    common::quantize_tiny(&home.path().join("source"), &model).unwrap();
    let device = gpu.info().index.unwrap().to_string();
    let run = |context: &str| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_edge-run"));
        command.env("XDG_CONFIG_HOME", home.path()).env("XDG_CACHE_HOME", home.path());
        command.args(["--device", &device, "--power-mode", "high", "-m"]).arg(&model);
        let output = command.args(["-n", "1", "-c", context, "-p", "hi"]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).to_string())
    };
    let (code, words) = run("0");
    assert_eq!(code, Some(2), "{words}");
    let at = words.find("--ctx-size: expected at most ").unwrap_or_else(|| panic!("{words}"));
    let most = words[at..].split_whitespace().nth(4).unwrap().to_string();
    let (code, words) = run(&most);
    assert_eq!(code, Some(0), "-c {most}: {words}");
}
