//! Queries, keys and values of one token, rotated, and the store of keys and values into the cache.

use half::f16;

use super::bindings;
use super::project::{self, Params, Projection, SHARED_BINDINGS, STORAGE_BUFFERS};
use super::rope_cache::{self, Rotated};
use crate::recording::{Arguments, Kernel, Recording, Span};
use crate::shape::LlamaShape;

/// `shaders/project_qkv.wgsl`; bindings: the [shared](super::project) ones, positions `[1]`, turns [C, A/2, 2], depth
/// `[1]` u32, q [H, A], keys [K, C, A] f16, values [K, C, A] f16.
pub static KERNEL: Kernel = Kernel {
    name: "project_qkv",
    wgsl: include_str!("../../shaders/project_qkv.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<{ STORAGE_BUFFERS as usize }>(SHARED_BINDINGS + 2),
    reference: project_qkv,
};

/// Buffers besides those of all projections.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// `[1]` u32, below C
    pub positions: Span,
    /// [C, A/2, 2] f32: cosine and sine of every turn
    pub turns: Span,
    /// [H, A] f32
    pub q: Span,
    /// [K, C, A] f16
    pub keys: Span,
    /// [K, C, A] f16
    pub values: Span,
}

/// Records the product, the rotation, and the store in a cache of `context` tokens.
pub fn record(
    recording: &mut Recording,
    projection: &Projection<'_>,
    shape: &LlamaShape,
    context: u32,
    buffers: Buffers,
) {
    let Buffers { positions, turns, q, keys, values } = buffers;
    let more = [positions, turns, projection.depth, q, keys, values];
    let rows = 0..projection.weight.rows;
    project::record(recording, &KERNEL, projection, rows, (Some(shape), context), &more);
}

fn project_qkv(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let depth: &mut [u32] = args.write(14);
    let (q, keys, values): (&mut [f32], &mut [f16], &mut [f16]) = (args.write(15), args.write(16), args.write(17));
    let products = project::multiply(args, &p, depth);
    let position = args.read::<u32>(12)[0] as usize;
    let heads = [p.heads, p.kv_heads, args.constant("HEAD_DIM"), p.context].map(|n| n as usize);
    rope_cache::rotate(heads, (0, position), args.read(13), &products, Rotated { q, keys, values });
}
