//! Configurations of the families, in the style of years past and in that of transformers 5.

use serde_json::{Value, json};

use super::super::family::{Described, Family};
use super::config;
use crate::arch::{HeadNorm, QueryGrowth};
use crate::error::Result;
use crate::shape::{Rope, RopeScaling};

/// What a configuration describes, `changes` made to one that is small.
fn described(architecture: &str, changes: Value) -> Result<Described> {
    let mut config = json!({
        "architectures": [architecture], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100,
        "max_position_embeddings": 128,
    });
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    of(&config)
}

fn of(config: &Value) -> Result<Described> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    Described::new(config::read(file.path(), &mut Vec::new())?.facts)
}

/// (window, rotary table) of the kinds of layers.
fn kinds(described: &Described) -> Vec<(Option<u32>, u32)> {
    described.spec.layers.iter().map(|layer| (layer.attention.window, layer.attention.rope_table)).collect()
}

fn fault(architecture: &str, changes: Value) -> String {
    described(architecture, changes).unwrap_err().to_string()
}

#[test]
fn a_window_that_mistral_does_not_state_is_its_first() {
    let window = |changes| kinds(&described("MistralForCausalLM", changes).unwrap())[0].0;
    assert_eq!(window(json!({"max_position_embeddings": 8192})), Some(4096));
    assert_eq!(window(json!({"max_position_embeddings": 4096})), None);
    assert_eq!(window(json!({"sliding_window": null})), None);
    assert_eq!(window(json!({"sliding_window": 8})), Some(8));
}

#[test]
fn windows_of_qwen_are_off_unless_they_are_switched_on() {
    let qwen = |changes| described("Qwen2ForCausalLM", changes);
    let off = qwen(json!({"sliding_window": 8, "max_window_layers": 2})).unwrap();
    assert_eq!(kinds(&off), [(None, 0)]);
    assert!(off.spec.layers[0].attention.qkv_bias);
    let on = json!({"sliding_window": 8, "max_window_layers": 6, "use_sliding_window": true});
    assert_eq!(kinds(&qwen(on).unwrap()), [[(None, 0); 6].as_slice(), &[(Some(8), 0); 2]].concat());
    let types = ["full_attention", "sliding_attention"].repeat(4);
    let stated = json!({"sliding_window": 8, "use_sliding_window": true, "layer_types": types});
    assert_eq!(kinds(&qwen(stated).unwrap()), [(None, 0), (Some(8), 0)]);
    let contrary = fault("Qwen3ForCausalLM", json!({"sliding_window": 8, "layer_types": types}));
    assert!(contrary.contains("layer_types: expected full_attention, as use_sliding_window"), "{contrary}");
    assert!(fault("Qwen2ForCausalLM", json!({"layer_types": types[..3]})).contains("got 3 of them"));
    let kind = fault("Qwen2ForCausalLM", json!({"layer_types": vec!["linear_attention"; 8]}));
    assert!(kind.contains("layer_types `linear_attention` is not supported"), "{kind}");
}

#[test]
fn qwen3_has_heads_of_128_where_it_does_not_say_so() {
    let config = json!({"model_type": "qwen3", "hidden_size": 64, "vocab_size": 9});
    let Described { shape, spec, .. } = of(&config).unwrap();
    assert_eq!((shape.head_dim, shape.kv_heads, shape.tied_head), (128, 32, false));
    assert_eq!(spec.layers[0].attention.head_norm, HeadNorm::EachHead);
    assert!(fault("Qwen3ForCausalLM", json!({"attention_bias": true})).contains("attention_bias"));
}

#[test]
fn layers_of_smollm3_without_rotation_are_stated_or_every_fourth() {
    let smollm3 = |changes| described("SmolLM3ForCausalLM", changes).unwrap();
    let every_fourth = smollm3(json!({}));
    assert_eq!(kinds(&every_fourth), [(None, 0), (None, 0), (None, 0), (None, 1)]);
    assert!(every_fourth.shape.tied_head && every_fourth.shape.rope.theta == 2e6);
    assert_eq!(kinds(&smollm3(json!({"no_rope_layers": [1, 0, 1, 0, 1, 0, 1, 0]}))), [(None, 0), (None, 1)]);
    assert!(fault("SmolLM3ForCausalLM", json!({"no_rope_layers": [1, 0]})).contains("no_rope_layers"));
}

#[test]
fn gemma3_is_read_in_its_old_and_its_new_form() {
    let old = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 2, "sliding_window": 8,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 16});
    let new = json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}, "sliding_window": 8,
        "layer_types": (["sliding_attention", "full_attention"].repeat(4)), "query_pre_attn_scalar": 16});
    let [old, new] = [old, new].map(|config| described("Gemma3ForCausalLM", config).unwrap());
    assert_eq!((&old.shape, &old.spec, &old.fold), (&new.shape, &new.spec, &new.fold));
    assert_eq!(kinds(&old), [(Some(8), 1), (None, 0)]);
    assert_eq!(old.shape.rope, Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } });
    assert!(old.shape.tied_head && old.spec.logit_cap.is_none());
    assert_eq!((old.fold.embed, old.fold.kinds[0].query, old.fold.norm_offset), (8.0, 1.0, 1.0));
    assert!(fault("Gemma3ForCausalLM", json!({"hidden_activation": "gelu"})).contains("hidden_activation `gelu`"));
}

#[test]
fn gemma2_has_caps_unless_they_are_null() {
    let gemma2 = |changes| described("Gemma2ForCausalLM", changes).unwrap().spec;
    let spec = gemma2(json!({"sliding_window": 8}));
    assert_eq!((spec.logit_cap, spec.layers[0].attention.score_cap, spec.layers.len()), (Some(30.0), Some(50.0), 2));
    let null = json!({"final_logit_softcapping": null, "attn_logit_softcapping": 20.0, "sliding_window": null});
    let spec = gemma2(null);
    assert_eq!((spec.logit_cap, spec.layers[0].attention.score_cap, spec.layers.len()), (None, Some(20.0), 1));
}

#[test]
fn phi3_is_rotated_in_part_with_two_sets_of_divisors() {
    let longrope = |kind: &str| {
        json!({"rope_scaling": {"type": kind, "short_factor": vec![1.0; 6], "long_factor": vec![2.0; 6]},
            "partial_rotary_factor": 0.75, "original_max_position_embeddings": 32, "sliding_window": 262_144})
    };
    let found = ["su", "yarn", "longrope"].map(|kind| described("Phi3ForCausalLM", longrope(kind)).unwrap());
    assert!(found.iter().all(|other| other.spec == found[0].spec && other.fold == found[0].fold));
    let Described { spec, fold, .. } = &found[0];
    let table = &spec.rope_tables[0];
    assert_eq!((spec.layers.len(), fold.rotated_dim, &table.frequencies[6..]), (1, 12, [0.0; 2].as_slice()));
    let long = table.long.as_ref().unwrap();
    assert_eq!((long.original_context, long.frequencies[0]), (32, 0.5));
    assert!((fold.kinds[0].rotated - (1.0f64 + 4f64.ln() / 32f64.ln()).sqrt()).abs() < 1e-7);
    assert!(fault("LlamaForCausalLM", longrope("longrope")).contains("partial_rotary_factor `0.75`"));
    assert!(fault("Phi3ForCausalLM", json!({"partial_rotary_factor": 0.2})).contains("an even number of them"));
    // 0.7 of 80 is 56 as Python computes it, and with the bits of an f32 it would be less.
    let odd = json!({"partial_rotary_factor": 0.7, "head_dim": 80});
    assert_eq!(described("Phi3ForCausalLM", odd).unwrap().fold.rotated_dim, 56);
}

#[test]
fn granite_4_is_dense_or_refused() {
    let dense = json!({"layer_types": vec!["attention"; 8], "num_local_experts": 0, "shared_intermediate_size": 192,
        "position_embedding_type": "rope", "embedding_multiplier": 12, "residual_multiplier": 0.22});
    let granite = |field: &str, value: Value| {
        let mut config = dense.clone();
        config[field] = value;
        described("GraniteMoeHybridForCausalLM", config)
    };
    let found = granite("logits_scaling", json!(8)).unwrap();
    assert_eq!((found.shape.ffn_dim, found.fold.embed, found.spec.is_llama()), (192, 12.0, true));
    assert_eq!(kinds(&granite("position_embedding_type", json!("nope")).unwrap()), [(None, 1)]);
    for (field, value) in
        [("layer_types", json!(vec!["mamba"; 8])), ("layer_types", json!(null)), ("num_local_experts", json!(8))]
    {
        let fault = granite(field, value).unwrap_err().to_string();
        assert!(fault.contains("supported: Granite 3 and 4 (dense)"), "{fault}");
    }
    assert!(
        fault("GraniteForCausalLM", json!({"logits_scaling": 0})).contains("logits_scaling: expected a number above 0")
    );
}

#[test]
fn the_text_part_of_a_model_for_images_is_read() {
    let text = json!({"model_type": "ministral3", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100,
        "num_key_value_heads": 2, "tie_word_embeddings": true, "rope_parameters": {"rope_type": "yarn",
        "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1}});
    let wrapper =
        |text: Value| of(&json!({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": text}));
    let Described { shape, spec, fold, family } = wrapper(text).unwrap();
    assert_eq!((family, shape.head_dim, shape.tied_head, shape.layers), (Family::Ministral3, 128, true, 34));
    let growth = QueryGrowth { beta: 0.1, original_context: 16 };
    assert_eq!(spec.layers[0].attention.query_growth, Some(growth));
    assert_eq!((spec.rope_tables.len(), fold.kinds[0].rotated), (1, 1.0));
    let other = wrapper(json!({"model_type": "qwen2_vl"})).unwrap_err().to_string();
    assert!(other.contains("text_config.model_type `qwen2_vl`"), "{other}");
    let quantized = json!({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {},
        "quantization_config": {"quant_method": "fp8"}});
    assert!(of(&quantized).unwrap_err().to_string().contains("quantization method `fp8`"));
    let gemma = json!({"model_type": "gemma3", "text_config": {"hidden_size": 64}});
    let shape = of(&gemma).unwrap().shape;
    assert_eq!((shape.heads, shape.kv_heads, shape.head_dim, shape.vocab), (8, 4, 256, 262_208));
}

#[test]
fn olmo3_stretches_its_global_layers_only() {
    let scaling = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16,
        "attention_factor": 1.25});
    let found = described("Olmo3ForCausalLM", json!({"sliding_window": 8, "rope_scaling": scaling})).unwrap();
    assert_eq!(kinds(&found), [(Some(8), 0), (Some(8), 0), (Some(8), 0), (None, 1)]);
    assert_eq!((found.fold.kinds[0].rotated, found.fold.kinds[3].rotated), (1.0, 1.25));
}
