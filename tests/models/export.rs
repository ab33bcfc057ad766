//! Exports read back: by edge-run's own importers, and file by file.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::{TinyModel, quantize_tiny, tiny_options, tiny_shape};
use crate::described::DescribedSource;
use crate::names::names;
use edge_run::Error;
use edge_run::internals::arch::{
    ActivationFunction, AttentionSpec, HeadNorm, LayerNorms, LayerSpec, LayerVector, LongFrequencies, ModelSpec,
    QueryGrowth, RopeTable,
};
use edge_run::internals::eval::{Detail, SiteBits};
use edge_run::internals::export::{
    DepthRows, ExportFormat, ExportOptions, ExportPlan, ExportProgress, ExportReport, SiteDepths, StoredType,
};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::precision::Depth;
use edge_run::internals::quantize::{Source, SourceTensor, checked_text, open, quantize, weights_sha256};
use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// A tiny LLaMA in a model folder below `dir`.
fn tiny(dir: &Path, seed: u64, tied: bool) -> ModelFolder {
    let source = dir.join("source");
    TinyModel::new(tiny_shape(tied), seed).write_hf(&source, Dtype::F32, 1);
    quantize_tiny(&source, &dir.join("model")).unwrap();
    ModelFolder::open(&dir.join("model")).unwrap()
}

/// The same with a spec and changes to its shape.
fn tiny_as(dir: &Path, spec: ModelSpec, change: impl FnOnce(&mut LlamaShape)) -> ModelFolder {
    let source = dir.join("source");
    TinyModel::new(tiny_shape(true), 5).write_hf(&source, Dtype::F32, 1);
    let mut described = DescribedSource::new(open(&source).unwrap(), spec);
    change(&mut described.shape);
    let options = tiny_options(&dir.join("model"), false);
    quantize(&mut described, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    ModelFolder::open(&dir.join("model")).unwrap()
}

fn options(out: PathBuf, format: ExportFormat, bits: f32, stored: Option<StoredType>) -> ExportOptions {
    let depths = Depth::of_bits(bits).unwrap().into();
    ExportOptions { out, depths, format, stored, pre_tokenizer: None, replace: false }
}

fn going_on(_: &ExportProgress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn export(folder: &ModelFolder, options: ExportOptions) -> edge_run::Result<ExportReport> {
    ExportPlan::new(folder, options)?.write(&mut going_on)
}

/// The largest distance between the weights that two sources have of the layers' matrices.
fn distance(a: &mut dyn Source, b: &mut dyn Source) -> f32 {
    let (shape, spec) = (a.shape().clone(), a.spec().clone());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut largest = 0.0f32;
    for tensor in SourceTensor::all(&shape, &spec) {
        if tensor.is_vector() || matches!(tensor, SourceTensor::Embed | SourceTensor::Head) {
            continue;
        }
        let rows = 0..tensor.dims(&shape, &spec).0;
        a.rows(tensor, rows.clone(), &mut left).unwrap();
        b.rows(tensor, rows, &mut right).unwrap();
        largest = left.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
    }
    largest
}

#[test]
fn in_single_precision_every_weight_comes_back_at_every_depth() {
    for tied in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let folder = tiny(dir.path(), 1, tied);
        for format in ExportFormat::ALL {
            for bits in [2.0, 4.0, 6.0, 8.0] {
                let out = dir.path().join(format!("{format} {bits}"));
                let report = export(&folder, options(out.clone(), format, bits, Some(StoredType::F32))).unwrap();
                assert!(report.deviations.layers.is_none() && report.deviations.outer.is_none(), "{report:?}");
                let mut rows = DepthRows::new(&folder, Depth::of_bits(bits).unwrap());
                let expected = weights_sha256(&mut rows, &mut |_| ControlFlow::Continue(())).unwrap();
                let mut back = open(&out).unwrap();
                assert_eq!(back.shape(), folder.shape(), "{format}");
                let hash = weights_sha256(&mut *back, &mut |_| ControlFlow::Continue(())).unwrap();
                assert_eq!(hash, expected, "{format} at {bits} bits, tied {tied}");
            }
        }
    }
}

#[test]
fn two_bits_in_q4_1_and_four_in_q5_1_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 2, false);
    for (bits, stored) in [(2.0, None), (2.0, Some(StoredType::Q5_1)), (4.0, Some(StoredType::Q5_1))] {
        let out = dir.path().join(format!("{bits} {stored:?}.gguf"));
        let report = export(&folder, options(out.clone(), ExportFormat::Gguf, bits, stored)).unwrap();
        assert!(report.deviations.layers.is_none(), "{report:?}");
        let mut rows = DepthRows::new(&folder, Depth::of_bits(bits).unwrap());
        assert_eq!(distance(&mut rows, &mut *open(&out).unwrap()), 0.0, "{bits} {stored:?}");
    }
}

/// The bits that the sites of a layer read on average.
fn read(qkv: f32, o: f32, gate_up: f32, down: f32) -> SiteBits {
    SiteBits { qkv, o, gate_up, down, all: 0.0 }
}

/// Writes what `eval --detail --json` prints for these layers.
fn write_detail(path: &Path, layers: Vec<SiteBits>) {
    let detail = Detail { layers, all: read(0.0, 0.0, 0.0, 0.0) };
    fs::write(path, json!({"type": "eval", "bits": 3.5, "detail": detail}).to_string() + "\n").unwrap();
}

#[test]
fn every_site_leaves_at_the_depth_that_is_nearest_to_what_it_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 6, true);
    let path = dir.path().join("read.json");
    write_detail(&path, vec![read(2.0, 2.99, 3.01, 8.0), read(4.9, 5.1, 7.2, 2.4)]);
    // By layer and site: qkv, o, gate and up, down.
    let expected = [[2, 2, 4, 8], [4, 6, 8, 2]];
    let depths = SiteDepths::nearest(&path, folder.shape()).unwrap();
    for (format, stored, types) in [
        (ExportFormat::Gguf, Some(StoredType::F32), "f32"),
        (ExportFormat::Safetensors, Some(StoredType::F32), "f32"),
        (ExportFormat::Gguf, None, "q4_1 and q8_0"),
    ] {
        let out = dir.path().join(format!("{format} {types}"));
        let options = ExportOptions { depths: depths.clone(), ..options(out.clone(), format, 8.0, stored) };
        let report = export(&folder, options).unwrap();
        assert_eq!(report.layers_type, types);
        let mut back = open(&out).unwrap();
        for (layer, [qkv, o, gate_up, down]) in (0..).zip(expected) {
            use SourceTensor::*;
            for (tensors, bits) in [
                (vec![Query(layer), Key(layer), Value(layer)], qkv),
                (vec![Output(layer)], o),
                (vec![Gate(layer), Up(layer)], gate_up),
                (vec![Down(layer)], down),
            ] {
                let mut sound = DepthRows::new(&folder, Depth::of_bits(bits as f32).unwrap());
                let mut other = DepthRows::new(&folder, Depth::of_bits((10 - bits) as f32).unwrap());
                for tensor in tensors {
                    let rows = 0..tensor.dims(folder.shape(), &folder.manifest().spec).0;
                    let [mut weights, mut at_depth, mut at_other] = [const { Vec::new() }; 3];
                    back.rows(tensor, rows.clone(), &mut weights).unwrap();
                    sound.rows(tensor, rows.clone(), &mut at_depth).unwrap();
                    other.rows(tensor, rows, &mut at_other).unwrap();
                    let off = |of: &[f32]| weights.iter().zip(of).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    // Two bits are exact in Q4_1, and all in F32.
                    let most = if stored.is_some() || bits == 2 { 0.0 } else { 0.25 / 254.0 + 1e-4 };
                    assert!(off(&at_depth) <= most, "{format} {types} {tensor:?}: {}", off(&at_depth));
                    assert!(off(&at_other) > most, "{tensor:?} at {bits} bits is as at {}", 10 - bits);
                }
            }
        }
    }
    let told = fs::read_to_string(dir.path().join("safetensors f32/edge-run-export.json")).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["site_bits"], json!(expected));
}

#[test]
fn a_file_of_depths_that_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 6, true);
    let path = dir.path().join("read.json");
    let fault = || SiteDepths::nearest(&path, folder.shape()).unwrap_err().to_string();
    assert!(fault().contains("read.json"), "{}", fault());
    let four = read(4.0, 4.0, 4.0, 4.0);
    write_detail(&path, vec![four]);
    assert!(fault().contains("detail.layers: expected 2 layers, got 1"), "{}", fault());
    write_detail(&path, vec![four, read(4.0, 9.0, 4.0, 4.0)]);
    assert!(fault().contains("detail.layers[1].o: expected 2 to 8 bits, got 9"), "{}", fault());
    fs::write(&path, "{\"type\": \"eval\"}\n").unwrap();
    assert!(fault().contains("detail: expected one line with it"), "{}", fault());
    write_detail(&path, vec![four, four]);
    let line = fs::read_to_string(&path).unwrap();
    fs::write(&path, line.repeat(2)).unwrap();
    assert!(fault().contains("got 2 of them"), "{}", fault());
    fs::write(&path, line.replace("gate_up", "gate")).unwrap();
    assert!(fault().contains("missing field `gate_up`"), "{}", fault());
}

#[test]
fn other_types_are_as_far_off_as_the_report_says() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 3, true);
    // Weights of the layers are below 1/4: f16 rounds a minimum to 2^-14 at most, so that it is off by half of that.
    let cases = [
        (4.0, None, "q4_1", 2.0f32.powi(-14)),
        (6.0, None, "q8_0", 0.25 / 254.0 + 1e-4),
        (8.0, None, "q8_0", 0.25 / 254.0 + 1e-4),
        (8.0, Some(StoredType::F16), "f16", 2.0f32.powi(-14)),
        (8.0, Some(StoredType::Bf16), "bf16", 2.0f32.powi(-11)),
    ];
    for (bits, stored, name, most) in cases {
        let out = dir.path().join(format!("{bits} {name}.gguf"));
        let report = export(&folder, options(out.clone(), ExportFormat::Gguf, bits, stored)).unwrap();
        assert_eq!(report.layers_type, name);
        let mut rows = DepthRows::new(&folder, Depth::of_bits(bits).unwrap());
        let off = distance(&mut rows, &mut *open(&out).unwrap());
        assert_eq!(report.deviations.layers.largest, off, "{name}");
        assert!(off > 0.0 && off <= most, "{name} at {bits} bits: {off}");
    }
    let narrow = options(dir.path().join("x.gguf"), ExportFormat::Gguf, 6.0, Some(StoredType::Q4_1));
    let fault = export(&folder, narrow).unwrap_err().to_string();
    assert!(fault.contains("type: expected one that holds 6 bits"), "{fault}");
    let coded = options(dir.path().join("x"), ExportFormat::Safetensors, 4.0, Some(StoredType::Q4_1));
    assert!(export(&folder, coded).unwrap_err().to_string().contains("f16, bf16 or f32"));
}

#[test]
fn the_text_side_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 4, true);
    let json = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let before = DepthRows::new(&folder, Depth::FULL).text().unwrap();
    for format in ExportFormat::ALL {
        let out = dir.path().join(format.name());
        export(&folder, options(out.clone(), format, 4.0, None)).unwrap();
        let after = checked_text(&*open(&out).unwrap()).unwrap().0;
        assert_eq!(after.warnings, [""; 0], "{format}");
        assert_eq!(after.chat_template, before.chat_template, "{format}");
        for id in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            let (after, before) = (&json(&after.generation_config)[id], &json(&before.generation_config)[id]);
            // The importer adds ends that it knows by their texts behind those that the file states.
            let first = |ids: &Value| ids.get(0).unwrap_or(ids).clone();
            assert_eq!(first(after), first(before), "{format}: {id}");
        }
        for field in ["model", "added_tokens", "pre_tokenizer", "decoder", "post_processor"] {
            if field != "decoder" || format == ExportFormat::Safetensors {
                assert_eq!(json(&after.tokenizer)[field], json(&before.tokenizer)[field], "{format}: {field}");
            }
        }
    }
}

#[test]
fn rotary_scalings_come_back() {
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64.0 };
    let factors = RopeScaling::Factors { factors: vec![1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 8.0] };
    for scaling in [RopeScaling::Linear { factor: 4.0 }, llama3, factors] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let mut model = TinyModel::new(tiny_shape(true), 6);
        model.write_hf(&source, Dtype::F32, 1);
        model.shape.rope.scaling = scaling.clone();
        let mut described = DescribedSource::new(open(&source).unwrap(), ModelSpec::default());
        described.shape.rope.scaling = scaling.clone();
        quantize(&mut described, &tiny_options(&dir.path().join("model"), false), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let folder = ModelFolder::open(&dir.path().join("model")).unwrap();
        let out = dir.path().join("out.gguf");
        export(&folder, options(out.clone(), ExportFormat::Gguf, 4.0, None)).unwrap();
        let back = open(&out).unwrap();
        let (ours, theirs) = (folder.shape().rope.frequencies(16), back.shape().rope.frequencies(16));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!((ours - theirs).abs() <= ours * 1e-6, "{scaling:?}: {ours} {theirs}");
        }
    }
}

const POST_NORMS: LayerNorms =
    LayerNorms { before_attention: false, after_attention: true, before_feed_forward: false, after_feed_forward: true };
const ALL_NORMS: LayerNorms =
    LayerNorms { before_attention: true, after_attention: true, before_feed_forward: true, after_feed_forward: true };

/// A spec whose layers all have this.
fn alike(norms: LayerNorms, attention: AttentionSpec, activation: ActivationFunction) -> ModelSpec {
    ModelSpec { layers: vec![LayerSpec { norms, attention, activation }], ..ModelSpec::default() }
}

/// Specs of families, each with llama.cpp's name and that of transformers.
fn families() -> Vec<(ModelSpec, &'static str, &'static str)> {
    use ActivationFunction::{GeluTanh, Silu};
    let (pre, plain) = (LayerNorms::default(), AttentionSpec::default());
    let head_norm = |head_norm| AttentionSpec { head_norm, ..plain };
    let still = RopeTable { frequencies: vec![0.0; 8], long: None };
    let turned = |i: usize| 0.5f32.powi(i as i32) / (1.0 + i as f32 * i as f32);
    let table = |long| RopeTable { frequencies: (0..8).map(turned).collect(), long };
    let long = LongFrequencies { original_context: 128, frequencies: (0..8).map(|i| turned(i) / 2.0).collect() };
    let with_tables = |spec: ModelSpec, rope_tables| ModelSpec { rope_tables, ..spec };
    let table_1 = AttentionSpec { rope_table: 1, ..plain };
    let growth = Some(QueryGrowth { beta: 0.1, original_context: 64 });
    let mut smollm3 = alike(pre, plain, Silu);
    smollm3.layers = vec![smollm3.layers[0]; 4];
    smollm3.layers[3].attention.rope_table = 1;
    let gemma2 = alike(ALL_NORMS, AttentionSpec { score_cap: Some(50.0), ..plain }, GeluTanh);
    let mut gemma2_windows = ModelSpec { logit_cap: Some(30.0), layers: vec![gemma2.layers[0]; 2], ..gemma2.clone() };
    gemma2_windows.layers[0].attention.window = Some(32);
    let local =
        RopeTable { frequencies: Rope { theta: 500.0, scaling: RopeScaling::None }.frequencies(16), long: None };
    let mut gemma3_windows = alike(ALL_NORMS, head_norm(HeadNorm::EachHead), GeluTanh);
    gemma3_windows.layers = vec![gemma3_windows.layers[0]; 6];
    for layer in &mut gemma3_windows.layers[..5] {
        layer.attention = AttentionSpec { window: Some(32), rope_table: 1, ..layer.attention };
    }
    vec![
        (alike(pre, AttentionSpec { qkv_bias: true, ..plain }, Silu), "qwen2", "Qwen2ForCausalLM"),
        (alike(pre, head_norm(HeadNorm::EachHead), Silu), "qwen3", "Qwen3ForCausalLM"),
        (alike(ALL_NORMS, head_norm(HeadNorm::EachHead), GeluTanh), "gemma3", "Gemma3ForCausalLM"),
        (ModelSpec { logit_cap: Some(30.0), ..gemma2 }, "gemma2", "Gemma2ForCausalLM"),
        (gemma2_windows, "gemma2", "Gemma2ForCausalLM"),
        (with_tables(gemma3_windows, vec![local]), "gemma3", "Gemma3ForCausalLM"),
        (alike(POST_NORMS, head_norm(HeadNorm::AllHeads), Silu), "olmo2", "Olmo2ForCausalLM"),
        (with_tables(alike(pre, table_1, Silu), vec![table(None)]), "llama", "LlamaForCausalLM"),
        (with_tables(alike(pre, table_1, Silu), vec![table(Some(long))]), "llama", "LlamaForCausalLM"),
        (
            with_tables(alike(pre, AttentionSpec { qkv_bias: true, ..table_1 }, Silu), vec![table(None)]),
            "llama",
            "Qwen2ForCausalLM",
        ),
        (with_tables(smollm3, vec![still]), "smollm3", "SmolLM3ForCausalLM"),
        (alike(pre, AttentionSpec { query_growth: growth, ..plain }, Silu), "mistral3", "Ministral3ForCausalLM"),
        (alike(pre, AttentionSpec { window: Some(32), ..plain }, Silu), "llama", "MistralForCausalLM"),
    ]
}

#[test]
fn every_family_goes_out_under_its_name_with_its_vectors() {
    for (spec, gguf, hub) in families() {
        let dir = tempfile::tempdir().unwrap();
        let layers = spec.layers.len().max(2) as u32;
        let source = dir.path().join("source");
        TinyModel::new(LlamaShape { layers, ..tiny_shape(true) }, 5).write_hf(&source, Dtype::F32, 1);
        let mut described = DescribedSource::new(open(&source).unwrap(), spec.clone());
        quantize(&mut described, &tiny_options(&dir.path().join("model"), false), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let folder = ModelFolder::open(&dir.path().join("model")).unwrap();
        let out = dir.path().join("out.gguf");
        let report = export(&folder, options(out, ExportFormat::Gguf, 4.0, None)).unwrap();
        assert_eq!(report.architecture, gguf, "{spec:?}");

        let out = dir.path().join("out");
        let report =
            export(&folder, options(out.clone(), ExportFormat::Safetensors, 8.0, Some(StoredType::F32))).unwrap();
        assert_eq!(report.architecture, hub, "{spec:?}");
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), SourceTensor::all(folder.shape(), &spec).len(), "{hub}");
        let config: Value = serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["architectures"][0], hub);
        // Nothing is left to be folded, but for what the class itself folds.
        let is_gemma = hub.starts_with("Gemma");
        let norm = tensors.tensor("model.layers.1.post_attention_layernorm.weight").unwrap();
        let norm: Vec<f32> = norm.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let vector = if hub.starts_with("Gemma") || hub.starts_with("Olmo") {
            LayerVector::AfterAttentionNorm
        } else {
            LayerVector::FfnNorm
        };
        let mut expected = Vec::new();
        described.rows(SourceTensor::Vector(1, vector), 0..1, &mut expected).unwrap();
        let added = if is_gemma { 1.0 } else { 0.0 };
        for (written, ours) in norm.iter().zip(&expected) {
            assert!((written + added - ours).abs() < 1e-6, "{hub}: {written} {ours}");
        }
    }
}

#[test]
fn gemma_has_its_embedding_without_the_scale_that_is_folded_in() {
    let dir = tempfile::tempdir().unwrap();
    let attention = AttentionSpec { head_norm: HeadNorm::EachHead, ..AttentionSpec::default() };
    let folder = tiny_as(dir.path(), alike(ALL_NORMS, attention, ActivationFunction::GeluTanh), |_| ());
    let out = dir.path().join("out");
    export(&folder, options(out.clone(), ExportFormat::Safetensors, 8.0, Some(StoredType::F32))).unwrap();
    let bytes = fs::read(out.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let mut rows = DepthRows::new(&folder, Depth::FULL);
    let (mut embed, mut last) = (Vec::new(), Vec::new());
    rows.rows(SourceTensor::Embed, 0..folder.shape().vocab, &mut embed).unwrap();
    rows.rows(SourceTensor::FinalNorm, 0..1, &mut last).unwrap();
    // D is 64, so the scale is 8: an embedding with it, times a norm without it, is the head's product.
    for (written, ours) in numbers("model.embed_tokens.weight").iter().zip(&embed) {
        assert_eq!(written * 8.0, *ours);
    }
    for (written, ours) in numbers("model.norm.weight").iter().zip(&last) {
        assert!(((written + 1.0) - ours * 8.0).abs() < 1e-5, "{written} {ours}");
    }
}

#[test]
fn what_llama_cpp_cannot_express_is_refused_by_its_field() {
    let plain = AttentionSpec::default();
    let table = RopeTable { frequencies: vec![1.0, 0.5, 0.4, 0.1, 0.01, 0.002, 0.0, 0.0], long: None };
    let each = AttentionSpec { head_norm: HeadNorm::EachHead, rope_table: 1, ..plain };
    let spec = alike(LayerNorms::default(), each, ActivationFunction::Silu);
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny_as(dir.path(), ModelSpec { rope_tables: vec![table], ..spec }, |_| ());
    let out = dir.path().join("out");
    let fault = export(&folder, options(out.clone(), ExportFormat::Gguf, 4.0, None)).unwrap_err().to_string();
    assert!(fault.contains("rope_table of layer 0") && fault.contains("qwen3"), "{fault}");
    // transformers takes any table.
    export(&folder, options(out, ExportFormat::Safetensors, 4.0, None)).unwrap();
}

#[test]
fn a_window_that_llama_cpp_lacks_cuts_the_context() {
    let dir = tempfile::tempdir().unwrap();
    let windowed = AttentionSpec { window: Some(32), ..AttentionSpec::default() };
    let spec = alike(LayerNorms::default(), windowed, ActivationFunction::Silu);
    let folder = tiny_as(dir.path(), spec, |_| ());
    let out = dir.path().join("out.gguf");
    let plan = ExportPlan::new(&folder, options(out.clone(), ExportFormat::Gguf, 4.0, None)).unwrap();
    assert!(plan.warnings.len() == 1 && plan.warnings[0].contains("context of 32 tokens"), "{:?}", plan.warnings);
    plan.write(&mut going_on).unwrap();
    assert_eq!(open(&out).unwrap().shape().max_context, 32);
}

#[test]
fn a_stopped_export_leaves_nothing_and_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 7, true);
    let outs = dir.path().join("outs");
    for format in ExportFormat::ALL {
        let out = outs.join(format.name());
        let stopped = |replace| {
            let options = ExportOptions { replace, ..options(out.clone(), format, 4.0, None) };
            let plan = ExportPlan::new(&folder, options).unwrap();
            plan.write(&mut |progress| {
                if progress.done * 2 > progress.total { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        assert!(matches!(stopped(false), Err(Error::Stopped("export"))));
        assert!(!out.exists());
        export(&folder, options(out.clone(), format, 8.0, None)).unwrap();
        let before = weights_sha256(&mut *open(&out).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(matches!(stopped(true), Err(Error::Stopped("export"))));
        let after = weights_sha256(&mut *open(&out).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(before, after);
    }
    assert_eq!(names(&outs), ["gguf", "safetensors"]);
}

#[test]
fn only_exports_give_way_to_exports() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 8, true);
    for format in ExportFormat::ALL {
        let out = dir.path().join(format!("out {format}"));
        let run = |replace| export(&folder, ExportOptions { replace, ..options(out.clone(), format, 4.0, None) });
        run(false).unwrap();
        let fault = run(false).unwrap_err().to_string();
        assert!(fault.contains("which was not to be replaced"), "{fault}");
        run(true).unwrap();
    }
    // What is none stays.
    let file = dir.path().join("notes.txt");
    fs::write(&file, "mine").unwrap();
    let over = ExportOptions { replace: true, ..options(file.clone(), ExportFormat::Gguf, 4.0, None) };
    assert!(export(&folder, over).unwrap_err().to_string().contains("another file"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let source = dir.path().join("source");
    let over = ExportOptions { replace: true, ..options(source.clone(), ExportFormat::Safetensors, 4.0, None) };
    assert!(export(&folder, over).unwrap_err().to_string().contains("output"));
    assert!(source.join("model.safetensors").is_file() && !source.join("edge-run-export.json").exists());
    // A file of one's own beside an export stays beside the next one.
    let out = dir.path().join("out safetensors");
    fs::write(out.join("mine.txt"), "mine").unwrap();
    export(&folder, ExportOptions { replace: true, ..options(out.clone(), ExportFormat::Safetensors, 8.0, None) })
        .unwrap();
    assert_eq!(fs::read_to_string(out.join("mine.txt")).unwrap(), "mine");
    assert!(names(&out).iter().all(|name| !name.contains("partial")), "{:?}", names(&out));
}

#[test]
fn half_precision_rounds_to_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny(dir.path(), 9, true);
    let out = dir.path().join("out");
    export(&folder, options(out.clone(), ExportFormat::Safetensors, 8.0, None)).unwrap();
    let (mut rows, mut back) = (DepthRows::new(&folder, Depth::FULL), open(&out).unwrap());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    rows.rows(SourceTensor::Down(1), 0..64, &mut ours).unwrap();
    back.rows(SourceTensor::Down(1), 0..64, &mut theirs).unwrap();
    assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| f16::from_f32(*ours).to_f32() == *theirs));
}
