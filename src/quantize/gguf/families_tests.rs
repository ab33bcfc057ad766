//! Metadata of the families, each as the converter of llama.cpp writes them.

use std::collections::HashMap;
use std::path::Path;

use super::super::family::{Described, Family};
use super::super::source::SourceTensor;
use super::blocks::BlockType;
use super::file::{GgufFile, GgufTensor};
use super::metadata::{Metadata, Numbers, Value};
use super::rope::{LONG_FACTORS, SHORT_FACTORS};
use super::shape::{EMBEDDING, HEAD};
use super::{places, shape};
use crate::arch::QueryGrowth;
use crate::error::Result;
use crate::shape::{Rope, RopeScaling};

/// A file of `architecture` with eight layers, `changes` made to its keys; a key of `split.` or so has another
/// beginning.
fn file(architecture: &str, changes: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> GgufFile {
    let usual = [
        ("block_count", 8),
        ("context_length", 128),
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 16),
    ];
    let key = |key: &str| format!("{architecture}.{key}");
    let mut values: HashMap<String, Value> = usual.map(|(name, number)| (key(name), Value::Unsigned(number))).into();
    values.insert(key("attention.layer_norm_rms_epsilon"), Value::Float(1e-5));
    values.insert("general.architecture".into(), Value::Text(architecture.into()));
    values.extend(changes.iter().map(|(name, value)| (key(name), value.clone())));
    let all = [(EMBEDDING, [100, 64].as_slice())].into_iter().chain(tensors.iter().copied());
    let all = all.map(|(name, dims)| {
        let tensor = GgufTensor { dtype: BlockType::F32, dims: dims.to_vec(), offset: 1000, part: 0 };
        (name.to_string(), tensor)
    });
    GgufFile { metadata: Metadata::new(Path::new("x.gguf"), values), tensors: all.collect() }
}

/// What a file describes; its divisors are all 2.
fn of(file: &GgufFile) -> Result<Described> {
    let twos = |_: &str, tensor: &GgufTensor| Ok(vec![2.0; tensor.dims[0]]);
    Described::new(shape::read_facts(file, &mut { twos }, &mut Vec::new())?)
}

fn described(architecture: &str, changes: &[(&str, Value)]) -> Result<Described> {
    of(&file(architecture, changes, &[]))
}

/// (window, rotary table) of the kinds of layers.
fn kinds(described: &Described) -> Vec<(Option<u32>, u32)> {
    described.spec.layers.iter().map(|layer| (layer.attention.window, layer.attention.rope_table)).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[test]
fn gemma3_has_windows_and_two_tables_unless_it_states_no_window() {
    let window = ("attention.sliding_window", Value::Unsigned(8));
    let theta = ("rope.freq_base", Value::Float(1e6));
    let found = described("gemma3", &[window.clone(), theta.clone()]).unwrap();
    assert_eq!(kinds(&found), [[(Some(8), 1); 5].as_slice(), &[(None, 0)], &[(Some(8), 1); 2]].concat()[..6]);
    assert_eq!(found.spec.rope_tables[0].frequencies, Rope { theta: 1e4, scaling: RopeScaling::None }.frequencies(16));
    // The file has 1 + w already, and its scores are divided by the root of A.
    assert_eq!((found.fold.norm_offset, found.fold.embed, found.fold.kinds[0].query), (0.0, 8.0, 1.0));
    let none = described("gemma3", std::slice::from_ref(&theta)).unwrap();
    assert_eq!(kinds(&none), [(None, 0)]);
    let of_27b =
        described("gemma3", &[("block_count", Value::Unsigned(62)), ("attention.key_length", Value::Unsigned(64))]);
    assert_eq!(of_27b.unwrap().fold.kinds[0].query, 2.0);
    let pattern = Numbers { kind: 7, bytes: [1, 0].repeat(4) };
    let stated = ("attention.sliding_window_pattern", Value::Numbers(pattern));
    assert_eq!(
        kinds(&described("gemma3", &[window.clone(), theta.clone(), stated]).unwrap()),
        [(Some(8), 1), (None, 0)]
    );
    let short = ("attention.sliding_window_pattern", Value::Numbers(Numbers { kind: 7, bytes: vec![1] }));
    let fault = described("gemma3", &[window, short]).unwrap_err().to_string();
    assert!(fault.contains("gemma3.attention.sliding_window_pattern: expected 8 truth values"), "{fault}");
}

#[test]
fn gemma2_has_caps_and_a_window_where_it_does_not_state_them() {
    let found = described("gemma2", &[("context_length", Value::Unsigned(8192))]).unwrap();
    assert_eq!(kinds(&found), [(Some(4096), 0), (None, 0)]);
    assert_eq!((found.spec.logit_cap, found.spec.layers[0].attention.score_cap), (Some(30.0), Some(50.0)));
}

#[test]
fn qwen_stretches_with_yarn_and_its_norms_take_the_magnitude() {
    let yarn = [
        ("rope.scaling.type", text("yarn")),
        ("rope.scaling.factor", Value::Float(4.0)),
        ("rope.scaling.original_context_length", Value::Unsigned(32)),
    ];
    let qwen2 = described("qwen2", &yarn).unwrap();
    assert!(qwen2.spec.layers[0].attention.qkv_bias && !qwen2.fold.in_head_norms && !qwen2.fold.is_interleaved);
    assert_eq!((kinds(&qwen2), qwen2.spec.rope_tables.len()), (vec![(None, 1)], 1));
    let qwen3 = described("qwen3", &yarn).unwrap();
    assert!((qwen3.fold.kinds[0].rotated - 1.138_629_436_111_989).abs() < 1e-7 && qwen3.fold.in_head_norms);
    let mixed = [yarn.as_slice(), &[("rope.scaling.yarn_ext_factor", Value::Float(0.5))]].concat();
    assert!(described("qwen3", &mixed).unwrap_err().to_string().contains("yarn_ext_factor `0.5`"));
}

#[test]
fn ministral_3_has_growing_queries_and_a_magnitude_that_cancels() {
    let keys = [
        ("rope.scaling.type", text("yarn")),
        ("rope.scaling.factor", Value::Float(16.0)),
        ("rope.scaling.original_context_length", Value::Unsigned(16)),
        ("rope.scaling.yarn_log_multiplier", Value::Float(1.0)),
        ("attention.temperature_scale", Value::Float(0.1)),
    ];
    let found = described("mistral3", &keys).unwrap();
    let growth = QueryGrowth { beta: 0.1, original_context: 16 };
    assert_eq!(found.spec.layers[0].attention.query_growth, Some(growth));
    assert!(found.fold.is_interleaved && found.fold.kinds[0].rotated == 1.0 && found.family == Family::Ministral3);
}

#[test]
fn smollm3_and_granite_say_in_their_own_way_what_is_not_rotated() {
    let smollm3 = described("smollm3", &[]).unwrap();
    assert_eq!(kinds(&smollm3), [(None, 0), (None, 0), (None, 0), (None, 1)]);
    let granite = |keys: &[(&str, Value)]| described("granite", keys).unwrap();
    assert!(granite(&[]).spec.is_llama() && granite(&[]).fold.kinds[0].query == 1.0);
    assert_eq!(kinds(&granite(&[("rope.scaling.finetuned", Value::Bool(false))])), [(None, 1)]);
    let scaled = granite(&[("attention.scale", Value::Float(0.5)), ("logit_scale", Value::Float(4.0))]);
    assert_eq!((scaled.fold.kinds[0].query, scaled.fold.final_norm), (2.0, 0.25));
}

#[test]
fn olmo2_with_a_window_is_olmo3() {
    assert_eq!(described("olmo2", &[]).unwrap().family, Family::Olmo2);
    let found = described("olmo2", &[("attention.sliding_window", Value::Unsigned(8))]).unwrap();
    assert_eq!((found.family, kinds(&found)[2..].to_vec()), (Family::Olmo3, vec![(Some(8), 0), (None, 0)]));
}

#[test]
fn phi3_is_rotated_in_part_with_tensors_of_divisors() {
    let keys = [
        ("rope.dimension_count", Value::Unsigned(12)),
        ("rope.scaling.original_context_length", Value::Unsigned(32)),
        ("rope.scaling.attn_factor", Value::Float(1.25)),
        ("attention.sliding_window", Value::Unsigned(64)),
    ];
    let factors: [(&str, &[usize]); 2] = [(SHORT_FACTORS, &[6]), (LONG_FACTORS, &[6])];
    let found = of(&file("phi3", &keys, &factors)).unwrap();
    assert_eq!((kinds(&found), found.fold.rotated_dim), (vec![(Some(64), 1)], 12));
    assert_eq!((found.spec.rope_tables[0].frequencies[0], found.fold.kinds[0].rotated), (0.5, 1.25));
    assert_eq!(found.spec.rope_tables[0].long.as_ref().unwrap().original_context, 32);
    let alone = of(&file("phi3", &keys, &factors[..1])).unwrap_err().to_string();
    assert!(alone.contains("rope_factors_long.weight: expected [6], got no tensor"), "{alone}");
    let odd = described("phi3", &[("rope.dimension_count", Value::Unsigned(18))]).unwrap_err().to_string();
    assert!(odd.contains("phi3.rope.dimension_count `18`"), "{odd}");
}

#[test]
fn stacked_tensors_are_found_in_their_stacks() {
    let names = ["attn_norm", "ffn_norm"].map(|part| (part, vec![64]));
    let matrices = [("attn_output", vec![64, 64]), ("ffn_down", vec![64, 128])];
    let stacks = [("attn_qkv", vec![128, 64]), ("ffn_up", vec![256, 64])];
    let tensors = |layers: u32| {
        let parts = [names.as_slice(), &matrices, &stacks].concat();
        let all = (0..layers).flat_map(|layer| {
            let named = |(part, dims): &(&str, Vec<usize>)| (format!("blk.{layer}.{part}.weight"), dims.clone());
            parts.iter().map(named).collect::<Vec<_>>()
        });
        all.chain([("output_norm.weight".to_string(), vec![64]), (HEAD.to_string(), vec![100, 64])]).collect::<Vec<_>>()
    };
    let located = |architecture: &str, layers: u32| {
        let tensors = tensors(layers);
        let tensors: Vec<(&str, &[usize])> = tensors.iter().map(|(name, dims)| (name.as_str(), &dims[..])).collect();
        let file = file(architecture, &[], &tensors);
        places::locate_all(&of(&file)?, &file)
    };
    let phi3 = located("phi3", 8).unwrap();
    let offset = |tensor| phi3[&tensor].tensor.offset - 1000;
    use SourceTensor::*;
    assert_eq!([Query(1), Key(1), Value(1)].map(offset), [0, 64 * 256, 96 * 256]);
    assert_eq!([Gate(0), Up(0)].map(offset), [0, 128 * 256]);
    assert_eq!((phi3[&Up(0)].name.as_str(), &phi3[&Gate(0)].tensor.dims), ("blk.0.ffn_up.weight", &vec![128, 64]));
    // Only the files of Phi-3 have a gate before their up.
    let llama = located("llama", 8).unwrap_err().to_string();
    assert!(llama.contains("blk.0.ffn_gate.weight"), "{llama}");
    assert!(located("phi3", 7).unwrap_err().to_string().contains("blk.7."));
}
