//! What the parts of a split attention come to together.

use super::{bindings, params};
use crate::recording::{Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// vec4s of y.
    vec4s: u32,
}

/// `shaders/attention_join.wgsl`; bindings: splits [T, H, S, A], peaks [T, H, S, 2], y [T, H, A].
pub static KERNEL: Kernel = Kernel {
    name: "attention_join",
    wgsl: include_str!("../../shaders/attention_join.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<3>(2),
    reference: attention_join,
};

/// Few, as there are few vec4s, and many processors.
const WORKGROUP: u32 = 32;

/// Records what the `split_sums` and `peaks` of [`attention_split`](super::attention_split) come to.
pub fn record(recording: &mut Recording, head_dim: u32, splits: u32, (split_sums, peaks): (Span, Span), y: Span) {
    let params = Params { vec4s: (y.bytes / 16) as u32 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP), ("HEAD_VEC4S", head_dim / 4), ("SPLITS", splits)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![split_sums, peaks, y],
        workgroups: [params.vec4s.div_ceil(WORKGROUP), 1, 1],
    });
}

fn attention_join(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let [dim, splits] = [args.constant("HEAD_VEC4S") * 4, args.constant("SPLITS")].map(|n| n as usize);
    let (split_sums, peaks): (&[f32], &[[f32; 2]]) = (args.read(0), args.read(1));
    let y: &mut [f32] = args.write(2);
    let heads = split_sums.chunks_exact(dim * splits).zip(peaks.chunks_exact(splits));
    for (y, (parts, peaks)) in y[..p.vec4s as usize * 4].chunks_exact_mut(dim).zip(heads) {
        let highest = peaks.iter().map(|peak| peak[0]).fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = peaks.iter().map(|peak| (peak[0] - highest).exp()).collect();
        let total: f32 = weights.iter().zip(peaks).map(|(weight, peak)| weight * peak[1]).sum();
        y.fill(0.0);
        for (part, weight) in parts.chunks_exact(dim).zip(&weights) {
            y.iter_mut().zip(part).for_each(|(y, part)| *y += weight / total * part);
        }
    }
}
