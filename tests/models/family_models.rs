//! Tiny random models of other families: many tokens at once against one by one, with f32 activations and with int8
//! ones, on both engines, and what each field of a spec changes.

use crate::gpu;
use edge_run::PrecisionPlan;
use edge_run::internals::arch::{
    ActivationFunction, AttentionSpec, HeadNorm, LayerNorms, LayerSpec, LongFrequencies, ModelSpec, QueryGrowth,
    RopeTable,
};
use edge_run::internals::bench::Synthetic;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{Model, NextLogits};
use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling, Site};

const TOKENS: usize = 20;
const CONTEXT: u32 = 40;
/// Logits are of order one. What the same numbers in another order of sums come to, with a cache of f16.
const SUMS: f32 = 0.02;
/// Of the angle between logits with int8 activations and with f32 ones: pairs of int8s have sixteen bits. Measured:
/// 0.999999.
const LEAST_COSINE: f32 = 0.9999;
/// Sites of a hundred where the routers may choose otherwise on another path, of those whose token was read alike until
/// there: a score within some 1e-4 of the threshold may fall on the other side. Measured: 0 of 960.
const OTHER_DEPTHS: f32 = 0.5;

type Open = fn(Activations) -> Box<dyn Engine>;

fn engines() -> Vec<Open> {
    let gpu = gpu::gpu().map(|_| {
        (|activations| edge_run::internals::gpu::open(0, GpuOptions { activations, ..gpu::options() }).unwrap()) as Open
    });
    [cpu::open_with as Open].into_iter().chain(gpu).collect()
}

fn shape() -> LlamaShape {
    LlamaShape {
        layers: 3,
        model_dim: 128,
        ffn_dim: 192,
        heads: 8,
        kv_heads: 2,
        head_dim: 24,
        vocab: 300,
        max_context: 256,
        norm_eps: 1e-5,
        tied_head: true,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
    }
}

fn alike(layer: LayerSpec) -> ModelSpec {
    ModelSpec { layers: vec![layer], ..ModelSpec::default() }
}

fn attention(attention: AttentionSpec) -> ModelSpec {
    alike(LayerSpec { attention, ..LayerSpec::default() })
}

/// Two tables, of which the second has other frequencies for contexts of more than 30 tokens.
fn tables() -> Vec<RopeTable> {
    let table = |unit: f32| -> Vec<f32> { (0..12).map(|at| unit / (1.0 + at as f32)).collect() };
    let long = LongFrequencies { original_context: 30, frequencies: table(0.1) };
    vec![RopeTable { frequencies: table(0.4), long: None }, RopeTable { frequencies: table(0.8), long: Some(long) }]
}

/// A spec for each field, by the field's name.
fn fields() -> Vec<(&'static str, ModelSpec)> {
    let plain = AttentionSpec::default();
    let with_table =
        |rope_table| ModelSpec { rope_tables: tables(), ..attention(AttentionSpec { rope_table, ..plain }) };
    let norms = |norms| alike(LayerSpec { norms, ..LayerSpec::default() });
    let pre = LayerNorms::default();
    vec![
        ("qkv_bias", attention(AttentionSpec { qkv_bias: true, ..plain })),
        ("head_norm, each", attention(AttentionSpec { head_norm: HeadNorm::EachHead, ..plain })),
        ("head_norm, all", attention(AttentionSpec { head_norm: HeadNorm::AllHeads, ..plain })),
        ("rope_table", with_table(1)),
        ("rope_table, long", with_table(2)),
        (
            "query_growth",
            attention(AttentionSpec { query_growth: Some(QueryGrowth { beta: 0.8, original_context: 4 }), ..plain }),
        ),
        ("score_cap", attention(AttentionSpec { score_cap: Some(0.5), ..plain })),
        ("window", attention(AttentionSpec { window: Some(5), ..plain })),
        ("before_attention", norms(LayerNorms { before_attention: false, ..pre })),
        ("after_attention", norms(LayerNorms { after_attention: true, ..pre })),
        ("before_feed_forward", norms(LayerNorms { before_feed_forward: false, ..pre })),
        ("after_feed_forward", norms(LayerNorms { after_feed_forward: true, ..pre })),
        ("activation", alike(LayerSpec { activation: ActivationFunction::GeluTanh, ..LayerSpec::default() })),
        ("logit_cap", ModelSpec { logit_cap: Some(1.5), ..ModelSpec::default() }),
    ]
}

/// Specs as models have them, and one with all at once.
fn families() -> Vec<(&'static str, ModelSpec)> {
    let plain = AttentionSpec::default();
    let four = LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() };
    let after = LayerNorms { before_attention: false, before_feed_forward: false, ..four };
    let gemma = |window, rope_table| LayerSpec {
        norms: four,
        attention: AttentionSpec { head_norm: HeadNorm::EachHead, rope_table, window, ..plain },
        activation: ActivationFunction::GeluTanh,
    };
    let all = |head_norm, norms, window| LayerSpec {
        norms,
        attention: AttentionSpec {
            qkv_bias: true,
            head_norm,
            rope_table: 2,
            query_growth: Some(QueryGrowth { beta: 0.2, original_context: 4 }),
            score_cap: Some(5.0),
            window,
        },
        activation: ActivationFunction::GeluTanh,
    };
    vec![
        ("Qwen 2", attention(AttentionSpec { qkv_bias: true, ..plain })),
        ("Qwen 3", attention(AttentionSpec { head_norm: HeadNorm::EachHead, ..plain })),
        (
            "Gemma 3",
            ModelSpec {
                layers: vec![gemma(Some(6), 1), gemma(None, 0)],
                rope_tables: tables(),
                ..ModelSpec::default()
            },
        ),
        (
            "OLMo 2",
            alike(LayerSpec {
                norms: after,
                attention: AttentionSpec { head_norm: HeadNorm::AllHeads, ..plain },
                ..LayerSpec::default()
            }),
        ),
        (
            "all at once",
            ModelSpec {
                layers: vec![
                    all(HeadNorm::EachHead, four, Some(6)),
                    all(HeadNorm::AllHeads, after, None),
                    all(HeadNorm::None, LayerNorms { before_attention: false, ..four }, None),
                ],
                logit_cap: Some(3.0),
                rope_tables: tables(),
            },
        ),
    ]
}

fn load(spec: &ModelSpec, engine: Box<dyn Engine>) -> Model {
    spec.check(&shape()).unwrap();
    let source = Synthetic::new(shape(), spec.clone(), 7).unwrap();
    Model::load(&source, engine, CONTEXT, &mut |_, _| ()).unwrap()
}

fn ids(shift: u32) -> Vec<u32> {
    (0..TOKENS as u32).map(|i| 3 + shift + (i * i * 7 + i * 13) % 250).collect()
}

/// Each token alone, behind those before it.
fn one_by_one(model: &Model, plan: &PrecisionPlan) -> Vec<NextLogits> {
    let mut sequence = model.sequence(plan).unwrap();
    ids(0).into_iter().map(|id| sequence.next_logits(&[id]).unwrap()).collect()
}

/// All tokens at once.
fn at_once(model: &Model, plan: &PrecisionPlan, shift: u32) -> NextLogits {
    model.sequence(plan).unwrap().next_logits(&ids(shift)).unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Depths of all sites.
fn depths(step: &NextLogits) -> Vec<u8> {
    (0..shape().layers as usize).flat_map(|layer| Site::ALL.map(|site| step.depths.at(layer, site)[0])).collect()
}

#[test]
fn every_field_of_a_spec_changes_logits_and_no_path_forgets_it() {
    let plan = PrecisionPlan::for_bits(8.0, false, "test").unwrap();
    let llama = at_once(&load(&ModelSpec::default(), cpu::open_reference(Activations::F32)), &plan, 0).logits;
    let mut all = vec![("LLaMA", llama)];
    for (field, spec) in fields() {
        let model = load(&spec, cpu::open_reference(Activations::F32));
        let logits = at_once(&model, &plan, 0).logits;
        for (other, found) in &all {
            assert!(distance(&logits, found) > SUMS, "{field} and {other}");
        }
        let steps = one_by_one(&model, &plan);
        assert!(distance(&logits, &steps[TOKENS - 1].logits) < SUMS, "{field}: one by one");
        let packed = one_by_one(&load(&spec, cpu::open_with(Activations::Int8)), &plan);
        for (at, (a, b)) in steps.iter().zip(&packed).enumerate() {
            let cosine = cosine(&a.logits, &b.logits);
            assert!(cosine > LEAST_COSINE, "{field}: {cosine} of token {at} with int8 activations");
        }
        all.push((field, logits));
    }
}

#[test]
fn families_compute_the_same_on_every_engine_and_path() {
    let plan = PrecisionPlan::for_bits(8.0, false, "test").unwrap();
    for (family, spec) in families() {
        let expected = one_by_one(&load(&spec, cpu::open_reference(Activations::F32)), &plan);
        let last = &expected[TOKENS - 1].logits;
        for open in engines() {
            let float = load(&spec, open(Activations::F32));
            let name = float.device().name.clone();
            for (at, (a, b)) in one_by_one(&float, &plan).iter().zip(&expected).enumerate() {
                let distance = distance(&a.logits, &b.logits);
                assert!(distance < SUMS, "{family} on {name}: {distance} of token {at}");
            }
            let found = distance(&at_once(&float, &plan, 0).logits, last);
            assert!(found < SUMS, "{family} on {name}: {found} of all at once");
            assert!(distance(&at_once(&float, &plan, 1).logits, last) > SUMS, "other tokens are noticed");
            let packed = load(&spec, open(Activations::Int8));
            let steps = one_by_one(&packed, &plan);
            let least = steps.iter().zip(&expected).map(|(a, b)| cosine(&a.logits, &b.logits)).fold(1.0, f32::min);
            println!("{family} on {name}: cosine {least} with int8 activations");
            assert!(least > LEAST_COSINE, "{family} on {name}: {least} with int8 activations");
            assert_ne!(steps[1].logits, expected[1].logits, "two paths");
        }
    }
}

#[test]
fn routers_of_families_choose_alike_on_every_engine_and_path() {
    let plan = PrecisionPlan::for_bits(5.0, true, "test").unwrap();
    for (family, spec) in families() {
        let expected = one_by_one(&load(&spec, cpu::open_reference(Activations::F32)), &plan);
        let (mut sites, mut differ, mut seen) = (0, 0, [0; 5]);
        for (open, activations) in
            engines().into_iter().flat_map(|open| [Activations::F32, Activations::Int8].map(|a| (open, a)))
        {
            let model = load(&spec, open(activations));
            let mut alike = true;
            for (a, b) in expected.iter().zip(&one_by_one(&model, &plan)) {
                let (of_a, of_b) = (depths(a), depths(b));
                of_b.iter().for_each(|depth| seen[usize::from(*depth)] += 1);
                // What follows a site that was read at another depth has another input.
                let same = of_a.iter().zip(&of_b).take_while(|(a, b)| a == b).count();
                let far = usize::from(same < of_a.len());
                (sites, differ, alike) = (sites + same + far, differ + far, alike && far == 0);
                let cosine = cosine(&a.logits, &b.logits);
                assert!(!alike || cosine > LEAST_COSINE, "{family} on {}: {cosine}", model.device().name);
            }
        }
        println!("{family}: {differ} of {sites} depths differ; by depth: {seen:?}");
        assert!(differ as f32 * 100.0 <= sites as f32 * OTHER_DEPTHS, "{family}: {differ} of {sites} depths differ");
        assert!(seen[1..].iter().filter(|count| **count * 50 > sites).count() > 1, "{family}: depths differ: {seen:?}");
    }
}
