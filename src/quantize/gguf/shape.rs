//! What a GGUF file says about its model: family, dimensions and constants.

use super::super::family::constants::{GEMMA2_27B_LAYERS, GEMMA2_LOGIT_CAP, GEMMA2_SCORE_CAP, GEMMA3_27B_LAYERS};
use super::super::family::{Family, FamilyFacts, FamilyScales, check_shape, refusal};
use super::super::source::unsupported;
use super::file::{GgufFile, GgufTensor};
use super::keys::FamilyKeys;
use super::layers;
use super::rope;
use crate::error::{Error, Result};
use crate::shape::{LlamaShape, Rope, RopeScaling};

/// Name of the embedding's tensor.
pub const EMBEDDING: &str = "token_embd.weight";
/// Name of the head's tensor; a file without it has the embedding for a head.
pub const HEAD: &str = "output.weight";
/// The architectures that can be imported; what Mistral has, its files say in LLaMA's name.
const ARCHITECTURES: [(&str, Family); 10] = [
    ("llama", Family::Llama),
    ("mistral3", Family::Ministral3),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("smollm3", Family::SmolLm3),
    ("granite", Family::Granite),
    ("phi3", Family::Phi3),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
    ("olmo2", Family::Olmo2),
];

/// Gives the numbers of a tensor, by its name.
pub type ReadTensor<'a> = dyn FnMut(&str, &GgufTensor) -> Result<Vec<f32>> + 'a;

/// What the file's metadata describe; `read` is asked for the numbers of tensors of rotary divisors.
pub fn read_facts(file: &GgufFile, read: &mut ReadTensor<'_>, warnings: &mut Vec<String>) -> Result<FamilyFacts> {
    let (name, family) = architecture(file)?;
    let keys = FamilyKeys::new(&file.metadata, name);
    check_features(&keys, family)?;
    let shape = shape(&keys, file)?;
    let rotated_dim = rotated_dim(&keys, &shape, family)?;
    let rope = rope::read(&keys, family, &shape, rotated_dim, file, read)?;
    let layers = layers::read(&keys, family, &shape, warnings)?;
    let has_window = layers.iter().any(|layer| layer.is_local);
    let (score_cap, logit_cap) = caps(&keys, family)?;
    Ok(FamilyFacts {
        family: if family == Family::Olmo2 && has_window { Family::Olmo3 } else { family },
        scales: scales(&keys, &shape, family)?,
        norms_less_one: false,
        is_interleaved: family.is_interleaved(),
        rotated_dim,
        rope: rope.global,
        local_rope: rope.local,
        score_cap,
        logit_cap,
        query_growth: rope.query_growth,
        layers,
        shape,
    })
}

fn architecture(file: &GgufFile) -> Result<(&'static str, Family)> {
    let metadata = &file.metadata;
    if let Some(kind) = metadata.text("general.type").unwrap_or(None).filter(|kind| !["", "model"].contains(kind)) {
        let supported = "model; an adapter is merged into its base model first";
        return unsupported("kind of GGUF file", kind, supported);
    }
    let stated = metadata.text("general.architecture")?.unwrap_or("none stated");
    let found = ARCHITECTURES.into_iter().find(|(name, _)| *name == stated);
    found.map_or_else(
        || {
            let all = || ARCHITECTURES.map(|(name, _)| name).join(", ");
            unsupported("architecture", stated, &refusal(stated).unwrap_or_else(all))
        },
        Ok,
    )
}

fn check_features(keys: &FamilyKeys<'_>, family: Family) -> Result<()> {
    if let Some(experts) = keys.u32("expert_count")?.filter(|count| *count > 0) {
        return unsupported("number of experts", &experts.to_string(), "0, a model without a mixture of experts");
    }
    let activation = match family {
        Family::Gemma2 | Family::Gemma3 => "gelu_pytorch_tanh",
        _ => "silu",
    };
    if let Some(other) = keys.text("hidden_activation")?.filter(|stated| *stated != activation) {
        return unsupported(&keys.name("hidden_activation"), other, activation);
    }
    if keys.truth("attention.causal")? == Some(false) {
        return unsupported(&keys.name("attention.causal"), "false", "true");
    }
    Ok(())
}

fn shape(keys: &FamilyKeys<'_>, file: &GgufFile) -> Result<LlamaShape> {
    let needed = |key: &str| keys.u32(key)?.ok_or_else(|| keys.missing(key));
    let layers = needed("block_count")?;
    let per_layer = |key: &str| keys.u32_per_layer(key, layers);
    let needed_per_layer = |key: &str| per_layer(key)?.ok_or_else(|| keys.missing(key));
    let model_dim = needed("embedding_length")?;
    let heads = needed_per_layer("attention.head_count")?;
    // Without heads there is no dimension of one; the shape's own check then names the heads.
    let head_dim = per_layer("attention.key_length")?.or(model_dim.checked_div(heads)).unwrap_or(0);
    let value_length = "attention.value_length";
    if let Some(other) = per_layer(value_length)?.filter(|dim| *dim != head_dim) {
        let supported = format!("{head_dim}, the dimension of a head");
        return unsupported(&keys.name(value_length), &other.to_string(), &supported);
    }
    let epsilon = "attention.layer_norm_rms_epsilon";
    let shape = LlamaShape {
        layers,
        model_dim,
        ffn_dim: needed_per_layer("feed_forward_length")?,
        heads,
        kv_heads: per_layer("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        vocab: vocab(file)?,
        max_context: needed("context_length")?,
        norm_eps: keys.f32(epsilon)?.ok_or_else(|| keys.missing(epsilon))?,
        // Where the two are one tensor, a file has it under either name.
        tied_head: !(file.tensors.contains_key(HEAD) && file.tensors.contains_key(EMBEDDING)),
        rope: Rope { theta: rope::theta(keys)?, scaling: RopeScaling::None },
    };
    check_shape(&shape)?;
    Ok(shape)
}

/// R, of which only a part of the families has less than A.
fn rotated_dim(keys: &FamilyKeys<'_>, shape: &LlamaShape, family: Family) -> Result<u32> {
    let (key, head_dim) = ("rope.dimension_count", shape.head_dim);
    let Some(dim) = keys.u32_per_layer(key, shape.layers)?.filter(|dim| *dim != head_dim) else { return Ok(head_dim) };
    if !family.has_partial_rotation() {
        return unsupported(&keys.name(key), &dim.to_string(), &format!("{head_dim}, the dimension of a head"));
    }
    if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
        let supported = format!("an even number up to {head_dim}, the dimension of a head");
        return unsupported(&keys.name(key), &dim.to_string(), &supported);
    }
    Ok(dim)
}

/// Rows of the embedding: the vocabulary of the tokenizer may be smaller.
fn vocab(file: &GgufFile) -> Result<u32> {
    let embedding = file.tensors.get(EMBEDDING).or(file.tensors.get(HEAD));
    let rows = embedding.and_then(|tensor| u32::try_from(*tensor.dims.first()?).ok());
    rows.ok_or_else(|| Error::damaged(file.metadata.path(), EMBEDDING, "a matrix", "none of a possible size"))
}

fn scales(keys: &FamilyKeys<'_>, shape: &LlamaShape, family: Family) -> Result<FamilyScales> {
    // As in llama.cpp, 0 means that a file does not say it.
    let positive = |key: &str| keys.positive(key);
    let scores_of_27b = |layers: u32| {
        let dim = if shape.layers == layers { shape.model_dim / shape.heads } else { shape.head_dim };
        Some(f64::from(dim).sqrt().recip())
    };
    let gemma = |layers| FamilyScales {
        embedding: f64::from(shape.model_dim).sqrt(),
        score: scores_of_27b(layers),
        ..FamilyScales::default()
    };
    match family {
        Family::Granite => Ok(FamilyScales {
            embedding: positive("embedding_scale")?.unwrap_or(1.0),
            score: positive("attention.scale")?,
            residual: positive("residual_scale")?.unwrap_or(1.0),
            logit_divisor: positive("logit_scale")?.unwrap_or(1.0),
        }),
        Family::Gemma2 => Ok(gemma(GEMMA2_27B_LAYERS)),
        Family::Gemma3 => Ok(gemma(GEMMA3_27B_LAYERS)),
        _ => Ok(FamilyScales::default()),
    }
}

/// The bounds of scores and of logits.
fn caps(keys: &FamilyKeys<'_>, family: Family) -> Result<(Option<f32>, Option<f32>)> {
    let cap = |key: &str, default: Option<f32>| {
        let stated = keys.positive(key)?.map(|cap| cap as f32);
        Ok::<_, Error>(if keys.f32(key)?.is_some() { stated } else { default })
    };
    let (score, logit) = ("attn_logit_softcapping", "final_logit_softcapping");
    match family {
        Family::Gemma2 => Ok((cap(score, Some(GEMMA2_SCORE_CAP))?, cap(logit, Some(GEMMA2_LOGIT_CAP))?)),
        // llama.cpp has no cap of scores for Gemma 3.
        Family::Gemma3 => Ok((None, cap(logit, None)?)),
        _ => Ok((None, None)),
    }
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
