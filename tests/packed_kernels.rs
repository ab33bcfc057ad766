//! The kernels of the int8 path on both engines, and the reference against the f32 product, each with a control that
//! must fail.

#[path = "common/gpu.rs"]
mod gpu;

use edge_run::cpu;
use edge_run::engine::{Engine, Traits};
use edge_run::kernels::matvec_packed::{self, DepthFrom, PackedProduct, Spread};
use edge_run::kernels::product::{Depths, Output, Product};
use edge_run::kernels::route::{self, Control, Router};
use edge_run::kernels::site_input::{self, Routing, Source};
use edge_run::kernels::sliced::SlicedWeight;
use edge_run::kernels::{rms_norm, silu_mul};
use edge_run::recording::{Buffer, Recording, Span};
use edge_run::routing::{HIDDEN, SCORES};
use half::f16;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const EPSILON: f32 = f32::EPSILON;
/// Low int8s that a high one counts for.
const LOW_OF_HIGH: i32 = 254;
/// As the device's exp and inverse root are rounded, and sums in another order.
const ROUNDED: f32 = 1e-4;

/// Rounding error of a sum of `terms` products of size up to `size`, as in `kernels.rs`.
fn sum_tolerance(terms: u32, size: f32) -> f32 {
    8.0 * EPSILON * terms as f32 * size
}

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

fn traits(software: bool, binding_bytes: u64) -> Traits {
    Traits { software, packed_dot: true, subgroup: 8, cooperative_matrix: false, binding_bytes }
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

/// A product with one token.
#[derive(Debug, Clone)]
struct ProductProblem {
    seed: u64,
    rows: u32,
    groups: u32,
    group: u32,
    depth: u32,
    add: bool,
    binding_bytes: u64,
    spread: Spread,
}

fn product_problem() -> impl Strategy<Value = ProductProblem> {
    let group = prop_oneof![Just(64u32), Just(128), Just(192)];
    let sizes = (any::<u64>(), 1u32..300, 1u32..12, group, 1u32..=4, any::<bool>());
    let rows = prop_oneof![Just(1u32), Just(2), Just(4)];
    let spread = prop_oneof![
        (Just(1u32), rows.clone(), Just(8u32)),
        (prop_oneof![Just(2u32), Just(4), Just(8)], rows, prop_oneof![Just(64u32), Just(128)]),
    ];
    let spread = spread.prop_map(|(lanes, rows, workgroup)| Spread { workgroup, lanes, rows });
    let binding_bytes = prop_oneof![Just(16384u64), Just(1 << 27)];
    (sizes, spread, binding_bytes).prop_map(|((seed, rows, groups, group, depth, add), spread, binding_bytes)| {
        ProductProblem { seed, rows, groups, group, depth, add, binding_bytes, spread }
    })
}

impl ProductProblem {
    fn input(&self) -> u32 {
        self.groups * self.group
    }

    /// The packed product, or with `float` the f32 product of the same numbers.
    fn build(&self, float: bool) -> impl Fn(&mut dyn Engine, &mut Recording) -> Vec<Span> {
        move |engine, recording| {
            let rng = &mut StdRng::seed_from_u64(self.seed);
            let weight = random_weight(engine, rng, self.rows, self.input(), self.group);
            let x = uniform(rng, self.input(), 1.0);
            let y = upload(engine, &uniform(rng, self.rows, 1.0)).all();
            let depth = upload(engine, &[self.depth]).all();
            let mut ready = vec![0u32; site_input::bytes(self.input()) as usize / 4];
            site_input::pack(&x, 1.0, &mut ready);
            let output = if self.add { Output::Add } else { Output::Overwrite };
            let traits = traits(true, self.binding_bytes);
            if float {
                let x = upload(engine, &site_input::unpack(&ready, self.input())).all();
                let product = Product { weight: &weight, x, y, tokens: 1, output };
                product.record(recording, traits, Depths::ByToken(depth));
            } else {
                let x = upload(engine, &ready).all();
                let from = DepthFrom::Buffer;
                let product = PackedProduct { weight: &weight, x, y, output, depth, from };
                matvec_packed::record_spread(recording, traits, &product, self.spread);
            }
            vec![y]
        }
    }

    fn run(&self, engine: &mut dyn Engine, float: bool) -> Vec<f32> {
        floats(&run(engine, &self.build(float))[0])
    }

    fn tolerance(&self) -> f32 {
        sum_tolerance(self.input(), 1.5)
    }
}

/// A site's input.
#[derive(Debug, Clone)]
struct InputProblem {
    seed: u64,
    chunks: u32,
    source: u32,
    routed: bool,
    software: bool,
    loudness: f32,
}

fn input_problem() -> impl Strategy<Value = InputProblem> {
    let sizes = (any::<u64>(), 1u32..40, 0u32..3, any::<bool>(), any::<bool>());
    (sizes, prop_oneof![Just(1.0f32), Just(1e-2), Just(30.0)]).prop_map(
        |((seed, chunks, source, routed, software), loudness)| InputProblem {
            seed,
            chunks,
            source,
            routed,
            software,
            loudness,
        },
    )
}

/// What was made of an input.
#[derive(Debug)]
struct Made {
    /// In low int8s.
    ints: Vec<i32>,
    /// Of each chunk: what a low int8 counts for, and the sum.
    units: Vec<[f32; 2]>,
    /// Of the router.
    rest: Vec<f32>,
    most: u32,
}

impl InputProblem {
    fn input(&self) -> u32 {
        self.chunks * 64
    }

    fn source(&self, engine: &mut dyn Engine) -> Source {
        let rng = &mut StdRng::seed_from_u64(!self.seed);
        match self.source {
            0 => Source::Plain,
            1 => Source::Norm { weight: upload(engine, &uniform(rng, self.input(), 1.0)), eps: 1e-5 },
            _ => Source::Gate,
        }
    }

    fn build(&self) -> impl Fn(&mut dyn Engine, &mut Recording) -> Vec<Span> {
        move |engine, recording| {
            let rng = &mut StdRng::seed_from_u64(self.seed);
            let mut x = uniform(rng, 2 * self.input(), self.loudness);
            // A chunk of zeros is packed as such.
            x[..64 * (self.seed % 2) as usize].fill(0.0);
            let x = upload(engine, &x).all();
            let source = self.source(engine);
            let router = random_router(engine, rng, self.input());
            let control = [Control { threshold: 1.0, most: 4 }, Control { threshold: 0.25, most: 3 }];
            let control = upload(engine, &control).all();
            let ready = upload(engine, &vec![0u32; site_input::bytes(self.input()) as usize / 4]).all();
            let routing = self.routed.then_some(Routing { router: &router, control, site: 1 });
            site_input::record(recording, traits(self.software, 1 << 27), self.input(), (x, source), routing, ready);
            vec![ready]
        }
    }

    fn made(&self, engine: &mut dyn Engine) -> Made {
        let words = run(engine, &self.build()).remove(0);
        let chunks = self.chunks as usize;
        let (high, rest) = words.split_at(chunks * 16);
        let (low, rest) = rest.split_at(chunks * 16);
        let int8s = |words: &[u32]| -> Vec<i32> {
            words.iter().flat_map(|word| word.to_le_bytes().map(|byte| i32::from(byte as i8))).collect()
        };
        let (units, rest) = rest.split_at(chunks * 4);
        Made {
            ints: int8s(high).iter().zip(int8s(low)).map(|(high, low)| LOW_OF_HIGH * high + low).collect(),
            units: units.chunks(4).map(|unit| [f32::from_bits(unit[0]), f32::from_bits(unit[1])]).collect(),
            rest: floats(&rest[..HIDDEN as usize * 4 + 4]),
            most: rest[HIDDEN as usize * 4 + 4],
        }
    }
}

/// What is wrong with `made`. Its numbers are as exact as the device's exp is, of some 32,000 low int8s at most.
fn fault(made: &Made, reference: &Made) -> Option<String> {
    let most = made.ints.iter().zip(&reference.ints).map(|(a, b)| (a - b).abs()).max()?;
    if most > 4 {
        return Some(format!("numbers differ by up to {most}"));
    }
    for (at, (a, b)) in made.units.iter().zip(&reference.units).enumerate() {
        let sum_off = (ROUNDED * 127.0 * LOW_OF_HIGH as f32 + 64.0 * most as f32) * b[0].abs();
        if (a[0] - b[0]).abs() > ROUNDED * b[0].abs() || (a[1] - b[1]).abs() > sum_off {
            return Some(format!("chunk {at}: {a:?} instead of {b:?}"));
        }
    }
    let router = far(&made.rest, &reference.rest);
    (router > ROUNDED * 4.0 || made.most != reference.most).then(|| format!("the router: off by {router}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_packed_product_is_its_reference(problem in product_problem()) {
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        let distance = far(&problem.run(gpu.as_mut(), false), &problem.run(cpu::open().as_mut(), false));
        prop_assert!(distance < problem.tolerance(), "{distance}");
    }

    #[test]
    fn the_packed_product_is_that_of_the_numbers_it_was_given(problem in product_problem()) {
        let mut cpu = cpu::open();
        let distance = far(&problem.run(cpu.as_mut(), false), &problem.run(cpu.as_mut(), true));
        prop_assert!(distance < problem.tolerance(), "{distance}");
    }

    #[test]
    fn a_site_input_is_its_reference(problem in input_problem()) {
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        let fault = fault(&problem.made(gpu.as_mut()), &problem.made(cpu::open().as_mut()));
        prop_assert!(fault.is_none(), "{fault:?}");
    }

    #[test]
    fn a_site_input_is_the_norm_or_the_gate_in_pairs(problem in input_problem()) {
        let mut cpu = cpu::open();
        let rng = &mut StdRng::seed_from_u64(problem.seed);
        let input = problem.input();
        let x = uniform(rng, 2 * input, problem.loudness);
        let build = |engine: &mut dyn Engine, recording: &mut Recording| {
            let source = problem.source(engine);
            let buffer = upload(engine, &x);
            let [ready, plain] = [site_input::bytes(input), u64::from(input) * 4].map(|bytes| recording.transient(bytes));
            let row = buffer.span(0, u64::from(input) * 4);
            site_input::record(recording, traits(true, 1 << 27), input, (buffer.all(), source), None, ready.all());
            let plain = match source {
                Source::Plain => row,
                Source::Norm { weight, eps } => {
                    rms_norm::record(recording, 1, eps, row, weight, plain.all());
                    plain.all()
                }
                Source::Gate => {
                    silu_mul::record(recording, 1, input, buffer.all(), plain.all());
                    plain.all()
                }
            };
            vec![ready.all(), plain]
        };
        let results = run(cpu.as_mut(), &build);
        let (packed, plain) = (site_input::unpack(&results[0], input), floats(&results[1]));
        for (chunk, (packed, plain)) in packed.chunks(64).zip(plain.chunks(64)).enumerate() {
            let unit = plain.iter().fold(0f32, |peak, x| peak.max(x.abs())) / (127.0 * LOW_OF_HIGH as f32);
            prop_assert!(far(packed, plain) <= unit * 0.6, "chunk {chunk}: {packed:?} instead of {plain:?}");
        }
    }

    #[test]
    fn a_pair_is_within_half_a_low_unit(x in prop::collection::vec(-3.0f32..3.0, 128)) {
        let mut ready = vec![0u32; site_input::bytes(128) as usize / 4];
        site_input::pack(&x, 2.0, &mut ready);
        for (chunk, (x, packed)) in x.chunks(64).zip(site_input::unpack(&ready, 128).chunks(64)).enumerate() {
            let unit = x.iter().fold(0f32, |peak, x| peak.max(x.abs())) * 2.0 / (127.0 * LOW_OF_HIGH as f32);
            for (x, packed) in x.iter().zip(packed) {
                prop_assert!((2.0 * x - packed).abs() <= unit * 0.6, "chunk {chunk}: {x}, {packed}");
            }
        }
    }
}

#[test]
fn a_wrong_depth_weight_sum_source_and_router_are_noticed() {
    let Some(mut gpu) = gpu::gpu() else { return };
    let spread = Spread { workgroup: 64, lanes: 8, rows: 2 };
    let (rows, groups, group, depth, add, binding_bytes) = (70, 3, 64, 2, true, 1 << 27);
    let sound = ProductProblem { seed: 1, rows, groups, group, depth, add, binding_bytes, spread };
    let reference = sound.run(cpu::open().as_mut(), false);
    let wrong = [
        ProductProblem { depth: 3, ..sound.clone() },
        ProductProblem { seed: 2, ..sound.clone() },
        ProductProblem { add: false, ..sound.clone() },
    ];
    for wrong in wrong {
        assert!(far(&wrong.run(gpu.as_mut(), false), &reference) > sound.tolerance(), "{wrong:?}");
    }
    let sound = InputProblem { seed: 1, chunks: 9, source: 1, routed: true, software: false, loudness: 1.0 };
    let reference = sound.made(cpu::open().as_mut());
    assert!(reference.most == 3 && (reference.rest[HIDDEN as usize * 4 + 3] - 0.25).abs() < 1e-6);
    let wrong = [
        InputProblem { source: 0, ..sound.clone() },
        InputProblem { seed: 3, ..sound.clone() },
        InputProblem { routed: false, ..sound.clone() },
    ];
    for wrong in wrong {
        assert!(fault(&wrong.made(gpu.as_mut()), &reference).is_some(), "{wrong:?}");
    }
}

/// The depth that the product chooses is the one that `route` would have, and it is what the product then reads.
#[test]
fn a_product_chooses_the_depth_that_its_router_would() {
    let gpu = gpu::gpu().map(|_| edge_run::gpu::open(0, Default::default()).expect("the first adapter opens"));
    for mut engine in [cpu::open()].into_iter().chain(gpu) {
        let (mut seen, mut differ) = ([0; 5], 0);
        for seed in 0..60 {
            let build = |engine: &mut dyn Engine, recording: &mut Recording| {
                let rng = &mut StdRng::seed_from_u64(seed);
                let (rows, input) = (70, 192);
                let weight = random_weight(engine, rng, rows, input, 64);
                let router = random_router(engine, rng, input);
                let x = upload(engine, &uniform(rng, input, 1.0)).all();
                let closed = Control { threshold: f32::MAX, most: 4 };
                let threshold = (seed % 6) as f32 * 0.8 - 3.0;
                let control = upload(engine, &[closed, Control { threshold, most: 4 - (seed % 3 == 0) as u32 }]).all();
                let ready = recording.transient(site_input::bytes(input)).all();
                let [depth, told, deal] = [9, 9, 0].map(|word: u32| upload(engine, &[word]).all());
                let [y, same] = [0, 1].map(|_| upload(engine, &vec![0f32; rows as usize]).all());
                let traits = traits(seed % 2 == 0, 1 << 27);
                route::record(recording, traits, &router, &route::Inputs { x, control, site: 1, deal }, told);
                let routing = Routing { router: &router, control, site: 1 };
                site_input::record(recording, traits, input, (x, Source::Plain), Some(routing), ready);
                let output = Output::Overwrite;
                let product = PackedProduct { weight: &weight, x: ready, y, output, depth, from: DepthFrom::Router };
                matvec_packed::record(recording, traits, &product);
                let again = PackedProduct { y: same, from: DepthFrom::Buffer, ..product };
                matvec_packed::record(recording, traits, &again);
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
