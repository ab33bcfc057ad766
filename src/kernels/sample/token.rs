//! The choice of the next token from logits, written where the next step reads its token.

use rayon::prelude::*;

use super::peaks::{self, LEADERS, Leader, Peak, SampleInputs, block, blocks};
use crate::kernels::declare::params;
use crate::kernels::step_rows::StepRow;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};
use crate::sampling::{Choice, choose, largest};

params! {
    /// V
    vocab: u32,
    /// The token of the step that the first choice follows; the others follow the tokens after it.
    first_row: u32,
    /// Blocks of logits.
    blocks: u32,
    /// 1, which no compiler knows, so that none unrolls a loop whose bound it is part of.
    one: u32,
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

/// `shaders/sample_token.wgsl`; bindings: choices `[S]` of [`Choice`], step rows `[T]` of [`StepRow`], logits
/// [S, V], peaks [S, blocks(V)] of [`Peak`], leaders [S, blocks(V), LEADERS] of [`Leader`], a [`Sampled`] for each
/// sequence.
pub static KERNEL: Kernel = Kernel {
    name: "sample_token",
    wgsl: include_str!("../../../shaders/sample_token.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    reference: sample_token,
};

/// Records the choices of [`crate::sampling`] from `inputs.logits`, which are made finite and penalized in place. Each
/// token goes to the entry of its sequence in `sampled`.
pub fn record(recording: &mut Recording, inputs: SampleInputs, sampled: Span) {
    let (vocab, count) = (inputs.vocab(), inputs.count());
    let all_blocks = u64::from(count) * u64::from(blocks(vocab));
    let peaks = recording.transient(all_blocks * size_of::<Peak>() as u64).all();
    let leaders = recording.transient(all_blocks * (LEADERS * size_of::<Leader>()) as u64).all();
    peaks::record(recording, inputs, peaks, leaders);
    let SampleInputs { choices, step_rows, logits, .. } = inputs;
    let params = Params { vocab, first_row: inputs.first_row(), blocks: blocks(vocab), one: 1 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("BLOCK", block(vocab))],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![choices, step_rows, logits, peaks, leaders, sampled],
        workgroups: [count, 1, 1],
    });
}

fn sample_token(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (choices, step_rows, logits): (&[Choice], &[StepRow], &[f32]) = (args.read(0), args.read(1), args.read(2));
    let sampled: &mut [Sampled] = args.write(5);
    let of_choice =
        |(logits, choice): (&[f32], &Choice)| Sampled { id: choose(choice, logits), best_logit: largest(logits) };
    let chosen: Vec<Sampled> = logits.par_chunks_exact(p.vocab as usize).zip(choices).map(of_choice).collect();
    for (row, chosen) in step_rows[p.first_row as usize..].iter().zip(chosen) {
        sampled[row.slot as usize] = chosen;
    }
}
