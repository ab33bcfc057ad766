//! Attention over the cache by one workgroup a token and head, for any device.

use super::problem::{Attention, AttentionBuffers, HeadCaches};
use crate::kernels::declare::{each_row, params};
use crate::kernels::step_rows::StepRow;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording};

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

/// `shaders/attention_whole.wgsl`; bindings: q [T, H, A], step rows `[T]` of [`StepRow`], keys [K, C, A] f16, values
/// [K, C, A] f16, y [T, H, A].
pub static KERNEL: Kernel = Kernel {
    name: "attention_whole",
    wgsl: include_str!("../../../shaders/attention_whole.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    reference: attention_whole,
};

/// Records the attention over keys and values in f16.
pub(super) fn record(recording: &mut Recording, problem: &Attention<'_>) {
    let (heads, kv_heads, head_dim) = (problem.shape.heads, problem.shape.kv_heads, problem.shape.head_dim);
    let params = Params { heads, kv_heads, head_dim, cells: problem.cells.count };
    let AttentionBuffers { q, step_rows, keys, values, y } = problem.buffers;
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: problem.constants().collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![q, step_rows, keys, values, y],
        workgroups: [heads, problem.tokens, 1],
    });
}

fn attention_whole(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (heads, dim) = (p.heads as usize, p.head_dim as usize);
    let (q, step_rows): (&[f32], &[StepRow]) = (args.read(0), args.read(1));
    let caches = HeadCaches::bound(args, p.cells);
    let tokens = args.workgroups[1] as usize;
    let y: &mut [f32] = args.write(4);
    each_row(args.watch, &mut y[..tokens * heads * dim], dim, |at, y| {
        let (token, head) = (at / heads, at % heads);
        let (row, kv_head) = (step_rows[token], head / (heads / p.kv_heads as usize));
        caches.attend(kv_head, row, row.visible(caches.rules.window), &q[at * dim..][..dim], y);
    });
}
