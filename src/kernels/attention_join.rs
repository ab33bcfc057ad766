//! What the parts of a split attention come to together.

use super::{WORKGROUP, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// vec4s of y.
    vec4s: u32,
    /// vec4s of a head.
    head_vec4s: u32,
    /// S
    splits: u32,
}

/// `shaders/attention_join.wgsl`; bindings: sums [T, H, S, A], peaks [T, H, S, 2], y [T, H, A].
pub static KERNEL: Kernel = Kernel {
    name: "attention_join",
    wgsl: include_str!("../../shaders/attention_join.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: attention_join,
};

/// Records what the `sums` and `peaks` of [`attention_split`](super::attention_split) come to.
pub fn record(recording: &mut Recording, head_dim: u32, splits: u32, sums: Span, peaks: Span, y: Span) {
    let params = Params { vec4s: (y.bytes / 16) as u32, head_vec4s: head_dim / 4, splits };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![sums, peaks, y],
        workgroups: [params.vec4s.div_ceil(WORKGROUP), 1, 1],
    });
}

fn attention_join(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (dim, splits) = (p.head_vec4s as usize * 4, p.splits as usize);
    let (sums, peaks): (&[f32], &[[f32; 2]]) = (args.read(0), args.read(1));
    let y: &mut [f32] = args.write(2);
    let heads = sums.chunks_exact(dim * splits).zip(peaks.chunks_exact(splits));
    for (y, (sums, peaks)) in y[..p.vec4s as usize * 4].chunks_exact_mut(dim).zip(heads) {
        let highest = peaks.iter().map(|peak| peak[0]).fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = peaks.iter().map(|peak| (peak[0] - highest).exp()).collect();
        let total: f32 = weights.iter().zip(peaks).map(|(weight, peak)| weight * peak[1]).sum();
        y.fill(0.0);
        for (sums, weight) in sums.chunks_exact(dim).zip(&weights) {
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y += weight / total * sum);
        }
    }
}
