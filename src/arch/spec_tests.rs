//! Tests of the spec: its JSON, and what is refused.

use serde_json::json;

use super::*;
use crate::shape::RopeScaling;

/// Gemma 3, as well as a spec can tell it.
fn gemma3() -> ModelSpec {
    let layer = |window, table| LayerSpec {
        norms: LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() },
        attention: AttentionSpec {
            head_norm: HeadNorm::EachHead,
            rotary: RotarySpec { table, ..RotarySpec::default() },
            scores: ScoreSpec { scale: Some(0.0625), window, ..ScoreSpec::default() },
            ..AttentionSpec::default()
        },
        feed_forward: FeedForwardSpec { activation: ActivationFunction::GeluTanh, bias: false },
        ..LayerSpec::default()
    };
    let local = layer(Some(512), 1);
    ModelSpec {
        layers: vec![local, local, local, local, local, layer(None, 0)],
        embedding_scale: 33.94,
        rope_tables: vec![RopeTable {
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
            magnitude: 1.0,
            long: None,
        }],
        ..ModelSpec::default()
    }
}

fn message(spec: &ModelSpec) -> String {
    spec.check(8).unwrap_err().to_string()
}

#[test]
fn what_is_left_out_is_llama() {
    let spec: ModelSpec = serde_json::from_value(json!({})).unwrap();
    assert!(spec.is_llama());
    spec.check(1).unwrap();
    let named: ModelSpec = serde_json::from_value(json!({"layers": [{"attention": {"qkv_bias": false}}]})).unwrap();
    assert!(named.is_llama());
    // Alike layers may be named one by one.
    ModelSpec { layers: vec![LayerSpec::default(); 8], ..ModelSpec::default() }.check(8).unwrap();
}

#[test]
fn another_family_goes_through_json_unchanged() {
    let spec = gemma3();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ModelSpec>(&text).unwrap(), spec);
    assert!(serde_json::from_str::<ModelSpec>(r#"{"layers": [{"colour": 1}]}"#).is_err());
}

#[test]
fn what_has_no_kernels_is_refused_by_name_and_value() {
    let with = |change: fn(&mut ModelSpec)| {
        let mut spec = ModelSpec::default();
        change(&mut spec);
        message(&spec)
    };
    assert_eq!(
        with(|spec| spec.layers[0].attention.scores.window = Some(4096)),
        "spec.layers[0].attention.scores.window `4096` is not supported; supported: none"
    );
    assert_eq!(
        with(|spec| spec.layers[0].attention.rotary.kind = RotaryKind::None),
        "spec.layers[0].attention.rotary.kind `none` is not supported; supported: halves"
    );
    assert_eq!(
        with(|spec| spec.layers[0].residual_scale = 0.22),
        "spec.layers[0].residual_scale `0.22` is not supported; supported: 1.0"
    );
    let second = |spec: &mut ModelSpec| {
        spec.layers.push(LayerSpec::default());
        spec.layers[1].attention.head_norm = HeadNorm::AllHeads;
    };
    assert!(with(second).starts_with("spec.layers[1].attention.head_norm `all_heads`"));
    assert!(with(|spec| spec.logit_cap = Some(30.0)).starts_with("spec.logit_cap `30.0`"));
    assert!(with(|spec| spec.embedding_scale = f32::NAN).starts_with("spec.embedding_scale `none`"));
    assert!(with(|spec| spec.layers.clear()).starts_with("spec.layers `0` is not supported; supported: 1 to 8"));
    assert!(with(|spec| spec.layers = vec![LayerSpec::default(); 9]).starts_with("spec.layers `9`"));
    // Which of several fields is named first is left open.
    assert!(message(&gemma3()).starts_with("spec.layers[0]."));
}
