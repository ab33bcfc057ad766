//! The hash that tells whether two checkpoints hold the same weights, whatever their format.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use super::estimate::block_rows;
use super::source::{Source, SourceTensor};
use super::{QuantizeProgress, Stage};
use crate::error::{Error, Result};

/// SHA-256 of all weights of a checkpoint, in hexadecimal: the tensors of [`SourceTensor::all`] in that order, as f32,
/// little-endian and row-major. `on_progress` is called for every few million weights and may break off, which is
/// [`Error::Stopped`].
pub fn weights_sha256(
    source: &mut dyn Source,
    on_progress: &mut dyn FnMut(&QuantizeProgress<'_>) -> ControlFlow<()>,
) -> Result<String> {
    let (shape, spec) = (source.shape().clone(), source.spec().clone());
    let tensors = SourceTensor::all(&shape, &spec);
    let weights = |tensor: &SourceTensor| {
        let (rows, input) = tensor.dims(&shape, &spec);
        u64::from(rows) * u64::from(input)
    };
    let total = tensors.iter().map(weights).sum();
    let mut done = 0;
    let mut hasher = Sha256::new();
    // A block is hashed while the next one is read: both take about the same time, and neither can be split.
    let (mut hashed, mut read) = (Vec::new(), Vec::new());
    for tensor in tensors {
        let (rows, input) = tensor.dims(&shape, &spec);
        for first in (0..rows).step_by(block_rows(input) as usize) {
            let block = first..rows.min(first + block_rows(input));
            rayon::in_place_scope(|scope| {
                scope.spawn(|_| hasher.update(bytemuck::cast_slice::<f32, u8>(&hashed)));
                source.rows(tensor, block, &mut read)
            })?;
            std::mem::swap(&mut hashed, &mut read);
            done += hashed.len() as u64;
            let (_, name) = source.locate(tensor);
            if on_progress(&QuantizeProgress { stage: Stage::SourceHash, name: &name, done, total }).is_break() {
                return Err(Error::Stopped("the hash of the weights"));
            }
        }
    }
    hasher.update(bytemuck::cast_slice::<f32, u8>(&hashed));
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
