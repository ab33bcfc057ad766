//! Causal grouped-query attention over the cache.

use super::parts::Parts;
use super::quantized_cache::Kept;
use super::sliced::dot;
use super::{
    attention_matrix, attention_quantized, attention_split, dequantize_cache, each_row, params, quantize_cache,
};
use crate::engine::Traits;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};
use crate::shape::LlamaShape;
use half::f16;
use half::slice::HalfFloatSliceExt;

params! {
    /// H
    heads: u32,
    /// K
    kv_heads: u32,
    /// A
    head_dim: u32,
    /// C
    context: u32,
}

/// `shaders/attention.wgsl`; bindings: q [T, H, A], positions `[T]`, keys [K, C, A] f16, values [K, C, A] f16,
/// y [T, H, A].
pub static KERNEL: Kernel = Kernel {
    name: "attention",
    wgsl: include_str!("../../shaders/attention.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    reference: attention,
};

/// The buffers of the kernel, in binding order.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// [T, H, A] f32
    pub q: Span,
    /// `[T]` u32, each below C
    pub positions: Span,
    /// [K, C, A] f16
    pub keys: Span,
    /// [K, C, A] f16
    pub values: Span,
    /// [T, H, A] f32
    pub y: Span,
}

/// How far back a step's tokens look, where a recording depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Any distance, and best at short ones.
    Any,
    /// Any distance, and best at long ones: a token's positions are shared among workgroups.
    Long,
}

/// Positions from which on a step of one token looks far back.
const LONG_POSITIONS: u32 = 512;

impl Reach {
    /// The reach that is best for tokens from `position` on.
    pub fn of(tokens: u32, position: u32) -> Reach {
        // Many tokens are work enough for all workgroups as they are.
        if tokens == 1 && position >= LONG_POSITIONS { Reach::Long } else { Reach::Any }
    }
}

/// Records the attention of `tokens` tokens, each over the positions up to its own, by the kernel that is best.
///
/// Where keys and values are `kept` in few bits, those of the tokens, which `buffers` has, are kept. Many tokens read
/// their own as they are, a single one what is kept.
///
/// Where a single token looks far back, what it comes to may be left in parts: these are returned, and y is not
/// written.
#[must_use = "y is not written where parts are returned"]
pub fn record(
    recording: &mut Recording,
    traits: Traits,
    shape: &LlamaShape,
    (tokens, reach): (u32, Reach),
    context: u32,
    buffers: Buffers,
    kept: Option<Kept>,
) -> Option<Parts> {
    let Some(kept) = kept else {
        return record_halves(recording, traits, shape, (tokens, reach), context, buffers);
    };
    if tokens == 1 && attention_quantized::fits(traits, kept.layout) {
        let splits = (splits(shape, reach, context), context);
        return attention_quantized::record(recording, traits, shape, splits, buffers, kept);
    }
    let Buffers { positions, keys, values, .. } = buffers;
    dequantize_cache::record(recording, (shape.kv_heads, context), positions, kept, [keys, values]);
    let parts = record_halves(recording, traits, shape, (tokens, reach), context, buffers);
    quantize_cache::record(recording, (tokens, shape.kv_heads, context), positions, [keys, values], kept);
    parts
}

/// Records it over keys and values in f16.
fn record_halves(
    recording: &mut Recording,
    traits: Traits,
    shape: &LlamaShape,
    (tokens, reach): (u32, Reach),
    context: u32,
    buffers: Buffers,
) -> Option<Parts> {
    if traits.software || !attention_split::fits(traits) {
        record_whole(recording, shape, tokens, context, buffers);
        return None;
    }
    if attention_matrix::suits(traits, shape, tokens) {
        attention_matrix::record(recording, shape, tokens, context, buffers);
        return None;
    }
    let splits = splits(shape, reach, context);
    attention_split::record(recording, traits, shape, (tokens, splits), context, buffers)
}

fn splits(shape: &LlamaShape, reach: Reach, context: u32) -> u32 {
    if reach == Reach::Long { attention_split::splits(shape, context) } else { 1 }
}

/// Records the attention of `tokens` tokens by this kernel.
fn record_whole(recording: &mut Recording, shape: &LlamaShape, tokens: u32, context: u32, buffers: Buffers) {
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let params = Params { heads, kv_heads, head_dim, context };
    let Buffers { q, positions, keys, values, y } = buffers;
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![q, positions, keys, values, y],
        workgroups: [heads, tokens, 1],
    });
}

fn attention(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (heads, dim, context) = (p.heads as usize, p.head_dim as usize, p.context as usize);
    let (q, positions): (&[f32], &[u32]) = (args.read(0), args.read(1));
    let (keys, values): (&[f16], &[f16]) = (args.read(2), args.read(3));
    let tokens = args.workgroups[1] as usize;
    let y: &mut [f32] = args.write(4);
    each_row(args.watch, &mut y[..tokens * heads * dim], dim, |at, y| {
        let (token, head) = (at / heads, at % heads);
        let length = positions[token] as usize + 1;
        let cache = head / (heads / p.kv_heads as usize) * context * dim;
        attend(&q[at * dim..][..dim], &keys[cache..][..length * dim], &values[cache..][..length * dim], y);
    });
}

/// y = softmax(q . keys / sqrt(A)) . values over all rows of keys and values; the highest score, and the sum of
/// exp(score - highest).
pub(super) fn attend(q: &[f32], keys: &[f16], values: &[f16], y: &mut [f32]) -> [f32; 2] {
    attend_as(HalfFloatSliceExt::convert_to_f32_slice, q, keys, values, y)
}

/// [`attend`] with rows of numbers that `widen` makes f32.
pub(super) fn attend_as<T>(
    widen: impl Fn(&[T], &mut [f32]),
    q: &[f32],
    keys: &[T],
    values: &[T],
    y: &mut [f32],
) -> [f32; 2] {
    let dim = q.len();
    let scale = 1.0 / (dim as f32).sqrt();
    let mut row = vec![0f32; dim];
    let mut score = |key: &[T]| {
        widen(key, &mut row);
        dot(q, &row) * scale
    };
    let mut weights: Vec<f32> = keys.chunks_exact(dim).map(&mut score).collect();
    let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter_mut().for_each(|w| *w = (*w - highest).exp());
    let total: f32 = weights.iter().sum();
    y.fill(0.0);
    for (value, weight) in values.chunks_exact(dim).zip(&weights) {
        widen(value, &mut row);
        for (y, value) in y.iter_mut().zip(&row) {
            *y += weight / total * value;
        }
    }
    [highest, total]
}
