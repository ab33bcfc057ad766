//! Logits changed before a token is chosen: a bias for each token, and a mask of the tokens that may be chosen.

use crate::kernels::declare::params;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// V
    vocab: u32,
}

/// `shaders/constrain_logits.wgsl`; bindings: a bit for each token whether it is allowed, [ceil(V / 32)] u32, bias
/// `[V]` f32, logits `[V]`.
pub static KERNEL: Kernel = Kernel {
    name: "constrain_logits",
    wgsl: include_str!("../../../shaders/constrain_logits.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: constrain_logits,
};

/// Invocations of a workgroup. One for each logit: a vocabulary has fewer than 2^24 tokens, so that the workgroups are
/// fewer than any device takes.
const WORKGROUP: u32 = 256;

/// What changes logits.
#[derive(Debug, Clone, Copy)]
pub struct ConstrainInputs {
    /// A bit for each token whether it is allowed, [ceil(V / 32)] u32.
    pub allowed: Span,
    /// What is added to each logit, `[V]` f32, finite.
    pub bias: Span,
    /// `[V]` f32.
    pub logits: Span,
}

/// Records `logits[v] += bias[v]` for allowed tokens, and minus infinity for the others.
pub fn record(recording: &mut Recording, inputs: ConstrainInputs) {
    let params = Params { vocab: (inputs.logits.bytes / 4) as u32 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![inputs.allowed, inputs.bias, inputs.logits],
        workgroups: [params.vocab.div_ceil(WORKGROUP), 1, 1],
    });
}

fn constrain_logits(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (allowed, bias): (&[u32], &[f32]) = (args.read(0), args.read(1));
    let logits: &mut [f32] = args.write(2);
    for (v, logit) in logits[..p.vocab as usize].iter_mut().enumerate() {
        if allowed[v / 32] >> (v % 32) & 1 == 0 {
            *logit = f32::NEG_INFINITY;
        } else if bias[v] != 0.0 {
            *logit += bias[v];
        }
    }
}
