//! Model folders that were damaged in every way a reader must notice.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::{quantize_tiny, tiny_hf_folder};
use edge_run::Error;
use edge_run::format::{MANIFEST_FILE, ModelFolder};
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
    let bytes = fs::read(model.join(file)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut json: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut json);
    let mut header = json.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8) + extra, b' ');
    let header = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let whole = [&header, &bytes[8 + length..]].concat();
    fs::write(model.join(file), &whole).unwrap();
    change_manifest(model, |manifest| {
        manifest["files"][file] = json!({
            "bytes": whole.len(), "sha256": hex(&whole), "header_sha256": hex(&header),
        });
    });
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
        ("slice-3.safetensors", "header", |header| {
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
fn a_manifest_of_another_kind_is_refused_by_field() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 12] = [
        ("model folder version `2`", |manifest| {
            *manifest = json!({"format_version": 2, "of": "another time"});
        }),
        ("architecture `mamba`", |manifest| manifest["architecture"] = json!("mamba")),
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
