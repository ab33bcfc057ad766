//! Attention through windows and with bounded scores: each kernel against the formula, with no numbers wherever a token
//! must not look, for cells that positions take in turn and for those that each position has.

use std::ops::Range;

use crate::buffers::{far, floats, halves, heads_shape, rows_at, run, uniform, upload};
use crate::gpu;
use crate::processors::PROCESSORS;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Engine, Traits};
use edge_run::internals::kernels::attention::{
    self, Attention, AttentionBuffers, ContextClass, ScoreRules, combine, matrix, split,
};
use edge_run::internals::kernels::cache::layout::{CacheConversion, Layout, QuantizedKv};
use edge_run::internals::kernels::cache::{dequantize, quantize};
use edge_run::internals::kernels::step_rows::{Cells, StepRow};
use edge_run::internals::precision::CacheType;
use edge_run::internals::recording::{Recording, Span};
use edge_run::internals::shape::LlamaShape;
use half::f16;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Positions of a sequence at most.
const CONTEXT: u32 = 1600;
/// Distance from the formula in f64: sums of f32, and exponentials of scores up to 40.
const TOLERANCE: f32 = 2e-4;
/// The same where the means of partials are rounded to f16.
const SPLIT_TOLERANCE: f32 = TOLERANCE + 1.0 / 1024.0;
/// The same where queries and weights are.
const MATRIX_TOLERANCE: f32 = TOLERANCE + 8.0 / 2048.0;
/// The same where keys and values are rounded to f16 once more.
const QUANTIZED_TOLERANCE: f32 = 4e-3;

/// The kernel that attends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Whole,
    Split(u32),
    Matrix,
    Quantized(CacheType, ContextClass),
}

/// Tokens of the second of two sequences, from position `first` on.
#[derive(Debug, Clone)]
struct Problem {
    seed: u64,
    way: Way,
    tokens: u32,
    first: u32,
    kv_heads: u32,
    share: u32,
    head_dim: u32,
    rules: ScoreRules,
    /// Cells of a ring beyond those that the step needs; none for a cell for each position.
    spare: Option<u32>,
}

fn rules() -> impl Strategy<Value = ScoreRules> {
    let window = prop_oneof![Just(None), Just(Some(1u32)), (2u32..150).prop_map(Some), (500u32..700).prop_map(Some)];
    let cap = prop_oneof![Just(None), (0.5f32..30.0).prop_map(Some)];
    (window, cap).prop_map(|(window, cap)| ScoreRules { window, cap })
}

/// Positions about the edge of the window, and any.
fn problem(ways: impl Strategy<Value = Way>, head_dims: &'static [u32]) -> impl Strategy<Value = Problem> {
    let sizes = (any::<u64>(), 1u32..5, 1u32..4, 1u32..4, prop::sample::select(head_dims));
    let place = prop_oneof![(0u32..4).prop_map(Some), Just(None)];
    let spare = prop_oneof![Just(None), (0u32..100).prop_map(Some)];
    (ways, sizes, rules(), place, 0u32..CONTEXT - 200, spare).prop_map(
        |(way, (seed, tokens, kv_heads, share, head_dim), rules, place, any, spare)| {
            let edge = |about: u32| (rules.window.unwrap_or(64) + about).saturating_sub(2);
            let (first, spare) = (place.map_or(any, edge), spare.filter(|_| rules.window.is_some()));
            Problem { seed, way, tokens, first, kv_heads, share, head_dim, rules, spare }
        },
    )
}

fn uncached(way: Way) -> bool {
    !matches!(way, Way::Quantized(..))
}

impl Problem {
    fn shape(&self) -> LlamaShape {
        heads_shape(self.kv_heads * self.share, self.kv_heads, self.head_dim, CONTEXT)
    }

    fn cells(&self) -> Cells {
        match (self.spare, self.rules.window) {
            (Some(spare), Some(window)) => {
                let ring = window + self.tokens - 1 + spare;
                Cells { count: 2 * ring, ring: Some(ring) }
            }
            _ => Cells::of_all_positions(2 * CONTEXT),
        }
    }

    fn rows(&self, positions: Range<u32>) -> Vec<StepRow> {
        let row = |row| StepRow { slot: 1, first_cell: CONTEXT, ..row };
        rows_at(positions).into_iter().map(row).collect()
    }

    fn step(&self) -> Vec<StepRow> {
        self.rows(self.first..self.first + self.tokens)
    }

    /// The first position that a token looks at.
    fn start(&self) -> u32 {
        self.rules.window.map_or(0, |window| (self.first + 1).saturating_sub(window))
    }

    /// Queries, [T, H, A].
    fn queries(&self) -> Vec<f32> {
        uniform(&mut StdRng::seed_from_u64(self.seed), self.tokens * self.shape().q_dim(), 4.0)
    }

    /// Keys and values of all positions up to the last one, [positions, K, A] each.
    fn numbers(&self) -> [Vec<f16>; 2] {
        let rng = &mut StdRng::seed_from_u64(self.seed + 1);
        let count = (self.first + self.tokens) * self.kv_heads * self.head_dim;
        [(); 2].map(|()| uniform(rng, count, 1.0).into_iter().map(f16::from_f32).collect())
    }

    /// The numbers of these positions in their cells, [K, C, A], and no numbers elsewhere.
    fn in_cells(&self, numbers: &[f16], positions: Range<u32>) -> Vec<f16> {
        let (cells, dim) = (self.cells(), self.head_dim as usize);
        let mut cache = vec![f16::NAN; (self.kv_heads * cells.count) as usize * dim];
        for row in self.rows(positions) {
            for head in 0..self.kv_heads as usize {
                let to = head * cells.count as usize + cells.cell(row, row.position as usize);
                let from = row.position as usize * self.kv_heads as usize + head;
                cache[to * dim..][..dim].copy_from_slice(&numbers[from * dim..][..dim]);
            }
        }
        cache
    }

    /// What the token looks at, by the formula, over keys and values [positions, K, A].
    fn formula(&self, keys: &[f32], values: &[f32]) -> Vec<f32> {
        let (dim, kv_heads, heads) = (self.head_dim as usize, self.kv_heads as usize, self.shape().heads as usize);
        let queries = self.queries();
        let mut y = Vec::new();
        for (at, query) in queries.chunks_exact(dim).enumerate() {
            let (position, kv_head) = (self.first as usize + at / heads, at % heads / self.share as usize);
            let sees =
                |p: usize| p <= position && self.rules.window.is_none_or(|window| p + window as usize > position);
            let row = |all: &[f32], p: usize| -> Vec<f64> {
                all[(p * kv_heads + kv_head) * dim..][..dim].iter().map(|number| f64::from(*number)).collect()
            };
            let score = |p: usize| {
                let sum: f64 = row(keys, p).iter().zip(query).map(|(key, query)| key * f64::from(*query)).sum();
                let score = sum / (dim as f64).sqrt();
                self.rules.cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let seen: Vec<usize> = (0..=position).filter(|p| sees(*p)).collect();
            let weights: Vec<f64> = seen.iter().map(|p| score(*p).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut mean = vec![0f64; dim];
            for (p, weight) in seen.iter().zip(&weights) {
                mean.iter_mut().zip(row(values, *p)).for_each(|(mean, value)| *mean += weight / total * value);
            }
            y.extend(mean.into_iter().map(|number| number as f32));
        }
        y
    }

    fn problem<'a>(&self, shape: &'a LlamaShape, buffers: AttentionBuffers) -> Attention<'a> {
        let class = if let Way::Quantized(_, class) = self.way { class } else { ContextClass::Short };
        Attention {
            shape,
            tokens: self.tokens,
            as_alone: false,
            cells: self.cells(),
            scores: self.rules,
            context: CONTEXT,
            class,
            quantized_kv: None,
            buffers,
        }
    }

    /// What the kernel makes of keys and values in f16.
    fn attend(&self, engine: &mut dyn Engine) -> Vec<f32> {
        let build = |engine: &mut dyn Engine, r: &mut Recording| {
            let shape = self.shape();
            let visible = self.start()..self.first + self.tokens;
            let [keys, values] = self.numbers().map(|numbers| self.in_cells(&numbers, visible.clone()));
            let y = r.transient(u64::from(self.tokens * shape.q_dim()) * 4).all();
            let buffers = AttentionBuffers {
                q: upload(engine, &self.queries()).all(),
                step_rows: upload(engine, &self.step()).all(),
                keys: upload(engine, &keys).all(),
                values: upload(engine, &values).all(),
                y,
            };
            let problem = self.problem(&shape, buffers);
            let partials = match self.way {
                Way::Split(splits) => split::record(r, PROCESSORS, &problem, splits),
                Way::Matrix => {
                    let traits = matrices();
                    assert!(matrix::suits(traits, &shape, self.tokens), "{self:?}");
                    attention::record(r, traits, &problem)
                }
                Way::Whole | Way::Quantized(..) => attention::record(r, PROCESSORS, &problem),
            };
            partials.into_iter().for_each(|partials| combine::record(r, partials, y));
            vec![y]
        };
        floats(&run(engine, &build)[0])
    }

    fn expected(&self) -> Vec<f32> {
        let [keys, values] = self.numbers().map(|numbers| numbers.into_iter().map(f16::to_f32).collect::<Vec<f32>>());
        self.formula(&keys, &values)
    }

    fn tolerance(&self) -> f32 {
        match self.way {
            Way::Whole => TOLERANCE,
            Way::Split(_) => SPLIT_TOLERANCE,
            Way::Matrix => MATRIX_TOLERANCE,
            Way::Quantized(..) => QUANTIZED_TOLERANCE,
        }
    }

    /// How many numbers of attention over codes are not those of the formula.
    fn quantized_apart(&self, engine: &mut dyn Engine) -> usize {
        let (y, expected) = (self.attend_quantized(engine), self.expected_quantized(engine));
        assert!(y.iter().all(|number| number.is_finite()), "{self:?}");
        y.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > self.tolerance()).count()
    }

    /// The same at most: a number between two codes may get the other one by the kernel that has a single token's own
    /// key and value, which moves a group of the heads that share them.
    fn most_apart(&self) -> usize {
        if self.tokens == 1 { 32 * self.share as usize } else { 0 }
    }

    fn layout(&self) -> Layout {
        let Way::Quantized(cache_type, _) = self.way else { panic!("it is in f16") };
        Layout::of(cache_type, self.head_dim).expect("it is in few bits")
    }

    fn conversion(&self, cells: Cells, step_rows: Span, kv: [Span; 2], quantized_kv: QuantizedKv) -> CacheConversion {
        let ([keys, values], kv_heads) = (kv, self.kv_heads);
        CacheConversion { kv_heads, cells, window: self.rules.window, step_rows, keys, values, quantized_kv }
    }

    /// A cache in few bits of no numbers, but for the token's own cell: a row that is written over may be read first,
    /// and rows of a cache have finite scales.
    fn spoilt_rows(&self) -> Vec<u32> {
        let (cells, words) = (self.cells(), self.layout().row_words());
        let mut rows = vec![0x7e00_7e00u32; (self.kv_heads * cells.count) as usize * words];
        for head in 0..self.kv_heads as usize {
            let own = head * cells.count as usize + cells.cell(self.step()[0], self.first as usize);
            rows[own * words..][..words].fill(0);
        }
        rows
    }

    /// Attention over a cache in few bits, which is of no numbers but for the positions that the first token looks at.
    fn attend_quantized(&self, engine: &mut dyn Engine) -> Vec<f32> {
        let build = |engine: &mut dyn Engine, r: &mut Recording| {
            let (shape, numbers, traits) = (self.shape(), self.numbers(), quantized_traits(engine));
            let rows = upload(engine, &self.spoilt_rows()).all();
            let quantized_kv = QuantizedKv { rows, layout: self.layout() };
            if self.start() < self.first {
                let before = self.start()..self.first;
                let kv =
                    numbers.each_ref().map(|numbers| upload(engine, &self.in_cells(numbers, before.clone())).all());
                let step_rows = upload(engine, &self.rows(before.clone())).all();
                quantize::record(r, before.len() as u32, &self.conversion(self.cells(), step_rows, kv, quantized_kv));
            }
            let step = self.first..self.first + self.tokens;
            let [keys, values] = numbers.map(|numbers| upload(engine, &self.in_cells(&numbers, step.clone())).all());
            let y = r.transient(u64::from(self.tokens * shape.q_dim()) * 4).all();
            let [q, step_rows] = [upload(engine, &self.queries()).all(), upload(engine, &self.step()).all()];
            let buffers = AttentionBuffers { q, step_rows, keys, values, y };
            let problem = Attention { quantized_kv: Some(quantized_kv), ..self.problem(&shape, buffers) };
            let partials = attention::record(r, traits, &problem);
            partials.into_iter().for_each(|partials| combine::record(r, partials, y));
            vec![y]
        };
        floats(&run(engine, &build)[0])
    }

    /// The same by the formula, over what the engine's codes mean, for many tokens but for their own.
    fn expected_quantized(&self, engine: &mut dyn Engine) -> Vec<f32> {
        let all = Problem { rules: ScoreRules::default(), spare: None, ..self.clone() };
        let end = self.first + self.tokens;
        let kept = |engine: &mut dyn Engine, r: &mut Recording| {
            let kv = all.numbers().map(|numbers| upload(engine, &all.in_cells(&numbers, 0..end)).all());
            let words = (all.kv_heads * all.cells().count) as usize * all.layout().row_words();
            let quantized_kv = QuantizedKv { rows: upload(engine, &vec![0u32; words]).all(), layout: all.layout() };
            let step_rows = upload(engine, &all.rows(0..end)).all();
            quantize::record(r, end, &all.conversion(all.cells(), step_rows, kv, quantized_kv));
            // The positions before one behind the last.
            let behind = upload(engine, &all.rows(end..end + 1)).all();
            dequantize::record(r, &all.conversion(all.cells(), behind, kv, quantized_kv));
            kv.to_vec()
        };
        let kept = run(engine, &kept);
        let own = if self.tokens == 1 { end } else { self.first };
        let [keys, values] = [0, 1].map(|of| {
            let (cells, dim) = (halves(&kept[of]), self.head_dim as usize);
            let mut numbers: Vec<f32> = self.numbers()[of].iter().map(|number| number.to_f32()).collect();
            for (at, to) in numbers.chunks_exact_mut(dim).enumerate() {
                let (position, head) = (at / self.kv_heads as usize, at % self.kv_heads as usize);
                if position < own as usize {
                    let from = (head * 2 + 1) * CONTEXT as usize + position;
                    to.copy_from_slice(&cells[from * dim..][..dim]);
                }
            }
            numbers
        });
        self.formula(&keys, &values)
    }
}

/// The CPU engine, and the GPU in an engine of its own.
fn engines() -> Vec<Box<dyn Engine>> {
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, gpu::options()).expect("the first adapter opens"));
    [cpu::open()].into_iter().chain(gpu).collect()
}

fn matrices() -> Traits {
    Traits { software: false, cooperative_matrix: true, workgroup_bytes: 48 << 10, ..PROCESSORS }
}

/// Traits under which a single token reads codes.
fn quantized_traits(engine: &dyn Engine) -> Traits {
    Traits { packed_dot: true, subgroup: engine.traits().subgroup.max(8), ..PROCESSORS }
}

fn split_way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(1u32), 2u32..9, Just(33)].prop_map(Way::Split)
}

fn quantized_way() -> impl Strategy<Value = Way> {
    let cache_type = prop_oneof![Just(CacheType::Q8), Just(CacheType::Q6), Just(CacheType::Q4)];
    let class = prop_oneof![Just(ContextClass::Short), Just(ContextClass::Long)];
    (cache_type, class).prop_map(|(cache_type, class)| Way::Quantized(cache_type, class))
}

/// Runs an f16 problem on an engine, if that can.
fn distance(engine: &mut dyn Engine, problem: &Problem) -> Option<f32> {
    assert!(uncached(problem.way));
    let can = problem.way != Way::Matrix || engine.traits().cooperative_matrix || engine.info().index.is_none();
    can.then(|| far(&problem.attend(engine), &problem.expected()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: gpu::cases(40), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whole_attention_is_the_formula(problem in problem(Just(Way::Whole), &[8, 16, 64, 80, 256])) {
        for mut engine in engines() {
            let distance = distance(engine.as_mut(), &problem).expect("every engine can");
            prop_assert!(distance < problem.tolerance(), "{} on {}", distance, engine.info().name);
        }
    }

    #[test]
    fn split_attention_is_the_formula(problem in problem(split_way(), &[8, 16, 64, 80, 256])) {
        for mut engine in engines() {
            let distance = distance(engine.as_mut(), &problem).expect("every engine can");
            prop_assert!(distance < problem.tolerance(), "{} on {}", distance, engine.info().name);
        }
    }

    /// On processors, and on GPUs with matrices.
    #[test]
    fn attention_by_matrices_is_the_formula(
        problem in problem(Just(Way::Matrix), &[16, 64, 80, 128]),
        tokens in 17u32..150,
    ) {
        let problem = Problem { tokens, ..problem };
        for mut engine in engines() {
            let distance = distance(engine.as_mut(), &problem).unwrap_or(0.0);
            prop_assert!(distance < problem.tolerance(), "{} on {}", distance, engine.info().name);
        }
    }

    #[test]
    fn quantized_attention_is_the_formula_over_what_is_kept(problem in problem(quantized_way(), &[32, 64, 96, 128])) {
        for mut engine in engines() {
            let apart = problem.quantized_apart(engine.as_mut());
            prop_assert!(apart <= problem.most_apart(), "{} on {}", apart, engine.info().name);
        }
    }
}

/// What the comparisons above rest on.
#[test]
fn a_window_a_cap_and_a_ring_that_are_wrong_are_noticed() {
    let rules = ScoreRules { window: Some(70), cap: Some(2.0) };
    let quantized = Way::Quantized(CacheType::Q8, ContextClass::Short);
    for way in [Way::Whole, Way::Split(1), Way::Split(5), Way::Matrix, quantized] {
        let tokens = if way == Way::Matrix { 20 } else { 1 };
        let (kv_heads, share, head_dim, spare) = (2, 2, 64, Some(9));
        let sound = Problem { seed: 3, way, tokens, first: 300, kv_heads, share, head_dim, rules, spare };
        let wrong = [
            ScoreRules { window: Some(69), ..rules },
            ScoreRules { window: Some(71), ..rules },
            ScoreRules { cap: Some(2.2), ..rules },
            ScoreRules { cap: None, ..rules },
        ];
        for mut engine in engines() {
            if way == Way::Matrix && engine.info().index.is_some() && !engine.traits().cooperative_matrix {
                continue;
            }
            let is = |engine: &mut dyn Engine, problem: &Problem| match way {
                Way::Quantized(..) => problem.attend_quantized(engine),
                _ => problem.attend(engine),
            };
            let expected = match way {
                Way::Quantized(..) => sound.expected_quantized(engine.as_mut()),
                _ => sound.expected(),
            };
            if uncached(way) {
                assert!(far(&is(engine.as_mut(), &sound), &expected) < sound.tolerance());
            } else {
                assert!(sound.quantized_apart(engine.as_mut()) <= sound.most_apart());
            }
            for rules in wrong {
                let wrong = Problem { rules, ..sound.clone() };
                let distance = far(&is(engine.as_mut(), &wrong), &expected);
                assert!(distance > sound.tolerance(), "{way:?}, {rules:?}: {distance} on {}", engine.info().name);
            }
        }
    }
}

/// A bound would hide it.
#[test]
fn a_score_that_is_no_number_stays_so_under_a_cap() {
    let (rules, spare) = (ScoreRules { window: Some(70), cap: Some(2.0) }, None);
    for way in [Way::Whole, Way::Split(1), Way::Split(5)] {
        let problem =
            Problem { seed: 3, way, tokens: 1, first: 300, kv_heads: 1, share: 1, head_dim: 64, rules, spare };
        for mut engine in engines() {
            // The window's first position has no number.
            let cut = Problem { rules: ScoreRules { window: Some(69), ..rules }, ..problem.clone() };
            let build = |engine: &mut dyn Engine, r: &mut Recording| {
                let shape = problem.shape();
                let visible = cut.start()..cut.first + 1;
                let [keys, values] = cut.numbers().map(|numbers| cut.in_cells(&numbers, visible.clone()));
                let values: Vec<f16> =
                    values.into_iter().map(|value| if value.is_nan() { f16::ONE } else { value }).collect();
                let y = r.transient(u64::from(shape.q_dim()) * 4).all();
                let [q, step_rows] = [upload(engine, &problem.queries()).all(), upload(engine, &problem.step()).all()];
                let [keys, values] = [upload(engine, &keys).all(), upload(engine, &values).all()];
                let buffers = AttentionBuffers { q, step_rows, keys, values, y };
                let attention = problem.problem(&shape, buffers);
                let partials = match way {
                    Way::Split(splits) => split::record(r, PROCESSORS, &attention, splits),
                    _ => attention::record(r, PROCESSORS, &attention),
                };
                partials.into_iter().for_each(|partials| combine::record(r, partials, y));
                vec![y]
            };
            let y = floats(&run(engine.as_mut(), &build)[0]);
            assert!(y.iter().any(|number| number.is_nan()), "{way:?} on {}: {y:?}", engine.info().name);
        }
    }
}
