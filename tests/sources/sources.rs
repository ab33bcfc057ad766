//! Checkpoints that cannot become a model folder, each refused by the name of what is wrong.

use std::fs;
use std::path::Path;

use crate::common::gguf::{GgufType, GgufValue};
use crate::common::{TinyModel, quantize_tiny, tiny_hf_folder, tiny_shape};
use edge_run::internals::quantize::open;
use edge_run::{Error, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;
use serde_json::json;

#[test]
fn sources_that_are_no_whole_sound_llama_are_refused_by_name() {
    let fault = |change: &dyn Fn(&mut TinyModel)| -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut model = TinyModel::new(tiny_shape(true), 7);
        change(&mut model);
        model.write_hf(&dir.path().join("hf"), Dtype::F32, 1);
        model.write_gguf(&dir.path().join("model.gguf"), GgufType::F32);
        let run = |name: &str| -> Result<_> { quantize_tiny(&dir.path().join(name), &dir.path().join("out")) };
        let faults = [run("hf"), run("model.gguf")].map(|run| run.unwrap_err().to_string());
        assert!(!dir.path().join("out").exists());
        faults.join("\n")
    };
    let norm = "model.layers.1.input_layernorm.weight";
    let down = "model.layers.1.mlp.down_proj.weight";

    let missing = fault(&|model| drop(model.tensors.remove(down)));
    assert!(missing.contains(down) && missing.contains("blk.1.ffn_down.weight"), "{missing}");
    let misshapen = fault(&|model| drop(model.tensors.insert(norm.into(), (vec![32], vec![1.0; 32]))));
    assert!(misshapen.contains(norm) && misshapen.contains("expected [64], got [32]"), "{misshapen}");
    let biased = fault(&|model| drop(model.tensors.insert("model.layers.0.bias".into(), (vec![64], vec![0.0; 64]))));
    assert!(biased.contains("tensor `model.layers.0.bias`") && biased.contains("tensor `blk.0.bias`"), "{biased}");
    let not_finite = fault(&|model| model.tensors.get_mut(down).unwrap().1[128 * 3 + 5] = f32::NAN);
    assert!(not_finite.contains(down) && not_finite.matches("got NaN in row 3").count() == 2, "{not_finite}");
    let not_finite = fault(&|model| model.tensors.get_mut(norm).unwrap().1[0] = f32::INFINITY);
    assert!(not_finite.contains("blk.1.attn_norm.weight") && not_finite.contains("got inf"), "{not_finite}");
}

#[test]
fn another_architecture_is_refused_with_those_that_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let model = TinyModel::new(tiny_shape(true), 10);
    let fault = |name: &str| open(&dir.path().join(name)).err().unwrap().to_string();

    model.write_hf(dir.path(), Dtype::F32, 1);
    let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
    fs::write(dir.path().join("config.json"), config.replace("LlamaForCausalLM", "GemmaForCausalLM")).unwrap();
    let refusal = |name: &str, stated: &str| {
        let file = dir.path().join(name);
        let (file, nearest) = (file.display(), "supported: Gemma 2 and Gemma 3, nearest to Gemma 1");
        format!("`{file}`: architecture `{stated}` is not supported; {nearest}")
    };
    assert_eq!(fault(""), refusal("config.json", "GemmaForCausalLM"));

    let gguf = |key, value| {
        model.write_gguf_with(&dir.path().join("x.gguf"), GgufType::F32, &[(key, value)]);
        fault("x.gguf")
    };
    let other = gguf("general.architecture", GgufValue::String("gemma".into()));
    assert_eq!(other, refusal("x.gguf", "gemma"));
    assert!(gguf("llama.expert_count", GgufValue::U32(8)).contains("x.gguf`: number of experts `8`"));
    assert!(gguf("general.alignment", GgufValue::U32(0)).contains("general.alignment"));
}

/// Each of these is found elsewhere: in the shape, in what follows from it, among the tensors, in the text.
#[test]
fn what_is_not_supported_is_told_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = TinyModel::new(tiny_shape(true), 10);
    let refusal = |path: &Path| match open(path).and_then(|source| source.text().map(drop)) {
        Err(fault @ Error::Unsupported { .. }) => fault.to_string(),
        other => panic!("{other:?}"),
    };
    model.write_hf(dir.path(), Dtype::F32, 1);
    let path = dir.path().join("config.json");
    let config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value, what) in [
        ("vocab_size", json!(0), "vocab `0`"),
        ("rope_theta", json!(-1.0), "rope.theta `-1`"),
        ("hidden_act", json!("gelu"), "hidden_act `gelu`"),
    ] {
        let mut changed = config.clone();
        changed[field] = value;
        fs::write(&path, changed.to_string()).unwrap();
        let named = format!("`{}`: {what} is not supported; supported: ", path.display());
        assert!(refusal(dir.path()).starts_with(&named), "{}", refusal(dir.path()));
    }
    let path = dir.path().join("x.gguf");
    for (key, value, what) in [
        ("llama.rope.freq_base", GgufValue::F32(-1.0), "rope.theta `-1`"),
        ("llama.attention.key_length", GgufValue::U32(31), "head_dim `31`"),
        ("tokenizer.ggml.model", GgufValue::String("bert".into()), "tokenizer `bert`"),
    ] {
        model.write_gguf_with(&path, GgufType::F32, &[(key, value)]);
        let named = format!("`{}`: {what} is not supported; supported: ", path.display());
        assert!(refusal(&path).starts_with(&named), "{}", refusal(&path));
    }
}

#[test]
fn files_that_are_missing_or_no_model_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let fault = |path: &Path| open(path).err().unwrap().to_string();
    assert!(fault(&dir.path().join("nowhere")).contains("nowhere"));
    fs::write(dir.path().join("notes.txt"), "GGML").unwrap();
    assert!(fault(&dir.path().join("notes.txt")).contains("notes.txt"));
    assert!(fault(dir.path()).contains("config.json"));

    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let source = dir.path().join(format!("without {file}"));
        tiny_hf_folder(&source, 8, true);
        fs::remove_file(source.join(file)).unwrap();
        let fault = quantize_tiny(&source, &dir.path().join("out")).unwrap_err().to_string();
        assert!(fault.contains(file), "{fault}");
    }
}

#[test]
fn a_cut_or_flipped_source_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let model = TinyModel::new(tiny_shape(true), 9);
    model.write_gguf(&dir.path().join("model.gguf"), GgufType::Q8_0);
    model.write_hf(&dir.path().join("hf"), Dtype::F16, 1);
    let mut random = StdRng::seed_from_u64(9);
    for (source, file, header) in [("model.gguf", "model.gguf", 8000), ("hf", "hf/model.safetensors", 2000)] {
        let sound = fs::read(dir.path().join(file)).unwrap();
        for round in 0..150 {
            let mut bytes = sound.clone();
            if round % 3 == 0 {
                bytes.truncate(random.random_range(0..sound.len()));
            } else {
                let at = random.random_range(0..header);
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            fs::write(dir.path().join(file), &bytes).unwrap();
            let run = quantize_tiny(&dir.path().join(source), &dir.path().join("out"));
            assert!(round % 3 != 0 || run.is_err(), "{file} cut to {} of {} bytes", bytes.len(), sound.len());
            let _ = fs::remove_dir_all(dir.path().join("out"));
        }
    }
}
