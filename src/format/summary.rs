//! What a model folder holds, in numbers: for people who inspect it.

use serde::Serialize;

use super::codes::RangeForm;
use super::layout::{self, TensorSpec};
use super::manifest::{Calibration, Manifest, ModelSource};
use crate::arch::ModelSpec;
use crate::precision::{Depth, PrecisionPlan, SLICES};
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// Sizes and origin of a model folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FolderSummary {
    /// The model's family, "qwen3" and so on; "llama" too where the folder does not tell it.
    pub architecture: String,
    /// Dimensions and constants.
    pub shape: LlamaShape,
    /// Where the weights came from.
    pub source: ModelSource,
    /// G: weights that share a range.
    pub group_size: u32,
    /// Bits that the files have for each weight: its codes, and the ranges of all depths.
    pub stored_bits: f32,
    /// Bytes of the file of each slice, the base first.
    pub slice_file_bytes: Vec<u64>,
    /// Bytes of all files, the manifest left out.
    pub total_bytes: u64,
    /// Weights of the linears of all layers.
    pub linear_params: u64,
    /// Weights of the embedding, and of the head where it is not the embedding.
    pub embedding_params: u64,
    /// Bytes of these at full depth, with all their ranges.
    pub embedding_bytes: u64,
    /// Bits of a weight of the linears at each depth, the shallowest first.
    pub depths: Vec<DepthBits>,
    /// Where the ranges of the layers' weights come from, if not from the weights alone.
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

/// Bytes of a model that are read to generate one token, each once; keys and values are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TokenBytes {
    /// Of the layers: slices, ranges, vectors, and the routers of a routed plan.
    pub body: f64,
    /// Of the head: slices, ranges, and the norm before it.
    pub head: f64,
    /// Of the token's row of the embedding: slices and ranges.
    pub embedding: f64,
}

impl TokenBytes {
    /// Those of a model cut in groups of `group`, at `bits` of the layers' weights on average and `outer` slices of
    /// embedding and head, by the routers where it is `routed`.
    pub fn of(
        (shape, spec): (&LlamaShape, &ModelSpec),
        group: u32,
        (bits, outer): (f32, Depth),
        routed: bool,
    ) -> TokenBytes {
        let bytes = |tensors: &[TensorSpec]| tensors.iter().map(TensorSpec::bytes).sum::<u64>() as f64;
        let overhead = f64::from(RangeForm::of_group(group).overhead_bits());
        let coded = |weights: u64, bits: f64| weights as f64 * (bits + overhead) / 8.0;
        let outer = f64::from(outer.bits());
        let last_norm = layout::final_norm(shape).bytes() as f64;
        let vectors = bytes(&layout::vectors(shape, spec)) - last_norm;
        let routers = if routed { bytes(&layout::routers(shape)) } else { 0.0 };
        let row = u64::from(shape.model_dim);
        TokenBytes {
            body: coded(shape.linear_params(), f64::from(bits)) + vectors + routers,
            head: coded(row * u64::from(shape.vocab), outer) + last_norm,
            embedding: coded(row, outer),
        }
    }

    /// All of them.
    pub fn total(&self) -> f64 {
        self.body + self.head + self.embedding
    }
}

/// Bits read of a weight at one depth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DepthBits {
    /// Slices read.
    pub slices: usize,
    /// Bits of the codes.
    pub bits: f32,
    /// Bits of the codes and of the range that they are read in.
    pub bits_with_ranges: f32,
    /// Bits read of embedding and head in an answer at this depth.
    pub outer_bits: u32,
    /// What is then read for a token.
    pub token_bytes: TokenBytes,
}

impl FolderSummary {
    /// The summary of the folder that `manifest` describes.
    pub(super) fn of(manifest: &Manifest) -> FolderSummary {
        let (shape, cut) = (&manifest.shape, &manifest.quantization);
        let form = RangeForm::of_group(cut.group_size);
        let embeddings = [Some(layout::embed(shape)), layout::head(shape)].into_iter().flatten();
        let embedding_bytes = embeddings
            .flat_map(|e| (0..SLICES).flat_map(move |slice| e.tensors(form, slice).collect::<Vec<_>>()))
            .map(|tensor| tensor.bytes())
            .sum();
        let depths = Depth::ALL.map(|depth| {
            let (bits, outer) = (depth.bits() as f32, PrecisionPlan::uniform(depth, "").outer_depth());
            DepthBits {
                slices: depth.slices(),
                bits,
                bits_with_ranges: bits + cut.overhead_bits(),
                outer_bits: outer.bits(),
                token_bytes: TokenBytes::of((shape, &manifest.spec), cut.group_size, (bits, outer), false),
            }
        });
        FolderSummary {
            architecture: manifest.source.family.as_ref().unwrap_or(&manifest.architecture).clone(),
            shape: shape.clone(),
            source: manifest.source.clone(),
            group_size: cut.group_size,
            stored_bits: Depth::FULL.bits() as f32 + form.stored_bits(),
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
