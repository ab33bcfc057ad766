//! Attention of one token over keys and values in few bits, in partials as [`split`](super::split) leaves them.

use half::f16;

use super::partials::{self, PartialDims, Partials};
use super::problem::{Attention, AttentionBuffers, ScoreRules, attend_as};
use super::split::stretch;
use crate::engine::Traits;
use crate::kernels::cache::layout::{Layout, QuantizedKv, hadamard};
use crate::kernels::declare::{bindings, params};
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::{Arguments, Dispatch, Kernel, Recording};

params! {
    /// H
    heads: u32,
    /// K
    kv_heads: u32,
    /// C
    cells: u32,
}

/// `shaders/attention_quantized.wgsl`; bindings: q [H, A], the step row `[1]`, keys [K, C, A] f16, values [K, C, A]
/// f16, rows [K, C, [words](Layout::row_words)] u32, y [H, A] or [`Partials`].
pub static KERNEL: Kernel = Kernel {
    name: "attention_quantized",
    wgsl: include_str!("../../../shaders/attention_quantized.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<6>(4),
    reference: attention_quantized,
};

/// Invocations of a workgroup that has all positions, and that has some.
const WORKGROUP: u32 = 256;
const SPLIT_WORKGROUP: u32 = 512;
/// Invocations that make a group of the token's own numbers ready, in one subgroup.
const LEAST_SUBGROUP: u32 = 8;
/// Subgroups of it at most, as what each comes to takes memory.
const SUBGROUPS: u32 = 16;

/// Whether the device can run the kernel.
pub fn fits(traits: Traits, layout: Layout) -> bool {
    let has_room = traits.subgroup >= least_subgroup(layout) && traits.workgroup_invocations >= WORKGROUP;
    traits.runs_functions() || has_room
}

/// Invocations that a subgroup has at least: two teams, and the eight that pack a group.
pub fn least_subgroup(layout: Layout) -> u32 {
    (2 * lanes(layout)).max(LEAST_SUBGROUP)
}

fn lanes(layout: Layout) -> u32 {
    layout.groups().next_power_of_two()
}

/// Records that a token's key and value are quantized into the cache, and its attention over the quantized positions
/// that it looks at, cut into `splits`. More than one of them leave partials, which are returned, and y is not written.
#[must_use = "y is not written where partials are returned"]
pub fn record(
    recording: &mut Recording,
    traits: Traits,
    problem: &Attention<'_>,
    quantized_kv: QuantizedKv,
    splits: u32,
) -> Option<Partials> {
    let Attention { shape, cells, buffers, .. } = *problem;
    let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
    let most = if splits > 1 { SPLIT_WORKGROUP } else { WORKGROUP };
    let workgroup = most.min(SUBGROUPS * traits.subgroup).min(1 << traits.workgroup_invocations.ilog2());
    let AttentionBuffers { q, step_rows, keys, values, y } = buffers;
    let params = Params { heads, kv_heads, cells: cells.count };
    let partials = (splits > 1).then(|| Partials::new(recording, heads, splits, head_dim));
    let own = [
        ("WORKGROUP", workgroup),
        ("LANES", lanes(quantized_kv.layout)),
        ("SUBGROUPS", workgroup / traits.subgroup),
        ("SHARED_BY", heads / kv_heads),
        ("SPLITS", splits),
        ("SCATTERS", u32::from(traits.subgroup >= 8 * lanes(quantized_kv.layout))),
    ];
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: own.into_iter().chain(quantized_kv.layout.constants()).chain(problem.constants()).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![q, step_rows, keys, values, quantized_kv.rows, partials.map_or(y, |partials| partials.span)],
        workgroups: [heads, splits, 1],
    });
    partials
}

fn attention_quantized(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let layout = Layout::in_arguments(args);
    let (heads, dim, words) = (p.heads as usize, layout.head_dim as usize, layout.row_words());
    let (cells, rules) = (Cells::in_arguments(args, p.cells), ScoreRules::in_arguments(args));
    let (shared_by, splits) = (args.constant("SHARED_BY") as usize, args.workgroups[1] as usize);
    let (q, step_rows): (&[f32], &[StepRow]) = (args.read(0), args.read(1));
    let (keys, values): (&[f16], &[f16]) = (args.read(2), args.read(3));
    let (rows, y): (&mut [u32], &mut [u32]) = (args.write(4), args.write(5));
    let (row, position) = (step_rows[0], step_rows[0].position as usize);
    let cell = |kv_head: usize, position| kv_head * cells.count as usize + cells.cell(row, position);

    let spoilt = write_own(layout, (p.kv_heads as usize, cells), row, [keys, values], rows);
    let rows: &[u32] = rows;
    partials::write(y, PartialDims { heads, splits, head_dim: dim }, args.watch, |at, y| {
        let (head, split) = (at / splits, at % splits);
        let positions = stretch(row.visible(rules.window), split, splits);
        if positions.is_empty() {
            return None;
        }
        if positions.contains(&position) && spoilt[head / shared_by] {
            y.fill(f32::NAN);
            return Some([0.0, f32::NAN]);
        }
        let numbers = |of_value: bool| {
            let mut numbers = vec![0f32; positions.len() * dim];
            for (to, at) in numbers.chunks_exact_mut(dim).zip(positions.clone()) {
                layout.row(&rows[cell(head / shared_by, at) * words..]).read(layout, of_value, to);
            }
            numbers
        };
        let mut query = q[head * dim..][..dim].to_vec();
        hadamard(&mut query);
        let copy = |from: &[f32], to: &mut [f32]| to.copy_from_slice(from);
        let peak = attend_as(copy, rules.cap, &query, [&numbers(false), &[]], [&numbers(true), &[]], y);
        hadamard(y);
        Some(peak)
    });
}

/// Writes the codes of a token's own keys and values. For each head of keys and values, `[K]`: whether a number of them
/// is none or infinite. That has no code, and counts for NaN in the token's attention, so that nothing hides it.
pub(crate) fn write_own(
    layout: Layout,
    (kv_heads, cells): (usize, Cells),
    row: StepRow,
    [keys, values]: [&[f16]; 2],
    rows: &mut [u32],
) -> Vec<bool> {
    let (dim, words) = (layout.head_dim as usize, layout.row_words());
    let write = |kv_head: usize| {
        let at = kv_head * cells.count as usize + cells.cell(row, row.position as usize);
        let [key, value] = [keys, values].map(|all| &all[at * dim..][..dim]);
        layout.write(&mut rows[at * words..], key, value);
        key.iter().chain(value).any(|number| !number.is_finite())
    };
    (0..kv_heads).map(write).collect()
}
