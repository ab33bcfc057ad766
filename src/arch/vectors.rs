//! The vectors of a layer: weights that are no matrices, and so are stored as f32 and in no slices.

use super::spec::{HeadNorm, LayerSpec};
use crate::shape::LlamaShape;

/// A vector of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerVector {
    /// Weight of the norm before attention, `[D]`.
    InputNorm,
    /// Weight of the norm after attention, `[D]`.
    AfterAttentionNorm,
    /// Weight of the norm before the feed-forward, `[D]`.
    FfnNorm,
    /// Weight of the norm after the feed-forward, `[D]`.
    AfterFfnNorm,
    /// Biases of queries, keys and values, [(H + 2K) * A].
    QkvBias,
    /// Weight of the norm of queries: `[A]` for each head, or [H * A].
    QueryNorm,
    /// Weight of the norm of keys: `[A]` for each head, or [K * A].
    KeyNorm,
}

impl LayerVector {
    /// All that a layer may have, in the order of files.
    pub const ALL: [LayerVector; 7] = [
        LayerVector::InputNorm,
        LayerVector::AfterAttentionNorm,
        LayerVector::FfnNorm,
        LayerVector::AfterFfnNorm,
        LayerVector::QkvBias,
        LayerVector::QueryNorm,
        LayerVector::KeyNorm,
    ];

    /// The vectors of a layer, in the order of files.
    pub fn of(layer: &LayerSpec) -> impl Iterator<Item = LayerVector> {
        let layer = *layer;
        LayerVector::ALL.into_iter().filter(move |vector| vector.is_in(&layer))
    }

    /// Its name in files, in its layer.
    pub fn name(self) -> &'static str {
        match self {
            LayerVector::InputNorm => "input_norm",
            LayerVector::AfterAttentionNorm => "after_attention_norm",
            LayerVector::FfnNorm => "ffn_norm",
            LayerVector::AfterFfnNorm => "after_ffn_norm",
            LayerVector::QkvBias => "qkv_bias",
            LayerVector::QueryNorm => "query_norm",
            LayerVector::KeyNorm => "key_norm",
        }
    }

    /// How many numbers it has in such a layer.
    pub fn length(self, shape: &LlamaShape, layer: &LayerSpec) -> u32 {
        let of_heads = |all: u32| match layer.attention.head_norm {
            HeadNorm::AllHeads => all,
            HeadNorm::EachHead | HeadNorm::None => shape.head_dim,
        };
        match self {
            LayerVector::InputNorm
            | LayerVector::AfterAttentionNorm
            | LayerVector::FfnNorm
            | LayerVector::AfterFfnNorm => shape.model_dim,
            LayerVector::QkvBias => shape.q_dim() + 2 * shape.kv_dim(),
            LayerVector::QueryNorm => of_heads(shape.q_dim()),
            LayerVector::KeyNorm => of_heads(shape.kv_dim()),
        }
    }

    fn is_in(self, layer: &LayerSpec) -> bool {
        let (norms, attention) = (&layer.norms, &layer.attention);
        match self {
            LayerVector::InputNorm => norms.before_attention,
            LayerVector::AfterAttentionNorm => norms.after_attention,
            LayerVector::FfnNorm => norms.before_feed_forward,
            LayerVector::AfterFfnNorm => norms.after_feed_forward,
            LayerVector::QkvBias => attention.qkv_bias,
            LayerVector::QueryNorm | LayerVector::KeyNorm => attention.head_norm != HeadNorm::None,
        }
    }
}
