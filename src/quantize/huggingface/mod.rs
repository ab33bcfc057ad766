//! Imports a folder as Hugging Face keeps models: config.json, safetensors files, tokenizer.json.

mod config;
mod fields;
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

use self::shards::{Shard, Shards};
use super::estimate::block_rows;
use super::source::{Source, SourceTensor, TextAssets};
use crate::arch::{LayerVector, ModelSpec};
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::format::{GENERATION_FILE, ModelSource, TOKENIZER_FILE};
use crate::shape::LlamaShape;

pub use config::CONFIG_FILE;
pub use shards::{INDEX_FILE, WHOLE_FILE};

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
    shape: LlamaShape,
    spec: ModelSpec,
    source: ModelSource,
    shards: Shards,
    tensors: HashMap<SourceTensor, Located>,
    warnings: Vec<String>,
    /// Bytes as read; words, so that they lie as floats must.
    raw: Vec<u32>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Located {
    name: String,
    shard: usize,
    dtype: Dtype,
    /// From the start of the file, in bytes.
    offset: u64,
}

impl HuggingFace {
    /// Opens the folder `dir` and checks that it holds a whole LLaMA model.
    pub fn open(dir: &Path) -> Result<HuggingFace> {
        // A text that is a pointer or a page is named before it is read as JSON.
        for name in [TOKENIZER_FILE, GENERATION_FILE, "tokenizer_config.json"] {
            let path = dir.join(name);
            if std::fs::symlink_metadata(&path).is_ok() {
                filetype::open(&path, FileType::Other, "JSON")?;
            }
        }
        let mut warnings = Vec::new();
        let shape = config::read_shape(&dir.join(CONFIG_FILE), &mut warnings)?;
        let shards = Shards::open(dir, &mut warnings)?;
        let spec = ModelSpec::default();
        let tensors = locate_all(&shape, &spec, &shards)?;
        warnings.extend(shards.copies());
        let dtypes: BTreeSet<String> = tensors.values().map(|located| located.dtype.to_string()).collect();
        let source = ModelSource {
            name: hub_name(dir).unwrap_or_else(|| text::folder_name(dir)),
            format: "huggingface".into(),
            dtypes: dtypes.into_iter().collect(),
            licence: text::licence(dir),
        };
        let dir = dir.to_path_buf();
        let mut folder = HuggingFace { dir, shape, spec, source, shards, tensors, warnings, raw: Vec::new() };
        folder.check_tied()?;
        Ok(folder)
    }

    /// Fails where a model whose head is its embedding has both as tensors, with other numbers: programs disagree on
    /// which one counts then.
    fn check_tied(&mut self) -> Result<()> {
        if !self.shape.tied_head || !self.tensors.contains_key(&SourceTensor::Head) {
            return Ok(());
        }
        let (rows, input) = SourceTensor::Head.dims(&self.shape, &self.spec);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for first in (0..rows).step_by(block_rows(input) as usize) {
            let block = first..rows.min(first + block_rows(input));
            self.rows(SourceTensor::Embed, block.clone(), &mut one)?;
            self.rows(SourceTensor::Head, block, &mut other)?;
            if let Some(at) = one.iter().zip(&other).position(|(one, other)| one.to_bits() != other.to_bits()) {
                let (file, name) = self.locate(SourceTensor::Head);
                let expected = format!("the numbers of `{}`, as tie_word_embeddings is true", embed_name());
                let got = format!("others from row {} on", first as usize + at / input as usize);
                return Err(Error::damaged(file, name, expected, got));
            }
        }
        self.tensors.remove(&SourceTensor::Head);
        Ok(())
    }
}

impl Source for HuggingFace {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
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
        let (all, input) = tensor.dims(&self.shape, &self.spec);
        assert!(rows.end <= all, "rows {rows:?} of {all}");
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

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        let located = &self.tensors[&tensor];
        (self.shards.files[located.shard].path.clone(), located.name.clone())
    }
}

/// Where each tensor of the shape lies; of a model whose head is its embedding the head too, if it is there as well.
fn locate_all(shape: &LlamaShape, spec: &ModelSpec, shards: &Shards) -> Result<HashMap<SourceTensor, Located>> {
    let names = shards.names();
    let quantized = |name: &&String| QUANTIZED.iter().any(|end| name.ends_with(end)) || name.contains(".quant_state.");
    if let Some(name) = names.iter().find(quantized) {
        let supported = "weights in F32, F16 or BF16: get the model that this one was made from";
        return config::unsupported("quantized tensor", name, supported);
    }
    let mut tensors = HashMap::new();
    let mut needed = BTreeSet::new();
    for tensor in SourceTensor::all(shape, spec) {
        let dims = tensor.stated_dims(shape, spec);
        // Of the two names that a tied embedding may have, a file has either or both.
        let twin = (tensor == SourceTensor::Embed && shape.tied_head).then_some(SourceTensor::Head);
        let mut found = None;
        for candidate in [Some(tensor), twin].into_iter().flatten() {
            let name = name(candidate);
            if let Some((shard, info)) = shards.find(&name).or_else(|fault| absent_twin(twin, fault))? {
                let located = located(shard, &shards.files[shard], name.clone(), info, &dims)?;
                tensors.insert(found.map_or(tensor, |()| candidate), located);
                found = Some(());
            }
            needed.insert(name);
        }
        if found.is_none() {
            return Err(Error::damaged(&shards.listing, name(tensor), format!("{dims:?}"), "no tensor"));
        }
    }
    match names.iter().find(|name| !needed.contains(*name) && !name.ends_with(".rotary_emb.inv_freq")) {
        // A tensor that is left out, a bias say, would silently make another model.
        Some(name) => config::unsupported("tensor", name, "those of a LLaMA model without biases"),
        None => Ok(tensors),
    }
}

/// Nothing in the place of the error for a tensor that the index has and its file has not, where the tensor has two
/// names: an index may list both, of which the file kept one.
fn absent_twin<T>(twin: Option<SourceTensor>, fault: Error) -> Result<Option<T>> {
    if twin.is_some() { Ok(None) } else { Err(fault) }
}

fn located(at: usize, shard: &Shard, name: String, info: &TensorInfo, dims: &[usize]) -> Result<Located> {
    if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        let dtype = info.dtype.to_string();
        return config::unsupported(&format!("dtype of `{name}`"), &dtype, "F32, F16, BF16");
    }
    if info.shape != dims {
        return Err(Error::damaged(&shard.path, name, format!("{dims:?}"), format!("{:?}", info.shape)));
    }
    Ok(Located { name, shard: at, dtype: info.dtype, offset: shard.data_start + info.data_offsets.0 as u64 })
}

/// OWNER/NAME of a model in Hugging Face's cache, whose folder is `models--OWNER--NAME/snapshots/HASH`.
fn hub_name(dir: &Path) -> Option<String> {
    let real = dir.canonicalize().ok()?;
    let snapshots = real.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?.to_string();
    Some(name.replacen("--", "/", 1))
}

fn embed_name() -> String {
    name(SourceTensor::Embed)
}

/// The name of a tensor in checkpoints of `LlamaForCausalLM`.
fn name(tensor: SourceTensor) -> String {
    use SourceTensor::*;
    let (layer, part) = match tensor {
        Embed => return "model.embed_tokens.weight".into(),
        Head => return "lm_head.weight".into(),
        FinalNorm => return "model.norm.weight".into(),
        Query(l) => (l, "self_attn.q_proj"),
        Key(l) => (l, "self_attn.k_proj"),
        Value(l) => (l, "self_attn.v_proj"),
        Output(l) => (l, "self_attn.o_proj"),
        Gate(l) => (l, "mlp.gate_proj"),
        Up(l) => (l, "mlp.up_proj"),
        Down(l) => (l, "mlp.down_proj"),
        QueryBias(l) => return format!("model.layers.{l}.self_attn.q_proj.bias"),
        KeyBias(l) => return format!("model.layers.{l}.self_attn.k_proj.bias"),
        ValueBias(l) => return format!("model.layers.{l}.self_attn.v_proj.bias"),
        Vector(l, vector) => (l, vector_name(vector)),
    };
    format!("model.layers.{layer}.{part}.weight")
}

fn vector_name(vector: LayerVector) -> &'static str {
    match vector {
        LayerVector::InputNorm => "input_layernorm",
        LayerVector::FfnNorm => "post_attention_layernorm",
        other => panic!("LLaMA has no {other:?}"),
    }
}
