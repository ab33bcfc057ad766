//! Model folders and calibration packs that were damaged in every way a reader must notice.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common;
use crate::common::{quantize_tiny, tiny_hf_folder};
use crate::pack;
use crate::pack::{TestPack, quantize_with};
use edge_run::Error;
use edge_run::internals::arch::HeadNorm;
use edge_run::internals::format::{FORMAT_VERSION, MANIFEST_FILE, Manifest, ModelFolder, Pack};
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A sound folder, and the temporary one that holds it.
fn sound(seed: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    tiny_hf_folder(&dir.path().join("source"), seed, false);
    let model = dir.path().join("model");
    quantize_tiny(&dir.path().join("source"), &model).unwrap();
    (dir, model)
}

/// A sound folder with routers, the pack that they come from, and what holds them.
fn routed(seed: u64) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let (dir, plain) = sound(seed);
    let (source, model, pack) =
        (dir.path().join("source"), dir.path().join("routed"), dir.path().join("pack.safetensors"));
    TestPack::of(&source, &plain, seed).write(&pack).unwrap();
    quantize_with(&source, &model, &pack).unwrap();
    (dir, model, pack)
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn change_manifest(model: &Path, change: impl FnOnce(&mut Value)) {
    let path = model.join(MANIFEST_FILE);
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

/// Changes the header of a safetensors file, and the manifest so that sizes and hashes agree with it again.
fn change_header(model: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    change_padded_header(model, file, 0, change);
}

/// As [`change_header`], with `extra` spaces at the header's end.
fn change_padded_header(model: &Path, file: &str, extra: usize, change: impl FnOnce(&mut Value)) {
    pack::change_header(&model.join(file), extra, change);
    agree(model, file);
}

/// Makes size and hashes in the manifest those of a safetensors file.
fn agree(model: &Path, file: &str) {
    let bytes = fs::read(model.join(file)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let entry = json!({"bytes": bytes.len(), "sha256": hex(&bytes), "header_sha256": hex(&bytes[..8 + length])});
    change_manifest(model, |manifest| manifest["files"][file] = entry);
}

/// Replaces the first bytes of a tensor of a safetensors file.
fn change_data(path: &Path, tensor: &str, first: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let at = 8 + length + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[at..at + first.len()].copy_from_slice(first);
    fs::write(path, bytes).unwrap();
}

/// The error of opening the folder; it must be one that names a file and a thing in it.
fn damage(model: &Path) -> String {
    let fault = ModelFolder::open(model).unwrap_err();
    assert!(matches!(fault, Error::Damaged { .. }), "{fault}");
    fault.to_string()
}

#[test]
fn a_folder_without_a_model_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("nowhere")] {
        let fault = ModelFolder::open(&path).unwrap_err();
        assert!(matches!(fault, Error::ModelMissing { .. }), "{fault}");
        assert!(fault.to_string().contains("edge-run quantize SRC -o"), "{fault}");
    }
}

#[test]
fn every_file_must_have_its_length() {
    let (_dir, model) = sound(1);
    let names: Vec<String> = ModelFolder::open(&model).unwrap().manifest().files.keys().cloned().collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let bytes = fs::read(model.join(&name)).unwrap();
        fs::write(model.join(&name), &bytes[..bytes.len() - 1]).unwrap();
        let fault = damage(&model);
        assert!(fault.contains(&name) && fault.contains(&format!("got {} bytes", bytes.len() - 1)), "{fault}");
        fs::remove_file(model.join(&name)).unwrap();
        let fault = damage(&model);
        assert!(fault.contains(&name) && fault.contains("got no file"), "{fault}");
        fs::write(model.join(&name), &bytes).unwrap();
    }
    ModelFolder::open(&model).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_is_found_by_verify_and_never_panics() {
    let (_dir, model) = sound(2);
    let mut random = StdRng::seed_from_u64(2);
    let names: Vec<String> = ModelFolder::open(&model).unwrap().manifest().files.keys().cloned().collect();
    for name in names.iter().map(String::as_str).chain([MANIFEST_FILE]) {
        let bytes = fs::read(model.join(name)).unwrap();
        for _ in 0..60 {
            let mut flipped = bytes.clone();
            let at = random.random_range(0..bytes.len().min(20_000));
            flipped[at] ^= 1 << random.random_range(0..8);
            fs::write(model.join(name), &flipped).unwrap();
            let found = ModelFolder::verify(&model, &mut go_on);
            if name == MANIFEST_FILE {
                // It may still be a manifest, of the same files then.
                match found {
                    Ok(report) => assert_eq!(report.files, names.len()),
                    Err(fault) => {
                        assert!(
                            matches!(fault, Error::Damaged { .. } | Error::Unsupported { .. }),
                            "byte {at}: {fault}"
                        )
                    }
                }
                continue;
            }
            let fault = found.unwrap_err().to_string();
            assert!(fault.contains(name) && fault.contains("SHA-256"), "byte {at}: {fault}");
            // Only a header is checked when a folder is opened, and a text when it is read.
            if let Ok(folder) = ModelFolder::open(&model) {
                assert!(folder.read_text(name).is_err());
            }
        }
        fs::write(model.join(name), &bytes).unwrap();
    }
    ModelFolder::verify(&model, &mut go_on).unwrap();
}

#[test]
fn verify_can_be_stopped() {
    let (_dir, model) = sound(3);
    let stopped = ModelFolder::verify(&model, &mut |done, total| {
        assert!(0 < done && done <= total);
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(Error::Stopped("verify"))));
}

#[test]
fn tensors_must_be_those_of_the_layout() {
    type Change = fn(&mut Value);
    let changes: [(&str, &str, Change); 5] = [
        ("base.safetensors", "layers.0.qkv.scales", |header| header["layers.0.qkv.scales"]["dtype"] = json!("BF16")),
        ("slice-1.safetensors", "layers.1.o.slice1", |header| header["layers.1.o.slice1"]["shape"] = json!([4, 64])),
        ("slice-2.safetensors", "layers.0.down.slice2", |header| {
            let header = header.as_object_mut().unwrap();
            let tensor = header.remove("layers.0.down.slice2").unwrap();
            header.insert("layers.9.down.slice2".into(), tensor);
        }),
        ("slice-3.safetensors", "one.more", |header| {
            header["one.more"] = json!({"dtype": "U32", "shape": [0], "data_offsets": [0, 0]});
        }),
        ("slice-3.safetensors", "embed.slice3: expected", |header| {
            header["embed.slice3"]["data_offsets"] = json!([0, 1u64 << 40]);
        }),
    ];
    for (file, named, change) in changes {
        let (_dir, model) = sound(4);
        change_header(&model, file, change);
        let fault = damage(&model);
        assert!(fault.contains(file) && fault.contains(named), "{fault}");
    }
}

#[test]
fn data_that_begins_between_words_is_refused() {
    let (_dir, model) = sound(6);
    change_padded_header(&model, "slice-1.safetensors", 8, |_| ());
    ModelFolder::open(&model).expect("whole words of padding do no harm");
    change_padded_header(&model, "slice-1.safetensors", 1, |_| ());
    assert!(damage(&model).contains("multiple of 4"));
}

#[test]
fn a_manifest_without_a_spec_is_of_llama() {
    let (_dir, model) = sound(5);
    let folder = ModelFolder::open(&model).unwrap();
    assert!(folder.manifest().spec.is_llama());
    let text = fs::read_to_string(model.join(MANIFEST_FILE)).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert!(written.get("spec").is_none(), "folders of LLaMA are as they were before there were specs");
    change_manifest(&model, |manifest| manifest["spec"] = json!({"layers": [{"activation": "silu"}]}));
    assert!(ModelFolder::open(&model).unwrap().manifest().spec.is_llama());
}

#[test]
fn a_manifest_of_another_family_keeps_its_spec_and_asks_for_its_tensors() {
    let (_dir, model) = sound(5);
    let mut manifest = ModelFolder::open(&model).unwrap().manifest().clone();
    manifest.spec.layers[0].attention.head_norm = HeadNorm::EachHead;
    manifest.format_version = FORMAT_VERSION;
    let text = serde_json::to_string(&manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    fs::write(model.join(MANIFEST_FILE), text).unwrap();
    assert!(damage(&model).contains("layers.0.query_norm: expected F32 [16], got no tensor"), "{}", damage(&model));
}

#[test]
fn a_manifest_of_another_kind_is_refused_by_field() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 18] = [
        ("edge-run.json`, `6` is not supported; supported: 1, 3, 4 and 5", |manifest| {
            *manifest = json!({"format_version": 6, "of": "another time"});
        }),
        ("`0` is not supported; supported: 1, 3, 4 and 5", |manifest| manifest["format_version"] = json!(0)),
        // Its routers looked at other numbers.
        ("`2` is not supported; supported: 1, 3, 4 and 5: quantize", |manifest| manifest["format_version"] = json!(2)),
        ("architecture `mamba`", |manifest| manifest["architecture"] = json!("mamba")),
        ("spec.layers[0].attention.window `0` is not supported; supported: 1 position", |manifest| {
            manifest["format_version"] = json!(4);
            manifest["spec"] = json!({"layers": [{"attention": {"window": 0}}]});
        }),
        // A reader that knew no families would take it.
        ("format_version: expected 4", |manifest| manifest["spec"] = json!({"logit_cap": 30})),
        ("spec.layers `0`", |manifest| {
            manifest["format_version"] = json!(4);
            manifest["spec"] = json!({"layers": []});
        }),
        ("unknown field `depth`", |manifest| manifest["spec"] = json!({"layers": [{"depth": 1}]})),
        ("number of slices `3`", |manifest| manifest["quantization"]["slices"] = json!(3)),
        ("number of bits of a slice `4`", |manifest| manifest["quantization"]["slice_bits"] = json!(4)),
        ("quantization.group_size", |manifest| manifest["quantization"]["group_size"] = json!(0)),
        ("shape.layers", |manifest| manifest["shape"]["layers"] = json!(0)),
        ("shape.heads", |manifest| manifest["shape"]["kv_heads"] = json!(0)),
        ("embed.slice0", |manifest| manifest["shape"]["vocab"] = json!(100)),
        ("unknown field `colour`", |manifest| manifest["colour"] = json!("red")),
        ("missing field `shape`", |manifest| drop(manifest.as_object_mut().unwrap().remove("shape"))),
        ("base.safetensors", |manifest| drop(manifest["files"].as_object_mut().unwrap().remove("base.safetensors"))),
        ("names of files in the folder", |manifest| {
            manifest["files"]["../source/config.json"] = json!({"bytes": 1, "sha256": ""});
        }),
    ];
    for (named, change) in changes {
        let (_dir, model) = sound(5);
        change_manifest(&model, change);
        let fault = ModelFolder::open(&model).unwrap_err();
        assert!(matches!(fault, Error::Damaged { .. } | Error::Unsupported { .. }), "{fault}");
        assert!(fault.to_string().contains(named), "{named}: {fault}");
    }
}

#[test]
fn texts_are_read_where_the_manifest_lists_them() {
    let (_dir, model) = sound(6);
    let folder = ModelFolder::open(&model).unwrap();
    assert_eq!(folder.read_text("chat_template.jinja").unwrap().as_deref(), Some(common::CHAT_TEMPLATE));
    assert_eq!(folder.read_text("README.md").unwrap(), None);
    assert!(folder.tensor(1, "embed.slice0").unwrap_err().to_string().contains("slice-1.safetensors"));
}

#[test]
fn a_folder_with_routing_must_have_sound_routers() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 7] = [
        // A reader that knew no routers would take it.
        ("format_version: expected 3", |manifest| manifest["format_version"] = json!(1)),
        ("routers.", |manifest| drop(manifest.as_object_mut().unwrap().remove("routing"))),
        ("routing: expected rising bits", |manifest| drop(manifest["routing"].as_array_mut().unwrap().pop())),
        ("routing: expected rising bits", |manifest| manifest["routing"] = json!([])),
        ("got 4 bits after 2 bits out of order", |manifest| manifest["routing"][1]["threshold"] = json!(9.0)),
        ("invalid type: null", |manifest| manifest["routing"][1]["threshold"] = Value::Null),
        ("unknown field `of`", |manifest| manifest["quantization"]["calibration"]["of"] = json!("old")),
    ];
    let (_dir, model, _) = routed(7);
    let sound = fs::read(model.join(MANIFEST_FILE)).unwrap();
    for (words, change) in changes {
        change_manifest(&model, change);
        let fault = damage(&model);
        assert!(fault.contains(words), "{words}: {fault}");
        fs::write(model.join(MANIFEST_FILE), &sound).unwrap();
    }
    ModelFolder::verify(&model, &mut go_on).unwrap();

    let (_dir, plain) = self::sound(7);
    change_manifest(&plain, |manifest| {
        manifest["format_version"] = json!(3);
        manifest["routing"] = serde_json::from_slice::<Value>(&sound).unwrap()["routing"].clone();
    });
    assert!(damage(&plain).contains("routers.w1: expected F16 [8, 32, 64], got no tensor"));
}

#[test]
fn a_router_that_is_not_finite_is_found_though_its_hash_is_right() {
    let infinite = f16::NEG_INFINITY.to_le_bytes();
    for (tensor, bytes) in [("routers.w1", &infinite[..]), ("routers.rest", &[0, 0, 0xc0, 0x7f])] {
        let (_dir, model, _) = routed(8);
        change_data(&model.join("base.safetensors"), tensor, bytes);
        agree(&model, "base.safetensors");
        let fault = damage(&model);
        assert!(fault.contains(&format!("{tensor}: expected finite numbers")), "{fault}");
        assert!(ModelFolder::verify(&model, &mut go_on).is_err());
    }
}

/// The error of opening the pack; it must be one that names the file and a thing in it.
fn pack_damage(path: &Path) -> String {
    let fault = Pack::open(path).unwrap_err();
    assert!(matches!(fault, Error::Damaged { .. } | Error::Unsupported { .. }), "{fault}");
    assert!(fault.to_string().contains("pack.safetensors`"), "{fault}");
    fault.to_string()
}

#[test]
fn a_pack_is_read_as_it_was_written() {
    let (dir, plain) = sound(9);
    let written = TestPack::of(&dir.path().join("source"), &plain, 9);
    let path = dir.path().join("new folder").join("pack.safetensors");
    for _ in 0..2 {
        written.write(&path).unwrap();
        let pack = Pack::open(&path).unwrap();
        assert_eq!((pack.info(), pack.path()), (&written.info, path.as_path()));
        let specs = written.info.tensors();
        assert_eq!(specs.len(), written.tensors.len());
        specs.iter().for_each(|spec| assert_eq!(pack.tensor(spec), written.tensors[&spec.name]));
    }
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside the pack");
}

#[test]
fn a_pack_that_would_not_be_read_is_not_written() {
    let (dir, plain) = sound(10);
    let path = dir.path().join("packs").join("pack.safetensors");
    let sound = || TestPack::of(&dir.path().join("source"), &plain, 10);
    sound().write(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let mut faulty = [sound(), sound(), sound()];
    faulty[0].set("layers.0.o.scales", 1, 0.0);
    faulty[1].set("routers.w1", 5, f32::NAN);
    faulty[2].info.group_size = 0;
    let words = ["layers.0.o.scales: expected steps above zero", "routers.w1", "group_size"];
    for (pack, words) in faulty.iter().zip(words) {
        let fault = pack.write(&path).unwrap_err().to_string();
        assert!(fault.contains(words) && fault.contains("pack.safetensors"), "{words}: {fault}");
        assert!(fs::read(&path).unwrap() == before, "the pack that was there is gone");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something is left beside the pack");
    }
}

#[test]
fn a_damaged_pack_is_refused_by_tensor_or_field() {
    type Change = fn(&mut Value);
    fn facts(header: &mut Value, change: impl FnOnce(&mut Value)) {
        let text = &mut header["__metadata__"]["edge_run_calibration"];
        let mut facts = serde_json::from_str(text.as_str().unwrap()).unwrap();
        change(&mut facts);
        *text = json!(facts.to_string());
    }
    let changes: [(&str, Change); 14] = [
        ("metadata edge_run_calibration: expected the facts of a calibration pack, got none", |header| {
            drop(header.as_object_mut().unwrap().remove("__metadata__"))
        }),
        ("metadata edge_run_calibration", |header| header["__metadata__"]["edge_run_calibration"] = json!("{")),
        ("`5` is not supported; supported: 2 to 4", |h| {
            facts(h, |facts| *facts = json!({"pack_version": 5, "of": "another time"}))
        }),
        ("missing field `recipe`", |h| facts(h, |facts| drop(facts.as_object_mut().unwrap().remove("recipe")))),
        ("unknown field `colour`", |h| facts(h, |facts| facts["colour"] = json!("red"))),
        ("edge_run_calibration.source_sha256: expected 64", |h| facts(h, |facts| facts["source_sha256"] = json!("é"))),
        ("edge_run_calibration.group_size", |h| facts(h, |facts| facts["group_size"] = json!(0))),
        ("edge_run_calibration.shape.heads", |h| facts(h, |facts| facts["shape"]["kv_heads"] = json!(0))),
        ("edge_run_calibration.thresholds: expected rising bits", |h| {
            facts(h, |facts| facts["thresholds"][0]["bits"] = json!(3.0))
        }),
        ("layers.1.qkv.scales: expected F16 [128, 1, 2], got BF16", |header| {
            header["layers.1.qkv.scales"]["dtype"] = json!("BF16")
        }),
        ("routers.w1: expected F16 [8, 32, 64], got F16 [8, 64, 32]", |header| {
            header["routers.w1"]["shape"] = json!([8, 64, 32])
        }),
        ("routers.rest: expected F32 [8, 132], got no tensor", |header| {
            let header = header.as_object_mut().unwrap();
            let tensor = header.remove("routers.rest").unwrap();
            header.insert("routers.other".into(), tensor);
        }),
        ("one.more: expected no such tensor", |header| {
            let end = header.as_object().unwrap().values().filter_map(|t| t["data_offsets"][1].as_u64()).max();
            header["one.more"] = json!({"dtype": "F16", "shape": [0], "data_offsets": [end, end]});
        }),
        ("routers.rest: expected data from byte", |header| {
            header["routers.rest"]["data_offsets"] = json!([0, 1u64 << 40]);
        }),
    ];
    let (_dir, _, path) = routed(11);
    let sound = fs::read(&path).unwrap();
    for (words, change) in changes {
        pack::change_header(&path, 0, change);
        let fault = pack_damage(&path);
        assert!(fault.contains(words), "{words}: {fault}");
        fs::write(&path, &sound).unwrap();
    }
    let (infinite, below) = (f16::INFINITY.to_le_bytes(), [f16::ONE, f16::NEG_ONE].map(f16::to_le_bytes));
    for (tensor, bytes, words) in [
        ("layers.0.qkv.scales", &infinite[..], "layers.0.qkv.scales: expected finite numbers"),
        ("layers.1.gate_up.scales", below.as_flattened(), "layers.1.gate_up.scales: expected steps above zero, got -1"),
        ("routers.rest", &[0, 0, 0xc0, 0x7f], "routers.rest: expected finite numbers"),
    ] {
        change_data(&path, tensor, bytes);
        let fault = pack_damage(&path);
        assert!(fault.contains(words), "{words}: {fault}");
        fs::write(&path, &sound).unwrap();
    }
    Pack::open(&path).unwrap();
}

#[test]
fn what_is_no_pack_at_all_is_refused_and_never_panics() {
    let (dir, model, path) = routed(12);
    let sound = fs::read(&path).unwrap();
    for length in [1, 7, 8, 100, sound.len() / 2, sound.len() - 1] {
        fs::write(&path, &sound[..length]).unwrap();
        pack_damage(&path);
    }
    fs::write(&path, "GGUF and then something else").unwrap();
    assert!(pack_damage(&path).contains("header"));
    fs::copy(model.join("base.safetensors"), &path).unwrap();
    assert!(pack_damage(&path).contains("facts of a calibration pack"));
    for nothing in [dir.path().join("nowhere"), dir.path().to_path_buf()] {
        let fault = Pack::open(&nothing).unwrap_err();
        assert!(matches!(fault, Error::Io { .. }), "{fault}");
    }

    let mut random = StdRng::seed_from_u64(12);
    println!("seed 12");
    for _ in 0..300 {
        let mut flipped = sound.clone();
        let at = random.random_range(0..flipped.len().min(12_000));
        flipped[at] ^= 1 << random.random_range(0..8);
        fs::write(&path, &flipped).unwrap();
        // A flipped bit of a number may leave a pack; its hash in a model's manifest is another then.
        let _ = Pack::open(&path);
    }
}
