//! What a model is imported from: its shape, its texts, and its weights a few rows at a time.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::gguf::Gguf;
use super::huggingface::HuggingFace;
use crate::error::{Error, Result};
use crate::format::ModelSource;
use crate::shape::{LlamaShape, Site};

/// A checkpoint of a LLaMA-family model.
pub trait Source {
    /// Dimensions and constants, without a fault.
    fn shape(&self) -> &LlamaShape;

    /// Name, format, dtypes and licence.
    fn model_source(&self) -> &ModelSource;

    /// The text side's files.
    fn text(&self) -> Result<TextAssets>;

    /// Replaces `out` by rows of a tensor, rows as in Hugging Face checkpoints, which rotate halves of a head; panics
    /// where the tensor has no such rows.
    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()>;

    /// The file that a tensor lies in, and its name there.
    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String);
}

/// The text side's files, as they go into the model folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextAssets {
    /// tokenizer.json
    pub tokenizer: String,
    /// A Jinja template, if the source has one.
    pub chat_template: Option<String>,
    /// Jinja templates that have names of their own, by name.
    pub named_templates: Vec<(String, String)>,
    /// generation_config.json, with the special token ids.
    pub generation_config: String,
}

/// A tensor of a LLaMA checkpoint; the numbers are layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceTensor {
    /// [V, D]
    Embed,
    /// [V, D], of a model whose head is not its embedding.
    Head,
    /// [H*A, D]
    Query(u32),
    /// [K*A, D]
    Key(u32),
    /// [K*A, D]
    Value(u32),
    /// [D, H*A]
    Output(u32),
    /// [F, D]
    Gate(u32),
    /// [F, D]
    Up(u32),
    /// [D, F]
    Down(u32),
    /// `[D]`, before attention.
    InputNorm(u32),
    /// `[D]`, before the feed-forward.
    FfnNorm(u32),
    /// `[D]`, before the head.
    FinalNorm,
}

impl SourceTensor {
    /// The tensors that a model of this shape has.
    pub fn all(shape: &LlamaShape) -> Vec<SourceTensor> {
        use SourceTensor::*;
        let layers = (0..shape.layers).flat_map(|l| {
            let sites = Site::ALL.into_iter().flat_map(move |site| SourceTensor::of_site(l, site));
            sites.chain([InputNorm(l), FfnNorm(l)])
        });
        let head = (!shape.tied_head).then_some(Head);
        [Embed].into_iter().chain(layers).chain([FinalNorm]).chain(head).collect()
    }

    /// The tensors whose rows, stacked, are a site's weight.
    pub fn of_site(layer: u32, site: Site) -> Vec<SourceTensor> {
        use SourceTensor::*;
        match site {
            Site::Qkv => vec![Query(layer), Key(layer), Value(layer)],
            Site::O => vec![Output(layer)],
            Site::GateUp => vec![Gate(layer), Up(layer)],
            Site::Down => vec![Down(layer)],
        }
    }

    /// (rows, input dimension); a norm is one row.
    pub fn dims(self, shape: &LlamaShape) -> (u32, u32) {
        use SourceTensor::*;
        let (d, f) = (shape.model_dim, shape.ffn_dim);
        match self {
            Embed | Head => (shape.vocab, d),
            Query(_) => (shape.q_dim(), d),
            Key(_) | Value(_) => (shape.kv_dim(), d),
            Output(_) => (d, shape.q_dim()),
            Gate(_) | Up(_) => (f, d),
            Down(_) => (d, f),
            InputNorm(_) | FfnNorm(_) | FinalNorm => (1, d),
        }
    }

    /// The dimensions as checkpoints state them, slowest first.
    pub fn stated_dims(self, shape: &LlamaShape) -> Vec<usize> {
        use SourceTensor::*;
        let (rows, input) = self.dims(shape);
        match self {
            InputNorm(_) | FfnNorm(_) | FinalNorm => vec![input as usize],
            _ => vec![rows as usize, input as usize],
        }
    }
}

/// Opens a Hugging Face folder or a GGUF file.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if metadata.is_dir() {
        return Ok(Box::new(HuggingFace::open(path)?));
    }
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => Ok(Box::new(Gguf::open(path)?)),
        Err(fault) if fault.kind() != std::io::ErrorKind::UnexpectedEof => Err(Error::io("read", path)(fault)),
        _ => Err(Error::Unsupported {
            what: "model file".into(),
            got: path.display().to_string(),
            supported: "a GGUF file, or a folder as Hugging Face keeps models".into(),
        }),
    }
}
