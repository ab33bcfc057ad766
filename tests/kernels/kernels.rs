//! Every kernel on the GPU, and those that the processor has code of its own for, against their references, over random
//! problems, each with a control that must fail.

use crate::buffers::{heads_shape, rows_at};
use crate::gpu;
use crate::processors::PROCESSORS;
use crate::sliced_weights::{random_weight, word};
use bytemuck::Zeroable;
use edge_run::internals::arch::ActivationFunction;
use edge_run::internals::engine::{Activations, Engine, Traits};
use edge_run::internals::format::codes::{Range, RangeForm, pair_of};
use edge_run::internals::kernels::attention::{
    self, Attention, AttentionBuffers, ContextClass, ScoreRules, combine, matrix, split,
};
use edge_run::internals::kernels::cache::rope::{self, RopeBuffers};
use edge_run::internals::kernels::embed_sliced::{self, EmbedBuffers};
use edge_run::internals::kernels::product::{self, Output, Product, ProductDepths, Tiles, gather_tokens, tile_tokens};
use edge_run::internals::kernels::sample::token_nll;
use edge_run::internals::kernels::sliced::SlicedWeight;
use edge_run::internals::kernels::step_rows::{Cells, StepRow};
use edge_run::internals::kernels::{gate, rms_norm};
use edge_run::internals::precision::Depth;
use edge_run::internals::recording::{Buffer, Recording, Span};
use edge_run::internals::shape::LlamaShape;
use edge_run::internals::{cpu, format};
use half::f16;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Half the distance between two f32 near 1, doubled for the order of the sums being free.
const EPSILON: f32 = f32::EPSILON;
/// Vulkan allows exp and inverseSqrt a few units in the last place; sums over a softmax pass that on unchanged.
const TRANSCENDENTAL: f32 = 64.0 * EPSILON;
/// A cache entry is rounded to f16, and the direction of the rounding is the driver's to choose.
const F16_ROUNDING: f32 = 1.0 / 1024.0;

/// Rounding error of a sum of `terms` products of size up to `size`: each of the roundings is at most EPSILON times a
/// partial sum of about sqrt(terms) * size, and they add up like a random walk; 8 is the margin for unlucky walks.
fn sum_tolerance(terms: u32, size: f32) -> f32 {
    8.0 * EPSILON * terms as f32 * size
}

/// Records a computation over buffers that it fills from its own seed, and returns the range to compare.
type Build<'a> = &'a dyn Fn(&mut dyn Engine, &mut Recording) -> Span;

fn run(engine: &mut dyn Engine, build: Build<'_>) -> Vec<f32> {
    let mut recording = Recording::new();
    let output = build(engine, &mut recording);
    recording.read_back(output);
    let mut prepared = engine.prepare(recording).expect("the recording can be prepared");
    let bytes = engine.run(&mut prepared).expect("the recording runs").remove(0);
    bytemuck::pod_collect_to_vec(&bytes)
}

/// Compares two runs; an error names the first difference beyond `absolute + relative * |reference|`.
fn compare(got: &[f32], reference: &[f32], absolute: f32, relative: f32) -> Result<(), String> {
    assert_eq!(got.len(), reference.len());
    let far = |(g, r): (&f32, &f32)| {
        let distance = (g - r).abs();
        distance.is_nan() || distance > absolute + relative * r.abs()
    };
    match got.iter().zip(reference).position(far) {
        None => Ok(()),
        Some(at) => Err(format!(
            "[{at}]: {} instead of {} (tolerance {absolute} + {relative} relative)",
            got[at], reference[at]
        )),
    }
}

/// What `build` comes to by the references.
fn run_reference(build: Build<'_>) -> Vec<f32> {
    run(cpu::open_reference(Activations::F32).as_mut(), build)
}

/// Runs `build` on both engines and compares them with the references.
fn check(build: Build<'_>, absolute: f32, relative: f32) -> Result<(), TestCaseError> {
    check_each(build, [absolute; 2], relative)
}

/// The same with a tolerance for each engine: that of the processor, and that of the GPU.
fn check_each(build: Build<'_>, [on_cpu, on_gpu]: [f32; 2], relative: f32) -> Result<(), TestCaseError> {
    let reference = run_reference(build);
    let fail = |fault| TestCaseError::fail(format!("on the processor: {fault}"));
    compare(&run(cpu::open().as_mut(), build), &reference, on_cpu, relative).map_err(fail)?;
    let Some(mut gpu) = gpu::gpu() else { return Ok(()) };
    compare(&run(gpu.as_mut(), build), &reference, on_gpu, relative).map_err(TestCaseError::fail)
}

/// Asserts that `wrong` is told from `build` on both engines.
fn must_differ(build: Build<'_>, wrong: Build<'_>, absolute: f32, relative: f32) {
    let reference = run_reference(build);
    compare(&run(cpu::open().as_mut(), wrong), &reference, absolute, relative).expect_err("the control must fail");
    let Some(mut gpu) = gpu::gpu() else { return };
    compare(&run(gpu.as_mut(), wrong), &reference, absolute, relative).expect_err("the control must fail");
}

fn upload<T: bytemuck::Pod>(engine: &mut dyn Engine, data: &[T]) -> Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let buffer = engine.create("test", bytes.len() as u64).expect("room for a test buffer");
    engine.write(buffer.all(), bytes);
    buffer
}

fn uniform(rng: &mut StdRng, count: u32) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// A product of a random weight, with a depth for each token.
#[derive(Debug, Clone)]
struct ProductProblem {
    seed: u64,
    rows: u32,
    groups: u32,
    form: RangeForm,
    /// Whether each depth has the ranges of the next one.
    shifted: bool,
    depths: Vec<u32>,
    add: bool,
    software: bool,
    /// Whether processors are said to have vectors of eight, where the device has no smaller ones.
    vectors: bool,
    /// The processors that a device with cooperative matrices is said to have, where that is the device.
    matrices: Option<u32>,
    /// Tokens of a tile, where they are not those that the product has of itself.
    tile: Option<u32>,
    /// Small enough that some weights are read in parts.
    binding_bytes: u64,
}

fn product_problem(tokens: std::ops::Range<usize>) -> impl Strategy<Value = ProductProblem> {
    let depths = prop_oneof![
        prop::collection::vec(1u32..=4, tokens.clone()),
        (1u32..=4, tokens).prop_map(|(depth, tokens)| vec![depth; tokens]),
    ];
    let form = prop_oneof![
        3 => prop_oneof![Just(64u32), Just(128), Just(192)].prop_map(|group| RangeForm::Pairs { group }),
        2 => Just(RangeForm::Words),
    ];
    let sizes = (any::<u64>(), 1u32..300, 1u32..5, form);
    let choices = ([any::<bool>(), any::<bool>(), any::<bool>()], prop_oneof![Just(4096u64), Just(1 << 27)]);
    (sizes, depths, choices).prop_map(
        |((seed, rows, groups, form), depths, ([add, software, vectors], binding_bytes))| ProductProblem {
            seed,
            rows,
            groups,
            form,
            shifted: false,
            depths,
            add,
            software,
            vectors,
            matrices: None,
            tile: None,
            binding_bytes,
        },
    )
}

/// How a product's kernel is told the depths.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Matvec,
    Matmul,
}

impl ProductProblem {
    fn input(&self) -> u32 {
        self.groups * self.form.group().max(64)
    }

    fn build(&self, kind: Kind) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
        move |engine, recording| {
            let rng = &mut StdRng::seed_from_u64(self.seed);
            let tokens = self.depths.len() as u32;
            let mut weight = random_weight(engine, rng, self.rows, self.input(), self.form);
            weight.ranges.rotate_left(self.shifted.into());
            let x = upload(engine, &uniform(rng, tokens * self.input()));
            let y = upload(engine, &uniform(rng, tokens * self.rows));
            let depths = upload(engine, &self.depths);
            let output = if self.add { Output::Add } else { Output::Overwrite };
            let product = Product { weight: &weight, x: x.all(), y: y.all(), tokens, output };
            let (software, cooperative_matrix, binding_bytes) =
                (self.software, self.matrices.is_some(), self.binding_bytes);
            let processors = self.matrices.unwrap_or(PROCESSORS.processors);
            let subgroup = if self.vectors && engine.traits().subgroup >= 8 { 8 } else { 4 };
            let workgroup_bytes = 48 << 10;
            let traits = Traits {
                software,
                subgroup,
                cooperative_matrix,
                processors,
                binding_bytes,
                workgroup_bytes,
                ..PROCESSORS
            };
            let depths = match kind {
                Kind::Matvec => ProductDepths::ByToken(depths.all()),
                Kind::Matmul => {
                    let tile = self.tile.unwrap_or_else(|| tile_tokens(traits, self.rows, tokens));
                    let order = recording.transient(u64::from(gather_tokens::entries(tile, tokens)) * 4).all();
                    gather_tokens::record(recording, tile, tokens, depths.all(), order);
                    let x_f16 = product::x_f16(recording, traits, tokens, self.input());
                    // Tiles may be passed over in part, and need not.
                    ProductDepths::ByTile(Tiles { order, tile, partial: self.add, x_f16 })
                }
            };
            product.record(recording, traits, depths);
            y.all()
        }
    }

    fn tolerance(&self) -> f32 {
        // Weights lie within [-1, 1.5].
        sum_tolerance(self.input(), 1.5)
    }

    /// That of the processor, which makes whole numbers of an x, and that of the GPU. A whole number is off by half a
    /// unit at most, of which the largest x of 64, at most 1, has 16319 at least; the roundings walk at random, and 8 is
    /// the margin.
    fn tolerances(&self) -> [f32; 2] {
        let packed = 8.0 * 0.5 / 16319.0 * 1.5 * (self.input() as f32).sqrt();
        [packed + self.tolerance(), self.tolerance()]
    }

    /// Where a weight and an x are each rounded to f16, by at most half a unit in the last of eleven bits: the
    /// roundings of a sum of products walk at random, and 8 is the margin, also for what all weights of a group of four
    /// bits are off by, which is half a unit of twice the largest of them.
    fn f16_tolerance(&self) -> f32 {
        8.0 / 1024.0 * 1.5 * (self.input() as f32).sqrt() + self.tolerance()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn matvec_is_its_reference(problem in product_problem(1..5)) {
        check_each(&problem.build(Kind::Matvec), problem.tolerances(), 0.0)?;
    }

    #[test]
    fn matmul_is_its_reference(problem in product_problem(1..40)) {
        check_each(&problem.build(Kind::Matmul), problem.tolerances(), 0.0)?;
    }

    /// On GPUs; the rows and the tokens end at and about the edges of tiles.
    #[test]
    fn tiled_matmul_is_its_reference(
        problem in product_problem(1..330),
        rows in (1u32..5, 0u32..3).prop_map(|(tiles, about)| 64 * tiles + about - 1),
        few in 1usize..70,
    ) {
        let problem = ProductProblem { rows, software: false, ..problem };
        check(&problem.build(Kind::Matmul), problem.tolerance(), 0.0)?;
        if gpu::gpu().is_some_and(|gpu| gpu.traits().cooperative_matrix) {
            let few = problem.depths[..few.min(problem.depths.len())].to_vec();
            let all = problem.depths.clone();
            // Rows are many for one processor and few for a hundred.
            for (tile, depths, processors) in
                [(None, few.clone(), 100), (None, few, 1), (None, all.clone(), 100), (Some(128), all, 100)]
            {
                let problem = ProductProblem { matrices: Some(processors), tile, depths, ..problem.clone() };
                check(&problem.build(Kind::Matmul), problem.f16_tolerance(), 0.0)?;
            }
        }
    }

    #[test]
    fn embedding_is_its_reference(seed: u64, rows in 1u32..500, groups in 1u32..4, depth in 0usize..4, tokens in 1u32..70) {
        for form in [RangeForm::Pairs { group: 64 }, RangeForm::Words] {
            let build = embedding(seed, (rows, groups * 64), form, Depth::ALL[depth], tokens);
            check(&build, sum_tolerance(2, 1.5), 0.0)?;
        }
    }

    #[test]
    fn norm_is_its_reference(seed: u64, tokens in 1u32..20, vec4s in 1u32..200) {
        check(&norm(seed, tokens, vec4s * 4, 1e-5), 0.0, sum_tolerance(4 * vec4s, 1.0) + TRANSCENDENTAL)?;
    }

    #[test]
    fn rope_is_its_reference(problem in attention_problem()) {
        for part in [Part::Q, Part::Keys, Part::Values] {
            check(&problem.rope(part), 4.0 * EPSILON, if part == Part::Q { 0.0 } else { F16_ROUNDING })?;
        }
    }

    #[test]
    fn attention_is_its_reference(problem in attention_problem()) {
        check(&problem.attention(), problem.tolerance(), 0.0)?;
    }

    #[test]
    fn split_attention_is_its_reference(problem in split_problem()) {
        check(&problem.attention(), problem.tolerance(), 0.0)?;
    }

    /// On GPUs with matrices; tokens and positions end at and about the edges of blocks.
    #[test]
    fn attention_by_matrices_is_its_reference(
        problem in attention_problem(),
        tokens in (0u32..3, 0u32..3).prop_map(|(block, about)| (64 * block + about).max(18) - 1),
        head_dim in prop_oneof![Just(16u32), Just(64), Just(80), Just(128)],
        context in prop_oneof![Just(300u32), Just(320)],
    ) {
        if gpu::gpu().is_some_and(|gpu| gpu.traits().cooperative_matrix) {
            let problem = AttentionProblem { tokens, head_dim, context, matrices: true, ..problem };
            check(&problem.attention(), problem.f16_tolerance(), 0.0)?;
        }
    }

    /// On each engine by itself, so that neither the references of the two kernels nor their shaders can be wrong
    /// alike.
    #[test]
    fn split_attention_is_attention(problem in split_problem()) {
        let compare_on = |engine: &mut dyn Engine| {
            let whole = run(engine, &AttentionProblem { splits: 0, ..problem.clone() }.attention());
            let split = run(engine, &problem.attention());
            compare(&split, &whole, problem.tolerance(), 0.0).map_err(TestCaseError::fail)
        };
        compare_on(cpu::open().as_mut())?;
        if let Some(mut gpu) = gpu::gpu() {
            compare_on(gpu.as_mut())?;
        }
    }

    #[test]
    fn gate_is_its_reference(seed: u64, tokens in 1u32..20, vec4s in 1u32..200) {
        for activation in [ActivationFunction::Silu, ActivationFunction::GeluTanh] {
            check(&gated(seed, activation, tokens, vec4s * 4), TRANSCENDENTAL, TRANSCENDENTAL)?;
        }
    }

    #[test]
    fn likelihood_is_its_reference(seed: u64, tokens in 1u32..10, vocab in 1u32..3000) {
        check(&likelihood(seed, tokens, vocab, 0), sum_tolerance(64, 1.0), TRANSCENDENTAL)?;
    }
}

#[test]
fn a_wrong_depth_a_wrong_code_and_a_forgotten_sum_are_noticed() {
    let depths = vec![2; 3];
    let sound = ProductProblem {
        seed: 1,
        rows: 70,
        groups: 3,
        form: RangeForm::Pairs { group: 64 },
        shifted: false,
        depths,
        add: true,
        software: true,
        vectors: true,
        matrices: None,
        tile: None,
        binding_bytes: 1 << 27,
    };
    for (kind, software) in [(Kind::Matvec, true), (Kind::Matvec, false), (Kind::Matmul, true), (Kind::Matmul, false)] {
        let sound = ProductProblem { software, ..sound.clone() };
        let must_notice = |wrong: &ProductProblem| {
            must_differ(&sound.build(kind), &wrong.build(kind), sound.tolerance(), 0.0);
        };
        must_notice(&ProductProblem { depths: vec![2, 2, 3], ..sound.clone() });
        must_notice(&ProductProblem { seed: 2, ..sound.clone() });
        must_notice(&ProductProblem { add: false, ..sound.clone() });
    }
    let embed = |depth| embedding(3, (50, 128), RangeForm::Pairs { group: 64 }, depth, 9);
    must_differ(&embed(Depth::ALL[3]), &embed(Depth::ALL[2]), sum_tolerance(2, 1.5), 0.0);
}

#[test]
fn a_wrong_position_a_wrong_eps_and_a_wrong_target_are_noticed() {
    let sound = AttentionProblem {
        seed: 5,
        tokens: 3,
        first: 9,
        kv_heads: 2,
        share: 2,
        head_dim: 16,
        context: CONTEXT,
        splits: 0,
        matrices: false,
    };
    let moved = AttentionProblem { first: 10, ..sound.clone() };
    must_differ(&sound.attention(), &moved.attention(), sound.tolerance(), 0.0);
    // One position more or less at the end of a long context, with what the kernels may differ by.
    let long = AttentionProblem { seed: 2, first: 900, tokens: 1, context: 1024, splits: 5, ..sound.clone() };
    for first in [899, 901] {
        let moved = AttentionProblem { first, ..long.clone() };
        must_differ(&long.attention(), &moved.attention(), long.tolerance(), 0.0);
    }
    must_differ(&sound.rope(Part::Q), &moved.rope(Part::Q), 4.0 * EPSILON, 0.0);
    must_differ(&sound.rope(Part::Keys), &moved.rope(Part::Keys), 4.0 * EPSILON, F16_ROUNDING);
    must_differ(&norm(1, 4, 64, 1e-5), &norm(1, 4, 64, 1e-3), 0.0, sum_tolerance(64, 1.0) + TRANSCENDENTAL);
    must_differ(&likelihood(1, 4, 300, 0), &likelihood(1, 4, 300, 1), sum_tolerance(64, 1.0), TRANSCENDENTAL);
    let [silu, gelu] = [ActivationFunction::Silu, ActivationFunction::GeluTanh];
    must_differ(&gated(1, silu, 4, 64), &gated(2, silu, 4, 64), TRANSCENDENTAL, TRANSCENDENTAL);
    must_differ(&gated(1, silu, 4, 64), &gated(1, gelu, 4, 64), TRANSCENDENTAL, TRANSCENDENTAL);
}

/// The reference of the scores against hand-made logits.
#[test]
fn a_target_is_top_where_no_logit_is_greater() {
    let build = |engine: &mut dyn Engine, recording: &mut Recording| {
        let logits = [[1f32, 3.0, 3.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [f32::MIN, f32::MIN, f32::MIN]].concat();
        let (logits, targets) = (upload(engine, &logits), upload(engine, &[1u32, 1, 2, 0]));
        let scores = upload(engine, &[0f32; 8]);
        token_nll::record(recording, 3, logits.all(), targets.all(), scores.all());
        scores.all()
    };
    let scores = run_reference(&build);
    let top: Vec<f32> = scores.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(top, [1.0, 1.0, 0.0, 1.0]);
    let (sum, third) = (1f32.exp() + 2f32.exp() + 3f32.exp(), scores[4]);
    assert!((third - (sum.ln() - 2.0)).abs() < 1e-6, "{scores:?}");
    if let Some(mut gpu) = gpu::gpu() {
        assert_eq!(run(gpu.as_mut(), &build).iter().skip(1).step_by(2).copied().collect::<Vec<_>>(), top);
    }
}

#[test]
fn a_logit_that_is_not_finite_is_told_with_the_score() {
    const VOCAB: u32 = 200;
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
    let places = [0, 77, VOCAB as usize - 1];
    let sound: Vec<f32> = (0..VOCAB).map(|v| (v % 7) as f32).collect();
    let spoil = |odd: f32, place: usize| {
        let mut row = sound.clone();
        row[place] = odd;
        row
    };
    let mut rows: Vec<Vec<f32>> = odd.iter().flat_map(|odd| places.map(|place| spoil(*odd, place))).collect();
    rows.extend([vec![f32::NAN; VOCAB as usize], sound.clone()]);
    let build = |engine: &mut dyn Engine, recording: &mut Recording| {
        let (logits, targets) = (upload(engine, &rows.concat()), upload(engine, &vec![6u32; rows.len()]));
        let scores = upload(engine, &vec![7f32; rows.len() * 2]);
        token_nll::record(recording, VOCAB, logits.all(), targets.all(), scores.all());
        scores.all()
    };
    let told = |engine: &mut dyn Engine| -> Vec<f32> { run(engine, &build).into_iter().skip(1).step_by(2).collect() };
    let mut expected = vec![token_nll::NO_NUMBERS; rows.len() - 1];
    expected.push(token_nll::LIKELIEST);
    assert_eq!(told(cpu::open().as_mut()), expected);
    if let Some(mut gpu) = gpu::gpu() {
        assert_eq!(told(gpu.as_mut()), expected);
    }
}

/// All kernels at every depth with ranges in words, which each depth has for itself and each half of a chunk.
#[test]
fn products_and_rows_read_the_ranges_of_their_depth() {
    let matrices = gpu::gpu().is_some_and(|gpu| gpu.traits().cooperative_matrix);
    // Which kernel: software renderers with vectors of eight and without, GPUs, those with matrices, for which the rows
    // are few or many.
    let devices = [
        (true, true, None),
        (true, false, None),
        (false, false, None),
        (false, false, Some(100)),
        (false, false, Some(1)),
    ];
    for (software, vectors, matrices) in devices.into_iter().filter(|(.., needed)| matrices || needed.is_none()) {
        for (kind, depth) in [Kind::Matvec, Kind::Matmul].into_iter().flat_map(|kind| (1..=4).map(move |d| (kind, d))) {
            let sound = ProductProblem {
                seed: u64::from(depth),
                rows: 70,
                groups: 3,
                form: RangeForm::Words,
                shifted: false,
                depths: vec![depth; if matrices == Some(1) { 40 } else { 9 }],
                add: false,
                software,
                vectors,
                matrices,
                tile: None,
                binding_bytes: 1 << 27,
            };
            let tolerance = if matrices.is_some() { sound.f16_tolerance() } else { sound.tolerance() };
            check(&sound.build(kind), tolerance, 0.0).unwrap();
            let shifted = ProductProblem { shifted: true, ..sound.clone() };
            must_differ(&sound.build(kind), &shifted.build(kind), tolerance, 0.0);
        }
    }
    for depth in Depth::ALL {
        check(&embedding(3, (50, 128), RangeForm::Words, depth, 9), sum_tolerance(2, 1.5), 0.0).unwrap();
    }
}

/// The reference of the product against the number format itself, so that both engines cannot be wrong alike.
#[test]
fn the_product_is_what_the_format_says() {
    let rng = &mut StdRng::seed_from_u64(7);
    let (rows, input) = (5usize, 128usize);
    let weights = uniform(rng, (rows * input) as u32);
    let x = uniform(rng, input as u32);
    let pairs: Vec<[f16; 2]> = weights.chunks(64).map(|group| pair_of(group).expect("finite")).collect();
    let words: [Vec<u16>; 4] = std::array::from_fn(|_| {
        let range = |_| word((rng.random_range(-1.1f32..-0.9), rng.random_range(0.4f32..0.6)));
        (0..rows * input / 32).map(range).collect()
    });
    for form in [RangeForm::Pairs { group: 64 }, RangeForm::Words] {
        let range = |at: usize, depth: usize| match form {
            RangeForm::Pairs { .. } => Range::of_pair(pairs[at / 64]),
            RangeForm::Words => Range::of_word(words[depth - 1][at / 32]),
        };
        let code = |at: usize| range(at, 4).encode(weights[at]);
        let packed: Vec<[u32; 4]> =
            (0..rows * input / 16).map(|w| format::codes::pack(&std::array::from_fn(|i| code(w * 16 + i)))).collect();
        let mut engine = cpu::open();
        let slices = std::array::from_fn(|e| upload(engine.as_mut(), &packed.iter().map(|w| w[e]).collect::<Vec<_>>()));
        let ranges = match form {
            RangeForm::Pairs { .. } => [upload(engine.as_mut(), pairs.as_flattened()); 4],
            RangeForm::Words => words.each_ref().map(|words| upload(engine.as_mut(), words)),
        };
        let weight = SlicedWeight { slices, ranges, rows: rows as u32, input: input as u32, form };
        for slices in 1..=4 {
            let build = |engine: &mut dyn Engine, recording: &mut Recording| {
                let (x, depths) = (upload(engine, &x), upload(engine, &[slices as u32]));
                let y = upload(engine, &vec![0f32; rows]);
                let (x, output) = (x.all(), Output::Overwrite);
                let product = Product { weight: &weight, x, y: y.all(), tokens: 1, output };
                product.record(recording, engine.traits(), ProductDepths::ByToken(depths.all()));
                y.all()
            };
            let decoded = |at: usize| range(at, slices).decode(code(at), slices);
            let expected: Vec<f32> =
                (0..rows).map(|r| (0..input).map(|k| decoded(r * input + k) * x[k]).sum()).collect();
            let got = run(engine.as_mut(), &build);
            compare(&got, &expected, sum_tolerance(input as u32, 1.5), 0.0).unwrap();
        }
    }
}

fn embedding(
    seed: u64,
    (rows, input): (u32, u32),
    form: RangeForm,
    depth: Depth,
    tokens: u32,
) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
    move |engine, recording| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let weight = random_weight(engine, rng, rows, input, form);
        // Of two sequences; each third token is the one that its sequence sampled.
        let row = |at: u32| StepRow {
            token: if at % 3 == 2 { StepRow::SAMPLED } else { rng.random_range(0..rows) },
            position: at,
            first_cell: at % 2 * tokens,
            slot: at % 2,
            embed_depth: depth.slices() as u32,
            ..StepRow::zeroed()
        };
        let step_rows = (0..tokens).map(row).collect::<Vec<_>>();
        let sampled: Vec<[u32; 2]> = (0..2).map(|_| [rng.random_range(0..rows), 0]).collect();
        let [step_rows, sampled] = [upload(engine, &step_rows).all(), upload(engine, &sampled).all()];
        let cell_tokens = upload(engine, &vec![0u32; 2 * tokens as usize]).all();
        let y = upload(engine, &uniform(rng, tokens * input));
        let traits = Traits { binding_bytes: 4096, ..PROCESSORS };
        embed_sliced::record(recording, traits, &weight, EmbedBuffers { step_rows, sampled, cell_tokens, y: y.all() });
        y.all()
    }
}

fn norm(seed: u64, tokens: u32, width: u32, eps: f32) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
    move |engine, recording| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let x = upload(engine, &uniform(rng, tokens * width));
        let weight = upload(engine, &uniform(rng, width));
        let y = upload(engine, &vec![0f32; (tokens * width) as usize]);
        rms_norm::record(recording, tokens, eps, x.all(), weight, y.all());
        y.all()
    }
}

fn gated(
    seed: u64,
    activation: ActivationFunction,
    tokens: u32,
    width: u32,
) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
    move |engine, recording| {
        let rng = &mut StdRng::seed_from_u64(seed);
        // Far outside [-1, 1], where exp overflows to infinity and underflows to zero.
        let inputs: Vec<f32> = uniform(rng, 2 * tokens * width).iter().map(|x| x * x * x * 100.0).collect();
        let gate_up = upload(engine, &inputs);
        let y = upload(engine, &vec![0f32; (tokens * width) as usize]);
        gate::record(recording, activation, tokens, width, gate_up.all(), y.all());
        y.all()
    }
}

fn likelihood(seed: u64, tokens: u32, vocab: u32, shift: u32) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
    move |engine, recording| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut logits: Vec<f32> = uniform(rng, tokens * vocab).iter().map(|x| x * 30.0).collect();
        let targets: Vec<u32> = (0..tokens).map(|_| (rng.random_range(0..vocab) + shift) % vocab).collect();
        // Of three targets in a row one is as it comes, one the likeliest, one the likeliest beside another.
        for (t, row) in logits.chunks_exact_mut(vocab as usize).enumerate() {
            let highest = row.iter().copied().fold(0.0, f32::max);
            match t % 3 {
                0 => continue,
                1 => row[targets[t] as usize] = highest + 1.0,
                _ => row[targets[t] as usize] = highest,
            }
        }
        let (logits, targets) = (upload(engine, &logits), upload(engine, &targets));
        let scores = upload(engine, &vec![0f32; tokens as usize * token_nll::WIDTH as usize]);
        token_nll::record(recording, vocab, logits.all(), targets.all(), scores.all());
        scores.all()
    }
}

/// Tokens at positions `first` on, in a cache of `context` tokens.
#[derive(Debug, Clone)]
struct AttentionProblem {
    seed: u64,
    tokens: u32,
    first: u32,
    kv_heads: u32,
    share: u32,
    head_dim: u32,
    context: u32,
    /// Parts of the positions; 0: the kernel that takes them as one.
    splits: u32,
    /// Whether the device is one that multiplies by matrices.
    matrices: bool,
}

const CONTEXT: u32 = 160;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Q,
    Keys,
    Values,
}

fn attention_problem() -> impl Strategy<Value = AttentionProblem> {
    let head_dim = prop_oneof![Just(8u32), Just(16), Just(64), Just(80), Just(128), Just(256)];
    (any::<u64>(), 1u32..8, 0u32..150, 1u32..4, 1u32..4, head_dim).prop_map(
        |(seed, tokens, first, kv_heads, share, head_dim)| AttentionProblem {
            seed,
            tokens,
            first,
            kv_heads,
            share,
            head_dim,
            context: CONTEXT,
            splits: 0,
            matrices: false,
        },
    )
}

/// Positions at and about the edges of blocks and splits, and splits that have none.
fn split_problem() -> impl Strategy<Value = AttentionProblem> {
    let edges = (0u32..16, 0u32..3).prop_map(|(block, about)| (64 * block + about).saturating_sub(1));
    let first = prop_oneof![0u32..1000, edges];
    (attention_problem(), first, prop_oneof![1u32..9, Just(16u32), Just(33)])
        .prop_map(|(problem, first, splits)| AttentionProblem { first, context: 1024, splits, ..problem })
}

impl AttentionProblem {
    fn shape(&self) -> LlamaShape {
        heads_shape(self.kv_heads * self.share, self.kv_heads, self.head_dim, self.context)
    }

    /// C: the cells of two sequences.
    fn cells(&self) -> u32 {
        2 * self.context
    }

    /// Rows of two sequences by turns, or of the second one where the kernel takes those of one.
    fn rows(&self) -> Vec<StepRow> {
        let mut rows = rows_at(self.first..self.first + self.tokens);
        for (at, row) in (0..).zip(&mut rows) {
            row.first_cell = if self.matrices { self.context } else { at % 2 * self.context };
        }
        rows
    }

    /// The rotation; read back as f32 where the output is f16.
    fn rope(&self, part: Part) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
        move |engine, recording| {
            let shape = self.shape();
            let rng = &mut StdRng::seed_from_u64(self.seed);
            let width = shape.q_dim() + 2 * shape.kv_dim();
            let qkv = upload(engine, &uniform(rng, self.tokens * width));
            let step_rows = upload(engine, &self.rows());
            let rope_table = upload(engine, &rope::table(&shape.rope.frequencies(shape.head_dim), 0..CONTEXT));
            let q = upload(engine, &vec![0f32; (self.tokens * shape.q_dim()) as usize]);
            let cache = vec![f16::ZERO; (shape.kv_dim() * self.cells()) as usize];
            let (keys, values) = (upload(engine, &cache), upload(engine, &cache));
            let [q, keys, values] = [q.all(), keys.all(), values.all()];
            let (qkv, step_rows, rope_table) = (qkv.all(), step_rows.all(), rope_table.all());
            let buffers = RopeBuffers { qkv, step_rows, rope_table, q, keys, values };
            rope::record(recording, &shape, self.tokens, Cells::of_all_positions(self.cells()), buffers);
            match part {
                Part::Q => q,
                Part::Keys => widen(engine, recording, &shape, self.cells(), keys),
                Part::Values => widen(engine, recording, &shape, self.cells(), values),
            }
        }
    }

    fn attention(&self) -> impl Fn(&mut dyn Engine, &mut Recording) -> Span {
        move |engine, recording| {
            let shape = self.shape();
            let rng = &mut StdRng::seed_from_u64(self.seed);
            let halves = |rng: &mut StdRng| -> Vec<f16> {
                uniform(rng, shape.kv_dim() * self.cells()).into_iter().map(f16::from_f32).collect()
            };
            let (keys, values) = (upload(engine, &halves(rng)), upload(engine, &halves(rng)));
            let q: Vec<f32> = uniform(rng, self.tokens * shape.q_dim()).iter().map(|q| q * 4.0).collect();
            let (q, step_rows) = (upload(engine, &q), upload(engine, &self.rows()));
            let y = upload(engine, &vec![0f32; (self.tokens * shape.q_dim()) as usize]);
            let (q, step_rows, y) = (q.all(), step_rows.all(), y.all());
            let buffers = AttentionBuffers { q, step_rows, keys: keys.all(), values: values.all(), y };
            let problem = Attention {
                shape: &shape,
                as_alone: false,
                tokens: self.tokens,
                cells: Cells::of_all_positions(self.cells()),
                scores: ScoreRules::default(),
                context: self.context,
                class: ContextClass::Short,
                quantized_kv: None,
                buffers,
            };
            match self.splits {
                0 if self.matrices => {
                    let workgroup_bytes = 48 << 10;
                    let traits = Traits { software: false, cooperative_matrix: true, workgroup_bytes, ..PROCESSORS };
                    assert!(matrix::suits(traits, &shape, self.tokens), "{self:?}");
                    assert!(attention::record(recording, traits, &problem).is_none());
                }
                0 => {
                    assert!(attention::record(recording, PROCESSORS, &problem).is_none());
                }
                splits => {
                    let partials = split::record(recording, PROCESSORS, &problem, splits);
                    assert_eq!(partials.is_some(), splits > 1);
                    partials.into_iter().for_each(|partials| combine::record(recording, partials, y));
                }
            }
            y
        }
    }

    /// Where queries and weights of values are rounded to f16: a score is off by a few units in the last of eleven
    /// bits, and the weights as much beside.
    fn f16_tolerance(&self) -> f32 {
        8.0 / 2048.0 + self.tolerance()
    }

    fn tolerance(&self) -> f32 {
        // A score of up to 4 sqrt(A) carries the rounding of its sum into the exponent.
        let score = sum_tolerance(self.head_dim, 4.0) / (self.head_dim as f32).sqrt();
        // The means of partials are rounded to f16.
        let partials = if self.splits > 1 { 1.0 / 2048.0 } else { 0.0 };
        score + sum_tolerance(self.context, 1.0 / 8.0) + TRANSCENDENTAL + partials
    }
}

/// A cache [K, C, A] f16 as f32, through the attention of one key: its value comes out as it is.
fn widen(engine: &mut dyn Engine, recording: &mut Recording, shape: &LlamaShape, cells: u32, cache: Span) -> Span {
    // A cache of K * C heads with one position each.
    let heads = shape.kv_heads * cells;
    let flat = LlamaShape { heads, kv_heads: heads, ..shape.clone() };
    let q = upload(engine, &vec![0f32; (heads * shape.head_dim) as usize]).all();
    let y = upload(engine, &vec![0f32; (heads * shape.head_dim) as usize]).all();
    let step_rows = upload(engine, &rows_at([0])).all();
    let buffers = AttentionBuffers { q, step_rows, keys: cache, values: cache, y };
    let problem = Attention {
        shape: &flat,
        as_alone: false,
        tokens: 1,
        cells: Cells::of_all_positions(1),
        scores: ScoreRules::default(),
        context: 1,
        class: ContextClass::Short,
        quantized_kv: None,
        buffers,
    };
    assert!(attention::record(recording, PROCESSORS, &problem).is_none());
    y
}
