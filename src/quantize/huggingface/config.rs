//! config.json: the shape of the model, and what of it this version cannot do.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::read_json;
use crate::error::{Error, Result};
use crate::shape::{LlamaShape, Rope, RopeScaling};

/// The configuration's file name.
pub const CONFIG_FILE: &str = "config.json";
/// Architectures that are a LLaMA.
const ARCHITECTURES: [&str; 2] = ["LlamaForCausalLM", "MistralForCausalLM"];
/// What transformers takes where config.json has no `rope_theta`.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;

/// The fields of config.json that say what the model is.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    vocab_size: u32,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeConfig>,
    /// What newer versions of transformers write in place of the two before.
    rope_parameters: Option<RopeConfig>,
    quantization_config: Option<Value>,
}

/// Rotary embedding; older files call the kind `type`, some write both.
#[derive(Debug, Default, Deserialize)]
struct RopeConfig {
    rope_type: Option<String>,
    r#type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
    partial_rotary_factor: Option<f32>,
}

/// The shape that the configuration at `path` describes.
pub fn read_shape(path: &Path) -> Result<LlamaShape> {
    // Another architecture may have other fields, so it is looked at first.
    check_architecture(&read_json(path)?)?;
    let config: Config = read_json(path)?;
    check_features(&config)?;
    let heads = config.num_attention_heads;
    // Without heads there is no dimension of one; the shape's own check then names the heads.
    let head_dim = config.head_dim.or(config.hidden_size.checked_div(heads)).unwrap_or(0);
    let shape = LlamaShape {
        layers: config.num_hidden_layers,
        model_dim: config.hidden_size,
        ffn_dim: config.intermediate_size,
        heads,
        kv_heads: config.num_key_value_heads.unwrap_or(heads),
        head_dim,
        vocab: config.vocab_size,
        max_context: config.max_position_embeddings,
        norm_eps: config.rms_norm_eps,
        tied_head: config.tie_word_embeddings.unwrap_or(false),
        rope: rope(path, &config)?,
    };
    match shape.fault() {
        Some((field, supported, got)) => Err(Error::Unsupported { what: field.into(), got, supported }),
        None => Ok(shape),
    }
}

fn check_architecture(json: &Value) -> Result<()> {
    let stated = json.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str());
    let stated = stated.unwrap_or("none stated");
    if !ARCHITECTURES.contains(&stated) {
        return unsupported("architecture", stated, &ARCHITECTURES.join(", "));
    }
    // transformers takes a window of 4096 where the field is missing, so only an explicit null means none.
    if stated == "MistralForCausalLM" && json.get("sliding_window") != Some(&Value::Null) {
        let got = json.get("sliding_window").map_or("missing, which means 4096".into(), Value::to_string);
        return unsupported("sliding_window", &got, "null");
    }
    Ok(())
}

fn check_features(config: &Config) -> Result<()> {
    if config.attention_bias == Some(true) {
        return unsupported("attention_bias", "true", "false");
    }
    if config.mlp_bias == Some(true) {
        return unsupported("mlp_bias", "true", "false");
    }
    if let Some(act) = config.hidden_act.as_deref().filter(|act| *act != "silu") {
        return unsupported("hidden_act", act, "silu");
    }
    if let Some(quantized) = config.quantization_config.as_ref() {
        let method = quantized.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return unsupported("quantization method", method, "weights in F32, F16 or BF16");
    }
    Ok(())
}

fn rope(path: &Path, config: &Config) -> Result<Rope> {
    let none = RopeConfig::default();
    let stated = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref()).unwrap_or(&none);
    let number = |field: &str, value: Option<f32>| {
        value.ok_or_else(|| Error::damaged(path, format!("rope_scaling.{field}"), "a number", "none"))
    };
    if let Some(part) = stated.partial_rotary_factor.filter(|part| *part != 1.0) {
        return unsupported("partial_rotary_factor", &part.to_string(), "1");
    }
    let kind = stated.rope_type.as_deref().or(stated.r#type.as_deref()).unwrap_or("default");
    let scaling = match kind {
        "default" | "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: number("factor", stated.factor)? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor", stated.factor)?,
            low_freq_factor: number("low_freq_factor", stated.low_freq_factor)?,
            high_freq_factor: number("high_freq_factor", stated.high_freq_factor)?,
            original_context: number("original_max_position_embeddings", stated.original_max_position_embeddings)?,
        },
        other => return unsupported("rope type", other, "default, linear, llama3"),
    };
    Ok(Rope { theta: stated.rope_theta.or(config.rope_theta).unwrap_or(DEFAULT_ROPE_THETA), scaling })
}

fn unsupported<T>(what: &str, got: &str, supported: &str) -> Result<T> {
    Err(Error::Unsupported { what: what.into(), got: got.into(), supported: supported.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        read_shape(file.path())
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

        let mut new = fields("rope_type");
        new["rope_theta"] = json!(5e5);
        assert_eq!(shape(json!({"rope_parameters": new})).unwrap().rope, Rope { theta: 5e5, scaling: llama3 });

        let linear = shape(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap().rope;
        assert_eq!(linear.scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let refused = [
            (json!({"architectures": ["Qwen2ForCausalLM"]}), "architecture `Qwen2ForCausalLM`"),
            (json!({"architectures": null}), "architecture `none stated`"),
            (json!({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}), "sliding_window `4096`"),
            (json!({"architectures": ["MistralForCausalLM"]}), "missing, which means 4096"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"mlp_bias": true}), "mlp_bias"),
            (json!({"hidden_act": "gelu"}), "hidden_act `gelu`"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 2.0}}), "rope type `yarn`"),
            (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
            (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor `0.5`"),
            (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization method `gptq`"),
            (json!({"num_attention_heads": 0}), "heads"),
            (json!({"hidden_size": 250}), "model_dim"),
            (json!({"rms_norm_eps": "small"}), "JSON"),
            (json!({"rms_norm_eps": 0}), "norm_eps"),
        ];
        for (changes, named) in refused {
            let fault = shape(changes.clone()).unwrap_err().to_string();
            assert!(fault.contains(named), "{changes}: {fault}");
        }
        let mistral = shape(json!({"architectures": ["MistralForCausalLM"], "sliding_window": null}));
        assert!(mistral.is_ok(), "{mistral:?}");
    }
}
