//! Calibration packs of tiny models, made up.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use edge_run::internals::format::codes::WORD_GROUP;
use edge_run::internals::format::layout::TensorSpec;
use edge_run::internals::format::{ModelFolder, PAIRS_VERSION, Pack, PackInfo, SCALED_VERSION, WORDS_VERSION};
use edge_run::internals::quantize::{QuantizeOptions, QuantizeReport, open, quantize, weights_sha256};
use edge_run::internals::routing::{Threshold, Thresholds};
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;
use serde_json::{Value, json};

/// A pack in memory, to be changed before it is written.
#[derive(Clone)]
pub struct TestPack {
    /// Its facts.
    pub info: PackInfo,
    /// Its tensors by name.
    pub tensors: BTreeMap<String, Vec<u8>>,
}

impl TestPack {
    /// A pack for the checkpoint `source`: the ranges that `model`, cut from it without a pack, has, and random
    /// routers.
    pub fn of(source: &Path, model: &Path, seed: u64) -> TestPack {
        println!("pack of seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let folder = ModelFolder::open(model).unwrap();
        let mut source = open(source).unwrap();
        let info = PackInfo {
            pack_version: if folder.group_size() == WORD_GROUP { WORDS_VERSION } else { PAIRS_VERSION },
            source_sha256: weights_sha256(source.as_mut(), &mut |_| ControlFlow::Continue(())).unwrap(),
            source_name: source.model_source().name.clone(),
            group_size: folder.group_size(),
            shape: folder.shape().clone(),
            thresholds: thresholds(),
            recipe: json!({"steps": 7}).as_object().unwrap().clone(),
        };
        let bytes = |spec: &TensorSpec| match slice_of_ranges(&spec.name) {
            Some(slice) => folder.tensor(slice, &spec.name).unwrap().bytes().to_vec(),
            None => numbers(spec, &mut random),
        };
        let specs = info.tensors();
        let names = specs.iter().map(|spec| spec.name.clone());
        let tensors = names.zip(specs.iter().map(bytes)).collect();
        TestPack { info, tensors }
    }

    /// The same with scales of columns, all of which are 1.
    pub fn scaled(&self) -> TestPack {
        let mut scaled = self.clone();
        scaled.info.pack_version = SCALED_VERSION;
        for spec in scaled.info.tensors().into_iter().filter(|spec| spec.name.ends_with(".columns")) {
            scaled.tensors.insert(spec.name, 1f32.to_le_bytes().repeat(spec.shape[0]));
        }
        scaled
    }

    /// Writes the pack as the library does.
    pub fn write(&self, path: &Path) -> edge_run::Result<()> {
        Pack::write(path, &self.info, &mut |spec| self.tensors[&spec.name].clone())
    }

    /// Replaces the word `at` of a tensor of U16.
    pub fn set_word(&mut self, tensor: &str, at: usize, word: u16) {
        let bytes = self.tensors.get_mut(tensor).unwrap();
        bytes[2 * at..2 * at + 2].copy_from_slice(&word.to_le_bytes());
    }

    /// Replaces the number `at` of a tensor of F16.
    pub fn set(&mut self, tensor: &str, at: usize, number: f32) {
        let bytes = self.tensors.get_mut(tensor).unwrap();
        bytes[2 * at..2 * at + 2].copy_from_slice(&f16::from_f32(number).to_le_bytes());
    }
}

/// Quantizes `source` to `out` with the pack at `pack`, which says in groups of what size.
pub fn quantize_with(source: &Path, out: &Path, pack: &Path) -> edge_run::Result<QuantizeReport> {
    let options = QuantizeOptions {
        out: out.to_path_buf(),
        group_size: None,
        calibration: Some(pack.to_path_buf()),
        replace: false,
    };
    quantize(&mut *open(source)?, &options, &mut |_| ControlFlow::Continue(()))
}

/// Changes the JSON header of a safetensors file, with `extra` spaces at its end, and keeps its data.
pub fn change_header(path: &Path, extra: usize, change: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut json: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut json);
    let mut header = json.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8) + extra, b' ');
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_slice(), &bytes[8 + length..]].concat()).unwrap();
}

/// The slice with which the ranges of this name lie; `None` for other tensors.
fn slice_of_ranges(name: &str) -> Option<usize> {
    let (_, last) = name.rsplit_once('.')?;
    if last == "scales" { Some(0) } else { last.strip_prefix("ranges")?.parse().ok() }
}

fn thresholds() -> Thresholds {
    let rows = [(2.0, 4.5), (4.0, 0.5), (6.0, -0.25), (8.0, -5.0)];
    Thresholds::new(rows.map(|(bits, threshold)| Threshold { bits, threshold }).to_vec()).unwrap()
}

fn numbers(spec: &TensorSpec, random: &mut StdRng) -> Vec<u8> {
    let mut number = || random.random_range(-1.0f32..1.0);
    let count = spec.shape.iter().product();
    match spec.dtype {
        Dtype::F16 => (0..count).flat_map(|_| f16::from_f32(number()).to_le_bytes()).collect(),
        Dtype::F32 => (0..count).flat_map(|_| number().to_le_bytes()).collect(),
        other => panic!("no {other} in packs"),
    }
}
