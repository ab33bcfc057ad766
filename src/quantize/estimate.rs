//! What a quantization will take, known before it starts.

use super::QuantizeOptions;
use super::cut::Cut;
use super::source::Source;
use crate::arch::ModelSpec;
use crate::error::Result;
use crate::format::layout;
use crate::precision::SLICES;
use crate::shape::LlamaShape;

/// Bytes of weights, as f32, that are read and cut at a time.
pub const BLOCK_BYTES: u64 = 8 << 20;
/// A name, a dtype, a shape and two offsets in a safetensors header, generously.
const HEADER_BYTES_PER_TENSOR: u64 = 160;
/// A token and its merges in tokenizer.json, generously; measured: 72 for a vocabulary of 49152.
const TOKENIZER_FILE_BYTES_PER_TOKEN: u64 = 160;
/// A token, its merges and its score in memory, as read and as JSON, generously; measured: about 1100 on the same one.
const TOKENIZER_MEMORY_BYTES_PER_TOKEN: u64 = 1500;
/// The program itself, its threads and the headers of files.
const FIXED_MEMORY_BYTES: u64 = 48 << 20;

/// What a quantization will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Estimate {
    /// Bytes of the model folder.
    pub disk_bytes: u64,
    /// Bytes of memory at the peak, the operating system's cache of files left out.
    pub memory_bytes: u64,
}

/// What quantizing a source with these options will take. Fails where the options do not fit the source, as far as that
/// can be told without reading its weights.
pub fn estimate(source: &dyn Source, options: &QuantizeOptions) -> Result<Estimate> {
    let cut = Cut::choose(source, options)?;
    Ok(estimate_of(source.shape(), source.spec(), &cut))
}

/// What cutting a model of this shape will take.
pub fn estimate_of(shape: &LlamaShape, spec: &ModelSpec, cut: &Cut) -> Estimate {
    let (group, routed) = (cut.group, cut.pack.is_some());
    let tensors: usize = (0..SLICES).map(|slice| layout::file_tensors(shape, spec, group, routed, slice).len()).sum();
    let vocab = u64::from(shape.vocab);
    // A block is there as read, as f32, and cut to eight bits a weight; the reader of GGUF holds it twice more.
    let blocks = 4 * block_bytes(shape);
    Estimate {
        disk_bytes: layout::total_bytes(shape, spec, group, routed)
            + tensors as u64 * HEADER_BYTES_PER_TENSOR
            + vocab * TOKENIZER_FILE_BYTES_PER_TOKEN,
        memory_bytes: FIXED_MEMORY_BYTES + blocks + vocab * TOKENIZER_MEMORY_BYTES_PER_TOKEN,
    }
}

/// Rows of `input` weights that are read and cut at a time, at least one.
pub fn block_rows(input: u32) -> u32 {
    (BLOCK_BYTES / 4 / u64::from(input)).max(1) as u32
}

fn block_bytes(shape: &LlamaShape) -> u64 {
    BLOCK_BYTES.max(4 * u64::from(shape.ffn_dim.max(shape.model_dim).max(shape.q_dim())))
}
