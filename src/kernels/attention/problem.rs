//! Causal grouped-query attention over the cache: what its kernels share.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::cache::layout::QuantizedKv;
use crate::kernels::sliced::dot;
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::{Arguments, Span};
use crate::shape::LlamaShape;

/// The attention of a step's tokens, each over positions up to its own.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// The model's dimensions.
    pub shape: &'a LlamaShape,
    /// T
    pub tokens: u32,
    /// Whether each of several tokens is computed as if it were alone, bit for bit.
    pub as_alone: bool,
    /// The cells of the layer's cache.
    pub cells: Cells,
    /// Which positions a token looks at, and the bound of its scores.
    pub scores: ScoreRules,
    /// Positions of a sequence at most.
    pub context: u32,
    /// How many positions a single token has before it, or each one that is computed as if it were alone.
    pub class: ContextClass,
    /// Keys and values in few bits, where the cache has those of the earlier positions.
    pub quantized_kv: Option<QuantizedKv>,
    /// What is read and written.
    pub buffers: AttentionBuffers,
}

/// Which positions a token looks at, and the bound of its scores; `shaders/shared/scores.wgsl` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ScoreRules {
    /// Positions that a token looks at, its own included, 1 or more; without it, all up to its own.
    pub window: Option<u32>,
    /// Bounds the scores: `cap * tanh(score / cap)`.
    pub cap: Option<f32>,
}

impl Attention<'_> {
    /// Positions that a token looks at, at most.
    pub(super) fn reach(&self) -> u32 {
        self.scores.window.map_or(self.context, |window| window.min(self.context))
    }

    /// The attention of one of the tokens. Where its numbers begin, only functions of the processor can bind them.
    pub(super) fn of_token(&self, token: u32) -> Attention<'_> {
        let own = |all: Span| {
            let bytes = all.bytes / u64::from(self.tokens);
            Span { offset: all.offset + u64::from(token) * bytes, bytes, ..all }
        };
        let AttentionBuffers { q, step_rows, y, .. } = self.buffers;
        let buffers = AttentionBuffers { q: own(q), step_rows: own(step_rows), y: own(y), ..self.buffers };
        Attention { tokens: 1, buffers, ..*self }
    }

    /// The constants of the shaders that say which cells there are and how scores are made, where they are not the
    /// shaders' own.
    pub(super) fn constants(&self) -> impl Iterator<Item = (&'static str, u32)> + use<> {
        self.cells.constants().into_iter().chain(self.scores.constants())
    }
}

impl ScoreRules {
    /// The rules of a dispatch.
    pub(crate) fn in_arguments(args: &Arguments<'_>) -> ScoreRules {
        let constant = |name| Some(args.constant_or(name, 0)).filter(|value| *value != 0);
        ScoreRules { window: constant("WINDOW"), cap: constant("CAP_BITS").map(f32::from_bits) }
    }

    /// The constants of the shaders, where they are not the shaders' own.
    pub(crate) fn constants(self) -> impl Iterator<Item = (&'static str, u32)> {
        let window = self.window.map(|window| ("WINDOW", window));
        window.into_iter().chain(self.cap.map(|cap| ("CAP_BITS", cap.to_bits())))
    }
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

    /// The class that is best where a token looks at so many positions at most.
    pub(super) fn within(self, reach: u32) -> ContextClass {
        if reach > LONG_POSITIONS { self } else { ContextClass::Short }
    }
}

/// What a dispatch attends over, one head after the other: `[K, C, A]` keys and values.
#[derive(Clone, Copy)]
pub(super) struct HeadCaches<'a> {
    /// Keys of all heads.
    pub keys: &'a [f16],
    /// Values of all heads.
    pub values: &'a [f16],
    /// The cells of a head.
    pub cells: Cells,
    /// Which positions a token looks at, and the bound of its scores.
    pub rules: ScoreRules,
}

impl<'a> HeadCaches<'a> {
    /// What a dispatch of `cells` cells binds as its third and fourth buffer.
    pub fn bound(args: &Arguments<'a>, cells: u32) -> HeadCaches<'a> {
        let (cells, rules) = (Cells::in_arguments(args, cells), ScoreRules::in_arguments(args));
        HeadCaches { keys: args.read(2), values: args.read(3), cells, rules }
    }

    /// [`attend_as`] over some positions of a row's sequence, in one head of the keys and values.
    pub fn attend(&self, kv_head: usize, row: StepRow, positions: Range<usize>, q: &[f32], y: &mut [f32]) -> [f32; 2] {
        let (first, dim) = (kv_head * self.cells.count as usize, q.len());
        let rows =
            self.cells.stretches(row, positions).map(|cells| (first + cells.start) * dim..(first + cells.end) * dim);
        let [keys, values] = [self.keys, self.values].map(|all| rows.clone().map(|rows| &all[rows]));
        attend_as(HalfFloatSliceExt::convert_to_f32_slice, self.rules.cap, q, keys, values, y)
    }
}

/// y = softmax(q . keys / sqrt(A)) . values over all rows of keys and values, first stretch and second; the highest
/// score, and the sum of exp(score - highest). `cap` bounds the scores, and `widen` makes f32 of rows.
pub(super) fn attend_as<T>(
    widen: impl Fn(&[T], &mut [f32]),
    cap: Option<f32>,
    q: &[f32],
    keys: [&[T]; 2],
    values: [&[T]; 2],
    y: &mut [f32],
) -> [f32; 2] {
    let dim = q.len();
    let scale = 1.0 / (dim as f32).sqrt();
    let mut row = vec![0f32; dim];
    let mut score = |key: &[T]| {
        widen(key, &mut row);
        let score = dot(q, &row) * scale;
        cap.map_or(score, |cap| cap * (score / cap).tanh())
    };
    let mut weights: Vec<f32> = keys.iter().flat_map(|keys| keys.chunks_exact(dim)).map(&mut score).collect();
    let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter_mut().for_each(|w| *w = (*w - highest).exp());
    let total: f32 = weights.iter().sum();
    y.fill(0.0);
    for (value, weight) in values.iter().flat_map(|values| values.chunks_exact(dim)).zip(&weights) {
        widen(value, &mut row);
        for (y, value) in y.iter_mut().zip(&row) {
            *y += weight / total * value;
        }
    }
    [highest, total]
}
