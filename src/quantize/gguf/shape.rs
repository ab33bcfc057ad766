//! The shape of the model in a GGUF file, and what of it this version cannot do.

use super::file::{GgufFile, GgufTensor};
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

/// Numbers that a tensor of divisors has at most: half of the largest dimension of a head.
const ROPE_FACTORS_MAX: usize = 1 << 12;

/// The shape that the file's metadata describe; `read` is asked for the numbers of [`ROPE_FACTORS`], if it is there.
pub fn read_shape(file: &GgufFile, read: &mut dyn FnMut(&GgufTensor) -> Result<Vec<f32>>) -> Result<LlamaShape> {
    let metadata = &file.metadata;
    check_features(metadata)?;
    let needed = |key: &str| metadata.u32(key)?.ok_or_else(|| metadata.missing(key, "a number"));
    let layers = needed("llama.block_count")?;
    let per_layer = |key: &str| metadata.u32_per_layer(key, layers);
    let needed_per_layer = |key: &str| per_layer(key)?.ok_or_else(|| metadata.missing(key, "a number"));
    let model_dim = needed("llama.embedding_length")?;
    let heads = needed_per_layer("llama.attention.head_count")?;
    // Without heads there is no dimension of one; the shape's own check then names the heads.
    let head_dim = per_layer("llama.attention.key_length")?.or(model_dim.checked_div(heads)).unwrap_or(0);
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        if let Some(other) = per_layer(key)?.filter(|dim| *dim != head_dim) {
            return unsupported(key, &other.to_string(), &format!("{head_dim}, the dimension of a head"));
        }
    }
    let factors = match file.tensors.get(ROPE_FACTORS) {
        Some(tensor) if tensor.dims.iter().any(|dim| *dim > ROPE_FACTORS_MAX) || tensor.dims.len() != 1 => {
            let expected = format!("[{}]", head_dim / 2);
            return Err(Error::damaged(metadata.path(), ROPE_FACTORS, expected, format!("{:?}", tensor.dims)));
        }
        Some(tensor) => Some(read(tensor)?),
        None => None,
    };
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    let shape = LlamaShape {
        layers,
        model_dim,
        ffn_dim: needed_per_layer("llama.feed_forward_length")?,
        heads,
        kv_heads: per_layer("llama.attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        vocab: vocab(file)?,
        max_context: needed("llama.context_length")?,
        norm_eps: metadata.f32(epsilon)?.ok_or_else(|| metadata.missing(epsilon, "a number"))?,
        // Where the two are one tensor, a file has it under either name.
        tied_head: !(file.tensors.contains_key(HEAD) && file.tensors.contains_key(EMBEDDING)),
        rope: rope(metadata, factors)?,
    };
    match shape.fault() {
        Some((field, supported, got)) => Err(Error::Unsupported { what: field.into(), got, supported }),
        None => Ok(shape),
    }
}

fn check_features(metadata: &Metadata) -> Result<()> {
    // All files of a split model but the first have no other metadata.
    if let Some(files) = metadata.u32("split.count")?.filter(|count| *count > 1) {
        let supported = "1: `llama-gguf-split --merge FIRST OUT` of llama.cpp makes one file of them";
        return unsupported("number of GGUF files", &files.to_string(), supported);
    }
    if let Some(kind) = metadata.text("general.type").unwrap_or(None).filter(|kind| !["", "model"].contains(kind)) {
        let supported = "model; an adapter is merged into its base model first";
        return unsupported("kind of GGUF file", kind, supported);
    }
    let architecture = metadata.text("general.architecture")?.unwrap_or("none stated");
    if architecture != ARCHITECTURE {
        return unsupported("architecture", architecture, ARCHITECTURE);
    }
    if let Some(experts) = metadata.u32("llama.expert_count")?.filter(|count| *count > 0) {
        return unsupported("number of experts", &experts.to_string(), "0, a model without a mixture of experts");
    }
    if let Some(attention) = metadata.f32("llama.rope.scaling.attn_factor")?.filter(|factor| *factor != 1.0) {
        return unsupported("llama.rope.scaling.attn_factor", &attention.to_string(), "1");
    }
    Ok(())
}

/// Rows of the embedding: the vocabulary of the tokenizer may be smaller.
fn vocab(file: &GgufFile) -> Result<u32> {
    let embedding = file.tensors.get(EMBEDDING).or(file.tensors.get(HEAD));
    let rows = embedding.and_then(|tensor| u32::try_from(*tensor.dims.first()?).ok());
    rows.ok_or_else(|| Error::damaged(file.metadata.path(), EMBEDDING, "a matrix", "none of a possible size"))
}

/// The rotary embedding, with the defaults of llama.cpp: a factor without a type is linear, and a factor of 0 is none.
fn rope(metadata: &Metadata, factors: Option<Vec<f32>>) -> Result<Rope> {
    let theta = metadata.f32("llama.rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA);
    let key = "llama.rope.scaling.factor";
    // Files from before the scaling had a type state a linear factor under a name of its own.
    let (key, factor) = match metadata.f32(key)? {
        None => ("llama.rope.scale_linear", metadata.f32("llama.rope.scale_linear")?),
        stated => (key, stated),
    };
    let kind = metadata.text("llama.rope.scaling.type")?.map(str::trim);
    let linear = match kind.unwrap_or_default() {
        "none" => None,
        "" | "linear" => factor.filter(|factor| *factor != 0.0 && *factor != 1.0),
        other => return unsupported("rope scaling", other, "none, linear"),
    };
    if let Some(factor) = linear.filter(|factor| !(factor.is_finite() && *factor > 0.0)) {
        return Err(Error::damaged(metadata.path(), key, "a positive number", factor));
    }
    let scaling = match (linear, factors) {
        (None, None) => RopeScaling::None,
        (Some(factor), None) => RopeScaling::Linear { factor },
        // Both divide the frequencies.
        (linear, Some(factors)) => {
            let linear = linear.unwrap_or(1.0);
            RopeScaling::Factors { factors: factors.into_iter().map(|factor| factor * linear).collect() }
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

    use super::super::blocks::BlockType;
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
        let embedding = GgufTensor { dtype: BlockType::F32, dims: vec![1000, 256], offset: 0 };
        let mut tensors = HashMap::from([(EMBEDDING.to_string(), embedding)]);
        let dims = vec![factors.as_ref().map_or(0, Vec::len)];
        let held = factors.as_ref().map(|_| GgufTensor { dtype: BlockType::F32, dims, offset: 0 });
        tensors.extend(held.map(|tensor| (ROPE_FACTORS.to_string(), tensor)));
        let file = GgufFile { metadata: Metadata::new(Path::new("x.gguf"), values), tensors };
        read_shape(&file, &mut |_| Ok(factors.clone().unwrap_or_default()))
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
        // llama.cpp divides by both.
        let both = shape(&linear, Some(factors)).unwrap().rope.scaling;
        assert_eq!(both, RopeScaling::Factors { factors: vec![8.0; 16] });
        assert!(shape(&[], Some(vec![2.0; 15])).unwrap_err().to_string().contains("rope.scaling.factors"));
    }

    #[test]
    fn a_rotary_factor_without_a_type_is_linear_and_one_of_zero_is_none() {
        let text = |text: &str| Some(Value::Text(text.into()));
        let number = |number: f64| Some(Value::Float(number));
        let (factor, legacy, kind) =
            ("llama.rope.scaling.factor", "llama.rope.scale_linear", "llama.rope.scaling.type");
        let linear = RopeScaling::Linear { factor: 4.0 };
        let cases = [
            (vec![(factor, number(4.0))], &linear),
            (vec![(legacy, number(4.0))], &linear),
            (vec![(factor, number(4.0)), (kind, text(""))], &linear),
            (vec![(factor, number(4.0)), (legacy, number(8.0))], &linear),
            (vec![(legacy, number(4.0)), (kind, text("linear"))], &linear),
            (vec![(factor, number(0.0))], &RopeScaling::None),
            (vec![(factor, number(0.0)), (legacy, number(4.0))], &RopeScaling::None),
            (vec![(factor, number(0.0)), (kind, text("linear"))], &RopeScaling::None),
            (vec![(kind, text("linear"))], &RopeScaling::None),
            (vec![(legacy, number(0.0))], &RopeScaling::None),
            (vec![(factor, number(4.0)), (kind, text("none"))], &RopeScaling::None),
        ];
        for (changes, expected) in cases {
            assert_eq!(&shape(&changes, None).unwrap().rope.scaling, expected, "{changes:?}");
        }
        for factor in [-2.0, f64::NAN, f64::INFINITY] {
            let fault = shape(&[("llama.rope.scaling.factor", number(factor))], None).unwrap_err().to_string();
            assert!(fault.contains("llama.rope.scaling.factor: expected a positive number"), "{fault}");
        }
    }

    #[test]
    fn one_number_for_each_layer_is_that_number_and_others_are_named() {
        let list = |numbers: &[u64]| Some(Value::List(numbers.iter().map(|number| Value::Unsigned(*number)).collect()));
        let equal = [
            ("llama.attention.head_count", list(&[8, 8])),
            ("llama.attention.head_count_kv", list(&[2, 2])),
            ("llama.feed_forward_length", list(&[512, 512])),
        ];
        let found = shape(&equal, None).unwrap();
        assert_eq!((found.heads, found.kv_heads, found.ffn_dim), (8, 2, 512));
        for (key, _) in equal {
            let unequal = shape(&[(key, list(&[4, 8]))], None).unwrap_err().to_string();
            assert!(unequal.contains(&format!("layers of different shape `{key}`")), "{unequal}");
            let few = shape(&[(key, list(&[8]))], None).unwrap_err().to_string();
            assert!(few.contains(&format!("{key}: expected 2 numbers, one a layer")), "{few}");
        }
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
            ("llama.rope.scaling.type", text("longrope"), "rope scaling `longrope`"),
            ("llama.rope.scaling.attn_factor", Some(Value::Float(0.8)), "attn_factor `0.8`"),
            ("general.type", text("adapter"), "kind of GGUF file `adapter`"),
            ("llama.block_count", Some(Value::Unsigned(u32::MAX.into())), "layers `4294967295`"),
            ("llama.attention.key_length", Some(Value::Unsigned(31)), "head_dim `31`"),
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
