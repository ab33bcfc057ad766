//! config.json: the shape of the model, and what of it this version cannot do.

use std::path::Path;

use serde_json::Value;

use super::fields::ConfigFields;
use super::rope;
use crate::error::{Error, Result};
use crate::json::{read_object, shown};
use crate::shape::LlamaShape;

/// The configuration's file name.
pub const CONFIG_FILE: &str = "config.json";

/// What transformers takes where config.json lacks a field.
struct Defaults {
    architecture: &'static str,
    model_type: &'static str,
    intermediate_size: u32,
    /// Key/value heads; `None` for as many as heads.
    kv_heads: Option<u32>,
    max_context: u32,
}

/// Architectures that are a LLaMA, as `LlamaConfig` and `MistralConfig` of transformers have them.
const LLAMA: Defaults = Defaults {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    intermediate_size: 11_008,
    kv_heads: None,
    max_context: 2048,
};
const MISTRAL: Defaults = Defaults {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    intermediate_size: 14_336,
    kv_heads: Some(8),
    max_context: 131_072,
};
/// How the first conversions of LLaMA spell it.
const OLD_LLAMA: &str = "LLaMAForCausalLM";
/// Defaults of both.
const MODEL_DIM: u32 = 4096;
const LAYERS: u32 = 32;
const HEADS: u32 = 32;
const VOCAB: u32 = 32_000;
const NORM_EPS: f32 = 1e-6;

/// The shape that the configuration at `path` describes. A field that it lacks has the default of transformers, which
/// is a warning, as every file of today has these fields.
pub fn read_shape(path: &Path, warnings: &mut Vec<String>) -> Result<LlamaShape> {
    let object = read_object(path)?;
    let config = ConfigFields::new(path, &object);
    // Another architecture may have other fields, so it is looked at first.
    let defaults = architecture(&config)?;
    check_features(&config, &defaults)?;
    let mut or_default = |field: &str, stated: Option<u32>, default: u32| {
        stated.unwrap_or_else(|| {
            warnings.push(format!("config.json has no {field}: {default}, the default of transformers, is taken"));
            default
        })
    };
    let mut whole =
        |field: &str, default: u32| Ok::<_, Error>(or_default(field, config.whole_per_layer(field)?, default));
    let heads = whole("num_attention_heads", HEADS)?;
    let model_dim = whole("hidden_size", MODEL_DIM)?;
    // Only a field that is not there has the default of Mistral; null means as many as heads.
    let kv_default = if object.contains_key("num_key_value_heads") { None } else { defaults.kv_heads };
    let shape = LlamaShape {
        layers: whole("num_hidden_layers", LAYERS)?,
        model_dim,
        ffn_dim: whole("intermediate_size", defaults.intermediate_size)?,
        heads,
        kv_heads: config.whole_per_layer("num_key_value_heads")?.or(kv_default).unwrap_or(heads),
        // Without heads there is no dimension of one; the shape's own check then names the heads.
        head_dim: config.whole_per_layer("head_dim")?.or(model_dim.checked_div(heads)).unwrap_or(0),
        vocab: whole("vocab_size", VOCAB)?,
        max_context: whole("max_position_embeddings", defaults.max_context)?,
        norm_eps: config.number("rms_norm_eps")?.unwrap_or(NORM_EPS),
        tied_head: config.flag("tie_word_embeddings")?.unwrap_or(false),
        rope: rope::read(&config, warnings)?,
    };
    match shape.fault() {
        Some((field, supported, got)) => Err(Error::Unsupported { what: field.into(), got, supported }),
        None => Ok(shape),
    }
}

fn architecture(config: &ConfigFields<'_>) -> Result<Defaults> {
    let listed = config.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str());
    let stated = listed.or(config.text("model_type")?);
    for defaults in [LLAMA, MISTRAL] {
        let named = |name: &str| name == defaults.architecture || (listed.is_none() && name == defaults.model_type);
        if stated.is_some_and(named) || (stated == Some(OLD_LLAMA) && defaults.model_type == LLAMA.model_type) {
            return Ok(defaults);
        }
    }
    let supported = [LLAMA.architecture, MISTRAL.architecture].join(", ");
    unsupported("architecture", stated.unwrap_or("none stated"), &supported)
}

fn check_features(config: &ConfigFields<'_>, defaults: &Defaults) -> Result<()> {
    // transformers takes a window of 4096 where the field is missing, so only an explicit null means none.
    if defaults.architecture == MISTRAL.architecture && !config.is_null("sliding_window") {
        let got = config.get("sliding_window").map_or("missing, which means 4096".into(), shown);
        return unsupported("sliding_window", &got, "null");
    }
    for bias in ["attention_bias", "mlp_bias"] {
        if config.flag(bias)? == Some(true) {
            return unsupported(bias, "true", "false");
        }
    }
    // Two names of one function.
    if let Some(act) = config.text("hidden_act")?.filter(|act| !["silu", "swish"].contains(act)) {
        return unsupported("hidden_act", act, "silu");
    }
    match quantization(config) {
        Some(method) => unsupported(
            "quantization method",
            &method,
            "weights in F32, F16 or BF16: get the model that this one was made from",
        ),
        None => Ok(()),
    }
}

/// The method by which the weights were quantized, if they were.
fn quantization(config: &ConfigFields<'_>) -> Option<String> {
    // MLX writes both fields.
    let fields = ["quantization_config", "quantization"].map(|field| config.get(field));
    let stated =
        fields.into_iter().flatten().find(|value| value.as_object().is_none_or(|object| !object.is_empty()))?;
    let method = stated.get("quant_method").and_then(Value::as_str);
    let is = |field: &str| stated.get(field).is_some_and(|value| *value == Value::Bool(true));
    let named = match method {
        Some(method) => method,
        None if is("load_in_4bit") || is("load_in_8bit") => "bitsandbytes",
        None if stated.get("bits").is_some() && stated.get("group_size").is_some() => "MLX",
        None => "unnamed",
    };
    Some(named.to_string())
}

/// The error for a model that asks for something else than what there is.
pub fn unsupported<T>(what: &str, got: &str, supported: &str) -> Result<T> {
    Err(Error::Unsupported { what: what.into(), got: got.into(), supported: supported.into() })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
