//! The gate of SwiGLU (Shazeer, arXiv 2002.05202): silu(gate) * up.

use crate::kernels::declare::{WORKGROUP, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// vec4s of F.
    row_vec4s: u32,
}

/// `shaders/silu_mul.wgsl`; bindings: gate_up [T, 2F], y [T, F].
pub static KERNEL: Kernel = Kernel {
    name: "silu_mul",
    wgsl: include_str!("../../shaders/silu_mul.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Write],
    reference: silu_mul,
};

/// Records y = silu(gate) * up for `tokens` tokens of `ffn_dim` numbers.
pub fn record(recording: &mut Recording, tokens: u32, ffn_dim: u32, gate_up: Span, y: Span) {
    let params = Params { row_vec4s: ffn_dim / 4 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![gate_up, y],
        workgroups: [params.row_vec4s.div_ceil(WORKGROUP), tokens, 1],
    });
}

fn silu_mul(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let ffn_dim = p.row_vec4s as usize * 4;
    let y: &mut [f32] = args.write(1);
    gate(args.read(0), ffn_dim, &mut y[..args.workgroups[1] as usize * ffn_dim]);
}

/// y = silu(gate) * up of each row of `gate_up`, [T, 2 `ffn_dim`].
pub(crate) fn gate(gate_up: &[f32], ffn_dim: usize, y: &mut [f32]) {
    for (gate_up, y) in gate_up.chunks_exact(2 * ffn_dim).zip(y.chunks_exact_mut(ffn_dim)) {
        let (gate, up) = gate_up.split_at(ffn_dim);
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = silu(*gate) * up;
        }
    }
}

/// v / (1 + exp(-v))
pub(crate) fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}
