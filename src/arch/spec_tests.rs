//! Tests of the spec: its JSON, and what is refused.

use serde_json::json;

use super::*;
use crate::shape::{Rope, RopeScaling};

/// A shape of eight layers, whose heads have 32 dimensions.
fn shape() -> LlamaShape {
    LlamaShape {
        layers: 8,
        model_dim: 64,
        ffn_dim: 128,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        vocab: 100,
        max_context: 128,
        norm_eps: 1e-5,
        tied_head: true,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
    }
}

/// Gemma 3, as well as a spec can tell it.
fn gemma3() -> ModelSpec {
    let layer = |window, rope_table| LayerSpec {
        norms: LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() },
        attention: AttentionSpec { head_norm: HeadNorm::EachHead, rope_table, window, ..AttentionSpec::default() },
        activation: ActivationFunction::GeluTanh,
    };
    let local = layer(Some(512), 1);
    ModelSpec {
        layers: vec![local, local, local, local, local, layer(None, 0)],
        rope_tables: vec![RopeTable { frequencies: vec![0.5; 16], long: None }],
        ..ModelSpec::default()
    }
}

fn message(spec: &ModelSpec) -> String {
    spec.check(&shape()).unwrap_err().to_string()
}

#[test]
fn what_is_left_out_is_llama() {
    let spec: ModelSpec = serde_json::from_value(json!({})).unwrap();
    assert!(spec.is_llama());
    spec.check(&shape()).unwrap();
    let named: ModelSpec = serde_json::from_value(json!({"layers": [{"attention": {"qkv_bias": false}}]})).unwrap();
    assert!(named.is_llama());
    // Alike layers may be named one by one.
    ModelSpec { layers: vec![LayerSpec::default(); 8], ..ModelSpec::default() }.check(&shape()).unwrap();
}

#[test]
fn another_family_goes_through_json_unchanged() {
    let spec = gemma3();
    spec.check(&shape()).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ModelSpec>(&text).unwrap(), spec);
    assert!(serde_json::from_str::<ModelSpec>(r#"{"layers": [{"colour": 1}]}"#).is_err());
}

#[test]
fn what_no_model_can_be_is_refused_by_name_and_value() {
    let with = |change: fn(&mut ModelSpec)| {
        let mut spec = gemma3();
        change(&mut spec);
        message(&spec)
    };
    assert_eq!(
        with(|spec| spec.layers[0].attention.window = Some(0)),
        "spec.layers[0].attention.window `0` is not supported; supported: 1 position or more"
    );
    type Change = fn(&mut ModelSpec);
    let refused: [(Change, &str); 9] = [
        (|spec| spec.layers[1].attention.rope_table = 2, "spec.layers[1].attention.rope_table `2`"),
        (|spec| spec.layers[5].attention.score_cap = Some(0.0), "spec.layers[5].attention.score_cap `0`"),
        (|spec| spec.logit_cap = Some(f32::NAN), "spec.logit_cap `NaN`"),
        (|spec| spec.rope_tables[0].frequencies.truncate(3), "spec.rope_tables[0].frequencies `[0.5, 0.5, 0.5]`"),
        (|spec| spec.rope_tables[0].frequencies[0] = -1.0, "spec.rope_tables[0].frequencies"),
        (
            |spec| {
                let frequencies = vec![f32::INFINITY; 16];
                spec.rope_tables[0].long = Some(LongFrequencies { original_context: 8, frequencies });
            },
            "spec.rope_tables[0].long.frequencies",
        ),
        (
            |spec| spec.layers[0].attention.query_growth = Some(QueryGrowth { beta: 0.1, original_context: 0 }),
            "spec.layers[0].attention.query_growth",
        ),
        (|spec| spec.layers.clear(), "spec.layers `0` is not supported; supported: 1 to 8"),
        (|spec| spec.layers = vec![LayerSpec::default(); 9], "spec.layers `9`"),
    ];
    for (change, named) in refused {
        let message = with(change);
        assert!(message.starts_with(named), "{named}: {message}");
    }
}

#[test]
fn frequencies_are_those_of_the_context() {
    let mut spec = gemma3();
    assert_eq!(spec.frequencies(&shape(), 0, 64), shape().rope.frequencies(32));
    spec.rope_tables[0].long = Some(LongFrequencies { original_context: 64, frequencies: vec![0.25; 16] });
    assert_eq!(spec.frequencies(&shape(), 1, 64), [0.5; 16]);
    assert_eq!(spec.frequencies(&shape(), 1, 65), [0.25; 16]);
}
