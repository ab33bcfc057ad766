//! The model families that can be imported, each described once for all readers.
//!
//! A reader states what a checkpoint says about itself as [`FamilyFacts`]. [`Described`] is what follows from them: the
//! shape, the spec, and the [`Fold`], which turns the rows of files into those of the runtime.

pub mod constants;
mod described;
mod fold;
mod layers;
mod parts;
mod refused;
mod rope;

use crate::arch::{ActivationFunction, AttentionSpec, HeadNorm, LayerNorms, LayerSpec};

pub use described::{Described, FamilyFacts, FamilyScales, check_shape};
pub use layers::{LayerFacts, every};
pub use parts::{FusedTensor, fused};
pub use refused::refusal;
pub use rope::{RopeFacts, RopeStretch, YarnRamp};

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// LLaMA 2 and 3, SmolLM2, and what is distilled into them.
    Llama,
    /// Mistral 7B and Nemo, with or without a window.
    Mistral,
    /// Ministral 3: YaRN, and queries that grow.
    Ministral3,
    /// Qwen2 and 2.5: biases of queries, keys and values.
    Qwen2,
    /// Qwen3 without experts: a norm of each head.
    Qwen3,
    /// SmolLM3: layers without rotary embedding.
    SmolLm3,
    /// Granite 3 and 4 without experts and without Mamba layers: four multipliers.
    Granite,
    /// Phi-3 to Phi-4: fused matrices, heads that are rotated in part, LongRoPE.
    Phi3,
    /// Gemma 2: four norms a layer, GELU, windows in turn, caps of scores and logits.
    Gemma2,
    /// Gemma 3: as Gemma 2, with norms of heads and two rotary tables in place of the caps.
    Gemma3,
    /// OLMo 2: norms after attention and feed-forward only, and of all heads together.
    Olmo2,
    /// OLMo 3: as OLMo 2, with windows in three of four layers.
    Olmo3,
}

impl Family {
    /// Its name in manifests, after the architecture of GGUF files.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Ministral3 => "mistral3",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::SmolLm3 => "smollm3",
            Family::Granite => "granite",
            Family::Phi3 => "phi3",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3",
            Family::Olmo2 => "olmo2",
            Family::Olmo3 => "olmo3",
        }
    }

    /// Its name in messages.
    pub fn title(self) -> &'static str {
        match self {
            Family::Llama => "LLaMA",
            Family::Mistral => "Mistral",
            Family::Ministral3 => "Ministral 3",
            Family::Qwen2 => "Qwen2",
            Family::Qwen3 => "Qwen3",
            Family::SmolLm3 => "SmolLM3",
            Family::Granite => "Granite",
            Family::Phi3 => "Phi-3",
            Family::Gemma2 => "Gemma 2",
            Family::Gemma3 => "Gemma 3",
            Family::Olmo2 => "OLMo 2",
            Family::Olmo3 => "OLMo 3",
        }
    }

    /// What all of its layers have in common.
    fn layer(self) -> LayerSpec {
        let attention = AttentionSpec {
            qkv_bias: self == Family::Qwen2,
            head_norm: match self {
                Family::Qwen3 | Family::Gemma3 => HeadNorm::EachHead,
                Family::Olmo2 | Family::Olmo3 => HeadNorm::AllHeads,
                _ => HeadNorm::None,
            },
            ..AttentionSpec::default()
        };
        let before = !matches!(self, Family::Olmo2 | Family::Olmo3);
        let after = matches!(self, Family::Gemma2 | Family::Gemma3 | Family::Olmo2 | Family::Olmo3);
        LayerSpec {
            norms: LayerNorms {
                before_attention: before,
                after_attention: after,
                before_feed_forward: before,
                after_feed_forward: after,
            },
            attention,
            activation: match self {
                Family::Gemma2 | Family::Gemma3 => ActivationFunction::GeluTanh,
                _ => ActivationFunction::Silu,
            },
        }
    }

    /// Whether llama.cpp rotates neighbours of a head in files of this family, where other files have halves.
    pub fn is_interleaved(self) -> bool {
        matches!(self, Family::Llama | Family::Mistral | Family::Ministral3 | Family::SmolLm3 | Family::Granite)
    }

    /// Whether only a part of each head may be rotated.
    pub fn has_partial_rotation(self) -> bool {
        self == Family::Phi3
    }

    /// Whether Hugging Face checkpoints store the weights of norms less 1.
    pub fn has_norms_less_one(self) -> bool {
        matches!(self, Family::Gemma2 | Family::Gemma3)
    }
}
