//! GGUF models that are split over several files: found by the name of one, and refused where they are not one model.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::gguf::GgufType;
use crate::common::{TinyModel, tiny_shape};
use edge_run::internals::quantize::{open, weights_sha256};
use tempfile::TempDir;

/// A model in three files.
fn split() -> (TempDir, TinyModel, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let model = TinyModel::new(tiny_shape(false), 31);
    let paths = model.write_split_gguf(dir.path(), 3);
    (dir, model, paths)
}

fn hash(path: &Path) -> String {
    weights_sha256(&mut *open(path).unwrap(), &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn every_file_of_a_split_model_leads_to_the_whole() {
    let (dir, model, paths) = split();
    let whole = dir.path().join("whole.gguf");
    model.write_gguf(&whole, GgufType::F32);
    let expected = hash(&whole);
    for path in &paths {
        assert_eq!(hash(path), expected, "{}", path.display());
        assert!(open(path).unwrap().text().is_ok(), "the text side is in the first file");
    }
    TinyModel::new(tiny_shape(false), 32).write_gguf(&whole, GgufType::F32);
    assert_ne!(hash(&whole), expected);
}

#[test]
fn files_that_are_missing_foreign_or_misnamed_are_told() {
    let (dir, _, paths) = split();
    let fault = |path: &PathBuf| open(path).err().unwrap().to_string();

    // The third file in the place of the second.
    let second = fs::read(&paths[1]).unwrap();
    fs::copy(&paths[2], &paths[1]).unwrap();
    let foreign = fault(&paths[0]);
    assert!(foreign.contains("00002-of-00003") && foreign.contains("split.no: expected 1"), "{foreign}");

    // One of another model, of more files.
    let other = TinyModel::new(tiny_shape(false), 33).write_split_gguf(dir.path(), 4);
    fs::copy(&other[1], &paths[1]).unwrap();
    assert!(fault(&paths[0]).contains("split.count: expected 3, by its name, got 4"), "{}", fault(&paths[0]));

    // One of the same model cut elsewhere, which has tensors that another has.
    fs::write(&paths[1], &second).unwrap();
    let again = dir.path().join("again");
    fs::create_dir(&again).unwrap();
    let two = TinyModel::new(tiny_shape(false), 31).write_split_gguf(&again, 2);
    for (at, path) in two.iter().enumerate() {
        fs::copy(&paths[at], path).unwrap();
    }
    assert!(fault(&two[0]).contains("file name"), "{}", fault(&two[0]));

    fs::remove_file(&paths[1]).unwrap();
    let missing = fault(&paths[2]);
    assert!(missing.contains("3 files of one model") && missing.contains("no `") && missing.contains("00002-of-00003"));

    let misnamed = dir.path().join("model.gguf");
    fs::copy(&paths[0], &misnamed).unwrap();
    let told = fault(&misnamed);
    assert!(told.contains("file name: expected NAME-00001-of-00003.gguf") && told.contains("`model.gguf`"), "{told}");
}

#[test]
fn a_tensor_that_two_files_have_or_none_is_told() {
    let (_dir, _, paths) = split();
    let fault = || open(&paths[0]).err().unwrap().to_string();
    let bytes = fs::read(&paths[2]).unwrap();
    // The name of a tensor of the third file becomes that of one in the first, of the same length.
    let first = fs::read(&paths[0]).unwrap();
    let has = |bytes: &[u8], name: &str| bytes.windows(name.len()).position(|part| part == name.as_bytes());
    let name = |layer: u32, part: &str| format!("blk.{layer}.{part}.weight");
    let parts = ["attn_q", "attn_k", "attn_v", "ffn_up"];
    let all = || (0..2).flat_map(|layer| parts.map(|part| name(layer, part)));
    let (at, renamed) = all().find_map(|name| Some((has(&bytes, &name)?, name))).unwrap();
    let taken = all().find(|other| has(&first, other).is_some() && other.len() == renamed.len()).unwrap();
    let mut changed = bytes.clone();
    changed[at..at + taken.len()].copy_from_slice(taken.as_bytes());
    fs::write(&paths[2], &changed).unwrap();
    assert!(fault().contains(&format!("{taken}: expected one tensor in all files")), "{}", fault());
}
