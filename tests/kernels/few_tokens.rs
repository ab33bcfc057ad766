//! The kernels of 2 to 8 tokens with int8 activations: on both engines each token comes out as it does alone, bit for
//! bit, with controls that must fail.

use crate::buffers;
use crate::buffers::{far, floats, random_routers, run, uniform, upload};
use crate::gpu;
use crate::processors::PROCESSORS;
use crate::sliced_weights::random_weight;
use bytemuck::Zeroable;
use edge_run::internals::arch::ActivationFunction;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine, Traits, USUAL_PROCESSORS};
use edge_run::internals::format::codes::RangeForm;
use edge_run::internals::kernels::attention::{self, Attention, AttentionBuffers, ContextClass, ScoreRules, split};
use edge_run::internals::kernels::cache::rope;
use edge_run::internals::kernels::product::Output;
use edge_run::internals::kernels::project::qkv::{self, QkvBuffers, QkvFinish};
use edge_run::internals::kernels::project::residual::{self, DepthSelection};
use edge_run::internals::kernels::project::router_hidden::{SiteRouters, hidden_bytes};
use edge_run::internals::kernels::project::{Input, Projection, Spread, gate, logits, pack};
use edge_run::internals::kernels::rms_norm::Norm;
use edge_run::internals::kernels::router::Control;
use edge_run::internals::kernels::step_rows::{Cells, StepRow};
use edge_run::internals::recording::{Recording, Span};
use edge_run::internals::shape::{LlamaShape, Rope};
use half::f16;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Positions of each token's sequence.
const CONTEXT: u32 = 40;
const HEAD_DIM: u32 = 16;
const EPS: f32 = 1e-5;
const SITES: u32 = 4;

/// What becomes of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Logits,
    Residual,
    Gate,
    Qkv,
    /// Queries, keys and values that are left as they are.
    Raw,
}

const KINDS: [Kind; 5] = [Kind::Logits, Kind::Residual, Kind::Gate, Kind::Qkv, Kind::Raw];

/// A product with few tokens.
#[derive(Debug, Clone)]
struct Problem {
    kind: Kind,
    seed: u64,
    tokens: usize,
    eights: u32,
    groups: u32,
    form: RangeForm,
    /// The depth of all tokens; without it each has one of its own.
    depth: Option<u32>,
    normed: bool,
    routed: bool,
    binding_bytes: u64,
    /// Of a single token.
    spread: Spread,
}

fn problem() -> impl Strategy<Value = Problem> {
    let form = prop_oneof![
        Just(RangeForm::Pairs { group: 64 }),
        Just(RangeForm::Pairs { group: 192 }),
        Just(RangeForm::Words),
        Just(RangeForm::Words),
    ];
    let spread = prop_oneof![
        Just(Spread { workgroup: 64, lanes: 8, rows: 2, rounds: 2, subgroup: 8, processors: USUAL_PROCESSORS }),
        Just(Spread { workgroup: 32, lanes: 4, rows: 4, rounds: 1, subgroup: 8, processors: USUAL_PROCESSORS }),
    ];
    let groups = prop_oneof![Just(1u32), Just(3), Just(9)];
    let depth = prop_oneof![Just(None), (1u32..=4).prop_map(Some)];
    let sizes = (any::<u64>(), 0..KINDS.len(), 1u32..=3, 1u32..30, groups, form);
    let binding_bytes = prop_oneof![Just(16384u64), Just(1 << 27)];
    (sizes, depth, any::<bool>(), any::<bool>(), binding_bytes, spread).prop_map(
        |((seed, kind, power, eights, groups, form), depth, normed, routed, binding_bytes, spread)| Problem {
            kind: KINDS[kind],
            seed,
            tokens: 1 << power,
            eights,
            groups,
            form,
            depth,
            normed,
            routed,
            binding_bytes,
            spread,
        },
    )
}

/// What a run gives, a list for each token.
#[derive(Debug, Clone, PartialEq)]
struct Made {
    /// Bits of f32.
    y: Vec<Vec<u32>>,
    hidden: Vec<Vec<u32>>,
    /// At which its products read.
    read_at: Vec<u32>,
    /// Of the next two sites.
    depths: Vec<Vec<u32>>,
    /// Keys and values of all cells.
    cache: Vec<u32>,
}

impl Problem {
    fn of(kind: Kind, tokens: usize) -> Problem {
        Problem {
            kind,
            seed: 1,
            tokens,
            eights: 5,
            groups: 3,
            form: RangeForm::Words,
            depth: None,
            normed: true,
            routed: true,
            binding_bytes: 1 << 27,
            spread: Spread { workgroup: 64, lanes: 8, rows: 2, rounds: 2, subgroup: 8, processors: 128 },
        }
    }

    fn rows(&self) -> u32 {
        match self.kind {
            Kind::Gate => 16 * self.eights,
            Kind::Qkv | Kind::Raw => 4 * self.eights * HEAD_DIM,
            _ => 8 * self.eights,
        }
    }

    fn shape(&self) -> LlamaShape {
        let (heads, kv_heads) = (2 * self.eights, self.eights);
        LlamaShape { heads, kv_heads, ..buffers::heads_shape(heads, kv_heads, HEAD_DIM, CONTEXT) }
    }

    fn traits(&self) -> Traits {
        Traits { packed_dot: true, binding_bytes: self.binding_bytes, ..PROCESSORS }
    }

    /// Records the tokens from `first` on, one by the kernels of a single token, or several by those of few.
    fn record(&self, engine: &mut dyn Engine, recording: &mut Recording, first: usize, count: usize) -> Vec<Span> {
        let rng = &mut StdRng::seed_from_u64(self.seed);
        let (rows, input) = (self.rows(), self.groups * self.form.group().max(64));
        let weight = random_weight(engine, rng, rows, input, self.form);
        let routers = random_routers(engine, rng, SITES, input, 1.0);
        let norm = Norm { weight: upload(engine, &uniform(rng, input, 1.0)), eps: EPS };
        let mut own = |width: u32| {
            let all: Vec<Vec<f32>> = (0..self.tokens).map(|_| uniform(rng, width, 1.0)).collect();
            upload(engine, &all[first..first + count].concat()).all()
        };
        let (x, y) = (own(input), own(if self.kind == Kind::Gate { rows / 2 } else { rows }));
        let units = (hidden_bytes(2) / 4) as u32;
        let (heard, hidden) = (own(units), own(units));
        let depths: Vec<u32> = (0..self.tokens).map(|_| self.depth.unwrap_or(rng.random_range(1..=4))).collect();
        // Behind these, those of the next two sites.
        let depths: Vec<u32> = depths[first..first + count].iter().copied().chain(vec![9; 2 * count]).collect();
        let depth = upload(engine, &depths).all();
        let threshold = |site: u32| Control { threshold: site as f32 * 0.7 - 1.5, most: 4 - site % 2 };
        let control: Vec<Control> = (0..SITES * self.tokens as u32).map(threshold).collect();
        let control = upload(engine, &control).all();
        let row = |token: usize| StepRow {
            position: (token as u32 * 11 + self.seed as u32 % 7) % CONTEXT,
            first_cell: token as u32 * CONTEXT,
            slot: token as u32,
            first_control: token as u32 * SITES,
            depth_row: (token - first) as u32,
            ..StepRow::zeroed()
        };
        let step_rows = upload(engine, &(first..first + count).map(row).collect::<Vec<_>>()).all();
        let frequencies = Rope { theta: 10_000.0, scaling: Default::default() }.frequencies(HEAD_DIM);
        let rope_table = upload(engine, &rope::table(&frequencies, 0..CONTEXT)).all();
        let shape = self.shape();
        let cells = Cells::of_all_positions(CONTEXT * self.tokens as u32);
        let q = upload(engine, &vec![0f32; (shape.q_dim() as usize) * count]).all();
        let [keys, values] =
            [(); 2].map(|()| upload(engine, &vec![0u32; (shape.kv_dim() * cells.count / 2) as usize]).all());

        let looks = matches!(self.kind, Kind::Gate | Kind::Qkv | Kind::Raw);
        let input = match self.normed {
            true => Input::Normed(x, norm),
            false if looks => Input::Routed(x, norm),
            false => Input::Plain(x),
        };
        let site = |hidden| SiteRouters { routers: &routers, first: 2, count: 2, hidden };
        let mut next = (looks && self.routed).then_some(site(hidden));
        let mut projection = Projection { weight: &weight, input, depth, spread: self.spread };
        if count > 1 {
            let packed = pack::record(recording, &projection, count as u32, next.take());
            projection = Projection { input: Input::Packed(packed), spread: self.spread.of_few(), ..projection };
        }
        match self.kind {
            Kind::Logits => logits::record(recording, self.traits(), &projection, y),
            Kind::Residual => {
                let depth_row = count as u32;
                let selection = DepthSelection { routers: site(heard), control, step_rows, depth_row };
                let output = if self.normed { Output::Overwrite } else { Output::Add };
                residual::record(recording, &projection, self.routed.then_some(selection), y, output);
            }
            Kind::Gate => gate::record(recording, &projection, ActivationFunction::Silu, next, y),
            Kind::Qkv => {
                let buffers = QkvBuffers { step_rows, rope_table, q, keys, values };
                qkv::record(recording, &projection, next, &shape, cells, buffers, QkvFinish::Rotate);
            }
            Kind::Raw => {
                let buffers = QkvBuffers { step_rows, rope_table, q: y, keys, values };
                qkv::record(recording, &projection, next, &shape, cells, buffers, QkvFinish::Leave);
            }
        }
        vec![if self.kind == Kind::Qkv { q } else { y }, hidden, depth, keys, values]
    }

    fn run(&self, engine: &mut dyn Engine, first: usize, count: usize) -> Made {
        let build = |engine: &mut dyn Engine, recording: &mut Recording| self.record(engine, recording, first, count);
        let results = run(engine, &build);
        let each = |words: &[u32]| words.chunks_exact(words.len() / count).map(<[u32]>::to_vec).collect::<Vec<_>>();
        let depths = (0..count).map(|token| vec![results[2][count + token], results[2][2 * count + token]]);
        let (y, hidden, depths) = (each(&results[0]), each(&results[1]), depths.collect());
        let read_at = results[2][..count].to_vec();
        Made { y, hidden, read_at, depths, cache: results[3..].concat() }
    }

    /// All tokens, each by itself.
    fn alone(&self, engine: &mut dyn Engine) -> Made {
        let all = (0..self.tokens).map(|token| self.run(engine, token, 1));
        all.reduce(|mut all, one| {
            all.y.extend(one.y);
            all.hidden.extend(one.hidden);
            all.read_at.extend(one.read_at);
            all.depths.extend(one.depths);
            // Each writes its own cells, and the others are zero.
            all.cache.iter_mut().zip(one.cache).for_each(|(all, one)| *all |= one);
            all
        })
        .expect("there are tokens")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_of_few_tokens_comes_out_as_it_does_alone(problem in problem()) {
        let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
        let together = problem.run(gpu.as_mut(), 0, problem.tokens);
        prop_assert_eq!(&together, &problem.alone(gpu.as_mut()));
        let mut cpu = reference();
        let reference = problem.run(cpu.as_mut(), 0, problem.tokens);
        prop_assert_eq!(&reference, &problem.alone(cpu.as_mut()));
        is_near(&together, &reference, 1)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_processor_takes_any_number_of_tokens(problem in problem(), tokens in 2usize..=8) {
        let problem = Problem { tokens, ..problem };
        let [reference, made] = [reference(), cpu::open()].map(|mut engine| {
            let together = problem.run(engine.as_mut(), 0, tokens);
            (together == problem.alone(engine.as_mut())).then_some(together)
        });
        prop_assert!(reference.is_some() && made.is_some(), "{}, {}", reference.is_some(), made.is_some());
        // At depth 1 it takes more of the numbers than shaders do; the tests of its rows look at that.
        is_near(&made.expect("it is there"), &reference.expect("it is there"), 2)?;
    }
}

/// Fails where numbers of tokens that read so deep are further from the reference's than roundings are, and where
/// another depth was chosen.
fn is_near(made: &Made, reference: &Made, least_depth: u32) -> Result<(), TestCaseError> {
    prop_assert_eq!(&made.depths, &reference.depths);
    let read_so_deep = made.y.iter().zip(&reference.y).zip(&reference.read_at).filter(|(_, at)| **at >= least_depth);
    for ((made, reference), _) in read_so_deep {
        let largest = floats(reference).iter().fold(1.0f32, |largest, number| largest.max(number.abs()));
        let distance = far(&floats(made), &floats(reference));
        prop_assert!(distance < 2e-3 * largest * largest, "{} of {}", distance, largest);
    }
    for (hidden, reference) in made.hidden.iter().zip(&reference.hidden) {
        prop_assert!(far(&floats(hidden), &floats(reference)) < 1e-4);
    }
    Ok(())
}

/// Tokens of several sequences, which look back over parts of the positions, all of them or a window.
#[test]
fn attention_of_several_sequences_is_that_of_each_alone() {
    const POSITIONS: [u32; 5] = [650, 3, 255, 256, 511];
    let made = |engine: &mut dyn Engine, window: Option<u32>, first: usize, count: usize| {
        let traits = engine.traits();
        let build = |engine: &mut dyn Engine, recording: &mut Recording| {
            let rng = &mut StdRng::seed_from_u64(5);
            let shape = buffers::heads_shape(4, 2, 32, 704);
            let cells = Cells { ring: window.map(|_| 448), ..Cells::of_all_positions(704 * 5) };
            let [keys, values] = [(); 2].map(|()| {
                let numbers = uniform(rng, shape.kv_dim() * cells.count, 1.0);
                upload(engine, &numbers.into_iter().map(f16::from_f32).collect::<Vec<_>>()).all()
            });
            let all: Vec<Vec<f32>> = POSITIONS.iter().map(|_| uniform(rng, shape.q_dim(), 2.0)).collect();
            let q = upload(engine, &all[first..first + count].concat()).all();
            let row = |token: usize| {
                let (position, slot) = (POSITIONS[token], token as u32);
                StepRow { position, first_cell: 704 * slot, slot, ..StepRow::zeroed() }
            };
            let step_rows = upload(engine, &(first..first + count).map(row).collect::<Vec<_>>()).all();
            let y = upload(engine, &vec![0f32; shape.q_dim() as usize * count]).all();
            let problem = Attention {
                shape: &shape,
                tokens: count as u32,
                as_alone: true,
                cells,
                scores: ScoreRules { window, cap: None },
                context: 704,
                class: ContextClass::Short,
                quantized_kv: None,
                buffers: AttentionBuffers { q, step_rows, keys, values, y },
            };
            assert!(attention::record(recording, traits, &problem).is_none());
            vec![y]
        };
        run(engine, &build).remove(0)
    };
    for window in [None, Some(300)] {
        let [reference, found] = [reference(), cpu::open()].map(|mut engine| {
            let together = made(engine.as_mut(), window, 0, 5);
            let alone: Vec<u32> = (0..5).flat_map(|token| made(engine.as_mut(), window, token, 1)).collect();
            assert!(together == alone, "window {window:?}");
            floats(&together)
        });
        assert!(far(&found, &reference) < 1e-4);
        assert!(far(&found[..128], &found[128..256]) > 1e-2, "tokens differ");
    }
}

#[test]
fn another_depth_and_another_input_of_one_token_change_that_token_alone() {
    for mut engine in [reference()].into_iter().chain(gpu::gpu().map(|_| gpu_of_its_own())) {
        for kind in KINDS {
            let problem = |depth| Problem { depth, ..Problem::of(kind, 4) };
            let mixed = problem(None).run(engine.as_mut(), 0, 4);
            let uniform = [1, 2, 3, 4].map(|depth| problem(Some(depth)).run(engine.as_mut(), 0, 4));
            for token in 0..4 {
                let same = uniform.iter().filter(|made| made.y[token] == mixed.y[token]).count();
                assert_eq!(same, 1, "{kind:?}: token {token} has one depth");
            }
            assert!((1..4).all(|token| mixed.y[token] != mixed.y[0]), "{kind:?}: inputs differ");
        }
    }
}

/// The CPU engine by references alone, which are what the kernels mean.
fn reference() -> Box<dyn Engine> {
    cpu::open_reference(Activations::Int8)
}

fn gpu_of_its_own() -> Box<dyn Engine> {
    edge_run::internals::gpu::open(0, gpu::options()).expect("the first adapter opens")
}

/// Attention of few tokens in splits, and the product that reads its partials.
#[test]
fn partials_of_few_tokens_are_those_of_each_alone() {
    for mut engine in [reference()].into_iter().chain(gpu::gpu().map(|_| gpu_of_its_own())) {
        for (tokens, heads, head_dim, splits) in [(4usize, 4, 16, 3), (2, 3, 64, 5), (8, 2, 128, 1)] {
            let made = |engine: &mut dyn Engine, first: usize, count: usize| {
                let build = |engine: &mut dyn Engine, recording: &mut Recording| {
                    let rng = &mut StdRng::seed_from_u64(u64::from(head_dim));
                    let shape = buffers::heads_shape(heads, heads, head_dim, 256);
                    let cells = Cells::of_all_positions(256 * tokens as u32);
                    let weight = random_weight(engine, rng, 48, shape.q_dim(), RangeForm::Words);
                    let [keys, values] = [(); 2].map(|()| {
                        let numbers = uniform(rng, shape.kv_dim() * cells.count, 1.0);
                        upload(engine, &numbers.into_iter().map(f16::from_f32).collect::<Vec<_>>()).all()
                    });
                    let all: Vec<Vec<f32>> = (0..tokens).map(|_| uniform(rng, shape.q_dim(), 2.0)).collect();
                    let q = upload(engine, &all[first..first + count].concat()).all();
                    let row = |token: usize| {
                        let (position, first_cell) = (250 - 31 * token as u32, 256 * token as u32);
                        StepRow { position, first_cell, slot: token as u32, ..StepRow::zeroed() }
                    };
                    let step_rows = upload(engine, &(first..first + count).map(row).collect::<Vec<_>>()).all();
                    let y = recording.transient(u64::from(shape.q_dim()) * 4 * count as u64).all();
                    let problem = Attention {
                        shape: &shape,
                        tokens: count as u32,
                        as_alone: true,
                        cells,
                        scores: ScoreRules::default(),
                        context: 256,
                        class: ContextClass::Long,
                        quantized_kv: None,
                        buffers: AttentionBuffers { q, step_rows, keys, values, y },
                    };
                    let partials = split::record(recording, PROCESSORS, &problem, splits);
                    let input = partials.map_or(Input::Plain(y), Input::Partials);
                    let depth = upload(engine, &vec![3u32; count]).all();
                    let spread = Problem::of(Kind::Residual, tokens).spread;
                    let mut projection = Projection { weight: &weight, input, depth, spread };
                    if count > 1 {
                        let packed = pack::record(recording, &projection, count as u32, None);
                        projection = Projection { input: Input::Packed(packed), spread: spread.of_few(), ..projection };
                    }
                    let sums = upload(engine, &vec![0f32; 48 * count]).all();
                    residual::record(recording, &projection, None, sums, Output::Add);
                    vec![sums]
                };
                run(engine, &build).remove(0)
            };
            let together = made(engine.as_mut(), 0, tokens);
            let alone: Vec<u32> = (0..tokens).flat_map(|token| made(engine.as_mut(), token, 1)).collect();
            assert!(together == alone, "{tokens} tokens, {heads} heads of {head_dim} in {splits}");
            assert_ne!(together[..48], together[48..96], "tokens differ");
        }
    }
}
