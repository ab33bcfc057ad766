//! The shape of the model in a GGUF file, and what of it this version cannot do.

use super::file::GgufFile;
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::format::ARCHITECTURE;
use crate::shape::{LlamaShape, Rope, RopeScaling};

/// Name of the embedding's tensor.
pub const EMBEDDING: &str = "token_embd.weight";
/// Name of the head's tensor; a file without it has the embedding for a head.
pub const HEAD: &str = "output.weight";
/// Name of the tensor of divisors of the rotary frequencies.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";
/// What llama.cpp takes where the file does not state the base of the rotary frequencies.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;

/// The shape that the file's metadata describe; `rope_factors` are the numbers of [`ROPE_FACTORS`], if it is there.
pub fn read_shape(file: &GgufFile, rope_factors: Option<Vec<f32>>) -> Result<LlamaShape> {
    let metadata = &file.metadata;
    check_features(metadata)?;
    let needed = |key: &str| metadata.u32(key)?.ok_or_else(|| metadata.missing(key, "a number"));
    let model_dim = needed("llama.embedding_length")?;
    let heads = needed("llama.attention.head_count")?;
    // Without heads there is no dimension of one; the shape's own check then names the heads.
    let head_dim = metadata.u32("llama.attention.key_length")?.or(model_dim.checked_div(heads)).unwrap_or(0);
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        if let Some(other) = metadata.u32(key)?.filter(|dim| *dim != head_dim) {
            return unsupported(key, &other.to_string(), &format!("{head_dim}, the dimension of a head"));
        }
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    let shape = LlamaShape {
        layers: needed("llama.block_count")?,
        model_dim,
        ffn_dim: needed("llama.feed_forward_length")?,
        heads,
        kv_heads: metadata.u32("llama.attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        vocab: vocab(file)?,
        max_context: needed("llama.context_length")?,
        norm_eps: metadata.f32(epsilon)?.ok_or_else(|| metadata.missing(epsilon, "a number"))?,
        tied_head: !file.tensors.contains_key(HEAD),
        rope: rope(metadata, rope_factors)?,
    };
    match shape.fault() {
        Some((field, supported, got)) => Err(Error::Unsupported { what: field.into(), got, supported }),
        None => Ok(shape),
    }
}

fn check_features(metadata: &Metadata) -> Result<()> {
    let architecture = metadata.text("general.architecture")?.unwrap_or("none stated");
    if architecture != ARCHITECTURE {
        return unsupported("architecture", architecture, ARCHITECTURE);
    }
    if let Some(experts) = metadata.u32("llama.expert_count")?.filter(|count| *count > 0) {
        return unsupported("number of experts", &experts.to_string(), "0, a model without a mixture of experts");
    }
    if let Some(files) = metadata.u32("split.count")?.filter(|count| *count > 1) {
        return unsupported("number of GGUF files", &files.to_string(), "1; llama-gguf-split --merge joins them");
    }
    Ok(())
}

/// Rows of the embedding: the vocabulary of the tokenizer may be smaller.
fn vocab(file: &GgufFile) -> Result<u32> {
    let embedding = file.tensors.get(EMBEDDING);
    let rows = embedding.and_then(|tensor| u32::try_from(*tensor.dims.first()?).ok());
    rows.ok_or_else(|| Error::damaged(file.metadata.path(), EMBEDDING, "a matrix", "none of a possible size"))
}

fn rope(metadata: &Metadata, factors: Option<Vec<f32>>) -> Result<Rope> {
    let theta = metadata.f32("llama.rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA);
    let factor = metadata.f32("llama.rope.scaling.factor")?;
    // Files from before the scaling had a type state a linear factor under a name of its own.
    let legacy = metadata.f32("llama.rope.scale_linear")?;
    let kind = metadata.text("llama.rope.scaling.type")?;
    let linear = match kind {
        None => legacy,
        Some("none") => None,
        Some("linear") => Some(factor.ok_or_else(|| metadata.missing("llama.rope.scaling.factor", "a number"))?),
        Some(other) => return unsupported("rope scaling", other, "none, linear"),
    };
    let scaling = match (linear.filter(|factor| *factor != 1.0), factors) {
        (None, None) => RopeScaling::None,
        (Some(factor), None) => RopeScaling::Linear { factor },
        (None, Some(factors)) => RopeScaling::Factors { factors },
        (Some(_), Some(_)) => {
            return unsupported("rope scaling", &format!("linear with {ROPE_FACTORS}"), "one of them");
        }
    };
    Ok(Rope { theta, scaling })
}

fn unsupported<T>(what: &str, got: &str, supported: &str) -> Result<T> {
    Err(Error::Unsupported { what: what.into(), got: got.into(), supported: supported.into() })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use candle_core::quantized::GgmlDType;

    use super::super::file::GgufTensor;
    use super::super::metadata::Value;
    use super::*;

    fn shape(changes: &[(&str, Option<Value>)], factors: Option<Vec<f32>>) -> Result<LlamaShape> {
        let number = Value::Unsigned;
        let mut values = HashMap::from([
            ("general.architecture".to_string(), Value::Text("llama".into())),
            ("llama.block_count".into(), number(2)),
            ("llama.context_length".into(), number(2048)),
            ("llama.embedding_length".into(), number(256)),
            ("llama.feed_forward_length".into(), number(512)),
            ("llama.attention.head_count".into(), number(8)),
            ("llama.attention.layer_norm_rms_epsilon".into(), Value::Float(1e-5)),
        ]);
        for (key, value) in changes {
            match value {
                Some(value) => values.insert(key.to_string(), value.clone()),
                None => values.remove(*key),
            };
        }
        let embedding = GgufTensor { dtype: GgmlDType::F32, dims: vec![1000, 256], offset: 0 };
        let tensors = HashMap::from([(EMBEDDING.to_string(), embedding)]);
        read_shape(&GgufFile { metadata: Metadata::new(Path::new("x.gguf"), values), tensors }, factors)
    }

    #[test]
    fn what_is_not_stated_takes_the_defaults_of_llama_cpp() {
        let shape = shape(&[], None).unwrap();
        assert_eq!((shape.kv_heads, shape.head_dim, shape.vocab, shape.tied_head), (8, 32, 1000, true));
        assert_eq!(shape.rope, Rope { theta: 10_000.0, scaling: RopeScaling::None });
    }

    #[test]
    fn rotary_scaling_is_linear_or_a_tensor_of_factors() {
        let linear = [
            ("llama.rope.scaling.type", Some(Value::Text("linear".into()))),
            ("llama.rope.scaling.factor", Some(Value::Float(4.0))),
        ];
        assert_eq!(shape(&linear, None).unwrap().rope.scaling, RopeScaling::Linear { factor: 4.0 });
        let factors = vec![2.0; 16];
        let scaled = shape(&[], Some(factors.clone())).unwrap().rope.scaling;
        assert_eq!(scaled, RopeScaling::Factors { factors: factors.clone() });
        assert!(shape(&linear, Some(factors)).is_err());
        assert!(shape(&[], Some(vec![2.0; 15])).unwrap_err().to_string().contains("rope.scaling.factors"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let text = |text: &str| Some(Value::Text(text.into()));
        let refused = [
            ("general.architecture", text("qwen2"), "architecture `qwen2`"),
            ("general.architecture", None, "architecture `none stated`"),
            ("general.architecture", Some(Value::Bool(true)), "general.architecture"),
            ("llama.expert_count", Some(Value::Unsigned(8)), "number of experts `8`"),
            ("split.count", Some(Value::Unsigned(3)), "number of GGUF files `3`"),
            ("llama.rope.dimension_count", Some(Value::Unsigned(16)), "llama.rope.dimension_count `16`"),
            ("llama.rope.scaling.type", text("yarn"), "rope scaling `yarn`"),
            ("llama.attention.head_count", Some(Value::Unsigned(0)), "heads"),
            ("llama.attention.head_count", Some(Value::List(Vec::new())), "llama.attention.head_count"),
            ("llama.context_length", None, "llama.context_length"),
            ("llama.embedding_length", Some(Value::Unsigned(1 << 40)), "llama.embedding_length"),
        ];
        for (key, value, named) in refused {
            let fault = shape(&[(key, value.clone())], None).unwrap_err().to_string();
            assert!(fault.contains(named), "{key} {value:?}: {fault}");
        }
    }
}
