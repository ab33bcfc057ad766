//! What a model of LLaMA's kin is made of, beside its dimensions. Every default is LLaMA's.
//!
//! A norm is RMSNorm, `x / sqrt(mean(x^2) + eps) * w`. Where a checkpoint stores `w - 1`, as Gemma's do, the importer
//! adds the 1. Where it stores rows of queries and keys in pairs, the importer puts them in halves.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::shape::Rope;

/// Where a model differs from LLaMA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSpec {
    /// The kinds of layers, which follow each other in turn: layer `l` is kind `l % layers.len()`. One for a model
    /// whose layers are alike, six for one with a global layer after five local ones, and at most one for each layer.
    pub layers: Vec<LayerSpec>,
    /// Multiplies the embedding's rows.
    pub embedding_scale: f32,
    /// Multiplies the logits.
    pub logit_scale: f32,
    /// Bounds the logits, after their scale: `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// Rotary tables beside the shape's own: see [`RotarySpec::table`].
    pub rope_tables: Vec<RopeTable>,
}

/// What one layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerSpec {
    /// Which norms there are.
    pub norms: LayerNorms,
    /// Attention.
    pub attention: AttentionSpec,
    /// Feed-forward.
    pub feed_forward: FeedForwardSpec,
    /// Multiplies what attention and feed-forward add to the residual stream.
    pub residual_scale: f32,
}

/// The norms of a layer, each of D numbers a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerNorms {
    /// Of the residual stream, before attention.
    pub before_attention: bool,
    /// Of attention's output, before it is added to the residual stream.
    pub after_attention: bool,
    /// Of the residual stream, before the feed-forward.
    pub before_feed_forward: bool,
    /// Of the feed-forward's output, before it is added to the residual stream.
    pub after_feed_forward: bool,
}

/// The attention of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionSpec {
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output product has a bias.
    pub o_bias: bool,
    /// The norm of queries and keys before they are rotated.
    pub head_norm: HeadNorm,
    /// How queries and keys are rotated.
    pub rotary: RotarySpec,
    /// From queries and keys to scores.
    pub scores: ScoreSpec,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadNorm {
    /// None.
    #[default]
    None,
    /// Of each head by itself, with a weight of A numbers for all heads.
    EachHead,
    /// Of all heads together, with weights of H*A and K*A numbers.
    AllHeads,
}

/// How queries and keys are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotarySpec {
    /// Whether and how.
    pub kind: RotaryKind,
    /// The table: 0 is the shape's `rope`, `n` is [`ModelSpec::rope_tables`]`[n - 1]`.
    pub table: u32,
    /// Dimensions of a head that are rotated, from its first on; without it, all A.
    pub dims: Option<u32>,
}

/// Kinds of rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryKind {
    /// Queries and keys stay as they are.
    None,
    /// The first half of the rotated dimensions pairs with the second.
    #[default]
    Halves,
}

/// A table of cosines and sines. YaRN and LongRoPE are divisors of the frequencies with a magnitude.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeTable {
    /// The frequencies.
    pub rope: Rope,
    /// Multiplies cosines and sines.
    pub magnitude: f32,
    /// Other divisors for long contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongFactors>,
}

/// Divisors of the frequencies for contexts beyond that of the first training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongFactors {
    /// Contexts of more tokens take these divisors.
    pub original_context: u32,
    /// One for each frequency.
    pub factors: Vec<f32>,
}

/// From queries and keys to the scores that softmax takes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSpec {
    /// Multiplies the scores; without it, 1 / sqrt(A).
    pub scale: Option<f32>,
    /// Bounds the scores, after their scale: `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
    /// Positions that a token looks at, its own included; without it, all up to its own.
    pub window: Option<u32>,
    /// How queries grow with their position.
    pub growth: Option<QueryGrowth>,
}

/// Queries at position `p` are multiplied by `1 + beta * ln(1 + floor(p / original_context))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryGrowth {
    /// How fast they grow.
    pub beta: f32,
    /// Positions up to which they do not.
    pub original_context: u32,
}

/// The feed-forward of a layer: down (activation(gate x) * up x).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedForwardSpec {
    /// What gates.
    pub activation: ActivationFunction,
    /// Whether gate, up and down have biases.
    pub bias: bool,
}

/// Functions that gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationFunction {
    /// x * sigmoid(x)
    #[default]
    Silu,
    /// GELU by its approximation with tanh.
    GeluTanh,
}

impl Default for ModelSpec {
    fn default() -> ModelSpec {
        ModelSpec {
            layers: vec![LayerSpec::default()],
            embedding_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
            rope_tables: Vec::new(),
        }
    }
}

impl Default for LayerSpec {
    fn default() -> LayerSpec {
        LayerSpec {
            norms: LayerNorms::default(),
            attention: AttentionSpec::default(),
            feed_forward: FeedForwardSpec::default(),
            residual_scale: 1.0,
        }
    }
}

impl Default for LayerNorms {
    fn default() -> LayerNorms {
        LayerNorms {
            before_attention: true,
            after_attention: false,
            before_feed_forward: true,
            after_feed_forward: false,
        }
    }
}

impl ModelSpec {
    /// Whether this is LLaMA, which a manifest says by leaving the spec out.
    pub fn is_llama(&self) -> bool {
        *self == ModelSpec::default()
    }

    /// The spec of layer `at`; panics where there are no kinds of layers.
    pub fn layer(&self, at: u32) -> &LayerSpec {
        &self.layers[at as usize % self.layers.len()]
    }

    /// Fails where a model of `layers` layers cannot be run by this program, and names the first such field with its
    /// value.
    pub fn check(&self, layers: u32) -> Result<()> {
        if self.layers.is_empty() || self.layers.len() > layers as usize {
            let supported = format!("1 to {layers} kinds");
            return Err(unsupported("layers", self.layers.len().to_string(), supported));
        }
        let llama = ModelSpec::default();
        let [kind] = &llama.layers[..] else { panic!("the layers of LLaMA are alike") };
        for (at, layer) in self.layers.iter().enumerate() {
            check_field(&format!("layers[{at}]"), &as_json(layer), &as_json(kind))?;
        }
        // The rest, layer by layer compared already.
        check_field("", &as_json(&ModelSpec { layers: llama.layers.clone(), ..self.clone() }), &as_json(&llama))
    }
}

/// The JSON of a part of a spec. It is written and read again, so that an f32 is shown in as few digits as it has.
fn as_json(part: &impl Serialize) -> Value {
    let text = serde_json::to_string(part).expect("a spec has no maps whose keys are not text");
    serde_json::from_str(&text).expect("what was written can be read")
}

/// Fails at the first leaf, in the order of the keys, at which `got` is not `supported`.
fn check_field(name: &str, got: &Value, supported: &Value) -> Result<()> {
    if let (Value::Object(got), Value::Object(supported)) = (got, supported) {
        for (key, supported) in supported {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            check_field(&name, got.get(key).unwrap_or(&Value::Null), supported)?;
        }
        return Ok(());
    }
    if got == supported { Ok(()) } else { Err(unsupported(name, in_words(got), in_words(supported))) }
}

fn unsupported(field: &str, got: String, supported: String) -> Error {
    Error::Unsupported { what: format!("spec.{field}"), got, supported }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "none".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
