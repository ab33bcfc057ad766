//! Rotary position embedding of queries and keys, and the store of keys and values into the cache.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::declare::{WORKGROUP, params};
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};
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
}

/// `shaders/rope_cache.wgsl`; bindings: qkv [T, (H + 2K) * A], step rows `[T]` of [`StepRow`], rope_table [context,
/// A/2, 2], q [T, H, A], keys [K, C, A] f16, values [K, C, A] f16.
pub static KERNEL: Kernel = Kernel {
    name: "rope_cache",
    wgsl: include_str!("../../../shaders/rope_cache.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Write],
    reference: rope_cache,
};

/// The buffers of the kernel, in binding order.
#[derive(Debug, Clone, Copy)]
pub struct RopeBuffers {
    /// [T, (H + 2K) * A] f32
    pub qkv: Span,
    /// `[T]` of [`StepRow`]
    pub step_rows: Span,
    /// [context, A/2, 2] f32: cosine and sine of every angle
    pub rope_table: Span,
    /// [T, H, A] f32
    pub q: Span,
    /// [K, C, A] f16
    pub keys: Span,
    /// [K, C, A] f16
    pub values: Span,
}

/// Records the rotation of `tokens` tokens and the store of their keys and values.
pub fn record(recording: &mut Recording, shape: &LlamaShape, tokens: u32, cells: Cells, buffers: RopeBuffers) {
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let params = Params { heads, kv_heads, head_dim, cells: cells.count };
    let RopeBuffers { qkv, step_rows, rope_table, q, keys, values } = buffers;
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: [("WORKGROUP", WORKGROUP)].into_iter().chain(cells.constants()).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![qkv, step_rows, rope_table, q, keys, values],
        workgroups: [((heads + 2 * kv_heads) * head_dim / 4).div_ceil(WORKGROUP), tokens, 1],
    });
}

/// Cosine and sine of the angle of each pair at each of these positions, by its radians a position, [A/2]:
/// [positions, A/2, 2].
pub fn table(frequencies: &[f32], positions: Range<u32>) -> Vec<[f32; 2]> {
    let angles = positions.flat_map(|p| frequencies.iter().map(move |f| f64::from(p) * f64::from(*f)));
    angles.map(|angle| [angle.cos() as f32, angle.sin() as f32]).collect()
}

fn rope_cache(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (qkv, step_rows, rope_table): (&[f32], &[StepRow], &[[f32; 2]]) = (args.read(0), args.read(1), args.read(2));
    let (q, keys, values): (&mut [f32], &mut [f16], &mut [f16]) = (args.write(3), args.write(4), args.write(5));
    let [heads, kv_heads, head_dim] = [p.heads, p.kv_heads, p.head_dim].map(|n| n as usize);
    let cells = Cells::in_arguments(args, p.cells);
    let dims = RopeDims { heads, kv_heads, head_dim, cells };
    let row = (heads + 2 * kv_heads) * head_dim;
    for (token, row) in qkv.chunks_exact(row).enumerate().take(args.workgroups[1] as usize) {
        rotate(dims, token, step_rows[token], rope_table, row, Rotated { q, keys, values });
    }
}

/// Where rotated queries, keys and values go.
pub(crate) struct Rotated<'a> {
    /// [T, H, A]
    pub q: &'a mut [f32],
    /// [K, C, A]
    pub keys: &'a mut [f16],
    /// [K, C, A]
    pub values: &'a mut [f16],
}

/// The dimensions of a rotation and of the cache that it stores to.
#[derive(Clone, Copy)]
pub(crate) struct RopeDims {
    /// H
    pub heads: usize,
    /// K
    pub kv_heads: usize,
    /// A
    pub head_dim: usize,
    /// Its cells.
    pub cells: Cells,
}

/// Rotates and stores the `row` of a token of the step where `step_row` says: `[(H + 2K) * A]`.
pub(crate) fn rotate(
    dims: RopeDims,
    token: usize,
    step_row: StepRow,
    rope_table: &[[f32; 2]],
    row: &[f32],
    to: Rotated<'_>,
) {
    let RopeDims { heads, kv_heads, head_dim: dim, cells } = dims;
    let half = dim / 2;
    let angles = &rope_table[step_row.position as usize * half..][..half];
    let rotate = |from: &[f32], to: &mut [f32]| {
        let ((from_a, from_b), (to_a, to_b)) = (from.split_at(half), to.split_at_mut(half));
        for (i, [cos, sin]) in angles.iter().enumerate() {
            (to_a[i], to_b[i]) = (from_a[i] * cos - from_b[i] * sin, from_b[i] * cos + from_a[i] * sin);
        }
    };
    let cell = cells.cell(step_row, step_row.position as usize);
    let cached = |kv_head: usize| (kv_head * cells.count as usize + cell) * dim;
    let mut key = vec![0f32; dim];
    for (slot, from) in row.chunks_exact(dim).enumerate() {
        if slot < heads {
            rotate(from, &mut to.q[(token * heads + slot) * dim..][..dim]);
        } else if slot < heads + kv_heads {
            rotate(from, &mut key);
            to.keys[cached(slot - heads)..][..dim].convert_from_f32_slice(&key);
        } else {
            to.values[cached(slot - heads - kv_heads)..][..dim].convert_from_f32_slice(from);
        }
    }
}
