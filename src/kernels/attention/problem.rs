//! Causal grouped-query attention over the cache: what its kernels share.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::cache::layout::QuantizedKv;
use crate::kernels::sliced::dot;
use crate::recording::Span;
use crate::shape::LlamaShape;

/// The attention of a step's tokens, each over the positions up to its own.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// The model's dimensions.
    pub shape: &'a LlamaShape,
    /// T
    pub tokens: u32,
    /// C, the cells of the cache.
    pub cells: u32,
    /// Positions of a sequence at most.
    pub context: u32,
    /// How many positions a single token has before it.
    pub class: ContextClass,
    /// Keys and values in few bits, where the cache has those of the earlier positions.
    pub quantized_kv: Option<QuantizedKv>,
    /// What is read and written.
    pub buffers: AttentionBuffers,
}

/// The buffers of the kernels, in binding order.
#[derive(Debug, Clone, Copy)]
pub struct AttentionBuffers {
    /// [T, H, A] f32
    pub q: Span,
    /// `[T]` of [`StepRow`](crate::kernels::step_rows::StepRow)
    pub step_rows: Span,
    /// [K, C, A] f16
    pub keys: Span,
    /// [K, C, A] f16
    pub values: Span,
    /// [T, H, A] f32
    pub y: Span,
}

/// The context length that a recording is made for. Each class computes the same at any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContextClass {
    /// Best where tokens have few positions before them, and where there are many tokens.
    Short,
    /// Best where a single token has many positions before it: they are shared among workgroups.
    Long,
}

/// Positions from which on the context of a single token is long.
const LONG_POSITIONS: u32 = 512;

impl ContextClass {
    /// The class that is best for `tokens` tokens from `position` on.
    pub fn of(tokens: u32, position: u32) -> ContextClass {
        // Many tokens are work enough for all workgroups as they are.
        if tokens == 1 && position >= LONG_POSITIONS { ContextClass::Long } else { ContextClass::Short }
    }
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
