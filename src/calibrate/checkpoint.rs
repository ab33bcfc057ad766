//! A training run on disk, so that one that was stopped goes on where it was.

use std::collections::HashMap;
use std::path::Path;

use burn::optim::AdamWState;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::optimizer::Optimizer;
use super::step::Params;
use super::student::{NAMES, SiteParams};
use crate::error::{Error, Result};
use crate::format::{map_file, write_whole};
use crate::shape::Site;

/// The key of the metadata.
const KEY: &str = "edge_run_checkpoint";
/// Endings of the optimizer's moments.
const MOMENTS: [&str; 2] = ["moment_1", "moment_2"];

/// What a run must share with a checkpoint to go on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRun {
    /// SHA-256 of the source's weights.
    pub source_sha256: String,
    /// SHA-256 of the training text's tokens.
    pub text_sha256: String,
    /// Steps of the whole run.
    pub steps: usize,
    /// Windows of a step.
    pub batch: usize,
    /// Tokens of a window.
    pub seq: usize,
    /// Seed of everything random.
    pub seed: u64,
}

/// The metadata.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    run: CalibrationRun,
    done: usize,
}

fn name(layer: usize, site: Site, tensor: &str) -> String {
    format!("layers.{layer}.{}.{tensor}", site.name())
}

/// Writes the state after `done` steps, over an earlier one.
pub fn save(path: &Path, run: &CalibrationRun, done: usize, params: &Params, optimizer: &Optimizer) -> Result<()> {
    let mut tensors: Vec<(String, [usize; 2], Vec<u8>)> = Vec::new();
    let mut push = |name: String, tensor: &Tensor<2>| {
        tensors.push((name, tensor.dims(), tensor.to_data().bytes().to_vec()));
    };
    for (layer, (params, states)) in params.iter().zip(&optimizer.states).enumerate() {
        for site in Site::ALL {
            for (at, tensor) in params[site as usize].tensors().into_iter().enumerate() {
                push(name(layer, site, NAMES[at]), tensor);
                if let Some(state) = &states[site as usize][at] {
                    let moments = [&state.momentum.moment_1, &state.momentum.moment_2];
                    for (moment, tensor) in MOMENTS.iter().zip(moments) {
                        push(name(layer, site, &format!("{}.{moment}", NAMES[at])), tensor);
                    }
                }
            }
        }
    }
    let views = tensors.iter().map(|(name, dims, bytes)| {
        let view = TensorView::new(Dtype::F32, dims.to_vec(), bytes);
        (name, view.expect("four bytes for each element"))
    });
    let head = serde_json::to_string(&Head { run: run.clone(), done }).expect("plain data");
    let metadata = HashMap::from([(KEY.to_string(), head)]);
    let bytes = safetensors::serialize(views, Some(metadata)).expect("views of tensors of their own");
    write_whole(path, &bytes).map_err(Error::io("write", path))
}

/// Reads a state into `params` and `optimizer`, which have the shapes of this run, and returns the steps it has done.
///
/// Fails where the file is damaged, and where it belongs to another run.
pub fn load(
    path: &Path,
    run: &CalibrationRun,
    params: &mut Params,
    optimizer: &mut Optimizer,
    device: &Device,
) -> Result<usize> {
    let bytes = map_file(path)?;
    let damaged = |field: &str, expected: &str, got: String| Error::damaged(path, field, expected, got);
    let (_, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|e| damaged("header", "safetensors", e.to_string()))?;
    let head = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let head = head.ok_or_else(|| damaged(KEY, "a checkpoint of `calibrate`", "none".into()))?;
    let head: Head = serde_json::from_str(head).map_err(|e| damaged(KEY, "its fields", e.to_string()))?;
    if head.run != *run {
        let expected = "a checkpoint of this run (remove the file to begin anew)";
        return Err(damaged("run", expected, format!("{:?} where this is {run:?}", head.run)));
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged("tensors", "safetensors", e.to_string()))?;
    let read = |name: &str, dims: [usize; 2]| -> Result<Tensor<2>> {
        let view = tensors.tensor(name).map_err(|e| damaged(name, "a tensor", e.to_string()))?;
        if view.dtype() != Dtype::F32 || view.shape() != dims {
            return Err(damaged(name, &format!("F32 {dims:?}"), format!("{:?} {:?}", view.dtype(), view.shape())));
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        Ok(Tensor::from_data(TensorData::new(values, dims), device))
    };
    for (layer, (params, states)) in params.iter_mut().zip(&mut optimizer.states).enumerate() {
        for site in Site::ALL {
            let mut moved = params[site as usize].tensors().map(Clone::clone);
            for (at, tensor) in moved.iter_mut().enumerate() {
                let dims = tensor.dims();
                *tensor = read(&name(layer, site, NAMES[at]), dims)?;
                let moment = |moment: &str| read(&name(layer, site, &format!("{}.{moment}", NAMES[at])), dims);
                let momentum =
                    burn::optim::AdaptiveMomentumState::new(head.done, moment(MOMENTS[0])?, moment(MOMENTS[1])?);
                states[site as usize][at] = Some(AdamWState::new(momentum));
            }
            params[site as usize] = SiteParams::from_tensors(moved);
        }
    }
    Ok(head.done)
}
