//! config.json: what the model is, and what of it this version cannot do.

use std::path::Path;

use serde_json::Value;

use super::super::family::constants::{GEMMA2_LOGIT_CAP, GEMMA2_SCORE_CAP};
use super::super::family::{Family, FamilyFacts, FamilyScales, check_shape, refusal};
use super::super::source::unsupported;
use super::defaults::{self, ARCHITECTURES, ConfigDefaults, GRANITE_HYBRID, WRAPPERS};
use super::fields::ConfigFields;
use super::layers;
use super::rope;
use crate::error::{Error, Result};
use crate::json::read_object;
use crate::shape::{LlamaShape, Rope, RopeScaling};

/// What a Gemma has where config.json lacks the field.
const GEMMA_QUERY_SCALAR: f64 = 256.0;

/// A configuration that has been read.
#[derive(Debug)]
pub struct StatedModel {
    pub facts: FamilyFacts,
    /// Whether the model is the text part of one that has others.
    pub is_part: bool,
}

/// What the configuration at `path` describes. A field that it lacks has the default of transformers, which is a
/// warning where every file of today has the field.
pub fn read(path: &Path, warnings: &mut Vec<String>) -> Result<StatedModel> {
    let object = read_object(path)?;
    stated(&ConfigFields::new(path, &object), warnings).map_err(Error::in_file(path))
}

/// What the fields `whole` of a configuration describe.
fn stated(whole: &ConfigFields<'_>, warnings: &mut Vec<String>) -> Result<StatedModel> {
    // Another architecture may have other fields, so it is looked at first.
    let (defaults, text) = architecture(whole)?;
    let config = text.as_ref().unwrap_or(whole);
    check_features(config, whole, &defaults)?;
    let shape = shape(config, whole, &defaults, warnings)?;
    let rope = rope::read(config, &defaults, &shape, warnings)?;
    let family = defaults.family;
    let (score_cap, logit_cap) = caps(config, family)?;
    let facts = FamilyFacts {
        family,
        scales: scales(config, &shape, family)?,
        norms_less_one: family.has_norms_less_one(),
        is_interleaved: false,
        rotated_dim: rope.rotated_dim,
        rope: rope.global,
        local_rope: rope.local,
        score_cap,
        logit_cap,
        query_growth: rope.query_growth,
        layers: layers::read(config, &defaults, &shape)?,
        shape,
    };
    Ok(StatedModel { facts, is_part: text.is_some() })
}

fn shape(
    config: &ConfigFields<'_>,
    whole: &ConfigFields<'_>,
    defaults: &ConfigDefaults,
    warnings: &mut Vec<String>,
) -> Result<LlamaShape> {
    let mut warn_of_default = |field: &str, default: String| {
        // The text parts of models with others state only what differs.
        if config.name("").is_empty() {
            warnings.push(format!("config.json has no {field}: {default}, the default of transformers, is taken"));
        }
    };
    let norm_eps = config.number("rms_norm_eps")?.unwrap_or_else(|| {
        warn_of_default("rms_norm_eps", format!("{:e}", defaults.norm_eps));
        defaults.norm_eps
    });
    let mut or_default = |field: &str, default: u32| {
        Ok::<_, Error>(config.whole_per_layer(field)?.unwrap_or_else(|| {
            warn_of_default(field, default.to_string());
            default
        }))
    };
    let heads = or_default("num_attention_heads", defaults.heads)?;
    let model_dim = or_default("hidden_size", defaults.model_dim)?;
    // Only a field that is not there has the default; null means as many as heads.
    let kv_default = if config.has("num_key_value_heads") { None } else { defaults.kv_heads };
    let head_dim_default = if config.has("head_dim") { None } else { defaults.head_dim };
    let is_hybrid = defaults.architecture == GRANITE_HYBRID;
    let ffn_field = if is_hybrid { "shared_intermediate_size" } else { "intermediate_size" };
    // Either may say that a part of a model has its embedding for a head.
    let tied = [config.flag("tie_word_embeddings")?, whole.flag("tie_word_embeddings")?];
    let shape = LlamaShape {
        layers: or_default("num_hidden_layers", defaults.layers)?,
        model_dim,
        ffn_dim: or_default(ffn_field, defaults.ffn_dim)?,
        heads,
        kv_heads: config.whole_per_layer("num_key_value_heads")?.or(kv_default).unwrap_or(heads),
        // Without heads there is no dimension of one; the shape's own check then names the heads.
        head_dim: config
            .whole_per_layer("head_dim")?
            .or(head_dim_default)
            .or(model_dim.checked_div(heads))
            .unwrap_or(0),
        vocab: or_default("vocab_size", defaults.vocab)?,
        max_context: or_default("max_position_embeddings", defaults.max_context)?,
        norm_eps,
        tied_head: tied.into_iter().flatten().reduce(|one, other| one || other).unwrap_or(defaults.tied_head),
        rope: Rope { theta: defaults.rope_theta, scaling: RopeScaling::None },
    };
    check_shape(&shape)?;
    Ok(shape)
}

/// The architecture's defaults, and the text part of a model that has others.
fn architecture<'a>(config: &ConfigFields<'a>) -> Result<(ConfigDefaults, Option<ConfigFields<'a>>)> {
    let listed = config.get("architectures").and_then(Value::as_array).and_then(|list| list.first()?.as_str());
    let Some(stated) = listed.or(config.text("model_type")?) else { return unknown("none stated") };
    if let Some(defaults) = defaults::named(stated, listed.is_none()) {
        return Ok((defaults, None));
    }
    let is = |name: &str, model_type: &str| name == stated || (listed.is_none() && model_type == stated);
    let Some(wrapper) = WRAPPERS.iter().find(|known| is(known.architecture, known.model_type)) else {
        return unknown(stated);
    };
    let text = config.fields("text_config")?;
    let text = text.ok_or_else(|| config.damaged("text_config", "an object", "none"))?;
    let model_type = text.text("model_type")?.unwrap_or(wrapper.text);
    match defaults::named(model_type, true) {
        Some(defaults) => Ok((defaults, Some(text))),
        None => unsupported("text_config.model_type", model_type, wrapper.text),
    }
}

/// The error for an architecture that is none of those here.
fn unknown<T>(stated: &str) -> Result<T> {
    let all = || ARCHITECTURES.map(|known| known.architecture).into_iter().chain(WRAPPERS.map(|w| w.architecture));
    let supported = refusal(stated).unwrap_or_else(|| all().collect::<Vec<_>>().join(", "));
    unsupported("architecture", stated, &supported)
}

fn check_features(config: &ConfigFields<'_>, whole: &ConfigFields<'_>, defaults: &ConfigDefaults) -> Result<()> {
    if defaults.architecture == GRANITE_HYBRID {
        check_dense(config)?;
    }
    for bias in ["attention_bias", "mlp_bias"] {
        // Qwen2 has its biases without a field, and none at the output.
        if config.flag(bias)? == Some(true) {
            return unsupported(&config.name(bias), "true", "false");
        }
    }
    if config.flag("use_bidirectional_attention")? == Some(true) {
        return unsupported(&config.name("use_bidirectional_attention"), "true", "false: a model that writes text");
    }
    let (field, names) = match defaults.family {
        Family::Gemma2 | Family::Gemma3 => ("hidden_activation", ["gelu_pytorch_tanh", "gelu_tanh"]),
        // Two names of one function.
        _ => ("hidden_act", ["silu", "swish"]),
    };
    if let Some(act) = config.text(field)?.filter(|act| !names.contains(act)) {
        return unsupported(&config.name(field), act, names[0]);
    }
    match quantization(config).or_else(|| quantization(whole)) {
        Some(method) => unsupported(
            "quantization method",
            &method,
            "weights in F32, F16 or BF16: get the model that this one was made from",
        ),
        None => Ok(()),
    }
}

/// Fails where a model of the hybrids' architecture is one.
fn check_dense(config: &ConfigFields<'_>) -> Result<()> {
    let types = config.get("layer_types").and_then(Value::as_array);
    let is_attention = |kind: &Value| kind == "attention" || kind == "full_attention";
    let is_dense = types.is_some_and(|types| types.iter().all(is_attention));
    // A field that is not there means experts, and Mamba layers.
    if !is_dense || config.whole("num_local_experts")? != Some(0) {
        return unknown(GRANITE_HYBRID);
    }
    Ok(())
}

fn scales(config: &ConfigFields<'_>, shape: &LlamaShape, family: Family) -> Result<FamilyScales> {
    // As f32, which GGUF files have: the same model in both formats comes to the same weights.
    let or_one = |field: &str| Ok::<_, Error>(config.positive(field)?.map_or(1.0, |scale| f64::from(scale as f32)));
    match family {
        Family::Granite => Ok(FamilyScales {
            embedding: or_one("embedding_multiplier")?,
            score: Some(or_one("attention_multiplier")?),
            residual: or_one("residual_multiplier")?,
            logit_divisor: or_one("logits_scaling")?,
        }),
        Family::Gemma2 | Family::Gemma3 => {
            let scalar = config.positive("query_pre_attn_scalar")?.unwrap_or(GEMMA_QUERY_SCALAR);
            // transformers rounds the embedding's factor to the dtype of the weights, and llama.cpp does not.
            let embedding = f64::from(shape.model_dim).sqrt();
            Ok(FamilyScales { embedding, score: Some(scalar.sqrt().recip()), ..FamilyScales::default() })
        }
        _ => Ok(FamilyScales::default()),
    }
}

/// The bounds of scores and of logits. A field that is null means none, one that is not there the default.
fn caps(config: &ConfigFields<'_>, family: Family) -> Result<(Option<f32>, Option<f32>)> {
    let (score, logit) = ("attn_logit_softcapping", "final_logit_softcapping");
    let cap = |field: &str, default: Option<f32>| {
        let stated = config.positive(field)?.map(|cap| cap as f32);
        Ok::<_, Error>(if config.has(field) { stated } else { default })
    };
    match family {
        Family::Gemma2 => Ok((cap(score, Some(GEMMA2_SCORE_CAP))?, cap(logit, Some(GEMMA2_LOGIT_CAP))?)),
        Family::Gemma3 => Ok((cap(score, None)?, cap(logit, None)?)),
        _ => Ok((None, None)),
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

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
