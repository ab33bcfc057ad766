//! Products of sliced weights with one token and with many, at every depth, on the processor and on the first GPU; with
//! one token also of int8 activations. Ranges are pairs for groups of 64, and words for groups of 32.
//!
//! Throughput is of the bytes of weights and ranges that the depth reads. A run is [`REPEATS`] products in one submit,
//! and on a GPU it is begun before the one before it has ended, as a session does with tokens; products go round over
//! copies of the weight, so that the device's cache holds none of them. Where the GPU has cooperative matrices, it is
//! measured again with them.
//!
//! `EDGE_RUN_DEVICE=gpu` or `cpu` measures there only. For tuning, `EDGE_RUN_SHAPES=14336x4096,4096x14336` takes other
//! shapes, `EDGE_RUN_GROUPS=32` takes other groups, and `EDGE_RUN_SPREAD=1024,32,1,4` spreads the int8 products over workgroups of 1024 invocations, teams of
//! 32, and four times a row a team, whatever `Spread::of` says.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edge_run::internals::cpu;
use edge_run::internals::engine::{Engine, Traits};
use edge_run::internals::format::codes::RangeForm;
use edge_run::internals::gpu::{self, GpuOptions};
use edge_run::internals::kernels::product::{
    self, Output, Product, ProductDepths, Tiles, gather_tokens, in_tiles, tile_tokens,
};
use edge_run::internals::kernels::project::{Input, Projection, Spread, logits};
use edge_run::internals::kernels::sliced::SlicedWeight;
use edge_run::internals::precision::{Depth, SLICES};
use edge_run::internals::recording::{Buffer, Prepared, Recording};

/// (rows, input): the default model's gate and up, and a 7B model's.
const SHAPES: [(u32, u32); 2] = [(3072, 576), (22016, 4096)];
const TOKENS: [u32; 3] = [1, 64, 512];
const GROUPS: [u32; 2] = [64, 32];
const REPEATS: u64 = 200;
/// Copies of a weight on a GPU at most, and bytes of them all: more than the largest caches hold, at the first depth
/// too.
const COPIES: u64 = 20;
const COPIES_BYTES: u64 = 1 << 30;

/// A buffer of numbers that differ; what they are does not matter for the time.
fn filled(engine: &mut dyn Engine, words: u64) -> Buffer {
    let data: Vec<u32> = (0..words as u32).map(|i| i.wrapping_mul(0x9e37_79b9) & 0x3fff_3fff).collect();
    let buffer = engine.create("bench", words * 4).expect("room for the bench");
    engine.upload(buffer.all(), bytemuck::cast_slice(&data)).expect("room for the bench");
    buffer
}

/// Copies of a weight.
fn weights(engine: &mut dyn Engine, rows: u32, input: u32, group: u32) -> Vec<SlicedWeight> {
    let words = u64::from(rows) * u64::from(input) / 16;
    let most = if engine.traits().software { 1 } else { COPIES };
    let copies = (COPIES_BYTES / (words * 16)).clamp(1, most);
    let form = RangeForm::of_group(group);
    let range_words = u64::from(rows) * u64::from(input / group * form.bytes()) / 4;
    let weight = |_| {
        let slices = std::array::from_fn(|_| filled(engine, words));
        let ranges = match form {
            RangeForm::Pairs { .. } => [filled(engine, range_words); SLICES],
            RangeForm::Words => std::array::from_fn(|_| filled(engine, range_words)),
        };
        SlicedWeight { slices, ranges, rows, input, form }
    };
    (0..copies).map(weight).collect()
}

fn prepare(engine: &mut dyn Engine, weights: &[SlicedWeight], tokens: u32, depth: Depth) -> Prepared {
    let mut recording = Recording::new();
    let SlicedWeight { rows, input, .. } = weights[0];
    let x = filled(engine, u64::from(tokens) * u64::from(input)).all();
    let depth = depth.slices() as u32;
    let told = engine.create("depths", u64::from(tokens) * 4).expect("room for the bench").all();
    let depths = if in_tiles(engine.traits(), tokens) {
        engine.write(told, bytemuck::cast_slice(&gather_tokens::uniform(0..tokens, depth)));
        let x_f16 = product::x_f16(&mut recording, engine.traits(), tokens, input);
        let tile = tile_tokens(engine.traits(), rows, tokens);
        ProductDepths::ByTile(Tiles { order: told, tile, partial: false, x_f16 })
    } else {
        engine.write(told, bytemuck::cast_slice(&vec![depth; tokens as usize]));
        ProductDepths::ByToken(told)
    };
    let y = recording.transient(u64::from(tokens) * u64::from(rows) * 4);
    for weight in weights.iter().cycle().take(REPEATS as usize) {
        let product = Product { weight, x, y: y.all(), tokens, output: Output::Overwrite };
        product.record(&mut recording, engine.traits(), depths);
    }
    recording.read_back(y.span(0, 4));
    engine.prepare(recording).expect("the bench can be prepared")
}

fn prepare_packed(engine: &mut dyn Engine, weights: &[SlicedWeight], depth: Depth) -> Prepared {
    let mut recording = Recording::new();
    let SlicedWeight { rows, input, .. } = weights[0];
    let x = filled(engine, u64::from(input)).all();
    let told = engine.create("depths", 4).expect("room for the bench").all();
    engine.write(told, bytemuck::bytes_of(&(depth.slices() as u32)));
    let y = recording.transient(u64::from(rows) * 4);
    let traits = engine.traits();
    let spread = spread_asked(traits).unwrap_or_else(|| Spread::of(traits, (rows, input), None));
    for weight in weights.iter().cycle().take(REPEATS as usize) {
        let projection = Projection { weight, input: Input::Plain(x), depth: told, spread };
        logits::record(&mut recording, traits, &projection, y.all());
    }
    recording.read_back(y.span(0, 4));
    engine.prepare(recording).expect("the bench can be prepared")
}

/// How long runs take, each begun before the one before it is waited for, so that encoding costs nothing where the
/// device computes beside the host.
fn time(engine: &mut dyn Engine, prepared: &mut Prepared, runs: u64) -> edge_run::Result<Duration> {
    let before = engine.submit(prepared)?;
    let mut under_way = engine.submit(prepared)?;
    engine.finish(before)?;
    let start = Instant::now();
    for _ in 1..runs {
        let next = engine.submit(prepared)?;
        engine.finish(under_way)?;
        under_way = next;
    }
    engine.finish(under_way)?;
    Ok(start.elapsed())
}

fn number(word: &str) -> u32 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

/// WORKGROUP,LANES,ROWS,ROUNDS
fn spread_asked(Traits { subgroup, processors, .. }: Traits) -> Option<Spread> {
    let asked = std::env::var("EDGE_RUN_SPREAD").ok()?;
    let numbers: Vec<u32> = asked.split(',').map(number).collect();
    let [workgroup, lanes, rows, rounds] = numbers[..] else { panic!("EDGE_RUN_SPREAD is four numbers, not {asked}") };
    Some(Spread { workgroup, lanes, rows, rounds, subgroup, processors })
}

fn shapes() -> Vec<(u32, u32)> {
    let Ok(asked) = std::env::var("EDGE_RUN_SHAPES") else { return SHAPES.to_vec() };
    let shape = |word: &str| word.split_once('x').map(|(rows, input)| (number(rows), number(input)));
    asked.split(',').map(|word| shape(word).unwrap_or_else(|| panic!("{word} is no shape"))).collect()
}

fn groups() -> Vec<u32> {
    let asked = std::env::var("EDGE_RUN_GROUPS").ok();
    asked.map_or(GROUPS.to_vec(), |asked| asked.split(',').map(number).collect())
}

fn products(criterion: &mut Criterion) {
    let asked = std::env::var("EDGE_RUN_DEVICE").ok();
    let wanted = |device: &str| asked.as_deref().is_none_or(|asked| asked == device);
    let there = wanted("gpu") && !gpu::devices().is_empty();
    let open = |options| there.then(|| gpu::open(0, options).expect("the GPU opens"));
    let plain = open(GpuOptions { cooperative_matrix: false, ..GpuOptions::default() });
    let matrices = open(GpuOptions::default());
    let matrices = matrices.filter(|engine| engine.traits().cooperative_matrix);
    for mut engine in wanted("cpu").then(cpu::open).into_iter().chain(plain).chain(matrices) {
        let matrices = if engine.traits().cooperative_matrix { " by matrices" } else { "" };
        let name = engine.info().name.replace('/', " ") + matrices;
        let shapes = shapes().into_iter().flat_map(|shape| groups().into_iter().map(move |group| (shape, group)));
        for ((rows, input), range_group) in shapes {
            let weights = weights(engine.as_mut(), rows, input, range_group);
            let form = if weights[0].form == RangeForm::Words { ", words" } else { "" };
            let words = u64::from(rows) * u64::from(input) / 16;
            let bytes = |depth: Depth| depth.slices() as u64 * words * 4 + weights[0].ranges[0].bytes();
            for (tokens, packed) in TOKENS.map(|tokens| (tokens, false)).into_iter().chain([(1, true)]) {
                let kind = if packed { ", int8" } else { "" };
                let mut group =
                    criterion.benchmark_group(format!("{name}, {rows}x{input}, {tokens} tokens{kind}{form}"));
                group.sample_size(10);
                for depth in Depth::ALL {
                    group.throughput(Throughput::BytesDecimal(bytes(depth) * REPEATS));
                    let mut prepared = match packed {
                        true => prepare_packed(engine.as_mut(), &weights, depth),
                        false => prepare(engine.as_mut(), &weights, tokens, depth),
                    };
                    group.bench_function(BenchmarkId::new("depth", depth.slices()), |b| {
                        b.iter_custom(|runs| time(engine.as_mut(), &mut prepared, runs).expect("the bench runs"));
                    });
                }
                group.finish();
            }
            for weight in weights {
                let ranges = &weight.ranges[..if weight.form == RangeForm::Words { SLICES } else { 1 }];
                weight.slices.iter().chain(ranges).for_each(|buffer| engine.destroy(*buffer));
            }
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
