//! Queries, keys and values of one token, rotated, and the store of keys and values into the cache.

use half::f16;

use super::bindings;
use super::project::{self, Own, Params, Projection, SHARED_BINDINGS, STORAGE_BUFFERS};
use super::rope_cache::{self, Rotated};
use super::telling::{RoutersAt, Telling, tell};
use crate::recording::{Arguments, Kernel, Recording, Span};
use crate::shape::LlamaShape;

/// `shaders/project_qkv.wgsl`; bindings: the [shared](super::project) ones, depth `[1]` u32, the routers' rest
/// [4 L, REST], w1 [S, HIDDEN, input] f16 of the S routers that are told, positions `[1]`, turns [C, A/2, 2], the
/// routers' [hidden units](RoutersAt), q [H, A], keys [K, C, A] f16, values [K, C, A] f16.
pub static KERNEL: Kernel = Kernel {
    name: "project_qkv",
    wgsl: include_str!("../../shaders/project_qkv.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<{ STORAGE_BUFFERS as usize }>(SHARED_BINDINGS + 5),
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

/// Records the product, the rotation, and the store in a cache of `context` tokens; the routers are told of the
/// projection's input, which is a norm.
pub fn record(
    recording: &mut Recording,
    projection: &Projection<'_>,
    told: Option<RoutersAt<'_>>,
    (shape, context): (&LlamaShape, u32),
    buffers: Buffers,
) {
    let Buffers { positions, turns, q, keys, values } = buffers;
    let Telling { constants, tellers, site, read, written } = Telling::new(recording, projection, told);
    let bindings = [&read[..], &[positions, turns, written, q, keys, values]].concat();
    let own =
        Own { attention: Some((shape, context)), constants, site, bindings, workgroups: tellers, ..Own::default() };
    project::record(recording, &KERNEL, projection, 0..projection.weight.rows, own);
}

fn project_qkv(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let hidden: &mut [f32] = args.write(12);
    let (q, keys, values): (&mut [f32], &mut [f16], &mut [f16]) = (args.write(13), args.write(14), args.write(15));
    let products = project::multiply(args, &p, args.read::<u32>(SHARED_BINDINGS)[0]);
    let position = args.read::<u32>(10)[0] as usize;
    let heads = [p.heads, p.kv_heads, args.constant("HEAD_DIM"), p.context].map(|n| n as usize);
    rope_cache::rotate(heads, (0, position), args.read(11), &products, Rotated { q, keys, values });
    tell(args, &p, SHARED_BINDINGS, hidden);
}
