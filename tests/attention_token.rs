//! Attention of one token with its rotation, on both engines, against the rotation, the store and the attention one
//! after the other.

#[path = "common/gpu.rs"]
mod gpu;

use edge_run::cpu;
use edge_run::engine::Engine;
use edge_run::kernels::{attention, attention_split, attention_token, rope_cache};
use edge_run::recording::{Buffer, Recording};
use edge_run::shape::{LlamaShape, Rope, RopeScaling};
use half::f16;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CONTEXT: u32 = 700;
/// f16s, and the device's exp.
const NEAR: f32 = 2e-3;

#[derive(Debug, Clone)]
struct Problem {
    seed: u64,
    kv_heads: u32,
    sharing: u32,
    head_dim: u32,
    position: u32,
    splits: u32,
}

fn problem() -> impl Strategy<Value = Problem> {
    let head_dim = prop_oneof![Just(16u32), Just(48), Just(64), Just(128)];
    (any::<u64>(), 1u32..4, 1u32..4, head_dim, 0..CONTEXT, 1u32..5).prop_map(
        |(seed, kv_heads, sharing, head_dim, position, splits)| Problem {
            seed,
            kv_heads,
            sharing,
            head_dim,
            position,
            splits,
        },
    )
}

fn upload<T: bytemuck::Pod>(engine: &mut dyn Engine, data: &[T]) -> Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let buffer = engine.create("test", bytes.len() as u64).expect("room for a test buffer");
    engine.write(buffer.all(), bytes);
    buffer
}

impl Problem {
    fn shape(&self) -> LlamaShape {
        let heads = self.kv_heads * self.sharing;
        LlamaShape {
            layers: 1,
            model_dim: 64,
            ffn_dim: 64,
            heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            vocab: 64,
            max_context: CONTEXT,
            norm_eps: 1e-5,
            tied_head: true,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None },
        }
    }

    /// The attention's result, and the cache after it: keys and values as f32.
    fn run(&self, engine: &mut dyn Engine, at_once: bool) -> [Vec<f32>; 3] {
        let (shape, rng) = (self.shape(), &mut StdRng::seed_from_u64(self.seed));
        let mut uniform = |count: u32| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect() };
        let qkv = upload(engine, &uniform(shape.q_dim() + 2 * shape.kv_dim())).all();
        let mut cache = |count: u32| -> Vec<f16> { uniform(count).into_iter().map(f16::from_f32).collect() };
        let [mut keys, mut values] = [cache(shape.kv_dim() * CONTEXT), cache(shape.kv_dim() * CONTEXT)];
        // What a step begun in vain may have left past the history counts for nothing.
        for head in 0..shape.kv_heads {
            let at = ((head * CONTEXT + self.position) * shape.head_dim) as usize;
            keys[at..][..shape.head_dim as usize].fill(f16::NAN);
            values[at..][..shape.head_dim as usize].fill(f16::NAN);
        }
        let (keys, values) = (upload(engine, &keys).all(), upload(engine, &values).all());
        let turns = upload(engine, &rope_cache::turns(&shape, CONTEXT)).all();
        let positions = upload(engine, &[self.position]).all();
        let [q, y] = [(); 2].map(|()| upload(engine, &vec![0f32; shape.q_dim() as usize]).all());
        let buffers = rope_cache::Buffers { qkv, positions, turns, q, keys, values };
        let mut recording = Recording::new();
        if at_once {
            attention_token::record(&mut recording, &shape, CONTEXT, self.splits, buffers, y);
        } else {
            rope_cache::record(&mut recording, &shape, 1, CONTEXT, buffers);
            let buffers = attention::Buffers { q, positions, keys, values, y };
            attention_split::record(&mut recording, &shape, 1, CONTEXT, 1, buffers);
        }
        [y, keys, values].into_iter().for_each(|span| recording.read_back(span));
        let mut prepared = engine.prepare(recording).expect("the recording can be prepared");
        let results = engine.run(&mut prepared).expect("the recording runs");
        let halves = |bytes: &[u8]| -> Vec<f32> {
            bytemuck::pod_collect_to_vec::<u8, f16>(bytes).into_iter().map(f16::to_f32).collect()
        };
        [bytemuck::pod_collect_to_vec(&results[0]), halves(&results[1]), halves(&results[2])]
    }
}

fn far(a: &[Vec<f32>; 3], b: &[Vec<f32>; 3]) -> f32 {
    let both = a.iter().flatten().zip(b.iter().flatten());
    both.map(|(a, b)| if a.is_nan() || b.is_nan() { f32::INFINITY } else { (a - b).abs() }).fold(0.0, f32::max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_once_is_one_after_the_other(problem in problem()) {
        let parts = problem.run(cpu::open().as_mut(), false);
        prop_assert!(far(&problem.run(cpu::open().as_mut(), true), &parts) < NEAR);
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        let distance = far(&problem.run(gpu.as_mut(), true), &parts);
        prop_assert!(distance < NEAR, "{distance}");
    }
}

#[test]
fn another_position_is_noticed() {
    let problem = Problem { seed: 1, kv_heads: 2, sharing: 2, head_dim: 64, position: 3, splits: 1 };
    let other = Problem { position: 2, ..problem.clone() };
    let mut cpu = cpu::open();
    let [a, b] = [problem, other].map(|problem| problem.run(cpu.as_mut(), true)[0].clone());
    assert!(a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 10.0 * NEAR));
}
