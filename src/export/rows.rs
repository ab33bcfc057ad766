//! The weights of a model folder at fixed depths, a few rows at a time, as a source of weights.

use std::ops::Range as Rows;
use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use half::f16;
use rayon::prelude::*;
use serde_json::Value;

use super::depths::SiteDepths;
use crate::arch::{LayerVector, ModelSpec};
use crate::error::{Error, Result};
use crate::format::codes::{Range, RangeForm, WEIGHTS_PER_WORD, unpack};
use crate::format::layout::{self, SlicedSpec};
use crate::format::{
    CHAT_TEMPLATE_FILE, CHAT_TEMPLATES_FILE, GENERATION_FILE, MappedTensor, ModelFolder, ModelSource, TOKENIZER_FILE,
};
use crate::json;
use crate::precision::SLICES;
use crate::quantize::family::fused;
use crate::quantize::{Source, SourceTensor, TextAssets};
use crate::shape::{LlamaShape, Site, SiteAt};

/// A model folder whose layers are read at fixed depths, embedding and head at the full one.
#[derive(Debug)]
pub struct DepthRows<'a> {
    folder: &'a ModelFolder,
    depths: SiteDepths,
}

/// Rows of a matrix, coded: one code for each weight, and one range for each group.
#[derive(Debug, Clone, Default)]
pub struct CodedRows {
    /// Codes at the depth read, [rows * input].
    pub codes: Vec<u8>,
    /// Those at the depth read, [rows * input / G].
    pub ranges: Vec<Range>,
    /// G
    pub group: usize,
    /// Slices read.
    pub depth: usize,
}

impl CodedRows {
    /// Replaces `out` by the weights.
    pub fn decode(&self, out: &mut Vec<f32>) {
        let shift = 8 - 2 * self.depth;
        out.resize(self.codes.len(), 0.0);
        let groups = out.par_chunks_exact_mut(self.group).zip(self.codes.par_chunks_exact(self.group));
        groups.zip(&self.ranges).for_each(|((out, codes), range)| {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = range.decode(code << shift, self.depth);
            }
        });
    }
}

impl<'a> DepthRows<'a> {
    /// The folder at these depths.
    pub fn new(folder: &'a ModelFolder, depths: impl Into<SiteDepths>) -> DepthRows<'a> {
        DepthRows { folder, depths: depths.into() }
    }

    /// Replaces `out` by rows of a matrix as they are stored, without decoding them. Panics for vectors, and where the
    /// matrix has no such rows.
    pub fn coded(&self, tensor: SourceTensor, rows: Rows<u32>, out: &mut CodedRows) -> Result<()> {
        let shape = self.folder.shape();
        let (matrix, first) = stack(shape, tensor).expect("a matrix");
        let depth = site_of(tensor).map_or(SLICES, |at| self.depths.at(at).slices());
        let (group, input) = (self.folder.group_size() as usize, matrix.input as usize);
        let slices: Vec<MappedTensor> =
            (0..depth).map(|slice| self.folder.tensor(slice, &matrix.slice(slice).name)).collect::<Result<_>>()?;
        let form = RangeForm::of_group(group as u32);
        let of_slice = if form == RangeForm::Words { depth - 1 } else { 0 };
        let ranges = matrix.ranges(form, of_slice).expect("pairs lie with the base, words with each slice");
        let ranges = self.folder.tensor(of_slice, &ranges.name)?;
        let rows = (first + rows.start) as usize..(first + rows.end) as usize;
        let row_words = input / WEIGHTS_PER_WORD;
        let words = rows.start * row_words..rows.end * row_words;
        let slices: Vec<&[u32]> = slices.iter().map(|slice| &cast_slice(slice.bytes())[words.clone()]).collect();
        out.codes.resize(words.len() * WEIGHTS_PER_WORD, 0);
        let (sixteens, _) = out.codes.as_chunks_mut::<WEIGHTS_PER_WORD>();
        sixteens.par_iter_mut().with_min_len(1 << 12).enumerate().for_each(|(at, codes)| {
            let mut words = [0; SLICES];
            words.iter_mut().zip(&slices).for_each(|(word, slice)| *word = slice[at]);
            *codes = unpack(&words[..depth]);
        });
        let groups = rows.start * (input / group)..rows.end * (input / group);
        out.ranges.clear();
        match form {
            RangeForm::Pairs { .. } => {
                let (pairs, _) = cast_slice::<u8, f16>(ranges.bytes()).as_chunks::<2>();
                out.ranges.extend(pairs[groups].iter().map(|pair| Range::of_pair(*pair)));
            }
            RangeForm::Words => {
                let words: &[u16] = cast_slice(ranges.bytes());
                out.ranges.extend(words[groups].iter().map(|word| Range::of_word(*word)));
            }
        }
        (out.group, out.depth) = (group, depth);
        Ok(())
    }

    /// Replaces `out` by a vector.
    fn vector(&self, tensor: SourceTensor, out: &mut Vec<f32>) -> Result<()> {
        let (shape, spec) = (self.folder.shape(), &self.folder.manifest().spec);
        let name = match tensor {
            SourceTensor::FinalNorm => layout::FINAL_NORM.to_string(),
            SourceTensor::QueryBias(l) | SourceTensor::KeyBias(l) | SourceTensor::ValueBias(l) => {
                layout::layer_vector(shape, spec, l, LayerVector::QkvBias).name
            }
            SourceTensor::Vector(l, vector) => layout::layer_vector(shape, spec, l, vector).name,
            _ => unreachable!("{tensor:?} is a matrix"),
        };
        let mapped = self.folder.tensor(0, &name)?;
        let numbers: &[f32] = cast_slice(mapped.bytes());
        let (first, (_, length)) = (first_in_stack(tensor, shape) as usize, tensor.dims(shape, spec));
        *out = numbers[first..first + length as usize].to_vec();
        Ok(())
    }
}

impl Source for DepthRows<'_> {
    fn shape(&self) -> &LlamaShape {
        self.folder.shape()
    }

    fn spec(&self) -> &ModelSpec {
        &self.folder.manifest().spec
    }

    fn model_source(&self) -> &ModelSource {
        &self.folder.manifest().source
    }

    fn warnings(&self) -> &[String] {
        &[]
    }

    fn text(&self) -> Result<TextAssets> {
        let dir = self.folder.dir();
        let needed = |name: &str| {
            let missing = || Error::damaged(dir, "content", name, "no such file");
            self.folder.read_text(name)?.ok_or_else(missing)
        };
        Ok(TextAssets {
            tokenizer: needed(TOKENIZER_FILE)?,
            chat_template: self.folder.read_text(CHAT_TEMPLATE_FILE)?,
            named_templates: named_templates(dir, self.folder.read_text(CHAT_TEMPLATES_FILE)?)?,
            generation_config: needed(GENERATION_FILE)?,
            warnings: Vec::new(),
        })
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Rows<u32>, out: &mut Vec<f32>) -> Result<()> {
        if tensor.is_vector() {
            return self.vector(tensor, out);
        }
        let mut coded = CodedRows::default();
        self.coded(tensor, rows, &mut coded)?;
        coded.decode(out);
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        let name = stack(self.folder.shape(), tensor).map_or_else(|| format!("{tensor:?}"), |(matrix, _)| matrix.name);
        (self.folder.dir().join(layout::slice_file(0)), name)
    }
}

/// The stacked matrix that a tensor's rows are part of, and the first of them; `None` for vectors.
fn stack(shape: &LlamaShape, tensor: SourceTensor) -> Option<(SlicedSpec, u32)> {
    let matrix = match (tensor, site_of(tensor)) {
        (SourceTensor::Embed, _) => layout::embed(shape),
        (SourceTensor::Head, _) => layout::head(shape)?,
        (_, site) => site.map(|SiteAt { layer, site }| layout::site(shape, layer, site))?,
    };
    Some((matrix, first_in_stack(tensor, shape)))
}

/// The site of a layer that a matrix belongs to; `None` for embedding, head and vectors.
pub fn site_of(tensor: SourceTensor) -> Option<SiteAt> {
    use SourceTensor::*;
    let (layer, site) = match tensor {
        Query(l) | Key(l) | Value(l) => (l, Site::Qkv),
        Output(l) => (l, Site::O),
        Gate(l) | Up(l) => (l, Site::GateUp),
        Down(l) => (l, Site::Down),
        Embed | Head | QueryBias(_) | KeyBias(_) | ValueBias(_) | Vector(..) | FinalNorm => return None,
    };
    Some(SiteAt { layer, site })
}

/// The row of a stack, or the number of a vector, that a tensor begins at.
fn first_in_stack(tensor: SourceTensor, shape: &LlamaShape) -> u32 {
    fused(tensor, shape).map_or(0, |(_, first, _)| first)
}

fn named_templates(dir: &Path, text: Option<String>) -> Result<Vec<(String, String)>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let path = dir.join(CHAT_TEMPLATES_FILE);
    let fields: Value = json::parse(&path, &text)?;
    let fields = fields.as_object().ok_or_else(|| Error::damaged(&path, "JSON", "an object of texts", "another"))?;
    let texts = fields.iter().filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_string())));
    Ok(texts.collect())
}
