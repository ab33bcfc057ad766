//! A training run on disk, so that one that was stopped goes on where it was.

use std::path::Path;

use burn::optim::{AdamWState, AdaptiveMomentumState};
use burn::tensor::{Device, Tensor, TensorData};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CalibrationOptions;
use super::optimizer::OptimizerState;
use super::out_place::OutPlace;
use super::student::{NAMES, SiteParams};
use super::text::Windows;
use super::trained::Trained;
use crate::error::{Error, Result};
use crate::format::layout::TensorSpec;
use crate::format::{ContainerAside, follow_links, hexadecimal, map_file, sha256};
use crate::shape::Site;

/// The key of the metadata.
const KEY: &str = "edge_run_checkpoint";
/// The last tensor: SHA-256 of all bytes of the file before it, in hexadecimal.
const CHECKSUM: &str = "sha256";
/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 64;
/// Endings of the optimizer's moments.
const MOMENTS: [&str; 2] = ["moment_1", "moment_2"];

/// What a run must share with a checkpoint to go on from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRun {
    /// SHA-256 of the source's weights.
    pub source_sha256: String,
    /// SHA-256 of what the inputs of its matrices count, where that was measured.
    #[serde(default)]
    pub importance_sha256: Option<String>,
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

impl CalibrationRun {
    /// The run of these options on these windows, before it is known what the inputs count.
    pub fn new(source_sha256: String, windows: &Windows, options: &CalibrationOptions) -> CalibrationRun {
        let &CalibrationOptions { steps, batch, seq, seed, .. } = options;
        CalibrationRun {
            source_sha256,
            importance_sha256: None,
            text_sha256: windows.sha256(),
            steps,
            batch,
            seq,
            seed,
        }
    }

    /// Fails where `path` is damaged, or the checkpoint of another run, as far as that shows whatever the inputs count:
    /// so nobody waits for their measurement to learn it.
    pub fn refuse_other(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let other = opened(path)?.1.run;
        let here = CalibrationRun { importance_sha256: other.importance_sha256.clone(), ..self.clone() };
        other.check(path, &here)
    }

    /// Fails where this, of the checkpoint `path`, is not the run at hand.
    fn check(&self, path: &Path, here: &CalibrationRun) -> Result<()> {
        if self == here {
            return Ok(());
        }
        let fields = |run: &CalibrationRun| match serde_json::to_value(run) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => unreachable!("a struct of plain data"),
        };
        let (theirs, own) = (fields(self), fields(here));
        let other = |(name, theirs): (&String, &serde_json::Value)| {
            let own = &own[name];
            (theirs != own).then(|| format!("{name} {theirs} where this run has {own}"))
        };
        let others: Vec<String> = theirs.iter().filter_map(other).collect();
        Err(damaged(path, "run", "a checkpoint of this run", others.join(", ")))
    }
}

/// The metadata.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    run: CalibrationRun,
    done: usize,
}

impl Head {
    /// That of the file `path`, which has these bytes.
    fn read(path: &Path, bytes: &[u8]) -> Result<Head> {
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| damaged(path, "header", "safetensors", e.to_string()))?;
        let head = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let head = head.ok_or_else(|| damaged(path, KEY, "a checkpoint of `calibrate`", "none".into()))?;
        serde_json::from_str(head).map_err(|e| damaged(path, KEY, "its fields", e.to_string()))
    }
}

/// The checkpoint `path`, all of whose bytes are what was written.
fn opened(path: &Path) -> Result<(Mmap, Head)> {
    let bytes = map_file(path)?;
    let head = Head::read(path, &bytes)?;
    let tensors = tensors(path, &bytes)?;
    let stated = tensors.tensor(CHECKSUM).map_err(|e| damaged(path, CHECKSUM, "a checksum", e.to_string()))?;
    let stated = String::from_utf8_lossy(stated.data()).into_owned();
    let found = sha256(&bytes[..bytes.len().saturating_sub(CHECKSUM_BYTES)]);
    if found == stated { Ok((bytes, head)) } else { Err(damaged(path, CHECKSUM, &stated, found)) }
}

fn tensors<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes).map_err(|e| damaged(path, "tensors", "safetensors", e.to_string()))
}

fn damaged(path: &Path, field: &str, expected: &str, got: String) -> Error {
    Error::damaged(path, field, format!("{expected} (remove the file to begin anew)"), got)
}

fn name(layer: usize, site: Site, tensor: &str) -> String {
    format!("layers.{layer}.{}.{tensor}", site.name())
}

/// Writes the state of `layers` layers after `done` steps, over an earlier one, a layer at a time. Fails where layers
/// cannot be read and where a disk is full.
pub fn save(out: &OutPlace, run: &CalibrationRun, done: usize, trained: &Trained, layers: usize) -> Result<()> {
    let dims = trained.params.get(0)?.map(|site| site.tensors().map(Tensor::dims));
    let has_moments = trained.moments.has(0);
    let mut specs = Vec::new();
    for (layer, site) in (0..layers).flat_map(|layer| Site::ALL.map(|site| (layer, site))) {
        for (tensor, dims) in NAMES.iter().zip(dims[site as usize]) {
            let mut spec = |name| specs.push(TensorSpec { name, dtype: Dtype::F32, shape: dims.to_vec() });
            spec(name(layer, site, tensor));
            if has_moments {
                MOMENTS.iter().for_each(|moment| spec(name(layer, site, &format!("{tensor}.{moment}"))));
            }
        }
    }
    specs.push(TensorSpec { name: CHECKSUM.into(), dtype: Dtype::U8, shape: vec![CHECKSUM_BYTES] });
    let head = serde_json::to_string(&Head { run: run.clone(), done }).expect("plain data");
    let place = (follow_links(&out.checkpoint)?, out.checkpoint.as_path());
    let mut file = ContainerAside::create_in(&out.aside(), place, "checkpoint", &specs, (KEY, head))?;
    let mut hasher = Sha256::new_with_prefix(file.header());
    // In the order of the file.
    let mut write = |name: String, tensor: &Tensor<2>| {
        let data = tensor.to_data();
        hasher.update(data.as_bytes());
        file.write(&name, 0, data.as_bytes())
    };
    for layer in 0..layers {
        let (params, moments) = (trained.params.get(layer)?, has_moments.then(|| trained.moments.get(layer)));
        let moments = moments.transpose()?;
        for site in Site::ALL {
            for (at, tensor) in params[site as usize].tensors().into_iter().enumerate() {
                write(name(layer, site, NAMES[at]), tensor)?;
                let Some(moments) = &moments else { continue };
                let momentum = &moments[site as usize][at].momentum;
                for (moment, tensor) in MOMENTS.iter().zip([&momentum.moment_1, &momentum.moment_2]) {
                    write(name(layer, site, &format!("{}.{moment}", NAMES[at])), tensor)?;
                }
            }
        }
    }
    file.write(CHECKSUM, 0, hexadecimal(&hasher.finalize()).as_bytes())?;
    file.finish(|_| Ok(())).map(drop)
}

/// Reads a state into `trained`, which has the `layers` layers and the shapes of this run, and returns the steps it has
/// done.
///
/// Fails where the file is damaged, where it belongs to another run, and where a disk is full.
pub fn load(path: &Path, run: &CalibrationRun, trained: &mut Trained, layers: usize, device: &Device) -> Result<usize> {
    let (bytes, head) = opened(path)?;
    let damaged = |field: &str, expected: &str, got: String| damaged(path, field, expected, got);
    head.run.check(path, run)?;
    if head.done > run.steps {
        return Err(damaged("done", &format!("{} steps at most", run.steps), head.done.to_string()));
    }
    let tensors = tensors(path, &bytes)?;
    let read = |name: &str, dims: [usize; 2]| -> Result<Tensor<2>> {
        let view = tensors.tensor(name).map_err(|e| damaged(name, "a tensor", e.to_string()))?;
        if view.dtype() != Dtype::F32 || view.shape() != dims {
            return Err(damaged(name, &format!("F32 {dims:?}"), format!("{:?} {:?}", view.dtype(), view.shape())));
        }
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(damaged(name, "finite numbers", value.to_string()));
        }
        Ok(Tensor::from_data(TensorData::new(values, dims), device))
    };
    for layer in 0..layers {
        let (mut params, mut moments) = (trained.params.get(layer)?, Vec::with_capacity(Site::ALL.len()));
        for site in Site::ALL {
            let mut moved = params[site as usize].tensors().map(Clone::clone);
            let mut of_site: Vec<OptimizerState> = Vec::with_capacity(NAMES.len());
            for (at, tensor) in moved.iter_mut().enumerate() {
                let dims = tensor.dims();
                *tensor = read(&name(layer, site, NAMES[at]), dims)?;
                if head.done > 0 {
                    let moment = |moment: &str| read(&name(layer, site, &format!("{}.{moment}", NAMES[at])), dims);
                    let [first, second] = MOMENTS.map(moment);
                    of_site.push(AdamWState::new(AdaptiveMomentumState::new(head.done, first?, second?)));
                }
            }
            params[site as usize] = SiteParams::from_tensors(moved);
            moments.extend(<[OptimizerState; NAMES.len()]>::try_from(of_site));
        }
        trained.params.put(layer, params)?;
        if let Ok(moments) = moments.try_into() {
            trained.moments.put(layer, moments)?;
        }
    }
    Ok(head.done)
}
