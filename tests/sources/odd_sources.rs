//! Sources as people have them: shards, tied tensors, caches, and what stands in the place of a model.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use crate::common::gguf::{GgufType, GgufValue};
use crate::common::{TinyModel, quantize_tiny, tiny_hf_folder, tiny_shape};
use assert_cmd::Command;
use edge_run::Error;
use edge_run::internals::format::ModelFolder;
use edge_run::internals::quantize::{QuantizeOptions, SourceTensor, open, quantize};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:5f0c3a1e\nsize 269060552\n";

fn write_tensors(path: &Path, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, w)| w.iter().flat_map(|w| w.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, dims, _), bytes)| (*name, TensorView::new(Dtype::F32, dims.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

/// All weights of a source, tensor by tensor.
fn weights(path: &Path) -> Vec<Vec<f32>> {
    let mut source = open(path).unwrap();
    let (shape, spec) = (source.shape().clone(), source.spec().clone());
    SourceTensor::all(&shape, &spec)
        .into_iter()
        .map(|tensor| {
            let mut rows = Vec::new();
            source.rows(tensor, 0..tensor.dims(&shape, &spec).0, &mut rows).unwrap();
            rows
        })
        .collect()
}

/// Why a source is refused, and the exit code of the program that was given it.
fn refusal(path: &Path) -> (String, i32) {
    let fault = open(path).err().unwrap_or_else(|| panic!("{} is taken", path.display())).to_string();
    let mut program = Command::cargo_bin("edge-run").unwrap();
    let run = program.arg("quantize").arg(path).arg("-o").arg(path.with_file_name("never")).output().unwrap();
    assert!(!path.with_file_name("never").exists());
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(said.contains(&fault), "{said}");
    (fault, run.status.code().unwrap())
}

#[test]
fn in_a_sharded_folder_the_index_decides() {
    let home = tempfile::tempdir().unwrap();
    let model = TinyModel::new(tiny_shape(true), 21);
    let (whole, dir) = (home.path().join("whole"), home.path().join("sharded"));
    model.write_hf(&whole, Dtype::F32, 1);
    model.write_hf(&dir, Dtype::F32, 3);
    // A stale copy of a tensor, in a shard that sorts before its own.
    let norm = "model.norm.weight";
    write_tensors(&dir.join("a.safetensors"), &[(norm, vec![64], vec![9.0; 64]), ("x", vec![1], vec![0.0])]);
    let index = dir.join("model.safetensors.index.json");
    change_json(&index, |index| index["weight_map"]["x.rotary_emb.inv_freq"] = json!("a.safetensors"));
    write_tensors(
        &dir.join("a.safetensors"),
        &[(norm, vec![64], vec![9.0; 64]), ("x.rotary_emb.inv_freq", vec![1], vec![0.0])],
    );
    assert_eq!(weights(&dir), weights(&whole));
    let warnings = open(&dir).unwrap().warnings().to_vec();
    assert!(warnings[0].contains(norm) && warnings[0].contains("a.safetensors"), "{warnings:?}");

    // The index names a shard that does not have the tensor.
    change_json(&index, |index| {
        index["weight_map"]["model.layers.0.mlp.up_proj.weight"] = json!("a.safetensors");
    });
    let (fault, code) = refusal(&dir);
    assert!(fault.contains("a.safetensors") && fault.contains("model.layers.0.mlp.up_proj.weight"), "{fault}");
    assert_eq!(code, 4);

    // A tensor that the index lacks is not looked for.
    model.write_hf(&dir, Dtype::F32, 3);
    change_json(&index, |index| drop(index["weight_map"].as_object_mut().unwrap().remove(norm)));
    assert!(refusal(&dir).0.contains(norm));

    model.write_hf(&dir, Dtype::F32, 3);
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("\"weight_map\":{", "\"weight_map\":{\"model.norm.weight\":\"a.safetensors\","))
        .unwrap();
    assert!(refusal(&dir).0.contains("the key `model.norm.weight` twice"));

    model.write_hf(&dir, Dtype::F32, 3);
    fs::remove_file(dir.join("model-00002-of-00003.safetensors")).unwrap();
    let (fault, code) = refusal(&dir);
    assert!(fault.contains("1 of them missing: model-00002-of-00003.safetensors"), "{fault}");
    assert_eq!(code, 4);
}

#[test]
fn a_file_of_the_whole_model_counts_before_an_index() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("both");
    let model = TinyModel::new(tiny_shape(true), 22);
    TinyModel::new(tiny_shape(true), 23).write_hf(&dir, Dtype::F32, 2);
    model.write_hf(&dir, Dtype::F32, 1);
    model.write_hf(&home.path().join("whole"), Dtype::F32, 1);
    assert_eq!(weights(&dir), weights(&home.path().join("whole")));
    assert!(open(&dir).unwrap().warnings()[0].contains("model.safetensors.index.json is left out"));
    let map = BTreeMap::from([(EMBED, "model.safetensors")]);
    fs::write(dir.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    assert_eq!(open(&dir).unwrap().warnings(), [""; 0]);
}

#[test]
fn a_tied_embedding_may_have_either_name() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("hf");
    let mut model = TinyModel::new(tiny_shape(true), 24);
    model.write_hf(&dir, Dtype::F32, 1);
    let expected = weights(&dir);
    let embed = model.tensors[EMBED].clone();

    model.tensors.insert(HEAD.into(), embed.clone());
    model.write_hf(&dir, Dtype::F32, 1);
    assert_eq!(weights(&dir), expected);
    model.write_gguf(&home.path().join("untied.gguf"), GgufType::F32);
    assert!(!open(&home.path().join("untied.gguf")).unwrap().shape().tied_head);

    model.tensors.remove(EMBED);
    model.write_hf(&dir, Dtype::F32, 1);
    assert_eq!(weights(&dir), expected);
    assert_eq!(open(&dir).unwrap().locate(SourceTensor::Embed).1, HEAD);
    let gguf = home.path().join("head.gguf");
    model.write_gguf(&gguf, GgufType::F32);
    assert_eq!(weights(&gguf), expected);
    assert_eq!(open(&gguf).unwrap().locate(SourceTensor::Embed).1, "output.weight");
    quantize_tiny(&gguf, &home.path().join("model")).unwrap();

    // Both, with other numbers: some programs take one, some the other.
    let mut other = embed.clone();
    other.1[70] += 1.0;
    model.tensors.insert(EMBED.into(), other);
    model.write_hf(&dir, Dtype::F32, 1);
    let (fault, code) = refusal(&dir);
    assert!(fault.contains("lm_head.weight: expected the numbers of") && fault.contains("row 1 on"), "{fault}");
    assert_eq!(code, 4);

    // A head that is not the embedding must be there.
    change_json(&dir.join("config.json"), |config| config["tie_word_embeddings"] = json!(false));
    assert!(open(&dir).is_ok());
    model.tensors.remove(HEAD);
    write_tensors(
        &dir.join("model.safetensors"),
        &model.tensors.iter().map(|(n, (d, w))| (n.as_str(), d.clone(), w.clone())).collect::<Vec<_>>(),
    );
    assert!(refusal(&dir).0.contains("lm_head.weight"));
}

#[test]
fn what_stands_in_the_place_of_a_file_is_named() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("hf");
    let stand_ins: [(&[u8], &str, i32); 6] = [
        (POINTER.as_bytes(), "git lfs pull", 4),
        (b"<!DOCTYPE html>\n<html>", "web page", 4),
        (b"", "an empty file", 4),
        (b"Entry not found", "server's error", 4),
        (b"PK\x03\x04\0\0\0\0\0\0archive/data.pkl", "PyTorch weights", 5),
        (b"\x1f\x8b\x08\0", "gzip", 5),
    ];
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        for (bytes, named, code) in stand_ins {
            tiny_hf_folder(&dir, 25, true);
            fs::write(dir.join(name), bytes).unwrap();
            let fault = quantize_tiny(&dir, &home.path().join("out")).unwrap_err();
            assert!(fault.to_string().contains(named) && fault.to_string().contains(name), "{name}: {fault}");
            let expected = if code == 4 { "Damaged" } else { "Unsupported" };
            assert!(format!("{fault:?}").starts_with(expected), "{fault:?}");
            fs::write(home.path().join("x.gguf"), bytes).unwrap();
            let (fault, got) = refusal(&home.path().join("x.gguf"));
            assert!(fault.contains(named) && got == code, "{fault} {got}");
        }
    }
    tiny_hf_folder(&dir, 25, true);
    let sound = fs::read(dir.join("model.safetensors")).unwrap();
    for length in [5, 100, sound.len() - 1] {
        fs::write(dir.join("model.safetensors"), &sound[..length]).unwrap();
        let (fault, code) = refusal(&dir);
        assert!(fault.contains("cut short") && code == 4, "{fault}");
    }
}

#[test]
fn a_folder_that_is_no_model_says_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str, i32); 14] = [
        (&[], "an empty folder", 4),
        (&["README.md"], "no config.json and model.safetensors", 4),
        (&["config.json", "tokenizer.json"], "no model.safetensors", 4),
        (&["config.json", "pytorch_model.bin", "tokenizer.json"], "PyTorch weights, pytorch_model.bin", 5),
        (&["config.json", "consolidated.00.pth"], "as Meta and Mistral name its files", 5),
        (&["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"], "LoRA adapter", 5),
        (&["config.json", "small.gguf"], "small.gguf`", 5),
        (&["a.gguf", "b.gguf"], "2 GGUF files", 5),
        (&["edge-run.json", "base.safetensors"], "is quantized already", 5),
        (&["config.json", "model.safetensors", "tokenizer.model"], "there is tokenizer.model only", 4),
        (&["model.safetensors", "tokenizer.json"], "no config.json", 4),
        (&["config.json", "model-00001-of-00002.safetensors"], "which names shards", 4),
        (&["config.json", "model.onnx"], "ONNX", 5),
        (&["Modelfile"], "Ollama Modelfile", 5),
    ];
    for (at, (files, named, code)) in cases.into_iter().enumerate() {
        let dir = home.path().join(format!("case {at}"));
        fs::create_dir(&dir).unwrap();
        files.iter().for_each(|file| fs::write(dir.join(file), "{}").unwrap());
        let (fault, got) = refusal(&dir);
        assert!(fault.contains(named) && fault.contains(&format!("case {at}")), "{files:?}: {fault}");
        assert_eq!(got, code, "{fault}");
    }
    let inner = home.path().join("above/model");
    tiny_hf_folder(&inner, 26, true);
    assert!(refusal(&home.path().join("above")).0.contains("above/model`"));
    for (file, bytes, named) in [
        ("Modelfile", "# mine\nFROM ./x.gguf\n", "Ollama Modelfile"),
        ("manifest", "{\"mediaType\": \"application/vnd.docker.distribution.manifest.v2+json\"}", "an Ollama manifest"),
        ("model.pth", "something", "PyTorch weights"),
        ("notes.txt", "something", "neither GGUF nor safetensors"),
    ] {
        fs::write(home.path().join(file), bytes).unwrap();
        let (fault, code) = refusal(&home.path().join(file));
        assert!(fault.contains(named) && code == 5, "{fault}");
    }
    for file in ["model.safetensors", "config.json"] {
        assert!(refusal(&inner.join(file)).0.contains("folder"), "{file}");
    }
}

#[test]
fn a_model_folder_is_not_quantized_again_and_its_files_are_no_models() {
    let home = tempfile::tempdir().unwrap();
    tiny_hf_folder(&home.path().join("hf"), 27, true);
    let model = home.path().join("model");
    quantize_tiny(&home.path().join("hf"), &model).unwrap();
    for path in [model.clone(), model.join("edge-run.json"), model.join("base.safetensors")] {
        let (fault, code) = refusal(&path);
        assert!(fault.contains("quantized already") && code == 5, "{fault}");
    }
    for (path, named) in [("model/edge-run.json", "pass its folder"), ("hf", "this is a source"), ("", "one in it")] {
        let fault = ModelFolder::open(&home.path().join(path)).unwrap_err();
        assert!(matches!(fault, Error::ModelMissing { .. }) && fault.to_string().contains(named), "{fault}");
    }
    fs::write(model.join("slice-2.safetensors"), POINTER).unwrap();
    assert!(ModelFolder::open(&model).unwrap_err().to_string().contains("git lfs pull"));
}

#[test]
fn a_gguf_file_is_read_as_llama_cpp_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("tiny-v1.gguf");
    let model = TinyModel::new(tiny_shape(true), 28);
    let written = |changes: &[(&str, GgufValue)]| {
        model.write_gguf_with(&path, GgufType::F32, changes);
        open(&path).map(|source| (source.model_source().name.clone(), source.warnings().to_vec()))
    };
    let text = |text: &str| GgufValue::String(text.into());
    assert_eq!(written(&[("general.name", text("Tiny"))]).unwrap(), ("Tiny".into(), vec![]));
    assert_eq!(written(&[("general.name", text(" \n"))]).unwrap(), ("tiny-v1".into(), vec![]));
    let list = GgufValue::Array(vec![text("a"), text("b")]);
    let (name, warnings) = written(&[("general.name", list.clone()), ("general.license", list)]).unwrap();
    assert_eq!((name.as_str(), warnings.len()), ("tiny-v1", 2));
    assert!(warnings[0].contains("general.name") && warnings[0].contains("counts as absent"), "{warnings:?}");
    let split = written(&[("split.count", GgufValue::U16(3)), ("general.architecture", text(""))]);
    let split = split.unwrap_err().to_string();
    assert!(split.contains("00001-of-00003"), "{split}");
    let equal = GgufValue::Array(vec![GgufValue::I32(2), GgufValue::I32(2)]);
    assert!(written(&[("llama.attention.head_count_kv", equal)]).is_ok());
    let wrong = written(&[("llama.rope.freq_base", text("10000"))]).unwrap_err().to_string();
    assert!(wrong.contains("llama.rope.freq_base: expected a number, got the text `10000`"), "{wrong}");
}

#[cfg(unix)]
#[test]
fn a_snapshot_of_the_hub_s_cache_has_the_model_s_name_and_links_to_blobs() {
    let home = tempfile::tempdir().unwrap();
    let (repository, blobs) = (home.path().join("models--some-owner--Tiny-1B"), home.path().join("blobs"));
    let snapshot = repository.join("snapshots/3f1c");
    fs::create_dir_all(&snapshot).unwrap();
    tiny_hf_folder(&blobs, 29, true);
    for file in fs::read_dir(&blobs).unwrap() {
        let file = file.unwrap();
        std::os::unix::fs::symlink(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    assert_eq!(open(&snapshot).unwrap().model_source().name, "some-owner/Tiny-1B");
    assert!(refusal(&repository).0.contains("snapshots/3f1c`"));
    fs::remove_file(blobs.join("model.safetensors")).unwrap();
    let (fault, code) = refusal(&snapshot);
    assert!(fault.contains("a link to") && fault.contains("download it again") && code == 4, "{fault}");
}

#[cfg(unix)]
#[test]
fn what_is_wrong_with_the_place_is_found_before_weights_are_read() {
    let home = tempfile::tempdir().unwrap();
    let source = home.path().join("hf");
    tiny_hf_folder(&source, 30, true);
    let at = |name: &str| home.path().join(name);
    fs::write(at("file"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere/at/all", at("dangling")).unwrap();
    let options =
        |out: &str, replace| QuantizeOptions { out: at(out), group_size: Some(64), calibration: None, replace };
    for out in ["file", "file/model", "dangling", "hf"] {
        let fault = quantize(&mut *open(&source).unwrap(), &options(out, true), &mut |_| panic!("{out}: work began"));
        assert!(matches!(fault, Err(Error::InvalidArgument { .. })), "{out}: {fault:?}");
    }
    // While one run writes, another for its place is refused, and the first ends well.
    let mut tried = false;
    let report = quantize(&mut *open(&source).unwrap(), &options("model", false), &mut |_| {
        if !tried {
            tried = true;
            let second = quantize(&mut *open(&source).unwrap(), &options("model", true), &mut |_| panic!("work began"));
            assert!(second.unwrap_err().to_string().contains("another run is writing"));
        }
        ControlFlow::Continue(())
    });
    report.unwrap();
    let never = &mut |_, _| ControlFlow::Continue(());
    ModelFolder::verify(&at("model"), never).unwrap();
    // A text of the user's in the place of one that the model is to have stops the replacement before it begins.
    let manifest = at("model/edge-run.json");
    change_json(&manifest, |manifest| drop(manifest["files"].as_object_mut().unwrap().remove("chat_template.jinja")));
    let fault = quantize(&mut *open(&source).unwrap(), &options("model", true), &mut |_| panic!("work began"));
    assert!(fault.unwrap_err().to_string().contains("chat_template.jinja"));
    fs::rename(at("model/chat_template.jinja"), at("model/mine.jinja")).unwrap();
    // A run that is stopped leaves the old model as it was.
    let before = fs::read(&manifest).unwrap();
    let stopped = quantize(&mut *open(&source).unwrap(), &options("model", true), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Error::Stopped(_))));
    assert_eq!(fs::read(&manifest).unwrap(), before);
    quantize(&mut *open(&source).unwrap(), &options("model", true), &mut |_| ControlFlow::Continue(())).unwrap();
    ModelFolder::verify(&at("model"), never).unwrap();
    assert!(at("model/mine.jinja").is_file());
    assert!(!at("model/.edge-run.partial").exists());
}
