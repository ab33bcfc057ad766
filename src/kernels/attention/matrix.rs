//! Attention of many tokens by cooperative matrices, for GPUs that have them.

use super::problem::{Attention, AttentionBuffers, HeadCaches};
use crate::engine::Traits;
use crate::kernels::declare::{each_row, params};
use crate::kernels::step_rows::StepRow;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording};
use crate::shape::LlamaShape;

params! {
    /// T
    tokens: u32,
    /// H
    heads: u32,
    /// C
    cells: u32,
}

/// `shaders/attention_matrix.wgsl`; bindings: q [T, H, A], step rows `[T]` of [`StepRow`], keys [K, C, A] f16, values
/// [K, C, A] f16, y [T, H, A]. Queries, and weights of values, are rounded to f16.
pub static KERNEL: Kernel = Kernel {
    name: "attention_matrix",
    wgsl: include_str!("../../../shaders/attention_matrix.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    reference: attention_matrix,
};

/// Tokens of a workgroup, and positions that it takes at once; the shader's constant.
const BLOCK: u32 = 64;
/// Tokens from which on matrices are worth it.
const LEAST_TOKENS: u32 = 17;
/// Rows of a matrix, and the dimensions of a head at most.
const MATRIX: u32 = 16;
const MOST_DIMENSIONS: u32 = 128;

/// Whether the kernel can compute the attention of so many tokens, and is worth it.
pub fn suits(traits: Traits, shape: &LlamaShape, tokens: u32) -> bool {
    let head = shape.head_dim.is_multiple_of(MATRIX) && shape.head_dim <= MOST_DIMENSIONS;
    let fits = workgroup_bytes(shape.head_dim) <= traits.workgroup_bytes;
    traits.cooperative_matrix && !traits.software && head && fits && tokens >= LEAST_TOKENS
}

/// Bytes of a workgroup's memory: of each row of a block its queries or weights, in f16, its scores or sums, in f32,
/// the sum of its weights, and a key or a value. Eight numbers are between one row and the next.
fn workgroup_bytes(head_dim: u32) -> u32 {
    BLOCK * (2 * (BLOCK + 8) + 4 * (BLOCK + 8) + 4 + 2 * (head_dim + 8))
}

/// Records the attention over keys and values in f16.
pub fn record(recording: &mut Recording, problem: &Attention<'_>) {
    let Attention { shape, tokens, cells, buffers, .. } = *problem;
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let params = Params { tokens, heads, cells: cells.count };
    let AttentionBuffers { q, step_rows, keys, values, y } = buffers;
    let own = [("HEAD_DIM", head_dim), ("SHARED_BY", heads / kv_heads)];
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: own.into_iter().chain(problem.constants()).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![q, step_rows, keys, values, y],
        workgroups: [heads, tokens.div_ceil(BLOCK), 1],
    });
}

fn attention_matrix(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let [dim, shared_by] = ["HEAD_DIM", "SHARED_BY"].map(|name| args.constant(name) as usize);
    let heads = p.heads as usize;
    let (q, step_rows): (&[f32], &[StepRow]) = (args.read(0), args.read(1));
    let caches = HeadCaches::bound(args, p.cells);
    let y: &mut [f32] = args.write(4);
    each_row(args.watch, &mut y[..p.tokens as usize * heads * dim], dim, |at, y| {
        let (token, head) = (at / heads, at % heads);
        let row = step_rows[token];
        caches.attend(head / shared_by, row, row.visible(caches.rules.window), &q[at * dim..][..dim], y);
    });
}
