//! Carries out a program's operations over the rows of a source.

use std::ops::{ControlFlow, Range};

use rayon::prelude::*;

use super::operations::{activate, capped, dot, query_factor, rms_norm, rotate, softmax};
use super::product;
use crate::arch::{ActivationFunction, HeadNorm, LayerVector, ModelSpec, NormAt, Op, Program, QueryGrowth, Register};
use crate::error::{Error, Result};
use crate::quantize::{Source, SourceTensor};
use crate::shape::{LlamaShape, SiteAt};

/// Weights of a matrix that are in memory at a time.
pub const BLOCK_WEIGHTS: u32 = 1 << 22;
/// Bytes of logits that are in memory at a time.
pub const LOGITS_BYTES: u64 = 1 << 26;
/// Products of two numbers between two looks at whether to go on: some tenths of a second.
const PRODUCTS_AT_ONCE: usize = 1 << 32;

/// Sees how many products of two numbers of the pass are done, and may break it off.
pub type OnProducts<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;
/// Takes the logits, [n, V], of the n tokens from the one of this number on, counted over all windows.
pub type OnLogits<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + 'a;
/// Takes the inputs of all tokens, [T, input], of a site, or of the head where it is `None`.
pub type OnInputs<'a> = dyn FnMut(Option<SiteAt>, &[f32]) + 'a;

/// A forward pass over windows, each of which begins at position 0 and sees itself alone.
pub struct PlainPass<'a> {
    source: &'a mut dyn Source,
    on_products: &'a mut OnProducts<'a>,
    shape: LlamaShape,
    spec: ModelSpec,
    context: u32,
    /// T: the tokens of all windows.
    tokens: usize,
    /// The tokens of each window.
    windows: Vec<Range<usize>>,
    /// By [`Register`], each with a row for each token.
    registers: [Vec<f32>; Register::COUNT],
    /// Of the layer, rotated: [T, K*A].
    keys: Vec<f32>,
    /// Of the layer: [T, K*A].
    values: Vec<f32>,
    products: u64,
}

/// How an [`Op::Rotate`] makes queries, keys and values.
struct HowToRotate {
    layer: u32,
    bias: bool,
    head_norm: HeadNorm,
    rope_table: u32,
    query_growth: Option<QueryGrowth>,
}

/// Products of two numbers that a pass makes for each token, attention left aside.
pub fn products_per_token(shape: &LlamaShape) -> u64 {
    shape.linear_params() + u64::from(shape.vocab) * u64::from(shape.model_dim)
}

/// Bytes of activations that a pass has of each token at most.
pub fn token_bytes(shape: &LlamaShape) -> u64 {
    // Where gates and ups are there, what was before them is too.
    let blocks = 4 * shape.model_dim + 3 * shape.q_dim() + 4 * shape.kv_dim() + 3 * shape.ffn_dim;
    u64::from(blocks) * 4
}

impl<'a> PlainPass<'a> {
    /// A pass over windows of so many tokens in a context of so many.
    pub fn new(
        source: &'a mut dyn Source,
        windows: &[usize],
        context: u32,
        on_products: &'a mut OnProducts<'a>,
    ) -> PlainPass<'a> {
        let (shape, spec) = (source.shape().clone(), source.spec().clone());
        let (registers, keys, values) = Default::default();
        let ends = windows.iter().scan(0, |end, length| {
            *end += length;
            Some(*end - length..*end)
        });
        let (windows, tokens) = (ends.collect(), windows.iter().sum());
        PlainPass { source, on_products, shape, spec, context, tokens, windows, registers, keys, values, products: 0 }
    }

    /// Hands the logits after each of the tokens to `on_logits`, from the first to the last. Fails as that does and as
    /// the source does, and with [`Error::Stopped`] where it was broken off.
    pub fn run(self, ids: &[u32], on_logits: &mut OnLogits<'_>) -> Result<()> {
        self.walk(ids, &mut |_, _| (), &mut |pass, cap| pass.head(cap, on_logits))
    }

    /// Hands the inputs of every site and of the head to `on_inputs`, in the order they come about, and computes no
    /// logits. Fails as [`run`](PlainPass::run) does.
    pub fn run_inputs(self, ids: &[u32], on_inputs: &mut OnInputs<'_>) -> Result<()> {
        self.walk(ids, on_inputs, &mut |_, _| Ok(()))
    }

    fn walk(
        mut self,
        ids: &[u32],
        on_inputs: &mut OnInputs<'_>,
        on_head: &mut dyn FnMut(&mut Self, Option<f32>) -> Result<()>,
    ) -> Result<()> {
        assert_eq!(ids.len(), self.tokens, "the tokens of all windows");
        let program = Program::new(&self.spec, self.shape.layers);
        for op in program.ops() {
            match *op {
                Op::Embed => self.embed(ids)?,
                // Nobody but routers looks at it, and there are none.
                Op::Norm { at: NormAt::Routers, .. } => {}
                Op::Norm { at, from, to, routed: _ } => self.norm(at, from, to)?,
                Op::Project { at, from, to } => {
                    let tensors = SourceTensor::of_site(at.layer, at.site);
                    on_inputs(Some(at), &self.registers[from as usize]);
                    self.registers[to as usize] = self.product(&tensors, from, 0..self.tokens)?;
                }
                Op::Rotate { layer, bias, head_norm, rope_table, query_growth } => {
                    self.rotate(&HowToRotate { layer, bias, head_norm, rope_table, query_growth })?;
                }
                Op::Attend { layer: _, cap, window } => self.attend(cap, window)?,
                Op::Gate { activation } => self.gate(activation),
                Op::Add { norm } => self.add(norm)?,
                Op::Head { cap } => {
                    on_inputs(None, &self.registers[Register::Normed as usize]);
                    on_head(&mut self, cap)?;
                }
            }
        }
        Ok(())
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
        let positions = self.windows.iter().flat_map(|window| 0..window.len());
        let mut rows = std::mem::take(&mut self.registers[Register::Qkv as usize]);
        for (position, row) in positions.zip(rows.chunks_exact_mut(q_dim + 2 * kv_dim)) {
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

    fn attend(&mut self, cap: Option<f32>, window: Option<u32>) -> Result<()> {
        let queries = std::mem::take(&mut self.registers[Register::Queries as usize]);
        let mut attended = vec![0f32; queries.len()];
        let width = self.shape.q_dim() as usize;
        for tokens in self.windows.clone() {
            let numbers = tokens.start * width..tokens.end * width;
            self.attend_in(tokens, &queries[numbers.clone()], (cap, window), &mut attended[numbers]);
            self.go_on()?;
        }
        self.registers[Register::Attended as usize] = attended;
        Ok(())
    }

    /// The attention of the queries of one window's tokens, each of which sees so many at most, with bounded scores.
    fn attend_in(
        &self,
        tokens: Range<usize>,
        queries: &[f32],
        (cap, sight): (Option<f32>, Option<u32>),
        out: &mut [f32],
    ) {
        let (head_dim, kv_dim) = (self.shape.head_dim as usize, self.shape.kv_dim() as usize);
        let (heads, shared_by) = (self.shape.heads as usize, (self.shape.heads / self.shape.kv_heads) as usize);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let (keys, values) = (&self.keys[tokens.start * kv_dim..], &self.values[tokens.start * kv_dim..]);
        let queries = queries.par_chunks_exact(head_dim).zip(out.par_chunks_exact_mut(head_dim)).enumerate();
        queries.for_each(|(at, (query, sum))| {
            let (position, head) = (at / heads, at % heads / shared_by);
            let first = sight.map_or(0, |sight| (position + 1).saturating_sub(sight as usize));
            let place = |token: usize| token * kv_dim + head * head_dim..token * kv_dim + (head + 1) * head_dim;
            let score = |token| capped(dot(query, &keys[place(token)]) * scale, cap);
            let mut scores: Vec<f32> = (first..=position).map(score).collect();
            softmax(&mut scores);
            for (token, score) in (first..).zip(scores) {
                sum.iter_mut().zip(&values[place(token)]).for_each(|(sum, value)| *sum += score * value);
            }
        });
    }

    fn gate(&mut self, activation: ActivationFunction) {
        let ffn_dim = self.shape.ffn_dim as usize;
        let rows = std::mem::take(&mut self.registers[Register::GateUp as usize]);
        let mut hidden = vec![0f32; rows.len() / 2];
        let both = hidden.par_chunks_exact_mut(ffn_dim).zip(rows.par_chunks_exact(2 * ffn_dim));
        both.for_each(|(hidden, row)| {
            let (gates, ups) = row.split_at(ffn_dim);
            let gated = gates.iter().zip(ups).map(|(gate, up)| activate(activation, *gate) * up);
            hidden.iter_mut().zip(gated).for_each(|(hidden, gated)| *hidden = gated);
        });
        self.registers[Register::Hidden as usize] = hidden;
    }

    fn head(&mut self, cap: Option<f32>, on_logits: &mut OnLogits<'_>) -> Result<()> {
        let head = if self.shape.tied_head { SourceTensor::Embed } else { SourceTensor::Head };
        let at_once = (LOGITS_BYTES / (u64::from(self.shape.vocab) * 4)).max(1) as usize;
        for first in (0..self.tokens).step_by(at_once) {
            let tokens = first..self.tokens.min(first + at_once);
            let mut logits = self.product(&[head], Register::Normed, tokens)?;
            if cap.is_some() {
                logits.par_iter_mut().for_each(|logit| *logit = capped(*logit, cap));
            }
            on_logits(first, &logits)?;
        }
        Ok(())
    }

    /// The stacked rows of the tensors times what a register has of some tokens, [tokens, rows].
    fn product(&mut self, tensors: &[SourceTensor], from: Register, tokens: Range<usize>) -> Result<Vec<f32>> {
        let dims = |tensor: &SourceTensor| tensor.dims(&self.shape, &self.spec);
        let all: Vec<(SourceTensor, (u32, u32))> = tensors.iter().map(|tensor| (*tensor, dims(tensor))).collect();
        let width = all.iter().map(|(_, (rows, _))| *rows as usize).sum();
        let mut out = vec![0f32; tokens.len() * width];
        let (mut block, mut before) = (Vec::new(), 0);
        for (tensor, (rows, input)) in all {
            let step = (BLOCK_WEIGHTS / input).max(1);
            let input = input as usize;
            for first in (0..rows).step_by(step as usize) {
                self.source.rows(tensor, first..rows.min(first + step), &mut block)?;
                let at_once = (PRODUCTS_AT_ONCE / block.len()).max(1);
                for (part, out) in out.chunks_mut(at_once * width).enumerate() {
                    let first = (tokens.start + part * at_once) * input;
                    let x = &self.registers[from as usize][first..first + out.len() / width * input];
                    product::multiply(x, &block, input, (out, width, before));
                    self.products += (block.len() * (out.len() / width)) as u64;
                    self.go_on()?;
                }
                before += block.len() / input;
            }
        }
        Ok(out)
    }

    /// Fails where the pass is to be broken off.
    fn go_on(&mut self) -> Result<()> {
        match (self.on_products)(self.products) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped("the logits")),
        }
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
