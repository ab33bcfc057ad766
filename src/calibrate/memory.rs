//! What a calibration takes of the device's memory, and how many windows fit at once.

use super::CalibrationOptions;
use super::coded::TRAINED;
use super::step::LOGITS;
use crate::error::{Error, Result};
use crate::format::codes::WORD_GROUP;
use crate::precision::SLICES;
use crate::routing::HIDDEN;
use crate::shape::{LlamaShape, Site};

// Both are rather too high, and matrices are counted as f32 where devices keep them in f16.
/// f32 tensors of a layer's weights that are alive while its slices are made and differentiated.
const SLICE_TENSORS: u64 = 40;
/// f32 tensors of a layer's activations in its graph, for each that the forward pass has.
const GRAPH_TENSORS: u64 = 4;

/// Memory of a run, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Weights, trained tensors and the optimizer's moments.
    pub resident: u64,
    /// One layer's graph over `micro` windows, and the layers' inputs.
    pub working: u64,
    /// Windows computed at once.
    pub micro: usize,
}

impl Memory {
    /// The most windows at once that fit `options.memory`. Fails where one does not.
    pub fn plan(shape: &LlamaShape, options: &CalibrationOptions) -> Result<Memory> {
        let of = |micro: usize| Memory::of(shape, options, micro);
        let fits = |memory: &Memory| memory.resident + memory.working <= options.memory;
        let micros = (1..=options.batch).rev().map(of);
        micros.into_iter().find(fits).ok_or_else(|| {
            let one = of(1);
            let expected = format!("at least {} bytes for one window at a time", one.resident + one.working);
            Error::argument("memory", expected, options.memory)
        })
    }

    fn of(shape: &LlamaShape, options: &CalibrationOptions, micro: usize) -> Memory {
        let (batch, seq, dim) = (options.batch as u64, options.seq as u64, u64::from(shape.model_dim));
        let layers = u64::from(shape.layers);
        let layer_weights: u64 = Site::ALL.iter().map(|site| site.weights(shape)).sum();
        let inputs: u64 = Site::ALL.iter().map(|site| u64::from(site.dims(shape).1)).sum();
        let outputs: u64 = Site::ALL.iter().map(|site| u64::from(site.dims(shape).0)).sum();
        let groups = layers * layer_weights / u64::from(WORD_GROUP);
        let trained = 2 * TRAINED as u64 * groups + layers * 4 * dim * u64::from(HIDDEN);
        let activations = seq * (4 * inputs + outputs + u64::from(shape.heads) * seq);
        // Weights and codes, the ranges of all depths, and value, gradient and two moments of each trained number.
        let weights = 2 * shape.linear_params() + shape.embedding_params();
        let resident = 4 * (weights + 2 * SLICES as u64 * groups + 4 * trained);
        // The residual stream, and what routers see.
        let kept = 2 * 4 * (layers + 3) * batch * seq * dim;
        let graph = 4 * (SLICE_TENSORS * layer_weights + GRAPH_TENSORS * micro as u64 * activations);
        Memory { resident, working: kept + graph + 4 * 6 * LOGITS as u64, micro }
    }
}
