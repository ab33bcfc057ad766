//! The trained tensors as a pack.

use burn::tensor::{Tensor, TensorData};
use half::f16;
use serde_json::{Value, json};

use super::CalibrationOptions;
use super::checkpoint::CalibrationRun;
use super::step::Params;
use super::student::SiteParams;
use crate::error::Result;
use crate::format::{PACK_VERSION, Pack, PackInfo, layout};
use crate::quantize::Source;
use crate::routing::{REST, Thresholds};
use crate::shape::Site;

/// What the pack tells of the run that made it.
pub struct Facts<'a> {
    pub options: &'a CalibrationOptions,
    pub run: &'a CalibrationRun,
    pub loss_before: f32,
    pub loss_after: f32,
    pub seconds: f64,
}

/// The parameters as the pack stores them: ranges and the routers' first matrices in f16.
pub fn rounded(params: SiteParams) -> SiteParams {
    let half = |tensor: Tensor<2>| {
        let (dims, device) = (tensor.dims(), tensor.device());
        let values: Vec<f32> = halves(&tensor).into_iter().map(f16::to_f32).collect();
        Tensor::from_data(TensorData::new(values, dims), &device)
    };
    SiteParams { lo: half(params.lo), step: half(params.step), w1: half(params.w1), ..params }
}

/// The elements in f16, row by row.
fn halves(tensor: &Tensor<2>) -> Vec<f16> {
    elements(tensor).into_iter().map(f16::from_f32).collect()
}

/// The elements, row by row.
fn elements(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.try_to_vec_as().expect("the device answers")
}

/// Writes the pack and returns its length in bytes.
pub fn write(source: &mut dyn Source, params: &Params, thresholds: Thresholds, facts: &Facts<'_>) -> Result<u64> {
    let shape = source.shape();
    let Facts { options, run, .. } = facts;
    let texts: Vec<_> = options.texts.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
    let recipe = json!({
        "texts": texts,
        "steps": run.steps,
        "batch": run.batch,
        "seq": run.seq,
        "seed": run.seed,
        "loss_before": facts.loss_before,
        "loss_after": facts.loss_after,
        "seconds": facts.seconds.round(),
    });
    let Value::Object(recipe) = recipe else { unreachable!("an object was written") };
    let info = PackInfo {
        pack_version: PACK_VERSION,
        source_sha256: run.source_sha256.clone(),
        source_name: source.model_source().name.clone(),
        group_size: run.group_size,
        shape: shape.clone(),
        thresholds,
        recipe,
    };
    let mut bytes_by_name = std::collections::HashMap::new();
    let (mut all_w1, mut all_rest): (Vec<f16>, Vec<f32>) = (Vec::new(), Vec::new());
    for (layer, sites) in params.iter().enumerate() {
        for site in Site::ALL {
            let params = &sites[site as usize];
            let scales: Vec<f16> =
                halves(&params.lo).into_iter().zip(halves(&params.step)).flat_map(|(lo, step)| [lo, step]).collect();
            let scales_name = layout::site(shape, layer as u32, site).scales(run.group_size).name;
            bytes_by_name.insert(scales_name, bytemuck::cast_slice(&scales).to_vec());
            all_w1.extend(halves(&params.w1));
            all_rest.extend([&params.b1, &params.w2, &params.b2].into_iter().flat_map(elements));
            all_rest.resize(all_rest.len().next_multiple_of(REST as usize), 0.0);
        }
    }
    let [w1, rest] = layout::routers(shape);
    bytes_by_name.insert(w1.name, bytemuck::cast_slice(&all_w1).to_vec());
    bytes_by_name.insert(rest.name, bytemuck::cast_slice(&all_rest).to_vec());
    Pack::write(&options.out, &info, &mut |spec| bytes_by_name.remove(&spec.name).expect("every tensor was trained"))?;
    Ok(std::fs::metadata(&options.out).map_err(crate::error::Error::io("read", &options.out))?.len())
}
