//! Negative log-likelihood of a token under its logits, and whether it is the likeliest.

use super::{WORKGROUP, each_row, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// V
    vocab: u32,
}

/// `shaders/token_nll.wgsl`; bindings: logits [T, V], targets `[T]`, scores [T, 2].
pub static KERNEL: Kernel = Kernel {
    name: "token_nll",
    wgsl: include_str!("../../shaders/token_nll.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: token_nll,
};

/// Floats that `record` writes for each token.
pub const WIDTH: u64 = 2;

/// Records `scores[t, 0] = logsumexp(logits[t, :]) - logits[t, targets[t]]`, in nats, and `scores[t, 1]` = 1 where no
/// logit is greater than the target's, else 0, for as many tokens as `targets` holds. Where the logits mean no
/// probabilities ([`crate::sampling::has_probabilities`]), or the target has none, the former is NaN or infinity.
pub fn record(recording: &mut Recording, vocab: u32, logits: Span, targets: Span, scores: Span) {
    let params = Params { vocab };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![logits, targets, scores],
        workgroups: [(targets.bytes / 4) as u32, 1, 1],
    });
}

fn token_nll(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (logits, targets): (&[f32], &[u32]) = (args.read(0), args.read(1));
    let scores: &mut [f32] = args.write(2);
    let (tokens, width, vocab) = (targets.len(), WIDTH as usize, p.vocab as usize);
    each_row(args.watch, &mut scores[..tokens * width], width, |at, scores| {
        let logits = &logits[at * vocab..][..vocab];
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
        let logit = logits[targets[at] as usize];
        scores[0] = total.ln() + highest - logit;
        scores[1] = f32::from(logit >= highest);
    });
}
