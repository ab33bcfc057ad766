//! The gate of SwiGLU and GeGLU (Shazeer, arXiv 2002.05202): activation(gate) * up.

use crate::arch::ActivationFunction;
use crate::kernels::declare::{WORKGROUP, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// vec4s of F.
    row_vec4s: u32,
}

/// `shaders/gate.wgsl`; bindings: gate_up [T, 2F], y [T, F].
pub static KERNEL: Kernel = Kernel {
    name: "gate",
    wgsl: include_str!("../../shaders/gate.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Write],
    reference: gate,
};

/// Records y = activation(gate) * up for `tokens` tokens of `ffn_dim` numbers.
pub fn record(
    recording: &mut Recording,
    activation: ActivationFunction,
    tokens: u32,
    ffn_dim: u32,
    gate_up: Span,
    y: Span,
) {
    let params = Params { row_vec4s: ffn_dim / 4 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: [("WORKGROUP", WORKGROUP)].into_iter().chain(constants(activation)).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![gate_up, y],
        workgroups: [params.row_vec4s.div_ceil(WORKGROUP), tokens, 1],
    });
}

/// The constants of the shaders that gate, where they are not the shaders' own.
pub(crate) fn constants(activation: ActivationFunction) -> Option<(&'static str, u32)> {
    (activation == ActivationFunction::GeluTanh).then_some(("GELU", 1))
}

fn gate(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (ffn_dim, activation) = (p.row_vec4s as usize * 4, activation(args));
    let gate_up: &[f32] = args.read(0);
    let y: &mut [f32] = args.write(1);
    let rows = gate_up.chunks_exact(2 * ffn_dim).zip(y.chunks_exact_mut(ffn_dim));
    for (gate_up, y) in rows.take(args.workgroups[1] as usize) {
        let (gate, up) = gate_up.split_at(ffn_dim);
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = activation(*gate) * up;
        }
    }
}

/// The activation of a dispatch.
pub(crate) fn activation(args: &Arguments<'_>) -> fn(f32) -> f32 {
    if args.constant_or("GELU", 0) == 1 { gelu } else { silu }
}

/// v / (1 + exp(-v))
pub(crate) fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}

/// v * (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (v + 0.044715 v^3) (Hendrycks and Gimpel, arXiv 1606.08415), which
/// keeps its digits where 1 + tanh(u) would lose them.
fn gelu(v: f32) -> f32 {
    let double_u = (8.0 / std::f32::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
    v / (1.0 + (-double_u).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_its_formula_and_does_not_overflow() {
        for v in (-600..600).map(|v| v as f32 / 100.0) {
            let (wide, root) = (f64::from(v), (2.0 / std::f64::consts::PI).sqrt());
            let expected = 0.5 * wide * (1.0 + (root * (wide + 0.044715 * wide.powi(3))).tanh());
            assert!((f64::from(gelu(v)) - expected).abs() < 1e-6, "{v}: {} instead of {expected}", gelu(v));
        }
        assert_eq!([1e4, 1e20, -1e4, -1e20].map(gelu), [1e4, 1e20, 0.0, 0.0]);
        assert!(gelu(f32::NAN).is_nan());
    }
}
