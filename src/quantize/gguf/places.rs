//! The names of tensors in GGUF files, and where each tensor of a model lies.

use std::collections::{BTreeSet, HashMap};

use super::super::family::{Described, Family, FusedTensor, fused};
use super::super::source::SourceTensor;
use super::super::source::unsupported;
use super::file::{GgufFile, GgufTensor};
use super::rope::{LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS};
use super::shape::{EMBEDDING, HEAD};
use crate::arch::LayerVector;
use crate::error::{Error, Result};

/// Where a tensor of a model lies.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    pub name: String,
    /// The part of a file's tensor that is this one.
    pub tensor: GgufTensor,
}

/// Where each tensor of the model lies. A file that has others is refused.
pub fn locate_all(described: &Described, file: &GgufFile) -> Result<HashMap<SourceTensor, NamedTensor>> {
    let Described { shape, spec, .. } = described;
    let mut tensors = HashMap::new();
    let mut needed: BTreeSet<String> = [ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS].map(str::to_string).into();
    for tensor in SourceTensor::all(shape, spec) {
        let located = locate(tensor, described, file)?;
        needed.insert(located.name.clone());
        tensors.insert(tensor, located);
    }
    match file.tensors.keys().filter(|name| !needed.contains(*name)).min() {
        // A tensor that is left out, a bias say, would silently make another model.
        Some(name) => unsupported("tensor", name, &described.tensors_in_words()),
        None => Ok(tensors),
    }
}

fn locate(tensor: SourceTensor, described: &Described, file: &GgufFile) -> Result<NamedTensor> {
    let (shape, path) = (&described.shape, file.metadata.path());
    let dims = tensor.stated_dims(shape, &described.spec);
    let mut name = tensor_name(tensor);
    if name == EMBEDDING && shape.tied_head && !file.tensors.contains_key(EMBEDDING) {
        name = HEAD.into();
    }
    let stack = fused(tensor, shape).filter(|(stack, ..)| match stack {
        // Phi-3's gate lies before its up, under the name of up.
        FusedTensor::GateUp(layer) => described.family == Family::Phi3 && !has_gate(*layer, file),
        FusedTensor::Qkv(_) | FusedTensor::QkvBias(_) => !file.tensors.contains_key(&name),
    });
    let stack = stack.map(|(stack, first, rows)| (stack_name(stack), first, rows));
    let stack = stack.filter(|(stack, ..)| file.tensors.contains_key(stack));
    let missing = |name: &str| Error::damaged(path, name, format!("{dims:?}"), "no tensor");
    let Some((stack, first, rows)) = stack else {
        let found = file.tensors.get(&name).ok_or_else(|| missing(&name))?;
        check_dims(&name, found, &dims, file)?;
        return Ok(NamedTensor { name, tensor: found.clone() });
    };
    let found = &file.tensors[&stack];
    let all_dims = [&[rows as usize], &dims[1..]].concat();
    check_dims(&stack, found, &all_dims, file)?;
    // Of a vector, the part is cut within the row.
    let before = if tensor.is_vector() {
        found.row_bytes(first as usize)
    } else {
        found.row_bytes(dims[1]).map(|row_bytes| row_bytes * first as usize)
    };
    let part = GgufTensor { dims: dims.clone(), ..found.clone() };
    let Some(before) = before.filter(|_| part.byte_count().is_some()) else {
        return Err(Error::damaged(path, stack, "parts of whole blocks", format!("{:?}", found.dtype)));
    };
    Ok(NamedTensor { name: stack, tensor: GgufTensor { offset: part.offset + before as u64, ..part } })
}

fn has_gate(layer: u32, file: &GgufFile) -> bool {
    file.tensors.contains_key(&tensor_name(SourceTensor::Gate(layer)))
}

fn check_dims(name: &str, found: &GgufTensor, dims: &[usize], file: &GgufFile) -> Result<()> {
    if found.dims == dims {
        return Ok(());
    }
    Err(Error::damaged(file.metadata.path(), name, format!("{dims:?}"), format!("{:?}", found.dims)))
}

fn stack_name(stack: FusedTensor) -> String {
    match stack {
        FusedTensor::Qkv(l) => format!("blk.{l}.attn_qkv.weight"),
        FusedTensor::QkvBias(l) => format!("blk.{l}.attn_qkv.bias"),
        FusedTensor::GateUp(l) => format!("blk.{l}.ffn_up.weight"),
    }
}

/// The name of a tensor that is alone.
pub fn tensor_name(tensor: SourceTensor) -> String {
    use SourceTensor::*;
    let (layer, part) = match tensor {
        Embed => return EMBEDDING.into(),
        Head => return HEAD.into(),
        FinalNorm => return "output_norm.weight".into(),
        Query(l) => (l, "attn_q"),
        Key(l) => (l, "attn_k"),
        Value(l) => (l, "attn_v"),
        Output(l) => (l, "attn_output"),
        Gate(l) => (l, "ffn_gate"),
        Up(l) => (l, "ffn_up"),
        Down(l) => (l, "ffn_down"),
        QueryBias(l) => return format!("blk.{l}.attn_q.bias"),
        KeyBias(l) => return format!("blk.{l}.attn_k.bias"),
        ValueBias(l) => return format!("blk.{l}.attn_v.bias"),
        Vector(l, vector) => (l, vector_name(vector)),
    };
    format!("blk.{layer}.{part}.weight")
}

fn vector_name(vector: LayerVector) -> &'static str {
    match vector {
        LayerVector::InputNorm => "attn_norm",
        LayerVector::AfterAttentionNorm => "post_attention_norm",
        LayerVector::FfnNorm => "ffn_norm",
        LayerVector::AfterFfnNorm => "post_ffw_norm",
        LayerVector::QueryNorm => "attn_q_norm",
        LayerVector::KeyNorm => "attn_k_norm",
        LayerVector::QkvBias => panic!("biases have three tensors"),
    }
}
