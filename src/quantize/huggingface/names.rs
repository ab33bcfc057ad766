//! The names of tensors in Hugging Face checkpoints.

use std::collections::BTreeSet;

use super::super::family::{FusedTensor, fused};
use super::super::source::SourceTensor;
use crate::arch::{LayerVector, ModelSpec};
use crate::shape::LlamaShape;

/// What the names of a model's tensors begin with, the head's apart: of a model of text, and of the text part of one
/// that has others, by version of transformers.
const BODIES: [(&str, &str); 3] =
    [("model.", ""), ("model.language_model.", ""), ("language_model.model.", "language_model.")];
/// What the names of the other parts begin with.
const OTHER_PARTS: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

/// The names that a checkpoint gives to its tensors.
#[derive(Debug, Clone, Copy)]
pub struct TensorNames {
    /// What the body's names begin with.
    body: &'static str,
    /// What the head's name begins with.
    head: &'static str,
}

/// Where a tensor may be: a name, the first row there, and the rows of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPlace {
    pub name: String,
    /// Of a vector, the first number.
    pub first: u32,
    /// Rows of a tensor that has others too; `None` of one that is alone.
    pub all: Option<u32>,
}

impl TensorNames {
    /// Those of a model of text.
    pub const TEXT: TensorNames = TensorNames { body: BODIES[0].0, head: BODIES[0].1 };

    /// Those of a checkpoint that has tensors of these names.
    pub fn of(names: &BTreeSet<String>) -> TensorNames {
        let has = |body: &&(&str, &str)| names.iter().any(|name| name.starts_with(&format!("{}layers.0.", body.0)));
        let (body, head) = *BODIES.iter().find(has).unwrap_or(&BODIES[0]);
        TensorNames { body, head }
    }

    /// The places where a tensor may be, the usual one first.
    pub fn places(&self, tensor: SourceTensor, shape: &LlamaShape, spec: &ModelSpec) -> Vec<NamedPlace> {
        let alone = NamedPlace { name: self.alone(tensor, spec), first: 0, all: None };
        let stacked = fused(tensor, shape).map(|(stack, first, rows)| {
            let place = move |name: String| NamedPlace { name, first, all: Some(rows) };
            self.stacks(stack).into_iter().map(place)
        });
        let other = match tensor {
            SourceTensor::Down(l) => Some(format!("{}layers.{l}.shared_mlp.output_linear.weight", self.body)),
            _ => None,
        };
        let other = other.map(|name| NamedPlace { name, ..alone.clone() });
        [alone].into_iter().chain(stacked.into_iter().flatten()).chain(other).collect()
    }

    /// The usual name of a tensor.
    pub fn alone(&self, tensor: SourceTensor, spec: &ModelSpec) -> String {
        use SourceTensor::*;
        let (body, head) = (self.body, self.head);
        let (layer, part) = match tensor {
            Embed => return format!("{body}embed_tokens.weight"),
            Head => return format!("{head}lm_head.weight"),
            FinalNorm => return format!("{body}norm.weight"),
            Query(l) => (l, "self_attn.q_proj.weight"),
            Key(l) => (l, "self_attn.k_proj.weight"),
            Value(l) => (l, "self_attn.v_proj.weight"),
            Output(l) => (l, "self_attn.o_proj.weight"),
            Gate(l) => (l, "mlp.gate_proj.weight"),
            Up(l) => (l, "mlp.up_proj.weight"),
            Down(l) => (l, "mlp.down_proj.weight"),
            QueryBias(l) => (l, "self_attn.q_proj.bias"),
            KeyBias(l) => (l, "self_attn.k_proj.bias"),
            ValueBias(l) => (l, "self_attn.v_proj.bias"),
            Vector(l, vector) => (l, vector_name(vector, spec.layer(l).norms.after_attention)),
        };
        format!("{body}layers.{layer}.{part}")
    }

    /// The names of a stack: of Phi-3, and of Granite 4.
    fn stacks(&self, stack: FusedTensor) -> Vec<String> {
        let (layer, parts): (u32, &[&str]) = match stack {
            FusedTensor::Qkv(l) => (l, &["self_attn.qkv_proj.weight"]),
            FusedTensor::QkvBias(l) => (l, &["self_attn.qkv_proj.bias"]),
            FusedTensor::GateUp(l) => (l, &["mlp.gate_up_proj.weight", "shared_mlp.input_linear.weight"]),
        };
        parts.iter().map(|part| format!("{}layers.{layer}.{part}", self.body)).collect()
    }
}

/// Whether a tensor belongs to another part than the text.
pub fn is_of_other_part(name: &str) -> bool {
    OTHER_PARTS.iter().any(|part| name.starts_with(part))
}

/// The name of a vector in a layer with or without a norm after attention.
fn vector_name(vector: LayerVector, has_norm_after: bool) -> &'static str {
    match vector {
        LayerVector::InputNorm => "input_layernorm.weight",
        LayerVector::AfterAttentionNorm => "post_attention_layernorm.weight",
        // Where there is no norm after attention, the one that follows it is the feed-forward's.
        LayerVector::FfnNorm if !has_norm_after => "post_attention_layernorm.weight",
        LayerVector::FfnNorm => "pre_feedforward_layernorm.weight",
        LayerVector::AfterFfnNorm => "post_feedforward_layernorm.weight",
        LayerVector::QueryNorm => "self_attn.q_norm.weight",
        LayerVector::KeyNorm => "self_attn.k_norm.weight",
        LayerVector::QkvBias => panic!("biases have three tensors"),
    }
}
