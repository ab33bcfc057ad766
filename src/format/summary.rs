//! What a model folder holds, in numbers: for people who inspect it.

use serde::Serialize;

use super::layout::{self, TensorSpec};
use super::manifest::{Calibration, Manifest, ModelSource};
use crate::precision::{Depth, SLICES};
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// Sizes and origin of a model folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FolderSummary {
    /// "llama"
    pub architecture: String,
    /// Dimensions and constants.
    pub shape: LlamaShape,
    /// Where the weights came from.
    pub source: ModelSource,
    /// G: weights that share one (lo, step).
    pub group_size: u32,
    /// Bytes of the file of each slice, the base first.
    pub slice_file_bytes: Vec<u64>,
    /// Bytes of all files, the manifest left out.
    pub total_bytes: u64,
    /// Weights of the linears of all layers.
    pub linear_params: u64,
    /// Weights of the embedding, and of the head where it is not the embedding.
    pub embedding_params: u64,
    /// Bytes of these at full depth, scales included.
    pub embedding_bytes: u64,
    /// Bits of a weight of the linears at each depth, the shallowest first.
    pub depths: Vec<DepthBits>,
    /// Where the ranges of the layers' weights come from, if not from the smallest and the largest of each group.
    pub calibration: Option<Calibration>,
    /// The routers, of a model that has them.
    pub routing: Option<RoutingSummary>,
}

/// The routers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoutingSummary {
    /// Routers: one for each site of each layer.
    pub routers: usize,
    /// Bytes of them all, read for every token.
    pub bytes: u64,
    /// Bits of these bytes for each weight of the linears.
    pub overhead_bits: f32,
    /// Fewest average bits of the table.
    pub least_bits: f32,
    /// Most average bits of the table.
    pub most_bits: f32,
    /// Rows of the table.
    pub rows: usize,
}

/// Bits read of a weight at one depth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DepthBits {
    /// Slices read.
    pub slices: usize,
    /// Bits of the codes.
    pub bits: f32,
    /// Bits of the codes and of the group's `lo` and `step`.
    pub bits_with_scales: f32,
}

impl FolderSummary {
    /// The summary of the folder that `manifest` describes.
    pub(super) fn of(manifest: &Manifest) -> FolderSummary {
        let (shape, cut) = (&manifest.shape, &manifest.quantization);
        let embeddings = [Some(layout::embed(shape)), layout::head(shape)].into_iter().flatten();
        let embedding_bytes = embeddings
            .map(|e| (0..SLICES).map(|s| e.slice(s).bytes()).sum::<u64>() + e.scales(cut.group_size).bytes())
            .sum();
        let depths = Depth::ALL.map(|depth| DepthBits {
            slices: depth.slices(),
            bits: depth.bits() as f32,
            bits_with_scales: depth.bits() as f32 + cut.overhead_bits(),
        });
        FolderSummary {
            architecture: manifest.architecture.clone(),
            shape: shape.clone(),
            source: manifest.source.clone(),
            group_size: cut.group_size,
            slice_file_bytes: (0..SLICES).map(|s| manifest.files[&layout::slice_file(s)].bytes).collect(),
            total_bytes: manifest.files.values().map(|file| file.bytes).sum(),
            linear_params: shape.linear_params(),
            embedding_params: shape.embedding_params(),
            embedding_bytes,
            depths: depths.to_vec(),
            calibration: cut.calibration.clone(),
            routing: manifest.routing.as_ref().map(|table| RoutingSummary::of(shape, table)),
        }
    }
}

impl RoutingSummary {
    fn of(shape: &LlamaShape, table: &Thresholds) -> RoutingSummary {
        let bytes = layout::routers(shape).iter().map(TensorSpec::bytes).sum();
        let bits = || table.rows().iter().map(|row| row.bits);
        RoutingSummary {
            routers: layout::sites(shape).count(),
            bytes,
            overhead_bits: (bytes as f64 * 8.0 / shape.linear_params() as f64) as f32,
            least_bits: bits().fold(f32::INFINITY, f32::min),
            most_bits: bits().fold(0.0, f32::max),
            rows: table.rows().len(),
        }
    }
}
