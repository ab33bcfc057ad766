//! Configurations as they are found, each changed in one place.

use serde_json::json;

use super::super::super::family::Described;
use super::*;
use crate::shape::{Rope, RopeScaling};

fn read_shape(path: &Path, warnings: &mut Vec<String>) -> Result<LlamaShape> {
    Ok(Described::new(read(path, warnings)?.facts)?.shape)
}

/// The shape of a small configuration, `changes` made to it; null takes a field out.
fn shape(changes: Value) -> Result<LlamaShape> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 1000, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "hidden_act": "silu",
    });
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    read_shape(file.path(), &mut Vec::new())
}

#[test]
fn what_is_not_stated_takes_the_defaults_of_transformers() {
    let shape = shape(json!({})).unwrap();
    assert_eq!((shape.kv_heads, shape.head_dim, shape.tied_head), (8, 32, false));
    assert_eq!(shape.rope, Rope { theta: 10_000.0, scaling: RopeScaling::None });
}

#[test]
fn an_explicit_head_dim_need_not_divide_the_model_dim() {
    let shape = shape(json!({"head_dim": 64, "num_key_value_heads": 2, "tie_word_embeddings": true})).unwrap();
    assert_eq!((shape.q_dim(), shape.kv_dim(), shape.tied_head), (512, 128, true));
}

#[test]
fn rotary_scaling_is_read_in_its_old_and_its_new_form() {
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
    let fields = |kind: &str| {
        json!({kind: "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192})
    };
    let old = shape(json!({"rope_theta": 5e5, "rope_scaling": fields("rope_type")})).unwrap().rope;
    assert_eq!(old, Rope { theta: 5e5, scaling: llama3.clone() });

    // The context of the first training may stand beside the scaling, and must stand somewhere.
    let mut without = fields("rope_type");
    without.as_object_mut().unwrap().remove("original_max_position_embeddings");
    let beside = json!({"rope_theta": 5e5, "rope_scaling": without, "original_max_position_embeddings": 8192});
    assert_eq!(shape(beside).unwrap().rope, old);
    let fault = shape(json!({"rope_scaling": without})).unwrap_err().to_string();
    assert!(fault.contains("rope_scaling.original_max_position_embeddings: expected a number, got none"), "{fault}");

    let mut new = fields("rope_type");
    new["rope_theta"] = json!(5e5);
    assert_eq!(shape(json!({"rope_parameters": new})).unwrap().rope, Rope { theta: 5e5, scaling: llama3 });

    let linear = shape(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap().rope;
    assert_eq!(linear.scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let refused = [
        (json!({"architectures": ["Qwen2MoeForCausalLM"]}), "supported: Qwen2.5 (dense)"),
        (json!({"architectures": ["GPT2LMHeadModel"]}), "supported: LlamaForCausalLM, MistralForCausalLM"),
        (json!({"architectures": null}), "architecture `none stated`"),
        (json!({"architectures": null, "model_type": "gpt2"}), "architecture `gpt2`"),
        (json!({"architectures": ["MistralForCausalLM"], "sliding_window": 0}), "sliding_window: expected 1 position"),
        (json!({"architectures": ["MistralForCausalLM"], "sliding_window": -1}), "sliding_window: expected a whole"),
        (json!({"attention_bias": true}), "attention_bias"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (json!({"hidden_act": "gelu"}), "hidden_act `gelu`"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope type `dynamic`"),
        (json!({"rope_scaling": {"type": "yarn", "factor": -2.0}}), "rope_scaling.factor: expected a number above 0"),
        (json!({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 0}}), "above 0, got 0"),
        (json!({"rope_scaling": {"type": "longrope"}}), "rope_scaling.short_factor: expected a list of 16 numbers"),
        (json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0, 2.0]}}), "got 2 of them"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling.factor: expected a number above 0"),
        (json!({"rope_scaling": {"factor": 4.0}}), "rope_scaling.rope_type: expected a type for the factor 4"),
        (json!({"rope_scaling": {"type": null, "factor": 4.0}}), "rope_scaling.rope_type"),
        (json!({"rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 4}}), "rope_scaling.type"),
        (
            json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}),
            "rope_parameters.rope_theta: expected 10000",
        ),
        (json!({"rope_parameters": {"full_attention": {"rope_theta": 5e5}}}), "layers of different shape"),
        (json!({"rope_scaling": "linear"}), "rope_scaling: expected an object, got \"linear\""),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor `0.5`"),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor `0.5`"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization method `gptq`"),
        (json!({"num_attention_heads": 0}), "heads"),
        (json!({"hidden_size": 250}), "model_dim"),
        (json!({"quantization_config": {"load_in_4bit": true}}), "quantization method `bitsandbytes`"),
        (json!({"quantization": {"bits": 4, "group_size": 64}}), "quantization method `MLX`"),
        (json!({"rms_norm_eps": "small"}), "rms_norm_eps: expected a number, got \"small\""),
        (
            json!({"num_hidden_layers": 4294967296u64}),
            "num_hidden_layers: expected a whole number from 0 to 4294967295",
        ),
        (json!({"num_hidden_layers": 4294967295u64}), "layers `4294967295`"),
        (json!({"hidden_size": -64}), "hidden_size: expected a whole number"),
        (json!({"hidden_size": 64.5}), "hidden_size: expected a whole number"),
        (json!({"rope_theta": 1e300}), "rope_theta: expected a number, got 1e+300"),
        (json!({"num_key_value_heads": [2, 4]}), "layers of different shape `num_key_value_heads`"),
        (json!({"num_key_value_heads": []}), "num_key_value_heads"),
        (json!({"rms_norm_eps": 0}), "norm_eps"),
    ];
    for (changes, named) in refused {
        let fault = shape(changes.clone()).unwrap_err().to_string();
        assert!(fault.contains(named), "{changes}: {fault}");
    }
}

/// The shape of a configuration that is written so.
fn written(text: &str) -> Result<(LlamaShape, Vec<String>)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let mut warnings = Vec::new();
    read_shape(file.path(), &mut warnings).map(|shape| (shape, warnings))
}

#[test]
fn a_field_that_is_not_there_has_the_default_of_transformers_and_is_named() {
    let (shape, warnings) = written(r#"{"model_type": "llama"}"#).unwrap();
    assert_eq!((shape.model_dim, shape.ffn_dim, shape.layers, shape.heads), (4096, 11_008, 32, 32));
    assert_eq!((shape.kv_heads, shape.head_dim, shape.vocab, shape.max_context), (32, 128, 32_000, 2048));
    assert_eq!((shape.norm_eps, shape.tied_head), (1e-6, false));
    for told in ["max_position_embeddings: 2048", "rms_norm_eps: 1e-6, the default of transformers"] {
        assert!(warnings.iter().any(|warning| warning.contains(told)), "{told}: {warnings:?}");
    }

    let mistral = |kv: &str| written(&format!(r#"{{"model_type": "mistral", "sliding_window": null{kv}}}"#)).unwrap().0;
    assert_eq!((mistral("").kv_heads, mistral("").ffn_dim, mistral("").max_context), (8, 14_336, 131_072));
    assert_eq!(mistral(r#", "num_key_value_heads": null"#).kv_heads, 32);
    let old = r#"{"architectures": ["LLaMAForCausalLM"], "hidden_size": 128, "num_attention_heads": 2}"#;
    assert_eq!(written(old).unwrap().0.head_dim, 64);
}

#[test]
fn numbers_as_python_writes_them_are_read() {
    let text = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 512.0, "num_hidden_layers": 2e0,
        "num_attention_heads": [8, 8], "intermediate_size": 1024, "vocab_size": 1000, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05, "unused": NaN, "also": [-Infinity, 1e999], "hidden_act": "swish", "head_dim": null}"#;
    let (shape, warnings) = written(text).unwrap();
    assert_eq!((shape.model_dim, shape.layers, shape.heads, shape.head_dim), (512, 2, 8, 64));
    assert_eq!(warnings, [""; 0]);
    let used = written(&text.replace("1e-05", "NaN")).unwrap_err().to_string();
    assert!(used.contains("rms_norm_eps: expected a number, got \"NaN\""), "{used}");
    let twice = written(&text.replace("\"unused\"", "\"hidden_size\"")).unwrap_err().to_string();
    assert!(twice.contains("the key `hidden_size` twice"), "{twice}");
}

#[test]
fn rotary_embeddings_without_a_scaling_are_told_in_many_ways() {
    let ways = [
        json!({"rope_scaling": null}),
        json!({"rope_scaling": {}}),
        json!({"rope_scaling": {"type": "default"}}),
        json!({"rope_scaling": {"rope_type": "default", "type": "default"}}),
        json!({"rope_scaling": {"type": null}}),
        json!({"rope_scaling": {"factor": 1.0}}),
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        json!({"rope_parameters": {"rope_theta": 10000.0}, "rope_theta": 10000}),
    ];
    for way in ways {
        let rope = shape(way.clone()).unwrap().rope;
        assert_eq!(rope, Rope { theta: 10_000.0, scaling: RopeScaling::None }, "{way}");
    }
}
