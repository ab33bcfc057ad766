//! Attention over the cache in parts, each the work of one workgroup, for devices with many of them.

use half::f16;
use rayon::prelude::*;

use super::attention::{Buffers, attend};
use super::{attention_join, params};
use crate::engine::Traits;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording};
use crate::shape::LlamaShape;

params! {
    /// H
    heads: u32,
    /// C
    context: u32,
}

/// `shaders/attention_split.wgsl`; bindings: q [T, H, A], positions `[T]`, keys [K, C, A] f16, values [K, C, A] f16,
/// y [T, H, S, A], peaks [T, H, S, 2].
pub static KERNEL: Kernel = Kernel {
    name: "attention_split",
    wgsl: include_str!("../../shaders/attention_split.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write],
    reference: attention_split,
};

/// Invocations of a workgroup for one token, and at least: for many tokens, which are workgroups enough.
const WORKGROUP: u32 = 256;
const LEAST_WORKGROUP: u32 = 64;
/// Positions of a split are a whole number of these, but for the last ones; the shader's constant.
pub(super) const SHARE: usize = 32;
/// Workgroups that a step of one token is cut into: about two on each of the processors of a large GPU.
const WORKGROUPS: u32 = 256;
/// Invocations of a subgroup that the kernel needs for the longest heads.
const LEAST_SUBGROUP: u32 = 4;
/// Positions that a split has at least in a full cache.
const SPLIT_POSITIONS: u32 = 128;
/// The score of no position; the shader's constant.
pub(super) const LOWEST: f32 = -3.4e38;

/// Splits for a step of one token, from what is known before its position is.
pub fn splits(shape: &LlamaShape, context: u32) -> u32 {
    WORKGROUPS.div_ceil(shape.heads).min(context / SPLIT_POSITIONS).max(1)
}

/// Whether the device can run the kernel.
pub fn fits(traits: Traits) -> bool {
    traits.subgroup >= LEAST_SUBGROUP && traits.workgroup_invocations >= WORKGROUP
}

/// Records the attention of `tokens` tokens, each over the positions up to its own, cut into `splits` parts.
pub fn record(
    recording: &mut Recording,
    traits: Traits,
    shape: &LlamaShape,
    (tokens, splits): (u32, u32),
    context: u32,
    buffers: Buffers,
) {
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let params = Params { heads, context };
    let lanes = (head_dim / 8).next_power_of_two().min(1 << traits.subgroup.ilog2());
    let eights = (head_dim / 8).div_ceil(lanes);
    // As an invocation keeps 32 bytes of the workgroup's memory for each of its eights.
    let workgroup = if tokens == 1 { (WORKGROUP / eights).max(LEAST_WORKGROUP) } else { LEAST_WORKGROUP };
    let Buffers { q, positions, keys, values, y } = buffers;
    let peaks = recording.transient(u64::from(tokens * heads * splits) * 8).all();
    let sums = if splits == 1 { y } else { recording.transient(y.bytes * u64::from(splits)).all() };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![
            ("WORKGROUP", workgroup),
            ("LANES", lanes),
            ("EIGHTS", eights),
            ("HEAD_DIM", head_dim),
            ("SHARED_BY", heads / kv_heads),
            ("SPLITS", splits),
        ],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![q, positions, keys, values, sums, peaks],
        workgroups: [heads, splits, tokens],
    });
    if splits > 1 {
        attention_join::record(recording, head_dim, splits, (sums, peaks), y);
    }
}

fn attention_split(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (heads, context) = (p.heads as usize, p.context as usize);
    let [dim, shared_by] = ["HEAD_DIM", "SHARED_BY"].map(|name| args.constant(name) as usize);
    let (q, positions): (&[f32], &[u32]) = (args.read(0), args.read(1));
    let (keys, values): (&[f16], &[f16]) = (args.read(2), args.read(3));
    let (splits, tokens) = (args.workgroups[1] as usize, args.workgroups[2] as usize);
    let (y, peaks): (&mut [f32], &mut [[f32; 2]]) = (args.write(4), args.write(5));
    let parts = y[..tokens * heads * splits * dim].par_chunks_exact_mut(dim).zip(&mut peaks[..tokens * heads * splits]);
    parts.enumerate().for_each(|(at, (y, peak))| {
        let (token, head, split) = (at / splits / heads, at / splits % heads, at % splits);
        let length = positions[token] as usize + 1;
        let share = length.div_ceil(splits).next_multiple_of(SHARE);
        let (first, end) = ((split * share).min(length), ((split + 1) * share).min(length));
        let cache = head / shared_by * context * dim;
        let rows = cache + first * dim..cache + end * dim;
        let [highest, total] = attend(&q[at / splits * dim..][..dim], &keys[rows.clone()], &values[rows], y);
        *peak = if first < end { [highest, total] } else { [LOWEST, 0.0] };
        if splits > 1 {
            y.iter_mut().for_each(|y| *y *= peak[1]);
        }
    });
}
