//! Buffers that tests fill, recordings that they run once, and numbers out of what was read back.

#![allow(dead_code, reason = "each test program uses a part of this")]

use bytemuck::Zeroable;
use edge_run::internals::engine::Engine;
use edge_run::internals::kernels::router::Routers;
use edge_run::internals::kernels::step_rows::StepRow;
use edge_run::internals::recording::{Buffer, Recording, Span};
use edge_run::internals::routing::{HIDDEN, REST};
use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};
use half::f16;
use rand::RngExt;
use rand::rngs::StdRng;

/// Records a computation over buffers that it fills itself, and returns the ranges to read.
pub type Build<'a> = &'a dyn Fn(&mut dyn Engine, &mut Recording) -> Vec<Span>;

/// Runs it, and returns the ranges in words.
pub fn run(engine: &mut dyn Engine, build: Build<'_>) -> Vec<Vec<u32>> {
    let mut recording = Recording::new();
    build(engine, &mut recording).into_iter().for_each(|output| recording.read_back(output));
    let mut prepared = engine.prepare(recording).expect("the recording can be prepared");
    let results = engine.run(&mut prepared).expect("the recording runs");
    results.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect()
}

/// A buffer that holds `data`.
pub fn upload<T: bytemuck::Pod>(engine: &mut dyn Engine, data: &[T]) -> Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let buffer = engine.create("test", bytes.len() as u64).expect("room for a test buffer");
    engine.write(buffer.all(), bytes);
    buffer
}

/// Rows of a step of one sequence, whose cells are the first ones, with a token at each of these positions.
pub fn rows_at(positions: impl IntoIterator<Item = u32>) -> Vec<StepRow> {
    let row = |(at, position)| StepRow { position, depth_row: at, ..StepRow::zeroed() };
    (0..).zip(positions).map(row).collect()
}

/// A shape for kernels of attention: nothing but its heads is looked at.
pub fn heads_shape(heads: u32, kv_heads: u32, head_dim: u32, max_context: u32) -> LlamaShape {
    LlamaShape {
        layers: 1,
        model_dim: 64,
        ffn_dim: 64,
        heads,
        kv_heads,
        head_dim,
        vocab: 64,
        max_context,
        norm_eps: 1e-5,
        tied_head: true,
        rope: Rope { theta: 1e4, scaling: RopeScaling::None },
    }
}

/// Numbers between -size and size.
pub fn uniform(rng: &mut StdRng, count: u32, size: f32) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-size..size)).collect()
}

/// Words as f32.
pub fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|word| f32::from_bits(*word)).collect()
}

/// Words as two f16 each.
pub fn halves(words: &[u32]) -> Vec<f32> {
    let both = |word: &u32| [*word as u16, (*word >> 16) as u16].map(|half| f16::from_bits(half).to_f32());
    words.iter().flat_map(both).collect()
}

/// The largest distance between numbers of the same place; infinity where one is none.
pub fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let distance = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(distance).fold(0.0, f32::max)
}

/// Routers of so many sites that look at `dim` numbers; w2 and b2 are as large as `spread`.
pub fn random_routers(engine: &mut dyn Engine, rng: &mut StdRng, sites: u32, dim: u32, spread: f32) -> Routers {
    let unit = 3.0 / (dim as f32).sqrt();
    let w1: Vec<f16> = uniform(rng, sites * HIDDEN * dim, unit).into_iter().map(f16::from_f32).collect();
    let rest = (0..sites).flat_map(|_| [uniform(rng, HIDDEN, 1.0), uniform(rng, REST - HIDDEN, spread)].concat());
    let rest: Vec<f32> = rest.collect();
    Routers { w1: upload(engine, &w1), rest: upload(engine, &rest), dim }
}
