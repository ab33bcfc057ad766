//! Negative log-likelihood of a token under its logits.

use rayon::prelude::*;

use super::{WORKGROUP, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// V
    vocab: u32,
}

/// `shaders/token_nll.wgsl`; bindings: logits [T, V], targets `[T]`, nll `[T]`.
pub static KERNEL: Kernel = Kernel {
    name: "token_nll",
    wgsl: include_str!("../../shaders/token_nll.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: token_nll,
};

/// Records `nll[t] = logsumexp(logits[t, :]) - logits[t, targets[t]]`, in nats, for as many tokens as `targets` holds.
pub fn record(recording: &mut Recording, vocab: u32, logits: Span, targets: Span, nll: Span) {
    let params = Params { vocab };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![logits, targets, nll],
        workgroups: [(targets.bytes / 4) as u32, 1, 1],
    });
}

fn token_nll(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (logits, targets): (&[f32], &[u32]) = (args.read(0), args.read(1));
    let nll: &mut [f32] = args.write(2);
    let rows = logits.par_chunks_exact(p.vocab as usize).zip(targets.par_iter().zip(nll.par_iter_mut()));
    rows.for_each(|(logits, (target, nll))| {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
        *nll = total.ln() + highest - logits[*target as usize];
    });
}
