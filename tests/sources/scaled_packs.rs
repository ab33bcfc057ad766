//! Calibration packs with the scales of columns.

use std::path::{Path, PathBuf};

use crate::common::families::FamilyModel;
use crate::common::tiny_hf_folder;
use crate::pack::{TestPack, quantize_with};
use edge_run::internals::arch::LayerVector;
use edge_run::internals::export::DepthRows;
use edge_run::internals::format::{ModelFolder, Pack, layout};
use edge_run::internals::precision::Depth;
use edge_run::internals::quantize::{QuantizeOptions, Source, SourceTensor, open, quantize};
use edge_run::internals::shape::Site;
use serde_json::json;

/// A pack with scales that leave all columns as they are, for the checkpoint in `dir`.
fn pack_in(dir: &Path, group: u32) -> TestPack {
    let plain = dir.join("plain");
    let options = QuantizeOptions { out: plain.clone(), group_size: Some(group), calibration: None, replace: true };
    quantize(&mut *open(&dir.join("source")).unwrap(), &options, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    TestPack::of(&dir.join("source"), &plain, 23)
}

/// Cuts the checkpoint in `dir` by a pack, or says why it does not.
fn cut(dir: &Path, name: &str, pack: &TestPack) -> Result<ModelFolder, String> {
    let (path, out): (PathBuf, PathBuf) = (dir.join("pack.safetensors"), dir.join(name));
    pack.write(&path).map_err(|fault| fault.to_string())?;
    quantize_with(&dir.join("source"), &out, &path).map_err(|fault| fault.to_string())?;
    Ok(ModelFolder::open(&out).unwrap())
}

#[test]
fn columns_that_stay_as_they_are_give_the_folder_of_a_pack_without_scales() {
    for group in [32, 64] {
        let dir = tempfile::tempdir().unwrap();
        tiny_hf_folder(&dir.path().join("source"), 17, false);
        let pack = pack_in(dir.path(), group);
        let without = cut(dir.path(), "without", &pack).unwrap();
        let with = cut(dir.path(), "with", &pack.scaled()).unwrap();
        assert_eq!(without.manifest().files, with.manifest().files, "groups of {group}");
    }
}

#[test]
fn scaled_columns_are_taken_back_by_what_is_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let shape = tiny_hf_folder(&dir.path().join("source"), 18, false);
    let mut pack = pack_in(dir.path(), 32).scaled();
    let scales = |at: usize| [0.5f32, 1.0, 2.0][at % 3];
    for name in ["layers.1.qkv", "layers.0.gate_up", "layers.0.down", "head"] {
        let columns = pack.tensors.get_mut(&format!("{name}.columns")).unwrap();
        let numbers = (0..columns.len() / 4).map(scales);
        *columns = numbers.flat_map(f32::to_le_bytes).collect();
    }
    let folder = cut(dir.path(), "model", &pack).unwrap();
    let mut source = open(&dir.path().join("source")).unwrap();
    let mut read = DepthRows::new(&folder, Depth::FULL);
    let mut rows = |tensor: SourceTensor| {
        let (mut exact, mut found) = (Vec::new(), Vec::new());
        let (count, _) = tensor.dims(&shape, &folder.manifest().spec);
        source.rows(tensor, 0..count, &mut exact).unwrap();
        read.rows(tensor, 0..count, &mut found).unwrap();
        (exact, found)
    };
    for (tensor, name) in [
        (SourceTensor::Vector(1, LayerVector::InputNorm), "qkv"),
        (SourceTensor::Vector(0, LayerVector::FfnNorm), "gate_up"),
        (SourceTensor::FinalNorm, "head"),
    ] {
        let (exact, found) = rows(tensor);
        for (at, (exact, found)) in exact.iter().zip(&found).enumerate() {
            assert_eq!(*found, exact / scales(at), "{name} {at}");
        }
    }
    let (exact, found) = rows(SourceTensor::Vector(0, LayerVector::InputNorm));
    assert_eq!(exact, found, "a norm before columns that stay");
    // The ranges of the pack hold weights of up to 0.25 in `up`, and half of it is cut off in some columns, so signs
    // and sizes are compared where they are not.
    let (exact, found) = rows(SourceTensor::Up(0));
    for (at, (exact, found)) in exact.iter().zip(&found).enumerate() {
        let (row, column) = (at / shape.model_dim as usize, at % shape.model_dim as usize);
        let expected = exact * scales(column) / scales(row);
        if expected.abs() < 0.15 {
            assert!((found - expected).abs() < 0.01, "row {row}, column {column}: {found} for {expected}");
        }
    }
}

#[test]
fn scales_that_leave_no_model_are_refused_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    tiny_hf_folder(&dir.path().join("source"), 19, false);
    let sound = pack_in(dir.path(), 32).scaled();
    cut(dir.path(), "sound", &sound).unwrap();
    for scale in [0.0, -1.0, 1e30, f32::MIN_POSITIVE, f32::NAN] {
        let mut faulty = sound.clone();
        faulty.tensors.get_mut("layers.1.down.columns").unwrap()[4..8].copy_from_slice(&f32::to_le_bytes(scale));
        let fault = cut(dir.path(), "model", &faulty).unwrap_err();
        assert!(fault.contains("layers.1.down.columns: expected"), "{scale}: {fault}");
    }
    assert!(!dir.path().join("model").exists());
    let old =
        TestPack { info: edge_run::internals::format::PackInfo { pack_version: 3, ..sound.info.clone() }, ..sound };
    old.write(&dir.path().join("old")).unwrap();
    let old = Pack::open(&dir.path().join("old")).unwrap();
    assert!(layout::scalable(&old.info().shape).all(|matrix| old.columns(&matrix).is_none()));
}

/// A family without norms before its products has nothing that could take the inverse of scales, but rows of `up`.
#[test]
fn scales_before_which_no_norm_stands_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = FamilyModel::read("olmo2").cut(2, &json!({}));
    let style = model.configs.keys().next().unwrap().clone();
    model.write_hf(&dir.path().join("source"), &style);
    let sound = pack_in(dir.path(), 32).scaled();
    for (site, is_taken) in [(Site::Qkv, false), (Site::GateUp, false), (Site::Down, true)] {
        let mut pack = sound.clone();
        let name = format!("layers.0.{}.columns", site.name());
        pack.tensors.get_mut(&name).unwrap()[..4].copy_from_slice(&2f32.to_le_bytes());
        match cut(dir.path(), site.name(), &pack) {
            Ok(_) => assert!(is_taken, "{name}"),
            Err(fault) => assert!(!is_taken && fault.contains(&format!("{name}: expected 1 for all")), "{fault}"),
        }
    }
}
