//! Attention of one token at short and long contexts, by each kernel, on the first GPU: a 7B model's heads.
//!
//! Throughput is of the bytes of keys and values that are read, in f16 and in few bits. A measurement is one submit of
//! [`REPEATS`] dispatches, each over a cache of its own, and the wait for it; partials are combined by
//! `attention_combine`.

use bytemuck::Zeroable;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edge_run::internals::engine::{Engine, Traits};
use edge_run::internals::gpu::{self, GpuOptions};
use edge_run::internals::kernels::attention::{self, Attention, AttentionBuffers, ContextClass, ScoreRules, combine};
use edge_run::internals::kernels::cache::layout::{Layout, QuantizedKv, token_bytes};
use edge_run::internals::kernels::step_rows::{Cells, StepRow};
use edge_run::internals::precision::CacheType;
use edge_run::internals::recording::{Buffer, Prepared, Recording};
use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};

const CONTEXT: u32 = 4096;
const LENGTHS: [u32; 4] = [1, 128, 1024, 4096];
const REPEATS: u64 = 4;

fn shape() -> LlamaShape {
    LlamaShape {
        layers: 1,
        model_dim: 4096,
        ffn_dim: 11008,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        vocab: 32000,
        max_context: CONTEXT,
        norm_eps: 1e-5,
        tied_head: false,
        rope: Rope { theta: 1e4, scaling: RopeScaling::None },
    }
}

fn filled(engine: &mut dyn Engine, words: u64, word: u32) -> Buffer {
    let buffer = engine.create("bench", words * 4).expect("room for the bench");
    engine.write(buffer.all(), bytemuck::cast_slice(&vec![word; words as usize]));
    buffer
}

/// Where the keys and values of a dispatch lie.
type Cache = ([Buffer; 2], Option<QuantizedKv>);

fn prepare(engine: &mut dyn Engine, caches: &[Cache], traits: Traits, class: ContextClass, length: u32) -> Prepared {
    let shape = shape();
    let mut recording = Recording::new();
    let q = filled(engine, u64::from(shape.q_dim()), 0x3c00_0000).all();
    let step_rows = engine.create("bench", StepRow::BYTES).expect("room for the bench").all();
    engine.write(step_rows, bytemuck::bytes_of(&StepRow { position: length - 1, ..StepRow::zeroed() }));
    let y = recording.transient(u64::from(shape.q_dim()) * 4).all();
    for ([keys, values], quantized_kv) in caches {
        let buffers = AttentionBuffers { q, step_rows, keys: keys.all(), values: values.all(), y };
        let problem = Attention {
            shape: &shape,
            tokens: 1,
            as_alone: false,
            cells: Cells::of_all_positions(CONTEXT),
            scores: ScoreRules::default(),
            context: CONTEXT,
            class,
            quantized_kv: *quantized_kv,
            buffers,
        };
        let partials = attention::record(&mut recording, traits, &problem);
        partials.into_iter().for_each(|partials| combine::record(&mut recording, partials, y));
    }
    recording.read_back(y);
    engine.prepare(recording).expect("the bench can be prepared")
}

/// Caches for all repetitions; of those in few bits, the rows are apart and the f16 that a token makes are shared.
fn caches(engine: &mut dyn Engine, cache_type: CacheType) -> Vec<Cache> {
    let shape = shape();
    let half = |engine: &mut dyn Engine| {
        [(); 2].map(|()| filled(engine, u64::from(shape.kv_dim()) * u64::from(CONTEXT) / 2, 0x3000_3000))
    };
    let Some(layout) = Layout::of(cache_type, shape.head_dim) else {
        return (0..REPEATS).map(|_| (half(engine), None)).collect();
    };
    let shared = half(engine);
    let words = token_bytes(cache_type, &shape) * u64::from(CONTEXT) / 4;
    let rows = |_| (shared, Some(QuantizedKv { rows: filled(engine, words, 0x3000_3000).all(), layout }));
    (0..REPEATS).map(rows).collect()
}

fn attentions(criterion: &mut Criterion) {
    if gpu::devices().is_empty() {
        return;
    }
    let mut engine = gpu::open(0, GpuOptions::default()).expect("the GPU opens");
    let name = engine.info().name.replace('/', " ");
    let (whole, split) = (Traits { software: true, ..engine.traits() }, Traits { software: false, ..engine.traits() });
    for cache_type in [CacheType::F16, CacheType::Q8, CacheType::Q4] {
        let caches = caches(engine.as_mut(), cache_type);
        for length in LENGTHS {
            let mut group = criterion.benchmark_group(format!("{name}, {cache_type} attention over {length}"));
            group.sample_size(10);
            group.throughput(Throughput::BytesDecimal(token_bytes(cache_type, &shape()) * u64::from(length) * REPEATS));
            let kernels = [
                ("whole", whole, ContextClass::Short),
                ("one split", split, ContextClass::Short),
                ("splits", split, ContextClass::Long),
            ];
            for (kernel, traits, class) in kernels.into_iter().skip(usize::from(cache_type != CacheType::F16)) {
                let mut prepared = prepare(engine.as_mut(), &caches, traits, class, length);
                group.bench_function(BenchmarkId::from_parameter(kernel), |b| {
                    b.iter(|| engine.run(&mut prepared).expect("the bench runs"));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, attentions);
criterion_main!(benches);
