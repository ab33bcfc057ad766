//! Carries out a program's operations over the rows of a source.

use rayon::prelude::*;

use super::operations::{activate, capped, dot, query_factor, rms_norm, rotate, softmax};
use crate::arch::{ActivationFunction, HeadNorm, LayerVector, ModelSpec, NormAt, Op, Program, QueryGrowth, Register};
use crate::error::Result;
use crate::quantize::{Source, SourceTensor};
use crate::shape::LlamaShape;

/// Weights of a matrix that are in memory at a time.
const BLOCK_WEIGHTS: u32 = 1 << 22;

/// A forward pass.
pub struct PlainPass<'a> {
    source: &'a mut dyn Source,
    shape: LlamaShape,
    spec: ModelSpec,
    context: u32,
    /// T
    tokens: usize,
    /// By [`Register`], each with a row for each token.
    registers: [Vec<f32>; Register::COUNT],
    /// Of the layer, rotated: [T, K*A].
    keys: Vec<f32>,
    /// Of the layer: [T, K*A].
    values: Vec<f32>,
}

/// How an [`Op::Rotate`] makes queries, keys and values.
struct HowToRotate {
    layer: u32,
    bias: bool,
    head_norm: HeadNorm,
    rope_table: u32,
    query_growth: Option<QueryGrowth>,
}

impl PlainPass<'_> {
    /// A pass of so many tokens in a context of so many.
    pub fn new(source: &mut dyn Source, tokens: usize, context: u32) -> PlainPass<'_> {
        let (shape, spec) = (source.shape().clone(), source.spec().clone());
        let (registers, keys, values) = Default::default();
        PlainPass { source, shape, spec, context, tokens, registers, keys, values }
    }

    /// The logits after each of the tokens, `[T][V]`.
    pub fn run(mut self, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
        let program = Program::new(&self.spec, self.shape.layers);
        let mut logits = Vec::new();
        for op in program.ops() {
            match *op {
                Op::Embed => self.embed(ids)?,
                // Nobody but routers looks at it, and there are none.
                Op::Norm { at: NormAt::Routers, .. } => {}
                Op::Norm { at, from, to, routed: _ } => self.norm(at, from, to)?,
                Op::Project { at, from, to } => {
                    self.registers[to as usize] = self.product(&SourceTensor::of_site(at.layer, at.site), from)?;
                }
                Op::Rotate { layer, bias, head_norm, rope_table, query_growth } => {
                    self.rotate(&HowToRotate { layer, bias, head_norm, rope_table, query_growth })?;
                }
                Op::Attend { layer: _, cap, window } => self.attend(cap, window),
                Op::Gate { activation } => self.gate(activation),
                Op::Add { norm } => self.add(norm)?,
                Op::Head { cap } => logits = self.head(cap)?,
            }
        }
        Ok(logits)
    }

    fn embed(&mut self, ids: &[u32]) -> Result<()> {
        let (mut all, mut row) = (Vec::new(), Vec::new());
        for id in ids {
            self.source.rows(SourceTensor::Embed, *id..*id + 1, &mut row)?;
            all.extend_from_slice(&row);
        }
        self.registers[Register::Residual as usize] = all;
        Ok(())
    }

    fn norm(&mut self, at: NormAt, from: Register, to: Register) -> Result<()> {
        let weight = match at.vector() {
            Some((layer, which)) => self.vector(layer, which)?,
            None => self.concatenated(&[SourceTensor::FinalNorm])?,
        };
        let mut numbers = self.registers[from as usize].clone();
        rms_norm(&mut numbers, &weight, self.shape.norm_eps);
        self.registers[to as usize] = numbers;
        Ok(())
    }

    fn add(&mut self, norm: Option<NormAt>) -> Result<()> {
        if let Some(at) = norm {
            self.norm(at, Register::Branch, Register::Branch)?;
        }
        let branch = std::mem::take(&mut self.registers[Register::Branch as usize]);
        let residual = &mut self.registers[Register::Residual as usize];
        residual.iter_mut().zip(branch).for_each(|(residual, branch)| *residual += branch);
        Ok(())
    }

    fn rotate(&mut self, rotation: &HowToRotate) -> Result<()> {
        let HowToRotate { layer, bias, head_norm, rope_table, query_growth } = *rotation;
        let biases = if bias { Some(self.vector(layer, LayerVector::QkvBias)?) } else { None };
        let norms = match head_norm {
            HeadNorm::None => None,
            HeadNorm::EachHead | HeadNorm::AllHeads => {
                Some((self.vector(layer, LayerVector::QueryNorm)?, self.vector(layer, LayerVector::KeyNorm)?))
            }
        };
        let frequencies = self.spec.frequencies(&self.shape, rope_table, self.context);
        let (q_dim, kv_dim) = (self.shape.q_dim() as usize, self.shape.kv_dim() as usize);
        let mut queries = Vec::new();
        self.keys.clear();
        self.values.clear();
        for (position, row) in self.registers[Register::Qkv as usize].chunks_exact_mut(q_dim + 2 * kv_dim).enumerate() {
            if let Some(biases) = &biases {
                row.iter_mut().zip(biases).for_each(|(x, bias)| *x += bias);
            }
            let (q, kv) = row.split_at_mut(q_dim);
            let (k, v) = kv.split_at_mut(kv_dim);
            if let Some((query_norm, key_norm)) = &norms {
                rms_norm(q, query_norm, self.shape.norm_eps);
                rms_norm(k, key_norm, self.shape.norm_eps);
            }
            rotate(q, &frequencies, position);
            rotate(k, &frequencies, position);
            let factor = query_growth.map_or(1.0, |growth| query_factor(growth, position));
            queries.extend(q.iter().map(|x| x * factor));
            self.keys.extend_from_slice(k);
            self.values.extend_from_slice(v);
        }
        self.registers[Register::Queries as usize] = queries;
        Ok(())
    }

    fn attend(&mut self, cap: Option<f32>, window: Option<u32>) {
        let (head_dim, kv_dim) = (self.shape.head_dim as usize, self.shape.kv_dim() as usize);
        let (heads, shared_by) = (self.shape.heads as usize, (self.shape.heads / self.shape.kv_heads) as usize);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (keys, values) = (&self.keys, &self.values);
        let queries = self.registers[Register::Queries as usize].par_chunks_exact(head_dim).enumerate();
        let attended = queries.flat_map_iter(|(at, query)| {
            let (position, head) = (at / heads, at % heads / shared_by);
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window as usize));
            let place = |token: usize| token * kv_dim + head * head_dim..token * kv_dim + (head + 1) * head_dim;
            let score = |token| capped(dot(query, &keys[place(token)]) * scale, cap);
            let mut scores: Vec<f32> = (first..=position).map(score).collect();
            softmax(&mut scores);
            let mut sum = vec![0f32; head_dim];
            for (token, score) in (first..).zip(scores) {
                sum.iter_mut().zip(&values[place(token)]).for_each(|(sum, value)| *sum += score * value);
            }
            sum
        });
        self.registers[Register::Attended as usize] = attended.collect();
    }

    fn gate(&mut self, activation: ActivationFunction) {
        let ffn_dim = self.shape.ffn_dim as usize;
        let rows = self.registers[Register::GateUp as usize].chunks_exact(2 * ffn_dim);
        let hidden = rows.flat_map(|row| {
            let (gates, ups) = row.split_at(ffn_dim);
            gates.iter().zip(ups).map(|(gate, up)| activate(activation, *gate) * up)
        });
        self.registers[Register::Hidden as usize] = hidden.collect();
    }

    fn head(&mut self, cap: Option<f32>) -> Result<Vec<Vec<f32>>> {
        let head = if self.shape.tied_head { SourceTensor::Embed } else { SourceTensor::Head };
        let all = self.product(&[head], Register::Normed)?;
        let rows = all.chunks_exact(self.shape.vocab as usize);
        Ok(rows.map(|row| row.iter().map(|logit| capped(*logit, cap)).collect()).collect())
    }

    /// The stacked rows of the tensors times a register, [T, rows].
    fn product(&mut self, tensors: &[SourceTensor], from: Register) -> Result<Vec<f32>> {
        let dims = |tensor: &SourceTensor| tensor.dims(&self.shape, &self.spec);
        let all: Vec<(SourceTensor, (u32, u32))> = tensors.iter().map(|tensor| (*tensor, dims(tensor))).collect();
        let width = all.iter().map(|(_, (rows, _))| *rows as usize).sum();
        let mut out = vec![0f32; self.tokens * width];
        let (mut block, mut before) = (Vec::new(), 0);
        for (tensor, (rows, input)) in all {
            let step = (BLOCK_WEIGHTS / input).max(1);
            for first in (0..rows).step_by(step as usize) {
                self.source.rows(tensor, first..rows.min(first + step), &mut block)?;
                let inputs = self.registers[from as usize].par_chunks_exact(input as usize);
                out.par_chunks_exact_mut(width).zip(inputs).for_each(|(out, x)| {
                    let weights = block.chunks_exact(input as usize);
                    out[before..].iter_mut().zip(weights).for_each(|(out, row)| *out = dot(row, x));
                });
                before += block.len() / input as usize;
            }
        }
        Ok(out)
    }

    fn vector(&mut self, layer: u32, which: LayerVector) -> Result<Vec<f32>> {
        self.concatenated(&SourceTensor::of_vector(layer, which))
    }

    /// Vectors one after the other.
    fn concatenated(&mut self, tensors: &[SourceTensor]) -> Result<Vec<f32>> {
        let (mut all, mut one) = (Vec::new(), Vec::new());
        for tensor in tensors {
            self.source.rows(*tensor, 0..1, &mut one)?;
            all.extend_from_slice(&one);
        }
        Ok(all)
    }
}
