//! Products of sliced weights with one token and with many, at every depth, on the processor and on the first GPU.
//!
//! Throughput is of the bytes of weights and ranges that the depth reads. On a GPU a measurement is one submit of
//! [`REPEATS`] products and the wait for it, so that the wait is shared. Where the GPU has cooperative matrices, it is
//! measured again with them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edge_run::cpu;
use edge_run::engine::Engine;
use edge_run::gpu::{self, GpuOptions};
use edge_run::kernels::gather_tokens;
use edge_run::kernels::product::{Depths, Output, Product, in_tiles};
use edge_run::kernels::sliced::SlicedWeight;
use edge_run::precision::Depth;
use edge_run::recording::{Buffer, Prepared, Recording};

/// (rows, input): the default model's gate and up, and a 7B model's.
const SHAPES: [(u32, u32); 2] = [(3072, 576), (22016, 4096)];
const TOKENS: [u32; 3] = [1, 64, 512];
const GROUP: u32 = 64;
const REPEATS: u64 = 20;

/// A buffer of numbers that differ; what they are does not matter for the time.
fn filled(engine: &mut dyn Engine, words: u64) -> Buffer {
    let data: Vec<u32> = (0..words as u32).map(|i| i.wrapping_mul(0x9e37_79b9) & 0x3fff_3fff).collect();
    let buffer = engine.create("bench", words * 4).expect("room for the bench");
    engine.write(buffer.all(), bytemuck::cast_slice(&data));
    buffer
}

fn prepare(engine: &mut dyn Engine, weight: &SlicedWeight, tokens: u32, depth: Depth) -> Prepared {
    let mut recording = Recording::new();
    let x = filled(engine, u64::from(tokens) * u64::from(weight.input)).all();
    let depth = depth.slices() as u32;
    let told = engine.create("depths", u64::from(tokens) * 4).expect("room for the bench").all();
    let depths = if in_tiles(engine.traits(), tokens) {
        engine.write(told, bytemuck::cast_slice(&gather_tokens::uniform(0..tokens, depth)));
        Depths::ByTile(told)
    } else {
        engine.write(told, bytemuck::cast_slice(&vec![depth; tokens as usize]));
        Depths::ByToken(told)
    };
    let y = recording.transient(u64::from(tokens) * u64::from(weight.rows) * 4);
    for _ in 0..REPEATS {
        let product = Product { weight, x, y: y.all(), tokens, output: Output::Overwrite };
        product.record(&mut recording, engine.traits(), depths);
    }
    recording.read_back(y.span(0, 4));
    engine.prepare(recording).expect("the bench can be prepared")
}

fn products(criterion: &mut Criterion) {
    let there = !gpu::devices().is_empty();
    let open = |options| there.then(|| gpu::open(0, options).expect("the GPU opens"));
    let plain = open(GpuOptions::default());
    let matrices = open(GpuOptions { cooperative_matrix: true, ..GpuOptions::default() });
    let matrices = matrices.filter(|engine| engine.traits().cooperative_matrix);
    for mut engine in [cpu::open()].into_iter().chain(plain).chain(matrices) {
        let matrices = if engine.traits().cooperative_matrix { " by matrices" } else { "" };
        let name = engine.info().name.replace('/', " ") + matrices;
        for (rows, input) in SHAPES {
            let words = u64::from(rows) * u64::from(input) / 16;
            let slices = std::array::from_fn(|_| filled(engine.as_mut(), words));
            let scales = filled(engine.as_mut(), u64::from(rows) * u64::from(input / GROUP));
            let weight = SlicedWeight { slices, scales, rows, input, group: GROUP };
            for tokens in TOKENS {
                let mut group = criterion.benchmark_group(format!("{name}, {rows}x{input}, {tokens} tokens"));
                group.sample_size(10);
                for depth in Depth::ALL {
                    let bytes = depth.slices() as u64 * words * 4 + scales.bytes();
                    group.throughput(Throughput::BytesDecimal(bytes * REPEATS));
                    let mut prepared = prepare(engine.as_mut(), &weight, tokens, depth);
                    group.bench_function(BenchmarkId::new("depth", depth.slices()), |b| {
                        b.iter(|| engine.run(&mut prepared).expect("the bench runs"));
                    });
                }
                group.finish();
            }
            for buffer in slices.into_iter().chain([scales]) {
                engine.destroy(buffer);
            }
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
