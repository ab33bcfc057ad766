//! Metadata of the family LLaMA as they are found, each changed in one place.

use std::collections::HashMap;
use std::path::Path;

use super::super::super::family::Described;
use super::super::blocks::BlockType;
use super::super::metadata::{Metadata, Value};
use super::super::rope::ROPE_FACTORS;
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
    let embedding = GgufTensor { dtype: BlockType::F32, dims: vec![1000, 256], offset: 0, part: 0 };
    let mut tensors = HashMap::from([(EMBEDDING.to_string(), embedding)]);
    let dims = vec![factors.as_ref().map_or(0, Vec::len)];
    let held = factors.as_ref().map(|_| GgufTensor { dtype: BlockType::F32, dims, offset: 0, part: 0 });
    tensors.extend(held.map(|tensor| (ROPE_FACTORS.to_string(), tensor)));
    let file = GgufFile { metadata: Metadata::new(Path::new("x.gguf"), values), tensors };
    let facts = read_facts(&file, &mut |_, _| Ok(factors.clone().unwrap_or_default()), &mut Vec::new())?;
    Ok(Described::new(facts)?.shape)
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
    assert!(shape(&[], Some(vec![2.0; 15])).unwrap_err().to_string().contains("rope_freqs.weight: expected [16]"));
    assert!(shape(&[], Some(vec![-2.0; 16])).unwrap_err().to_string().contains("numbers above 0, got -2"));
}

#[test]
fn a_rotary_factor_without_a_type_is_linear_and_one_of_zero_is_none() {
    let text = |text: &str| Some(Value::Text(text.into()));
    let number = |number: f64| Some(Value::Float(number));
    let (factor, legacy, kind) = ("llama.rope.scaling.factor", "llama.rope.scale_linear", "llama.rope.scaling.type");
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
        ("general.architecture", text("qwen35"), "architecture `qwen35` is not supported; supported: Qwen3 (dense)"),
        ("general.architecture", text("gpt2"), "supported: llama, mistral3, qwen2"),
        ("general.architecture", None, "architecture `none stated`"),
        ("general.architecture", Some(Value::Bool(true)), "general.architecture"),
        ("llama.expert_count", Some(Value::Unsigned(8)), "number of experts `8`"),
        ("llama.rope.dimension_count", Some(Value::Unsigned(16)), "llama.rope.dimension_count `16`"),
        ("llama.rope.scaling.type", text("dynamic"), "rope scaling `dynamic`"),
        ("llama.rope.scaling.type", text("longrope"), "rope_factors_short.weight: expected [16], got no tensor"),
        ("llama.rope.scaling.attn_factor", Some(Value::Float(-0.8)), "attn_factor: expected a positive number"),
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
