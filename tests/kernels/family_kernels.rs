//! The kernels of what other families have beside LLaMA's: on both engines, and against formulas in f64, each with a
//! control that must fail.

use crate::buffers::{far, floats, halves, heads_shape, rows_at, run, uniform, upload};
use crate::gpu;
use edge_run::internals::arch::{HeadNorm, QueryGrowth};
use edge_run::internals::cpu;
use edge_run::internals::engine::Engine;
use edge_run::internals::kernels::cache::finish_qkv::{self, HeadVectors, QkvRules};
use edge_run::internals::kernels::cache::rope::{self, RopeBuffers};
use edge_run::internals::kernels::rms_norm::Norm;
use edge_run::internals::kernels::step_rows::Cells;
use edge_run::internals::kernels::{add_norm, cap_logits};
use edge_run::internals::recording::{Recording, Span};
use edge_run::internals::shape::LlamaShape;
use half::f16;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

const EPS: f32 = 1e-5;
const CONTEXT: u32 = 160;
/// A few roundings of numbers up to about 8, and what sums of their squares in another order and a driver's inverse
/// root are off by.
const TOLERANCE: f32 = 1e-4;
/// Half a unit in the last of the eleven bits that the cache has of numbers up to 8.
const CACHE_TOLERANCE: f32 = 8.0 / 2048.0;

/// Queries, keys and values of tokens of two sequences at positions `first` on.
#[derive(Debug, Clone)]
struct Problem {
    seed: u64,
    tokens: u32,
    first: u32,
    kv_heads: u32,
    share: u32,
    head_dim: u32,
    bias: bool,
    head_norm: HeadNorm,
    growth: Option<QueryGrowth>,
    ring: Option<u32>,
}

fn problem() -> impl Strategy<Value = Problem> {
    let head_dim = prop_oneof![Just(8u32), Just(16), Just(24), Just(96), Just(128), Just(256)];
    let head_norm = prop_oneof![Just(HeadNorm::None), Just(HeadNorm::EachHead), Just(HeadNorm::AllHeads)];
    let growth = prop_oneof![Just(None), Just(Some(QueryGrowth { beta: 0.3, original_context: 7 }))];
    let ring = prop_oneof![Just(None), Just(Some(48u32))];
    let sizes = (any::<u64>(), 1u32..6, 0u32..150, 1u32..4, 1u32..6);
    (sizes, head_dim, any::<bool>(), head_norm, growth, ring).prop_map(
        |((seed, tokens, first, kv_heads, share), head_dim, bias, head_norm, growth, ring)| Problem {
            seed,
            tokens,
            first,
            kv_heads,
            share,
            head_dim,
            bias,
            head_norm,
            growth,
            ring,
        },
    )
}

/// What a problem makes.
struct Made {
    /// [T, H, A]
    q: Vec<f32>,
    /// [K, C, A]
    keys: Vec<f32>,
    /// [K, C, A]
    values: Vec<f32>,
}

impl Problem {
    fn shape(&self) -> LlamaShape {
        LlamaShape { norm_eps: EPS, ..heads_shape(self.kv_heads * self.share, self.kv_heads, self.head_dim, CONTEXT) }
    }

    fn cells(&self) -> Cells {
        Cells { count: 2 * self.ring.unwrap_or(CONTEXT), ring: self.ring }
    }

    /// qkv, biases, and the weights of the norms of queries and keys.
    fn numbers(&self) -> [Vec<f32>; 4] {
        let rng = &mut StdRng::seed_from_u64(self.seed);
        let shape = self.shape();
        let width = shape.q_dim() + 2 * shape.kv_dim();
        let of_heads = |all| if self.head_norm == HeadNorm::AllHeads { all } else { shape.head_dim };
        [self.tokens * width, width, of_heads(shape.q_dim()), of_heads(shape.kv_dim())].map(|n| uniform(rng, n, 1.5))
    }

    fn record(&self, engine: &mut dyn Engine, recording: &mut Recording) -> Vec<Span> {
        let shape = self.shape();
        let [qkv, bias, query, key] = self.numbers();
        let qkv = upload(engine, &qkv).all();
        let mut rows = rows_at(self.first..self.first + self.tokens);
        for (at, row) in (0..).zip(&mut rows) {
            (row.slot, row.first_cell) = (at % 2, at % 2 * CONTEXT);
        }
        let step_rows = upload(engine, &rows).all();
        let table = rope::table(&shape.rope.frequencies(shape.head_dim), 0..CONTEXT);
        let rope_table = upload(engine, &table).all();
        let q = upload(engine, &vec![f32::NAN; (self.tokens * shape.q_dim()) as usize]).all();
        let cache = vec![f16::ZERO; (shape.kv_dim() * self.cells().count) as usize];
        let [keys, values] = [upload(engine, &cache).all(), upload(engine, &cache).all()];
        let mut all = if self.bias { bias } else { Vec::new() };
        let query_norm = all.len() as u32;
        all.extend(if self.head_norm == HeadNorm::None { Vec::new() } else { [query.clone(), key].concat() });
        let vectors = (!all.is_empty()).then(|| {
            let buffer = upload(engine, &all);
            HeadVectors { buffer, query_norm, key_norm: query_norm + query.len() as u32 }
        });
        let Problem { bias, head_norm, growth, .. } = *self;
        let rules = QkvRules { bias, head_norm, growth, vectors };
        let buffers = RopeBuffers { qkv, step_rows, rope_table, q, keys, values };
        finish_qkv::record(recording, &shape, self.tokens, self.cells(), &rules, buffers);
        vec![q, keys, values]
    }

    fn run(&self, engine: &mut dyn Engine) -> Made {
        let words = run(engine, &|engine, recording| self.record(engine, recording));
        Made { q: floats(&words[0]), keys: halves(&words[1]), values: halves(&words[2]) }
    }

    /// The same by the formulas, in f64.
    fn expected(&self) -> Made {
        let shape = self.shape();
        let (h, k, dim) = (shape.heads as usize, self.kv_heads as usize, shape.head_dim as usize);
        let [qkv, bias, query, key] = self.numbers();
        let frequencies = shape.rope.frequencies(shape.head_dim);
        let mut q = Vec::new();
        let count = self.cells().count as usize;
        let [mut keys, mut values] = [(); 2].map(|()| vec![0f32; k * count * dim]);
        for (token, row) in qkv.chunks_exact((h + 2 * k) * dim).enumerate() {
            let position = self.first as usize + token;
            let bias = |at: usize| if self.bias { f64::from(bias[at]) } else { 0.0 };
            let mut row: Vec<f64> = row.iter().enumerate().map(|(at, x)| f64::from(*x) + bias(at)).collect();
            for (part, weight) in [(0..h * dim, &query), (h * dim..(h + k) * dim, &key)] {
                let length = match self.head_norm {
                    HeadNorm::None => continue,
                    HeadNorm::EachHead => dim,
                    HeadNorm::AllHeads => part.len(),
                };
                for head in row[part].chunks_exact_mut(length) {
                    let mean = head.iter().map(|x| x * x).sum::<f64>() / length as f64;
                    let normed = |(x, w): (&f64, &f32)| x / (mean + f64::from(EPS)).sqrt() * f64::from(*w);
                    let normed: Vec<f64> = head.iter().zip(weight.iter()).map(normed).collect();
                    head.copy_from_slice(&normed);
                }
            }
            for head in row[..(h + k) * dim].chunks_exact_mut(dim) {
                for i in 0..dim / 2 {
                    let (sin, cos) = (position as f64 * f64::from(frequencies[i])).sin_cos();
                    let (a, b) = (head[i], head[i + dim / 2]);
                    (head[i], head[i + dim / 2]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
            let growth = self.growth.map_or(1.0, |growth| {
                let periods = (position / growth.original_context as usize) as f64;
                1.0 + f64::from(growth.beta) * (1.0 + periods).ln()
            });
            q.extend(row[..h * dim].iter().map(|x| (x * growth) as f32));
            let cell = match self.ring {
                None => token % 2 * CONTEXT as usize + position,
                Some(ring) => token % 2 * ring as usize + position % ring as usize,
            };
            for head in 0..k {
                let to = (head * count + cell) * dim;
                for at in 0..dim {
                    keys[to + at] = row[(h + head) * dim + at] as f32;
                    values[to + at] = row[(h + k + head) * dim + at] as f32;
                }
            }
        }
        Made { q, keys, values }
    }
}

/// Whether they are the same, but for roundings.
fn alike(made: &Made, other: &Made) -> bool {
    far(&made.q, &other.q) < TOLERANCE
        && far(&made.keys, &other.keys) < CACHE_TOLERANCE
        && far(&made.values, &other.values) < CACHE_TOLERANCE
}

fn engines() -> impl Iterator<Item = Box<dyn Engine>> {
    let own_gpu =
        gpu::gpu().map(|_| edge_run::internals::gpu::open(0, gpu::options()).expect("the first adapter opens"));
    [cpu::open()].into_iter().chain(own_gpu)
}

/// y + the norm of x, in rows, with this constant of the norm; and the same by the formula with EPS.
fn added(engine: &mut dyn Engine, (seed, tokens, width): (u64, u32, u32), eps: f32) -> (Vec<f32>, Vec<f64>) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let [x, weight, y] = [tokens * width, width, tokens * width].map(|count| uniform(rng, count, 1.0));
    let found = run(engine, &|engine, recording| {
        let norm = Norm { weight: upload(engine, &weight), eps };
        let (x, y) = (upload(engine, &x).all(), upload(engine, &y).all());
        add_norm::record(recording, tokens, norm, x, y);
        vec![y]
    });
    let rows = x.chunks_exact(width as usize).zip(y.chunks_exact(width as usize));
    let expected = rows.flat_map(|(x, y)| {
        let mean = x.iter().map(|x| f64::from(x * x)).sum::<f64>() / f64::from(width);
        let factor = 1.0 / (mean + f64::from(EPS)).sqrt();
        let sum = move |((x, y), w): ((&f32, &f32), &f32)| f64::from(*y) + f64::from(*x) * factor * f64::from(*w);
        x.iter().zip(y).zip(&weight).map(sum).collect::<Vec<_>>()
    });
    (floats(&found[0]), expected.collect())
}

fn narrow(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|number| *number as f32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn queries_keys_and_values_are_finished_as_the_formulas_say(problem in problem()) {
        let expected = problem.expected();
        prop_assert!(alike(&problem.run(cpu::open().as_mut()), &expected), "the reference");
        if let Some(mut gpu) = gpu::gpu() {
            prop_assert!(alike(&problem.run(gpu.as_mut()), &expected), "the GPU");
        }
    }

    #[test]
    fn a_sum_with_a_norm_is_its_formula(seed: u64, tokens in 1u32..9, vec4s in 1u32..600) {
        let size = (seed, tokens, 4 * vec4s);
        let (found, expected) = added(cpu::open().as_mut(), size, EPS);
        prop_assert!(far(&found, &narrow(&expected)) < TOLERANCE, "the reference");
        if let Some(mut gpu) = gpu::gpu() {
            let (found, _) = added(gpu.as_mut(), size, EPS);
            prop_assert!(far(&found, &narrow(&expected)) < TOLERANCE, "the GPU");
        }
    }
}

#[test]
fn wrong_rules_are_noticed() {
    let growth = Some(QueryGrowth { beta: 0.3, original_context: 7 });
    let sound = Problem {
        seed: 3,
        tokens: 3,
        first: 20,
        kv_heads: 2,
        share: 3,
        head_dim: 24,
        bias: true,
        head_norm: HeadNorm::EachHead,
        growth,
        ring: None,
    };
    let wrong = [
        Problem { bias: false, ..sound.clone() },
        Problem { head_norm: HeadNorm::None, ..sound.clone() },
        Problem { growth: None, ..sound.clone() },
        Problem { growth: Some(QueryGrowth { beta: 0.3, original_context: 22 }), ..sound.clone() },
        Problem { first: 21, ..sound.clone() },
    ];
    for mut engine in engines() {
        assert!(alike(&sound.run(engine.as_mut()), &sound.expected()));
        for wrong in &wrong {
            assert!(!alike(&wrong.run(engine.as_mut()), &sound.expected()), "{wrong:?}");
        }
        // The norm of each head is that of all heads where there is one of each.
        let [each, all] = [HeadNorm::EachHead, HeadNorm::AllHeads]
            .map(|head_norm| Problem { kv_heads: 1, share: 1, head_norm, ..sound.clone() }.run(engine.as_mut()));
        assert!(alike(&each, &all));
        let (found, expected) = added(engine.as_mut(), (1, 2, 64), 0.1);
        assert!(far(&found, &narrow(&expected)) > TOLERANCE, "a wrong constant of the norm is noticed");
    }
}

#[test]
fn logits_are_bounded_and_what_is_no_number_stays_so() {
    let odd = [f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 1e6, 0.0, -0.0, 1e-30];
    for mut engine in engines() {
        for (count, cap) in [(1u32, 30.0f32), (263, 30.0), (70_001, 1.5)] {
            let rng = &mut StdRng::seed_from_u64(u64::from(count));
            let logits = [&uniform(rng, count, 60.0)[..], &odd, &[f32::NAN, -f32::NAN]].concat();
            let found = run(engine.as_mut(), &|engine, recording| {
                let logits = upload(engine, &logits).all();
                cap_logits::record(recording, cap, logits);
                vec![logits]
            });
            let found = floats(&found[0]);
            let (numbers, none) = found.split_at(logits.len() - 2);
            assert!(none.iter().all(|logit| logit.is_nan()), "{none:?}");
            let cap = f64::from(cap);
            let expected: Vec<f64> = logits.iter().map(|logit| cap * (f64::from(*logit) / cap).tanh()).collect();
            assert!(far(numbers, &narrow(&expected[..numbers.len()])) < 1e-5 * cap as f32, "{count}, {cap}");
            assert!(count == 1 || far(numbers, &logits[..numbers.len()]).is_infinite(), "the bound makes a difference");
        }
    }
}
