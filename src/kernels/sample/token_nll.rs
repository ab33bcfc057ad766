//! Negative log-likelihood of a token under its logits, and whether it is the likeliest.

use crate::kernels::declare::{WORKGROUP, each_row, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// V
    vocab: u32,
}

/// `shaders/token_nll.wgsl`; bindings: logits [T, V], targets `[T]`, scores [T, 2].
pub static KERNEL: Kernel = Kernel {
    name: "token_nll",
    wgsl: include_str!("../../../shaders/token_nll.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: token_nll,
};

/// Floats that `record` writes for each token.
pub const WIDTH: u64 = 2;

/// The second score of a token that no other is likelier than; 0 for all others whose logits are numbers.
pub const LIKELIEST: f32 = 1.0;
/// The second score of a token where a logit is not finite; the first one then means nothing.
pub const NO_NUMBERS: f32 = -1.0;

/// Records `scores[t, 0] = logsumexp(logits[t, :]) - logits[t, targets[t]]`, in nats, and `scores[t, 1]`, which is
/// [`LIKELIEST`], 0 or [`NO_NUMBERS`], for as many tokens as `targets` holds.
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
        scores[1] = match logits.iter().all(|logit| logit.is_finite()) {
            true if logit >= highest => LIKELIEST,
            true => 0.0,
            false => NO_NUMBERS,
        };
    });
}
