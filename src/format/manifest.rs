//! `edge-run.json`: what the model is, how it was cut, and the hash of every other file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::codes::RangeForm;
use super::{CALIBRATED_VERSION, FAMILY_VERSION, FORMAT_VERSION, PLAIN_VERSION};
use crate::arch::ModelSpec;
use crate::json;
use crate::precision::{SLICE_BITS, SLICES};
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// The manifest of a model folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The oldest version of the format that has all that is in the folder.
    pub format_version: u32,
    /// Where the weights came from.
    pub source: ModelSource,
    /// Always "llama": what runs is LLaMA with the differences that `spec` has. The family's name is in `source`.
    pub architecture: String,
    /// Dimensions and constants.
    pub shape: LlamaShape,
    /// Where the model differs from LLaMA. A manifest leaves it out where it does not.
    #[serde(default, skip_serializing_if = "ModelSpec::is_llama")]
    pub spec: ModelSpec,
    /// How the weights were cut.
    pub quantization: Quantization,
    /// The table from average bits to the routers' threshold, of a model that has routers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Thresholds>,
    /// Every other file of the folder, by name.
    #[serde(deserialize_with = "json::unique")]
    pub files: BTreeMap<String, FileEntry>,
}

/// Where the weights came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// The model's name, as its source gives it or the source's file name.
    pub name: String,
    /// "gguf" or "huggingface".
    pub format: String,
    /// The model's family, "qwen2" and so on, where it is not LLaMA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Dtypes of the source's tensors, "Q4_1" and so on, sorted.
    pub dtypes: Vec<String>,
    /// The licence that the source states, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// How the weights were cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// Slices of every weight.
    pub slices: u32,
    /// Bits of one slice.
    pub slice_bits: u32,
    /// G: consecutive weights of a row that share a range. Groups of 32 have a range for each depth, in sixteen bits;
    /// larger ones have `lo` and `step` in f16 for all depths.
    pub group_size: u32,
    /// Where the ranges of the layers' weights and the routers come from; without it, ranges follow from the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// The calibration pack that a model was cut with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// SHA-256 of the pack's file.
    pub pack_sha256: String,
    /// SHA-256 of the weights that the pack was made for and the model cut from.
    pub source_sha256: String,
    /// How the pack was made, for people.
    pub recipe: Map<String, Value>,
}

/// The oldest version of the format that has what such a folder holds.
pub(super) fn needed_version(spec: &ModelSpec, cut: &Quantization, routing: Option<&Thresholds>) -> u32 {
    if RangeForm::of_group(cut.group_size) == RangeForm::Words {
        FORMAT_VERSION
    } else if !spec.is_llama() {
        FAMILY_VERSION
    } else if routing.is_some() || cut.calibration.is_some() {
        CALIBRATED_VERSION
    } else {
        PLAIN_VERSION
    }
}

impl Quantization {
    /// The one cut of this version, in groups of `group_size`, without calibration.
    pub fn new(group_size: u32) -> Quantization {
        Quantization { slices: SLICES as u32, slice_bits: SLICE_BITS, group_size, calibration: None }
    }

    /// Bits of the range that a product reads, for each weight.
    pub fn overhead_bits(&self) -> f32 {
        RangeForm::of_group(self.group_size).overhead_bits()
    }
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
    /// SHA-256 of a safetensors file's header (its length field and its JSON), checked at every load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_sha256: Option<String>,
}
