//! From checkpoints in every format and dtype to model folders, through the public interface.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common;
use crate::common::gguf::{GgufTensor, GgufType};
use crate::common::{TinyModel, quantize_tiny, tiny_hf_folder, tiny_shape};
use crate::pack::{TestPack, quantize_with};
use edge_run::Error;
use edge_run::internals::format::codes::{Range, RangeForm, WEIGHTS_PER_WORD, unpack};
use edge_run::internals::format::{ModelFolder, Pack, layout};
use edge_run::internals::precision::SLICES;
use edge_run::internals::quantize::{QuantizeOptions, QuantizeReport, Stage, estimate, open, quantize, weights_sha256};
use edge_run::internals::shape::{LlamaShape, RopeScaling};
use half::f16;
use safetensors::Dtype;
use sha2::{Digest, Sha256};

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
    let ranges = ranges(folder, name);
    let mut weights = Vec::new();
    for at in 0..slices[0].len() * WEIGHTS_PER_WORD {
        let range = ranges[at / group];
        let words: Vec<u32> = slices.iter().map(|slice| slice[at / WEIGHTS_PER_WORD]).collect();
        let Range { lo, step } = range;
        let tolerance = step / 128.0 + (lo.abs() + 4.0 * step) * 2.0f32.powi(-11) + 1e-6;
        weights.push((range.decode(unpack(&words)[at % WEIGHTS_PER_WORD], SLICES), tolerance));
    }
    weights
}

/// The ranges in which a folder reads all slices of a matrix.
fn ranges(folder: &ModelFolder, name: &str) -> Vec<Range> {
    match RangeForm::of_group(folder.group_size()) {
        RangeForm::Pairs { .. } => {
            let scales = folder.tensor(0, &format!("{name}.scales")).unwrap();
            let (pairs, _) = bytemuck::cast_slice::<u8, f16>(scales.bytes()).as_chunks::<2>();
            pairs.iter().map(|pair| Range::of_pair(*pair)).collect()
        }
        RangeForm::Words => {
            let words = folder.tensor(3, &format!("{name}.ranges3")).unwrap();
            bytemuck::cast_slice(words.bytes()).iter().map(|word| Range::of_word(*word)).collect()
        }
    }
}

/// Asserts that rows of a matrix from `first` on are `expected`, [rows, input], within half a bin.
fn assert_rows(folder: &ModelFolder, name: &str, first: usize, input: usize, expected: &[f32]) {
    let weights = dequantized(folder, name);
    for (at, (expected, (weight, tolerance))) in expected.iter().zip(&weights[first * input..]).enumerate() {
        assert!((weight - expected).abs() <= *tolerance, "{name} weight {at}: {weight} for {expected}");
    }
}

/// Asserts that the disk space told beforehand was enough.
fn assert_estimate(source: &Path, report: &QuantizeReport, calibration: Option<&Path>) {
    let calibration = calibration.map(Path::to_path_buf);
    let options =
        QuantizeOptions { out: report.dir.clone(), group_size: Some(report.group_size), calibration, replace: false };
    let estimate = estimate(&*open(source).unwrap(), &options).unwrap();
    assert!(report.bytes <= estimate.disk_bytes + 20_000, "the tiny tokenizer is all overhead");
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
    assert_estimate(&dir.path().join("source"), &report, None);
    assert_rows(&folder, "embed", 0, 64, &model.tensors["model.embed_tokens.weight"].1);
    assert_rows(&folder, "head", 0, 64, &model.tensors["lm_head.weight"].1);
    for layer in 0..model.shape.layers {
        for (matrix, first, part) in parts(&model.shape) {
            let (dims, weights) = &model.tensors[&format!("model.layers.{layer}.{part}.weight")];
            assert_rows(&folder, &format!("layers.{layer}.{matrix}"), first as usize, dims[1], weights);
        }
        let norm = folder.tensor(0, &format!("layers.{layer}.ffn_norm")).unwrap();
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
        model.write_gguf(&path("f32.gguf"), GgufType::F32);
        model.write_gguf(&path("f16.gguf"), GgufType::F16);
        model.write_gguf(&path("bf16.gguf"), GgufType::Bf16);

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
            assert_eq!(json(&first, "tokenizer.json"), json(&other, "tokenizer.json"), "{source}");
            let mut generation = json(&first, "generation_config.json");
            if source.ends_with(".gguf") {
                // A GGUF file can state one end only, so that a control token which ends a text counts too.
                generation["eos_token_id"] = serde_json::json!([2, 0]);
            }
            assert_eq!(generation, json(&other, "generation_config.json"), "{source}");
            let template = first.read_text("chat_template.jinja").unwrap();
            assert_eq!(template.as_deref(), Some(common::CHAT_TEMPLATE));
            assert_eq!(template, other.read_text("chat_template.jinja").unwrap());
        }
    }
}

/// The types of blocks that GGUF files have, with their numbers in ggml.
const BLOCK_TYPES: [(&str, u32); 10] = [
    ("Q4_0", 2),
    ("Q4_1", 3),
    ("Q5_0", 6),
    ("Q5_1", 7),
    ("Q8_0", 8),
    ("Q2_K", 10),
    ("Q3_K", 11),
    ("Q4_K", 12),
    ("Q5_K", 13),
    ("Q6_K", 14),
];

/// Two rows of 256 weights in blocks of a type, and what candle-core made of them; `src/quantize/gguf/blocks_tests.rs`
/// says how they came about.
fn golden_rows(name: &str) -> Vec<(Vec<f32>, Vec<u8>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_blocks.safetensors");
    let bytes = fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |part: &str| tensors.tensor(&format!("{name}.{part}")).unwrap().data().to_vec();
    let (weights, blocks) = (tensor("weights"), tensor("blocks"));
    let weights: Vec<f32> =
        weights.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    weights.chunks(256).map(<[f32]>::to_vec).zip(blocks.chunks(blocks.len() / 2).map(<[u8]>::to_vec)).collect()
}

#[test]
fn every_block_type_of_gguf_goes_into_a_folder() {
    // Blocks of the K types are 256 weights long.
    let wide = LlamaShape { model_dim: 256, ffn_dim: 256, heads: 16, kv_heads: 8, layers: 1, ..tiny_shape(true) };
    for (name, kind) in BLOCK_TYPES {
        let rows = golden_rows(name);
        let mut model = TinyModel::new(wide.clone(), 3);
        for (dims, weights) in model.tensors.values_mut().filter(|(dims, _)| dims.len() == 2) {
            *weights = (0..dims[0]).flat_map(|row| rows[row * row % 3 % 2].0.clone()).collect();
        }
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("model.gguf");
        model.write_gguf_as(&source, &[], &|dims, weights| {
            let blocks = |row: &[f32]| rows.iter().find(|(weights, _)| weights == row).unwrap().1.clone();
            GgufTensor { kind, dims: dims.to_vec(), bytes: weights.chunks(256).flat_map(blocks).collect() }
        });
        quantize_tiny(&source, &dir.path().join("model")).unwrap();
        let folder = ModelFolder::open(&dir.path().join("model")).unwrap();
        for (matrix, first, part) in parts(&model.shape) {
            let (dims, weights) = &model.tensors[&format!("model.layers.0.{part}.weight")];
            assert_rows(&folder, &format!("layers.0.{matrix}"), first as usize, dims[1], weights);
        }
        assert_eq!(folder.manifest().source.dtypes, ["F32", name]);
    }
}

#[test]
fn a_stopped_run_leaves_nothing_and_says_how_far_it_came() {
    let dir = tempfile::tempdir().unwrap();
    tiny_hf_folder(&dir.path().join("source"), 4, true);
    let held = tempfile::tempdir().unwrap();
    let pack = pack_for(&dir.path().join("source"), held.path(), 64, |_| ());
    let options =
        QuantizeOptions { out: dir.path().join("model"), group_size: None, calibration: Some(pack), replace: false };
    for stop_at in [Stage::SourceHash, Stage::Weights, Stage::Hashes] {
        let mut source = open(&dir.path().join("source")).unwrap();
        let mut calls = Vec::new();
        let stopped = quantize(&mut *source, &options, &mut |progress| {
            assert!(progress.done <= progress.total && !progress.name.is_empty());
            calls.push(progress.stage);
            if progress.stage == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(Error::Stopped(_))), "{stopped:?}");
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
        let options = QuantizeOptions { out: out.to_path_buf(), group_size: None, calibration: None, replace: true };
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
    for (group, expected) in
        [(128, "(embed)"), (96, "32, or a multiple of 64"), (0, "a multiple of 64"), (16, "32, or")]
    {
        let options = QuantizeOptions {
            out: dir.path().join("model"),
            group_size: Some(group),
            calibration: None,
            replace: false,
        };
        let mut source = open(&dir.path().join("source")).unwrap();
        let fault = quantize(&mut *source, &options, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(fault.starts_with("group size") && fault.contains(expected), "{fault}");
    }
}

#[test]
fn rotary_factors_of_a_gguf_file_go_into_the_shape() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = TinyModel::new(tiny_shape(true), 11);
    let factors: Vec<f32> = (0..8).map(|i| 1.0 + i as f32).collect();
    model.tensors.insert("rope_freqs.weight".into(), (vec![8], factors.clone()));
    model.write_gguf(&dir.path().join("x.gguf"), GgufType::Q8_0);
    quantize_tiny(&dir.path().join("x.gguf"), &dir.path().join("model")).unwrap();
    let folder = ModelFolder::open(&dir.path().join("model")).unwrap();
    assert_eq!(folder.shape().rope.scaling, RopeScaling::Factors { factors });
}

/// A pack for `source` in groups of so many weights, made in `dir` and changed before it is written.
fn pack_for(source: &Path, dir: &Path, group: u32, change: impl FnOnce(&mut TestPack)) -> PathBuf {
    let plain = dir.join("plain");
    if !plain.exists() {
        let options =
            QuantizeOptions { out: plain.clone(), group_size: Some(group), calibration: None, replace: false };
        quantize(&mut *open(source).unwrap(), &options, &mut |_| ControlFlow::Continue(())).unwrap();
    }
    let mut pack = TestPack::of(source, &plain, 21);
    change(&mut pack);
    let path = dir.join("pack.safetensors");
    pack.write(&path).unwrap();
    path
}

/// The data of a tensor of the base's file.
fn base(folder: &ModelFolder, name: &str) -> Vec<u8> {
    folder.tensor(0, name).unwrap().bytes().to_vec()
}

#[test]
fn a_pack_with_the_ranges_of_the_weights_gives_the_same_slices_and_its_routers() {
    for (tied, group, versions) in [(false, 64, (1, 3)), (true, 64, (1, 3)), (true, 32, (5, 5))] {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("model"));
        let shape = tiny_hf_folder(&source, 12, tied);
        let path = pack_for(&source, dir.path(), group, |_| ());
        let report = quantize_with(&source, &out, &path).unwrap();
        assert_estimate(&source, &report, Some(&path));

        let (plain, folder) = (ModelFolder::open(&dir.path().join("plain")).unwrap(), ModelFolder::open(&out).unwrap());
        for file in &SLICE_FILES[1..] {
            assert!(fs::read(plain.dir().join(file)).unwrap() == fs::read(out.join(file)).unwrap(), "{file}");
        }
        for spec in layout::file_tensors(&shape, &folder.manifest().spec, group, false, 0) {
            assert!(base(&plain, &spec.name) == base(&folder, &spec.name), "{}", spec.name);
        }
        let pack = Pack::open(&path).unwrap();
        for spec in layout::routers(&shape) {
            assert!(base(&folder, &spec.name) == pack.tensor(&spec), "{}", spec.name);
        }
        assert_eq!(layout::routers(&shape)[0].shape, [2 * 4, 32, shape.model_dim as usize]);

        let (old, new) = (plain.manifest(), folder.manifest());
        assert_eq!((old.format_version, new.format_version), versions);
        assert!(plain.thresholds().is_none() && old.quantization.calibration.is_none());
        assert_eq!(folder.thresholds(), Some(&pack.info().thresholds));
        let calibration = new.quantization.calibration.as_ref().unwrap();
        assert_eq!(calibration.recipe["steps"], 7);
        assert_eq!(calibration.source_sha256, pack.info().source_sha256);
        let pack_sha256: String = Sha256::digest(fs::read(&path).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(calibration.pack_sha256, pack_sha256);
        ModelFolder::verify(&out, &mut never).unwrap();
    }
}

#[test]
fn another_range_in_the_pack_changes_its_group_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("model"));
    tiny_hf_folder(&source, 13, true);
    // Row 2 of [64, 128]: its second group of two, half as wide as its weights.
    let (name, group) = ("layers.1.down", 2 * 2 + 1);
    let path = pack_for(&source, dir.path(), 64, |pack| {
        pack.set(&format!("{name}.scales"), 2 * group, -0.125);
        pack.set(&format!("{name}.scales"), 2 * group + 1, 0.0625);
    });
    quantize_with(&source, &out, &path).unwrap();
    let (plain, folder) = (ModelFolder::open(&dir.path().join("plain")).unwrap(), ModelFolder::open(&out).unwrap());
    let (before, after) = (dequantized(&plain, name), dequantized(&folder, name));
    for (at, (before, after)) in before.iter().zip(&after).enumerate() {
        if at / 64 == group {
            // Weights beyond the range come back as its outermost bins' middles.
            let (lo, bin) = (-0.125, 0.0625 / 64.0);
            let expected = before.0.clamp(lo + bin / 2.0, lo + 255.5 * bin);
            assert!((after.0 - expected).abs() <= before.1 + bin / 2.0, "weight {at}: {} for {expected}", after.0);
        } else {
            assert_eq!(before.0, after.0, "weight {at}");
        }
    }
    let outside = before[64 * group..][..64].iter().filter(|(weight, _)| weight.abs() > 0.125).count();
    assert!(outside > 10, "only {outside} weights are outside");
    assert_eq!(dequantized(&plain, "layers.0.down"), dequantized(&folder, "layers.0.down"));
}

#[test]
fn words_of_a_pack_are_read_at_their_depths_and_the_last_ones_make_the_codes() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("model"));
    tiny_hf_folder(&source, 13, true);
    let (name, group) = ("layers.1.down", 9);
    let [first, finest] = [(-0.5, 0.25), (-0.125, 0.0625)].map(|(lo, step)| Range { lo, step }.to_word());
    let path = pack_for(&source, dir.path(), 32, |pack| {
        pack.set_word(&format!("{name}.ranges0"), group, first);
        pack.set_word(&format!("{name}.ranges3"), group, finest);
    });
    quantize_with(&source, &out, &path).unwrap();
    let (plain, folder) = (ModelFolder::open(&dir.path().join("plain")).unwrap(), ModelFolder::open(&out).unwrap());
    let words = |folder: &ModelFolder, slice: usize| -> Vec<u16> {
        let tensor = folder.tensor(slice, &format!("{name}.ranges{slice}")).unwrap();
        bytemuck::cast_slice(tensor.bytes()).to_vec()
    };
    for slice in 0..SLICES {
        let changed: Vec<usize> = words(&plain, slice)
            .iter()
            .zip(words(&folder, slice))
            .enumerate()
            .filter_map(|(at, (before, after))| (*before != after).then_some(at))
            .collect();
        // Those of depth 3 follow from the codes.
        assert_eq!(changed, if slice == 1 { vec![] } else { vec![group] }, "slice {slice}");
    }
    assert_eq!((words(&folder, 0)[group], words(&folder, 3)[group]), (first, finest));
    let (before, after) = (dequantized(&plain, name), dequantized(&folder, name));
    let (lo, bin) = (-0.125, 0.0625 / 64.0);
    for (at, (before, after)) in before.iter().zip(&after).enumerate() {
        let expected = if at / 32 == group { before.0.clamp(lo + bin / 2.0, lo + 255.5 * bin) } else { before.0 };
        assert!((after.0 - expected).abs() <= before.1 + bin / 2.0, "weight {at}: {} for {expected}", after.0);
    }
}

#[test]
fn a_pack_whose_ranges_were_spoilt_is_refused_with_the_tensor() {
    let (dir, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, out) = (dir.path().join("source"), dir.path().join("model"));
    tiny_hf_folder(&source, 13, true);
    let refused = |path: &Path| {
        let fault = quantize_with(&source, &out, path).unwrap_err();
        assert!(matches!(fault, Error::Damaged { .. }) && !out.exists(), "{fault}");
        fault.to_string()
    };
    // Weights of at most a quarter, in ranges of 80.
    let path = pack_for(&source, work.path(), 64, |pack| pack.set("layers.0.o.scales", 2 * 5 + 1, 20.0));
    let said = refused(&path);
    assert!(said.contains("pack.safetensors") && said.contains("layers.0.o.scales: expected a range near"), "{said}");
    for (slice, group) in [(0, 7), (1, 130), (3, 0)] {
        let work = tempfile::tempdir().unwrap();
        let tensor = format!("layers.1.down.ranges{slice}");
        let path = pack_for(&source, work.path(), 32, |pack| pack.set_word(&tensor, group, 40 << 9 | 500));
        let said = refused(&path);
        let place = format!("in row {}, group {}", group / 4, group % 4);
        assert!(said.contains(&tensor) && said.contains("pack.safetensors") && said.contains(&place), "{said}");
    }
}

#[test]
fn a_pack_for_another_model_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (source, work) = (dir.path().join("source"), tempfile::tempdir().unwrap());
    tiny_hf_folder(&source, 14, true);
    let other = work.path().join("other");
    tiny_hf_folder(&other, 15, true);
    let path = pack_for(&other, work.path(), 64, |_| ());
    let hash = |source: &Path| weights_sha256(&mut *open(source).unwrap(), &mut |_| ControlFlow::Continue(()));
    let (ours, theirs) = (hash(&source).unwrap(), hash(&other).unwrap());

    let refused = |path: &Path, group_size, words: &[&str]| {
        let calibration = Some(path.to_path_buf());
        let options = QuantizeOptions { out: dir.path().join("model"), group_size, calibration, replace: false };
        let fault = quantize(&mut *open(&source).unwrap(), &options, &mut |progress| {
            assert_eq!(progress.stage, Stage::SourceHash, "weights are cut");
            ControlFlow::Continue(())
        });
        let fault = fault.unwrap_err();
        assert!(matches!(fault, Error::InvalidArgument { .. }), "{fault}");
        for word in words {
            assert!(fault.to_string().contains(word), "`{word}` is not in: {fault}");
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["source"]);
    };
    refused(&path, None, &["calibration", "pack.safetensors", "`source`", "`other`", &ours[..12], &theirs[..12]]);
    refused(&path, Some(128), &["group size", "expected 64", "pack.safetensors", "got 128"]);

    let wide = work.path().join("wide");
    let shape = LlamaShape { ffn_dim: 192, ..tiny_shape(true) };
    TinyModel::new(shape, 16).write_hf(&wide, Dtype::F32, 1);
    fs::remove_dir_all(work.path().join("plain")).unwrap();
    let path = pack_for(&wide, work.path(), 64, |_| ());
    refused(&path, None, &["calibration", "ffn_dim is 128", "`wide`, with 192"]);
}

#[test]
fn the_hash_of_the_weights_depends_on_them_and_not_on_their_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for tied in [false, true] {
        let mut model = TinyModel::new(tiny_shape(tied), 17);
        model.write_hf(&path("f32"), Dtype::F32, 1);
        model.write_hf(&path("bf16 in three"), Dtype::BF16, 3);
        model.write_gguf(&path("f16.gguf"), GgufType::F16);
        let hash = |name: &str| {
            let (mut source, mut last) = (open(&path(name)).unwrap(), (0, 0));
            let hash = weights_sha256(source.as_mut(), &mut |progress| {
                assert!(progress.stage == Stage::SourceHash && !progress.name.is_empty() && progress.done > last.0);
                last = (progress.done, progress.total);
                ControlFlow::Continue(())
            });
            assert_eq!(last.0, last.1, "all of it");
            hash.unwrap()
        };
        let first = hash("f32");
        assert_eq!(first, plain_hash(&model));
        assert_eq!(first, hash("bf16 in three"));
        assert_eq!(first, hash("f16.gguf"));

        let (_, weights) = model.tensors.get_mut("model.layers.1.post_attention_layernorm.weight").unwrap();
        weights[3] += 1.0;
        model.write_hf(&path("f32"), Dtype::F32, 1);
        assert_ne!(first, hash("f32"));
        // The untied model has a tensor more.
        fs::remove_dir_all(path("bf16 in three")).unwrap();
    }
}

/// The hash over all of a model's weights at once, in the order that is promised.
fn plain_hash(model: &TinyModel) -> String {
    let mut names = vec!["model.embed_tokens".to_string()];
    for layer in 0..model.shape.layers {
        let layer = |part: &str| format!("model.layers.{layer}.{part}");
        names.extend(parts(&model.shape).iter().map(|(_, _, part)| layer(part)));
        names.extend(["input_layernorm", "post_attention_layernorm"].map(layer));
    }
    names.push("model.norm".into());
    if !model.shape.tied_head {
        names.push("lm_head".into());
    }
    let weights = names.iter().flat_map(|name| &model.tensors[&format!("{name}.weight")].1);
    let bytes: Vec<u8> = weights.flat_map(|weight| weight.to_le_bytes()).collect();
    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
