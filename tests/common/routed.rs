//! Routers for tiny models: a model folder is given random ones, and a table.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs;
use std::path::Path;

use edge_run::internals::format::{CALIBRATED_VERSION, MANIFEST_FILE, ModelFolder, layout};
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Adds random routers to the model folder `dir`. Thresholds fall from 3 at 2 bits to -3 at 8; which bits they yield is
/// not measured.
pub fn add_routers(dir: &Path, seed: u64) {
    let folder = ModelFolder::open(dir).unwrap();
    let (shape, file) = (folder.shape().clone(), dir.join(layout::slice_file(0)));
    drop(folder);
    let rng = &mut StdRng::seed_from_u64(seed);
    let routers: Vec<_> = layout::routers(&shape)
        .into_iter()
        .map(|spec| {
            let count = spec.shape.iter().product();
            let mut draw = |size: f32| -> Vec<f32> { (0..count).map(|_| rng.random_range(-size..size)).collect() };
            let bytes: Vec<u8> = if spec.dtype == Dtype::F16 {
                let unit = 3.0 / (spec.shape[2] as f32).sqrt();
                draw(unit).into_iter().flat_map(|w| f16::from_f32(w).to_le_bytes()).collect()
            } else {
                draw(1.0).into_iter().flat_map(f32::to_le_bytes).collect()
            };
            (spec, bytes)
        })
        .collect();
    let bytes = fs::read(&file).unwrap();
    let present = SafeTensors::deserialize(&bytes).unwrap();
    let added = routers
        .iter()
        .map(|(spec, bytes)| (spec.name.clone(), TensorView::new(spec.dtype, spec.shape.clone(), bytes).unwrap()));
    let all = safetensors::serialize(present.tensors().into_iter().chain(added), None).unwrap();
    fs::write(&file, &all).unwrap();
    let header = 8 + u64::from_le_bytes(all[..8].try_into().unwrap()) as usize;

    let manifest = dir.join(MANIFEST_FILE);
    let mut json: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    json["format_version"] = json!(CALIBRATED_VERSION);
    json["routing"] = json!([{"bits": 2.0, "threshold": 3.0}, {"bits": 8.0, "threshold": -3.0}]);
    json["files"][layout::slice_file(0)] =
        json!({"bytes": all.len(), "sha256": hash(&all), "header_sha256": hash(&all[..header])});
    fs::write(&manifest, json.to_string()).unwrap();
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
