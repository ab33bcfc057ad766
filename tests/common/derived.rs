//! Sources whose matrices follow from another source's; the vectors are its own.

use std::ops::Range as Rows;
use std::path::PathBuf;

use edge_run::Result;
use edge_run::internals::arch::ModelSpec;
use edge_run::internals::format::codes::{Range, WEIGHTS_PER_WORD, unpack};
use edge_run::internals::format::{ModelFolder, ModelSource};
use edge_run::internals::precision::SLICES;
use edge_run::internals::quantize::{Source, SourceTensor, TextAssets};
use edge_run::internals::shape::LlamaShape;
use half::f16;

use crate::common::families::uniform;

/// Weights of a group in these tests.
pub const GROUP: usize = 64;

/// What is done to the rows of a matrix after they are read.
type Change<'a> = dyn Fn(SourceTensor, Rows<u32>, &mut [f32]) + 'a;

/// A source with changed matrices.
pub struct Derived<'a> {
    source: Box<dyn Source>,
    change: Box<Change<'a>>,
}

impl<'a> Derived<'a> {
    /// The matrices as a model folder has them, at full depth.
    pub fn dequantized(source: Box<dyn Source>, folder: &'a ModelFolder) -> Derived<'a> {
        let shape = folder.shape();
        let (q, kv, ffn) = (shape.q_dim(), shape.kv_dim(), shape.ffn_dim);
        let change = move |tensor, rows: Rows<u32>, weights: &mut [f32]| {
            use SourceTensor::*;
            let (name, first) = match tensor {
                Embed => ("embed".to_string(), 0),
                Head => ("head".to_string(), 0),
                Query(layer) => (format!("layers.{layer}.qkv"), 0),
                Key(layer) => (format!("layers.{layer}.qkv"), q),
                Value(layer) => (format!("layers.{layer}.qkv"), q + kv),
                Output(layer) => (format!("layers.{layer}.o"), 0),
                Gate(layer) => (format!("layers.{layer}.gate_up"), 0),
                Up(layer) => (format!("layers.{layer}.gate_up"), ffn),
                Down(layer) => (format!("layers.{layer}.down"), 0),
                other => panic!("{other:?} is no matrix"),
            };
            let width = weights.len() / rows.len();
            read_cut(folder, &name, (first + rows.start) as usize * width, weights);
        };
        Derived { source, change: Box::new(change) }
    }

    /// Every weight moved by the error of eight bits: evenly at random, within half a bin to both sides, of 256 bins
    /// from the least to the largest weight of its group.
    pub fn perturbed(source: Box<dyn Source>, seed: u32) -> Derived<'a> {
        let change = move |tensor, rows: Rows<u32>, weights: &mut [f32]| {
            let errors = uniform(&format!("{seed} {tensor:?} {}", rows.start), weights.len()).collect::<Vec<f32>>();
            for (group, errors) in weights.chunks_exact_mut(GROUP).zip(errors.chunks_exact(GROUP)) {
                let least = group.iter().copied().fold(f32::INFINITY, f32::min);
                let largest = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let half_bin = (largest - least) / 256.0 / 2.0;
                group.iter_mut().zip(errors).for_each(|(weight, error)| *weight += error * half_bin);
            }
        };
        Derived { source, change: Box::new(change) }
    }
}

/// Replaces `weights` by those of a matrix from the weight numbered `first` on.
fn read_cut(folder: &ModelFolder, name: &str, first: usize, weights: &mut [f32]) {
    assert_eq!(folder.group_size() as usize, GROUP);
    let slices: Vec<_> = (0..SLICES).map(|s| folder.tensor(s, &format!("{name}.slice{s}")).unwrap()).collect();
    let slices: Vec<&[u32]> = slices.iter().map(|slice| bytemuck::cast_slice(slice.bytes())).collect();
    let scales = folder.tensor(0, &format!("{name}.scales")).unwrap();
    let scales: &[f16] = bytemuck::cast_slice(scales.bytes());
    for (at, sixteen) in weights.chunks_exact_mut(WEIGHTS_PER_WORD).enumerate() {
        let at = first + at * WEIGHTS_PER_WORD;
        let range = Range::of_pair([scales[at / GROUP * 2], scales[at / GROUP * 2 + 1]]);
        let words: Vec<u32> = slices.iter().map(|slice| slice[at / WEIGHTS_PER_WORD]).collect();
        for (weight, code) in sixteen.iter_mut().zip(unpack(&words)) {
            *weight = range.decode(code, SLICES);
        }
    }
}

impl Source for Derived<'_> {
    fn shape(&self) -> &LlamaShape {
        self.source.shape()
    }

    fn spec(&self) -> &ModelSpec {
        self.source.spec()
    }

    fn model_source(&self) -> &ModelSource {
        self.source.model_source()
    }

    fn warnings(&self) -> &[String] {
        self.source.warnings()
    }

    fn text(&self) -> Result<TextAssets> {
        self.source.text()
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Rows<u32>, out: &mut Vec<f32>) -> Result<()> {
        self.source.rows(tensor, rows.clone(), out)?;
        if !tensor.is_vector() {
            (self.change)(tensor, rows, out);
        }
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        self.source.locate(tensor)
    }
}
