//! Imports a folder as Hugging Face keeps models: config.json, safetensors files, tokenizer.json.

mod config;
mod templates;
mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::source::{Source, SourceTensor, TextAssets};
use crate::error::{Error, Result};
use crate::format::ModelSource;
use crate::shape::LlamaShape;

/// File of a model that is in one piece.
const WHOLE_FILE: &str = "model.safetensors";
/// File that says which shard holds which tensor.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// What the safetensors crate takes as a header at most.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// An opened Hugging Face folder.
#[derive(Debug)]
pub struct HuggingFace {
    dir: PathBuf,
    shape: LlamaShape,
    source: ModelSource,
    shards: Vec<Shard>,
    tensors: HashMap<SourceTensor, Located>,
    /// Bytes as read; words, so that they lie as floats must.
    raw: Vec<u32>,
}

/// A safetensors file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy)]
struct Located {
    shard: usize,
    dtype: Dtype,
    /// From the start of the file, in bytes.
    offset: u64,
}

impl HuggingFace {
    /// Opens the folder `dir` and checks that it holds a whole LLaMA model.
    pub fn open(dir: &Path) -> Result<HuggingFace> {
        let shape = config::read_shape(&dir.join(config::CONFIG_FILE))?;
        let whole = dir.join(WHOLE_FILE);
        let index = dir.join(INDEX_FILE);
        let (listing, names) = if whole.is_file() || !index.is_file() {
            (whole, BTreeSet::from([WHOLE_FILE.to_string()]))
        } else {
            let names = shard_names(&index)?;
            (index, names)
        };
        let shards = names.iter().map(|name| Shard::open(dir.join(name))).collect::<Result<Vec<_>>>()?;
        let tensors = locate_all(&listing, &shape, &shards)?;
        let dtypes: BTreeSet<String> = tensors.values().map(|located| located.dtype.to_string()).collect();
        let source = ModelSource {
            name: text::folder_name(dir),
            format: "huggingface".into(),
            dtypes: dtypes.into_iter().collect(),
            licence: text::licence(dir),
        };
        Ok(HuggingFace { dir: dir.to_path_buf(), shape, source, shards, tensors, raw: Vec::new() })
    }
}

impl Source for HuggingFace {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn model_source(&self) -> &ModelSource {
        &self.source
    }

    fn text(&self) -> Result<TextAssets> {
        text::read(&self.dir)
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let (all, input) = tensor.dims(&self.shape);
        assert!(rows.end <= all, "rows {rows:?} of {all}");
        let Located { shard, dtype, offset } = self.tensors[&tensor];
        let row_bytes = u64::from(input) * dtype.bitsize() as u64 / 8;
        let bytes = (rows.len() as u64 * row_bytes) as usize;
        self.raw.resize(bytes.div_ceil(4), 0);
        let raw = &mut bytemuck::cast_slice_mut(&mut self.raw)[..bytes];
        let Shard { path, file, .. } = &mut self.shards[shard];
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
        (self.shards[self.tensors[&tensor].shard].path.clone(), name(tensor))
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Shard> {
        let mut file = File::open(&path).map_err(Error::io("read", &path))?;
        let file_bytes = file.metadata().map_err(Error::io("read", &path))?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(Error::io("read", &path))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX.min(file_bytes - 8) {
            let got = format!("{length} in a file of {file_bytes}");
            return Err(Error::damaged(path, "header length", "bytes that are there", got));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(Error::io("read", &path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|fault| Error::damaged(&path, "header", "a safetensors header", fault))?;
        let data_start = 8 + length;
        let end = data_start + metadata.data_len() as u64;
        if end != file_bytes {
            return Err(Error::damaged(path, "length", format!("{end} bytes"), format!("{file_bytes} bytes")));
        }
        Ok(Shard { path, file, data_start, metadata })
    }
}

/// Where each tensor of the shape lies. `listing` is the file to blame for one that is missing.
fn locate_all(listing: &Path, shape: &LlamaShape, shards: &[Shard]) -> Result<HashMap<SourceTensor, Located>> {
    let headers: Vec<HashMap<String, &TensorInfo>> = shards.iter().map(|shard| shard.metadata.tensors()).collect();
    let mut tensors = HashMap::new();
    let mut needed = BTreeSet::new();
    for tensor in SourceTensor::all(shape) {
        let name = name(tensor);
        let dims = tensor.stated_dims(shape);
        let found = headers.iter().enumerate().find_map(|(at, header)| Some((at, *header.get(&name)?)));
        let (shard, info) = found.ok_or_else(|| Error::damaged(listing, &name, format!("{dims:?}"), "no tensor"))?;
        tensors.insert(tensor, located(shard, &shards[shard], &name, info, &dims)?);
        needed.insert(name);
    }
    let unused = |name: &str| name.ends_with(".rotary_emb.inv_freq") || (shape.tied_head && name == "lm_head.weight");
    match headers.iter().flat_map(HashMap::keys).find(|name| !needed.contains(*name) && !unused(name)) {
        // A tensor that is left out, a bias say, would silently make another model.
        Some(name) => Err(Error::Unsupported {
            what: "tensor".into(),
            got: name.clone(),
            supported: "those of a LLaMA model without biases".into(),
        }),
        None => Ok(tensors),
    }
}

fn located(at: usize, shard: &Shard, name: &str, info: &TensorInfo, dims: &[usize]) -> Result<Located> {
    if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(Error::Unsupported {
            what: format!("dtype of `{name}`"),
            got: info.dtype.to_string(),
            supported: "F32, F16, BF16".into(),
        });
    }
    if info.shape != dims {
        return Err(Error::damaged(&shard.path, name, format!("{dims:?}"), format!("{:?}", info.shape)));
    }
    Ok(Located { shard: at, dtype: info.dtype, offset: shard.data_start + info.data_offsets.0 as u64 })
}

/// The shards that the index names.
fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let Index { weight_map } = read_json(index)?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    match names.iter().find(|name| name.contains(['/', '\\', ':'])) {
        Some(name) => Err(Error::damaged(index, "weight_map", "names of files in the folder", name)),
        None => Ok(names),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|fault| Error::damaged(path, "JSON", "the fields of such a file", fault))
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
        InputNorm(l) => (l, "input_layernorm"),
        FfnNorm(l) => (l, "post_attention_layernorm"),
    };
    format!("model.layers.{layer}.{part}.weight")
}
