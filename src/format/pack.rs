//! The calibration pack: trained ranges and routers of one model, in one file.

use std::path::Path;

use bytemuck::cast_slice;
use half::f16;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::THRESHOLDS_RULE;
use super::aside::{ContainerAside, folder_of};
use super::codes::{GivenRanges, Range, RangeForm, V_BITS};
use super::container::{Container, Tensors};
use super::facts::FactsKey;
use super::hash::sha256;
use super::layout::{self, SlicedSpec, TensorSpec};
use super::open_file::OpenFile;
use super::place::file_place;
use crate::error::{Error, Result};
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// Version of a pack whose ranges are pairs. A reader takes all three versions.
pub const PAIRS_VERSION: u32 = 2;
/// Version of a pack whose ranges are words.
pub const WORDS_VERSION: u32 = 3;
/// Newest version of the pack's format, of a pack with the scales of columns.
pub const SCALED_VERSION: u32 = 4;
/// What a column can be multiplied by: far more and far less than is ever chosen, and nothing that makes a finite
/// weight infinite.
const COLUMN_SCALES: std::ops::RangeInclusive<f32> = 1.0 / 1024.0..=1024.0;
/// Where the facts are.
const FACTS: FactsKey = FactsKey { key: "edge_run_calibration", kind: "calibration pack" };

/// What a pack says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackInfo {
    /// [`PAIRS_VERSION`], [`WORDS_VERSION`] or [`SCALED_VERSION`].
    pub pack_version: u32,
    /// SHA-256 of the weights that the pack belongs to, in hexadecimal: all tensors as f32 in a fixed order.
    pub source_sha256: String,
    /// The model's name, as its source gives it.
    pub source_name: String,
    /// G
    pub group_size: u32,
    /// Dimensions and constants of the model.
    pub shape: LlamaShape,
    /// The table from average bits to the routers' threshold.
    pub thresholds: Thresholds,
    /// How the pack was made, for people: command, seed, steps, and what came of it.
    pub recipe: Map<String, Value>,
}

impl PackInfo {
    /// The tensors that such a pack has.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        layout::pack_tensors(&self.shape, self.group_size, self.pack_version >= SCALED_VERSION)
    }
}

/// A calibration pack, mapped and checked.
#[derive(Debug)]
pub struct Pack {
    info: PackInfo,
    tensors: Tensors,
}

impl Pack {
    /// Opens the pack at `path`. Fails where it is none or of another version, where a tensor is missing, superfluous
    /// or of another dtype or shape, where a number is not finite, a step is not positive or a scale of a column is not
    /// within a thousandth and a thousand, and where the table of thresholds is no such table.
    pub fn open(path: &Path) -> Result<Pack> {
        let container = Container::open(OpenFile::open(path)?, |_| Ok(()))?;
        let info = parse_info(path, FACTS.of(&container, path)?)?;
        let specs = info.tensors();
        let tensors = container.tensors(&specs)?;
        tensors.check_finite(&specs)?;
        check_steps(&tensors, &specs)?;
        check_columns(&tensors, &info)?;
        Ok(Pack { info, tensors })
    }

    /// What the pack says of itself.
    pub fn info(&self) -> &PackInfo {
        &self.info
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.tensors.path()
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn sha256(&self) -> String {
        sha256(self.tensors.file_bytes())
    }

    /// The data of a tensor, little-endian and row-major, aligned for its numbers; panics where it is none of
    /// [`PackInfo::tensors`].
    pub fn tensor(&self, spec: &TensorSpec) -> &[u8] {
        self.tensors.bytes(&spec.name).unwrap_or_else(|| panic!("{} is no tensor of a pack", spec.name))
    }

    /// The ranges of a matrix; `None` for one that no pack has, the embedding or the head. Panics where the model is of
    /// another shape than the pack.
    pub fn ranges(&self, spec: &SlicedSpec) -> Option<GivenRanges<'_>> {
        let form = RangeForm::of_group(self.info.group_size);
        let bytes = |slice: usize| {
            let tensor = spec.ranges(form, slice)?;
            let bytes = self.tensors.bytes(&tensor.name)?;
            assert_eq!(bytes.len() as u64, tensor.bytes(), "bytes of {}", tensor.name);
            Some(bytes)
        };
        match form {
            RangeForm::Pairs { .. } => Some(GivenRanges::Pairs(cast_slice(bytes(0)?))),
            RangeForm::Words => {
                let [first, second, finest] = GivenRanges::SLICES.map(bytes);
                Some(GivenRanges::Words([cast_slice(first?), cast_slice(second?), cast_slice(finest?)]))
            }
        }
    }

    /// The scales of a matrix's columns, `[input]`; `None` where the pack has none of it.
    pub fn columns(&self, spec: &SlicedSpec) -> Option<&[f32]> {
        self.tensors.bytes(&spec.columns().name).map(cast_slice)
    }

    /// Writes a pack to `path`, or where that leads to as a link. It appears there whole, in place of what was there,
    /// or not at all. `tensor_bytes` is asked for the data of each of [`PackInfo::tensors`], in their order. Fails
    /// where the result is no pack that [`Pack::open`] takes; panics where a tensor has not the bytes of its shape.
    pub fn write(path: &Path, info: &PackInfo, tensor_bytes: &mut dyn FnMut(&TensorSpec) -> Vec<u8>) -> Result<()> {
        let place = file_place(path)?;
        Pack::write_in(folder_of(&place), &place, info, tensor_bytes).map(drop)
    }

    /// The same, made in `folder`, of the same file system; the pack's bytes. No link is followed.
    pub fn write_in(
        folder: &Path,
        path: &Path,
        info: &PackInfo,
        tensor_bytes: &mut dyn FnMut(&TensorSpec) -> Vec<u8>,
    ) -> Result<u64> {
        let facts = serde_json::to_string(info).expect("facts have only text, numbers and maps");
        parse_info(path, &facts)?;
        let specs = info.tensors();
        let mut file =
            ContainerAside::create_in(folder, (path.to_path_buf(), path), "pack", &specs, (FACTS.key, facts))?;
        for spec in &specs {
            file.write(&spec.name, 0, &tensor_bytes(spec))?;
        }
        file.finish(|file| Pack::open(file).map(drop))
    }
}

/// The facts in `text`, found possible and supported.
fn parse_info(path: &Path, text: &str) -> Result<PackInfo> {
    /// What every version's facts have, read first because another version may have other fields.
    #[derive(Deserialize)]
    struct VersionedPack {
        pack_version: u32,
    }

    let VersionedPack { pack_version } = FACTS.parse(path, text)?;
    if !(PAIRS_VERSION..=SCALED_VERSION).contains(&pack_version) {
        let what = format!("version of the calibration pack `{}`,", path.display());
        let (got, supported) = (pack_version.to_string(), format!("{PAIRS_VERSION} to {SCALED_VERSION}"));
        return Err(Error::Unsupported { what, got, supported });
    }
    let info: PackInfo = FACTS.parse(path, text)?;
    let needed = if RangeForm::of_group(info.group_size) == RangeForm::Words { WORDS_VERSION } else { PAIRS_VERSION };
    if pack_version < needed {
        let expected = format!("{needed} or more, for groups of {}", info.group_size);
        return Err(Error::damaged(path, FACTS.named("pack_version"), expected, pack_version));
    }
    let hash = &info.source_sha256;
    if hash.len() != 64 || !hash.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Error::damaged(path, FACTS.named("source_sha256"), "64 hexadecimal digits", hash));
    }
    if let Some((field, expected, got)) = info.shape.fault() {
        return Err(Error::damaged(path, FACTS.named(&format!("shape.{field}")), expected, got));
    }
    if let Some((expected, got)) = layout::group_fault(&info.shape, info.group_size) {
        return Err(Error::damaged(path, FACTS.named("group_size"), expected, got));
    }
    match info.thresholds.fault() {
        Some(fault) => Err(Error::damaged(path, FACTS.named("thresholds"), THRESHOLDS_RULE, fault)),
        None => Ok(info),
    }
}

/// A range whose step is not positive, or one that devices may take for zero, has no bins.
fn check_steps(tensors: &Tensors, specs: &[TensorSpec]) -> Result<()> {
    for spec in specs {
        let bytes = tensors.bytes(&spec.name).unwrap_or_default();
        let fault = match spec.dtype {
            Dtype::U16 => fault_of_words(cast_slice(bytes)),
            Dtype::F16 if spec.name.ends_with(".scales") => fault_of_pairs(cast_slice(bytes)),
            _ => None,
        };
        if let Some((group, step)) = fault {
            let got = format!("{step} in group {group}");
            return Err(Error::damaged(tensors.path(), &spec.name, "steps above zero", got));
        }
    }
    Ok(())
}

/// A scale that is zero, or makes weights infinite, leaves no model.
fn check_columns(tensors: &Tensors, info: &PackInfo) -> Result<()> {
    for matrix in layout::scalable(&info.shape) {
        let name = matrix.columns().name;
        let scales: &[f32] = tensors.bytes(&name).map_or(&[], cast_slice);
        if let Some(at) = scales.iter().position(|scale| !COLUMN_SCALES.contains(scale)) {
            let expected = format!("scales from {} to {}", COLUMN_SCALES.start(), COLUMN_SCALES.end());
            return Err(Error::damaged(tensors.path(), name, expected, format!("{} at column {at}", scales[at])));
        }
    }
    Ok(())
}

/// The first group whose step is none, and its step.
fn fault_of_words(words: &[u16]) -> Option<(usize, f32)> {
    let at = words.iter().position(|word| !V_BITS.contains(&(word & 0x1ff)))?;
    Some((at, Range::of_word(words[at]).step))
}

fn fault_of_pairs(scales: &[f16]) -> Option<(usize, f32)> {
    let at = scales.chunks_exact(2).position(|range| range[1] <= f16::ZERO)?;
    Some((at, scales[2 * at + 1].to_f32()))
}
