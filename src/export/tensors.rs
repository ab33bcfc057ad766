//! The tensors of an export, and the loop that writes them a few million weights at a time.

use std::ops::ControlFlow;

use super::ExportProgress;
use super::rows::{CodedRows, DepthRows};
use super::stored::{self, Deviation};
use crate::error::{Error, Result};
use crate::quantize::gguf::BlockType;
use crate::quantize::{Source, SourceTensor, block_rows};
use crate::shape::LlamaShape;

/// A tensor that is written.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTensor {
    /// Name in the file.
    pub name: String,
    /// What is in it.
    pub tensor: SourceTensor,
    /// Its type.
    pub dtype: BlockType,
    /// Dimensions, slowest first.
    pub dims: Vec<usize>,
    /// Whether rows of a head come in the pairs that are rotated, and not in halves.
    pub pairs: bool,
    /// What every number is multiplied by.
    pub scale: f32,
    /// What is added to every number after that.
    pub add: f32,
}

impl PlannedTensor {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.dims.iter().product::<usize>() as u64 / self.dtype.weights() as u64 * self.dtype.bytes() as u64
    }

    /// Numbers in it.
    pub fn count(&self) -> u64 {
        self.dims.iter().product::<usize>() as u64
    }

    /// Rows and numbers of one; a vector is one row.
    fn rows(&self) -> (u32, u32) {
        match self.dims[..] {
            [rows, input] => (rows as u32, input as u32),
            _ => (1, self.count() as u32),
        }
    }
}

/// How far the weights of an export are from the folder's.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Deviations {
    /// Of the layers' matrices.
    pub layers: Deviation,
    /// Of embedding and head.
    pub outer: Deviation,
}

/// A run over the tensors.
pub struct TensorWriter<'a> {
    /// Where the weights are.
    pub rows: DepthRows<'a>,
    /// Numbers in all tensors.
    pub total: u64,
    /// Told how far it is; may break off.
    pub on_progress: &'a mut dyn FnMut(&ExportProgress<'_>) -> ControlFlow<()>,
    /// Numbers written.
    pub done: u64,
    /// How far they are off.
    pub deviations: Deviations,
}

impl TensorWriter<'_> {
    /// Hands all bytes of a tensor to `write`, in order.
    pub fn write(&mut self, planned: &PlannedTensor, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let shape = self.rows.shape().clone();
        let (rows, input) = planned.rows();
        // Heads stay whole, as their rows change places.
        let step = block_rows(input).next_multiple_of(shape.head_dim);
        let (mut coded, mut weights, mut bytes) = (CodedRows::default(), Vec::new(), Vec::new());
        for first in (0..rows).step_by(step as usize) {
            let block = first..rows.min(first + step);
            bytes.clear();
            let deviation = if planned.tensor.is_vector() {
                self.rows.rows(planned.tensor, block, &mut weights)?;
                reorder(planned, &shape, 1, &mut weights);
                adjust(planned, &mut weights);
                stored::encode(&weights, planned.dtype, &mut bytes)
            } else {
                self.rows.coded(planned.tensor, block, &mut coded)?;
                reorder(planned, &shape, input as usize, &mut coded.codes);
                reorder(planned, &shape, input as usize / coded.group, &mut coded.ranges);
                coded.decode(&mut weights);
                adjust(planned, &mut weights);
                if stored::is_coded(planned.dtype) {
                    stored::encode_codes(&coded, planned.scale, &weights, planned.dtype, &mut bytes)
                } else {
                    stored::encode(&weights, planned.dtype, &mut bytes)
                }
            };
            self.count(planned.tensor, deviation);
            write(&bytes)?;
            self.done += weights.len() as u64;
            let progress = ExportProgress { name: &planned.name, done: self.done, total: self.total };
            if (self.on_progress)(&progress).is_break() {
                return Err(Error::Stopped("export"));
            }
        }
        Ok(())
    }

    fn count(&mut self, tensor: SourceTensor, deviation: Deviation) {
        let of = match tensor {
            SourceTensor::Embed | SourceTensor::Head => &mut self.deviations.outer,
            _ if tensor.is_vector() => return,
            _ => &mut self.deviations.layers,
        };
        *of = of.and(deviation);
    }
}

/// Puts the rows of heads in pairs where that is planned; a row is `width` of the items.
fn reorder<T: Clone>(planned: &PlannedTensor, shape: &LlamaShape, width: usize, items: &mut Vec<T>) {
    if !planned.pairs {
        return;
    }
    let (head_dim, half) = (shape.head_dim as usize, shape.head_dim as usize / 2);
    let row_of = |row: usize| {
        let within = row % head_dim;
        (row - within) + within / 2 + half * (within % 2)
    };
    let rows = items.len() / width;
    *items = (0..rows).flat_map(|row| items[row_of(row) * width..][..width].to_vec()).collect();
}

fn adjust(planned: &PlannedTensor, weights: &mut [f32]) {
    if (planned.scale, planned.add) != (1.0, 0.0) {
        weights.iter_mut().for_each(|weight| *weight = *weight * planned.scale + planned.add);
    }
}
