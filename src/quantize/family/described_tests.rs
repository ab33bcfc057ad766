//! What follows from facts, each family in its own way.

use super::super::rope::{RopeStretch, YarnRamp};
use super::super::{LayerFacts, every};
use super::*;
use crate::arch::ActivationFunction;

fn facts(family: Family) -> FamilyFacts {
    let shape = LlamaShape {
        layers: 7,
        model_dim: 64,
        ffn_dim: 128,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 100,
        max_context: 128,
        norm_eps: 1e-5,
        tied_head: true,
        rope: Rope { theta: 1.0, scaling: RopeScaling::None },
    };
    FamilyFacts {
        family,
        scales: FamilyScales::default(),
        norms_less_one: false,
        is_interleaved: false,
        rotated_dim: 16,
        rope: RopeFacts::plain(1e4, RopeScaling::None),
        local_rope: None,
        score_cap: None,
        logit_cap: None,
        query_growth: None,
        layers: vec![LayerFacts::GLOBAL; 7],
        shape,
    }
}

#[test]
fn a_llama_is_one_whatever_its_family_is_called() {
    for family in [Family::Llama, Family::Mistral, Family::Granite, Family::Phi3, Family::SmolLm3] {
        let described = Described::new(facts(family)).unwrap();
        assert!(described.spec.is_llama());
        assert_eq!(described.shape.rope, Rope { theta: 1e4, scaling: RopeScaling::None });
        assert_eq!(described.family_field(), None);
    }
    let qwen = Described::new(facts(Family::Qwen2)).unwrap();
    assert!(qwen.spec.layer(0).attention.qkv_bias && qwen.family_field().as_deref() == Some("qwen2"));
    assert!(qwen.tensors_in_words().contains("Qwen2 model with biases of q, k and v only"));
}

#[test]
fn gemma_has_local_layers_with_a_table_and_a_window_of_their_own() {
    let local = |is_local| if is_local { LayerFacts::local(Some(32)) } else { LayerFacts::GLOBAL };
    let facts = FamilyFacts {
        rope: RopeFacts::plain(1e6, RopeScaling::Linear { factor: 8.0 }),
        local_rope: Some(RopeFacts::plain(1e4, RopeScaling::None)),
        layers: every(6, 7).into_iter().map(local).collect(),
        scales: FamilyScales { embedding: 8.0, score: Some(0.5), ..FamilyScales::default() },
        norms_less_one: true,
        ..facts(Family::Gemma3)
    };
    let Described { shape, spec, fold, .. } = Described::new(facts).unwrap();
    assert_eq!((shape.rope.theta, spec.layers.len(), spec.rope_tables.len()), (1e6, 6, 1));
    let kinds: Vec<_> = spec.layers.iter().map(|l| (l.attention.rope_table, l.attention.window)).collect();
    assert_eq!(kinds, [[(1, Some(32)); 5].as_slice(), &[(0, None)]].concat());
    assert_eq!(spec.rope_tables[0].frequencies, Rope { theta: 1e4, scaling: RopeScaling::None }.frequencies(16));
    let layer = spec.layer(0);
    assert!(layer.norms.after_attention && layer.norms.after_feed_forward && layer.norms.before_attention);
    assert_eq!((layer.attention.head_norm, layer.activation), (HeadNorm::EachHead, ActivationFunction::GeluTanh));
    // The score's scale is 0.5 in place of 1/4.
    assert_eq!(fold.kinds[0], HeadFactors { query: 2.0, rotated: 1.0 });
    assert_eq!((fold.embed, fold.head, fold.final_norm, fold.norm_offset), (8.0, 1.0, 0.125, 1.0));
    assert!(fold.in_head_norms);
}

#[test]
fn a_window_that_no_context_goes_beyond_is_none() {
    let with = |window| {
        let layers = vec![LayerFacts { window: Some(window), ..LayerFacts::GLOBAL }; 7];
        Described::new(FamilyFacts { layers, ..facts(Family::Mistral) }).unwrap().spec
    };
    assert!(with(128).is_llama());
    assert_eq!(with(127).layers.iter().map(|layer| layer.attention.window).collect::<Vec<_>>(), [Some(127)]);
}

#[test]
fn a_layer_that_is_not_rotated_has_a_table_of_zeros_and_no_magnitude() {
    let ramp = YarnRamp { factor: 4.0, original_context: 32.0, beta_fast: 32.0, beta_slow: 1.0, truncate: true };
    let layers = every(4, 7).into_iter().map(|is_rotated| LayerFacts { is_rotated, ..LayerFacts::GLOBAL }).collect();
    let rope = RopeFacts { theta: 1e4, stretch: RopeStretch::Yarn(ramp), magnitude: 1.5 };
    let Described { shape, spec, fold, .. } =
        Described::new(FamilyFacts { rope, layers, ..facts(Family::SmolLm3) }).unwrap();
    let tables: Vec<u32> = spec.layers.iter().map(|layer| layer.attention.rope_table).collect();
    assert_eq!((tables, spec.rope_tables.len()), (vec![1, 1, 1, 2], 2));
    assert_eq!(shape.rope.scaling, RopeScaling::None);
    assert!(spec.rope_tables[0].frequencies[0] == 1.0 && spec.rope_tables[1].frequencies == [0.0; 8]);
    assert_eq!(fold.kinds[0], HeadFactors { query: 1.0, rotated: 1.5 });
    assert_eq!(fold.kinds[3], HeadFactors { query: 1.0, rotated: 1.0 });
}

#[test]
fn multipliers_of_granite_are_folded_by_what_is_the_head() {
    let scales = FamilyScales { embedding: 12.0, score: Some(1.0 / 64.0), residual: 0.25, logit_divisor: 8.0 };
    let fold = |tied_head| {
        let mut facts = FamilyFacts { scales, ..facts(Family::Granite) };
        facts.shape.tied_head = tied_head;
        Described::new(facts).unwrap().fold
    };
    let (tied, untied) = (fold(true), fold(false));
    assert_eq!((tied.embed, tied.head, tied.final_norm, tied.branch), (12.0, 1.0, 1.0 / 96.0, 0.25));
    assert_eq!((untied.embed, untied.head, untied.final_norm, untied.branch), (12.0, 0.125, 1.0, 0.25));
    assert_eq!(tied.kinds, [HeadFactors { query: 0.0625, rotated: 1.0 }]);
}

#[test]
fn norms_after_blocks_and_of_all_heads_are_those_of_olmo() {
    let spec = Described::new(facts(Family::Olmo2)).unwrap().spec;
    let layer = spec.layer(0);
    assert!(!layer.norms.before_attention && !layer.norms.before_feed_forward && layer.norms.after_attention);
    assert_eq!((layer.attention.head_norm, layer.activation), (HeadNorm::AllHeads, ActivationFunction::Silu));
}

#[test]
fn frequencies_that_are_no_numbers_are_refused() {
    let longrope = |short: f32| {
        let stretch = RopeStretch::LongRope { short: vec![short; 8], long: vec![1.0; 8], original_context: 32 };
        let rope = RopeFacts { theta: 1e4, stretch, magnitude: 1.0 };
        Described::new(FamilyFacts { rope, ..facts(Family::Phi3) })
    };
    assert!(longrope(1.0).unwrap().spec.rope_tables[0].long.is_some());
    assert!(longrope(0.0).unwrap_err().to_string().contains("spec.rope_tables[0].frequencies"));
    let theta = Described::new(FamilyFacts { rope: RopeFacts::plain(-1.0, RopeScaling::None), ..facts(Family::Llama) });
    assert!(theta.unwrap_err().to_string().contains("rope.theta"));
}
