//! The kernels that choose depths and order tokens by them, on both engines, each with a control that must fail.

use crate::buffers;
use crate::buffers::{far, floats, random_routers, uniform, upload};
use crate::gpu;
use crate::processors::PROCESSORS;
use bytemuck::Zeroable;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Engine, Traits};
use edge_run::internals::kernels::product::gather_inputs::{self, InputLayout};
use edge_run::internals::kernels::product::gather_tokens::{self, PADDING, entry};
use edge_run::internals::kernels::rms_norm::Norm;
use edge_run::internals::kernels::router::{self, Control, RouteInputs};
use edge_run::internals::kernels::step_rows::StepRow;
use edge_run::internals::recording::{Recording, Span};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Records a computation over buffers that it fills itself, and returns the range to read.
type Build<'a> = &'a dyn Fn(&mut dyn Engine, &mut Recording) -> Span;

fn run(engine: &mut dyn Engine, build: Build<'_>) -> Vec<u32> {
    buffers::run(engine, &|engine: &mut dyn Engine, recording: &mut Recording| vec![build(engine, recording)]).remove(0)
}

/// Random routers of one to three neighbouring sites over random tokens.
#[derive(Debug, Clone)]
struct RouteProblem {
    seed: u64,
    tokens: u32,
    sites: u32,
    eights: u32,
    threshold: f32,
    most: u32,
    software: bool,
    /// Factor of x, which the norm takes out again.
    loudness: f32,
    /// Factor of the outputs: far out, softplus must neither overflow nor vanish.
    spread: f32,
    shuffled: bool,
}

const EPS: f32 = 1e-5;

fn route_problem() -> impl Strategy<Value = RouteProblem> {
    let sizes = (any::<u64>(), 1u32..40, 1u32..=3, 1u32..100, -2.0f32..2.0, 1u32..=4, any::<bool>());
    let factors = (prop_oneof![Just(1.0f32), Just(1e-2), Just(1e3)], prop_oneof![Just(1.0f32), Just(300.0)]);
    (sizes, factors, any::<bool>()).prop_map(|(sizes, (loudness, spread), shuffled)| {
        let (seed, tokens, sites, eights, threshold, most, software) = sizes;
        RouteProblem { seed, tokens, sites, eights, threshold, most, software, loudness, spread, shuffled }
    })
}

impl RouteProblem {
    /// The depths; the site before those that are run and the one after would open no gate.
    fn build(&self) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
        move |engine, recording| self.record(engine, recording)[0]
    }

    /// The depths in rows without gaps, and the norm.
    fn record(&self, engine: &mut dyn Engine, recording: &mut Recording) -> [Span; 2] {
        let rng = &mut StdRng::seed_from_u64(self.seed);
        let dim = self.eights * 8;
        let x = upload(engine, &uniform(rng, self.tokens * dim, self.loudness)).all();
        let weight = upload(engine, &uniform(rng, dim, 2.0));
        let routers = random_routers(engine, rng, self.sites + 2, dim, self.spread);
        let closed = Control { threshold: f32::MAX, most: 4 };
        // Of two sequences; the other one would read everything.
        let open = Control { threshold: f32::MIN, most: 4 };
        let mut control = vec![Control { threshold: self.threshold, most: self.most }; self.sites as usize + 2];
        (control[0], control[self.sites as usize + 1]) = (closed, closed);
        let sites = control.len() as u32;
        control.splice(0..0, vec![open; sites as usize]);
        let control = upload(engine, &control).all();
        let mut shuffle: Vec<u32> = (0..self.tokens).collect();
        if self.shuffled {
            shuffle.shuffle(rng);
        }
        let row = |depth_row: &u32| StepRow { depth_row: *depth_row, first_control: sites, ..StepRow::zeroed() };
        let step_rows = upload(engine, &shuffle.iter().map(row).collect::<Vec<_>>()).all();
        let depths = upload(engine, &vec![0u32; (self.sites * self.tokens) as usize]).all();
        let normed = recording.transient(x.bytes).all();
        // Subgroups of eight are for devices that have them, and for references.
        let subgroup = if engine.traits().subgroup > 8 { engine.traits().subgroup } else { PROCESSORS.subgroup };
        let traits = Traits { software: self.software, subgroup, ..PROCESSORS };
        let inputs = RouteInputs {
            x,
            norm: Norm { weight, eps: EPS },
            normed,
            sites: 1..1 + self.sites,
            control,
            step_rows,
            depths,
            depths_row: self.tokens,
        };
        router::record(recording, traits, &routers, &inputs);
        [depths, normed]
    }
}

fn differences(a: &[u32], b: &[u32]) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

fn sound() -> RouteProblem {
    RouteProblem {
        seed: 1,
        tokens: 128,
        sites: 2,
        eights: 72,
        threshold: 0.0,
        most: 4,
        software: true,
        loudness: 1.0,
        spread: 1.0,
        shuffled: false,
    }
}

fn gather(tile: u32, depths: &[u32]) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
    move |engine, recording| {
        let tokens = depths.len() as u32;
        let order = upload(engine, &vec![0u32; gather_tokens::entries(tile, tokens) as usize]).all();
        gather_tokens::record(recording, tile, tokens, upload(engine, depths).all(), order);
        order
    }
}

/// Inputs in that order, pairs of f16 in a word.
fn gathered_inputs(
    tile: u32,
    depths: &[u32],
    input: u32,
    layout: InputLayout,
) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
    move |engine, recording| {
        let order = gather(tile, depths)(engine, recording);
        let tokens = depths.len() as u32;
        // Some are beyond f16.
        let x: Vec<f32> = (0..tokens * input).map(|at| (at as f32).sin() * 70000.0).collect();
        let y = upload(engine, &vec![1u32; (order.bytes / 4) as usize * input as usize / 2]).all();
        gather_inputs::record(recording, (tokens, input), upload(engine, &x).all(), order, layout, y);
        y
    }
}

/// Of as many tokens as there may be.
fn depths() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1u32..=4, 1..=gather_tokens::TOKENS as usize)
}

fn tile() -> impl Strategy<Value = u32> {
    prop_oneof![Just(8u32), Just(64), Just(128)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: gpu::cases(48), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routers_are_their_reference(problem in route_problem()) {
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        let reference = run(cpu::open().as_mut(), &problem.build());
        prop_assert!(reference.iter().all(|depth| (1..=problem.most).contains(depth)), "{reference:?}");
        // A score within a rounding error of the threshold may fall on either side, so one is let pass.
        let far = differences(&run(gpu.as_mut(), &problem.build()), &reference);
        prop_assert!(far <= 1, "{far} of {} depths", reference.len());
    }

    #[test]
    fn gathering_is_its_reference(depths in depths(), tile in tile()) {
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        prop_assert_eq!(run(gpu.as_mut(), &gather(tile, &depths)), run(cpu::open().as_mut(), &gather(tile, &depths)));
    }

    #[test]
    fn gathered_inputs_are_their_reference(
        depths in depths(),
        tile in prop_oneof![Just(16u32), Just(64), Just(128)],
        input in (1u32..20).prop_map(|n| 16 * n),
    ) {
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        for layout in [InputLayout::Rows, InputLayout::Blocks] {
            let problem = gathered_inputs(tile, &depths, input, layout);
            prop_assert_eq!(run(gpu.as_mut(), &problem), run(cpu::open().as_mut(), &problem));
        }
    }

    #[test]
    fn an_order_has_every_token_once_in_tiles_of_one_depth(depths in depths(), tile in tile()) {
        let order = run(cpu::open().as_mut(), &gather(tile, &depths));
        let mut tokens: Vec<u32> = order.iter().filter(|e| **e != PADDING).map(|e| e & 0xffff).collect();
        tokens.sort_unstable();
        prop_assert_eq!(tokens, Vec::from_iter(0..depths.len() as u32));
        for tile in order.chunks(tile as usize) {
            let filled = tile.iter().take_while(|e| **e != PADDING).count();
            prop_assert!(tile[filled..].iter().all(|e| *e == PADDING), "filled from the front: {:?}", tile);
            let tile = &tile[..filled];
            let sound = |e: &u32| *e == entry(e & 0xffff, depths[(e & 0xffff) as usize]) && e >> 16 == tile[0] >> 16;
            prop_assert!(tile.iter().all(sound), "{:?}", tile);
        }
    }
}

#[test]
fn engines_choose_the_same_depth_for_nearly_every_token() {
    let Some(mut gpu) = gpu::gpu() else { return };
    let (mut tokens, mut far, mut seen) = (0, 0, [0; 5]);
    for seed in 0..8 {
        let problem = RouteProblem { seed, software: seed % 2 == 0, threshold: seed as f32 * 0.5 - 2.0, ..sound() };
        let reference = run(cpu::open().as_mut(), &problem.build());
        far += differences(&run(gpu.as_mut(), &problem.build()), &reference);
        tokens += reference.len();
        reference.iter().for_each(|depth| seen[*depth as usize] += 1);
    }
    assert!(far * 1000 <= tokens * 5, "{far} of {tokens}");
    assert!(seen[1..].iter().all(|count| count * 20 > tokens), "every depth comes often: {seen:?}");
    println!("{far} of {tokens} depths differ; by depth: {seen:?}");
}

#[test]
fn another_threshold_router_clamp_deal_and_order_are_noticed() {
    let Some(mut gpu) = gpu::gpu() else { return };
    let reference = run(cpu::open().as_mut(), &sound().build());
    let wrong = [
        RouteProblem { threshold: 0.3, ..sound() },
        RouteProblem { seed: 2, ..sound() },
        RouteProblem { most: 3, ..sound() },
        RouteProblem { shuffled: true, ..sound() },
    ];
    for wrong in wrong {
        let far = differences(&run(gpu.as_mut(), &wrong.build()), &reference);
        assert!(far * 1000 > reference.len() * 5, "{wrong:?}: {far}");
    }
    assert_ne!(run(gpu.as_mut(), &gather(8, &[1, 2, 3])), run(cpu::open().as_mut(), &gather(8, &[1, 3, 2])));
}

/// The norm is made whether the router does it or a kernel of its own.
#[test]
fn what_routers_look_at_is_the_norm() {
    let norm = |engine: &mut dyn Engine, problem: RouteProblem| -> Vec<f32> {
        let record = |engine: &mut dyn Engine, recording: &mut Recording| problem.record(engine, recording)[1];
        floats(&run(engine, &record))
    };
    let of = |software: bool| RouteProblem { software, tokens: 5, ..sound() };
    let expected = norm(cpu::open().as_mut(), of(false));
    let other = norm(cpu::open().as_mut(), RouteProblem { seed: 2, ..of(false) });
    for mut engine in
        [cpu::open()].into_iter().chain(gpu::gpu().map(|_| edge_run::internals::gpu::open(0, gpu::options()).unwrap()))
    {
        let made = norm(engine.as_mut(), of(true));
        assert!(far(&made, &expected) < 1e-5 && far(&made, &other) > 0.1);
    }
}

#[test]
fn a_deal_moves_depths_and_changes_none() {
    for engine in [Some(cpu::open()), gpu::gpu().map(|_| edge_run::internals::gpu::open(0, gpu::options()).unwrap())] {
        let Some(mut engine) = engine else { continue };
        let mut own = run(engine.as_mut(), &sound().build());
        let mut shuffled = run(engine.as_mut(), &RouteProblem { shuffled: true, ..sound() }.build());
        assert_ne!(own, shuffled);
        own.sort_unstable();
        shuffled.sort_unstable();
        assert_eq!(own, shuffled);
    }
}
