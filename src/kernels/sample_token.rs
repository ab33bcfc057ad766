//! The choice of the next token from logits, written where the next step reads its token.

use super::params;
use super::sample_peaks::{self, Inputs, NO_NUMBER, Peak, block, blocks};
use crate::engine::Traits;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};
use crate::sampling::{Choice, NO_TOKEN, choose};

params! {
    /// V
    vocab: u32,
    /// The step's last token, T - 1.
    last: u32,
    /// Blocks of logits.
    blocks: u32,
}

/// `shaders/sample_token.wgsl`; bindings: one [`Choice`], positions `[T]` u32, logits `[V]`, peaks [blocks(V)] of
/// [`Peak`], history [C + 1] u32, ids `[1]` u32.
pub static KERNEL: Kernel = Kernel {
    name: "sample_token",
    wgsl: include_str!("../../shaders/sample_token.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write],
    reference: sample_token,
};

/// Records the choice of [`crate::sampling`] from `inputs.logits`, which are made finite and penalized in place. The
/// token goes to the entry of the history after the step's last position, and to `id`, `[1]` u32. Where the logits mean
/// no probabilities, it is [`NO_TOKEN`].
pub fn record(recording: &mut Recording, traits: Traits, inputs: Inputs, id: Span) {
    let vocab = (inputs.logits.bytes / 4) as u32;
    let peaks = recording.transient(u64::from(blocks(vocab)) * size_of::<Peak>() as u64).all();
    sample_peaks::record(recording, traits, inputs, peaks);
    let Inputs { choice, positions, history, logits } = inputs;
    let params = Params { vocab, last: (positions.bytes / 4) as u32 - 1, blocks: blocks(vocab) };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("BLOCK", block(vocab))],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![choice, positions, logits, peaks, history, id],
        workgroups: [1, 1, 1],
    });
}

fn sample_token(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let choice = args.read::<Choice>(0)[0];
    let (positions, logits): (&[u32], &[f32]) = (args.read(1), args.read(2));
    let numbers = args.read::<Peak>(3).iter().take(p.blocks as usize).all(|peak| peak.key != NO_NUMBER);
    let (history, id): (&mut [u32], &mut [u32]) = (args.write(4), args.write(5));
    id[0] = if numbers { choose(&choice, logits).unwrap_or(NO_TOKEN) } else { NO_TOKEN };
    history[positions[p.last as usize] as usize + 1] = id[0];
}
