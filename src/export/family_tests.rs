//! Specs of families, each told by what it has.

use super::*;
use crate::arch::{QueryGrowth, RopeTable};
use crate::shape::{Rope, RopeScaling};

fn shape(layers: u32) -> LlamaShape {
    LlamaShape {
        layers,
        model_dim: 64,
        ffn_dim: 128,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 100,
        max_context: 256,
        norm_eps: 1e-5,
        tied_head: true,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
    }
}

fn layer(norms: LayerNorms, attention: AttentionSpec, activation: ActivationFunction) -> LayerSpec {
    LayerSpec { norms, attention, activation }
}

fn family(spec: &ModelSpec) -> Result<ExportFamily> {
    spec.check(&shape(6)).unwrap();
    ExportFamily::of(&shape(6), spec)
}

#[test]
fn every_family_is_told_by_what_its_layers_have() {
    use ActivationFunction::{GeluTanh, Silu};
    let plain = AttentionSpec::default();
    let growth = QueryGrowth { beta: 0.1, original_context: 64 };
    let each = AttentionSpec { head_norm: HeadNorm::EachHead, ..plain };
    let cases = [
        (layer(PRE_NORMS, plain, Silu), FamilyKind::Llama),
        (layer(PRE_NORMS, AttentionSpec { qkv_bias: true, ..plain }, Silu), FamilyKind::Qwen2),
        (layer(PRE_NORMS, each, Silu), FamilyKind::Qwen3),
        (layer(ALL_NORMS, each, GeluTanh), FamilyKind::Gemma3),
        (layer(POST_NORMS, AttentionSpec { head_norm: HeadNorm::AllHeads, ..plain }, Silu), FamilyKind::Olmo2),
        (layer(PRE_NORMS, AttentionSpec { query_growth: Some(growth), ..plain }, Silu), FamilyKind::Ministral3),
    ];
    for (layer, kind) in cases {
        assert_eq!(family(&ModelSpec { layers: vec![layer], ..ModelSpec::default() }).unwrap().kind, kind);
    }
    let gemma2 = layer(ALL_NORMS, AttentionSpec { score_cap: Some(50.0), ..plain }, GeluTanh);
    let spec = |logit_cap| ModelSpec { layers: vec![gemma2], logit_cap, ..ModelSpec::default() };
    assert_eq!(family(&spec(Some(30.0))).unwrap().kind, FamilyKind::Gemma2);
    assert!(family(&spec(None)).unwrap_err().to_string().contains("spec.logit_cap"));
}

#[test]
fn what_no_family_has_is_refused_by_its_field() {
    let plain = AttentionSpec::default();
    let fault = |attention, logit_cap| {
        let layers = vec![layer(PRE_NORMS, attention, ActivationFunction::Silu)];
        family(&ModelSpec { layers, logit_cap, ..ModelSpec::default() }).unwrap_err().to_string()
    };
    assert!(fault(AttentionSpec { score_cap: Some(50.0), ..plain }, None).contains("score_cap `50`"));
    assert!(fault(plain, Some(30.0)).contains("spec.logit_cap `30`"));
    let both = AttentionSpec { qkv_bias: true, head_norm: HeadNorm::EachHead, ..plain };
    assert!(fault(both, None).contains("qkv_bias"));
    let layers = vec![LayerSpec::default(), layer(ALL_NORMS, plain, ActivationFunction::Silu)];
    let mixed = family(&ModelSpec { layers, ..ModelSpec::default() }).unwrap_err().to_string();
    assert!(mixed.contains("spec.layers[1]"), "{mixed}");
}

#[test]
fn windows_and_tables_are_told_layer_by_layer() {
    let at = |window, rope_table| LayerSpec {
        attention: AttentionSpec { window, rope_table, ..AttentionSpec::default() },
        ..LayerSpec::default()
    };
    let still = RopeTable { frequencies: vec![0.0; 8], long: None };
    let spec = |layers| ModelSpec { layers, rope_tables: vec![still.clone()], ..ModelSpec::default() };
    let period = |layers| family(&spec(layers)).unwrap().window_period();
    assert_eq!(period(vec![at(Some(32), 0), at(Some(32), 0), at(None, 0)]), Some(3));
    assert_eq!(period(vec![at(Some(32), 0)]), Some(0));
    assert_eq!(period(vec![at(None, 0)]), Some(1));
    // As long as the context.
    assert_eq!(period(vec![at(Some(256), 0)]), Some(1));
    assert_eq!(period(vec![at(None, 0), at(Some(32), 0)]), None);

    let layers = vec![at(None, 0), at(None, 0), at(None, 1)];
    let found = family(&spec(layers.clone())).unwrap();
    let (turned, rotation) = found.still_layers(&shape(6), &spec(layers.clone())).unwrap();
    assert_eq!(turned, [false, false, true, false, false, true]);
    assert_eq!(rotation, RotaryTable::Plain { theta: 10_000.0, factor: 1.0 });
    let fault = found.rotation(&shape(6), &spec(layers)).unwrap_err().to_string();
    assert!(fault.contains("rope_table of layer 2"), "{fault}");
    let two = family(&spec(vec![at(Some(32), 0), at(Some(64), 0)])).unwrap();
    assert!(two.window().unwrap_err().to_string().contains("window `64`"));
}
