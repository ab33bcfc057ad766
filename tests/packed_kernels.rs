//! The kernels of a single token with int8 activations: on both engines, and their references against the kernels that
//! they stand for, each with a control that must fail.

#[path = "common/gpu.rs"]
mod gpu;
#[path = "common/processors.rs"]
mod processors;

use edge_run::cpu;
use edge_run::engine::{Engine, Traits};
use edge_run::kernels::attention::{self, Reach};
use edge_run::kernels::made::Made;
use edge_run::kernels::packed::Packed;
use edge_run::kernels::product::{Depths, Output, Product};
use edge_run::kernels::project::{Norm, Projection, Spread, Told};
use edge_run::kernels::route::{self, Control, Router};
use edge_run::kernels::router_sums::{self, RouterAt, unit_sums};
use edge_run::kernels::sliced::SlicedWeight;
use edge_run::kernels::{project_gate, project_logits, project_qkv, project_residual};
use edge_run::kernels::{rms_norm, rope_cache, silu_mul, tell_router};
use edge_run::recording::{Buffer, Recording, Span};
use edge_run::routing::{HIDDEN, SCORES};
use edge_run::shape::{LlamaShape, Rope};
use half::f16;
use processors::PROCESSORS;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CONTEXT: u32 = 40;
const POSITION: u32 = 29;
const HEAD_DIM: u32 = 16;
const EPS: f32 = 1e-5;

/// Records a computation over buffers that it fills itself, and returns the ranges to read.
type Build<'a> = &'a dyn Fn(&mut dyn Engine, &mut Recording) -> Vec<Span>;

fn run(engine: &mut dyn Engine, build: Build<'_>) -> Vec<Vec<u32>> {
    let mut recording = Recording::new();
    let outputs = build(engine, &mut recording);
    outputs.into_iter().for_each(|output| recording.read_back(output));
    let mut prepared = engine.prepare(recording).expect("the recording can be prepared");
    let results = engine.run(&mut prepared).expect("the recording runs");
    results.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect()
}

fn upload<T: bytemuck::Pod>(engine: &mut dyn Engine, data: &[T]) -> Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let buffer = engine.create("test", bytes.len() as u64).expect("room for a test buffer");
    engine.write(buffer.all(), bytes);
    buffer
}

fn uniform(rng: &mut StdRng, count: u32, size: f32) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-size..size)).collect()
}

fn floats(words: &[u32]) -> Vec<f32> {
    words.iter().map(|word| f32::from_bits(*word)).collect()
}

fn halves(words: &[u32]) -> Vec<f32> {
    words
        .iter()
        .flat_map(|word| [*word as u16, (*word >> 16) as u16].map(|half| f16::from_bits(half).to_f32()))
        .collect()
}

fn traits(binding_bytes: u64) -> Traits {
    Traits { packed_dot: true, binding_bytes, ..PROCESSORS }
}

/// The GPU in an engine of its own.
fn own_gpu() -> Option<Box<dyn Engine>> {
    gpu::gpu().map(|_| edge_run::gpu::open(0, Default::default()).expect("the first adapter opens"))
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| if a.is_nan() || b.is_nan() { f32::INFINITY } else { (a - b).abs() })
        .fold(0.0, f32::max)
}

/// A weight with random codes, and ranges about [-1, 1].
fn random_weight(engine: &mut dyn Engine, rng: &mut StdRng, rows: u32, input: u32, group: u32) -> SlicedWeight {
    let slices = std::array::from_fn(|_| {
        let slice: Vec<u32> = (0..rows * input / 16).map(|_| rng.random()).collect();
        upload(engine, &slice)
    });
    let scales: Vec<f16> = (0..rows * input / group)
        .flat_map(|_| [rng.random_range(-1.0f32..-0.5), rng.random_range(0.2f32..0.5)].map(f16::from_f32))
        .collect();
    SlicedWeight { slices, scales: upload(engine, &scales), rows, input, group }
}

fn random_router(engine: &mut dyn Engine, rng: &mut StdRng, input: u32) -> Router {
    let unit = 3.0 / (input as f32).sqrt();
    let w1: Vec<f16> = uniform(rng, HIDDEN * input, unit).into_iter().map(f16::from_f32).collect();
    Router {
        w1: upload(engine, &w1),
        b1: upload(engine, &uniform(rng, HIDDEN, 1.0)),
        w2: upload(engine, &uniform(rng, SCORES * HIDDEN, 1.0)),
        b2: upload(engine, &uniform(rng, SCORES, 1.0)),
        input,
    }
}

/// What becomes of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Logits,
    Residual,
    Gate,
    Qkv,
}

/// A projection of one token.
#[derive(Debug, Clone)]
struct Problem {
    kind: Kind,
    seed: u64,
    /// Of eight rows; of heads, where the rows are queries, keys and values.
    eights: u32,
    groups: u32,
    group: u32,
    depth: u32,
    normed: bool,
    /// The router, which opens every gate that it may, says the depth.
    routed: bool,
    tells: bool,
    loudness: f32,
    binding_bytes: u64,
    spread: Spread,
}

fn problem() -> impl Strategy<Value = Problem> {
    let kind = prop_oneof![Just(Kind::Logits), Just(Kind::Residual), Just(Kind::Gate), Just(Kind::Qkv)];
    let group = prop_oneof![Just(64u32), Just(192)];
    // Few shapes and spreads, as each is a shader to compile.
    let groups = prop_oneof![Just(1u32), Just(3), Just(9)];
    let sizes = (any::<u64>(), 1u32..30, groups, group, 1u32..=4);
    let choices = (any::<bool>(), any::<bool>(), any::<bool>());
    let loudness = prop_oneof![Just(1.0f32), Just(1e-2), Just(30.0)];
    let binding_bytes = prop_oneof![Just(16384u64), Just(1 << 27)];
    let spread = prop_oneof![Just((64u32, 8u32, 2u32, 2u32)), Just((128, 4, 4, 1)), Just((64, 4, 2, 1))];
    let spread =
        spread.prop_map(|(workgroup, lanes, rows, rounds)| Spread { workgroup, lanes, rows, rounds, subgroup: 8 });
    (kind, sizes, choices, loudness, binding_bytes, spread).prop_map(
        |(kind, sizes, choices, loudness, binding_bytes, spread)| {
            let ((seed, eights, groups, group, depth), (normed, routed, tells)) = (sizes, choices);
            Problem { kind, seed, eights, groups, group, depth, normed, routed, tells, loudness, binding_bytes, spread }
        },
    )
}

/// A shape with so many queries' heads, half as many keys' and as many values'.
fn shape(eights: u32) -> LlamaShape {
    LlamaShape {
        layers: 1,
        model_dim: 64,
        ffn_dim: 64,
        heads: 2 * eights,
        kv_heads: eights,
        head_dim: HEAD_DIM,
        vocab: 64,
        max_context: CONTEXT,
        norm_eps: EPS,
        tied_head: true,
        rope: Rope { theta: 10_000.0, scaling: Default::default() },
    }
}

impl Problem {
    fn input(&self) -> u32 {
        self.groups * self.group
    }

    fn rows(&self) -> u32 {
        match self.kind {
            Kind::Gate => 16 * self.eights,
            Kind::Qkv => 4 * self.eights * HEAD_DIM,
            _ => 8 * self.eights,
        }
    }

    /// The projection, or with `plain` the kernels that it stands for. Reads the results, what the router is told and
    /// the depth; without the latter two, with `plain`.
    fn build(&self, plain: bool) -> impl Fn(&mut dyn Engine, &mut Recording) -> Vec<Span> {
        move |engine, recording| {
            let rng = &mut StdRng::seed_from_u64(self.seed);
            let (rows, input) = (self.rows(), self.input());
            let weight = random_weight(engine, rng, rows, input, self.group);
            let mut x = uniform(rng, input, self.loudness);
            // A chunk of zeros is packed as such.
            x[..64 * (self.seed % 2) as usize].fill(0.0);
            let x = upload(engine, &x).all();
            let norm = Norm { weight: upload(engine, &uniform(rng, input, 1.0)), eps: EPS };
            let y = upload(engine, &uniform(rng, rows, 1.0)).all();
            let next_norm = upload(engine, &uniform(rng, rows, 1.0));
            let made = if self.kind == Kind::Gate { rows / 2 } else { rows };
            let [router, next] = [input, made].map(|input| random_router(engine, rng, input));
            let told = [0u32; router_sums::BYTES as usize / 4];
            let [sums, next_sums] = [upload(engine, &told).all(), upload(engine, &told).all()];
            let depth = upload(engine, &[if self.routed && !plain { 9 } else { self.depth }]).all();
            let closed = Control { threshold: f32::MAX, most: 4 };
            let control = upload(engine, &[closed, Control { threshold: -1e9, most: self.depth }]).all();
            let positions = upload(engine, &[POSITION]).all();
            let shape = shape(self.eights);
            let turns = upload(engine, &rope_cache::turns(&shape, CONTEXT)).all();
            let [q, keys, values] = [self.eights * 4, self.eights * CONTEXT, self.eights * CONTEXT]
                .map(|eights| upload(engine, &vec![0u32; (eights * HEAD_DIM / 2) as usize]).all());
            let made = match self.kind {
                Kind::Qkv => vec![q, keys, values],
                Kind::Gate => vec![y.buffer.span(0, u64::from(rows) * 2)],
                _ => vec![y],
            };
            if plain {
                let given = if self.normed { recording.transient(u64::from(input) * 4).all() } else { x };
                if self.normed {
                    rms_norm::record(recording, 1, EPS, x, norm.weight, given);
                }
                let output = if self.kind == Kind::Residual { Output::Add } else { Output::Overwrite };
                let whole = matches!(self.kind, Kind::Logits | Kind::Residual);
                let products = if whole { y } else { recording.transient(u64::from(rows) * 4).all() };
                let product = Product { weight: &weight, x: given, y: products, tokens: 1, output };
                product.record(recording, traits(1 << 27), Depths::ByToken(depth));
                match self.kind {
                    Kind::Gate => silu_mul::record(recording, 1, rows / 2, products, made[0]),
                    Kind::Qkv => {
                        let buffers = rope_cache::Buffers { qkv: products, positions, turns, q, keys, values };
                        rope_cache::record(recording, &shape, 1, CONTEXT, buffers);
                    }
                    _ => (),
                }
                return made;
            }
            let projection = Projection {
                weight: &weight,
                x,
                norm: self.normed.then_some(norm),
                depth,
                router: self.routed.then_some(RouterAt { router: &router, site: 1, sums }),
                next: self.tells.then_some(RouterAt { router: &next, site: 0, sums: next_sums }),
                control,
                spread: self.spread,
            };
            match self.kind {
                Kind::Logits => project_logits::record(recording, traits(self.binding_bytes), &projection, y),
                Kind::Residual => project_residual::record(recording, &projection, next_norm, y),
                Kind::Gate => project_gate::record(recording, &projection, made[0]),
                Kind::Qkv => {
                    let buffers = project_qkv::Buffers { positions, turns, q, keys, values };
                    project_qkv::record(recording, &projection, &shape, CONTEXT, buffers);
                }
            }
            made.into_iter().chain([next_sums, depth]).collect()
        }
    }

    /// What is made; what the router is told, and the depth.
    fn run(&self, engine: &mut dyn Engine, plain: bool) -> (Vec<f32>, Vec<f32>, u32) {
        let mut results = run(engine, &self.build(plain));
        let (mut told, mut depth) = (vec![], self.depth);
        if !plain {
            depth = results.pop().expect("a depth")[0];
            told = unit_sums(&results.pop().expect("sums")).to_vec();
        }
        let numbers = match self.kind {
            Kind::Qkv => results[1..].iter().flat_map(|words| halves(words)).chain(floats(&results[0])).collect(),
            _ => floats(&results[0]),
        };
        (numbers, told, depth)
    }

    /// How far what is made may be off, where it is about as large as `made`: numbers are rounded to sixteen bits, sums
    /// are added up in another order, and the cache has eleven bits of a number.
    fn tolerance(&self, made: &[f32]) -> f32 {
        let size = if self.normed { 2.0 } else { self.loudness };
        let largest = made.iter().fold(1.0f32, |largest, number| largest.max(number.abs()));
        let sums = (self.input() as f32).sqrt() * size * 3e-4;
        match self.kind {
            Kind::Gate => sums * largest.max(1.0),
            Kind::Qkv => sums + largest * 1e-3,
            _ => sums + largest * 1e-5,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_projection_is_its_reference(problem in problem()) {
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        let (made, told, depth) = problem.run(gpu.as_mut(), false);
        let (reference, told_reference, depth_reference) = problem.run(cpu::open().as_mut(), false);
        prop_assert_eq!(depth, depth_reference);
        let distance = far(&made, &reference);
        prop_assert!(distance < problem.tolerance(&reference), "{} of {}", distance, problem.tolerance(&reference));
        let loudest = told_reference.iter().fold(1.0f32, |most, sum| most.max(sum.abs()));
        let largest = reference.iter().fold(1.0f32, |most, number| most.max(number.abs()));
        let distance = far(&told, &told_reference);
        prop_assert!(distance < loudest.max(largest) * 1e-2, "told {} of {}", distance, loudest);
    }

    #[test]
    fn a_projection_is_what_it_stands_for(problem in problem()) {
        let mut cpu = cpu::open();
        let (made, told, depth) = problem.run(cpu.as_mut(), false);
        let (plain, ..) = problem.run(cpu.as_mut(), true);
        prop_assert_eq!(depth, problem.depth);
        let distance = far(&made, &plain);
        prop_assert!(distance < problem.tolerance(&plain), "{} of {}", distance, problem.tolerance(&plain));
        let tells = problem.tells && matches!(problem.kind, Kind::Residual | Kind::Gate);
        // Of nothing there is nothing to tell.
        let tells = tells && made.iter().any(|number| *number != 0.0);
        prop_assert_eq!(tells, told.iter().any(|sum| *sum != 0.0));
    }

    #[test]
    fn a_pair_is_within_half_a_low_unit(x in prop::collection::vec(-3.0f32..3.0, 128)) {
        let packed = Packed::of(&x);
        for (chunk, (x, numbers)) in x.chunks(64).zip(packed.numbers().chunks(64)).enumerate() {
            let unit = x.iter().fold(0f32, |peak, x| peak.max(x.abs())) / 16319.0;
            for (x, number) in x.iter().zip(numbers) {
                prop_assert!((x - number).abs() <= unit * 0.6, "chunk {}: {}, {}", chunk, x, number);
            }
        }
    }
}

#[test]
fn a_wrong_depth_weight_norm_and_output_are_noticed() {
    let spread = Spread { workgroup: 64, lanes: 8, rows: 2, rounds: 2, subgroup: 8 };
    for kind in [Kind::Logits, Kind::Residual, Kind::Gate, Kind::Qkv] {
        let sound = Problem {
            kind,
            seed: 1,
            eights: 5,
            groups: 3,
            group: 64,
            depth: 2,
            normed: true,
            routed: true,
            tells: true,
            loudness: 1.0,
            binding_bytes: 1 << 27,
            spread,
        };
        for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
            let (reference, told, _) = sound.run(cpu::open().as_mut(), false);
            let wrong = [
                Problem { depth: 3, ..sound.clone() },
                Problem { seed: 3, ..sound.clone() },
                Problem { normed: false, ..sound.clone() },
            ];
            for wrong in wrong {
                let (made, other, _) = wrong.run(engine.as_mut(), false);
                assert!(far(&made, &reference) > sound.tolerance(&reference), "{wrong:?}");
                let tells = matches!(kind, Kind::Residual | Kind::Gate);
                assert_eq!(far(&other, &told) > 0.05, tells, "{wrong:?}: what is told is another, where any is");
            }
        }
    }
}

/// The depth that a projection chooses is the one that `route` would have, and it is what the projection then reads;
/// whoever tells its router.
#[test]
fn a_projection_chooses_the_depth_that_its_router_would() {
    for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
        let (mut seen, mut differ) = ([0; 5], 0);
        for seed in 0..60 {
            let build = |engine: &mut dyn Engine, recording: &mut Recording| {
                let rng = &mut StdRng::seed_from_u64(seed);
                let (rows, input) = (72, 192);
                let weight = random_weight(engine, rng, rows, input, 64);
                let router = random_router(engine, rng, input);
                let x = upload(engine, &uniform(rng, input, 1.0)).all();
                let norm = upload(engine, &uniform(rng, input, 2.0));
                let normed = recording.transient(u64::from(input) * 4).all();
                let closed = Control { threshold: f32::MAX, most: 4 };
                let threshold = (seed % 6) as f32 * 0.8 - 3.0;
                let control = upload(engine, &[closed, Control { threshold, most: 4 - (seed % 3 == 0) as u32 }]).all();
                let [depth, told, deal] = [9, 9, 0].map(|word: u32| upload(engine, &[word]).all());
                let [y, same] = [0, 1].map(|_| upload(engine, &vec![0f32; rows as usize]).all());
                let sums = recording.transient(router_sums::BYTES).all();
                rms_norm::record(recording, 1, EPS, x, norm, normed);
                let inputs = route::Inputs { x: normed, made: Made::Before, control, site: 1, deal };
                // Not by the kernel for processors, which wants their subgroups.
                let hardware = Traits { software: false, ..traits(1 << 27) };
                route::record(recording, hardware, &router, &inputs, told);
                let router = RouterAt { router: &router, site: 1, sums };
                recording.clear(sums);
                tell_router::record(recording, router, x, norm);
                let projection = Projection {
                    weight: &weight,
                    x,
                    norm: Some(Norm { weight: norm, eps: EPS }),
                    depth,
                    router: Some(router),
                    next: None,
                    control,
                    spread: Spread::of(traits(1 << 27), (rows, input), Told::Rows),
                };
                project_logits::record(recording, traits(1 << 27), &projection, y);
                let again = Projection { router: None, ..projection };
                project_logits::record(recording, traits(1 << 27), &again, same);
                vec![depth, told, y, same]
            };
            let results = run(engine.as_mut(), &build);
            let [depth, told, y, same] = &results[..] else { panic!("four read-backs") };
            assert_eq!(y, same, "seed {seed}: what was read is what was written");
            assert!((1..=4).contains(&depth[0]), "seed {seed}: {depth:?}");
            seen[depth[0] as usize] += 1;
            differ += usize::from(depth != told);
        }
        assert!(differ <= 1, "{differ} of 60 depths differ");
        assert!(seen[1..].iter().all(|count| *count > 2), "every depth comes: {seen:?}");
        println!("{differ} of 60 depths differ; by depth: {seen:?}");
    }
}

/// Attention, whole and in splits, tells the router of its output what `tell_router` would.
#[test]
fn attention_tells_the_router_of_what_it_makes() {
    let context = 600;
    let shape = LlamaShape { max_context: context, ..shape(2) };
    for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
        for reach in [Reach::Any, Reach::Long] {
            let build = |engine: &mut dyn Engine, recording: &mut Recording| {
                let rng = &mut StdRng::seed_from_u64(4);
                let cached = shape.kv_dim() * context;
                let halves = |rng: &mut StdRng| -> Vec<f16> {
                    uniform(rng, cached, 1.0).into_iter().map(f16::from_f32).collect()
                };
                let (keys, values) = (halves(rng), halves(rng));
                let [keys, values] = [upload(engine, &keys).all(), upload(engine, &values).all()];
                let q = upload(engine, &uniform(rng, shape.q_dim(), 1.0)).all();
                let router = random_router(engine, rng, shape.q_dim());
                let positions = upload(engine, &[context - 7]).all();
                let y = recording.transient(u64::from(shape.q_dim()) * 4).all();
                let ones = upload(engine, &vec![1f32; shape.q_dim() as usize]);
                let [told, expected] = [0, 1].map(|_| recording.transient(router_sums::BYTES).all());
                let at = |sums| RouterAt { router: &router, site: 0, sums };
                [told, expected].into_iter().for_each(|sums| recording.clear(sums));
                let buffers = attention::Buffers { q, positions, keys, values, y };
                attention::record_told(
                    recording,
                    traits(1 << 27),
                    &shape,
                    (reach, context),
                    buffers,
                    None,
                    Some(at(told)),
                );
                tell_router::record(recording, at(expected), y, ones);
                vec![told, expected, y]
            };
            let results = run(engine.as_mut(), &build);
            let [told, expected] = [&results[0], &results[1]].map(|sums| unit_sums(sums));
            assert!(far(&told, &expected) < 1e-4, "{reach:?}: {told:?} instead of {expected:?}");
            assert!(told.iter().any(|sum| sum.abs() > 0.05), "something is told: {told:?}");
        }
    }
}
