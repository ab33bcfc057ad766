//! Imports a folder as Hugging Face keeps models: config.json, safetensors files, tokenizer.json.

mod config;
mod defaults;
mod fields;
mod layers;
mod names;
mod rope;
mod shards;
mod templates;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use self::config::StatedModel;
use self::names::{NamedPlace, is_of_other_part};
use self::shards::{Shard, Shards};
use super::estimate::block_rows;
use super::family::Described;
use super::source::unsupported;
use super::source::{Source, SourceTensor, TextAssets};
use crate::arch::ModelSpec;
use crate::checkpoint_files::{CONFIG_FILE, TOKENIZER_CONFIG_FILE};
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::format::{GENERATION_FILE, ModelSource, TOKENIZER_FILE};
use crate::shape::LlamaShape;

pub use names::TensorNames;

/// Ends of names that quantized weights of other programs have.
const QUANTIZED: [&str; 10] = [
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".scales",
    ".absmax",
    ".quant_map",
    ".SCB",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_packed",
];

/// An opened Hugging Face folder.
#[derive(Debug)]
pub struct HuggingFace {
    dir: PathBuf,
    described: Described,
    source: ModelSource,
    files: RawFiles,
    warnings: Vec<String>,
}

/// The files of a folder, and where each tensor lies in them.
#[derive(Debug)]
struct RawFiles {
    shards: Shards,
    tensors: HashMap<SourceTensor, Located>,
    /// Bytes as read; words, so that they lie as floats must.
    raw: Vec<u32>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Located {
    name: String,
    shard: usize,
    dtype: Dtype,
    /// Of its first row, from the start of the file, in bytes.
    offset: u64,
}

impl HuggingFace {
    /// Opens the folder `dir` and checks that it holds a whole model of a family that runs.
    pub fn open(dir: &Path) -> Result<HuggingFace> {
        // A text that is a pointer or a page is named before it is read as JSON.
        for name in [TOKENIZER_FILE, GENERATION_FILE, TOKENIZER_CONFIG_FILE] {
            let path = dir.join(name);
            if std::fs::symlink_metadata(&path).is_ok() {
                filetype::open(&path, FileType::Other, "JSON")?;
            }
        }
        let mut warnings = Vec::new();
        let (described, is_part) = describe(dir, &mut warnings)?;
        let shards = Shards::open(dir, &mut warnings)?;
        let tensors = locate_all(&described, &shards, is_part, &mut warnings)?;
        warnings.extend(shards.copies());
        let dtypes: BTreeSet<String> = tensors.values().map(|located| located.dtype.to_string()).collect();
        let source = ModelSource {
            name: hub_name(dir).unwrap_or_else(|| text::folder_name(dir)),
            format: "huggingface".into(),
            family: described.family_field(),
            dtypes: dtypes.into_iter().collect(),
            licence: text::licence(dir),
        };
        let files = RawFiles { shards, tensors, raw: Vec::new() };
        let mut folder = HuggingFace { dir: dir.to_path_buf(), described, source, files, warnings };
        folder.check_tied()?;
        Ok(folder)
    }

    /// Fails where a model whose head is its embedding has both as tensors, with other numbers: programs disagree on
    /// which one counts then.
    fn check_tied(&mut self) -> Result<()> {
        let Described { shape, spec, .. } = &self.described;
        if !shape.tied_head || !self.files.tensors.contains_key(&SourceTensor::Head) {
            return Ok(());
        }
        let (rows, input) = SourceTensor::Head.dims(shape, spec);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for first in (0..rows).step_by(block_rows(input) as usize) {
            let block = first..rows.min(first + block_rows(input));
            self.files.read(SourceTensor::Embed, block.clone(), input, &mut one)?;
            self.files.read(SourceTensor::Head, block, input, &mut other)?;
            if let Some(at) = one.iter().zip(&other).position(|(one, other)| one.to_bits() != other.to_bits()) {
                let (file, name) = self.locate(SourceTensor::Head);
                let (_, embedding) = self.locate(SourceTensor::Embed);
                let expected = format!("the numbers of `{embedding}`, as tie_word_embeddings is true");
                let got = format!("others from row {} on", first as usize + at / input as usize);
                return Err(Error::damaged(file, name, expected, got));
            }
        }
        self.files.tensors.remove(&SourceTensor::Head);
        Ok(())
    }
}

impl Source for HuggingFace {
    fn shape(&self) -> &LlamaShape {
        &self.described.shape
    }

    fn spec(&self) -> &ModelSpec {
        &self.described.spec
    }

    fn model_source(&self) -> &ModelSource {
        &self.source
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn text(&self) -> Result<TextAssets> {
        text::read(&self.dir)
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let HuggingFace { described, files, .. } = self;
        let (all, input) = tensor.dims(&described.shape, &described.spec);
        assert!(rows.end <= all, "rows {rows:?} of {all}");
        described.fold.rows(tensor, rows, input, out, &mut |rows, out| files.read(tensor, rows, input, out))
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        let located = &self.files.tensors[&tensor];
        (self.files.shards.files[located.shard].path.clone(), located.name.clone())
    }
}

impl RawFiles {
    /// Replaces `out` by rows of a tensor, of `input` numbers each, as the file has them.
    fn read(&mut self, tensor: SourceTensor, rows: Range<u32>, input: u32, out: &mut Vec<f32>) -> Result<()> {
        let Located { shard, dtype, offset, .. } = self.tensors[&tensor];
        let row_bytes = u64::from(input) * dtype.bitsize() as u64 / 8;
        let bytes = (rows.len() as u64 * row_bytes) as usize;
        self.raw.resize(bytes.div_ceil(4), 0);
        let raw = &mut bytemuck::cast_slice_mut(&mut self.raw)[..bytes];
        let Shard { path, file, .. } = &mut self.shards.files[shard];
        file.seek(SeekFrom::Start(offset + u64::from(rows.start) * row_bytes))
            .and_then(|_| file.read_exact(raw))
            .map_err(Error::io("read", path))?;
        out.resize(rows.len() * input as usize, 0.0);
        match dtype {
            Dtype::F32 => out.copy_from_slice(bytemuck::cast_slice(raw)),
            Dtype::F16 => bytemuck::cast_slice::<u8, f16>(raw).convert_to_f32_slice(out),
            Dtype::BF16 => bytemuck::cast_slice::<u8, bf16>(raw).convert_to_f32_slice(out),
            _ => unreachable!("`located` lets no other dtype in"),
        }
        Ok(())
    }
}

/// Where each tensor of the model lies; of a model whose head is its embedding the head too, if it is there as well. Of
/// a model that is the text part of one with others, the others are left out, which is a warning.
fn locate_all(
    described: &Described,
    shards: &Shards,
    is_part: bool,
    warnings: &mut Vec<String>,
) -> Result<HashMap<SourceTensor, Located>> {
    let Described { shape, spec, .. } = described;
    let mut names = shards.names();
    if is_part {
        let all = names.len();
        names.retain(|name| !is_of_other_part(name));
        let left_out = all - names.len();
        if left_out > 0 {
            warnings.push(format!("{left_out} tensors of the part for images are left out: this model reads text"));
        }
    }
    let quantized = |name: &&String| QUANTIZED.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state.");
    if let Some(name) = names.iter().find(quantized) {
        let supported = "weights in F32, F16 or BF16: get the model that this one was made from";
        return unsupported("quantized tensor", name, supported).map_err(Error::in_file(&shards.listing));
    }
    let tensor_names = TensorNames::of(&names);
    let mut tensors = HashMap::new();
    let mut needed = BTreeSet::new();
    for tensor in SourceTensor::all(shape, spec) {
        let dims = tensor.stated_dims(shape, spec);
        // Of the two names that a tied embedding may have, a file has either or both.
        let twin = (tensor == SourceTensor::Embed && shape.tied_head).then_some(SourceTensor::Head);
        let mut found = false;
        for candidate in [Some(tensor), twin].into_iter().flatten() {
            for place in tensor_names.places(candidate, shape, spec) {
                let info = shards.find(&place.name).or_else(|fault| absent_twin(twin, fault))?;
                let is_there = info.is_some();
                if let Some((shard, info)) = info {
                    needed.insert(place.name.clone());
                    let located = located(shard, &shards.files[shard], place, info, &dims)?;
                    tensors.insert(if found { candidate } else { tensor }, located);
                    found = true;
                }
                if is_there {
                    break;
                }
            }
            needed.insert(tensor_names.alone(candidate, spec));
        }
        if !found {
            let name = tensor_names.alone(tensor, spec);
            return Err(Error::damaged(&shards.listing, name, format!("{dims:?}"), "no tensor"));
        }
    }
    match names.iter().find(|name| !needed.contains(*name) && !name.ends_with(".rotary_emb.inv_freq")) {
        // A tensor that is left out, a bias say, would silently make another model.
        Some(name) => {
            unsupported("tensor", name, &described.tensors_in_words()).map_err(Error::in_file(&shards.listing))
        }
        None => Ok(tensors),
    }
}

/// Nothing in the place of the error for a tensor that the index has and its file has not, where the tensor has two
/// names: an index may list both, of which the file kept one.
fn absent_twin<T>(twin: Option<SourceTensor>, fault: Error) -> Result<Option<T>> {
    if twin.is_some() { Ok(None) } else { Err(fault) }
}

fn located(at: usize, shard: &Shard, place: NamedPlace, info: &TensorInfo, dims: &[usize]) -> Result<Located> {
    let name = place.name;
    if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        let dtype = info.dtype.to_string();
        return unsupported(&format!("dtype of `{name}`"), &dtype, "F32, F16, BF16")
            .map_err(Error::in_file(&shard.path));
    }
    let mut dims = dims.to_vec();
    dims[0] = place.all.map_or(dims[0], |all| all as usize);
    if info.shape != dims {
        return Err(Error::damaged(&shard.path, name, format!("{dims:?}"), format!("{:?}", info.shape)));
    }
    let row_bytes = dims[1..].iter().product::<usize>() as u64 * info.dtype.bitsize() as u64 / 8;
    let offset = shard.data_start + info.data_offsets.0 as u64 + u64::from(place.first) * row_bytes;
    Ok(Located { name, shard: at, dtype: info.dtype, offset })
}

/// Fails where the configuration in the folder `dir`, as Hugging Face keeps models, is that of a model which does not
/// run; the weights need not be there yet.
pub fn check_config(dir: &Path) -> Result<()> {
    describe(dir, &mut Vec::new()).map(drop)
}

/// What the configuration in the folder `dir` describes, and whether that is the text part of a model with others.
fn describe(dir: &Path, warnings: &mut Vec<String>) -> Result<(Described, bool)> {
    let path = dir.join(CONFIG_FILE);
    let StatedModel { facts, is_part } = config::read(&path, warnings)?;
    Ok((Described::new(facts).map_err(Error::in_file(path))?, is_part))
}

/// OWNER/NAME of a model in Hugging Face's cache, whose folder is `models--OWNER--NAME/snapshots/HASH`.
fn hub_name(dir: &Path) -> Option<String> {
    let real = dir.canonicalize().ok()?;
    let snapshots = real.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?.to_string();
    Some(name.replacen("--", "/", 1))
}

#[cfg(test)]
mod families_tests;
