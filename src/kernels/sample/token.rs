//! The choice of the next token from logits, written where the next step reads its token.

use super::peaks::{self, Peak, SampleInputs, block, blocks};
use crate::engine::Traits;
use crate::kernels::declare::params;
use crate::kernels::step_rows::StepRow;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};
use crate::sampling::{Choice, choose};

params! {
    /// V
    vocab: u32,
    /// The step's last token, T - 1.
    last: u32,
    /// Blocks of logits.
    blocks: u32,
}

/// A sampled token.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Sampled {
    /// The token, which is in the vocabulary whatever the logits are.
    pub id: u32,
    /// The logit of the likeliest token, after the penalty. Minus infinity where no logit is a number, and the greatest
    /// f32 where the likeliest one is infinite.
    pub best_logit: f32,
}

impl Sampled {
    /// Bytes of a sampled token.
    pub const BYTES: u64 = size_of::<Sampled>() as u64;

    /// Whether the logits were numbers that a choice can be made from.
    pub fn is_sound(self) -> bool {
        self.best_logit.abs() < f32::MAX
    }
}

/// `shaders/sample_token.wgsl`; bindings: one [`Choice`], step rows `[T]` of [`StepRow`], logits `[V]`,
/// peaks [blocks(V)] of [`Peak`], a [`Sampled`] for each sequence.
pub static KERNEL: Kernel = Kernel {
    name: "sample_token",
    wgsl: include_str!("../../../shaders/sample_token.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    reference: sample_token,
};

/// Records the choice of [`crate::sampling`] from `inputs.logits`, which are made finite and penalized in place. The
/// token goes to the entry of its sequence in `sampled`.
pub fn record(recording: &mut Recording, traits: Traits, inputs: SampleInputs, sampled: Span) {
    let vocab = (inputs.logits.bytes / 4) as u32;
    let peaks = recording.transient(u64::from(blocks(vocab)) * size_of::<Peak>() as u64).all();
    peaks::record(recording, traits, inputs, peaks);
    let SampleInputs { choice, step_rows, logits, .. } = inputs;
    let params = Params { vocab, last: (step_rows.bytes / StepRow::BYTES) as u32 - 1, blocks: blocks(vocab) };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("BLOCK", block(vocab))],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![choice, step_rows, logits, peaks, sampled],
        workgroups: [1, 1, 1],
    });
}

fn sample_token(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let choice = args.read::<Choice>(0)[0];
    let (step_rows, logits): (&[StepRow], &[f32]) = (args.read(1), args.read(2));
    let sampled: &mut [Sampled] = args.write(4);
    let best_logit = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    sampled[step_rows[p.last as usize].slot as usize] = Sampled { id: choose(&choice, logits), best_logit };
}
