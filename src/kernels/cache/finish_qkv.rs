//! What families have beside the rotation of queries and keys: biases of queries, keys and values, norms of queries and
//! keys, and queries that grow with their positions; with the rotation and the store into the cache.

use half::f16;

use super::rope::{RopeBuffers, RopeDims, Rotated, rotate};
use crate::arch::{HeadNorm, QueryGrowth};
use crate::kernels::declare::{bindings, params};
use crate::kernels::rms_norm::normalize;
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::{Arguments, Buffer, Dispatch, Kernel, Recording};
use crate::shape::LlamaShape;

params! {
    /// H
    heads: u32,
    /// K
    kv_heads: u32,
    /// A
    head_dim: u32,
    /// C
    cells: u32,
    /// Where the weight of the norm of queries lies, in pairs of numbers.
    query_norm: u32,
    /// Where that of keys lies.
    key_norm: u32,
    /// Added to the mean square.
    eps: f32,
    /// How fast queries grow.
    beta: f32,
    /// Positions up to which they do not.
    original_context: u32,
}

/// `shaders/finish_qkv.wgsl`; bindings: qkv [T, (H + 2K) * A], step rows `[T]` of [`StepRow`], rope_table [context,
/// A/2, 2], [vectors](HeadVectors), q [T, H, A], keys [K, C, A] f16, values [K, C, A] f16.
pub static KERNEL: Kernel = Kernel {
    name: "finish_qkv",
    wgsl: include_str!("../../../shaders/finish_qkv.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<7>(4),
    reference: finish_qkv,
};

/// Invocations of a workgroup that has all heads of a token.
const WORKGROUP_ALL_HEADS: u32 = 256;

/// What becomes of queries, keys and values beside the rotation.
#[derive(Debug, Clone, Copy)]
pub struct QkvRules {
    /// Whether they have biases.
    pub bias: bool,
    /// The norm of queries and keys, with the constant of the shape's norms.
    pub head_norm: HeadNorm,
    /// How queries grow with their positions.
    pub growth: Option<QueryGrowth>,
    /// Biases and weights of norms, where there are any.
    pub vectors: Option<HeadVectors>,
}

/// The vectors of a layer's queries, keys and values, one after the other in one buffer: biases [(H + 2K) * A], the
/// weight of the norm of queries, and that of keys, f32, those of them that the layer has.
#[derive(Debug, Clone, Copy)]
pub struct HeadVectors {
    /// All of them.
    pub buffer: Buffer,
    /// Numbers before the weight of the norm of queries.
    pub query_norm: u32,
    /// Numbers before that of keys.
    pub key_norm: u32,
}

/// Records what these rules say for `tokens` tokens, the rotation, and the store of their keys and values.
pub fn record(
    recording: &mut Recording,
    shape: &LlamaShape,
    tokens: u32,
    cells: Cells,
    rules: &QkvRules,
    buffers: RopeBuffers,
) {
    let QkvRules { bias, head_norm, growth, vectors } = *rules;
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let QueryGrowth { beta, original_context } = growth.unwrap_or(QueryGrowth { beta: 0.0, original_context: 1 });
    let [query_norm, key_norm] = vectors.map_or([0, 0], |vectors| [vectors.query_norm / 2, vectors.key_norm / 2]);
    let (cell_count, eps) = (cells.count, shape.norm_eps);
    let params =
        Params { heads, kv_heads, head_dim, cells: cell_count, query_norm, key_norm, eps, beta, original_context };
    let (workgroup, parts) = match head_norm {
        HeadNorm::AllHeads => (WORKGROUP_ALL_HEADS, 3),
        HeadNorm::None | HeadNorm::EachHead => ((head_dim / 4).next_power_of_two(), heads + 2 * kv_heads),
    };
    let own = [("WORKGROUP", workgroup), ("BIAS", u32::from(bias)), ("HEAD_NORM", number(head_norm))];
    let RopeBuffers { qkv, step_rows, rope_table, q, keys, values } = buffers;
    // Without vectors, none is looked at.
    let vectors = vectors.map_or(qkv, |vectors| vectors.buffer.all());
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: own.into_iter().chain(cells.constants()).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![qkv, step_rows, rope_table, vectors, q, keys, values],
        workgroups: [parts, tokens, 1],
    });
}

/// The shader's number of a norm.
fn number(head_norm: HeadNorm) -> u32 {
    match head_norm {
        HeadNorm::None => 0,
        HeadNorm::EachHead => 1,
        HeadNorm::AllHeads => 2,
    }
}

fn finish_qkv(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (qkv, step_rows, rope_table): (&[f32], &[StepRow], &[[f32; 2]]) = (args.read(0), args.read(1), args.read(2));
    let vectors: &[f32] = args.read(3);
    let (q, keys, values): (&mut [f32], &mut [f16], &mut [f16]) = (args.write(4), args.write(5), args.write(6));
    let [heads, kv_heads, head_dim] = [p.heads, p.kv_heads, p.head_dim].map(|n| n as usize);
    let dims = RopeDims { heads, kv_heads, head_dim, cells: Cells::in_arguments(args, p.cells) };
    let width = (heads + 2 * kv_heads) * head_dim;
    for (token, row) in qkv.chunks_exact(width).enumerate().take(args.workgroups[1] as usize) {
        let mut row = row.to_vec();
        if args.constant("BIAS") == 1 {
            row.iter_mut().zip(vectors).for_each(|(number, bias)| *number += bias);
        }
        let (queries, rest) = row.split_at_mut(heads * head_dim);
        for (part, weight) in [(queries, p.query_norm), (&mut rest[..kv_heads * head_dim], p.key_norm)] {
            let length = match args.constant("HEAD_NORM") {
                0 => continue,
                1 => head_dim,
                _ => part.len(),
            };
            let before = part.to_vec();
            normalize(&before, &vectors[2 * weight as usize..][..length], p.eps, part);
        }
        rotate(dims, token, step_rows[token], rope_table, &row, Rotated { q, keys, values });
        let growth = 1.0 + p.beta * ((step_rows[token].position / p.original_context) as f32).ln_1p();
        q[token * heads * head_dim..][..heads * head_dim].iter_mut().for_each(|number| *number *= growth);
    }
}
