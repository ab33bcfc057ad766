//! Attention of one token together with its rotation and the store of its key and value: one launch in the place of
//! [`rope_cache`](super::rope_cache) and [`attention_split`](super::attention_split), for devices with many workgroups.

use half::f16;

use super::attention_split::{self, Split};
use super::rope_cache::{Buffers, turned};
use super::{attention_join, params};
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
    context: u32,
    /// S, the parts that the positions before the token are cut into.
    splits: u32,
}

/// `shaders/attention_token.wgsl`; bindings: qkv [(H + 2K) * A], position `[1]`, turns [C, A/2, 2], keys [K, C, A] f16,
/// values [K, C, A] f16, y [H, S, A], peaks [H, S, 2].
pub static KERNEL: Kernel = Kernel {
    name: "attention_token",
    wgsl: include_str!("../../shaders/attention_token.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Write, Access::Write],
    reference: attention_token,
};

/// Whether the kernel has heads of this shape.
pub fn suits(shape: &LlamaShape) -> bool {
    shape.head_dim.is_multiple_of(16)
}

/// Records the attention of one token over the positions up to its own, in `splits` parts; `buffers.q` has no use.
pub fn record(recording: &mut Recording, shape: &LlamaShape, context: u32, splits: u32, buffers: Buffers, y: Span) {
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let params = Params { heads, kv_heads, head_dim, context, splits };
    let Buffers { qkv, positions, turns, keys, values, .. } = buffers;
    let peaks = recording.transient(u64::from(heads * splits) * 8).all();
    let sums = if splits == 1 { y } else { recording.transient(y.bytes * u64::from(splits)).all() };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: attention_split::constants(head_dim),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![qkv, positions, turns, keys, values, sums, peaks],
        workgroups: [heads, splits, 1],
    });
    if splits > 1 {
        attention_join::record(recording, head_dim, splits, sums, peaks, y);
    }
}

fn attention_token(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (heads, kv_heads, dim) = (p.heads as usize, p.kv_heads as usize, p.head_dim as usize);
    let (qkv, positions, turns): (&[f32], &[u32], &[[f32; 2]]) = (args.read(0), args.read(1), args.read(2));
    let (keys, values): (&mut [f16], &mut [f16]) = (args.write(3), args.write(4));
    let (y, peaks): (&mut [f32], &mut [[f32; 2]]) = (args.write(5), args.write(6));
    let position = positions[0] as usize;
    let turns = &turns[position * dim / 2..][..dim / 2];
    let slot = |slot: usize| &qkv[slot * dim..][..dim];
    for kv_head in 0..kv_heads {
        let to = (kv_head * p.context as usize + position) * dim;
        for at in 0..dim {
            keys[to + at] = f16::from_f32(turned(slot(heads + kv_head), turns, at));
            values[to + at] = f16::from_f32(slot(heads + kv_heads + kv_head)[at]);
        }
    }
    let splits = args.workgroups[1] as usize;
    for head in 0..heads {
        let q: Vec<f32> = (0..dim).map(|at| turned(slot(head), turns, at)).collect();
        let cache = head / (heads / kv_heads) * p.context as usize * dim;
        for split in 0..splits {
            let part = Split { split, splits, length: position + 1 };
            let y = &mut y[(head * splits + split) * dim..][..dim];
            peaks[head * splits + split] = part.attend(&q, &keys[cache..], &values[cache..], y);
        }
    }
}
