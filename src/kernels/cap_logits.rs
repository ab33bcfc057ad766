//! The bound of logits.

use rayon::prelude::*;

use crate::kernels::declare::params;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// Logits of all tokens.
    count: u32,
}

/// `shaders/cap_logits.wgsl`; binding: logits [T, V].
pub static KERNEL: Kernel = Kernel {
    name: "cap_logits",
    wgsl: include_str!("../../shaders/cap_logits.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Write],
    reference: cap_logits,
};

/// Invocations of a workgroup.
const WORKGROUP: u32 = 256;
/// Workgroups at most, well below what any device takes; beyond, invocations have several logits.
const WORKGROUPS: u32 = 1 << 14;

/// Records logits = cap * tanh(logits / cap).
pub fn record(recording: &mut Recording, cap: f32, logits: Span) {
    let params = Params { count: (logits.bytes / 4) as u32 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP), ("CAP_BITS", cap.to_bits())],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![logits],
        workgroups: [params.count.div_ceil(WORKGROUP).min(WORKGROUPS), 1, 1],
    });
}

fn cap_logits(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let cap = f32::from_bits(args.constant("CAP_BITS"));
    let logits: &mut [f32] = args.write(0);
    logits[..p.count as usize].par_iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
}
