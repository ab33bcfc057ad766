//! What a model is imported from: its shape, its texts, and its weights a few rows at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::folder;
use super::gguf::Gguf;
use super::huggingface::HuggingFace;
use super::text::as_file;
use crate::arch::{LayerVector, ModelSpec};
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::format::ModelSource;
use crate::shape::{LlamaShape, Site};

/// A checkpoint of a LLaMA-family model.
pub trait Source {
    /// Dimensions and constants, without a fault.
    fn shape(&self) -> &LlamaShape;

    /// Where the model differs from LLaMA, without a fault.
    fn spec(&self) -> &ModelSpec;

    /// Name, format, dtypes and licence.
    fn model_source(&self) -> &ModelSource;

    /// What of the source was left out, decided or counts as absent, the text side apart, in sentences for people.
    fn warnings(&self) -> &[String];

    /// The text side's files, as the source has them; [`checked_text`](super::checked_text) completes them.
    fn text(&self) -> Result<TextAssets>;

    /// Replaces `out` by rows of a tensor. They are as the runtime takes them: what is linear in a family is folded in,
    /// and heads are rotated by halves. Panics where the tensor has no such rows.
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
    /// What of them cannot be followed and counts as absent, in sentences for people.
    pub warnings: Vec<String>,
}

impl TextAssets {
    /// chat_templates.json, an object of the templates that have names of their own; `None` where there are none.
    pub fn named_templates_file(&self) -> Option<String> {
        let named: Map<String, Value> =
            self.named_templates.iter().map(|(name, template)| (name.clone(), template.as_str().into())).collect();
        (!named.is_empty()).then(|| as_file(&named))
    }
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
    /// Biases of queries, `[H * A]`.
    QueryBias(u32),
    /// Biases of keys, `[K * A]`.
    KeyBias(u32),
    /// Biases of values, `[K * A]`.
    ValueBias(u32),
    /// Any other vector of a layer than its biases.
    Vector(u32, LayerVector),
    /// `[D]`, before the head.
    FinalNorm,
}

impl SourceTensor {
    /// The tensors that a model of this shape and spec has.
    pub fn all(shape: &LlamaShape, spec: &ModelSpec) -> Vec<SourceTensor> {
        use SourceTensor::*;
        let layers = (0..shape.layers).flat_map(|l| {
            let sites = Site::ALL.into_iter().flat_map(move |site| SourceTensor::of_site(l, site));
            let vectors = LayerVector::of(spec.layer(l)).flat_map(move |vector| SourceTensor::of_vector(l, vector));
            sites.chain(vectors)
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

    /// The tensors that, one after the other, are a vector of a layer.
    pub fn of_vector(layer: u32, vector: LayerVector) -> Vec<SourceTensor> {
        use SourceTensor::*;
        match vector {
            LayerVector::QkvBias => vec![QueryBias(layer), KeyBias(layer), ValueBias(layer)],
            vector => vec![Vector(layer, vector)],
        }
    }

    /// (rows, input dimension); a vector is one row.
    pub fn dims(self, shape: &LlamaShape, spec: &ModelSpec) -> (u32, u32) {
        use SourceTensor::*;
        let (d, f) = (shape.model_dim, shape.ffn_dim);
        match self {
            Embed | Head => (shape.vocab, d),
            Query(_) => (shape.q_dim(), d),
            Key(_) | Value(_) => (shape.kv_dim(), d),
            Output(_) => (d, shape.q_dim()),
            Gate(_) | Up(_) => (f, d),
            Down(_) => (d, f),
            QueryBias(_) => (1, shape.q_dim()),
            KeyBias(_) | ValueBias(_) => (1, shape.kv_dim()),
            Vector(layer, vector) => (1, vector.length(shape, spec.layer(layer))),
            FinalNorm => (1, d),
        }
    }

    /// Whether it is a vector, which checkpoints state by its length alone.
    pub fn is_vector(self) -> bool {
        use SourceTensor::*;
        matches!(self, QueryBias(_) | KeyBias(_) | ValueBias(_) | Vector(..) | FinalNorm)
    }

    /// The dimensions as checkpoints state them, slowest first.
    pub fn stated_dims(self, shape: &LlamaShape, spec: &ModelSpec) -> Vec<usize> {
        let (rows, input) = self.dims(shape, spec);
        if self.is_vector() { vec![input as usize] } else { vec![rows as usize, input as usize] }
    }
}

/// The error for a model that asks for something else than what there is.
pub fn unsupported<T>(what: &str, got: &str, supported: &str) -> Result<T> {
    Err(Error::unsupported(what, got, supported))
}

/// Opens a Hugging Face folder or a GGUF file. Anything else is refused by its name, with what to do about it.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    let metadata = std::fs::metadata(path).map_err(|fault| filetype::missing(path, fault))?;
    if metadata.is_dir() {
        folder::check(path)?;
        return Ok(Box::new(HuggingFace::open(path)?));
    }
    if !metadata.is_file() {
        return Err(Error::damaged(path, "content", filetype::READABLE, "a pipe or a device"));
    }
    match filetype::of_file(path)? {
        FileType::Gguf => Ok(Box::new(Gguf::open(path)?)),
        found => Err(folder::refuse_file(path, found)),
    }
}
