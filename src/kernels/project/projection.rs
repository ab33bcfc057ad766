//! The products of one token or few with numbers that are pairs of int8s: what the four kernels share that compute
//! them.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::packed::{self, Packed};
use super::spread::{FEW_TOKENS_MAX, Spread};
use crate::kernels::attention::partials::{self, Partials};
use crate::kernels::declare::params;
use crate::kernels::rms_norm::Norm;
use crate::kernels::sliced::{CHUNK, HALF_CHUNK, Rows, SlicedWeight, WEIGHT_BINDINGS, dot};
use crate::recording::{Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// Rows of the weight in this dispatch.
    rows: u32,
    /// Row of y that this dispatch's first row belongs to.
    first_row: u32,
    /// Added to the mean square by the norm.
    eps: f32,
    /// The first site whose router selects a depth, or whose hidden units are computed.
    site: u32,
    /// Entries from one site's depth to the next one's.
    depth_row: u32,
    /// H, where rows are queries, keys and values; else 0.
    heads: u32,
    /// K
    kv_heads: u32,
    /// C
    cells: u32,
    /// T: the constant TOKENS again, as a number that no compiler knows.
    tokens: u32,
}

/// Bindings that all four kernels begin with: those of a [`SlicedWeight`], x, norm.
pub(super) const SHARED_BINDINGS: usize = WEIGHT_BINDINGS + 2;
/// Storage buffers that a projection binds at most, which is what [`qkv`](super::qkv) binds.
pub const STORAGE_BUFFERS: u32 = 19;

/// What a weight is multiplied with: `[input]` numbers.
#[derive(Debug, Clone, Copy)]
pub enum Input {
    /// These, f32.
    Plain(Span),
    /// The norm of these, f32.
    Normed(Span, Norm),
    /// These, f32, of which routers look at the norm.
    Routed(Span, Norm),
    /// The combination of these.
    Partials(Partials),
    /// Those of several tokens, already in pairs.
    Packed(PackedInputs),
}

/// The inputs of several tokens, in pairs, as [`pack`](super::pack) leaves them.
#[derive(Debug, Clone, Copy)]
pub struct PackedInputs {
    /// [T, [`Packed::words`]] u32.
    pub span: Span,
    /// T: 2 to 8.
    pub tokens: u32,
}

/// A product with one token, or with few whose inputs are packed. Buffers of several tokens have a row for each.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// W
    pub weight: &'a SlicedWeight,
    /// What it is multiplied with.
    pub input: Input,
    /// `[T]` u32
    pub depth: Span,
    /// How the work is spread.
    pub spread: Spread,
}

/// Dimensions of queries, keys and values, and of the cache that they go to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QkvDims {
    /// H
    pub heads: u32,
    /// K
    pub kv_heads: u32,
    /// A
    pub head_dim: u32,
    /// C
    pub cells: u32,
}

/// What one of the kernels records beside what all four do.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// The dimensions of the queries, keys and values that the rows are.
    pub qkv: Option<QkvDims>,
    /// The shader's parameter of this name.
    pub site: u32,
    /// The shader's parameter of this name.
    pub depth_row: u32,
    /// Constants.
    pub constants: Vec<(&'static str, u32)>,
    /// Bindings after the shared ones.
    pub bindings: Vec<Span>,
    /// Workgroups beside those that have rows.
    pub workgroups: u32,
}

/// Records a product, or some rows of it.
pub(super) fn record(
    recording: &mut Recording,
    kernel: &'static Kernel,
    projection: &Projection<'_>,
    rows: Range<u32>,
    extras: Extras,
) {
    let Projection { weight, input, spread, .. } = *projection;
    let (x, tokens, norm, partials) = match input {
        Input::Plain(x) => (x, 1, None, None),
        Input::Normed(x, norm) | Input::Routed(x, norm) => (x, 1, Some(norm), None),
        Input::Partials(partials) => (partials.span, 1, None, Some(partials)),
        Input::Packed(PackedInputs { span, tokens }) => (span, tokens, None, None),
    };
    let QkvDims { heads, kv_heads, head_dim, cells } = extras.qkv.unwrap_or_default();
    let params = Params {
        rows: rows.len() as u32,
        first_row: rows.start,
        eps: norm.map_or(0.0, |norm| norm.eps),
        site: extras.site,
        depth_row: extras.depth_row,
        heads,
        kv_heads,
        cells,
        tokens,
    };
    let row_workgroups = spread.workgroups(params.rows);
    let mut bindings = weight.bindings(&rows);
    bindings.extend([x, norm.map_or(x, |norm| norm.weight.all())]);
    bindings.extend(extras.bindings);
    let mut constants = vec![
        ("WORKGROUP", spread.workgroup),
        ("LANES", spread.lanes),
        ("ROWS", spread.rows),
        ("ROUNDS", spread.rounds),
        ("TEAM", packed::team(spread.workgroup, spread.subgroup, weight.chunks())),
        ("CHUNKS", weight.chunks()),
        ("GROUP_CHUNKS", weight.group_chunks()),
        weight.form_constant(),
        ("HEAD_DIM", head_dim),
        ("NORMED", u32::from(matches!(input, Input::Normed(..)))),
        ("SUBGROUPS", spread.workgroup / spread.subgroup),
        ("ROW_WORKGROUPS", row_workgroups),
    ];
    constants.extend(partials.map_or(partials::NO_PARTIALS, |partials| partials.constants(weight.input)));
    if matches!(input, Input::Packed(_)) {
        assert!((2..=FEW_TOKENS_MAX).contains(&tokens) && spread.does_few(), "{tokens} tokens by {spread:?}");
        constants.push(("TOKENS", tokens));
    }
    constants.extend(extras.constants);
    recording.dispatch(Dispatch {
        kernel,
        constants,
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        workgroups: [row_workgroups + extras.workgroups, 1, 1],
    });
}

/// What computes the products of the bound rows with each token, [T, rows], as deep as the tokens are: [`products`], or
/// the CPU engine's own way.
pub(crate) type Multiply = fn(&Arguments<'_>, &Params, &[u32]) -> Vec<f32>;

/// The rows that a projection of one token binds, and what they are multiplied with.
pub(crate) struct ProjectionInput<'a> {
    /// The weight's rows.
    pub rows: Rows<'a>,
    /// The input; where it is a norm, before it is divided by the root of the mean square.
    pub numbers: Vec<f32>,
    /// What the products are multiplied with: one over that root, or 1.
    pub factor: f32,
}

impl<'a> ProjectionInput<'a> {
    /// What a dispatch has bound.
    pub fn of(args: &Arguments<'a>, p: &Params) -> ProjectionInput<'a> {
        let input = args.read::<u32>(0).len() / p.rows as usize * 16;
        let x = partials::numbers(args, WEIGHT_BINDINGS, input);
        let rows = Rows::bound(args, input, args.constant("GROUP_CHUNKS"));
        let norm = (args.constant("NORMED") == 1).then(|| args.read(WEIGHT_BINDINGS + 1));
        let (numbers, factor) = weighted(&x, norm, p.eps);
        ProjectionInput { rows, numbers: numbers.into_owned(), factor }
    }
}

/// The rows that a projection of several tokens binds, and the [`Packed::words`] of each token.
pub(crate) fn packed_inputs<'a>(args: &Arguments<'a>, p: &Params) -> (Rows<'a>, impl Iterator<Item = &'a [u32]>) {
    let input = args.read::<u32>(0).len() / p.rows as usize * 16;
    let words = Packed::words(input as u32 / CHUNK) as usize;
    let rows = Rows::bound(args, input, args.constant("GROUP_CHUNKS"));
    (rows, args.read::<u32>(WEIGHT_BINDINGS).chunks_exact(words).take(tokens_of(args)))
}

/// The products of the bound rows with each token, [T, rows], as deep as the tokens are.
pub(super) fn products(args: &Arguments<'_>, p: &Params, depths: &[u32]) -> Vec<f32> {
    if tokens_of(args) == 1 {
        let ProjectionInput { rows, numbers, factor } = ProjectionInput::of(args, p);
        return multiply_packed(args, p, &rows, depths[0], (&Packed::of(&numbers), factor));
    }
    let (rows, inputs) = packed_inputs(args, p);
    let of_token = |(words, slices): (&[u32], &u32)| {
        let (packed, factor) = Packed::read(words, rows.input / CHUNK as usize);
        multiply_packed(args, p, &rows, *slices, (&packed, factor))
    };
    inputs.zip(depths).flat_map(of_token).collect()
}

/// Tokens of a dispatch.
pub(crate) fn tokens_of(args: &Arguments<'_>) -> usize {
    args.constant_or("TOKENS", 1) as usize
}

/// The products of rows with numbers in pairs, times a factor.
fn multiply_packed(
    args: &Arguments<'_>,
    p: &Params,
    rows: &Rows<'_>,
    slices: u32,
    (packed, factor): (&Packed, f32),
) -> Vec<f32> {
    let taken = packed.taken_at(slices);
    // What codes are counted from: at depth 1 from 2, next to their middle, so that the low int8s, which are left out,
    // count less.
    let zero = if slices == 1 { 2 } else { 0 };
    let product = |row: usize| {
        let (taken, ints) = (taken.chunks_exact(CHUNK as usize), packed.ints.chunks_exact(CHUNK as usize));
        let parts = taken.zip(ints).zip(&packed.units).enumerate().map(|(chunk, ((taken, ints), unit))| {
            let (codes, bins) = (rows.codes(row, chunk, slices as usize), rows.bins(row, chunk, slices as usize));
            let numbers = taken.chunks_exact(HALF_CHUNK).zip(ints.chunks_exact(HALF_CHUNK));
            let halves = codes.chunks_exact(HALF_CHUNK).zip(numbers).zip(bins);
            let products = halves.map(|((codes, (taken, ints)), (bin, middle))| {
                let products = codes.iter().zip(taken).map(|(code, int)| (i32::from(*code) - zero) * *int);
                let sum = *unit * ints.iter().sum::<i32>() as f32;
                bin * unit * products.sum::<i32>() as f32 + (middle + bin * zero as f32) * sum
            });
            products.sum::<f32>()
        });
        parts.sum::<f32>() * factor
    };
    let watch = args.watch;
    let rows = 0..p.rows as usize;
    rows.into_par_iter().map(|row| if watch.stops() { 0.0 } else { product(row) }).collect()
}

/// What becomes of numbers before they are packed, where their norm by a weight is taken: what a product is multiplied
/// with by them, and what its outcome is.
pub(crate) fn weighted<'a>(x: &'a [f32], norm: Option<&[f32]>, eps: f32) -> (Cow<'a, [f32]>, f32) {
    let Some(norm) = norm else { return (Cow::Borrowed(x), 1.0) };
    let numbers = x.iter().zip(norm).map(|(x, norm)| x * norm).collect();
    (numbers, 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt())
}
