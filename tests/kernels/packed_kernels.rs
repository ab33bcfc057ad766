//! The kernels of a single token with int8 activations: on both engines, and their references against the kernels that
//! they stand for, each with a control that must fail.

use crate::buffers::{far, floats, halves, random_routers, rows_at, run, uniform, upload};
use crate::gpu;
use crate::processors::PROCESSORS;
use crate::sliced_weights::random_weight;
use edge_run::internals::arch::ActivationFunction;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, DeviceKind, Engine, Traits, USUAL_PROCESSORS};
use edge_run::internals::format::codes::RangeForm;
use edge_run::internals::kernels::attention::{Attention, AttentionBuffers, ContextClass, ScoreRules, combine, split};
use edge_run::internals::kernels::cache::rope::{self, RopeBuffers};
use edge_run::internals::kernels::gate as plain_gate;
use edge_run::internals::kernels::product::{Output, Product, ProductDepths};
use edge_run::internals::kernels::project::packed::Packed;
use edge_run::internals::kernels::project::qkv::{self, QkvBuffers, QkvFinish};
use edge_run::internals::kernels::project::residual::{self, DepthSelection};
use edge_run::internals::kernels::project::router_hidden::{SiteRouters, hidden_bytes};
use edge_run::internals::kernels::project::{Input, Projection, Spread, gate, logits};
use edge_run::internals::kernels::rms_norm::{self, Norm};
use edge_run::internals::kernels::router::{self, Control, RouteInputs};
use edge_run::internals::kernels::step_rows::Cells;
use edge_run::internals::recording::{Recording, Span};
use edge_run::internals::shape::{LlamaShape, Rope, Site};
use half::f16;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

const CONTEXT: u32 = 40;
const POSITION: u32 = 29;
const HEAD_DIM: u32 = 16;
const EPS: f32 = 1e-5;
/// Sites that have a router.
const SITES: u32 = 4;
/// Depths of sites whose gates are closed, and open as far as 3.
const CHOSEN: [u32; 2] = [1, 3];

fn traits(binding_bytes: u64) -> Traits {
    Traits { packed_dot: true, binding_bytes, ..PROCESSORS }
}

/// The engine of references alone.
fn reference_engine() -> Box<dyn Engine> {
    cpu::open_reference(Activations::F32)
}

/// The GPU in an engine of its own.
fn own_gpu() -> Option<Box<dyn Engine>> {
    gpu::gpu().map(|_| edge_run::internals::gpu::open(0, gpu::options()).expect("the first adapter opens"))
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
    form: RangeForm,
    /// Whether each depth has the ranges of the next one.
    shifted: bool,
    depth: u32,
    normed: bool,
    /// Whether it is other than LLaMA's: gated by GELU, written over, not rotated yet; and with routers that look at a
    /// norm which is not the input.
    other: bool,
    /// Whether depths are chosen for the next sites.
    routed: bool,
    has_next: bool,
    loudness: f32,
    /// In place of a number of the input.
    spoilt: Option<f32>,
    binding_bytes: u64,
    spread: Spread,
}

fn problem() -> impl Strategy<Value = Problem> {
    let kind = prop_oneof![Just(Kind::Logits), Just(Kind::Residual), Just(Kind::Gate), Just(Kind::Qkv)];
    let form = prop_oneof![
        Just(RangeForm::Pairs { group: 64 }),
        Just(RangeForm::Pairs { group: 192 }),
        Just(RangeForm::Words),
        Just(RangeForm::Words),
    ];
    // Few shapes and spreads, as each is a shader to compile.
    let groups = prop_oneof![Just(1u32), Just(3), Just(9)];
    let sizes = (any::<u64>(), 1u32..30, groups, form, 1u32..=4);
    let choices = [(); 4].map(|()| any::<bool>());
    let loudness = prop_oneof![Just(1.0f32), Just(1e-2), Just(30.0)];
    let binding_bytes = prop_oneof![Just(16384u64), Just(1 << 27)];
    // Subgroups of 8 at least; in the last spread, as on devices that have several sizes, they may be larger than
    // given.
    let spread = prop_oneof![
        Just(Spread { workgroup: 64, lanes: 8, rows: 2, rounds: 2, subgroup: 8, processors: USUAL_PROCESSORS }),
        Just(Spread { workgroup: 128, lanes: 4, rows: 4, rounds: 1, subgroup: 8, processors: USUAL_PROCESSORS }),
        Just(Spread { workgroup: 64, lanes: 4, rows: 2, rounds: 1, subgroup: 4, processors: USUAL_PROCESSORS }),
    ];
    (kind, sizes, choices, loudness, binding_bytes, spread).prop_map(
        |(kind, sizes, choices, loudness, binding_bytes, spread)| {
            let ((seed, eights, groups, form, depth), [normed, other, routed, has_next]) = (sizes, choices);
            let spoilt = None;
            Problem {
                kind,
                seed,
                eights,
                groups,
                form,
                shifted: false,
                depth,
                normed,
                other,
                routed,
                has_next,
                loudness,
                spoilt,
                binding_bytes,
                spread,
            }
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
    /// A small one, of which tests change what they are about.
    fn of(kind: Kind) -> Problem {
        Problem {
            kind,
            seed: 1,
            eights: 5,
            groups: 3,
            form: RangeForm::Words,
            shifted: false,
            depth: 2,
            normed: false,
            other: false,
            routed: false,
            has_next: false,
            loudness: 1.0,
            spoilt: None,
            binding_bytes: 1 << 27,
            spread: Spread { workgroup: 64, lanes: 8, rows: 2, rounds: 2, subgroup: 8, processors: 128 },
        }
    }

    fn input(&self) -> u32 {
        self.groups * self.form.group().max(64)
    }

    /// The cells of queries, keys and values: one for each position, or a ring that the position is beyond.
    fn cells(&self) -> Cells {
        Cells { count: CONTEXT, ring: (self.seed % 4 < 2).then_some(13) }
    }

    /// Whether the hidden units of routers that look at the input are computed.
    fn has_routers(&self) -> bool {
        self.has_next && (self.normed || self.other) && matches!(self.kind, Kind::Gate | Kind::Qkv)
    }

    fn activation(&self) -> ActivationFunction {
        if self.other { ActivationFunction::GeluTanh } else { ActivationFunction::Silu }
    }

    fn output(&self) -> Output {
        if self.kind == Kind::Residual && !self.other { Output::Add } else { Output::Overwrite }
    }

    fn rows(&self) -> u32 {
        match self.kind {
            Kind::Gate => 16 * self.eights,
            Kind::Qkv => 4 * self.eights * HEAD_DIM,
            _ => 8 * self.eights,
        }
    }

    /// The projection, or with `plain` the kernels that it stands for. Reads the results, the hidden units of routers
    /// and the depth; without the latter two, with `plain`.
    fn build(&self, plain: bool) -> impl Fn(&mut dyn Engine, &mut Recording) -> Vec<Span> {
        move |engine, recording| {
            let rng = &mut StdRng::seed_from_u64(self.seed);
            let (rows, input) = (self.rows(), self.input());
            let mut weight = random_weight(engine, rng, rows, input, self.form);
            weight.ranges.rotate_left(self.shifted.into());
            let mut x = uniform(rng, input, self.loudness);
            // A chunk of zeros is packed as such.
            x[..64 * (self.seed % 2) as usize].fill(0.0);
            if let Some(spoilt) = self.spoilt {
                x[self.seed as usize % input as usize] = spoilt;
            }
            let x = upload(engine, &x).all();
            let norm = Norm { weight: upload(engine, &uniform(rng, input, 1.0)), eps: EPS };
            let before =
                if self.output() == Output::Add { uniform(rng, rows, 1.0) } else { vec![f32::NAN; rows as usize] };
            let y = upload(engine, &before).all();
            let routers = random_routers(engine, rng, SITES, input, 1.0);
            let heard = upload(engine, &uniform(rng, (hidden_bytes(2) / 4) as u32, 1.0)).all();
            let hidden = upload(engine, &vec![0f32; (hidden_bytes(2) / 4) as usize]).all();
            let depth = upload(engine, &[self.depth, 9, 9]).all();
            let closed = Control { threshold: f32::MAX, most: 4 };
            let open = Control { threshold: -1e9, most: 3 };
            let control = upload(engine, &[closed, open, closed, open]).all();
            let mut step_rows = rows_at([POSITION]);
            step_rows[0].slot = 1;
            let step_rows = upload(engine, &step_rows).all();
            let shape = shape(self.eights);
            let rope_table = upload(engine, &rope::table(&shape.rope.frequencies(HEAD_DIM), 0..CONTEXT)).all();
            let [q, keys, values] = [self.eights * 4, self.eights * CONTEXT, self.eights * CONTEXT]
                .map(|eights| upload(engine, &vec![0u32; (eights * HEAD_DIM / 2) as usize]).all());
            let made = match self.kind {
                Kind::Qkv if !self.other => vec![q, keys, values],
                Kind::Gate => vec![y.buffer.span(0, u64::from(rows) * 2)],
                _ => vec![y],
            };
            if plain {
                let given = if self.normed { recording.transient(u64::from(input) * 4).all() } else { x };
                if self.normed {
                    rms_norm::record(recording, 1, EPS, x, norm.weight, given);
                }
                let output = self.output();
                let whole = made[0] == y;
                let products = if whole { y } else { recording.transient(u64::from(rows) * 4).all() };
                let product = Product { weight: &weight, x: given, y: products, tokens: 1, output };
                product.record(recording, traits(1 << 27), ProductDepths::ByToken(depth));
                match self.kind {
                    Kind::Gate => plain_gate::record(recording, self.activation(), 1, rows / 2, products, made[0]),
                    Kind::Qkv if !self.other => {
                        let buffers = RopeBuffers { qkv: products, step_rows, rope_table, q, keys, values };
                        rope::record(recording, &shape, 1, self.cells(), buffers);
                    }
                    _ => (),
                }
                return made;
            }
            let input = match self.normed {
                true => Input::Normed(x, norm),
                false if self.has_routers() => Input::Routed(x, norm),
                false => Input::Plain(x),
            };
            let projection = Projection { weight: &weight, input, depth, spread: self.spread };
            let next = self.has_routers().then_some(SiteRouters { routers: &routers, first: 2, count: 2, hidden });
            match self.kind {
                Kind::Logits => logits::record(recording, traits(self.binding_bytes), &projection, y),
                Kind::Residual => {
                    let at = SiteRouters { routers: &routers, first: 2, count: 2, hidden: heard };
                    let selection = DepthSelection { routers: at, control, step_rows, depth_row: 1 };
                    residual::record(recording, &projection, self.routed.then_some(selection), y, self.output());
                }
                Kind::Gate => gate::record(recording, &projection, self.activation(), next, made[0]),
                Kind::Qkv if self.other => {
                    let buffers = QkvBuffers { step_rows, rope_table, q: y, keys, values };
                    qkv::record(recording, &projection, next, &shape, self.cells(), buffers, QkvFinish::Leave);
                }
                Kind::Qkv => {
                    let buffers = QkvBuffers { step_rows, rope_table, q, keys, values };
                    qkv::record(recording, &projection, next, &shape, self.cells(), buffers, QkvFinish::Rotate);
                }
            }
            made.into_iter().chain([hidden, depth]).collect()
        }
    }

    /// What is made; the hidden units of the routers that look at the input, and the depths of the next sites.
    fn run(&self, engine: &mut dyn Engine, plain: bool) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut results = run(engine, &self.build(plain));
        let (mut hidden, mut depths) = (vec![], vec![]);
        if !plain {
            depths = results.pop().expect("depths")[1..].to_vec();
            hidden = floats(&results.pop().expect("hidden units"));
        }
        let numbers = match self.kind {
            Kind::Qkv if !self.other => {
                results[1..].iter().flat_map(|words| halves(words)).chain(floats(&results[0])).collect()
            }
            _ => floats(&results[0]),
        };
        (numbers, hidden, depths)
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

    /// The same against what takes more of the numbers: at depth 1 they are rounded to eight bits.
    fn tolerance_of_int8s(&self, made: &[f32]) -> f32 {
        self.tolerance(made) * if self.depth == 1 { 20.0 } else { 1.0 }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_projection_is_its_reference(problem in problem()) {
        let (reference, hidden_reference, depths_reference) = problem.run(reference_engine().as_mut(), false);
        let is_reference = |engine: &mut dyn Engine, reference: &[f32]| {
            let (made, hidden, depths) = problem.run(engine, false);
            prop_assert_eq!(&depths, &depths_reference);
            let (distance, tolerance) = (far(&made, reference), problem.tolerance(reference));
            prop_assert!(distance < tolerance, "{} of {}", distance, tolerance);
            prop_assert!(far(&hidden, &hidden_reference) < 1e-4, "hidden {:?} for {:?}", hidden, hidden_reference);
            Ok(())
        };
        // The processor takes both int8s at every depth.
        let exact = (problem.depth == 1).then(|| problem.run(reference_engine().as_mut(), true).0);
        is_reference(cpu::open().as_mut(), exact.as_ref().unwrap_or(&reference))?;
        if let Some(mut gpu) = gpu::gpu() {
            is_reference(gpu.as_mut(), &reference)?;
        }
    }

    #[test]
    fn a_projection_is_what_it_stands_for(problem in problem()) {
        let mut cpu = reference_engine();
        let (made, hidden, depths) = problem.run(cpu.as_mut(), false);
        let (plain, ..) = problem.run(cpu.as_mut(), true);
        let chooses = problem.routed && problem.kind == Kind::Residual;
        prop_assert_eq!(depths, if chooses { CHOSEN } else { [9, 9] });
        let (distance, tolerance) = (far(&made, &plain), problem.tolerance_of_int8s(&plain));
        prop_assert!(distance < tolerance, "{} of {}", distance, tolerance);
        prop_assert_eq!(problem.has_routers(), hidden.iter().any(|unit| *unit != 0.0));
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
    let spread = Spread { workgroup: 64, lanes: 8, rows: 2, rounds: 2, subgroup: 8, processors: USUAL_PROCESSORS };
    for kind in [Kind::Logits, Kind::Residual, Kind::Gate, Kind::Qkv] {
        let sound = Problem { normed: true, routed: true, has_next: true, spread, ..Problem::of(kind) };
        for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
            let (reference, hidden, _) = sound.run(reference_engine().as_mut(), false);
            let wrong = [
                (Problem { depth: 3, ..sound.clone() }, false),
                (Problem { seed: 3, ..sound.clone() }, true),
                (Problem { normed: false, ..sound.clone() }, true),
            ];
            for (wrong, of_input) in wrong {
                let (made, other, _) = wrong.run(engine.as_mut(), false);
                assert!(far(&made, &reference) > sound.tolerance(&reference), "{wrong:?}");
                let expected = of_input && sound.has_routers();
                assert_eq!(far(&other, &hidden) > 0.05, expected, "{wrong:?}: hidden units are others, where any is");
            }
        }
    }
}

#[test]
fn every_depth_reads_its_own_ranges() {
    for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
        for (kind, depth) in [Kind::Logits, Kind::Residual, Kind::Gate, Kind::Qkv]
            .into_iter()
            .flat_map(|kind| (1..=4).map(move |depth| (kind, depth)))
        {
            let sound = Problem { depth, normed: true, ..Problem::of(kind) };
            let shifted = Problem { shifted: true, ..sound.clone() };
            let (plain, ..) = sound.run(reference_engine().as_mut(), true);
            let [near, away] = [&sound, &shifted].map(|problem| far(&problem.run(engine.as_mut(), false).0, &plain));
            let takes_both = engine.info().kind == DeviceKind::Processor;
            let tolerance = if takes_both { sound.tolerance(&plain) } else { sound.tolerance_of_int8s(&plain) };
            assert!(near < tolerance, "{near}: {sound:?}");
            assert!(away > tolerance, "{away}: {shifted:?}");
        }
    }
}

/// A number that is none, anywhere in the input, must not be packed as a zero.
#[test]
fn an_input_that_is_no_number_reaches_every_product() {
    for (kind, normed) in [(Kind::Logits, true), (Kind::Residual, false), (Kind::Gate, true), (Kind::Qkv, false)] {
        for (seed, spoilt) in [(3, f32::NAN), (70, -f32::NAN), (139, f32::INFINITY), (191, f32::NEG_INFINITY)] {
            let form = if kind == Kind::Gate { RangeForm::Pairs { group: 64 } } else { RangeForm::Words };
            let problem = Problem { seed, form, normed, spoilt: Some(spoilt), ..Problem::of(kind) };
            for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
                let (made, ..) = problem.run(engine.as_mut(), false);
                // The cache of the other positions is zero.
                let expected = if kind == Kind::Qkv { 4 * 5 * HEAD_DIM as usize } else { made.len() };
                let spoilt = made.iter().filter(|number| number.is_nan()).count();
                assert_eq!(spoilt, expected, "{problem:?} on {}", engine.info().name);
            }
        }
    }
}

/// Attention in parts that a projection puts together itself, and by the kernel that does nothing else.
#[test]
fn a_projection_of_parts_is_that_of_what_they_come_to() {
    for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
        // Numbers of parts that are odd and even, heads that are less than a chunk and more.
        for (heads, head_dim, splits) in [(4, 16, 3), (3, 64, 5), (2, 128, 8), (4, 80, 2), (1, 256, 7)] {
            let shape = LlamaShape { heads, kv_heads: heads, head_dim, ..shape(0) };
            let context = 1024;
            let build = |engine: &mut dyn Engine, recording: &mut Recording| {
                let rng = &mut StdRng::seed_from_u64(u64::from(head_dim));
                let weight = random_weight(engine, rng, 48, shape.q_dim(), RangeForm::Words);
                let q = upload(engine, &uniform(rng, shape.q_dim(), 2.0)).all();
                let [keys, values] = [(); 2].map(|()| {
                    let numbers = uniform(rng, shape.kv_dim() * context, 1.0);
                    upload(engine, &numbers.into_iter().map(f16::from_f32).collect::<Vec<_>>()).all()
                });
                let depth = upload(engine, &[4u32]).all();
                let spread = Spread::of(traits(1 << 27), (48, shape.q_dim()), Some(Site::O));
                let product = |engine: &mut dyn Engine, recording: &mut Recording, input| {
                    let y = upload(engine, &[0f32; 48]).all();
                    let projection = Projection { weight: &weight, input, depth, spread };
                    residual::record(recording, &projection, None, y, Output::Add);
                    y
                };
                let mut products = vec![];
                // At the second one's position some splits have none.
                for position in [900u32, 40] {
                    let step_rows = upload(engine, &rows_at([position])).all();
                    let y = recording.transient(u64::from(shape.q_dim()) * 4).all();
                    let buffers = AttentionBuffers { q, step_rows, keys, values, y };
                    let problem = Attention {
                        shape: &shape,
                        as_alone: false,
                        tokens: 1,
                        cells: Cells::of_all_positions(context),
                        scores: ScoreRules::default(),
                        context,
                        class: ContextClass::Long,
                        quantized_kv: None,
                        buffers,
                    };
                    let partials = split::record(recording, PROCESSORS, &problem, splits);
                    let partials = partials.expect("positions are cut");
                    combine::record(recording, partials, y);
                    products.push(product(engine, recording, Input::Partials(partials)));
                    products.push(product(engine, recording, Input::Plain(y)));
                }
                products
            };
            let all: Vec<Vec<f32>> = run(engine.as_mut(), &build).iter().map(|words| floats(words)).collect();
            let size = all[1].iter().fold(0f32, |size, number| size.max(number.abs()));
            assert!(far(&all[0], &all[1]) < 1e-3 * size, "{heads} heads of {head_dim} in {splits}");
            assert!(far(&all[2], &all[3]) < 1e-3 * size, "{heads} heads of {head_dim} in {splits}, some empty");
            assert!(far(&all[0], &all[2]) > 1e-2 * size, "positions make a difference");
        }
    }
}

/// The depths that a projection selects, by hidden units that another one computed, are those that `route` selects.
#[test]
fn depths_chosen_beside_a_projection_are_those_of_the_routers() {
    for mut engine in [cpu::open()].into_iter().chain(own_gpu()) {
        let (mut seen, mut differ) = ([0; 5], 0);
        for seed in 0..60 {
            let build = |engine: &mut dyn Engine, recording: &mut Recording| {
                let rng = &mut StdRng::seed_from_u64(seed);
                let (rows, input) = (72, 192);
                let weight = random_weight(engine, rng, rows, input, RangeForm::Pairs { group: 64 });
                let routers = random_routers(engine, rng, SITES, input, 1.0);
                let x = upload(engine, &uniform(rng, input, 1.0)).all();
                let norm = Norm { weight: upload(engine, &uniform(rng, input, 2.0)), eps: EPS };
                let normed = recording.transient(u64::from(input) * 4).all();
                let closed = Control { threshold: f32::MAX, most: 4 };
                let threshold = (seed % 6) as f32 * 0.8 - 3.0;
                let bound = Control { threshold, most: 4 - (seed % 3 == 0) as u32 };
                let control = upload(engine, &[closed, bound, bound, closed]).all();
                let (read, step_rows) = (upload(engine, &[2u32]).all(), upload(engine, &rows_at([0])).all());
                let chosen = upload(engine, &[2u32, 9, 9]).all();
                let routed = upload(engine, &[9u32; 2]).all();
                let y = upload(engine, &vec![0f32; rows as usize]).all();
                let sites = 1..3;
                let (depths, depths_row) = (routed, 1);
                let inputs = RouteInputs { x, norm, normed, sites, control, step_rows, depths, depths_row };
                // Not by the kernel for processors, which wants their subgroups.
                let hardware = Traits { software: false, ..traits(1 << 27) };
                router::record(recording, hardware, &routers, &inputs);

                let units = recording.transient(hidden_bytes(2)).all();
                let next = SiteRouters { routers: &routers, first: 1, count: 2, hidden: units };
                let spread = Spread::of(traits(1 << 27), (rows, input), Some(Site::GateUp));
                let gated_projection =
                    Projection { weight: &weight, input: Input::Normed(x, norm), depth: read, spread };
                let gated = recording.transient(u64::from(rows) * 2).all();
                gate::record(recording, &gated_projection, ActivationFunction::Silu, Some(next), gated);
                let spread = Spread::of(traits(1 << 27), (rows, input), Some(Site::Down));
                let added = Projection { input: Input::Plain(x), depth: chosen, spread, ..gated_projection };
                let selection = DepthSelection { routers: next, control, step_rows, depth_row: 1 };
                residual::record(recording, &added, Some(selection), y, Output::Add);
                vec![chosen, routed]
            };
            let results = run(engine.as_mut(), &build);
            let [chosen, routed] = [&results[0][1..], &results[1]];
            assert!(chosen.iter().all(|depth| (1..=4).contains(depth)), "seed {seed}: {chosen:?}");
            chosen.iter().for_each(|depth| seen[*depth as usize] += 1);
            differ += chosen.iter().zip(routed).filter(|(chosen, routed)| chosen != routed).count();
        }
        assert!(differ <= 1, "{differ} of 120 depths differ");
        assert!(seen[1..].iter().all(|count| *count > 2), "every depth comes: {seen:?}");
        println!("{differ} of 120 depths differ; by depth: {seen:?}");
    }
}
