//! Imports a GGUF file of a LLaMA-family model.

mod added;
mod blocks;
mod control;
mod file;
mod metadata;
mod optional;
mod pretokenizer;
mod sentencepiece;
mod shape;
mod templates;
mod tokenizer;
mod types;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::file::{GgufFile, GgufTensor};
use self::optional::Optional;
use self::shape::{EMBEDDING, HEAD, ROPE_FACTORS};
use self::types::dtype_name;
use super::source::{Source, SourceTensor, TextAssets};
use crate::arch::{LayerVector, ModelSpec};
use crate::error::{Error, Result};
use crate::format::{ModelSource, map_file};
use crate::shape::LlamaShape;

/// An opened GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    header: GgufFile,
    shape: LlamaShape,
    spec: ModelSpec,
    source: ModelSource,
    tensors: HashMap<SourceTensor, GgufTensor>,
    warnings: Vec<String>,
}

impl Gguf {
    /// Opens the file at `path` and checks that it holds a whole LLaMA model.
    pub fn open(path: &Path) -> Result<Gguf> {
        // The map lives only while the header is read: rows are read through the file, so that the pages of a large one
        // do not count as this process's memory.
        let header = file::parse(path, &map_file(path)?)?;
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let shape = shape::read_shape(&header, &mut |tensor| dequantize(path, &mut file, ROPE_FACTORS, tensor))?;
        let spec = ModelSpec::default();
        let tensors = locate_all(path, &shape, &spec, &header)?;
        let dtypes: BTreeSet<&str> = tensors.values().map(|tensor| dtype_name(tensor.dtype)).collect();
        let stem = || path.file_stem().map_or("unnamed".into(), |stem| stem.to_string_lossy().into_owned());
        let mut optional = Optional::new(&header.metadata);
        let source = ModelSource {
            name: optional
                .text("general.name")
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map_or_else(stem, str::to_string),
            format: "gguf".into(),
            dtypes: dtypes.into_iter().map(str::to_string).collect(),
            licence: optional.text("general.license").map(|licence| licence.trim().to_string()),
        };
        let warnings = optional.warnings;
        Ok(Gguf { path: path.to_path_buf(), file, header, shape, spec, source, tensors, warnings })
    }

    /// The name of a tensor in the file: of an embedding that is the head too, the one of its two names that is there.
    fn name(&self, tensor: SourceTensor) -> String {
        let embedding = tensor == SourceTensor::Embed && !self.header.tensors.contains_key(EMBEDDING);
        name(if embedding { SourceTensor::Head } else { tensor })
    }

    /// Rows of a tensor in the order of the file.
    fn file_rows(&mut self, tensor: SourceTensor, rows: Range<u32>) -> Result<Vec<f32>> {
        let (_, input) = tensor.dims(&self.shape, &self.spec);
        let located = &self.tensors[&tensor];
        let row_bytes = located.row_bytes(input as usize).expect("checked when the tensor was located");
        let block = GgufTensor {
            dtype: located.dtype,
            dims: vec![rows.len(), input as usize],
            offset: located.offset + u64::from(rows.start) * row_bytes as u64,
        };
        let name = self.name(tensor);
        dequantize(&self.path, &mut self.file, &name, &block)
    }
}

impl Source for Gguf {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn model_source(&self) -> &ModelSource {
        &self.source
    }

    fn text(&self) -> Result<TextAssets> {
        tokenizer::read(&self.header.metadata)
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let (all, input) = tensor.dims(&self.shape, &self.spec);
        assert!(rows.end <= all, "rows {rows:?} of {all}");
        if !matches!(tensor, SourceTensor::Query(_) | SourceTensor::Key(_)) {
            *out = self.file_rows(tensor, rows)?;
            return Ok(());
        }
        let head_dim = self.shape.head_dim;
        // Whole heads are read, as their rows are in another order.
        let heads = rows.start / head_dim * head_dim..rows.end.next_multiple_of(head_dim);
        let first = heads.start;
        let read = self.file_rows(tensor, heads)?;
        out.clear();
        for row in rows {
            let at = (interleaved_row(row, head_dim) - first) as usize * input as usize;
            out.extend_from_slice(&read[at..at + input as usize]);
        }
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        (self.path.clone(), self.name(tensor))
    }
}

/// The row of a GGUF file that is row `row` of a Hugging Face checkpoint, in the query and key weights.
///
/// llama.cpp rotates neighbours of a head where Hugging Face rotates halves, so its converter permutes the rows by
/// reshape(heads, 2, A/2, D).swapaxes(1, 2): row `i + A/2 * c` of a head becomes `2 * i + c`.
fn interleaved_row(row: u32, head_dim: u32) -> u32 {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (within % half) + within / half
}

/// The numbers of a tensor, read from its place in the file.
fn dequantize(path: &Path, file: &mut File, name: &str, tensor: &GgufTensor) -> Result<Vec<f32>> {
    let mut bytes = vec![0; tensor.byte_count().expect("the header was read with all its tensors in the file")];
    let mut read = || {
        file.seek(SeekFrom::Start(tensor.offset))?;
        file.read_exact(&mut bytes)
    };
    read().map_err(|fault| Error::damaged(path, name, dtype_name(tensor.dtype), fault))?;
    Ok(tensor.dtype.dequantize(&bytes))
}

fn locate_all(
    path: &Path,
    shape: &LlamaShape,
    spec: &ModelSpec,
    header: &GgufFile,
) -> Result<HashMap<SourceTensor, GgufTensor>> {
    let mut tensors = HashMap::new();
    let mut needed = BTreeSet::from([ROPE_FACTORS.to_string()]);
    for tensor in SourceTensor::all(shape, spec) {
        let mut name = name(tensor);
        if name == EMBEDDING && shape.tied_head && !header.tensors.contains_key(EMBEDDING) {
            name = HEAD.into();
        }
        let dims = tensor.stated_dims(shape, spec);
        let found = header.tensors.get(&name);
        let found = found.ok_or_else(|| Error::damaged(path, &name, format!("{dims:?}"), "no tensor"))?;
        if found.dims != dims {
            return Err(Error::damaged(path, name, format!("{dims:?}"), format!("{:?}", found.dims)));
        }
        tensors.insert(tensor, found.clone());
        needed.insert(name);
    }
    match header.tensors.keys().filter(|name| !needed.contains(*name)).min() {
        // A tensor that is left out, a bias say, would silently make another model.
        Some(name) => Err(Error::Unsupported {
            what: "tensor".into(),
            got: name.clone(),
            supported: "those of a LLaMA model without biases".into(),
        }),
        None => Ok(tensors),
    }
}

/// The name of a tensor in GGUF files.
fn name(tensor: SourceTensor) -> String {
    use SourceTensor::*;
    let (layer, part) = match tensor {
        Embed => return EMBEDDING.into(),
        Head => return HEAD.into(),
        FinalNorm => return "output_norm.weight".into(),
        Query(l) => (l, "attn_q"),
        Key(l) => (l, "attn_k"),
        Value(l) => (l, "attn_v"),
        Output(l) => (l, "attn_output"),
        Gate(l) => (l, "ffn_gate"),
        Up(l) => (l, "ffn_up"),
        Down(l) => (l, "ffn_down"),
        QueryBias(l) => return format!("blk.{l}.attn_q.bias"),
        KeyBias(l) => return format!("blk.{l}.attn_k.bias"),
        ValueBias(l) => return format!("blk.{l}.attn_v.bias"),
        Vector(l, vector) => (l, vector_name(vector)),
    };
    format!("blk.{layer}.{part}.weight")
}

fn vector_name(vector: LayerVector) -> &'static str {
    match vector {
        LayerVector::InputNorm => "attn_norm",
        LayerVector::AfterAttentionNorm => "post_attention_norm",
        LayerVector::FfnNorm => "ffn_norm",
        LayerVector::AfterFfnNorm => "post_ffw_norm",
        LayerVector::QueryNorm => "attn_q_norm",
        LayerVector::KeyNorm => "attn_k_norm",
        LayerVector::QkvBias => panic!("biases have three tensors"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_head_are_interleaved_in_the_file() {
        let rows: Vec<u32> = (0..16).map(|row| interleaved_row(row, 8)).collect();
        assert_eq!(rows, [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
    }
}
