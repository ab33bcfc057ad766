//! From checkpoints in every format and dtype to model folders, through the public interface.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use common::{TinyModel, quantize_tiny, tiny_hf_folder, tiny_shape};
use edge_run::Error;
use edge_run::format::codes::{Range, WEIGHTS_PER_WORD, unpack};
use edge_run::format::{ModelFolder, layout};
use edge_run::precision::SLICES;
use edge_run::quantize::{Options, Stage, estimate, open, quantize};
use edge_run::shape::{LlamaShape, RopeScaling};
use half::f16;
use safetensors::Dtype;

/// Files that depend on the weights, and on nothing else that differs between formats.
const SLICE_FILES: [&str; SLICES] =
    ["base.safetensors", "slice-1.safetensors", "slice-2.safetensors", "slice-3.safetensors"];

fn never(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The weights that a folder holds of a matrix, at full depth, and how far each may be from its source: half a bin,
/// f16's rounding of the range's ends, and f32's of values up to 1.
fn dequantized(folder: &ModelFolder, name: &str) -> Vec<(f32, f32)> {
    let group = folder.group_size() as usize;
    let slices: Vec<_> = (0..SLICES).map(|s| folder.tensor(s, &format!("{name}.slice{s}")).unwrap()).collect();
    let slices: Vec<&[u32]> = slices.iter().map(|slice| bytemuck::cast_slice(slice.bytes())).collect();
    let scales = folder.tensor(0, &format!("{name}.scales")).unwrap();
    let scales: &[f16] = bytemuck::cast_slice(scales.bytes());
    let mut weights = Vec::new();
    for at in 0..slices[0].len() * WEIGHTS_PER_WORD {
        let range = Range { lo: scales[at / group * 2], step: scales[at / group * 2 + 1] };
        let words: Vec<u32> = slices.iter().map(|slice| slice[at / WEIGHTS_PER_WORD]).collect();
        let (lo, step) = (range.lo.to_f32(), range.step.to_f32());
        let tolerance = step / 128.0 + (lo.abs() + 4.0 * step) * 2.0f32.powi(-11) + 1e-6;
        weights.push((range.decode(unpack(&words)[at % WEIGHTS_PER_WORD], SLICES), tolerance));
    }
    weights
}

/// Asserts that rows of a matrix from `first` on are `expected`, [rows, input], within half a bin.
fn assert_rows(folder: &ModelFolder, name: &str, first: usize, input: usize, expected: &[f32]) {
    let weights = dequantized(folder, name);
    for (at, (expected, (weight, tolerance))) in expected.iter().zip(&weights[first * input..]).enumerate() {
        assert!((weight - expected).abs() <= *tolerance, "{name} weight {at}: {weight} for {expected}");
    }
}

/// What `dtype` makes of the weights.
fn through(dtype: GgmlDType, dims: &[usize], weights: &[f32]) -> Vec<f32> {
    let tensor = Tensor::from_slice(weights, dims, &Device::Cpu).unwrap();
    let blocks = QTensor::quantize(&tensor, dtype).unwrap();
    blocks.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The parts of a layer's stacked matrices: matrix, first row, and the tensor's name in the checkpoint.
fn parts(shape: &LlamaShape) -> Vec<(&'static str, u32, &'static str)> {
    let (q, kv) = (shape.q_dim(), shape.kv_dim());
    vec![
        ("qkv", 0, "self_attn.q_proj"),
        ("qkv", q, "self_attn.k_proj"),
        ("qkv", q + kv, "self_attn.v_proj"),
        ("o", 0, "self_attn.o_proj"),
        ("gate_up", 0, "mlp.gate_proj"),
        ("gate_up", shape.ffn_dim, "mlp.up_proj"),
        ("down", 0, "mlp.down_proj"),
    ]
}

#[test]
fn every_weight_is_where_the_layout_says_and_within_half_a_bin() {
    let dir = tempfile::tempdir().unwrap();
    let model = TinyModel::new(tiny_shape(false), 1);
    model.write_hf(&dir.path().join("source"), Dtype::F32, 1);
    let out = dir.path().join("model");
    let report = quantize_tiny(&dir.path().join("source"), &out).unwrap();

    let folder = ModelFolder::open(&out).unwrap();
    assert_eq!(folder.shape(), &model.shape);
    assert_eq!((report.group_size, folder.group_size()), (64, 64));
    assert_eq!(report.params, model.shape.linear_params() + model.shape.embedding_params());
    assert_eq!(report.bytes, folder.summary().total_bytes);
    assert!(report.bytes <= estimate(&model.shape, 64).disk_bytes + 20_000, "the tiny tokenizer is all overhead");
    assert_rows(&folder, "embed", 0, 64, &model.tensors["model.embed_tokens.weight"].1);
    assert_rows(&folder, "head", 0, 64, &model.tensors["lm_head.weight"].1);
    for layer in 0..model.shape.layers {
        for (matrix, first, part) in parts(&model.shape) {
            let (dims, weights) = &model.tensors[&format!("model.layers.{layer}.{part}.weight")];
            assert_rows(&folder, &format!("layers.{layer}.{matrix}"), first as usize, dims[1], weights);
        }
        let norm = folder.tensor(0, &layout::ffn_norm(layer)).unwrap();
        let expected = &model.tensors[&format!("model.layers.{layer}.post_attention_layernorm.weight")].1;
        assert_eq!(bytemuck::cast_slice::<u8, f32>(norm.bytes()), expected.as_slice());
    }
    let verified = ModelFolder::verify(&out, &mut never).unwrap();
    assert_eq!((verified.files, verified.bytes), (7, report.bytes));
}

#[test]
fn a_folder_does_not_depend_on_the_format_that_held_the_weights() {
    for tied in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let model = TinyModel::new(tiny_shape(tied), 2);
        let path = |name: &str| dir.path().join(name);
        model.write_hf(&path("f32"), Dtype::F32, 1);
        model.write_hf(&path("f16"), Dtype::F16, 1);
        model.write_hf(&path("bf16 in three"), Dtype::BF16, 3);
        model.write_gguf(&path("f32.gguf"), GgmlDType::F32);
        model.write_gguf(&path("f16.gguf"), GgmlDType::F16);
        model.write_gguf(&path("bf16.gguf"), GgmlDType::BF16);

        let folder = |source: &str| {
            let out = path(&format!("model from {source}"));
            quantize_tiny(&path(source), &out).unwrap();
            ModelFolder::open(&out).unwrap()
        };
        let first = folder("f32");
        for source in ["f16", "bf16 in three", "f32.gguf", "f16.gguf", "bf16.gguf"] {
            let other = folder(source);
            assert_eq!(first.shape(), other.shape(), "{source}");
            for file in SLICE_FILES {
                let (a, b) = (&first.manifest().files[file], &other.manifest().files[file]);
                assert_eq!(a, b, "{source}: {file}");
            }
            let json = |folder: &ModelFolder, name| -> serde_json::Value {
                serde_json::from_str(&folder.read_text(name).unwrap().unwrap()).unwrap()
            };
            for name in ["tokenizer.json", "generation_config.json"] {
                assert_eq!(json(&first, name), json(&other, name), "{source}: {name}");
            }
            let template = first.read_text("chat_template.jinja").unwrap();
            assert_eq!(template.as_deref(), Some(common::CHAT_TEMPLATE));
            assert_eq!(template, other.read_text("chat_template.jinja").unwrap());
        }
    }
}

#[test]
fn every_block_type_of_gguf_is_read_as_candle_reads_it() {
    // Blocks of the K types are 256 weights long.
    let wide = LlamaShape { model_dim: 256, ffn_dim: 256, heads: 16, kv_heads: 8, layers: 1, ..tiny_shape(true) };
    let model = TinyModel::new(wide, 3);
    use GgmlDType::*;
    for dtype in [Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q3K, Q4K, Q5K, Q6K] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("model.gguf");
        model.write_gguf(&source, dtype);
        quantize_tiny(&source, &dir.path().join("model")).unwrap();
        let folder = ModelFolder::open(&dir.path().join("model")).unwrap();
        for (matrix, first, part) in parts(&model.shape) {
            let (dims, weights) = &model.tensors[&format!("model.layers.0.{part}.weight")];
            let expected = through(dtype, dims, weights);
            assert_rows(&folder, &format!("layers.0.{matrix}"), first as usize, dims[1], &expected);
        }
        assert_eq!(folder.manifest().source.dtypes.len(), 2, "{:?}", folder.manifest().source.dtypes);
    }
}

#[test]
fn a_stopped_run_leaves_nothing_and_says_how_far_it_came() {
    let dir = tempfile::tempdir().unwrap();
    tiny_hf_folder(&dir.path().join("source"), 4, true);
    let options = Options { out: dir.path().join("model"), group_size: None, replace: false };
    for stop_at in [Stage::Weights, Stage::Hashes] {
        let mut source = open(&dir.path().join("source")).unwrap();
        let mut calls = Vec::new();
        let stopped = quantize(&mut *source, &options, &mut |progress| {
            assert!(progress.done <= progress.total && !progress.name.is_empty());
            calls.push(progress.stage);
            if progress.stage == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(Error::Stopped("quantize"))), "{stopped:?}");
        assert_eq!(calls.iter().filter(|stage| **stage == stop_at).count(), 1, "no call after the stop");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["source"]);
    }
}

#[test]
fn an_output_folder_with_files_in_it_is_not_touched_unless_it_is_a_model_to_replace() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("model"));
    tiny_hf_folder(&source, 5, true);
    fs::create_dir(&out).unwrap();
    quantize_tiny(&source, &out).unwrap();
    let refused = quantize_tiny(&source, &out).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");

    let replace = |out: &Path| {
        let options = Options { out: out.to_path_buf(), group_size: None, replace: true };
        quantize(&mut *open(&source).unwrap(), &options, &mut |_| ControlFlow::Continue(()))
    };
    replace(&out).unwrap();
    ModelFolder::verify(&out, &mut never).unwrap();
    // The source's folder is no model of ours.
    assert!(matches!(replace(&source), Err(Error::InvalidArgument { .. })));
    assert!(source.join("config.json").is_file());
}

#[test]
fn a_group_size_that_does_not_fit_is_refused_with_what_would() {
    let dir = tempfile::tempdir().unwrap();
    tiny_hf_folder(&dir.path().join("source"), 6, true);
    for (group, expected) in [(128, "(embed)"), (96, "a multiple of 64"), (0, "a multiple of 64")] {
        let options = Options { out: dir.path().join("model"), group_size: Some(group), replace: false };
        let mut source = open(&dir.path().join("source")).unwrap();
        let fault = quantize(&mut *source, &options, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(fault.starts_with("--group-size") && fault.contains(expected), "{fault}");
    }
}

#[test]
fn rotary_factors_of_a_gguf_file_go_into_the_shape() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = TinyModel::new(tiny_shape(true), 11);
    let factors: Vec<f32> = (0..8).map(|i| 1.0 + i as f32).collect();
    model.tensors.insert("rope_freqs.weight".into(), (vec![8], factors.clone()));
    model.write_gguf(&dir.path().join("x.gguf"), GgmlDType::Q8_0);
    quantize_tiny(&dir.path().join("x.gguf"), &dir.path().join("model")).unwrap();
    let folder = ModelFolder::open(&dir.path().join("model")).unwrap();
    assert_eq!(folder.shape().rope.scaling, RopeScaling::Factors { factors });
}
