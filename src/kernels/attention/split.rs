//! Attention over the cache in partials, each the work of one workgroup, for devices with many of them.

use std::ops::Range;

use super::partials::{self, PartialDims, Partials};
use super::problem::{Attention, AttentionBuffers, HeadCaches};
use crate::engine::Traits;
use crate::kernels::declare::{bindings, params};
use crate::kernels::step_rows::StepRow;
use crate::recording::{Arguments, Dispatch, Kernel, Recording};
use crate::shape::LlamaShape;

params! {
    /// H
    heads: u32,
    /// C
    cells: u32,
    /// vec4s of all means.
    vec4s: u32,
}

/// `shaders/attention_split.wgsl`; bindings: q [T, H, A], step rows `[T]` of [`StepRow`], keys [K, C, A] f16, values
/// [K, C, A] f16, y [T, H, A] or [`Partials`].
pub static KERNEL: Kernel = Kernel {
    name: "attention_split",
    wgsl: include_str!("../../../shaders/attention_split.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<5>(4),
    reference: attention_split,
};

/// Invocations of a workgroup that has all positions of a token, at most; that has some, where as many loads must be
/// under way as there can be; and at least: for many tokens, which are workgroups enough.
const WORKGROUP: u32 = 256;
const SPLIT_WORKGROUP: u32 = 1024;
const LEAST_WORKGROUP: u32 = 64;
/// Positions of a split are a whole number of these, but for the last ones; the shader's constant.
const SHARE: usize = 32;
/// Bytes of memory that a single token's workgroup takes at least, where there is as much: on an H100 a 7B model's
/// token took 1.6% longer with 4 KiB in each of 32 workgroups, and as long with 32 KiB. Why is not known; a processor
/// may have to divide its memory anew between cache and workgroups where launches want other shares.
const LEAST_BYTES: u32 = 16 << 10;
/// Invocations of a subgroup that the kernel needs for the longest heads.
const LEAST_SUBGROUP: u32 = 4;
/// Positions that a split has at least in a full cache.
const SPLIT_POSITIONS: u32 = 128;

/// Splits for a step of one token, from what is known before its position is: as many as there are processors for the
/// heads' workgroups, as one of this size fills one.
pub fn splits(traits: Traits, shape: &LlamaShape, context: u32) -> u32 {
    (traits.row_workgroups() / shape.heads).min(context / SPLIT_POSITIONS).max(1)
}

/// Whether the device can run the kernel.
pub fn fits(traits: Traits) -> bool {
    traits.subgroup >= LEAST_SUBGROUP && traits.workgroup_invocations >= WORKGROUP
}

/// Records the attention over keys and values in f16, with the positions of each token cut into `splits`. More than one
/// of them leave partials, which are returned, and y is not written.
#[must_use = "y is not written where partials are returned"]
pub fn record(recording: &mut Recording, traits: Traits, problem: &Attention<'_>, splits: u32) -> Option<Partials> {
    let Attention { shape, tokens, as_alone, cells, buffers, .. } = *problem;
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let params = Params { heads, cells: cells.count, vec4s: tokens * heads * splits * head_dim / 4 };
    let lanes = (head_dim / 8).next_power_of_two().min(1 << traits.subgroup.ilog2());
    let eights = (head_dim / 8).div_ceil(lanes);
    let alone = tokens == 1 || as_alone;
    let most = match (alone, splits) {
        (true, 1) => WORKGROUP,
        (true, _) => SPLIT_WORKGROUP,
        _ => LEAST_WORKGROUP,
    };
    let workgroup = workgroup(traits, most, lanes, eights, problem.reach() / splits);
    let subgroups = workgroup.div_ceil(traits.subgroup);
    let least_vec4s = if alone { (LEAST_BYTES.min(traits.workgroup_bytes) - subgroups * 8) / 16 } else { 0 };
    let AttentionBuffers { q, step_rows, keys, values, y } = buffers;
    let partials = (splits > 1).then(|| Partials::new(recording, tokens * heads, splits, head_dim));
    let own = [
        ("WORKGROUP", workgroup),
        ("LANES", lanes),
        ("EIGHTS", eights),
        ("HEAD_DIM", head_dim),
        ("SHARED_BY", heads / kv_heads),
        ("SPLITS", splits),
        ("SUBGROUPS", subgroups),
        ("SUM_VEC4S", (subgroups * lanes * eights * 2).max(least_vec4s)),
    ];
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: own.into_iter().chain(problem.constants()).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![q, step_rows, keys, values, partials.map_or(y, |partials| partials.span)],
        workgroups: [heads, splits, tokens],
    });
    partials
}

/// Invocations of a workgroup, `most` at most where each has an eight: fewer where its memory does not hold what its
/// subgroups come to, or where a team would have less than two of its positions in a full cache.
fn workgroup(traits: Traits, most: u32, lanes: u32, eights: u32, positions: u32) -> u32 {
    // A vec2 beside the vec4s.
    let subgroup_bytes = lanes * eights * 32 + 8;
    let fits = |size: &u32| {
        size * eights <= most
            && *size <= traits.workgroup_invocations
            && size.div_ceil(traits.subgroup) * subgroup_bytes <= traits.workgroup_bytes
            && size / lanes * 2 <= positions
    };
    let mut sizes = std::iter::successors(Some(SPLIT_WORKGROUP), |size| (*size > LEAST_WORKGROUP).then_some(size / 2));
    sizes.find(fits).unwrap_or(LEAST_WORKGROUP)
}

/// The positions of one of `splits` splits, of those that a token looks at.
pub(super) fn stretch(visible: Range<usize>, split: usize, splits: usize) -> Range<usize> {
    let share = visible.len().div_ceil(splits).next_multiple_of(SHARE);
    let first = (visible.start + split * share).min(visible.end);
    first..(first + share).min(visible.end)
}

fn attention_split(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let heads = p.heads as usize;
    let [dim, shared_by] = ["HEAD_DIM", "SHARED_BY"].map(|name| args.constant(name) as usize);
    let (q, step_rows): (&[f32], &[StepRow]) = (args.read(0), args.read(1));
    let caches = HeadCaches::bound(args, p.cells);
    let (splits, tokens) = (args.workgroups[1] as usize, args.workgroups[2] as usize);
    let y: &mut [u32] = args.write(4);
    partials::write(y, PartialDims { heads: tokens * heads, splits, head_dim: dim }, args.watch, |at, y| {
        let (token, head, split) = (at / splits / heads, at / splits % heads, at % splits);
        let row = step_rows[token];
        let positions = stretch(row.visible(caches.rules.window), split, splits);
        let q = &q[at / splits * dim..][..dim];
        (!positions.is_empty()).then(|| caches.attend(head / shared_by, row, positions, q, y))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_are_as_large_as_memory_and_positions_allow() {
        for (subgroup, head_dim, workgroup_bytes, positions, expected) in [
            (32, 128, 48 << 10, 1024, 1024),
            (32, 128, 16 << 10, 1024, 512),
            (32, 256, 32 << 10, 1024, 512),
            (32, 128, 48 << 10, 64, 512),
            (32, 64, 48 << 10, 270, 1024),
            (32, 64, 48 << 10, 130, 512),
            (8, 128, 32 << 10, 1024, 256),
            (8, 256, 16 << 10, 1024, 64),
            (32, 16, 48 << 10, 10, 64),
        ] {
            let traits = Traits { subgroup, workgroup_bytes, ..Traits::LARGE_GPU };
            let lanes = (head_dim / 8).min(subgroup);
            let found = workgroup(traits, SPLIT_WORKGROUP, lanes, head_dim / 8 / lanes, positions);
            let case = format!("{subgroup} {head_dim} {workgroup_bytes} {positions}");
            assert_eq!(found, expected, "{case}");
            assert!(found / subgroup * (head_dim * 4 + 8) <= workgroup_bytes, "{case}");
        }
    }
}
