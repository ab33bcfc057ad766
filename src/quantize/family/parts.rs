//! Tensors that some checkpoints store stacked in one.

use crate::quantize::SourceTensor;
use crate::shape::LlamaShape;

/// A stack of tensors of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedTensor {
    /// Queries, keys and values: [(H + 2K) * A, D].
    Qkv(u32),
    /// Their biases: [(H + 2K) * A].
    QkvBias(u32),
    /// Gate and up: [2*F, D].
    GateUp(u32),
}

/// The stack that a tensor may be stored in, its first row there, and the rows of all; of biases, numbers.
pub fn fused(tensor: SourceTensor, shape: &LlamaShape) -> Option<(FusedTensor, u32, u32)> {
    use SourceTensor::*;
    let (q, kv, f) = (shape.q_dim(), shape.kv_dim(), shape.ffn_dim);
    let (stack, first) = match tensor {
        Query(l) => (FusedTensor::Qkv(l), 0),
        Key(l) => (FusedTensor::Qkv(l), q),
        Value(l) => (FusedTensor::Qkv(l), q + kv),
        QueryBias(l) => (FusedTensor::QkvBias(l), 0),
        KeyBias(l) => (FusedTensor::QkvBias(l), q),
        ValueBias(l) => (FusedTensor::QkvBias(l), q + kv),
        Gate(l) => (FusedTensor::GateUp(l), 0),
        Up(l) => (FusedTensor::GateUp(l), f),
        _ => return None,
    };
    let rows = if matches!(stack, FusedTensor::GateUp(_)) { 2 * f } else { q + 2 * kv };
    Some((stack, first, rows))
}
