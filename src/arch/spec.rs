//! What a model of LLaMA's kin is made of, beside its dimensions. Every default is LLaMA's.
//!
//! A norm is RMSNorm, `x / sqrt(mean(x^2) + eps) * w`. Where a checkpoint stores `w - 1`, as Gemma's do, the importer
//! adds the 1. Where it stores rows of queries and keys in pairs, the importer puts them in halves.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::shape::LlamaShape;

/// Where a model differs from LLaMA.
///
/// What is linear is not here, as importers fold it into the weights: scales of embeddings, scores, branches and
/// logits, and rotation of a part of each head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSpec {
    /// The kinds of layers, which follow each other in turn: layer `l` is kind `l % layers.len()`. One for a model
    /// whose layers are alike, six for one with a global layer after five local ones, and at most one for each layer.
    pub layers: Vec<LayerSpec>,
    /// Bounds the logits: `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// Rotary tables beside the shape's own: see [`AttentionSpec::rope_table`].
    pub rope_tables: Vec<RopeTable>,
}

/// What one layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerSpec {
    /// Which norms there are.
    pub norms: LayerNorms,
    /// Attention.
    pub attention: AttentionSpec,
    /// What gates in the feed-forward, down (activation(gate x) * up x).
    pub activation: ActivationFunction,
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

/// The attention of a layer. Its scores are those of queries and keys over sqrt(A).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionSpec {
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The norm of queries and keys before they are rotated.
    pub head_norm: HeadNorm,
    /// The table by which queries and keys are rotated: 0 is the shape's `rope`, `n` is
    /// [`ModelSpec::rope_tables`]`[n - 1]`.
    pub rope_table: u32,
    /// How queries grow with their position.
    pub query_growth: Option<QueryGrowth>,
    /// Bounds the scores: `cap * tanh(score / cap)`.
    pub score_cap: Option<f32>,
    /// Positions that a token looks at, its own included; without it, all up to its own.
    pub window: Option<u32>,
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

/// Rotary frequencies that no formula of [`Rope`](crate::shape::Rope) gives: of YaRN, of LongRoPE, of heads that are
/// rotated in part, and zeros where positions do not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeTable {
    /// Radians that each pair of dimensions turns by from one position to the next, [A/2].
    pub frequencies: Vec<f32>,
    /// Other frequencies for long contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongFrequencies>,
}

/// Frequencies for contexts beyond that of the first training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongFrequencies {
    /// Contexts of more tokens take these frequencies.
    pub original_context: u32,
    /// As [`RopeTable::frequencies`], [A/2].
    pub frequencies: Vec<f32>,
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

impl LayerNorms {
    /// Whether both of the residual stream are there.
    pub fn are_before_all(&self) -> bool {
        self.before_attention && self.before_feed_forward
    }
}

impl Default for ModelSpec {
    fn default() -> ModelSpec {
        ModelSpec { layers: vec![LayerSpec::default()], logit_cap: None, rope_tables: Vec::new() }
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

    /// The frequencies of rotary table `table` for contexts of so many tokens, [A/2]; panics where there is no such
    /// table.
    pub fn frequencies(&self, shape: &LlamaShape, table: u32, context: u32) -> Vec<f32> {
        let Some(own) = table.checked_sub(1) else { return shape.rope.frequencies(shape.head_dim) };
        let table = &self.rope_tables[own as usize];
        match &table.long {
            Some(long) if context > long.original_context => long.frequencies.clone(),
            _ => table.frequencies.clone(),
        }
    }

    /// Fails where no model of this shape is so, and names the first such field with its value.
    pub fn check(&self, shape: &LlamaShape) -> Result<()> {
        if self.layers.is_empty() || self.layers.len() > shape.layers as usize {
            return Err(unfit("layers", format!("1 to {} kinds", shape.layers), self.layers.len()));
        }
        if !self.logit_cap.is_none_or(is_positive) {
            return Err(unfit("logit_cap", "a positive number", in_words(self.logit_cap)));
        }
        for (at, table) in self.rope_tables.iter().enumerate() {
            table.check(&format!("rope_tables[{at}]"), shape.head_dim)?;
        }
        let tables = self.rope_tables.len();
        self.layers.iter().enumerate().try_for_each(|(at, layer)| layer.attention.check(at, tables))
    }
}

impl AttentionSpec {
    /// The same of layer kind `at`, of a model with so many tables.
    fn check(&self, at: usize, tables: usize) -> Result<()> {
        let field = |name: &str| format!("layers[{at}].attention.{name}");
        if self.rope_table as usize > tables {
            return Err(unfit(&field("rope_table"), format!("at most {tables}"), self.rope_table));
        }
        if self.query_growth.is_some_and(|growth| !growth.beta.is_finite() || growth.original_context == 0) {
            return Err(unfit(
                &field("query_growth"),
                "a finite beta and a context",
                format!("{:?}", self.query_growth),
            ));
        }
        if !self.score_cap.is_none_or(is_positive) {
            return Err(unfit(&field("score_cap"), "a positive number", in_words(self.score_cap)));
        }
        if self.window == Some(0) {
            return Err(unfit(&field("window"), "1 position or more", 0));
        }
        Ok(())
    }
}

impl RopeTable {
    fn check(&self, name: &str, head_dim: u32) -> Result<()> {
        let sound = |frequencies: &[f32]| {
            frequencies.len() == head_dim as usize / 2 && frequencies.iter().all(|f| f.is_finite() && *f >= 0.0)
        };
        let expected = || format!("{} finite numbers of 0 or more", head_dim / 2);
        if !sound(&self.frequencies) {
            return Err(unfit(&format!("{name}.frequencies"), expected(), format!("{:?}", self.frequencies)));
        }
        match &self.long {
            Some(long) if !sound(&long.frequencies) => {
                Err(unfit(&format!("{name}.long.frequencies"), expected(), format!("{:?}", long.frequencies)))
            }
            _ => Ok(()),
        }
    }
}

fn is_positive(number: f32) -> bool {
    number.is_finite() && number > 0.0
}

fn in_words(number: Option<f32>) -> String {
    number.map_or("none".into(), |number| number.to_string())
}

fn unfit(field: &str, expected: impl ToString, got: impl ToString) -> Error {
    Error::unsupported(format!("spec.{field}"), got, expected)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
